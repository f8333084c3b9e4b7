"""Matrix products with what follows them, in tiles of registers.

The tile of C that is being summed stays in vector registers: each step along k multiplies one
column of A, an element at a time, by one row of B. When the sums are complete, what follows the
product is computed from them, so that a bias or an activation does not read C again.

References:
    Goto and van de Geijn (2008), Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3).
    Van Zee and van de Geijn (2015), BLIS, ACM TOMS 41(3).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from llvmlite import binding, ir

from isograd.backends.llvm.blas import Product
from isograd.backends.llvm.elements import Operand, load
from isograd.backends.llvm.fused import Fused, Step, evaluate
from isograd.backends.llvm.ir import I1, I8, i64, kernel, loop, type_of
from isograd.backends.llvm.lanes import Floats, Mask, fma, kind_of
from isograd.backends.llvm.views import Ints, View, row_major
from isograd.engine.ops import Op

_I32 = ir.IntType(32)
_STRIP = 256  # bytes of a row of the widest strip


@dataclass(frozen=True, slots=True)
class Gemm:
    """C = A B, and elementwise equations of C.

    Pointers: A, B, what the epilogue reads except C, what it writes but in the place of a read, and
    scratch if there is some.

    Attributes:
        dtype: float32 or float64.
        m, k, n: sizes; none is 0.
        left: steps of A (m, k) along its axes, in elements.
        right: those of B (k, n); one of them is 1, or its axis has one element.
        epilogue: what is computed from C, which is the first of its reads and has no pointer.
    """

    dtype: str
    m: int
    k: int
    n: int
    left: Ints
    right: Ints
    epilogue: Fused

    @property
    def transposed(self) -> bool:
        """Whether B lies by columns."""
        return self.n > 1 and self.right[1] != 1

    @property
    def scratch(self) -> int:
        """Bytes for a strip of B by rows."""
        turned = self.turned
        row = -(-turned.n * np.dtype(self.dtype).itemsize // 64) * 64
        return self.k * min(row, _STRIP) if turned.transposed else 0

    @property
    def turned(self) -> Gemm:
        """Cᵀ = Bᵀ Aᵀ for a C of one column that lies in order, so that it fills vectors."""
        operands = (*self.epilogue.reads[1:], *self.epilogue.writes)
        writes = self.epilogue.writes
        if (
            self.n > 1
            or self.m == 1
            or not all(o.strides[0] in (0, 1) for o in operands)
            or not all(o.strides[0] == 1 for o in writes)
            or not (self.k == 1 or 1 in self.left)
        ):
            return self
        epilogue = replace(
            self.epilogue,
            reads=tuple(map(_turned, self.epilogue.reads)),
            writes=tuple(map(_turned, writes)),
        )
        left, right = self.right[::-1], self.left[::-1]
        return Gemm(self.dtype, 1, self.k, self.m, left, right, epilogue)

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        turned = self.turned
        epilogue = self.epilogue
        places = epilogue.places or (-1,) * len(epilogue.writes)
        fresh = [o for o, place in zip(epilogue.writes, places, strict=True) if place < 0]
        element = type_of(np.dtype(self.dtype))
        pointees = [element, element, *(o.type for o in (*epilogue.reads[1:], *fresh))]
        if self.scratch:
            pointees.append(element)

        def body(b: Any, pointers: list[Any]) -> None:
            left, right = pointers[:2] if turned is self else pointers[1::-1]
            reads = pointers[2 : 1 + len(epilogue.reads)]
            rest = iter(pointers[1 + len(epilogue.reads) :])
            outs = [reads[p - 1] if p > 0 else next(rest) for p in places]
            pointers = [left, right, *reads, *outs, *rest]
            for strip in strips(turned, width):
                with loop(b, 0, strip.count) as i:
                    start = b.add(i64(strip.start), b.mul(i, i64(strip.columns)))
                    _Strip(b, turned, strip, pointers, start).build()

        kernel(module, name, pointees, body)


def _turned(operand: Operand) -> Operand:
    return Operand(operand.dtype, operand.shape[::-1], operand.strides[::-1])


@dataclass(frozen=True, slots=True)
class Strip:
    """Columns of C that are computed together.

    Attributes:
        start: the first column.
        count: how many such strips follow one another.
        columns: of one strip.
        lanes: elements of a vector.
        heights: (rows of a tile, the first row of such tiles, the row after the last).
    """

    start: int
    count: int
    columns: int
    lanes: int
    heights: tuple[tuple[int, int, int], ...]

    @property
    def vectors(self) -> tuple[int, ...]:
        """Elements in use of each vector of a row."""
        return tuple(
            min(self.lanes, self.columns - at) for at in range(0, self.columns, self.lanes)
        )


def strips(gemm: Gemm, width: int) -> Iterator[Strip]:
    """C in strips of nearly the same number of vectors: equal ones, then the last."""
    lanes = width // np.dtype(gemm.dtype).itemsize
    registers = 32 if width == 64 or platform.machine() in ("aarch64", "arm64") else 16
    vectors = -(-gemm.n // lanes)
    most = 4 if registers == 32 or gemm.m <= 2 else 2
    each = -(-vectors // -(-vectors // most))
    columns = each * lanes
    whole, rest = divmod(gemm.n, columns)
    if whole:
        yield Strip(0, whole, columns, lanes, _heights(gemm.m, each, registers))
    if rest:
        across = -(-rest // lanes)
        yield Strip(whole * columns, 1, rest, lanes, _heights(gemm.m, across, registers))


def _heights(m: int, across: int, registers: int) -> tuple[tuple[int, int, int], ...]:
    """Tiles of one height if one near the most divides m, else of two that differ by one."""
    # Beside the tile, a register for the element of A and those for a row of B.
    most = min((registers - 1 - across) // across, 8)
    for height in range(most, most * 2 // 3 - 1, -1):
        if m % height == 0:
            return ((height, 0, m),)
    low, taller = divmod(m, -(-m // most))
    middle = taller * (low + 1)
    parts = ((low + 1, 0, middle), (low, middle, m))
    return parts if taller else parts[1:]


class _Strip:
    """The code of a strip, whose first column is known when it runs."""

    def __init__(self, b: Any, gemm: Gemm, strip: Strip, pointers: list[Any], start: Any) -> None:
        self.b, self.gemm, self.strip, self.start = b, gemm, strip, start
        self.a, right = pointers[:2]
        self.outside = pointers[2:]
        self.vector = ir.VectorType(type_of(np.dtype(gemm.dtype)), strip.lanes)
        self.b_rows = b.gep(right, [b.mul(start, i64(gemm.right[1] or 1))])
        self.b_step = gemm.right[0]

    def build(self) -> None:
        """Pack B if need be, then tile after tile."""
        b, gemm, strip = self.b, self.gemm, self.strip
        if gemm.transposed:
            # From here on, the rows of the strip are read where they have been copied to.
            step, packed = len(strip.vectors) * strip.lanes, self.outside[-1]
            _transpose(b, self.b_rows, gemm.right[1], packed, step, (gemm.k, strip.columns))
            self.b_rows, self.b_step = packed, step
        for height, low, high in strip.heights:
            with loop(b, low, high, height) as row:
                self._finish(row, self._sums(row, height))

    def _sums(self, row: Any, height: int) -> list[list[Any]]:
        """The vectors of a tile of C."""
        b, gemm = self.b, self.gemm
        across = range(len(self.strip.vectors))
        before = b.block
        rows = b.gep(self.a, [b.mul(row, i64(gemm.left[0]))])
        with loop(b, 0, gemm.k) as p:
            sums = [[b.phi(self.vector) for _ in across] for _ in range(height)]
            a = b.gep(rows, [b.mul(p, i64(gemm.left[1]))])
            from_b = b.gep(self.b_rows, [b.mul(p, i64(self.b_step))])
            row_of_b = [self._load(from_b, i) for i in across]
            new = []
            for r in range(height):
                x = _spread(b, b.gep(a, [i64(r * gemm.left[0])]), self.strip.lanes)
                new.append(
                    [_add_product(b, x, y, c) for y, c in zip(row_of_b, sums[r], strict=True)]
                )
            for olds, news in zip(sums, new, strict=True):
                for phi, value in zip(olds, news, strict=True):
                    phi.add_incoming(ir.Constant(self.vector, None), before)
                    phi.add_incoming(value, b.block)
        return new

    def _load(self, row: Any, vector: int) -> Any:
        """A vector of a row of B."""
        at = self.b.gep(row, [i64(vector * self.strip.lanes)])
        return _load(self.b, at, self.vector, self.strip.vectors[vector])

    # --- what follows the product

    def _finish(self, row: Any, sums: list[list[Any]]) -> None:
        """The epilogue of a tile: in registers if it is short, else over a copy in memory."""
        b, lanes, live = self.b, self.strip.lanes, self.strip.vectors
        operands = (*self.gemm.epilogue.reads[1:], *self.gemm.epilogue.writes)
        corners = []
        for pointer, operand in zip(self.outside, operands, strict=False):
            down, across = operand.strides
            start = b.mul(row, i64(down))
            corners.append(b.gep(pointer, [b.add(start, self.start) if across else start]))
        if short(self.gemm.epilogue.steps):
            for r, vectors in enumerate(sums):
                for v, value in enumerate(vectors):
                    self._follow(value, corners, i64(r), i64(v * lanes), live[v])
            return
        kind = ir.ArrayType(self.vector, len(live))
        with b.goto_entry_block():
            tile = b.alloca(kind, len(sums))
        for r, vectors in enumerate(sums):
            for v, value in enumerate(vectors):
                b.store(value, b.gep(tile, [i64(r), i64(v)]))
        whole = sum(n == lanes for n in live)
        with loop(b, 0, len(sums)) as r:
            if whole:
                with loop(b, 0, whole) as v:
                    value = b.load(b.gep(tile, [r, v]))
                    self._follow(value, corners, r, b.mul(v, i64(lanes)), lanes)
            if whole < len(live):
                value = b.load(b.gep(tile, [r, i64(whole)]))
                self._follow(value, corners, r, i64(whole * lanes), live[-1])

    def _follow(self, value: Any, corners: list[Any], row: Any, column: Any, live: int) -> None:
        """The epilogue of a vector of C, so far from the corner of the tile."""
        b, epilogue, lanes = self.b, self.gemm.epilogue, self.strip.lanes
        reads = epilogue.reads[1:]
        places = []
        for corner, operand in zip(corners, (*reads, *epilogue.writes), strict=True):
            index = _product(b, row, operand.strides[0])
            places.append(b.gep(corner, [_sum(b, index, column) if operand.strides[1] else index]))
        values: list[Any] = [Floats(b, value)]
        for place, operand in zip(places, reads, strict=False):
            values.append(_read(b, place, operand, lanes, live))
        evaluate(values, epilogue.steps)
        outs = places[len(reads) :]
        for place, operand, i in zip(outs, epilogue.writes, epilogue.stored, strict=True):
            word = values[i].value
            if operand.dtype == "bool":
                word = b.zext(word, ir.VectorType(I8, lanes))
            _store(b, word, place, live)


def short(steps: tuple[Step, ...]) -> bool:
    """Whether steps are few instructions, so that repeating them costs little code."""
    return len(steps) <= 4 and all(op in _CHEAP for op, *_ in steps)


_CHEAP = {
    Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.ABS, Op.MAX, Op.MIN, Op.SELECT, Op.STOP_GRADIENT,
    Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE,
}  # fmt: skip


def _product(b: Any, x: Any, y: int) -> Any:
    """x·y; of constants, a constant."""
    return i64(x.constant * y) if isinstance(x, ir.Constant) else b.mul(x, i64(y))


def _sum(b: Any, x: Any, y: Any) -> Any:
    """x + y; of constants, a constant."""
    known = isinstance(x, ir.Constant) and isinstance(y, ir.Constant)
    return i64(x.constant + y.constant) if known else b.add(x, y)


def _spread(b: Any, at: Any, lanes: int) -> Any:
    """An element in memory, in every lane."""
    kind = ir.VectorType(at.type.pointee, 1)
    one = b.load(b.bitcast(at, kind.as_pointer()), align=_size(kind))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), None)
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _add_product(b: Any, x: Any, y: Any, total: Any) -> Any:
    """x·y + total; rounded once where the host has an instruction for that."""
    if _has_fma():
        return fma(Floats(b, x), Floats(b, y), Floats(b, total)).value
    return b.fadd(b.fmul(x, y), total)


def _has_fma() -> bool:
    if platform.machine() in ("aarch64", "arm64"):
        return True
    return bool(binding.get_host_cpu_features().get("fma"))


# --- vectors of which only the first elements are in use


def _mask(lanes: int, live: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(I1, lanes), [int(i < live) for i in range(lanes)])


def _masked(b: Any, name: str, kind: Any, signature: ir.FunctionType, args: list[Any]) -> Any:
    """A call of llvm.masked.load or llvm.masked.store."""
    letter = "i" if isinstance(kind.element, ir.IntType) else "f"
    bits = kind.element.width if letter == "i" else 32 if kind.element == ir.FloatType() else 64
    full = f"llvm.masked.{name}.v{kind.count}{letter}{bits}.p0"
    function = b.module.globals.get(full) or ir.Function(b.module, signature, full)
    return b.call(function, args)


def _size(kind: Any) -> int:
    return {ir.FloatType(): 4, ir.DoubleType(): 8}.get(kind.element) or kind.element.width // 8


def _load(b: Any, at: Any, kind: Any, live: int) -> Any:
    """A vector; zeros in the lanes that are not in use, whose memory is not touched."""
    place = b.bitcast(at, kind.as_pointer())
    align = _size(kind)
    if live == kind.count:
        value = b.load(place, typ=kind)
        value.align = align
        return value
    signature = ir.FunctionType(
        kind, [kind.as_pointer(), _I32, ir.VectorType(I1, kind.count), kind]
    )
    args = [place, ir.Constant(_I32, align), _mask(kind.count, live), ir.Constant(kind, None)]
    return _masked(b, "load", kind, signature, args)


def _store(b: Any, value: Any, at: Any, live: int) -> None:
    """The lanes in use of a vector."""
    kind = value.type
    place = b.bitcast(at, kind.as_pointer())
    align = _size(kind)
    if live == kind.count:
        b.store(value, place, align=align)
        return
    signature = ir.FunctionType(
        ir.VoidType(), [kind, kind.as_pointer(), _I32, ir.VectorType(I1, kind.count)]
    )
    args = [value, place, ir.Constant(_I32, align), _mask(kind.count, live)]
    _masked(b, "store", kind, signature, args)


def _read(b: Any, place: Any, operand: Operand, lanes: int, live: int) -> Any:
    """The lanes of an operand, in the form that steps take."""
    if operand.strides[1] == 0 or live == lanes:
        return load(b, place, i64(0), operand, lanes, operand.strides[1])
    value = _load(b, place, ir.VectorType(operand.type, lanes), live)
    if operand.dtype == "bool":
        return Mask(b, b.icmp_unsigned("!=", value, ir.Constant(value.type, None)))
    return kind_of(operand.dtype)(b, value)


# --- transposing


def _transpose(b: Any, source: Any, source_step: int, to: Any, step: int, shape: Ints) -> None:
    """to[p, j] = source[j, p] for a (p, j) shape.

    Squares of registers; the last of a row or column begins early enough to be whole.
    """
    element = source.type.pointee
    edge = 32 // _size(ir.VectorType(element, 1))
    if min(shape) < edge:
        with loop(b, 0, shape[1]) as j, loop(b, 0, shape[0]) as p:
            value = b.load(b.gep(source, [b.add(b.mul(j, i64(source_step)), p)]))
            b.store(value, b.gep(to, [b.add(b.mul(p, i64(step)), j)]))
        return
    with _blocks(b, shape[1], edge) as j, _blocks(b, shape[0], edge) as p:
        corner = b.gep(source, [b.add(b.mul(j, i64(source_step)), p)])
        half = 16 // _size(ir.VectorType(element, 1))
        kind = ir.VectorType(element, half)

        def quarter(i: int, at: int) -> Any:
            return _load(b, b.gep(corner, [i64(i * source_step + at)]), kind, half)

        target = b.gep(to, [b.add(b.mul(p, i64(step)), j)])
        for at in (0, half):
            rows = [
                _shuffle(b, quarter(i, at), quarter(i + half, at), range(2 * half))
                for i in range(half)
            ]
            for i, column in enumerate(_squares(b, rows)):
                _store(b, column, b.gep(target, [i64((at + i) * step)]), edge)


def _blocks(b: Any, length: int, edge: int) -> Any:
    """A loop over the starts of blocks that cover a length."""
    from contextlib import contextmanager

    @contextmanager
    def blocks() -> Iterator[Any]:
        with loop(b, 0, -(-length // edge)) as i:
            start = b.mul(i, i64(edge))
            last = i64(length - edge)
            yield b.select(b.icmp_signed("<", start, last), start, last)

    return blocks()


def _squares(b: Any, rows: list[Any]) -> list[Any]:
    """Each 128-bit part of the rows transposed by itself: 2x2 or 4x4."""
    if len(rows) == 2:
        x, y = rows
        return [_shuffle(b, x, y, order) for order in ((0, 4, 2, 6), (1, 5, 3, 7))]
    w, x, y, z = rows
    low, high = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
    even, odd = (0, 2, 8, 10, 4, 6, 12, 14), (1, 3, 9, 11, 5, 7, 13, 15)
    out = []
    for halves in (low, high):
        first, second = _shuffle(b, w, x, halves), _shuffle(b, y, z, halves)
        out += [_shuffle(b, first, second, order) for order in (even, odd)]
    return out


def _shuffle(b: Any, x: Any, y: Any, order: Any) -> Any:
    order = list(order)
    kind = ir.VectorType(_I32, len(order))
    return b.shuffle_vector(x, y, ir.Constant(kind, order))


# --- the choice


def gemm(dtype: str, left: View, right: View, epilogue: Fused | None) -> Gemm | Product | None:
    """The kernel of a product and of what follows it; None if there is none."""
    if dtype not in ("float32", "float64") or len(left.shape) != 2 or len(right.shape) != 2:
        return None
    (m, k), n = left.shape, right.shape[1]
    if 0 in (m, k, n):
        return None
    by_rows, by_columns = n == 1 or right.strides[1] == 1, k == 1 or right.strides[0] == 1
    if not (by_rows or by_columns):
        return None
    plain = Operand(dtype, (m, n), row_major((m, n)))
    found = epilogue or Fused((plain,), (plain,), (), (0,))
    if found.folds or 0 in found.places:
        return None
    steps = [o.strides[1] for o in found.reads[1:]]
    if n > 1 and not (set(steps) <= {0, 1} and all(o.strides[1] == 1 for o in found.writes)):
        return None
    return Gemm(dtype, m, k, n, left.strides, right.strides, found)
