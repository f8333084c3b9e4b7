"""Files of arrays and facts that are read as they were written, or refused.

A file is safetensors: arrays by name, and in its header the facts as JSON and a checksum over every
byte. Nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from isograd.errors import RunError

VERSION = 1
"""Of these files; kept in their header."""

_SEAL = b'"sha256":"'
_BLANK = b"0" * 64


def pack(kind: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """The content of a file.

    Args:
        kind: what it is, "weights" or "checkpoint".
        arrays: by name.
        facts: what JSON can hold; NaN and infinities too.
    """
    header = {
        "isograd": kind,
        "version": str(VERSION),
        "facts": json.dumps(facts),
        "sha256": _BLANK.decode(),
    }
    whole = safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()}, header
    )
    digest = hashlib.sha256(whole).hexdigest().encode()
    return whole.replace(_SEAL + _BLANK, _SEAL + digest, 1)


def read(path: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts of a file.

    Raises:
        RunError: it is missing, damaged, of another kind, or from a newer version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unusable(path, kind, error.strerror or str(error)) from None
    at = content.find(_SEAL) + len(_SEAL)
    seal = content[at : at + len(_BLANK)]
    digest = hashlib.sha256(content[:at])
    digest.update(_BLANK)
    digest.update(memoryview(content)[at + len(_BLANK) :])
    if digest.hexdigest().encode() != seal:
        raise _unusable(path, kind, f"{len(content)} bytes that do not add up to their checksum")
    # From here on the file is as it was written.
    with safetensors.safe_open(path, framework="numpy") as file:
        header = file.metadata()
    if int(header["version"]) > VERSION:
        raise RunError(
            f"a file of version {VERSION} or lower is needed",
            came=f"version {header['version']}, written by a newer isograd",
            where=str(path),
            fix="install the isograd that wrote it, or a later one",
        )
    if header["isograd"] != kind:
        raise _unusable(path, kind, f"a file of {header['isograd']}")
    return safetensors.numpy.load(content), json.loads(header["facts"])


@contextmanager
def locked(path: Path, must: str, fix: str) -> Iterator[None]:
    """Hold a lock file for the block; however the process ends, it lets go. The file stays.

    Raises:
        RunError: another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(must, came="another process is", where=str(path.parent), fix=fix) from None
    try:
        yield
    finally:
        lock.release()


def _unusable(path: Path, kind: str, came: str) -> RunError:
    return RunError(
        f"a file of {kind} must be whole",
        came=came,
        where=str(path),
        fix="train again, or take a copy of the file from a backup",
    )


__all__ = ["VERSION", "locked", "pack", "read"]
