"""Gaussian averages of activations, E g(√q z) and E g(u₁, u₂), each checked by a second rule.

Composite Gauss–Legendre quadrature (Davis & Rabinowitz 1984, sec. 2.7): the line is cut at the
activation's kinks, into panels that shrink geometrically towards the kinks and towards 0. On a
panel the integrand is smooth and the rule converges exponentially; Gauss–Hermite, which cannot be
cut, converges only algebraically on a ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from isograd.errors import TheoryError

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_TINY = 1e-150  # stands for 0±: its square is still a normal number
_MAX_PANELS = 1 << 16  # a frequency of 1 at q = 10⁶ fits; beyond, the integral is refused


@dataclass(frozen=True)
class Phi:
    """An activation as theory sees it.

    Args:
        name: for messages.
        f: φ, elementwise on a float64 array of any shape.
        df: φ′ almost everywhere, likewise; φ must be its integral (continuous).
        kinks: the points where φ′ or a higher derivative jumps.
    """

    name: str
    f: Function
    df: Function
    kinks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinks", tuple(sorted({float(k) for k in self.kinks})))


@dataclass(frozen=True)
class _Rule:
    """Panels of at most `width` on |z| ≤ `reach` (in standard deviations), `order` nodes each."""

    reach: float
    width: float
    order: int


# exp(−12²/2) < 1e-31. The finer rule of a pair shares no panel edge with the coarser and reaches
# further, so that a tail that matters (an activation that grows like exp) shows as a difference.
_COARSE, _FINE = _Rule(12.0, 1.0, 12), _Rule(14.0, 0.875, 20)
_COARSE2, _FINE2 = _Rule(8.5, 1.25, 10), _Rule(9.5, 1.1, 14)
_SCAN = _Rule(9.0, 1.0, 10)


@lru_cache(maxsize=32)
def _legendre(order: int) -> tuple[Array, Array]:
    x, w = np.polynomial.legendre.leggauss(order)
    return x, w


def _nodes(centres: Array, finest: float, rule: _Rule) -> tuple[Array, Array]:
    """Nodes and Gaussian weights, graded towards `centres` down to panels of size `finest`.

    Args:
        centres: shape (..., m), in standard deviations; each row has its own panels.
        finest: the smallest panel.
        rule: reach, width, order.

    Returns:
        (z, weights), each of shape (..., n): Σ weights·g(z) ≈ E g(z).
    """
    levels = max(0, math.ceil(math.log2(rule.width / finest)))
    steps = rule.width * 0.5 ** np.arange(1, levels + 1)
    offsets = np.concatenate([-steps, [0.0], steps])
    near = (centres[..., None] + offsets).reshape(*centres.shape[:-1], -1)
    count = 2 * math.ceil(rule.reach / rule.width)
    even = np.broadcast_to(
        np.linspace(-rule.reach, rule.reach, count + 1), (*centres.shape[:-1], count + 1)
    )
    # A centre out of reach leaves panels of zero width at the ends: harmless.
    edges = np.concatenate([even, near.clip(-rule.reach, rule.reach)], axis=-1)
    edges.sort(axis=-1)
    x, w = _legendre(rule.order)
    half = np.diff(edges)[..., None] / 2
    z = (edges[..., :-1, None] + half * (1 + x)).reshape(*centres.shape[:-1], -1)
    weights = (half * w).reshape(z.shape) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return z, weights


def _finite(values: Array, u: Array, name: str, q: float) -> Array:
    """`values`, refused if any is not finite (the place named)."""
    good = np.isfinite(values)
    if not good.all():
        bad = np.broadcast_to(u, values.shape)[~good].flat[0]
        raise TheoryError(
            "an activation and its derivative must be finite everywhere",
            came=f"{values[~good].flat[0]} at pre-activation {bad:.6g}",
            where=f"{name}, average over pre-activations of variance q = {q:.6g}",
            fix="use a form that does not overflow (np.logaddexp, scipy.special.expit)",
        )
    return values


def _disagree(name: str, q: float, error: float) -> TheoryError:
    return TheoryError(
        "two quadrature rules must agree on a Gaussian average",
        came=f"a relative difference of {error:.2g}",
        where=f"{name}, average over pre-activations of variance q = {q:.6g}",
        fix="declare the kinks of φ (Phi.kinks); an activation must not oscillate fast or grow "
        "like exp",
    )


def check_variance(q: float, what: str = "a variance") -> float:
    """`q` as a float, refused unless finite and not negative."""
    if not (math.isfinite(q) and q >= 0):
        raise TheoryError(f"{what} must be finite and not negative", came=repr(q))
    return float(q)


def expectations(g: Function, q: float, *, kinks: tuple[float, ...] = (), name: str = "g") -> Array:
    """Several averages E g(u) over u ~ N(0, q) at once, to 1e-10 of E|g| (1e-13 as a rule).

    At q = 0 the value is the mean of the limits from both sides, (g(0⁺) + g(0⁻))/2.

    Args:
        g: (n,) -> (k, n), k integrands on n pre-activations.
        q: variance of the pre-activation.
        kinks: where g or a derivative of it jumps.
        name: of the activation, for messages.

    Returns:
        shape (k,).

    Raises:
        TheoryError: g is not finite, or two rules differ by more than 1e-10 of E|g|.
    """
    scale = math.sqrt(check_variance(q))
    if scale == 0:
        ends = np.array([-_TINY, _TINY])
        with np.errstate(all="ignore"):
            return np.asarray(_finite(g(ends), ends, name, q).mean(axis=-1))
    # In units of √q the activation's own scale, 1, is 1/√q. Panels that widen away from the kinks
    # serve every activation that settles; one that oscillates needs them narrow everywhere.
    fine_scale = min(1.0, 1 / scale)
    centres = np.array([0.0, *kinks]) / scale
    error = math.inf
    for cap in sorted({1.0, fine_scale, fine_scale / 8}, reverse=True):
        if 2 * _FINE.reach / (cap * _FINE.width) > _MAX_PANELS:
            break
        values, _ = _rule(g, scale, centres, 2.0**-10 * fine_scale, _COARSE, cap, name)
        better, size = _rule(g, scale, centres, 2.0**-10 * fine_scale, _FINE, cap, name)
        with np.errstate(all="ignore"):
            gaps = np.abs(better - values) / size
        error = float(np.max(np.where(size > 0, gaps, 0.0)))
        if error <= 1e-12:
            return better
    if not error <= 1e-10:
        raise _disagree(name, q, error)
    return better


def _rule(
    g: Function, scale: float, centres: Array, finest: float, rule: _Rule, cap: float, name: str
) -> tuple[Array, Array]:
    """(E g, E|g|) by one rule with its width times `cap`."""
    z, weights = _nodes(centres, finest, _Rule(rule.reach, rule.width * cap, rule.order))
    u = scale * z
    with np.errstate(all="ignore"):
        values = _finite(np.asarray(g(u), np.float64), u, name, scale**2)
        terms = values * weights
        return terms.sum(axis=-1), np.abs(terms).sum(axis=-1)


def expectation(g: Function, q: float, *, kinks: tuple[float, ...] = (), name: str = "g") -> float:
    """E g(√q z), z ~ N(0, 1), for one integrand g: (n,) -> (n,); see `expectations`."""
    return float(expectations(lambda u: g(u)[None], q, kinks=kinks, name=name)[0])


def scan(g: Callable[[Array], Array], qs: Array, kinks: tuple[float, ...]) -> Array:
    """Averages over many variances at once, by one rule and unchecked: to find signs, not values.

    Args:
        g: (b, n) -> (k, b, n).
        qs: shape (b,), positive variances.
        kinks: where g or a derivative of it jumps.

    Returns:
        shape (k, b).
    """
    scale = np.sqrt(qs)[:, None]
    z, weights = _nodes(np.array([0.0, *kinks]) / scale, min(1.0, float(1 / scale.max())), _SCAN)
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum("kbn,bn->kb", g(scale * z), weights))


def expectation2(
    g: Callable[[Array, Array], Array],
    q: float,
    c: float,
    *,
    kinks: tuple[float, ...] = (),
    name: str = "g",
) -> float:
    """E g(u₁, u₂) for Gaussians of variance q and correlation c, to 1e-9 of E|g|.

    u₁ = √q z₁, u₂ = √q (c z₁ + √(1−c²) z₂) with independent standard z₁, z₂ (Poole 2016, eq. 5).
    For each z₁ the inner line is cut where u₂ meets a kink. The inner average, as a function of
    u₁, is smooth but turns within √(q(1−c²)) of kink/c; the outer panels shrink to that size.

    Args:
        g: (u₁ of shape (m, 1), u₂ of shape (m, n)) -> (m, n).
        q: variance of both.
        c: correlation, −1 … 1.
        kinks: where g, as a function of either argument, or a derivative of it jumps.
        name: of the activation, for messages.

    Raises:
        TheoryError: |c| > 1, g is not finite, or two rules differ by more than 1e-9 of E|g|.
    """
    scale = math.sqrt(check_variance(q))
    if not -1 <= c <= 1:
        raise TheoryError("a correlation must lie in [−1, 1]", came=repr(c), where=name)
    if abs(c) == 1 or scale == 0:
        both = (*kinks, *(math.copysign(k, k * c) for k in kinks))
        return expectation(lambda u: g(u, math.copysign(1, c) * u), q, kinks=both, name=name)
    rest = math.sqrt((1 - c) * (1 + c))
    points = np.array([0.0, *kinks]) / scale
    outer, finest = points, min(1.0, 1 / scale)
    if kinks and c:
        outer = np.concatenate([points, points[1:] / c])
        finest = min(finest, rest / abs(c))

    def once(rule: _Rule, cap: float) -> tuple[float, float]:
        rule = _Rule(rule.reach, rule.width * cap, rule.order)
        z1, w1 = _nodes(outer, finest, rule)
        inner = (points - c * z1[:, None]) / rest
        z2, w2 = _nodes(inner, min(1.0, 1 / (scale * rest)), rule)
        u1 = scale * z1[:, None]
        u2 = scale * (c * z1[:, None] + rest * z2)
        with np.errstate(all="ignore"):
            values = _finite(np.asarray(g(u1, u2), np.float64), u2, name, q)
            terms = values * (w1[:, None] * w2)
        return float(terms.sum()), float(np.abs(terms).sum())

    error = math.inf
    for cap in (1.0, 0.25):
        (value, _), (better, size) = once(_COARSE2, cap), once(_FINE2, cap)
        error = abs(better - value) / size if size > 0 else 0.0
        if error <= 1e-9:
            return better
    raise _disagree(name, q, error)


def check_derivative(phi: Phi, *, reach: float = 12.0) -> None:
    """Check that φ is the integral of φ′: on every panel, ∫ φ′ = φ(b) − φ(a) to 1e-10.

    A wrong derivative, a jump, or a kink that is not declared all fail.

    Args:
        phi: the activation.
        reach: pre-activations |u| ≤ reach are checked.

    Raises:
        TheoryError: naming the first panel where they differ.
    """
    edges = np.linspace(-reach, reach, 8 * math.ceil(reach) + 1)
    edges = np.unique(np.concatenate([edges, [k for k in phi.kinks if abs(k) < reach]]))
    x, w = _legendre(20)
    half = np.diff(edges)[:, None] / 2
    with np.errstate(all="ignore"):
        slopes = phi.df((edges[:-1, None] + half * (1 + x)).ravel()).reshape(-1, len(x))
        ends = phi.f(edges)
    gap = np.abs((half * w * slopes).sum(axis=1) - np.diff(ends))
    size = np.abs(half * w * slopes).sum(axis=1) + np.abs(ends[1:]) + 1e-300
    wrong = np.flatnonzero(~(gap <= 1e-10 * size + 1e-14 * size.max()))
    if wrong.size:
        a, b = edges[wrong[0]], edges[wrong[0] + 1]
        raise TheoryError(
            "φ must be the integral of φ′ between its kinks",
            came=f"∫ φ′ and φ(b) − φ(a) differ by {gap[wrong[0]]:.2g}",
            where=f"{phi.name}, on [{a:.6g}, {b:.6g}]",
            fix="correct df, or declare the kink in Phi.kinks",
        )
