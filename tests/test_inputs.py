"""New rows for a trained network: found by name, filled and scaled as the training part was."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import datasets

from isograd.errors import DataError, SpecError
from isograd.nn import spec as s
from isograd.training.data import Preparation, from_arrays, load
from isograd.training.inputs import prepare_inputs, read_inputs

SOFTMAX, BINARY, SQUARED = "softmax_cross_entropy", "binary_cross_entropy", "half_squared_error"
TEXT = "width,height,kind\n" + "".join(f"{i},{i * i},{'uv'[i % 2]}\n" for i in range(20))


def trained(folder: Path, kind: str = SOFTMAX, text: str = TEXT, **data) -> Preparation:
    """The preparation of a file, through JSON as a run keeps it."""
    (folder / "train.csv").write_text(text, "utf-8")
    split = load(s.Data("train.csv", **data), loss_kind=kind, seed=0, base=folder)
    return msgspec.json.decode(msgspec.json.encode(split.preparation), type=Preparation)


def read(folder: Path, text: str, preparation: Preparation, name: str = "new.csv"):
    (folder / name).write_text(text, "utf-8")
    return read_inputs(name, preparation, dtype="float64", base=folder)


def scaled(rows, preparation: Preparation) -> np.ndarray:
    return (np.array(rows, float) - preparation.mean) / np.array(preparation.scale)


ROWS = [[3.0, 100.0], [-1.0, 0.5], [7.0, 7.0]]


@pytest.mark.parametrize(
    ("text", "y"),
    [
        ("width,height\n3,100\n-1,0.5\n7,7\n", None),
        ("height,width\n100,3\n0.5,-1\n7,7\n", None),
        ("note,height,id,width\n?,100,a,3\n,0.5,b,-1\nx,7,c,7\n", None),
        ("kind,height,width\nv,100,3\nu,0.5,-1\nv,7,7\n", [1, 0, 1]),
        ("width,height,kind\n3,100,\n-1,0.5,?\n7,7,NA\n", None),
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, text, y):
    preparation = trained(tmp_path)
    new = read(tmp_path, text, preparation)
    np.testing.assert_allclose(new.X, scaled(ROWS, preparation), rtol=1e-14)
    assert new.rows == 3
    assert (new.y if y is None else new.y.tolist()) == y


def test_the_training_rows_come_back_as_they_were(tmp_path: Path):
    """Read again from the file that they came from, in every form of the targets."""
    regression = TEXT.replace("u\n", "0.5\n").replace("v\n", "2\n")
    for kind, text in ((SOFTMAX, TEXT), (BINARY, TEXT), (SQUARED, TEXT), (SQUARED, regression)):
        (tmp_path / "train.csv").write_text(text, "utf-8")
        split = load(s.Data("train.csv"), loss_kind=kind, seed=0, base=tmp_path)
        new = read_inputs("train.csv", split.preparation, dtype="float32", base=tmp_path)
        assert new.X.dtype == np.float32
        assert new.y.dtype == split.y_train.dtype
        width = np.rint(split.X_train[:, 0] * split.scale[0] + split.mean[0]).astype(int)
        np.testing.assert_array_equal(new.X[width], split.X_train)
        np.testing.assert_array_equal(new.y[width], split.y_train)


def test_parquet_by_name(tmp_path: Path):
    preparation = trained(tmp_path)
    columns = {
        "when": pa.array([0, 1, 2], pa.date32()),  # a type that is refused where it is read
        "height": [100.0, 0.5, 7.0],
        "width": pa.array([3, -1, 7], pa.int16()),
        "kind": pa.array(["v", "u", "v"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "new.parquet")
    new = read_inputs(tmp_path / "new.parquet", preparation, dtype="float64")
    np.testing.assert_allclose(new.X, scaled(ROWS, preparation), rtol=1e-14)
    assert new.y.tolist() == [1, 0, 1]
    columns["kind"] = pa.nulls(3)
    pq.write_table(pa.table(columns), tmp_path / "new.parquet")
    assert read_inputs(tmp_path / "new.parquet", preparation, dtype="float64").y is None


def test_missing_values_of_new_rows_are_filled_from_the_training_part(tmp_path: Path):
    preparation = trained(tmp_path, missing="median")
    new = read(tmp_path, "width,height\n3,\nNA,0.5\n", preparation)
    rows = [[3, preparation.fill[1]], [preparation.fill[0], 0.5]]
    np.testing.assert_allclose(new.X, scaled(rows, preparation), rtol=1e-14)
    same = prepare_inputs([[3, np.nan], [np.nan, 0.5]], preparation, "float64")
    np.testing.assert_array_equal(same, new.X)


@pytest.mark.parametrize(
    ("text", "must", "came", "fix"),
    [
        ("Width,height\n1,1\n", "every column", "no 'width' (nearest: 'Width')", "add or rename"),
        ("w,h\n1,1\n", "every column", "no 'width', no 'height'", "add or rename"),
        ("width,height\n1,x\n", "hold numbers", "line 2 column 'height' ('x')", "write text as"),
        ("width,height\n1,inf\n", "finite", "line 2 column 'height' (inf)", "correct these"),
        ("width,height\n1,\n", "be missing", "line 2 column 'height' (nan)", "fill these cells"),
        ("width,height,kind\n1,1,u\n1,1,\n", "'kind' must be given", "line 3", "fill these"),
        (
            "width,height,kind\n1,1,u\n1,1,w\n",
            "one of the training",
            "'w' (first in line 3)",
            "u, v",
        ),
        ("width,height\n", "a header and rows", "1 rows", "one row per example"),
        ("width,width,height\n1,1,1\n", "must differ", "'width'", "a name of its own"),
    ],
)
def test_new_rows_that_cannot_be_used(tmp_path: Path, text, must, came, fix):
    preparation = trained(tmp_path)
    with pytest.raises(DataError) as caught:
        read(tmp_path, text, preparation)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == str(tmp_path / "new.csv")
    assert fix in caught.value.fix


def test_arrays_of_a_file(tmp_path: Path):
    preparation = trained(tmp_path)
    path = tmp_path / "new.npz"
    for y, wanted in (
        (None, None),
        (np.array(["v", "u", "u"]), [1, 0, 0]),
        (np.full(3, np.nan), None),
    ):
        np.savez(path, X=ROWS, **({} if y is None else {"y": y}))
        new = read_inputs(path, preparation, dtype="float64")
        np.testing.assert_allclose(new.X, scaled(ROWS, preparation), rtol=1e-14)
        assert (new.y if wanted is None else new.y.tolist()) == wanted
    np.savez(path, y=[1])
    with pytest.raises(DataError, match="must hold the array X\n  came:  no X; found: y"):
        read_inputs(path, preparation, dtype="float64")
    np.savez(path, X=np.ones((3, 5)))
    with pytest.raises(DataError, match="as many features as the network") as caught:
        read_inputs(path, preparation, dtype="float64")
    assert caught.value.came == "X of shape (3, 5) for 2 features"
    assert caught.value.where == str(path)


def test_images(tmp_path: Path):
    pixels = bytes(range(80))
    header = struct.pack(">HBBIII", 0, 8, 3, 20, 2, 2)
    (tmp_path / "x.idx.gz").write_bytes(gzip.compress(header + pixels))
    (tmp_path / "y.idx").write_bytes(struct.pack(">HBBI", 0, 8, 1, 20) + bytes([4, 9] * 10))
    data = s.Data("x.idx.gz", labels="y.idx", standardise="jointly")
    preparation = load(data, loss_kind=SOFTMAX, seed=0, base=tmp_path).preparation
    new = read_inputs("x.idx.gz", preparation, dtype="float64", base=tmp_path)
    assert new.y is None
    np.testing.assert_allclose(new.X, scaled(np.arange(80).reshape(20, 4), preparation))
    new = read_inputs("x.idx.gz", preparation, dtype="float32", base=tmp_path, labels="y.idx")
    assert new.y.tolist() == [0, 1] * 10
    with pytest.raises(DataError, match="belong to images") as caught:
        read_inputs("iris", preparation, dtype="float32", labels="y.idx")
    assert caught.value.came == "labels = 'y.idx' with 'iris'"


def test_sets_by_name(tmp_path: Path):
    split = load(s.Data("breast_cancer"), loss_kind=BINARY, seed=0)
    bunch = datasets.load_breast_cancer()
    new = read_inputs("breast_cancer", split.preparation, dtype="float64")
    np.testing.assert_allclose(new.X, scaled(bunch.data, split.preparation), rtol=1e-12)
    np.testing.assert_array_equal(new.y[:, 0], bunch.target)
    split = load(s.Data("moons", standardise=False), loss_kind=SOFTMAX, seed=4, dtype="float64")
    same = read_inputs("moons", split.preparation, dtype="float64", seed=4)
    other = read_inputs("moons", split.preparation, dtype="float64", seed=5)
    assert np.isin(split.X_train, same.X).all()
    assert not np.isin(other.X, same.X).any()
    with pytest.raises(DataError, match="as many features"):
        read_inputs("iris", split.preparation, dtype="float64")
    with pytest.raises(DataError, match=r"built-in set or a path that ends in \.npz") as caught:
        read_inputs("moon", split.preparation, dtype="float64")
    assert caught.value.fix == "did you mean 'moons'?"
    with pytest.raises(DataError, match="No such file"):
        read_inputs("no.csv", split.preparation, dtype="float64", base=tmp_path)


def test_arrays_are_prepared_as_the_test_part_was():
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20.0) ** 2
    split = from_arrays(x, y, loss_kind=SQUARED, dtype="float64")
    raw = split.X_test * split.scale + split.mean
    np.testing.assert_allclose(prepare_inputs(raw, split.preparation, "float64"), split.X_test)


@pytest.mark.parametrize(
    ("x", "must", "came"),
    [
        ([[1.0, np.inf]], "finite", "row 0 column 'height' (inf)"),
        ([[np.nan, 1.0]], "be missing", "row 0 column 'width' (nan)"),
        ([["1", "b"]], "(rows, features) numbers", "X of dtype <U1"),
        ([1.0, 2.0], "(rows, features) numbers", "X of shape (2,)"),
        ([[1.0, 2.0, 3.0]], "as many features", "X of shape (1, 3) for 2 features"),
    ],
)
def test_arrays_that_cannot_be_prepared(tmp_path: Path, x, must, came):
    preparation = trained(tmp_path)
    with pytest.raises(DataError) as caught:
        prepare_inputs(x, preparation, "float32")
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == "X"


def test_arrays_are_prepared_in_the_dtype_asked_for(tmp_path: Path):
    preparation = trained(tmp_path)
    for dtype in ("float32", "float64"):
        new = prepare_inputs(np.array(ROWS, np.int64), preparation, dtype)
        assert new.dtype == dtype
    assert prepare_inputs(np.empty((0, 2)), preparation, "float32").shape == (0, 2)
    with pytest.raises(SpecError, match="dtype must be float32 or float64"):
        prepare_inputs(ROWS, preparation, "float16")
    with pytest.raises(DataError, match="must fit float32"):
        prepare_inputs([[1e300, 1.0]], preparation, "float32")
