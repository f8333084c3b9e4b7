"""An ONNX model in the making: nodes, initialisers, and names that no two of them share."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from isograd._version import __version__
from isograd.engine.graph import ArraySpec
from isograd.errors import IsogradError

OPSET = 17
"""Of 2022, so that runtimes of the last years take the file: nothing that came later is needed."""
IR_VERSION = 8
"""The version of the file format that came with this opset."""
ROWS = "n"
"""The name of the open length."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A length that is a multiple of the number of rows, which the file leaves open."""

    times: int


def library() -> Any:
    """The package onnx.

    Raises:
        IsogradError: if it is not installed.
    """
    try:
        importlib.import_module("onnx.checker")
        return importlib.import_module("onnx")
    except ImportError as error:
        raise IsogradError(
            "an export to ONNX needs the package onnx",
            came=str(error),
            fix="pip install isograd[onnx]",
        ) from None


class Writer:
    """Gathers the nodes and initialisers of a model of one input.

    Args:
        onnx: the package.
        source: the name of the input, (n, d).
        reserved: names that `name` must not give away.
    """

    def __init__(self, onnx: Any, source: str, reserved: Sequence[str]) -> None:
        self.onnx = onnx
        self.source = source
        self._nodes: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._integers: dict[tuple[int, ...], str] = {}
        self._used = {source, *reserved}
        self._lengths: dict[tuple[int | Rows, ...], str] = {}
        self._rows = self._one = ""
        self._variable: dict[str, str] = {}

    def name(self, wanted: str) -> str:
        """The name, or if it is in use the name with a number behind it."""
        name, k = wanted, len(self._used)
        while name in self._used:
            name, k = f"{wanted}_{k}", k + 1
        self._used.add(name)
        return name

    def node(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Add a node of one output, which gets a name if it comes without. Returns the name."""
        out = output or self.name(kind.lower())
        self._nodes.append(self.onnx.helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def tensor(self, array: ArrayLike, name: str) -> str:
        """Add an initialiser. Returns its name."""
        self._tensors[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def integers(self, values: Sequence[int]) -> str:
        """The name of an initialiser of these int64."""
        key = tuple(values)
        if key not in self._integers:
            array = np.array(key, np.int64)
            self._integers[key] = self.tensor(array, self.name("integers"))
        return self._integers[key]

    def lengths(self, shape: Sequence[int | Rows]) -> str:
        """The name of a shape, int64 (axes,): fixed lengths + times · rows."""
        key = tuple(shape)
        fixed = self.integers([0 if isinstance(n, Rows) else n for n in key])
        times = [n.times if isinstance(n, Rows) else 0 for n in key]
        if not any(times):
            return fixed
        if key not in self._lengths:  # written once: runtimes take long to simplify thousands
            grown = self.node("Mul", [self.integers(times), self._count()])
            self._lengths[key] = self.node("Add", [fixed, grown])
        return self._lengths[key]

    def variable(self, name: str) -> str:
        """The name of a float64 array of the same values, which no runtime takes for constant."""
        if name not in self._variable:
            if not self._one:
                zero = self.node("Mul", [self.integers([0]), self._count()])
                one = self.node("Add", [self.integers([1]), zero])
                self._one = self.node("Cast", [one], to=self.element_type(np.float64))
            self._variable[name] = self.node("Mul", [name, self._one])
        return self._variable[name]

    def _count(self) -> str:
        """The name of the number of rows, int64 (1,)."""
        self._rows = self._rows or self.node("Shape", [self.source], start=0, end=1)
        return self._rows

    def element_type(self, dtype: DTypeLike) -> int:
        """ONNX's number of a dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def model(self, source: ArraySpec, outputs: dict[str, ArraySpec]) -> Any:
        """The model, with rows left open.

        Args:
            source: of the input; its first length is not looked at.
            outputs: by name, likewise.
        """
        helper = self.onnx.helper
        graph = helper.make_graph(
            self._nodes,
            "isograd",
            [self._info(self.source, source)],
            [self._info(name, spec) for name, spec in outputs.items()],
            list(self._tensors.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="isograd",
            producer_version=__version__,
        )

    def _info(self, name: str, spec: ArraySpec) -> Any:
        shape = [ROWS, *spec.shape[1:]]
        kind = self.element_type(spec.dtype)
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)


__all__ = ["IR_VERSION", "OPSET", "Rows", "Writer", "library"]
