"""Elementwise equations as one loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isograd.backends.llvm.elements import Operand, load, portions, store
from isograd.backends.llvm.ir import kernel, loop, loops, offset
from isograd.backends.llvm.maths import ELEMENTWISE
from isograd.backends.llvm.views import Ints, nest
from isograd.engine.ops import Op


@dataclass(frozen=True, slots=True)
class Fused:
    """Elementwise equations over one shape, as one loop.

    Attributes:
        reads, writes: operands.
        steps: (primitive, numbers of its arguments); values are numbered, the reads first.
        stored: the number of the value that goes into each of the writes.
    """

    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    steps: tuple[tuple[Op, Ints], ...]
    stored: Ints

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        operands = (*self.reads, *self.writes)
        over = nest(self.writes[0].shape, [o.strides for o in operands])
        bytes_each = max(np.dtype(o.dtype).itemsize for o in operands)
        lanes = width // bytes_each
        inner = [steps[-1] if steps else 0 for steps in over.steps]
        vector = all(s in (0, 1) for s in inner) and all(s == 1 for s in inner[len(self.reads) :])

        def body(b: Any, pointers: list[Any]) -> None:
            def at(counters: list[Any], n: int) -> None:
                where = [offset(b, counters, steps) for steps in over.steps]
                values = [
                    load(b, p, w, o, n, s)
                    for p, w, o, s in zip(pointers, where, self.reads, inner, strict=False)
                ]
                for op, numbers in self.steps:
                    values.append(ELEMENTWISE[op](*(values[i] for i in numbers)))
                offsets = where[len(self.reads) :]
                outs = pointers[len(self.reads) :]
                for p, w, o, i in zip(outs, offsets, self.writes, self.stored, strict=True):
                    store(b, p, w, values[i], o, n)

            if not over.lengths:
                at([], 1)
                return
            with loops(b, over.lengths[:-1]) as counters:
                for n, low, high in portions(over.lengths[-1], lanes if vector else 1):
                    with loop(b, low, high, n) as i:
                        at([*counters, i], n)

        kernel(module, name, [o.type for o in operands], body)


def supports(op: Op, dtypes: Sequence[str]) -> bool:
    """Whether there is a kernel for an elementwise primitive on these dtypes."""
    if op not in ELEMENTWISE:
        return False
    if op is Op.SELECT:
        return all(d in _FLOATS for d in dtypes[1:])
    if all(d in ("int32", "int64") for d in dtypes):
        return op in (Op.EQ, Op.LT, Op.ADD, Op.SUB)
    return all(d in _FLOATS for d in dtypes)


_FLOATS = ("float32", "float64")
