"""Logarithms of softmax and of sums of exponentials.

With m the largest element of a row, ln Σ eˣ = m + ln(1 + Σ′), Σ′ without one of the largest terms:
where it is 1, the others would vanish beside it. Terms that tie with it are counted, as they are 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.elements import Operand, load, splat, store
from isograd.backends.llvm.exponential import exp
from isograd.backends.llvm.ir import I64, i64, kernel, loop, loops, offset
from isograd.backends.llvm.lanes import Floats, Integers, Mask, select
from isograd.backends.llvm.logarithm import log1p
from isograd.backends.llvm.partial import across, full, load_first, store_first
from isograd.backends.llvm.reductions import gathered
from isograd.backends.llvm.views import Nest, nest
from isograd.engine.graph import Eqn
from isograd.engine.ops import Op


@dataclass(frozen=True, slots=True)
class Softmax:
    """x − ln Σ eˣ, or ln Σ eˣ, along an axis.

    A vector runs along a row whose elements lie side by side; else neighbouring rows run side by
    side in one.

    Attributes:
        op: LOG_SOFTMAX or LOGSUMEXP.
        read, write: operands.
        axis: of `read`.
    """

    op: Op
    read: Operand
    axis: int
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, out = self.read, self.write
        lanes = width // np.dtype(x.dtype).itemsize
        others = [k for k in range(len(x.shape)) if k != self.axis]
        kept = others if self.op is Op.LOG_SOFTMAX else range(len(others))
        rows = nest(
            tuple(x.shape[k] for k in others),
            [tuple(x.strides[k] for k in others), tuple(out.strides[k] for k in kept)],
        )
        step = x.strides[self.axis]
        out_step = out.strides[self.axis] if self.op is Op.LOG_SOFTMAX else 1

        def body(b: Any, pointers: list[Any]) -> None:
            walk = _Rows(b, self, pointers, lanes, (step, out_step))
            if x.shape[self.axis] > 1 and step == out_step == 1:
                _along(walk, rows)
            else:
                _beside(walk, rows)

        kernel(module, name, [x.type, out.type], body)


def softmax(eqn: Eqn, reads: Sequence[Operand], write: Operand) -> Softmax | None:
    """The kernel of a log-softmax or logsumexp; None if there is none."""
    if write.dtype not in ("float32", "float64"):
        return None
    return Softmax(eqn.op, reads[0], eqn.params["axis"], write)


def _along(walk: _Rows, rows: Nest) -> None:
    """As many rows at a time as a vector has lanes, so that their logarithms are one."""
    b, form, lanes = walk.b, walk.form, walk.lanes
    *outer, length = rows.lengths or (1,)
    steps = rows.steps if rows.lengths else ((0,), (0,))
    element = form.read.type
    tables = [_table(b, element, lanes) for _ in range(3)]

    def vector(table: Any) -> Floats:
        kind = ir.VectorType(element, lanes)
        return Floats(b, b.load(b.bitcast(table, kind.as_pointer()), typ=kind))

    def put(table: Any, x: Floats) -> None:
        b.store(x.value, b.bitcast(table, x.value.type.as_pointer()))

    with loops(b, tuple(outer)) as counters:

        def block(first: Any, count: int) -> None:
            with loop(b, 0, count) as r:
                base = offset(b, [*counters, b.add(first, r)], steps[0])
                for table, word in zip(tables, walk.sums(base), strict=True):
                    b.store(word.value, b.gep(table, [r]))
            shift, lse = _log_of_sum(*map(vector, tables))
            put(tables[0], shift)
            put(tables[1], lse)
            with loop(b, 0, count) as r:
                base, place = (offset(b, [*counters, b.add(first, r)], s) for s in steps)
                shift, lse = (Floats(b, b.load(b.gep(table, [r]))) for table in tables[:2])
                walk.finish(base, place, shift, lse)

        whole = length - length % lanes
        if whole:
            with loop(b, 0, whole, lanes) as first:
                block(first, lanes)
        if whole < length:
            block(i64(whole), length - whole)


def _beside(walk: _Rows, rows: Nest) -> None:
    b = walk.b
    *outer, length = rows.lengths or (1,)
    steps = rows.steps if rows.lengths else ((0,), (0,))
    lanes = walk.lanes if all(s[-1] == 1 for s in steps) else 1
    whole = length - length % lanes
    with loops(b, tuple(outer)) as counters:

        def at(i: Any, count: int) -> None:
            base, place = (offset(b, [*counters, i], s) for s in steps)
            walk.beside(base, place, lanes, count)

        if whole:
            with loop(b, 0, whole, lanes) as i:
                at(i, lanes)
        if whole < length:
            at(i64(whole), length - whole)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The ways to walk a row."""

    b: Any
    form: Softmax
    pointers: list[Any]
    lanes: int
    steps: tuple[int, int]

    @property
    def _length(self) -> int:
        return self.form.read.shape[self.form.axis]

    def _part(self, base: Any, walk: list[Any]) -> Floats:
        """A vector of the row from `base` on; behind the last whole one, what is left of it."""
        b, x, lanes = self.b, self.form.read, self.lanes
        if walk:
            at = b.add(base, b.mul(walk[0], i64(lanes)))
            return load(b, self.pointers[0], at, x, lanes, 1)  # type: ignore[no-any-return]
        whole, left = divmod(self._length, lanes)
        at = b.add(base, i64(whole * lanes))
        word = load_first(b, self.pointers[0], at, x, lanes, left, -math.inf)
        return word  # type: ignore[no-any-return]

    def _of_row(
        self,
        starts: list[Any],
        terms: Callable[[list[Any]], list[Any]],
        join: Callable[[Any, Any], Any],
        rounded: bool,
    ) -> list[Any]:
        whole, left = divmod(self._length, self.lanes)
        rest = terms([]) if left else None
        if not whole:
            return rest or []
        found = gathered(self.b, (whole,), starts, terms, join, rounded)
        return found if rest is None else list(map(join, found, rest))

    def sums(self, base: Any) -> tuple[Floats, Floats, Floats]:
        """Of a row, by vectors along it: largest element, Σ of smaller terms, number of ties."""
        b, x, lanes = self.b, self.form.read, self.lanes
        least, zero = (full(b, x.dtype, lanes, n) for n in (-math.inf, 0.0))
        (tops,) = self._of_row([least], lambda walk: [self._part(base, walk)], _larger, False)
        top = across(tops, _larger)
        shifts, largest = (Floats(b, splat(b, v.value, lanes)) for v in (_shift(top), top))

        def terms(walk: list[Any]) -> list[Any]:
            value = self._part(base, walk)
            ties = value.eq(largest)
            return [select(ties, zero, exp(value - shifts)), _count(ties)]

        sums, ties = self._of_row([zero, Integers(b, i64(0))], terms, _add, True)
        return top, across(sums, _add), Floats(b, b.sitofp(ties.value, x.type))

    def finish(self, base: Any, place: Any, shift: Floats, lse: Floats) -> None:
        """Store what is wanted of a row."""
        b, out, lanes = self.b, self.form.write, self.lanes
        if self.form.op is Op.LOGSUMEXP:
            store(b, self.pointers[1], place, shift + lse, out, 1)
            return
        whole, left = divmod(self._length, lanes)
        shifts, logs = (Floats(b, splat(b, v.value, lanes)) for v in (shift, lse))

        def put(walk: list[Any], at: Any, count: int) -> None:
            value = self._part(base, walk) - shifts - logs
            store_first(b, self.pointers[1], at, value, out, lanes, count)

        if whole:
            with loop(b, 0, whole) as i:
                put([i], b.add(place, b.mul(i, i64(lanes))), lanes)
        if left:
            put([], b.add(place, i64(whole * lanes)), left)

    def beside(self, base: Any, place: Any, lanes: int, count: int) -> None:
        """The first `count` of neighbouring rows, one in each lane."""
        b, x, out = self.b, self.form.read, self.form.write
        step, out_step = self.steps

        def element(i: Any) -> Floats:
            at = b.add(base, b.mul(i, i64(step)))
            word = load_first(b, self.pointers[0], at, x, lanes, count, 0.0)
            return word  # type: ignore[no-any-return]

        least, zero, one = (full(b, x.dtype, lanes, n) for n in (-math.inf, 0.0, 1.0))
        if not self._length:
            store_first(b, self.pointers[1], place, least, out, lanes, count)
            return
        length = (self._length,)
        (top,) = gathered(b, length, [least], lambda walk: [element(walk[0])], _larger, False)
        shift = _shift(top)

        def terms(walk: list[Any]) -> list[Any]:
            value = element(walk[0])
            ties = value.eq(top)
            return [select(ties, zero, exp(value - shift)), select(ties, one, zero)]

        sums, ties = gathered(b, length, [zero, zero], terms, _add, True)
        shift, lse = _log_of_sum(top, sums, ties)
        if self.form.op is Op.LOGSUMEXP:
            store_first(b, self.pointers[1], place, shift + lse, out, lanes, count)
            return
        with loop(b, 0, self._length) as i:
            at = b.add(place, b.mul(i, i64(out_step)))
            value = element(i) - shift - lse
            store_first(b, self.pointers[1], at, value, out, lanes, count)


def _shift(top: Floats) -> Floats:
    return select(abs(top) < math.inf, top, 0.0)


def _log_of_sum(top: Floats, others: Floats, ties: Floats) -> tuple[Floats, Floats]:
    """The shift and ln(1 + Σ′); of a row without a finite largest element, Σ′ is e^m − 1."""
    total = others + (ties - 1.0)
    special = select(top < 0.0, top.like(-1.0), top)
    total = select(abs(top) < math.inf, total, special)
    return _shift(top), log1p(select(others.ne(others), others, total))


def _larger(x: Any, y: Any) -> Any:
    """One of the two where the other is NaN, which the sum then shows. One instruction."""
    return select(x > y, x, y)


def _table(b: Any, element: Any, lanes: int) -> Any:
    """Memory for a vector whose lanes are written one by one."""
    with b.goto_entry_block():
        slot = b.alloca(element, size=lanes)
        slot.align = 64
    return slot


def _count(mask: Mask) -> Integers:
    b = mask.builder
    if mask.n == 1:
        return Integers(b, b.zext(mask.value, I64))
    word = ir.IntType(mask.n)
    bits = b.bitcast(mask.value, word)
    return Integers(b, b.zext(b.ctpop(bits), I64))


def _add(x: Any, y: Any) -> Any:
    return x + y
