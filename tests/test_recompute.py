"""Graphs in which values are computed again, against the graphs they were made of: bit by bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import same_bits
from layered import LAYERS
from random_graphs import arguments, random_function
from test_native import check as agree

import isograd
from isograd.backends.llvm.program import Native
from isograd.backends.numpy import Executable
from isograd.engine.graph import ArraySpec, Graph
from isograd.engine.ops import Op
from isograd.engine.passes import COMMON_SUBEXPRESSIONS, EXACT, WITHOUT_PROBES, optimise
from isograd.engine.plan import Plan, plan
from isograd.engine.recompute import Recomputed, _Forward, _rewritten, recompute
from isograd.engine.shard import shard
from isograd.nn import (
    SGD,
    Activation,
    Adam,
    Data,
    Dense,
    Dropout,
    He,
    Measure,
    Network,
    Repeat,
    SoftmaxCrossEntropy,
    Spec,
    Training,
    build,
)
from isograd.nn.model import Model
from isograd.optim.rules import optimiser
from isograd.training.data import from_arrays
from isograd.training.loop import fit
from isograd.training.step import Layout, compile_step

F = isograd.functions


def planned(new: Recomputed) -> Plan:
    return plan(new.graph, new.labels, new.after)


def run(p: Plan, args: Any) -> tuple[Any, dict[str, list[np.ndarray]]]:
    """The result, and what the probes see, by site: one that is probed twice has no order."""
    seen = defaultdict(list)
    result = Executable(p)(*args, observe=lambda site, x: seen[site].append(np.array(x)))
    return result, {
        site: sorted(arrays, key=lambda a: (a.shape, a.tobytes())) for site, arrays in seen.items()
    }


def same(graph: Graph, new: Recomputed, args: Any) -> bool:
    """One interface, the same bits as results, and every probe as often and as it was."""
    assert (new.graph.inputs, new.graph.outputs) == (graph.inputs, graph.outputs)
    (got, ours), (want, theirs) = run(planned(new), args), run(plan(graph), args)
    assert ours.keys() == theirs.keys()
    return same_bits(got, want) and all(same_bits(ours[site], theirs[site]) for site in ours)


# --- training steps


def network(layers: Any) -> Model:
    """Four times as deep."""
    return build(Network((Repeat(4, layers[:-1]), layers[-1]), init=He()), 12, 10)


def training(layers: Any, dtype: Any, rng: np.random.Generator) -> tuple[Graph, Any]:
    """A step with probes, and arguments for it."""
    model = network(layers)
    layout, rule = Layout(model.shapes), optimiser(Adam(), Training(clip_norm=1.0))
    x, y = rng.standard_normal((300, 12)).astype(dtype), rng.integers(0, 10, 300)
    specs = (ArraySpec(a.shape, a.dtype) for a in (x, y))
    step = compile_step(model, rule, layout, *specs, 300, np.zeros(2, np.uint32))
    params = model.init(rng, dtype)
    statistics = {name: params[name] for name in model.statistics}
    carry = layout.join(params), step.state, statistics
    return step.graph, (carry, (x, y), (np.arange(300), dtype(0.01), np.uint32(3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_a_training_step(layers: Any, dtype: Any, rng: np.random.Generator) -> None:
    """With probes and without: the same bits, and less alive at once."""
    graph, args = training(layers, dtype, rng)
    for g in (graph, optimise(graph, (WITHOUT_PROBES, *EXACT)).graph):
        new = recompute(g)
        assert planned(new).peak_bytes < 0.75 * plan(g).peak_bytes
        assert same(g, new, args)


def test_machine_code_agrees(rng: np.random.Generator) -> None:
    for layers in (LAYERS["tanh"], LAYERS["batch norm, dropout"]):
        graph, args = training(layers, np.float64, rng)
        new = recompute(optimise(graph, (WITHOUT_PROBES, *EXACT)).graph)
        (theta, *got), (want_theta, *want) = (
            (after[0], after[1:], *rest)
            for after, *rest in (Native(planned(new))(*args), run(plan(graph), args)[0])
        )
        # A step of Adam turns roundings of a small gradient into steps of the rate.
        np.testing.assert_allclose(theta, want_theta, atol=0.011)
        agree(got, want, 2000.0)


def test_a_mask_drawn_from_another_counter_is_seen(rng: np.random.Generator) -> None:
    graph, args = training(LAYERS["batch norm, dropout"], np.float64, rng)
    new = recompute(graph)
    faulty = []
    for eqn in new.graph.eqns:
        if (
            eqn.op is Op.RANDOM_BITS
            and eqn.output in new.after
            and eqn.inputs[1] not in graph.constants
        ):
            other = next(v for v in new.graph.constants if v.spec == eqn.inputs[1].spec)
            eqn = replace(eqn, inputs=(eqn.inputs[0], other))
        faulty.append(eqn)
    wrong = replace(new, graph=replace(new.graph, eqns=tuple(faulty)))
    assert not same(graph, wrong, args)


def test_a_spec_can_ask_for_it(rng: np.random.Generator) -> None:
    """The same losses and parameters, and the same numbers at every site."""
    layers = (Repeat(12, (Dense(8), Activation("tanh"), Dropout(0.1))), Dense(3))
    rows, labels = rng.standard_normal((500, 8)), np.arange(500) % 3
    split = from_arrays(rows, labels, loss_kind=SoftmaxCrossEntropy())
    runs = []
    for asked in (False, True):
        some = Training(epochs=2, batch_size=200, recompute=asked)
        spec = Spec(Data("arrays"), Network(layers), training=some, measure=Measure(every=1))
        runs.append(fit(spec, split, backend="numpy"))
    plain, again = runs
    assert same_bits(dict(again.params), dict(plain.params))
    for a, b in zip(again.telemetry.records, plain.telemetry.records, strict=True):
        assert (a.loss, a.summaries) == (b.loss, b.summaries)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_step_is_planned_so(backend: Any) -> None:
    layers = (Repeat(12, (Dense(8), Activation("tanh"))), Dense(3))
    model = build(Network(layers), 8, 3)
    layout, rule = Layout(model.shapes), optimiser(SGD(), Training())
    specs = ArraySpec((500, 8), np.float32), ArraySpec((500,), np.int64)
    plain, again = (
        compile_step(
            *(model, rule, layout, *specs, 500, np.zeros(2, np.uint32)),
            backend=backend,
            threads=1,
            recompute=asked,
        )
        for asked in (False, True)
    )
    assert again.bare.plan.peak_bytes < plain.bare.plan.peak_bytes / 2


# --- how much is alive


def chain(depth: int, rows: int = 4096, width: int = 2) -> tuple[Callable[..., Any], Any]:
    """The loss of a network of equal layers, few of whose numbers are parameters; their specs."""

    def loss(weights: Any, x: Any) -> Any:
        for w in weights:
            x = F.tanh(x @ w)
        return F.mean(F.square(x))

    return loss, ([ArraySpec((width, width))] * depth, ArraySpec((rows, width)))


@pytest.mark.parametrize("depth", [16, 64, 256])
def test_a_chain_needs_the_root_of_its_depth(depth: int) -> None:
    """Of each layer two values are read again: x W by the derivative of tanh, tanh by that of W.

    So s = 2 L values are, with c = 1 kept at a cut, and √(2 s c) = 2√L is the least. Beside that
    are two values, as a segment ends with a whole layer, and what the backward pass of one layer
    holds: the cotangents of its output and its input, and two values on the way between them.
    """
    loss, specs = chain(depth)
    graph = optimise(isograd.trace(isograd.grad(loss), *specs)).graph
    layer = specs[1].nbytes
    new = recompute(graph)
    assert plan(graph).peak_bytes > 2 * depth * layer
    assert planned(new).peak_bytes <= (2 * np.sqrt(depth) + 2 + 4) * layer


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_the_work_is_at_most_one_more_forward_pass(layers: Any, rng: np.random.Generator) -> None:
    graph, _ = training(layers, np.float64, rng)
    forward = sum(2 * 300 * p.n_in * p.n_out for p in network(layers).weights)
    assert 0 < recompute(graph).graph.matmul_flops - graph.matmul_flops <= forward


def test_without_waiting_nothing_is_saved() -> None:
    loss, specs = chain(64)
    graph = optimise(isograd.trace(isograd.grad(loss), *specs)).graph
    new = recompute(graph)
    assert plan(new.graph).peak_bytes > 2 * planned(new).peak_bytes
    merged = optimise(new.graph, (COMMON_SUBEXPRESSIONS,)).graph
    assert merged.matmul_flops == graph.matmul_flops


def test_what_is_read_out_of_turn_is_kept(rng: np.random.Generator) -> None:
    """The input of all layers is a factor of the output: the backward pass needs it first."""

    def loss(weights: Any, x: Any) -> Any:
        first = x = F.tanh(x)
        for w in weights:
            x = F.tanh(x @ w)
        return F.mean(F.square(x * first))

    _, (weights, x) = chain(64, 256)
    graph = optimise(isograd.trace(isograd.grad(loss), weights, x)).graph
    new = recompute(graph)
    assert planned(new).peak_bytes < plan(graph).peak_bytes / 3
    args = [rng.standard_normal(w.shape) for w in weights], rng.standard_normal(x.shape)
    assert same(graph, new, args)


@pytest.mark.parametrize(
    ("f", "specs"),
    [
        (chain(1)[0], chain(1)[1]),
        (chain(64)[0], chain(64)[1]),  # no backward pass
        (isograd.grad(chain(64, 1, 64)[0]), chain(64, 1, 64)[1]),  # all is parameters
        (lambda x: x, (ArraySpec(()),)),
        (lambda x: F.tanh(x) * 2.0, (ArraySpec((0,)),)),
    ],
)
def test_what_gains_nothing_stays_as_it_is(f: Any, specs: Any) -> None:
    graph = isograd.trace(f, *specs)
    new = recompute(graph)
    assert new.graph is graph
    assert not new.after


# --- any graph, cut anywhere


def pulled(seeds: range, dtype: Any) -> Graph:
    """Values and cotangents of random functions, one after another on the same arguments."""

    def f(*args: Any) -> Any:
        values = []
        for seed in seeds:
            value, pullback = isograd.vjp(random_function(seed, dtype), *args)
            args = tuple(a + g for a, g in zip(args, pullback(value), strict=True))
            values.append(value)
        return values, args

    specs = [ArraySpec(shape, dtype) for shape in ((), (3,), (2, 3))]
    return isograd.trace(f, *specs)


def test_random_graphs_cut_anywhere(rng: np.random.Generator) -> None:
    """Bits and probes stay, and no equation runs more than twice."""
    copied = 0
    for seed in range(120):
        graph = pulled(range(seed, seed + 1 + seed % 3), np.float64)
        graph = optimise(graph).graph if seed % 2 else graph
        forward = _Forward(graph)
        for count in (1, 2, 5):
            if forward.turn < 2:
                continue
            cuts = tuple(sorted({int(p) for p in rng.integers(1, forward.turn, count)}))
            new = _rewritten(forward, cuts, {})
            copied += len(new.after)
            for op, n in new.graph.op_counts.items():
                assert n <= 2 * graph.op_counts[op]
            assert same(graph, new, arguments(seed, np.float64))
    assert copied > 100


# --- shards


def test_shards_compute_again_what_is_theirs(rng: np.random.Generator) -> None:
    loss, (weights, x) = chain(40, 256)
    graph = optimise(isograd.trace(isograd.grad(loss), weights, x)).graph
    parts = shard(graph, {graph.inputs[-1]: 0}, 2)
    new = recompute(parts.graph, parts.shard)
    before = plan(parts.graph, parts.shard)
    assert planned(new).peak_bytes < before.peak_bytes / 2
    assert all(new.labels[copy] == new.labels[gate] for copy, gate in new.after.items())
    args = [rng.standard_normal(w.shape) for w in weights], rng.standard_normal(x.shape)
    assert same_bits(Executable(planned(new))(*args), Executable(before)(*args))
    for threads in (1, 2):
        agree(Native(planned(new), threads)(*args), Executable(before)(*args), 2000.0)
