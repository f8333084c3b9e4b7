"""Work over a batch, cut into shards: a rewrite of the graph that changes values, by rounding.

The table `SHARDING` says per primitive whether its output is whole, split or partial when its
inputs are (as Xu et al. 2021, GSPMD, do it for arrays that are spread over devices). Where it says
nothing, the inputs are made whole: parts are concatenated, terms added in order. So a sum over the
batch is the sum of the shards' sums, and all else is computed from the same numbers by the same
operations. The order of sums depends on the graph, on the number of shards and on that of pieces
alone, and not on probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from isograd.engine.graph import Eqn, Graph, Var
from isograd.engine.ops import RULES, Op
from isograd.engine.passes import DEAD_CODE
from isograd.engine.placement import Partial, Placement, Split, Walk, resized

_Ints = tuple[int, ...]
_Rule: TypeAlias = Callable[[Walk, Eqn], Placement | None]


@dataclass(frozen=True, eq=False)
class Sharded:
    """A graph whose equations belong to shards.

    An equation of a shard reads what is whole and what is of its own shard; only slices, where
    terms are added up by pieces, are of other shards' terms.

    Attributes:
        graph: computes what the given graph does, up to the order of sums; of the same inputs and
            outputs. A variable of the given graph that is in it has the same value as there.
        shard: by output of an equation, the shard it belongs to; without, it belongs to none. Of
            those, a concatenation puts parts next to each other.
        split_bytes: of the products of which each shard has a part.
        partial_bytes: of those of which each shard has a term.
    """

    graph: Graph
    shard: Mapping[Var, int]
    split_bytes: int
    partial_bytes: int


def shard(
    graph: Graph,
    axes: Mapping[Var, int],
    count: int,
    *,
    split_elementwise: int = 1 << 15,
    pieces: int = 1,
) -> Sharded:
    """Cut the work over a batch into shards, as equations of their own.

    A probe of a split value becomes a probe per part, of the same site: what an observer makes of
    them is to be merged. Random bits are drawn whole, so that they do not depend on `count`.

    Args:
        graph: a valid graph.
        axes: which variables are split, and along which axis: the batch.
        count: number of shards, at least 1. A length n is cut at ⌊i n/count⌋.
        split_elementwise: an elementwise equation over whole values of at least this many elements
            is cut as well: the update of all parameters.
        pieces: into so many, likewise, along its first axis that is long enough; at least 1. Piece
            i belongs to shard ⌊i count/pieces⌋.

    Returns:
        The new graph and the shard of each equation.
    """
    walk = Walk(count, split_elementwise, pieces)
    walk.made.update(graph.inputs, graph.constants)
    walk.batches = {var.spec.shape[axis] for var, axis in axes.items()}
    for var in graph.inputs:
        if var in axes:
            walk.split(var, axes[var])
    for eqn in graph.eqns:
        rule = SHARDING.get(eqn.op)
        placed = rule(walk, eqn) if rule else None
        if placed is not None:
            walk.placements[eqn.output] = placed
            continue
        if eqn.output not in walk.made:
            walk.compute(eqn)
        if eqn.output in axes:
            walk.split(eqn.output, axes[eqn.output])
    for var in graph.outputs:
        walk.whole(var)
    new, _ = DEAD_CODE.run(replace(graph, eqns=tuple(walk.eqns)))
    live = (eqn.output for eqn in new.eqns)
    products = [eqn.output for eqn in graph.eqns if eqn.op is Op.MATMUL]

    def nbytes(kind: type[Split | Partial]) -> int:
        return sum(v.spec.nbytes for v in products if isinstance(walk.placements.get(v), kind))

    shards = {var: walk.shard[var] for var in live if var in walk.shard}
    return Sharded(new, shards, nbytes(Split), nbytes(Partial))


# --- elementwise


def _elementwise(walk: Walk, eqn: Eqn) -> Placement | None:
    """As the first input that is split; what is whole and large, in pieces."""
    placed = next(_splits(walk, eqn), None)
    where = (placed.axis, placed.cut) if placed else walk.pieces_of(eqn.output.spec)
    if where is None:
        return None
    axis, cut = where
    operands = [walk.parts(v, axis, cut) for v in eqn.inputs]
    return Split(axis, cut, walk.each(eqn, cut.shards, *operands))


def _splits(walk: Walk, eqn: Eqn) -> Iterator[Split]:
    yield from (placed for v in eqn.inputs if isinstance(placed := walk.placements.get(v), Split))
    yield from (placed for v in eqn.inputs if (placed := walk.split_of(v)) is not None)


def _add(walk: Walk, eqn: Eqn) -> Placement | None:
    """Terms are added (subtracted) shard by shard; what is whole goes to the first term.

    A whole number does not: a shard would wait for it, and gain nothing.
    """
    x, y = (walk.placements.get(v) for v in eqn.inputs)
    match x, y:
        case Partial(), Partial() if x.shards == y.shards:
            return Partial(x.shards, walk.each(eqn, x.shards, x.terms, y.terms))
        case Partial(), None if eqn.output.spec.shape:
            first = walk.emit(eqn.op, (x.terms[0], eqn.inputs[1]), {}, x.shards[0])
            return replace(x, terms=(first, *x.terms[1:]))
        case None, Partial() if eqn.op is Op.ADD and eqn.output.spec.shape:
            first = walk.emit(eqn.op, (eqn.inputs[0], y.terms[0]), {}, y.shards[0])
            return replace(y, terms=(first, *y.terms[1:]))
    return _elementwise(walk, eqn)


# --- reductions and products


def _sum(walk: Walk, eqn: Eqn) -> Placement | None:
    placed, axes = walk.placements.get(eqn.inputs[0]), eqn.params["axes"]
    match placed:
        case Partial():
            return Partial(placed.shards, walk.each(eqn, placed.shards, placed.terms))
        case Split():
            parts = walk.each(eqn, placed.cut.shards, placed.parts)
            if placed.axis in axes:
                return Partial(placed.cut.shards, parts)
            return Split(_without(placed.axis, axes), placed.cut, parts)
    return None


def _reduce_max(walk: Walk, eqn: Eqn) -> Placement | None:
    placed, axes = walk.split_of(eqn.inputs[0]), eqn.params["axes"]
    if placed is None:
        return None
    parts = walk.each(eqn, placed.cut.shards, placed.parts)
    if placed.axis in axes:
        return walk.combine(Op.MAX, eqn.output, parts)
    return Split(_without(placed.axis, axes), placed.cut, parts)


def _along(walk: Walk, eqn: Eqn) -> Placement | None:
    """log_softmax and logsumexp: rows are independent."""
    placed, axis = walk.split_of(eqn.inputs[0]), eqn.params["axis"]
    if placed is None or placed.axis == axis:
        return None
    dropped = (axis,) if eqn.op is Op.LOGSUMEXP else ()
    parts = walk.each(eqn, placed.cut.shards, placed.parts)
    return Split(_without(placed.axis, dropped), placed.cut, parts)


def _without(axis: int, axes: _Ints) -> int:
    """The number of an axis once others are dropped."""
    return axis - sum(a < axis for a in axes)


def _matmul(walk: Walk, eqn: Eqn) -> Placement | None:
    """Rows of the left factor, columns of the right, or both along the axis that is summed."""
    left, right = eqn.inputs
    x, y = walk.split_of(left), walk.split_of(right)
    last = len(left.spec.shape) - 1
    for placed in (x, y):
        if placed is not None and placed.axis < last - 1:
            factors = [walk.parts(v, placed.axis, placed.cut) for v in eqn.inputs]
            return Split(placed.axis, placed.cut, walk.each(eqn, placed.cut.shards, *factors))
    summed = x is not None and x.axis == last, y is not None and y.axis == last - 1
    if x is not None and not summed[0]:
        parts = walk.each(eqn, x.cut.shards, x.parts, walk.repeated(right, x.cut))
        return Split(last - 1, x.cut, parts)
    if y is not None and not summed[1]:
        parts = walk.each(eqn, y.cut.shards, walk.repeated(left, y.cut), y.parts)
        return Split(last, y.cut, parts)
    placed = x or y
    if placed is None:
        return None
    both = (walk.parts(left, last, placed.cut), walk.parts(right, last - 1, placed.cut))
    return Partial(placed.cut.shards, walk.each(eqn, placed.cut.shards, *both))


# --- movement: of terms, the moved terms


def _moving(follow: Callable[[Eqn, int], int | None], sized: str | None = None) -> _Rule:
    """The rule of a primitive that moves the elements of one array.

    Args:
        follow: from an axis of the input to the same axis of the output; None if it is lost.
        sized: the param that holds the length of each axis of the output.
    """

    def rule(walk: Walk, eqn: Eqn) -> Placement | None:
        placed = walk.placements.get(eqn.inputs[0])
        match placed:
            case Partial():
                return Partial(placed.shards, walk.each(eqn, placed.shards, placed.terms))
            case Split() if (axis := follow(eqn, placed.axis)) is not None:
                params = resized(eqn.params, sized, axis, placed.cut) if sized else None
                parts = walk.each(eqn, placed.cut.shards, placed.parts, params=params)
                return Split(axis, placed.cut, parts)
        return None

    return rule


def _reshaped(eqn: Eqn, axis: int) -> int | None:
    """Kept is an axis with as many elements before and behind it."""
    old, new = eqn.inputs[0].spec.shape, eqn.params["shape"]
    sides = math.prod(old[:axis]), old[axis], math.prod(old[axis + 1 :])
    for k, n in enumerate(new):
        if n == old[axis] and (math.prod(new[:k]), n, math.prod(new[k + 1 :])) == sides:
            return k
    return None


def _transposed(eqn: Eqn, axis: int) -> int | None:
    order: _Ints = eqn.params["axes"]
    return order.index(axis)


def _sliced(eqn: Eqn, axis: int) -> int | None:
    span = tuple(eqn.params[key][axis] for key in ("start", "stop", "step"))
    return axis if span == (0, eqn.inputs[0].spec.shape[axis], 1) else None


def _padded(eqn: Eqn, axis: int) -> int | None:
    return None if any(eqn.params[key][axis] for key in ("low", "high", "inner")) else axis


def _broadcast(walk: Walk, eqn: Eqn) -> Placement | None:
    """Of terms, it would be more to add: they are added up first."""
    placed = walk.split_of(eqn.inputs[0])
    if placed is None:
        return None
    axis = placed.axis + len(eqn.output.spec.shape) - len(eqn.inputs[0].spec.shape)
    params = resized(eqn.params, "shape", axis, placed.cut)
    return Split(axis, placed.cut, walk.each(eqn, placed.cut.shards, placed.parts, params=params))


def _concatenate(walk: Walk, eqn: Eqn) -> Placement | None:
    """Terms are joined shard by shard, so that the sum is one over all that is joined."""
    partial = [p for v in eqn.inputs if isinstance(p := walk.placements.get(v), Partial)]
    if len(partial) == len(eqn.inputs) and len({p.shards for p in partial}) == 1:
        shards = partial[0].shards
        return Partial(shards, walk.each(eqn, shards, *(p.terms for p in partial)))
    placed = next(_splits(walk, eqn), None)
    if placed is None or placed.axis == eqn.params["axis"]:
        return None
    operands = [walk.parts(v, placed.axis, placed.cut) for v in eqn.inputs]
    return Split(placed.axis, placed.cut, walk.each(eqn, placed.cut.shards, *operands))


def _gather(walk: Walk, eqn: Eqn) -> Placement | None:
    array, indices = eqn.inputs
    x, i, axis = walk.split_of(array), walk.split_of(indices), eqn.params["axis"]
    if x is not None and x.axis != axis:
        kept = x.axis if x.axis < axis else x.axis + len(indices.spec.shape) - 1
        parts = walk.each(eqn, x.cut.shards, x.parts, walk.repeated(indices, x.cut))
        return Split(kept, x.cut, parts)
    if i is None:
        return None
    parts = walk.each(eqn, i.cut.shards, walk.repeated(array, i.cut), i.parts)
    return Split(axis + i.axis, i.cut, parts)


def _scatter_add(walk: Walk, eqn: Eqn) -> Placement | None:
    array, indices = eqn.inputs
    x, i, axis = walk.split_of(array), walk.split_of(indices), eqn.params["axis"]
    n = len(indices.spec.shape)
    if x is not None and not axis <= x.axis < axis + n:
        kept = x.axis if x.axis < axis else x.axis + 1 - n
        parts = walk.each(eqn, x.cut.shards, x.parts, walk.repeated(indices, x.cut))
        return Split(kept, x.cut, parts)
    if x is not None:
        k, cut = x.axis - axis, x.cut
    elif i is not None:
        k, cut = i.axis, i.cut
    else:
        return None
    both = walk.parts(array, axis + k, cut), walk.parts(indices, k, cut)
    return Partial(cut.shards, walk.each(eqn, cut.shards, *both))


# --- the others


def _random_bits(walk: Walk, eqn: Eqn) -> Placement | None:
    """Drawn whole; split at once if it is as long as the batch, so that what reads it is."""
    walk.compute(eqn)
    shape = eqn.output.spec.shape
    if shape and shape[0] in walk.batches:
        walk.split(eqn.output, 0)
    return walk.placements.get(eqn.output)


def _probe(walk: Walk, eqn: Eqn) -> Placement | None:
    """Seen is the sum; but what reads the probe has the terms, as it would without a probe."""
    (var,) = eqn.inputs
    placed, seen = walk.placements.get(var), walk.split_of(var)
    if seen is None:
        walk.compute(eqn)
    else:
        seen = replace(seen, parts=walk.each(eqn, seen.cut.shards, seen.parts))
    if isinstance(placed, Partial):
        walk.sums[eqn.output] = seen
        return placed
    return seen


SHARDING: dict[Op, _Rule] = {
    **{op: _elementwise for op, rule in RULES.items() if rule.elementwise},
    Op.CAST: _elementwise,
    Op.ADD: _add,
    Op.SUB: _add,
    Op.SUM: _sum,
    Op.REDUCE_MAX: _reduce_max,
    Op.LOG_SOFTMAX: _along,
    Op.LOGSUMEXP: _along,
    Op.MATMUL: _matmul,
    Op.RESHAPE: _moving(_reshaped, "shape"),
    Op.TRANSPOSE: _moving(_transposed),
    Op.SLICE: _moving(_sliced, "stop"),
    Op.PAD: _moving(_padded),
    Op.BROADCAST: _broadcast,
    Op.CONCATENATE: _concatenate,
    Op.GATHER: _gather,
    Op.SCATTER_ADD: _scatter_add,
    Op.RANDOM_BITS: _random_bits,
    Op.PROBE: _probe,
}
"""How the output of each primitive is known; None (or no rule): computed from whole values."""


__all__ = ["SHARDING", "Sharded", "shard"]
