"""A worker of the benchmarks: `python worker.py MODULE SETTING ROW`; see common.py."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from typing import Any

from common import Built, Steps, Unavailable, cores, serve
from networks import Problem, row_of

WARM_UP = 0.5
"""Seconds, at least."""
TOLERANCE = 1e-4
"""Of the first loss, relative to the float64 reference: float32 holds the sums of a hundred layers
to about 1e-6 (Higham 2002, section 3.5, for random rounding errors); a wrong network is far off."""

LEARNS = 100
"""Layers up to which a chain without skip connections learns at the rate of the benchmark."""


def check(first: float, later: float, expected: float, learns: bool = True) -> None:
    """The same computation is timed, and it trains.

    Args:
        first: loss of the first step.
        later: mean loss of the steps of a call after the warm-up.
        expected: the first loss by the reference.
        learns: whether the loss must have fallen; else it must be finite.

    Raises:
        AssertionError: if not.
    """
    if not math.isclose(first, expected, rel_tol=TOLERANCE):
        raise AssertionError(
            f"the first loss is {first:.6g}, and the reference says {expected:.6g}"
        )
    if not (later < first if learns else math.isfinite(later)):
        raise AssertionError(f"after the warm-up the loss is {later:.6g}; it was {first:.6g}")


def build(module: str, setting: str, row: str) -> Built:
    """Make the peer, take the first steps, warm up, check.

    Raises:
        Unavailable: if the peer's library is not installed.
    """
    try:
        peer: Any = importlib.import_module(f"peers.{module}")
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from None
    problem = Problem(row_of(row))
    expected = problem.reference()
    problem.batch(0)
    start = time.perf_counter()
    steps: Steps = peer.make(problem, setting)
    seconds, losses = steps.take(1)
    first = time.perf_counter() - start
    stages = steps.stages | {"first call": seconds}
    answer: dict[str, Any] = {"first": first, "stages": stages, "facts": steps.facts}
    first_loss = float(losses[0]) if len(losses) else math.nan
    spent = 0.0
    while spent < WARM_UP:
        seconds, losses = steps.take(1)
        spent += seconds
    if len(losses):
        later = sum(map(float, losses)) / len(losses)
        learns = len(problem.row.layers) <= LEARNS
        check(first_loss, later, expected, learns)
        answer |= {"first_loss": first_loss, "later_loss": later}
    return answer, steps, seconds


def main() -> None:
    """Serve one peer, on as many cores as its row may use."""
    module, setting, row = sys.argv[1:]
    pinned = cores(row_of(row).threads)
    if pinned:
        os.sched_setaffinity(0, pinned)
    serve(lambda: build(module, setting, row))


if __name__ == "__main__":
    main()
