"""The training loop: batches through compiled steps, a record per step, a clean end always."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isograd.errors import DataError
from isograd.nn.losses import loss
from isograd.nn.model import Model, build
from isograd.nn.spec import SoftmaxCrossEntropy, Spec
from isograd.optim.rules import optimiser
from isograd.telemetry.records import Record, Site, Telemetry
from isograd.telemetry.summary import Summary
from isograd.training.data import Split, Task, batches, load
from isograd.training.step import Layout, Step, compile_step, parameters

Stopped = Literal["finished", "diverged", "interrupted"]

EVALUATION_ROWS = 4096  # rows per forward pass of an evaluation: bounds its memory


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: steps done of all, and the loss of the last."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Score:
    """How well a part of the data is fitted.

    Attributes:
        loss: without the regularisation.
        accuracy: share of right answers; in regression R², the share of variance explained.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        spec, model: what was trained.
        params: the parameters at the end; those before the step that was not finite, if one was.
        telemetry: its records.
        train, test: scores at the end.
        stopped: how it ended.
        seconds: wall time of the loop.
        task: of the data: "classes", "binary" or "regression".
    """

    spec: Spec
    model: Model
    params: Mapping[str, NDArray[Any]]
    telemetry: Telemetry
    train: Score
    test: Score
    stopped: Stopped
    seconds: float
    task: Task

    @property
    def metric(self) -> str:
        """What the scores' accuracy is called."""
        return "R²" if self.task == "regression" else "accuracy"


def load_split(spec: Spec, base: Path | None = None) -> Split:
    """The data of a spec; relative paths start from `base`."""
    return load(spec.data, loss_kind=spec.network.loss, seed=spec.seed, dtype=spec.dtype, base=base)


def model_for(spec: Spec, split: Split) -> Model:
    """The spec's network, sized for the data.

    Raises:
        SpecError: if its last layer does not fit the classes or targets.
    """
    n_out = split.y_train.shape[1] if split.y_train.ndim == 2 else len(split.classes or ())
    return build(spec.network, split.X_train.shape[1], n_out)


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        model: the network.
        params: its first parameters, by site.
        rng: draws the order of the data.
        batch_size: rows per step.
    """

    model: Model
    params: Mapping[str, NDArray[Any]]
    rng: np.random.Generator
    batch_size: int


def prepare(spec: Spec, split: Split) -> Start:
    """Size and initialise the network of a spec; raises what `fit` raises, in less time."""
    _require_match(spec, split)
    model = model_for(spec, split)
    n = len(split.X_train)
    batch_size = spec.batch_size_for(n)
    batches(n, batch_size, np.random.default_rng())  # refuses a batch that is too large
    for_parameters, for_order = (
        np.random.default_rng(s) for s in np.random.SeedSequence(spec.seed).spawn(2)
    )
    return Start(model, model.init(for_parameters, spec.dtype), for_order, batch_size)


def _require_match(spec: Spec, split: Split) -> None:
    """Data that a caller hands over must have been made for this spec."""
    x, y = split.X_train, split.y_train
    labels = isinstance(spec.network.loss, SoftmaxCrossEntropy)
    if x.dtype != spec.dtype:
        fix = f"pass dtype={spec.dtype!r} to from_arrays"
    elif y.dtype != (np.int64 if labels else x.dtype) or y.ndim != (1 if labels else 2):
        fix = "pass loss_kind=spec.network.loss to from_arrays"
    else:
        return
    raise DataError(
        f"data must be {spec.dtype}, with targets as {spec.network.loss.__struct_config__.tag} "
        "takes them",
        came=f"X of {x.dtype}, y of {y.dtype} and shape {y.shape}",
        fix=fix,
    )


def fit(
    spec: Spec,
    split: Split | None = None,
    *,
    steps: int | None = None,
    sink: Callable[[Record], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train a network.

    The same spec and data give the same bits. Two streams are drawn from the seed, one for the
    parameters and one for the order of the data, so an edit of the network keeps the order.

    Args:
        spec: what to train, and how.
        split: the data; None loads those of the spec, relative paths from the current folder.
        steps: at most this many steps; None is the spec's epochs.
        sink: given each record as soon as it is there.
        progress: told after each step.

    Returns:
        The outcome. A loss, a gradient or an update that is not finite ends the run as
        *diverged*: the step is measured, recorded as skipped and not applied. Ctrl-C ends it as
        *interrupted*.

    Raises:
        SpecError: if network and data do not fit, or the batch is larger than the data.
        DataError: if the split was made for another dtype or loss.
        TheoryError: if the initialiser has no answer for the activation.
    """
    split = load_split(spec) if split is None else split
    start = prepare(spec, split)
    model, batch_size = start.model, start.batch_size
    layout = Layout(model.shapes)
    rule = optimiser(spec.optimiser, spec.training)
    step = compile_step(model, rule, layout, batch_size, np.dtype(spec.dtype))
    total = spec.training.epochs * max(1, len(split.X_train) // batch_size)
    total = total if steps is None else min(steps, total)

    records: list[Record] = []
    stopped: Stopped = "finished"
    run = _Run(spec, split, start, step, layout)
    began = time.perf_counter()
    try:
        for record in run.records(total):
            records.append(record)
            if sink is not None:
                sink(record)
            if progress is not None:
                progress(Progress(record.step + 1, total, record.loss))
            if record.skipped:
                stopped = "diverged"
                break
    except KeyboardInterrupt:
        stopped = "interrupted"
    seconds = time.perf_counter() - began
    params = parameters(layout, run.theta)
    return Outcome(
        spec=spec,
        model=model,
        params=params,
        telemetry=Telemetry({"stopped": stopped}, tuple(records)),
        train=evaluate(model, params, split.X_train, split.y_train, split.task),
        test=evaluate(model, params, split.X_test, split.y_test, split.task),
        stopped=stopped,
        seconds=seconds,
        task=split.task,
    )


class _Run:
    """A run in progress: θ and the rule's state change from step to step, nothing else does."""

    def __init__(self, spec: Spec, split: Split, start: Start, step: Step, layout: Layout) -> None:
        self.spec, self.split, self.start = spec, split, start
        self.step, self.layout, self.active = step, layout, start.model.active
        self.theta, self.state = layout.join(start.params), step.state
        with np.errstate(over="ignore"):  # a rate beyond the dtype is infinite in it: it diverges
            self.lr = np.asarray(spec.optimiser.lr, spec.dtype)

    def records(self, total: int) -> Iterator[Record]:
        """Take `total` steps, and yield what was recorded of each."""
        number, epoch, n = 0, 0, len(self.split.X_train)
        while number < total:
            for rows in batches(n, self.start.batch_size, self.start.rng):
                if number == total:
                    break
                x, y = self.split.X_train[rows], self.split.y_train[rows]
                yield self._take(number, epoch, x, y)
                number += 1
            epoch += 1

    def _take(self, number: int, epoch: int, x: NDArray[Any], y: NDArray[Any]) -> Record:
        """One step; one that is not finite is measured whatever the schedule, and not applied."""
        measure = self.spec.measure
        due = number < measure.first or (
            measure.every > 0 and (number - measure.first) % measure.every == 0
        )
        summaries: dict[Site, Summary] = {}
        theta, state, value, norm, slope = self._run(x, y, summaries if due else None)
        skipped = not (math.isfinite(value) and math.isfinite(norm) and np.isfinite(theta).all())
        if skipped and not due:
            self._run(x, y, summaries)
        predicted = actual = None
        if summaries and not skipped:
            after = self.step.loss(self.layout.split(theta), x, y)
            predicted, actual = float(slope), float(after) - float(value)
        if not skipped:
            self.theta, self.state = theta, state
        return Record(
            step=number,
            epoch=epoch,
            loss=float(value),
            lr=float(self.lr),
            skipped=skipped,
            grad_norm=float(norm),
            predicted=predicted,
            actual=actual,
            summaries=summaries,
        )

    def _run(
        self, x: NDArray[Any], y: NDArray[Any], summaries: dict[Site, Summary] | None
    ) -> tuple[Any, ...]:
        args = (self.theta, self.state, x, y, self.lr)
        if summaries is None:
            out: tuple[Any, ...] = self.step.bare(*args)
            return out

        def observe(site: str, array: NDArray[Any]) -> None:
            summaries[Site.parse(site)] = Summary.of(array, active=self.active.get(site))

        out = self.step.measured(*args, observe=observe)
        return out


def predict(model: Model, params: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
    """The network's output, in portions that bound the memory.

    Args:
        model, params: a network and its parameters.
        x: (n, n_in).

    Returns:
        (n, n_out); logits for the cross-entropies.
    """
    portions = range(0, max(1, len(x)), EVALUATION_ROWS)
    return np.concatenate([model(params, x[i : i + EVALUATION_ROWS]) for i in portions])


def evaluate(
    model: Model, params: Mapping[str, NDArray[Any]], x: NDArray[Any], y: NDArray[Any], task: Task
) -> Score:
    """Loss and accuracy on a part of the data; both NaN where the output is not finite.

    Args:
        model, params: a network and its parameters.
        x, y: inputs and targets, as in a `Split`.
        task: that of the `Split`: "classes", "binary" or "regression" (R² for accuracy).
    """
    with np.errstate(all="ignore"):
        output = predict(model, params, x)
        value = float(loss(model.network.loss, output, y))
    if not np.isfinite(output).all():
        return Score(math.nan, math.nan)
    from sklearn.metrics import accuracy_score, r2_score  # slow to import: only when needed

    if task == "regression":
        with np.errstate(over="ignore"):  # of an output as large as that, R² is −inf
            return Score(value, float(r2_score(y.astype(np.float64), output)))
    if task == "binary":
        return Score(value, float(accuracy_score(y > 0.5, output > 0)))
    labels = y.argmax(axis=1) if y.ndim == 2 else y
    return Score(value, float(accuracy_score(labels, output.argmax(axis=1))))
