"""Which rows are for training, for validation and for the test."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isograd.errors import DataError
from isograd.nn.spec import Data

_MIN_ROWS = 2


class Seeds(NamedTuple):
    """What is drawn of a spec's seed; one more does not change the ones before."""

    test: int
    validation: int
    synthetic: int


def seeds(seed: int) -> Seeds:
    """Seeds below 2³², as scikit-learn takes them."""
    return Seeds(*np.random.SeedSequence(seed).generate_state(3).tolist())


class Parts(NamedTuple):
    """The rows of each part."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def rows_of_parts(
    n: int,
    labels: NDArray[np.int64] | None,
    data: Data,
    seeds: Seeds,
    where: str,
    *,
    given_test: bool,
) -> Parts:
    """The rows of each part. The test part is the same with and without a validation part.

    Args:
        n: rows in all.
        labels: the class of each row; None for a regression.
        data: the [data] of a spec.
        seeds: drawn of the spec's seed.
        where: the source, for errors.
        given_test: whether the test rows come from elsewhere; then that part is empty.

    Raises:
        DataError: a part would have fewer than two rows.
    """
    rest, none = np.arange(n), np.arange(0)
    test = validation = none
    if not given_test:
        key = "test_fraction"
        rest, test = _cut(rest, data.test_fraction, labels, data, seeds.test, where, key)
    if data.validation_fraction:
        key, share = "validation_fraction", data.validation_fraction
        rest, validation = _cut(rest, share, labels, data, seeds.validation, where, key)
    if len(rest) < _MIN_ROWS:
        raise DataError(
            f"the training part must hold {_MIN_ROWS} rows",
            came=str(len(rest)),
            where=where,
            fix="give more rows",
        )
    return Parts(rest, validation, test)


def _cut(
    rows: NDArray[np.int64],
    fraction: float,
    labels: NDArray[np.int64] | None,
    data: Data,
    seed: int,
    where: str,
    key: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A share of the rows cut off at random; stratified where every class can be in both parts."""
    from sklearn.model_selection import train_test_split

    n = len(rows)
    cut = math.ceil(fraction * n)
    if min(n - cut, cut) < _MIN_ROWS:
        part = key.removesuffix("_fraction")
        raise DataError(
            f"the training part and the {part} part must hold {_MIN_ROWS} rows each",
            came=f"{n - cut} and {cut}, with {key} = {fraction}",
            where=where,
            fix=f"give more rows or another {key}",
        )
    classes = None
    if data.stratify and labels is not None:
        counts = np.unique(labels[rows], return_counts=True)[1]
        if counts.min() >= 2 and min(cut, n - cut) >= len(counts):
            classes = labels[rows]
    kept, off = train_test_split(rows, test_size=cut, random_state=seed, stratify=classes)
    return kept, off
