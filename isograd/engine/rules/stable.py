"""Composites that are primitives because their parts overflow where the whole does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.functions import exp, expm1, softmax, sum
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define
from isograd.engine.rules.reduce import reduced, spread

_Params = dict[str, Any]
_Args = tuple[Value, ...]


def _shifted(x: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The largest element m (0 where it is not finite), x − m, and ln Σ e^(x − m).

    The largest term is taken out of the sum, ln(1 + Σ others): where it is 1, the others would
    vanish beside it.
    """
    x = np.asarray(x, order="C")  # a sum in the order of memory depends on how x lies
    if x.shape[axis] == 0:
        empty = np.zeros((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.dtype)
        return empty, x, np.log(empty)
    largest = np.expand_dims(np.argmax(x, axis=axis), axis)
    m = np.take_along_axis(x, largest, axis)
    m = np.where(np.isfinite(m), m, x.dtype.type(0))
    shifted = x - m
    terms = np.exp(shifted)
    np.put_along_axis(terms, largest, np.expm1(np.take_along_axis(shifted, largest, axis)), axis)
    return m, shifted, np.log1p(np.sum(terms, axis=axis, keepdims=True))


# --- logsumexp (Blanchard, Higham & Higham 2021, eq. 1.3: the shifted form is backward stable)


def _lse_eval(x: NDArray[Any], *, axis: int) -> NDArray[Any]:
    m, _, lse = _shifted(x, axis)
    out: NDArray[Any] = np.squeeze(m + lse, axis=axis)
    return out


# The derivative is the softmax. e^(x − out) would carry the rounding of a large `out` into it.


def _lse_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    return sum(t * softmax(args[0], axis), axis)


def _lse_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    axis = params["axis"]
    return spread(g, args[0], (axis,)) * softmax(args[0], axis)


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


# With p = e^out: tᵢ − Σ pⱼtⱼ = (1 − pᵢ)tᵢ − (Σ pⱼtⱼ − pᵢtᵢ), and its transpose likewise. The left
# side rounds to 0 once p rounds to 1; 1 − p = −expm1(out) keeps its relative accuracy.


def _log_softmax_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    weighted = exp(out) * t
    return weighted - sum(weighted, params["axis"], keepdims=True) - expm1(out) * t


def _log_softmax_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    return exp(out) * (g - sum(g, params["axis"], keepdims=True)) - expm1(out) * g


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
