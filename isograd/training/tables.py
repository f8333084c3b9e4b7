"""Data files read into arrays, with errors that name lines and columns."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from isograd.errors import DataError, nearest
from isograd.nn.checks import shown

T = TypeVar("T")
_SHOWN = 5


class Table(NamedTuple):
    """What a file holds.

    Args:
        X: (n, d) features.
        y: (n,) numbers or labels, or (n, k) numbers.
        features: the d names.
        lines: the line of each row in a file; None if there are no lines.
    """

    X: NDArray[Any]
    y: NDArray[Any]
    features: tuple[str, ...]
    lines: Sequence[int] | None = None

    def at(self, row: int) -> str:
        """What to call a row in an error."""
        return f"line {self.lines[row]}" if self.lines else f"row {row}"


def read_npz(path: Path) -> Table:
    """The arrays X and y of a .npz file; pickled objects are refused."""
    fix = "write it with numpy.savez(path, X=..., y=...)"
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            arrays = {key: archive[key] for key in ("X", "y") if key in archive.files}
    except Exception as error:  # numpy lets out whatever zip, header and literal parsers raise
        raise unreadable(path, error, fix) from None
    if missing := [key for key in ("X", "y") if key not in arrays]:
        raise DataError(
            "a .npz file must hold the arrays X and y",
            came=f"no {' and no '.join(missing)}; found: {', '.join(archive.files) or 'none'}",
            where=str(path),
            fix=fix,
        )
    X, y = arrays["X"], arrays["y"]
    columns = X.shape[1] if X.ndim == 2 else 0
    return Table(X, y, default_names(columns))


def read_csv(path: Path, target: str | None) -> Table:
    """A comma-separated file with a header: numbers in every column but the target.

    Args:
        path: the file, UTF-8.
        target: the name of the target column; None is the last.

    Returns:
        The table; y holds float64 if every target is a number, strings otherwise.

    Raises:
        DataError: naming lines and columns: no header, no rows, rows of another length, columns
            of one name, no target column, features that are not numbers.
    """
    header, lines, rows = _records(path)
    column = _target(header, target, path)
    names = tuple(name for i, name in enumerate(header) if i != column)
    if not names:
        raise DataError(
            "a .csv file must hold a feature besides the target",
            came=f"one column, {shown(header[column])}",
            where=str(path),
            fix="separate columns by commas",
        )
    labels = [row.pop(column) for row in rows]
    empty = [line for line, label in zip(lines, labels, strict=True) if not label]
    must = f"the target {shown(header[column])} must be given in every row"
    complain(must, empty, path, "fill these cells or remove these rows", show="line {}".format)
    cells = [[number(cell) for cell in row] for row in rows]
    bad = [(i, j) for i, row in enumerate(cells) for j, value in enumerate(row) if value is None]
    complain(
        "every column but the target must hold numbers",
        bad,
        path,
        "write text as numbers, fill empty cells, remove the column, or name the target",
        show=lambda at: (
            f"line {lines[at[0]]} column {shown(names[at[1]])} ({shown(rows[at[0]][at[1]])})"
        ),
    )
    targets = [number(label) for label in labels]
    y = np.array(labels if None in targets else targets)
    return Table(np.array(cells, np.float64), y, names, lines)


def _records(path: Path) -> tuple[list[str], list[int], list[list[str]]]:
    """The header, the line number of every row, and the rows, all stripped of white space."""
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if cells not in ([], [""]):  # not an empty line
                    lines.append(reader.line_num)
                    rows.append(cells)
    except csv.Error as error:
        raise unreadable(path, f"line {reader.line_num}: {error}", "check the quotes") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error, "check the path, and save the file as UTF-8") from None
    if len(rows) < 2:
        raise DataError(
            "a .csv file must hold a header and rows",
            came=f"{len(rows)} rows in all",
            where=str(path),
            fix="write the names of the columns first, then one row per example",
        )
    header = rows.pop(0)
    del lines[0]
    fix = "give every column a name of its own in the first line"
    if all(number(name) is not None for name in header):
        raise DataError(
            "the first line of a .csv file must name the columns",
            came=f"numbers only: {some(header)}",
            where=str(path),
            fix=fix,
        )
    unnamed = [i + 1 for i, name in enumerate(header) if not name]
    also = f"{fix}, or remove an index column"
    complain("every column must have a name", unnamed, path, also, show="column {}".format)
    twice = [name for name, count in Counter(header).items() if count > 1]
    complain("the names of columns must differ", twice, path, fix, show=shown)
    ragged = [i for i, row in enumerate(rows) if len(row) != len(header)]
    complain(
        f"every row must have {len(header)} cells, as the header has",
        ragged,
        path,
        "fill or remove these rows; quote cells that hold a comma",
        show=lambda i: f"line {lines[i]} ({len(rows[i])})",
    )
    return header, lines, rows


def _target(header: list[str], target: str | None, path: Path) -> int:
    if target is None:
        return len(header) - 1
    if target not in header:
        raise DataError(
            "the target must be a column of the file",
            came=f"target = {shown(target)}",
            where=str(path),
            fix=nearest(target, header),
        )
    return header.index(target)


def number(cell: str) -> float | None:
    """The number in a cell, if it is one; Python's 1_000 is not."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def require_finite(table: Table, where: str) -> None:
    """Raise DataError naming the rows and columns of NaN and infinity."""
    _finite(table.X, table.features, table, where)
    if table.y.dtype.kind == "f":
        y = table.y.reshape(len(table.y), -1)
        _finite(y, ["target"] * y.shape[1], table, where)


def _finite(values: NDArray[Any], names: Sequence[str], table: Table, where: str) -> None:
    complain(
        "data must be finite",
        np.argwhere(~np.isfinite(values)).tolist(),
        where,
        "fill these cells or remove these rows",
        show=lambda at: f"{table.at(at[0])} column {shown(names[at[1]])} ({values[tuple(at)]})",
    )


def default_names(columns: int) -> tuple[str, ...]:
    """x0, x1, … for features without names."""
    return tuple(f"x{i}" for i in range(columns))


def unreadable(path: Path, error: Exception | str, fix: str) -> DataError:
    """A file that is missing, cannot be opened, or is not what its name says."""
    if isinstance(error, FileNotFoundError):
        fix = "check the path: a relative one starts from the folder of the spec"
    came = error if isinstance(error, str) else getattr(error, "strerror", None) or str(error)
    must = f"data must be a {path.suffix} file that can be read"
    return DataError(must, came=came or type(error).__name__, where=str(path), fix=fix)


def complain(
    must: str,
    bad: Sequence[T],
    where: Path | str,
    fix: str,
    *,
    show: Callable[[T], str],
) -> None:
    """Raise DataError with the first few of what is bad and their number, if anything is."""
    if bad:
        raise DataError(must, came=some(bad, show), where=str(where), fix=fix)


def some(items: Sequence[T], show: Callable[[T], str] = str) -> str:
    """The first few, and how many in all."""
    text = ", ".join(map(show, items[:_SHOWN]))
    return f"{text}, … {len(items)} in all" if len(items) > _SHOWN else text
