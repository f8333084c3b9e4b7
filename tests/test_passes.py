"""Rewrites: an exact pass keeps every bit, the others are flagged, and a bad one is seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import same_bits
from random_graphs import arguments, random_graph

import isograd
from isograd.backends.numpy import Executable
from isograd.engine.check import check
from isograd.engine.graph import ArraySpec, Graph
from isograd.engine.ops import Op
from isograd.engine.passes import (
    COMMON_SUBEXPRESSIONS,
    DEAD_CODE,
    EXACT,
    FAST_IDENTITIES,
    FOLD_CONSTANTS,
    IDENTITIES,
    WITHOUT_PROBES,
    Pass,
    optimise,
)
from isograd.engine.plan import plan
from isograd.engine.trace import evaluate
from isograd.engine.tree import flatten

F = isograd.functions
SEEDS = range(150)
VECTOR = ArraySpec((3,))
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)


def check_exact(p: Pass, graph: Graph, args: list[Any]) -> int:
    """A pass must give a valid graph with the same bits; how often it rewrote."""
    after, rewrites = p.run(graph)
    check(after)
    before, now = evaluate(graph, *args), evaluate(after, *args)
    assert same_bits(before, now), f"{p.name} changes {before} to {now}\n{graph}\n{after}"
    return rewrites


def with_first_input_known(graph: Graph, args: list[Any]) -> Graph:
    """The graph with its first argument as a constant: work for constant folding."""
    constants = {**graph.constants, graph.inputs[0]: np.asarray(args[0])}
    tree = flatten(tuple(args[1:]))[1]
    return replace(graph, inputs=graph.inputs[1:], constants=constants, in_tree=tree)


@each_dtype
@pytest.mark.parametrize(
    "p", [*dict.fromkeys(EXACT), WITHOUT_PROBES], ids=lambda p: p.name.replace(" ", "_")
)
def test_exact_passes_keep_the_bits_of_random_graphs(p: Pass, dtype: Any) -> None:
    rewrites = 0
    for seed in SEEDS:
        graph, args = random_graph(seed, dtype), arguments(seed, dtype)
        rewrites += check_exact(p, graph, args)
        rewrites += check_exact(p, with_first_input_known(graph, args), args[1:])
    assert rewrites > 20, "the random graphs give this pass nothing to do"


@each_dtype
def test_all_passes_together_keep_the_bits(dtype: Any) -> None:
    for seed in SEEDS:
        graph, args = random_graph(seed, dtype), arguments(seed, dtype)
        once = optimise(graph)
        twice = optimise(once.graph)
        assert once.exact
        assert twice.exact
        before = evaluate(graph, *args)
        for g in (once.graph, twice.graph):
            assert same_bits(before, evaluate(g, *args)), f"seed {seed}\n{graph}\n{g}"
            assert same_bits(before, Executable(plan(g))(*args))
            assert len(g.eqns) <= len(graph.eqns)


def _drops_nan(graph: Graph) -> tuple[Graph, int]:
    """x − x → 0: wrong at NaN and infinities."""
    eqns, count = [], 0
    for eqn in graph.eqns:
        if eqn.op is Op.SUB and eqn.inputs[0] is eqn.inputs[1]:
            zero = next(v for v, a in graph.constants.items() if a.ndim == 0 and a == 0)
            eqn = replace(eqn, op=Op.BROADCAST, inputs=(zero,), params={"shape": (3,)})
            count += 1
        eqns.append(eqn)
    return replace(graph, eqns=tuple(eqns)), count


def test_a_pass_that_drops_a_nan_is_seen() -> None:
    wrong = Pass("x − x is 0", _drops_nan, exact=True)
    graph = isograd.trace(lambda x: (x - x) + (x + 0.0), VECTOR)
    assert check_exact(wrong, graph, [np.ones(3)]) == 1
    with pytest.raises(AssertionError, match="x − x is 0 changes"):
        check_exact(wrong, graph, [np.array([1.0, np.inf, 2.0])])


def test_a_pass_that_loses_the_sign_of_a_zero_is_seen() -> None:
    graph = isograd.trace(lambda x: x + 0.0, VECTOR)
    with pytest.raises(AssertionError, match="fast identities changes"):
        check_exact(FAST_IDENTITIES, graph, [np.array([-0.0, 1.0, 2.0])])


# --- layouts: the last bit of a matrix product depends on how its factors lie in memory

_LAYOUTS = (
    lambda x, w, v, b: (x[:, ::2] * 1.0) @ w,
    lambda x, w, v, b: F.sum(x[:, ::2] * 1.0),
    lambda x, w, v, b: (F.broadcast_to(v, b.T.shape) * 1.0) @ w,
    lambda x, w, v, b: (F.broadcast_to(v, b.T.shape) * 1.0 + b.T) @ w,
    lambda x, w, v, b: (F.negative(F.negative(x[:, ::2])) + b.T) @ w,
    lambda x, w, v, b: F.reshape(F.reshape(b.T, -1), b.T.shape) @ w,
    lambda x, w, v, b: (F.reshape(F.reshape(b.T, -1), b.T.shape) + b.T) @ w,
    lambda x, w, v, b: F.where(b.T > 0, b.T, b.T) @ w,
    lambda x, w, v, b: (F.transpose(x[:, ::2]) * 1.0 + b).T @ w,
    lambda x, w, v, b: F.sum(b.T * 1.0, axis=0) + F.logsumexp(b.T * 1.0, axis=0),
    lambda x, w, v, b: F.sum(F.reshape(F.reshape(b.T, -1), b.T.shape), axis=0),
)


@each_dtype
@pytest.mark.parametrize("sizes", [(16, 33, 17), (33, 64, 1), (2, 8, 1), (1, 2, 2)], ids=str)
def test_exact_passes_do_not_move_memory(
    dtype: Any, sizes: tuple[int, int, int], rng: np.random.Generator
) -> None:
    m, k, n = sizes
    args = [rng.normal(size=s).astype(dtype) for s in ((m, 2 * k), (k, n), (k,), (k, m))]
    for i, f in enumerate(_LAYOUTS):
        graph = isograd.trace(f, *args)
        run = Executable(plan(optimise(optimise(graph).graph).graph))
        for given in (args, [np.asfortranarray(a) for a in args]):
            assert same_bits(isograd.vjp(f, *given)[0], run(*given)), i


@each_dtype
@pytest.mark.parametrize("sizes", [(16, 33, 17), (33, 64, 1), (2, 8, 1), (1, 2, 2)], ids=str)
def test_views_are_summed_and_multiplied_as_the_arrays_they_show(
    dtype: Any, sizes: tuple[int, int, int], rng: np.random.Generator
) -> None:
    m, k, n = sizes
    a, b = (rng.normal(size=s).astype(dtype) for s in ((m, k), (k, n)))
    views = [np.repeat(x, 2, axis=-1)[..., ::2] for x in (a, b)]
    for f in (
        lambda x, y: (x * 1.0) @ (y - 0.0),
        lambda x, y: F.negative(F.negative(x)) @ y,
        lambda x, y: F.sum(x * 1.0),
        lambda x, y: F.sum(x.T * 1.0, axis=1) + F.sum((y @ y.T) * 1.0),
        lambda x, y: (x.T * 1.0).T @ (y.T / 1.0).T,
    ):
        run = Executable(plan(optimise(isograd.trace(f, a, b)).graph))
        assert same_bits(isograd.vjp(f, *views)[0], run(*views))
        assert same_bits(F.sum(views[0], axis=0), F.sum(a, axis=0))
        assert same_bits(F.sum(np.asfortranarray(a)), F.sum(a))
        assert same_bits(F.logsumexp(np.asfortranarray(a), axis=0), F.logsumexp(a, axis=0))


# --- what each pass does


def _ops(p: Pass, f: Any, *specs: Any) -> Counter[Op]:
    return p.run(isograd.trace(f, *specs))[0].op_counts


def test_folding_evaluates_constants_but_no_broadcast() -> None:
    def f(c: Any, x: Any) -> Any:
        return x * F.broadcast_to(F.exp(c + 1.0), (3,)) + F.probe(c, "c")

    graph = isograd.trace(f, ArraySpec(()), VECTOR)
    known = with_first_input_known(graph, [np.float64(2.0), np.ones(3)])
    after, count = FOLD_CONSTANTS.run(known)
    assert count == 2
    assert after.op_counts == {Op.BROADCAST: 2, Op.MUL: 1, Op.PROBE: 1, Op.ADD: 1}
    assert any(a == np.exp(3.0) for a in after.constants.values())
    assert not any(
        a.flags.writeable for v, a in after.constants.items() if v not in known.constants
    )


def test_equal_equations_and_equal_constants_are_held_once() -> None:
    graph = isograd.trace(lambda x: (F.tanh(x) * 2.0, F.tanh(x) + 2.0, -0.0 * x, 0.0 * x), VECTOR)
    after, _ = COMMON_SUBEXPRESSIONS.run(graph)
    assert after.op_counts[Op.TANH] == 1
    values = [float(a) for a in after.constants.values()]
    assert len(values) == 3, "2, 0 and −0: −0 is another number than 0"
    assert np.signbit(values).sum() == 1


def test_constants_of_another_dtype_or_shape_are_others() -> None:
    def f(x: Any) -> Any:
        ints = F.astype(x, np.int64)
        return x * np.zeros(3), ints * np.zeros(3, np.int64), x * np.zeros((1, 3))

    after, _ = COMMON_SUBEXPRESSIONS.run(isograd.trace(f, VECTOR))
    assert len(after.constants) == 3


def test_parameters_tell_equations_apart() -> None:
    ops = _ops(COMMON_SUBEXPRESSIONS, lambda x: (F.sum(x, 0), F.sum(x, 1)), ArraySpec((3, 3)))
    assert ops[Op.SUM] == 2


def test_dead_code_goes_and_probes_stay() -> None:
    def f(x: Any) -> Any:
        F.exp(x) + np.arange(3.0)
        F.probe(F.tanh(x), "kept")
        return x * 2.0

    after, count = DEAD_CODE.run(isograd.trace(f, VECTOR))
    assert after.op_counts == {Op.TANH: 1, Op.PROBE: 1, Op.BROADCAST: 1, Op.MUL: 1}
    assert len(after.constants) == 1
    assert count == 3
    assert (
        _ops(COMMON_SUBEXPRESSIONS, lambda x: F.probe(x, "a") + F.probe(x, "a"), VECTOR)[Op.PROBE]
        == 2
    )


def test_probes_can_be_taken_out() -> None:
    graph = isograd.trace(lambda x: F.tanh(F.probe(F.probe(x, "a"), "b")), VECTOR)
    assert WITHOUT_PROBES.run(graph)[0].op_counts == {Op.TANH: 1}


@pytest.mark.parametrize(
    ("f", "left"),
    [
        (lambda x: x * 1.0, 0),
        (lambda x: 1.0 * x, 0),
        (lambda x: x / 1.0, 0),
        (lambda x: x - 0.0, 0),
        (lambda x: F.negative(F.negative(x)), 0),
        (lambda x: F.transpose(F.transpose(x)), 0),
        (lambda x: x + 0.0, 1),
        (lambda x: x - -0.0, 1),
        (lambda x: 0.0 - x, 1),
        (lambda x: x * 0.0, 1),
        (lambda x: x * -1.0, 1),
        (lambda x: 1.0 / x, 1),
        (lambda x: x**1.0, 1),
        (lambda x: F.log(F.exp(x)), 2),
    ],
)
def test_identities_are_those_that_hold_for_every_number(f: Any, left: int) -> None:
    graph = isograd.trace(f, ArraySpec((2, 3)))
    after, _ = IDENTITIES.run(graph)
    assert len([e for e in DEAD_CODE.run(after)[0].eqns if e.op is not Op.BROADCAST]) == left


def test_chains_of_movements_become_one() -> None:
    def f(x: Any) -> Any:
        x = F.reshape(F.reshape(F.reshape(x, (6, 4)), (2, 12)), (4, 6))
        return F.transpose(F.transpose(F.reshape(x, (2, 3, 4)), (1, 2, 0)), (1, 0, 2))

    after = optimise(isograd.trace(f, ArraySpec((24,)))).graph
    assert after.op_counts == {Op.RESHAPE: 1, Op.TRANSPOSE: 1}
    x = np.arange(24.0)
    want = x.reshape(2, 3, 4).transpose(1, 2, 0).transpose(1, 0, 2)
    np.testing.assert_array_equal(evaluate(after, x), want)


# --- the inexact pass


@pytest.mark.parametrize(
    ("f", "x", "exact", "fast"),
    [
        (lambda x: F.log(F.exp(x)), 1000.0, np.inf, 1000.0),
        (lambda x: F.exp(F.log(x)), -2.0, np.nan, -2.0),
        (lambda x: 1.0 / (x + 0.0), -0.0, np.inf, -np.inf),
    ],
)
def test_fast_identities_change_values_and_say_so(f: Any, x: Any, exact: Any, fast: Any) -> None:
    graph = isograd.trace(f, ArraySpec(()))
    done = optimise(graph, (*EXACT, FAST_IDENTITIES))
    assert not done.exact
    assert "fast identities: 1 (changes values)" in str(done)
    assert same_bits(evaluate(done.graph, np.float64(x)), np.float64(fast))
    kept = optimise(graph)
    assert kept.exact
    assert "changes values" not in str(kept)
    assert same_bits(evaluate(kept.graph, np.float64(x)), np.float64(exact))


def test_an_inexact_pass_with_nothing_to_do_leaves_it_exact() -> None:
    assert optimise(isograd.trace(F.tanh, VECTOR), (FAST_IDENTITIES,)).exact
