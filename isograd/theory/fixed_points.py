"""Where the pre-activation variance settles: the fixed points of the length map, and roots in q."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from isograd.errors import TheoryError
from isograd.theory.activation import PhiLike, phi_of
from isograd.theory.moments import length_map, moments, table
from isograd.theory.quadrature import Array, Phi, check_variance

_ZERO = 1e-11  # relative to q; quadrature errs by about 1e-13
_TOUCH = 1e-9  # a minimum this close to 0 counts as a root that touches without crossing


@dataclass(frozen=True)
class Root:
    """A root in q, with the sign of the function on either side (equal where it only touches)."""

    q: float
    before: int
    after: int


@dataclass(frozen=True)
class FixedPoint:
    """A variance q that a layer returns unchanged.

    Attributes:
        q: the variance.
        slope: dV/dq there; q attracts at the rate |slope|.
        from_below: smaller variances nearby flow to it.
        from_above: larger variances nearby flow to it.
    """

    q: float
    slope: float
    from_below: bool
    from_above: bool

    @property
    def stable(self) -> bool:
        """Whether it attracts from both sides (from above, for q = 0)."""
        return self.from_below and self.from_above


@dataclass(frozen=True)
class FixedPoints:
    """All fixed points of a length map.

    Attributes:
        points: in ascending order; empty where there are none.
        unbounded: large variances grow without end.
        every_q: the map is the identity (ReLU at σ_w² = 2, σ_b = 0): every q is a fixed point,
            and `points` is empty.
    """

    points: tuple[FixedPoint, ...]
    unbounded: bool
    every_q: bool = False


def roots(f: Callable[[float], float], q: Array, y: Array) -> tuple[list[Root], int, int] | None:
    """The roots of f over a logarithmic grid, and its signs at the two ends.

    Args:
        f: the function, exact, in units where 1e-11 is zero.
        q: the grid, ascending.
        y: f on the grid, roughly.

    Returns:
        (roots ascending, sign at the lower end, sign at the upper end), the first and the last
        sign that can be told from zero; None where f is zero everywhere.
    """
    sign = np.where(np.abs(y) <= _ZERO, 0, np.sign(y)).astype(int)
    told = np.flatnonzero(sign)
    if told.size == 0:
        return None
    found = []
    for i, j in pairwise(told):
        if sign[i] != sign[j]:
            found += _bracketed(f, q[i], q[j])
    # A dip without a change of sign may touch zero, or cross it twice in between.
    size = np.abs(y)
    same = (sign[:-2] == sign[1:-1]) & (sign[1:-1] == sign[2:]) & (sign[1:-1] != 0)
    lower, higher = np.minimum(size[:-2], size[2:]), np.maximum(size[:-2], size[2:])
    middle = size[1:-1]
    dips = same & (middle <= lower) & (middle < 0.1) & (higher > 1.5 * middle)
    for k in np.flatnonzero(dips) + 1:
        found += _touching(f, q[k - 1], q[k + 1], int(sign[k]))
    return sorted(found, key=lambda r: r.q), int(sign[told[0]]), int(sign[told[-1]])


def _bracketed(f: Callable[[float], float], a: float, b: float) -> list[Root]:
    low, high = math.log(a), math.log(b)
    before, after = np.sign(f(math.exp(low))), np.sign(f(math.exp(high)))
    if before == after:
        return []  # the rough grid erred
    x = brentq(lambda t: f(math.exp(t)), low, high, xtol=1e-15, rtol=1e-15)
    return [Root(math.exp(x), int(before), int(after))]


def _touching(f: Callable[[float], float], a: float, b: float, sign: int) -> list[Root]:
    low = minimize_scalar(
        lambda t: sign * f(math.exp(t)),
        bounds=(math.log(a), math.log(b)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    q = math.exp(low.x)
    if low.fun <= -_ZERO:
        return _bracketed(f, a, q) + _bracketed(f, q, b)
    return [Root(q, sign, sign)] if low.fun <= _TOUCH else []


def fixed_points(phi: PhiLike, sw2: float, sb2: float) -> FixedPoints:
    """All q* ≥ 0 with V(q*) = q*, V the length map, for 0 ≤ q* ≤ 10¹².

    Signs of V(q)/q − 1 on a grid in steps of 10 % from 10⁻¹², each change refined by Brent's
    method; two fixed points within one step may be reported as one. Stability is read from the
    signs, so that it holds at marginal points too, where dV/dq = 1.

    Args:
        phi: the activation.
        sw2: σ_w² = fan_in · Var W.
        sb2: σ_b² = Var b.

    References: Poole et al. 2016, sec. 2.1.
    """
    phi, sw2, sb2 = phi_of(phi), check_variance(sw2, "σ_w²"), check_variance(sb2, "σ_b²")
    grid = table(phi)
    y = (sw2 * grid.second + sb2) / grid.q - 1
    found = roots(lambda q: length_map(phi, q, sw2, sb2) / q - 1, grid.q, y)
    if found is None:
        return FixedPoints((), unbounded=False, every_q=True)
    inner, first, last = found
    points = [FixedPoint(r.q, _slope(phi, r.q, sw2), r.before > 0, r.after < 0) for r in inner]
    if length_map(phi, 0.0, sw2, sb2) == 0:
        points.insert(0, FixedPoint(0.0, _slope(phi, 0.0, sw2), True, first < 0))
    elif first < 0:
        q = brentq(
            lambda q: length_map(phi, q, sw2, sb2) - q,
            0.0,
            float(grid.q[np.flatnonzero(y < -_ZERO)[0]]),
            xtol=1e-300,
            rtol=1e-15,
        )
        points.insert(0, FixedPoint(q, _slope(phi, q, sw2), True, True))
    return FixedPoints(tuple(points), unbounded=last > 0)


def _slope(phi: Phi, q: float, sw2: float) -> float:
    return sw2 * moments(phi, q).growth


def limit_q(
    phi: PhiLike, sw2: float, sb2: float, q0: float = 1.0, *, layers: int = 10_000
) -> float:
    """The variance that q₀ flows to over many layers; inf where it grows without end.

    Where V rises all the way to the next fixed point in the direction of V(q₀) − q₀, that is the
    limit, however slowly it is reached (at criticality only like 1/l). Where V falls on the way, a
    layer is taken and the question asked again. There are no cycles: the density of N(0, q) at u
    has d ln/d ln q = u²/2q − ½, so d ln V/d ln q ≥ −½, and a 2-cycle would need −1.

    Args:
        phi: the activation.
        sw2: σ_w².
        sb2: σ_b².
        q0: variance of the first layer's pre-activation.
        layers: the most layers to take one by one.

    Raises:
        TheoryError: the limit is not reached within `layers`.
    """
    phi, q = phi_of(phi), check_variance(q0, "q₀")
    found = fixed_points(phi, sw2, sb2)
    if found.every_q:
        return q
    grid = table(phi)
    rises = grid.growth * grid.q >= -1e-6 * grid.second
    for _ in range(layers):
        v = length_map(phi, q, sw2, sb2)
        if abs(v - q) <= 1e-12 * q:
            return q
        if v > q:
            target = min((p.q for p in found.points if p.q > q), default=math.inf)
        else:
            target = max((p.q for p in found.points if p.q < q), default=0.0)
        if rises[(grid.q >= min(q, target)) & (grid.q <= max(q, target))].all():
            return target
        q = v
    raise TheoryError(
        "the variance of the pre-activations must settle",
        came=f"still {q:.6g} after {layers} layers",
        where=f"{phi.name}, σ_w² = {sw2:.6g}, σ_b² = {sb2:.6g}, q₀ = {q0:.6g}",
        fix="more layers, or start nearer to a fixed point",
    )
