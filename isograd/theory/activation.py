"""Any function as an activation of theory: its derivative, and its kinks found and checked.

A function is laid out on |u| ≤ 40 in panels on which φ and φ′ are polynomials to rounding, halved
until they are (Trefethen 2013, ch. 3: a function is resolved when the last of its Chebyshev
coefficients have fallen to nothing). A smooth function needs few panels; halving that does not end,
or not before the panels are tiny, closes in on a kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from isograd.engine.autodiff import jvp
from isograd.errors import TheoryError
from isograd.theory.quadrature import Array, Function, Phi

PhiLike = Phi | Callable[[Any], Any]
"""What the functions of this room take as an activation: a Phi, or a function of an array."""

REACH = 40.0
"""Kinks, jumps and narrow turns are found on |u| ≤ 40."""

_WIDTH = 0.5  # of the panels at the start; a turn narrower than about 1/50 of it may be missed
_DEGREE = 16
_RESOLVED = 1e-11  # of the largest |φ| and |φ′| nearer to 0
_KINK = 2.0**-12  # panels narrower than this surround a kink
_MOST = 1 << 14  # panels
_TRACE = "write it with isograd.functions, or with NumPy's functions that they mirror, or give df"


def phi_of(
    f: PhiLike,
    *,
    df: Callable[[Any], Any] | None = None,
    kinks: Sequence[float] | None = None,
    name: str | None = None,
) -> Phi:
    """A function of an array as theory sees it: φ, φ′, and the kinks between which it is smooth.

    Kinks (jumps of φ′, φ″ or φ‴) on |u| ≤ 40 are found by halving panels, those of φ′ to rounding;
    beyond they must be given. The functions of this room do this themselves for a plain function,
    and keep the result.

    Args:
        f: φ, elementwise on a float64 array of any shape; a Phi is returned as it is.
        df: φ′; the engine's derivative of f if not given.
        kinks: where φ′ or a higher derivative jumps; found if not given. Further points do no harm.
        name: for messages; that of f if not given.

    Returns:
        the activation; the same object for the same arguments.

    Raises:
        TheoryError: f or df is no such function (another shape or dtype, NaN, values that depend on
            each other), φ jumps, φ′ is not its derivative, a kink is not among those given, or φ
            turns too often to be laid out.

    Example:
        >>> import numpy as np
        >>> from isograd import theory
        >>> shrink = theory.phi_of(lambda u: np.sign(u) * np.maximum(np.abs(u) - 0.5, 0))
        >>> shrink.kinks
        (-0.5, 0.5)

    References: Trefethen 2013, ch. 3.
    """
    if isinstance(f, Phi):
        return f
    points = None if kinks is None else _points(kinks)
    if not callable(f):
        raise TheoryError("an activation must be a function of an array", came=repr(f))
    return _made(f, df, points, name or getattr(f, "__name__", "φ").replace("<lambda>", "φ"))


@lru_cache(maxsize=256)
def _made(
    f: Callable[[Any], Any],
    df: Callable[[Any], Any] | None,
    kinks: tuple[float, ...] | None,
    name: str,
) -> Phi:
    value = _function(f, name, "φ")
    if df is None:
        slope = _function(lambda u: jvp(f, (u,), (np.ones_like(u),))[1], name, "φ′", fix=_TRACE)
    else:
        slope = _function(df, name, "φ′")
    _refuse_mixing(value, name)
    panels = _laid_out(value, slope, name)
    found = _found_kinks(panels, value, name)
    _check_slope(panels, name)
    if kinks is None:
        kinks = tuple(found)
    for kink, error in found.items():
        if min((abs(kink - given) for given in kinks), default=math.inf) > max(error, 1e-12):
            raise TheoryError(
                "kinks must hold every point where φ′ or φ″ jumps",
                came=f"kinks = {list(kinks)}, and a kink at {kink:.12g}",
                where=name,
                fix=f"kinks = {[float(f'{k:.12g}') for k in found]}, or leave them out",
            )
    edges = np.unique(np.concatenate([panels.a, panels.b]))
    fine = np.flatnonzero(np.diff(edges) < 0.99 * _WIDTH)
    near_kink = np.zeros(len(edges), bool)
    for kink in kinks:
        near_kink |= np.abs(edges - kink) < _WIDTH / 2
    cuts = [edges[i] for i in np.union1d(fine, fine + 1) if not near_kink[i]]
    return Phi(name, value, slope, kinks, tuple(cuts))


def check_derivative(phi: Phi) -> None:
    """Check an activation as `phi_of` checks a function: φ′ is its slope, no kink is left out.

    Raises:
        TheoryError: naming the place.
    """
    phi_of(phi.f, df=phi.df, kinks=phi.kinks, name=phi.name)


def _points(kinks: Sequence[float]) -> tuple[float, ...]:
    try:
        points = tuple(sorted(float(k) for k in kinks))
    except (TypeError, ValueError):
        points = (math.nan,)
    if not all(map(math.isfinite, points)):
        raise TheoryError(
            "kinks must be a sequence of finite numbers",
            came=f"kinks = {kinks!r}",
            fix="list where the slope jumps, or leave them out",
        )
    return points


def _function(f: Callable[[Any], Any], name: str, what: str, fix: str = "") -> Function:
    """f on float64 arrays, refused where it gives anything else."""

    def function(u: Array) -> Array:
        u = np.asarray(u, np.float64)
        try:
            with np.errstate(all="ignore"):
                values = np.asarray(f(u))
        except Exception as error:  # whatever the user's function may raise
            raise TheoryError(
                f"{what} must take an array of float64",
                came=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                where=name,
                fix=fix
                or "use np.where in place of if, or wrap it: np.vectorize(f, otypes=[float])",
            ) from error
        if values.shape != u.shape or values.dtype != np.float64:
            raise TheoryError(
                f"{what} must keep the shape and the dtype of its input",
                came=f"{values.dtype} {values.shape} from float64 {u.shape}",
                where=name,
                fix="keep the axes, the precision, and real numbers; 0.0 and 1.0 for 0 and 1",
            )
        return values

    return function


def _refuse_mixing(f: Function, name: str) -> None:
    """Refuse a function whose values depend on each other, or change from call to call."""
    u = np.linspace(-3.0, 3.5, 24)
    whole = f(u)
    others = (f(u[::-1])[::-1], np.concatenate([f(u[:7]), f(u[7:])]), f(u.reshape(4, 6)).ravel())
    for other in others:
        if not np.allclose(whole, other, rtol=1e-12, atol=1e-300, equal_nan=True):
            i = int(np.argmax(~np.isclose(whole, other, rtol=1e-12, atol=1e-300)))
            raise TheoryError(
                "an activation must act on each value by itself",
                came=f"{whole[i]:.6g} and {other[i]:.6g} at {u[i]:.6g}, beside other values",
                where=name,
                fix="no sums over axes (softmax), no randomness, no state",
            )


# --- laid out in panels


@dataclass(frozen=True)
class _Panels:
    """Panels [a, b] in ascending order, with φ and φ′ on their Chebyshev points.

    Attributes:
        a, b: shape (P,).
        values: (2, P, _DEGREE + 1): φ, φ′.
        scale: (2, P): the largest |φ|, |φ′| nearer to 0.
    """

    a: Array
    b: Array
    values: Array
    scale: Array


@lru_cache(maxsize=1)
def _chebyshev() -> tuple[Array, Array, Array]:
    """(points on [−1, 1] with both ends, values -> coefficients, weights of the integral).

    References: Trefethen 2013, ch. 3; Clenshaw & Curtis 1960.
    """
    x = np.sort(np.cos(np.pi * np.arange(_DEGREE + 1) / _DEGREE))
    to_coefficients = np.linalg.inv(np.polynomial.chebyshev.chebvander(x, _DEGREE))
    degrees = np.arange(_DEGREE + 1)
    with np.errstate(divide="ignore"):
        of_each = np.where(degrees % 2 == 0, 2.0 / (1.0 - degrees.astype(float) ** 2), 0.0)
    return x, to_coefficients, of_each @ to_coefficients


def _laid_out(f: Function, df: Function, name: str) -> _Panels:
    """Panels on |u| ≤ 40, halved until φ and φ′ are resolved or nothing is left to halve."""
    x, to_coefficients, _ = _chebyshev()

    def on(a: Array, b: Array) -> Array:
        u = np.clip(a[:, None] + (b - a)[:, None] / 2 * (1 + x), a[:, None], b[:, None])
        u[:, -1] = b
        values = np.stack([f(u.ravel()), df(u.ravel())]).reshape(2, *u.shape)
        bad = ~np.isfinite(values)
        # φ′ may be infinite in one point, and is then not asked there by any average.
        bad[1] &= np.isnan(values[1]) | (np.isinf(values[1]).sum(axis=-1) > 1)[:, None]
        if bad.any():
            which, p, i = (int(k[0]) for k in np.nonzero(bad))
            raise TheoryError(
                f"{('φ', 'φ′')[which]} must be finite on |u| ≤ {REACH:g}",
                came=f"{values[which, p, i]} at {u[p, i]:.6g}",
                where=name,
                fix="use a form that does not overflow, and cut other branches out by np.where",
            )
        return values

    # Off the round numbers, where kinks are likely: one on an edge would be seen by neither side.
    edges = np.arange(-REACH, REACH + _WIDTH, _WIDTH) - 0.0838264
    a, b = edges[:-1], edges[1:]
    values = on(a, b)
    outward = np.argsort(np.abs(a + b), kind="stable")
    largest = np.where(np.isfinite(values), np.abs(values), 0.0).max(axis=-1)
    scale = np.empty_like(largest)
    scale[:, outward] = np.maximum.accumulate(largest[:, outward], axis=1)
    done: list[tuple[Array, Array, Array, Array]] = []
    count, eps = len(a), float(np.finfo(np.float64).eps)
    while len(a):
        with np.errstate(invalid="ignore"):
            last = np.abs(values @ to_coefficients.T)[..., -4:].max(axis=-1)
            size = np.maximum(scale, np.abs(values).max(axis=-1))  # beside an infinite slope
            # A point lies where it should to a rounding, which a steep function passes on.
            roundings = eps * np.maximum(np.abs(a), np.abs(b))
            noise = 2 * roundings / (b - a) * np.ptp(values, axis=-1)
            resolved = (last <= _RESOLVED * size + noise) & np.isfinite(size)
        rough = ~resolved.all(axis=0)
        floor = np.maximum(8 * roundings, 1e-18)
        split = rough & (b - a > floor)
        done.append((a[~split], b[~split], values[:, ~split], scale[:, ~split]))
        count += int(np.count_nonzero(split))
        if count > _MOST:
            raise TheoryError(
                f"an activation must be piecewise smooth on |u| ≤ {REACH:g}",
                came=f"more than {_MOST} pieces, one of them near {a[split][0]:.6g}",
                where=name,
                fix="a smoother function: no noise (float32 inside), no fast oscillation",
            )
        middle = (a + b)[split] / 2
        a, b = np.concatenate([a[split], middle]), np.concatenate([middle, b[split]])
        scale = np.concatenate([scale[:, split], scale[:, split]], axis=1)
        values = on(a, b)
    a, b, values, scale = (
        np.concatenate([d[i] for d in done], axis=-1 if i != 2 else 1) for i in range(4)
    )
    order = np.argsort(a)
    return _Panels(a[order], b[order], values[:, order], scale[:, order])


def _found_kinks(panels: _Panels, f: Function, name: str) -> dict[float, float]:
    """The places that halving closed in on, and how well they are known; refused where φ jumps.

    About a kink the panels are as wide as a share of their distance from it; narrower ones that are
    farther away than that surround another.
    """
    width, middle = panels.b - panels.a, (panels.a + panels.b) / 2
    found: dict[float, float] = {}
    for i in np.argsort(width, kind="stable"):
        if width[i] >= _KINK:
            break
        if any(abs(middle[i] - kink) < 64 * width[i] for kink in found):
            continue
        error = 4 * float(width[i])
        kink = _simplest(float(middle[i]), error)
        _refuse_jump(f, kink, error, float(panels.scale[0, i]), name)
        found[kink] = error
    return dict(sorted(found.items()))


def _simplest(x: float, error: float) -> float:
    """The number of the fewest decimals near x: kinks lie at 0 and ½, not at 5·10⁻¹⁷."""
    for digits in range(17):
        rounded = round(x, digits) + 0.0
        if abs(rounded - x) <= error:
            return rounded
    return x


def _refuse_jump(f: Function, kink: float, error: float, scale: float, name: str) -> None:
    """φ is continuous if its difference across the kink falls with the distance.

    Across a root's infinite slope it falls like √distance, by 30 for a thousandth.
    """
    near = max(error, 4 * float(np.spacing(abs(kink))))
    ends = np.array([kink - near, kink + near, kink - 1e3 * near, kink + 1e3 * near])
    low, high, far_low, far_high = map(float, f(ends))
    step, far = abs(high - low), abs(far_high - far_low)
    if step > 1e-9 * scale and step > 0.5 * far:
        raise TheoryError(
            "an activation must be continuous: φ′ holds nothing of a jump",
            came=f"a step from {low:.6g} to {high:.6g} at {kink:.12g}",
            where=name,
            fix="a steep slope in its place (hard tanh, logistic), as training needs it too",
        )


def _check_slope(panels: _Panels, name: str) -> None:
    """Refuse a φ′ that is not the derivative: on each panel ∫ φ′ = φ(b) − φ(a) to 1e-10."""
    _, _, weights = _chebyshev()
    half = (panels.b - panels.a) / 2
    with np.errstate(invalid="ignore"):
        integral = half * (panels.values[1] @ weights)
        gap = np.abs(integral - (panels.values[0, :, -1] - panels.values[0, :, 0]))
    allowed = 1e-10 * half * panels.scale[1] + 1e-13 * panels.scale[0]
    wrong = np.flatnonzero((gap > allowed) & (half > 1e-6))
    if wrong.size:
        i = wrong[0]
        raise TheoryError(
            "φ must be the integral of φ′ between its kinks",
            came=f"∫ φ′ and φ(b) − φ(a) differ by {gap[i]:.2g}",
            where=f"{name}, on [{panels.a[i]:.6g}, {panels.b[i]:.6g}]",
            fix="correct df, or leave it to the engine",
        )


__all__ = ["REACH", "PhiLike", "check_derivative", "phi_of"]
