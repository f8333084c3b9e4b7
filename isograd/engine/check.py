"""What makes a graph valid, as a table of named checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from isograd.engine.graph import Graph, Var
from isograd.engine.ops import RULES
from isograd.errors import GraphError, ShapeError


def _assigned_once(graph: Graph) -> Iterator[str]:
    seen: set[Var] = set()
    for kind, variables in (
        ("input", graph.inputs),
        ("constant", graph.constants),
        ("equation", (eqn.output for eqn in graph.eqns)),
    ):
        for i, var in enumerate(variables):
            if var in seen:
                yield f"{kind} {i} assigns a variable again"
            seen.add(var)


def _assigned_before_read(graph: Graph) -> Iterator[str]:
    known = {*graph.inputs, *graph.constants}
    for i, eqn in enumerate(graph.eqns):
        for k, var in enumerate(eqn.inputs):
            if var not in known:
                yield f"equation {i} ({eqn.op.value}) reads argument {k} before it is assigned"
        known.add(eqn.output)
    for i, var in enumerate(graph.outputs):
        if var not in known:
            yield f"output {i} is never assigned"


def _specs_follow_rules(graph: Graph) -> Iterator[str]:
    for i, eqn in enumerate(graph.eqns):
        try:
            spec = RULES[eqn.op].shape(*(v.spec for v in eqn.inputs), **eqn.params)
        except ShapeError as error:
            yield f"equation {i} ({eqn.op.value}): {error.must} ({error.came})"
            continue
        except (
            TypeError,
            ValueError,
            IndexError,
        ) as error:  # arguments or params it has no use for
            yield f"equation {i} ({eqn.op.value}) does not fit its rule: {error}"
            continue
        if spec != eqn.output.spec:
            yield (
                f"equation {i} ({eqn.op.value}) is declared {eqn.output.spec} "
                f"where its rule gives {spec}"
            )


def _constants_match(graph: Graph) -> Iterator[str]:
    for i, (var, array) in enumerate(graph.constants.items()):
        if (array.shape, array.dtype) != (var.spec.shape, var.spec.dtype):
            yield f"constant {i} is declared {var.spec} and holds {array.dtype}{array.shape}"


def _trees_match(graph: Graph) -> Iterator[str]:
    for name, tree, variables in (
        ("inputs", graph.in_tree, graph.inputs),
        ("outputs", graph.out_tree, graph.outputs),
    ):
        if tree.leaves != len(variables):
            yield f"{len(variables)} {name} for a nesting of {tree.leaves} leaves"


CHECKS: tuple[tuple[str, Callable[[Graph], Iterator[str]]], ...] = (
    ("a variable must be assigned once", _assigned_once),
    ("a variable must be assigned before it is read", _assigned_before_read),
    ("shapes and dtypes must follow the rules of the primitives", _specs_follow_rules),
    ("a constant must hold what it declares", _constants_match),
    ("inputs and outputs must fill their nesting", _trees_match),
)


def check(graph: Graph) -> Graph:
    """The graph itself, if it is valid.

    Raises:
        GraphError: with the invariant that is broken and the first place where it is.
    """
    for must, violations in CHECKS:
        first = next(violations(graph), None)
        if first is not None:
            raise GraphError(must, came=first, fix="the function or pass that made it is at fault")
    return graph
