"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from isograd.errors import RunError


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file beside its place, then move it there: a crash leaves the old file or the new.

    Args:
        path: the file; one that exists is replaced.
        content: all of it.

    Raises:
        RunError: if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            "a file must be writable",
            came=error.strerror or str(error),
            where=str(path),
            fix="check its folder, permissions and free space",
        ) from None
