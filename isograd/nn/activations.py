"""Activation functions, in the engine's operations; their derivatives come from the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from isograd.engine.autodiff import jvp
from isograd.engine.functions import (
    clip,
    erf,
    erfc,
    expm1,
    logistic,
    sin,
    softmax,
    softplus,
    tanh,
    where,
)
from isograd.engine.ops import Value
from isograd.errors import TheoryError
from isograd.nn.spec import Activation
from isograd.theory import Phi

# Klambauer et al. 2017, eq. 14: the fixed point of mean and variance at (0, 1).
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


@dataclass(frozen=True, slots=True)
class Formula:
    """An activation function.

    Attributes:
        f: `f(x, parameter)`: x (n, M), the parameter a float, or (M,) where it is learned.
        text: the formula, as written.
        source: where it comes from.
        kinks: where its first or second derivative jumps; the slope there is PyTorch's.
        elementwise: whether each value depends on the input at its own place alone. What theory
            says, and the active interval, are of such functions only.
    """

    f: Callable[[Value, Value], Value]
    text: str
    source: str
    kinks: tuple[float, ...] = ()
    elementwise: bool = True


def _leaky_relu(x: Value, alpha: Value) -> Value:
    return where(x > 0, x, alpha * x)


def _elu(x: Value, alpha: Value) -> Value:
    # expm1 is shielded from x > 0: there it would overflow, and 0 · inf is no derivative.
    return where(x > 0, x, alpha * expm1(where(x > 0, 0.0, x)))


def _swish(x: Value, beta: Value) -> Value:
    return x * logistic(beta * x)


def _gelu_tanh(x: Value, _: Value) -> Value:
    # (1 + tanh u)/2 cancels left of 0; σ(2u) does not. Beyond ±32 it is 0 or 1, and x³ would only
    # overflow.
    near = clip(x, -32.0, 32.0)
    return x * logistic(math.sqrt(8.0 / math.pi) * (near + 0.044715 * near * near * near))


# Each value and slope is right to a few roundings of itself for every x, infinities included, but:
# - x·σ(…) and gelu are NaN at −inf and their slopes at ±inf (0 · inf, as in PyTorch);
# - their slopes have a zero left of 0, beside which they are right to a rounding of 1;
# - a factor of x that is below the smallest normal number may be 0;
# - where the argument of an exponential is rounded, its tail is right to as many roundings as the
#   exponent is large: swish with β ≠ 1, gelu and its two approximations, the slopes of lecun_tanh
#   and erf, and softmax.
FORMULAS: dict[str, Formula] = {
    "identity": Formula(lambda x, _: x, "x", "definition"),
    "logistic": Formula(
        lambda x, _: logistic(x), "σ(x) = 1/(1 + e⁻ˣ)", "Rumelhart, Hinton & Williams 1986"
    ),
    "tanh": Formula(lambda x, _: tanh(x), "tanh x", "LeCun et al. 1998, Efficient BackProp"),
    # Written so that NaN stays NaN: it is not ≤ 0.
    "relu": Formula(
        lambda x, _: where(x <= 0, 0.0, x), "max(x, 0)", "Nair & Hinton 2010", kinks=(0.0,)
    ),
    "leaky_relu": Formula(
        _leaky_relu, "x if x > 0 else α·x", "Maas, Hannun & Ng 2013", kinks=(0.0,)
    ),
    "elu": Formula(
        _elu, "x if x > 0 else α·(eˣ − 1)", "Clevert, Unterthiner & Hochreiter 2016", kinks=(0.0,)
    ),
    "selu": Formula(
        lambda x, _: SELU_SCALE * _elu(x, SELU_ALPHA),
        "λ·elu(x; α), α = 1.6733, λ = 1.0507",
        "Klambauer et al. 2017, eq. 2",
        kinks=(0.0,),
    ),
    "softplus": Formula(lambda x, _: softplus(x), "ln(1 + eˣ)", "Dugas et al. 2001"),
    "silu": Formula(
        lambda x, _: x * logistic(x), "x·σ(x)", "Elfwing, Uchibe & Doya 2018; Ramachandran 2017"
    ),
    # 1 + erf would cancel left of −1.
    "gelu": Formula(
        lambda x, _: 0.5 * x * erfc(-math.sqrt(0.5) * x),
        "x·Φ(x) = ½x·erfc(−x/√2)",
        "Hendrycks & Gimpel 2016",
    ),
    # The same function as 4σ(x) − 2, which cancels near 0.
    "scaled_sigmoid": Formula(
        lambda x, _: 2.0 * tanh(0.5 * x), "4σ(x) − 2 = 2·tanh(x/2)", "slope 1 and value 0 at 0"
    ),
    "prelu": Formula(
        _leaky_relu, "x if x > 0 else α·x, α learned", "He et al. 2015, eq. 1", kinks=(0.0,)
    ),
    "swish": Formula(_swish, "x·σ(βx)", "Ramachandran, Zoph & Le 2017"),
    "gelu_tanh": Formula(
        _gelu_tanh,
        "½x·(1 + tanh u) = x·σ(2u), u = √(2/π)·(x + 0.044715x³)",
        "Hendrycks & Gimpel 2016, sec. 2",
    ),
    "gelu_logistic": Formula(
        lambda x, _: _swish(x, 1.702), "x·σ(1.702x)", "Hendrycks & Gimpel 2016, sec. 2"
    ),
    "hard_tanh": Formula(
        lambda x, _: where(x >= 1, 1.0, where(x <= -1, -1.0, x)),
        "max(−1, min(1, x))",
        "Collobert 2004",
        kinks=(-1.0, 1.0),
    ),
    "lecun_tanh": Formula(
        lambda x, _: 1.7159 * tanh(x * (2.0 / 3.0)),
        "1.7159·tanh(2x/3)",
        "LeCun et al. 1998, sec. 4.4",
    ),
    "erf": Formula(lambda x, _: erf(x), "2/√π ∫₀ˣ e^(−t²) dt", "Williams 1997"),
    "sine": Formula(lambda x, _: sin(x), "sin x", "Sitzmann et al. 2020"),
    "softmax": Formula(
        lambda x, _: softmax(x), "eˣ/Σ eˣ over the row", "Bridle 1990", elementwise=False
    ),
}


def activation(layer: Activation, parameter: Value | None = None) -> Callable[[Value], Value]:
    """The function that a layer of the spec applies.

    Args:
        layer: which.
        parameter: its parameter where that is learned, (M,); None takes the number of the spec.
    """
    formula = FORMULAS[layer.name]
    value = layer.parameter if parameter is None else parameter

    @np.errstate(all="ignore")  # infinities and NaN are results, on plain arrays too
    def function(x: Value) -> Value:
        return formula.f(x, value)

    return function


@lru_cache(maxsize=256)
def phi(layer: Activation) -> Phi:
    """The activation as theory sees it: φ and φ′ on float64 arrays, and its kinks.

    Raises:
        TheoryError: if it is not elementwise, as softmax.
    """
    formula, f = FORMULAS[layer.name], activation(layer)
    if not formula.elementwise:
        raise TheoryError(
            "theory covers activations that act on each value by itself",
            came=f"{layer.name}: {formula.text}",
            fix="use it after the last layer alone, or another activation",
        )

    def value(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(f(np.asarray(x)))

    def slope(x: NDArray[np.float64]) -> NDArray[np.float64]:
        x = np.asarray(x)
        return np.asarray(jvp(f, (x,), (np.ones_like(x),))[1])

    given = layer.beta if layer.alpha is None else layer.alpha
    name = layer.name if given is None else f"{layer.name}({given:g})"
    return Phi(name, value, slope, formula.kinks)


SATURATED_SLOPE = 0.01
"""A unit counts as saturated where |φ′| is below this share of its largest value: what passes
backwards there is smaller by two decades than where the unit works best."""


@lru_cache(maxsize=256)
def active_interval(layer: Activation) -> tuple[float, float]:
    """The interval of pre-activations outside of which |φ′| < 1 % of its largest value.

    Returns:
        (low, high); an end is infinite where the slope stays large, or comes back again and again
        as that of a sine: no unit saturates there.
    """
    kinks = phi(layer).kinks
    grid = _grid()
    level = _steepness(layer, grid)
    bound = SATURATED_SLOPE * float(level.max())
    active = np.flatnonzero(level >= bound)

    def edge(outside: int, inside: int) -> float:
        def gap(x: float) -> float:
            return float(_steepness(layer, np.array([x]))[0]) - bound

        a, b = float(grid[outside]), float(grid[inside])
        if gap(b) <= 0:  # it lies on the grid, to rounding
            return b
        found = float(scipy.optimize.brentq(gap, a, b))
        # Where the slope jumps over the bound, the search closes in on the kink but misses it.
        return next((k for k in kinks if abs(k - found) < 1e-9), found)

    first, last = active[0], active[-1]
    stays = _REACH - 2.0 * math.pi  # what is active within a period of the grid's end comes back
    low = -math.inf if grid[first] < -stays else edge(first - 1, first)
    high = math.inf if grid[last] > stays else edge(last + 1, last)
    return low, high


@lru_cache(maxsize=256)
def largest_slope(layer: Activation) -> float:
    """sup |φ′| to 1e-7, the most that an activation lets through backwards; inf if unbounded."""
    inside = float(_steepness(layer, _grid()).max())
    outside = float(_steepness(layer, np.array([-1e9, -1e6, 1e6, 1e9])).max())
    return inside if outside <= 2.0 * inside else math.inf


_REACH = 40.0
"""How far out to search: activations are of scale 1."""


def _grid() -> NDArray[np.float64]:
    """Pre-activations to search; the kinks of the built-in activations lie on it."""
    return np.linspace(-_REACH, _REACH, 160_001)


def _steepness(layer: Activation, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """|φ′|, and 0 where it is not finite."""
    slope = np.abs(phi(layer).df(x))
    return np.where(np.isfinite(slope), slope, 0.0)


__all__ = [
    "FORMULAS",
    "Formula",
    "activation",
    "active_interval",
    "largest_slope",
    "phi",
]
