"""Singular values of Jacobians, against dense decompositions and closed forms."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_table import FACTS

import isograd
from isograd import functions as F
from isograd.engine.ops import RULES, Op
from isograd.errors import IsogradError, TheoryError
from isograd.theory import Jacobian, linearise, singular_values, spectrum
from isograd.theory.lanczos import bidiagonalise

EPS = float(np.finfo(np.float64).eps)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def orthogonal(n: int, seed: int = 0) -> np.ndarray[Any, Any]:
    q, r = np.linalg.qr(rng(seed).standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def planted(n_out: int, n_in: int, values: Any) -> np.ndarray[Any, Any]:
    """A matrix with these singular values, and zeros."""
    values = np.asarray(values, np.float64)
    k = values.size
    return (orthogonal(n_out)[:, :k] * values) @ orthogonal(n_in, 1)[:k]


def of(matrix: np.ndarray[Any, Any]) -> Jacobian:
    return linearise(lambda x: matrix @ x, np.zeros(matrix.shape[1]))


MATRICES = {
    "1×1": np.array([[-3.0]]),
    "row": rng().standard_normal((1, 40)),
    "column": rng().standard_normal((40, 1)),
    "square": rng().standard_normal((30, 30)),
    "wide": rng().standard_normal((20, 50)),
    "tall": rng().standard_normal((50, 20)),
    "ill conditioned": planted(40, 40, np.logspace(0, -12, 40)),
    "rank 5": planted(30, 40, [9.0, 7.0, 5.0, 3.0, 1.0]),
    "orthogonal": 2 * orthogonal(30),
    "multiple": planted(30, 30, [4.0] * 10 + [2.0] * 20),
}
each_matrix = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())


# --- small ones: all singular values


@each_matrix
def test_all_singular_values(matrix: np.ndarray[Any, Any]) -> None:
    want = np.linalg.svd(matrix, compute_uv=False)
    found = spectrum(lambda x: matrix @ x, np.zeros(matrix.shape[1]), rng=rng())
    assert found.values is not None
    np.testing.assert_allclose(found.values, want, rtol=0, atol=found.largest.error)
    assert found.largest.error <= 1e-13 * want[0]
    assert found.smallest.value == pytest.approx(want[-1], abs=found.smallest.error)
    square = want**2
    assert found.log_mean == pytest.approx(math.log(square.mean()), abs=1e-12)
    assert found.variance == pytest.approx(square.var() / square.mean() ** 2, abs=1e-12)
    np.testing.assert_allclose(found.nodes, np.sort(square) / square.mean(), atol=1e-12)
    assert found.weights.sum() == pytest.approx(1)
    assert found.zeros == pytest.approx(np.mean(want < 1e-14 * want[0]))
    assert (found.n_out, found.n_in) == matrix.shape
    assert found.products == 2 + min(matrix.shape)


def network(x: Any) -> Any:
    a, b = rng(5).standard_normal((2, 12, 12)) / 3
    h = np.tanh(F.matmul(a, x) + 0.1)
    return np.sin(F.matmul(b, h))[:9] + F.exp(x[0]) * x[3:]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_function_against_finite_differences(dtype: Any) -> None:
    x = rng(1).standard_normal(12).astype(dtype)
    h = 1e-6
    steps = h * np.eye(12)
    want = np.array([(network(x + e) - network(x - e)) / (2 * h) for e in steps]).T
    j = linearise(network, x)
    tolerance = 1e-8 if dtype is np.float64 else 2e-5
    np.testing.assert_allclose(j.dense(), want, atol=tolerance)
    np.testing.assert_allclose(j.dense(), isograd.jacobian(network)(x), atol=1e-5)
    got = singular_values(network, x)
    np.testing.assert_allclose(got, np.linalg.svd(want, compute_uv=False), atol=tolerance)
    u, v = rng(2).standard_normal(12), rng(3).standard_normal(9)
    np.testing.assert_allclose(j.jvp(u), want @ u, atol=10 * tolerance)
    np.testing.assert_allclose(j.vjp(v), v @ want, atol=10 * tolerance)


def test_a_function_of_a_matrix() -> None:
    """Arguments and values of any shape: λ of X ↦ A X is that of A, three times."""
    a = rng().standard_normal((4, 5))
    got = singular_values(lambda x: F.matmul(a, x), np.zeros((5, 3)))
    np.testing.assert_allclose(got, np.repeat(np.linalg.svd(a, compute_uv=False), 3))


@pytest.mark.parametrize("depth", [1, 30])
def test_orthogonal_linear(depth: int) -> None:
    layers = [orthogonal(50, seed) for seed in range(depth)]

    def f(x: Any) -> Any:
        for w in layers:
            x = F.matmul(w, x)
        return x

    want = FACTS["C6"]["expected"]["s"]
    np.testing.assert_allclose(singular_values(f, np.ones(50)), want, atol=1e-12 * depth)
    found = spectrum(f, np.ones(50), rng=rng(), dense=10)
    for end in (found.largest, found.smallest):
        assert end.value == pytest.approx(want, abs=1e-12 * depth)
    assert found.variance < 1e-12
    assert found.products == 2 + 2 * 8  # each start spans an invariant subspace at once


# --- large ones: extremes and density


@each_matrix
def test_bidiagonalisation(matrix: np.ndarray[Any, Any]) -> None:
    """Every θ has a singular value within its error; all steps find every one."""
    want = np.linalg.svd(matrix, compute_uv=False)
    turned = of(matrix).turned
    for steps in (1, 3, 10, 200):
        found = bidiagonalise(turned, rng(4).standard_normal(turned.n_in), steps)
        for value, error in zip(found.values, found.errors, strict=True):
            assert np.abs(want - value).min() <= error
        assert found.weights.sum() == pytest.approx(1)
        assert found.products <= 2 * min(steps, *matrix.shape)
    for value in want:
        assert np.abs(found.values - value).min() <= 1e-12 * want[0]
    assert found.errors.max() <= 1e-12 * want[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 12), st.integers(1, 12), st.data())
def test_errors_bound(n_out: int, n_in: int, rank: int, steps: int, data: st.DataObject) -> None:
    rank = min(rank, n_out, n_in)
    logs = data.draw(st.lists(st.integers(-40, 10), min_size=rank, max_size=rank))
    matrix = planted(n_out, n_in, 2.0 ** np.array(logs))
    turned = of(matrix).turned
    found = bidiagonalise(turned, rng(6).standard_normal(turned.n_in), steps)
    want = np.linalg.svd(matrix, compute_uv=False)
    for value, error in zip(found.values, found.errors, strict=True):
        assert np.abs(want - value).min() <= error + 1e-14 * want[0]


def test_extremes_of_a_large_matrix() -> None:
    values = np.concatenate([[5.0, 3.0], np.linspace(1.0, 2.0, 500), [0.2]])
    matrix = planted(600, 503, values)
    found = spectrum(of(matrix), rng=rng(2))
    assert found.values is None
    assert found.largest.value == pytest.approx(5.0, abs=found.largest.error)
    assert found.largest.error < 1e-8
    assert found.smallest.value == pytest.approx(0.2, abs=found.smallest.error)
    assert found.smallest.error < 1e-4
    square = values**2
    assert found.log_mean == pytest.approx(
        math.log(square.mean()), abs=3 * found.log_mean_error + 1e-9
    )
    variance = square.var() / square.mean() ** 2
    assert found.variance == pytest.approx(variance, abs=3 * found.variance_error)
    assert 0 < found.variance_error < 0.2 * variance


@pytest.mark.parametrize("shape", [(300, 420), (420, 300)])
def test_a_density_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = rng(8).standard_normal(shape) / math.sqrt(shape[1])
    found = spectrum(of(matrix), rng=rng(9), k=40, starts=12, dense=1)
    square = np.linalg.svd(matrix, compute_uv=False) ** 2
    square /= square.mean()
    for level in (0.2, 0.5, 1.0, 2.0):
        share = found.weights[found.nodes <= level].sum()
        assert share == pytest.approx(np.mean(square <= level), abs=0.04)
    x = np.linspace(0.01, 6, 4000)
    density = found.density(x)
    assert density.sum() * (x[1] - x[0]) == pytest.approx(1, abs=0.01)
    x = np.linspace(0.3, 4, 100)
    exact = spectrum(of(matrix), rng=rng(9)).density(x, width=0.2)
    np.testing.assert_allclose(found.density(x, width=0.2), exact, atol=0.1 * exact.max())
    assert found.largest.value**2 / math.exp(found.log_mean) == pytest.approx(
        square.max(), rel=0.05
    )


def test_a_smallest_that_is_hidden_is_bounded() -> None:
    """The least of 1 … 10⁻⁶ in few steps: not found, and the error does not say it was."""
    values = np.logspace(0, -6, 450)
    found = spectrum(of(planted(450, 450, values)), rng=rng(), k=10, starts=2)
    assert found.smallest.value > values[-1]
    assert np.abs(values - found.smallest.value).min() <= found.smallest.error


# --- faults, and the ends of the range


def test_a_wrong_vjp_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng().standard_normal(20)
    spectrum(np.tanh, x, rng=rng())
    right = RULES[Op.TANH]
    monkeypatch.setitem(
        RULES, Op.TANH, dataclasses.replace(right, vjp=lambda i, g, out, args, params: g * out)
    )
    with pytest.raises(TheoryError, match="products with one matrix"):
        spectrum(np.tanh, x, rng=rng())


@pytest.mark.parametrize("dense", [10, 400])
def test_a_wrong_product_is_noticed(dense: int) -> None:
    a = rng().standard_normal((30, 30))
    wrong = a.copy()
    wrong[3, 4] += 0.01
    j = Jacobian(30, 30, lambda u: a @ u, lambda v: wrong.T @ v)
    with pytest.raises(TheoryError, match="products with one matrix"):
        spectrum(j, rng=rng(), dense=dense)


def deep(factor: float, depth: int) -> Any:
    def f(x: Any) -> Any:
        for _ in range(depth):
            x = factor * x
        return x

    return f


@pytest.mark.parametrize("dense", [1, 400])
@pytest.mark.parametrize(("factor", "must"), [(0.5, "range"), (2.0, "range"), (0.0, "not be 0")])
def test_depth_beyond_the_range_of_numbers(dense: int, factor: float, must: str) -> None:
    with pytest.raises(TheoryError, match=must) as caught:
        spectrum(deep(factor, 2000), np.full(3, 0.0), rng=rng(), dense=dense)
    assert "yapunov" in str(caught.value)


@pytest.mark.parametrize("dense", [1, 400])
def test_depth_within_the_range_of_numbers(dense: int) -> None:
    """s from 10⁻¹⁹⁴ to 10¹⁵⁸: where s² is out of range too."""
    for factor in (0.8, 1.2):
        found = spectrum(deep(factor, 2000), np.ones(3), rng=rng(), dense=dense)
        log = 2000 * math.log(factor)
        assert math.log(found.largest.value) == pytest.approx(log, rel=1e-12)
        assert found.log_mean == pytest.approx(2 * log, rel=1e-12)
        assert found.variance < 1e-12


@pytest.mark.parametrize(
    ("call", "must"),
    [
        (lambda: spectrum(lambda x: (x, x), np.ones(3), rng=rng()), "one array to one array"),
        (
            lambda: spectrum(lambda x: x / 0.0, np.ones(3), rng=rng()),
            "where the function is finite",
        ),
        (lambda: spectrum(lambda x: x, np.ones(3), rng=rng(), k=0), "k ≥ 1"),
        (lambda: spectrum(lambda x: x, np.ones(3), rng=rng(), starts=1), "2 starts"),
        (lambda: spectrum(lambda x: x[:0], np.ones(3), rng=rng()), "rows and columns"),
        (lambda: linearise(lambda x: x, np.ones(3, np.int64)), "floating-point"),
    ],
)
def test_errors(call: Any, must: str) -> None:
    with pytest.raises(IsogradError, match=must):
        call()
