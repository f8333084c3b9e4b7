"""Dynamic mode: a function runs on values and leaves a record of what it did.

The record is an ordinary `Graph` together with the value of every variable, so reverse
differentiation is the same walk over equations in both modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isograd.engine.array import Array
from isograd.engine.dispatch import Handler, apply, spec_of
from isograd.engine.functions import asarray
from isograd.engine.graph import ArraySpec, Eqn, Graph, Var
from isograd.engine.ops import Op, Value
from isograd.engine.tree import flatten, unflatten
from isograd.errors import GraphError


class Recorded(Array):
    """A value of the dynamic mode, and the variable under which it is on record."""

    __slots__ = ("primal", "var")

    def __init__(self, handler: Handler, spec: ArraySpec, var: Var, primal: Value) -> None:
        super().__init__(handler, spec)
        self.var = var
        self.primal = primal


@dataclass(frozen=True, eq=False)
class Recording:
    """What a run left behind: its equations, and the value of each variable."""

    graph: Graph
    values: dict[Var, Value]

    @property
    def outputs(self) -> list[Value]:
        """Values of the result's leaves."""
        return [self.values[v] for v in self.graph.outputs]


class _Recorder(Handler):
    def __init__(self) -> None:
        super().__init__()
        self.eqns: list[Eqn] = []
        self.values: dict[Var, Value] = {}
        self.constants: dict[Var, Value] = {}

    def new(self, primal: Value) -> Recorded:
        spec = spec_of(primal)
        var = Var(spec)
        self.values[var] = primal
        return Recorded(self, spec, var, primal)

    def var_of(self, x: Value) -> Var:
        """The variable of a value; one from outside becomes a constant of the record."""
        if isinstance(x, Recorded) and x.handler is self:
            return x.var
        var = Var(spec_of(x))
        self.values[var] = self.constants[var] = x
        return var

    def process(self, op: Op, args: tuple[Value, ...], params: dict[str, Any]) -> Value:
        inputs = tuple(self.var_of(a) for a in args)
        out = self.new(apply(op, *(self.values[v] for v in inputs), **params))
        self.eqns.append(Eqn(op, inputs, params, out.var))
        return out


def record(f: Callable[..., Any], args: Sequence[Any]) -> Recording:
    """Run `f(*args)` and keep the record.

    Args:
        f: any function of arrays in nested containers.
        args: its arguments; every leaf becomes an input of the record.

    Raises:
        GraphError: if a leaf of the result is no array.
    """
    leaves, in_tree = flatten(tuple(args))
    recorder = _Recorder()
    inputs = [recorder.new(asarray(leaf)) for leaf in leaves]
    with np.errstate(all="ignore"):
        result = f(*unflatten(in_tree, inputs))
    outs, out_tree = flatten(result)
    for out in outs:
        check_result(f, out)
    graph = Graph(
        inputs=tuple(i.var for i in inputs),
        constants=recorder.constants,
        eqns=tuple(recorder.eqns),
        outputs=tuple(recorder.var_of(o if isinstance(o, Array) else asarray(o)) for o in outs),
        in_tree=in_tree,
        out_tree=out_tree,
    )
    return Recording(graph, recorder.values)


def check_result(f: Callable[..., Any], out: Any) -> None:
    """Refuse a result that is no array."""
    if isinstance(out, Array | np.ndarray | np.generic | int | float):
        return
    raise GraphError(
        "a function of arrays must return arrays, in dicts, lists and tuples if need be",
        came=f"{type(out).__name__} from {getattr(f, '__name__', f)}",
    )
