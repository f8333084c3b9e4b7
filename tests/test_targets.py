"""Targets: what each loss takes, soft labels, and labels of files that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from isograd.errors import DataError, SpecError
from isograd.nn import spec as s
from isograd.training.data import from_arrays, load
from isograd.training.targets import TASKS

SOFTMAX, BINARY, SQUARED = "softmax_cross_entropy", "binary_cross_entropy", "half_squared_error"
X = np.arange(40.0).reshape(20, 2)
PLAIN = s.Data("arrays", standardise=False)


def rows_of(X) -> np.ndarray:
    """Which rows of X a part holds."""
    return (X[:, 0] / 2).astype(int)


def test_every_loss_says_what_it_takes():
    assert set(TASKS) == set(s.kinds(s.Loss))


@pytest.mark.parametrize("loss", [s.HalfSquaredError(), s.MeanSquaredError(), s.Huber(delta=2.0)])
def test_losses_of_a_regression_take_the_same_targets(loss):
    y = np.column_stack([X[:, 0] ** 2, -X[:, 1]])
    split = from_arrays(X, y, loss_kind=loss, dtype="float64")
    assert (split.task, split.classes) == ("regression", None)
    back = split.y_train * split.y_scale + split.y_mean
    raw = split.X_train * split.scale + split.mean
    np.testing.assert_allclose(back, y[rows_of(raw + 1e-6)], atol=1e-9)
    text = from_arrays(X, ["b", "a"] * 10, PLAIN, loss_kind=loss)
    assert (text.task, text.classes, text.y_mean) == ("classes", ("a", "b"), None)
    np.testing.assert_array_equal(text.y_train, np.eye(2)[1 - rows_of(text.X_train) % 2])
    assert text.y_train.dtype == np.float32


@pytest.mark.parametrize("inputs", ["logits", "probabilities"])
def test_both_forms_of_the_binary_loss_take_the_same_targets(inputs):
    split = from_arrays(X, [7, -1] * 10, PLAIN, loss_kind=s.BinaryCrossEntropy(inputs=inputs))
    assert (split.task, split.classes) == ("binary", ("-1", "7"))
    np.testing.assert_array_equal(split.y_train[:, 0], 1 - rows_of(split.X_train) % 2)


# Soft labels -------------------------------------------------------------------------------------

SHARES = softmax(np.random.default_rng(0).normal(size=(20, 3)), axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_soft_labels_stay_as_they_are(dtype):
    split = from_arrays(X, SHARES, PLAIN, loss_kind=SOFTMAX, dtype=dtype)
    assert (split.task, split.classes) == ("classes", ("0", "1", "2"))
    assert split.preparation.one_hot
    assert split.y_train.dtype == dtype
    for x, y in ((split.X_train, split.y_train), (split.X_test, split.y_test)):
        np.testing.assert_array_equal(y, SHARES[rows_of(x)].astype(dtype))


def test_soft_labels_are_stratified_by_the_largest_share():
    y = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.45, 0.55]] * 5)
    data = s.Data("arrays", test_fraction=0.4, validation_fraction=1 / 3)
    for seed in range(5):
        split = from_arrays(X, y, data, loss_kind=SOFTMAX, seed=seed)
        assert np.bincount(split.y_test.argmax(1)).tolist() == [2, 6]
        assert np.bincount(split.y_validation.argmax(1)).tolist() == [1, 3]


def test_one_hot_rows_of_whole_numbers_are_soft_labels_too():
    y = np.eye(2, dtype=int)[[0, 1] * 10]
    split = from_arrays(X, y, PLAIN, loss_kind=SOFTMAX)
    np.testing.assert_array_equal(split.y_train, y[rows_of(split.X_train)])


@pytest.mark.parametrize(
    ("row", "came"),
    [
        ([0.5, 0.3, 0.3], "row 4 (sum 1.1, least 0.3)"),
        ([0.5, 0.5, 2e-6], "row 4 (sum 1.000002, least 2e-06)"),
        ([1.2, -0.2, 0.0], "row 4 (sum 1, least -0.2)"),
    ],
)
def test_soft_labels_must_be_shares(row, came):
    y = SHARES.copy()
    y[4] = row
    with pytest.raises(DataError, match="shares of the classes: at least 0, with sum 1") as caught:
        from_arrays(X, y, loss_kind=SOFTMAX)
    assert caught.value.came == came
    assert caught.value.where == "arrays"
    assert "divide each row by its sum" in caught.value.fix
    y[4] = [0.5, 0.5, 5e-7]
    from_arrays(X, y, loss_kind=SOFTMAX)


def test_missing_and_infinite_soft_labels():
    for value, must, came in (
        (np.nan, "the target must be given", "row 4"),
        (np.inf, "finite", "row 4 column 'target'"),
    ):
        y = SHARES.copy()
        y[4, 1] = value
        with pytest.raises(DataError, match=must) as caught:
            from_arrays(X, y, loss_kind=SOFTMAX)
        assert came in caught.value.came


def test_free_text_does_not_become_a_column_per_row():
    """Twenty thousand rows of as many texts, but for one: 3 GB of zeros."""
    y = np.array([f"text {i}" for i in range(19_999)] + ["text 0"], object)
    with pytest.raises(DataError, match="classes as columns of 0 and 1") as caught:
        from_arrays(np.ones((20_000, 1)), y, loss_kind=SQUARED)
    assert caught.value.came == "20000 rows of 19999 classes"
    assert caught.value.fix.startswith("use softmax_cross_entropy")


# Weights -----------------------------------------------------------------------------------------


def test_one_weight_per_class():
    from_arrays(X, [0, 1] * 10, loss_kind=s.SoftmaxCrossEntropy(class_weights=(1, 2)))
    with pytest.raises(SpecError, match="one weight per class") as caught:
        from_arrays(X, ["b", "a"] * 10, loss_kind=s.SoftmaxCrossEntropy(class_weights=(1, 2, 3)))
    assert caught.value.came == "3 weights for 2 classes: a, b"
    assert caught.value.where == "network.loss.class_weights"
    assert caught.value.fix == "give 2 weights, in the order of the classes"


# A test file beside the source -------------------------------------------------------------------


def two_files(tmp_path: Path, train: str, test: str, kind: str = SOFTMAX, **data):
    (tmp_path / "train.csv").write_text(train, "utf-8")
    (tmp_path / "test.csv").write_text(test, "utf-8")
    spec = s.Data("train.csv", test="test.csv", **data)
    return load(spec, loss_kind=kind, seed=0, base=tmp_path, dtype="float64")


TRAIN = "a,b,y\n1,10,u\n2,20,v\n3,30,u\n4,40,v\n"


def test_a_test_file_is_read_by_the_names_of_its_columns(tmp_path: Path):
    test = "extra,y,b,a\nx,v,25,2.5\n?,u,100,10\n"
    split = two_files(tmp_path, TRAIN, test, standardise=False)
    np.testing.assert_array_equal(split.X_train, [[1, 10], [2, 20], [3, 30], [4, 40]])
    np.testing.assert_array_equal(split.X_test, [[2.5, 25], [10, 100]])
    np.testing.assert_array_equal(split.y_test, [1, 0])
    assert split.X_validation.shape == (0, 2)
    scaled = two_files(tmp_path, TRAIN, test)
    deviation = np.std([1, 2, 3, 4])
    np.testing.assert_allclose(scaled.X_test[:, 0], (np.array([2.5, 10]) - 2.5) / deviation)


def test_a_test_file_and_a_validation_part(tmp_path: Path):
    train = "a,y\n" + "".join(f"{i},{'uv'[i % 2]}\n" for i in range(20))
    split = two_files(
        tmp_path,
        train,
        "a,y\n99,u\n",
        validation_fraction=0.3,
        standardise=False,
        test_fraction=0.9,
    )
    assert [len(part) for part in (split.X_train, split.X_validation, split.X_test)] == [14, 6, 1]
    assert np.bincount(split.y_validation).tolist() == [3, 3]
    seen = np.concatenate([split.X_train, split.X_validation])[:, 0]
    np.testing.assert_array_equal(np.sort(seen), np.arange(20.0))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("10 9.0 2 10", "2 9 10.0"),  # numbers: by value, whatever they look like
        ("10 9 b 10", "9 b 10"),  # text for a letter among them; a file without one has numbers
        ("10 9 b 10", "9 9.0 10"),
    ],
)
def test_labels_are_the_same_in_both_files(tmp_path: Path, train, test):
    def text(labels):
        return "a,y\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels.split()))

    split = two_files(tmp_path, text(train), text(test))
    named = [split.classes[i] for i in split.y_test]
    assert named == [label.removesuffix(".0") for label in test.split()]


@pytest.mark.parametrize(
    ("test", "kind", "must", "came"),
    [
        (
            "a,b,y\n1,1,u\n1,1,w\n1,1,w\n1,1,t\n",
            SOFTMAX,
            "one of the training data's",
            "'t' (first",
        ),
        (
            "a,b,y\n1,1,u\n1,1,w\n1,1,w\n",
            BINARY,
            "one of the training data's",
            "'w' (first in line 3)",
        ),
        ("a,b,y\n1,1,u\n1,1,w\n", SQUARED, "one of the training data's", "'w' (first in line 3)"),
        ("a,b,y\n1,1,0\n", SOFTMAX, "one of the training data's", "'0' (first in line 2)"),
        ("a,c,y\n1,1,u\n", SOFTMAX, "every column that the network", "no 'b'"),
        ("a,b,yz\n1,1,u\n", SOFTMAX, "every column that the network", "no 'y' (nearest: 'yz')"),
        ("a,b,y\n1,x,u\n", SOFTMAX, "must hold numbers", "line 2 column 'b' ('x')"),
        ("a,b,y\n1,,u\n", SOFTMAX, "be missing", "line 2 column 'b' (nan)"),
        ("a,b,y\n1,1,\n", SOFTMAX, "'y' must be given", "line 2"),
        ("a,b,y\n1,inf,u\n", SOFTMAX, "finite", "line 2 column 'b' (inf)"),
    ],
)
def test_test_files_that_do_not_fit(tmp_path: Path, test, kind, must, came):
    with pytest.raises(DataError) as caught:
        two_files(tmp_path, TRAIN, test, kind)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == str(tmp_path / "test.csv")
    assert caught.value.fix


def test_a_regression_with_text_in_the_test_file(tmp_path: Path):
    with pytest.raises(DataError, match="targets must be numbers") as caught:
        two_files(tmp_path, "a,y\n1,1\n2,2\n3,3\n", "a,y\n1,1\n2,u\n", SQUARED)
    assert caught.value.came == "text"


def test_arrays_of_another_shape_in_the_test_file(tmp_path: Path):
    def write(name, X, y):
        np.savez(tmp_path / name, X=X, y=y)

    def run(kind):
        spec = s.Data("train.npz", test="test.npz")
        return load(spec, loss_kind=kind, seed=0, base=tmp_path)

    y = [0, 1] * 10
    write("train.npz", X, y)
    write("test.npz", X[:, :1], y)
    with pytest.raises(DataError, match="features of the training file") as caught:
        run(SOFTMAX)
    assert caught.value.came == "1 features, not 2"
    write("test.npz", X[:5], y[:5])
    assert run(SOFTMAX).X_test.shape == (5, 2)
    write("test.npz", X[:5], np.ones((5, 3)))
    with pytest.raises(DataError, match="as many per row") as caught:
        run(SQUARED)
    assert caught.value.came == "3 per row, not 1"
    write("train.npz", X, SHARES)
    write("test.npz", X[:5], SHARES[:5, :1] / SHARES[:5, :1] * [0.5, 0.5])
    with pytest.raises(DataError, match="as many classes") as caught:
        run(SOFTMAX)
    assert caught.value.came == "2, not 3"
    write("test.npz", X[:3], [2, 0, 1])
    np.testing.assert_array_equal(run(SOFTMAX).y_test, np.eye(3)[[2, 0, 1]])


def test_arrays_of_strings_of_python_and_of_numpy(tmp_path: Path):
    np.savez(tmp_path / "train.npz", X=X, y=np.array(["b", "a"] * 10))
    np.savez(tmp_path / "test.npz", X=X[:2], y=np.array(["b", "b"]))
    spec = s.Data("train.npz", test="test.npz")
    split = load(spec, loss_kind=SOFTMAX, seed=0, base=tmp_path)
    assert split.classes == ("a", "b")
    assert split.y_test.tolist() == [1, 1]
    with pytest.raises(DataError, match="one target per row") as caught:
        from_arrays(X, np.array(["b", None] * 10, object), loss_kind=SOFTMAX)
    assert caught.value.came == "y of dtype object"
