"""Loops, loads and stores in LLVM IR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.ir as ir
import numpy as np

I64 = ir.IntType(64)
I8 = ir.IntType(8)
I1 = ir.IntType(1)

_FLOATS: dict[str, ir.Type] = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


def type_of(dtype: np.dtype[Any]) -> ir.Type:
    """The type of an element in memory: a number, else a word of its size; booleans take a byte."""
    return _FLOATS.get(dtype.name) or ir.IntType(8 * dtype.itemsize)


def i64(n: int) -> ir.Constant:
    """An integer."""
    return ir.Constant(I64, n)


@contextmanager
def loop(b: ir.IRBuilder, start: int, stop: int, step: int = 1) -> Iterator[ir.Value]:
    """A counted loop around the block; gives the counter."""
    before = b.block
    head = b.append_basic_block("loop")
    after = b.append_basic_block("after")
    b.branch(head)
    b.position_at_end(head)
    counter = b.phi(I64)
    counter.add_incoming(i64(start), before)
    yield counter
    following = b.add(counter, i64(step), flags=("nuw", "nsw"))
    counter.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, i64(stop)), head, after)
    b.position_at_end(after)


@contextmanager
def loops(b: ir.IRBuilder, lengths: tuple[int, ...]) -> Iterator[list[ir.Value]]:
    """Loops in one another, from the outermost in; gives their counters."""
    if not lengths:
        yield []
        return
    with loop(b, 0, lengths[0]) as i, loops(b, lengths[1:]) as rest:
        yield [i, *rest]


def offset(b: ir.IRBuilder, counters: list[ir.Value], steps: tuple[int, ...]) -> ir.Value:
    """Σ counter · step."""
    total: ir.Value = i64(0)
    for i, step in zip(counters, steps, strict=True):
        if step:
            total = b.add(total, i if step == 1 else b.mul(i, i64(step)))
    return total


def kernel(
    module: ir.Module, name: str, pointees: list[ir.Type], body: Callable[..., None]
) -> ir.Function:
    """A function of a table of pointers: `void name(void **table)`.

    Args:
        module: where it goes.
        name: its symbol.
        pointees: what each entry of the table points to.
        body: called with the builder and the pointers.
    """
    table_type = ir.IntType(8).as_pointer().as_pointer()
    inner_type = ir.FunctionType(ir.VoidType(), [t.as_pointer() for t in pointees])
    inner = ir.Function(module, inner_type, name + ".body")
    inner.linkage = "internal"
    inner.attributes.add("alwaysinline")
    for arg in inner.args:
        arg.add_attribute("noalias")
    b = ir.IRBuilder(inner.append_basic_block("entry"))
    body(b, list(inner.args))
    b.ret_void()
    outer = ir.Function(module, ir.FunctionType(ir.VoidType(), [table_type]), name)
    b = ir.IRBuilder(outer.append_basic_block("entry"))
    pointers = []
    for i, pointee in enumerate(pointees):
        raw = b.load(b.gep(outer.args[0], [i64(i)]))
        pointers.append(b.bitcast(raw, pointee.as_pointer()))
    b.call(inner, pointers)
    b.ret_void()
    return outer
