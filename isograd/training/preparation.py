"""How features become inputs: missing values filled, mean and scale, the dtype of the spec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import DTypeLike, NDArray

from isograd.errors import DataError, SpecError
from isograd.nn.checks import shown
from isograd.training.tables import Table, at_rows, complain
from isograd.training.targets import Form, Task

_SMALLER = 'divide the data by a constant, set standardise = true, or dtype = "float64"'
_BLOCK = 1 << 22  # elements that are float64 at a time: 32 MiB


class Preparation(Struct, frozen=True, forbid_unknown_fields=True):
    """All that new rows need to become inputs of a trained network.

    An input is (x − mean) / scale, with x = fill where a feature is missing. As JSON (by msgspec)
    every float comes back as it was.

    Args:
        task: what the targets are. Classes learned by a loss for regression stay "classes".
        features: the d names.
        mean, scale: d numbers each; features that are constant in the training part have scale 1,
            and so become 0.
        classes: the name of each class, in the order of the labels; None for a regression. For
            "binary" the second is the one that 1 stands for.
        one_hot: whether classes stand as (n, C) shares, one-hot or soft, rather than as labels.
        y_mean, y_scale: the same as for features, for each target of a regression; None for
            classes.
        fill: d values for missing features; None refuses them.
        target: the name of the target column, where columns have names.
    """

    task: Task
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    classes: tuple[str, ...] | None = None
    one_hot: bool = False
    y_mean: tuple[float, ...] | None = None
    y_scale: tuple[float, ...] | None = None
    fill: tuple[float, ...] | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        d = len(self.features)
        lengths = {len(part) for part in (self.mean, self.scale, self.fill) if part is not None}
        targets = [None if part is None else len(part) for part in (self.y_mean, self.y_scale)]
        regression = self.task == "regression"
        if (
            lengths != {d}
            or targets[0] != targets[1]
            or regression is not (self.classes is None)
            or regression is (targets[0] is None)
        ):
            raise DataError(
                "a preparation must have one mean, scale and fill per feature, and classes or the "
                "mean and scale of its targets",
                came=f"{d} features with {sorted(lengths)} numbers, targets with {targets}",
                fix="take it from a split, whole",
            )

    @property
    def form(self) -> Form:
        """What the targets are, and how they stand in an array."""
        return Form(self.task, self.classes, self.one_hot)


class Moments(NamedTuple):
    """What becomes 0 and what becomes 1, for each column."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


def fit(
    X: NDArray[Any],
    rows: NDArray[np.int64],
    *,
    standardise: bool | Literal["jointly"],
    fill: tuple[float, ...] | None = None,
    where: str,
) -> Moments:
    """Mean and standard deviation of some rows; 0 and 1 if nothing is standardised.

    Args:
        X: (n, d) numbers, without NaN where there is no fill.
        rows: those of the training part.
        standardise: whether; "jointly" takes all columns as one.
        fill: in place of NaN.
        where: the source, for errors.
    """
    from sklearn.preprocessing import StandardScaler

    d = X.shape[1]
    if not standardise:
        return Moments((0.0,) * d, (1.0,) * d)
    scaler, jointly = StandardScaler(), standardise == "jointly"
    low, high = np.inf, -np.inf
    with np.errstate(all="ignore"):  # judged below
        for _, block in _blocks(X, rows, fill):
            block = block.reshape(-1, 1) if jointly else block
            scaler.partial_fit(block)
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    if not (np.isfinite(scaler.mean_).all() and np.isfinite(scaler.scale_).all()):
        raise _not_finite(X, where)
    # The mean of a constant is rounded, and what is left of 1e30 may be 1e14. The scaler leaves a
    # column unscaled whose spread is no more than that: its own half-width then bounds it.
    mean, half = np.clip(scaler.mean_, low, high), high / 2 - low / 2
    unscaled = (scaler.scale_ != np.sqrt(scaler.var_)) & (half > 0)
    scale = np.where(unscaled, half, scaler.scale_)
    times = d if jointly else 1
    return Moments(tuple(mean.tolist()) * times, tuple(scale.tolist()) * times)


def fit_fill(
    table: Table, rows: NDArray[np.int64], missing: Literal["refuse", "mean", "median", "drop"]
) -> tuple[float, ...] | None:
    """The mean or median of what some rows have of each feature; None if nothing is filled.

    Args:
        table: the data.
        rows: those of the training part.
        missing: what to do, as in a spec.

    Raises:
        DataError: naming features that none of the rows has.
    """
    if missing not in ("mean", "median"):
        return None
    average = np.mean if missing == "mean" else np.median
    values, empty = [], []
    for j, name in enumerate(table.features):
        column = table.X[rows, j].astype(np.float64)
        given = column[~np.isnan(column)]
        with np.errstate(all="ignore"):  # judged below
            values.append(float(average(given)) if len(given) else math.nan)
        if not len(given):
            empty.append(name)
    complain(
        f"a feature must have a value in the training part to be filled with its {missing}",
        empty,
        table.where,
        "remove these columns",
        show=shown,
    )
    if not np.isfinite(values).all():
        raise _not_finite(table.X, table.where)
    return tuple(values)


def apply(
    X: NDArray[Any],
    rows: NDArray[np.int64],
    moments: Moments,
    *,
    fill: tuple[float, ...] | None = None,
    dtype: DTypeLike,
    where: str,
) -> NDArray[Any]:
    """(x − mean) / scale of some rows, in float64 and then in dtype.

    Args:
        X: (n, d) numbers.
        rows: which, in which order.
        moments: mean and scale.
        fill: in place of NaN.
        dtype: float32 or float64.
        where: the source, for errors.

    Raises:
        DataError: values that do not fit the dtype.
    """
    mean, scale = np.array(moments.mean), np.array(moments.scale)
    out = np.empty((len(rows), X.shape[1]), dtype)
    with np.errstate(all="ignore"):  # judged below
        for at, block in _blocks(X, rows, fill):
            block -= mean
            block /= scale
            out[at] = block
            if not np.isfinite(out[at]).all():
                raise DataError(
                    f"data must fit {np.dtype(dtype)}",
                    came=f"values up to {_largest(X):.3g}",
                    where=where,
                    fix=_SMALLER,
                )
    return out


def inputs(
    table: Table, rows: NDArray[np.int64], preparation: Preparation, dtype: DTypeLike
) -> NDArray[Any]:
    """Rows of a clean table as a network takes them."""
    moments = Moments(preparation.mean, preparation.scale)
    fill, where = preparation.fill, table.where
    return apply(table.X, rows, moments, fill=fill, dtype=dtype, where=where)


def outputs(
    y: NDArray[Any], preparation: Preparation, dtype: DTypeLike, where: str
) -> NDArray[Any]:
    """Targets of `targets_of` as a loss takes them: labels stay, the rest takes scale and dtype."""
    if y.ndim == 1:
        return y
    k = y.shape[1]
    mean, scale = preparation.y_mean or (0.0,) * k, preparation.y_scale or (1.0,) * k
    return apply(y, np.arange(len(y)), Moments(mean, scale), dtype=dtype, where=where)


def clean(table: Table, missing: Literal["refuse", "mean", "median", "drop"]) -> Table:
    """A table whose features are numbers, none infinite, and none missing that is not to be filled.

    Raises:
        DataError: naming rows and columns.
    """
    require_arrays(table)
    y = None if table.y is None else _in_double(table.y)
    table = replace(table, X=_in_double(table.X), y=y)
    X = table.X
    if X.dtype.kind != "f":
        return table
    infinite = np.isinf(X)
    _complain(infinite, table, "data must be finite", "correct these cells or remove these rows")
    if missing in ("mean", "median"):
        return table
    absent = np.isnan(X)
    if missing == "refuse":
        fix = 'fill these cells, remove these rows, or set missing = "mean", "median" or "drop"'
        _complain(absent, table, "no feature may be missing", fix)
        return table
    keep = ~absent.any(axis=1)
    if keep.all():
        return table
    if not keep.any():
        raise DataError(
            'a row without missing features must be left when missing = "drop"',
            came=f"all {len(X)} rows lack some",
            where=table.where,
            fix='set missing = "mean" or "median", or remove the columns that are often empty',
        )
    return table.take(np.flatnonzero(keep))


def require_arrays(table: Table) -> None:
    """Raise DataError unless X is a matrix of real numbers with a name per column, y fits it."""
    X, y, came, fix = table.X, table.y, "", ""
    if X.ndim != 2 or X.shape[1] == 0:
        came, fix = f"X of shape {X.shape}", "reshape it: X.reshape(len(X), -1)"
    elif X.dtype.kind not in "fiub":
        came, fix = f"X of dtype {X.dtype}", "convert it to floats"
    elif len(table.features) != X.shape[1]:
        came = f"{len(table.features)} names for {X.shape[1]} features"
        fix = "give one name per column"
    elif y is not None and (y.shape[:1] != X.shape[:1] or y.ndim > 2 or y.size == 0):
        came, fix = f"X of shape {X.shape}, y of shape {y.shape}", "give one target per row"
    elif y is not None and y.dtype.kind not in "fiubU" and not _all_text(y):
        came, fix = f"y of dtype {y.dtype}", "give numbers or strings"
    if came:
        must = "X must be (rows, features) numbers, with one target per row"
        raise DataError(must, came=came, where=table.where, fix=fix)


def require_dtype(dtype: DTypeLike) -> None:
    """Raise SpecError for a dtype that networks are not trained in."""
    if np.dtype(dtype) not in (np.float32, np.float64):
        came = str(np.dtype(dtype))
        raise SpecError("dtype must be float32 or float64", came=came, where="dtype")


def _blocks(
    X: NDArray[Any], rows: NDArray[np.int64], fill: tuple[float, ...] | None
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Copies of some rows in float64, a few megabytes at a time: X may be bytes, and large."""
    size = max(1, _BLOCK // max(1, X.shape[1]))
    for start in range(0, len(rows), size):
        # Chosen by an array, rows are a copy already.
        block = X[rows[start : start + size]].astype(np.float64, copy=False)
        if fill is not None:
            np.copyto(block, np.array(fill), where=np.isnan(block))
        yield slice(start, start + len(block)), block


def _complain(bad: NDArray[np.bool_], table: Table, must: str, fix: str) -> None:
    d = table.X.shape[1]
    cells = at_rows(table, bad, lambda i: f"{table.cell(i // d, i % d)} ({table.X[i // d, i % d]})")
    cells.complain(must, table.where, fix)


def _all_text(y: NDArray[Any]) -> bool:
    return y.dtype == object and all(isinstance(cell, str) for cell in y.flat)


def _in_double(values: NDArray[Any]) -> NDArray[Any]:
    """Extended precision cut to float64; all else as it is."""
    if values.dtype.kind != "f" or values.dtype.itemsize <= 8:
        return values
    with np.errstate(over="ignore"):  # infinities are refused
        return values.astype(np.float64)


def _largest(X: NDArray[Any]) -> float:
    return max(float(np.nanmax(X)), -float(np.nanmin(X)))


def _not_finite(X: NDArray[Any], where: str) -> DataError:
    return DataError(
        "data must have a finite mean and variance to be standardised",
        came=f"values up to {_largest(X):.3g}",
        where=where,
        fix="divide the data by a constant, or set standardise = false",
    )
