"""Initialisations on the edge of chaos: χ₁ = 1, so that gradients neither vanish nor explode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.activation import PhiLike, phi_of
from isograd.theory.fixed_points import Root, roots
from isograd.theory.moments import moments, table
from isograd.theory.pairs import expectation2
from isograd.theory.quadrature import Array, Phi, check_variance

_SLACK = 1e-12  # relative to q: σ_b² = q − σ_w² E φ² cancels to zero for a ReLU


@dataclass(frozen=True)
class Critical:
    """A critical initialisation: χ₁ = 1 at the fixed point q of the length map."""

    sigma_w2: float
    sigma_b2: float
    q: float


def critical(phi: PhiLike, q: float | None = None, sb2: float | None = None) -> Critical:
    """The critical initialisation with a given fixed point q, or with given biases.

    The critical line is σ_w² = 1/E φ′², σ_b² = q − σ_w² E φ², one point for each q. By the
    Gaussian Poincaré inequality σ_b² ≥ −σ_w² (E φ)²: an odd φ is critical at every q, and others
    where this σ_b² is not negative.

    Args:
        phi: the activation.
        q: the variance of the pre-activations. Without q and sb2: the admissible q nearest to 1
            (in ratio), so that standardised inputs start at the fixed point.
        sb2: σ_b². Of several solutions the one with q nearest to 1.

    Raises:
        TheoryError: no such point, with the range there is.

    References: Poole et al. 2016 (χ₁ = 1); Schoenholz et al. 2017, sec. 3; Hayou et al. 2019
        (the edge of chaos).
    """
    phi = phi_of(phi)
    if q is not None and sb2 is not None:
        raise TheoryError(
            "a critical point is fixed by q or by σ_b², not by both",
            came=f"q = {q!r}, σ_b² = {sb2!r}",
            fix="give one of them",
        )
    if sb2 is not None:
        return _with_biases(phi, check_variance(sb2, "σ_b²"))
    if q is not None:
        point = _line(phi, check_variance(q))
        if point.sigma_b2 < 0:
            raise _none(phi, f"σ_b² = {point.sigma_b2:.6g} at q = {q:.6g}")
        return point
    point = _line(phi, 1.0)
    if point.sigma_b2 >= 0:
        return point
    return _with_biases(phi, 0.0)


def _line(phi: Phi, q: float) -> Critical:
    """The point of the critical line at q; σ_b² < 0 is left for the caller to judge."""
    m = moments(phi, q)
    if not m.slope > 0:
        raise TheoryError(
            "no critical initialisation: it needs E φ′² > 0",
            came=f"E φ′² = {m.slope:.6g} at q = {q:.6g}",
            where=phi.name,
            fix="another activation, or another q",
        )
    sb2 = q - m.second / m.slope
    if -_SLACK * q <= sb2 <= 1e-14 * q:
        sb2 = 0.0
    return Critical(1 / m.slope, sb2, q)


def _with_biases(phi: Phi, sb2: float) -> Critical:
    found = _crossings(phi, sb2)
    if found is None:
        return _line(phi, 1.0)
    points = sorted(found[0], key=lambda r: abs(math.log(r.q)))
    if points:
        q = points[0].q
        return Critical(1 / moments(phi, q).slope, sb2, q)
    at_zero = moments(phi, 0.0)
    if sb2 == 0 and at_zero.second == 0 and at_zero.slope > 0:
        return _line(phi, 0.0)
    raise _none(
        phi, f"σ_b² = {sb2:.6g} at no q up to 10¹²" if sb2 else "σ_b² < 0 for every q with χ₁ = 1"
    )


def _crossings(phi: Phi, sb2: float) -> tuple[list[Root], int, int] | None:
    """Where the critical line has this σ_b²: roots of (σ_b²(q) − σ_b²)/q."""

    def f(q: float) -> float:
        m = moments(phi, q)
        return 1 - m.second / m.slope / q - sb2 / q if m.slope > 0 else -1.0

    return roots(f, table(phi).q, _biases(phi) - sb2 / table(phi).q)


def _biases(phi: Phi) -> Array:
    """σ_b²(q)/q on the grid; −1 where φ′ = 0."""
    grid = table(phi)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = 1 - grid.second / grid.slope / grid.q
    return np.where(np.isfinite(y), y, -1.0)


def _none(phi: Phi, came: str) -> TheoryError:
    ranges = _admissible(phi)
    if not ranges:
        return TheoryError(
            "no critical initialisation: χ₁ = 1 needs a σ_b² that is not negative",
            came=f"{came} (admissible q: none)",
            where=phi.name,
            fix="another activation (tanh, ReLU, GELU), or normalisation",
        )
    y, q = _biases(phi), table(phi).q
    largest = float(np.max(np.where(y > 1e-11, y * q, 0.0)))
    biases = f", where σ_b² is at most {largest:.4g}" if largest < 1e9 else ""
    return TheoryError(
        "χ₁ = 1 must be reached with a σ_b² that is not negative",
        came=came,
        where=phi.name,
        fix=f"admissible: q in {ranges}{biases}",
    )


def _admissible(phi: Phi) -> str:
    """The ranges of q where the critical line has σ_b² ≥ 0."""
    found = _crossings(phi, 0.0)
    if found is None:
        return "0 … ∞"
    inner, first, last = found
    lows = ["0"] * (first > 0) + [f"{r.q:.6g}" for r in inner if r.after > 0 > r.before]
    highs = [f"{r.q:.6g}" for r in inner if r.before > 0 > r.after] + ["∞"] * (last > 0)
    return ", ".join(f"{a} … {b}" for a, b in zip(lows, highs, strict=False))


def half_stable(phi: PhiLike) -> Critical:
    """The critical point where the variance is marginal too: χ∥ = dV/dq = 1 and χ⊥ = χ₁ = 1.

    For GELU and SiLU such a q lies above 0: small deviations of the variance then neither grow nor
    shrink to first order. A scale-invariant φ has χ∥ = χ⊥ everywhere (q = 1 is returned).

    Raises:
        TheoryError: no such q > 0 (tanh, sin: only at q = 0; logistic, softplus: none).

    References: Roberts, Yaida & Hanin 2022, sec. 5.3.4.
    """
    phi = phi_of(phi)
    grid = table(phi)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = grid.growth / grid.slope - 1

    def f(q: float) -> float:
        m = moments(phi, q)
        return m.growth / m.slope - 1

    found = roots(f, grid.q, np.where(np.isfinite(y), y, -1.0))
    if found is None:
        return _line(phi, 1.0)
    points = [_line(phi, r.q) for r in found[0]]
    good = [p for p in points if p.sigma_b2 >= 0]
    if not good:
        raise TheoryError(
            "a half-stable point needs q > 0 with dE φ²/dq = E φ′² and σ_b² ≥ 0",
            came="none for 10⁻¹² ≤ q ≤ 10¹²",
            where=phi.name,
            fix="critical(phi) gives a point with χ₁ = 1 alone",
        )
    return min(good, key=lambda p: abs(math.log(p.q)))


def correlation_decay(phi: PhiLike, q: float) -> float:
    """β = 2 E φ′²/(q E φ″²): on the critical line 1 − c_l falls like β/l.

    q E φ″² is the limit of E(φ′(u₁) − φ′(u₂))²/(2(1 − c)) as c → 1, extrapolated in √(1 − c); no
    second derivative is asked for.

    Args:
        phi: the activation; φ′ must be continuous (a ReLU's 1 − c_l falls like 1/l² instead).
        q: the fixed point.

    Returns:
        β, to about 1e-9; inf for a linear φ.

    Raises:
        TheoryError: φ′ jumps.

    References: Hayou et al. 2019, proposition 2 (smooth φ).
    """

    phi = phi_of(phi)

    def square(a: Array, b: Array) -> Array:
        difference: Array = phi.df(a) - phi.df(b)
        return difference * difference

    h = 0.1 * 0.5 ** np.arange(6)
    spread = [
        expectation2(square, q, 1 - x * x, kinks=phi.kinks, cuts=phi.cuts, name=phi.name) for x in h
    ]
    values = np.array(spread) / (2 * h * h)
    if values[-1] > 1.8 * values[-2] > 0:
        raise TheoryError(
            "1 − c falls like β/l only where φ′ is continuous",
            came="a derivative that jumps",
            where=phi.name,
            fix="where φ′ jumps it falls like 1/l²",
        )
    for order in range(1, len(h)):  # Neville's scheme, to h = 0
        ratio = 2.0**order
        values = (ratio * values[1:] - values[:-1]) / (ratio - 1)
    curvature = float(values[0])
    return 2 * moments(phi, q).slope / curvature if curvature > 0 else math.inf
