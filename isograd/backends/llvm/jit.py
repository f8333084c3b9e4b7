"""LLVM modules made into machine code for the host."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir


@cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _machine() -> Any:
    """The host's CPU with all its features; an engine takes it over, so each needs its own."""
    _initialise()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    # Vectors as wide as the CPU has them; LLVM is shy of 512 bits otherwise.
    features += ",-prefer-256-bit"
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True
    )


def vector_bytes() -> int:
    """Bytes of the host's widest vector registers."""
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


class Code:
    """Machine code of a module; it lives as long as this does.

    Args:
        module: valid IR.
    """

    def __init__(self, module: ir.Module) -> None:
        machine = _machine()
        module.triple = llvm.get_default_triple()
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = True
        options.slp_vectorization = True
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(parsed, passes)
        self.assembly: str = machine.emit_assembly(parsed)
        self._engine = llvm.create_mcjit_compiler(parsed, machine)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Of a function."""
        out: int = self._engine.get_function_address(name)
        return out


KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
