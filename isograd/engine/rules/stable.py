"""Composites that are primitives because their parts overflow where the whole does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.functions import exp, sum
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define
from isograd.engine.rules.reduce import reduced, spread

_Params = dict[str, Any]
_Args = tuple[Value, ...]


def _shifted(x: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The largest element m (0 where it is not finite), x − m, and ln Σ e^(x − m)."""
    m = np.max(x, axis=axis, keepdims=True)
    m = np.where(np.isfinite(m), m, x.dtype.type(0))
    return m, x - m, np.log(np.sum(np.exp(x - m), axis=axis, keepdims=True))


# --- logsumexp (Blanchard, Higham & Higham 2021, eq. 1.3: the shifted form is backward stable)


def _lse_eval(x: NDArray[Any], *, axis: int) -> NDArray[Any]:
    m, _, lse = _shifted(x, axis)
    out: NDArray[Any] = np.squeeze(m + lse, axis=axis)
    return out


def _softmax_of(x: Value, out: Value, axis: int) -> Value:
    return exp(x - spread(out, x, (axis,)))


def _lse_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    return sum(t * _softmax_of(args[0], out, axis), axis)


def _lse_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    return spread(g, args[0], (axis,)) * _softmax_of(args[0], out, axis)


define(
    Op.LOGSUMEXP,
    Rule(
        _lse_eval,
        lambda x, *, axis: reduced(x, axes=(axis,)),
        _lse_jvp,
        _lse_vjp,
        domain="finite x; −inf while one element of the row is finite",
    ),
)

# --- log softmax


def _log_softmax_eval(x: NDArray[Any], *, axis: int) -> NDArray[Any]:
    _, shifted, lse = _shifted(x, axis)
    out: NDArray[Any] = shifted - lse
    return out


def _log_softmax_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    return t - sum(t * exp(out), axis, keepdims=True)


def _log_softmax_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    return g - exp(out) * sum(g, axis, keepdims=True)


def _log_softmax_shape(x: ArraySpec, *, axis: int) -> ArraySpec:
    reduced(x, axes=(axis,))
    return x


define(
    Op.LOG_SOFTMAX,
    Rule(
        _log_softmax_eval,
        _log_softmax_shape,
        _log_softmax_jvp,
        _log_softmax_vjp,
        domain="finite x; −inf while one element of the row is finite",
    ),
)
