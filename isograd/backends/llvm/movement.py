"""Elements moved about: rows taken and added by their indices, zeros put around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isograd.backends.llvm.elements import Operand, load, portions, store
from isograd.backends.llvm.ir import I64, i64, kernel, loop, loops, offset
from isograd.backends.llvm.maths import DTYPES, apply
from isograd.backends.llvm.partial import full
from isograd.backends.llvm.views import Ints, nest
from isograd.engine.graph import Eqn
from isograd.engine.ops import Op


def movement(
    eqn: Eqn, reads: Sequence[Operand], write: Operand
) -> Gather | ScatterAdd | Pad | None:
    """The kernel of a primitive that moves elements; None if there is none."""
    if not DTYPES.issuperset((*(r.dtype for r in reads), write.dtype)):
        return None
    match eqn.op:
        case Op.GATHER:
            return Gather(reads[0], reads[1], eqn.params["axis"], write)
        case Op.SCATTER_ADD:
            return ScatterAdd(reads[0], reads[1], eqn.params["axis"], write)
        case Op.PAD:
            return Pad(reads[0], eqn.params["low"], eqn.params["inner"], write)
    return None


@dataclass(frozen=True, slots=True)
class Gather:
    """Rows of the first operand at the indices in the second.

    An index outside of [−n, n) gives the first row, and raises the flag behind the last pointer.

    Attributes:
        read, indices, write: operands.
        axis: the axis of `read` along which indices count.
    """

    read: Operand
    indices: Operand
    axis: int
    write: Operand

    @property
    def flag(self) -> bool:
        """Whether the last pointer is that of a flag, an int64."""
        return True

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, out = self.read, self.write
        rows = _Rows(x, out, self.indices, self.axis)

        def body(b: Any, pointers: list[Any]) -> None:
            def row(source: Any, place: Any) -> None:
                def move(at: Any, to: Any, lanes: int) -> None:
                    value = load(b, pointers[0], at, x, lanes, 1)
                    store(b, pointers[2], to, value, out, lanes)

                _walk(b, rows.inner, (x, out), source, place, width, move)

            if x.shape[self.axis] == 0:
                b.store(i64(1), pointers[3])
                return
            rows.each(
                b,
                pointers[1],
                pointers[3],
                lambda base, index, place: row(b.add(base, b.mul(index, i64(rows.step))), place),
            )

        kernel(module, name, [x.type, self.indices.type, out.type, I64], body)


@dataclass(frozen=True, slots=True)
class ScatterAdd:
    """Zeros, to whose rows those of the first operand are added, at the indices in the second.

    Rows of one index are added in their order. An index outside of [−n, n) counts as 0, and raises
    the flag behind the last pointer.

    Attributes:
        read, indices, write: operands.
        axis: the axis of `write` along which indices count.
    """

    read: Operand
    indices: Operand
    axis: int
    write: Operand

    @property
    def flag(self) -> bool:
        """Whether the last pointer is that of a flag, an int64."""
        return True

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, out = self.read, self.write
        rows = _Rows(out, x, self.indices, self.axis)

        def body(b: Any, pointers: list[Any]) -> None:
            def row(target: Any, source: Any) -> None:
                def add(to: Any, at: Any, lanes: int) -> None:
                    value = load(b, pointers[0], at, x, lanes, 1)
                    before = load(b, pointers[2], to, out, lanes, 1)
                    total = apply(Op.ADD, (before, value), out.dtype)
                    store(b, pointers[2], to, total, out, lanes)

                _walk(b, rows.inner, (out, x), target, source, width, add)

            _clear(b, pointers[2], out, width)
            if 0 in self.indices.shape or 0 in x.shape:
                return
            if out.shape[self.axis] == 0:
                b.store(i64(1), pointers[3])
                return
            rows.each(
                b,
                pointers[1],
                pointers[3],
                lambda base, index, place: row(b.add(base, b.mul(index, i64(rows.step))), place),
            )

        kernel(module, name, [x.type, self.indices.type, out.type, I64], body)


@dataclass(frozen=True, slots=True)
class Pad:
    """The elements with zeros before, behind and between.

    Attributes:
        read, write: operands.
        low, inner: for each axis, how many zeros stand before, and between any two.
    """

    read: Operand
    low: Ints
    inner: Ints
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, out = self.read, self.write
        steps = tuple(s * (k + 1) for s, k in zip(out.strides, self.inner, strict=True))
        first = sum(s * n for s, n in zip(out.strides, self.low, strict=True))
        window = (x.shape, x.strides, steps)

        def body(b: Any, pointers: list[Any]) -> None:
            def move(at: Any, to: Any, lanes: int) -> None:
                value = load(b, pointers[0], at, x, lanes, 1)
                store(b, pointers[1], to, value, out, lanes)

            _clear(b, pointers[1], out, width)
            if 0 not in x.shape:
                _walk(b, window, (x, out), i64(0), i64(first), width, move)

        kernel(module, name, [x.type, out.type], body)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows by their indices.

    Attributes:
        picked: the operand that indices point into.
        other: that with a row for each index.
        indices: these.
        axis: of `picked`.
    """

    picked: Operand
    other: Operand
    indices: Operand
    axis: int

    @property
    def step(self) -> int:
        """From one row of `picked` to the next."""
        return self.picked.strides[self.axis]

    @property
    def inner(self) -> tuple[Ints, Ints, Ints]:
        """A row: its shape, and the strides of both operands."""
        a, c = self.axis + 1, self.axis + len(self.indices.shape)
        return self.picked.shape[a:], self.picked.strides[a:], self.other.strides[c:]

    def each(self, b: Any, indices: Any, flag: Any, row: Any) -> None:
        """Call `row(where picked begins, index, where the other begins)` in loops over all."""
        a, c = self.axis, self.axis + len(self.indices.shape)
        head = nest(self.picked.shape[:a], [self.picked.strides[:a], self.other.strides[:a]])
        many = nest(self.indices.shape, [self.indices.strides, self.other.strides[a:c]])
        n = self.picked.shape[a]
        with loops(b, head.lengths) as counters:
            base, start = (offset(b, counters, steps) for steps in head.steps)
            with loops(b, many.lengths) as counters:
                where, place = (offset(b, counters, steps) for steps in many.steps)
                index = self._index(b, b.load(b.gep(indices, [where])), n, flag)
                row(base, index, b.add(start, place))

    def _index(self, b: Any, word: Any, n: int, flag: Any) -> Any:
        """An index in [0, n)."""
        unsigned = self.indices.dtype.startswith("uint")
        if word.type != I64:
            word = (b.zext if unsigned else b.sext)(word, I64)
        if not unsigned:
            word = b.select(b.icmp_signed("<", word, i64(0)), b.add(word, i64(n)), word)
        inside = b.icmp_unsigned("<", word, i64(n))
        with b.if_then(b.not_(inside), likely=False):
            b.store(i64(1), flag)
        return b.select(inside, word, i64(0))


def _walk(
    b: Any,
    window: tuple[Ints, Ints, Ints],
    operands: tuple[Operand, Operand],
    first: Any,
    second: Any,
    width: int,
    do: Any,
) -> None:
    """Call `do(index, index, lanes)` in loops over two operands, by vectors where they lie so."""
    shape, *strides = window
    over = nest(shape, strides)
    if not over.lengths:
        do(first, second, 1)
        return
    lanes = width // np.dtype(operands[0].dtype).itemsize
    lanes = lanes if all(steps[-1] == 1 for steps in over.steps) else 1
    with loops(b, over.lengths[:-1]) as counters:
        for n, low, high in portions(over.lengths[-1], lanes):
            with loop(b, low, high, n) as i:
                one, two = (offset(b, [*counters, i], steps) for steps in over.steps)
                do(b.add(first, one), b.add(second, two), n)


def _clear(b: Any, pointer: Any, out: Operand, width: int) -> None:
    """Zeros everywhere."""
    if 0 in out.shape:
        return

    def zero(at: Any, _: Any, lanes: int) -> None:
        store(b, pointer, at, full(b, out.dtype, lanes, 0), out, lanes)

    _walk(b, (out.shape, out.strides, out.strides), (out, out), i64(0), i64(0), width, zero)
