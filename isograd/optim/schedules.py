"""Schedules: factors of the learning rate as pure functions of the step.

A spec gives times in epochs, which may be fractions; here they are in steps, counted from 0. Where
a schedule has a memory (plateau), it is a value that is handed in and out, like the state of an
update rule.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isograd.errors import SpecError
from isograd.nn import spec

LARGEST = sys.float_info.max
State = Any
"""Nested tuples of floats, ints and None. Lists will do in their place: JSON gives those back."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A factor of the learning rate.

    Attributes:
        init: `init() -> state`.
        factor: `factor(state, step) -> float`, finite and not negative; step counts from 0.
        observe: `observe(state, loss) -> state`, told the loss at the end of each epoch.
    """

    init: Callable[[], State]
    factor: Callable[[State, int], float]
    observe: Callable[[State, float], State]


def schedule(parts: tuple[spec.Schedule, ...], *, epochs: int, steps_per_epoch: int) -> Schedule:
    """The product of the schedules of a spec, as PyTorch's ChainedScheduler; 1 if there are none.

    A factor beyond the largest float is held there.

    Args:
        parts: schedules, in any order.
        epochs: of the training, which schedules without a length of their own last as long as.
        steps_per_epoch: steps in an epoch.

    Raises:
        SpecError: if epochs or steps_per_epoch is below 1.

    >>> from isograd.nn.spec import StepDecay, WarmUp
    >>> both = schedule((WarmUp(2, start=0.5), StepDecay(3)), epochs=5, steps_per_epoch=1)
    >>> [both.factor(both.init(), step) for step in range(5)]
    [0.5, 0.75, 1.0, 0.1, 0.1]
    """
    for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if value < 1:
            raise SpecError(
                f"{name} must be at least 1", came=f"{name} = {value}", fix="give 1 or more"
            )
    built = [_schedule(part, epochs, steps_per_epoch) for part in parts]

    def factor(state: State, step: int) -> float:
        product = 1.0
        for part, own in zip(built, state, strict=True):
            product = min(product * part.factor(own, step), LARGEST)
        return product

    def observe(state: State, loss: float) -> State:
        return tuple(part.observe(own, loss) for part, own in zip(built, state, strict=True))

    return Schedule(lambda: tuple(part.init() for part in built), factor, observe)


def _schedule(kind: spec.Schedule, epochs: int, steps_per_epoch: int) -> Schedule:
    def steps(length: float | None) -> float:
        return min((epochs if length is None else length) * steps_per_epoch, LARGEST)

    match kind:
        case spec.ConstantRate():
            return _of_step(lambda step: 1.0)
        case spec.StepDecay():
            return step_decay(kind.factor, steps(kind.every))
        case spec.ExponentialDecay():
            return exponential(kind.factor, steps_per_epoch)
        case spec.CosineDecay():
            return cosine(kind.final, steps(kind.epochs))
        case spec.WarmUp():
            return warm_up(kind.start, steps(kind.epochs))
        case spec.OneCycle():
            return one_cycle(kind.start, kind.final, kind.up, steps(kind.epochs))
        case spec.Plateau():
            return plateau(kind.factor, kind.patience, kind.threshold)


def _of_step(f: Callable[[int], float]) -> Schedule:
    """A schedule without a memory."""
    return Schedule(lambda: (), lambda state, step: f(step), lambda state, loss: ())


def step_decay(factor: float, every: float) -> Schedule:
    """factor^⌊n/every⌋ at step n.

    A quotient that is a whole number but for rounding is taken for one, so that decays every 0.1
    epochs of 10 steps come at every step.

    Args:
        factor: above 0.
        every: steps from one decay to the next.
    """
    slack = 1.0 + 2.0**-50  # n/every has three roundings, of 2⁻⁵³ each
    return _of_step(lambda step: _power(factor, math.floor(min(step / every * slack, LARGEST))))


def exponential(factor: float, every: float) -> Schedule:
    """factor^(n/every) at step n.

    Args:
        factor: above 0.
        every: steps over which the rate changes by the factor.
    """
    return _of_step(lambda step: _power(factor, step / every))


def _power(base: float, exponent: float) -> float:
    """base^exponent of a positive base, held to the largest float."""
    try:
        return float(base**exponent)
    except OverflowError:
        return LARGEST


def cosine(final: float, total: float) -> Schedule:
    """final + (1 − final)(1 + cos(πn/total))/2 at step n, then final.

    Args:
        final: at least 0.
        total: steps.

    References:
        Loshchilov & Hutter 2017, eq. 5, without restarts.
    """
    return _of_step(lambda step: _between(final, (total - step) / total))


def _between(low: float, share: float) -> float:
    """low + (1 − low)(1 − cos(π share))/2, share held to [0, 1].

    The half cosine as a sin², which keeps its relative accuracy at both ends.
    """
    return low + (1.0 - low) * math.sin(0.5 * math.pi * min(max(share, 0.0), 1.0)) ** 2


def warm_up(start: float, total: float) -> Schedule:
    """start + (1 − start) n/total at step n, then 1.

    Args:
        start: above 0.
        total: steps.

    References:
        Goyal et al. 2017, sec. 2.2.
    """
    return _of_step(lambda step: start + (1.0 - start) * min(step / total, 1.0))


def one_cycle(start: float, final: float, up: float, total: float) -> Schedule:
    """Up from start to 1 until step up·total − 1, down to final until step total − 1.

    Both along half cosines. The ends of the phases are those of PyTorch's OneCycleLR, which counts
    the steps from 0: the last step has the final rate. Where up·total < 1 there is no way up.

    Args:
        start: above 0.
        final: at least 0; of the peak (PyTorch's final_div_factor is of the start).
        up: share of the steps, in (0, 1).
        total: steps, at least 1.

    References:
        Smith & Topin 2018; in two phases, as PyTorch.
    """
    peak, last = up * total - 1.0, total - 1.0

    def factor(step: int) -> float:
        if step < peak:
            return _between(start, step / peak)
        return _between(final, (last - step) / (last - peak))

    return _of_step(factor)


def plateau(factor: float, patience: int, threshold: float) -> Schedule:
    """Times factor after more than `patience` epochs in a row without an improvement.

    An improvement is a loss below best·(1 − threshold); one that is not finite is none. The state
    is (best loss or None, epochs without improvement, number of cuts). PyTorch's
    ReduceLROnPlateau, without its least change of the rate (eps = 1e-8).

    Args:
        factor: in (0, 1).
        patience: epochs, at least 0.
        threshold: in [0, 1).
    """

    def observe(state: State, loss: float) -> State:
        best, waited, cuts = state
        if math.isfinite(loss) and (best is None or loss < best * (1.0 - threshold)):
            return float(loss), 0, cuts
        return (best, 0, cuts + 1) if waited >= patience else (best, waited + 1, cuts)

    return Schedule(lambda: (None, 0, 0), lambda state, step: _power(factor, state[2]), observe)


__all__ = [
    "Schedule",
    "cosine",
    "exponential",
    "one_cycle",
    "plateau",
    "schedule",
    "step_decay",
    "warm_up",
]
