"""Data: built-in sets, arrays, targets of each loss, splits, standardisation and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import as_rows, both
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from isograd.errors import DataError, SpecError
from isograd.nn import spec as s
from isograd.training.data import batches, from_arrays, load

SOFTMAX, BINARY, SQUARED = "softmax_cross_entropy", "binary_cross_entropy", "half_squared_error"

# Built-in sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", s.BUILT_IN_DATA)
def test_a_built_in_set_holds_the_rows_of_scikit_learn(name):
    data = s.Data(name, standardise=False)
    kind = SQUARED if name == "diabetes" else SOFTMAX
    split = load(data, loss_kind=kind, seed=0, dtype="float64")
    bunch = getattr(datasets, f"load_{name}")()
    np.testing.assert_array_equal(as_rows(*both(split)), as_rows(bunch.data, bunch.target))
    assert len(split.X_test) == -(-len(bunch.data) // 5)
    assert split.features == tuple(bunch.feature_names)
    if name == "diabetes":
        assert (split.task, split.classes) == ("regression", None)
        assert split.y_train.shape == (len(split.X_train), 1)
        np.testing.assert_array_equal(split.y_mean, [0.0])
        np.testing.assert_array_equal(split.y_scale, [1.0])
    else:
        assert (split.task, split.y_mean, split.y_scale) == ("classes", None, None)
        assert split.classes == tuple(map(str, bunch.target_names))
        assert split.y_train.dtype == np.int64
    np.testing.assert_array_equal(split.mean, np.zeros(bunch.data.shape[1]))
    np.testing.assert_array_equal(split.scale, np.ones(bunch.data.shape[1]))


def test_standardised_on_the_training_part_alone():
    raw = load(s.Data("digits", standardise=False), loss_kind=SOFTMAX, seed=3, dtype="float64")
    split = load(s.Data("digits"), loss_kind=SOFTMAX, seed=3, dtype="float64")
    mean, deviation = raw.X_train.mean(axis=0), raw.X_train.std(axis=0)
    deviation[deviation == 0] = 1  # pixels that are always black
    np.testing.assert_allclose(split.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(split.scale, deviation, rtol=1e-12)
    np.testing.assert_allclose(split.X_train, (raw.X_train - mean) / deviation, atol=1e-12)
    np.testing.assert_allclose(split.X_test, (raw.X_test - mean) / deviation, atol=1e-12)
    assert (deviation == 1).any()
    whole = both(raw)[0]
    assert np.abs(split.mean - whole.mean(axis=0)).max() > 1e-3


def test_the_target_of_a_regression_is_standardised_too():
    raw = load(s.Data("diabetes", standardise=False), loss_kind=SQUARED, seed=1, dtype="float64")
    split = load(s.Data("diabetes"), loss_kind=s.HalfSquaredError(), seed=1, dtype="float64")
    np.testing.assert_allclose(split.y_mean, raw.y_train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(split.y_scale, raw.y_train.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(split.y_test * split.y_scale + split.y_mean, raw.y_test, rtol=1e-12)


def test_targets_of_each_loss():
    labels = load(s.Data("breast_cancer"), loss_kind=SOFTMAX, seed=0)
    binary = load(s.Data("breast_cancer"), loss_kind=BINARY, seed=0)
    one_hot = load(s.Data("breast_cancer"), loss_kind=SQUARED, seed=0)
    n = len(labels.y_train)
    assert [split.task for split in (labels, binary, one_hot)] == ["classes", "binary", "classes"]
    assert [split.y_train.shape for split in (labels, binary, one_hot)] == [(n,), (n, 1), (n, 2)]
    assert binary.y_train.dtype == one_hot.y_train.dtype == np.float32
    np.testing.assert_array_equal(binary.y_train[:, 0], labels.y_train)
    np.testing.assert_array_equal(one_hot.y_train[:, 1], labels.y_train)
    np.testing.assert_array_equal(one_hot.y_train.sum(axis=1), np.ones(n))
    assert one_hot.y_mean is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype(dtype):
    split = load(s.Data("iris"), loss_kind=BINARY.replace("binary", "softmax"), seed=0, dtype=dtype)
    assert split.X_train.dtype == split.X_test.dtype == dtype


def test_a_seed_gives_one_split_and_another_gives_another():
    one, same, other = (load(s.Data("wine"), loss_kind=SOFTMAX, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.X_train, same.X_train)
    assert not np.array_equal(one.y_test, other.y_test)
    assert load(s.Data("iris"), loss_kind=SOFTMAX, seed=2**63 - 1)


def test_strata_keep_the_shares_of_the_classes():
    def shares(data):
        splits = (load(data, loss_kind=SOFTMAX, seed=seed) for seed in range(4))
        return {tuple(np.bincount(split.y_test).tolist()) for split in splits}

    assert shares(s.Data("iris")) == {(10, 10, 10)}
    assert len(shares(s.Data("iris", stratify=False))) > 1


def test_what_cannot_be_stratified_is_split_without():
    y = ["a"] * 9 + ["b"]  # one member
    assert len(from_arrays(np.eye(10), y, loss_kind=SOFTMAX).y_test) == 2
    y = [0, 1, 2, 3, 4] * 2  # five classes, two rows
    assert len(from_arrays(np.eye(10), y, loss_kind=SOFTMAX).y_test) == 2


# Arrays ------------------------------------------------------------------------------------------

X = np.arange(20.0).reshape(10, 2)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([3, 7] * 5, ("3", "7")),
        ([-1, 1] * 5, ("-1", "1")),
        ([10, 9] * 5, ("9", "10")),
        ([0.0, 2.0] * 5, ("0", "2")),
        ([False, True] * 5, ("False", "True")),
        (["b", "a"] * 5, ("a", "b")),
        (np.array(["b", "a"] * 5, dtype=object), ("a", "b")),
        (np.array([1, 0] * 5)[:, None], ("0", "1")),
    ],
)
def test_labels_are_sorted_and_kept_as_classes(y, classes):
    data = s.Data("arrays", standardise=False)
    for kind in (SOFTMAX, BINARY):
        split = from_arrays(X, y, data, loss_kind=kind)
        assert split.classes == classes
        rows, labels = both(split)
        given_label = np.asarray(y).reshape(-1)[(rows[:, 0] // 2).astype(int)]
        expected = [classes.index(str(label).removesuffix(".0")) for label in given_label]
        np.testing.assert_array_equal(labels.reshape(-1), expected)
    assert split.features == ("x0", "x1")


def test_text_labels_with_half_squared_error_become_one_hot():
    split = from_arrays(X, ["b", "a"] * 5, loss_kind=SQUARED)
    assert (split.task, split.classes, split.y_train.shape) == ("classes", ("a", "b"), (8, 2))


def test_targets_of_several_columns():
    y = np.column_stack([X[:, 0], 100 * X[:, 1] + 7])
    split = from_arrays(X, y, loss_kind=SQUARED, dtype="float64", features=["p", "q"])
    assert (split.task, split.y_train.shape, split.features) == ("regression", (8, 2), ("p", "q"))
    back = both(split)[1] * split.y_scale + split.y_mean
    np.testing.assert_allclose(back[np.argsort(back[:, 0])], y, atol=1e-9)


def test_whole_numbers_with_half_squared_error_stay_a_regression():
    data = s.Data("arrays", standardise=False)
    split = from_arrays(X, [3, 5] * 5, data, loss_kind=SQUARED)
    assert (split.task, split.classes) == ("regression", None)
    assert set(split.y_train.flat) == {3.0, 5.0}


BAD = X.copy()
BAD[4, 1], BAD[7, 0] = np.nan, -np.inf
LABELS = [0, 1] * 5


@pytest.mark.parametrize(
    ("X", "y", "kind", "must", "came"),
    [
        (BAD, LABELS, SOFTMAX, "finite", "row 7 column 'x0' (-inf)"),
        (np.where(np.isinf(BAD), 0, BAD), LABELS, SOFTMAX, "be missing", "row 4 column 'x1' (nan)"),
        (np.full((10, 2), np.nan), LABELS, SOFTMAX, "be missing", "… 20 in all"),
        (X, [np.nan, *LABELS[1:]], SOFTMAX, "the target must be given", "row 0"),
        (X, [np.inf, *LABELS[1:]], SQUARED, "finite", "row 0 column 'target' (inf)"),
        (X[:, 0], LABELS, SOFTMAX, "(rows, features)", "X of shape (10,)"),
        (X.reshape(5, 2, 2), LABELS[:5], SOFTMAX, "(rows, features)", "(5, 2, 2)"),
        (X[:, :0], LABELS, SOFTMAX, "(rows, features)", "(10, 0)"),
        (X[:0], [], SOFTMAX, "(rows, features)", "(0, 2)"),
        (3.0, 4.0, SOFTMAX, "(rows, features)", "X of shape ()"),
        (X.astype(str), LABELS, SOFTMAX, "(rows, features)", "dtype <U"),
        (X + 1j, LABELS, SOFTMAX, "(rows, features)", "complex128"),
        (X, LABELS[:9], SOFTMAX, "one target per row", "y of shape (9,)"),
        (X, [None, *LABELS[1:]], SOFTMAX, "one target per row", "dtype object"),
        (X, np.eye(10), BINARY, "one label per row", "(10, 10)"),
        (X, [0.5, *LABELS[1:]], SOFTMAX, "whole numbers or text", "row 0 (0.5)"),
        (X, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0], BINARY, "two classes", "3: 0, 1, 2"),
        (X, [0] * 10, BINARY, "two classes", "1: 0"),
        (X, [0] * 10, SOFTMAX, "two classes", "1: 0"),
        (X, np.arange(10), SOFTMAX, "share a class", "10: 0, 1, 2, 3, 4, … 10 in all"),
        (X, ["1", "2", *["b"] * 8], SQUARED, "all numbers or all text", "row 2 ('b')"),
        (X[:4], LABELS[:4], SOFTMAX, "2 rows each", "3 and 1"),
        (X * 9e306, LABELS, SOFTMAX, "finite mean and variance", "values up to 1.71e+308"),
    ],
)
def test_arrays_that_cannot_be_used(X, y, kind, must, came):
    with pytest.raises(DataError) as caught:
        from_arrays(X, y, loss_kind=kind)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == "arrays"
    assert caught.value.fix


def test_values_that_do_not_fit_float32():
    data = s.Data("arrays", standardise=False)
    with pytest.raises(DataError, match="must fit float32") as caught:
        from_arrays(X * 1e300, LABELS, data, loss_kind=SOFTMAX)
    assert "values up to 1.9e+301" in caught.value.came
    split = from_arrays(X * 1e300, LABELS, data, loss_kind=SOFTMAX, dtype="float64")
    assert split.X_train.max() > 1e300
    assert from_arrays(X * 1e150, LABELS, loss_kind=SOFTMAX).X_train.max() < 3


def test_arrays_have_names_for_their_columns():
    with pytest.raises(DataError, match="1 names for 2 features"):
        from_arrays(X, LABELS, loss_kind=SOFTMAX, features=["p"])


def test_what_load_refuses(tmp_path: Path):
    with pytest.raises(DataError, match="handed over by the program"):
        load(s.Data("arrays"), loss_kind=SOFTMAX, seed=0)
    with pytest.raises(DataError, match="must be classes for softmax_cross_entropy"):
        load(s.Data("diabetes"), loss_kind=SOFTMAX, seed=0)
    with pytest.raises(DataError, match="needs two classes\n  came:  10: 0, 1, 2, 3, 4, … 10"):
        load(s.Data("digits"), loss_kind=BINARY, seed=0)
    with pytest.raises(SpecError, match="did you mean 'softmax_cross_entropy'"):
        load(s.Data("digits"), loss_kind="softmax_crossentropy", seed=0)
    with pytest.raises(SpecError, match="dtype must be float32 or float64"):
        load(s.Data("digits"), loss_kind=SOFTMAX, seed=0, dtype="int64")
    for name in ("no.csv", "no.npz"):
        with pytest.raises(DataError, match="No such file") as caught:
            load(s.Data(name), loss_kind=SOFTMAX, seed=0, base=tmp_path)
        assert caught.value.where == str(tmp_path / name)
        assert "starts from the folder of the spec" in caught.value.fix


# Batches -----------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.data())
def test_batches_are_whole_and_hold_no_row_twice(n, data):
    size = data.draw(st.integers(1, n))
    rows = batches(n, size, np.random.default_rng(0))
    assert rows.shape == (n // size, size)
    assert rows.dtype == np.int64
    assert len(set(rows.ravel().tolist())) == rows.size
    assert set(rows.ravel().tolist()) <= set(range(n))


def test_batches_are_shuffled_by_the_generator():
    rng = np.random.default_rng(7)
    first, second = (batches(50, 50, rng)[0] for _ in range(2))
    again = batches(50, 50, np.random.default_rng(7))[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(50))
    # The rows left over differ from epoch to epoch, so none is left out for good.
    rng = np.random.default_rng(0)
    seen = [batches(10, 8, rng)[0] for _ in range(20)]
    assert set(np.concatenate(seen).tolist()) == set(range(10))


@pytest.mark.parametrize(("n", "size"), [(10, 11), (10, 0), (0, 1)])
def test_a_batch_must_fit_the_data(n, size):
    with pytest.raises(SpecError, match="larger than the training part") as caught:
        batches(n, size, np.random.default_rng(0))
    assert caught.value.came == f"batch_size = {size} with {n} training rows"
    assert caught.value.where == "training.batch_size"
