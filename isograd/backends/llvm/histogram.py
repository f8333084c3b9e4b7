"""How often each binary exponent occurs in an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isograd.backends.llvm.elements import Operand, load, portions, store
from isograd.backends.llvm.ir import I1, I64, i64, loop, loops, offset
from isograd.backends.llvm.lanes import Integers
from isograd.backends.llvm.walks import I32, Walk, repeat

# Neighbours are counted in tables of their own: an addition to memory waits for the last one to
# the same place.
TABLES = 4
_COUNTS = Operand("int32", (), ())
_LANES = 16


def count_exponents(walk: Walk, out: Any, tables: Any, zeros: Integers) -> None:
    """Count the exponents of the finite numbers other than zero.

    Args:
        walk: over the array.
        out: where 32-bit counts go, from the smallest subnormal number's exponent on.
        tables: place for TABLES · 2^(bits of the exponent) 32-bit counts.
        zeros: how many elements are zero.
    """
    b, form = walk.builder, walk.repeat(0.0).format
    bins, subnormal = 2 * form.bias + 2, form.shift  # of the latter, one exponent per bit
    _clear(b, tables, TABLES * bins)

    def count_biased(bits: Any, k: int) -> None:
        biased = b.and_(b.lshr(bits, bits.type(subnormal)), bits.type(bins - 1))
        _increment(b, tables, b.add(_index(b, biased), i64(k * bins)))

    def total(i: Any, lanes: int) -> Any:
        a, c, d, e = (
            load(b, tables, b.add(i, i64(k * bins)), _COUNTS, lanes, 1) for k in range(TABLES)
        )
        return (a + c) + (d + e)

    def count_by_leading_bit(bits: Any, _: int) -> None:
        size = b.and_(bits, bits.type((1 << form.bits - 1) - 1))
        below = b.icmp_unsigned("<", size, bits.type(1 << subnormal))
        with b.if_then(b.and_(below, b.icmp_unsigned("!=", size, bits.type(0)))):
            leading = b.sub(bits.type(form.bits - 1), b.ctlz(size, I1(0)))
            _increment(b, out, _index(b, leading))

    _each_number(walk, count_biased)
    for lanes, low, high in portions(bins - 1, _LANES):
        with loop(b, low, high, lanes) as i:
            store(b, out, b.add(i, i64(subnormal - 1)), total(i, lanes), _COUNTS, lanes)
    _clear(b, out, subnormal)
    tiny = b.zext(total(i64(0), 1).value, I64)
    with b.if_then(b.icmp_unsigned(">", tiny, zeros.value), likely=False):
        _each_number(walk, count_by_leading_bit)


def _each_number(walk: Walk, visit: Callable[[Any, int], None]) -> None:
    """Visit the bits of all elements one by one, numbered 0, 1, … TABLES − 1 over and over."""
    if not walk.over.size:
        return
    b, length, step = walk.builder, walk.over.lengths[-1], walk.over.steps[0][-1]
    with loops(b, walk.over.lengths[:-1]) as counters:
        row = offset(b, counters, walk.over.steps[0][:-1])
        for n, low, high in portions(length, TABLES):
            with loop(b, low, high, n) as i:
                for k in range(n):
                    at = b.add(row, b.mul(b.add(i, i64(k)), i64(step)))
                    visit(walk.element(at).bits().value, k)


def _clear(b: Any, table: Any, length: int) -> None:
    for lanes, low, high in portions(length, _LANES):
        with loop(b, low, high, lanes) as i:
            store(b, table, i, repeat(Integers(b, I32(0)), lanes), _COUNTS, lanes)


def _index(b: Any, n: Any) -> Any:
    return n if n.type == I64 else b.zext(n, I64)


def _increment(b: Any, table: Any, index: Any) -> None:
    at = b.gep(table, [index])
    b.store(b.add(b.load(at), I32(1)), at)
