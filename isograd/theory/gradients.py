"""The error signal back through the layers of one network, with error bars of finite width.

Theory follows its squared norm, with the mean and the variance of its logarithm over draws of the
weights: what the units of a layer leave to chance, and what a signal that is larger by chance does
to the slopes that the gradient meets.

References:
    Schoenholz et al. 2017, eq. 5 (layers and activations); Yang & Schoenholz 2017 (skip
    connections); Yang et al. 2019 (batch normalisation); Hanin & Nica 2019 (finite width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.propagation import (
    bent,
    forward,
    linear_law,
    norm_law,
    norm_of,
    response_of,
)
from isograd.theory.quadrature import Array
from isograd.theory.signals import (
    Dropout,
    Elementwise,
    Linear,
    Normalise,
    Scale,
    Signal,
    SkipCloses,
    SkipOpens,
    Step,
    Unknown,
    chance_of,
    changed,
)


@dataclass(frozen=True, eq=False)
class Gradient:
    """The error signal ∂L/∂x of a layer's units, relative to that at the top.

    Attributes:
        log_norm2: ln E‖∂L/∂x‖² less that at the top, at infinite width.
        width: number of units, n.
        batch: rows that the norm is taken over; None is one.
        share: Σ p², p the rows' shares of ‖·‖²: 1/B if they are equal.
        law_mean, law_var: mean and variance over draws of ln‖·‖², as far as the layers above
            decide it; the units' own chance comes on top, and what the signal below brings.
        chance, pair_chance, active, fixed: of the units' squares, as in `Signal`.
        alike: mean squared cosine between the error signals of two inputs.
        pull: (2,), d ln‖·‖²/d ln of the units' mean square and spread, through the layers above: a
            signal that is larger by chance changes the slopes that the gradient meets.
        law_pull: likewise with respect to those of Gaussian units given the layers below.
        below: mean and variance of what the signal brings by these.
        row: of one input: mean and variance of ln‖·‖², less `log_norm2`. The mean over rows of
            what is log-normal lies above the typical row, the more the more rows differ.
    """

    log_norm2: float
    width: int
    batch: int | None = None
    share: float = 1.0
    law_mean: float = 0.0
    law_var: float = 0.0
    chance: float = 0.0
    pair_chance: float = 0.0
    active: float = 1.0
    fixed: float = 0.0
    alike: float = 1.0
    pull: Array = field(default_factory=lambda: np.zeros(2))
    law_pull: Array = field(default_factory=lambda: np.zeros(2))
    below: tuple[float, float] = (0.0, 0.0)
    row: tuple[float, float] | None = None

    @property
    def log_mean(self) -> float:
        """Over draws, the mean of ln‖∂L/∂x‖², relative to the top, less `log_norm2`."""
        if self.row is not None:
            # Of so many rows the largest lies √(2 ln B) standard deviations above.
            apart = max(0.0, self.row[1] - self.log_var)
            few = math.sqrt(2.0 * math.log(self.batch or 1) * apart)
            return self.row[0] + min(0.5 * apart, few)
        return self.law_mean + self._units[0] + self.below[0]

    @property
    def log_var(self) -> float:
        """Over draws, the variance of ln‖∂L/∂x‖², relative to the top."""
        return self.law_var + self._units[1] + self.below[1]

    @property
    def _units(self) -> tuple[float, float]:
        active = self.active if self.fixed == 0.0 else 1.0
        return chance_of(self.width, self.share, self.chance, self.pair_chance, active)

    def settled(self) -> Gradient:
        """Its units' chance counted among what the layers above decide."""
        mean, variance = self._units
        return changed(
            self,
            law_mean=self.law_mean + mean,
            law_var=self.law_var + variance,
            chance=0.0,
            pair_chance=0.0,
            active=1.0,
            fixed=0.0,
        )

    def meeting(self, x: Signal) -> Gradient:
        """With what the signal at its place brings from below."""
        pull = self.pull + self.law_pull
        return changed(self, below=(float(pull @ x.shift[:2]), float(pull @ x.cov[:2, :2] @ pull)))


def backward(
    steps: Sequence[Step], start: Signal, signals: Sequence[Signal | Unknown]
) -> tuple[Gradient | Unknown, ...]:
    """The error signal before each step, relative to that after the last one.

    At the top it is taken as given, of independent directions for different inputs.

    Args:
        steps, start: as for `forward`.
        signals: what `forward` gave.

    Returns:
        One entry per step, and all `Unknown` where the signal at the top is.
    """
    inputs = [start, *signals]
    top = inputs[-1]
    if isinstance(top, Unknown):
        return (top,) * len(steps)
    rows: tuple[Gradient | Unknown, ...] = ()
    if start.batch is not None and not any(map(_over_batch, steps)):
        single_row = changed(start, batch=None)
        rows = backward(steps, single_row, forward(steps, single_row))
    here = Gradient(0.0, top.width, top.batch, 1.0 / (top.batch or 1), alike=1.0 / top.width)
    out: list[Gradient | Unknown] = []
    skips: list[Gradient] = []
    for number in range(len(steps) - 1, -1, -1):
        step, x, y = steps[number], inputs[number], inputs[number + 1]
        assert not isinstance(x, Unknown)
        assert not isinstance(y, Unknown)
        if isinstance(step, SkipCloses):
            skips.append(here)
        elif isinstance(step, SkipOpens):
            here = _joined(skips.pop(), here)
        else:
            here = _back(step, here, x, y)
        met = here.meeting(x)
        row = rows[number] if rows else None
        if isinstance(row, Gradient) and start.batch:
            met = changed(met, row=(row.log_mean, row.log_var))
            # Of rows whose squares are log-normal, few make up the mean: B exp(−variance).
            apart = max(0.0, row.log_var - met.log_var)
            here = changed(here, share=math.exp(min(0.0, apart - math.log(start.batch))))
        out.append(met)
    return tuple(reversed(out))


def _over_batch(step: Step) -> bool:
    return isinstance(step, Normalise) and step.over == "batch"


def _back(step: Step, g: Gradient, x: Signal, y: Signal) -> Gradient:
    match step:
        case Linear():
            return _linear_back(step, g, x, y)
        case Elementwise():
            return _elementwise_back(step, g, x)
        case Dropout(rate=rate):
            lost = rate / (1.0 - rate)
            return changed(
                g,
                log_norm2=g.log_norm2 - math.log1p(-rate),
                chance=g.chance + (1.0 + g.chance + g.fixed) * lost,
                active=g.active * (1.0 - rate),
            )
        case Scale(value=c):
            if not c:
                raise TheoryError("a scale must not be 0: nothing passes it")
            return changed(g, log_norm2=g.log_norm2 + math.log(c * c))
        case Normalise():
            return _norm_back(step, g, x)
    raise AssertionError(step)


def _pulled(g: Gradient, x: Signal, pull: Array) -> Gradient:
    """`g` with a pull on the units of x, whose own chance it then feels."""
    return changed(
        g,
        law_mean=g.law_mean + float(pull @ x.shift[2:]),
        law_var=g.law_var + float(pull @ x.cov[2:4, 2:4] @ pull),
        pull=pull,
        law_pull=np.zeros(2),
    )


def _linear_back(step: Linear, g: Gradient, x: Signal, y: Signal) -> Gradient:
    if not step.sigma_w2:
        raise TheoryError("weights must not all be 0: no gradient passes them")
    fixed = step.n_in / max(step.n_in, step.n_out) if step.orthogonal else 0.0
    pull = linear_law(step, x, y).T @ (g.pull + g.law_pull)
    g = _pulled(g.settled(), x, pull)
    return changed(
        g,
        log_norm2=g.log_norm2 + math.log(step.sigma_w2),
        width=step.n_in,
        chance=2.0 * (1.0 - fixed),
        pair_chance=2.0 * (1.0 - fixed) * g.alike,
        fixed=2.0 * fixed,
        alike=g.alike + (1.0 - g.alike) / step.n_in,
    )


def _elementwise_back(step: Elementwise, g: Gradient, x: Signal) -> Gradient:
    r = response_of(step, x)
    one, share = r.one, 1.0 / (x.batch or 1)
    fixed = g.fixed * g.alike
    # The units that make the signal large by chance also make the slopes so.
    alike = share + (1.0 - share) * x.alike
    joint = share * one.joint + (1.0 - share) * r.joint - 1.0
    joint -= x.fixed * one.growth * one.slope_growth * alike
    taken = x.fixed * one.slope_growth**2  # a norm that is held fixed holds the slopes too
    return changed(
        g,
        log_norm2=g.log_norm2 + math.log(one.slope),
        law_mean=g.law_mean + bent(x, one.slope_growth, one.slope_bend),
        law_var=max(0.0, g.law_var + 2.0 * float(g.pull[0]) * joint / x.width),
        chance=(1.0 + g.chance + g.fixed) * one.slope_kurtosis - 1.0 - g.fixed - taken,
        pair_chance=(1.0 + g.pair_chance + fixed) * r.slope_square - 1.0 - fixed - taken * x.alike,
        active=g.active * one.slope_active,
        alike=g.alike * r.aligned,
        pull=np.zeros(2),
        law_pull=g.pull @ r.law + np.array([one.slope_growth, 0.0]),
    )


def _norm_back(step: Normalise, g: Gradient, x: Signal) -> Gradient:
    pull = norm_law(step).T @ (g.pull + g.law_pull)
    pull[1 if step.over == "batch" else 0] -= 1.0
    scale, _ = norm_of(step, x)
    # Of the directions of the error signal those that the norm holds fixed are taken out.
    taken = {"features": 2.0 / x.width, "square": 1.0 / x.width}.get(step.over, 0.0)
    if step.over == "batch" and x.batch:
        # E 1/χ² of d directions: every unit has a variance of its own.
        own = min(0.45, x.plurality)
        taken = 1.0 - (1.0 - 2.0 / x.batch) / (1.0 - 2.0 * own)
    g = _pulled(g.settled(), x, pull)
    return changed(
        g,
        log_norm2=g.log_norm2 + math.log(scale),
        law_mean=g.law_mean + math.log1p(-min(0.9, taken)),
    )


def _joined(g: Gradient, f: Gradient) -> Gradient:
    """The error signals of a skip connection and of the block beside it, added."""
    g, f = g.settled(), f.settled()
    rise = f.log_norm2 - g.log_norm2
    total = float(np.logaddexp(0.0, rise))
    own = math.exp(rise - total)
    return changed(
        f,
        log_norm2=g.log_norm2 + total,
        law_mean=g.law_mean + own * (f.law_mean - g.law_mean),
        law_var=g.law_var + own * own * (f.law_var - g.law_var),
        chance=4.0 * own * (1.0 - own),
        pair_chance=4.0 * own * (1.0 - own) * g.alike,
        alike=(own * math.sqrt(f.alike) + (1.0 - own) * math.sqrt(g.alike)) ** 2,
        pull=own * f.pull + (1.0 - own) * g.pull,
        law_pull=own * f.law_pull + (1.0 - own) * g.law_pull,
    )


__all__ = ["Gradient", "backward"]
