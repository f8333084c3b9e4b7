"""How often a run is measured, where its spec leaves that open; and what measuring has cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from isograd.engine.graph import Graph
from isograd.engine.ops import Op

BUDGET = 0.05
"""Share of the time of the steps that measuring may take."""

AT_LEAST = 20
"""Measured steps of a run beside its first ones, whatever they cost: a diagnosis needs some."""

# Seconds, on one core of an AMD EPYC (Zen 4) at 3.7 GHz: of a FLOP of a product, of an equation, of
# a summary with its rows in the store, of an element that is measured, and of one that is carried
# from call to call, as a measured step is a call of its own. They decide how often, not what, is
# measured: a machine that is faster in all keeps to the same budget.
_FLOP, _EQUATION, _SUMMARY, _ELEMENT, _CARRIED = 1e-11, 1e-7, 3e-5, 8e-10, 6e-9


def cadence(graph: Graph, steps: int) -> int:
    """Every how many steps all sites are summarised, so that it takes a twentieth of the time.

    It is estimated from the graph, not timed: the same run is measured at the same steps anywhere.

    Args:
        graph: of a step, with its probes.
        steps: of the run.
    """
    bare, measured = 0.0, _CARRIED * sum(var.spec.size for var in graph.outputs)
    for eqn in graph.eqns:
        size = eqn.output.spec.size
        if eqn.op is Op.PROBE:
            measured += _SUMMARY + _ELEMENT * size
        elif eqn.op is Op.MATMUL:
            bare += _EQUATION + _FLOP * 2.0 * size * eqn.inputs[0].spec.shape[-1]
        else:
            bare += _EQUATION
    rare = math.ceil(measured / (BUDGET * bare)) if bare else 1
    return max(1, min(rare, steps // AT_LEAST))


class Costs:
    """What telemetry takes of a run, by the clock.

    Steps that are measured are compared with the same steps without: one is taken again, once for
    those that are summarised and once for those whose moments are taken.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._bare: float | None = None
        self._share: float | None = None

    def measured(self, seconds: float, bare: Callable[[], object]) -> None:
        """A step was summarised.

        Args:
            seconds: that it took.
            bare: takes it without.
        """
        if self._bare is None:
            self._bare = min(_timed(bare), _timed(bare))
        self.seconds += max(seconds - self._bare, 0.0)

    def brief(self, seconds: float, bare: Callable[[], object]) -> None:
        """Steps gave moments; as for `measured`."""
        if self._share is None:
            self._share = max(1.0 - min(_timed(bare), _timed(bare)) / seconds, 0.0)
        self.seconds += self._share * seconds

    @contextmanager
    def storing(self) -> Iterator[None]:
        """While records are written."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
