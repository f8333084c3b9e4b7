"""Predicted spectra: the squared singular values of a wide random network's Jacobian.

Mean, variance and edges are those of the product of its layers (`isograd.theory.free_products`).
For the density the equation M⁻¹(y) = z is solved for y = M(z) along a path of z: of its many
solutions the one that belongs to the spectrum is followed from large z, where it is known.

References: Pennington, Schoenholz & Ganguli 2018.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.activation import PhiLike, phi_of
from isograd.theory.free_products import Factor, Product, RandomLayer, Weights
from isograd.theory.quadrature import Array


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
    _product: Product = field(repr=False, compare=False)

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
            values = _imaginary(self._product, logs + self.log_mean)
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
    product = Product(layers)
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


_ANGLE = 0.3
"""The ray above the real axis along which a solution is followed: far enough from singularities
for steps of order 1 in ln z, and low enough to be soon down on the axis."""


def _imaginary(product: Product, logs: Array) -> Array:
    """Im M(e^s + i0) at ascending s inside of the support."""
    if not product.powers and sum(f.count for f in product.curved) == 1:
        raise TheoryError(
            "a spectrum with a density must be that of a product",
            came="one orthogonal layer, whose λ/σ_w² are the values of φ′² themselves",
        )
    follower = _Follower(product, complex(max(product.upper(), logs[-1]) + 8.0, _ANGLE))
    out = np.empty(logs.shape)
    for k in range(logs.size - 1, -1, -1):
        follower.to(complex(logs[k], _ANGLE))
        out[k] = follower.imaginary()
    return out


class _Follower:
    """A solution y of M⁻¹(y) = z, followed as ln z moves through the upper half plane.

    Newton's method in ln y, from where the last step ended; a step that fails is halved. The inner
    inverses ζ are followed alike.

    Args:
        product: whose M⁻¹.
        start: ln z, with |z| far above the support: there y ≈ E λ/z.
    """

    def __init__(self, product: Product, start: complex) -> None:
        self.product = product
        self.place, self.log_y, self.slope = start, product.log_mean - start, -1 + 0j
        self.inner: dict[Factor, complex] = {}
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

        def zeta(f: Factor, a: Any) -> Any:
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


__all__ = ["PredictedSpectrum", "equal_layers", "predicted_spectrum"]
