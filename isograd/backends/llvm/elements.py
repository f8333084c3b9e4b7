"""Elements: how kernels load, store and loop over them.

A kernel knows shapes and strides, not places: it gets a table of pointers, so that all layers of
one form share one, and compiling does not grow with depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.ir import I8, type_of
from isograd.backends.llvm.lanes import Mask, kind_of
from isograd.backends.llvm.views import Ints


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
    return kind_of(operand.dtype)(b, value)


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


def portions(length: int, lanes: int) -> list[tuple[int, int, int]]:
    """(lanes, from, to): whole vectors, then what is left one by one."""
    whole = length - length % lanes
    parts = [(lanes, 0, whole), (1, whole, length)] if lanes > 1 else [(1, 0, length)]
    return [part for part in parts if part[1] < part[2]]


def variable(b: Any, operand: Operand, n: int, value: float) -> Any:
    """A local variable with a first value; it becomes a register."""
    slot = slot_of(b, operand, n)
    b.store(constant(operand, n, value), slot)
    return slot


def slot_of(b: Any, operand: Operand, n: int) -> Any:
    """A local variable; it becomes a register."""
    kind = operand.type if n == 1 else ir.VectorType(operand.type, n)
    with b.goto_entry_block():
        return b.alloca(kind)


def constant(operand: Operand, n: int, value: float) -> Any:
    if n == 1:
        return ir.Constant(operand.type, value)
    return ir.Constant(ir.VectorType(operand.type, n), [ir.Constant(operand.type, value)] * n)
