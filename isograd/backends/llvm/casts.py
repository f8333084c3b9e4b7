"""Lanes of one dtype as lanes of another."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from isograd.backends.llvm.ir import type_of
from isograd.backends.llvm.lanes import Floats, Integers, Mask, Unsigned, kind_of


def cast(x: Any, dtype: str) -> Any:
    """The same numbers in another dtype.

    Integers wrap, as in NumPy. Numbers go to integers by cutting off what is behind the point; what
    lies beyond the range of the target ends at its bounds and NaN becomes 0, where NumPy gives what
    the processor does.
    """
    kind = kind_of(dtype)
    if kind is Mask:
        return x if isinstance(x, Mask) else x.ne(0)
    b, source = x.builder, x.value.type
    element = type_of(np.dtype(dtype))
    target = ir.VectorType(element, x.n) if x.n > 1 else element
    if isinstance(x, Floats):
        if kind is Floats:
            return kind(b, _resized(b, x.value, target, "fptrunc", "fpext"))
        return kind(b, _to_integer(x, target, signed=kind is Integers))
    unsigned = isinstance(x, Unsigned | Mask)
    if kind is Floats:
        return kind(b, (b.uitofp if unsigned else b.sitofp)(x.value, target))
    if source == target:
        return kind(b, x.value)
    return kind(b, _resized(b, x.value, target, "trunc", "zext" if unsigned else "sext"))


def _resized(b: Any, value: Any, target: Any, narrower: str, wider: str) -> Any:
    sizes = [_bits(kind) for kind in (value.type, target)]
    if sizes[0] == sizes[1]:
        return value
    return getattr(b, narrower if sizes[1] < sizes[0] else wider)(value, target)


def _bits(kind: Any) -> int:
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    if isinstance(element, ir.IntType):
        return int(element.width)
    return 32 if isinstance(element, ir.FloatType) else 64


def _to_integer(x: Floats, target: Any, *, signed: bool) -> Any:
    lanes = f"v{x.n}" if x.n > 1 else ""
    routine = "llvm.fptosi.sat" if signed else "llvm.fptoui.sat"
    name = f"{routine}.{lanes}i{_bits(target)}.{lanes}f{_bits(x.value.type)}"
    module = x.builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(target, [x.value.type]), name)
    return x.builder.call(function, [x.value])


__all__ = ["cast"]
