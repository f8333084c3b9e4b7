"""Machine code kept on disk between processes: a file per kernel, under a checksum.

A file that is torn, damaged, another's or another version's is not there. What the folder cannot do
is said once; everything works without it, only slower at the start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import time
import warnings
from pathlib import Path

_MAGIC = b"isograd machine code 1\n"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size
_SUFFIX = ".isograd"
_DAY = 86400.0
_LIMIT = 256 << 20


def default_folder() -> Path:
    """`$ISOGRAD_CACHE/code`, or `isograd/code` in the user's folder for caches.

    References: XDG Base Directory Specification 0.8 (2021), which also says that a relative
    `$XDG_CACHE_HOME` is to be ignored.
    """
    if chosen := os.environ.get("ISOGRAD_CACHE"):
        return Path(chosen).absolute() / "code"
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "")
        base = base if base.is_absolute() else home / ".cache"
    return base / "isograd" / "code"


class Store:
    """Bytes by key in a folder that is made when it is first needed.

    Only what this user or root wrote is read, and only from a folder where nobody else may write:
    the bytes will be executed.

    Args:
        folder: where the files lie.
        limit: bytes; beyond it the files unused for longest are removed, once per store.
    """

    def __init__(self, folder: Path, limit: int = _LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._readable: bool | None = None
        self._writable = True
        self._pruned = False

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None if it is not there whole."""
        if not self._ready():
            return None
        path = self.folder / (key + _SUFFIX)
        # Whatever keeps a file from being read, the code is made anew.
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                content = file.read() if _trusted(found) else b""
        except OSError:
            return None
        body = content[_HEADER:]
        if content[:_HEADER] != _header(key, body):
            return None
        if time.time() - found.st_mtime > _DAY:
            with contextlib.suppress(OSError):  # a mark of use; others may own the file
                os.utime(path)
        return body

    def put(self, key: str, body: bytes) -> None:
        """Keep bytes under a key, whole or not at all."""
        if not (self._ready() and self._writable):
            return
        path = self.folder / (key + _SUFFIX)
        try:
            self._prune()
            number, name = tempfile.mkstemp(prefix=".", suffix=_SUFFIX, dir=self.folder)
            try:
                with open(number, "wb") as file:
                    file.write(_header(key, body) + body)
                os.replace(name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            # Another process may have put the same there; Windows replaces no open file.
            if not path.exists():
                self._writable = False
                self._say(f"cannot be written: {error.strerror}")

    def _ready(self) -> bool:
        """Whether the folder is there and safe; looked at once."""
        if self._readable is None:
            self._readable = False
            if not self.folder.is_absolute():
                self._say("is unknown, as this user has no home")
                return False
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = self.folder.stat()
            except OSError as error:
                self._say(f"cannot be made: {error.strerror}")
            else:
                self._readable = _trusted(found)
                if not self._readable:
                    self._say("is another user's, or others may write there")
        return self._readable

    def _say(self, what: str) -> None:
        warnings.warn(
            f"machine code is not kept between processes: its folder {what}\n"
            f"  where: {self.folder}\n"
            "  fix:   name a folder of your own in ISOGRAD_CACHE",
            RuntimeWarning,
            stacklevel=2,
        )

    def _prune(self) -> None:
        """Down to three quarters of the limit, and no temporary files of killed processes."""
        if self._pruned:
            return
        self._pruned = True
        files = []
        for entry in os.scandir(self.folder):
            if not entry.name.endswith(_SUFFIX):
                continue  # not ours
            with contextlib.suppress(OSError):  # another process removed it
                found = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    continue
                if entry.name.startswith(".") and time.time() - found.st_mtime > _DAY:
                    os.unlink(entry.path)
                else:
                    files.append((found.st_mtime, found.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return
        for _, size, path in sorted(files):
            if total <= self.limit * 3 // 4:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size


def _header(key: str, body: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(key.encode() + b"\n" + body).digest()


def _trusted(found: os.stat_result) -> bool:
    """Whether only this user and root could have written a file or to a folder."""
    if sys.platform == "win32":
        return True  # the folder is in the user's profile, which is closed to others
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
