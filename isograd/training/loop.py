"""The training loop: batches through compiled steps, a record per step, a clean end always."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isograd.engine.graph import ArraySpec
from isograd.engine.tree import flatten
from isograd.nn.model import Model
from isograd.nn.spec import Spec
from isograd.optim.rules import optimiser
from isograd.telemetry.records import Record, Site, Telemetry
from isograd.telemetry.summary import Summary
from isograd.training.data import Split, Task, batches
from isograd.training.scores import Score, evaluate
from isograd.training.start import Start, load_split, prepare, schedule_of
from isograd.training.state import Best, State
from isograd.training.step import Step, compile_step, parameters

Stopped = Literal["finished", "early", "diverged", "interrupted"]


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
    task: Task
    state: State = field(compare=False, repr=False)

    @property
    def skipped(self) -> int:
        """Steps that were not applied, as they were not finite."""
        return sum(record.skipped for record in self.telemetry.records)

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
    keep: Callable[[State], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    state: State | None = None,
    records: Sequence[Record] = (),
) -> Outcome:
    """Train a network.

    The same spec and data give the same bits, in one go or resumed from any state.

    Args:
        spec: what to train, and how.
        split: the data; None loads those of the spec, relative paths from the current folder.
        steps: at most this many steps; None is the spec's epochs.
        sink: given each record as soon as it is there.
        keep: given the state after each step.
        progress: told after each step.
        state: where to go on, from a `keep` of the same spec and data; None starts anew.
        records: of the steps before that state.

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
    total = start.steps if steps is None else min(steps, start.steps)
    run = _Run(spec, split, start, state or start.state)
    done = list(records)
    skipped = sum(record.skipped for record in done)
    validation = next((r.validation for r in reversed(done) if r.validation is not None), None)
    try:
        for record, after in run.steps(total):
            if sink is not None:
                sink(record)
            done.append(record)
            run.state = after
            if keep is not None:
                keep(run.state)
            skipped += record.skipped
            validation = validation if record.validation is None else record.validation
            if progress is not None:
                progress(Progress(after.step, total, record.loss, validation, skipped))
    except KeyboardInterrupt:  # the state is that after the last whole step
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
        telemetry=Telemetry({"stopped": stopped}, tuple(done)),
        train=score(split.X_train, split.y_train),
        test=score(split.X_test, split.y_test),
        validation=score(split.X_validation, split.y_validation) if held_out else None,
        stopped=stopped,
        seconds=run.state.seconds,
        task=split.task,
        state=run.state,
    )


class _Run:
    """A run in progress. Its state is frozen; a step makes the next one."""

    def __init__(self, spec: Spec, split: Split, start: Start, state: State) -> None:
        self.spec, self.split, self.start, self.state = spec, split, start, state
        self.layout, self.active = start.layout, start.model.active
        self.per_epoch = len(split.X_train) // start.batch_size
        self.schedule = schedule_of(spec, self.per_epoch)
        self.began = time.perf_counter() - state.seconds

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

    def steps(self, total: int) -> Iterator[tuple[Record, State]]:
        """Take steps, and yield the record of each and the state after it.

        Whoever iterates puts that state into `state`, once the record is safe.
        """
        if self.over(total):
            return
        x, y = self.split.X_train, self.split.y_train
        size = (self.start.batch_size,)
        self.step: Step = compile_step(
            self.start.model,
            optimiser(self.spec.optimiser, self.spec.training),
            self.layout,
            ArraySpec(size + x.shape[1:], x.dtype),
            ArraySpec(size + y.shape[1:], y.dtype),
            self.start.key,
        )
        while not self.over(total):
            rng = np.random.default_rng()
            rng.bit_generator.state = self.state.order
            epoch = list(batches(len(x), *size, rng))
            for rows in epoch[self.state.step % self.per_epoch :]:
                record, after = self._take(x[rows], y[rows])
                if after.step % self.per_epoch == 0:
                    after = dataclasses.replace(after, order=rng.bit_generator.state)
                    record, after = self._end_epoch(record, after)
                yield record, after
                if self.over(total):
                    return

    def _take(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[Record, State]:
        """One step. One that is not finite is not applied; the first in a row is measured."""
        state, measure = self.state, self.spec.measure
        due = state.step < measure.first or (
            measure.every > 0 and (state.step - measure.first) % measure.every == 0
        )
        factor = self.schedule.factor(state.schedule, state.step)
        with np.errstate(over="ignore"):  # a rate beyond the dtype is infinite in it: it diverges
            lr = np.asarray(self.spec.optimiser.lr * factor, self.spec.dtype)
        number = np.asarray(state.step % 2**32, np.uint32)  # noise comes again after 2³² steps
        args = (state.theta, state.rule, dict(state.statistics), x, y, lr, number)
        summaries: dict[Site, Summary] = {}
        theta, rule, statistics, value, norm, slope = self._run(args, summaries if due else None)
        skipped = not (
            math.isfinite(value)
            and math.isfinite(norm)
            and all(np.isfinite(a).all() for a in (theta, *flatten(rule)[0], *statistics.values()))
        )
        if skipped and not due and state.streak == 0:
            self._run(args, summaries)
        predicted = actual = None
        if summaries and not skipped:
            after = self.step.loss(theta, state.statistics, x, y, number)
            predicted, actual = float(slope), float(after) - float(value)
        record = Record(
            step=state.step,
            epoch=state.step // self.per_epoch,
            loss=float(value),
            lr=float(lr),
            skipped=skipped,
            grad_norm=float(norm),
            predicted=predicted,
            actual=actual,
            summaries=summaries,
        )
        now: dict[str, Any] = {"step": state.step + 1, "seconds": time.perf_counter() - self.began}
        if skipped:
            return record, dataclasses.replace(state, streak=state.streak + 1, **now)
        new: dict[str, Any] = {"theta": theta, "rule": rule, "statistics": statistics}
        losses = (state.losses[0] + record.loss, state.losses[1] + 1)
        return record, dataclasses.replace(state, streak=0, losses=losses, **new, **now)

    def _run(self, args: tuple[Any, ...], summaries: dict[Site, Summary] | None) -> tuple[Any, ...]:
        if summaries is None:
            out: tuple[Any, ...] = self.step.bare(*args)
            return out

        def observe(site: str, array: NDArray[Any]) -> None:
            summaries[Site.parse(site)] = Summary.of(array, active=self.active.get(site))

        out = self.step.measured(*args, observe=observe)
        return out

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
