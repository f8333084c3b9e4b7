"""The reference interpreter: runs a plan step by step on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.graph import Var
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import Plan
from isograd.engine.trace import bind
from isograd.engine.tree import unflatten

Observer = Callable[[str, NDArray[Any]], None]
"""Called at each probe with its site and the array there. It must not keep or change the array."""


class Executable:
    """A plan, ready to run.

    Args:
        plan: what to run.

    Example:
        >>> import isograd
        >>> from isograd.engine.plan import plan
        >>> double = Executable(plan(isograd.trace(lambda x: x + x, isograd.ArraySpec(()))))
        >>> float(double(21.0))
        42.0
    """

    def __init__(self, plan: Plan) -> None:
        graph = plan.graph
        slots: dict[Var, int] = {}
        for var in (*graph.inputs, *graph.constants, *(e.output for e in graph.eqns)):
            slots[var] = len(slots)
        self.plan = plan
        self._start: list[Any] = [None] * len(slots)
        for var, array in graph.constants.items():
            self._start[slots[var]] = array
        self._steps = [
            (
                partial(RULES[eqn.op].eval, **eqn.params) if eqn.params else RULES[eqn.op].eval,
                tuple(slots[v] for v in eqn.inputs),
                slots[eqn.output],
                tuple(slots[v] for v in released),
                eqn.params["site"] if eqn.op is Op.PROBE else None,
            )
            for eqn, released in zip(graph.eqns, plan.releases, strict=True)
        ]
        self._outputs = [slots[v] for v in graph.outputs]

    def __call__(self, *args: Any, observe: Observer | None = None) -> Any:
        """Run the plan.

        Args:
            args: nested as the traced function's arguments, of the shapes and dtypes traced for.
            observe: called at each probe.

        Returns:
            The result, nested as the traced function's. Its arrays may share
            memory with each other, with the arguments and with the (read-only) constants of the
            graph: do not change them in place.

        Raises:
            ShapeError: if an argument is not what was traced for.
        """
        values = self._start.copy()
        inputs = bind(self.plan.graph, args)
        values[: len(inputs)] = inputs
        with np.errstate(all="ignore"):
            for evaluate, reads, write, released, site in self._steps:
                if site is not None and observe is not None:
                    observe(site, values[reads[0]])
                values[write] = evaluate(*[values[i] for i in reads])
                for i in released:
                    values[i] = None
        return unflatten(self.plan.graph.out_tree, (values[i] for i in self._outputs))
