"""What follows a matrix product, tile by tile: elementwise equations in registers or memory."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from isograd.backends.llvm.elements import Operand, load
from isograd.backends.llvm.fused import Fused, Step, evaluate
from isograd.backends.llvm.ir import I8, i64, loop
from isograd.backends.llvm.lanes import Floats, Mask, kind_of
from isograd.backends.llvm.vectors import load_first, store_first
from isograd.engine.ops import Op

Vectors = tuple[tuple[int, int, int], ...]
"""(column, lanes, lanes in use) of the vectors of a row of C."""


class Epilogue:
    """What is computed from the elements of C, and where it reads and writes."""

    def __init__(self, b: Any, fused: Fused, pointers: list[Any]) -> None:
        self.b, self.fused = b, fused
        self.operands = list(zip((*fused.reads[1:], *fused.writes), pointers, strict=True))

    def tile(self, sums: list[list[Any]], vectors: Vectors, row: Any, column: Any) -> None:
        """A tile of C, whose first element is in so many a row and column."""
        b = self.b
        corners = []
        for operand, pointer in self.operands:
            down, across = operand.strides
            index = b.mul(row, i64(down))
            corners.append(b.gep(pointer, [b.add(index, column) if across else index]))
        if _short(self.fused.steps):
            for r, values in enumerate(sums):
                for value, (at, _, live) in zip(values, vectors, strict=True):
                    self._vector(b, value, corners, i64(r), i64(at), live)
            return
        with b.goto_entry_block():
            tile = b.alloca(ir.ArrayType(sums[0][0].type, len(vectors)), len(sums))
        for r, values in enumerate(sums):
            for v, value in enumerate(values):
                place = b.gep(tile, [i64(r), i64(v)])
                b.store(value, b.bitcast(place, value.type.as_pointer()))
        args = [tile, *corners]
        b.call(self._function(vectors, len(sums), [arg.type for arg in args]), args)

    def _function(self, vectors: Vectors, height: int, types: list[Any]) -> Any:
        """The steps on a tile in memory.

        A function of its own, as LLVM would hold their constants in registers while C is summed.
        """
        module = self.b.module
        name = module.get_unique_name(self.b.function.name + ".tile")
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        tile, *corners = function.args
        b = ir.IRBuilder(function.append_basic_block("entry"))
        lanes = vectors[0][1]
        whole = sum(live == lanes for *_, live in vectors)
        with loop(b, 0, height) as r:
            if whole:
                with loop(b, 0, whole) as v:
                    value = b.load(b.gep(tile, [r, v]))
                    self._vector(b, value, corners, r, b.mul(v, i64(lanes)), lanes)
            for at, narrow, live in vectors[whole:]:
                kind = ir.VectorType(tile.type.pointee.element.element, narrow)
                place = b.bitcast(b.gep(tile, [r, i64(whole)]), kind.as_pointer())
                self._vector(b, b.load(place), corners, r, i64(at), live)
        b.ret_void()
        return function

    def _vector(
        self, b: Any, value: Any, corners: list[Any], row: Any, column: Any, live: int
    ) -> None:
        """A vector of C, so far from the corners."""
        reads, lanes = self.fused.reads[1:], value.type.count
        places = []
        for corner, (operand, _) in zip(corners, self.operands, strict=True):
            index = _times(b, row, operand.strides[0])
            index = _plus(b, index, column) if operand.strides[1] else index
            places.append(b.gep(corner, [index]))
        values: list[Any] = [Floats(b, value)]
        for place, operand in zip(places, reads, strict=False):
            values.append(_read(b, place, operand, lanes, live))
        evaluate(values, self.fused.steps)
        outs = places[len(reads) :]
        for place, operand, i in zip(outs, self.fused.writes, self.fused.stored, strict=True):
            word = values[i].value
            if operand.dtype == "bool":
                word = b.zext(word, ir.VectorType(I8, lanes))
            store_first(b, word, place, live)


def _read(b: Any, place: Any, operand: Operand, lanes: int, live: int) -> Any:
    """The lanes of an operand, in the form that steps take."""
    if operand.strides[1] == 0:
        return load(b, place, i64(0), operand, lanes, 0)
    value = load_first(b, place, lanes, live)
    if operand.dtype == "bool":
        return Mask(b, b.icmp_unsigned("!=", value, ir.Constant(value.type, None)))
    return kind_of(operand.dtype)(b, value)


def _short(steps: tuple[Step, ...]) -> bool:
    """Whether steps are few instructions, so that repeating them costs little code."""
    return len(steps) <= 2 and all(op in _CHEAP for op, *_ in steps)


_CHEAP = {
    Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.ABS, Op.MAX, Op.MIN, Op.SELECT, Op.STOP_GRADIENT,
    Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE,
}  # fmt: skip


def _times(b: Any, x: Any, y: int) -> Any:
    return i64(x.constant * y) if isinstance(x, ir.Constant) else b.mul(x, i64(y))


def _plus(b: Any, x: Any, y: Any) -> Any:
    known = isinstance(x, ir.Constant) and isinstance(y, ir.Constant)
    return i64(x.constant + y.constant) if known else b.add(x, y)
