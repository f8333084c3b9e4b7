"""What an array holds, measured where it lies: moments, extremes, counts; in full or in brief."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.elements import Operand, load, portions, store
from isograd.backends.llvm.histogram import TABLES, count_exponents
from isograd.backends.llvm.ir import I1, I8, i64, kernel, loop
from isograd.backends.llvm.lanes import Floats, Integers, Mask, fma, select, sqrt
from isograd.backends.llvm.measured import MOMENTS, summary_layout
from isograd.backends.llvm.walks import I32, Count, Local, Walk, fold, largest, least, plus, repeat

Interval = tuple[float, float] | None

# The fast pass adds up float32 in lanes. Four partial sums a lane hide the latency of an addition;
# after 32 vectors each they are added in float64. So a sum takes at most 35 roundings, and one of
# squares two more: both are right to ε = 37·2^-24 of the sum of magnitudes.
_PARTS = 4
_BLOCK = 32 * _PARTS
# It takes the variance as mean square minus squared mean, of deviations from the first element.
# While their mean is at most 4 standard deviations σ, the mean is right to √17·ε·σ = 9.1e-6·σ and
# the standard deviation to (17 + 2·4·√17)/2·ε·σ = 5.5e-5·σ.
_FAR = 4.0


@dataclass(frozen=True, slots=True)
class Measure:
    """Statistics of an array as `isograd.telemetry.summary.Summary` defines them, as bytes.

    In brief it is one pass in vectors of the array's format, scaled by a power of two to the size
    of the first vector. What that cannot get right (values that are not finite, or of sizes too
    far apart; a mean far from the first element) shows in its result, and is measured again as in
    full: one pass for extremes and counts, one for the mean and one for the deviations from it,
    the latter two in float64.

    Pointers: the array; the bytes written, aligned to 64; in full, scratch.

    Attributes:
        read: float32 or float64.
        active: (lo, hi), as for `Summary.of`.
        full: everything that a summary holds; else only MOMENTS.
    """

    read: Operand
    active: Interval
    full: bool

    @property
    def layout(self) -> np.dtype[Any]:
        """Of the bytes written: MOMENTS, or `summary_layout`."""
        if not self.full:
            return MOMENTS
        by_column = self.active is not None and len(self.read.shape) == 2
        return summary_layout(self.read.dtype, self.read.shape[1] if by_column else 0)

    @property
    def nbytes(self) -> int:
        """How many bytes are written."""
        return self.layout.itemsize

    @property
    def scratch(self) -> int:
        """How many bytes are needed for the time of a call."""
        return 4 * TABLES << np.finfo(self.read.dtype).nexp if self.full else 0

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""

        def body(b: Any, pointers: list[Any]) -> None:
            walk = Walk(b, pointers[0], self.read, width)
            record = _Record(b, pointers[1], self.layout)
            if self.full:
                counts = _exact(walk, self.active, record)
                place = record.place("exponents", I32)
                count_exponents(walk, place, pointers[2], counts["zeros"])
                if self.active is not None and len(self.read.shape) == 2:
                    _mark_columns(walk, self.active, record, counts["saturated"])
            elif walk.dense:
                with b.if_then(b.not_(_fast(walk, self.active, record)), likely=False):
                    _exact(walk, self.active, record)
            else:
                _exact(walk, self.active, record)

        scratch = [I32] if self.full else []
        kernel(module, name, [self.read.type, I8, *scratch], body)


@dataclass(frozen=True, slots=True)
class _Record:
    """The fields that a kernel writes."""

    builder: Any
    pointer: Any
    layout: np.dtype[Any]

    def place(self, name: str, kind: Any) -> Any:
        """A pointer to a field; those of MOMENTS come first in any layout."""
        layout = self.layout if name in (self.layout.names or ()) else MOMENTS
        assert layout.fields is not None
        at = self.builder.gep(self.pointer, [i64(layout.fields[name][1])])
        return self.builder.bitcast(at, kind.as_pointer())

    def write(self, **values: Floats | Integers) -> None:
        """Values of fields, each of 64 bits."""
        for name, value in values.items():
            self.builder.store(value.value, self.place(name, value.value.type), align=8)


def _fast(walk: Walk, active: Interval, record: _Record) -> Any:
    """Moments in one pass over elements side by side; gives the bit whether they are right."""
    b, n, lanes = walk.builder, walk.over.size, walk.lanes
    first = walk.element(i64(0))
    scale = _scale(walk.repeat(first) if n < lanes else walk.vector(i64(0)))
    origin, unit, first_scaled = (walk.repeat(x) for x in (first, scale, first * scale))
    low, high = Local(origin), Local(origin)
    zeros, outside = Count(b), Count(b)
    sums = [Local(_double(walk.repeat(0.0))) for _ in range(2)]

    def block(start: Any, vectors: int, rest: int = 0) -> None:
        """So many vectors from an index on, and elements behind them."""
        parts = [[Local(walk.repeat(0.0)) for _ in range(_PARTS)] for _ in sums]

        def visit(x: Floats, lanes_used: Mask, k: int) -> None:
            d = fma(x, unit, -first_scaled)
            parts[0][k].set(parts[0][k].get() + d)
            parts[1][k].set(fma(d, d, parts[1][k].get()))
            low.set(least(x, low.get()))
            high.set(largest(x, high.get()))
            zeros.add(x.eq(0.0) & lanes_used)
            if active is not None:
                outside.add(_outside(x, active) & lanes_used)

        whole = vectors - vectors % _PARTS
        if whole:
            with loop(b, 0, whole * lanes, _PARTS * lanes) as i:
                for k in range(_PARTS):
                    at = b.add(start, b.add(i, i64(k * lanes)))
                    visit(walk.vector(at), walk.mask(lanes), k)
        for k in range(vectors - whole):
            at = b.add(start, i64((whole + k) * lanes))
            visit(walk.vector(at), walk.mask(lanes), k)
        if rest:
            # The first element in the lanes left over changes neither sums nor extremes.
            at = b.add(start, i64(vectors * lanes))
            visit(walk.tail(at, rest, origin), walk.mask(rest), _PARTS - 1)
        for total, partial in zip(sums, parts, strict=True):
            a, c, d, e = (part.get() for part in partial)
            total.set(total.get() + _double((a + c) + (d + e)))

    vectors, rest = divmod(n, lanes)
    blocks, vectors = divmod(vectors, _BLOCK)
    if blocks:
        with loop(b, 0, blocks * _BLOCK * lanes, _BLOCK * lanes) as start:
            block(start, _BLOCK)
    if vectors or rest:
        block(i64(blocks * _BLOCK * lanes), vectors, rest)

    lowest, highest = _double(fold(low.get(), least)), _double(fold(high.get(), largest))
    shift, square = (fold(total.get(), plus) * (1 / n) for total in sums)
    mean, std, right = _from_deviations(first, scale, shift, square, lowest.eq(highest))
    mean, std = _bounded(mean, std, lowest, highest)
    record.write(count=Integers(b, i64(n)), mean=mean, std=std, min=lowest, max=highest)
    record.write(zeros=zeros.get(), nonfinite=Integers(b, i64(0)), saturated=outside.get())
    return right.value


def _from_deviations(
    first: Floats, scale: Floats, shift: Floats, square: Floats, flat: Mask
) -> tuple[Floats, Floats, Mask]:
    """Mean and standard deviation, and whether they are right.

    Args:
        first: the first element.
        scale: of the deviations from it.
        shift: their mean, in float64; NaN or infinite if one of them is.
        square: the mean of their squares, likewise.
        flat: whether all that is not NaN is equal.
    """
    constant = square.eq(0.0) & flat
    squares_kept = (square < math.inf) & (square > 1024 * first.format.tiny)
    near = shift * shift * (1 + _FAR**2) <= square * _FAR**2
    std = sqrt(select(near, square - shift * shift, 0.0)) / _double(scale)
    mean = (_double(first * scale) + shift) / _double(scale)
    return mean, std, constant | (squares_kept & near)


def _scale(x: Floats) -> Floats:
    """The power of two that takes the largest magnitude in any lane to 1 or above; 1 for zeros."""
    form = x.format
    top: Floats = fold(abs(x), largest)
    exponent = top.bits() >> form.shift
    field = exponent.like(2 * form.bias) - exponent
    field = select(field < 1, field.like(1), field)
    return select(top.eq(0.0), top.like(1.0), (field << form.shift).floats())


def _exact(walk: Walk, active: Interval, record: _Record) -> dict[str, Integers]:
    """Extremes and counts, then moments in float64; gives the counts."""
    b, in_full = walk.builder, record.layout != MOMENTS
    low, high = Local(walk.repeat(math.inf)), Local(walk.repeat(-math.inf))
    smallest = Local(walk.repeat(math.inf))
    names = ("count", "zeros", "saturated", "nans", "pos_infs", "neg_infs")
    counts = {name: Count(b) for name in names}

    def look(x: Floats, used: Mask) -> None:
        finite = (abs(x) < math.inf) & used
        low.set(least(select(finite, x, math.inf), low.get()))
        high.set(largest(select(finite, x, -math.inf), high.get()))
        counts["count"].add(finite)
        counts["zeros"].add(x.eq(0.0) & used)
        if active is not None:
            counts["saturated"].add(_outside(x, active) & used)
        if in_full:
            size = select(finite & x.ne(0.0), abs(x), math.inf)
            smallest.set(least(size, smallest.get()))
            counts["nans"].add(x.ne(x) & used)
            counts["pos_infs"].add(x.eq(math.inf) & used)
            counts["neg_infs"].add(x.eq(-math.inf) & used)

    walk.each(look)
    lowest, highest = _double(fold(low.get(), least)), _double(fold(high.get(), largest))
    total = {name: local.get() for name, local in counts.items()}
    mean, std = _two_passes(walk, total["count"], largest(-lowest, highest))
    mean, std = _bounded(mean, std, lowest, highest)
    some = Integers(b, i64(0)) < total["count"]
    mean, std = select(some, mean, 0.0), select(some, std, 0.0)
    nonfinite = Integers(b, i64(math.prod(walk.operand.shape))) - total["count"]
    record.write(count=total["count"], mean=mean, std=std, min=lowest, max=highest)
    record.write(zeros=total["zeros"], nonfinite=nonfinite, saturated=total["saturated"])
    if in_full:
        record.write(**{name: total[name] for name in ("nans", "pos_infs", "neg_infs")})
        record.write(min_abs=_double(fold(smallest.get(), least)))
    return total


def _two_passes(walk: Walk, count: Integers, max_abs: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the finite values, whose error does not grow with mean/std."""
    b, zero = walk.builder, _double(walk.repeat(0.0))
    n = Floats(b, b.sitofp(count.value, zero.format.ir_float))
    # Squares must neither overflow nor be subnormal; a power of two changes no digit.
    power = _scale(max_abs) if walk.repeat(0.0).format.bits == 64 else n.like(1.0)
    scale = repeat(power, zero.n)
    sums, squares = Local(zero), Local(zero)

    def scaled(x: Floats, used: Mask) -> tuple[Floats, Mask]:
        finite = (abs(x) < math.inf) & used
        return _double(select(finite, x, 0.0)) * scale, finite

    def add(x: Floats, used: Mask) -> None:
        sums.set(sums.get() + scaled(x, used)[0])

    walk.each(add)
    mean = fold(sums.get(), plus) / n
    centre = repeat(mean, zero.n)

    def add_square(x: Floats, used: Mask) -> None:
        y, finite = scaled(x, used)
        d = select(finite, y - centre, 0.0)
        squares.set(fma(d, d, squares.get()))

    walk.each(add_square)
    return mean / power, sqrt(fold(squares.get(), plus) / n) / power


def _mark_columns(
    walk: Walk, active: tuple[float, float], record: _Record, outside: Integers
) -> None:
    """Which columns of a matrix are outside the active interval in every row."""
    b, x = walk.builder, walk.operand
    out, flags = record.place("units_off", I8), Operand("bool", x.shape[1:], (1,))
    (rows, width), (down, right) = x.shape, x.strides

    def mark(j: Any, lanes: int) -> None:
        off = Local(Mask(b, I1(1) if lanes == 1 else ir.VectorType(I1, lanes)([1] * lanes)))
        with loop(b, 0, rows) as i:
            at = b.add(b.mul(i, i64(down)), b.mul(j, i64(right)))
            off.set(off.get() & _outside(load(b, walk.pointer, at, x, lanes, 1), active))
        store(b, out, j, off.get(), flags, lanes)

    if not rows or not width:
        return
    with loop(b, 0, width) as j:
        b.store(I8(0), b.gep(out, [j]))
    with b.if_then(b.icmp_signed(">=", outside.value, i64(rows)), likely=False):
        for lanes, low, high in portions(width, walk.lanes if right == 1 else 1):
            with loop(b, low, high, lanes) as j:
                mark(j, lanes)


def _double(x: Floats) -> Floats:
    return x if x.format.bits == 64 else x.wide()


def _outside(x: Floats, active: tuple[float, float]) -> Mask:
    """Below or above the interval, whose bounds are rounded to the format."""
    with np.errstate(over="ignore"):
        low, high = (float(np.dtype(x.format.name).type(bound)) for bound in active)
    return (x < low) | (x > high)


def _bounded(mean: Floats, std: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """min ≤ mean ≤ max and std ≤ (max - min)/2 when rounded too, so a constant has no spread."""
    return least(largest(mean, low), high), least(std, high * 0.5 - low * 0.5)
