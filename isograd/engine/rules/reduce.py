"""Reductions over axes. The reduced axes are dropped; keeping them is a reshape."""

from __future__ import annotations

from typing import Any

import numpy as np

from isograd.engine.dispatch import spec_of
from isograd.engine.functions import astype, broadcast_to, reshape, sum, where
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define
from isograd.errors import ShapeError

_Params = dict[str, Any]
_Args = tuple[Value, ...]


def spread(t: Value, x: Value, axes: tuple[int, ...]) -> Value:
    """Repeat a reduced array along the axes that it lost, to the shape of `x`."""
    shape = spec_of(x).shape
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return broadcast_to(reshape(t, kept), shape)


def reduced(x: ArraySpec, *, axes: tuple[int, ...]) -> ArraySpec:
    """Shape rule of all reductions."""
    if any(not 0 <= a < len(x.shape) for a in axes):
        raise ShapeError("reduced axes must exist", came=f"axes {axes} of {x}")
    return ArraySpec(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)


# --- sum


def _sum_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    return sum(t, params["axes"])


def _sum_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    return spread(g, args[0], params["axes"])


def _sum_shape(x: ArraySpec, *, axes: tuple[int, ...]) -> ArraySpec:
    spec = reduced(x, axes=axes)
    dtype = np.dtype(np.int64) if np.issubdtype(x.dtype, np.bool_) else x.dtype
    return ArraySpec(spec.shape, dtype)


def _sum_eval(x: Any, *, axes: tuple[int, ...]) -> Any:
    # Integers keep their dtype; booleans are counted. NumPy adds in the order of memory, so without
    # a copy the transpose of an array would have another sum than the array.
    dtype = np.int64 if x.dtype == np.bool_ else x.dtype
    return np.sum(np.asarray(x, order="C"), axis=axes, dtype=dtype)


define(Op.SUM, Rule(_sum_eval, _sum_shape, _sum_jvp, _sum_vjp, domain="all"))

# --- max


def _winners(out: Value, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value]:
    """Which elements attain the maximum, and how many of them share the derivative."""
    hit = x == spread(out, x, axes)
    return hit, sum(astype(hit, spec_of(x).dtype), axes)


def _max_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    hit, count = _winners(out, args[0], params["axes"])
    return sum(where(hit, t, 0.0), params["axes"]) / count


def _max_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    hit, count = _winners(out, args[0], params["axes"])
    x, axes = args[0], params["axes"]
    return where(hit, spread(g, x, axes), 0.0) / spread(count, x, axes)


def _max_shape(x: ArraySpec, *, axes: tuple[int, ...]) -> ArraySpec:
    if any(0 <= a < len(x.shape) and x.shape[a] == 0 for a in axes):
        raise ShapeError("a maximum must be over at least one element", came=f"axes {axes} of {x}")
    return reduced(x, axes=axes)


define(
    Op.REDUCE_MAX,
    Rule(
        lambda x, *, axes: np.max(x, axis=axes),
        _max_shape,
        _max_jvp,
        _max_vjp,
        domain="all; ties share the derivative; NaN where an element is NaN",
    ),
)
