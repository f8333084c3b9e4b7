"""The graph: static single assignment over arrays of known shape, and its printer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from isograd.engine.ops import Op
from isograd.engine.tree import LEAF, Structure

_SHORT = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "int64": "i64",
    "int32": "i32",
    "uint32": "u32",
    "uint8": "u8",
    "bool": "bool",
}


@cache
def _name(dtype: np.dtype[Any]) -> str:
    """NumPy puts a name together anew each time it is asked."""
    return dtype.name


@dataclass(frozen=True, slots=True, init=False)
class ArraySpec:
    """Shape and dtype of an array that is not there yet; float64 unless said."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, shape: Iterable[int], dtype: DTypeLike = np.float64) -> None:
        object.__setattr__(self, "shape", tuple(shape))
        object.__setattr__(self, "dtype", np.dtype(dtype))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """Of the dtype."""
        return _name(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that an array of this spec takes."""
        return self.size * int(self.dtype.itemsize)

    @property
    def differentiable(self) -> bool:
        """Derivatives exist for floating-point arrays alone."""
        return self.dtype.kind == "f"

    def __str__(self) -> str:
        name = _SHORT.get(self.dtype.name, self.dtype.name)
        return f"{name}[{','.join(map(str, self.shape))}]"


class Var:
    """A value in a graph, assigned once. Compared by identity; named when printed."""

    __slots__ = ("spec",)

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec


@dataclass(frozen=True, slots=True, eq=False)
class Eqn:
    """One application of a primitive: `output = op[params](*inputs)`."""

    op: Op
    inputs: tuple[Var, ...]
    params: Mapping[str, Any]
    output: Var


@dataclass(frozen=True, eq=False)
class Graph:
    """Equations in an order in which they can run.

    Attributes:
        inputs: one variable per leaf of the arguments.
        constants: arrays that the function closed over.
        eqns: each reads inputs, constants and outputs of earlier equations.
        outputs: one variable per leaf of the result.
        in_tree, out_tree: the nesting of the arguments and of the result.
    """

    inputs: tuple[Var, ...]
    constants: Mapping[Var, NDArray[Any]]
    eqns: tuple[Eqn, ...]
    outputs: tuple[Var, ...]
    in_tree: Structure = LEAF
    out_tree: Structure = LEAF

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    @property
    def op_counts(self) -> Counter[Op]:
        """How often each primitive occurs."""
        return Counter(eqn.op for eqn in self.eqns)

    @property
    def matmul_flops(self) -> int:
        """Floating-point operations in the matrix products: 2·m·k·n for (m, k) @ (k, n)."""
        return sum(
            2 * eqn.output.spec.size * eqn.inputs[0].spec.shape[-1]
            for eqn in self.eqns
            if eqn.op is Op.MATMUL
        )


def _lines(graph: Graph) -> Iterator[str]:
    names: dict[Var, str] = {}
    for i, var in enumerate(graph.inputs):
        names[var] = f"x{i}"
    for i, var in enumerate(graph.constants):
        names[var] = f"c{i}"
    for i, eqn in enumerate(graph.eqns):
        names[eqn.output] = f"v{i}"

    def typed(var: Var) -> str:
        return f"{names.get(var, '?')}: {var.spec}"

    yield f"graph({', '.join(map(typed, graph.inputs))})"
    for var, array in graph.constants.items():
        text = f"{array!s}" if array.ndim == 0 else "array"
        yield f"  {typed(var)} = const {text}"
    for eqn in graph.eqns:
        params = ", ".join(f"{k}={_show(v)}" for k, v in eqn.params.items())
        args = " ".join(names.get(v, "?") for v in eqn.inputs)
        yield f"  {typed(eqn.output)} = {eqn.op.value}{f'[{params}]' if params else ''} {args}"
    yield f"  return {', '.join(names.get(v, '?') for v in graph.outputs)}"


def _show(value: Any) -> str:
    if isinstance(value, np.dtype):
        return value.name
    return repr(value) if isinstance(value, str) else str(value).replace(" ", "")
