"""How the work of a graph is divided among threads, and among portions that fit the cache."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from isograd.engine.graph import Graph, Var
from isograd.engine.ops import Op
from isograd.engine.plan import Plan, plan
from isograd.engine.recompute import plan_recomputed
from isograd.engine.shard import Sharded, shard

_WORTH = 2e7
"""FLOPs of matrix products from which on threads pay for waiting for each other: some 200 µs."""

_PORTION = 256 << 10
"""Bytes of products of a portion: with what is made of them it stays in a second-level cache."""


def divided(
    graph: Graph,
    axes: Mapping[Var, int],
    threads: int | None = None,
    *,
    recompute: bool = False,
) -> tuple[Plan, int]:
    """A plan in shards, and how many threads are to run it.

    It depends on the graph and on the number of threads alone, and so do the bits of what is
    computed.

    Args:
        graph: what is to be run.
        axes: which variables are split, and along which axis: the batch.
        threads: how many; None takes one for little work, else one for each core.
        recompute: whether to compute again what takes memory from the forward to the backward pass.
    """
    made = plan_recomputed if recompute else plan
    if threads is None:
        threads = cores() if _flops(graph) >= _WORTH else 1
    length = min((var.spec.shape[axis] for var, axis in axes.items()), default=1)
    threads = max(1, min(threads, length))
    found = shard(graph, axes, threads, pieces=threads)
    count = min(threads * _portions(found, threads), length)
    if count == 1:
        return made(graph), 1
    if count > threads:
        found = shard(graph, axes, count, pieces=threads)
    return made(found.graph, found.shard), threads


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _flops(graph: Graph) -> float:
    """Of the matrix products."""
    return sum(
        2.0 * math.prod(eqn.output.spec.shape) * eqn.inputs[0].spec.shape[-1]
        for eqn in graph.eqns
        if eqn.op is Op.MATMUL
    )


def _portions(found: Sharded, threads: int) -> int:
    """Into how many shards a thread's share of the batch is cut.

    Each shard has terms of its own of the sums over the batch, as of the gradient of the
    parameters; they must be small beside what the cut keeps in the cache.
    """
    portions = math.ceil(found.split_bytes / threads / _PORTION)
    small = portions * threads * found.partial_bytes <= found.split_bytes / 4
    return max(portions, 1) if small else 1
