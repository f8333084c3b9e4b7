"""Gaussian averages of activations, E g(√q z) and E g(u₁, u₂), with their errors.

Composite Gauss–Legendre quadrature (Davis & Rabinowitz 1984, sec. 2.7): the line is cut at the
activation's kinks, into panels that shrink geometrically towards the kinks and towards 0. On a
panel the integrand is smooth and the rule converges exponentially; Gauss–Hermite, which cannot be
cut, converges only algebraically on a ReLU. In one dimension a panel whose null rules see an error
is halved until they see none; in two, a second rule checks the first.
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
_MAX_PANELS = 1 << 16  # a frequency of 1 at q = 10⁸ fits; beyond, the integral is refused
_MAX_HALVINGS = 500  # of one panel: towards a singularity at 0


@dataclass(frozen=True)
class Phi:
    """An activation as theory sees it.

    Args:
        name: for messages.
        f: φ, elementwise on a float64 array of any shape.
        df: φ′ almost everywhere, likewise; φ must be its integral (continuous).
        kinks: the points where φ′ or a higher derivative jumps.
        cuts: further points between which φ is as smooth as a polynomial: needed only where φ turns
            on scales far below 1.
    """

    name: str
    f: Function
    df: Function
    kinks: tuple[float, ...] = ()
    cuts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in ("kinks", "cuts"):
            points = tuple(sorted({float(k) for k in getattr(self, field)}))
            object.__setattr__(self, field, points)


@dataclass(frozen=True)
class _Rule:
    """Panels of at most `width` on |z| ≤ `reach` (in standard deviations), `order` nodes each."""

    reach: float
    width: float
    order: int


# The finer rule of a pair shares no panel edge with the coarser and reaches further, so that a tail
# that matters (an activation that grows like exp) shows as a difference.
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
            where=_averaged(name, q),
            fix="use a form that does not overflow (np.logaddexp, scipy.special.expit), or an "
            "activation that grows less fast",
        )
    return values


def _averaged(name: str, q: float) -> str:
    return f"{name}, average over pre-activations of variance q = {q:.6g}"


def _unresolved(name: str, q: float, error: float, place: float) -> TheoryError:
    return TheoryError(
        "a Gaussian average must be resolved to 1e-10",
        came=f"a relative error of {error:.2g}, most of it near pre-activation {place:.6g}",
        where=_averaged(name, q),
        fix="an activation whose φ′² can be integrated, and that does not oscillate so fast",
    )


def _disagree(name: str, q: float, error: float) -> TheoryError:
    return TheoryError(
        "two quadrature rules must agree on a Gaussian average",
        came=f"a relative difference of {error:.2g}",
        where=_averaged(name, q),
        fix="declare the kinks of φ (Phi.kinks); an activation must not oscillate fast or grow "
        "like exp",
    )


def check_variance(q: float, what: str = "a variance") -> float:
    """`q` as a float, refused unless finite and not negative."""
    if not (math.isfinite(q) and q >= 0):
        raise TheoryError(f"{what} must be finite and not negative", came=repr(q))
    return float(q)


def expectations(
    g: Function,
    q: float,
    *,
    kinks: tuple[float, ...] = (),
    cuts: tuple[float, ...] = (),
    name: str = "g",
) -> Array:
    """Several averages E g(u) over u ~ N(0, q) at once, to 1e-10 of E|g| (1e-13 as a rule).

    At q = 0 the value is the mean of the limits from both sides, (g(0⁺) + g(0⁻))/2.

    Args:
        g: (n,) -> (k, n), k integrands on n pre-activations.
        q: variance of the pre-activation.
        kinks: where g or a derivative of it jumps; a kink that is not named costs time, no digits.
        cuts: further points to cut at.
        name: of the activation, for messages.

    Returns:
        shape (k,).

    Raises:
        TheoryError: g is not finite, grows too fast, or the error exceeds 1e-10 of E|g|.
    """
    scale = math.sqrt(check_variance(q))
    if scale == 0:
        ends = np.array([-_TINY, _TINY])
        with np.errstate(all="ignore"):
            return np.asarray(_finite(g(ends), ends, name, q).mean(axis=-1))
    value, size, tail = _adapted(g, scale, _edges(scale, _REACH, kinks, cuts), name)
    # Beyond the reach a bounded g has less than e⁻⁷²; what grows like exp may have its all.
    if (tail <= 1e-13 * size).all() and size.all():
        return value
    far = _edges(scale, _FAR_REACH, kinks, cuts)
    with np.errstate(all="ignore"):
        finite = bool(np.isfinite(g(scale * far)).all())
    if finite:
        value, size, tail = _adapted(g, scale, far, name)
    if not finite or (tail > 1e-11 * size).any():
        share = float(np.max(tail[size > 0] / size[size > 0], initial=0.0))
        reach = _FAR_REACH if finite else _REACH
        raise TheoryError(
            "an activation must not outgrow the Gaussian measure: E φ² and E φ′² must converge",
            came=f"a share of {share:.2g} beyond {reach - _RIM:g} standard deviations",
            where=_averaged(name, q),
            fix="an activation that grows no faster than exp, or a smaller variance",
        )
    return value


_REACH, _FAR_REACH = (
    14.0,
    38.0,
)  # in standard deviations; e^(−38²/2) is the smallest number there is
_RIM = 2.0  # at its end, where what is left of an average shows whether the rest can be left out
_ORDER, _NULL = 20, 4  # nodes of a panel; null rules that watch it


def _edges(scale: float, reach: float, kinks: tuple[float, ...], cuts: tuple[float, ...]) -> Array:
    """Panels to begin with, in standard deviations: even ones, and finer ones where φ may turn.

    An activation turns on a scale of 1, about 0 and its kinks. Far out on |u| ≤ 40, where a panel
    could step over a bump, they are no wider than 1.
    """
    even = np.linspace(-reach, reach, 2 * math.ceil(reach) + 1)
    levels = max(0, math.ceil(math.log2(2 * scale)))
    steps = 0.5 ** np.arange(1, levels + 1)
    near = np.array([0.0, *kinks])[:, None] / scale + np.concatenate([-steps, [0.0], steps])
    span = min(40, math.floor(scale * reach))
    units = np.arange(-span, span + 1) / scale if scale > 1 else np.empty(0)
    edges = np.concatenate([even, near.ravel(), units, np.array(cuts, np.float64) / scale])
    return np.unique(edges[np.abs(edges) <= reach])


@lru_cache(maxsize=1)
def _null_rules() -> Array:
    """The highest Legendre polynomials at the nodes: sums that vanish where the rule is exact.

    References: Berntsen & Espelid 1991.
    """
    x, w = _legendre(_ORDER)
    return np.asarray(np.polynomial.legendre.legvander(x, _ORDER - 1)[:, -_NULL:] * w[:, None])


def _adapted(g: Function, scale: float, edges: Array, name: str) -> tuple[Array, Array, Array]:
    """(E g, E|g|, the part of E|g| at the rim), panels halved until each is resolved."""
    x, w = _legendre(_ORDER)
    a, b = edges[:-1], edges[1:]
    value = size = tail = error = np.zeros(1)
    worst, rim = (0.0, 0.0), float(edges[-1]) - _RIM
    for _ in range(_MAX_HALVINGS):
        half = (b - a) / 2
        z = a[:, None] + half[:, None] * (1 + x)
        u = (scale * z).ravel()
        with np.errstate(all="ignore"):
            values = _finite(np.asarray(g(u), np.float64), u, name, scale**2)
            terms = values.reshape(-1, *z.shape) * (np.exp(-z * z / 2) * half[:, None])
            sums, sizes = terms @ w, np.abs(terms) @ w
            errors = 2 * np.abs(terms @ _null_rules()).max(axis=-1)
        total = size + sizes.sum(axis=1)
        with np.errstate(all="ignore"):
            share = np.where(total[:, None] > 0, errors / total[:, None], 0.0).max(axis=0)
        # In a narrower panel a node may round onto the singularity at its end, unless that is 0.
        wide = half > 1e3 * np.finfo(np.float64).eps * np.minimum(np.abs(a), np.abs(b))
        split = (share > 1e-13) & wide
        if 2 * np.count_nonzero(split) > _MAX_PANELS:
            split[:] = False
        outer = np.maximum(np.abs(a), np.abs(b)) > rim
        value = value + sums[:, ~split].sum(axis=1)
        size = size + sizes[:, ~split].sum(axis=1)
        tail = tail + sizes[:, ~split & outer].sum(axis=1)
        error = error + errors[:, ~split].sum(axis=1)
        worst = max([worst, *zip(share[~split], (scale * a)[~split], strict=True)])
        if not split.any():
            break
        middle = (a + b)[split] / 2
        a, b = np.concatenate([a[split], middle]), np.concatenate([middle, b[split]])
    else:
        error = error + errors[:, split].sum(axis=1)
    relative = float(np.max(np.where(size > 0, error / np.where(size > 0, size, 1.0), 0.0)))
    if not relative <= 1e-10:
        raise _unresolved(name, scale**2, relative, worst[1])
    norm = math.sqrt(2 * math.pi)
    return value / norm, size / norm, tail / norm


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
