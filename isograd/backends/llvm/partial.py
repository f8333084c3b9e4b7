"""Lanes of which only the first are in memory, and lanes joined into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm import vectors
from isograd.backends.llvm.elements import Operand, load, store
from isograd.backends.llvm.ir import I1, type_of
from isograd.backends.llvm.lanes import Mask, kind_of, select

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
    word = vectors.load_first(b, b.gep(pointer, [index]), lanes, count)
    if operand.dtype == "bool":
        return Mask(b, b.icmp_unsigned("!=", word, ir.Constant(word.type, None)))
    value = kind_of(operand.dtype)(b, word)
    return select(first_lanes(b, lanes, count), value, value.like(rest)) if rest else value


def store_first(
    b: Any, pointer: Any, index: Any, value: Any, operand: Operand, lanes: int, count: int
) -> None:
    """The first `count` lanes to an index on."""
    if count == lanes:
        store(b, pointer, index, value, operand, lanes)
        return
    word = value.value
    if operand.dtype == "bool":
        word = b.zext(word, ir.VectorType(operand.type, lanes))
    vectors.store_first(b, word, b.gep(pointer, [index]), count)


def first_lanes(b: Any, lanes: int, count: int) -> Mask:
    """True in the first lanes."""
    return Mask(b, ir.Constant(ir.VectorType(I1, lanes), [int(k < count) for k in range(lanes)]))


def across(x: Any, join: Callable[[Any, Any], Any]) -> Any:
    """All lanes joined: halves, halves of halves, …"""
    b = x.builder
    while x.n > 1:
        half = x.n // 2
        low, high = (_piece(b, x.value, start, half) for start in (0, half))
        x = join(type(x)(b, low), type(x)(b, high))
    return x


def _piece(b: Any, value: Any, start: int, count: int) -> Any:
    if count == 1:
        return b.extract_element(value, _I32(start))
    places = ir.Constant(ir.VectorType(_I32, count), [_I32(start + k) for k in range(count)])
    return b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places)
