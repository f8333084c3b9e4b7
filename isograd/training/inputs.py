"""New rows, prepared as the training data were: what a trained network is applied to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from isograd.errors import DataError
from isograd.training.parts import seeds
from isograd.training.preparation import (
    Preparation,
    clean,
    inputs,
    outputs,
    require_dtype,
)
from isograd.training.sources import read_new
from isograd.training.tables import Table
from isograd.training.targets import require_targets, targets_of


@dataclass(frozen=True, eq=False, slots=True)
class Inputs:
    """Rows for a trained network.

    Args:
        X: (n, d) features, filled and standardised as the training part was.
        y: their targets in the form that the loss takes, as in a `Split`; None if there are none.
        rows: n.
    """

    X: NDArray[Any]
    y: NDArray[Any] | None
    rows: int


def read_inputs(
    path: str | Path,
    preparation: Preparation,
    *,
    dtype: DTypeLike,
    base: str | Path | None = None,
    labels: str | Path | None = None,
    seed: int = 0,
) -> Inputs:
    """New rows from a file, or from a set by name.

    Columns of .csv and .parquet are found by the names of the features, in any order; further
    columns are not read, but for the target. Files of arrays and images must have as many columns
    as the training data.

    Args:
        path: a built-in or synthetic set, or a file of any format that training reads.
        preparation: that of the training data.
        dtype: float32 or float64, that of the network.
        base: the folder that a relative path starts from; None is the current one.
        labels: the file of labels beside an idx file of images; None gives no targets.
        seed: that a synthetic set is drawn from, as by a spec of this seed.

    Raises:
        DataError: data that is missing, malformed or not finite, lacks a feature, or has labels
            that the training data did not have. It names rows and columns.
    """
    require_dtype(dtype)
    table = read_new(
        path,
        preparation.features,
        preparation.target,
        labels=labels,
        seed=seeds(seed).synthetic,
        base=base,
    )
    return _prepared(table, preparation, dtype)


def prepare_inputs(X: ArrayLike, preparation: Preparation, dtype: DTypeLike) -> NDArray[Any]:
    """Rows of an array, filled and standardised as the training part was.

    Args:
        X: (n, d) numbers; NaN is a missing value.
        preparation: that of the training data.
        dtype: float32 or float64, that of the network.

    Returns:
        (n, d) inputs in dtype.

    Raises:
        DataError: an array of another shape, or with values that are infinite or missing.
    """
    require_dtype(dtype)
    return _prepared(Table(np.asarray(X), None, preparation.features, "X"), preparation, dtype).X


def _prepared(table: Table, preparation: Preparation, dtype: DTypeLike) -> Inputs:
    d = len(preparation.features)
    if table.X.ndim == 2 and table.X.shape[1] != d:
        raise DataError(
            "there must be as many features as the network was trained on",
            came=f"X of shape {table.X.shape} for {d} features",
            where=table.where,
            fix="give the features of the training data, in their order",
        )
    table = replace(table, features=preparation.features)
    table = clean(table, "refuse" if preparation.fill is None else "mean")
    X = inputs(table, np.arange(len(table.X)), preparation, dtype)
    if table.y is None:
        return Inputs(X, None, len(X))
    require_targets(table)
    y = targets_of(table, preparation.form, len(preparation.y_mean or ()))
    return Inputs(X, outputs(y, preparation, dtype, table.where), len(X))
