"""Data drawn from a seed: small problems in the plane that no straight line solves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from isograd.training.tables import Table, default_names

DEFAULT_ROWS = 1000
DEFAULT_NOISE = {"moons": 0.1, "circles": 0.1, "blobs": 1.0, "spirals": 0.1}
"""Standard deviation of the normal noise on both features."""
_CENTRES = 3
_FACTOR = 0.5


def draw(name: str, seed: int, rows: int | None = None, noise: float | None = None) -> Table:
    """A synthetic data set.

    moons: two half circles of radius 1 that reach into each other.
    circles: a circle of radius 1 around one of radius 0.5.
    blobs: three normal clouds around centres drawn from [−10, 10]².
    spirals: see `spirals`.

    Args:
        name: which.
        seed: of scikit-learn's generators, below 2³².
        rows: how many, shared by the classes as evenly as may be; None is DEFAULT_ROWS.
        noise: standard deviation of what is added to both features; None is DEFAULT_NOISE.
    """
    from sklearn import datasets  # takes a second to import: only when needed

    n = DEFAULT_ROWS if rows is None else rows
    std = DEFAULT_NOISE[name] if noise is None else noise
    if name == "moons":
        X, y = datasets.make_moons(n, noise=std, random_state=seed)
    elif name == "circles":
        X, y = datasets.make_circles(n, noise=std, factor=_FACTOR, random_state=seed)
    elif name == "blobs":
        X, y = datasets.make_blobs(n, centers=_CENTRES, cluster_std=std, random_state=seed)
    else:
        X, y = spirals(n, std, np.random.default_rng(seed))
    classes = tuple(str(label) for label in np.unique(y))
    return Table(X, y, default_names(2), name, classes=classes)


def spirals(
    rows: int, noise: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two Archimedean spirals that turn three times into each other.

    x = r sin φ, y = r cos φ with φ = πi/16 and r = 6.5 (104 − i)/104, i from 0 to 96 in equal
    steps; the second spiral is the first one turned by π. With 194 rows and no noise these are the
    points of the benchmark.

    Args:
        rows: of both together; an odd one goes to the first.
        noise: standard deviation of the normal noise on both features.
        rng: draws the noise and the order of the rows.

    Returns:
        (rows, 2) features, and (rows,) labels 0 and 1.

    References: Lang and Witbrock (1988), Learning to tell two spirals apart, Proc. 1988
        Connectionist Models Summer School; the formula is that of the CMU benchmark "two-spirals".
    """
    arms = []
    for label, points in enumerate((rows - rows // 2, rows // 2)):
        i = np.linspace(0.0, 96.0, points)
        radius, angle = 6.5 * (104.0 - i) / 104.0, math.pi * i / 16.0
        sign = 1.0 - 2.0 * label
        arms.append(np.column_stack([sign * radius * np.sin(angle), sign * radius * np.cos(angle)]))
    X = np.concatenate(arms)
    y = np.repeat(np.arange(2, dtype=np.int64), [len(arm) for arm in arms])
    X += rng.normal(0.0, noise, X.shape)
    order = rng.permutation(rows)
    return X[order], y[order]
