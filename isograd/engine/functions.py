"""The engine's functions of arrays, named as in NumPy.

Here implicit things become explicit: Python scalars take the dtype of the array they meet, shapes
are broadcast and dtypes promoted by primitives of their own, so that the rules need none of it.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from isograd.engine.dispatch import Tracer, apply, spec_of
from isograd.engine.graph import ArraySpec
from isograd.engine.number_formats import number_format
from isograd.engine.ops import Op, Value
from isograd.errors import ShapeError

_Axis = int | tuple[int, ...] | None


# --- implicit made explicit


def asarray(x: Value) -> Value:
    """Leave tracers and arrays alone; make an array of anything else."""
    return x if isinstance(x, Tracer | np.ndarray | np.generic) else np.asarray(x)


def _common(*args: Value) -> tuple[Value, ...]:
    """Cast and broadcast the arguments to one dtype and one shape."""
    specs = [spec_of(a) for a in args]
    first = specs[0]
    if all(
        s.shape == first.shape and s.dtype == first.dtype and type(a) not in (int, float, bool)
        for a, s in zip(args, specs, strict=True)
    ):
        return tuple(asarray(a) for a in args)
    weak = [
        a if isinstance(a, int | float) and not isinstance(a, np.generic) else s.dtype
        for a, s in zip(args, specs, strict=True)
    ]
    dtype = np.result_type(*weak)
    shape = _broadcast_shapes(*specs)
    return tuple(broadcast_to(astype(a, dtype), shape) for a in args)


def _broadcast_shapes(*specs: ArraySpec, but: int = 0) -> tuple[int, ...]:
    """The shape that all broadcast to, the last `but` axes left out."""
    try:
        return np.broadcast_shapes(*(s.shape[: len(s.shape) - but] for s in specs))
    except ValueError:
        raise ShapeError(
            "shapes must be equal, or 1 where they differ, counted from the last axis",
            came=" and ".join(str(s) for s in specs),
            fix="reshape or transpose one of them",
        ) from None


def _axes(axis: _Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(axis) if isinstance(axis, tuple | list) else (operator.index(axis),)
    for a in axes:
        if not -ndim <= a < ndim:
            raise ShapeError(
                f"an axis must lie in [{-ndim}, {ndim - 1}] for an array of {ndim} axes",
                came=f"axis {a}",
            )
    normal = tuple(sorted(a % ndim for a in axes))
    if len(set(normal)) < len(normal):
        raise ShapeError("an axis must be named once", came=f"axes {axes}")
    return normal


def _one_axis(axis: int, ndim: int) -> int:
    (normal,) = _axes(operator.index(axis), ndim)
    return normal


def _floating(x: Value) -> Value:
    """Elementary functions of integers are taken in float64, as in NumPy."""
    x = asarray(x)
    dtype = spec_of(x).dtype
    return x if np.issubdtype(dtype, np.inexact) else astype(x, np.float64)


def _unary(op: Op, doc: str) -> Callable[[Value], Value]:
    def function(x: Value) -> Value:
        return apply(op, _floating(x))

    function.__name__ = function.__qualname__ = op.value
    function.__doc__ = doc
    return function


def _binary(op: Op, doc: str, *, floating: bool = False) -> Callable[[Value, Value], Value]:
    def function(x: Value, y: Value) -> Value:
        x, y = _common(x, y)
        return apply(op, _floating(x), _floating(y)) if floating else apply(op, x, y)

    function.__name__ = function.__qualname__ = op.value
    function.__doc__ = doc
    return function


# --- elementwise

add = _binary(Op.ADD, "x + y.")
subtract = _binary(Op.SUB, "x − y.")
multiply = _binary(Op.MUL, "x · y.")
divide = _binary(Op.DIV, "x / y.", floating=True)
maximum = _binary(Op.MAX, "The larger of x and y; a tie shares the derivative.")
minimum = _binary(Op.MIN, "The smaller of x and y; a tie shares the derivative.")
equal = _binary(Op.EQ, "x = y, as booleans.")
not_equal = _binary(Op.NE, "x ≠ y, as booleans.")
less = _binary(Op.LT, "x < y, as booleans.")
less_equal = _binary(Op.LE, "x ≤ y, as booleans.")
greater = _binary(Op.GT, "x > y, as booleans.")
greater_equal = _binary(Op.GE, "x ≥ y, as booleans.")
exp = _unary(Op.EXP, "eˣ.")
expm1 = _unary(Op.EXPM1, "eˣ − 1, accurate near 0.")
log = _unary(Op.LOG, "ln x.")
log1p = _unary(Op.LOG1P, "ln(1 + x), accurate near 0.")
sqrt = _unary(Op.SQRT, "√x.")
tanh = _unary(Op.TANH, "(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ).")
logistic = _unary(Op.LOGISTIC, "σ(x) = 1 / (1 + e⁻ˣ).")
erf = _unary(Op.ERF, "2/√π ∫₀ˣ e^(−t²) dt.")
erfc = _unary(Op.ERFC, "1 − erf x, accurate where that cancels.")
sin = _unary(Op.SIN, "sin x, x in radians.")
cos = _unary(Op.COS, "cos x, x in radians.")
softplus = _unary(Op.SOFTPLUS, "ln(1 + eˣ), without overflow.")


def power(x: Value, y: Value) -> Value:
    """x to the power y; the power 2 is x · x, which is exact and faster."""
    if type(y) in (int, float) and y == 2:
        return square(_floating(x))
    x, y = _common(x, y)
    return apply(Op.POW, _floating(x), _floating(y))


def negative(x: Value) -> Value:
    """−x."""
    return apply(Op.NEG, asarray(x))


def absolute(x: Value) -> Value:
    """|x|; derivative 0 at 0."""
    return apply(Op.ABS, asarray(x))


def sign(x: Value) -> Value:
    """−1, 0 or 1; derivative 0."""
    return apply(Op.SIGN, asarray(x))


def square(x: Value) -> Value:
    """x²."""
    return multiply(x, x)


def where(condition: Value, x: Value, y: Value) -> Value:
    """x where the condition holds, else y. The branch not taken gets a zero cotangent."""
    x, y = _common(x, y)
    condition = asarray(condition)
    shape = _broadcast_shapes(spec_of(condition), spec_of(x))
    return apply(
        Op.SELECT,
        broadcast_to(astype(condition, np.bool_), shape),
        broadcast_to(x, shape),
        broadcast_to(y, shape),
    )


def clip(x: Value, low: Value, high: Value) -> Value:
    """x held to [low, high]; a bound may be None."""
    x = x if low is None else maximum(x, low)
    return asarray(x if high is None else minimum(x, high))


# --- reductions


def sum(x: Value, axis: _Axis = None, keepdims: bool = False) -> Value:
    """Sum over the given axes (all of them by default)."""
    x = asarray(x)
    x = astype(x, np.int64) if spec_of(x).dtype == np.bool_ else x
    return _reduce(Op.SUM, x, axis, keepdims)


def mean(x: Value, axis: _Axis = None, keepdims: bool = False) -> Value:
    """Arithmetic mean over the given axes (all of them by default)."""
    x = _floating(x)
    shape = spec_of(x).shape
    count = math.prod(shape[a] for a in _axes(axis, len(shape)))
    return divide(sum(x, axis, keepdims), float(count))


def max(x: Value, axis: _Axis = None, keepdims: bool = False) -> Value:
    """Largest element over the given axes; elements that tie share the derivative."""
    x = asarray(x)
    return _reduce(Op.REDUCE_MAX, x, axis, keepdims)


def min(x: Value, axis: _Axis = None, keepdims: bool = False) -> Value:
    """Smallest element over the given axes; elements that tie share the derivative."""
    return negative(max(negative(x), axis, keepdims))


def _reduce(op: Op, x: Value, axis: _Axis, keepdims: bool) -> Value:
    shape = spec_of(x).shape
    axes = _axes(axis, len(shape))
    out = apply(op, x, axes=axes) if axes else x
    if not keepdims:
        return out
    return reshape(out, tuple(1 if i in axes else n for i, n in enumerate(shape)))


def logsumexp(x: Value, axis: int = -1, keepdims: bool = False) -> Value:
    """ln Σ eˣ along an axis, without overflow."""
    x = _floating(x)
    shape = spec_of(x).shape
    axis = _one_axis(axis, len(shape))
    out = apply(Op.LOGSUMEXP, x, axis=axis)
    return reshape(out, (*shape[:axis], 1, *shape[axis + 1 :])) if keepdims else out


def log_softmax(x: Value, axis: int = -1) -> Value:
    """x − ln Σ eˣ along an axis, without overflow."""
    x = _floating(x)
    return apply(Op.LOG_SOFTMAX, x, axis=_one_axis(axis, len(spec_of(x).shape)))


def softmax(x: Value, axis: int = -1) -> Value:
    """eˣ / Σ eˣ along an axis, without overflow."""
    return exp(log_softmax(x, axis))


def matmul(x: Value, y: Value) -> Value:
    """Matrix product over the last two axes; vectors as in NumPy; leading axes are broadcast."""
    x, y = asarray(x), asarray(y)
    dtype = np.result_type(spec_of(x).dtype, spec_of(y).dtype)
    x, y = astype(x, dtype), astype(y, dtype)
    sx, sy = spec_of(x).shape, spec_of(y).shape
    if not sx or not sy or sx[-1] != sy[-2 if len(sy) > 1 else 0]:
        raise ShapeError(
            "the columns of the left factor must equal the rows of the right one",
            came=f"{spec_of(x)} @ {spec_of(y)}",
            fix="transpose one of them",
        )
    if len(sx) == 1 or len(sy) == 1:
        left = reshape(x, (1, *sx)) if len(sx) == 1 else x
        right = reshape(y, (*sy, 1)) if len(sy) == 1 else y
        out = matmul(left, right)
        shape = spec_of(out).shape
        rows = () if len(sx) == 1 else shape[-2:-1]
        columns = () if len(sy) == 1 else shape[-1:]
        return reshape(out, (*shape[:-2], *rows, *columns))
    batch = _broadcast_shapes(spec_of(x), spec_of(y), but=2)
    return apply(Op.MATMUL, broadcast_to(x, batch + sx[-2:]), broadcast_to(y, batch + sy[-2:]))


# --- shape and movement


def reshape(x: Value, shape: int | Sequence[int]) -> Value:
    """The same elements in another shape; one length may be −1."""
    x = asarray(x)
    spec = spec_of(x)
    target = [operator.index(n) for n in (shape if isinstance(shape, Sequence) else (shape,))]
    if target.count(-1) == 1:
        known = math.prod(n for n in target if n != -1)
        target[target.index(-1)] = spec.size // known if known else 0
    if tuple(target) == spec.shape:
        return x
    if math.prod(target) != spec.size or any(n < 0 for n in target):
        raise ShapeError("a reshape must keep the number of elements", came=f"{spec} to {shape}")
    return apply(Op.RESHAPE, x, shape=tuple(target))


def expand_dims(x: Value, axis: int) -> Value:
    """Insert an axis of length 1."""
    shape = list(spec_of(x).shape)
    shape.insert(_one_axis(axis, len(shape) + 1), 1)
    return reshape(x, shape)


def transpose(x: Value, axes: Sequence[int] | None = None) -> Value:
    """Axes in another order; reversed by default."""
    x = asarray(x)
    ndim = len(spec_of(x).shape)
    order = tuple(reversed(range(ndim))) if axes is None else tuple(a % ndim for a in axes)
    if sorted(order) != list(range(ndim)):
        raise ShapeError(
            "a transposition must name every axis once", came=f"axes {axes} of {spec_of(x)}"
        )
    return x if order == tuple(range(ndim)) else apply(Op.TRANSPOSE, x, axes=order)


def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    """Repeat along new leading axes and along axes of length 1."""
    x = asarray(x)
    shape = tuple(shape)
    return x if spec_of(x).shape == shape else apply(Op.BROADCAST, x, shape=shape)


def concatenate(arrays: Sequence[Value], axis: int = 0) -> Value:
    """Join along an existing axis."""
    parts = [asarray(a) for a in arrays]
    if not parts:
        raise ShapeError("a concatenation must have at least one part", came="none")
    dtype = np.result_type(*(spec_of(p).dtype for p in parts))
    axis = _one_axis(axis, len(spec_of(parts[0]).shape))
    if len(parts) == 1:
        return parts[0]
    return apply(Op.CONCATENATE, *(astype(p, dtype) for p in parts), axis=axis)


def stack(arrays: Sequence[Value], axis: int = 0) -> Value:
    """Join along a new axis."""
    return concatenate([expand_dims(a, axis) for a in arrays], axis)


def take(x: Value, indices: Value, axis: int = 0) -> Value:
    """Elements (rows) at integer indices along an axis; a negative index counts from the end."""
    x, indices = asarray(x), asarray(indices)
    if not np.issubdtype(spec_of(indices).dtype, np.integer):
        raise ShapeError(
            "an index array must hold integers",
            came=str(spec_of(indices)),
            fix="for a condition use isograd.functions.where",
        )
    return apply(Op.GATHER, x, indices, axis=_one_axis(axis, len(spec_of(x).shape)))


def getitem(x: Value, index: Any) -> Value:
    """Basic indexing (integers, slices, ..., None), or one integer array along the first axis."""
    if isinstance(index, Tracer | np.ndarray | list):
        empty = isinstance(index, list) and not index  # NumPy would take it for floats
        return take(x, np.zeros(0, np.intp) if empty else index)
    shape = spec_of(x).shape
    items = list(index) if isinstance(index, tuple) else [index]
    used = builtins.sum(i is not None and i is not Ellipsis for i in items)
    if used > len(shape):
        raise ShapeError("indices must not outnumber axes", came=f"{used} for {spec_of(x)}")
    gap = next((k for k, item in enumerate(items) if item is Ellipsis), len(items))
    items[gap : gap + 1] = [slice(None)] * (len(shape) - used)
    starts, stops, steps, kept, flips = [], [], [], [], []
    axis = 0
    for item in items:
        if item is None:
            kept.append(1)
            continue
        n = shape[axis]
        if isinstance(item, slice):
            start, stop, step = item.indices(n)
            length = len(range(start, stop, step))
            if step < 0:  # taken forwards, then reversed by a gather
                start, stop, step = start + (length - 1) * step, start + 1, -step
                flips.append(len(kept))
            if length == 0:
                start = stop = 0
            kept.append(length)
        else:
            i = _integer(item)
            if not -n <= i < n:
                raise IndexError(f"index {i} is out of bounds for axis {axis} of length {n}")
            start, stop, step = i % n, i % n + 1, 1
        starts.append(start)
        stops.append(stop)
        steps.append(step)
        axis += 1
    out = asarray(x)
    if (tuple(starts), tuple(stops), tuple(steps)) != ((0,) * axis, shape, (1,) * axis):
        out = apply(Op.SLICE, out, start=tuple(starts), stop=tuple(stops), step=tuple(steps))
    out = reshape(out, kept)
    for flip in flips:
        out = take(out, np.arange(kept[flip] - 1, -1, -1), axis=flip)
    return out


def _integer(item: Any) -> int:
    if isinstance(item, bool | np.bool_) or not hasattr(item, "__index__") or np.ndim(item):
        raise ShapeError(
            "an index must be made of integers, slices, ... and None, or be one integer array",
            came=f"{type(item).__name__} in the index",
            fix="take elements along an axis by isograd.functions.take, choose by where",
        )
    return operator.index(item)


def astype(x: Value, dtype: DTypeLike) -> Value:
    """The same values in another dtype."""
    dtype = np.dtype(dtype)
    if isinstance(x, int | float) and not isinstance(x, np.generic):
        return np.asarray(x, dtype)
    x = asarray(x)
    return x if spec_of(x).dtype == dtype else apply(Op.CAST, x, dtype=dtype)


def zeros_like(x: Value | ArraySpec) -> Value:
    """Zeros of the same shape and dtype."""
    spec = spec_of(x)
    return np.zeros(spec.shape, spec.dtype)


def ones_like(x: Value | ArraySpec) -> Value:
    """Ones of the same shape and dtype."""
    spec = spec_of(x)
    return np.ones(spec.shape, spec.dtype)


# --- randomness without state


def random_bits(key: Value, counter: Value, shape: Sequence[int]) -> Value:
    """Random words, a function of key, counter and place alone; derivative 0.

    Elements 2i and 2i + 1, counted in row order, are the two words of the Threefry-2x32 block with
    counter words (i, counter).

    Args:
        key: (2,) uint32.
        counter: () uint32, or a Python integer in [0, 2³²).
        shape: of the result; at most 2³³ elements.

    Returns:
        uint32 of that shape.

    Raises:
        ShapeError: if key or counter is something else, or the result too large.

    References:
        Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    if type(counter) is int and 0 <= counter < 2**32:
        counter = np.asarray(counter, np.uint32)
    target = tuple(operator.index(n) for n in shape)
    return apply(Op.RANDOM_BITS, asarray(key), asarray(counter), shape=target)


# --- narrower formats


def round_to(x: Value, form: str, bits: Value | None = None) -> Value:
    """x rounded to a number format, in its own dtype; the derivative is that of x.

    Args:
        x: any array.
        form: name of the format, of `isograd.engine.number_formats.FORMATS`.
        bits: uint32 random bits of the shape of x, for stochastic rounding; without, to nearest
            even.

    Raises:
        IsogradError: there is no such format.

    References:
        Bengio, Léonard & Courville 2013, Estimating or propagating gradients through stochastic
        neurons for conditional computation, sec. 4 (the straight-through estimator).
    """
    number_format(form)
    x = _floating(x)
    return apply(Op.ROUND, x, *_words(x, bits), form=form)


def round_cotangent(x: Value, form: str, scale: Value = 1.0, bits: Value | None = None) -> Value:
    """x, whose cotangent g the reverse mode rounds: to (g · scale rounded to a format)/scale.

    So a loss that is multiplied by `scale` acts on the rounding of its gradients (Micikevicius et
    al. 2018, sec. 3.2), and they come out in their own units.

    Args:
        x: any array.
        form: name of the format.
        scale: a power of two, so that nothing else is rounded; derivative 0.
        bits: for the cotangent, as for `round_to`.

    Raises:
        IsogradError: there is no such format.
    """
    number_format(form)
    x = _floating(x)
    spec = spec_of(x)
    scale = broadcast_to(astype(scale, spec.dtype), spec.shape)
    return apply(Op.ROUND_COTANGENT, x, scale, *_words(x, bits), form=form)


def _words(x: Value, bits: Value | None) -> tuple[Value, ...]:
    return () if bits is None else (broadcast_to(bits, spec_of(x).shape),)


# --- identities with a meaning


def stop_gradient(x: Value) -> Value:
    """x, held constant under differentiation."""
    return apply(Op.STOP_GRADIENT, asarray(x))


def probe(x: Value, site: str, cotangent: str | None = None) -> Value:
    """x, observed.

    Args:
        x: any array.
        site: the name under which an observer sees x.
        cotangent: the name under which it sees ∂L/∂x; the reverse mode places that probe.
    """
    return apply(Op.PROBE, asarray(x), site=site, cotangent=cotangent)
