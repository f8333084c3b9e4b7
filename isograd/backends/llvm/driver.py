"""The native loop that runs a table of kernels, round after round, on each of several threads."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir

from isograd.backends.llvm.ir import I64, i64

POINTER = ir.IntType(8).as_pointer()

# What a thread is given: eight integers.
TABLE, ENTRIES, BUMPS, BUMPED, ROUNDS, GO, MEETING, TIMES = range(8)
# What the threads share: the numbers of threads, of those that wait, and of meetings so far.
WAITING, MET = 16, 32
SHARED = 48


@dataclass(frozen=True, slots=True)
class Driver:
    """`void drive(int64 *thread)`: runs the rounds of a thread.

    A table has two integers an entry: a routine and its argument. After each round all threads
    meet; if the number at `GO` is not finite, that was the last. Then the pointers of the table
    that follow a row of an array per round are moved on.

    Attributes:
        dtype: of the number at `GO`.
        timed: whether the nanoseconds that each entry takes are added to an integer of `TIMES`.
    """

    dtype: str
    timed: bool = False

    def build(self, module: Any, name: str, width: int) -> None:
        """Append it to a module."""
        meet = _meet(module, name + ".meet")
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer()])
        function = ir.Function(module, kind, name)
        b = ir.IRBuilder(function.append_basic_block("entry"))
        field = [b.load(b.gep(function.args[0], [i64(i)])) for i in range(8)]
        bits, mask = {
            "float32": (ir.IntType(32), 0x7F800000),
            "float64": (I64, 0x7FF0000000000000),
        }[self.dtype]
        table = b.inttoptr(field[TABLE], I64.as_pointer())
        bumps = b.inttoptr(field[BUMPS], I64.as_pointer())
        go = b.inttoptr(field[GO], bits.as_pointer())
        routine = ir.FunctionType(ir.VoidType(), [POINTER])
        done = b.append_basic_block("done")
        with _counted(b, field[ROUNDS]) as r:
            with _counted(b, field[ENTRIES]) as i:
                at = b.mul(i, i64(2))
                target = b.inttoptr(b.load(b.gep(table, [at])), routine.as_pointer())
                argument = b.load(b.gep(table, [b.add(at, i64(1))]))
                before = _now(b, module) if self.timed else None
                b.call(target, [b.inttoptr(argument, POINTER)])
                if before is not None:
                    times = b.inttoptr(field[TIMES], I64.as_pointer())
                    place = b.gep(times, [i])
                    b.store(b.add(b.load(place), b.sub(_now(b, module), before)), place)
            b.call(meet, [field[MEETING]])
            exponent = b.and_(b.load(b.gep(go, [r])), ir.Constant(bits, mask))
            with b.if_then(b.icmp_unsigned("==", exponent, ir.Constant(bits, mask))):
                b.branch(done)
            with _counted(b, field[BUMPED]) as i:
                at = b.mul(i, i64(2))
                slot = b.inttoptr(b.load(b.gep(bumps, [at])), I64.as_pointer())
                step = b.load(b.gep(bumps, [b.add(at, i64(1))]))
                b.store(b.add(b.load(slot), step), slot)
        b.branch(done)
        b.position_at_end(done)
        b.ret_void()


@dataclass(frozen=True, slots=True)
class Barrier:
    """`void meet(int64 shared)`: returns when all threads have called it."""

    def build(self, module: Any, name: str, width: int) -> None:
        """Append it to a module."""
        meet = _meet(module, name + ".meet")
        kind = ir.FunctionType(ir.VoidType(), [POINTER])
        function = ir.Function(module, kind, name)
        b = ir.IRBuilder(function.append_basic_block("entry"))
        b.call(meet, [b.ptrtoint(function.args[0], I64)])
        b.ret_void()


_SPINS = 4096  # looks before a thread lets others run


def _meet(module: Any, name: str) -> Any:
    """A barrier: the last to come opens it by counting the meetings up."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64]), name)
    function.linkage = "internal"
    b = ir.IRBuilder(function.append_basic_block("entry"))
    base = b.inttoptr(function.args[0], I64.as_pointer())
    threads = b.load(base)
    waiting, met = b.gep(base, [i64(WAITING)]), b.gep(base, [i64(MET)])
    before = b.load_atomic(met, "acquire", 8)
    came = b.atomic_rmw("add", waiting, i64(1), "acq_rel")
    with b.if_else(b.icmp_signed("==", b.add(came, i64(1)), threads)) as (last, other):
        with last:
            b.store_atomic(i64(0), waiting, "monotonic", 8)
            b.atomic_rmw("add", met, i64(1), "release")
        with other:
            head, more = b.append_basic_block("spin"), b.append_basic_block("more")
            out = b.append_basic_block("out")
            entry = b.block
            b.branch(head)
            b.position_at_end(head)
            looks = b.phi(I64)
            looks.add_incoming(i64(0), entry)
            now = b.load_atomic(met, "acquire", 8)
            b.cbranch(b.icmp_signed("!=", now, before), out, more)
            b.position_at_end(more)
            following = b.add(looks, i64(1))
            with b.if_then(b.icmp_signed(">", looks, i64(_SPINS)), likely=False):
                b.call(_yield(module), [])
            looks.add_incoming(following, b.block)
            b.branch(head)
            b.position_at_end(out)
    b.ret_void()
    return function


def _yield(module: Any) -> Any:
    """The system's call to let other threads run."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
    known = module.globals.get(name)
    kind = ir.FunctionType(ir.IntType(32), [])
    return known or ir.Function(module, kind, name)


def _now(b: Any, module: Any) -> Any:
    """Nanoseconds of a clock that never goes back."""
    kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), I64.as_pointer()])
    clock = module.globals.get("clock_gettime") or ir.Function(module, kind, "clock_gettime")
    with b.goto_entry_block():
        read = b.alloca(I64, 2)
    b.call(clock, [ir.Constant(ir.IntType(32), _MONOTONIC), read])
    seconds, rest = b.load(read), b.load(b.gep(read, [i64(1)]))
    return b.add(b.mul(seconds, i64(10**9)), rest)


_MONOTONIC = 6 if sys.platform == "darwin" else 1


class _counted:
    """A loop from 0 to a number that may be 0; gives the counter."""

    def __init__(self, b: Any, stop: Any) -> None:
        self.b, self.stop = b, stop

    def __enter__(self) -> Any:
        b = self.b
        before = b.block
        self.head, self.body = b.append_basic_block("head"), b.append_basic_block("body")
        b.branch(self.head)
        b.position_at_end(self.head)
        self.counter = b.phi(I64)
        self.counter.add_incoming(i64(0), before)
        self.after = b.append_basic_block("after")
        b.cbranch(b.icmp_signed("<", self.counter, self.stop), self.body, self.after)
        b.position_at_end(self.body)
        return self.counter

    def __exit__(self, *error: Any) -> None:
        b = self.b
        self.counter.add_incoming(b.add(self.counter, i64(1)), b.block)
        b.branch(self.head)
        b.position_at_end(self.after)


DRIVE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def prototype(address: int) -> Any:
    """The Python function that calls a driver; without the interpreter's lock."""
    return DRIVE(address)
