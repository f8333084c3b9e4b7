"""Kernels: one native function per distinct form of work.

A kernel knows shapes and strides, not places: it gets a table of pointers, so that all layers of
one form share one, and compiling does not grow with depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.exponential import exp, expm1
from isograd.backends.llvm.ir import I8, I64, i64, kernel, loop, loops, offset, type_of
from isograd.backends.llvm.lanes import Floats, Integers, Mask, select
from isograd.backends.llvm.logarithm import log1p
from isograd.backends.llvm.maths import ELEMENTWISE, maximum
from isograd.backends.llvm.views import Ints, nest
from isograd.engine.ops import Op


@dataclass(frozen=True, slots=True)
class Operand:
    """Elements that a kernel reads or writes, by strides, wherever they lie."""

    dtype: str
    shape: Ints
    strides: Ints

    @property
    def type(self) -> Any:
        """Of an element."""
        return type_of(np.dtype(self.dtype))


def load(b: Any, pointer: Any, index: Any, operand: Operand, lanes: int, step: int) -> Any:
    """`lanes` elements from an index on; one, repeated, for step 0."""
    at = b.gep(pointer, [index])
    if lanes == 1 or step == 0:
        value = b.load(at)
        value.align = np.dtype(operand.dtype).itemsize
        if lanes > 1:
            value = splat(b, value, lanes)
    else:
        kind = ir.VectorType(operand.type, lanes)
        value = b.load(b.bitcast(at, kind.as_pointer()), typ=kind)
        value.align = np.dtype(operand.dtype).itemsize
    if operand.dtype == "bool":
        zero = ir.Constant(value.type, None if lanes > 1 else 0)
        return Mask(b, b.icmp_unsigned("!=", value, zero))
    return (Floats if operand.dtype.startswith("float") else Integers)(b, value)


def store(b: Any, pointer: Any, index: Any, value: Any, operand: Operand, lanes: int) -> None:
    """The lanes of a value to an index on."""
    word = value.value
    if operand.dtype == "bool":
        kind = I8 if lanes == 1 else ir.VectorType(I8, lanes)
        word = b.zext(word, kind)
    at = b.gep(pointer, [index])
    if lanes > 1:
        at = b.bitcast(at, word.type.as_pointer())
    b.store(word, at, align=np.dtype(operand.dtype).itemsize)


def splat(b: Any, value: Any, lanes: int) -> Any:
    """A scalar in every lane."""
    kind = ir.VectorType(value.type, lanes)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


@dataclass(frozen=True, slots=True)
class Fused:
    """Elementwise equations over one shape, as one loop.

    Attributes:
        reads, writes: operands.
        steps: (primitive, numbers of its arguments); values are numbered, the reads first.
        stored: the number of the value that goes into each of the writes.
    """

    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    steps: tuple[tuple[Op, Ints], ...]
    stored: Ints

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        operands = (*self.reads, *self.writes)
        over = nest(self.writes[0].shape, [o.strides for o in operands])
        bytes_each = max(np.dtype(o.dtype).itemsize for o in operands)
        lanes = width // bytes_each
        inner = [steps[-1] if steps else 0 for steps in over.steps]
        vector = all(s in (0, 1) for s in inner) and all(s == 1 for s in inner[len(self.reads) :])

        def body(b: Any, pointers: list[Any]) -> None:
            def at(counters: list[Any], n: int) -> None:
                where = [offset(b, counters, steps) for steps in over.steps]
                values = [
                    load(b, p, w, o, n, s)
                    for p, w, o, s in zip(pointers, where, self.reads, inner, strict=False)
                ]
                for op, numbers in self.steps:
                    values.append(ELEMENTWISE[op](*(values[i] for i in numbers)))
                offsets = where[len(self.reads) :]
                outs = pointers[len(self.reads) :]
                for p, w, o, i in zip(outs, offsets, self.writes, self.stored, strict=True):
                    store(b, p, w, values[i], o, n)

            if not over.lengths:
                at([], 1)
                return
            with loops(b, over.lengths[:-1]) as counters:
                for n, low, high in _portions(over.lengths[-1], lanes if vector else 1):
                    with loop(b, low, high, n) as i:
                        at([*counters, i], n)

        kernel(module, name, [o.type for o in operands], body)


@dataclass(frozen=True, slots=True)
class Reduce:
    """A sum or maximum over axes.

    Where the reduced elements lie side by side, a vector of partial results runs along them; else
    neighbouring results run side by side in a vector.
    """

    op: Op
    read: Operand
    axes: Ints
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, out = self.read, self.write
        kept = [k for k in range(len(x.shape)) if k not in self.axes]
        outer = nest(out.shape, [tuple(x.strides[k] for k in kept), out.strides])
        inner = nest(tuple(x.shape[k] for k in self.axes), [tuple(x.strides[k] for k in self.axes)])
        lanes = width // np.dtype(out.dtype).itemsize
        join = maximum if self.op is Op.REDUCE_MAX else _add
        start = -math.inf if self.op is Op.REDUCE_MAX else 0.0

        def body(b: Any, pointers: list[Any]) -> None:
            def gather(slot: Any, n: int, index: Any) -> None:
                value = load(b, pointers[0], index, x, n, 1)
                b.store(join(Floats(b, b.load(slot)), value).value, slot)

            def beside(counters: list[Any], n: int) -> None:
                """n neighbouring results."""
                base, place = (offset(b, counters, steps) for steps in outer.steps)
                slot = _variable(b, out, n, start)
                with loops(b, inner.lengths) as walk:
                    gather(slot, n, b.add(base, offset(b, walk, inner.steps[0])))
                store(b, pointers[1], place, Floats(b, b.load(slot)), out, n)

            def along(counters: list[Any]) -> None:
                """One result, from partial ones."""
                base, place = (offset(b, counters, steps) for steps in outer.steps)
                length = inner.lengths[-1]
                whole = length - length % lanes
                parts, rest = _variable(b, out, lanes, start), _variable(b, out, 1, start)
                with loops(b, inner.lengths[:-1]) as walk:
                    row = b.add(base, offset(b, walk, inner.steps[0][:-1]))
                    with loop(b, 0, whole, lanes) as i:
                        gather(parts, lanes, b.add(row, i))
                    if whole < length:
                        with loop(b, whole, length) as i:
                            gather(rest, 1, b.add(row, i))
                total, vector = Floats(b, b.load(rest)), b.load(parts)
                for lane in range(lanes):
                    word = b.extract_element(vector, ir.Constant(ir.IntType(32), lane))
                    total = join(total, Floats(b, word))
                store(b, pointers[1], place, total, out, 1)

            if inner.lengths and inner.steps[0][-1] == 1 and inner.lengths[-1] >= lanes:
                with loops(b, outer.lengths) as counters:
                    along(counters)
            elif not outer.lengths:
                beside([], 1)
            else:
                vector = all(steps[-1] == 1 for steps in outer.steps)
                with loops(b, outer.lengths[:-1]) as counters:
                    for n, low, high in _portions(outer.lengths[-1], lanes if vector else 1):
                        with loop(b, low, high, n) as i:
                            beside([*counters, i], n)

        kernel(module, name, [x.type, out.type], body)


def _add(x: Floats, y: Floats) -> Floats:
    return x + y


def _portions(length: int, lanes: int) -> list[tuple[int, int, int]]:
    """(lanes, from, to): whole vectors, then what is left one by one."""
    whole = length - length % lanes
    parts = [(lanes, 0, whole), (1, whole, length)] if lanes > 1 else [(1, 0, length)]
    return [part for part in parts if part[1] < part[2]]


def _variable(b: Any, operand: Operand, n: int, value: float) -> Any:
    """A local variable with a first value; it becomes a register."""
    slot = _slot(b, operand, n)
    b.store(_constant(operand, n, value), slot)
    return slot


def _slot(b: Any, operand: Operand, n: int) -> Any:
    """A local variable; it becomes a register."""
    kind = operand.type if n == 1 else ir.VectorType(operand.type, n)
    with b.goto_entry_block():
        return b.alloca(kind)


def _constant(operand: Operand, n: int, value: float) -> Any:
    if n == 1:
        return ir.Constant(operand.type, value)
    return ir.Constant(ir.VectorType(operand.type, n), [ir.Constant(operand.type, value)] * n)


@dataclass(frozen=True, slots=True)
class LogSoftmax:
    """x − ln Σ eˣ along an axis, the largest term taken out of the sum as in the reference."""

    read: Operand
    axis: int
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module."""
        x, out, n = self.read, self.write, self.read.shape[self.axis]
        others = [k for k in range(len(x.shape)) if k != self.axis]
        over = nest(
            tuple(x.shape[k] for k in others),
            [tuple(o.strides[k] for k in others) for o in (x, out)],
        )
        step, out_step = x.strides[self.axis], out.strides[self.axis]

        def body(b: Any, pointers: list[Any]) -> None:
            def element(base: Any, i: Any) -> Floats:
                index = b.add(base, b.mul(i, i64(step)))
                value: Floats = load(b, pointers[0], index, x, 1, 0)
                return value

            with loops(b, over.lengths) as counters:
                base, place = (offset(b, counters, steps) for steps in over.steps)
                top, where, total = _slot(b, x, 1), _index(b), _slot(b, x, 1)
                b.store(element(base, i64(0)).value, top)
                b.store(i64(0), where)
                if n > 1:
                    with loop(b, 1, n) as i:
                        value, best = element(base, i), Floats(b, b.load(top))
                        # As argmax: the first of several, and the first NaN.
                        better = (value > best) | (value.ne(value) & best.eq(best))
                        b.store(select(better, value, best).value, top)
                        b.store(b.select(better.value, i, b.load(where)), where)
                best = Floats(b, b.load(top))
                finite = abs(best) < math.inf
                shift = select(finite, best, 0.0)
                b.store(_constant(x, 1, 0.0), total)
                with loop(b, 0, n) as i:
                    term = element(base, i) - shift
                    largest = Mask(b, b.icmp_signed("==", i, b.load(where)))
                    term = select(largest, expm1(term), exp(term))
                    b.store((Floats(b, b.load(total)) + term).value, total)
                lse = log1p(Floats(b, b.load(total)))
                with loop(b, 0, n) as i:
                    index = b.add(place, b.mul(i, i64(out_step)))
                    store(b, pointers[1], index, element(base, i) - shift - lse, out, 1)

        kernel(module, name, [x.type, out.type], body)


def _index(b: Any) -> Any:
    with b.goto_entry_block():
        return b.alloca(I64)


Kernel = Fused | Reduce | LogSoftmax


def supports(op: Op, dtypes: Sequence[str]) -> bool:
    """Whether there is a kernel for an elementwise primitive on these dtypes."""
    if op not in ELEMENTWISE:
        return False
    if op is Op.SELECT:
        return all(d in _FLOATS for d in dtypes[1:])
    if all(d in ("int32", "int64") for d in dtypes):
        return op in (Op.EQ, Op.LT, Op.ADD, Op.SUB)
    return all(d in _FLOATS for d in dtypes)


_FLOATS = ("float32", "float64")
