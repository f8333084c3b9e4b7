"""How values are known while the work of a graph is cut into shards.

Each is *whole*; *split*, as parts along one axis; or *partial*, as terms whose sum it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from isograd.engine.graph import ArraySpec, Eqn, Var
from isograd.engine.ops import RULES, Op

_Ints = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """Where an axis is cut, and the shard of each part; a part has at least one element."""

    bounds: _Ints
    shards: _Ints

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where each part begins and ends."""
        return tuple(zip(self.bounds, self.bounds[1:], strict=False))


@dataclass(frozen=True, slots=True)
class Split:
    """A value known by its parts along an axis; there are at least two."""

    axis: int
    cut: Cut
    parts: tuple[Var, ...]


@dataclass(frozen=True, slots=True)
class Partial:
    """A value known by terms, each of a shard, whose sum in order it is."""

    shards: _Ints
    terms: tuple[Var, ...]


Placement: TypeAlias = Split | Partial


def _cut(length: int, parts: int, count: int) -> Cut:
    bounds = [i * length // parts for i in range(parts + 1)]
    kept = [i for i in range(parts) if bounds[i] < bounds[i + 1]]
    return Cut((0, *(bounds[i + 1] for i in kept)), tuple(i * count // parts for i in kept))


class Walk:
    """The new equations, and how each variable of the given graph is known so far.

    Attributes:
        placements: of what is not whole from the start.
        sums: what partial values have been added up to: split into pieces, or whole (None).
        made: variables of the given graph that the new one has, with the whole value.
        batches: lengths of the axes of the batch.
    """

    def __init__(self, count: int, split_elementwise: int, pieces: int) -> None:
        self.count, self.split_elementwise, self.pieces = count, split_elementwise, pieces
        self.eqns: list[Eqn] = []
        self.shard: dict[Var, int] = {}
        self.placements: dict[Var, Placement] = {}
        self.sums: dict[Var, Split | None] = {}
        self.made: set[Var] = set()
        self.batches: set[int] = set()
        self._slices: dict[tuple[Var, int, Cut], tuple[Var, ...]] = {}

    # equations

    def emit(
        self,
        op: Op,
        inputs: tuple[Var, ...],
        params: Mapping[str, Any],
        shard: int | None = None,
        output: Var | None = None,
    ) -> Var:
        """One equation; its output."""
        if output is None:
            output = Var(RULES[op].shape(*(v.spec for v in inputs), **params))
        self.eqns.append(Eqn(op, inputs, params, output))
        if shard is not None:
            self.shard[output] = shard
        return output

    def each(
        self,
        eqn: Eqn,
        shards: _Ints,
        *operands: Sequence[Var],
        params: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[Var, ...]:
        """An equation for each shard, with its part of every operand."""
        return tuple(
            self.emit(eqn.op, inputs, params[i] if params else eqn.params, shards[i])
            for i, inputs in enumerate(zip(*operands, strict=True))
        )

    def compute(self, eqn: Eqn) -> None:
        """An equation as it stands, of whole values."""
        for var in eqn.inputs:
            self.whole(var)
        self.eqns.append(eqn)
        self.made.add(eqn.output)

    def combine(self, op: Op, var: Var, terms: Sequence[Var]) -> Split | None:
        """A value as op(… op(t₀, t₁) …, tₙ): split into pieces if it is large, else whole."""
        pieces = self.pieces_of(var.spec)
        if pieces is None:
            total = terms[0]
            for k, term in enumerate(terms[1:], 2):
                last = k == len(terms)
                total = self.emit(op, (total, term), {}, output=var if last else None)
            self.made.add(var)
            return None
        axis, cut = pieces
        parts = self.sliced(terms[0], axis, cut)
        for term in terms[1:]:
            pairs = zip(parts, self.sliced(term, axis, cut), cut.shards, strict=True)
            parts = tuple(self.emit(op, (a, b), {}, shard) for a, b, shard in pairs)
        return Split(axis, cut, parts)

    # how values are known

    def split(self, var: Var, axis: int) -> None:
        """Cut a whole value along the batch, if it is long enough."""
        cut = _cut(var.spec.shape[axis], self.count, self.count)
        if len(cut.shards) > 1:
            self.placements[var] = Split(axis, cut, self.sliced(var, axis, cut))

    def pieces_of(self, spec: ArraySpec) -> tuple[int, Cut] | None:
        """Where a large elementwise equation over whole values is cut; None if it is not."""
        if self.pieces < 2 or spec.size < self.split_elementwise:
            return None
        for axis, length in enumerate(spec.shape):
            if length >= self.pieces:
                return axis, _cut(length, self.pieces, self.count)
        return None

    def split_of(self, var: Var) -> Split | None:
        """How a value is split; None if it is whole. A partial one is added up."""
        placed = self.placements.get(var)
        if not isinstance(placed, Partial):
            return placed
        if var not in self.sums:
            self.sums[var] = self.combine(Op.ADD, var, placed.terms)
        return self.sums[var]

    def whole(self, var: Var) -> Var:
        """The variable itself, which from now on holds its value."""
        if var not in self.made:
            placed = self.split_of(var)
            if placed is not None:
                self.emit(Op.CONCATENATE, placed.parts, {"axis": placed.axis}, output=var)
                self.made.add(var)
        return var

    def parts(self, var: Var, axis: int, cut: Cut) -> tuple[Var, ...]:
        """A value's parts along an axis."""
        placed = self.split_of(var)
        if placed is not None and (placed.axis, placed.cut) == (axis, cut):
            return placed.parts
        return self.sliced(self.whole(var), axis, cut)

    def sliced(self, var: Var, axis: int, cut: Cut) -> tuple[Var, ...]:
        """Views of a variable of the new graph."""
        key = (var, axis, cut)
        if key not in self._slices:
            self._slices[key] = tuple(
                self.emit(Op.SLICE, (var,), _span(var.spec.shape, axis, *span), shard)
                for span, shard in zip(cut.spans, cut.shards, strict=True)
            )
        return self._slices[key]

    def repeated(self, var: Var, cut: Cut) -> tuple[Var, ...]:
        """A whole value, once for each part of another."""
        return (self.whole(var),) * len(cut.shards)


def _span(shape: _Ints, axis: int, start: int, stop: int) -> dict[str, _Ints]:
    return {
        "start": tuple(start if k == axis else 0 for k in range(len(shape))),
        "stop": tuple(stop if k == axis else n for k, n in enumerate(shape)),
        "step": (1,) * len(shape),
    }


def resized(params: Mapping[str, Any], key: str, axis: int, cut: Cut) -> list[dict[str, Any]]:
    """Per part, params that give its own length to the axis that is split."""
    old: _Ints = params[key]
    lengths = (stop - start for start, stop in cut.spans)
    return [{**params, key: (*old[:axis], n, *old[axis + 1 :])} for n in lengths]


__all__ = ["Cut", "Partial", "Placement", "Split", "Walk", "resized"]
