"""Sharded graphs against the graphs they were made of, in float64, by the reference interpreter."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layered import LAYERS
from optable import Row
from optable_arrays import TABLE
from random_graphs import arguments, random_graph

import isograd
from isograd.backends.numpy import Executable
from isograd.engine.check import check
from isograd.engine.dispatch import apply
from isograd.engine.graph import Graph, Var
from isograd.engine.ops import Op
from isograd.engine.passes import EXACT, WITHOUT_PROBES, optimise
from isograd.engine.placement import Partial
from isograd.engine.plan import VIEWS, plan
from isograd.engine.shard import SHARDING, Sharded, shard
from isograd.engine.tree import flatten
from isograd.nn import (
    SGD,
    Activation,
    AdaGrad,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    Dense,
    HalfSquaredError,
    He,
    Huber,
    MeanSquaredError,
    Momentum,
    Nesterov,
    Network,
    Repeat,
    RMSProp,
    SoftmaxCrossEntropy,
    Training,
    build,
)
from isograd.optim.rules import optimiser
from isograd.training.step import Layout, compile_step

F = isograd.functions
COUNTS = (1, 2, 3, 5)


def run(graph: Graph, args: Any) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """The leaves of the result, and what the probes see in turn, by site."""
    seen = defaultdict(list)
    result = Executable(plan(graph))(*args, observe=lambda s, x: seen[s].append(np.array(x)))
    return list(map(np.asarray, flatten(result)[0])), seen


def elements(arrays: list[np.ndarray]) -> np.ndarray:
    """In order of size: a site that is probed twice has no order of its own."""
    return np.sort(np.concatenate([x.ravel() for x in arrays]))


def rows(arrays: list[np.ndarray]) -> np.ndarray:
    """Parts along the first axis, in the order of the shards."""
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def agree(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    """One shape and dtype, the same special values, finite ones to a share of the largest."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    largest = np.abs(want[finite]).max(initial=0.0)
    np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=tolerance * largest)


def both_agree(
    graph: Graph, sharded: Sharded, args: Any, tolerance: float, joined: Any = elements
) -> None:
    """Valid, of one interface, and of the same results and observations."""
    new = check(sharded.graph)
    assert (new.inputs, new.outputs) == (graph.inputs, graph.outputs)
    assert (new.in_tree, new.out_tree) == (graph.in_tree, graph.out_tree)
    (got, ours), (want, theirs) = run(new, args), run(graph, args)
    for a, b in zip(got, want, strict=True):
        agree(a, b, tolerance)
    assert ours.keys() == theirs.keys()
    for site in ours:
        agree(joined(ours[site]), joined(theirs[site]), tolerance)


# --- primitives


WHOLE, TERMS = "whole", "terms"


def placements(x: np.ndarray) -> list[Any]:
    """Whole, split along each axis, or a sum of terms."""
    return [WHOLE, *range(x.ndim), *([TERMS] if x.dtype.kind in "fiu" else [])]


def as_terms(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Terms that add up to x in any order, exactly where x is a multiple of 2⁻³⁰ and small."""
    a, b = np.round(rng.normal(size=(2, *x.shape)) * 2**12)
    a, b = (n / 2**10 if x.dtype.kind == "f" else n.astype(x.dtype) for n in (a, b))
    zero = np.zeros_like(a)
    return np.stack([zero, a, b, zero - a, x, zero - b])


def cases(row: Row, rng: np.random.Generator) -> Iterator[tuple[list[np.ndarray], dict[str, Any]]]:
    for case in row.cases:
        args = [np.asarray(a) for a in row.sample(rng, case, np.float64)]
        yield [np.round(a * 2**30) / 2**30 if a.dtype.kind == "f" else a for a in args], case.params
    shapes = {tuple(np.shape(a) for a in special): special for special in row.special}
    for case in row.cases:
        if case.shapes in shapes:
            yield [np.asarray(a, np.float64) for a in shapes[case.shapes]], case.params


def primitive_agrees(row: Row, rng: np.random.Generator) -> None:
    for args, params in cases(row, rng):
        for kinds in itertools.islice(itertools.product(*map(placements, args)), 64):
            given = [
                as_terms(a, rng) if k is TERMS else a for a, k in zip(args, kinds, strict=True)
            ]

            def f(*xs: Any, kinds: Any = kinds, params: Any = params) -> Any:
                return apply(
                    row.op,
                    *(F.sum(x, 0) if k is TERMS else x for x, k in zip(xs, kinds, strict=True)),
                    **params,
                )

            graph = isograd.trace(f, *given)
            axes = {
                var: 0 if kind is TERMS else kind
                for var, kind in zip(graph.inputs, kinds, strict=True)
                if kind is not WHOLE
            }
            for count, pieces in zip(COUNTS, (2, 3, 1, 2), strict=True):
                sharded = shard(graph, axes, count, split_elementwise=3, pieces=pieces)
                both_agree(graph, sharded, given, 1e-12)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.op.value)
def test_a_primitive_however_its_inputs_are_known(row: Row, rng: np.random.Generator) -> None:
    primitive_agrees(row, rng)


def test_every_primitive_is_tested() -> None:
    assert {row.op for row in TABLE} | {Op.STOP_GRADIENT} >= SHARDING.keys()


def of_terms(walk: Any, eqn: Any) -> Any:
    """A primitive of the first input's terms, as if it were linear."""
    placed = walk.placements.get(eqn.inputs[0])
    if not isinstance(placed, Partial):
        return None
    others = [(walk.whole(v),) * len(placed.terms) for v in eqn.inputs[1:]]
    return Partial(placed.shards, walk.each(eqn, placed.shards, placed.terms, *others))


def of_parts(walk: Any, eqn: Any) -> Any:
    """A primitive of the parts, as if no axis were like another."""
    placed = walk.split_of(eqn.inputs[0])
    return placed and replace(placed, parts=walk.each(eqn, placed.cut.shards, placed.parts))


def row_of(op: Op) -> Row:
    return next(row for row in TABLE if row.op is op)


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        (Op.TANH, of_terms),
        (Op.MAX, SHARDING[Op.ADD]),
        (Op.MUL, SHARDING[Op.ADD]),
        (Op.REDUCE_MAX, SHARDING[Op.SUM]),
        (Op.LOG_SOFTMAX, of_parts),
        (Op.CAST, of_terms),
        (Op.POW, of_terms),
        (Op.LOGSUMEXP, of_terms),
    ],
    ids=lambda x: getattr(x, "value", getattr(x, "__name__", None)),
)
def test_a_wrong_rule_is_seen(
    op: Op, wrong: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHARDING, op, wrong)
    with pytest.raises(AssertionError):
        primitive_agrees(row_of(op), rng)


# --- random graphs


def tame(seed: int) -> list[np.ndarray]:
    """Without numbers so large that the order of a sum decides whether it overflows."""
    return [np.where(np.abs(x) > 1e300, x.dtype.type(0.5), x) for x in arguments(seed, np.float64)]


@given(
    seed=st.integers(0, 10**6),
    axes=st.tuples(st.none(), st.sampled_from([None, 0]), st.sampled_from([None, 0, 1])),
    count=st.sampled_from(COUNTS),
    pieces=st.sampled_from([1, 2, 3]),
)
def test_random_graphs(seed: int, axes: Any, count: int, pieces: int) -> None:
    graph, args = random_graph(seed, np.float64), tame(seed)
    split = {v: a for v, a in zip(graph.inputs, axes, strict=True) if a is not None}
    both_agree(graph, shard(graph, split, count, split_elementwise=6, pieces=pieces), args, 1e-12)


# --- training steps

LOSSES = (
    SoftmaxCrossEntropy(),
    SoftmaxCrossEntropy(class_weights=tuple(np.linspace(0.0, 2.0, 10)), l2=0.1),
    MeanSquaredError(l2=0.1),
    HalfSquaredError(),
    Huber(),
    BinaryCrossEntropy(),
)
RULES = (
    (Adam(), Training(clip_norm=0.1)),
    (AdamW(), Training(clip_value=0.01)),
    (SGD(), Training(normalise_gradient=True)),
    (Momentum(), Training(clip_value=0.01, clip_norm=0.1)),
    (Nesterov(), Training()),
    (RMSProp(), Training()),
    (AdaGrad(), Training()),
)
ROWS, BATCH = 40, 19


def graph_of(layers: Any, loss: Any, rule: Any, training: Any) -> tuple[Graph, Any]:
    """The graph of a step, and arguments for it."""
    rng = np.random.default_rng(7)
    model = build(Network(layers, init=He(), loss=loss), 12, 10)
    layout = Layout(model.shapes)
    x, y = rng.standard_normal((ROWS, 12)), rng.random((ROWS, 10))
    if isinstance(loss, SoftmaxCrossEntropy):
        y = rng.integers(0, 10, ROWS)
    specs = (isograd.ArraySpec(a.shape, a.dtype) for a in (x, y))
    key = np.array([3, 5], np.uint32)
    step = compile_step(model, optimiser(rule, training), layout, *specs, BATCH, key)
    params = model.init(rng, np.float64)
    theta = layout.join(params)
    # A step after the first: Adam's first would turn roundings of small gradients into whole steps.
    state = isograd.engine.tree.map_leaves(lambda s: np.full_like(s, 0.5), step.state)
    carry = (theta, state, {name: params[name] for name in model.statistics})
    each = (rng.integers(0, ROWS, BATCH), np.float64(0.01), np.uint32(3))
    return step.graph, (carry, (x, y), each)


def sharded_step(graph: Graph, count: int, **options: Any) -> Sharded:
    """Split over the rows of a step."""
    rows_of_step = graph.inputs[-3]
    assert rows_of_step.spec == isograd.ArraySpec((BATCH,), np.int64)
    return shard(graph, {rows_of_step: 0}, count, **options)


def without_probes(graph: Graph) -> Graph:
    return optimise(graph, (WITHOUT_PROBES, *EXACT)).graph


def step_agrees(graph: Graph, args: Any) -> None:
    for count, pieces in ((1, 2), (2, 2), (3, 1), (5, 3)):
        sharded = sharded_step(graph, count, split_elementwise=100, pieces=pieces)
        both_agree(graph, sharded, args, 1e-10, rows)
        # Probes see, and change nothing.
        bare = sharded_step(without_probes(graph), count, split_elementwise=100, pieces=pieces)
        for a, b in zip(run(bare.graph, args)[0], run(sharded.graph, args)[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_a_step_of_layers(layers: Any) -> None:
    step_agrees(*graph_of(layers, SoftmaxCrossEntropy(), Adam(), Training(clip_norm=0.1)))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_step_of_a_loss(loss: Any) -> None:
    step_agrees(*graph_of(LAYERS["tanh"], loss, Adam(), Training()))


@pytest.mark.parametrize(("rule", "training"), RULES, ids=lambda x: type(x).__name__)
def test_a_step_of_an_update_rule(rule: Any, training: Any) -> None:
    step_agrees(*graph_of(LAYERS["tanh"], SoftmaxCrossEntropy(), rule, training))


def test_masks_do_not_depend_on_the_number_of_shards() -> None:
    def f(key: Any, x: Any) -> Any:
        return F.random_bits(key, 5, x.shape) > np.uint32(2**31)

    key, x = np.array([1, 2], np.uint32), np.zeros((7, 3))
    graph = isograd.trace(f, key, x)
    for count in COUNTS:
        both_agree(graph, shard(graph, {graph.inputs[1]: 0}, count), (key, x), 0.0)


def test_batches_of_several_lengths_meet() -> None:
    def f(x: Any, y: Any) -> Any:
        a, b = F.sum(x, 0), F.sum(y, 0)
        return a + b, a - b, F.concatenate([a, b]), F.concatenate([x, y])

    args = (np.arange(6.0).reshape(2, 3), np.arange(21.0).reshape(7, 3) - 5.0)
    graph = isograd.trace(f, *args)
    for count in COUNTS:
        both_agree(graph, shard(graph, dict.fromkeys(graph.inputs, 0), count), args, 0.0)


# --- structure


def shards_behind(sharded: Sharded) -> dict[Var, set[int]]:
    """By variable, the shards on whose work it depends, its own included."""
    behind: dict[Var, set[int]] = {}
    for eqn in sharded.graph.eqns:
        mine = {sharded.shard[eqn.output]} if eqn.output in sharded.shard else set()
        behind[eqn.output] = mine.union(*(behind.get(v, set()) for v in eqn.inputs))
    return behind


def dense(depth: int) -> Graph:
    layers = (Repeat(depth, (Dense(16), Activation("relu"))), Dense(10))
    graph, _ = graph_of(layers, SoftmaxCrossEntropy(), Adam(), Training(clip_norm=1.0))
    return without_probes(graph)


def whole_work(sharded: Sharded) -> list[Op]:
    return [e.op for e in sharded.graph.eqns if e.output not in sharded.shard and e.op not in VIEWS]


def test_shards_do_not_wait_for_each_other_before_the_gradient_is_added_up() -> None:
    graph = dense(5)
    sharded = sharded_step(graph, 3, split_elementwise=1000, pieces=3)
    behind = shards_behind(sharded)
    eqns = sharded.graph.eqns
    products = [e for e in eqns if e.op is Op.MATMUL]
    assert len(products) == 3 * graph.op_counts[Op.MATMUL]
    assert all(behind[e.output] == {sharded.shard[e.output]} for e in products)
    # One buffer for the gradient in each shard, and what is made of it for the next round.
    theta = graph.inputs[0].spec
    joined = [e for e in eqns if e.op is Op.CONCATENATE and e.output.spec == theta]
    of_a_shard = [e.output for e in joined if e.output in sharded.shard]
    assert [behind[v] for v in of_a_shard] == [{0}, {1}, {2}]
    assert {e.output for e in joined} - {*of_a_shard} == {
        v for v in graph.outputs if v.spec == theta
    }
    # No shard waits for a number to add it to its own.
    assert not [
        e
        for e in eqns
        if e.op is Op.ADD and e.output in sharded.shard and e.output.spec.shape == ()
    ]
    # All work on that vector is in pieces.
    large = [e for e in eqns if e.output.spec == theta and e.op not in VIEWS]
    assert {e.op for e in large} == {Op.CONCATENATE}


def test_whole_work_does_not_grow_with_depth() -> None:
    few, many = (
        whole_work(sharded_step(dense(n), 2, split_elementwise=500, pieces=2)) for n in (2, 20)
    )
    assert sorted(few, key=str) == sorted(many, key=str)
    assert len(few) < 40


def test_whatever_is_read_by_a_shard_is_its_own_or_whole() -> None:
    for layers in LAYERS.values():
        graph, _ = graph_of(layers, SoftmaxCrossEntropy(), Adam(), Training(clip_norm=1.0))
        shards = (sharded := sharded_step(graph, 3, split_elementwise=100, pieces=2)).shard
        for eqn in sharded.graph.eqns:
            if eqn.output in shards and eqn.op is not Op.SLICE:
                assert {shards.get(v, shards[eqn.output]) for v in eqn.inputs} == {
                    shards[eqn.output]
                }


def test_parts_differ_by_one_at_most() -> None:
    graph = isograd.trace(F.tanh, isograd.ArraySpec((11, 2)))
    for count in (2, 3, 4, 5, 11, 20):
        sharded = shard(graph, {graph.inputs[0]: 0}, count)
        parts = [e.output for e in sharded.graph.eqns if e.op is Op.TANH]
        lengths = [v.spec.shape[0] for v in parts]
        assert (sum(lengths), len(parts)) == (11, min(count, 11))
        assert max(lengths) - min(lengths) <= 1
        assert sorted({sharded.shard[v] for v in parts}) == [sharded.shard[v] for v in parts]


@pytest.mark.parametrize(
    ("count", "pieces", "shards"),
    [(1, 2, [0, 0]), (2, 2, [0, 1]), (4, 2, [0, 2]), (2, 4, [0, 0, 1, 1]), (3, 2, [0, 1])],
)
def test_pieces_belong_to_shards(count: int, pieces: int, shards: list[int]) -> None:
    graph = isograd.trace(F.tanh, isograd.ArraySpec((64,)))
    sharded = shard(graph, {}, count, split_elementwise=64, pieces=pieces)
    work = [e.output for e in sharded.graph.eqns if e.op is Op.TANH]
    assert [sharded.shard[v] for v in work] == shards
    assert shard(graph, {}, count, split_elementwise=65, pieces=pieces).shard == {}


def test_masks_are_made_in_shards() -> None:
    graph, _ = graph_of(LAYERS["batch norm, dropout"], MeanSquaredError(), SGD(), Training())
    sharded = sharded_step(graph, 3)
    masks = [e.output for e in sharded.graph.eqns if e.op is Op.GE]
    assert [sharded.shard[v] for v in masks] == [0, 1, 2]


def test_what_is_not_split_is_left_as_it_is() -> None:
    graph = dense(2)
    sharded = shard(graph, {}, 4)
    assert (sharded.graph.eqns, sharded.shard) == (graph.eqns, {})
