"""Functions of lanes as loops over arrays, compiled and called."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numpy.typing import NDArray

from isograd.backends.llvm.lanes import Floats, Mask

Array = NDArray[Any]

binding.initialize_all_targets()
binding.initialize_all_asmprinters()


def loop(function: Callable[..., Any], reads: tuple[str, ...], writes: str, n: int) -> str:
    """The module of a loop over arrays whose length is a multiple of n."""
    types = {"float32": ir.FloatType(), "float64": ir.DoubleType(), "bool": ir.IntType(8)}
    module, size = ir.Module("loop"), ir.IntType(64)
    pointers = [ir.PointerType()] * (len(reads) + 1)
    run = ir.Function(module, ir.FunctionType(ir.VoidType(), [*pointers, size]), "run")
    start, body, end = (run.append_basic_block(name) for name in ("start", "body", "end"))
    builder = ir.IRBuilder(start)
    builder.branch(body)
    builder.position_at_end(body)
    i = builder.phi(size)
    i.add_incoming(size(0), start)

    def place(pointer: Any, name: str) -> tuple[Any, Any]:
        element = types[name]
        lanes = element if n == 1 else ir.VectorType(element, n)
        return builder.gep(pointer, [i], source_etype=element), lanes

    arguments: list[Any] = []
    for pointer, name in zip(run.args, reads, strict=False):
        at, lanes = place(pointer, name)
        value = builder.load(at, align=1, typ=lanes)
        if name == "bool":
            zero = ir.Constant(lanes, 0 if n == 1 else [0] * n)
            arguments.append(Mask(builder, builder.icmp_unsigned("!=", value, zero)))
        else:
            arguments.append(Floats(builder, value))
    result = function(*arguments)
    at, lanes = place(run.args[len(reads)], writes)
    stored = builder.zext(result.value, lanes) if writes == "bool" else result.value
    builder.store(stored, at, align=1)
    following = builder.add(i, size(n))
    i.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", following, run.args[-1]), body, end)
    builder.position_at_end(end)
    builder.ret_void()
    return str(module)


def optimised(text: str, machine: Any) -> Any:
    module = binding.parse_assembly(text)
    module.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(2))
    passes.getModulePassManager().run(module, passes)
    return module


def machine_of(triple: str, cpu: str = "", features: str = "") -> Any:
    return binding.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=2
    )


def host() -> Any:
    features = binding.get_host_cpu_features().flatten()
    return machine_of(binding.get_default_triple(), binding.get_host_cpu_name(), features)


class Compiled:
    """A function on arrays, by default in the best code for this machine."""

    def __init__(
        self,
        function: Callable[..., Any],
        reads: tuple[str, ...],
        writes: str,
        n: int,
        machine: Any = None,
    ) -> None:
        machine = machine or host()
        module = optimised(loop(function, reads, writes, n), machine)
        self._engine = binding.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(reads) + 1), ctypes.c_int64)
        self._run = kind(self._engine.get_function_address("run"))
        self._n, self._writes = n, writes

    def __call__(self, *arrays: Array) -> Array:
        size = arrays[0].size
        padded = [np.pad(np.ravel(a), (0, -size % self._n)) for a in arrays]
        out = np.empty(padded[0].size, self._writes)
        self._run(*(a.ctypes.data for a in padded), out.ctypes.data, out.size)
        return out[:size].reshape(arrays[0].shape)
