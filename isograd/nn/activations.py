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
from isograd.engine.functions import erf, expm1, logistic, softplus, tanh, where
from isograd.engine.ops import Value
from isograd.nn.spec import Activation
from isograd.theory import Phi

# Klambauer et al. 2017, eq. 14: the fixed point of mean and variance at (0, 1).
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


@dataclass(frozen=True, slots=True)
class Formula:
    """An activation function.

    Attributes:
        f: `f(x, alpha)`, elementwise.
        text: the formula, as written.
        source: where it comes from.
        kinks: where its first or second derivative jumps; at a kink the slope is that of the side
            x ≤ 0, as in PyTorch.
    """

    f: Callable[[Value, float], Value]
    text: str
    source: str
    kinks: tuple[float, ...] = ()


def _elu(x: Value, alpha: float) -> Value:
    # expm1 is shielded from x > 0: there it would overflow, and 0 · inf is no derivative.
    return where(x > 0, x, alpha * expm1(where(x > 0, 0.0, x)))


# Each value and slope is right to a few roundings of itself for every x, infinities included, but:
# silu and gelu are NaN at −inf and their slopes at ±inf (0 · inf, as in PyTorch), and gelu left of
# −1 is right to a rounding of x alone, as 1 + erf cancels there.
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
        lambda x, alpha: where(x > 0, x, alpha * x),
        "x if x > 0 else α·x",
        "Maas, Hannun & Ng 2013",
        kinks=(0.0,),
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
    "gelu": Formula(
        lambda x, _: 0.5 * x * (1.0 + erf(x * math.sqrt(0.5))),
        "x·Φ(x)",
        "Hendrycks & Gimpel 2016",
    ),
    # The same function as 4σ(x) − 2, which cancels near 0.
    "scaled_sigmoid": Formula(
        lambda x, _: 2.0 * tanh(0.5 * x), "4σ(x) − 2 = 2·tanh(x/2)", "slope 1 and value 0 at 0"
    ),
}


def activation(layer: Activation) -> Callable[[Value], Value]:
    """The function that a layer of the spec applies, elementwise."""
    formula = FORMULAS[layer.name]
    alpha = layer.parameter

    @np.errstate(all="ignore")  # infinities and NaN are results, on plain arrays too
    def function(x: Value) -> Value:
        return formula.f(x, alpha)

    return function


@lru_cache(maxsize=256)
def phi(layer: Activation) -> Phi:
    """The activation as theory sees it: φ and φ′ on float64 arrays, and its kinks."""
    f = activation(layer)

    def value(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(f(np.asarray(x)))

    def slope(x: NDArray[np.float64]) -> NDArray[np.float64]:
        x = np.asarray(x)
        return np.asarray(jvp(f, (x,), (np.ones_like(x),))[1])

    name = layer.name if layer.alpha is None else f"{layer.name}({layer.alpha:g})"
    return Phi(name, value, slope, FORMULAS[layer.name].kinks)


SATURATED_SLOPE = 0.01
"""A unit counts as saturated where |φ′| is below this share of its largest value: what passes
backwards there is smaller by two decades than where the unit works best."""


@lru_cache(maxsize=256)
def active_interval(layer: Activation) -> tuple[float, float]:
    """The interval of pre-activations outside of which |φ′| < 1 % of its largest value.

    Returns:
        (low, high); an end is infinite where the slope stays large.
    """
    slope, kinks = phi(layer).df, phi(layer).kinks
    grid = _grid()
    level = np.abs(slope(grid))
    bound = SATURATED_SLOPE * float(level.max())
    active = np.flatnonzero(level >= bound)

    def edge(outside: int, inside: int) -> float:
        def gap(x: float) -> float:
            return float(np.abs(slope(np.array(x)))) - bound

        a, b = float(grid[outside]), float(grid[inside])
        if gap(b) <= 0:  # it lies on the grid, to rounding
            return b
        found = float(scipy.optimize.brentq(gap, a, b))
        # Where the slope jumps over the bound, the search closes in on the kink but misses it.
        return next((k for k in kinks if abs(k - found) < 1e-9), found)

    low = -math.inf if active[0] == 0 else edge(active[0] - 1, active[0])
    high = math.inf if active[-1] == len(grid) - 1 else edge(active[-1] + 1, active[-1])
    return low, high


def largest_slope(layer: Activation) -> float:
    """sup |φ′| to 1e-7, the most that an activation lets through backwards."""
    return float(np.abs(phi(layer).df(_grid())).max())


def _grid() -> NDArray[np.float64]:
    """Pre-activations to search: activations are of scale 1, and their kinks lie on the grid."""
    return np.linspace(-40.0, 40.0, 160_001)


__all__ = [
    "FORMULAS",
    "Formula",
    "activation",
    "active_interval",
    "largest_slope",
    "phi",
]
