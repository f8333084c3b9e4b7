"""Files of data: .npz, .csv, .parquet and idx, well formed and malformed."""

from __future__ import annotations

import csv
import gzip
import io
import struct
import sys
import tracemalloc
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isograd.errors import DataError
from isograd.nn import spec as s
from isograd.training.data import load
from isograd.training.idx import read_idx

SOFTMAX, SQUARED = "softmax_cross_entropy", "half_squared_error"
X = np.arange(20.0).reshape(10, 2)
LABELS = [0, 1] * 5


def both(split):
    """X and y of both parts together."""
    return np.concatenate([split.X_train, split.X_test]), np.concatenate(
        [split.y_train, split.y_test]
    )


def as_rows(X, y):
    """Rows with their targets in an order that does not depend on the split."""
    table = np.column_stack([X, y])
    return table[np.lexsort(table.T)]


# .npz --------------------------------------------------------------------------------------------


def test_npz(tmp_path: Path):
    np.savez(tmp_path / "a.npz", X=X, y=np.array(["b", "a"] * 5))
    data = s.Data("a.npz", standardise=False)
    split = load(data, loss_kind=SOFTMAX, seed=0, base=tmp_path)
    assert (split.classes, split.features) == (("a", "b"), ("x0", "x1"))
    np.testing.assert_array_equal(as_rows(*both(split)), as_rows(X, [1, 0] * 5))
    absolute = s.Data(tmp_path / "a.npz", standardise=False)
    assert load(absolute, loss_kind=SOFTMAX, seed=0).classes == ("a", "b")


def _renamed(path: Path) -> None:
    path.with_suffix(".npy").rename(path)


def _damaged(path: Path) -> None:
    """A .npz whose compressed bytes were overwritten."""
    np.savez_compressed(path, X=np.arange(2000.0), y=LABELS)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "came"),
    [
        (lambda path: np.savez(path, x=X, y=LABELS, z=1), "no X; found: x, y, z"),
        (lambda path: np.savez(path), "no X and no y; found: none"),
        (lambda path: np.savez(path, X=X, y=np.array([{}], object)), "allow_pickle=False"),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(b"not an archive"), ""),
        (lambda path: path.write_bytes(b"PK\x03\x04 torn"), "zip"),
        (_damaged, ""),
        (lambda path: np.save(path.with_suffix(".npy"), X) or _renamed(path), "a single array"),
        (lambda path: path.mkdir(), "directory"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, write, came):
    write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"\.npz file") as caught:
        load(s.Data("a.npz"), loss_kind=SOFTMAX, seed=0, base=tmp_path)
    assert came in caught.value.came
    assert caught.value.came
    assert caught.value.where == str(tmp_path / "a.npz")
    assert "numpy.savez" in caught.value.fix


# .csv --------------------------------------------------------------------------------------------

cells = st.floats(allow_nan=False, allow_infinity=False, width=32)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)


@settings(max_examples=50)
@given(st.data())
def test_csv_round_trip(tmp_path_factory, data):
    """Python's writer quotes and escapes; what was written is what is read."""
    header = data.draw(
        st.lists(names.map(lambda name: "n" + name.strip()), min_size=2, max_size=4, unique=True)
    )
    row = st.lists(cells, min_size=len(header), max_size=len(header))
    rows = data.draw(st.lists(row, min_size=4, max_size=8))
    at = data.draw(st.integers(0, len(header) - 1))
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    spec = s.Data(path, header[at], test_fraction=0.5, standardise=False)
    split = load(spec, loss_kind=SQUARED, seed=0, dtype="float64")
    table = np.array(rows)
    expected = as_rows(np.delete(table, at, axis=1), table[:, at])
    np.testing.assert_array_equal(as_rows(*both(split)), expected)
    assert split.features == tuple(header[:at] + header[at + 1 :])


def csv_split(tmp_path: Path, text: str, kind: str = SOFTMAX, target: str | None = None):
    (tmp_path / "a.csv").write_bytes(text.encode())
    return load(s.Data("a.csv", target), loss_kind=kind, seed=0, base=tmp_path)


ROWS = "1,2,no\n3,4,yes\n" * 5


def test_csv_text_labels_and_the_default_target(tmp_path: Path):
    split = csv_split(tmp_path, "a, b ,ill\n\n" + ROWS.replace(",", " , ") + "  \n")
    assert (split.classes, split.features) == (("no", "yes"), ("a", "b"))
    X, y = both(split)
    np.testing.assert_array_equal(X[:, 0] > 0, y == 1)
    assert csv_split(tmp_path, "a,b,ill\n" + ROWS, SQUARED).y_train.shape == (8, 2)


def test_csv_labels_that_are_numbers_are_sorted_as_numbers(tmp_path: Path):
    text = "a,b\n" + "".join(f"{i},{label}\n" for i, label in enumerate(["10", "9.0", "2"] * 4))
    assert csv_split(tmp_path, text).classes == ("2", "9", "10")
    assert csv_split(tmp_path, text.replace("2\n", "b\n")).classes == ("10", "9.0", "b")
    assert csv_split(tmp_path, text, SQUARED).task == "regression"


@pytest.mark.parametrize(
    ("text", "target", "must", "came"),
    [
        ("", None, "header and rows", "0 rows"),
        ("\n \n", None, "header and rows", "0 rows"),
        ("a,b\n", None, "header and rows", "1 rows"),
        ("1,2.5\n3,4\n", None, "must name the columns", "numbers only: 1, 2.5"),
        (",a,b\n0,1,no\n", None, "must have a name", "column 1"),
        ("a,b,a,c\n1,2,3,no\n", None, "must differ", "'a'"),
        ("a;b\n1;2\n", None, "besides the target", "'a;b'"),
        ("a,b,c\n1,2,no\n1,2\n\n1,2,3,4\n", None, "must have 3 cells", "line 3 (2), line 5 (4)"),
        ("a,b,ill\n" + ROWS, "il", "column of the file", "target = 'il'"),
        ("a,b,c\n1,2,\n3,,no\n", None, "'c' must be given", "line 2"),
        (
            "a,b,c\n1,x,no\n,2,no\n",
            None,
            "hold numbers",
            "line 2 column 'b' ('x')",
        ),
        ("a,b\n" + "x,1\n" * 9, None, "hold numbers", "… 9 in all"),
        ("a,b\n1_0,1\n", None, "hold numbers", "'1_0'"),
        ("a,b,c\n1,nan,0\n-inf,2,1\n", None, "finite", "line 3 column 'a' (-inf)"),
        ("a,b,c\n1,nan,0\n,2,1\n", None, "missing", "line 2 column 'b' (nan), line 3 column 'a'"),
        ("a,b\n1,0\n2,nan\n", None, "'b' must be given", "line 3"),
        ("a,b\n1,0\n2,inf\n", None, "finite", "line 3 column 'b' (inf)"),
        ('a,b\n1,"2\n', None, "can be read", "line 2: unexpected end of data"),
        ('a,b\n"1"x,2\n', None, "can be read", "line 2"),
        ("a,b\n1,0.5\n2,1\n", None, "whole numbers or text", "line 2 (0.5)"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path: Path, text, target, must, came):
    with pytest.raises(DataError) as caught:
        csv_split(tmp_path, text, target=target)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == str(tmp_path / "a.csv")
    assert caught.value.fix


def test_csv_names_the_nearest_column(tmp_path: Path):
    with pytest.raises(DataError, match="did you mean 'ill'"):
        csv_split(tmp_path, "a,b,ill\n" + ROWS, target="il")


def test_csv_targets_half_numbers_half_text(tmp_path: Path):
    with pytest.raises(DataError, match="all numbers or all text") as caught:
        csv_split(tmp_path, "a,b\n1,2\n1,x\n1,3\n1,4\n", SQUARED)
    assert caught.value.came == "line 3 ('x')"


def test_csv_that_is_not_utf8(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(DataError, match="save the file as UTF-8"):
        load(s.Data("a.csv"), loss_kind=SOFTMAX, seed=0, base=tmp_path)


def test_csv_missing_words_and_text_among_them(tmp_path: Path):
    """Words for missing values are no text; text is named before what is missing."""
    words = ["", " ", "NA", "n/a", "NaN", "null", "Null", "?"]
    text = "a,b,ill\n" + "".join(f"{word},{i},{i % 2}\n" for i, word in enumerate(words * 2))
    with pytest.raises(DataError, match="no feature may be missing") as caught:
        csv_split(tmp_path, text)
    assert caught.value.came.startswith("line 2 column 'a' (nan), line 3")
    assert caught.value.came.endswith("… 16 in all")
    assert 'missing = "mean"' in caught.value.fix
    with pytest.raises(DataError, match="hold numbers") as caught:
        csv_split(tmp_path, text + "-,1,0\nmissing,1,0\n")
    assert caught.value.came == "line 18 column 'a' ('-'), line 19 column 'a' ('missing')"
    with pytest.raises(DataError, match="target 'ill' must be given") as caught:
        csv_split(tmp_path, "a,ill\n1,0\n2,?\n3,NA\n4,1\n")
    assert caught.value.came == "line 3, line 4"


def test_braces_in_a_csv_are_text_like_any(tmp_path: Path):
    with pytest.raises(DataError, match="hold numbers") as caught:
        csv_split(tmp_path, "a{0},b\n{x},1\n")
    assert caught.value.came == "line 2 column 'a{0}' ('{x}')"


def peak_of(read) -> int:
    """The most memory, in bytes, that was held while something ran."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_csv_takes_a_small_multiple_of_its_size(tmp_path: Path):
    """A list of Python floats per row would take ten times the text; one long label widens none."""
    load(s.Data("iris"), loss_kind=SOFTMAX, seed=0)  # scikit-learn is imported
    rng = np.random.default_rng(0)
    rows = "".join(
        ",".join(f"{x:.3f}" for x in row) + f",{i % 3}\n"
        for i, row in enumerate(rng.normal(size=(4000, 20)))
    )
    text = ",".join(f"x{i}" for i in range(20)) + ",y\n" + rows
    size = len(text)
    assert peak_of(lambda: csv_split(tmp_path, text)) < 8 * size
    labels = ["a"] * 20_000 + ["b" * 100_000] * 2
    text = "x,y\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels))
    assert peak_of(lambda: csv_split(tmp_path, text)) < 30 * len(text)  # not 20 000 · 400 000 B


def test_an_npz_that_claims_more_than_it_holds(tmp_path: Path):
    """The header says 16 GB; the array behind it has ten rows."""
    np.savez(tmp_path / "b.npz", X=X, y=LABELS)
    with (
        zipfile.ZipFile(tmp_path / "b.npz") as old,
        zipfile.ZipFile(tmp_path / "a.npz", "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name == "X.npy":
                assert b"(10, 2), }        " in content
                content = content.replace(b"(10, 2), }        ", b"(999999999, 2), } ", 1)
            new.writestr(name, content)
    with pytest.raises(DataError, match=r"\.npz file") as caught:
        load(s.Data("a.npz"), loss_kind=SOFTMAX, seed=0, base=tmp_path)
    claim = "X claims shape (999999999, 2), more than the archive holds"
    assert caught.value.came == claim


def test_a_compressed_npz(tmp_path: Path):
    """What deflate can at most gain is no claim: a megabyte of zeros in a kilobyte."""
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((10**5, 10)), y=[0, 1] * 50_000)
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    split = load(s.Data("a.npz"), loss_kind=SOFTMAX, seed=0, base=tmp_path)
    assert split.X_train.shape == (80_000, 10)


# .parquet ----------------------------------------------------------------------------------------


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


TWENTY = np.arange(20.0)


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


# idx ---------------------------------------------------------------------------------------------


def idx_bytes(code: int, dimensions, body: bytes) -> bytes:
    """A file by hand, as the format is described."""
    return struct.pack(f">HBB{len(dimensions)}I", 0, code, len(dimensions), *dimensions) + body


PIXELS = bytes(range(120))
IMAGES = idx_bytes(0x08, (20, 2, 3), PIXELS)
DIGITS = idx_bytes(0x08, (20,), bytes([3, 5] * 10))


def idx_split(folder: Path, images: bytes = IMAGES, labels: bytes = DIGITS, **data):
    (folder / "images.idx").write_bytes(images)
    (folder / "labels.idx").write_bytes(labels)
    spec = s.Data("images.idx", labels="labels.idx", standardise=False, **data)
    return load(spec, loss_kind=SOFTMAX, seed=0, base=folder)


def test_magic_numbers_of_mnist():
    assert IMAGES[:4].hex() == "00000803"
    assert DIGITS[:4].hex() == "00000801"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_images_and_labels(tmp_path: Path, pack):
    split = idx_split(tmp_path, pack(IMAGES), pack(DIGITS))
    assert (split.classes, split.features) == (("3", "5"), ("p0", "p1", "p2", "p3", "p4", "p5"))
    assert split.X_train.dtype == np.float32
    rows, labels = both(split)
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.arange(0, 120, 6))
    np.testing.assert_array_equal(rows - rows[:, :1], np.tile(np.arange(6.0), (20, 1)))
    np.testing.assert_array_equal(labels, rows[:, 0] / 6 % 2)


def test_images_in_parts_of_their_own(tmp_path: Path):
    for name, content in (("t-images-idx3-ubyte", IMAGES), ("t-labels-idx1-ubyte.gz", DIGITS)):
        (tmp_path / name).write_bytes(content)
    parts = {"test": "t-images-idx3-ubyte", "test_labels": "t-labels-idx1-ubyte.gz"}
    split = idx_split(tmp_path, gzip.compress(IMAGES), DIGITS, **parts)
    for x, y in ((split.X_train, split.y_train), (split.X_test, split.y_test)):
        np.testing.assert_array_equal(x, np.arange(120.0).reshape(20, 6))
        np.testing.assert_array_equal(y, [0, 1] * 10)


@pytest.mark.parametrize(
    ("code", "form", "values"),
    [
        (0x08, "6B", [0, 1, 2, 127, 128, 255]),
        (0x09, "6b", [-128, -1, 0, 1, 2, 127]),
        (0x0B, "6h", [-32768, -1, 0, 1, 256, 32767]),
        (0x0C, "6i", [-(2**31), -1, 0, 1, 65536, 2**31 - 1]),
        (0x0D, "6f", [-1.5, 0.0, 0.5, 1.0, 2.0**100, -(2.0**-100)]),
        (0x0E, "6d", [-1.5, 0.0, 0.1, 1.0, 1e300, -1e-300]),
    ],
)
def test_every_type_of_idx(tmp_path: Path, code, form, values):
    path = tmp_path / "a.idx"
    path.write_bytes(idx_bytes(code, (3, 2), struct.pack(">" + form, *values)))
    array = read_idx(path)
    np.testing.assert_array_equal(array, np.array(values).reshape(3, 2))
    assert array.dtype.isnative


TORN = gzip.compress(IMAGES)
BROKEN = TORN[:30] + b"\xff\xff" + TORN[32:]


@pytest.mark.parametrize(
    ("content", "must", "came"),
    [
        (b"", "must begin with", "an empty file"),
        (b"\0\0\x08", "must begin with", "0x000008"),
        (b"\1\0\x08\x03" + bytes(99), "must begin with", "0x01000803"),
        (b"\0\0\x07\x03" + bytes(99), "must begin with", "0x00000703"),
        (b"\0\0\x08\x00" + bytes(99), "must begin with", "0x00000800"),
        (b"\0\0\x08\xff" + bytes(9999), "must begin with", "0x000008ff"),
        (b"PK\x03\x04" + bytes(99), "must begin with", "0x504b0304"),
        (IMAGES[:10], "all the values", "6 bytes for 3 dimensions"),
        (IMAGES[:-1], "all the values", "too small for 20 × 2 × 3 values"),
        (IMAGES[:16], "all the values", "too small for 20 × 2 × 3 values"),
        (idx_bytes(0x0E, (2**32 - 1,) * 3, b""), "all the values", "too small for 4294967295 ×"),
        (gzip.compress(idx_bytes(8, (2**32 - 1,) * 64, b"")), "all the values", "too small for"),
        (gzip.compress(IMAGES[:-1]), "all the values", "119 bytes of the 120 of 20 × 2 × 3"),
        (IMAGES + b"\0", "must end where", "more than the 120 bytes"),
        (gzip.compress(IMAGES + b"\0"), "must end where", "more than the 120 bytes"),
        (idx_bytes(8, (0, 28, 28), b""), "must hold values", "0 × 28 × 28"),
        (DIGITS, "two or more dimensions", "1: 20"),
        (TORN[:-9], "can be read", "damaged gzip data: Compressed file ended"),
        (TORN[:-8] + bytes(4) + TORN[-4:], "can be read", "damaged gzip data: CRC check failed"),
        (BROKEN, "can be read", "damaged gzip data"),
        (TORN + b"more", "can be read", "damaged gzip data: Not a gzipped file"),
    ],
)
def test_images_that_cannot_be_used(tmp_path: Path, content, must, came):
    with pytest.raises(DataError) as caught:
        idx_split(tmp_path, content)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == str(tmp_path / "images.idx")
    assert caught.value.fix


def test_labels_that_do_not_fit_the_images(tmp_path: Path):
    with pytest.raises(DataError, match="labels must have one dimension") as caught:
        idx_split(tmp_path, labels=IMAGES)
    assert caught.value.came == "3: 20 × 2 × 3"
    assert caught.value.where == str(tmp_path / "labels.idx")
    with pytest.raises(DataError, match="one target per row") as caught:
        idx_split(tmp_path, labels=idx_bytes(8, (19,), bytes(19)))
    assert caught.value.came == "X of shape (20, 6), y of shape (19,)"
    with pytest.raises(DataError, match="No such file"):
        load(s.Data("no.idx", labels="labels.idx"), loss_kind=SOFTMAX, seed=0, base=tmp_path)


def test_no_more_is_read_than_the_header_claims(tmp_path: Path):
    """A hundred megabytes of zeros behind a header of twenty labels, in a hundred kilobytes."""
    path = tmp_path / "a.idx.gz"
    path.write_bytes(gzip.compress(idx_bytes(8, (20,), bytes(10**8))))

    def read() -> None:
        with pytest.raises(DataError, match="must end where its header says"):
            read_idx(path)

    assert path.stat().st_size < 200_000
    assert peak_of(read) < 3_000_000


def test_nothing_is_allocated_for_what_a_file_cannot_hold(tmp_path: Path):
    """Ten gigabytes claimed by twenty bytes: more than deflate's 1032 to one."""
    path = tmp_path / "a.idx.gz"
    path.write_bytes(gzip.compress(idx_bytes(8, (10**5, 10**5), b"")))

    def read() -> None:
        with pytest.raises(DataError, match="all the values that its header names"):
            read_idx(path)

    assert peak_of(read) < 1_000_000


# Damage of every kind ----------------------------------------------------------------------------


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Up to five bytes changed, put in, taken out, or runs of four set."""
    damage = bytearray(content)
    for kind in rng.integers(4, size=rng.integers(1, 6)):
        at = int(rng.integers(len(damage)))
        if kind == 0:
            damage[at] = int(rng.integers(256))
        elif kind == 1:
            damage[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del damage[at : at + int(rng.integers(1, 20))]
        else:
            damage[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(damage)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npz", "a.idx", "a.idx.gz"])
def test_damage_is_refused_with_a_place_or_does_no_harm(tmp_path: Path, name: str):
    labels = {"labels": "labels.idx"} if "idx" in name else {}
    (tmp_path / "labels.idx").write_bytes(DIGITS)
    if name == "a.csv":
        (tmp_path / name).write_text('a,"b",y\n' + '1,"2",u\n3,1e2,v\n' * 10, "utf-8")
    elif name == "a.parquet":
        text = pa.array([str(i) for i in range(20)]).dictionary_encode()
        pq.write_table(pa.table({"a": TWENTY, "b": text, "y": ["u", "v"] * 10}), tmp_path / name)
    elif name == "a.npz":
        np.savez_compressed(tmp_path / name, X=X, y=LABELS)
    else:
        (tmp_path / name).write_bytes(gzip.compress(IMAGES) if name.endswith("gz") else IMAGES)
    content, rng = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    load(s.Data(name, **labels), loss_kind=SOFTMAX, seed=0, base=tmp_path)
    refused = 0
    for _ in range(200):
        (tmp_path / name).write_bytes(damaged(content, rng))
        try:
            load(s.Data(name, **labels), loss_kind=SOFTMAX, seed=0, base=tmp_path)
        except DataError as error:
            refused += 1
            assert error.must
            assert error.came
            assert error.where.startswith(str(tmp_path))
            assert error.fix
    assert refused > 100
