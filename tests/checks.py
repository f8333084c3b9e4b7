"""Checkers that the tests share. Each is itself tested by a planted fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np

import isograd
from isograd.backends.numpy import Executable
from isograd.engine.passes import optimise
from isograd.engine.plan import plan
from isograd.engine.tree import flatten, map_leaves

# --- bits


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees hold the same arrays: shapes, dtypes, signs of zeros; any NaN is a NaN."""
    (xs, sa), (ys, sb) = flatten(a), flatten(b)
    return sa == sb and all(
        _same(np.asarray(x), np.asarray(y)) for x, y in zip(xs, ys, strict=True)
    )


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if not np.issubdtype(x.dtype, np.floating):
        return np.array_equal(x, y)
    nan = np.isnan(x)
    return np.array_equal(nan, np.isnan(y)) and x[~nan].tobytes() == y[~nan].tobytes()


def run_static(f: Callable[..., Any], *args: Any) -> Any:
    """f in static mode: traced, optimised by the exact passes, planned, interpreted."""
    return Executable(plan(optimise(isograd.trace(f, *args)).graph))(*args)


def check_modes(f: Callable[..., Any], *args: Any) -> None:
    """Dynamic and static mode must give the same bits."""
    dynamic, static = f(*args), run_static(f, *args)
    assert same_bits(dynamic, static), f"dynamic {dynamic}\nstatic  {static}"


def once(run: Callable[..., Any], carry: Any, fixed: Any, each: Any, observe: Any = None) -> Any:
    """(carry, out) of a step in rounds that is taken once, and applied."""
    rows = map_leaves(lambda leaf: np.asarray(leaf)[None], each)
    after, out, applied = run(carry, fixed, rows, observe=observe)
    assert applied == 1
    return after, map_leaves(lambda leaf: leaf[0], out)


# --- units in the last place


def ulps(got: Any, want: Any, *, normal_only: bool = False) -> float:
    """The distance of a float32 or float64 from a real number, in units in its last place.

    Args:
        got: the NumPy scalar.
        want: an mpf, or a float that stands for itself (infinities and NaN too).
        normal_only: count an error below the smallest normal number as none.
    """
    info = np.finfo(got.dtype)
    value, want = float(got), mpmath.mpf(want)
    if mpmath.isnan(want) or np.isnan(value):
        return 0.0 if mpmath.isnan(want) and np.isnan(value) else np.inf
    top = mpmath.mpf(float(info.max)) * (1 + mpmath.mpf(float(info.eps)) / 4)
    if mpmath.isinf(want) or abs(want) > top:
        return 0.0 if np.isinf(value) and (value > 0) == (want > 0) else np.inf
    if np.isinf(value):
        return np.inf
    error = abs(mpmath.mpf(value) - want)
    if normal_only and error < float(info.smallest_normal):
        return 0.0
    exponent = max(mpmath.frexp(want)[1] - 1, int(info.minexp)) if want else int(info.minexp)
    return float(error / mpmath.mpf(2) ** (exponent - int(info.nmant)))


# --- derivatives


def _inner(a: Any, b: Any) -> float:
    pairs = zip(flatten(a)[0], flatten(b)[0], strict=True)
    return float(sum(np.sum(np.multiply(x, y)) for x, y in pairs))


def _like(rng: np.random.Generator, tree: Any) -> Any:
    return map_leaves(lambda x: np.asarray(rng.normal(size=np.shape(x))), tree)


def _central(f: Callable[..., Any], args: Sequence[Any], tangents: Sequence[Any]) -> Any:
    h = float(np.cbrt(np.finfo(np.float64).eps))

    def at(sign: float) -> Any:
        return f(*map_leaves(lambda x, t: x + sign * h * t, tuple(args), tuple(tangents)))

    return map_leaves(lambda p, m: (np.asarray(p) - np.asarray(m)) / (2 * h), at(1.0), at(-1.0))


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    *,
    order: int = 2,
    modes: Sequence[str] = ("fwd", "rev"),
    rtol: float = 1e-6,
    seed: int = 0,
) -> None:
    """Hold the derivatives of f, in each mode and each mode of that, against central differences.

    With both modes, ⟨v, Ju⟩ = ⟨Jᵀv, u⟩ is held to rounding as well. float64 alone: central
    differences with a step of ∛ε are good to ε^⅔ relative to the third derivative.
    """
    rng = np.random.default_rng(seed)
    args = tuple(args)
    tangents = _like(rng, args)
    value, tangent = isograd.jvp(f, args, tangents)
    cotangent = _like(rng, value)
    numeric = _central(f, args, tangents)
    slack = rtol * (1.0 + max(float(np.max(np.abs(x), initial=0)) for x in flatten(numeric)[0]))
    if "fwd" in modes:
        for got, want in zip(flatten(tangent)[0], flatten(numeric)[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=rtol, atol=slack, err_msg="jvp")
    if "rev" in modes:
        pulled = isograd.vjp(f, *args)[1](cotangent)
        for got, arg in zip(flatten(pulled)[0], flatten(args)[0], strict=True):
            assert np.shape(got) == np.shape(arg), "a cotangent has another shape than its primal"
        got, want = _inner(pulled, tangents), _inner(cotangent, numeric)
        size = 1.0 + abs(_inner(map_leaves(np.abs, cotangent), map_leaves(np.abs, numeric)))
        assert abs(got - want) <= 10 * rtol * size, f"vjp: ⟨Jᵀv, u⟩ = {got}, ⟨v, Ju⟩ = {want}"
        if "fwd" in modes:
            want = _inner(cotangent, tangent)
            tight = 1e-12 if rtol <= 1e-6 else 1e-4 * rtol
            assert abs(got - want) <= tight * size, f"⟨Jᵀv, u⟩ = {got}, ⟨v, Ju⟩ = {want}"
    if order > 1:
        again = {"order": order - 1, "modes": modes, "rtol": rtol, "seed": seed + 1}
        if "fwd" in modes:
            check_grads(lambda *xs: isograd.jvp(f, xs, tangents)[1], args, **again)
        if "rev" in modes:
            check_grads(lambda *xs: isograd.vjp(f, *xs)[1](cotangent), args, **again)
