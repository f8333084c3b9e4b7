"""Comma-separated files, read row by row into arrays."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isograd.errors import DataError
from isograd.nn.checks import shown
from isograd.training.tables import (
    Bad,
    Choose,
    Columns,
    Table,
    feature,
    from_cells,
    is_missing,
    number,
    refuse_missing_targets,
    refuse_text,
    require_header,
    some,
    unreadable,
)


def read_csv(path: Path, choose: Choose, *, unlabelled: bool = False) -> Table:
    """A comma-separated file with a header: numbers in the columns of features.

    Only numbers are kept of the features, 8 bytes each, so that a file takes little more memory
    than its arrays.

    Args:
        path: the file, UTF-8.
        choose: says which columns are read.
        unlabelled: whether all targets may be missing; then y is None.

    Returns:
        The table; y holds float64 if every target is a number, strings otherwise.

    Raises:
        DataError: naming lines and columns: no header, no rows, rows of another length, columns
            of one name, no target column, features that are not numbers, missing targets.
    """
    where = str(path)
    rows = _records(path)
    _, first = next(rows, (0, None))
    if first is None:
        raise _too_short(where, 0)
    header = [name.strip() for name in first]
    _require_names(header, where)
    columns = choose(header, where)
    reader = _Reader(header, columns)
    for line, row in rows:
        reader.add(line, row)
    if not reader.lines:
        raise _too_short(where, 1)
    return reader.table(where, unlabelled=unlabelled)


class _Reader:
    """Rows become numbers; what is wrong with them is gathered, and said at the end."""

    def __init__(self, header: list[str], columns: Columns) -> None:
        self.header, self.columns = header, columns
        self.lines, self.values = array("q"), array("d")
        self.labels: list[str] = []
        self.known: dict[str, str] = {}  # one string per label, not one per row
        self.ragged, self.text, self.unlabelled = Bad[str](), Bad[str](), Bad[str]()

    def add(self, line: int, row: list[str]) -> None:
        """One row."""
        self.lines.append(line)
        if len(row) != len(self.header):
            self.ragged.add(f"line {line} ({len(row)})")
            return
        cells = [row[i] for i in self.columns.features]
        try:
            if "_" in "".join(cells):
                raise ValueError
            self.values.extend([float(cell) for cell in cells])
        except ValueError:
            self._one_by_one(line, cells)
        if self.columns.target is not None:
            label = row[self.columns.target].strip()
            self.labels.append(self.known.setdefault(label, label))
            if is_missing(label):
                self.unlabelled.add(f"line {line}")

    def _one_by_one(self, line: int, cells: list[str]) -> None:
        """A row with cells that are missing, or text."""
        for i, cell in zip(self.columns.features, cells, strict=True):
            value = feature(cell)
            if value is None:
                name = shown(self.header[i])
                self.text.add(f"line {line} column {name} ({shown(cell.strip())})")
            self.values.append(0.0 if value is None else value)

    def table(self, where: str, *, unlabelled: bool) -> Table:
        """The table, or the first error."""
        n, d = len(self.lines), len(self.columns.features)
        self.ragged.complain(
            f"every row must have {len(self.header)} cells, as the header has",
            where,
            "fill or remove these rows; quote cells that hold a comma",
        )
        target = None if self.columns.target is None else self.header[self.columns.target]
        without = target is None or (unlabelled and self.unlabelled.count == n)
        if not without:
            refuse_missing_targets(self.unlabelled, target, where)
        refuse_text(self.text, where)
        return Table(
            np.frombuffer(self.values).reshape(n, d),
            None if without else from_cells(self.labels),
            tuple(self.header[i] for i in self.columns.features),
            where,
            target,
            lines=self.lines,
        )


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines that hold something, with their number; of a cell over several, the last."""
    check = "check the path, and save the file as UTF-8"
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except (OSError, ValueError) as error:
        raise unreadable(path, error, check) from None
    with file:
        reader = csv.reader(file, strict=True)
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                what = f"line {reader.line_num}: {error}"
                raise unreadable(path, what, "check the quotes") from None
            except (OSError, UnicodeDecodeError) as error:
                raise unreadable(path, error, check) from None
            if row is None:
                return
            if len(row) > 1 or (row and row[0].strip()):
                yield reader.line_num, row


def _require_names(header: list[str], where: str) -> None:
    """The first line must be names."""
    if all(number(name) is not None for name in header):
        raise DataError(
            "the first line of a .csv file must name the columns",
            came=f"numbers only: {some(header)}",
            where=where,
            fix="write the names of the columns in the first line",
        )
    require_header(header, where)


def _too_short(where: str, rows: int) -> DataError:
    return DataError(
        "a .csv file must hold a header and rows",
        came=f"{rows} rows in all",
        where=where,
        fix="write the names of the columns first, then one row per example",
    )
