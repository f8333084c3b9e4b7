"""Where the time of a training step goes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from isograd.backends.llvm.jit import host
from isograd.backends.select import native_scan
from isograd.engine.graph import ArraySpec
from isograd.nn.spec import Spec
from isograd.optim.loss_scale import FIRST
from isograd.optim.rules import optimiser
from isograd.training.data import Split, batches
from isograd.training.start import prepare
from isograd.training.state import State
from isograd.training.step import batch_of, is_dynamic, trace_step, without_probes

if TYPE_CHECKING:
    from isograd.backends.llvm.profile import Profile

SECONDS = 0.5


def require_native() -> None:
    """Raise `Unavailable` where no machine code can be made."""
    host()


def profile(
    spec: Spec, split: Split, state: State | None = None, *, threads: int | None = None
) -> Profile:
    """Take steps for half a second, native and without telemetry, and time each kernel.

    Args:
        spec, split: what is trained, as for `isograd.fit`.
        state: where from; None is the start.
        threads: that may work; None takes one for little work, else one for each core.

    Raises:
        Unavailable: there is no native code on this host.
    """
    from isograd.backends.llvm.profile import profile as of

    start = prepare(spec, split)
    state = state or start.state
    x, y = (np.ascontiguousarray(a) for a in (split.X_train, split.y_train))
    graph = trace_step(
        start.model,
        optimiser(spec.optimiser, spec.training),
        start.layout,
        ArraySpec(x.shape, x.dtype),
        ArraySpec(y.shape, y.dtype),
        start.batch_size,
        start.key,
        spec.training.precision,
    )
    scales = [FIRST] * is_dynamic(spec.training.precision)
    bare = without_probes(graph)
    run = native_scan(
        bare,
        axes=batch_of(bare),
        threads=threads,
        recompute=spec.training.recompute,
        timed=True,
    )
    rows = batches(len(x), start.batch_size, np.random.default_rng(spec.seed))
    count, rounds, seconds = 1, 0, 0.0
    while seconds < SECONDS:
        number = np.arange(count, dtype=np.uint32)
        rates = np.full(count, spec.optimiser.lr, spec.dtype)
        each = rows[number % len(rows)], rates, number, *(np.full_like(rates, s) for s in scales)
        began = time.perf_counter()
        run((state.theta, state.rule, dict(state.statistics)), (x, y), each)
        took = time.perf_counter() - began
        if rounds or count > 1:  # the first is not like the others
            rounds, seconds = rounds + count, seconds + took
        else:
            run.program.forget_times()
        count = 2 * count if took < 0.1 * SECONDS else count
    return of(run.program, rounds, seconds)
