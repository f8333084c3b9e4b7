"""Parquet files, read by pyarrow column by column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.errors import DataError
from isograd.nn.checks import shown
from isograd.training.tables import (
    Bad,
    Choose,
    Table,
    complain,
    feature,
    from_cells,
    refuse_missing_targets,
    refuse_text,
    require_header,
    unreadable,
)

_WRITE = "write it again, one row per example"


def read_parquet(path: Path, choose: Choose, *, unlabelled: bool = False) -> Table:
    """A Parquet file: numbers, booleans or text that is numbers in the columns of features.

    Args:
        path: the file.
        choose: says which columns are read.
        unlabelled: whether all targets may be missing; then y is None.

    Returns:
        The table, X in float64 with NaN for null. y holds numbers or booleans as they are; text
        becomes float64 if every target is a number.

    Raises:
        DataError: if pyarrow is not installed; otherwise naming rows, counted from 0, and columns.
    """
    where = str(path)
    file, types = _open(path)
    with file:
        schema = file.schema_arrow  # made anew each time it is asked for
        header = list(schema.names)
        require_header(header, where)
        columns = choose(header, where)
        target = None if columns.target is None else header[columns.target]
        names = tuple(header[i] for i in columns.features)
        wanted = [*names, *([] if target is None else [target])]
        _require_types([(name, schema.field(name).type) for name in wanted], types, path)
        n = file.metadata.num_rows
        if n == 0:
            raise DataError("a .parquet file must hold rows", came="none", where=where, fix=_WRITE)
        y = None
        if target is not None:
            column = _column(file, target, types, path)
            y = _target(column, target, types, where, unlabelled)
        X, text = np.empty((0, len(names))), Bad[str]()
        for j, name in enumerate(names):
            column = _column(file, name, types, path)
            if j == 0:  # not before: the number of rows is only claimed until a column is read
                X = np.empty((n, len(names)))
            X[:, j] = _feature(column, name, types, text)
    refuse_text(text, where)
    return Table(X, y, names, where, target)


def _open(path: Path) -> tuple[Any, Any]:
    """The file, and pyarrow itself."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "reading a .parquet file needs pyarrow",
            came="pyarrow is not installed",
            where=str(path),
            fix="pip install isograd[parquet]",
        ) from None
    try:
        with path.open("rb"):  # pyarrow's own message of a missing file is longer
            return pyarrow.parquet.ParquetFile(path), pyarrow
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(path, error, _WRITE) from None


def _column(file: Any, name: str, pa: Any, path: Path) -> Any:
    """A column, with its dictionary written out."""
    try:
        column = file.read(columns=[name]).column(0)
        if len(column) != file.metadata.num_rows:
            raise pa.ArrowInvalid(f"{len(column)} rows of {file.metadata.num_rows}")
        column.validate(full=True)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return column
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, f"column {shown(name)}: {error}", _WRITE) from None


def _require_types(fields: list[tuple[str, Any]], pa: Any, path: Path) -> None:
    """Numbers, booleans and text; dates, lists and the like are named."""
    bad = []
    for name, kind in fields:
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (_is_number(plain, pa) or pa.types.is_boolean(plain) or _is_text(plain, pa)):
            bad.append(f"{shown(name)} ({kind})")
    complain(
        "columns must hold numbers, booleans or text",
        bad,
        str(path),
        "write these columns as numbers, or remove them",
        show=str,
    )


def _is_number(kind: Any, pa: Any) -> bool:
    t = pa.types
    return any(is_a(kind) for is_a in (t.is_integer, t.is_floating, t.is_decimal, t.is_null))


def _is_text(kind: Any, pa: Any) -> bool:
    t = pa.types
    return any(is_a(kind) for is_a in (t.is_string, t.is_large_string, t.is_string_view))


def _feature(column: Any, name: str, pa: Any, text: Bad[str]) -> NDArray[Any]:
    """A column as float64, NaN for null; cells of text that are no numbers go to `text`."""
    if not _is_text(column.type, pa):
        whole = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
        return np.asarray(whole.cast(pa.float64(), safe=False).to_numpy())
    values = np.empty(len(column))
    for i, cell in enumerate(column):
        said = cell.as_py()
        value = float("nan") if said is None else feature(said)
        if value is None:
            text.add(f"row {i} column {shown(name)} ({shown(said)})")
        values[i] = 0.0 if value is None else value
    return values


def _target(column: Any, name: str, pa: Any, where: str, unlabelled: bool) -> NDArray[Any] | None:
    """A column as targets: none may be missing, unless all are and that is allowed."""
    absent = np.asarray(column.is_null(nan_is_null=True).to_numpy())
    if unlabelled and absent.all():
        return None
    rows = np.flatnonzero(absent)
    refuse_missing_targets(Bad([f"row {row}" for row in rows[:5]], len(rows)), name, where)
    if _is_text(column.type, pa):
        return from_cells(column.to_pylist())
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy())
