"""The reference interpreter: runs a plan step by step on NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from isograd.backends.rounds import Observer, Rounds
from isograd.engine.graph import Var
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import Plan
from isograd.engine.trace import bind
from isograd.engine.tree import unflatten


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
        graph = self.plan.graph
        return unflatten(graph.out_tree, self.leaves(bind(graph, args), observe))

    def leaves(self, inputs: Sequence[Any], observe: Observer | None = None) -> list[Any]:
        """The leaves of the result, from those of the arguments; these are not checked."""
        values = self._start.copy()
        values[: len(inputs)] = inputs
        with np.errstate(all="ignore"):
            for evaluate, reads, write, released, site in self._steps:
                if site is not None and observe is not None:
                    observe(site, values[reads[0]])
                values[write] = evaluate(*[values[i] for i in reads])
                for i in released:
                    values[i] = None
        return [values[i] for i in self._outputs]


class Scan:
    """A step in rounds, each from where the one before it ended: see `isograd.backends.rounds`.

    Args:
        plan: of the graph of `step(carry, fixed, each) -> (carry, out, go)`.

    Raises:
        GraphError: the graph is another's.

    Example:
        >>> import isograd, numpy as np
        >>> from isograd.engine.plan import plan
        >>> def step(total, factor, x):
        ...     return total + factor * x, total, x
        >>> scalar = isograd.ArraySpec(())
        >>> run = Scan(plan(isograd.trace(step, scalar, scalar, scalar)))
        >>> total, before, applied = run(0.0, 2.0, np.array([1.0, 2.0, np.nan, 3.0]))
        >>> float(total), before.tolist(), applied
        (6.0, [0.0, 2.0, 6.0], 2)
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._rounds = Rounds.of(plan.graph)
        self._step = Executable(plan)

    def __call__(
        self, carry: Any, fixed: Any, each: Any, observe: Observer | None = None
    ) -> tuple[Any, Any, int]:
        """Take rounds until there are no more, or one is not to be applied.

        Args:
            carry, fixed: as traced for; they are not changed.
            each: likewise, every array with an axis of k rounds before its own.
            observe: called at each probe of each round.

        Returns:
            The carry after the rounds that were applied; `out` of these and of the one that ended
            them, if one did, with an axis of rounds before its own; the number of rounds applied.

        Raises:
            ShapeError: if an argument is not what was traced for.
        """
        form = self._rounds
        count, held, steady, rows = form.bind(carry, fixed, each)
        out = [np.empty((count, *var.spec.shape), var.spec.dtype) for var in form.out]
        shown = applied = 0
        while shown == applied < count:
            mine = [row[shown, ...] for row in rows]
            leaves = self._step.leaves([*held, *steady, *mine], observe)
            for array, value in zip(out, leaves[len(held) :], strict=False):
                array[shown] = value
            shown += 1
            if math.isfinite(leaves[-1]):
                held = leaves[: len(held)]
                applied += 1
        after = unflatten(form.carry_tree, map(np.asarray, held))
        return after, unflatten(form.out_tree, (array[:shown] for array in out)), applied
