"""Gaussian averages of activations, E g(√q z), with their errors.

Composite Gauss–Legendre quadrature (Davis & Rabinowitz 1984, sec. 2.7): the line is cut at the
activation's kinks, into panels that shrink geometrically towards the kinks and towards 0. On a
panel the integrand is smooth and the rule converges exponentially; Gauss–Hermite, which cannot be
cut, converges only algebraically on a ReLU. A panel whose null rules see an error is halved until
they see none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from isograd.errors import TheoryError

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_TINY = 1e-150  # stands for 0±: its square is still a normal number
_MAX_PANELS = 1 << 18  # a frequency of 1 at q = 10⁸ fits; beyond, the integral is refused
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


@lru_cache(maxsize=32)
def legendre(order: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss and Legendre's rule on [−1, 1]."""
    x, w = np.polynomial.legendre.leggauss(order)
    return x, w


def graded(
    centres: Array, finest: float, *, reach: float, width: float = 1.0, cuts: Array | None = None
) -> Array:
    """Ends of panels on |z| ≤ reach, no wider than `width`, that shrink towards each centre.

    Args:
        centres: shape (..., m), in standard deviations; each row has its own panels.
        finest: the smallest panel, next to a centre.
        reach: in standard deviations.
        width: of the largest panels.
        cuts: further ends, shape (..., n).

    Returns:
        shape (..., p), ascending; panels of no width among them do no harm.
    """
    levels = max(0, math.ceil(math.log2(width / finest)))
    steps = width * 0.5 ** np.arange(1, levels + 1)
    offsets = np.concatenate([-steps, [0.0], steps])
    near = (centres[..., None] + offsets).reshape(*centres.shape[:-1], -1)
    even = np.linspace(-reach, reach, 2 * math.ceil(reach / width) + 1)
    parts = [np.broadcast_to(even, (*centres.shape[:-1], len(even))), near]
    edges = np.concatenate(parts if cuts is None else [*parts, cuts], axis=-1)
    edges = edges.clip(-reach, reach)
    edges.sort(axis=-1)
    return edges


def nodes(edges: Array, order: int) -> tuple[Array, Array]:
    """(z, weights) of Gauss and Legendre's rule on each panel, times the Gaussian density.

    Args:
        edges: shape (..., p).
        order: nodes a panel.

    Returns:
        two of shape (..., p − 1, order): Σ weights·g(z) ≈ E g(z).
    """
    x, w = legendre(order)
    half = np.diff(edges)[..., None] / 2
    z = edges[..., :-1, None] + half * (1 + x)
    return z, half * w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def finite(values: Array, u: Array, name: str, q: float) -> Array:
    """`values`, refused if any is not finite (the place named)."""
    good = np.isfinite(values)
    if not good.all():
        bad = np.broadcast_to(u, values.shape)[~good].flat[0]
        raise TheoryError(
            "an activation and its derivative must be finite everywhere",
            came=f"{values[~good].flat[0]} at pre-activation {bad:.6g}",
            where=averaged(name, q),
            fix="use a form that does not overflow (np.logaddexp, scipy.special.expit), or an "
            "activation that grows less fast",
        )
    return values


def averaged(name: str, q: float) -> str:
    """The place, for messages."""
    return f"{name}, average over pre-activations of variance q = {q:.6g}"


def outgrown(name: str, q: float, share: float, reach: float) -> TheoryError:
    """The error for an average whose mass lies out of reach."""
    return TheoryError(
        "an activation must not outgrow the Gaussian measure: E φ² and E φ′² must converge",
        came=f"a share of {share:.2g} beyond {reach:g} standard deviations",
        where=averaged(name, q),
        fix="an activation that grows no faster than exp, or a smaller variance",
    )


def check_variance(q: float, what: str = "a variance") -> float:
    """`q` as a float, refused unless finite and not negative."""
    if not (is_number(q) and math.isfinite(q) and q >= 0):
        raise TheoryError(f"{what} must be finite and not negative", came=repr(q))
    return float(q)


def is_number(x: object) -> bool:
    """Whether x is one real number, of Python or of NumPy."""
    return isinstance(x, Real) or (isinstance(x, np.ndarray) and x.ndim == 0)


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
            return np.asarray(finite(g(ends), ends, name, q).mean(axis=-1))

    def panel_sums(a: Array, b: Array) -> tuple[Array, Array, Array]:
        edges = np.stack([a, b], axis=-1)
        z, weights = (array[:, 0] for array in nodes(edges, ORDER))
        u = (scale * z).ravel()
        with np.errstate(all="ignore"):
            values = finite(np.asarray(g(u), np.float64), u, name, q)
            terms = values.reshape(-1, *z.shape) * weights
        return terms.sum(axis=-1), np.abs(terms).sum(axis=-1), rule_errors(terms)

    got = adapted(panel_sums, _edges(scale, _REACH, kinks, cuts), 1e-10)
    # Beyond the reach a bounded g has less than e⁻⁷²; what grows like exp may have its all.
    if not (got.tail <= 1e-13 * got.size).all() or not got.size.all():
        far = _edges(scale, _FAR_REACH, kinks, cuts)
        with np.errstate(all="ignore"):
            if not np.isfinite(g(scale * far)).all():
                raise outgrown(name, q, got.tail_share, _REACH - RIM)
        got = adapted(panel_sums, far, 1e-10)
        if got.tail_share > 1e-11:
            raise outgrown(name, q, got.tail_share, _FAR_REACH - RIM)
    if not got.error <= 1e-10:
        raise TheoryError(
            "a Gaussian average must be resolved to 1e-10",
            came=f"a relative error of {got.error:.2g}, most of it near pre-activation "
            f"{scale * got.place:.6g}",
            where=averaged(name, q),
            fix="an activation whose φ′² can be integrated, and that does not oscillate so fast",
        )
    return got.value


_REACH, _FAR_REACH = 14.0, 38.0  # in standard deviations; e^(−38²/2) is hardly a number
RIM = 2.0  # at its end, where what is left of an average shows whether the rest can be left out
ORDER, _NULL = 20, 4  # nodes of a panel; null rules that watch it
_BLOCK = 4096  # panels at once, to bound the memory


def _edges(scale: float, reach: float, kinks: tuple[float, ...], cuts: tuple[float, ...]) -> Array:
    """Panels to begin with, in standard deviations: even ones, and finer ones where φ may turn.

    An activation turns on a scale of 1, about 0 and its kinks. Far out on |u| ≤ 40, where a panel
    could step over a bump, they are no wider than 1.
    """
    span = min(40, math.floor(scale * reach)) if scale > 1 else 0
    ends = np.array([*range(-span, span + 1), *cuts], np.float64) / scale
    centres = np.array([0.0, *kinks]) / scale
    return np.unique(graded(centres, min(1.0, 0.5 / scale), reach=reach, cuts=ends))


@lru_cache(maxsize=1)
def _null_rules() -> Array:
    """The highest Legendre polynomials at the nodes: sums that vanish where the rule is exact.

    References: Berntsen & Espelid 1991.
    """
    x, _ = legendre(ORDER)
    return np.asarray(np.polynomial.legendre.legvander(x, ORDER - 1)[:, -_NULL:])


def rule_errors(terms: Array) -> Array:
    """An error that a panel's rule does not exceed as a rule, from its terms, (..., ORDER)."""
    return np.asarray(2 * np.abs(terms @ _null_rules()).max(axis=-1))


@dataclass(frozen=True)
class Adapted:
    """Averages over panels that were halved until each was resolved.

    Attributes:
        value, size, tail: shape (k,): E g, E|g|, and the part of E|g| within RIM of the ends.
        error: the largest relative error.
        place: where most of the error is.
    """

    value: Array
    size: Array
    tail: Array
    error: float
    place: float

    @property
    def tail_share(self) -> float:
        """The largest tail/size."""
        return float(_ratio(self.tail, self.size).max())


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def adapted(
    panel_sums: Callable[[Array, Array], tuple[Array, Array, Array]],
    edges: Array,
    aim: float,
    *,
    most: int = _MAX_PANELS,
) -> Adapted:
    """Averages over panels, halved where their rule sees an error.

    Args:
        panel_sums: of the ends a, b of P panels: the averages of g and |g| over each, and the
            rule's errors, each (k, P).
        edges: the panels to begin with, ascending.
        aim: relative error to reach, if it can be reached.
        most: panels at once.
    """
    a, b = edges[:-1], edges[1:]
    value = size = tail = error = np.zeros(1)
    worst, place, rim, count = 0.0, 0.0, float(edges[-1]) - RIM, 0
    for left in reversed(range(_MAX_HALVINGS)):
        blocks = [slice(i, i + _BLOCK) for i in range(0, len(a), _BLOCK)]
        parts = [panel_sums(a[block], b[block]) for block in blocks]
        sums, sizes, errors = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        total = (size + sizes.sum(axis=1))[:, None]
        share = _ratio(errors, np.broadcast_to(total, errors.shape)).max(axis=0)
        count += len(a)
        # In a narrower panel a node may round onto the singularity at its end, unless that is 0.
        wide = b - a > 2e3 * np.finfo(np.float64).eps * np.minimum(np.abs(a), np.abs(b))
        split = (share > aim / max(1000, count)) & wide & (left > 0)
        split &= 2 * np.count_nonzero(split) <= most
        done = ~split
        outer = done & (np.maximum(np.abs(a), np.abs(b)) > rim)
        value = value + sums[:, done].sum(axis=1)
        size = size + sizes[:, done].sum(axis=1)
        tail = tail + sizes[:, outer].sum(axis=1)
        error = error + errors[:, done].sum(axis=1)
        if share[done].max(initial=0.0) > worst:
            i = int(np.argmax(np.where(done, share, 0.0)))
            worst, place = float(share[i]), float((a[i] + b[i]) / 2)
        if not split.any():
            break
        middle = (a + b)[split] / 2
        a, b = np.concatenate([a[split], middle]), np.concatenate([middle, b[split]])
    return Adapted(value, size, tail, float(_ratio(error, size).max()), place)


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
    centres = np.array([0.0, *kinks]) / scale
    z, weights = nodes(graded(centres, min(1.0, float(1 / scale.max())), reach=9.0), 10)
    z, weights = z.reshape(len(qs), -1), weights.reshape(len(qs), -1)
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum("kbn,bn->kb", g(scale * z), weights))
