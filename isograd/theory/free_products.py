"""Products of free random layers: M⁻¹ of their spectrum, with its mean, variance and edges.

J = D_L W_L … D_1 W_1 with independent random W_l and diagonal D_l = φ′(u), u ~ N(0, q_l). For
large widths the factors are free, and S-transforms multiply (Voiculescu 1987). With
M(z) = E λ/(z − λ) and its inverse M⁻¹(y) = (1 + y)/(y S(y)), for square layers

    M⁻¹(y) = (1 + y)/y · ∏ₗ y ζₗ(y)/(1 + y) · gₗ(y),

where ζ is the inverse of E φ′²/(z − φ′²) and g = σ_w²(1 + y) for Gaussian weights, σ_w² for
orthogonal ones (Pennington, Schoenholz & Ganguli 2018). Between layers of different
widths y counts eigenvalues, not shares of them: at width n it is y·m/n.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from isograd.errors import TheoryError
from isograd.theory.quadrature import Array, Phi, check_variance
from isograd.theory.slopes import LINEAR, SlopeLaw, slope_law

Weights = Literal["gaussian", "orthogonal"]

_GRID = np.linspace(-40.0, 40.0, 321)  # of ln y: from 10⁻¹⁷, a depth beyond any, to 10¹⁷


@dataclass(frozen=True)
class RandomLayer:
    """One factor D W of a Jacobian.

    Args:
        sigma_w2: σ_w² = n_in · Var W.
        weights: "gaussian" (or any independent entries), or "orthogonal" (Haar).
        phi: the activation behind the weights; None for none.
        q: variance of the pre-activations.
        n_in, n_out: widths; only their ratios count.
    """

    sigma_w2: float
    weights: Weights = "gaussian"
    phi: Phi | None = None
    q: float = 1.0
    n_in: float = 1
    n_out: float = 1

    def __post_init__(self) -> None:
        if not check_variance(self.sigma_w2, "σ_w²") > 0:
            raise TheoryError("σ_w² must be above 0 for a Jacobian", came=repr(self.sigma_w2))
        if self.weights not in ("gaussian", "orthogonal"):
            raise TheoryError('weights must be "gaussian" or "orthogonal"', came=repr(self.weights))
        if not (self.n_in > 0 and self.n_out > 0):
            raise TheoryError("widths must be above 0", came=f"{self.n_in} to {self.n_out}")

    @property
    def law(self) -> SlopeLaw:
        """The law of φ′²."""
        return LINEAR if self.phi is None else slope_law(self.phi, self.q)


@dataclass(frozen=True)
class Factor:
    """Equal layers as a factor of M⁻¹; `inner` and `outer` are m/n_in and m/n_out."""

    count: int
    layer: RandomLayer
    law: SlopeLaw
    inner: float
    outer: float

    @property
    def weights(self) -> tuple[int, int]:
        """Powers of (1 + y) at the widths n_in and n_out that the weights bring."""
        if self.layer.weights == "gaussian":
            return 1, 0
        tall = self.layer.n_out > self.layer.n_in
        return int(tall), -int(tall)


class Product:
    """ln M⁻¹ of a product of layers, and what follows from it."""

    def __init__(self, layers: tuple[RandomLayer, ...]) -> None:
        first, last = layers[0].n_in, layers[-1].n_out
        m = min(first, last)
        self.last = m / last
        self.factors = [
            Factor(count, layer, layer.law, m / layer.n_in, m / layer.n_out)
            for layer, count in Counter(layers).items()
        ]
        self.constant = 0.0
        powers: Counter[float] = Counter({self.last: 1})  # of (1 + ratio·y), by ratio
        self.log_mean = -math.log(self.last)
        second = self.last
        self.rank = 1.0
        for f in self.factors:
            inner, outer = f.weights
            self.constant += f.count * math.log(f.layer.sigma_w2)
            self.log_mean += f.count * math.log(f.layer.sigma_w2 * f.law.mean)
            second += f.count * ((f.law.spread - 1 + outer) * f.outer + inner * f.inner)
            self.rank = min(self.rank, (1 - f.law.zeros) / f.outer)
            powers[f.inner] += f.count * inner
            powers[f.outer] += f.count * (outer - (not f.law.constant))
            if f.law.constant:  # y ζ(y) is d (1 + y), which cancels
                self.constant += f.count * math.log(f.law.mean)
        self.powers = {ratio: power for ratio, power in powers.items() if power}
        self.curved = [f for f in self.factors if not f.law.constant]
        self.variance = max(second - 1, 0.0)
        self.zeros = 1 - self.rank

    def log(
        self, y: NDArray[Any], zeta: Callable[[Factor, NDArray[Any]], tuple[Any, Any]]
    ) -> tuple[NDArray[np.complex128], NDArray[Any]]:
        """ln M⁻¹(y) up to multiples of 2πi, and y times its derivative, from ζ and M′(ζ)."""
        with np.errstate(all="ignore"):  # zeros and poles lie on the way
            value = self.constant - np.log(self.last * y + 0j)
            slope = -np.ones_like(value)
            for ratio, power in self.powers.items():
                value = value + power * np.log(1 + ratio * y + 0j)
                slope = slope + power * ratio * y / (1 + ratio * y)
            for f in self.curved:
                a = f.outer * y
                w, transform_slope = zeta(f, a)
                value = value + f.count * np.log(a * w + 0j)
                slope = slope + f.count * (1 + a / (w * transform_slope))
        return value, slope

    def real(self, y: Array) -> tuple[Array, Array, Array]:
        """ln |M⁻¹(y)|, its sign, and y times its derivative, outside of the support."""
        value, slope = self.log(y, lambda f, a: f.law.inverse(a))
        return value.real, np.sign(np.cos(value.imag)), slope.real

    def upper(self) -> float:
        """ln of the upper edge: the first minimum of M⁻¹ from y = 0⁺, or its limit at y = ∞."""
        return self._stationary(np.exp, _GRID, lowest=True)

    def lower(self) -> float:
        """ln of the lower edge: the first maximum of M⁻¹ below y = −rank, or its limit.

        −∞ where a φ is not linear in pieces, as its φ′² commonly comes down to 0; and where M⁻¹ has
        no simple zero at −rank: the support then reaches down to 0.
        """
        if not all(f.law.atomic for f in self.factors):
            return -math.inf
        near = -self.rank * (1 + np.array([1e-6, 2e-6]))
        log, sign, _ = self.real(near)
        order = (log[1] - log[0]) / math.log(2)
        if sign[0] < 0 or not abs(order - 1) < 0.5:
            return -math.inf

        def below(t: Any) -> Any:
            return -self.rank * (1 + np.exp(t))

        return self._stationary(below, _GRID[_GRID > -20], lowest=False)

    def _stationary(self, y: Callable[[Any], Any], grid: Array, *, lowest: bool) -> float:
        """The first extremum of ln |M⁻¹(y(t))| over a grid of t, or the value at its end."""
        turn = 1 if lowest else -1
        log, _, slope = self.real(y(grid))
        # |y| grows with t, so that d/dt has the sign of y d/dy.
        found = np.flatnonzero((turn * slope[1:] > 0) & (turn * slope[:-1] <= 0))
        if not found.size:
            return float(log[-1])

        def height(t: float) -> float:
            return turn * float(self.real(np.array([y(t)]))[0][0])

        # The extremum itself is enough: rounding of ζ may move a root of the slope out of bounds.
        around = (grid[max(found[0] - 1, 0)], grid[min(found[0] + 2, grid.size - 1)])
        best = minimize_scalar(height, bounds=around, method="bounded", options={"xatol": 1e-9})
        return turn * float(best.fun)

    def at_upper(self) -> float:
        """The share of λ at the upper edge: lim y (M⁻¹(y)/M⁻¹(∞) − 1) for y → ∞."""
        if not all(f.law.atomic and f.layer.weights == "orthogonal" for f in self.factors):
            return 0.0
        share = 1 / self.last
        for f in self.factors:
            inner, outer = f.weights
            share += f.count * ((f.law.weights[-1] - 1 + outer) / f.outer + inner / f.inner)
        return max(float(share), 0.0)


__all__ = ["Factor", "Product", "RandomLayer", "Weights"]
