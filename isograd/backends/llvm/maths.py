"""Elementwise primitives on lanes: one table from `Op` to what appends its instructions.

Values agree with the NumPy backend on special values, signs of zeros and NaNs included; see
docs/sources.md for the methods and their errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isograd.backends.llvm.error_function import erf, erfc
from isograd.backends.llvm.exponential import exp, expm1, logistic, tanh
from isograd.backends.llvm.lanes import Floats, select, sqrt
from isograd.backends.llvm.logarithm import log, log1p, pow, softplus
from isograd.backends.llvm.trigonometric import cos, sin
from isograd.engine.ops import Op


def maximum(x: Floats, y: Floats) -> Floats:
    """The larger; the second where they tie; NaN where one is, the first's if both are."""
    return select(x.ne(x), x, select(x > y, x, y))


def minimum(x: Floats, y: Floats) -> Floats:
    """The smaller; the second where they tie; NaN where one is, the first's if both are."""
    return select(x.ne(x), x, select(x < y, x, y))


def sign(x: Floats) -> Floats:
    """−1, 0 or 1; 0 for −0, NaN for NaN."""
    nonzero = select(x > 0.0, x.like(1.0), select(x < 0.0, x.like(-1.0), x))
    return select(x.eq(0.0), x.like(0.0), nonzero)


ELEMENTWISE: dict[Op, Callable[..., Any]] = {
    Op.ADD: lambda x, y: x + y,
    Op.SUB: lambda x, y: x - y,
    Op.MUL: lambda x, y: x * y,
    Op.DIV: lambda x, y: x / y,
    Op.POW: pow,
    Op.NEG: lambda x: -x,
    Op.ABS: abs,
    Op.SIGN: sign,
    Op.MAX: maximum,
    Op.MIN: minimum,
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
    Op.EQ: lambda x, y: x.eq(y),
    Op.NE: lambda x, y: x.ne(y),
    Op.LT: lambda x, y: x < y,
    Op.LE: lambda x, y: x <= y,
    Op.GT: lambda x, y: x > y,
    Op.GE: lambda x, y: x >= y,
    Op.SELECT: select,
    Op.STOP_GRADIENT: lambda x: x,
}
"""From `Floats` of one format to the value. Comparisons give a `Mask`, `SELECT` takes one first."""
