"""Predicted spectra: the squared singular values of a wide random network's Jacobian.

J = D_L W_L … D_1 W_1 with independent random W_l and diagonal D_l = φ′(u), u ~ N(0, q_l). For
large widths the factors are free, and S-transforms multiply (Voiculescu 1987). With
M(z) = E λ/(z − λ) and its inverse M⁻¹(y) = (1 + y)/(y S(y)), for square layers

    M⁻¹(y) = (1 + y)/y · ∏ₗ y ζₗ(y)/(1 + y) · gₗ(y),

where ζ is the inverse of E φ′²/(z − φ′²) and g = σ_w²(1 + y) for Gaussian weights, σ_w² for
orthogonal ones (Pennington, Schoenholz & Ganguli 2018). Between layers of different
widths y counts eigenvalues, not shares of them: at width n it is y·m/n.
"""

from __future__ import annotations

import cmath
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from isograd.errors import TheoryError
from isograd.theory.activation import PhiLike, phi_of
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
class PredictedSpectrum:
    """The squared singular values λ of J at large widths, min(n_0, n_L) of them, over their mean.

    Attributes:
        depth: L.
        log_mean: ln E λ; for equal square layers L ln χ₁.
        variance: of λ/E λ; for equal square layers L(μ₂/μ₁² − 1 − s₁), μ_k = E φ′²ᵏ, s₁ = −1 for
            Gaussian weights and 0 for orthogonal ones.
        lower, upper: the least and the largest λ/E λ beside zeros. `lower` is 0 where a φ is not
            linear in pieces, though hardly a λ may come near it.
        zeros: the share of λ that are 0.
        at_upper: the share of λ that lie at the upper edge; elsewhere there is a density.
    """

    depth: int
    log_mean: float
    variance: float
    lower: float
    upper: float
    zeros: float
    at_upper: float
    _product: _Product = field(repr=False, compare=False)

    @property
    def condition(self) -> float:
        """The ratio of the extreme singular values, zeros included."""
        least = 0.0 if self.zeros > 0 else self.lower
        return math.sqrt(self.upper / least) if least > 0 else math.inf

    def density(self, x: Any) -> Array:
        """The density of λ/E λ at x, zeros and what lies at the upper edge left out.

        ρ(x) = −Im M(x + i0)/(πx): the equation M⁻¹(y) = z is followed from large z, along a ray
        above the real axis, and down to the axis at each x.

        Args:
            x: where, of any shape; 0 outside of the support.

        Raises:
            TheoryError: for one orthogonal layer, whose λ/σ_w² are the values of φ′²; or the
                solution cannot be followed.

        References: Pennington, Schoenholz & Ganguli 2018, algorithm 1 (the same equation).
        """
        x = np.asarray(x, np.float64)
        out = np.zeros(x.shape)
        inside = (x > self.lower) & (x < self.upper) & (x > 0)
        if inside.any():
            logs, where = np.unique(np.log(x[inside]), return_inverse=True)
            values = self._product.imaginary(logs + self.log_mean)
            out[inside] = -values[where] / math.pi / x[inside]
        return out.clip(0.0)


def equal_layers(
    phi: PhiLike | None, q: float, sw2: float, depth: int, weights: Weights = "gaussian"
) -> tuple[RandomLayer, ...]:
    """L equal square layers: a deep network whose pre-activations have settled at variance q."""
    if depth < 1:
        raise TheoryError("a product must have at least 1 layer", came=repr(depth))
    return (RandomLayer(sw2, weights, None if phi is None else phi_of(phi), q),) * depth


def predicted_spectrum(layers: Sequence[RandomLayer]) -> PredictedSpectrum:
    """The spectrum that theory predicts for J = D_L W_L … D_1 W_1.

    The edges are where M⁻¹ is stationary on the real axis: for L Gaussian linear layers
    (L+1)^{L+1}/L^L, for ReLU layers with σ_w² = 2 min_y (1 + y)/y · (1 + 2y)^L.

    Args:
        layers: from the first to the last; see `equal_layers` for a chain of equal ones. Their
            number costs nothing where they are equal.

    Raises:
        TheoryError: widths that do not meet, or an activation that is flat everywhere.

    References: Pennington, Schoenholz & Ganguli 2017, table 1; 2018; Penson & Życzkowski 2011
        (Fuss–Catalan); Müller 2002 (layers of different widths).
    """
    layers = tuple(layers)
    if not layers:
        raise TheoryError("a product must have at least 1 layer", came="none")
    for number, (before, after) in enumerate(pairwise(layers), 2):
        if before.n_out != after.n_in:
            raise TheoryError(
                "a layer must take what the one before it gives",
                came=f"n_in = {after.n_in:g} after n_out = {before.n_out:g}",
                where=f"layer {number} of {len(layers)}",
            )
    product = _Product(layers)
    lower, upper, at_upper = product.lower(), product.upper(), product.at_upper()
    return PredictedSpectrum(
        len(layers),
        product.log_mean,
        product.variance,
        _exp(lower - product.log_mean),
        _exp(upper - product.log_mean),
        product.zeros,
        at_upper,
        product,
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


@dataclass(frozen=True)
class _Factor:
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


class _Product:
    """ln M⁻¹ of a product of layers, and what follows from it."""

    def __init__(self, layers: tuple[RandomLayer, ...]) -> None:
        first, last = layers[0].n_in, layers[-1].n_out
        m = min(first, last)
        self.last = m / last
        self.factors = [
            _Factor(count, layer, layer.law, m / layer.n_in, m / layer.n_out)
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
        self, y: NDArray[Any], zeta: Callable[[_Factor, NDArray[Any]], tuple[Any, Any]]
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

    def imaginary(self, logs: Array) -> Array:
        """Im M(e^s + i0) at ascending s inside of the support."""
        if not self.powers and sum(f.count for f in self.curved) == 1:
            raise TheoryError(
                "a spectrum with a density must be that of a product",
                came="one orthogonal layer, whose λ/σ_w² are the values of φ′² themselves",
            )
        follower = _Follower(self, complex(max(self.upper(), logs[-1]) + 8.0, _ANGLE))
        out = np.empty(logs.shape)
        for k in range(logs.size - 1, -1, -1):
            follower.to(complex(logs[k], _ANGLE))
            out[k] = follower.imaginary()
        return out


_ANGLE = 0.3
"""The ray above the real axis along which a solution is followed: far enough from singularities
for steps of order 1 in ln z, and low enough to be soon down on the axis."""


class _Follower:
    """A solution y of M⁻¹(y) = z, followed as ln z moves through the upper half plane.

    Newton's method in ln y, from where the last step ended; a step that fails is halved. The inner
    inverses ζ are followed alike.

    Args:
        product: whose M⁻¹.
        start: ln z, with |z| far above the support: there y ≈ E λ/z.
    """

    def __init__(self, product: _Product, start: complex) -> None:
        self.product = product
        self.place, self.log_y, self.slope = start, product.log_mean - start, -1 + 0j
        self.inner: dict[_Factor, complex] = {}
        for f in product.factors:
            a = f.outer * cmath.exp(self.log_y)
            self.inner[f] = f.law.mean * (1 / a + f.law.spread)
        if not self._step(start):
            raise self._lost(start)

    def to(self, target: complex) -> None:
        """Follow the solution to ln z = target."""
        while self.place != target:
            share = min(1.0, 0.5 / abs(target - self.place))
            while not self._step(self.place + share * (target - self.place), exact=target):
                share /= 2
                if share < 1e-6:
                    raise self._lost(target)

    def imaginary(self) -> float:
        """Im M at the real axis below this place."""
        kept = self.place, self.log_y, self.slope, self.inner.copy()
        self.to(complex(self.place.real, 0.0))
        value = cmath.exp(self.log_y).imag
        self.place, self.log_y, self.slope, self.inner = kept
        return value

    def _step(self, target: complex, exact: complex | None = None) -> bool:
        """Move to ln z = target, or to `exact` where that is next to it; False if it fails."""
        if exact is not None and abs(target - exact) < 1e-12:
            target = exact
        inner = self.inner.copy()

        def zeta(f: _Factor, a: Any) -> Any:
            w = inner[f] = f.law.inverse_near(complex(a), inner[f])
            return w, f.law.transform_slope(w)

        log_y = self.log_y + (target - self.place) / self.slope
        for _ in range(12):
            log, turn = self.product.log(np.asarray(cmath.exp(log_y)), zeta)
            gap, slope = complex(log) - target, complex(turn)
            gap = complex(gap.real, math.remainder(gap.imag, 2 * math.pi))
            if not (cmath.isfinite(gap) and cmath.isfinite(slope)) or slope == 0:
                return False
            log_y -= gap / slope
            if abs(gap) < 1e-11 * max(1.0, abs(slope)):
                break
        else:
            return False
        if abs(log_y - self.log_y) > 1.0:  # a neighbouring solution, perhaps
            return False
        self.place, self.log_y, self.slope, self.inner = target, log_y, slope, inner
        return True

    def _lost(self, target: complex) -> TheoryError:
        return TheoryError(
            "the equation of the density must have a solution that can be followed",
            came=f"none towards ln λ = {target.real:.6g}",
            fix="ask for the density further from the edges of the spectrum, and from 0",
        )
