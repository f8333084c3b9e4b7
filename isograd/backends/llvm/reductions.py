"""Sums and maxima over axes.

A sum is made of chains of at most 16 additions; what a chain gives is added to a total of two
words (Knuth 1969, sec. 4.2.2), so its error does not grow with the number of terms:
|error| ≤ (16 + log₂ 8 + log₂ lanes + 2)·u·Σ|x| + O(n u²)·Σ|x|, u the unit roundoff.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isograd.backends.llvm.casts import cast
from isograd.backends.llvm.elements import Operand, load, store
from isograd.backends.llvm.ir import i64, kernel, loop, loops, offset
from isograd.backends.llvm.lanes import Floats, select
from isograd.backends.llvm.maths import DTYPES, apply
from isograd.backends.llvm.partial import across, full, load_first, store_first
from isograd.backends.llvm.two_words import two_sum
from isograd.backends.llvm.views import Ints, Nest, nest
from isograd.engine.graph import Eqn
from isograd.engine.ops import Op

_CHAIN = 16
_PARALLEL = 8  # chains side by side, so that no addition waits for the one before
_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Reduce:
    """A sum or maximum over axes; over none, a copy.

    Where reduced elements lie side by side, a vector of partial results runs along them; else
    neighbouring results run side by side in vectors.
    """

    op: Op
    read: Operand
    axes: Ints
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, out = self.read, self.write
        lanes = width // np.dtype(out.dtype).itemsize
        kept = [k for k in range(len(x.shape)) if k not in self.axes]
        pairs = zip(kept, range(len(kept)), strict=True)
        order = sorted(pairs, key=lambda pair: -abs(x.strides[pair[0]]))
        results = nest(
            tuple(x.shape[k] for k, _ in order),
            [tuple(x.strides[k] for k, _ in order), tuple(out.strides[j] for _, j in order)],
        )
        axes = sorted(self.axes, key=lambda k: -abs(x.strides[k]))
        terms = nest(tuple(x.shape[k] for k in axes), [tuple(x.strides[k] for k in axes)])

        def body(b: Any, pointers: list[Any]) -> None:
            loop_over = _Loops(b, self, pointers, results, terms, lanes)
            if terms.lengths and terms.steps[0][-1] == 1:
                loop_over.along()
            elif results.lengths and all(steps[-1] == 1 for steps in results.steps):
                loop_over.beside()
            else:
                loop_over.single()

        kernel(module, name, [x.type, out.type], body)

    @property
    def start(self) -> float:
        """What results start from."""
        if self.op is Op.SUM:
            return 0  # as NumPy's: a sum of −0 alone is +0
        if self.write.dtype.startswith("float"):
            return -math.inf
        return 0 if self.write.dtype == "bool" else int(np.iinfo(self.write.dtype).min)

    def join(self, x: Any, y: Any) -> Any:
        """Of two partial results."""
        return apply(Op.ADD if self.op is Op.SUM else Op.MAX, (x, y), self.write.dtype)


def reduction(eqn: Eqn, reads: Sequence[Operand], write: Operand) -> Reduce | None:
    """The kernel of a sum or maximum; None if there is none."""
    if not DTYPES.issuperset((reads[0].dtype, write.dtype)):
        return None
    return Reduce(eqn.op, reads[0], eqn.params["axes"], write)


@dataclass(frozen=True, slots=True)
class _Loops:
    """The ways to walk a reduction."""

    b: Any
    form: Reduce
    pointers: list[Any]
    results: Nest
    terms: Nest
    lanes: int

    def along(self) -> None:
        """One result from vectors of partial ones."""
        b, lanes = self.b, self.lanes
        lengths, step = self.terms.lengths, self.terms.steps[0]
        whole, left = divmod(lengths[-1], lanes)
        with loops(b, self.results.lengths) as counters:
            base, place = (offset(b, counters, steps) for steps in self.results.steps)

            def vectors(walk: list[Any]) -> list[Any]:
                at = b.add(
                    b.add(base, offset(b, walk[:-1], step[:-1])), b.mul(walk[-1], i64(lanes))
                )
                return [self._read(at, lanes, lanes)]

            def rest(walk: list[Any]) -> list[Any]:
                at = b.add(base, offset(b, walk, step[:-1]))
                return [self._read(b.add(at, i64(whole * lanes)), lanes, left)]

            parts = []
            if whole or not left:
                parts += self._gathered((*lengths[:-1], whole), lanes, 1, vectors)
            if left:
                parts += self._gathered(lengths[:-1], lanes, 1, rest)
            vector = parts[0] if len(parts) == 1 else self.form.join(*parts)
            store(b, self.pointers[1], place, across(vector, self.form.join), self.form.write, 1)

    def beside(self) -> None:
        """Several vectors of neighbouring results at a time."""
        b, lanes = self.b, self.lanes
        *outer, length = self.results.lengths
        block = lanes * _COLUMNS
        with loops(b, tuple(outer)) as counters:
            starts = [offset(b, counters, steps[:-1]) for steps in self.results.steps]

            def columns(low: Any, count: int) -> None:
                base, place = (b.add(start, low) for start in starts)
                sizes = [min(lanes, count - k) for k in range(0, count, lanes)]

                def row(walk: list[Any]) -> list[Any]:
                    at = b.add(base, offset(b, walk, self.terms.steps[0]))
                    return [
                        self._read(b.add(at, i64(k * lanes)), lanes, size)
                        for k, size in enumerate(sizes)
                    ]

                found = self._gathered(self.terms.lengths, lanes, len(sizes), row)
                for k, (value, size) in enumerate(zip(found, sizes, strict=True)):
                    at = b.add(place, i64(k * lanes))
                    store_first(b, self.pointers[1], at, value, self.form.write, lanes, size)

            whole = length - length % block
            if whole:
                with loop(b, 0, whole, block) as low:
                    columns(low, block)
            if whole < length:
                columns(i64(whole), length - whole)

    def single(self) -> None:
        """One element after the other."""
        b = self.b
        with loops(b, self.results.lengths) as counters:
            base, place = (offset(b, counters, steps) for steps in self.results.steps)

            def element(walk: list[Any]) -> list[Any]:
                return [self._read(b.add(base, offset(b, walk, self.terms.steps[0])), 1, 1)]

            (value,) = self._gathered(self.terms.lengths, 1, 1, element)
            store(b, self.pointers[1], place, value, self.form.write, 1)

    def _read(self, at: Any, lanes: int, count: int) -> Any:
        form = self.form
        if count == lanes:
            value = load(self.b, self.pointers[0], at, form.read, lanes, 1)
        else:
            value = load_first(self.b, self.pointers[0], at, form.read, lanes, count, form.start)
        return cast(value, form.write.dtype) if form.read.dtype != form.write.dtype else value

    def _gathered(
        self, lengths: Ints, lanes: int, count: int, terms: Callable[[list[Any]], list[Any]]
    ) -> list[Any]:
        start = full(self.b, self.form.write.dtype, lanes, self.form.start)
        if 0 in lengths:
            return [start] * count
        rounded = self.form.op is Op.SUM and isinstance(start, Floats)
        return gathered(self.b, lengths, [start] * count, terms, self.form.join, rounded)


def gathered(
    b: Any,
    lengths: Ints,
    starts: Sequence[Any],
    terms: Callable[[list[Any]], list[Any]],
    join: Callable[[Any, Any], Any],
    rounded: bool,
) -> list[Any]:
    """Of `terms(counters)` over loops, each entry joined for itself.

    Args:
        b: the builder.
        lengths: of the loops, none of them 0.
        starts: what the entries start from, in every chain.
        terms: from the counters to a value for each entry.
        join: of two values; associative but for rounding.
        rounded: whether `join` adds and rounds, so that chains must be short.
    """
    if not lengths:
        return list(map(join, starts, terms([])))
    *outer, length = lengths
    chains = min(max(_PARALLEL // len(starts), 1), length)
    slots = [[_slot(b, start) for start in starts] for _ in range(chains)]

    def clear() -> None:
        for row in slots:
            for slot, start in zip(row, starts, strict=True):
                b.store(start.value, slot)

    def walk(counters: list[Any], low: Any, count: int) -> None:
        def gather(i: Any, row: list[Any]) -> None:
            for slot, value in zip(row, terms([*counters, i]), strict=True):
                b.store(join(type(value)(b, b.load(slot)), value).value, slot)

        whole = count - count % chains
        if whole:
            with loop(b, 0, whole, chains) as j:
                for k, row in enumerate(slots):
                    gather(b.add(b.add(low, j), i64(k)), row)
        for k in range(count - whole):
            gather(b.add(low, i64(whole + k)), slots[k])

    def joined() -> list[Any]:
        rows = [
            [type(s)(b, b.load(slot)) for s, slot in zip(starts, row, strict=True)] for row in slots
        ]
        while len(rows) > 1:
            pairs = list(zip(rows[::2], rows[1::2], strict=False))
            odd = rows[2 * len(pairs) :]
            rows = [[join(x, y) for x, y in zip(*pair, strict=True)] for pair in pairs] + odd
        return rows[0]

    block = _CHAIN * chains
    if not rounded or math.prod(lengths) <= block:
        clear()
        with loops(b, tuple(outer)) as counters:
            walk(counters, i64(0), length)
        return joined()
    totals = [Total(b, start, join, rounded) for start in starts]

    def folded(counters: list[Any], low: Any, count: int) -> None:
        clear()
        walk(counters, low, count)
        for total, part in zip(totals, joined(), strict=True):
            total.add(part)

    with loops(b, tuple(outer)) as counters:
        whole = length - length % block
        if whole:
            with loop(b, 0, whole, block) as low:
                folded(counters, low, block)
        if whole < length:
            folded(counters, i64(whole), length - whole)
    return [total.value() for total in totals]


class Total:
    """What parts are joined to, one after the other; a sum of numbers in two words.

    Args:
        b: the builder.
        start: what it starts from.
        join: of two values.
        rounded: whether `join` adds and rounds.
    """

    def __init__(self, b: Any, start: Any, join: Callable[[Any, Any], Any], rounded: bool) -> None:
        self.b, self.join, self._start = b, join, start
        self._slot = _slot(b, start)
        b.store(start.value, self._slot)
        self._lost = _slot(b, start) if rounded and isinstance(start, Floats) else None
        if self._lost is not None:
            b.store(start.like(0.0).value, self._lost)

    def _load(self, slot: Any) -> Any:
        return type(self._start)(self.b, self.b.load(slot))

    def add(self, part: Any) -> None:
        """One part more."""
        total = self._load(self._slot)
        if self._lost is None:
            total = self.join(total, part)
        else:
            total, lost = two_sum(total, part)
            self.b.store((self._load(self._lost) + lost).value, self._lost)
        self.b.store(total.value, self._slot)

    def value(self) -> Any:
        """Of all parts; where a sum is not finite, what it lost is not a number."""
        total = self._load(self._slot)
        if self._lost is None:
            return total
        return select(abs(total) < math.inf, total + self._load(self._lost), total)


def _slot(b: Any, like: Any) -> Any:
    with b.goto_entry_block():
        return b.alloca(like.value.type)
