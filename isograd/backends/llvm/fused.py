"""Elementwise equations as one loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.elements import Operand, load, variable
from isograd.backends.llvm.ir import i64, kernel, loop, loops, offset, type_of
from isograd.backends.llvm.lanes import Floats, select
from isograd.backends.llvm.maths import apply, maximum
from isograd.backends.llvm.partial import across, first_lanes, full, load_first, store_first
from isograd.backends.llvm.reductions import Total
from isograd.backends.llvm.views import Ints, nest
from isograd.engine.graph import Eqn
from isograd.engine.ops import Op

Step = tuple[Op, Ints, str, *tuple[str, ...]]
"""A primitive, the numbers of its arguments, the dtype of its value; and the format that one rounds
to."""

_CHAIN = 32  # vectors added before their sum is added to the whole, which has two words


@dataclass(frozen=True, slots=True)
class Fused:
    """Elementwise equations over one shape, as one loop; and what becomes of all it computes.

    Attributes:
        reads, writes: operands.
        steps: what is computed; values are numbered, the reads first.
        stored: the number of the value that goes into each of the writes.
        places: for each of the writes, the number of the read whose memory it takes, or −1.
        folds: sums and maxima over all elements: the primitive and the number of a value, each
            behind a pointer of its own after the writes.
    """

    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    steps: tuple[Step, ...]
    stored: Ints
    places: Ints = ()
    folds: tuple[tuple[Op, int], ...] = ()

    @property
    def shape(self) -> Ints:
        """Of the loop."""
        return (self.writes or self.reads)[0].shape

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        operands = (*self.reads, *self.writes)
        places = self.places or (-1,) * len(self.writes)
        over = nest(self.shape, [o.strides for o in operands])
        dtypes = {*(o.dtype for o in operands), *(step[2] for step in self.steps)}
        bytes_each = max(np.dtype(dtype).itemsize for dtype in dtypes)
        lanes = width // bytes_each
        inner = [steps[-1] if steps else 0 for steps in over.steps]
        vector = all(s in (0, 1) for s in inner) and all(s == 1 for s in inner[len(self.reads) :])
        lanes = lanes if vector and over.lengths else 1
        fresh = [o for o, p in zip(self.writes, places, strict=True) if p < 0]
        types = [self._type(i) for _, i in self.folds]
        pointees = [o.type for o in (*self.reads, *fresh)] + types

        def body(b: Any, pointers: list[Any]) -> None:
            reads, rest = pointers[: len(self.reads)], iter(pointers[len(self.reads) :])
            outs = [reads[p] if p >= 0 else next(rest) for p in places]
            totals = [
                Fold(b, op, kind, lanes) for (op, _), kind in zip(self.folds, types, strict=True)
            ]

            def at(counters: list[Any], count: int) -> None:
                """A vector of values, of which the first `count` are wanted."""
                where = [offset(b, counters, steps) for steps in over.steps]
                values = [
                    load_first(b, p, w, o, lanes, count, 0) if s else load(b, p, w, o, lanes, 0)
                    for p, w, o, s in zip(reads, where, self.reads, inner, strict=False)
                ]
                evaluate(values, self.steps)
                offsets = where[len(self.reads) :]
                for p, w, o, i in zip(outs, offsets, self.writes, self.stored, strict=True):
                    store_first(b, p, w, values[i], o, lanes, count)
                for total, (_, i) in zip(totals, self.folds, strict=True):
                    total.add(values[i], count)

            def along(counters: list[Any], low: Any, length: int) -> None:
                """A row, or a block of one; then its sums are added to the whole."""
                whole = length - length % lanes
                if whole:
                    with loop(b, 0, whole, lanes) as i:
                        at([*counters, b.add(low, i)], lanes)
                if whole < length:
                    at([*counters, b.add(low, i64(whole))], length - whole)
                for total in totals:
                    total.flush()

            if not over.lengths:
                at([], 1)
                for total in totals:
                    total.flush()
            else:
                with loops(b, over.lengths[:-1]) as counters:
                    length = over.lengths[-1]
                    block = min(_CHAIN * lanes, length) if self.folds else length
                    with loop(b, 0, length // block) as i:
                        along(counters, b.mul(i, i64(block)), block)
                    if length % block:
                        along(counters, i64(length - length % block), length % block)
            for total, p in zip(totals, rest, strict=True):
                b.store(total.value().value, p)

        kernel(module, name, pointees, body)

    def _type(self, number: int) -> Any:
        """Of a value."""
        if number < len(self.reads):
            return self.reads[number].type
        return type_of(np.dtype(self.steps[number - len(self.reads)][2]))


def evaluate(values: list[Any], steps: Sequence[Step]) -> None:
    """Append to the values those that the steps compute from them."""
    for op, numbers, dtype, *form in steps:
        values.append(apply(op, [values[i] for i in numbers], dtype, *form))


def step(eqn: Eqn, numbers: Ints) -> Step:
    """An elementwise equation as a step, on values of these numbers."""
    form = (eqn.params["form"],) if eqn.op is Op.ROUND else ()
    return (eqn.op, numbers, eqn.output.spec.name, *form)


class Fold:
    """A sum or maximum in the making: of a block, and of those before it."""

    def __init__(self, b: Any, op: Op, kind: Any, lanes: int) -> None:
        self.b, self.lanes, self.join = b, lanes, maximum if op is Op.REDUCE_MAX else _plus
        dtype = "float64" if kind == ir.DoubleType() else "float32"
        self.first = full(b, dtype, lanes, -math.inf if op is Op.REDUCE_MAX else 0.0)
        self.slot = variable(b, Operand(dtype, (), ()), lanes, 0.0)
        b.store(self.first.value, self.slot)
        self.whole = Total(b, self.first, self.join, op is Op.SUM)

    def add(self, x: Floats, count: int) -> None:
        """The first lanes of a vector more."""
        if count < self.lanes:
            x = select(first_lanes(self.b, self.lanes, count), x, self.first)
        old = Floats(self.b, self.b.load(self.slot))
        self.b.store(self.join(old, x).value, self.slot)

    def flush(self) -> None:
        """The end of a block."""
        self.whole.add(Floats(self.b, self.b.load(self.slot)))
        self.b.store(self.first.value, self.slot)

    def value(self) -> Floats:
        """Of all: lanes are joined in pairs, then pairs of pairs."""
        joined: Floats = across(self.whole.value(), self.join)
        return joined


def _plus(x: Floats, y: Floats) -> Floats:
    return x + y
