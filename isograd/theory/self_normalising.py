"""The map of mean and variance through a layer, and where it settles: self-normalising networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.activation import PhiLike, phi_of
from isograd.theory.quadrature import Array, check_variance, expectations


@dataclass(frozen=True)
class Normalised:
    """Mean and variance of activations, one layer on, and how they answer to those before.

    Attributes:
        mean: μ̃ = E φ(u).
        variance: ν̃ = Var φ(u).
        jacobian: ∂(μ̃, ν̃)/∂(μ, ν), shape (2, 2).
    """

    mean: float
    variance: float
    jacobian: tuple[tuple[float, float], tuple[float, float]]

    @property
    def spectral_norm(self) -> float:
        """The largest singular value of the Jacobian: below 1 the map contracts here."""
        return float(np.linalg.norm(np.array(self.jacobian), 2))

    @property
    def spectral_radius(self) -> float:
        """The largest |eigenvalue| of the Jacobian: below 1 a fixed point attracts."""
        return float(np.abs(np.linalg.eigvals(np.array(self.jacobian))).max())


def normalising_map(
    phi: PhiLike, mean: float, variance: float, *, omega: float = 0.0, tau: float = 1.0
) -> Normalised:
    """(μ, ν) ↦ (μ̃, ν̃): mean and variance of φ(u), u ~ N(ωμ, τν).

    ω = Σ wᵢ and τ = Σ wᵢ² are those of the unit's incoming weights. By Stein's lemma the derivative
    in ν is taken free of φ″: ∂E φ/∂s² = E[φ′ (u − ωμ)]/(2s²), s² = τν.

    Args:
        phi: the activation.
        mean: μ, of the activations of the layer before.
        variance: ν, of the activations of the layer before, above 0.
        omega: ω.
        tau: τ.

    Raises:
        TheoryError: τν is not above 0, or an integral does not converge.

    References: Klambauer et al. 2017, eqs. 3–5.
    """
    phi, s2 = phi_of(phi), check_variance(tau, "τ") * check_variance(variance, "ν")
    if not s2 > 0:
        raise TheoryError("a unit needs τ > 0 and ν > 0", came=f"τ = {tau:.6g}, ν = {variance:.6g}")
    centre = omega * mean

    def integrands(v: Array) -> Array:
        u = centre + v
        f, df = phi.f(u), phi.df(u)
        return np.stack([f, df, df * v / (2 * s2), f * f, 2 * f * df, f * df * v / s2])

    first, by_centre, by_spread, second, second_by_centre, second_by_spread = map(
        float,
        expectations(
            integrands,
            s2,
            kinks=tuple(k - centre for k in phi.kinks),
            cuts=tuple(k - centre for k in phi.cuts),
            name=phi.name,
        ),
    )
    d_mean = (omega * by_centre, tau * by_spread)
    d_second = (omega * second_by_centre, tau * second_by_spread)
    return Normalised(
        first,
        second - first**2,
        (d_mean, (d_second[0] - 2 * first * d_mean[0], d_second[1] - 2 * first * d_mean[1])),
    )


def normalising_fixed_point(
    phi: PhiLike,
    *,
    omega: float = 0.0,
    tau: float = 1.0,
    start: tuple[float, float] = (0.0, 1.0),
    steps: int = 100,
) -> tuple[float, float]:
    """The fixed point (μ, ν) of the map of mean and variance that Newton's method finds.

    Args:
        phi: the activation.
        omega: ω.
        tau: τ.
        start: (μ, ν) to start from.
        steps: the most steps.

    Returns:
        (μ, ν), ν > 0; whether it attracts, `normalising_map` says by its spectral radius there.

    Raises:
        TheoryError: no fixed point with ν > 0 is found from this start.

    References: Klambauer et al. 2017, sec. 2 and eq. 14 (SELU's at (0, 1)).
    """
    phi = phi_of(phi)
    at = np.array(start, np.float64)
    for _ in range(steps):
        new = normalising_map(phi, float(at[0]), float(at[1]), omega=omega, tau=tau)
        gap = np.array([new.mean, new.variance]) - at
        if np.abs(gap[0]) <= 1e-12 * math.sqrt(at[1]) and np.abs(gap[1]) <= 1e-12 * at[1]:
            return float(at[0]), float(at[1])
        slope = np.array(new.jacobian) - np.eye(2)
        step = np.linalg.lstsq(slope, -gap, rcond=None)[0]
        # A layer itself, where Newton's step would lead to a variance below 0 or far away.
        near = at[1] / 3 < at[1] + step[1] < 3 * at[1]
        at = at + (step if near and np.isfinite(step).all() else gap)
        if not (at[1] > 1e-200 and np.isfinite(at).all()):
            break
    raise TheoryError(
        "the map of mean and variance must have a fixed point with a variance above 0",
        came=f"mean {at[0]:.6g} and variance {at[1]:.6g} after the last step",
        where=f"{phi.name}, ω = {omega:.6g}, τ = {tau:.6g}, from {start}",
        fix="another start, ω or τ",
    )
