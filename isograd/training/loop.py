"""The training loop: batches through compiled steps, a record per step, a clean end always."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isograd.backends.select import Backend, choose
from isograd.engine.graph import ArraySpec
from isograd.nn.model import Model
from isograd.nn.spec import Spec
from isograd.optim.loss_scale import LEAST, Scaling, advanced, scales
from isograd.optim.rules import optimiser
from isograd.telemetry.measured import moments_of
from isograd.telemetry.packing import Packing
from isograd.telemetry.records import Record, Site, Telemetry
from isograd.telemetry.summary import Summary
from isograd.training.cadence import Costs, cadence
from isograd.training.data import Split, Task, batches
from isograd.training.scores import Score, evaluate
from isograd.training.start import Start, load_split, prepare, schedule_of
from isograd.training.state import Best, State
from isograd.training.step import Step, compile_step, parameters

Stopped = Literal["finished", "early", "diverged", "interrupted"]

CHUNK_SECONDS = 0.05
"""What a call of the backend takes, about: short enough for Ctrl-C and a bar, and so long that what
Python does between two calls does not count."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is.

    Attributes:
        step, steps: steps done, of all.
        loss: of the last step.
        validation: loss of the validation part after the last epoch; None without one.
        skipped: steps so far that were not applied.
    """

    step: int
    steps: int
    loss: float
    validation: float | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        spec, model: what was trained.
        params: learned parameters and statistics at the end, by site; with early stopping those
            of the epoch with the least validation loss.
        telemetry: its records.
        train, test: scores at the end.
        validation: likewise; None where there is no validation part.
        stopped: how it ended.
        seconds: wall time of the loop.
        telemetry_seconds: what of that went into measuring.
        backend: what ran the steps.
        task: of the data: "classes", "binary" or "regression".
        state: from which `fit` can go on.
    """

    spec: Spec
    model: Model
    params: Mapping[str, NDArray[Any]]
    telemetry: Telemetry
    train: Score
    test: Score
    validation: Score | None
    stopped: Stopped
    seconds: float
    telemetry_seconds: float
    backend: Backend
    task: Task
    state: State = field(compare=False, repr=False)

    @property
    def skipped(self) -> int:
        """Steps that were not applied, as they were not finite."""
        return sum(record.skipped for record in self.telemetry.records)

    @property
    def steps_per_second(self) -> float:
        """Over the whole run; NaN where it took no time."""
        return len(self.telemetry.records) / self.seconds if self.seconds else math.nan

    @property
    def metric(self) -> str:
        """What the scores' accuracy is called."""
        return "R²" if self.task == "regression" else "accuracy"


def fit(
    spec: Spec,
    split: Split | None = None,
    *,
    steps: int | None = None,
    sink: Callable[[Record], None] | None = None,
    note: Callable[[str, str], None] | None = None,
    keep: Callable[[State], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    state: State | None = None,
    records: Sequence[Record] = (),
    backend: str | None = None,
    threads: int | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
) -> Outcome:
    """Train a network.

    The same spec, data and backend give the same bits, in one go or resumed from any state. Steps
    are taken in chunks, so many to a call of the backend as take about `chunk_seconds`; a step that
    is measured is one by itself. Results do not depend on where chunks end.

    Args:
        spec: what to train, and how.
        split: the data; None loads those of the spec, relative paths from the current folder.
        steps: at most this many steps; None is the spec's epochs.
        sink: given each record, in order, as soon as its chunk is done.
        note: given the name and the text of each fact that reading the records takes, before them.
        keep: given the state after each chunk, once its records are safe.
        progress: told after each chunk.
        state: where to go on, from a `keep` of the same spec and data; None starts anew.
        records: of the steps before that state.
        backend: "native" or "numpy"; None takes the default.
        threads: that the backend may use; None leaves their number to it.
        chunk_seconds: of a chunk, about; 0 makes each step one.

    Returns:
        The outcome. A step whose loss, gradient or result is not finite is measured, recorded as
        skipped and not applied; when every batch of an epoch was skipped in turn, the run ends as
        *diverged*. Ctrl-C ends it as *interrupted*, early stopping as *early*.

    Raises:
        SpecError: if network and data do not fit, the batch is larger than the data, or memory
            would not suffice.
        DataError: if the split was made for another dtype or loss.
        TheoryError: if the initialiser has no answer for the activation.
    """
    split = load_split(spec) if split is None else split
    start = prepare(spec, split)
    ran = choose(backend)
    total = start.steps if steps is None else min(steps, start.steps)
    run = _Run(spec, split, start, state or start.state)
    done = list(records)
    skipped = sum(record.skipped for record in done)
    validation = next((r.validation for r in reversed(done) if r.validation is not None), None)
    try:
        for chunk, after in run.chunks(total, ran, threads, chunk_seconds):
            if note is not None:
                for name, text in run.facts.items():
                    note(name, text)
                note = None
            if sink is not None:
                with run.costs.storing():
                    for record in chunk:
                        sink(record)
            done += chunk
            run.state = after
            if keep is not None:
                keep(after)
            last = chunk[-1]  # of a chunk no other is skipped, or the end of an epoch
            skipped += last.skipped
            validation = validation if last.validation is None else last.validation
            if progress is not None:
                progress(Progress(after.step, total, last.loss, validation, skipped))
    except KeyboardInterrupt:  # the state is that after the last whole chunk
        done = [r for r in done if r.step < run.state.step]
    stopped: Stopped = run.over(total) or "interrupted"
    model, params = start.model, run.params()

    def score(x: NDArray[Any], y: NDArray[Any]) -> Score:
        return evaluate(model, params, x, y, split.task)

    held_out = len(split.X_validation) > 0
    return Outcome(
        spec=spec,
        model=model,
        params=params,
        telemetry=Telemetry({"stopped": stopped} | run.facts, tuple(done)),
        train=score(split.X_train, split.y_train),
        test=score(split.X_test, split.y_test),
        validation=score(split.X_validation, split.y_validation) if held_out else None,
        stopped=stopped,
        seconds=run.state.seconds,
        telemetry_seconds=run.costs.seconds,
        backend=ran,
        task=split.task,
        state=run.state,
    )


class _Run:
    """A run in progress. Its state is frozen; a chunk of steps makes the next one."""

    def __init__(self, spec: Spec, split: Split, start: Start, state: State) -> None:
        self.spec, self.split, self.start, self.state = spec, split, start, state
        self.layout, self.active = start.layout, start.model.active
        self.per_epoch = len(split.X_train) // start.batch_size
        self.schedule = schedule_of(spec, self.per_epoch)
        precision = spec.training.precision
        # Of the dynamic loss scale; None where there is none.
        self.interval = precision.interval if precision and precision.dynamic else None
        self.began = time.perf_counter() - state.seconds
        self.costs, self.every = Costs(), spec.measure.every
        self.packing = Packing(spec.dtype, ())

    @property
    def facts(self) -> dict[str, str]:
        """What the telemetry must say to be read."""
        return {"moments": self.packing.to_json()} if self.spec.measure.moments else {}

    def over(self, total: int) -> Stopped | None:
        """How the run has ended, if it has."""
        stopping = self.spec.training.early_stopping
        if self.state.streak >= self.per_epoch:
            return "diverged"  # the parameters stood still, and every batch of an epoch has failed
        if stopping is not None and self.state.waited >= stopping.patience:
            return "early"
        return "finished" if self.state.step >= total else None

    def params(self) -> dict[str, NDArray[Any]]:
        """What the run has learned so far."""
        best = self.state.best or self.state
        return parameters(self.layout, best.theta) | dict(best.statistics)

    def chunks(
        self, total: int, backend: Backend, threads: int | None, seconds: float
    ) -> Iterator[tuple[list[Record], State]]:
        """Take steps in chunks, and yield the records of each and the state after it.

        Whoever iterates puts that state into `state`, once the records are safe.

        Args:
            total: steps of the run, those before its state included.
            backend, threads: what takes them.
            seconds: of a chunk, about.
        """
        if self.over(total):
            return
        x, y = (np.ascontiguousarray(a) for a in (self.split.X_train, self.split.y_train))
        self.data = x, y
        self.step: Step = compile_step(
            self.start.model,
            optimiser(self.spec.optimiser, self.spec.training),
            self.layout,
            ArraySpec(x.shape, x.dtype),
            ArraySpec(y.shape, y.dtype),
            self.start.batch_size,
            self.start.key,
            active=self.active,
            backend=backend,
            threads=threads,
            moments=self.spec.measure.moments,
            recompute=self.spec.training.recompute,
            precision=self.spec.training.precision,
        )
        self.every = self.spec.measure.every
        if self.every is None:
            self.every = cadence(self.step.graph, total)
        self.packing = Packing(self.spec.dtype, tuple(map(str, self.step.sites)))
        most, rng = 1, np.random.default_rng()
        while not self.over(total):
            rng.bit_generator.state = self.state.order
            epoch = batches(len(x), self.start.batch_size, rng)
            begun = self.state.step // self.per_epoch
            while not self.over(total) and self.state.step // self.per_epoch == begun:
                at, began = self.state.step % self.per_epoch, time.perf_counter()
                wanted = max(1, min(most, total - self.state.step, self._until_measured()))
                records, after = self._take(epoch[at : at + wanted])
                took = time.perf_counter() - began
                if len(records) > 1 and took > seconds:
                    most //= 2
                elif len(records) == most and took < 0.5 * seconds:
                    most *= 2
                if after.step % self.per_epoch == 0:
                    after = dataclasses.replace(after, order=rng.bit_generator.state)
                    records[-1], after = self._end_epoch(records[-1], after)
                yield records, after

    def _until_measured(self) -> int:
        """How many of the next steps are taken before one that is to be measured."""
        first, every = self.spec.measure.first, self.every
        if self.state.step < first:
            return 0
        return (first - self.state.step) % every if every else sys.maxsize

    def _take(self, rows: NDArray[np.int64]) -> tuple[list[Record], State]:
        """A chunk of steps, up to one that is not finite: it is not applied.

        The first in a row of these is measured.

        Args:
            rows: (steps, batch size).
        """
        state, due = self.state, self._until_measured() == 0
        each = rows, *self._rates(len(rows)), *self._scales(len(rows))
        summaries: Mapping[Site, Summary] = {}
        packed: list[bytes] = []
        carry = state.theta, state.rule, dict(state.statistics)
        given = carry, self.data, each
        began = time.perf_counter()
        if due:
            carry, out, applied, (summaries,) = self.step.measured(*given)
            self.costs.measured(time.perf_counter() - began, lambda: self.step.bare(*given))
            if self.step.sites:
                packed = self.packing.pack(moments_of(summaries, self.step.sites)[None])
        elif self.step.brief is not None:
            carry, out, applied, taken = self.step.brief(*given)
            packed = self.packing.pack(taken)
            self.costs.brief(time.perf_counter() - began, lambda: self.step.bare(*given))
        else:
            carry, out, applied = self.step.bare(*given)
        skipped, streak = applied < len(rows), 0 if applied else state.streak
        scaling, saved = self._scaled(applied, skipped)
        if skipped and not due and streak == 0 and not saved:
            alone = tuple(a[applied : applied + 1] for a in each)
            *_, (summaries,) = self.step.measured(carry, self.data, alone)
        losses, norms, slopes = (a.tolist() for a in out)
        total, count = state.losses
        for loss in losses[:applied]:
            total += loss
        epoch = state.step // self.per_epoch  # no chunk goes on into the next
        rates, steps = each[1].tolist(), itertools.count(state.step)
        told = zip(losses, norms, rates, packed or itertools.repeat(None), steps, strict=False)
        records = [
            Record(step, epoch, loss, lr, False, norm, moments=moments)
            for loss, norm, lr, moments, step in told
        ]
        if summaries or skipped:
            more: dict[str, Any] = {"skipped": skipped, "summaries": summaries}
            if due and applied:
                after = self.step.loss(carry[0], state.statistics, self.data, rows[0], each[2][0])
                more |= {"predicted": slopes[0], "actual": float(after) - losses[0]}
            records[-1] = dataclasses.replace(records[-1], **more)
        return records, dataclasses.replace(
            state,
            step=state.step + len(records),
            theta=carry[0],
            rule=carry[1],
            statistics=carry[2],
            losses=(total, count + applied),
            streak=streak + (skipped and not saved),
            scaling=scaling,
            seconds=time.perf_counter() - self.began,
        )

    def _rates(self, count: int) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Learning rates and numbers of the next steps."""
        state, factor = self.state, self.schedule.factor
        steps = range(state.step, state.step + count)
        factors = np.array([factor(state.schedule, step) for step in steps])
        with np.errstate(over="ignore"):  # a rate beyond the dtype is infinite in it: it diverges
            rates = (self.spec.optimiser.lr * factors).astype(self.spec.dtype)
        # Noise comes again after 2³² steps.
        return rates, (np.arange(steps.start, steps.stop) % 2**32).astype(np.uint32)

    def _scales(self, count: int) -> list[NDArray[Any]]:
        """Loss scales of the next steps if all are finite; none where the scale is not dynamic."""
        if self.interval is None:
            return []
        ahead = scales(self.state.scaling, [True] * count, self.interval)
        return [np.fromiter(ahead, self.spec.dtype, count)]

    def _scaled(self, applied: int, skipped: bool) -> tuple[Scaling, bool]:
        """The loss scale after a chunk, and whether a smaller one may save the step skipped."""
        scaling = self.state.scaling
        if self.interval is None:
            return scaling, False
        for _ in range(applied):
            scaling = advanced(scaling, True, self.interval)
        if not skipped:
            return scaling, False
        return advanced(scaling, False, self.interval), scaling[0] > LEAST

    def _end_epoch(self, record: Record, state: State) -> tuple[Record, State]:
        """Look at the validation part, tell the schedule, and keep the best parameters."""
        split, best, waited = self.split, state.best, state.waited
        total, count = state.losses
        watched = total / count if count else math.nan
        if len(split.X_validation):
            params = parameters(self.layout, state.theta) | dict(state.statistics)
            x, y = split.X_validation, split.y_validation
            score = evaluate(self.start.model, params, x, y, split.task)
            watched = score.loss
            record = dataclasses.replace(record, validation=score.loss, accuracy=score.accuracy)
        stopping = self.spec.training.early_stopping
        if stopping is not None:
            least = best.loss if best else math.inf
            waited = 0 if watched < least - stopping.min_delta else waited + 1
            if watched < least:
                best = Best(record.epoch, watched, state.theta, state.statistics)
        told = self.schedule.observe(state.schedule, watched)
        now: dict[str, Any] = {"losses": (0.0, 0), "seconds": time.perf_counter() - self.began}
        return record, dataclasses.replace(state, schedule=told, best=best, waited=waited, **now)
