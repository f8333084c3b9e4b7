"""Static mode: a function is run once on specs, and becomes a `Graph`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.array import Array
from isograd.engine.dispatch import Handler, Tracer, apply, spec_of
from isograd.engine.eager import check_result
from isograd.engine.functions import asarray
from isograd.engine.graph import ArraySpec, Eqn, Graph, Var
from isograd.engine.ops import RULES, Op, Value
from isograd.engine.tree import flatten, unflatten
from isograd.errors import GraphError, ShapeError


class Symbolic(Array):
    """An array of which only shape and dtype are known."""

    __slots__ = ("var",)

    def __init__(self, handler: Handler, var: Var) -> None:
        super().__init__(handler, var.spec)
        self.var = var


class _Tracing(Handler):
    def __init__(self) -> None:
        super().__init__()
        self.eqns: list[Eqn] = []
        self.constants: dict[Var, Any] = {}
        self.seen: dict[int, tuple[Var, Any]] = {}  # by id; the array is kept, so ids stay unique

    def var_of(self, x: Value) -> Var:
        if isinstance(x, Symbolic) and x.handler is self:
            return x.var
        if isinstance(x, Tracer):
            raise GraphError(
                "a traced function must not use arrays of a transformation around the trace",
                came=repr(x),
                fix="pass it as an argument",
            )
        if id(x) not in self.seen:
            self.seen[id(x)] = (self.constant(np.asarray(x)), x)
        return self.seen[id(x)][0]

    def constant(self, x: NDArray[Any]) -> Var:
        """A constant of the graph; one that repeats a single value is that value, broadcast."""
        if x.ndim and x.size > 1 and not any(x.strides):
            scalar = self.constant(x[(0,) * x.ndim].reshape(()))
            eqn = Eqn(Op.BROADCAST, (scalar,), {"shape": x.shape}, Var(spec_of(x)))
            self.eqns.append(eqn)
            return eqn.output
        var = Var(spec_of(x))
        self.constants[var] = copy = np.array(x)  # the caller may change the array
        copy.flags.writeable = False
        return var

    def process(self, op: Op, args: tuple[Value, ...], params: dict[str, Any]) -> Value:
        inputs = tuple(self.var_of(a) for a in args)
        try:
            spec = RULES[op].shape(*(v.spec for v in inputs), **params)
        except ShapeError as error:
            raise error.at(f"equation {len(self.eqns)} ({op.value})") from None
        eqn = Eqn(op, inputs, params, Var(spec))
        self.eqns.append(eqn)
        return Symbolic(self, eqn.output)


def trace(f: Callable[..., Any], *specs: Any) -> Graph:
    """The graph of `f` for arguments of the given shapes and dtypes.

    Args:
        f: a function of arrays in nested containers. It runs once; what it prints or chooses is
            fixed then.
        specs: an `ArraySpec`, or an array that serves as one, for each leaf of each argument.

    Returns:
        A graph that can be printed, checked, rewritten, planned, and evaluated (`evaluate`).

    Raises:
        GraphError: if `f` depends on the value of an array, or returns something else than arrays.
        ShapeError: if shapes do not meet; it names the equation.

    Example:
        >>> import isograd, numpy as np
        >>> print(isograd.trace(lambda x: x * 2.0 + 1.0, isograd.ArraySpec((3,))))
        graph(x0: f64[3])
          c0: f64[] = const 2.0
          c1: f64[] = const 1.0
          v0: f64[3] = broadcast[shape=(3,)] c0
          v1: f64[3] = mul x0 v0
          v2: f64[3] = broadcast[shape=(3,)] c1
          v3: f64[3] = add v1 v2
          return v3
    """
    leaves, in_tree = flatten(specs)
    tracing = _Tracing()
    inputs = [Symbolic(tracing, Var(spec_of(leaf))) for leaf in leaves]
    with np.errstate(all="ignore"):
        result = f(*unflatten(in_tree, inputs))
    outs, out_tree = flatten(result)
    for out in outs:
        check_result(f, out)
    outputs = tuple(tracing.var_of(asarray(out)) for out in outs)  # may add equations
    return Graph(
        inputs=tuple(i.var for i in inputs),
        constants=tracing.constants,
        eqns=tuple(tracing.eqns),
        outputs=outputs,
        in_tree=in_tree,
        out_tree=out_tree,
    )


def evaluate(graph: Graph, *args: Any) -> Any:
    """Apply a graph's equations to arrays, or to tracers: so a graph can be differentiated again.

    Args:
        graph: from `trace`.
        args: as for the traced function, with the shapes and dtypes it was traced for.

    Raises:
        ShapeError: if an argument differs in nesting, shape or dtype from what was traced.
    """
    values: dict[Var, Value] = dict(graph.constants)
    values.update(zip(graph.inputs, bind(graph, args), strict=True))
    for eqn in graph.eqns:
        values[eqn.output] = apply(eqn.op, *(values[v] for v in eqn.inputs), **eqn.params)
    return unflatten(graph.out_tree, (values[v] for v in graph.outputs))


def bind(graph: Graph, args: tuple[Any, ...]) -> list[Value]:
    """The leaves of the arguments, if they are what the graph was traced for."""
    leaves, tree = flatten(args)
    if tree != graph.in_tree:
        raise ShapeError(
            "the arguments of a graph must be nested as those it was traced for",
            came=f"{len(leaves)} leaves as {tree}",
            where=f"a graph of {len(graph.inputs)} inputs",
        )
    values = [asarray(leaf) for leaf in leaves]
    for i, (value, var) in enumerate(zip(values, graph.inputs, strict=True)):
        if spec_of(value) != var.spec:
            raise ShapeError(
                f"input {i} of the graph must be {var.spec}",
                came=str(spec_of(value)),
                fix="cast or reshape it, or trace again",
            )
    return values


__all__ = ["ArraySpec", "Symbolic", "bind", "evaluate", "trace"]
