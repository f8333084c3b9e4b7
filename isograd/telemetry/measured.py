"""Steps in rounds that leave a summary of every site in every round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.select import Backend, native_scan, scan
from isograd.engine.graph import Graph, Var
from isograd.telemetry.raw import summary
from isograd.telemetry.records import Site
from isograd.telemetry.summary import Summary

Summaries = dict[Site, Summary]
Active = Mapping[str, tuple[float, float]]


def measured_scan(
    graph: Graph,
    backend: Backend,
    active: Active,
    *,
    axes: Mapping[Var, int] | None = None,
    threads: int | None = None,
    recompute: bool = False,
) -> Callable[[Any, Any, Any], tuple[Any, Any, int, list[Summaries]]]:
    """A step in rounds, ready to run; its probes name sites.

    Args:
        graph, backend, axes, threads, recompute: as for `isograd.backends.select.scan`.
        active: by site, the interval outside of which values count as saturated.

    Returns:
        A function of (carry, fixed, each). It gives what `isograd.backends.numpy.Scan` gives, and
        the summaries of each round, that of a round which was not applied included.
    """
    if backend == "numpy":
        return _observed(scan(graph, backend, recompute=recompute), active)
    run = native_scan(graph, axes=axes, threads=threads, recompute=recompute, active=active)
    places: dict[Site, list[Any]] = {}
    for record in run.program.records:
        places.setdefault(Site.parse(record.site), []).append(record)

    def read(raw: NDArray[np.uint8]) -> Summaries:
        return {
            site: reduce(
                add,
                (summary(r.measure, raw[r.start : r.start + r.measure.nbytes]) for r in records),
            )
            for site, records in places.items()
        }

    def steps(carry: Any, fixed: Any, each: Any) -> tuple[Any, Any, int, list[Summaries]]:
        after, out, applied, raw = run.measure(carry, fixed, each)
        return after, out, applied, [read(row) for row in raw]

    return steps


def _observed(
    run: Callable[..., Any], active: Active
) -> Callable[[Any, Any, Any], tuple[Any, Any, int, list[Summaries]]]:
    """Of the interpreter, round by round."""

    def steps(carry: Any, fixed: Any, each: Any) -> tuple[Any, Any, int, list[Summaries]]:
        rounds: list[Summaries] = []
        sites: set[Site] = set()

        def observe(site: str, array: NDArray[Any]) -> None:
            found = Site.parse(site)
            if not rounds or found in sites:  # the first site of another round
                rounds.append({})
                sites.clear()
            sites.add(found)
            rounds[-1][found] = Summary.of(array, active=active.get(site))

        after, out, applied = run(carry, fixed, each, observe=observe)
        return after, out, applied, rounds

    return steps
