"""Parts, missing values, mean and scale, and the preparation that keeps what was fitted."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from isograd.errors import DataError
from isograd.nn import spec as s
from isograd.training import preparation
from isograd.training.data import Preparation, from_arrays, load

SOFTMAX, BINARY, SQUARED = "softmax_cross_entropy", "binary_cross_entropy", "half_squared_error"
RNG = np.random.default_rng(1)
X = RNG.normal(size=(60, 4)) * [1, 10, 0.1, 3] + [0, 5, -2, 1]
Y = np.arange(60) % 3
PLAIN = {"standardise": False}


def split_of(X=X, y=Y, kind: str = SOFTMAX, *, seed: int = 0, dtype: str = "float64", **data):
    return from_arrays(X, y, s.Data("arrays", **data), loss_kind=kind, seed=seed, dtype=dtype)


def rows_of(part) -> list[int]:
    """Where the rows of a part stand in X."""
    return [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in part]


# Parts -------------------------------------------------------------------------------------------


def test_without_a_validation_part_it_is_empty():
    for kind, y, shape in ((SOFTMAX, Y, (0,)), (BINARY, Y % 2, (0, 1)), (SQUARED, X, (0, 4))):
        split = split_of(y=y, kind=kind, dtype="float32")
        assert split.X_validation.shape == (0, 4)
        assert split.y_validation.shape == shape
        assert split.X_validation.dtype == np.float32
        assert split.y_validation.dtype == split.y_train.dtype


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_the_parts_are_those_of_scikit_learn(seed: int):
    """The test part of the first word of the seed's sequence; of the second, the validation."""
    split = split_of(seed=seed, validation_fraction=0.25, **PLAIN)
    first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
    rest, test = train_test_split(np.arange(60), test_size=12, random_state=first, stratify=Y)
    train, validation = train_test_split(rest, test_size=12, random_state=second, stratify=Y[rest])
    assert rows_of(split.X_train) == train.tolist()
    assert rows_of(split.X_validation) == validation.tolist()
    assert rows_of(split.X_test) == test.tolist()
    for x, y in ((train, split.y_train), (validation, split.y_validation), (test, split.y_test)):
        np.testing.assert_array_equal(y, Y[x])


@pytest.mark.parametrize("stratify", [True, False])
def test_a_validation_part_leaves_the_test_rows_alone(stratify):
    without = split_of(stratify=stratify, **PLAIN)
    for fraction in (0.1, 0.5):
        split = split_of(stratify=stratify, validation_fraction=fraction, **PLAIN)
        np.testing.assert_array_equal(split.X_test, without.X_test)
        np.testing.assert_array_equal(split.y_test, without.y_test)
        assert len(split.X_validation) == np.ceil(fraction * len(without.X_train))
        parts = [rows_of(part) for part in (split.X_train, split.X_validation, split.X_test)]
        assert sorted(np.concatenate(parts)) == list(range(60))
        if stratify:
            assert np.ptp(np.bincount(split.y_validation)) <= 1


def test_the_validation_part_fits_nothing():
    split = split_of(validation_fraction=0.25)
    plain = split_of(validation_fraction=0.25, **PLAIN)
    np.testing.assert_allclose(split.mean, plain.X_train.mean(axis=0), rtol=1e-12)
    for part in ("X_train", "X_validation", "X_test"):
        scaled = (getattr(plain, part) - split.mean) / split.scale
        np.testing.assert_allclose(getattr(split, part), scaled, rtol=1e-12)


@pytest.mark.parametrize(
    ("rows", "data", "must", "came"),
    [
        (10, {"validation_fraction": 0.9}, "the validation part", "0 and 8, with validation_fra"),
        (10, {"validation_fraction": 0.1}, "the validation part", "7 and 1, with validation_fra"),
        (5, {"validation_fraction": 0.5, "test_fraction": 0.4}, "validation part", "1 and 2, with"),
        (5, {}, "the test part must hold 2 rows each", "4 and 1, with test_fraction = 0.2"),
    ],
)
def test_parts_that_would_be_empty(rows, data, must, came):
    with pytest.raises(DataError) as caught:
        split_of(X[:rows], Y[:rows] % 2, **data)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == "arrays"
    assert "give more rows or another" in caught.value.fix


# Mean and scale ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_jointly_takes_one_mean_and_one_scale(dtype):
    """As for images: 0…255, with columns that are always 0."""
    x = RNG.integers(0, 256, (60, 5)).astype(dtype)
    x[:, 2] = 0
    plain = split_of(x, **PLAIN)
    split = split_of(x, standardise="jointly")
    whole = plain.X_train
    np.testing.assert_allclose(split.mean, np.full(5, whole.mean()), rtol=1e-12)
    np.testing.assert_allclose(split.scale, np.full(5, whole.std()), rtol=1e-12)
    np.testing.assert_allclose(
        split.X_test, (plain.X_test - whole.mean()) / whole.std(), rtol=1e-12, atol=1e-15
    )


def test_jointly_leaves_targets_to_their_own():
    y = np.column_stack([X[:, 0], 100 * X[:, 1]])
    split = split_of(y=y, kind=SQUARED, standardise="jointly")
    plain = split_of(y=y, kind=SQUARED, **PLAIN)
    np.testing.assert_allclose(split.y_mean, plain.y_train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(split.y_scale, plain.y_train.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("standardise", [True, "jointly"])
def test_constant_columns_become_0(standardise):
    split = split_of(np.full((60, 2), 5.0), standardise=standardise)
    np.testing.assert_array_equal(split.X_train, 0)
    np.testing.assert_array_equal(split.X_test, 0)
    np.testing.assert_array_equal(split.scale, 1)


@pytest.mark.parametrize("standardise", [True, "jointly", False])
def test_blocks_change_nothing(standardise, monkeypatch: pytest.MonkeyPatch):
    whole = split_of(standardise=standardise, missing="mean")
    monkeypatch.setattr(preparation, "_BLOCK", 4 * 7)  # seven rows at a time
    parts = split_of(standardise=standardise, missing="mean")
    np.testing.assert_allclose(parts.X_train, whole.X_train, rtol=1e-12)
    np.testing.assert_allclose(parts.X_test, whole.X_test, rtol=1e-12)


def test_extended_precision_beyond_float64():
    x = X.astype(np.longdouble)
    x[3, 1] = np.longdouble("1e400")
    with pytest.raises(DataError, match="finite") as caught:
        split_of(x)
    assert caught.value.came == "row 3 column 'x1' (inf)"


def test_an_outlier_of_the_test_part_that_does_not_fit():
    x = X.copy()
    x[rows_of(split_of(**PLAIN).X_test)[0], 2] = 1e300
    with pytest.raises(DataError, match="must fit float32") as caught:
        split_of(x, dtype="float32")
    assert caught.value.came == "values up to 1e+300"


# Missing values ----------------------------------------------------------------------------------

HOLES = X.copy()
HOLES[RNG.random(X.shape) < 0.2] = np.nan


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("missing", ["mean", "median"])
def test_filled_and_standardised_as_by_scikit_learn(missing, dtype):
    """The references are fitted on the training rows alone: those of the split without holes."""
    full = split_of(validation_fraction=0.2, **PLAIN)
    train, validation, test = map(rows_of, (full.X_train, full.X_validation, full.X_test))
    split = split_of(HOLES.astype(dtype), missing=missing, validation_fraction=0.2)
    holes = HOLES.astype(dtype).astype(np.float64)
    reference = make_pipeline(SimpleImputer(strategy=missing), StandardScaler()).fit(holes[train])
    fill = reference[0].statistics_
    np.testing.assert_allclose(split.preparation.fill, fill, rtol=1e-12)
    np.testing.assert_allclose(split.scale, reference[1].scale_, rtol=1e-12)
    for part, rows in (("train", train), ("validation", validation), ("test", test)):
        filled = reference.transform(holes[rows])
        np.testing.assert_allclose(getattr(split, f"X_{part}"), filled, rtol=1e-10, atol=1e-12)


def test_without_holes_there_is_a_fill_for_new_rows():
    assert split_of().preparation.fill is None
    split = split_of(X.astype(int), missing="median")
    median = np.median(split.X_train * split.scale + split.mean, axis=0)
    np.testing.assert_allclose(split.preparation.fill, median, atol=1e-12)


def test_rows_with_holes_are_dropped():
    split = split_of(HOLES, missing="drop", **PLAIN)
    whole = ~np.isnan(HOLES).any(axis=1)
    seen = np.concatenate([split.X_train, split.X_test])
    assert sorted(rows_of(seen)) == np.flatnonzero(whole).tolist()
    labels = np.concatenate([split.y_train, split.y_test])
    np.testing.assert_array_equal(labels, Y[rows_of(seen)])
    assert split.preparation.fill is None


def test_dropped_rows_keep_their_lines(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,0\n,1\n3,0.5\n4,1\n", "utf-8")
    data = s.Data("a.csv", missing="drop")
    with pytest.raises(DataError, match="whole numbers") as caught:
        load(data, loss_kind=SOFTMAX, seed=0, base=tmp_path)
    assert caught.value.came == "line 4 (0.5)"


@pytest.mark.parametrize("missing", ["mean", "median"])
def test_a_file_with_holes_is_filled(tmp_path, missing):
    text = "a,b,y\n" + "".join(f"{i if i % 4 else ''},{i % 3},{'uv'[i % 2]}\n" for i in range(20))
    (tmp_path / "a.csv").write_text(text, "utf-8")
    data = s.Data("a.csv", missing=missing, standardise=False)
    split = load(data, loss_kind=SOFTMAX, seed=0, base=tmp_path, dtype="float64")
    (fill, _), column = split.preparation.fill, split.X_train[:, 0]
    given_values = column[column != fill]
    assert fill == pytest.approx(getattr(np, missing)(given_values))
    assert (np.concatenate([column, split.X_test[:, 0]]) == fill).sum() >= 5


NO_TRAINING = HOLES.copy()
NO_TRAINING[:, 1] = np.nan


@pytest.mark.parametrize(
    ("x", "missing", "must", "came", "fix"),
    [
        (HOLES, "refuse", "no feature may be missing", "column 'x", 'missing = "mean"'),
        (NO_TRAINING, "mean", "to be filled with its mean", "'x1'", "remove these columns"),
        (NO_TRAINING, "median", "to be filled with its median", "'x1'", "remove these columns"),
        (NO_TRAINING, "drop", "a row without missing", "all 60 rows", 'missing = "mean" or'),
        (np.where(np.isnan(HOLES), np.inf, X), "mean", "finite", "(inf)", "correct these cells"),
        (np.where(np.isnan(HOLES), -np.inf, X), "drop", "finite", "(-inf)", "correct these cells"),
        (
            np.where(X.mean(0) < X, 1.7e308, np.nan),
            "mean",
            "finite mean",
            "up to 1.7e+308",
            "divide",
        ),
    ],
)
def test_missing_values_that_stay_missing(x, missing, must, came, fix):
    with pytest.raises(DataError) as caught:
        split_of(x, missing=missing)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == "arrays"
    assert fix in caught.value.fix


def test_a_missing_target_is_never_filled():
    y = Y.astype(float)
    y[[3, 5]] = np.nan
    for missing in ("refuse", "mean", "median", "drop"):
        for kind in (SOFTMAX, SQUARED):
            with pytest.raises(DataError, match="target must be given in every row") as caught:
                split_of(y=y, kind=kind, missing=missing)
            assert caught.value.came == "row 3, row 5"


# What is kept ------------------------------------------------------------------------------------

floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text("aé'\"\\\n雪", max_size=5)


@settings(max_examples=40)
@given(arrays(np.float64, (4, 3), elements=floats), st.booleans(), texts)
def test_a_preparation_comes_back_from_json_as_it_was(numbers, classes, name):
    mean, scale, fill, other = map(tuple, numbers.tolist())
    kept = Preparation(
        task="classes" if classes else "regression",
        features=(name, "b", "c"),
        mean=mean,
        scale=scale,
        classes=(name, "'") if classes else None,
        y_mean=None if classes else other,
        y_scale=None if classes else other,
        fill=fill,
        target=name,
    )
    back = msgspec.json.decode(msgspec.json.encode(kept), type=Preparation)
    assert back == kept
    assert np.array(back.mean).tobytes() == np.array(mean).tobytes()  # −0 too


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.0]},
        {"scale": [1.0] * 5},
        {"fill": [1.0]},
        {"classes": None},
        {"task": "regression"},
        {"y_mean": [0.0]},
        {"task": "clusters"},
        {"median": 3},
        {"features": [1, 2, 3, 4]},
    ],
)
def test_a_damaged_preparation_is_refused(change):
    content = msgspec.to_builtins(split_of().preparation)
    damaged = msgspec.json.encode({**content, **change})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(damaged, type=Preparation)


def test_the_digest_tells_data_apart():
    """Every array, its shape and dtype, and the preparation count; nothing else does."""
    split = split_of(validation_fraction=0.25)
    assert split.digest() == split_of(validation_fraction=0.25).digest()
    assert len(split.digest()) == 64
    others = {}
    for part in ("train", "validation", "test"):
        for name in (f"X_{part}", f"y_{part}"):
            array = getattr(split, name)
            changed = array.copy()
            changed.flat[-1] = -changed.flat[-1] - 1
            others[name] = replace(split, **{name: changed})
            others[f"{name} dtype"] = replace(split, **{name: array.view(np.uint64)})
            others[f"{name} shape"] = replace(split, **{name: array.reshape(-1, 1)})
    others["parts"] = replace(split, X_train=split.X_test, X_test=split.X_train)
    kept = msgspec.structs.replace(split.preparation, mean=(9.0,) * 4)
    others["mean"] = replace(split, preparation=kept)
    digests = {name: other.digest() for name, other in others.items()}
    assert len({*digests.values(), split.digest()}) == len(digests) + 1
    order = replace(split, X_train=np.asfortranarray(split.X_train))
    assert order.digest() == split.digest()
    assert split_of().digest() != split_of(seed=1).digest()  # empty validation parts too
