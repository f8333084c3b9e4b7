"""Elementwise primitives on lanes: tables from `Op` to what appends its instructions.

Values agree with the NumPy backend on special values, signs of zeros and NaNs included; see
docs/sources.md for the methods and their errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.error_function import erf, erfc
from isograd.backends.llvm.exponential import exp, expm1, logistic, tanh
from isograd.backends.llvm.ir import type_of
from isograd.backends.llvm.lanes import Floats, Integers, Mask, Unsigned, kind_of, select, sqrt
from isograd.backends.llvm.logarithm import log, log1p, pow, softplus
from isograd.backends.llvm.trigonometric import cos, sin
from isograd.engine.ops import Op


def maximum(x: Any, y: Any) -> Any:
    """The larger; the second where they tie; NaN where one is, the first's if both are."""
    larger = select(x > y, x, y)
    return select(x.ne(x), x, larger) if isinstance(x, Floats) else larger


def minimum(x: Any, y: Any) -> Any:
    """The smaller; the second where they tie; NaN where one is, the first's if both are."""
    smaller = select(x < y, x, y)
    return select(x.ne(x), x, smaller) if isinstance(x, Floats) else smaller


def sign(x: Any) -> Any:
    """−1, 0 or 1; 0 for −0, NaN for NaN."""
    nonzero = select(x > 0, x.like(1), select(x < 0, x.like(-1), x))
    return select(x.eq(0), x.like(0), nonzero)


_NUMBERS: dict[Op, Callable[..., Any]] = {
    Op.ADD: lambda x, y: x + y,
    Op.SUB: lambda x, y: x - y,
    Op.MUL: lambda x, y: x * y,
    Op.NEG: lambda x: -x,
    Op.ABS: abs,
    Op.SIGN: sign,
    Op.MAX: maximum,
    Op.MIN: minimum,
    Op.EQ: lambda x, y: x.eq(y),
    Op.NE: lambda x, y: x.ne(y),
    Op.LT: lambda x, y: x < y,
    Op.LE: lambda x, y: x <= y,
    Op.GT: lambda x, y: x > y,
    Op.GE: lambda x, y: x >= y,
    Op.SELECT: select,
    Op.STOP_GRADIENT: lambda x: x,
}
ELEMENTWISE: dict[Op, Callable[..., Any]] = _NUMBERS | {
    Op.DIV: lambda x, y: x / y,
    Op.POW: pow,
    Op.EXP: exp,
    Op.EXPM1: expm1,
    Op.LOG: log,
    Op.LOG1P: log1p,
    Op.SQRT: sqrt,
    Op.TANH: tanh,
    Op.LOGISTIC: logistic,
    Op.ERF: erf,
    Op.ERFC: erfc,
    Op.SIN: sin,
    Op.COS: cos,
    Op.SOFTPLUS: softplus,
}
"""From `Floats` of one format to the value. Comparisons give a `Mask`, `SELECT` takes one first."""
_SIGNED = dict(_NUMBERS)
_UNSIGNED = _NUMBERS | {Op.ABS: lambda x: x, Op.SIGN: lambda x: select(x.eq(0), x, 1)}
_LOGICAL: dict[Op, Callable[..., Any]] = {
    Op.ADD: lambda x, y: x | y,
    Op.MUL: lambda x, y: x & y,
    Op.ABS: lambda x: x,
    Op.MAX: lambda x, y: x | y,
    Op.MIN: lambda x, y: x & y,
    Op.EQ: lambda x, y: ~(x ^ y),
    Op.NE: lambda x, y: x ^ y,
    Op.LT: lambda x, y: ~x & y,
    Op.LE: lambda x, y: ~x | y,
    Op.GT: lambda x, y: x & ~y,
    Op.GE: lambda x, y: x | ~y,
    Op.SELECT: select,
    Op.STOP_GRADIENT: lambda x: x,
}
_TABLES = {Floats: ELEMENTWISE, Integers: _SIGNED, Unsigned: _UNSIGNED, Mask: _LOGICAL}
DTYPES = frozenset(
    {"float32", "float64", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


def supports(op: Op, dtypes: Sequence[str], out: str) -> bool:
    """Whether there is code for an elementwise primitive from these dtypes to that one."""
    if not DTYPES.issuperset((*dtypes, out)):
        return False
    return op is Op.CAST or op in _TABLES[kind_of(dtypes[-1])]


def apply(op: Op, args: Sequence[Any], dtype: str) -> Any:
    """The value of an elementwise primitive, of that dtype."""
    if op is Op.CAST:
        return cast(args[0], dtype)
    return _TABLES[type(args[-1])][op](*args)


def cast(x: Any, dtype: str) -> Any:
    """The same numbers in another dtype.

    Integers wrap, as in NumPy. Numbers go to integers by cutting off what is behind the point; what
    lies beyond the range of the target ends at its bounds and NaN becomes 0, where NumPy gives what
    the processor does.
    """
    kind = kind_of(dtype)
    if kind is Mask:
        return x if isinstance(x, Mask) else x.ne(0)
    b, source = x.builder, x.value.type
    element = type_of(np.dtype(dtype))
    target = ir.VectorType(element, x.n) if x.n > 1 else element
    if isinstance(x, Floats):
        if kind is Floats:
            return kind(b, _resized(b, x.value, target, "fptrunc", "fpext"))
        return kind(b, _to_integer(x, target, signed=kind is Integers))
    unsigned = isinstance(x, Unsigned | Mask)
    if kind is Floats:
        return kind(b, (b.uitofp if unsigned else b.sitofp)(x.value, target))
    if source == target:
        return kind(b, x.value)
    return kind(b, _resized(b, x.value, target, "trunc", "zext" if unsigned else "sext"))


def _resized(b: Any, value: Any, target: Any, narrower: str, wider: str) -> Any:
    sizes = [_bits(kind) for kind in (value.type, target)]
    if sizes[0] == sizes[1]:
        return value
    return getattr(b, narrower if sizes[1] < sizes[0] else wider)(value, target)


def _bits(kind: Any) -> int:
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    if isinstance(element, ir.IntType):
        return int(element.width)
    return 32 if isinstance(element, ir.FloatType) else 64


def _to_integer(x: Floats, target: Any, *, signed: bool) -> Any:
    lanes = f"v{x.n}" if x.n > 1 else ""
    routine = "llvm.fptosi.sat" if signed else "llvm.fptoui.sat"
    name = f"{routine}.{lanes}i{_bits(target)}.{lanes}f{_bits(x.value.type)}"
    module = x.builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(target, [x.value.type]), name)
    return x.builder.call(function, [x.value])
