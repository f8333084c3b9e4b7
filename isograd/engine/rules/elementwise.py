"""Elementwise primitives.

The Jacobian of an elementwise primitive in each argument is diagonal, so it is its own transpose:
one formula, t ↦ t · ∂f/∂xᵢ, is both the jvp and the vjp. Each is given as
`lambda t, out, *args: ...`; None stands for a derivative that is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from isograd.engine.functions import cos, exp, log, logistic, power, sign, sin, where
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define
from isograd.errors import ShapeError

_Diagonal = Callable[..., Value] | None

_BOOL = np.dtype(np.bool_)


def _elementwise(
    op: Op,
    evaluate: Callable[..., Any],
    *diagonals: _Diagonal,
    domain: str,
    out: str = "same",
) -> None:
    def shape(*specs: ArraySpec) -> ArraySpec:
        values = specs[1:] if op is Op.SELECT else specs
        if len(specs) != len(diagonals):
            raise ShapeError(
                f"{op.value} must have {len(diagonals)} arguments", came=f"{len(specs)}"
            )
        if len({s.shape for s in specs}) > 1 or len({s.dtype for s in values}) > 1:
            raise ShapeError(
                f"the arguments of {op.value} must have one shape and one dtype",
                came=", ".join(map(str, specs)),
                fix="broadcast and cast them first (isograd.functions does)",
            )
        return ArraySpec(specs[0].shape, _BOOL if out == "bool" else values[0].dtype)

    def diagonal(
        i: int, t: Value, result: Value, args: tuple[Value, ...], params: dict[str, Any]
    ) -> Value | None:
        f = diagonals[i]
        return None if f is None else f(t, result, *args)

    define(op, Rule(evaluate, shape, diagonal, diagonal, domain, elementwise=True))


# --- arithmetic

_elementwise(
    Op.ADD,
    np.add,
    lambda t, out, x, y: t,
    lambda t, out, x, y: t,
    domain="all",
)
_elementwise(
    Op.SUB,
    np.subtract,
    lambda t, out, x, y: t,
    lambda t, out, x, y: -t,
    domain="all",
)
_elementwise(
    Op.MUL,
    np.multiply,
    lambda t, out, x, y: t * y,
    lambda t, out, x, y: t * x,
    domain="all; t · ±inf is NaN at t = 0",
)
_elementwise(
    Op.DIV,
    np.divide,
    lambda t, out, x, y: t / y,
    lambda t, out, x, y: -t * (out / y),  # x/y² would square a small or a large y
    domain="y ≠ 0",
)


def _power(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """pow of C99 in every layout: where one ½ is repeated in memory, NumPy takes √x instead."""
    if y.ndim == 0:
        return np.power(np.reshape(x, 1), np.array(y, ndmin=1))[0]
    return np.power(x, y.copy() if 0 in y.strides else y)


# The exponent 0 and the base 0 are cut out before they make 0·inf.
_elementwise(
    Op.POW,
    _power,
    lambda t, out, x, y: t * where(y == 0, 0.0, y * power(x, where(y == 0, 1.0, y - 1.0))),
    lambda t, out, x, y: t * out * log(where(x == 0, 1.0, x)),
    domain="x > 0; x < 0 with a constant integer y; x = 0 with y ≥ 0 (∂/∂y is 0 there)",
)
_elementwise(Op.NEG, np.negative, lambda t, out, x: -t, domain="all")
_elementwise(Op.ABS, np.abs, lambda t, out, x: t * sign(x), domain="all; derivative 0 at 0")
_elementwise(Op.SIGN, np.sign, None, domain="all; derivative 0")


def _unless(lost: Value, tie: Value, t: Value) -> Value:
    """0 where the argument lost, ½t where it ties, else t; chosen, as 0 · inf would be NaN."""
    return where(lost, 0.0, where(tie, 0.5 * t, t))


_elementwise(
    Op.MAX,
    np.maximum,
    lambda t, out, x, y: _unless(x < y, x == y, t),
    lambda t, out, x, y: _unless(y < x, x == y, t),
    domain="all; a tie gives each argument half; NaN in either is NaN and gives each t",
)
_elementwise(
    Op.MIN,
    np.minimum,
    lambda t, out, x, y: _unless(x > y, x == y, t),
    lambda t, out, x, y: _unless(y > x, x == y, t),
    domain="all; a tie gives each argument half; NaN in either is NaN and gives each t",
)

# --- elementary functions


def _same_dtype(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """SciPy has no loops for float16."""
    return lambda x: f(x).astype(x.dtype, copy=False)


_elementwise(Op.EXP, np.exp, lambda t, out, x: t * out, domain="x < ln(max)")
# out + 1 would lose e^x where x is far below 0.
_elementwise(Op.EXPM1, np.expm1, lambda t, out, x: t * exp(x), domain="x < ln(max)")
_elementwise(Op.LOG, np.log, lambda t, out, x: t / x, domain="x > 0")
_elementwise(Op.LOG1P, np.log1p, lambda t, out, x: t / (1.0 + x), domain="x > −1")
_elementwise(Op.SQRT, np.sqrt, lambda t, out, x: t * (0.5 / out), domain="x > 0")


# 1 − tanh² rounds to 0 once tanh rounds to 1; this form keeps its relative accuracy until the
# derivative itself underflows, and it is smooth, so derivatives of any order are right at 0.
def _sech_squared(x: Value) -> Value:
    """4t/(1 + t)² with t = e^(2x), or e^(−2x), with which it is the same function of x."""
    t = exp(where(x > 0, -2.0 * x, 2.0 * x))
    rest = 1.0 / (1.0 + t)
    return 4.0 * rest * rest * t


_elementwise(
    Op.TANH,
    np.tanh,
    lambda t, out, x: t * _sech_squared(x),
    domain="all",
)
# out · (1 − out) has the same flaw for large x.
_elementwise(
    Op.LOGISTIC,
    _same_dtype(scipy.special.expit),
    lambda t, out, x: t * (out * logistic(-x)),
    domain="all",
)
for _op, _error_function, _factor in (
    (Op.ERF, scipy.special.erf, 2.0 / math.sqrt(math.pi)),
    (Op.ERFC, scipy.special.erfc, -2.0 / math.sqrt(math.pi)),
):
    _elementwise(
        _op,
        _same_dtype(_error_function),
        lambda t, out, x, factor=_factor: t * (factor * exp(-(x * x))),
        domain="all; the derivative to a relative error of x² unit roundoffs",
    )
_elementwise(Op.SIN, np.sin, lambda t, out, x: t * cos(x), domain="finite x; NaN at ±inf")
_elementwise(Op.COS, np.cos, lambda t, out, x: -t * sin(x), domain="finite x; NaN at ±inf")
_elementwise(
    Op.SOFTPLUS,
    lambda x: np.logaddexp(x, x.dtype.type(0)),
    lambda t, out, x: t * logistic(x),
    domain="all",
)

# --- comparisons and choice

for _op, _compare in (
    (Op.EQ, np.equal),
    (Op.NE, np.not_equal),
    (Op.LT, np.less),
    (Op.LE, np.less_equal),
    (Op.GT, np.greater),
    (Op.GE, np.greater_equal),
):
    _elementwise(_op, _compare, None, None, domain="all; false where NaN", out="bool")

_elementwise(
    Op.SELECT,
    np.where,
    None,
    lambda t, out, c, x, y: where(c, t, 0.0),
    lambda t, out, c, x, y: where(c, 0.0, t),
    domain="all; the branch not taken gets 0, whatever its value",
)
