"""Data sets: loaded by name or file, split, standardised on the training part, and batched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from isograd.errors import DataError, SpecError
from isograd.nn.spec import ARRAYS, BUILT_IN_DATA, Data, Loss
from isograd.training.parts import rows_of_parts, seeds
from isograd.training.preparation import (
    Preparation,
    clean,
    fit,
    fit_fill,
    inputs,
    outputs,
    require_dtype,
)
from isograd.training.sources import read_training
from isograd.training.tables import Table, default_names
from isograd.training.targets import (
    TASKS,
    Task,
    form_of,
    require_targets,
    require_weights,
    strata,
    targets_of,
)
from isograd.training.targets import (
    loss_kind as kind_of,
)

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """A data set in three parts, ready for training.

    Args:
        X_train, X_validation, X_test: (n, d) features, in the dtype of the spec. The validation
            part is empty, (0, d), where none is asked for.
        y_train, y_validation, y_test: int64 labels (n,) for softmax_cross_entropy, or floats
            (n, C) if the labels are soft; 0 or 1 as floats (n, 1) for binary_cross_entropy; floats
            (n, k) for the losses of a regression, one column per class (one-hot) where the targets
            are classes.
        preparation: how they became so, and what new rows need.
    """

    X_train: NDArray[Any]
    y_train: NDArray[Any]
    X_validation: NDArray[Any]
    y_validation: NDArray[Any]
    X_test: NDArray[Any]
    y_test: NDArray[Any]
    preparation: Preparation

    @property
    def task(self) -> Task:
        """What the targets are."""
        return self.preparation.task

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The name of each class, in the order of the labels; None for a regression."""
        return self.preparation.classes

    @property
    def features(self) -> tuple[str, ...]:
        """The d names."""
        return self.preparation.features

    @property
    def mean(self) -> NDArray[np.float64]:
        """(d,): what of each feature became 0."""
        return np.array(self.preparation.mean)

    @property
    def scale(self) -> NDArray[np.float64]:
        """(d,): what each feature was divided by."""
        return np.array(self.preparation.scale)

    @property
    def y_mean(self) -> NDArray[np.float64] | None:
        """(k,): what of each target of a regression became 0; None for classes."""
        mean = self.preparation.y_mean
        return None if mean is None else np.array(mean)

    @property
    def y_scale(self) -> NDArray[np.float64] | None:
        """(k,): what each target of a regression was divided by; None for classes."""
        scale = self.preparation.y_scale
        return None if scale is None else np.array(scale)

    def digest(self) -> str:
        """SHA-256 over shapes, dtypes and bytes of all arrays, and the preparation."""
        total = hashlib.sha256(msgspec.json.encode(self.preparation))
        for part in _PARTS:
            for name in ("X", "y"):
                array = np.ascontiguousarray(getattr(self, f"{name}_{part}"))
                total.update(f"{name}_{part} {array.dtype.str} {array.shape}".encode())
                total.update(array.reshape(-1).view(np.uint8).data)
        return total.hexdigest()


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
        seed: of the spec; the same seed gives the same split, and the same synthetic data.
        dtype: float32 or float64.
        base: the folder that a relative path starts from, that of the spec file; None is the
            current one.

    A class with one member, or more classes than a part has rows, cannot be stratified: such data
    are split without.

    Raises:
        DataError: data that is missing, malformed, not finite, or does not fit the loss.
        SpecError: weights of another number of classes.
    """
    kind = kind_of(loss_kind)
    table, test = read_training(data, seed=seeds(seed).synthetic, base=base)
    if data.source in BUILT_IN_DATA and table.classes is None and TASKS[kind] != "regression":
        raise DataError(
            f"the targets must be classes for {kind}",
            came=f"{data.source}, a regression",
            fix="use half_squared_error, or another data set",
        )
    return _split(table, test, data, loss_kind, seed, dtype)


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
        X: (n, d) numbers; NaN is a missing value.
        y: (n,) labels (numbers or strings; they are sorted, and kept as `classes`), (n, C) shares
            of the classes for softmax_cross_entropy, or (n,) or (n, k) targets of a regression.
        data: how to split, standardise and treat missing values; None is the defaults.
        loss_kind, seed, dtype: as for `load`.
        features: the d names; None names them x0, x1, ….

    Raises:
        DataError: arrays that do not fit together, are not finite, or do not fit the loss.
    """
    X, y = np.asarray(X), np.asarray(y)
    names = default_names(X.shape[1] if X.ndim == 2 else 0)
    if features is not None:
        names = tuple(map(str, features))
    table = Table(X, y, names, ARRAYS)
    return _split(table, None, data or Data(ARRAYS), loss_kind, seed, dtype)


def batches(n: int, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The rows of one epoch in shuffled batches, (⌊n/batch_size⌋, batch_size).

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
    whole = n // batch_size
    return rng.permutation(n)[: whole * batch_size].reshape(whole, batch_size)


def _split(
    table: Table,
    test: Table | None,
    data: Data,
    loss: str | Loss,
    seed: int,
    dtype: DTypeLike,
) -> Split:
    kind = kind_of(loss)
    require_dtype(dtype)
    table = clean(table, data.missing)
    require_targets(table)
    form = form_of(table, kind)
    require_weights(loss, form.classes)
    y = targets_of(table, form)
    rows = rows_of_parts(
        len(table.X), strata(y, form), data, seeds(seed), table.where, given_test=test is not None
    )
    fill = fit_fill(table, rows.train, data.missing)
    moments = fit(table.X, rows.train, standardise=data.standardise, fill=fill, where=table.where)
    y_moments = None
    if form.task == "regression":
        y_moments = fit(y, rows.train, standardise=bool(data.standardise), where=table.where)
    preparation = Preparation(
        task=form.task,
        features=table.features,
        mean=moments.mean,
        scale=moments.scale,
        classes=form.classes,
        one_hot=form.one_hot,
        y_mean=y_moments and y_moments.mean,
        y_scale=y_moments and y_moments.scale,
        fill=fill,
        target=table.target,
    )
    parts = [(table, y, part) for part in rows]
    if test is not None:
        test = _test_table(test, table, data)
        y_test = targets_of(test, form, y.shape[1] if y.ndim == 2 else 0)
        parts[2] = (test, y_test, np.arange(len(test.X)))
    arrays = {}
    for name, (source, targets, part) in zip(_PARTS, parts, strict=True):
        arrays[f"X_{name}"] = inputs(source, part, preparation, dtype)
        arrays[f"y_{name}"] = outputs(targets[part], preparation, dtype, source.where)
    return Split(**arrays, preparation=preparation)


def _test_table(test: Table, table: Table, data: Data) -> Table:
    """Test rows from a file of their own, with the features of the training file."""
    test = clean(test, data.missing)
    require_targets(test)
    if test.X.shape[1] != table.X.shape[1]:
        raise DataError(
            "the test file must hold the features of the training file",
            came=f"{test.X.shape[1]} features, not {table.X.shape[1]}",
            where=test.where,
            fix="give the test file that belongs to the source",
        )
    return test


__all__ = ["Preparation", "Split", "Task", "batches", "from_arrays", "load"]
