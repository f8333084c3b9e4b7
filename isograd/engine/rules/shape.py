"""Primitives that move elements about: all linear, each the other's transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.dispatch import apply, spec_of
from isograd.engine.functions import (
    astype,
    broadcast_to,
    getitem,
    reshape,
    sum,
    take,
    transpose,
)
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define
from isograd.errors import ShapeError

_Params = dict[str, Any]
_Args = tuple[Value, ...]
_Ints = tuple[int, ...]


# --- reshape


def _reshape_shape(x: ArraySpec, *, shape: _Ints) -> ArraySpec:
    if x.size != ArraySpec(shape).size:
        raise ShapeError("a reshape must keep the number of elements", came=f"{x} to {shape}")
    return ArraySpec(shape, x.dtype)


def _reshape_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    return reshape(t, params["shape"])


def _reshape_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    return reshape(g, spec_of(args[0]).shape)


define(
    Op.RESHAPE,
    Rule(
        lambda x, *, shape: np.reshape(np.asarray(x, order="C"), shape),
        _reshape_shape,
        _reshape_jvp,
        _reshape_vjp,
        domain="all",
    ),
)

# --- transpose


def _transpose_shape(x: ArraySpec, *, axes: _Ints) -> ArraySpec:
    if sorted(axes) != list(range(len(x.shape))):
        raise ShapeError("a transposition must name every axis once", came=f"axes {axes} of {x}")
    return ArraySpec(tuple(x.shape[a] for a in axes), x.dtype)


def _transpose_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    return transpose(t, params["axes"])


def _transpose_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    return transpose(g, tuple(int(a) for a in np.argsort(params["axes"])))


define(
    Op.TRANSPOSE,
    Rule(
        lambda x, *, axes: np.transpose(x, axes),
        _transpose_shape,
        _transpose_jvp,
        _transpose_vjp,
        domain="all",
    ),
)

# --- broadcast


def _broadcast_shape(x: ArraySpec, *, shape: _Ints) -> ArraySpec:
    tail = shape[len(shape) - len(x.shape) :]
    if len(x.shape) > len(shape) or any(
        n not in (1, m) for n, m in zip(x.shape, tail, strict=True)
    ):
        raise ShapeError(
            "a broadcast must keep each axis or repeat an axis of length 1",
            came=f"{x} to {shape}",
        )
    return ArraySpec(shape, x.dtype)


def _broadcast_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    return broadcast_to(t, params["shape"])


def _broadcast_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    small, large = spec_of(args[0]).shape, params["shape"]
    new = len(large) - len(small)
    repeated = (k for k, n in enumerate(small) if n == 1 and large[new + k] != 1)
    axes = (*range(new), *(new + k for k in repeated))
    return reshape(sum(g, axes), small)


define(
    Op.BROADCAST,
    Rule(
        lambda x, *, shape: np.broadcast_to(x, shape),
        _broadcast_shape,
        _broadcast_jvp,
        _broadcast_vjp,
        domain="all",
    ),
)

# --- slice and pad


def _slices(start: _Ints, stop: _Ints, step: _Ints) -> tuple[slice, ...]:
    return tuple(slice(*bounds) for bounds in zip(start, stop, step, strict=True))


def _slice_shape(x: ArraySpec, *, start: _Ints, stop: _Ints, step: _Ints) -> ArraySpec:
    if not len(x.shape) == len(start) == len(stop) == len(step) or any(
        not (0 <= a <= b <= n and s > 0)
        for a, b, s, n in zip(start, stop, step, x.shape, strict=False)
    ):
        raise ShapeError(
            "a slice must have 0 ≤ start ≤ stop ≤ length and step > 0 on every axis",
            came=f"[{start}:{stop}:{step}] of {x}",
        )
    lengths = (len(range(a, b, s)) for a, b, s in zip(start, stop, step, strict=True))
    return ArraySpec(tuple(lengths), x.dtype)


def _slice_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    return getitem(t, _slices(**params))


def _slice_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    rows = zip(
        spec_of(args[0]).shape, spec_of(g).shape, params["start"], params["step"], strict=True
    )
    high = tuple(n - a - (m and (m - 1) * s + 1) for n, m, a, s in rows)
    inner = tuple(s - 1 for s in params["step"])
    return apply(Op.PAD, g, low=params["start"], high=high, inner=inner)


define(
    Op.SLICE,
    Rule(
        lambda x, *, start, stop, step: x[_slices(start, stop, step)],
        _slice_shape,
        _slice_jvp,
        _slice_vjp,
        domain="all",
    ),
)


def _pad_shape(x: ArraySpec, *, low: _Ints, high: _Ints, inner: _Ints) -> ArraySpec:
    if (
        not len(x.shape) == len(low) == len(high) == len(inner)
        or min((*low, *high, *inner), default=0) < 0
    ):
        raise ShapeError(
            "padding must be ≥ 0 before, behind and between, on every axis",
            came=f"{low}, {high}, {inner} for {x}",
        )
    rows = zip(x.shape, low, high, inner, strict=True)
    return ArraySpec(tuple(a + b + n + (n and (n - 1) * k) for n, a, b, k in rows), x.dtype)


def _pad_eval(x: NDArray[Any], *, low: _Ints, high: _Ints, inner: _Ints) -> NDArray[Any]:
    spec = _pad_shape(spec_of(x), low=low, high=high, inner=inner)
    out = np.zeros(spec.shape, x.dtype)
    out[_pad_window(x.shape, low, inner)] = x
    return out


def _pad_window(shape: _Ints, low: _Ints, inner: _Ints) -> tuple[slice, ...]:
    """Where the elements of an array of this shape lie after padding."""
    rows = zip(shape, low, inner, strict=True)
    return tuple(slice(a, a + (n and (n - 1) * (k + 1) + 1), k + 1) for n, a, k in rows)


def _pad_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    return apply(Op.PAD, t, **params)


def _pad_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    return getitem(g, _pad_window(spec_of(args[0]).shape, params["low"], params["inner"]))


define(Op.PAD, Rule(_pad_eval, _pad_shape, _pad_jvp, _pad_vjp, domain="all"))

# --- concatenate


def _concatenate_shape(*xs: ArraySpec, axis: int) -> ArraySpec:
    rest = {(x.shape[:axis], x.shape[axis + 1 :], x.dtype, len(x.shape)) for x in xs}
    if len(rest) != 1 or not 0 <= axis < len(xs[0].shape):
        raise ShapeError(
            "parts of a concatenation must agree in dtype and in every axis but the joined one",
            came=f"{', '.join(map(str, xs))} along axis {axis}",
        )
    head, tail, dtype, _ = rest.pop()
    length = 0
    for x in xs:
        length += x.shape[axis]
    return ArraySpec((*head, length, *tail), dtype)


def _place(i: int, args: _Args, axis: int) -> tuple[int, int]:
    """Where part i begins and ends."""
    start = 0
    for part in args[:i]:
        start += spec_of(part).shape[axis]
    return start, start + spec_of(args[i]).shape[axis]


def _concatenate_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    start, stop = _place(i, args, axis)
    shape = spec_of(out).shape
    return apply(
        Op.PAD,
        t,
        low=tuple(start if k == axis else 0 for k in range(len(shape))),
        high=tuple(n - stop if k == axis else 0 for k, n in enumerate(shape)),
        inner=(0,) * len(shape),
    )


def _concatenate_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    return getitem(g, (*[slice(None)] * axis, slice(*_place(i, args, axis))))


define(
    Op.CONCATENATE,
    Rule(
        lambda *xs, axis: np.concatenate(xs, axis=axis),
        _concatenate_shape,
        _concatenate_jvp,
        _concatenate_vjp,
        domain="all",
    ),
)

# --- gather and scatter


def _gather_shape(x: ArraySpec, indices: ArraySpec, *, axis: int) -> ArraySpec:
    if not 0 <= axis < len(x.shape) or not np.issubdtype(indices.dtype, np.integer):
        raise ShapeError(
            "a gather must have integer indices along an axis that exists",
            came=f"{x}, indices {indices}, axis {axis}",
        )
    return ArraySpec((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)


def _gather_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    return take(t, args[1], params["axis"]) if i == 0 else None


def _gather_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    if i == 1:
        return None
    axis = params["axis"]
    size = spec_of(args[0]).shape[axis]
    return apply(Op.SCATTER_ADD, g, args[1], axis=axis, size=size)


define(
    Op.GATHER,
    Rule(
        lambda x, indices, *, axis: np.take(x, indices, axis=axis),
        _gather_shape,
        _gather_jvp,
        _gather_vjp,
        domain="−n ≤ index < n; IndexError elsewhere",
    ),
)


def _scatter_shape(x: ArraySpec, indices: ArraySpec, *, axis: int, size: int) -> ArraySpec:
    n = len(indices.shape)
    integers = np.issubdtype(indices.dtype, np.integer)
    if axis < 0 or x.shape[axis : axis + n] != indices.shape or not integers:
        raise ShapeError(
            "scattered rows must match their indices", came=f"{x}, indices {indices}, axis {axis}"
        )
    return ArraySpec((*x.shape[:axis], size, *x.shape[axis + n :]), x.dtype)


def _scatter_eval(x: NDArray[Any], indices: NDArray[Any], *, axis: int, size: int) -> NDArray[Any]:
    n = indices.ndim
    out = np.zeros((*x.shape[:axis], size, *x.shape[axis + n :]), x.dtype)
    where: Any = (*[slice(None)] * axis, indices)
    np.add.at(out, where, x)
    return out


def _scatter_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    return apply(Op.SCATTER_ADD, t, args[1], **params) if i == 0 else None


def _scatter_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    return take(g, args[1], params["axis"]) if i == 0 else None


define(
    Op.SCATTER_ADD,
    Rule(
        _scatter_eval,
        _scatter_shape,
        _scatter_jvp,
        _scatter_vjp,
        domain="−size ≤ index < size; rows of one index add up",
    ),
)

# --- cast


def _cast_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    return astype(t, params["dtype"]) if spec_of(out).differentiable else None


def _cast_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    source = spec_of(args[0])
    return astype(g, source.dtype) if source.differentiable else None


define(
    Op.CAST,
    Rule(
        lambda x, *, dtype: x.astype(dtype),
        lambda x, *, dtype: ArraySpec(x.shape, np.dtype(dtype)),
        _cast_jvp,
        _cast_vjp,
        domain="within the range of the target",
        elementwise=True,
    ),
)
