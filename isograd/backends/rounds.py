"""The form of a step that is taken in rounds, each from where the one before it ended.

Such a step is a traced `step(carry, fixed, each) -> (carry, out, go)` over trees of arrays.
`carry` goes from round to round, `fixed` is the same in all, and of `each` a round gets its row.
`go` is a float scalar: a round in which it is not finite is not applied, and is the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.graph import Graph, Var
from isograd.engine.tree import LEAF, Structure, flatten
from isograd.errors import GraphError, ShapeError

Observer = Callable[[str, NDArray[Any]], None]
"""Called at each probe with its site and the array there. It must not keep or change the array."""


@dataclass(frozen=True, eq=False)
class Rounds:
    """The graph of such a step.

    Attributes:
        carry, fixed, each: its inputs, leaf by leaf.
        out: its outputs between the carry and `go`.
        carry_tree, fixed_tree, each_tree, out_tree: how they are nested.
    """

    carry: tuple[Var, ...]
    fixed: tuple[Var, ...]
    each: tuple[Var, ...]
    out: tuple[Var, ...]
    carry_tree: Structure
    fixed_tree: Structure
    each_tree: Structure
    out_tree: Structure

    @staticmethod
    def of(graph: Graph) -> Rounds:
        """Take a graph apart.

        Raises:
            GraphError: it is not that of such a step.
        """
        given, got = graph.in_tree.children, graph.out_tree.children
        wrong = _wrong(graph, given, got)
        if wrong:
            raise GraphError(
                "a step in rounds must map (carry, fixed, each) to (carry, out, go)",
                came=wrong,
                fix="give each round's own arguments in `each`, and a float scalar as `go`",
            )
        first, second = given[0].leaves, given[0].leaves + given[1].leaves
        return Rounds(
            carry=graph.inputs[:first],
            fixed=graph.inputs[first:second],
            each=graph.inputs[second:],
            out=graph.outputs[first:-1],
            carry_tree=given[0],
            fixed_tree=given[1],
            each_tree=given[2],
            out_tree=got[1],
        )

    def bind(
        self, carry: Any, fixed: Any, each: Any
    ) -> tuple[int, list[NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]:
        """The number of rounds, and the leaves of the arguments.

        Raises:
            ShapeError: an argument is not what was traced for, or rows differ in number.
        """
        rows = _leaves("each", each, self.each_tree)
        counts = {row.shape[0] if row.ndim else -1 for row in rows}
        if len(counts) > 1 or min(counts) < 0:
            raise ShapeError(
                "each array of `each` must have one row per round",
                came=", ".join(str(row.shape) for row in rows),
            )
        held = _leaves("carry", carry, self.carry_tree)
        steady = _leaves("fixed", fixed, self.fixed_tree)
        _require("carry", held, self.carry, 0)
        _require("fixed", steady, self.fixed, 0)
        _require("each", rows, self.each, 1)
        return counts.pop(), held, steady, rows


def _wrong(graph: Graph, given: tuple[Structure, ...], got: tuple[Structure, ...]) -> str:
    """What is not as it must be; empty if nothing is."""
    if len(given) != 3 or len(got) != 3:
        return f"{len(given)} arguments and {len(got)} results"
    if not given[2].leaves:
        return "nothing in `each`"
    if given[0] != got[0]:
        return "a carry that is nested otherwise than the one before it"
    pairs = zip(graph.inputs, graph.outputs[: given[0].leaves], strict=False)
    for before, after in pairs:
        if before.spec != after.spec:
            return f"a carry of {after.spec} after one of {before.spec}"
    go = graph.outputs[-1].spec
    if got[2] != LEAF or go.shape or not go.differentiable:
        return f"{go} as `go`"
    return ""


def _leaves(name: str, tree: Any, structure: Structure) -> list[NDArray[Any]]:
    leaves, came = flatten(tree)
    if came != structure:
        raise ShapeError(
            f"`{name}` must be nested as it was when the step was traced",
            came=f"{len(leaves)} leaves as {came}",
            where=f"a step with {structure.leaves} leaves there",
        )
    return [np.asarray(leaf) for leaf in leaves]


def _require(name: str, arrays: list[NDArray[Any]], variables: tuple[Var, ...], drop: int) -> None:
    """Arrays as traced for, but for their first `drop` axes."""
    for i, (array, var) in enumerate(zip(arrays, variables, strict=True)):
        spec = var.spec
        if array.shape[drop:] != spec.shape or array.dtype != spec.dtype:
            raise ShapeError(
                f"array {i} of `{name}` must be {spec}" + (" in each round" if drop else ""),
                came=f"{array.dtype}{list(array.shape)}",
                fix="cast or reshape it, or trace again",
            )
