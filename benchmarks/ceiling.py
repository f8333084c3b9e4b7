"""What this machine can do, and the least time that a step could take on it.

    python benchmarks/ceiling.py [--rows 1,2,...] [--json FILE]

Measured, on as many cores as a row may use:

- the peak: fused multiply-adds on registers alone, in as many independent chains as hide their
  latency;
- the product: the fastest of a hidden layer's three products (forward, dX, dW), by NumPy's BLAS
  or by isograd's native code;
- the bandwidth: a triad, a = b + s c, over working sets in each cache and in memory. It counts
  12 bytes per element, as McCalpin's STREAM does.

The ceiling time of a step is

    FLOPs of its products / rate of the product
  + bytes of the rule / bandwidth  +  bytes of the activations / bandwidth

where the rule reads θ, g, m and v and writes θ, m and v (28 bytes per parameter, a working set of
16), and the activations of each hidden layer are read and written once forward (z, a) and three
times backward (δ, a, ∂L/∂z), 20 bytes per element; a layer's working set is three such arrays. The
bandwidth is that of the smallest cache that holds the working set. Nothing overlaps in this count;
a step that fuses the activations into the products can beat it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from common import HERE, Unavailable, caches, cores, environment, last_words, significant, table
from networks import ROWS, Row, row_of

TRIES = 50
MIN_SECONDS = 0.002
ENOUGH_SECONDS = 1.0


@dataclass(frozen=True)
class Ceiling:
    """Rates of this machine, of all the cores that a row may use.

    Attributes:
        peak: FLOP/s of multiply-adds on registers.
        product: FLOP/s of the fastest product.
        by: how that product was taken.
        bandwidth: bytes/s by level: L1, L2, L3, memory.
    """

    peak: float
    product: float
    by: str
    bandwidth: dict[str, float]

    def seconds(self, row: Row) -> float:
        """The least time of a step, as counted above."""
        width = max(row.sizes[1:-1])
        hidden = sum(row.sizes[1:-1])
        rule = 28 * row.parameters / self._rate(16 * row.parameters / row.threads)
        passes = 20 * row.batch * hidden / self._rate(12 * row.batch * width / row.threads)
        return row.flops / self.product + rule + passes

    def _rate(self, nbytes: float) -> float:
        for level, size in caches().items():
            if nbytes <= size and level in self.bandwidth:
                return self.bandwidth[level]
        return self.bandwidth["memory"]


def best(run: Callable[[], Any], work: float) -> float:
    """The highest rate of several tries, each at least MIN_SECONDS and all about ENOUGH_SECONDS.

    Args:
        run: does the work.
        work: what it does, in FLOP or bytes.
    """
    run()
    calls, rate, began = 1, 0.0, time.perf_counter()
    for _ in range(TRIES):
        if rate and time.perf_counter() - began > ENOUGH_SECONDS:
            break
        while True:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            elapsed = time.perf_counter() - start
            if elapsed >= MIN_SECONDS:
                break
            calls *= 2
        rate = max(rate, calls * work / elapsed)
    return rate


# --- native loops


@dataclass(frozen=True)
class Loops:
    """`chains(n, out)`: n rounds of multiply-adds; `triad(a, b, c, n, repeats)` of n floats."""

    code: Any
    chains: Any
    triad: Any
    flops: int
    lanes: int


def compile_loops(chains: int) -> Loops:
    """Machine code of both.

    Args:
        chains: independent multiply-adds in flight.

    Raises:
        Unavailable: without llvmlite.
    """
    try:
        from llvmlite import ir
    except ModuleNotFoundError:
        raise Unavailable("llvmlite is not installed") from None
    i64 = ir.IntType(64)
    lanes = _lanes()
    vector = ir.VectorType(ir.FloatType(), lanes)
    pointer, whole = ir.FloatType().as_pointer(), ir.VectorType(ir.FloatType(), lanes).as_pointer()
    module = ir.Module("ceiling")
    fma = ir.Function(module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32")

    def splat(x: float) -> Any:
        return ir.Constant(vector, [x] * lanes)

    def loop(b: Any, stop: Any, starts: Sequence[Any], body: Callable[..., Sequence[Any]]) -> Any:
        """A counted loop that carries values; gives their last."""
        before, head, after = b.block, b.append_basic_block(), b.append_basic_block()
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(i64)
        i.add_incoming(ir.Constant(i64, 0), before)
        carried = [b.phi(s.type) for s in starts]
        for phi, s in zip(carried, starts, strict=True):
            phi.add_incoming(s, before)
        following = body(b, i, carried)
        step = b.add(i, ir.Constant(i64, 1))
        for phi, value in zip((i, *carried), (step, *following), strict=True):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", step, stop), head, after)
        b.position_at_end(after)
        return following

    kind = ir.FunctionType(ir.VoidType(), [i64, pointer])
    function = ir.Function(module, kind, "chains")
    b = ir.IRBuilder(function.append_basic_block())
    n, out = function.args
    starts = [splat(1.0 + 0.01 * i) for i in range(chains)]

    def add(b: Any, i: Any, sums: Sequence[Any]) -> list[Any]:
        return [b.call(fma, [s, splat(0.5), splat(1.0)]) for s in sums]

    total = splat(0.0)
    for s in loop(b, n, starts, add):
        total = b.fadd(total, s)
    b.store(total, b.bitcast(out, whole)).align = 4
    b.ret_void()

    kind = ir.FunctionType(ir.VoidType(), [pointer, pointer, pointer, i64, i64])
    function = ir.Function(module, kind, "triad")
    b = ir.IRBuilder(function.append_basic_block())
    *arrays, n, repeats = function.args
    for array in arrays:
        array.add_attribute("noalias")
    whole_vectors = b.sdiv(n, ir.Constant(i64, 4 * lanes))

    def four(b: Any, i: Any, carried: Sequence[Any]) -> list[Any]:
        at = b.mul(i, ir.Constant(i64, 4 * lanes))
        for k in range(4):
            place = b.add(at, ir.Constant(i64, k * lanes))
            out, *reads = (b.bitcast(b.gep(a, [place]), whole) for a in arrays)
            left, right = (b.load(r) for r in reads)
            left.align = right.align = 4
            b.store(b.call(fma, [right, splat(0.5), left]), out).align = 4
        return []

    def again(b: Any, i: Any, carried: Sequence[Any]) -> list[Any]:
        loop(b, whole_vectors, [], four)
        return []

    loop(b, repeats, [], again)
    b.ret_void()
    code = _machine_code(str(module))

    def routine(name: str, count: int) -> Any:
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(code.get_function_address(name))

    return Loops(code, routine("chains", 2), routine("triad", 5), 2 * chains * lanes, lanes)


def _lanes() -> int:
    """Floats in the host's widest vectors."""
    from llvmlite import binding as llvm

    found = llvm.get_host_cpu_features()
    return 16 if found.get("avx512f") else 8 if found.get("avx") else 4


def _machine_code(text: str) -> Any:
    """The engine that holds a module's code; the code lives as long as it does."""
    from llvmlite import binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    if "x86_64" in llvm.get_default_triple():
        features += ",-prefer-256-bit"  # LLVM is shy of 512 bits otherwise
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    return engine


# --- several cores at once


def together(threads: int, rate: Callable[[int], float]) -> float:
    """The sum of the rates of threads that run at the same time, each on a core of its own."""
    if threads == 1:
        return rate(0)
    pinned, rates = cores(threads), [0.0] * threads
    barrier = threading.Barrier(threads)

    def one(number: int) -> None:
        if pinned:
            os.sched_setaffinity(0, {pinned[number]})  # of this thread alone
        barrier.wait()
        rates[number] = rate(number)

    running = [threading.Thread(target=one, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(rates)


def aligned(n: int) -> Any:
    """n floats, the first at a multiple of 64 bytes."""
    memory = np.ones(n + 16, np.float32)
    return memory[-(memory.ctypes.data // 4) % 16 :][:n]


def peak(threads: int) -> float:
    """FLOP/s on registers: the best of several numbers of chains."""

    def rate(loops: Loops) -> float:
        def one(number: int) -> float:
            out, n = aligned(loops.lanes), 20_000
            return best(lambda: loops.chains(n, out.ctypes.data), n * loops.flops)

        return together(threads, one)

    return max(rate(compile_loops(chains)) for chains in (8, 12, 16, 24))


def bandwidth(threads: int) -> dict[str, float]:
    """Bytes/s of a triad by level: arrays of half a cache in all, or of four times the last."""
    loops = compile_loops(8)
    levels = caches() or {"L1": 32 << 10, "L2": 1 << 20}
    shared = levels.get("L3", 0)
    sizes = {k: v // 2 // (threads if k == "L3" else 1) for k, v in levels.items()}
    sizes["memory"] = 4 * max(shared, 8 << 20) // threads
    out = {}
    for level, size in sizes.items():
        n = size // 12 // 64 * 64
        repeats = max(1, 200_000 // n)

        def one(number: int, n: int = n, repeats: int = repeats) -> float:
            arrays = [aligned(n) for _ in range(3)]
            places = [a.ctypes.data for a in arrays]
            return best(lambda: loops.triad(*places, n, repeats), 12.0 * n * repeats)

        out[level] = together(threads, one)
    return out


# --- products


def product(row: Row) -> tuple[float, str]:
    """FLOP/s of the fastest product of a hidden layer, and how it was taken.

    Of the layer with the most weights, alone and in cache, on all the row's threads.
    """
    n_in, n_out = max(row.layers, key=lambda size: size[0] * size[1])
    rng = np.random.default_rng(0)
    x, w, d = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((row.batch, n_in), (n_out, n_in), (row.batch, n_out))
    )
    found = [(0.0, "")]
    for name, left, right, batched in (
        ("forward", x, w.T, (True, False)),
        ("dX", d, w, (True, False)),
        ("dW", d.T, x, (True, True)),
    ):
        work = 2.0 * row.batch * n_in * n_out
        found.append((best(_numpy(left, right), work), f"{name}, NumPy"))
        rounds = int(np.clip(1e8 / work, 1, 1000))  # a millisecond or so
        own = _own(left, right, batched, row.threads, rounds)
        if own is not None:
            found.append((best(own, rounds * work), f"{name}, isograd"))
    return max(found)


def _numpy(left: Any, right: Any) -> Callable[[], Any]:
    out = np.empty((len(left), right.shape[1]), np.float32)
    return lambda: np.matmul(left, right, out=out)


def _own(
    left: Any, right: Any, batched: tuple[bool, bool], threads: int, rounds: int
) -> Callable[[], Any] | None:
    """Native code of isograd, some rounds of the product to a call; None where there is none.

    Operands that lie transposed are given as they lie, and transposed in the graph. The rows of
    those that are `batched` are divided among threads.
    """
    from isograd.backends.llvm.jit import available
    from isograd.backends.select import scan
    from isograd.engine.functions import matmul, transpose
    from isograd.engine.graph import ArraySpec
    from isograd.engine.trace import trace

    if available() is not None:
        return None
    turned = [not a.flags.c_contiguous for a in (left, right)]
    fixed = tuple(a.T if t else a for a, t in zip((left, right), turned, strict=True))

    def step(out: Any, fixed: Any, go: Any) -> Any:
        a, b = (transpose(a) if t else a for a, t in zip(fixed, turned, strict=True))
        return matmul(a, b), (), go

    out = np.zeros((len(left), right.shape[1]), np.float32)
    specs = [ArraySpec(a.shape, a.dtype) for a in (out, *fixed)]
    graph = trace(step, specs[0], tuple(specs[1:]), ArraySpec((), np.float32))
    run = scan(graph, "native")
    go = np.zeros(rounds, np.float32)
    return lambda: run(out, fixed, go)


def measure(row: Row) -> Ceiling:
    """The rates that a row could reach."""
    rate, by = product(row)
    return Ceiling(peak(row.threads), rate, by, bandwidth(row.threads))


def in_process(row: str) -> dict[str, Any]:
    """`measure` in a process with the row's cores and threads, as JSON.

    Raises:
        Unavailable: without llvmlite.
    """
    command = [sys.executable, str(HERE / "ceiling.py"), "--one", row]
    with tempfile.TemporaryDirectory() as caches:
        env = environment(row_of(row).threads, caches)
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(last_words(done.stderr))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    """Print the table."""
    from common import machine
    from race import save

    parser = argparse.ArgumentParser(description="What this machine can do.")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        row = row_of(options.one)
        os.sched_setaffinity(0, cores(row.threads))
        found = measure(row)
        print(json.dumps(asdict(found) | {"seconds": found.seconds(row)}))
        return
    rows, answers = options.rows.split(","), {}
    for text in rows:
        answers[text] = in_process(text)
    print(machine())
    print()
    levels = list(next(iter(answers.values()))["bandwidth"])
    head = ["row", "cores", "peak GFLOP/s", "product GFLOP/s", "by"]
    head += [f"{level} GB/s" for level in levels] + ["ceiling µs"]
    lines = []
    for text, a in answers.items():
        row = row_of(text)
        lines.append(
            [row.name, str(row.threads), significant(a["peak"] / 1e9)]
            + [significant(a["product"] / 1e9), a["by"]]
            + [significant(a["bandwidth"][level] / 1e9) for level in levels]
            + [significant(1e6 * a["seconds"])]
        )
    print(table(head, lines))
    if options.json:
        save(options.json, {"machine": machine(), "rows": answers})


if __name__ == "__main__":
    main()
