"""A network's graph with the number of rows left open, from traces for two numbers of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isograd.adapters.onnx_ops import Params, form
from isograd.adapters.onnx_writer import Rows
from isograd.engine.dispatch import apply
from isograd.engine.graph import ArraySpec, Graph, Var
from isograd.engine.ops import Op, Value
from isograd.engine.passes import DEAD_CODE, EXACT, WITHOUT_PROBES, optimise
from isograd.engine.trace import trace
from isograd.errors import GraphError

Function = Callable[[Mapping[str, Value], Value], dict[str, Value]]
"""(arrays by name, rows (n, d)) to outputs (n, …) by name."""


@dataclass(frozen=True, eq=False)
class OpenGraph:
    """A graph in which some lengths are multiples of the number of rows.

    Attributes:
        graph: as traced for some number of rows; in primitives that ONNX has.
        params: those of each equation, with `Rows` for the lengths that grow.
        names: of the inputs, and of values that pass a probe.
        outputs: the outputs by name.
    """

    graph: Graph
    params: tuple[Params, ...]
    names: Mapping[Var, str]
    outputs: Mapping[str, Var]


def open_graph(function: Function, arrays: Mapping[str, ArraySpec], rows: ArraySpec) -> OpenGraph:
    """Trace a function of a batch for two numbers of rows, and compare.

    Args:
        function: to trace.
        arrays: what it takes beside the rows, by name.
        rows: of one row, (1, d).

    Raises:
        GraphError: if what happens to a row depends on the number of rows.
    """
    # Larger than any length of an array, so that no length is taken for the number of rows; and
    # without a common factor.
    n = 1 + max(rows.shape + sum((spec.shape for spec in arrays.values()), ()))
    width = rows.shape[1]
    one, two = (_trace(function, arrays, ArraySpec((k, width), rows.dtype)) for k in (n, n + 1))
    a, b = one.graph, two.graph
    if not _same_form(a, b):
        raise _depends_on_rows()
    params = tuple(
        {key: _merged(e.params[key], f.params[key], n) for key in e.params}
        for e, f in zip(a.eqns, b.eqns, strict=True)
    )
    for v, w in zip(a.outputs, b.outputs, strict=True):
        if _merged(v.spec.shape, w.spec.shape, n)[:1] != (Rows(1),):
            raise _depends_on_rows()
    return OpenGraph(a, params, one.names, one.outputs)


def _trace(function: Function, arrays: Mapping[str, ArraySpec], rows: ArraySpec) -> OpenGraph:
    """The graph in primitives that ONNX has, without probes; values keep the names of sites."""
    first = trace(function, dict(arrays), rows)
    graph = trace(lambda *args: _expand(first, args), *(v.spec for v in first.inputs))
    names = dict(zip(graph.inputs, (*sorted(arrays), "features"), strict=True))
    probed: dict[Var, Var] = {}
    for eqn in graph.eqns:
        if eqn.op is Op.PROBE:
            probed[eqn.output] = source = probed.get(eqn.inputs[0], eqn.inputs[0])
            names.setdefault(source, eqn.params["site"])
    graph = optimise(graph, (WITHOUT_PROBES, DEAD_CODE, *EXACT)).graph
    outputs = dict(zip(first.out_tree.keys, graph.outputs, strict=True))
    return OpenGraph(graph, (), names, outputs)


def _expand(graph: Graph, args: tuple[Value, ...]) -> tuple[Value, ...]:
    """Evaluate a graph, with forms in place of the primitives that need one."""
    values: dict[Var, Value] = dict(graph.constants)
    values.update(zip(graph.inputs, args, strict=True))
    for eqn in graph.eqns:
        inputs = [values[v] for v in eqn.inputs]
        other = form(eqn.op, eqn.output.spec.dtype)
        out = other(*inputs, **eqn.params) if other else apply(eqn.op, *inputs, **eqn.params)
        values[eqn.output] = out
    return tuple(values[v] for v in graph.outputs)


def _same_form(a: Graph, b: Graph) -> bool:
    """Whether two graphs have the same equations but for their parameters, and equal constants."""
    if (len(a.eqns), len(a.constants)) != (len(b.eqns), len(b.constants)):
        return False
    twin = dict(zip(_variables(a), _variables(b), strict=True))
    equations = all(
        e.op is f.op and [twin[v] for v in e.inputs] == list(f.inputs)
        for e, f in zip(a.eqns, b.eqns, strict=True)
    )
    constants = zip(a.constants.values(), b.constants.values(), strict=True)
    return equations and all(
        (x.dtype, x.shape) == (y.dtype, y.shape) and x.tobytes() == y.tobytes()
        for x, y in constants
    )


def _variables(graph: Graph) -> Iterator[Var]:
    yield from graph.inputs
    yield from graph.constants
    yield from (eqn.output for eqn in graph.eqns)


def _merged(x: Any, y: Any, n: int) -> Any:
    """A parameter of traces for n and n + 1 rows, with `Rows` for integers that grow as these."""
    if isinstance(x, tuple) and isinstance(y, tuple) and len(x) == len(y):
        return tuple(_merged(a, b, n) for a, b in zip(x, y, strict=True))
    if x == y:
        return x
    if isinstance(x, int) and isinstance(y, int) and x * (n + 1) == y * n:
        return Rows(x // n)
    raise _depends_on_rows()


def _depends_on_rows() -> GraphError:
    return GraphError(
        "an exported network must do the same to a row whatever the number of rows",
        came="a graph that changes with it",
        fix="remove what depends on the other rows of a batch",
    )


__all__ = ["Function", "OpenGraph", "open_graph"]
