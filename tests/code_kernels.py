"""Small kernels to test how machine code is made and kept; a script that runs them."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm import jit
from isograd.backends.llvm.ir import I8, I64, i64, kernel

DOUBLE, FLOAT = ir.DoubleType(), ir.FloatType()
OUTSIDE = {"tests_version": ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value or 0}


def symbols() -> dict[str, int]:
    """What `Call` may call."""
    return OUTSIDE


@dataclass(frozen=True, slots=True)
class Add:
    """out = x + term."""

    term: int

    def build(self, module: Any, name: str, width: int) -> None:
        def body(b: Any, pointers: list[Any]) -> None:
            x, out = pointers
            b.store(b.fadd(b.load(x), ir.Constant(DOUBLE, float(self.term))), out)

        kernel(module, name, [DOUBLE, DOUBLE], body)


@dataclass(frozen=True, slots=True)
class Square:
    """out = x·x − y in float32, rounded once; a call of the C library on old processors."""

    def build(self, module: Any, name: str, width: int) -> None:
        def body(b: Any, pointers: list[Any]) -> None:
            x, y, out = pointers
            fma = ir.Function(module, ir.FunctionType(FLOAT, [FLOAT] * 3), "llvm.fma.f32")
            value = b.load(x)
            b.store(b.call(fma, [value, value, b.fneg(b.load(y))]), out)

        kernel(module, name, [FLOAT] * 3, body)


@dataclass(frozen=True, slots=True)
class Call:
    """out = what a function from outside gives."""

    symbol: str

    def build(self, module: Any, name: str, width: int) -> None:
        def body(b: Any, pointers: list[Any]) -> None:
            function = ir.Function(module, ir.FunctionType(I64, []), self.symbol)
            b.store(b.call(function, []), pointers[0])

        kernel(module, name, [I64], body)


@dataclass(frozen=True, slots=True)
class Baked:
    """out = the byte at an address that is in the code."""

    address: int

    def build(self, module: Any, name: str, width: int) -> None:
        def body(b: Any, pointers: list[Any]) -> None:
            b.store(b.load(b.inttoptr(i64(self.address), I8.as_pointer())), pointers[0])

        kernel(module, name, [I8], body)


@dataclass(frozen=True, slots=True)
class Wide:
    """out = x + x, a vector of the whole width."""

    def build(self, module: Any, name: str, width: int) -> None:
        def body(b: Any, pointers: list[Any]) -> None:
            vector = ir.VectorType(FLOAT, width // 4)
            x, out = (b.bitcast(p, vector.as_pointer()) for p in pointers)
            value = b.load(x, typ=vector)
            value.align = 4
            b.store(b.fadd(value, value), out, align=4)

        kernel(module, name, [FLOAT, FLOAT], body)


@dataclass(frozen=True, slots=True)
class Broken:
    """A kernel that cannot be built."""

    def build(self, module: Any, name: str, width: int) -> None:
        raise ArithmeticError("cannot be built")


def call(address: int, *arrays: np.ndarray) -> np.ndarray:
    """Run machine code; gives the last of the arrays."""
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(pointers))
    return arrays[-1]


def add(codes: Any, term: int) -> float:
    """1 + term, by machine code."""
    address = codes.addresses([Add(term)])[Add(term)]
    return float(call(address, np.ones(1), np.empty(1))[0])


def fused(codes: Any) -> float:
    """(1 + 2⁻¹²)² − (1 + 2⁻¹¹) = 2⁻²⁴, which two roundings to float32 lose."""
    x, y = np.float32([1 + 2**-12]), np.float32([1 + 2**-11])
    return float(call(codes.addresses([Square()])[Square()], x, y, np.empty(1, np.float32))[0])


def outside(codes: Any, symbol: str) -> int:
    """What a function gives to machine code that calls it."""
    address = codes.addresses([Call(symbol)])[Call(symbol)]
    return int(call(address, np.zeros(1, np.int64))[0])


class Count:
    """Stands for `jit.compiled` and counts."""

    def __init__(self) -> None:
        self.kernels: list[Any] = []
        self._compiled = jit.compiled

    def __call__(self, kernel: Any, *args: Any) -> Any:
        self.kernels.append(kernel)
        return self._compiled(kernel, *args)


def main() -> None:
    """Print the results of kernels, and how many were compiled."""
    count = Count()
    jit.compiled = count
    results = [add(jit, term) for term in range(1, 9)] + [fused(jit)]
    assert ctypes.string_at(outside(jit, "tests_version")) == sys.version.encode()
    print(results, len(count.kernels))


if __name__ == "__main__":
    main()
