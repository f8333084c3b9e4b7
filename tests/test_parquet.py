"""Parquet files: types, missing values, damage; pyarrow writes what is read."""

from __future__ import annotations

import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import as_rows, both

from isograd.errors import DataError
from isograd.nn import spec as s
from isograd.training.data import load

SOFTMAX, SQUARED = "softmax_cross_entropy", "half_squared_error"
TWENTY = np.arange(20.0)


def parquet_split(tmp_path: Path, columns, kind: str = SOFTMAX, **data):
    """The split of a Parquet file that pyarrow wrote."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    spec = s.Data("a.parquet", **{"standardise": False, **data})
    return load(spec, loss_kind=kind, seed=0, base=tmp_path, dtype="float64")


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        (pa.array(range(20), pa.int8()), range(20)),
        (pa.array(range(20), pa.uint64()), range(20)),
        (pa.array(np.arange(20.0, dtype=np.float16)), range(20)),
        (pa.array(np.arange(20.0) / 3), np.arange(20.0) / 3),
        (pa.array([False, True] * 10), [0, 1] * 10),
        (pa.array([Decimal("0.25"), Decimal("-1.50")] * 10), [0.25, -1.5] * 10),
        (pa.array(["1e3", " -2 "] * 10), [1000, -2] * 10),
        (pa.array(["1", "2"] * 10, pa.large_string()).dictionary_encode(), [1, 2] * 10),
        (pa.array([1.5, 2.5] * 10).dictionary_encode(), [1.5, 2.5] * 10),
    ],
    ids=lambda x: str(getattr(x, "type", "")),
)
def test_types_of_parquet_features(tmp_path: Path, column, numbers):
    """Every second column is a control; the target stands in the middle."""
    control = np.arange(20.0)
    columns = {"a.b": column, "y": pa.array(["n", "y"] * 10), "c d": control}
    split = parquet_split(tmp_path, columns, target="y")
    assert (split.features, split.classes) == (("a.b", "c d"), ("n", "y"))
    expected = as_rows(np.column_stack([list(numbers), control]), [0, 1] * 10)
    np.testing.assert_array_equal(as_rows(*both(split)), expected)


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (pa.array([7, 3] * 10), ("3", "7")),
        (pa.array([2.0, -1.0] * 10), ("-1", "2")),
        (pa.array([True, False] * 10), ("False", "True")),
        (pa.array(["10", "9"] * 10), ("9", "10")),
        (pa.array(["b", "9"] * 10), ("9", "b")),
        (pa.array(["b", "a"] * 10).dictionary_encode(), ("a", "b")),
    ],
    ids=lambda x: str(getattr(x, "type", "")),
)
def test_types_of_parquet_targets(tmp_path: Path, target, classes):
    split = parquet_split(tmp_path, {"x": np.arange(20.0), "y": target})
    assert split.classes == classes
    rows, labels = both(split)
    said = [str(label).removesuffix(".0") for label in target.to_pylist()]
    assert [classes[label] for label in labels] == [said[int(x)] for x in rows[:, 0]]


@pytest.mark.parametrize(
    ("columns", "must", "came"),
    [
        ({"x": [date(2020, 1, 1)] * 20, "y": TWENTY}, "numbers, booleans", "'x' (date32[day])"),
        ({"x": [[1.0]] * 20, "y": TWENTY}, "numbers, booleans or text", "'x' (list<"),
        ({"x": [{"a": 1}] * 20, "y": TWENTY}, "numbers, booleans or text", "'x' (struct<a"),
        ({"x": [b"a"] * 20, "y": TWENTY}, "numbers, booleans or text", "'x' (binary)"),
        ({"x": TWENTY, "y": [date(2020, 1, 1)] * 20}, "numbers, boolean", "'y' (date32[day])"),
        (
            {"x": ["1", "b", "c"] + ["2"] * 17, "y": TWENTY},
            "hold numbers",
            "row 1 column 'x' ('b')",
        ),
        ({"x": [1.0, None] * 10, "y": TWENTY}, "be missing", "row 1 column 'x' (nan), row 3"),
        ({"x": [1, None] * 10, "y": TWENTY}, "be missing", "… 10 in all"),
        ({"x": [True, None] * 10, "y": TWENTY}, "be missing", "row 1 column 'x'"),
        ({"x": ["1", None] * 10, "y": TWENTY}, "be missing", "row 1 column 'x'"),
        ({"x": pa.nulls(20), "y": TWENTY}, "be missing", "… 20 in all"),
        ({"x": [np.inf, *range(19)], "y": TWENTY}, "finite", "row 0 column 'x' (inf)"),
        ({"x": TWENTY, "y": [1.0, None] * 10}, "'y' must be given", "row 1, row 3"),
        ({"x": TWENTY, "y": [1.0, np.nan] * 10}, "'y' must be given", "row 1, row 3"),
        ({"x": TWENTY, "y": ["a", None] * 10}, "'y' must be given", "… 10 in all"),
        ({"x": TWENTY}, "a feature besides the target", "one column, 'x'"),
        ({"x": TWENTY[:0], "y": TWENTY[:0]}, "must hold rows", "none"),
        ({"": TWENTY, "y": TWENTY}, "must have a name", "column 1"),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path: Path, columns, must, came):
    with pytest.raises(DataError) as caught:
        parquet_split(tmp_path, columns, SQUARED)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == str(tmp_path / "a.parquet")
    assert caught.value.fix


def test_parquet_columns_of_one_name(tmp_path: Path):
    table = pa.Table.from_arrays([pa.array(TWENTY)] * 3, names=["x", "x", "y"])
    with pytest.raises(DataError, match="names of columns must differ\n  came:  'x'"):
        parquet_split(tmp_path, table)


def _cut_off(content: bytes) -> bytes:
    return content[:-20]


def _overwritten(content: bytes) -> bytes:
    return content[:4] + bytes(60) + content[64:]


@pytest.mark.parametrize("damage", [_cut_off, _overwritten, lambda _: b"", lambda _: b"x" * 99])
def test_damaged_parquet(tmp_path: Path, damage):
    parquet_split(tmp_path, {"x": TWENTY, "y": [1, 0] * 10})
    path = tmp_path / "a.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"a \.parquet file that can be read") as caught:
        load(s.Data("a.parquet"), loss_kind=SOFTMAX, seed=0, base=tmp_path)
    assert caught.value.came
    assert caught.value.where == str(path)


def test_parquet_text_that_is_not_utf8(tmp_path: Path):
    text = pa.array([b"\xff", b"a"] * 10).cast(pa.binary()).view(pa.string())
    with pytest.raises(DataError, match="can be read") as caught:
        parquet_split(tmp_path, {"x": TWENTY, "y": text})
    assert "column 'y'" in caught.value.came


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs pyarrow") as caught:
        load(s.Data("a.parquet"), loss_kind=SOFTMAX, seed=0, base=tmp_path)
    assert caught.value.fix == "pip install isograd[parquet]"
