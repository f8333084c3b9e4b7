"""Elementwise primitives on lanes: tables from `Op` to what appends its instructions.

Values agree with the NumPy backend on special values, signs of zeros and NaNs included; see
docs/sources.md for the methods and their errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from isograd.backends.llvm.casts import cast
from isograd.backends.llvm.error_function import erf, erfc
from isograd.backends.llvm.exponential import exp, expm1, logistic, tanh
from isograd.backends.llvm.lanes import Floats, Integers, Mask, Unsigned, kind_of, select, sqrt
from isograd.backends.llvm.logarithm import log, log1p, pow, softplus
from isograd.backends.llvm.rounding import rounded
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
_BY_PARAMETER = frozenset({Op.CAST, Op.ROUND, Op.ROUND_COTANGENT})
DTYPES = frozenset(
    {"float32", "float64", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


def supports(op: Op, dtypes: Sequence[str], out: str) -> bool:
    """Whether there is code for an elementwise primitive from these dtypes to that one."""
    if not DTYPES.issuperset((*dtypes, out)):
        return False
    return op in _BY_PARAMETER or op in _TABLES[kind_of(dtypes[-1])]


def apply(op: Op, args: Sequence[Any], dtype: str, form: str = "") -> Any:
    """The value of an elementwise primitive, of that dtype; a number format is for `ROUND`."""
    match op:
        case Op.CAST:
            return cast(args[0], dtype)
        case Op.ROUND:
            return rounded(args[0], form, *args[1:])
        case Op.ROUND_COTANGENT:
            return args[0]
    return _TABLES[type(args[-1])][op](*args)
