"""The case: what a run's telemetry and theory say of it, gathered once for all rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isograd.diagnosis.budget import Budget, gain_budget
from isograd.diagnosis.expected import expected
from isograd.diagnosis.findings import Expectation, Profile
from isograd.engine.number_formats import number_format
from isograd.nn.model import Model, Part
from isograd.nn.spec import HalfSquaredError, Huber, MeanSquaredError, Spec
from isograd.optim.loss_scale import LEAST, START, scales
from isograd.telemetry.records import Record, Site, Telemetry
from isograd.telemetry.summary import Summary

# Schoenholz et al. 2017, sec. 5: networks train up to a depth of about 6 ξ, where the signal or
# the error signal (squared) has changed by e⁶. All rules on depth use this one number.
TRAINABLE = 6.0


@dataclass(frozen=True)
class Case:
    """A run under examination.

    Attributes:
        spec, model: what was trained.
        telemetry: what was measured.
        constant: the loss of the best constant output on the training part.
        rows: training rows.
        stopped: how the run ended ("finished", "early", "diverged", "interrupted", "unfinished").
        fitted: the loss on the training part at the end, without regularisation and without
            dropout; None where it was not taken.
    """

    spec: Spec
    model: Model
    telemetry: Telemetry
    constant: float
    rows: int
    stopped: str
    fitted: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in a pass over the data."""
        return max(1, self.rows // self.spec.batch_size_for(self.rows))

    @cached_property
    def measured(self) -> tuple[Record, ...]:
        """Records with summaries, but for steps that a smaller loss scale could save."""
        return tuple(r for r in self.telemetry.measured() if r.step not in self.rescaled)

    @cached_property
    def rescaled(self) -> frozenset[int]:
        """Steps that were skipped while the dynamic loss scale was above its least.

        They tell that the scale was too large, not that the network is sick.
        """
        precision, records = self.spec.training.precision, self.telemetry.records
        if precision is None or not precision.dynamic:
            return frozenset()
        used = scales(START, (not r.skipped for r in records), precision.interval)
        pairs = zip(records, used, strict=True)
        return frozenset(r.step for r, scale in pairs if r.skipped and scale > LEAST)

    @property
    def unit(self) -> float:
        """The relative spacing of the numbers that the loss is computed from."""
        precision = self.spec.training.precision
        forms = precision.formats if precision else {}
        narrow = [number_format(f).eps for key, f in forms.items() if key != "gradients"]
        return max(float(np.finfo(self.spec.dtype).eps), *narrow, 0.0)

    @cached_property
    def clean(self) -> tuple[Record, ...]:
        """Measured records whose step was applied, at a learning rate above 0."""
        return tuple(r for r in self.measured if not r.skipped and r.lr > 0)

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """The losses of the steps that were applied."""
        return np.array([r.loss for r in self.telemetry.records if not r.skipped], np.float64)

    @cached_property
    def rates(self) -> NDArray[np.float64]:
        """The learning rates of the steps that were applied."""
        return np.array([r.lr for r in self.telemetry.records if not r.skipped], np.float64)

    @cached_property
    def profiles(self) -> tuple[Profile, ...]:
        """Sizes per layer at each clean measured step."""
        return tuple(profile(self.model, r) for r in self.clean)

    def budget(self, step: int) -> Budget:
        """The gain budget at a measured step."""
        record = next(r for r in self.measured if r.step == step)
        return gain_budget(self.model, record.summaries, step)

    @cached_property
    def late(self) -> dict[Site, Summary]:
        """Summaries merged over the last half of the clean measured steps."""
        half = self.clean[len(self.clean) // 2 :]
        return self.telemetry.window(half[0].step, half[-1].step) if half else {}

    def since(self, holds: Callable[[Profile], bool]) -> int | None:
        """The first measured step at which a condition holds, if it lasts.

        It lasts if it holds at more than half of the first half, or of the last half, of the
        measured steps: a network may be sick from the start, and hide it once it has stopped
        moving, or fall sick on the way. A condition of the last half is dated to the first step
        from which on it holds more often than not.
        """
        flags = np.array([holds(p) for p in self.profiles], bool)
        half = len(flags) // 2
        if len(flags) and flags[half:].mean() > 0.5:
            after = np.cumsum(flags[::-1])[::-1] / np.arange(len(flags), 0, -1)
            return self.profiles[int(np.flatnonzero(flags & (after > 0.5))[0])].step
        if half and flags[:half].mean() > 0.5:
            return self.profiles[int(np.flatnonzero(flags)[0])].step
        return None

    @cached_property
    def learned(self) -> float:
        """1 − (loss at the end)/(loss of a constant output).

        1 is all that can be learned; 0, what the labels' shares alone give.
        """
        end, _ = self.closing_loss
        return 1.0 - end / self.constant if self.constant > 0 else math.nan

    @cached_property
    def closing_loss(self) -> tuple[float, float]:
        """Mean loss of the last epoch's batches without the regularisation, and its error.

        Dropout raises the loss of a batch above what the network has learned: where there is any,
        the loss on the training part without it counts, if it was taken.
        """
        losses = self.losses[-self.steps_per_epoch :]
        if self.stopped == "diverged" or not np.isfinite(losses).all():
            return math.inf, 0.0
        if not len(losses):
            return math.nan, math.nan
        mean, error = _mean_error(losses)
        if self.fitted is not None and any(p.part is Part.DROPOUT for p in self.model.places):
            return self.fitted, error
        return mean - self.penalty, error

    @property
    def penalty(self) -> float:
        """½λ‖W‖_F² at the last measured step: a part of the loss that says nothing of the fit."""
        if not self.clean:
            return 0.0
        squares = [s.norm**2 for site, s in self.clean[-1].summaries.items() if site.kind == "W"]
        return 0.5 * self.spec.network.loss.l2 * math.fsum(squares)

    @property
    def learns(self) -> bool:
        """Whether the closing loss is below that of a constant output by more than chance.

        By more than two standard errors of the batches' losses, and by more than what a constant
        fits by chance: of n rows, twice the gain in log-likelihood exceeds χ²₁ = 4 once in twenty
        times (Wilks 1938), which is a loss of 2/n, in units of the noise for the squared error.
        """
        end, error = self.closing_loss
        squared = isinstance(self.spec.network.loss, HalfSquaredError | MeanSquaredError | Huber)
        chance = 2.0 / self.rows * (2.0 * self.constant if squared else 1.0)
        return self.stopped != "diverged" and end < self.constant - max(2.0 * error, chance)

    @cached_property
    def falling(self) -> bool:
        """Whether the loss still falls at the end, at half its average pace or more.

        The pace is that per learning rate taken: where a schedule ends, so does the way.
        """
        losses = self.losses
        if len(losses) < 8 or not np.isfinite(losses).all():
            return False
        quarter = np.minimum(4.0 * way(self.rates), 3.0).astype(int)
        parts = [losses[quarter == i] for i in range(4)]
        if min(map(len, parts)) < 2:
            return False  # of one step there is no telling chance from change
        means = [_mean_error(part) for part in parts]
        (first, _), *_, (third, third_error), (fourth, fourth_error) = means
        last = third - fourth
        # Three steps lead from the first quarter to the last; a steady fall makes them equal.
        steady = 6.0 * last > first - fourth > 0.0
        return steady and last > 2.0 * math.hypot(third_error, fourth_error)

    @property
    def enough(self) -> bool:
        """Whether there is enough to judge: a pass over the data, and three measured steps."""
        records = self.telemetry.records
        return self.stopped == "diverged" or (
            len(records) >= self.steps_per_epoch and len(self.clean) >= 3
        )

    @cached_property
    def expectation(self) -> Expectation:
        """What theory says of the network as initialised, for inputs like those of the first step.

        Their mean square is measured, and so is the share of z at layer 1 that differs between
        rows; it is that of the inputs themselves where layer 1 reads them as they are.
        """
        batch = self.spec.batch_size_for(self.rows)
        first = self.measured[0].summaries if self.measured else {}
        inputs = first.get(Site.parse("input/0"))
        if inputs is None or not 0.0 < inputs.rms < math.inf:
            return expected(self.model, batch=batch)
        second, cross = inputs.rms**2, None
        bottom = self.model.places[0]
        if bottom.part is Part.WEIGHTS and batch > 1:
            at = profile(self.model, self.measured[0])
            if 0.0 < at.scale[0] < math.inf:
                differs = (at.signal[0] / at.scale[0]) ** 2 * batch / (batch - 1)
                cross = second * max(0.0, 1.0 - differs)
        return expected(self.model, second=second, cross=cross, batch=batch)


def way(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far along its way a training is in the middle of each step, from 0 to 1.

    The way of a step is its learning rate: on a smooth loss, steps of gradient descent follow the
    gradient flow, whose time is the sum of the rates. At a constant rate it is the number of steps.
    """
    top = rates.max(initial=0.0)
    lengths = rates / top if 0.0 < top < math.inf else np.ones(len(rates))
    ends = np.cumsum(lengths)
    return np.asarray((ends - 0.5 * lengths) / ends[-1:])


def _mean_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error; of one value the error is 0."""
    with np.errstate(over="ignore"):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return float(np.mean(values)), spread / math.sqrt(len(values))


def profile(model: Model, record: Record) -> Profile:
    """Sizes per layer at one step."""
    s = record.summaries

    def size(kind: str, place: str, norm: bool = False) -> float:
        summary = s[Site.parse(f"{kind}/{place}")]
        return summary.norm if norm else summary.rms

    layers = [p.site.partition("/")[2] for p in model.weights]
    return Profile(
        step=record.step,
        delta=tuple(size("delta", n, norm=True) for n in layers),
        signal=tuple(size("v", n) for n in layers),
        scale=tuple(size("z", n) for n in layers),
        update=tuple(_ratio(size("uW", n, norm=True), size("W", n, norm=True)) for n in layers),
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf if a > 0 else 0.0


def change(values: tuple[float, ...], reference: float) -> NDArray[np.float64]:
    """ln(v²/reference²) of each value: −inf for 0; 0 throughout where there is no reference."""
    if not 0.0 < reference < math.inf:
        return np.zeros(len(values))
    with np.errstate(divide="ignore"):
        out: NDArray[np.float64] = 2.0 * (np.log(np.asarray(values)) - math.log(reference))
    return out


__all__ = ["TRAINABLE", "Case", "change", "profile", "way"]
