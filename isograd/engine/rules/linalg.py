"""The matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.dispatch import spec_of
from isograd.engine.functions import matmul, transpose
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define
from isograd.errors import ShapeError


def _shape(x: ArraySpec, y: ArraySpec) -> ArraySpec:
    ok = (
        len(x.shape) == len(y.shape) >= 2
        and x.shape[:-2] == y.shape[:-2]
        and x.shape[-1] == y.shape[-2]
        and x.dtype == y.dtype
    )
    if not ok:
        raise ShapeError(
            "a matrix product must be (…, m, k) @ (…, k, n) of one dtype", came=f"{x} @ {y}"
        )
    return ArraySpec((*x.shape[:-1], y.shape[-1]), x.dtype)


def _swap(x: Value) -> Value:
    n = len(spec_of(x).shape)
    return transpose(x, (*range(n - 2), n - 1, n - 2))


def _jvp(i: int, t: Value, out: Value, args: tuple[Value, ...], params: dict[str, Any]) -> Value:
    x, y = args
    return matmul(t, y) if i == 0 else matmul(x, t)


def _vjp(i: int, g: Value, out: Value, args: tuple[Value, ...], params: dict[str, Any]) -> Value:
    x, y = args
    return matmul(g, _swap(y)) if i == 0 else matmul(_swap(x), g)


def _in_order(x: NDArray[Any]) -> NDArray[Any]:
    """The array, or its transpose, in one piece: what BLAS takes without a copy of its own.

    The last bit of a product depends on how the factors lie, so a view must not lie otherwise than
    the same values computed.
    """
    flags = x.flags
    if flags.c_contiguous or flags.f_contiguous or np.swapaxes(x, -1, -2).flags.c_contiguous:
        return x
    return x.copy("K")


def _eval(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    out: NDArray[Any] = np.matmul(_in_order(x), _in_order(y))
    return out


define(
    Op.MATMUL,
    Rule(_eval, _shape, _jvp, _vjp, domain="all; γₖ-accurate against Σ|x||y| per element"),
)
