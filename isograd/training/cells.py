"""The cells of a map as they are kept: a line each, under a checksum, in a folder.

MAP/map.json      what the map is of: the spec, both axes, the steps, a digest of the data
MAP/cells.jsonl   a line for each cell that is done, on the disk before the next is taken
MAP/lock          held by the process that writes

A process that is killed, or a full disk, leaves whole lines and at most a torn one behind them. A
line that does not add up is dropped when the map is gone on with, and its cell trained again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import unified_diff
from pathlib import Path
from typing import Any, Literal

import msgspec

from isograd.errors import RunError
from isograd.nn.checks import shown
from isograd.training import sealed
from isograd.training.files import PARTIAL, write_whole
from isograd.training.loop import Stopped
from isograd.training.scores import Score

ABOUT, CELLS, LOCK = "map.json", "cells.jsonl", "lock"
VERSION = 1
"""Of both files."""


class Cell(msgspec.Struct, frozen=True):
    """What a cell came to.

    Attributes:
        column, row: its place on the axes, from 0.
        stopped: how its training ended; "refused" where it could not begin.
        train, test: scores at the end; NaN where an output is not finite, and where it was refused.
        steps, skipped: steps taken, and how many of them were not applied.
        seconds: wall time of the training.
        reason: why it was refused.
    """

    column: int
    row: int
    stopped: Stopped | Literal["refused"]
    train: Score
    test: Score
    steps: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reason: str = ""


class Cells:
    """The cells of a map in its folder, for the one process that writes them.

    Attributes:
        done: those there are, by column and row.
        dropped: how many lines did not add up.
    """

    def __init__(self, folder: Path, lines: bytes) -> None:
        self.folder = folder
        self.done, whole, self.dropped = _read(lines)
        if self.dropped:
            write_whole(folder / CELLS, whole)
        self._file = (folder / CELLS).open("ab", buffering=0)

    def add(self, cell: Cell) -> None:
        """Keep a cell: once this returns it is on the disk.

        Raises:
            RunError: it cannot be written; the cells before it stay.
        """
        line = memoryview(_line(cell))
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        self.done[cell.column, cell.row] = cell

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


@contextmanager
def kept(folder: Path, about: Mapping[str, Any]) -> Iterator[Cells]:
    """The cells of a map, to go on with; a folder that is not there is made.

    Args:
        folder: of the map.
        about: what it is of, in what JSON can hold; `spec` is TOML.

    Raises:
        RunError: the folder holds another map or something else, it cannot be written, or another
            process writes to it.
    """
    must, fix = "only one process may write a map", "wait for it, or give another --out"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_map(folder)
        with sealed.locked(folder / LOCK, must, fix):
            _require_same(folder, about)
            path = folder / CELLS
            cells = Cells(folder, path.read_bytes() if path.exists() else b"")
            try:
                yield cells
            finally:
                cells.close()
    except OSError as error:
        raise _unwritable(folder, error) from None


def _require_map(folder: Path) -> None:
    """A folder without map.json must hold nothing but what a kill leaves before that is written."""
    if (folder / ABOUT).exists():
        return
    if other := sorted({p.name for p in folder.iterdir()} - {LOCK, ABOUT + PARTIAL}):
        raise RunError(
            "a map's folder must be new, or hold a map to go on with",
            came=f"{shown(other[0])} and no {ABOUT}",
            where=str(folder),
            fix="give another --out, or leave it out for the next free name",
        )


def _require_same(folder: Path, about: Mapping[str, Any]) -> None:
    """The folder's map must be this one; a new folder is told what it is of."""
    wanted = {"version": VERSION, **about}
    path = folder / ABOUT
    if not path.exists():
        write_whole(path, (json.dumps(wanted, indent=2, ensure_ascii=False) + "\n").encode())
        return
    try:
        there = json.loads(path.read_bytes())
        version = int(there["version"])
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{ABOUT} must say what a map is of",
            came=str(error),
            where=str(path),
            fix="give another --out",
        ) from None
    if version > VERSION:
        raise RunError(
            f"a map of version {VERSION} or lower is needed",
            came=f"version {version}, written by a newer isograd",
            where=str(path),
            fix="install the isograd that wrote it, or a later one",
        )
    for key, value in json.loads(json.dumps(wanted)).items():
        if there.get(key) != value:
            raise RunError(
                "a map must be gone on with as it began",
                came=f"another {key}: {_difference(there.get(key), value)}",
                where=str(path),
                fix="give the same options as then, or another --out",
            )


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        lines = list(unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))
        changed = [line for line in lines[2:] if not line.startswith("@")]
        return "; ".join(shown(line) for line in changed[:4])
    return f"{shown(new)}, and it began with {shown(old)}"


def _line(cell: Cell) -> bytes:
    text = json.dumps(msgspec.structs.asdict(cell) | _scores(cell), ensure_ascii=False)
    return f'{{"crc32": {zlib.crc32(text.encode())}, "cell": {text}}}\n'.encode()


def _scores(cell: Cell) -> dict[str, Any]:
    return {
        name: {"loss": score.loss, "accuracy": score.accuracy}
        for name, score in (("train", cell.train), ("test", cell.test))
    }


def _read(lines: bytes) -> tuple[dict[tuple[int, int], Cell], bytes, int]:
    """Cells by column and row, the lines that add up, and how many do not."""
    done: dict[tuple[int, int], Cell] = {}
    whole, dropped = b"", 0
    for line in lines.splitlines(keepends=True):
        try:
            raw = json.loads(line)["cell"]
            cell = msgspec.convert(raw, Cell)
        except (ValueError, LookupError, TypeError):
            dropped += 1
            continue
        if _line(cell) != line:  # the checksum, and all else that the line says
            dropped += 1
            continue
        done[cell.column, cell.row] = cell
        whole += line
    return done, whole, dropped


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        "a map's folder must be writable",
        came=error.strerror or str(error),
        where=str(folder),
        fix="check permissions and free space; then the same command with this --out goes on",
    )


__all__ = ["ABOUT", "CELLS", "LOCK", "VERSION", "Cell", "Cells", "kept"]
