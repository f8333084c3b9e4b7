"""The law of φ′(u)² for a Gaussian u, and the transform by which free probability knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.errors import TheoryError
from isograd.theory.quadrature import Array, Phi, check_variance, expectations

_STEPS = 100
_REACH, _ORDER = 9.0, 20  # in standard deviations; nodes of a panel
_RARE = 1e-16  # a node with a smaller share is left out: about 8 standard deviations
_FEW = 16  # a φ that is linear in pieces has fewer slopes; of another each node has its own


@dataclass(frozen=True, eq=False)
class SlopeLaw:
    """The law of d = φ′(u)², u ~ N(0, q), as atoms.

    A φ that is linear in pieces has a few; of another the atoms are the nodes of a quadrature, out
    to 8 standard deviations of u: a φ′ that grows without end, or is largest far out, counts as far
    as there.

    Attributes:
        values: d > 0, ascending, with `weights`; the share `zeros` is beside.
        mean: μ₁ = E φ′².
        spread: μ₂/μ₁² = E φ′⁴/(E φ′²)².
    """

    values: Array
    weights: Array
    zeros: float
    mean: float
    spread: float

    @property
    def constant(self) -> bool:
        """Whether d takes one value, and never 0."""
        return self.values.size == 1 and self.zeros == 0

    @property
    def atomic(self) -> bool:
        """Whether d takes a few values only: φ is linear in pieces."""
        return self.values.size <= _FEW

    def transform(self, w: Any) -> NDArray[Any]:
        """M(w) = E d/(w − d)."""
        w = np.asarray(w)
        with np.errstate(all="ignore"):
            return np.asarray((self.weights * self.values / (w[..., None] - self.values)).sum(-1))

    def transform_slope(self, w: Any) -> NDArray[Any]:
        """M′(w) = −E d/(w − d)²."""
        w = np.asarray(w)
        with np.errstate(all="ignore"):
            terms = self.weights * self.values / (w[..., None] - self.values) ** 2
        return np.asarray(-terms.sum(-1))

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """ζ with M(ζ) = y on the real axis, and M′(ζ): above all d where y > 0, below where y < 0.

        With v = |ζ/d − 1|, d the nearest value, |M| = E dᵢ/(d v + |dᵢ − d|) falls as v grows. The
        root is sought in ln v, by Newton's method within bounds that close in on it.
        """
        y = np.asarray(y, np.float64)
        ends = np.where(y > 0, -1, 0)
        d, p, size = self.values[ends], self.weights[ends], np.abs(y)
        gaps = np.abs(self.values - d[..., None])
        low = np.log(p / size)
        total = float(self.weights.sum())
        high = np.log(np.maximum(total / size, np.where(y > 0, 0, 1 + self.mean / (size * d))))
        t = low
        with np.errstate(all="ignore"):
            for _ in range(_STEPS):
                reach = d * np.exp(t)
                terms = self.weights * self.values / (reach[..., None] + gaps)
                m = terms.sum(-1)
                slope = (terms / (reach[..., None] + gaps)).sum(-1)
                low, high = np.where(m > size, t, low), np.where(m > size, high, t)
                new = t + np.log(m / size) * m / (reach * slope)
                inside = (new >= low) & (new <= high)
                new = np.where(inside, new, (low + high) / 2)
                moved, t = np.abs(new - t), new
                if np.all(moved <= 1e-14 * np.maximum(1.0, np.abs(t))):
                    break
        return d * (1 + np.sign(y) * np.exp(t)), -slope

    def inverse_near(self, y: complex, w: complex) -> complex:
        """ζ with M(ζ) = y, the one near w, by Newton's method on 1/M."""
        if self.values.size == 1:
            return complex(self.values[0] * (1 + self.weights[0] / y))
        for _ in range(_STEPS):
            m = complex(self.transform(w))
            step = m * (1 - m / y) / complex(self.transform_slope(w))
            w += step
            if abs(step) <= 1e-14 * abs(w):
                break
        return w


LINEAR = SlopeLaw(np.ones(1), np.ones(1), 0.0, 1.0, 1.0)
"""φ′ = 1."""


@lru_cache(maxsize=256)
def slope_law(phi: Phi, q: float) -> SlopeLaw:
    """The law of φ′², checked against averages by another quadrature.

    Args:
        phi: the activation.
        q: variance of the pre-activations.

    Raises:
        TheoryError: φ is flat everywhere, or its moments do not come out as they should.
    """
    scale = math.sqrt(check_variance(q))

    def integrands(u: Array) -> Array:
        d = phi.df(u) ** 2
        return np.stack([d, d * d])

    first, second = map(float, expectations(integrands, q, kinks=phi.kinks, name=phi.name))
    if not first > 0:
        raise TheoryError(
            "the law of φ′² needs an activation that passes some signal",
            came="φ′ = 0 almost everywhere",
            where=f"{phi.name} at q = {q:.6g}",
        )
    if scale == 0:
        ends = np.array([-1e-150, 1e-150])
        return _atoms(phi.df(ends), np.full(2, 0.5), first, second)
    for width in (1.0, min(1.0, 1 / scale), min(1.0, 1 / scale) / 8):
        u, weights = _nodes(phi, scale, width)
        law = _atoms(phi.df(u), weights, first, second)
        got = [float(law.weights @ law.values**k) for k in (1, 2)]
        if np.allclose(got, (first, second), rtol=1e-8, atol=0):
            return law
    raise TheoryError(
        "the law of φ′² must have the moments of φ′²",
        came=f"{got[0]:.12g} for {first:.12g}, {got[1]:.12g} for {second:.12g}",
        where=f"{phi.name} at q = {q:.6g}",
        fix="declare the kinks of φ (Phi.kinks)",
    )


def _nodes(phi: Phi, scale: float, width: float) -> tuple[Array, Array]:
    """Pre-activations, ascending, with Gaussian weights, by Gauss–Legendre on panels.

    The panels have the given width, in standard deviations, and are halved towards 0 and the kinks,
    where φ turns on its own scale of 1.
    """
    centres = np.array([0.0, *phi.kinks]) / scale
    levels = max(0, math.ceil(math.log2(scale))) + 3
    steps = width * 0.5 ** np.arange(1, levels + 1)
    near = np.concatenate([centres, *(c + sign * steps for c in centres for sign in (-1, 1))])
    even = np.linspace(-_REACH, _REACH, 2 * math.ceil(_REACH / width) + 1)
    edges = np.unique(np.concatenate([even, near[np.abs(near) < _REACH]]))
    x, w = np.polynomial.legendre.leggauss(_ORDER)
    half = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (1 + x)
    weights = half * w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return scale * z.ravel(), weights.ravel()


def _atoms(slope: Array, weights: Array, first: float, second: float) -> SlopeLaw:
    """The law from φ′ and the weights of its values."""
    held = weights > _RARE
    values, where = np.unique(slope[held] ** 2, return_inverse=True)
    shares = np.bincount(where, weights[held]) / weights[held].sum()
    positive = values > 0
    zeros = float(shares[~positive].sum())
    return SlopeLaw(values[positive], shares[positive], zeros, first, second / first**2)
