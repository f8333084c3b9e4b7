"""The array as it is seen inside a transformation: a tracer with operators and methods.

NumPy's own functions (`np.tanh(x)`, `np.sum(x)`) work on it too, as far as they are listed at the
end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from isograd.engine import functions as F
from isograd.engine.dispatch import Tracer, spec_of
from isograd.engine.ops import Value
from isograd.errors import GraphError, ShapeError

_Axis = int | tuple[int, ...] | None


class Array(Tracer):
    """A tracer that behaves as an array in expressions."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    shape = property(lambda self: self.spec.shape)
    dtype = property(lambda self: self.spec.dtype)
    ndim = property(lambda self: len(self.spec.shape))
    size = property(lambda self: self.spec.size)
    T = property(lambda self: F.transpose(self))

    def __add__(self, other: Value) -> Value:
        return F.add(self, other)

    def __radd__(self, other: Value) -> Value:
        return F.add(other, self)

    def __sub__(self, other: Value) -> Value:
        return F.subtract(self, other)

    def __rsub__(self, other: Value) -> Value:
        return F.subtract(other, self)

    def __mul__(self, other: Value) -> Value:
        return F.multiply(self, other)

    def __rmul__(self, other: Value) -> Value:
        return F.multiply(other, self)

    def __truediv__(self, other: Value) -> Value:
        return F.divide(self, other)

    def __rtruediv__(self, other: Value) -> Value:
        return F.divide(other, self)

    def __pow__(self, other: Value) -> Value:
        return F.power(self, other)

    def __rpow__(self, other: Value) -> Value:
        return F.power(other, self)

    def __matmul__(self, other: Value) -> Value:
        return F.matmul(self, other)

    def __rmatmul__(self, other: Value) -> Value:
        return F.matmul(other, self)

    def __neg__(self) -> Value:
        return F.negative(self)

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return F.absolute(self)

    def __eq__(self, other: Value) -> Value:
        return F.equal(self, other)

    def __ne__(self, other: Value) -> Value:
        return F.not_equal(self, other)

    def __lt__(self, other: Value) -> Value:
        return F.less(self, other)

    def __le__(self, other: Value) -> Value:
        return F.less_equal(self, other)

    def __gt__(self, other: Value) -> Value:
        return F.greater(self, other)

    def __ge__(self, other: Value) -> Value:
        return F.greater_equal(self, other)

    def __getitem__(self, index: Any) -> Value:
        return F.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise GraphError(
            "an array under differentiation must not be changed in place",
            came=f"an assignment into {self!r}",
            fix="build a new one by isograd.functions.where, concatenate or stack",
        )

    def __len__(self) -> int:
        if not self.spec.shape:
            raise TypeError("len() of an array without axes")
        return self.spec.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def sum(self, axis: _Axis = None, keepdims: bool = False) -> Value:
        """See `sum`."""
        return F.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: _Axis = None, keepdims: bool = False) -> Value:
        """See `mean`."""
        return F.mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: _Axis = None, keepdims: bool = False) -> Value:
        """See `max`."""
        return F.max(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Value:
        """See `reshape`."""
        return F.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: int) -> Value:
        """See `transpose`."""
        return F.transpose(self, axes or None)

    def astype(self, dtype: DTypeLike) -> Value:
        """See `astype`."""
        return F.astype(self, dtype)

    def item(self) -> Any:
        """The Python scalar behind an array of one element, a constant; in dynamic mode alone."""
        return concrete(self).item()

    def __bool__(self) -> bool:
        return bool(concrete(self))

    def __float__(self) -> float:
        # math.exp(x) and `array[0] = x` come here: they would lose the derivative in silence.
        raise GraphError(
            "a value under differentiation must not become a Python number unnoticed",
            came=f"float() of {self!r}: by a function of math, or an assignment into an array",
            fix="use isograd.functions (stack or concatenate to fill an array), or say x.item() "
            "where a constant is meant",
        )

    def __int__(self) -> int:
        return int(concrete(self))

    def __index__(self) -> int:
        return operator.index(concrete(self))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function = _UFUNCS.get(ufunc)
        if method != "__call__" or kwargs or function is None:
            return NotImplemented
        return function(*inputs)

    def __array_function__(
        self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        function = _FUNCTIONS.get(func)
        return NotImplemented if function is None else function(*args, **kwargs)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise GraphError(
            "a function that is differentiated or traced must not turn its arrays into NumPy ones",
            came=f"{self!r} passed to a NumPy function that isograd has no primitive for",
            fix="use isograd.functions, or isograd.stop_gradient for a value held constant",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec})"


def concrete(x: Value) -> Value:
    """The NumPy array that a tracer of the dynamic mode holds.

    Raises:
        GraphError: in static mode, where there is none yet.
    """
    while isinstance(x, Tracer):
        primal = getattr(x, "primal", None)
        if primal is None:
            raise GraphError(
                "static mode must not depend on the value of an array",
                came=f"bool(), int() or item() of {x!r} while tracing",
                fix="choose by isograd.functions.where, or use the dynamic mode (no trace)",
            )
        x = primal
    return x


# --- NumPy's own names


def _isfinite(x: Value) -> Value:
    return F.less(F.absolute(x), math.inf)


def _take(x: Value, indices: Value, axis: int | None = None) -> Value:
    """`np.take`, which flattens where no axis is given."""
    return F.take(F.reshape(x, -1), indices) if axis is None else F.take(x, indices, axis)


def _dot(x: Value, y: Value) -> Value:
    """`np.dot` where it is a matrix product; elsewhere it means something else."""
    x, y = F.asarray(x), F.asarray(y)
    if not all(1 <= len(spec_of(a).shape) <= 2 for a in (x, y)):
        raise ShapeError(
            "numpy.dot must be given vectors or matrices here",
            came=f"{spec_of(x)} and {spec_of(y)}",
            fix="use @ or isograd.functions.matmul",
        )
    return F.matmul(x, y)


_UFUNCS: dict[Any, Callable[..., Value]] = {
    np.add: F.add,
    np.subtract: F.subtract,
    np.multiply: F.multiply,
    np.divide: F.divide,
    np.power: F.power,
    np.negative: F.negative,
    np.absolute: F.absolute,
    np.sign: F.sign,
    np.maximum: F.maximum,
    np.minimum: F.minimum,
    np.exp: F.exp,
    np.expm1: F.expm1,
    np.log: F.log,
    np.log1p: F.log1p,
    np.sqrt: F.sqrt,
    np.square: F.square,
    np.tanh: F.tanh,
    np.sin: F.sin,
    np.cos: F.cos,
    np.matmul: F.matmul,
    np.equal: F.equal,
    np.not_equal: F.not_equal,
    np.less: F.less,
    np.less_equal: F.less_equal,
    np.greater: F.greater,
    np.greater_equal: F.greater_equal,
    np.isnan: lambda x: F.not_equal(x, x),
    np.isfinite: _isfinite,
}

_FUNCTIONS: dict[Any, Callable[..., Value]] = {
    np.sum: F.sum,
    np.mean: F.mean,
    np.max: F.max,
    np.amax: F.max,
    np.min: F.min,
    np.amin: F.min,
    np.where: F.where,
    np.clip: F.clip,
    np.reshape: F.reshape,
    np.transpose: F.transpose,
    np.broadcast_to: F.broadcast_to,
    np.concatenate: F.concatenate,
    np.stack: F.stack,
    np.expand_dims: F.expand_dims,
    np.take: _take,
    np.zeros_like: F.zeros_like,
    np.ones_like: F.ones_like,
    np.dot: _dot,
    np.shape: operator.attrgetter("shape"),
    np.ndim: operator.attrgetter("ndim"),
    np.size: operator.attrgetter("size"),
}
