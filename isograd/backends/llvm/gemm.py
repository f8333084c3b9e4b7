"""Matrix products with what follows them, in tiles of registers.

The tile of C that is being summed stays in vector registers: each step along k multiplies one
column of A, an element at a time, by one row of B. When the sums are complete, what follows the
product is computed from them, so that a bias or an activation does not read C again.

References:
    Goto and van de Geijn (2008), Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3).
    Van Zee and van de Geijn (2015), BLIS, ACM TOMS 41(3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.blas import Product, product
from isograd.backends.llvm.elements import Operand
from isograd.backends.llvm.epilogue import Epilogue, Vectors
from isograd.backends.llvm.fused import Fused
from isograd.backends.llvm.ir import i64, kernel, loop, type_of
from isograd.backends.llvm.vectors import (
    add_product,
    load_first,
    load_spread,
    store_first,
    sums_of_lanes,
    transpose,
)
from isograd.backends.llvm.views import Ints, View, row_major

# Measured by benchmarks/products.py on one core of a Zen 4 with 1 MiB of L2 against OpenBLAS, which
# is left with what loses: an A by columns that are far apart (0.5 to 0.85 of its rate). All else
# runs at 0.9 to 2 of it, but for n = 10 (0.8 to 1.1), up to 99 % of the rate of multiply-adds. A B
# of more than _FAR would lose too (0.4 to 0.75) if its strips were not copied.
_FAR = 2**22  # bytes
_STEP = 2**11  # bytes between columns of A
_STRIP = 256  # bytes of a row of the widest strip
_ARM = ("aarch64", "arm64")  # how the names of processors with 32 registers of 16 bytes begin


def gemm(dtype: str, left: View, right: View, epilogue: Fused | None) -> Gemm | Product | None:
    """The kernel of a product and of what follows it, whichever is faster; None if there is none.

    Args:
        dtype: of all elements.
        left, right: the factors A (m, k) and B (k, n).
        epilogue: as in `Gemm`; None for C itself.
    """
    if dtype not in ("float32", "float64") or len(left.shape) != 2 or len(right.shape) != 2:
        return None
    (m, k), n = left.shape, right.shape[1]
    by_rows, by_columns = n == 1 or right.strides[1] == 1, k == 1 or right.strides[0] == 1
    if 0 in (m, k, n) or not (by_rows or by_columns):
        return None
    size = np.dtype(dtype).itemsize
    if m * k * size >= _FAR and left.strides[1] * size >= _STEP:
        by_blas = product(dtype, left, right)
        if by_blas is not None:
            return None if epilogue else by_blas
    plain = Operand(dtype, (m, n), row_major((m, n)))
    found = epilogue or Fused((plain,), (plain,), (), (0,))
    if found.folds or 0 in found.places:
        return None
    read_in_order = all(o.strides[1] in (0, 1) for o in found.reads[1:])
    written_in_order = all(o.strides[1] == 1 for o in found.writes)
    if n > 1 and not (read_in_order and written_in_order):
        return None
    return Gemm(dtype, m, k, n, left.strides, right.strides, found)


@dataclass(frozen=True, slots=True)
class Gemm:
    """C = A B, and elementwise equations of C.

    Pointers: A, B, what the epilogue reads except C, what it writes but in the place of a read, and
    scratch if there is some. What it writes may lie where it reads, but not in A or B.

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
    def scratch(self) -> int:
        """Bytes for a strip of B by rows."""
        turned = self.turned
        row = -(-turned.n * np.dtype(self.dtype).itemsize // 64) * 64
        return self.k * min(row, _STRIP) if turned.packed else 0

    @property
    def dots(self) -> bool:
        """Whether a row of C is summed along k: that of one row, with B by columns."""
        return self.m == 1 and self._by_columns and self.left[1] in (0, 1)

    @property
    def packed(self) -> bool:
        """Whether each strip of B is copied by rows, side by side, before it is used."""
        size = self.k * self.n * np.dtype(self.dtype).itemsize
        far = size > _FAR and self.m >= 32
        return far or (self._by_columns and not self.dots)

    @property
    def _by_columns(self) -> bool:
        return self.n > 1 and self.right[1] != 1

    @property
    def turned(self) -> Gemm:
        """Cᵀ = Bᵀ Aᵀ for a C of one column that lies in order, so that it fills vectors."""
        operands = (*self.epilogue.reads[1:], *self.epilogue.writes)
        if (
            self.n > 1
            or self.m == 1
            or not all(o.strides[0] in (0, 1) for o in operands)
            or not all(o.strides[0] == 1 for o in self.epilogue.writes)
            or not (self.k == 1 or 1 in self.left)
        ):
            return self
        reads, writes = (
            tuple(Operand(o.dtype, o.shape[::-1], o.strides[::-1]) for o in side)
            for side in (self.epilogue.reads, self.epilogue.writes)
        )
        epilogue = replace(self.epilogue, reads=reads, writes=writes)
        return Gemm(self.dtype, 1, self.k, self.m, self.right[::-1], self.left[::-1], epilogue)

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        turned, epilogue = self.turned, self.epilogue
        places = epilogue.places or (-1,) * len(epilogue.writes)
        fresh = [o for o, place in zip(epilogue.writes, places, strict=True) if place < 0]
        element = type_of(np.dtype(self.dtype))
        pointees = [element, element, *(o.type for o in (*epilogue.reads[1:], *fresh))]
        if self.scratch:
            pointees.append(element)

        def body(b: Any, pointers: list[Any]) -> None:
            a, right = pointers[:2] if turned is self else pointers[1::-1]
            reads = pointers[2 : 1 + len(epilogue.reads)]
            rest = iter(pointers[1 + len(epilogue.reads) :])
            outs = [reads[p - 1] if p > 0 else next(rest) for p in places]
            follow = Epilogue(b, turned.epilogue, [*reads, *outs])
            if turned.dots:
                _dots(b, turned, width, (a, right), follow)
                return
            scratch = next(rest, None)
            registers = 32 if width == 64 or module.triple.startswith(_ARM) else 16
            for strip in strips(turned, width, registers):
                with loop(b, 0, strip.count) as i:
                    start = b.add(i64(strip.start), b.mul(i, i64(strip.columns)))
                    _tiles(b, turned, strip, start, (a, right, scratch), follow)

        kernel(module, name, pointees, body)


# --- how C is divided


@dataclass(frozen=True, slots=True)
class Strip:
    """Columns of C that are computed together.

    Attributes:
        start: the first column.
        count: how many such strips follow one another.
        columns: of one strip.
        lanes: elements of a whole vector.
        heights: (rows of a tile, the first row of such tiles, the row after the last).
    """

    start: int
    count: int
    columns: int
    lanes: int
    heights: tuple[tuple[int, int, int], ...]

    @property
    def vectors(self) -> Vectors:
        """Of a row; the last may be narrower."""
        parts = []
        for at in range(0, self.columns, self.lanes):
            live = min(self.lanes, self.columns - at)
            parts.append((at, min(self.lanes, max(2, 1 << (live - 1).bit_length())), live))
        return tuple(parts)


def strips(gemm: Gemm, width: int, registers: int) -> Iterator[Strip]:
    """C in strips of nearly the same number of vectors: equal ones, then the last."""
    lanes = width // np.dtype(gemm.dtype).itemsize
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
    """Tiles of one height if one that is tall enough divides m, else of two that differ by one."""
    # Beside the tile, a register for the element of A and those for a row of B.
    most = min((registers - 1 - across) // across, 8)
    # Sums under way at once: two a cycle, each ready after five on Haswell.
    least = min(-(-10 // across), most)
    for height in range(most, least - 1, -1):
        if m % height == 0:
            return ((height, 0, m),)
    low, taller = divmod(m, -(-m // most))
    middle = taller * (low + 1)
    parts = ((low + 1, 0, middle), (low, middle, m))
    return parts if taller else parts[1:]


# --- sums


def _tiles(
    b: Any, gemm: Gemm, strip: Strip, start: Any, pointers: tuple[Any, ...], follow: Epilogue
) -> None:
    """A strip of C from a column on, tile after tile."""
    a, right, scratch = pointers
    rows, step = b.gep(right, [b.mul(start, i64(gemm.right[1] or 1))]), gemm.right[0]
    if gemm.packed:
        packed_step = -(-strip.columns // strip.lanes) * strip.lanes
        if gemm.right[1] == 1:
            with loop(b, 0, gemm.k) as p:
                source = b.gep(rows, [b.mul(p, i64(step))])
                target = b.gep(scratch, [b.mul(p, i64(packed_step))])
                for at, lanes, live in strip.vectors:
                    value = load_first(b, b.gep(source, [i64(at)]), lanes, live)
                    store_first(b, value, b.gep(target, [i64(at)]), live)
        else:
            transpose(b, rows, gemm.right[1], scratch, packed_step, (gemm.k, strip.columns))
        rows, step = scratch, packed_step
    for height, low, high in strip.heights:
        with loop(b, low, high, height) as row:
            corner = b.gep(a, [b.mul(row, i64(gemm.left[0]))])
            sums = _tile(b, gemm, strip, corner, (rows, step), height)
            follow.tile(sums, strip.vectors, row, start)


def _tile(
    b: Any, gemm: Gemm, strip: Strip, a: Any, right: tuple[Any, int], height: int
) -> list[list[Any]]:
    """The vectors of a tile of C."""
    vectors = strip.vectors
    element = type_of(np.dtype(gemm.dtype))
    kinds = [ir.VectorType(element, lanes) for _, lanes, _ in vectors]
    before = b.block
    with loop(b, 0, gemm.k) as p:
        sums = [[b.phi(kind) for kind in kinds] for _ in range(height)]
        column = b.gep(a, [b.mul(p, i64(gemm.left[1]))])
        row = b.gep(right[0], [b.mul(p, i64(right[1]))])
        ys = [load_first(b, b.gep(row, [i64(at)]), lanes, live) for at, lanes, live in vectors]
        new = []
        for r, totals in enumerate(sums):
            at = b.gep(column, [i64(r * gemm.left[0])])
            xs = {lanes: load_spread(b, at, lanes) for _, lanes, _ in vectors}
            pairs = zip(ys, totals, strict=True)
            new.append([add_product(b, xs[y.type.count], y, total) for y, total in pairs])
        for phis, values in zip(sums, new, strict=True):
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(ir.Constant(phi.type, None), before)
                phi.add_incoming(value, b.block)
    return new


def _dots(b: Any, gemm: Gemm, width: int, pointers: tuple[Any, Any], follow: Epilogue) -> None:
    """C of one row: vectors along k, a few columns of B at a time."""
    lanes = width // np.dtype(gemm.dtype).itemsize
    together = min(lanes, 8)
    rest = gemm.n % together
    for start, stop, live in ((0, gemm.n - rest, together), (gemm.n - rest, gemm.n, rest)):
        if start == stop:
            continue
        with loop(b, start, stop, together) as j:
            columns = b.gep(pointers[1], [b.mul(j, i64(gemm.right[1]))])
            sums = _columns(b, gemm, pointers[0], columns, lanes, live)
            sums += [ir.Constant(sums[0].type, None)] * (together - live)
            follow.tile([[sums_of_lanes(b, sums)]], ((0, together, live),), i64(0), j)


def _columns(b: Any, gemm: Gemm, a: Any, columns: Any, lanes: int, count: int) -> list[Any]:
    """Sums along k of A times some columns of B, lane by lane."""
    kind = ir.VectorType(type_of(np.dtype(gemm.dtype)), lanes)
    sums: list[Any] = [ir.Constant(kind, None)] * count

    def more(p: Any, live: int) -> list[Any]:
        at = b.gep(a, [b.mul(p, i64(gemm.left[1]))])
        x = load_first(b, at, lanes, live) if gemm.left[1] else load_spread(b, at, lanes)
        from_b = [b.gep(columns, [b.add(p, i64(j * gemm.right[1]))]) for j in range(count)]
        ys = [load_first(b, at, lanes, live) for at in from_b]
        return [add_product(b, x, y, total) for y, total in zip(ys, sums, strict=True)]

    whole = gemm.k - gemm.k % lanes
    if whole:
        before = b.block
        with loop(b, 0, whole, lanes) as p:
            zeros, sums = sums, [b.phi(kind) for _ in sums]
            new = more(p, lanes)
            for phi, zero, value in zip(sums, zeros, new, strict=True):
                phi.add_incoming(zero, before)
                phi.add_incoming(value, b.block)
        sums = new
    return more(i64(whole), gemm.k - whole) if whole < gemm.k else sums
