"""Vectors in memory and among each other: of which a part is in use, transposed, summed up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from isograd.backends.llvm.ir import I1, i64, loop
from isograd.backends.llvm.views import Ints

_I32 = ir.IntType(32)


# --- vectors of which only the first elements are in use


def load_first(b: Any, at: Any, lanes: int, live: int) -> Any:
    """A vector from a place on; zeros in the lanes not in use, whose memory is not touched."""
    kind = ir.VectorType(at.type.pointee, lanes)
    place = b.bitcast(at, kind.as_pointer())
    if live == lanes:
        return b.load(place, align=_bytes(kind.element))
    zeros = ir.Constant(kind, None)
    rest = [ir.Constant(_I32, _bytes(kind.element)), _mask(lanes, live), zeros]
    return _call(b, f"llvm.masked.load.{_name(kind)}.p0", kind, [place, *rest])


def store_first(b: Any, value: Any, at: Any, live: int) -> None:
    """The lanes in use of a vector to a place."""
    kind = value.type
    place, align = b.bitcast(at, kind.as_pointer()), _bytes(kind.element)
    if live == kind.count:
        b.store(value, place, align=align)
        return
    rest = [ir.Constant(_I32, align), _mask(kind.count, live)]
    name = f"llvm.masked.store.{_name(kind)}.p0"
    _call(b, name, ir.VoidType(), [value, place, *rest])


def load_spread(b: Any, at: Any, lanes: int) -> Any:
    """An element in every lane."""
    kind = ir.VectorType(at.type.pointee, 1)
    one = b.load(b.bitcast(at, kind.as_pointer()), align=_bytes(kind.element))
    return _shuffle(b, one, one, [0] * lanes)


def add_product(b: Any, x: Any, y: Any, total: Any) -> Any:
    """x·y + total; rounded once where the processor has an instruction for that."""
    return _call(b, f"llvm.fmuladd.{_name(x.type)}", x.type, [x, y, total])


def _call(b: Any, name: str, kind: Any, args: list[Any]) -> Any:
    signature = ir.FunctionType(kind, [arg.type for arg in args])
    return b.call(b.module.globals.get(name) or ir.Function(b.module, signature, name), args)


def _mask(lanes: int, live: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(I1, lanes), [int(i < live) for i in range(lanes)])


def _bytes(element: Any) -> int:
    if isinstance(element, ir.IntType):
        return int(element.width) // 8
    return 4 if element == ir.FloatType() else 8


def _name(kind: Any) -> str:
    letter = "i" if isinstance(kind.element, ir.IntType) else "f"
    return f"v{kind.count}{letter}{8 * _bytes(kind.element)}"


def _shuffle(b: Any, x: Any, y: Any, order: Iterable[int]) -> Any:
    order = list(order)
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(order)), order))


# --- sums of lanes


def sums_of_lanes(b: Any, vectors: Sequence[Any]) -> Any:
    """The sum of the lanes of each of 2ⁱ vectors, in a vector; they have so many lanes or more."""
    rows = list(vectors)
    while len(rows) > 1:
        rows = [_pairs(b, x, y) for x, y in zip(rows[::2], rows[1::2], strict=True)]
    (total,) = rows
    while total.type.count > len(vectors):
        total = _pairs(b, total, None)
    return total


def _pairs(b: Any, x: Any, y: Any | None) -> Any:
    """Sums of neighbours in x, then those in y."""
    end = x.type.count * (1 if y is None else 2)
    y = x if y is None else y
    return b.fadd(_shuffle(b, x, y, range(0, end, 2)), _shuffle(b, x, y, range(1, end, 2)))


# --- transposing


def transpose(b: Any, source: Any, source_step: int, to: Any, step: int, shape: Ints) -> None:
    """to[p, j] = source[j, p] for a (p, j) shape.

    In squares of registers; the last of a row or column begins early enough to be whole.
    """
    edge = 32 // _bytes(source.type.pointee)
    if min(shape) < edge:
        with loop(b, 0, shape[1]) as j, loop(b, 0, shape[0]) as p:
            value = b.load(b.gep(source, [b.add(b.mul(j, i64(source_step)), p)]))
            b.store(value, b.gep(to, [b.add(b.mul(p, i64(step)), j)]))
        return
    half = edge // 2
    with _blocks(b, shape[1], edge) as j, _blocks(b, shape[0], edge) as p:
        corner = b.gep(source, [b.add(b.mul(j, i64(source_step)), p)])
        target = b.gep(to, [b.add(b.mul(p, i64(step)), j)])
        for at in (0, half):
            parts = [
                load_first(b, b.gep(corner, [i64(i * source_step + at)]), half, half)
                for i in range(edge)
            ]
            rows = [
                _shuffle(b, x, y, range(edge))
                for x, y in zip(parts[:half], parts[half:], strict=True)
            ]
            for i, column in enumerate(_squares(b, rows)):
                store_first(b, column, b.gep(target, [i64((at + i) * step)]), edge)


@contextmanager
def _blocks(b: Any, length: int, edge: int) -> Iterator[Any]:
    """A loop over the starts of blocks that cover a length."""
    with loop(b, 0, -(-length // edge)) as i:
        start, last = b.mul(i, i64(edge)), i64(length - edge)
        yield b.select(b.icmp_signed("<", start, last), start, last)


def _squares(b: Any, rows: list[Any]) -> list[Any]:
    """Each 128-bit part of the rows transposed by itself, 2 × 2 or 4 × 4."""
    if len(rows) == 2:
        x, y = rows
        return [_shuffle(b, x, y, order) for order in ((0, 4, 2, 6), (1, 5, 3, 7))]
    w, x, y, z = rows
    columns = []
    for pair in ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)):
        first, second = _shuffle(b, w, x, pair), _shuffle(b, y, z, pair)
        for order in ((0, 2, 8, 10, 4, 6, 12, 14), (1, 3, 9, 11, 5, 7, 13, 15)):
            columns.append(_shuffle(b, first, second, order))
    return columns
