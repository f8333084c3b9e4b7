"""Work for memory: values of the forward pass are dropped, and computed again when they are read.

What the backward pass reads, the forward pass made in the other order. So the forward pass is cut
into segments, and what crosses a cut is kept. Whatever else the backward pass reads of a segment,
it reads from copies of the equations that made it; these wait until the backward pass is through
with the segment that follows. No equation is copied twice: the copies are at most one more forward
pass. The last segment has none, as it is read at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from statistics import median_low

from isograd.engine.graph import Eqn, Graph, Var
from isograd.engine.ops import Op
from isograd.engine.passes import DEAD_CODE
from isograd.engine.plan import Plan, plan, roots


@dataclass(frozen=True, eq=False)
class Recomputed:
    """A graph in which values are computed again: to be planned as `plan(graph, labels, after)`.

    Attributes:
        graph: computes what the given graph does, by the same operations on the same numbers, and
            shows each probe once.
        labels: of its equations; a copy has the label of what it copies.
        after: what each copy waits for. Without it, copies would run as early as they can.
    """

    graph: Graph
    labels: Mapping[Var, int]
    after: Mapping[Var, Var]


def recompute(graph: Graph, labels: Mapping[Var, int] | None = None) -> Recomputed:
    """Compute again what the backward pass reads, where less is then alive at once.

    Of a chain of L layers, of each of which m values of one size are read again, about √(2 m L) are
    alive at once. It is to be run last: to a pass that looks for common subexpressions, copies are
    that.

    Args:
        graph: a valid graph, its equations in the order of a trace.
        labels: as for `isograd.engine.plan.plan`.

    Returns:
        Of several numbers of segments that of the lowest peak; the graph itself if its plan has no
        higher one.

    References:
        Chen, Xu, Zhang & Guestrin 2016, Training deep nets with sublinear memory cost, sec. 4.
        Griewank & Walther 2000, Algorithm 799: Revolve, sec. 1 (forward steps for memory).
    """
    return _best(graph, labels or {})[0]


def plan_recomputed(graph: Graph, labels: Mapping[Var, int] | None = None) -> Plan:
    """The plan of what `recompute` gives.

    Args:
        graph, labels: as for `recompute`.

    Raises:
        GraphError: if the graph is not valid.
    """
    return _best(graph, labels or {})[1]


def _best(graph: Graph, labels: Mapping[Var, int]) -> tuple[Recomputed, Plan]:
    """Peaks are told by the order of the equations; for the lowest, by its plan."""
    same, before = Recomputed(graph, labels, {}), plan(graph, labels)
    forward = _Forward(graph)
    tried = [_rewritten(forward, cuts, labels) for cuts in _choices(forward)]
    if not tried:
        return same, before
    best = min(tried, key=lambda new: _peak(new.graph))
    after = plan(best.graph, best.labels, best.after)
    return (best, after) if after.peak_bytes < before.peak_bytes else (same, before)


# --- what is read when


@dataclass(slots=True)
class _Life:
    """A value, with its views, in the order of the equations.

    Attributes:
        nbytes: its size.
        made: the step that makes it.
        reads: the steps that read it; of an output, also the number of steps.
    """

    nbytes: int
    made: int
    reads: list[int] = field(default_factory=list)

    def before(self, step: int) -> int:
        """When it is read last, or made, before a step."""
        i = bisect_left(self.reads, step)
        return self.reads[i - 1] if i else self.made

    def first_from(self, step: int) -> int | None:
        """When it is read first from a step on."""
        i = bisect_left(self.reads, step)
        return self.reads[i] if i < len(self.reads) else None


def _lives(graph: Graph, root: Mapping[Var, Var]) -> dict[Var, _Life]:
    """Of what equations make."""
    lives: dict[Var, _Life] = {}
    for step, eqn in enumerate(graph.eqns):
        if root[eqn.output] is eqn.output:
            lives[eqn.output] = _Life(eqn.output.spec.nbytes, step)
        for var in eqn.inputs:
            if (life := lives.get(root.get(var, var))) is not None:
                life.reads.append(step)
    for var in graph.outputs:
        if (life := lives.get(root.get(var, var))) is not None:
            life.reads.append(len(graph.eqns))
    return lives


def _turn(lives: Mapping[Var, _Life], steps: int) -> int:
    """The first step at which the most bytes lie idle: each in the longest pause of its life."""
    idle = [0] * (steps + 2)
    for life in lives.values():
        pauses = pairwise([life.made, *life.reads])
        start, stop = max(pauses, key=lambda pause: pause[1] - pause[0], default=(0, 0))
        idle[start + 1] += life.nbytes
        idle[stop + 1] -= life.nbytes
    totals = list(accumulate(idle))
    return totals.index(max(totals))


def _peak(graph: Graph) -> int:
    """The most bytes alive at one step, in the order of the equations: near to that of a plan."""
    change = [0] * (len(graph.eqns) + 2)
    for life in _lives(graph, roots(graph)).values():
        change[life.made] += life.nbytes
        change[max([life.made, *life.reads[-1:]]) + 1] -= life.nbytes
    return max(accumulate(change))


class _Forward:
    """The forward pass of a graph.

    Attributes:
        turn: the step at which the backward pass begins.
        root: whose memory a variable lies in.
        lives: of the roots that the forward pass makes.
        late: per root that the backward pass reads, the first step at which it does, and which
            variables of the forward pass it reads.
        maker: the step that makes a variable.
        depth: per step, the longest path to it from the turn, in equations.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, _ = DEAD_CODE.run(graph)  # so that what copies wait for is there
        graph, self.root = self.graph, roots(self.graph)
        lives = _lives(graph, self.root)
        self.turn = _turn(lives, len(graph.eqns))
        self.lives = {v: life for v, life in lives.items() if life.made < self.turn}
        self.maker = {eqn.output: step for step, eqn in enumerate(graph.eqns)}
        self.late: dict[Var, tuple[int, set[Var]]] = {}
        self.depth = [0] * len(graph.eqns)
        for step, eqn in enumerate(graph.eqns[self.turn :], self.turn):
            for var in eqn.inputs:
                base = self.root.get(var, var)
                made = self.maker.get(var, -1)
                if made >= self.turn:
                    self.depth[step] = max(self.depth[step], self.depth[made] + 1)
                elif base in self.lives:
                    self.late.setdefault(base, (step, set()))[1].add(var)


# --- where to cut


def _choices(forward: _Forward) -> Iterator[tuple[int, ...]]:
    """Cuts for several bounds on what is kept and read again, as Chen et al. 2016 (sec. 4.2) do.

    Of many equal layers, with c bytes across each cut and s bytes to be read again, k segments can
    keep within s/k + c (k − 1)/2: the later ones are smaller, as more is still kept beside them.
    That is √(2 s c) at the least.
    """
    size = forward.turn + 1
    crossing, again = [0] * (size + 1), [0] * (size + 1)
    for var, life in forward.lives.items():
        crossing[life.made + 1] += life.nbytes
        crossing[life.before(forward.turn) + 1] -= life.nbytes
        if var in forward.late:
            again[life.made + 1] += life.nbytes
    crossing, again = list(accumulate(crossing))[:size], list(accumulate(again))[:size]
    least = math.sqrt(2 * again[-1] * median_low(crossing))
    found = [_cuts(crossing, again, least * 2.0 ** (n / 4)) for n in range(-3, 4)]
    yield from dict.fromkeys(cuts for cuts in found if cuts)


def _cuts(crossing: Sequence[int], again: Sequence[int], bound: float) -> tuple[int, ...]:
    """Where the least crosses, in the second half of what the bound leaves to each segment."""
    cuts, start, kept = list[int](), 0, 0
    while again[-1] - again[start] > bound - kept:
        room = bound - kept
        first = bisect_right(again, again[start] + room / 2)
        stop = bisect_right(again, again[start] + room)
        near = range(max(first, start + 1), stop)
        if not near:
            return ()
        start = min(near, key=lambda p: (crossing[p], -again[p]))
        kept += crossing[start]
        cuts.append(start)
    return tuple(cuts)


# --- what becomes of a graph that is cut


def _rewritten(forward: _Forward, cuts: tuple[int, ...], labels: Mapping[Var, int]) -> Recomputed:
    """The graph with all segments but the last computed again."""
    graph = forward.graph
    walk = _Walk(forward, cuts, labels)
    for i in reversed(range(len(cuts))):
        walk.segment(i)
    eqns: list[Eqn] = []
    for step, eqn in enumerate(graph.eqns):
        eqns += walk.inserted.get(step, ())
        if step >= forward.turn and any(v in walk.new for v in eqn.inputs):
            eqn = replace(eqn, inputs=tuple(walk.new.get(v, v) for v in eqn.inputs))
        eqns.append(eqn)
    new, _ = DEAD_CODE.run(replace(graph, eqns=tuple(eqns)))
    made = {eqn.output for eqn in new.eqns}
    return Recomputed(
        new,
        {v: label for v, label in walk.labels.items() if v in made},
        {v: gate for v, gate in walk.after.items() if v in made},
    )


class _Walk:
    """From the last segment but one to the first.

    Attributes:
        kept: roots that are read again as they are: outputs, and what copies read.
        new: which copy the backward pass reads instead of a variable.
        inserted: copies, by the step before which they stand.
        after, labels: as of `Recomputed`.
    """

    def __init__(self, forward: _Forward, cuts: tuple[int, ...], labels: Mapping[Var, int]) -> None:
        self.forward, self.labels = forward, dict(labels)
        self.segment_of = {v: bisect_right(cuts, life.made) for v, life in forward.lives.items()}
        self.read: defaultdict[int, list[Var]] = defaultdict(list)  # late, by segment
        for var in forward.late:
            self.read[self.segment_of[var]].append(var)
        self.kept = {forward.root.get(v, v) for v in forward.graph.outputs}
        self.new: dict[Var, Var] = {}
        self.inserted: defaultdict[int, list[Eqn]] = defaultdict(list)
        self.after: dict[Var, Var] = {}
        self._following = set(self.read[len(cuts)])  # what is read of the segment that follows

    def segment(self, i: int) -> None:
        """Copy what is read again of a segment; what is read too soon for that is kept."""
        late = self.forward.late
        reads = sorted(late[v][0] for v in self._following)
        if not reads:
            self._following.update(self.read[i])
            return
        middle = reads[len(reads) // 2]
        self.kept.update(v for v in self.read[i] if late[v][0] <= middle)
        dropped = [v for v in self.read[i] if v not in self.kept]
        if dropped:
            begins = min(late[v][0] for v in dropped)
            gates = self._gates(reads[0], begins)
            wanted = {u for v in dropped for u in late[v][1]}
            self.inserted[begins] += self._copies(self._needed(wanted, i), wanted, gates)
            self._following = set()
        self._following.update(self.read[i])

    def _gates(self, start: int, stop: int) -> dict[int, Var]:
        """The deepest of what depends on the segment that follows: per label, and by −1 of all.

        It comes after that segment's own copies, and before the first that reads this one.
        """
        forward, deepest = self.forward, dict[int, int]()
        through: set[Var] = set()
        for step in range(start, stop):
            eqn = forward.graph.eqns[step]
            if any(v in through or forward.root.get(v, v) in self._following for v in eqn.inputs):
                through.add(eqn.output)
                for label in {self.labels.get(eqn.output, -1), -1}:
                    if forward.depth[step] >= forward.depth[deepest.setdefault(label, step)]:
                        deepest[label] = step
        return {label: forward.graph.eqns[step].output for label, step in deepest.items()}

    def _needed(self, wanted: Iterable[Var], i: int) -> set[Var]:
        """What is to be computed within a segment; what that reads from elsewhere is kept."""
        forward, needed, stack = self.forward, set[Var](), list(wanted)
        while stack:
            var = stack.pop()
            if var in needed:
                continue
            needed.add(var)
            for u in forward.graph.eqns[forward.maker[var]].inputs:
                base = forward.root.get(u, u)
                if self.segment_of.get(base) == i and base not in self.kept:
                    stack.append(u)
                elif base in self.segment_of:
                    self.kept.add(base)
        return needed

    def _copies(self, needed: set[Var], wanted: set[Var], gates: Mapping[int, Var]) -> list[Eqn]:
        """Equations with variables of their own; a probe is passed over."""
        forward, copies, copy = self.forward, list[Eqn](), dict[Var, Var]()
        for var in sorted(needed, key=forward.maker.__getitem__):
            eqn = forward.graph.eqns[forward.maker[var]]
            inputs = tuple(copy.get(u, u) for u in eqn.inputs)
            if eqn.op is Op.PROBE:
                copy[var] = inputs[0]
                continue
            copy[var] = out = Var(var.spec)
            copies.append(replace(eqn, inputs=inputs, output=out))
            label = self.labels.get(var, -1)
            self.after[out] = gates.get(label, gates[-1])
            if label >= 0:
                self.labels[out] = label
        self.new |= {var: copy[var] for var in wanted}
        return copies


__all__ = ["Recomputed", "plan_recomputed", "recompute"]
