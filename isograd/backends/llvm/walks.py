"""Walks over the elements of an array in any order, and what is gathered on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.elements import Operand, load, splat
from isograd.backends.llvm.ir import I1, I64, i64, loop, loops, offset
from isograd.backends.llvm.lanes import Floats, Integers, Mask, Value, select
from isograd.backends.llvm.views import Nest, nest

I32 = ir.IntType(32)


class Walk:
    """The elements of an operand of floats, in vectors where they lie side by side.

    Attributes:
        builder: where instructions are appended.
        pointer: to the first element.
        operand: the elements.
        over: the loops over them, in the order in which most lie side by side.
        lanes: of a vector.
    """

    def __init__(self, builder: Any, pointer: Any, operand: Operand, width: int) -> None:
        self.builder, self.pointer, self.operand = builder, pointer, operand
        self.over = _by_address(operand)
        beside = self.over.steps[0][-1] == 1
        self.lanes = width // np.dtype(operand.dtype).itemsize if beside else 1

    @property
    def dense(self) -> bool:
        """Whether there are elements, and all lie side by side."""
        return self.over.size > 0 and self.over.steps[0] == (1,)

    def each(self, visit: Callable[[Floats, Mask], None]) -> None:
        """Visit all elements: vectors, and which of their lanes are elements."""
        if not self.over.size:
            return
        b, length, step = self.builder, self.over.lengths[-1], self.over.steps[0][-1]
        with loops(b, self.over.lengths[:-1]) as counters:
            row = offset(b, counters, self.over.steps[0][:-1])
            rest = length % self.lanes
            if rest < length:
                with loop(b, 0, length - rest, self.lanes) as i:
                    visit(self.vector(b.add(row, b.mul(i, i64(step)))), self.mask(self.lanes))
            if rest:
                start = b.add(row, i64(length - rest))
                visit(self.tail(start, rest, self.repeat(0.0)), self.mask(rest))

    def vector(self, index: Any) -> Floats:
        """The elements from an index on."""
        found: Floats = load(self.builder, self.pointer, index, self.operand, self.lanes, 1)
        return found

    def element(self, index: Any) -> Floats:
        """The one at an index."""
        found: Floats = load(self.builder, self.pointer, index, self.operand, 1, 0)
        return found

    def tail(self, index: Any, n: int, other: Floats) -> Floats:
        """n elements from an index on, fewer than a vector; then lanes of another."""
        b, value = self.builder, other.value
        for k in range(n):
            element = self.element(b.add(index, i64(k))).value
            value = b.insert_element(value, element, ir.Constant(I32, k))
        return Floats(b, value)

    def mask(self, n: int) -> Mask:
        """True in the first n lanes."""
        bits = [int(k < n) for k in range(self.lanes)]
        if self.lanes == 1:
            return Mask(self.builder, ir.Constant(I1, bits[0]))
        return Mask(self.builder, ir.Constant(ir.VectorType(I1, self.lanes), bits))

    def repeat(self, number: float | Floats) -> Floats:
        """A number in every lane."""
        if not isinstance(number, Floats):
            number = Floats(self.builder, ir.Constant(self.operand.type, number))
        return repeat(number, self.lanes)


def _by_address(operand: Operand) -> Nest:
    axes = sorted(range(len(operand.shape)), key=lambda k: -abs(operand.strides[k]))
    shape = tuple(operand.shape[k] for k in axes)
    over = nest(shape, [tuple(operand.strides[k] for k in axes)])
    return over if over.lengths else Nest((1,), ((1,),))


class Local:
    """A variable of a kernel, a value on lanes; it becomes a register."""

    def __init__(self, first: Any) -> None:
        self._first = first
        with first.builder.goto_entry_block():
            self._slot = first.builder.alloca(first.value.type)
        self.set(first)

    def get(self) -> Any:
        """The value that it has here."""
        return type(self._first)(self._first.builder, self._first.builder.load(self._slot))

    def set(self, value: Any) -> None:
        """Another value from here on."""
        self._first.builder.store(value.value, self._slot)


class Count:
    """How often a condition held: an integer of 64 bits."""

    def __init__(self, builder: Any) -> None:
        self._total = Local(Integers(builder, i64(0)))

    def add(self, mask: Mask) -> None:
        """One more for every lane that is true."""
        b, bits = mask.builder, mask.value
        if mask.n > 1:
            bits = b.ctpop(b.bitcast(bits, ir.IntType(mask.n)))
        ones = b.zext(bits, I64) if bits.type.width < 64 else bits
        self._total.set(self._total.get() + Integers(b, ones))

    def get(self) -> Integers:
        """The number up to here."""
        found: Integers = self._total.get()
        return found


def repeat(x: Value, n: int) -> Value:
    """A scalar in n lanes."""
    return x if n == 1 else type(x)(x.builder, splat(x.builder, x.value, n))


def fold(x: Any, join: Callable[[Any, Any], Any]) -> Any:
    """All lanes as one: the two halves joined until one is left."""
    b = x.builder
    while x.n > 1:
        n = x.n // 2
        halves = []
        for start in (0, n):
            lanes = ir.Constant(ir.VectorType(I32, n), [*range(start, start + n)])
            halves.append(type(x)(b, b.shuffle_vector(x.value, x.value, lanes)))
        x = join(*halves)
        if n == 1:
            return type(x)(b, b.extract_element(x.value, ir.Constant(I32, 0)))
    return x


def plus(x: Any, y: Any) -> Any:
    """x + y."""
    return x + y


def least(x: Floats, y: Floats) -> Floats:
    """The smaller; the second where one is NaN."""
    return select(x < y, x, y)


def largest(x: Floats, y: Floats) -> Floats:
    """The larger; the second where one is NaN."""
    return select(x > y, x, y)
