"""Single primitives as native kernels, called on arrays as they lie."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from isograd.backends.llvm import jit
from isograd.backends.llvm.kinds import single
from isograd.backends.llvm.views import View
from isograd.engine.graph import ArraySpec, Eqn, Var
from isograd.engine.ops import RULES, Op

Array = NDArray[Any]
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def view(var: Var, x: Array) -> View:
    """Where the elements of an array lie."""
    steps = zip(x.shape, x.strides, strict=True)
    return View(var, 0, x.shape, tuple(s // x.itemsize if n > 1 else 0 for n, s in steps))


class Ready:
    """A primitive, compiled for arrays of these forms; `flag` is set by indices out of range.

    Args:
        op: the primitive.
        arrays: its arguments.
        width: of vectors, in bytes; by default the host's.
        params: of the primitive.
    """

    def __init__(self, op: Op, *arrays: Array, width: int = 0, **params: Any) -> None:
        specs = [ArraySpec(a.shape, a.dtype) for a in arrays]
        out = RULES[op].shape(*specs, **params)
        eqn = Eqn(op, tuple(map(Var, specs)), params, Var(out))
        self.out = np.full(out.shape, 77, out.dtype)
        kernel = single(eqn, tuple(map(view, eqn.inputs, arrays)), view(eqn.output, self.out))
        assert kernel is not None, f"{op.value} has no kernel"
        self.flag = np.zeros(1, np.int64)
        held = [*arrays, self.out, *([self.flag] if getattr(kernel, "flag", False) else [])]
        self._held = held
        self._table = np.array([a.__array_interface__["data"][0] for a in held], np.int64)
        module = ir.Module("kernel")
        kernel.build(module, "run", width or jit.vector_bytes())
        self._code = Code(module)
        self._run: Callable[..., Any] = _KERNEL(self._code.address("run"))
        self._place = self._table.ctypes.data

    def __call__(self) -> Array:
        self._run(self._place)
        return self.out


def native(op: Op, *arrays: Array, **params: Any) -> Array:
    """What the kernel of a primitive makes of arrays."""
    ready = Ready(op, *arrays, **params)
    out = ready()
    assert not ready.flag[0]
    return out


class Code:
    """Machine code of a module; it lives as long as this does.

    Args:
        module: valid IR.
    """

    def __init__(self, module: Any) -> None:
        import llvmlite.binding as llvm

        machine = jit.machine_of(jit.host())
        module.triple, module.data_layout = jit.host().triple, str(machine.target_data)
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        jit.optimise(parsed, machine)
        self._engine = llvm.create_mcjit_compiler(parsed, machine)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Of a function."""
        out: int = self._engine.get_function_address(name)
        return out
