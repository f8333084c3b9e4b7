"""Records and facts as rows of tables, under checksums: read as they were written, or refused.

SQLite has no checksums of its own: where bytes of its file change, other numbers may come back.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from isograd.errors import RunError
from isograd.telemetry.records import Record, Site
from isograd.telemetry.summary import COLUMNS, Summary

Row: TypeAlias = tuple[Any, ...]

_RECORD = ("step", "epoch", "loss", "lr", "skipped", "grad_norm", "predicted", "actual")
_SUMMARY = ("step", "site", *COLUMNS)
TABLES: dict[int, dict[str, tuple[str, ...]]] = {
    1: {"meta": ("name", "value"), "records": _RECORD, "summaries": _SUMMARY},
    2: {
        "meta": ("name", "value", "checksum"),
        "records": (*_RECORD, "validation", "accuracy", "checksum"),
        "summaries": _SUMMARY,
    },
    3: {
        "meta": ("name", "value", "checksum"),
        "records": (*_RECORD, "validation", "accuracy", "moments", "checksum"),
        "summaries": _SUMMARY,
    },
}
"""The columns of the tables, by version. Those of version 1 are read, without checksums."""
VERSION = max(TABLES)


def meta_row(name: str, value: str) -> Row:
    """A fact as a row of `meta`."""
    return (name, value, _checksum(name, value))


def facts(rows: Iterable[Row], where: str) -> dict[str, str]:
    """The facts of which `meta_row` made rows.

    Raises:
        RunError: a row is not as it was written.
    """
    found = {}
    for name, value, *rest in rows:
        if not isinstance(value, str) or (rest and rest != [_checksum(name, value)]):
            raise damaged(f"the fact {name!r} does not agree with its checksum", where)
        found[name] = value
    return found


def record_rows(record: Record, before: Any) -> tuple[Row, list[Row]]:
    """A record as a row of `records` and rows of `summaries`.

    Args:
        record: to be stored.
        before: the checksum of the record before it; None for the first. Each checksum covers the
            one before, so that no record can go missing between two others.
    """
    step = int(record.step)
    row = (
        *(step, int(record.epoch), _storable(record.loss), _storable(record.lr)),
        *(int(record.skipped), _storable(record.grad_norm)),
        *(_storable(record.predicted), _storable(record.actual)),
        *(_storable(record.validation), _storable(record.accuracy), record.moments),
    )
    names = {str(site): site for site in record.summaries}
    summaries: list[Row] = [
        (step, name, *record.summaries[names[name]].to_row()) for name in sorted(names)
    ]
    return (*row, _checksum(before, row, summaries)), summaries


def records(
    rows: Iterable[Row], summaries: Mapping[int, list[Row]], before: Any, where: str
) -> Iterator[Record]:
    """The records of which `record_rows` made rows.

    Args:
        rows: of `records`, in the order of their steps.
        summaries: rows of `summaries` by step, in the order of their sites.
        before: as for `record_rows`, of the first of the rows.
        where: the file, for errors.

    Raises:
        RunError: a row is not as it was written, or is missing.
    """
    sites: dict[str, Site] = {}
    for row in rows:
        measured = summaries.get(row[0], [])
        if len(row) > len(_RECORD):
            *values, checksum = row
            if checksum != _checksum(before, values, measured):
                raise damaged(f"step {row[0]} does not agree with its checksum", where)
            before, row = checksum, tuple(values)
        try:
            yield _record(row, {_site(s[1], sites): Summary.from_row(s[2:]) for s in measured})
        except (struct.error, ArithmeticError, TypeError, ValueError) as error:  # of version 1
            raise damaged(f"step {row[0]}: {str(error).splitlines()[0]}", where) from error


def damaged(came: str, where: str) -> RunError:
    """What is said of a store whose content is not what was written."""
    return RunError(
        "a run's files must be whole",
        came=came,
        where=where,
        fix="train again, or take a copy of the file from a backup",
    )


def _checksum(*content: Any) -> int:
    """CRC-32 of values as SQLite holds them; types count, so that 1 is not 1.0."""
    return zlib.crc32(msgspec.msgpack.encode(content))


def _storable(x: float | None) -> float | str | None:
    """SQLite would store NaN as NULL, which stands for None here: NaN becomes the text 'nan'."""
    if x is None:
        return None
    return "nan" if math.isnan(x) else float(x)


def _record(row: Sequence[Any], summaries: dict[Site, Summary]) -> Record:
    step, epoch, loss, lr, skipped, *optional = row
    floats, moments = optional[:5], optional[5:]  # fewer in older versions
    norm, *others = (None if x is None else float(x) for x in floats)
    return Record(
        *(step, epoch, float(loss), float(lr), bool(skipped), norm, summaries, *others), *moments
    )


def _site(text: str, known: dict[str, Site]) -> Site:
    return known.get(text) or known.setdefault(text, Site.parse(text))
