"""A plan: the equations in the order in which they run, what may run together, and for how long
each buffer is needed. Backends run plans; they decide nothing that stands here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from isograd.engine.check import check
from isograd.engine.graph import Eqn, Graph, Var
from isograd.engine.ops import RULES, Op

# Their output can share the memory of their input; a reshape only that of one which lies in order.
VIEWS = frozenset(
    {Op.RESHAPE, Op.TRANSPOSE, Op.BROADCAST, Op.SLICE}
    | {Op.STOP_GRADIENT, Op.PROBE, Op.ROUND_COTANGENT}
)
_SCATTERING = frozenset({Op.TRANSPOSE, Op.BROADCAST})


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory for one value and its views.

    Attributes:
        nbytes: size.
        first, last: the steps that write it first and read it last (last = number of steps for
            outputs of the graph).
        storage: number of the allocation it lies in; buffers of one size whose lives do not
            overlap share one.
    """

    nbytes: int
    first: int
    last: int
    storage: int


@dataclass(frozen=True, eq=False)
class Plan:
    """How to run a graph.

    Attributes:
        graph: what is run; its equations in the order of the plan.
        groups: ranges [start, stop) of consecutive steps. A group of several is elementwise, over
            one shape, and can run as one loop.
        labels: per group, which part of the work it belongs to (−1: to none); a group has one.
        stages: per group, how many times at least the label changed on the way to it. Groups of
            one stage and different labels do not depend on each other.
        releases: per step, the variables that are not read after it.
        buffers: per root variable (one that is no view of another) its memory.
    """

    graph: Graph
    groups: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    stages: tuple[int, ...]
    releases: tuple[tuple[Var, ...], ...]
    buffers: dict[Var, Buffer]

    @property
    def storage_bytes(self) -> int:
        """Memory for intermediate values, with sharing."""
        sizes = {b.storage: b.nbytes for b in self.buffers.values()}
        return sum(sizes.values())

    @property
    def peak_bytes(self) -> int:
        """The most that is alive at one step: no sharing can go below it."""
        change: defaultdict[int, int] = defaultdict(int)
        for b in self.buffers.values():
            change[b.first] += b.nbytes
            change[b.last + 1] -= b.nbytes
        peak = alive = 0
        for step in sorted(change):
            alive += change[step]
            peak = max(peak, alive)
        return peak

    def __str__(self) -> str:
        fused = sum(1 for a, b in self.groups if b - a > 1)
        return (
            f"plan: {len(self.graph.eqns)} steps in {len(self.groups)} groups ({fused} fused), "
            f"{len(self.buffers)} buffers, {self.storage_bytes} bytes "
            f"(at least {self.peak_bytes} alive at once)"
        )


def plan(
    graph: Graph,
    labels: Mapping[Var, int] | None = None,
    after: Mapping[Var, Var] | None = None,
) -> Plan:
    """Order, fusion groups and buffer lifetimes of a graph.

    Args:
        graph: what is to be run.
        labels: which part of the work equations belong to, by their outputs; parts run one after
            another, or at once where they do not wait for each other.
        after: by its output, what an equation waits for though it does not read it: a variable that
            an earlier equation of the graph makes.

    Raises:
        GraphError: if the graph is not valid.
    """
    check(graph)
    eqns, groups, keys = _fuse(graph, labels or {}, after or {})
    ordered = Graph(
        graph.inputs, graph.constants, eqns, graph.outputs, graph.in_tree, graph.out_tree
    )
    last_read = _last_reads(ordered)
    releases: list[list[Var]] = [[] for _ in eqns]
    for var, step in last_read.items():
        if 0 <= step < len(eqns) and var not in graph.constants:
            releases[step].append(var)
    return Plan(
        ordered,
        groups,
        tuple(key[1] for key in keys),
        tuple(key[0] for key in keys),
        tuple(map(tuple, releases)),
        _allocate(ordered, last_read),
    )


_Key = tuple[int, int, int, bool, tuple[int, ...]]  # stage, label, height, fusible, shape


def _fuse(
    graph: Graph, labels: Mapping[Var, int], after: Mapping[Var, Var]
) -> tuple[tuple[Eqn, ...], tuple[tuple[int, int], ...], tuple[_Key, ...]]:
    """Put elementwise equations of one shape and label that feed each other next to each other.

    The height of an equation is that of its inputs, plus one wherever a fused loop would have to
    end: at a primitive that is not elementwise, or where shape or label changes. A path that leaves
    a group climbs, and heights never fall along a path, so equations of one height and shape form
    no cycle with the rest and a stable sort by height is an order in which they can run. Stages
    climb likewise wherever the label changes, so the equations of a label can stand together. What
    an equation waits for lies below it as if it were read, and outside of its group.
    """
    height: dict[Var, int] = dict.fromkeys((*graph.inputs, *graph.constants), 0)
    stage: dict[Var, int] = {}
    label: dict[Var, int] = {}
    elementwise: dict[Var, bool] = dict.fromkeys(height, False)
    keys: list[_Key] = []
    for eqn in graph.eqns:
        fusible = RULES[eqn.op].elementwise
        shape = eqn.output.spec.shape
        mine = labels.get(eqn.output, -1)
        h = s = 0
        for v in eqn.inputs:
            same = label.get(v, mine) == mine
            together = fusible and elementwise[v] and v.spec.shape == shape and same
            h = max(h, height[v] + (not together))
            s = max(s, stage.get(v, 0) + (not same))
        if eqn.output in after:
            v = after[eqn.output]
            h = max(h, height[v] + 1)
            s = max(s, stage.get(v, 0) + (label.get(v, mine) != mine))
        height[eqn.output], stage[eqn.output], label[eqn.output] = h, s, mine
        elementwise[eqn.output] = fusible
        keys.append((s, mine, h, fusible, shape))
    _sink(graph, keys, after)
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    groups: list[tuple[int, int]] = []
    for position, i in enumerate(order):
        if position and keys[i][3] and keys[i] == keys[order[position - 1]]:
            groups[-1] = (groups[-1][0], position + 1)
        else:
            groups.append((position, position + 1))
    group_keys = tuple(keys[order[start]] for start, _ in groups)
    return tuple(graph.eqns[i] for i in order), tuple(groups), group_keys


def _sink(graph: Graph, keys: list[_Key], after: Mapping[Var, Var]) -> None:
    """Let elementwise equations wait for the one group that reads them, if it can take them in.

    What they read is there by then, and nothing else misses them; their result needs no memory.
    """
    wanted: dict[Var, set[_Key]] = {v: {(-1, -1, -1, False, ())} for v in graph.outputs}
    for i in range(len(keys) - 1, -1, -1):
        eqn, (_, label, _, fusible, shape) = graph.eqns[i], keys[i]
        readers = wanted.get(eqn.output, set())
        if fusible and len(readers) == 1:
            (reader,) = readers
            if reader[1] == label and reader[3:] == (True, shape):
                keys[i] = reader
        for v in (*eqn.inputs, *([after[eqn.output]] if eqn.output in after else [])):
            wanted.setdefault(v, set()).add(keys[i])


def _last_reads(graph: Graph) -> dict[Var, int]:
    """The last step that reads each variable; −1 for one that is never read."""
    last = dict.fromkeys((*graph.inputs, *(e.output for e in graph.eqns)), -1)
    for step, eqn in enumerate(graph.eqns):
        last[eqn.output] = step  # unread, it can go as soon as it is made
        for var in eqn.inputs:
            last[var] = step
    for var in graph.outputs:
        last[var] = len(graph.eqns)
    return last


def roots(graph: Graph) -> dict[Var, Var]:
    """Whose memory each output of an equation lies in: its own, or that of what it shows."""
    root: dict[Var, Var] = {}
    scattered: set[Var] = set()  # views whose elements do not lie side by side in order
    for eqn in graph.eqns:
        out = eqn.output
        disorder = any(v in scattered for v in eqn.inputs[:1])
        view = eqn.op in VIEWS and not (eqn.op is Op.RESHAPE and disorder)
        if eqn.op in _SCATTERING or _skips(eqn) or (view and disorder):
            scattered.add(out)
        root[out] = root.get(eqn.inputs[0], eqn.inputs[0]) if view else out
    return root


def _skips(eqn: Eqn) -> bool:
    """Whether it is a slice that leaves out elements between those that it takes."""
    if eqn.op is not Op.SLICE:
        return False
    taken, shape = eqn.output.spec.shape, eqn.inputs[0].spec.shape
    first = next((k for k, n in enumerate(taken) if n != 1), len(taken))
    spread = taken[first + 1 :] != shape[first + 1 :]
    return spread or any(k != 1 for k in eqn.params["step"])


def _allocate(graph: Graph, last_read: dict[Var, int]) -> dict[Var, Buffer]:
    """Give each root variable storage, reusing what is free (linear scan)."""
    first: dict[Var, int] = {}
    last: dict[Var, int] = {}
    for step, (out, base) in enumerate(roots(graph).items()):
        if base is out:
            first[out] = step
        if base in first:
            last[base] = max(last.get(base, 0), last_read[out])
    free: defaultdict[int, list[int]] = defaultdict(list)
    ending: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    buffers: dict[Var, Buffer] = {}
    count = 0
    for step, eqn in enumerate(graph.eqns):
        var = eqn.output
        if var in first:
            nbytes = var.spec.nbytes
            if free[nbytes]:
                storage = free[nbytes].pop()
            else:
                storage, count = count, count + 1
            buffers[var] = Buffer(nbytes, step, last[var], storage)
            ending[last[var]].append((nbytes, storage))
        for nbytes, storage in ending.pop(step, ()):
            free[nbytes].append(storage)
    return buffers
