"""Which kernel runs an equation by itself."""

from __future__ import annotations

from typing import Any

from isograd.backends.llvm.contraction import contraction
from isograd.backends.llvm.elements import Operand
from isograd.backends.llvm.fused import Fused, step
from isograd.backends.llvm.gemm import gemm
from isograd.backends.llvm.maths import supports
from isograd.backends.llvm.movement import movement
from isograd.backends.llvm.random import random_bits
from isograd.backends.llvm.reductions import reduction
from isograd.backends.llvm.softmax import softmax
from isograd.backends.llvm.views import View, row_major
from isograd.engine.graph import Eqn
from isograd.engine.ops import RULES, Op


def single(eqn: Eqn, reads: tuple[View, ...], write: View) -> Any | None:
    """The kernel of an equation, given its inputs and its output in order; None if there is none.

    Args:
        eqn: the equation.
        reads, write: where its inputs and its output lie.
    """
    names = [v.spec.name for v in eqn.inputs]
    operands = tuple(
        Operand(name, view.shape, view.strides) for name, view in zip(names, reads, strict=True)
    )
    out = Operand(eqn.output.spec.name, write.shape, write.strides)
    floats = all(name in ("float32", "float64") for name in names)
    if RULES[eqn.op].elementwise:
        if not supports(eqn.op, names, out.dtype):
            return None
        alone = step(eqn, tuple(range(len(operands))))
        return Fused(operands, (out,), (alone,), (len(operands),))
    match eqn.op:
        case Op.RESHAPE:
            flat = Operand(out.dtype, reads[0].shape, row_major(reads[0].shape))
            return Fused(operands, (flat,), (), (0,))
        case Op.SUM | Op.REDUCE_MAX:
            return reduction(eqn, operands, out)
        case Op.MATMUL:
            plain = floats and len(write.shape) == 2
            fast = gemm(out.dtype, reads[0], reads[1], None) if plain else None
            return fast or contraction(operands, out)
        case Op.LOG_SOFTMAX | Op.LOGSUMEXP:
            return softmax(eqn, operands, out)
        case Op.GATHER | Op.SCATTER_ADD | Op.PAD:
            return movement(eqn, operands, out)
        case Op.RANDOM_BITS:
            return random_bits(eqn, operands, out)
    return None
