"""What an activation makes of Gaussian pre-activations, as smooth functions of q and correlation.

A network of ten thousand layers asks for the same averages at ten thousand variances q. They are
taken by quadrature at Chebyshev points of ln q, four-fold panel by four-fold panel, and of the
angle θ between two inputs, cos θ = c, and interpolated: averages over a Gaussian are analytic in
both (Trefethen 2013, ch. 8: interpolation then converges geometrically).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.polynomial import chebyshev

from isograd.errors import TheoryError
from isograd.theory.moments import moments
from isograd.theory.quadrature import Array, Phi, scan

_PANEL = math.log(4.0)  # of ln q
_ORDER = 13  # points of ln q in a panel: 1e-9 for functions analytic in |Im ln q| < π/2
_ANGLES = (32, 64)  # points of θ, as many as it takes
_ENOUGH = 1e-7
# Below and above, an activation has reached the power laws of its ends.
_SMOOTH, _KINKED, _LARGE = math.log(1e-9), math.log(1e-13), math.log(1e12)
_RADIUS, _NODES = 7.5, 10
_NEAREST = 1e-6  # an angle at which averages have reached their limit, and differences their digits


@dataclass(frozen=True)
class Single:
    """Averages over one pre-activation u = √q z, and what decides their spread over units.

    Attributes:
        mean: E φ.
        second: E φ².
        slope: χ₁/σ_w² = E φ′².
        growth: d ln E φ²/d ln q.
        bend: d² ln E φ²/d (ln q)².
        slope_growth: d ln E φ′²/d ln q.
        slope_bend: the second derivative.
        kurtosis: E φ⁴/(E φ²)².
        slope_kurtosis: E φ′⁴/(E φ′²)².
        joint: E φ²φ′²/(E φ² E φ′²).
        tilt: E φ² z/E φ².
        active: the share of units with φ ≠ 0.
        slope_active: the share of units with φ′ ≠ 0.
    """

    mean: float
    second: float
    slope: float
    growth: float
    bend: float
    slope_growth: float
    slope_bend: float
    kurtosis: float
    slope_kurtosis: float
    joint: float
    tilt: float
    active: float
    slope_active: float


@dataclass(frozen=True)
class Pair:
    """Averages over two pre-activations of variance q; arrays, one entry per pair of inputs.

    Attributes:
        spread: ½ E (φ₁ − φ₂)².
        growth: d ln spread/d ln q at a fixed correlation.
        slope: E φ′₁φ′₂.
        square: E φ₁²φ₂²/(E φ²)².
        slope_square: E φ′₁²φ′₂²/(E φ′²)².
        joint: E φ₁²φ′₂²/(E φ² E φ′²).
        varied: over the inputs of a batch a unit has a mean μ, a variance s² and a fourth moment
            m₄; of one that has infinitely many inputs: E s⁴/(E s²)².
        fourth: E m₄/(E s²)².
        both: E s²E[φ²]/(E s² E φ²), with the unit's own mean square.
        both_own: E[(φ − μ)²φ²]/(E s² E φ²).
    """

    spread: Array
    growth: Array
    slope: Array
    square: Array
    slope_square: Array
    joint: Array
    varied: Array
    fourth: Array
    both: Array
    both_own: Array


def single(phi: Phi, q: float) -> Single:
    """The averages over one pre-activation, to about 1e-8 of their scale.

    Args:
        phi: the activation.
        q: the variance, above 0.

    Raises:
        TheoryError: q is not positive and finite, or φ not finite.
    """
    panel, x, log_scale = _locate(phi, q)
    values = panel.single(x)
    if log_scale:
        return _extrapolated(values, panel.origin, log_scale)
    return values


def pair(phi: Phi, q: float, spread: Array, *, tabulated: bool = True) -> Pair:
    """The averages over two pre-activations, to about 1e-7 of their scale.

    A table takes as long as a hundred averages one by one, and serves all variances up to four
    times another. (That of a ReLU serves all there are, and is always taken.)

    Args:
        phi: the activation.
        q: their variance, above 0.
        spread: ½E(u₁ − u₂)² = q(1 − c), shape (k,), from 0 to 2q. Given in this form, two inputs
            that are nearly the same stay apart however near they come.
        tabulated: whether to interpolate.

    Raises:
        TheoryError: as `single`.
    """
    panel, x, log_scale = _locate(phi, q)
    averages = panel.pair if tabulated or homogeneous(phi) else panel.pair_at
    gap = np.minimum(np.maximum(np.asarray(spread, np.float64) / q, 0.0), 2.0)
    found = averages(x, 2.0 * np.arcsin(np.sqrt(0.5 * gap)))
    # Inputs that are correlated by c share, each, a correlation √c with one and the same Gaussian.
    alike = averages(x, np.arcsin(np.sqrt(np.minimum(gap, 1.0))))
    # Of the spread the panel gives the share of q(1 − c)·E φ′²; at the ends it follows a power law.
    here = single(phi, q)
    there = panel.single(x).slope * math.exp(-log_scale) * np.exp(found[9] * log_scale)
    return Pair(
        spread=found[0] * spread * there,
        growth=found[9],
        slope=found[1] * here.slope,
        square=found[2],
        slope_square=found[3],
        joint=found[4],
        varied=alike[5],
        fourth=alike[6],
        both=alike[7],
        both_own=alike[8],
    )


def _locate(phi: Phi, q: float) -> tuple[_Panel, float, float]:
    """The panel of q, where in it q lies (−1 … 1), and by how much ln q is beyond all panels."""
    if not 0.0 < q < math.inf:
        raise TheoryError(
            "a response is that to pre-activations of a positive, finite variance",
            came=f"q = {q:.6g}",
            where=phi.name,
        )
    log_q = math.log(q)
    if homogeneous(phi):
        low = high = -0.5 * _PANEL
    else:
        low, high = (_KINKED if phi.kinks else _SMOOTH), _LARGE
    at = min(max(log_q, low), high)
    index = math.floor(at / _PANEL)
    return _panel(phi, index), 2.0 * (at / _PANEL - index) - 1.0, log_q - at


def _extrapolated(s: Single, origin: float, log_scale: float) -> Single:
    """The power laws of the ends: φ(0) + φ′u at small q, u^p at large."""
    if log_scale > 0.0:
        origin = 0.0
    half = math.exp(0.5 * log_scale)
    if log_scale < 0.0 or abs(s.growth - 1.0) < 0.01:
        mean = origin + (s.mean - origin) * half
        second = mean * mean + (s.second - s.mean * s.mean) * half * half
        return _replace(s, mean, second, s.slope)
    power = math.exp(s.growth * log_scale)
    slope = s.slope * math.exp(s.slope_growth * log_scale)
    return _replace(s, s.mean * math.sqrt(power), s.second * power, slope)


def _replace(s: Single, mean: float, second: float, slope: float) -> Single:
    if mean and second:  # where a constant dominates, growth fades with q
        share = (second - mean * mean) / second / max((s.second - s.mean**2) / s.second, 1e-300)
        return replace(s, mean=mean, second=second, slope=slope, growth=s.growth * min(share, 1.0))
    return replace(s, mean=mean, second=second, slope=slope)


@lru_cache(maxsize=256)
def homogeneous(phi: Phi) -> bool:
    """Whether φ(su) = sφ(u) for s > 0, as for a ReLU: then one panel serves every q."""
    if any(phi.kinks):
        return False
    u = np.array([-3.1, -1.7, -0.4, 0.3, 1.1, 2.9])
    with np.errstate(all="ignore"):
        values, scaled = phi.f(u), phi.f(1e3 * u)
    return bool(np.allclose(scaled, 1e3 * values, rtol=1e-13, atol=0.0))


class _Panel:
    """The averages for ln q in one panel, as Chebyshev series."""

    def __init__(self, phi: Phi, index: int) -> None:
        self.phi = phi
        points = np.cos(math.pi * (np.arange(_ORDER) + 0.5) / _ORDER)
        self.q = np.exp(_PANEL * (index + 0.5 * (points + 1.0)))
        self.points = points
        self.origin = moments(phi, 0.0).mean
        self.width = min(1.0, 1.0 / math.sqrt(float(self.q.max())))

    @cached_property
    def _series(self) -> tuple[Array, Array, Array]:
        """Coefficients of the averages over one pre-activation, and of their derivatives."""
        phi, origin = self.phi, self.origin

        def integrands(u: Array) -> Array:
            f, df = phi.f(u), phi.df(u)
            moved = f - origin
            f2, df2 = f * f, df * df
            z = u / np.sqrt(self.q)[:, None]
            on, moves = (f != 0).astype(float), (df != 0).astype(float)
            rows = [moved, moved * moved, df2, f2 * f2, df2 * df2, f2 * df2, f2 * z, on, moves]
            return np.stack(rows)

        found = scan(integrands, self.q, phi.kinks)
        if not np.isfinite(found).all():
            raise TheoryError(
                "an activation and its derivative must be finite everywhere",
                came=f"averages that are not, at q = {self.q.max():.3g}",
                where=phi.name,
            )
        mean = origin + found[0]
        variance = found[1] - found[0] ** 2
        second = mean * mean + variance
        slope = found[2]
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.stack(
                [
                    found[0] / np.sqrt(self.q),
                    variance / self.q,
                    np.log(slope),
                    found[3] / second**2,
                    found[4] / slope**2,
                    found[5] / (second * slope),
                    found[6] / second,
                    found[7],
                    found[8],
                ]
            )
        if not np.isfinite(rows).all():
            raise TheoryError(
                "an activation must pass some signal",
                came="an average of 0",
                where=f"{phi.name} at q = {self.q.max():.3g}",
            )
        first = _fit(self.points, rows.T).T
        once = np.asarray(chebyshev.chebder(first, axis=1), np.float64) * (2.0 / _PANEL)
        twice = np.asarray(chebyshev.chebder(once, axis=1), np.float64) * (2.0 / _PANEL)
        return first, once, twice

    def single(self, x: float) -> Single:
        first, once, twice = self._series
        t = _chebyshev(x, _ORDER)
        v, d, dd = first @ t, once @ t[:-1], twice @ t[:-2]
        q = math.exp(_PANEL * 0.5 * (x + 1.0)) * float(self.q_low)
        root = math.sqrt(q)
        mean = self.origin + root * v[0]
        mean_1 = root * (0.5 * v[0] + d[0])
        mean_2 = root * (0.25 * v[0] + d[0] + dd[0])
        second = mean * mean + q * v[1]
        second_1 = 2.0 * mean * mean_1 + q * (v[1] + d[1])
        second_2 = 2.0 * (mean_1**2 + mean * mean_2) + q * (v[1] + 2.0 * d[1] + dd[1])
        growth = second_1 / second
        return Single(
            mean=float(mean),
            second=float(second),
            slope=math.exp(v[2]),
            growth=float(growth),
            bend=float(second_2 / second - growth**2),
            slope_growth=float(d[2]),
            slope_bend=float(dd[2]),
            kurtosis=float(v[3]),
            slope_kurtosis=float(v[4]),
            joint=float(v[5]),
            tilt=float(v[6]),
            active=float(v[7]),
            slope_active=float(v[8]),
        )

    @cached_property
    def q_low(self) -> float:
        index = round(math.log(float(self.q[len(self.q) // 2])) / _PANEL - 0.5)
        return math.exp(_PANEL * index)

    @cached_property
    def _surface(self) -> Array:
        """Coefficients (10, θ, ln q) of the averages over two pre-activations."""
        for count in _ANGLES:
            points = np.cos(math.pi * (np.arange(count) + 0.5) / count)
            angles = self.width * np.sinh(0.5 * (points + 1.0) * math.asinh(math.pi / self.width))
            values = np.stack([_two(self.phi, self.q, float(angle)) for angle in angles])
            along = _fit(points, values.reshape(count, -1)).reshape(count, 10, _ORDER)
            if np.abs(along[-2:]).max() <= _ENOUGH * np.abs(along).max():
                break
        both = _fit(self.points, along.transpose(2, 0, 1).reshape(_ORDER, -1))
        return np.ascontiguousarray(both.reshape(_ORDER, count, 10).transpose(2, 1, 0))

    def pair(self, x: float, angle: Array) -> Array:
        surface = self._surface
        y = 2.0 * np.arcsinh(angle / self.width) / math.asinh(math.pi / self.width) - 1.0
        return np.asarray(surface @ _chebyshev(x, _ORDER) @ _chebyshev(y, surface.shape[1]))

    def pair_at(self, x: float, angle: Array) -> Array:
        """The same by quadrature, an angle at a time."""
        q = np.array([math.exp(_PANEL * 0.5 * (x + 1.0)) * self.q_low])
        return np.concatenate([_two(self.phi, q, max(float(t), _NEAREST)) for t in angle], axis=1)


@lru_cache(maxsize=1024)
def _panel(phi: Phi, index: int) -> _Panel:
    return _Panel(phi, index)


def _chebyshev(x: float | Array, order: int) -> Array:
    """T_k(x), k < order: shape (order, …)."""
    angle = np.arccos(np.minimum(np.maximum(x, -1.0), 1.0))
    return np.asarray(np.cos(np.multiply.outer(np.arange(order), angle)))


def _fit(points: Array, values: Array) -> Array:
    """Coefficients of the interpolant at Chebyshev points: (n, m) -> (n, m)."""
    n = len(points)
    basis = _chebyshev(points, n)
    coefficients = basis @ values * (2.0 / n)
    coefficients[0] /= 2.0
    return np.asarray(coefficients)


@lru_cache(maxsize=8)
def _legendre(order: int) -> tuple[Array, Array]:
    x, w = np.polynomial.legendre.leggauss(order)
    return x, w


def _two(phi: Phi, q: Array, angle: float) -> Array:
    """The ten averages of `Pair`, each relative to its scale, at one angle: (10, len(q)).

    For each u₁ the inner line is cut where u₂ meets a kink, as in `quadrature.expectation2`.
    """
    root, c, s = np.sqrt(q)[:, None, None], math.cos(angle), math.sin(angle)
    scale = 1.0 / float(root.max())
    centres = np.array([0.0, *phi.kinks]) / root[:, :, 0]
    fine = min(1.0, scale)
    if not phi.kinks and scale > 2.0:
        centres = np.zeros((1, 0))  # smooth on the scale of a panel: no cuts, one grid for every q
    outer = np.concatenate([centres, centres[:, 1:] / c], axis=1) if abs(c) > 1e-3 else centres
    z1, w1 = _nodes(outer, min(fine, s) if phi.kinks else fine)
    inner = (centres[:, None] - c * z1[..., None]) / s
    z2, w2 = _nodes(inner, min(1.0, fine / s))
    u1, u2 = root * z1[..., None], root * (c * z1[..., None] + s * z2)
    f1, d1, f2, d2 = phi.f(u1), phi.df(u1), phi.f(u2), phi.df(u2)

    def along(*values: Array) -> Array:
        return np.asarray(np.einsum("qmn,qmn,qmn->qm", *values, w2))

    def mean(values: Array) -> Array:
        return np.asarray(np.einsum("qm,qm->q", values, w1))

    f1, d1, gap = f1[..., 0], d1[..., 0], f1 - f2
    a1, b1, a2, b2 = f1 * f1, d1 * d1, along(f2, f2), along(d2, d2)
    second, slope = mean(a1), mean(b1)
    slopes = np.asarray(np.einsum("qmn,qmn->qm", d2, w2))
    ones = np.ones_like(gap)
    off2 = (gap - along(gap, ones)[..., None]) ** 2
    variance = along(off2, ones)
    spread = mean(variance)
    half = math.sin(0.5 * angle) ** 2
    apart = mean(along(gap, gap))
    moved = mean(along(gap, (u1 * d1[..., None] - u2 * d2)))
    return np.stack(
        [
            apart / (4.0 * q * half * slope),
            mean(d1 * slopes) / slope,
            mean(a1 * a2) / second**2,
            mean(b1 * b2) / slope**2,
            0.5 * mean(a1 * b2 + a2 * b1) / (second * slope),
            mean(variance * variance) / spread**2,
            mean(along(off2, off2)) / spread**2,
            mean(variance * a2) / (spread * second),
            mean(along(off2, f2 * f2)) / (spread * second),
            moved / apart,
        ]
    )


def _nodes(centres: Array, finest: float) -> tuple[Array, Array]:
    """Nodes and weights of N(0, 1) along the last axis, on panels cut at the centres.

    They shrink towards the centres down to size `finest`, and elsewhere are 2½ wide.
    """
    levels = max(0, math.ceil(math.log2(1.0 / finest)))
    steps = 0.5 ** np.arange(0, levels + 1) if levels else np.zeros(0)
    offsets = np.concatenate([-steps, [0.0], steps])
    near = (centres[..., None] + offsets).reshape(*centres.shape[:-1], -1)
    even = np.broadcast_to(np.linspace(-_RADIUS, _RADIUS, 7), (*centres.shape[:-1], 7))
    edges = np.sort(np.concatenate([even, near.clip(-_RADIUS, _RADIUS)], axis=-1), axis=-1)
    return _composite(edges)


def _composite(edges: Array) -> tuple[Array, Array]:
    x, w = _legendre(_NODES)
    half = np.diff(edges, axis=-1)[..., None] / 2.0
    z = (edges[..., :-1, None] + half * (1.0 + x)).reshape(*edges.shape[:-1], -1)
    weights = (half * w).reshape(z.shape) * np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    return z, weights


__all__ = ["Pair", "Single", "homogeneous", "pair", "single"]
