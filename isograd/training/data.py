"""Data sets: loaded by name or file, split, standardised on the training part, and batched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from isograd.errors import DataError, SpecError, nearest
from isograd.nn.checks import shown
from isograd.nn.spec import ARRAYS, BUILT_IN_DATA, Data, Loss, kinds
from isograd.training.tables import (
    Table,
    complain,
    default_names,
    number,
    read_csv,
    read_npz,
    require_finite,
    some,
)

Task: TypeAlias = Literal["classes", "binary", "regression"]
_MIN_ROWS = 2


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """A data set in two parts, ready for training.

    Args:
        X_train, X_test: (n, d) features, in the dtype of the spec.
        y_train, y_test: int64 labels (n,) for softmax_cross_entropy; 0 or 1 as floats (n, 1) for
            binary_cross_entropy; floats (n, k) for half_squared_error, one column per class
            (one-hot) where the targets are classes.
        task: what the targets are. Classes learned by half_squared_error stay "classes".
        classes: the name of each class, in the order of the labels; None for a regression. For
            "binary" the second is the one that 1 stands for.
        features: the d names.
        mean, scale: (d,) float64; a feature was (x − mean) / scale. Constant features have scale 1.
        y_mean, y_scale: (k,) float64, the same for the targets of a regression; None for classes.
    """

    X_train: NDArray[Any]
    y_train: NDArray[Any]
    X_test: NDArray[Any]
    y_test: NDArray[Any]
    task: Task
    classes: tuple[str, ...] | None
    features: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    y_mean: NDArray[np.float64] | None = None
    y_scale: NDArray[np.float64] | None = None


def load(
    data: Data,
    *,
    loss_kind: str | Loss,
    seed: int,
    dtype: DTypeLike = "float32",
    base: str | Path | None = None,
) -> Split:
    """The data that a spec names, split and standardised.

    Args:
        data: the [data] of a spec.
        loss_kind: the loss, or its kind; it decides the form of the targets.
        seed: of the spec; the same seed gives the same split.
        dtype: float32 or float64.
        base: the folder that a relative path starts from, that of the spec file; None is the
            current one.

    A class with one member, or more classes than a part has rows, cannot be stratified: such data
    are split without.

    Raises:
        DataError: data that is missing, malformed, not finite, or does not fit the loss.
    """
    kind = _kind(loss_kind)
    if data.source == ARRAYS:
        raise DataError(
            "data from arrays must be handed over by the program that made them",
            came=f"source = {ARRAYS!r}",
            fix="pass X and y to isograd.training.data.from_arrays, or name a file",
        )
    if data.source in BUILT_IN_DATA:
        table, classes = _built_in(data.source)
        if classes is None and kind != "half_squared_error":
            raise DataError(
                f"the targets must be classes for {kind}",
                came=f"{data.source}, a regression",
                fix="use half_squared_error, or another data set",
            )
        return _split(table, classes, data, kind, seed, dtype, data.source)
    path = Path(base or ".") / data.source
    csv = path.suffix.lower() == ".csv"
    table = read_csv(path, data.target) if csv else read_npz(path)
    return _split(table, None, data, kind, seed, dtype, str(path))


def from_arrays(
    X: ArrayLike,
    y: ArrayLike,
    data: Data | None = None,
    *,
    loss_kind: str | Loss,
    seed: int = 0,
    dtype: DTypeLike = "float32",
    features: Sequence[str] | None = None,
) -> Split:
    """Arrays, split and standardised as `load` does.

    Args:
        X: (n, d) numbers.
        y: (n,) labels (numbers or strings; they are sorted, and kept as `classes`), or (n,) or
            (n, k) targets of a regression.
        data: test_fraction, standardise and stratify are taken from it; None is the defaults.
        loss_kind, seed, dtype: as for `load`.
        features: the d names; None names them x0, x1, ….

    Raises:
        DataError: arrays that do not fit together, are not finite, or do not fit the loss.
    """
    X, y = np.asarray(X), np.asarray(y)
    names = default_names(X.shape[1] if X.ndim == 2 else 0)
    if features is not None:
        names = tuple(map(str, features))
    if y.dtype == object and all(isinstance(label, str) for label in y.flat):
        y = y.astype(str)
    table = Table(X, y, names)
    return _split(table, None, data or Data(ARRAYS), _kind(loss_kind), seed, dtype, "arrays")


def batches(n: int, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The rows of one epoch in shuffled batches.

    Every batch has exactly batch_size rows, so that a step can be compiled for one shape: the
    n mod batch_size rows left over at the end sit this epoch out (others do in the next).

    Args:
        n: rows in all.
        batch_size: rows per batch.
        rng: draws one permutation.

    Raises:
        SpecError: the batch is larger than the data.
    """
    if not 1 <= batch_size <= n:
        raise SpecError(
            "a batch must not be empty or larger than the training part",
            came=f"batch_size = {batch_size} with {n} training rows",
            where="training.batch_size",
            fix=f"lower it to {n} or less, or remove it" if n else "give training rows",
        )
    rows = rng.permutation(n)
    return (rows[i : i + batch_size] for i in range(0, n - batch_size + 1, batch_size))


def _kind(loss: str | Loss) -> str:
    known = kinds(Loss)
    kind = loss if isinstance(loss, str) else str(loss.__struct_config__.tag)
    if kind not in known:
        raise SpecError("the loss must be a known one", came=repr(kind), fix=nearest(kind, known))
    return kind


def _built_in(name: str) -> tuple[Table, tuple[str, ...] | None]:
    """A data set that scikit-learn ships, and the names of its classes if it has classes."""
    from sklearn import datasets  # takes a second to import: only when needed

    bunch = getattr(datasets, f"load_{name}")()
    X, y = np.asarray(bunch.data), np.asarray(bunch.target)
    table = Table(X, y, tuple(map(str, bunch.feature_names)))
    return table, tuple(map(str, bunch.target_names)) if "target_names" in bunch else None


def _split(
    table: Table,
    classes: tuple[str, ...] | None,
    data: Data,
    kind: str,
    seed: int,
    dtype: DTypeLike,
    where: str,
) -> Split:
    from sklearn.model_selection import train_test_split

    if np.dtype(dtype) not in (np.float32, np.float64):
        raise SpecError(
            "dtype must be float32 or float64", came=str(np.dtype(dtype)), where="dtype"
        )
    _require_arrays(table, where)
    table = table._replace(X=np.asarray(table.X, np.float64))
    require_finite(table, where)
    task, labels, y, classes = _targets(table, classes, kind, where)
    n = len(table.X)
    n_test = math.ceil(data.test_fraction * n)
    if min(n - n_test, n_test) < _MIN_ROWS:
        raise DataError(
            f"the training part and the test part must hold {_MIN_ROWS} rows each",
            came=f"{n - n_test} and {n_test}, with test_fraction = {data.test_fraction}",
            where=where,
            fix="give more rows or another test_fraction",
        )
    strata = labels if data.stratify and _can_stratify(labels, n_test) else None
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    train, test = train_test_split(
        np.arange(n), test_size=n_test, random_state=state, stratify=strata
    )
    X, mean, scale = _scaled(table.X, train, data.standardise, where)
    y_mean = y_scale = None
    if task == "regression":
        y, y_mean, y_scale = _scaled(y, train, data.standardise, where)
    X = _cast(X, dtype, where)
    y = y if kind == "softmax_cross_entropy" else _cast(y, dtype, where)
    return Split(
        X_train=X[train],
        y_train=y[train],
        X_test=X[test],
        y_test=y[test],
        task=task,
        classes=classes,
        features=table.features,
        mean=mean,
        scale=scale,
        y_mean=y_mean,
        y_scale=y_scale,
    )


def _require_arrays(table: Table, where: str) -> None:
    """A matrix of real numbers, as many targets as rows, as many names as columns."""
    X, y = table.X, table.y
    came, fix = "", ""
    if X.ndim != 2 or X.shape[1] == 0:
        came, fix = f"X of shape {X.shape}", "reshape it: X.reshape(len(X), -1)"
    elif X.dtype.kind not in "fiub":
        came, fix = f"X of dtype {X.dtype}", "convert it to floats"
    elif y.shape[:1] != X.shape[:1] or y.ndim > 2 or y.size == 0:
        came, fix = f"X of shape {X.shape}, y of shape {y.shape}", "give one target per row"
    elif y.dtype.kind not in "fiubU":
        came, fix = f"y of dtype {y.dtype}", "give numbers or strings"
    elif len(table.features) != X.shape[1]:
        came = f"{len(table.features)} names for {X.shape[1]} features"
        fix = "give one name per column"
    if came:
        raise DataError(
            "X must be (rows, features) numbers, with one target per row",
            came=came,
            where=where,
            fix=fix,
        )


def _targets(
    table: Table, classes: tuple[str, ...] | None, kind: str, where: str
) -> tuple[Task, NDArray[np.int64] | None, NDArray[Any], tuple[str, ...] | None]:
    """The task, the label of each row if it has one, the targets for the loss, and the classes."""
    y = table.y[:, 0] if table.y.ndim == 2 and table.y.shape[1] == 1 else table.y
    if kind == "half_squared_error" and classes is None and y.dtype.kind != "U":
        return "regression", None, y.reshape(len(y), -1).astype(np.float64), None
    if y.ndim != 1:
        raise DataError(
            f"the targets must be one label per row for {kind}",
            came=f"y of shape {y.shape}",
            where=where,
            fix="pass y.argmax(axis=1) if y is one-hot",
        )
    if kind == "half_squared_error" and y.dtype.kind == "U":
        text = [i for i, cell in enumerate(y) if number(cell) is None]
        complain(
            "targets must be all numbers or all text for half_squared_error",
            text if len(text) < len(y) else [],
            where,
            "correct these rows",
            show=lambda i: f"{table.at(i)} ({shown(str(y[i]))})",
        )
    if y.dtype.kind == "f":
        complain(
            f"labels must be whole numbers or text for {kind}",
            np.flatnonzero(y != np.round(y)).tolist(),
            where,
            "use half_squared_error for a regression, or write the labels as whole numbers",
            show=lambda i: f"{table.at(i)} ({y[i]})",
        )
    values, labels = np.unique(y, return_inverse=True)
    if classes is None:
        classes = tuple(str(int(v)) if y.dtype.kind in "fiu" else str(v) for v in values)
    _require_classes(classes, len(y), kind, where)
    labels = labels.astype(np.int64)
    if kind == "softmax_cross_entropy":
        return "classes", labels, labels, classes
    if kind == "binary_cross_entropy":
        return "binary", labels, labels[:, None].astype(np.float64), classes
    return "classes", labels, np.eye(len(classes))[labels], classes


def _require_classes(classes: tuple[str, ...], rows: int, kind: str, where: str) -> None:
    if kind == "binary_cross_entropy" and len(classes) != 2:
        must, fix = "binary_cross_entropy needs two classes", "use softmax_cross_entropy"
    elif len(classes) < 2:
        must, fix = "a classification needs two classes or more", "check the target column"
    elif len(classes) == rows:
        must, fix = "some rows must share a class", "use half_squared_error for a regression"
    else:
        return
    raise DataError(must, came=f"{len(classes)}: {some(classes)}", where=where, fix=fix)


def _can_stratify(labels: NDArray[np.int64] | None, n_test: int) -> bool:
    """Whether every class can have a member in both parts."""
    if labels is None:
        return False
    counts = np.bincount(labels)
    return counts.min() >= 2 and min(n_test, len(labels) - n_test) >= len(counts)


def _scaled(
    values: NDArray[np.float64], train: NDArray[np.int64], standardise: bool, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(values − mean) / scale with the moments of the training rows, or as they are: 0 and 1."""
    from sklearn.preprocessing import StandardScaler

    columns = values.shape[1]
    if not standardise:
        return values, np.zeros(columns), np.ones(columns)
    with np.errstate(all="ignore"):  # judged below
        scaler = StandardScaler().fit(values[train])
        scaled = (values - scaler.mean_) / scaler.scale_
    if not (np.isfinite(scaled).all() and np.isfinite(scaler.scale_).all()):
        raise DataError(
            "data must have a finite mean and variance to be standardised",
            came=f"values up to {np.abs(values).max():.3g}",
            where=where,
            fix="divide the data by a constant, or set standardise = false",
        )
    return scaled, scaler.mean_, scaler.scale_


def _cast(values: NDArray[np.float64], dtype: DTypeLike, where: str) -> NDArray[Any]:
    with np.errstate(over="ignore", under="ignore"):  # judged below
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        raise DataError(
            f"data must fit {np.dtype(dtype)}",
            came=f"values up to {np.abs(values).max():.3g}",
            where=where,
            fix='set standardise = true, or dtype = "float64"',
        )
    return cast
