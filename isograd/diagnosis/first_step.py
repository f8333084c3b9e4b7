"""One step of training, as a run would begin, with every site measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isograd.backends.select import Backend
from isograd.diagnosis.case import profile
from isograd.diagnosis.findings import Profile
from isograd.engine.graph import ArraySpec
from isograd.nn.model import Model, Noise
from isograd.nn.spec import Spec
from isograd.optim.loss_scale import FIRST, LEAST
from isograd.optim.rules import optimiser
from isograd.telemetry.measured import measured_scan
from isograd.telemetry.records import Record, Site
from isograd.telemetry.summary import Summary
from isograd.training.data import Split
from isograd.training.start import Start, schedule_of
from isograd.training.step import batch_of, is_dynamic, parameters, trace_step

MOST_ROWS = 1024
"""Of larger batches the first rows are taken: sizes per layer are means over them."""
FEWEST_ROWS = 64
"""Smaller batches are filled up, where the data have the rows: the spread over one row is 0."""


@dataclass(frozen=True)
class FirstStep:
    """What one step of training does, before anything was learned.

    Attributes:
        model: the network.
        batch: the rows.
        lr: learning rate.
        loss: of the batch, regularisation included.
        penalty: the regularisation, ½λ‖W‖_F².
        after: the same batch's, after the step, or the two.
        steps: 2 where weights or scales start at zero, else 1.
        applied: whether loss, gradient and update were finite.
        summaries: of every site, in the last of the steps.
        profile: sizes per layer.
    """

    model: Model
    batch: NDArray[np.int64]
    lr: float
    loss: float
    penalty: float
    after: float
    steps: int
    applied: bool
    summaries: Mapping[Site, Summary]
    profile: Profile

    @property
    def rows(self) -> int:
        """Of the batch."""
        return len(self.batch)

    @property
    def finite(self) -> bool:
        """Whether every value that was measured is."""
        return not any(s.nonfinite for s in self.summaries.values())


def first_batch(start: Start, n: int) -> NDArray[np.int64]:
    """The rows that are looked at: those of the run's first batch, and more or fewer of them."""
    rng = np.random.default_rng()
    rng.bit_generator.state = start.state.order
    # What a normalisation over the batch does depends on its rows; one row it refuses.
    fewest = start.batch_size if start.model.statistics else FEWEST_ROWS
    rows = min(n, min(max(start.batch_size, fewest), MOST_ROWS))
    return rng.permutation(n)[:rows]


def first_step(
    spec: Spec,
    split: Split,
    start: Start,
    *,
    backend: Backend = "numpy",
    threads: int | None = None,
) -> FirstStep:
    """Take a step of training from its start, and measure it.

    Args:
        spec: what would be trained.
        split: its data.
        start: what `isograd.training.start.prepare` makes of both.
        backend, threads: what takes the step. The interpreter is the faster for a single one.
    """
    model, state = start.model, start.state
    x, y = split.X_train, split.y_train
    rows = first_batch(start, len(x))
    graph = trace_step(
        model,
        optimiser(spec.optimiser, spec.training),
        start.layout,
        ArraySpec(x.shape, x.dtype),
        ArraySpec(y.shape, y.dtype),
        len(rows),
        start.key,
        spec.training.precision,
    )
    step = measured_scan(
        graph,
        backend,
        model.active,
        axes=batch_of(graph),
        threads=threads,
        recompute=spec.training.recompute,
    )
    # Weights, and scales, that start at zero pass no error signal down before they have moved.
    idle = any(not np.any(a) for name, a in start.params.items() if name.startswith(("W/", "c/")))
    steps = 2 if idle else 1
    factor = schedule_of(spec, max(1, len(x) // start.batch_size)).factor
    with np.errstate(over="ignore"):
        factors = np.array([factor(state.schedule, i) for i in range(steps)])
        lr = (spec.optimiser.lr * factors).astype(spec.dtype)
    number = np.arange(steps, dtype=np.uint32)
    carry = (state.theta, state.rule, dict(state.statistics))
    each = np.tile(rows, (steps, 1)), lr, number
    scale = FIRST if is_dynamic(spec.training.precision) else None
    while True:
        given = each if scale is None else (*each, np.full(steps, scale, spec.dtype))
        (theta, *_), (losses, *_), applied, measured = step(carry, (x, y), given)
        if applied == steps or scale is None or scale <= LEAST:
            break
        scale *= 0.5  # as a run does, which does not count such steps
    summaries = measured[-1]
    after = model.train_loss(
        parameters(start.layout, theta) | dict(state.statistics),
        x[rows],
        y[rows],
        Noise(start.key, number[0]),
    )[0]
    loss = float(losses[0])
    squares = [s.norm**2 for site, s in summaries.items() if site.kind == "W"]
    return FirstStep(
        model=model,
        batch=rows,
        lr=float(lr[0]),
        loss=loss,
        penalty=0.5 * spec.network.loss.l2 * math.fsum(squares),
        after=float(after),
        steps=steps,
        applied=applied == steps,
        summaries=summaries,
        profile=profile(model, Record(0, 0, loss, float(lr[0]), summaries=summaries)),
    )
