"""Examples small enough to do by hand, through the public names alone."""

from __future__ import annotations

import doctest
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import isograd

F = isograd.functions


# --- the examples of the docstrings


@pytest.mark.parametrize("name", ["engine.trace", "engine.autodiff", "backends.numpy"])
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"isograd.{name}"))
    assert result.attempted
    assert not result.failed


# --- one neuron


def neuron(x: Any, w: Any, b: Any) -> Any:
    """σ(wx + b), spelt out."""
    return 1.0 / (np.exp(-(w * x + b)) + 1.0)


def test_the_slope_of_a_neuron_at_zero_is_a_quarter() -> None:
    assert isograd.grad(neuron, 1)(1.0, 0.0, 0.0) == 0.25
    assert isograd.grad(neuron, (0, 1, 2))(1.0, 0.0, 0.0) == (0.0, 0.25, 0.25)
    assert isograd.jvp(lambda w: neuron(1.0, w, 0.0), (0.0,), (1.0,)) == (0.5, 0.25)
    assert isograd.grad(F.logistic)(0.0) == 0.25


def half_squared_error(w: Any, b: Any, x: float, y: float) -> Any:
    return 0.5 * (w * x + b - y) ** 2


def test_a_linear_neuron_with_squared_error() -> None:
    """x = 1.5, w = 0.8, b = 0.2: ŷ = 1.4, ŷ − y = 0.6, L = ½·0.36, ∂L/∂w = 1.5·0.6, ∂L/∂b = 0.6."""
    x, y, w, b = 1.5, 0.8, 0.8, 0.2
    assert w * x + b == pytest.approx(1.4, rel=1e-15)
    loss, (dw, db) = isograd.value_and_grad(half_squared_error, (0, 1))(w, b, x, y)
    assert loss == pytest.approx(0.18, rel=1e-14)
    assert dw == pytest.approx(0.9, rel=1e-14)
    assert db == pytest.approx(0.6, rel=1e-14)
    hessian = isograd.jacobian(isograd.grad(lambda p: half_squared_error(p[0], p[1], x, y)))
    np.testing.assert_allclose(hessian(np.array([w, b])), [[x * x, x], [x, 1]], rtol=1e-14)


# --- a hundred layers in two lines


def deep(w: float, depth: int) -> Callable[[Any], Any]:
    """Linear layers, one after the other: x ↦ w·(w·(… x))."""

    def network(x: Any) -> Any:
        for _ in range(depth):
            x = w * x
        return x

    return network


@pytest.mark.parametrize(
    ("w", "size"), [(1.5, 4.065611775352152e17), (0.8, 2.037035976334486e-10)], ids=str
)
def test_a_gradient_through_a_hundred_layers_explodes_or_vanishes(w: float, size: float) -> None:
    assert isograd.grad(deep(w, 100))(1.0) == pytest.approx(size, rel=1e-13)
    assert isograd.jvp(deep(w, 100), (1.0,), (1.0,))[1] == pytest.approx(size, rel=1e-13)
    in_float32 = isograd.grad(deep(w, 100))(np.float32(1.0))
    assert in_float32.dtype == np.float32
    assert in_float32 == pytest.approx(size, rel=100 * 2.0**-24)


@pytest.mark.parametrize(
    ("dtype", "fits", "overflows"), [(np.float32, 218, 219), (np.float16, 27, 28)], ids=str
)
def test_an_exploding_gradient_ends_in_infinity(dtype: Any, fits: int, overflows: int) -> None:
    """At the first depth with 1.5ⁿ above the largest number: ln(max)/ln 1.5."""
    assert fits == math.floor(math.log(float(np.finfo(dtype).max)) / math.log(1.5))
    assert np.isfinite(isograd.grad(deep(1.5, fits))(dtype(1.0)))
    assert np.isinf(isograd.grad(deep(1.5, overflows))(dtype(1.0)))


@pytest.mark.parametrize(("dtype", "depth"), [(np.float32, 600), (np.float16, 100)], ids=str)
def test_a_vanishing_gradient_sticks_at_two_subnormal_units(dtype: Any, depth: int) -> None:
    """0.8 of two units is 1.6 of them, which rounds to two: what should be 0 is not."""
    unit = np.finfo(dtype).smallest_subnormal
    assert dtype(0.8**depth) == 0  # rounded once, it vanishes
    stuck = isograd.grad(deep(0.8, depth))(dtype(1.0))
    assert stuck == 2 * unit
    assert stuck == isograd.grad(deep(0.8, 2 * depth))(dtype(1.0))


# --- a saturated start


def squared_error(z: Any, y: float) -> Any:
    return 0.5 * (F.logistic(z) - y) ** 2


def cross_entropy(z: Any, y: float) -> Any:
    """−y ln σ(z) − (1 − y) ln(1 − σ(z)), from the logit."""
    return F.softplus(z) - y * z


@pytest.mark.parametrize("z", [-8.0, -1.0, 0.0, 2.0, 8.0, 30.0])
def test_squared_error_is_slower_by_the_slope_of_the_sigmoid(z: float) -> None:
    """∂L/∂z is (σ − y)σ′ for the squared error, σ − y for cross-entropy."""
    sigma = 1 / (1 + math.exp(-z))
    slope = math.exp(-z) / (1 + math.exp(-z)) ** 2
    slow = isograd.grad(squared_error)(z, 0.0)
    fast = isograd.grad(cross_entropy)(z, 0.0)
    assert fast == pytest.approx(sigma, rel=1e-14)
    assert slow / fast == pytest.approx(slope, rel=1e-12)


def steps_until_right(loss: Callable[[Any, float], Any], w: float, b: float) -> int:
    """Steps of gradient descent until σ(w + b) < 0.1, for the input 1 with the target 0."""
    gradient = isograd.grad(lambda w, b: loss(w * 1.0 + b, 0.0), (0, 1))
    for step in range(100_000):
        if neuron(1.0, w, b) < 0.1:
            return step
        dw, db = gradient(w, b)
        w, b = w - 0.15 * dw, b - 0.15 * db
    raise AssertionError("it never learns")


def test_a_saturated_neuron_learns_slowly_from_squared_error_alone() -> None:
    """Nielsen 2015, Neural networks and deep learning, ch. 3: start at w = b = 2, rate 0.15."""
    easy = {f: steps_until_right(f, 0.6, 0.9) for f in (squared_error, cross_entropy)}
    hard = {f: steps_until_right(f, 2.0, 2.0) for f in (squared_error, cross_entropy)}
    assert hard[squared_error] > 3 * hard[cross_entropy]
    slowed = {f: hard[f] - easy[f] for f in hard}
    assert slowed[squared_error] > 10 * slowed[cross_entropy]
