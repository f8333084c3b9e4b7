"""Logarithms of softmax and of sums of exponentials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from isograd.backends.llvm.elements import Operand, constant, load, slot_of, store
from isograd.backends.llvm.exponential import exp, expm1
from isograd.backends.llvm.ir import I64, i64, kernel, loop, loops, offset
from isograd.backends.llvm.lanes import Floats, Mask, select
from isograd.backends.llvm.logarithm import log1p
from isograd.backends.llvm.views import nest


@dataclass(frozen=True, slots=True)
class LogSoftmax:
    """x − ln Σ eˣ along an axis, the largest term taken out of the sum as in the reference."""

    read: Operand
    axis: int
    write: Operand

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module."""
        x, out, n = self.read, self.write, self.read.shape[self.axis]
        others = [k for k in range(len(x.shape)) if k != self.axis]
        over = nest(
            tuple(x.shape[k] for k in others),
            [tuple(o.strides[k] for k in others) for o in (x, out)],
        )
        step, out_step = x.strides[self.axis], out.strides[self.axis]

        def body(b: Any, pointers: list[Any]) -> None:
            def element(base: Any, i: Any) -> Floats:
                index = b.add(base, b.mul(i, i64(step)))
                value: Floats = load(b, pointers[0], index, x, 1, 0)
                return value

            with loops(b, over.lengths) as counters:
                base, place = (offset(b, counters, steps) for steps in over.steps)
                top, where, total = slot_of(b, x, 1), _index(b), slot_of(b, x, 1)
                b.store(element(base, i64(0)).value, top)
                b.store(i64(0), where)
                if n > 1:
                    with loop(b, 1, n) as i:
                        value, best = element(base, i), Floats(b, b.load(top))
                        # As argmax: the first of several, and the first NaN.
                        better = (value > best) | (value.ne(value) & best.eq(best))
                        b.store(select(better, value, best).value, top)
                        b.store(b.select(better.value, i, b.load(where)), where)
                best = Floats(b, b.load(top))
                finite = abs(best) < math.inf
                shift = select(finite, best, 0.0)
                b.store(constant(x, 1, 0.0), total)
                with loop(b, 0, n) as i:
                    term = element(base, i) - shift
                    largest = Mask(b, b.icmp_signed("==", i, b.load(where)))
                    term = select(largest, expm1(term), exp(term))
                    b.store((Floats(b, b.load(total)) + term).value, total)
                lse = log1p(Floats(b, b.load(total)))
                with loop(b, 0, n) as i:
                    index = b.add(place, b.mul(i, i64(out_step)))
                    store(b, pointers[1], index, element(base, i) - shift - lse, out, 1)

        kernel(module, name, [x.type, out.type], body)


def _index(b: Any) -> Any:
    with b.goto_entry_block():
        return b.alloca(I64)
