"""Plans, held against brute force: order, groups, releases, and who shares whose memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_graphs import random_graph

import isograd
from isograd.engine.graph import ArraySpec, Graph, Var
from isograd.engine.ops import RULES, Op
from isograd.engine.passes import optimise
from isograd.engine.plan import VIEWS, Buffer, Plan, plan
from isograd.errors import GraphError

F = isograd.functions


def graphs() -> Iterator[Graph]:
    for seed in range(120):
        graph = random_graph(seed, np.float64)
        yield graph
        yield optimise(graph).graph

    def loss(p: Any, x: Any) -> Any:
        for w, b in p:
            x = F.probe(F.tanh(x @ w + b), "a", "δ")
        return F.mean(-F.log_softmax(x))

    params = [(ArraySpec((5, 5)), ArraySpec((5,)))] * 4
    graph = isograd.trace(isograd.value_and_grad(loss), params, ArraySpec((7, 5)))
    yield graph
    yield optimise(graph).graph


# --- the checkers: each takes a plan and says what is wrong with it


def order_faults(p: Plan) -> Iterator[str]:
    known = {*p.graph.inputs, *p.graph.constants}
    for step, eqn in enumerate(p.graph.eqns):
        if not known.issuperset(eqn.inputs):
            yield f"step {step} reads what is not there yet"
        known.add(eqn.output)


def group_faults(p: Plan) -> Iterator[str]:
    steps = [s for start, stop in p.groups for s in range(start, stop)]
    if steps != list(range(len(p.graph.eqns))):
        yield "the groups do not cover the steps"
    for start, stop in p.groups:
        members = p.graph.eqns[start:stop]
        if len(members) > 1 and not all(RULES[e.op].elementwise for e in members):
            yield f"group [{start}, {stop}) holds what is not elementwise"
        if len({e.output.spec.shape for e in members}) > 1:
            yield f"group [{start}, {stop}) has more than one shape"
    # Run group by group, all reads of a group before it starts or inside it: no cycle among groups.
    group_of = {p.graph.eqns[s].output: g for g, (a, b) in enumerate(p.groups) for s in range(a, b)}
    for eqn in p.graph.eqns:
        for var in eqn.inputs:
            if group_of.get(var, -1) > group_of.get(eqn.output, -1):
                yield "a group needs a later one"


def release_faults(p: Plan) -> Iterator[str]:
    gone: set[Var] = set()
    for step, (eqn, released) in enumerate(zip(p.graph.eqns, p.releases, strict=True)):
        if not gone.isdisjoint(eqn.inputs):
            yield f"step {step} reads what was released"
        gone.update(released)
    if not gone.isdisjoint(p.graph.outputs):
        yield "an output is released"
    made = {e.output for e in p.graph.eqns} - set(p.graph.outputs)
    if not made <= gone:
        yield "an intermediate value is kept to the end"


def buffer_faults(p: Plan) -> Iterator[str]:
    """Brute force: a value must lie untouched in its storage from its step to its last read."""
    graph = p.graph
    root: dict[Var, Var] = {}
    for eqn in graph.eqns:
        if eqn.output in p.buffers:
            root[eqn.output] = eqn.output
        elif eqn.op in VIEWS:
            root[eqn.output] = root.get(eqn.inputs[0], eqn.inputs[0])
        else:
            yield f"the value of {eqn.op.value} has no memory"
            return
    reads: dict[Var, list[int]] = {}
    for step, eqn in enumerate(graph.eqns):
        for var in (eqn.output, *eqn.inputs):
            reads.setdefault(root.get(var, var), []).append(step)
    for var in graph.outputs:
        reads.setdefault(root.get(var, var), []).append(len(graph.eqns))
    reads = {base: steps for base, steps in reads.items() if base in p.buffers}
    for base, steps in reads.items():
        buffer = p.buffers[base]
        if buffer.first > min(steps) or buffer.last < max(steps):
            yield "a buffer ends before its last read"
        if buffer.nbytes != base.spec.nbytes:
            yield "a buffer is of the wrong size"
    for a, b in itertools.combinations(p.buffers.values(), 2):
        if a.storage == b.storage and (a.nbytes != b.nbytes or _overlap(a, b)):
            yield f"two values of storage {a.storage} are alive at once"
            return


def _overlap(a: Buffer, b: Buffer) -> bool:
    return a.first <= b.last and b.first <= a.last


FAULTS = (order_faults, group_faults, release_faults, buffer_faults)


@pytest.mark.parametrize("faults", FAULTS, ids=lambda f: f.__name__)
def test_plans_are_sound(faults: Any) -> None:
    for graph in graphs():
        p = plan(graph)
        assert not list(faults(p)), f"{list(faults(p))}\n{p.graph}"


def test_a_wrong_plan_is_seen() -> None:
    graph = isograd.trace(lambda x, y: F.exp(F.tanh(x @ y)) @ y + x, *[ArraySpec((3, 3))] * 2)
    p = plan(graph)
    assert not any(list(f(p)) for f in FAULTS)
    backwards = replace(p, graph=replace(p.graph, eqns=p.graph.eqns[::-1]))
    assert list(order_faults(backwards))
    assert list(group_faults(replace(p, groups=((0, 3), *p.groups[2:]))))
    assert list(group_faults(replace(p, groups=p.groups[:-1])))
    early = (p.graph.eqns[0].output, *p.releases[0])
    assert list(release_faults(replace(p, releases=(early, *p.releases[1:]))))
    assert list(release_faults(replace(p, releases=((),) * len(p.releases))))
    shared = {v: replace(b, storage=0) for v, b in p.buffers.items()}
    assert list(buffer_faults(replace(p, buffers=shared)))
    assert list(buffer_faults(replace(p, buffers={})))
    short = {v: replace(b, last=b.first) for v, b in p.buffers.items()}
    assert list(buffer_faults(replace(p, buffers=short)))


def test_an_invalid_graph_is_not_planned() -> None:
    graph = isograd.trace(F.tanh, ArraySpec((3,)))
    with pytest.raises(GraphError, match="assigned before it is read"):
        plan(replace(graph, outputs=(Var(ArraySpec(())),)))


# --- what a plan is for


def test_elementwise_chains_are_fused_across_what_interrupts_them() -> None:
    def f(x: Any, w: Any) -> Any:
        a = F.tanh(x)
        product = x @ w  # between the two in the order of the trace
        return F.exp(a) * a, F.sum(product)

    p = plan(isograd.trace(f, ArraySpec((4, 4)), ArraySpec((4, 4))))
    fused = [p.graph.eqns[a:b] for a, b in p.groups if b - a > 1]
    assert [[e.op for e in g] for g in fused] == [[Op.TANH, Op.EXP, Op.MUL]]
    assert "(1 fused)" in str(p)


def test_a_chain_runs_in_two_buffers() -> None:
    def f(x: Any) -> Any:
        for _ in range(100):
            x = F.tanh(x)
        return x * 2.0

    p = plan(isograd.trace(f, ArraySpec((1000,))))
    assert p.peak_bytes == 2 * 8000
    assert p.storage_bytes == 2 * 8000


def test_a_view_keeps_what_it_looks_at_alive() -> None:
    def f(x: Any) -> Any:
        a = F.exp(x)
        view = F.reshape(a, (2, 3)).T
        b = F.tanh(F.sqrt(F.exp(x)))
        return view, b

    p = plan(isograd.trace(f, ArraySpec((6,))))
    exp = next(e for e in p.graph.eqns if e.op is Op.EXP)
    assert p.buffers[exp.output].last == len(p.graph.eqns)
    assert not list(buffer_faults(p))


def test_a_reshape_of_what_does_not_lie_in_order_has_memory_of_its_own() -> None:
    p = plan(isograd.trace(lambda x: F.reshape(F.exp(x).T, -1) + 1.0, ArraySpec((2, 3))))
    reshape = next(e for e in p.graph.eqns if e.op is Op.RESHAPE)
    assert reshape.output in p.buffers
    p = plan(isograd.trace(lambda x: F.reshape(F.exp(x), -1) + 1.0, ArraySpec((2, 3))))
    reshape = next(e for e in p.graph.eqns if e.op is Op.RESHAPE)
    assert reshape.output not in p.buffers


def test_parts_of_a_vector_are_views_in_any_shape() -> None:
    def f(x: Any) -> Any:
        a = F.exp(x)
        return F.reshape(a[2:8], (2, 3)) + 1.0, F.reshape(F.reshape(a, (3, 4))[:2], -1) + 1.0

    p = plan(isograd.trace(f, ArraySpec((12,))))
    assert not any(e.output in p.buffers for e in p.graph.eqns if e.op in (Op.RESHAPE, Op.SLICE))
    for key in ((slice(None), slice(0, 2)), slice(None, None, 2)):
        p = plan(isograd.trace(lambda x, key=key: F.reshape(x[key], -1) + 1.0, ArraySpec((4, 3))))
        assert any(e.output in p.buffers for e in p.graph.eqns if e.op is Op.RESHAPE)


def test_equations_wait_for_what_they_are_told_to(rng: np.random.Generator) -> None:
    moved = 0
    for graph in graphs():
        after: dict[Var, Var] = {}
        for _ in range(4 if len(graph.eqns) > 1 else 0):
            early, late = sorted(rng.choice(len(graph.eqns), 2, replace=False))
            after[graph.eqns[late].output] = graph.eqns[early].output
        p, free = plan(graph, None, after), plan(graph)
        for faults in FAULTS:
            assert not list(faults(p))
        step, before = ({e.output: i for i, e in enumerate(q.graph.eqns)} for q in (p, free))
        assert all(step[gate] < step[var] for var, gate in after.items())
        moved += any(before[gate] > before[var] for var, gate in after.items())
    assert moved > 20


def test_sharing_never_goes_below_the_peak() -> None:
    for graph in graphs():
        p = plan(graph)
        assert p.peak_bytes <= p.storage_bytes <= sum(b.nbytes for b in p.buffers.values())
