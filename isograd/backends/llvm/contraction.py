"""Products of matrices in stacks, and of dtypes that `gemm` does not take: right, not fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isograd.backends.llvm.elements import Operand, load, splat
from isograd.backends.llvm.ir import i64, kernel, loop, loops, offset
from isograd.backends.llvm.lanes import Floats
from isograd.backends.llvm.maths import DTYPES, apply
from isograd.backends.llvm.partial import full, load_first, store_first
from isograd.backends.llvm.reductions import gathered
from isograd.backends.llvm.views import nest
from isograd.engine.ops import Op

_COLUMNS = 4  # vectors of neighbouring results at a time


@dataclass(frozen=True, slots=True)
class Contraction:
    """C = A B for A (…, m, k), B (…, k, n) and C (…, m, n) of one dtype."""

    left: Operand
    right: Operand
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        x, y, out = self.left, self.right, self.write
        rows = nest(out.shape[:-1], [x.strides[:-1], (*y.strides[:-2], 0), out.strides[:-1]])
        depth, length = y.shape[-2:]
        lanes = width // np.dtype(out.dtype).itemsize
        lanes = lanes if y.strides[-1] == out.strides[-1] == 1 else 1
        block = lanes * _COLUMNS

        def body(b: Any, pointers: list[Any]) -> None:
            def join(one: Any, other: Any) -> Any:
                return apply(Op.ADD, (one, other), out.dtype)

            def columns(places: list[Any], low: Any, count: int) -> None:
                sizes = [min(lanes, count - k) for k in range(0, count, lanes)]
                firsts = [
                    b.add(place, b.mul(low, i64(operand.strides[-1])))
                    for place, operand in zip(places[1:], (y, out), strict=True)
                ]

                def terms(walk: list[Any]) -> list[Any]:
                    at = b.add(places[0], b.mul(walk[0], i64(x.strides[-1])))
                    factor = load(b, pointers[0], at, x, 1, 1)
                    if lanes > 1:
                        factor = type(factor)(b, splat(b, factor.value, lanes))
                    row = b.add(firsts[0], b.mul(walk[0], i64(y.strides[-2])))
                    found = []
                    for k, size in enumerate(sizes):
                        here = b.add(row, i64(k * lanes * y.strides[-1]))
                        value = load_first(b, pointers[1], here, y, lanes, size, 0)
                        found.append(apply(Op.MUL, (factor, value), out.dtype))
                    return found

                starts = [full(b, out.dtype, lanes, 0)] * len(sizes)
                rounded = isinstance(starts[0], Floats)
                sums = gathered(b, (depth,), starts, terms, join, rounded) if depth else starts
                for k, (value, size) in enumerate(zip(sums, sizes, strict=True)):
                    here = b.add(firsts[1], i64(k * lanes * out.strides[-1]))
                    store_first(b, pointers[2], here, value, out, lanes, size)

            with loops(b, rows.lengths) as counters:
                places = [offset(b, counters, steps) for steps in rows.steps]
                whole = length - length % block
                if whole:
                    with loop(b, 0, whole, block) as low:
                        columns(places, low, block)
                if whole < length:
                    columns(places, i64(whole), length - whole)

        kernel(module, name, [x.type, y.type, out.type], body)


def contraction(reads: Sequence[Operand], write: Operand) -> Contraction | None:
    """The kernel of a product; None if there is none."""
    if write.dtype not in DTYPES:
        return None
    return Contraction(reads[0], reads[1], write)
