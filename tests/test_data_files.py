"""Files of data: .npz and .csv, well formed and malformed, and damage to files of any format."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import DIGITS, IMAGES, as_rows, both, peak_of
from hypothesis import given, settings
from hypothesis import strategies as st

from isograd.errors import DataError
from isograd.nn import spec as s
from isograd.training.data import load

SOFTMAX, SQUARED = "softmax_cross_entropy", "half_squared_error"
X = np.arange(20.0).reshape(10, 2)
LABELS = [0, 1] * 5
TWENTY = np.arange(20.0)


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
    refused = []
    for _ in range(200):
        (tmp_path / name).write_bytes(damaged(content, rng))
        try:
            load(s.Data(name, **labels), loss_kind=SOFTMAX, seed=0, base=tmp_path)
        except DataError as error:
            refused.append(error)
    assert len(refused) > 100
    assert all(error.must and error.came and error.fix for error in refused)
    assert all(error.where.startswith(str(tmp_path)) for error in refused)
