"""Plans as native programs: a table of kernels and of the pointers that each is given.

Running a program is one native call: a loop over the table. Kernels are shared by all steps of one
form, so the time to compile does not grow with depth. What has no kernel yet is run by the rule of
the reference interpreter, between two native calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from isograd.backends.llvm.blas import Product, product
from isograd.backends.llvm.elements import Operand
from isograd.backends.llvm.fused import Fused
from isograd.backends.llvm.ir import I64
from isograd.backends.llvm.jit import Code, vector_bytes
from isograd.backends.llvm.maths import supports
from isograd.backends.llvm.reductions import Reduce
from isograd.backends.llvm.softmax import LogSoftmax
from isograd.backends.llvm.views import View, lives, resolve, row_major
from isograd.engine.graph import Eqn, Var
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import Plan
from isograd.engine.trace import bind
from isograd.engine.tree import unflatten

Observer = Callable[[str, NDArray[Any]], None]
Kernel = Fused | Reduce | LogSoftmax | Product
_ALIGN = 64


class Native:
    """A plan as machine code; called as `isograd.backends.numpy.Executable` is.

    Args:
        plan: what to run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        graph = plan.graph
        self.views = resolve(graph)
        observed = [(e.params["site"], e.inputs[0]) for e in graph.eqns if e.op is Op.PROBE]
        self._observed = observed
        kept = {*graph.outputs, *(var for _, var in observed)}
        life = lives(graph, self.views, plan.groups, kept)
        self._memory, self._places = _arena(life)
        self._constants = {v: np.asarray(a, order="C") for v, a in graph.constants.items()}
        work = [w for a, b in plan.groups for w in self._work(graph.eqns[a:b], a, b)]
        self.fallbacks = sorted({item.op.value for item in work if isinstance(item, Eqn)})
        self._assemble(work)

    # --- what is to be done

    def _work(
        self, eqns: tuple[Eqn, ...], start: int, stop: int
    ) -> list[Eqn | tuple[Kernel, tuple[View, ...]]]:
        """Kernels with their variables, or equations for the interpreter."""
        made = [e for e in eqns if self.views[e.output].root is e.output]
        if not made or made[0].output.spec.size == 0:
            return []
        if RULES[eqns[0].op].elementwise:
            return self._fused(eqns, stop)
        (eqn,) = eqns
        x = eqn.inputs[0] if eqn.inputs else None
        match eqn.op:
            case Op.RESHAPE if x is not None:
                read = self._operand(x)
                flat = Operand(read.dtype, read.shape, row_major(read.shape))
                return [
                    (Fused((read,), (flat,), (), (0,)), (self.views[x], self.views[eqn.output]))
                ]
            case Op.SUM | Op.REDUCE_MAX if x is not None:
                name = x.spec.dtype.name
                axes = eqn.params["axes"]
                if name in ("float32", "float64") and x.spec.size and axes:
                    kernel = Reduce(eqn.op, self._operand(x), axes, self._operand(eqn.output))
                    return [(kernel, (self.views[x], self.views[eqn.output]))]
            case Op.MATMUL:
                left, right = (self.views[v] for v in eqn.inputs)
                found = product(eqn.output.spec.dtype.name, left, right)
                if found is not None:
                    return [(found, (left, right, self.views[eqn.output]))]
            case Op.LOG_SOFTMAX if x is not None and x.spec.size:
                if x.spec.dtype.name in ("float32", "float64"):
                    parts = self._operand(x), eqn.params["axis"], self._operand(eqn.output)
                    return [(LogSoftmax(*parts), (self.views[x], self.views[eqn.output]))]
            case Op.CONCATENATE:
                return [*self._joined(eqn)]
        return [eqn]

    def _joined(self, eqn: Eqn) -> Iterator[tuple[Kernel, tuple[View, ...]]]:
        """A copy for each part of a concatenation."""
        out, start = self.views[eqn.output], 0
        axis = eqn.params["axis"]
        for var in eqn.inputs:
            read, view = self._operand(var), self.views[var]
            place = View(out.root, out.offset + start * out.strides[axis], view.shape, out.strides)
            start += view.shape[axis]
            if var.spec.size:
                write = Operand(read.dtype, place.shape, place.strides)
                yield Fused((read,), (write,), (), (0,)), (view, place)

    def _fused(
        self, eqns: tuple[Eqn, ...], stop: int
    ) -> list[Eqn | tuple[Kernel, tuple[View, ...]]]:
        for e in eqns:
            if not supports(e.op, [v.spec.dtype.name for v in e.inputs], e.output.spec.dtype.name):
                return list(eqns)
        inside = {e.output for e in eqns}
        graph = self.plan.graph
        outside = {v for e in graph.eqns[stop:] for v in e.inputs} | set(graph.outputs)
        reads = tuple(dict.fromkeys(v for e in eqns for v in e.inputs if v not in inside))
        numbers = {v: i for i, v in enumerate(reads)}
        steps = []
        for e in eqns:
            dtype = e.output.spec.dtype.name
            steps.append((e.op, tuple(numbers[v] for v in e.inputs), dtype))
            numbers[e.output] = len(numbers)
        writes = tuple(e.output for e in eqns if e.output in outside)
        kernel = Fused(
            tuple(map(self._operand, reads)),
            tuple(map(self._operand, writes)),
            tuple(steps),
            tuple(numbers[v] for v in writes),
        )
        return [(kernel, tuple(self.views[v] for v in (*reads, *writes)))] if writes else []

    def _operand(self, var: Var) -> Operand:
        view = self.views[var]
        return Operand(var.spec.dtype.name, view.shape, view.strides)

    # --- the program

    def _assemble(self, work: list[Eqn | tuple[Kernel, tuple[View, ...]]]) -> None:
        """Compile the kernels, lay out the table, and note which entries depend on the call."""
        names: dict[Kernel, str] = {}
        for item in work:
            if not isinstance(item, Eqn):
                names.setdefault(item[0], f"k{len(names)}")
        module = ir.Module("program")
        for kernel, name in names.items():
            kernel.build(module, name, vector_bytes())
        self.code = Code(module)
        slots: list[tuple[int, View]] = []
        entries: list[tuple[int, int]] = []
        segments: list[tuple[int, int] | Eqn] = []
        for item in work:
            if isinstance(item, Eqn):
                segments.append(item)
                continue
            kernel, operands = item
            entries.append((self.code.address(names[kernel]), len(slots)))
            slots += [(len(slots) + i, v) for i, v in enumerate(operands)]
            if segments and isinstance(segments[-1], tuple):
                segments[-1] = (segments[-1][0], len(entries))
            else:
                segments.append((len(entries) - 1, len(entries)))
        self._pointers = np.zeros(max(len(slots), 1), np.int64)
        base = self._pointers.ctypes.data
        self._entries = np.array([(f, base + 8 * at) for f, at in entries], np.int64).reshape(-1, 2)
        self._segments = segments
        self._patches: dict[Var, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        late: dict[Var, list[tuple[int, int]]] = {}
        graph = self.plan.graph
        fresh = set(graph.inputs) | {v for v in graph.outputs if self.views[v].root is v}
        for slot, view in slots:
            shift = view.offset * view.root.spec.dtype.itemsize
            if view.root in fresh:
                late.setdefault(view.root, []).append((slot, shift))
            else:
                self._pointers[slot] = self._address(view.root) + shift
        for var, pairs in late.items():
            where, shifts = zip(*pairs, strict=True)
            self._patches[var] = (np.array(where), np.array(shifts, np.int64))

    def _address(self, root: Var) -> int:
        if root in self._constants:
            return int(self._constants[root].ctypes.data)
        return int(self._memory.ctypes.data) + self._places[root]

    def __call__(self, *args: Any, observe: Observer | None = None) -> Any:
        """Run the program: as `isograd.backends.numpy.Executable.__call__`."""
        graph = self.plan.graph
        arrays: dict[Var, NDArray[Any]] = dict(self._constants)
        for var, value in zip(graph.inputs, bind(graph, args), strict=True):
            arrays[var] = np.require(value, var.spec.dtype, "C")
        for var in graph.outputs:
            if self.views[var].root is var and var not in arrays:
                arrays[var] = np.empty(var.spec.shape, var.spec.dtype)
        for var, (where, shifts) in self._patches.items():
            self._pointers[where] = arrays[var].__array_interface__["data"][0] + shifts

        def array(var: Var) -> NDArray[Any]:
            return self._array(var, arrays)

        run = _runner()
        for segment in self._segments:
            if isinstance(segment, Eqn):
                out = array(segment.output)
                with np.errstate(all="ignore"):
                    out[...] = RULES[segment.op].eval(*map(array, segment.inputs), **segment.params)
            else:
                first, last = segment
                run(self._entries.ctypes.data + 16 * first, last - first)
        if observe is not None:
            for site, var in self._observed:
                observe(site, array(var))
        leaves = [
            arrays[v] if self.views[v].root is v and v in arrays else array(v).copy()
            for v in graph.outputs
        ]
        return unflatten(graph.out_tree, leaves)

    def _array(self, var: Var, arrays: dict[Var, NDArray[Any]]) -> NDArray[Any]:
        view, dtype = self.views[var], var.spec.dtype
        root = arrays.get(view.root)
        if root is None:
            start = self._places[view.root]
            root = self._memory[start : start + view.root.spec.nbytes].view(dtype)
        flat = root.reshape(-1)[view.offset :]
        strides = [s * dtype.itemsize for s in view.strides]
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides)


def _arena(life: dict[Var, tuple[int, int]]) -> tuple[NDArray[np.uint8], dict[Var, int]]:
    """Memory for the roots that equations write, shared where their lives do not overlap."""
    free: list[tuple[int, int]] = []  # (size, start)
    ending: dict[int, list[tuple[int, int]]] = {}
    places: dict[Var, int] = {}
    top, done = 0, -1
    for var, (first, last) in sorted(life.items(), key=lambda item: item[1][0]):
        for g in range(done + 1, first):
            free += ending.pop(g, [])
        done = max(done, first - 1)
        size = -(-max(var.spec.nbytes, 1) // _ALIGN) * _ALIGN
        fit = next((slot for slot in free if slot[0] == size), None)
        if fit is not None:
            free.remove(fit)
            start = fit[1]
        else:
            start, top = top, top + size
        places[var] = start
        ending.setdefault(last, []).append((size, start))
    memory = np.empty(top + _ALIGN, np.uint8)
    shift = -memory.ctypes.data % _ALIGN
    return memory[shift:], places


@cache
def _runner() -> Any:
    """`run(table, n)`: calls the n kernels of a table, each with its pointers."""
    module = ir.Module("runner")
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer(), I64])
    function = ir.Function(module, kind, "run")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    table, n = function.args
    head, done = b.append_basic_block("head"), b.append_basic_block("done")
    before = b.block
    b.cbranch(b.icmp_signed(">", n, ir.Constant(I64, 0)), head, done)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(ir.Constant(I64, 0), before)
    at = b.mul(i, ir.Constant(I64, 2))
    target = ir.FunctionType(ir.VoidType(), [pointer.as_pointer()])
    routine = b.inttoptr(b.load(b.gep(table, [at])), target.as_pointer())
    args = b.load(b.gep(table, [b.add(at, ir.Constant(I64, 1))]))
    b.call(routine, [b.inttoptr(args, pointer.as_pointer())])
    following = b.add(i, ir.Constant(I64, 1))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, n), head, done)
    b.position_at_end(done)
    b.ret_void()
    code = Code(module)
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    call = prototype(code.address("run"))
    return partial(_keep, code, call)


def _keep(code: Code, call: Any, *args: Any) -> None:
    """The code lives as long as the function that calls it."""
    call(*args)
