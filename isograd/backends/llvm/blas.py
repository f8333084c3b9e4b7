"""Matrix products through the BLAS that SciPy brings, called from native code."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.ir import I8, kernel, type_of
from isograd.backends.llvm.views import View

_INT = ir.IntType(32)


@dataclass(frozen=True, slots=True)
class Product:
    """C = A B for row-major C (m, n); A and B may lie transposed.

    Attributes:
        dtype: float32 or float64.
        m, k, n: sizes.
        left, right: (whether it lies transposed, the stride of its long axis).
    """

    dtype: str
    m: int
    k: int
    n: int
    left: tuple[bool, int]
    right: tuple[bool, int]

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module: Cᵀ = Bᵀ Aᵀ, as BLAS counts by columns."""
        element = type_of(np.dtype(self.dtype))

        def constant(kind: Any, value: Any) -> Any:
            slot = ir.GlobalVariable(module, kind, module.get_unique_name("c"))
            slot.linkage, slot.global_constant = "internal", True
            slot.initializer = ir.Constant(kind, value)
            return slot

        def body(b: Any, pointers: list[Any]) -> None:
            a, right, c = pointers
            sides = [constant(I8, ord("T" if t else "N")) for t, _ in (self.right, self.left)]
            sizes = [constant(_INT, size) for size in (self.n, self.m, self.k)]
            one, zero = constant(element, 1.0), constant(element, 0.0)
            steps = [constant(_INT, s) for s in (self.right[1], self.left[1], self.n)]
            args = [*sides, *sizes, one, right, steps[0], a, steps[1], zero, c, steps[2]]
            kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
            symbol = _SYMBOLS[self.dtype]
            b.call(module.globals.get(symbol) or ir.Function(module, kind, symbol), args)

        kernel(module, name, [element] * 3, body)


def product(dtype: str, left: View, right: View) -> Product | None:
    """The kernel of a product of two matrices; None where BLAS cannot read them as they lie."""
    if dtype not in ("float32", "float64") or len(left.shape) != 2 or len(right.shape) != 2:
        return None
    sides = [_side(v) for v in (left, right)]
    m, k, n = *left.shape, right.shape[1]
    if None in sides or 0 in (m, k, n):
        return None
    return Product(dtype, m, k, n, *sides)  # type: ignore[arg-type]


def _side(v: View) -> tuple[bool, int] | None:
    (rows, columns), (down, across) = v.shape, v.strides
    if columns == 1 or across == 1:
        step = down if rows > 1 else columns
        return (False, step) if step >= columns and (columns == 1 or across == 1) else None
    if rows == 1 or down == 1:
        step = across
        return (True, step) if step >= rows else None
    return None


@cache
def symbols() -> dict[str, int]:
    """Names of routines that kernels call, and their addresses in this process."""
    return {symbol: _address(_ROUTINES[dtype]) for dtype, symbol in _SYMBOLS.items()}


_SYMBOLS = {"float32": "isograd_sgemm", "float64": "isograd_dgemm"}
_ROUTINES = {"float32": "sgemm", "float64": "dgemm"}


def _address(routine: str) -> int:
    """Of a routine of the BLAS that SciPy brings."""
    import scipy.linalg.cython_blas as blas

    capsule = blas.__pyx_capi__[routine]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    out: int = pointer(capsule, name(capsule))
    return out
