"""What one layer does to a Gaussian pre-activation: the moments of φ and φ′, and the gains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.activation import PhiLike, phi_of
from isograd.theory.quadrature import Array, Phi, check_variance, expectations, scan


@dataclass(frozen=True)
class Moments:
    """Averages over a pre-activation u ~ N(0, q).

    Attributes:
        mean: E φ(u).
        second: E φ(u)².
        slope: E φ′(u)².
        growth: d E φ(u)² / dq.
    """

    mean: float
    second: float
    slope: float
    growth: float


def moments(phi: PhiLike, q: float) -> Moments:
    """The moments of φ at pre-activation variance q, to 1e-10 of E|φ| … (1e-13 as a rule).

    The growth is taken in a form free of φ″: d E φ²/dq = E[φ φ′ u]/q, by parts from
    E[φ′² + φ φ″]. At q = 0 every value is its limit q → 0.

    Args:
        phi: the activation.
        q: variance of the pre-activation.

    Raises:
        TheoryError: φ is not finite, or the integrals do not converge.
    """
    return _moments(phi_of(phi), check_variance(q))


@lru_cache(maxsize=4096)
def _moments(phi: Phi, q: float) -> Moments:

    def integrands(u: Array) -> Array:
        f, df = phi.f(u), phi.df(u)
        return np.stack([f, f * f, df * df, f * df * (u / q if q > 0 else 0.0)])

    mean, second, slope, growth = map(
        float, expectations(integrands, q, kinks=phi.kinks, cuts=phi.cuts, name=phi.name)
    )
    if q == 0:
        _refuse_without_limit(phi)
    if q == 0 and abs(mean) < 1e-100:
        return Moments(0.0, 0.0, slope, slope)  # φ ≈ φ′(0±)·u through the origin
    if q == 0:
        growth = moments(phi, 1e-8).growth
    return Moments(mean, second, slope, growth)


def _refuse_without_limit(phi: Phi) -> None:
    """φ′ must settle towards 0 from each side: that of |u|^¾ does not."""
    for side in (-1.0, 1.0):
        near, nearer = phi.df(side * np.array([1e-120, 1e-150]))
        if not math.isclose(near, nearer, rel_tol=1e-6, abs_tol=1e-100):
            raise TheoryError(
                "φ′ must have a limit at 0 from either side for averages at q = 0",
                came=f"{near:.6g} and {nearer:.6g} next to it",
                where=phi.name,
                fix="q > 0",
            )


@dataclass(frozen=True, eq=False)
class Table:
    """Unchecked moments over 24 decades of q: where the signs change, not what the values are."""

    q: Array
    second: Array
    slope: Array
    growth: Array


@lru_cache(maxsize=64)
def table(phi: Phi) -> Table:
    """The moments of φ at q = 10⁻¹² … 10¹², 24 a decade (steps of 10 %)."""
    q = np.logspace(-12, 12, 24 * 24 + 1)

    def integrands(u: Array) -> Array:
        f, df = phi.f(u), phi.df(u)
        return np.stack([f * f, df * df, f * df * u / q[:, None]])

    return Table(q, *scan(integrands, q, phi.kinks))


def forward_gain(phi: PhiLike, q: float = 1.0) -> float:
    """√(q / E φ²): the σ_w that keeps the variance of the pre-activation at q (without biases).

    References: He et al. 2015, eq. 10, for any φ.
    """
    return _gain(phi, q, moments(phi, q).second / q)


def backward_gain(phi: PhiLike, q: float = 1.0) -> float:
    """1/√E φ′²: the σ_w that keeps the variance of the error signal (χ₁ = 1).

    References: He et al. 2015, eq. 14, for any φ.
    """
    return _gain(phi, q, moments(phi, q).slope)


def std_gain(phi: PhiLike, q: float = 1.0) -> float:
    """√(q / Var φ): the σ_w that keeps the spread of the pre-activation over a centred signal."""
    m = moments(phi, q)
    return _gain(phi, q, (m.second - m.mean**2) / q)


def _gain(phi: PhiLike, q: float, factor: float) -> float:
    if not factor > 0:
        raise TheoryError(
            "a gain needs an activation that passes some signal",
            came="an average of 0",
            where=f"{phi_of(phi).name} at q = {q:.6g}",
        )
    return 1 / math.sqrt(factor)


def length_map(phi: PhiLike, q: float, sw2: float, sb2: float) -> float:
    """V(q) = σ_w² E φ(√q z)² + σ_b²: the pre-activation variance, one layer on.

    References: Poole et al. 2016, eq. 3; Schoenholz et al. 2017, eq. 3.
    """
    return check_variance(sw2, "σ_w²") * moments(phi, q).second + check_variance(sb2, "σ_b²")


def chi(phi: PhiLike, q: float, sw2: float) -> float:
    """χ₁ = σ_w² E φ′(√q z)²: the factor by which a layer multiplies E δ² backwards.

    References: Poole et al. 2016, eq. 6; Schoenholz et al. 2017, eq. 5.
    """
    return check_variance(sw2, "σ_w²") * moments(phi, q).slope
