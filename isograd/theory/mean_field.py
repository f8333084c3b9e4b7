"""Where a deep random network settles: length, correlation, and the depths over which it does.

Wide layers make pre-activations Gaussian; two numbers then describe a layer, the variance q and
the correlation c of two inputs, and each has a map from one layer to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from isograd.errors import TheoryError
from isograd.theory.activation import PhiLike, phi_of
from isograd.theory.fixed_points import limit_q
from isograd.theory.moments import length_map, moments
from isograd.theory.pairs import expectation2
from isograd.theory.quadrature import Array, Phi, check_variance

_CRITICAL = 1e-8  # a factor this close to 1 acts over more layers than any network has
_FAR = 1e30  # stands for q = inf: an activation has reached its asymptotes


@dataclass(frozen=True)
class MeanField:
    """What a network with Gaussian weights of σ_w²/fan_in and biases of σ_b² does in depth.

    Attributes:
        sigma_w2: σ_w².
        sigma_b2: σ_b².
        q: the variance the pre-activations settle at; inf where they grow without end.
        slope: dV/dq at q: deviations of the variance shrink by this factor a layer.
        chi1: χ₁ = σ_w² E φ′²: the factor on E δ² a layer back; also dc′/dc at c = 1.
        c: the correlation that any two inputs end with.
        chi_c: dc′/dc at c.
        xi_q: layers over which a deviation of the variance falls by e.
        xi_c: layers over which a deviation of the correlation falls by e.
        xi_grad: layers over which E δ² grows by e going back; negative where it shrinks.
        trainable_depth: 6 ξ_c, about the depth that can still be trained.
    """

    sigma_w2: float
    sigma_b2: float
    q: float
    slope: float
    chi1: float
    c: float
    chi_c: float
    xi_q: float
    xi_c: float
    xi_grad: float
    trainable_depth: float

    @property
    def phase(self) -> str:
        """ "ordered" (gradients vanish), "critical" or "chaotic" (gradients explode)."""
        if abs(self.chi1 - 1) <= _CRITICAL:
            return "critical"
        return "ordered" if self.chi1 < 1 else "chaotic"


def depth_scale(factor: float) -> float:
    """ξ = −1/ln|factor|: layers over which factorˡ falls by e; inf at 1, negative if it grows."""
    size = abs(factor)
    if abs(size - 1) <= _CRITICAL:
        return math.inf
    return -1 / math.log(size) if size > 0 else 0.0


def correlation_map(phi: PhiLike, q: float, sw2: float, sb2: float, c: float) -> float:
    """c′ = (σ_w² E φ(u₁)φ(u₂) + σ_b²)/V(q): the correlation of two inputs, one layer on.

    u₁ and u₂ have variance q and correlation c; V is the length map.

    References: Poole et al. 2016, eq. 5; Schoenholz et al. 2017, eq. 4.
    """
    phi = phi_of(phi)
    v = _length(phi, q, sw2, sb2)

    def product(a: Array, b: Array) -> Array:
        return phi.f(a) * phi.f(b)

    return (
        sw2 * expectation2(product, q, c, kinks=phi.kinks, cuts=phi.cuts, name=phi.name) + sb2
    ) / v


def correlation_slope(phi: PhiLike, q: float, sw2: float, sb2: float, c: float) -> float:
    """dc′/dc = σ_w² (q/V(q)) E φ′(u₁)φ′(u₂); χ₁ at c = 1 and q = V(q).

    References: Schoenholz et al. 2017, eq. 9 (the factor in the logarithm).
    """
    phi = phi_of(phi)
    v = _length(phi, q, sw2, sb2)

    def product(a: Array, b: Array) -> Array:
        return phi.df(a) * phi.df(b)

    return sw2 * q / v * expectation2(product, q, c, kinks=phi.kinks, cuts=phi.cuts, name=phi.name)


def stable_correlation(phi: PhiLike, q: float, sw2: float, sb2: float) -> float:
    """c*: the fixed point of the correlation map in [0, 1] that attracts.

    The map is a power series in c with coefficients ≥ 0 (Mehler's formula), so convex: c* = 1 when
    χ₁ ≤ 1, else the one root below 1. It is sought as the root of (1 − c′)/(1 − c) = 1 in 1 − c,
    with 1 − c′ = σ_w² E(φ(u₁) − φ(u₂))²/(2V(q)) and hence no cancellation near c = 1.

    References: Poole et al. 2016, sec. 2.2.
    """
    phi = phi_of(phi)
    v = _length(phi, q, sw2, sb2)
    m = moments(phi, q)
    if sw2 * m.slope * q / v <= 1 + _CRITICAL:
        return 1.0
    if sw2 * m.mean**2 + sb2 <= 1e-13 * v:
        return 0.0

    def square(a: Array, b: Array) -> Array:
        difference: Array = phi.f(a) - phi.f(b)
        return difference * difference

    def excess(log_gap: float) -> float:
        c = 1 - math.exp(log_gap)
        spread = expectation2(square, q, c, kinks=phi.kinks, cuts=phi.cuts, name=phi.name)
        return sw2 * spread / (2 * v * (1 - c)) - 1

    high = 0.0
    for low in np.log([1e-2, 1e-4, 1e-8, 1e-12]):
        if excess(low) > 0:
            return 1 - math.exp(brentq(excess, low, high, xtol=1e-10, rtol=1e-10))
        high = low
    return 1.0


def _length(phi: Phi, q: float, sw2: float, sb2: float) -> float:
    v = length_map(phi, q, sw2, sb2)
    if not v > 0:
        raise TheoryError(
            "a correlation needs a variance above 0",
            came=f"variance {v:.6g} after the layer",
            where=f"{phi.name}, q = {q:.6g}, σ_w² = {sw2:.6g}, σ_b² = {sb2:.6g}",
            fix="q > 0, and σ_w or σ_b above 0",
        )
    return v


def mean_field(phi: PhiLike, sw2: float, sb2: float, q0: float = 1.0) -> MeanField:
    """Fixed points and depth scales of a deep network whose first pre-activation has variance q₀.

    ξ_q = −1/ln|dV/dq|, ξ_c = −1/ln χ_c, and the gradient's ξ_∇ = +1/ln χ₁, whose sign says whether
    it grows (χ₁ > 1) or shrinks going back. A scale above 10⁸ layers is inf.

    Two limits are conventions. At q = 0 (no biases, the signal dies) the correlation map is taken
    as σ_b → 0⁺: c = 1, χ_c = χ₁. At q = inf (the signal explodes) the map is that of large q. At
    both the trainable depth is 6/|ln χ₁| where that is less than 6 |ξ_c|.

    Args:
        phi: the activation.
        sw2: σ_w² = fan_in · Var W.
        sb2: σ_b² = Var b.
        q0: variance of the first layer's pre-activation.

    Raises:
        TheoryError: an integral does not converge.

    References: Schoenholz et al. 2017, eqs. 3–5, 7 (ξ_q), 9 (ξ_c), the section on backpropagation
        (ξ_∇), and the experiments (networks train up to about 6 ξ_c).
    """
    phi, sw2, sb2 = phi_of(phi), check_variance(sw2, "σ_w²"), check_variance(sb2, "σ_b²")
    q = limit_q(phi, sw2, sb2, q0)
    at = q if math.isfinite(q) else _FAR
    m = moments(phi, at)
    chi1 = sw2 * m.slope
    slope = sw2 * m.growth
    if length_map(phi, at, sw2, sb2) == 0:
        c, chi_c = 1.0, chi1
    else:
        c = stable_correlation(phi, at, sw2, sb2)
        chi_c = correlation_slope(phi, at, sw2, sb2, c)
    xi_c, xi_grad = depth_scale(chi_c), -depth_scale(chi1) + 0.0
    depth = 6 * (xi_c if 0 < q < math.inf else min(abs(xi_c), abs(xi_grad)))
    return MeanField(
        sigma_w2=sw2,
        sigma_b2=sb2,
        q=q,
        slope=slope,
        chi1=chi1,
        c=c,
        chi_c=chi_c,
        xi_q=depth_scale(slope),
        xi_c=xi_c,
        xi_grad=abs(xi_grad) if math.isinf(xi_grad) else xi_grad,
        trainable_depth=depth,
    )
