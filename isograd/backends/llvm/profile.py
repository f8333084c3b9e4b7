"""Where the time of a program goes, kernel by kernel, beside what the machine can do."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm import jit
from isograd.backends.llvm.arena import aligned
from isograd.backends.llvm.blas import Product
from isograd.backends.llvm.driver import DRIVE
from isograd.backends.llvm.fused import Fused
from isograd.backends.llvm.gemm import Gemm
from isograd.backends.llvm.ir import I64, i64, kernel, loop
from isograd.backends.llvm.movement import Gather
from isograd.backends.llvm.program import Program
from isograd.backends.llvm.work import Work
from isograd.engine.graph import Eqn


@dataclass(frozen=True, slots=True)
class Line:
    """The items of a program that one kernel does.

    Attributes:
        kernel: what it does.
        items: how many there are in a round.
        seconds: of all of them in a round.
        flops: of all of them in a round; of matrix products, else 0.
        nbytes: that all of them read and write in a round.
    """

    kernel: str
    items: int
    seconds: float
    flops: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Profile:
    """Of a round of a program.

    Attributes:
        lines: the slowest first.
        seconds: wall time of a round, of which the lines are most on one thread.
        threads: how many share the work.
        peak: FLOP/s of multiply-adds on registers, on one core: no product is faster.
    """

    lines: tuple[Line, ...]
    seconds: float
    threads: int
    peak: float


def profile(program: Program, rounds: int, seconds: float) -> Profile:
    """Where the time went.

    Args:
        program: a timed one, that has run.
        rounds: how many it has run.
        seconds: wall time of these.
    """
    found: dict[str, list[tuple[Work, int]]] = {}
    spent = program.nanoseconds
    for i, work in enumerate(program.items):
        if i in spent:
            found.setdefault(described(work), []).append((work, spent[i]))
    lines = [
        Line(
            name,
            len(items),
            sum(ns for _, ns in items) / rounds * 1e-9,
            sum(_flops(work.kernel) for work, _ in items),
            sum(_nbytes(work) for work, _ in items),
        )
        for name, items in found.items()
    ]
    lines.sort(key=lambda line: -line.seconds)
    return Profile(tuple(lines), seconds / rounds, program.count, peak())


def described(work: Work) -> str:
    """What a piece of work does, in a line."""
    found = work.kernel
    match found:
        case Eqn():
            return f"{found.op.value} by the interpreter"
        case Gemm():
            return f"product {_sizes(found)}" + _after(found.epilogue)
        case Product():
            return f"BLAS product {_sizes(found)}"
        case Fused():
            shape = "×".join(map(str, found.shape)) or "1"
            return f"loop {shape}" + (_after(found) or ": copy")
    shapes = " → ".join("×".join(map(str, v.shape)) or "1" for v in (*work.reads, *work.writes))
    name = getattr(found, "op", None)
    return f"{name.value if name else type(found).__name__.lower()} {shapes}"


def _sizes(found: Gemm | Product) -> str:
    return f"{found.m}×{found.k} · {found.k}×{found.n}"


def _after(loop: Fused) -> str:
    names = [op.value for op, *_ in loop.steps] + [op.value for op, _ in loop.folds]
    text = ", ".join(f"{names.count(n)} {n}" if names.count(n) > 1 else n for n in _once(names))
    return f": {text}" if text else ""


def _once(names: list[str]) -> Iterator[str]:
    yield from dict.fromkeys(names)


def _flops(found: Any) -> int:
    return 2 * found.m * found.k * found.n if isinstance(found, Gemm | Product) else 0


def _nbytes(work: Work) -> int:
    views = (*work.reads, *work.writes)
    if isinstance(work.kernel, Gather):  # of its array it reads what it writes
        views = (*work.reads[1:], *work.writes, *work.writes)
    return sum(math.prod(v.shape) * v.root.spec.dtype.itemsize for v in views)


# --- what the machine can do


@dataclass(frozen=True, slots=True)
class Chains:
    """Rounds of independent multiply-adds on registers; pointer: where their sum goes."""

    chains: int
    rounds: int

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""
        vector = ir.VectorType(ir.FloatType(), width // 4)
        intrinsic = f"llvm.fma.v{width // 4}f32"
        known = module.globals.get(intrinsic)
        fma = known or ir.Function(module, ir.FunctionType(vector, [vector] * 3), intrinsic)

        def splat(x: float) -> Any:
            return ir.Constant(vector, [ir.Constant(ir.FloatType(), x)] * (width // 4))

        def body(b: Any, pointers: list[Any]) -> None:
            with b.goto_entry_block():
                slots = [b.alloca(vector) for _ in range(self.chains)]
            for i, slot in enumerate(slots):
                b.store(splat(1.0 + 0.01 * i), slot)
            with loop(b, 0, self.rounds):
                for slot in slots:
                    b.store(b.call(fma, [b.load(slot), splat(0.5), splat(1.0)]), slot)
            out = b.bitcast(pointers[0], vector.as_pointer())
            for i, slot in enumerate(slots):
                b.store(b.load(slot), b.gep(out, [i64(i)]))

        kernel(module, name, [I64], body)


_TRIES = 40


def peak() -> float:
    """FLOP/s of multiply-adds on the registers of one core: the best of several tries."""
    found = 0.0
    lanes = jit.vector_bytes() // 4
    for chains in (8, 12, 16):
        work = Chains(chains, 20_000)
        run = DRIVE(jit.addresses([work])[work])
        out = aligned(chains * lanes * 4)
        table = np.array([out.ctypes.data], np.int64)
        for _ in range(_TRIES):
            start = time.perf_counter()
            run(table.ctypes.data)
            flops = 2 * chains * lanes * work.rounds
            found = max(found, flops / (time.perf_counter() - start))
    return found
