"""Matrix products on one core: isograd's own kernel against BLAS, called in the same way.

    python benchmarks/products.py [--dtype float32] [--json FILE]

The orientations are those of a dense layer: forward X W, ∂L/∂X = Δ Wᵀ, ∂L/∂W = Xᵀ Δ. A figure is
2 m k n over the median processor time of a call, in rounds in which the two take turns; operands
stay where they are, so that small ones are in cache. The choice between the two in
`isograd.backends.llvm.gemm.gemm` rests on this table.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from common import machine, significant, table
from llvmlite import ir

from isograd.backends.llvm.blas import product
from isograd.backends.llvm.elements import Operand
from isograd.backends.llvm.fused import Fused
from isograd.backends.llvm.gemm import Gemm
from isograd.backends.llvm.ir import I8, I64, i64
from isograd.backends.llvm.jit import Codes
from isograd.backends.llvm.views import View, own, row_major
from isograd.engine.graph import ArraySpec, Var

SHAPES = [
    (1, 64, 64), (64, 256, 1), (1, 784, 256), (8, 64, 64), (64, 64, 10), (64, 10, 64),
    (32, 64, 64), (64, 64, 64), (100, 100, 100), (64, 784, 100), (64, 256, 256), (128, 256, 256),
    (64, 8192, 64), (64, 1024, 1024), (512, 512, 512), (64, 2048, 2048), (256, 1024, 1024),
    (512, 1024, 1024), (1024, 1024, 1024), (256, 4096, 1024),
]  # fmt: skip
ORIENTATIONS = {"X W": (False, False), "Δ Wᵀ": (False, True), "Xᵀ Δ": (True, False)}
ROUNDS = 31
SECONDS = 1e-3
"""Of a turn."""


@dataclass(frozen=True)
class Row:
    """Rates of a product, in GFLOP/s."""

    dtype: str
    m: int
    k: int
    n: int
    orientation: str
    own: float
    blas: float


@dataclass(frozen=True)
class Repeat:
    """A loop of calls in native code, so that Python's own time is not measured."""

    def build(self, module: Any, name: str, width: int) -> None:
        """Append `void name(void **table, void *kernel, long times)` to a module."""
        pointer = I8.as_pointer()
        called = ir.FunctionType(ir.VoidType(), [pointer.as_pointer()])
        kind = ir.FunctionType(ir.VoidType(), [pointer.as_pointer(), called.as_pointer(), I64])
        function = ir.Function(module, kind, name)
        entry, body, end = (function.append_basic_block(s) for s in ("entry", "body", "end"))
        ir.IRBuilder(entry).branch(body)
        b = ir.IRBuilder(body)
        count = b.phi(I64)
        count.add_incoming(i64(0), entry)
        b.call(function.args[1], [function.args[0]])
        following = b.add(count, i64(1))
        count.add_incoming(following, body)
        b.cbranch(b.icmp_signed("<", following, function.args[2]), body, end)
        ir.IRBuilder(end).ret_void()


def matrix(rows: int, columns: int, dtype: str, transposed: bool) -> np.ndarray:
    """Standard normal, at the start of a cache line."""
    raw = np.empty(rows * columns * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    flat = raw[start : raw.size - 64 + start].view(dtype)
    flat[:] = np.random.default_rng(0).standard_normal(flat.size)
    return flat.reshape(columns, rows).T if transposed else flat.reshape(rows, columns)


def view(x: np.ndarray, transposed: bool) -> View:
    """Where the elements of a matrix lie."""
    whole = own(Var(ArraySpec(x.T.shape if transposed else x.shape, x.dtype)))
    steps = whole.strides[::-1] if transposed else whole.strides
    return View(whole.root, 0, x.shape, steps)


def rates(
    codes: Codes, dtype: str, shape: tuple[int, int, int], sides: tuple[bool, bool]
) -> tuple[float, float]:
    """GFLOP/s of isograd's kernel and of BLAS."""
    m, k, n = shape
    a, b = matrix(m, k, dtype, sides[0]), matrix(k, n, dtype, sides[1])
    left, right = view(a, sides[0]), view(b, sides[1])
    plain = Operand(dtype, (m, n), row_major((m, n)))
    mine = Gemm(dtype, m, k, n, left.strides, right.strides, Fused((plain,), (plain,), (), (0,)))
    theirs = product(dtype, left, right)
    assert theirs is not None
    outs = [matrix(m, n, dtype, False) for _ in range(2)]
    scratch = matrix(1, max(mine.scratch, 1), "uint8", False)
    found = codes.addresses([mine, theirs, Repeat()])
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long)
    repeat = prototype(found[Repeat()])
    calls = []
    for kernel, c in zip((mine, theirs), outs, strict=True):
        pointers = np.array([x.ctypes.data for x in (a, b, c, scratch)], np.int64)
        calls.append((pointers, found[kernel]))
    times = [turns(repeat, *call) for call in calls]
    np.testing.assert_allclose(*outs, atol=1e-3 * k**0.5)
    spent: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for (pointers, address), count, seconds in zip(calls, times, spent, strict=True):
            repeat(pointers.ctypes.data, address, 1)
            start = time.thread_time()
            repeat(pointers.ctypes.data, address, count)
            seconds.append((time.thread_time() - start) / count)
    own_time, blas_time = (median(seconds) for seconds in spent)
    return 2e-9 * m * k * n / own_time, 2e-9 * m * k * n / blas_time


def turns(repeat: Callable[..., None], pointers: np.ndarray, address: int) -> int:
    """How many calls a turn takes."""
    count = 1
    while True:
        start = time.thread_time()
        repeat(pointers.ctypes.data, address, count)
        if (seconds := time.thread_time() - start) > SECONDS / 2:
            return max(1, round(count * SECONDS / seconds))
        count *= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", default="float32,float64")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    codes, rows = Codes(None), []
    for dtype in args.dtype.split(","):
        for shape in SHAPES:
            for name, sides in ORIENTATIONS.items():
                rows.append(Row(dtype, *shape, name, *rates(codes, dtype, shape, sides)))
    head = ["dtype", "m", "k", "n", "product", "own, GFLOP/s", "BLAS, GFLOP/s", "own / BLAS"]
    cells = [
        [
            *map(str, list(asdict(r).values())[:5]),
            *map(significant, (r.own, r.blas, r.own / r.blas)),
        ]
        for r in rows
    ]
    print(table(head, cells))
    if args.json:
        found = {"machine": asdict(machine()), "rows": [asdict(r) for r in rows]}
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
