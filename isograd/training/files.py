"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from isograd.errors import RunError

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file beside its place, then move it there: a crash leaves the old file or the new.

    Args:
        path: the file; one that exists is replaced.
        content: all of it.

    Raises:
        RunError: if it cannot be written; then what was there before is as it was.
    """
    path = Path(path)
    temporary = path.with_name(path.name + PARTIAL)
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            "a file must be writable",
            came=error.strerror or str(error),
            where=str(path),
            fix="check its folder, permissions and free space",
        ) from None


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["PARTIAL", "sync_folder", "write_whole"]
