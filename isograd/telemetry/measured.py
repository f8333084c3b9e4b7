"""Steps in rounds that leave a summary, or moments, of every site in every round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.llvm.measured import MOMENTS
from isograd.backends.select import Backend, native_scan, scan
from isograd.engine.graph import Graph, Var
from isograd.engine.ops import Op
from isograd.telemetry.raw import merge_moments, merge_summaries, summary
from isograd.telemetry.records import Site
from isograd.telemetry.summary import Summary

if TYPE_CHECKING:
    from isograd.backends.llvm.work import Record

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
    read = _reader(run.program.records)

    def steps(carry: Any, fixed: Any, each: Any) -> tuple[Any, Any, int, list[Summaries]]:
        after, out, applied, raw = run.measure(carry, fixed, each)
        return after, out, applied, [read(row) for row in raw]

    return steps


def moments_scan(
    graph: Graph,
    backend: Backend,
    active: Active,
    *,
    axes: Mapping[Var, int] | None = None,
    threads: int | None = None,
    recompute: bool = False,
) -> tuple[Callable[[Any, Any, Any], tuple[Any, Any, int, NDArray[Any]]], tuple[Site, ...]]:
    """A step in rounds, ready to run, and its sites.

    Args:
        graph, backend, active, axes, threads, recompute: as for `measured_scan`.

    Returns:
        A function of (carry, fixed, each). It gives what `isograd.backends.numpy.Scan` gives, and
        the moments of every site in each round, (rounds, sites) of MOMENTS.
    """
    probes = (eqn.params["site"] for eqn in graph.eqns if eqn.op is Op.PROBE)
    sites = tuple(dict.fromkeys(map(Site.parse, probes)))
    if backend == "numpy":
        observed = _observed(scan(graph, backend, recompute=recompute), active)

        def interpreted(carry: Any, fixed: Any, each: Any) -> tuple[Any, Any, int, NDArray[Any]]:
            after, out, applied, rounds = observed(carry, fixed, each)
            rows = [moments_of(found, sites) for found in rounds]
            return after, out, applied, np.array(rows, MOMENTS).reshape(len(rows), len(sites))

        return interpreted, sites
    run = native_scan(
        graph, axes=axes, threads=threads, recompute=recompute, active=active, full=False
    )
    numbers: dict[Site, list[int]] = {site: [] for site in sites}
    for number, record in enumerate(run.program.records):
        numbers[Site.parse(record.site)].append(number)
    most = max(map(len, numbers.values()), default=0)
    # A site of fewer shards than others is filled up with what changes nothing.
    places = np.array([n + [-1] * (most - len(n)) for n in numbers.values()], np.intp)

    def steps(carry: Any, fixed: Any, each: Any) -> tuple[Any, Any, int, NDArray[Any]]:
        after, out, applied, raw = run.measure(carry, fixed, each)
        taken = np.concatenate([raw.view(MOMENTS), np.full((len(raw), 1), NOTHING)], axis=1)
        parts = (taken[:, places[:, i]] for i in range(most))
        return after, out, applied, reduce(merge_moments, parts)

    return steps, sites


NOTHING = np.array((0, 0.0, 0.0, np.inf, -np.inf, 0, 0, 0), MOMENTS)
"""The moments of no values."""


def moments_of(summaries: Mapping[Site, Summary], sites: Sequence[Site]) -> NDArray[Any]:
    """(sites,) MOMENTS, out of summaries."""
    rows = []
    for site in sites:
        s = summaries[site]
        rows.append((s.finite, s.mean, s.std, s.min, s.max, s.zeros, s.nonfinite, s.saturated))
    return np.array(rows, MOMENTS)


def _reader(records: Sequence[Record]) -> Callable[[NDArray[np.uint8]], Summaries]:
    """What makes summaries of the bytes of a round; shards are merged many sites at a time."""
    shards: dict[Site, list[Record]] = {}
    for record in records:
        shards.setdefault(Site.parse(record.site), []).append(record)
    groups: dict[Any, list[Site]] = {}
    for site, parts in shards.items():
        groups.setdefault((parts[0].measure.layout, len(parts)), []).append(site)
    places = {
        (layout, count): np.array([[r.start for r in shards[s]] for s in sites])[..., None]
        + np.arange(layout.itemsize)
        for (layout, count), sites in groups.items()
    }

    def read(raw: NDArray[np.uint8]) -> Summaries:
        found: Summaries = {}
        for (layout, count), sites in groups.items():
            parts = raw[places[layout, count]].view(layout)[..., 0]
            merged = reduce(merge_summaries, (parts[:, i] for i in range(count)))
            rows = np.ascontiguousarray(merged).view(np.uint8).reshape(len(sites), -1)
            for site, row in zip(sites, rows, strict=True):
                found[site] = summary(shards[site][0].measure, row)
        return {site: found[site] for site in shards}

    return read


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
