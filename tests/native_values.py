"""What a native program computes, held against the rules equation by equation.

Each equation is given what the program itself computed before, so that a rounding is not carried
on: no cancellation or comparison makes it large, and every bound is that of one primitive.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from checks import same_bits
from numpy.typing import NDArray

from isograd.backends.llvm.program import Native
from isograd.engine.graph import Eqn, Graph
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import plan
from isograd.engine.trace import bind
from isograd.engine.tree import flatten

Array = NDArray[Any]

ELEMENTARY = frozenset(
    {Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.TANH, Op.LOGISTIC, Op.ERF, Op.ERFC, Op.SIN, Op.COS}
    | {Op.SOFTPLUS, Op.POW}
)
"""To 2 units in the last place, as docs/sources.md states; NumPy and SciPy to a few."""
_ROWS = (Op.LOG_SOFTMAX, Op.LOGSUMEXP)
_TIES = (Op.MAX, Op.MIN, Op.REDUCE_MAX)  # of +0 and −0 either may be taken


def kinds(x: Array) -> Array:
    """Which values are NaN, +∞ and −∞."""
    return np.asarray(np.isnan(x) + 2 * np.isposinf(x) + 3 * np.isneginf(x))


def check_program(graph: Graph, args: list[Any]) -> list[str]:
    """Every value of a program within its bound; and the same, whatever else is kept.

    Returns:
        the primitives that had no kernel.
    """
    all_of_them = tuple(eqn.output for eqn in graph.eqns)
    tree = flatten(all_of_them)[1]
    program = Native(plan(replace(graph, outputs=all_of_them, out_tree=tree)))
    values = dict(zip(graph.inputs, map(np.asarray, bind(graph, tuple(args))), strict=True))
    values |= {v: np.asarray(a) for v, a in graph.constants.items()}
    found = program(*args)
    for eqn, got in zip(graph.eqns, map(np.asarray, found), strict=True):
        fault = fault_of(eqn, [values[v] for v in eqn.inputs], got)
        assert fault is None, f"{eqn.op.value} {dict(eqn.params)}: {fault}"
        values[eqn.output] = got
    bare = Native(plan(graph))
    results = flatten(bare(*args))[0]
    for var, result in zip(graph.outputs, results, strict=True):
        assert same_bits(np.asarray(result), values[var]), (result, values[var])
    return bare.fallbacks


def fault_of(eqn: Eqn, args: list[Array], got: Array) -> str | None:
    """What is wrong with the value of an equation; None if nothing is."""
    with np.errstate(all="ignore"):
        want = np.asarray(RULES[eqn.op].eval(*args, **eqn.params))
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            return f"{got.dtype}{got.shape} is not {want.dtype}{want.shape}"
        inexact = want.dtype.kind == "f" and eqn.op in (*ELEMENTARY, *_ROWS, Op.SUM, Op.MATMUL)
        if not inexact:
            ties = 0.0 if eqn.op in _TIES and want.dtype.kind == "f" else 0
            same = same_bits(got + ties, want + ties) if ties == 0.0 and eqn.op in _TIES else None
            right = same_bits(got, want) if same is None else same
            return None if right else f"{got} is not {want} for {args}"
        exact, bound, unsure = _bounds(eqn, args)
        nearest = exact.astype(got.dtype)
        limits = np.finfo(got.dtype)
        beyond = np.abs(exact) - float(limits.max)  # within its bound of overflow, both are right
        edge = np.isfinite(exact) & (np.abs(beyond) <= bound)
        alike = (kinds(got) == kinds(nearest)) | (edge & ~np.isnan(got))
        finite = np.isfinite(got) & np.isfinite(exact)
        far = finite & (np.abs(np.where(finite, got - exact, 0)) > bound)
        zeros = (got == 0) & (nearest == 0) & (eqn.op is not Op.MATMUL)  # BLAS has its own
        wrong = ~unsure & (~alike | far | zeros & (np.signbit(got) != np.signbit(nearest)))
    if not wrong.any():
        return None
    where = tuple(int(k[0]) for k in np.nonzero(np.atleast_1d(wrong)))
    one = [np.atleast_1d(a)[where] for a in (got, exact, bound)]
    return f"{one[0]!r} at {where} is more than {one[2]!r} from {one[1]!r}"


def _bounds(eqn: Eqn, args: list[Array]) -> tuple[Array, Array, Array]:
    """The exact value, how far off one may be, and where partial sums may overflow."""
    limits = np.finfo(args[0].dtype)
    u, least = float(limits.eps) / 2, float(limits.smallest_subnormal)
    evaluate = RULES[eqn.op].eval
    if eqn.op in (Op.SUM, Op.MATMUL):
        wide = [a.astype(np.longdouble) for a in args]
        parts = [np.abs(np.where(np.isfinite(a), a, 0)) for a in wide]
        exact, size = (np.asarray(evaluate(*a, **eqn.params)) for a in (wide, parts))
        count = args[0].shape[-1] if eqn.op is Op.MATMUL else args[0].size
        return exact, (count + 2) * (1.01 * u * size + least), size >= 0.99 * float(limits.max)
    factor = 2.5 if limits.bits == 32 else 8.0  # of float64 the reference is itself rounded
    wide = [a.astype(np.float64) for a in args]
    exact = np.asarray(evaluate(*wide, **eqn.params))
    never = np.zeros(exact.shape, bool)
    if eqn.op is Op.ERFC and limits.bits == 64:  # SciPy rounds x² in the exponent
        factor = factor + np.square(np.minimum(np.abs(wide[0]), 28.0))
    if eqn.op in ELEMENTARY:
        with np.errstate(all="ignore"):
            near = np.minimum(np.abs(exact), float(limits.max)).astype(args[0].dtype)
        return exact, factor * np.spacing(near).astype(np.float64), never
    (x,), axis = wide, eqn.params["axis"]
    bound = _of_rows(x, axis, factor * u)
    return (
        exact,
        np.broadcast_to(
            bound if exact.ndim == x.ndim else bound.max(axis=axis, initial=0.0), exact.shape
        )
        + least,
        never,
    )


def _of_rows(x: Array, axis: int, u: float) -> Array:
    """x − m and ln Σ′ each rounded, terms of Σ′ as far as their exponents."""
    if not x.size:
        return np.zeros(x.shape)
    finite = np.where(np.isfinite(x), x, 0.0)
    top, low = (f(finite, axis=axis, keepdims=True) for f in (np.max, np.min))
    span = np.minimum(top - low, 800.0)
    logs = math.log(x.shape[axis]) + 1.0
    return np.asarray(u * (np.abs(finite) + np.abs(top) + logs * (16.0 + x.shape[axis] + span)))
