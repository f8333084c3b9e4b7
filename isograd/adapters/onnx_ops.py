"""Primitives in ONNX: one node, a few nodes, or a form in primitives that have one.

The nodes are those of opset 17. `NODES` and `FORMS` and `NONE` together name every primitive once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from isograd.adapters.onnx_writer import Rows, Writer
from isograd.engine import functions as F
from isograd.engine.dispatch import spec_of
from isograd.engine.graph import Eqn
from isograd.engine.ops import Op, Value

Inputs: TypeAlias = list[str]
Params: TypeAlias = Mapping[str, Any]


Node: TypeAlias = Callable[[Writer, Eqn, Params, Inputs, str], object]
"""`node(writer, eqn, params, inputs, output)`: the equation as nodes. `params` are its own with
`Rows` for what grows with the batch; inputs and output are names."""


def _one(kind: str) -> Node:
    return lambda w, eqn, params, inputs, out: w.node(kind, inputs, out)


def _ne(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    w.node("Not", [w.node("Equal", inputs)], out)


def _sum(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    if eqn.inputs[0].spec.dtype == np.bool_:
        inputs = [w.node("Cast", inputs, to=w.element_type(np.int64))]
    w.node("ReduceSum", [*inputs, w.integers(params["axes"])], out, keepdims=0)


def _reduce_max(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    w.node("ReduceMax", inputs, out, axes=list(params["axes"]), keepdims=0)


def _reshape(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    shape = params["shape"]
    if sum(isinstance(n, Rows) for n in shape) > 1:
        w.node("Reshape", [*inputs, w.lengths(shape)], out)
        return
    target = w.integers([-1 if isinstance(n, Rows) else n for n in shape])
    w.node("Reshape", [*inputs, target], out)


def _broadcast(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    w.node("Expand", [*inputs, w.lengths(params["shape"])], out)


_END = np.iinfo(np.int64).max


def _slice(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    stop = [
        _END if b == n else b
        for b, n in zip(eqn.params["stop"], eqn.inputs[0].spec.shape, strict=True)
    ]
    axes = range(len(stop))
    bounds = (params["start"], stop, list(axes), params["step"])
    w.node("Slice", [*inputs, *map(w.integers, bounds)], out)


def _transpose(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    w.node("Transpose", inputs, out, perm=list(params["axes"]))


def _along(kind: str) -> Node:
    return lambda w, eqn, params, inputs, out: w.node(kind, inputs, out, axis=params["axis"])


def _cast(w: Writer, eqn: Eqn, params: Params, inputs: Inputs, out: str) -> None:
    w.node("Cast", inputs, out, to=w.element_type(params["dtype"]))


NODES: dict[Op, Node] = {
    Op.ADD: _one("Add"),
    Op.SUB: _one("Sub"),
    Op.MUL: _one("Mul"),
    Op.DIV: _one("Div"),
    Op.POW: _one("Pow"),
    Op.NEG: _one("Neg"),
    Op.ABS: _one("Abs"),
    Op.SIGN: _one("Sign"),
    Op.MAX: _one("Max"),
    Op.MIN: _one("Min"),
    Op.EXP: _one("Exp"),
    Op.LOG: _one("Log"),
    Op.SQRT: _one("Sqrt"),
    Op.TANH: _one("Tanh"),
    Op.LOGISTIC: _one("Sigmoid"),
    Op.ERF: _one("Erf"),
    Op.SIN: _one("Sin"),
    Op.COS: _one("Cos"),
    Op.EQ: _one("Equal"),
    Op.NE: _ne,
    Op.LT: _one("Less"),
    Op.LE: _one("LessOrEqual"),
    Op.GT: _one("Greater"),
    Op.GE: _one("GreaterOrEqual"),
    Op.SELECT: _one("Where"),
    Op.SUM: _sum,
    Op.REDUCE_MAX: _reduce_max,
    Op.MATMUL: _one("MatMul"),
    Op.RESHAPE: _reshape,
    Op.TRANSPOSE: _transpose,
    Op.BROADCAST: _broadcast,
    Op.SLICE: _slice,
    Op.CONCATENATE: _along("Concat"),
    Op.GATHER: _along("Gather"),
    Op.CAST: _cast,
    Op.LOG_SOFTMAX: _along("LogSoftmax"),
    Op.STOP_GRADIENT: _one("Identity"),
}
"""Primitives that are one node, or a few that no other form needs."""


# --- forms in other primitives


def _expm1(x: Value) -> Value:
    """(e^x + 1)·tanh(x/2), to a few roundings of itself for every x."""
    return (F.exp(x) + 1.0) * F.tanh(0.5 * x)


def _log1p(x: Value) -> Value:
    """ln(u)·x/(u − 1) with u the rounded 1 + x: the error of u cancels (Goldberg 1991, theorem 4).

    The quotient is 0/0 where u = 1, and ∞/∞ where x = ∞.
    """
    u = 1.0 + x
    return F.where(u == 1.0, x, F.where(u == math.inf, u, F.log(u) * (x / (u - 1.0))))


def _softplus(x: Value) -> Value:
    """max(x, 0) + ln(1 + e^−|x|): neither overflows nor loses a small result."""
    return F.maximum(x, 0.0) + _log1p(F.exp(-F.absolute(x)))


def _logsumexp(x: Value, *, axis: int) -> Value:
    """m + ln Σ e^(x − m) with m the largest element, or 0 where that is not finite."""
    m = F.max(x, axis, keepdims=True)
    m = F.where(F.absolute(m) < math.inf, m, 0.0)
    shape = spec_of(x).shape
    return F.reshape(m, shape[:axis] + shape[axis + 1 :]) + F.log(F.sum(F.exp(x - m), axis))


# Cephes 2.3 (Moshier 1995), ndtr.c: rational approximations after Cody 1969; largest power first.
# fmt: off
_TO_1 = (
    (9.60497373987051638749, 9.00260197203842689217e1, 2.23200534594684319226e3,
     7.00332514112805075473e3, 5.55923013010394962768e4),
    (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
     2.26290000613890934246e4, 4.92673942608635921086e4),
)
_TO_8 = (
    (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687,
     4.86371970985681366614e1, 1.96520832956077098242e2, 5.26445194995477358631e2,
     9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2),
    (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
     9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3,
     1.65666309194161350182e3, 5.57535340817727675546e2),
)
_FROM_8 = (
    (5.64189583547755073984e-1, 1.27536670759978104416, 5.01905042251180477414,
     6.16021097993053585195, 7.40974269950448939160, 2.97886665372100240670),
    (1.0, 2.26052863220117276590, 9.39603524938001434673, 1.20489539808096656605e1,
     1.70814450747565897222e1, 9.60896809063285878198, 3.36907645100081516050),
)
# fmt: on


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Value) -> Value:
    """A quotient of polynomials, by Horner's rule."""
    above, below = (_polynomial(c, x) for c in coefficients)
    return above / below


def _polynomial(coefficients: tuple[float, ...], x: Value) -> Value:
    out = coefficients[0] * x + coefficients[1]
    for c in coefficients[2:]:
        out = out * x + c
    return out


def _inner(x: Value) -> Value:
    """erf x for |x| ≤ 1; elsewhere 0."""
    x = F.where(F.absolute(x) <= 1.0, x, 0.0)
    return x * _ratio(_TO_1, x * x)


def _erf64(x: Value) -> Value:
    """erf x = ±(1 − e^(−x²)·R(|x|)), to a few roundings of itself."""
    size = F.minimum(F.absolute(x), 7.0)  # erf 6 rounds to 1, and high powers of ∞ are ∞/∞
    outer = F.sign(x) * (1.0 - F.exp(-(size * size)) * _ratio(_TO_8, size))
    return F.where(size <= 1.0, _inner(x), outer)


def _erfc64(x: Value) -> Value:
    """erfc x = e^(−x²)·R(x) for x > 1, to x² roundings of itself, and 2 − erfc(−x) for x < −1."""
    size = F.minimum(F.absolute(x), 28.0)  # beyond, e^(−x²) is 0
    tail = F.where(size < 8.0, _ratio(_TO_8, F.minimum(size, 8.0)), _ratio(_FROM_8, size))
    outer = F.exp(-(size * size)) * tail
    return F.where(size <= 1.0, 1.0 - _inner(x), F.where(x < 0.0, 2.0 - outer, outer))


FORMS: dict[Op, Callable[..., Value]] = {
    Op.EXPM1: _expm1,
    Op.LOG1P: _log1p,
    Op.ERFC: lambda x: 1.0 - F.erf(x),  # to a rounding of 1, as ONNX defines its own Gelu
    Op.SOFTPLUS: _softplus,
    Op.LOGSUMEXP: _logsumexp,
}
"""Primitives that ONNX has not, or has in a form that runtimes round or overflow."""

FORMS64: dict[Op, Callable[..., Value]] = {Op.ERF: _erf64, Op.ERFC: _erfc64}
"""Likewise in float64, for which ONNX Runtime has no Erf (1.31; nor Softplus)."""

NONE: dict[Op, str] = {
    Op.SCATTER_ADD: "it is the derivative of taking elements by index",
    Op.PAD: "it is the derivative of a slice",
    Op.RANDOM_BITS: "randomness belongs to training",
    Op.PROBE: "measurements belong to training",
    Op.ROUND: "narrower formats are emulated in training alone",
    Op.ROUND_COTANGENT: "gradients belong to training",
}
"""Primitives that no network's output needs, and why."""


def form(op: Op, dtype: np.dtype[Any]) -> Callable[..., Value] | None:
    """The form of a primitive in others, if it needs one."""
    wide = FORMS64.get(op) if dtype == np.float64 else None
    return wide or FORMS.get(op)


__all__ = ["FORMS", "FORMS64", "NODES", "NONE", "Inputs", "Params", "form"]
