"""Sums and maxima over axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.elements import Operand, load, portions, store, variable
from isograd.backends.llvm.ir import kernel, loop, loops, offset
from isograd.backends.llvm.lanes import Floats
from isograd.backends.llvm.maths import maximum
from isograd.backends.llvm.views import Ints, nest
from isograd.engine.ops import Op


@dataclass(frozen=True, slots=True)
class Reduce:
    """A sum or maximum over axes.

    Where the reduced elements lie side by side, a vector of partial results runs along them; else
    neighbouring results run side by side in a vector.
    """

    op: Op
    read: Operand
    axes: Ints
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, out = self.read, self.write
        kept = [k for k in range(len(x.shape)) if k not in self.axes]
        outer = nest(out.shape, [tuple(x.strides[k] for k in kept), out.strides])
        inner = nest(tuple(x.shape[k] for k in self.axes), [tuple(x.strides[k] for k in self.axes)])
        lanes = width // np.dtype(out.dtype).itemsize
        join = maximum if self.op is Op.REDUCE_MAX else _add
        start = -math.inf if self.op is Op.REDUCE_MAX else 0.0

        def body(b: Any, pointers: list[Any]) -> None:
            def gather(slot: Any, n: int, index: Any) -> None:
                value = load(b, pointers[0], index, x, n, 1)
                b.store(join(Floats(b, b.load(slot)), value).value, slot)

            def beside(counters: list[Any], n: int) -> None:
                """n neighbouring results."""
                base, place = (offset(b, counters, steps) for steps in outer.steps)
                slot = variable(b, out, n, start)
                with loops(b, inner.lengths) as walk:
                    gather(slot, n, b.add(base, offset(b, walk, inner.steps[0])))
                store(b, pointers[1], place, Floats(b, b.load(slot)), out, n)

            def along(counters: list[Any]) -> None:
                """One result, from partial ones."""
                base, place = (offset(b, counters, steps) for steps in outer.steps)
                length = inner.lengths[-1]
                whole = length - length % lanes
                parts, rest = variable(b, out, lanes, start), variable(b, out, 1, start)
                with loops(b, inner.lengths[:-1]) as walk:
                    row = b.add(base, offset(b, walk, inner.steps[0][:-1]))
                    with loop(b, 0, whole, lanes) as i:
                        gather(parts, lanes, b.add(row, i))
                    if whole < length:
                        with loop(b, whole, length) as i:
                            gather(rest, 1, b.add(row, i))
                total, vector = Floats(b, b.load(rest)), b.load(parts)
                for lane in range(lanes):
                    word = b.extract_element(vector, ir.Constant(ir.IntType(32), lane))
                    total = join(total, Floats(b, word))
                store(b, pointers[1], place, total, out, 1)

            if inner.lengths and inner.steps[0][-1] == 1 and inner.lengths[-1] >= lanes:
                with loops(b, outer.lengths) as counters:
                    along(counters)
            elif not outer.lengths:
                beside([], 1)
            else:
                vector = all(steps[-1] == 1 for steps in outer.steps)
                with loops(b, outer.lengths[:-1]) as counters:
                    for n, low, high in portions(outer.lengths[-1], lanes if vector else 1):
                        with loop(b, low, high, n) as i:
                            beside([*counters, i], n)

        kernel(module, name, [x.type, out.type], body)


def _add(x: Floats, y: Floats) -> Floats:
    return x + y
