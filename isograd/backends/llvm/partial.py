"""Vectors of which only the first lanes lie in memory, and lanes joined into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.elements import Operand, load, store
from isograd.backends.llvm.ir import I1, I8, type_of
from isograd.backends.llvm.lanes import Mask, kind_of

_I32 = ir.IntType(32)


def full(b: Any, dtype: str, lanes: int, number: float) -> Any:
    """A number of a dtype in every lane."""
    kind = kind_of(dtype)
    element = I1 if kind is Mask else type_of(np.dtype(dtype))
    one = ir.Constant(element, number)
    return kind(b, one if lanes == 1 else ir.Constant(ir.VectorType(element, lanes), [one] * lanes))


def load_first(
    b: Any, pointer: Any, index: Any, operand: Operand, lanes: int, count: int, rest: float
) -> Any:
    """`lanes` neighbouring elements from an index on; a number from the `count`-th on."""
    if count == lanes:
        return load(b, pointer, index, operand, lanes, 1)
    kind = ir.VectorType(operand.type, lanes)
    others = ir.Constant(kind, [ir.Constant(operand.type, rest)] * lanes)
    name = f"llvm.masked.load.{_suffix(operand, lanes)}.p0"
    routine = _routine(b, name, kind, [I8.as_pointer(), _I32, _first(0, lanes).type, kind])
    at = b.bitcast(b.gep(pointer, [index]), I8.as_pointer())
    value = b.call(routine, [at, _I32(_align(operand)), _first(count, lanes), others])
    if operand.dtype == "bool":
        return Mask(b, b.icmp_unsigned("!=", value, ir.Constant(kind, None)))
    return kind_of(operand.dtype)(b, value)


def store_first(
    b: Any, pointer: Any, index: Any, value: Any, operand: Operand, lanes: int, count: int
) -> None:
    """The first `count` lanes to an index on."""
    if count == lanes:
        store(b, pointer, index, value, operand, lanes)
        return
    kind = ir.VectorType(operand.type, lanes)
    word = b.zext(value.value, kind) if operand.dtype == "bool" else value.value
    name = f"llvm.masked.store.{_suffix(operand, lanes)}.p0"
    args = [kind, I8.as_pointer(), _I32, _first(0, lanes).type]
    routine = _routine(b, name, ir.VoidType(), args)
    at = b.bitcast(b.gep(pointer, [index]), I8.as_pointer())
    b.call(routine, [word, at, _I32(_align(operand)), _first(count, lanes)])


def across(x: Any, join: Callable[[Any, Any], Any]) -> Any:
    """All lanes joined: halves, halves of halves, …"""
    b = x.builder
    while x.n > 1:
        half = x.n // 2
        low, high = (_piece(b, x.value, start, half) for start in (0, half))
        x = join(type(x)(b, low), type(x)(b, high))
    return x


def first_lanes(b: Any, lanes: int, count: int) -> Mask:
    """True in the first lanes."""
    return Mask(b, _first(count, lanes))


def _piece(b: Any, value: Any, start: int, count: int) -> Any:
    if count == 1:
        return b.extract_element(value, _I32(start))
    places = ir.Constant(ir.VectorType(_I32, count), [_I32(start + k) for k in range(count)])
    return b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places)


def _first(count: int, lanes: int) -> Any:
    return ir.Constant(ir.VectorType(I1, lanes), [I1(int(k < count)) for k in range(lanes)])


def _suffix(operand: Operand, lanes: int) -> str:
    bits = 8 * _align(operand)
    return f"v{lanes}{'f' if operand.dtype.startswith('float') else 'i'}{bits}"


def _align(operand: Operand) -> int:
    return int(np.dtype(operand.dtype).itemsize)


def _routine(b: Any, name: str, result: Any, args: list[Any]) -> Any:
    function = b.module.globals.get(name)
    return function or ir.Function(b.module, ir.FunctionType(result, args), name)
