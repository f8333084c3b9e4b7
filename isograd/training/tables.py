"""What every source of data gives: a table, with errors that name its rows and columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from isograd.errors import DataError, nearest
from isograd.nn.checks import shown

T = TypeVar("T")
_SHOWN = 5
MISSING_WORDS = frozenset(("", "na", "n/a", "nan", "null", "?"))
"""Cells of a text file that say that a value is missing, in lower case."""

MAX_EXPANSION = 1032
"""Bytes that one byte of a deflate stream gives at most (zlib, Technical details)."""


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """What a source holds.

    Args:
        X: (n, d) features of any real dtype; NaN is a missing value.
        y: (n,) numbers or labels, or (n, k) numbers; text as strings of Python, for one long label
            must not make every row long. None where there are no targets.
        features: the d names.
        where: the file, or what else to call the source in an error.
        target: the name of the target column, where columns have names.
        classes: the names of the labels 0, 1, … of y, where the source gives names.
        lines: the line of each row in a file of text; None where rows are counted from 0.
    """

    X: NDArray[Any]
    y: NDArray[Any] | None
    features: tuple[str, ...]
    where: str
    target: str | None = None
    classes: tuple[str, ...] | None = None
    lines: Sequence[int] | None = None

    def at(self, row: int) -> str:
        """What to call a row in an error."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"

    def cell(self, row: int, column: int) -> str:
        """What to call a cell of X in an error."""
        return f"{self.at(row)} column {shown(self.features[column])}"

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Some of the rows."""
        return replace(
            self,
            X=self.X[rows],
            y=None if self.y is None else self.y[rows],
            lines=None if self.lines is None else [self.lines[i] for i in rows.tolist()],
        )


# Columns of files that name them ----------------------------------------------------------------


class Columns(NamedTuple):
    """Which columns of a file are read, by their place in its header.

    Args:
        features: of X, in the order of its columns.
        target: of y; None if the file has none that is wanted.
    """

    features: tuple[int, ...]
    target: int | None


Choose: TypeAlias = Callable[[list[str], str], Columns]
"""From the names of a file's columns, and what to call the file, to those that are read."""


def all_but(target: str | None) -> Choose:
    """Every column is a feature but the target; None is the last."""

    def choose(header: list[str], where: str) -> Columns:
        if target is not None and target not in header:
            raise DataError(
                "the target must be a column of the file",
                came=f"target = {shown(target)}",
                where=where,
                fix=nearest(target, header),
            )
        column = len(header) - 1 if target is None else header.index(target)
        if len(header) == 1:
            raise DataError(
                "the file must hold a feature besides the target",
                came=f"one column, {shown(header[0])}",
                where=where,
                fix="separate columns by commas, and give one per feature and one for the target",
            )
        return Columns(tuple(i for i in range(len(header)) if i != column), column)

    return choose


def named(features: Sequence[str], target: str | None, *, required: bool) -> Choose:
    """The columns of these names, in any order; further columns are not read.

    Args:
        features: of X.
        target: of y; None if it has no name.
        required: whether the target must be there.
    """

    def choose(header: list[str], where: str) -> Columns:
        at = {name: i for i, name in enumerate(header)}
        wanted = [*features, *([target] if required and target is not None else [])]
        further = [name for name in header if name not in wanted]
        complain(
            "the file must hold every column that the network was trained on",
            [name for name in wanted if name not in at],
            where,
            "add or rename these columns",
            show=lambda name: f"no {shown(name)}{_nearest(name, further)}",
        )
        place = at.get(target) if target is not None else None
        return Columns(tuple(at[name] for name in features), place)

    return choose


def _nearest(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f" (nearest: {shown(close[0])})" if close else ""


def require_header(header: Sequence[str], where: str) -> None:
    """Raise DataError for columns without a name, and for two of one name."""
    fix = "give every column a name of its own"
    unnamed = [i + 1 for i, name in enumerate(header) if not name]
    also = f"{fix}, or remove an index column"
    complain("every column must have a name", unnamed, where, also, show="column {}".format)
    twice = [name for name, count in Counter(header).items() if count > 1]
    complain("the names of columns must differ", twice, where, fix, show=shown)


# Cells ------------------------------------------------------------------------------------------


def number(cell: str) -> float | None:
    """The number in a cell, if it is one; Python's 1_000 is not."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def feature(cell: str) -> float | None:
    """The number in the cell of a feature, NaN if it says that it is missing; None for text."""
    return float("nan") if is_missing(cell) else number(cell)


def is_missing(cell: str) -> bool:
    """Whether a cell says that its value is missing."""
    return cell.strip().lower() in MISSING_WORDS


def from_cells(cells: Sequence[str]) -> NDArray[Any]:
    """Targets as numbers where every cell is one, as text otherwise."""
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        value = number(cell)
        if value is None:
            return np.array(cells, object)
        values[i] = value
    return values


def refuse_text(cells: Bad[str], where: str) -> None:
    """Raise DataError for cells of features that hold text, if there are any."""
    cells.complain(
        "every column but the target must hold numbers",
        where,
        "write text as numbers, remove the column, or name the target; "
        "a missing value is an empty cell",
    )


def refuse_missing_targets(rows: Bad[str], target: str | None, where: str) -> None:
    """Raise DataError for rows without a target, if there are any."""
    name = "" if target is None else f" {shown(target)}"
    must = f"the target{name} must be given in every row"
    rows.complain(must, where, "fill these cells or remove these rows")


# Errors -----------------------------------------------------------------------------------------


class Bad(Generic[T]):
    """The first few of what is bad, and how many there are: a whole file may be."""

    def __init__(self, first: Sequence[T] = (), count: int = 0) -> None:
        self.first, self.count = list(first), count

    def add(self, item: T) -> None:
        """One more."""
        self.count += 1
        if self.count <= _SHOWN:
            self.first.append(item)

    def complain(self, must: str, where: str, fix: str) -> None:
        """Raise DataError if there is one."""
        if self.count:
            raise DataError(must, came=_listed(self.first, self.count), where=where, fix=fix)


def complain(
    must: str,
    bad: Sequence[T],
    where: str,
    fix: str,
    *,
    show: Callable[[T], str],
) -> None:
    """Raise DataError with the first few of what is bad and their number, if anything is."""
    if len(bad):
        raise DataError(must, came=some(bad, show), where=where, fix=fix)


def some(items: Sequence[T], show: Callable[[T], str] = str) -> str:
    """The first few, and how many in all."""
    return _listed([show(item) for item in items[:_SHOWN]], len(items))


def _listed(first: Sequence[Any], count: int) -> str:
    text = ", ".join(map(str, first))
    return f"{text}, … {count} in all" if count > len(first) else text


def at_rows(
    table: Table, bad: NDArray[np.bool_], show: Callable[[int], str] | None = None
) -> Bad[str]:
    """The first few of the rows, or of the cells counted row by row, where `bad` is true.

    Args:
        table: says what a row is called.
        bad: (n,) or (n, d).
        show: what to call the i-th in an error; None is the row.
    """
    at = np.flatnonzero(bad)
    return Bad([(show or table.at)(i) for i in at[:_SHOWN].tolist()], len(at))


def default_names(columns: int, letter: str = "x") -> tuple[str, ...]:
    """x0, x1, … for features without names."""
    return tuple(f"{letter}{i}" for i in range(columns))


def unreadable(path: Path, error: Exception | str, fix: str) -> DataError:
    """A file that is missing, cannot be opened, or is not what its name says."""
    if isinstance(error, FileNotFoundError):
        fix = "check the path: a relative one starts from the folder of the spec"
    came = error if isinstance(error, str) else getattr(error, "strerror", None) or str(error)
    must = f"data must be a {path.suffix} file that can be read"
    return DataError(must, came=came or type(error).__name__, where=str(path), fix=fix)
