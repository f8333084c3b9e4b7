"""Synthetic data: scikit-learn's own, and two spirals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import datasets

from isograd.nn import spec as s
from isograd.training.data import load
from isograd.training.synthetic import DEFAULT_NOISE, draw, spirals

SOFTMAX = "softmax_cross_entropy"
REFERENCES = {
    "moons": lambda n, noise, seed: datasets.make_moons(n, noise=noise, random_state=seed),
    "circles": lambda n, noise, seed: datasets.make_circles(
        n, noise=noise, factor=0.5, random_state=seed
    ),
    "blobs": lambda n, noise, seed: datasets.make_blobs(
        n, centers=3, cluster_std=noise, random_state=seed
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("rows", "noise"), [(None, None), (25, 0.3), (10, 0.0)])
def test_drawn_by_scikit_learn(name, rows, noise):
    wanted, labels = REFERENCES[name](
        rows or 1000, DEFAULT_NOISE[name] if noise is None else noise, 11
    )
    table = draw(name, 11, rows, noise)
    np.testing.assert_array_equal(table.X, wanted)
    np.testing.assert_array_equal(table.y, labels)


@pytest.mark.parametrize("name", s.SYNTHETIC_DATA)
def test_a_seed_gives_one_set_and_another_gives_another(name):
    def one(seed, **keys):
        return load(s.Data(name, standardise=False, **keys), loss_kind=SOFTMAX, seed=seed)

    first = one(5)
    assert first.digest() == one(5).digest()
    assert not np.isin(one(6).X_train, first.X_train).any()
    assert len(first.X_train) + len(first.X_test) == 1000
    assert first.classes == (("0", "1", "2") if name == "blobs" else ("0", "1"))
    assert first.features == ("x0", "x1")
    few = one(2**63 - 1, rows=31, noise=0.01)
    assert len(few.X_train) + len(few.X_test) == 31


def test_every_synthetic_set_has_its_noise():
    assert set(DEFAULT_NOISE) == set(s.SYNTHETIC_DATA)


def test_the_points_of_the_benchmark():
    """The program of the CMU benchmark, in its own words: 97 points per spiral, one by one."""
    wanted = []
    for i in range(97):
        angle = i * math.pi / 16.0
        radius = 6.5 * (104 - i) / 104.0
        x, y = radius * math.sin(angle), radius * math.cos(angle)
        wanted += [(x, y, 0), (-x, -y, 1)]
    X, y = spirals(194, 0.0, np.random.default_rng(0))
    got = np.column_stack([X, y])
    wanted = np.array(wanted)
    key = [np.lexsort(np.round(rows, 9).T) for rows in (got, wanted)]
    np.testing.assert_allclose(got[key[0]], wanted[key[1]], atol=1e-12)
    assert not np.array_equal(y, np.sort(y))


def test_the_noise_of_the_spirals():
    """Normal and of the same size in both features; the same seed draws the same order."""
    n = 20_000
    clean, _ = spirals(n, 0.0, np.random.default_rng(3))
    noisy, y = spirals(n, 0.25, np.random.default_rng(3))
    assert np.bincount(y).tolist() == [n // 2, n // 2]
    error = 0.25 / math.sqrt(2 * n)  # of a standard deviation over n normal draws
    np.testing.assert_allclose((noisy - clean).std(axis=0), 0.25, atol=5 * error)
    assert np.bincount(spirals(11, 0.1, np.random.default_rng(0))[1]).tolist() == [6, 5]
