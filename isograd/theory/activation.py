"""Any function as an activation of theory: its derivative, and its kinks, found and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from isograd.engine.autodiff import jvp
from isograd.errors import TheoryError
from isograd.theory.panels import Panels, kinks_of
from isograd.theory.quadrature import Array, Function, Phi

PhiLike = Phi | Callable[[Any], Any]
"""What the functions of this room take as an activation: a Phi, or a function of an array."""

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
    name = name or getattr(f, "__name__", "φ").replace("<lambda>", "φ")
    if not (isinstance(f, Hashable) and isinstance(df, Hashable)):
        return _made.__wrapped__(f, df, points, name)
    return _made(f, df, points, name)


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
    panels, found = kinks_of(value, slope, name)
    _check_slope(panels, name)
    for kink, error in found.items():
        if kinks is not None and all(abs(kink - k) > max(error, 1e-12) for k in kinks):
            raise TheoryError(
                "kinks must hold every point where φ′ or φ″ jumps",
                came=f"kinks = {list(kinks)}, and a kink at {kink:.12g}",
                where=name,
                fix=f"kinks = {[float(f'{k:.12g}') for k in found]}, or leave them out",
            )
    return Phi(name, value, slope, tuple(found) if kinks is None else kinks, panels.cuts())


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


def _check_slope(panels: Panels, name: str) -> None:
    """Refuse a φ′ that is not the derivative: on each panel ∫ φ′ = φ(b) − φ(a) to 1e-10."""
    with np.errstate(invalid="ignore"):
        gap = np.abs(panels.integrals() - (panels.values[0, :, -1] - panels.values[0, :, 0]))
    width = panels.b - panels.a
    allowed = 1e-10 * width * panels.scale[1] + 1e-13 * panels.scale[0]
    wrong = np.flatnonzero((gap > allowed) & (width > 1e-6))
    if wrong.size:
        i = wrong[0]
        raise TheoryError(
            "φ must be the integral of φ′ between its kinks",
            came=f"∫ φ′ and φ(b) − φ(a) differ by {gap[i]:.2g}",
            where=f"{name}, on [{panels.a[i]:.6g}, {panels.b[i]:.6g}]",
            fix="correct df, or leave it to the engine",
        )


__all__ = ["PhiLike", "check_derivative", "phi_of"]
