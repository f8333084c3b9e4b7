"""A signal and its gradient through the layers of one network, with error bars of finite width.

Going up, mean-field theory follows the mean, the second moment and the spread over inputs of a
unit; going down, the squared norm of the error signal. Each comes with the mean and the variance
of its logarithm over draws of the weights, to first order in 1/width: what a layer's units leave
to chance, and what that moves in the layers above.

References:
    Poole et al. 2016 and Schoenholz et al. 2017 (layers and activations; dropout: sec. 5 there);
    Pretorius et al. 2018 (noise); Yang & Schoenholz 2017, Hanin & Rolnick 2018 (skip connections);
    Yang et al. 2019 (batch normalisation); Hanin & Nica 2019, Roberts, Yaida & Hanin 2022, ch. 4
    (finite width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from isograd.errors import TheoryError
from isograd.theory.finite_width import log_mean_square
from isograd.theory.quadrature import Array, Phi
from isograd.theory.response import pair, single

# --- the steps


@dataclass(frozen=True)
class Linear:
    """z = W a + b, Var W = σ_w²/n_in, Var b = σ_b²; or W orthonormal times a gain, as scaled."""

    sigma_w2: float
    sigma_b2: float
    n_in: int
    n_out: int
    orthogonal: bool = False


@dataclass(frozen=True)
class Elementwise:
    """a = φ(z)."""

    phi: Phi


@dataclass(frozen=True)
class Dropout:
    """Each value 0 with probability `rate`, else divided by 1 − rate."""

    rate: float


@dataclass(frozen=True)
class Normalise:
    """To mean 0 and variance 1 over features or batch, or to mean square 1 ("square")."""

    over: Literal["features", "square", "batch"]
    eps: float = 0.0


@dataclass(frozen=True)
class Scale:
    """x times one number."""

    value: float


@dataclass(frozen=True)
class SkipOpens:
    """What comes here is added again where the block closes."""


@dataclass(frozen=True)
class SkipCloses:
    """x + f(x), f the steps since the block opened."""


Step: TypeAlias = Linear | Elementwise | Dropout | Normalise | Scale | SkipOpens | SkipCloses


# --- what is known between them


@dataclass(frozen=True)
class Unknown:
    """Where theory ends: the number of the first step it does not cover, and why."""

    step: int
    reason: str


@dataclass(frozen=True, eq=False)
class Signal:
    """The units of a layer over draws of the weights.

    Attributes:
        mean: E x of a unit.
        second: E x².
        spread: ½E(x − x′)² of two inputs, one entry per kind of pair: E x² − E xx′ without its
            cancellation.
        gaussian: whether units are Gaussian, jointly over inputs.
        width: number of units, n.
        batch: rows that the mean square of units is taken over; None is one.
        law_mean: over draws, the mean of ln E[x² | layers below] less ln E x².
        law_var: its variance.
        chance: n times the variance of the units' mean square, relative to its square, given the
            layers below; and `pair_chance` the covariance of those of two inputs.
        active: the share of units that are not 0.
        fixed: n times what a norm that is held fixed takes from `chance` for Gaussian units.
        centred: whether the units' mean is held at 0 too.
    """

    mean: float
    second: float
    spread: Array
    gaussian: bool
    width: int
    batch: int | None = None
    law_mean: float = 0.0
    law_var: float = 0.0
    chance: float = 0.0
    pair_chance: float = 0.0
    active: float = 1.0
    fixed: float = 0.0
    centred: bool = False

    @property
    def cross(self) -> Array:
        """E xx′ of two inputs."""
        return self.second - self.spread

    @property
    def correlation(self) -> Array:
        """E xx′/E x²."""
        return 1.0 - self.spread / self.second

    @property
    def log_mean(self) -> float:
        """Over draws, the mean of ln of the units' mean square, less ln E x²."""
        return self.law_mean + self._units[0]

    @property
    def log_var(self) -> float:
        """Over draws, the variance of ln of the units' mean square."""
        return self.law_var + self._units[1]

    @cached_property
    def _units(self) -> tuple[float, float]:
        return _log_chance(
            self.width, self.batch, self.chance, self.pair_chance, self.active, self.fixed == 0.0
        )


def _log_chance(
    width: int, batch: int | None, chance: float, pair_chance: float, active: float, free: bool
) -> tuple[float, float]:
    """Mean and variance of the logarithm of a mean square over units, and rows of a batch."""
    if batch is None:
        return log_mean_square(width, 1.0 + chance, active if free else 1.0)
    return log_mean_square(width, 1.0 + chance / batch + (1.0 - 1.0 / batch) * pair_chance)


def signal(
    second: float, cross: ArrayLike | None = None, width: int = 1, batch: int | None = None
) -> Signal:
    """Given inputs: no chance in them.

    Args:
        second: mean square of a feature.
        cross: E xx′ of two inputs, or quantiles of it over pairs; None: uncorrelated.
        width: number of features.
        batch: rows, as in `Signal`.
    """
    spread = second - np.atleast_1d(np.asarray(0.0 if cross is None else cross, np.float64))
    return Signal(0.0, float(second), np.maximum(spread, 0.0), False, width, batch)


def forward(steps: Sequence[Step], start: Signal) -> tuple[Signal | Unknown, ...]:
    """The signal after each step.

    Args:
        steps: from the input up.
        start: the input; see `signal`.

    Returns:
        One entry per step; from the first that theory does not cover, all `Unknown`.
    """
    out: list[Signal | Unknown] = []
    here = start
    skips: list[Signal] = []
    for number, step in enumerate(steps):
        try:
            if isinstance(step, SkipOpens):
                skips.append(here)
            elif isinstance(step, SkipCloses):
                here = _closed(skips.pop(), here)
            else:
                here = _through(step, here)
        except TheoryError as error:
            unknown = Unknown(number, error.must)
            return (*out, *[unknown] * (len(steps) - number))
        out.append(here)
    return tuple(out)


def _through(step: Step, x: Signal) -> Signal:
    match step:
        case Linear():
            return _linear(step, x)
        case Elementwise(phi=phi):
            return _elementwise(phi, x)
        case Dropout(rate=rate):
            kept = 1.0 - rate
            return replace(
                x,
                second=x.second / kept,
                spread=x.spread + x.second * (1.0 / kept - 1.0),
                gaussian=x.gaussian and rate == 0.0,
                chance=x.chance + (1.0 + x.chance + x.fixed) * (1.0 / kept - 1.0),
                active=x.active * kept,
            )
        case Normalise():
            return _normalised(step, x)
        case Scale(value=c):
            return replace(x, mean=c * x.mean, second=c * c * x.second, spread=c * c * x.spread)
    raise AssertionError(step)


def _linear(step: Linear, x: Signal) -> Signal:
    weights = step.sigma_w2 * x.second
    q = weights + step.sigma_b2
    if not 0.0 < q < math.inf:
        raise TheoryError("pre-activations must have a variance above 0 and below ∞")
    share = weights / q
    mean, var = x.log_mean, x.log_var
    spread = step.sigma_w2 * x.spread
    fixed = 2.0 * share * step.n_out / max(step.n_in, step.n_out) if step.orthogonal else 0.0
    return Signal(
        mean=0.0,
        second=q,
        spread=spread,
        gaussian=True,
        width=step.n_out,
        batch=x.batch,
        law_mean=share * mean + 0.5 * share * (1.0 - share) * var,
        law_var=share * share * var,
        chance=2.0 - fixed,
        pair_chance=(2.0 - fixed) * _squared_correlation(q, spread),
        fixed=fixed,
    )


def _squared_correlation(q: float, spread: Array) -> float:
    return float(np.mean((1.0 - spread / q) ** 2))


def _elementwise(phi: Phi, x: Signal) -> Signal:
    if not x.gaussian:
        raise TheoryError("an activation must read Gaussian pre-activations")
    one, two = single(phi, x.second), pair(phi, x.second, x.spread)
    fixed = one.growth**2 * x.fixed
    tilted = one.tilt**2 if x.centred else 0.0
    alike = _squared_correlation(x.second, x.spread)
    return Signal(
        mean=one.mean,
        second=one.second,
        spread=two.spread,
        gaussian=False,
        width=x.width,
        batch=x.batch,
        law_mean=one.growth * x.law_mean + 0.5 * one.bend * x.law_var,
        law_var=one.growth**2 * x.law_var,
        chance=one.kurtosis - 1.0 - fixed - tilted,
        pair_chance=float(np.mean(two.square))
        - 1.0
        - fixed * alike
        - tilted * float(np.mean(x.correlation)),
        active=one.active,
        fixed=fixed + tilted,
    )


def _normalised(step: Normalise, x: Signal) -> Signal:
    mean, variance, rows = 0.0, x.second, 1.0
    if step.over == "features":
        mean, variance = x.mean, x.second - x.mean**2
    elif step.over == "batch":
        # The variance over a large batch is the same for every unit: q(1 − c).
        rows = 1.0 - 1.0 / x.batch if x.batch else 1.0
        mean, variance = x.mean, rows * float(np.mean(x.spread))
    if not variance > 0.0:
        raise TheoryError("what is normalised must have a variance above 0")
    scale = 1.0 / (variance + step.eps)
    return replace(
        x,
        mean=(x.mean - mean) * math.sqrt(scale),
        second=variance * scale,
        spread=x.spread * scale,
        law_mean=0.0,
        law_var=0.0,
        chance=0.0,
        pair_chance=0.0,
        fixed=0.0 if step.over == "batch" else 2.0,
        centred=step.over == "features",
    )


def _closed(x: Signal, f: Signal) -> Signal:
    if f is x:
        raise TheoryError("a residual block must hold weights")
    second = x.second + f.second + 2.0 * x.mean * f.mean
    p, r = x.second / second, f.second / second
    return replace(
        f,
        mean=x.mean + f.mean,
        second=second,
        spread=x.spread + f.spread,
        gaussian=x.gaussian and f.gaussian,
        law_mean=p * x.law_mean + r * f.law_mean,
        law_var=p * p * x.law_var + r * r * f.law_var,
        chance=2.0 + (x.chance - 2.0) * p * p + (f.chance - 2.0) * r * r,
        active=1.0,
        fixed=0.0,
        centred=False,
    )


# --- and back


@dataclass(frozen=True)
class Gradient:
    """The error signal ∂L/∂x of a layer's units, relative to that at the top.

    Attributes:
        log_norm2: ln E‖∂L/∂x‖² less that at the top, at infinite width.
        width: number of units, n.
        batch: rows that the norm is taken over; None is one.
        law_mean, law_var: mean and variance over draws of ln‖·‖², as far as the layers above
            decide it; the units' own chance comes on top.
        chance, pair_chance, active: of the units' squares, as in `Signal`.
        alike: mean squared cosine between the error signals of two inputs.
        pull: d ln‖·‖²/d ln of the units' mean square, through the layers above: a signal that is
            larger by chance changes the slopes that the gradient meets.
        law_pull: likewise with respect to the variance of Gaussian units, given the layers below.
    """

    log_norm2: float
    width: int
    batch: int | None = None
    law_mean: float = 0.0
    law_var: float = 0.0
    chance: float = 0.0
    pair_chance: float = 0.0
    active: float = 1.0
    alike: float = 1.0
    pull: float = 0.0
    law_pull: float = 0.0

    @property
    def log_mean(self) -> float:
        """Over draws, the mean of ln‖∂L/∂x‖², relative to the top, less `log_norm2`."""
        return self.law_mean + self._units[0]

    @property
    def log_var(self) -> float:
        """Over draws, the variance of ln‖∂L/∂x‖², relative to the top."""
        return self.law_var + self._units[1]

    @cached_property
    def _units(self) -> tuple[float, float]:
        return _log_chance(self.width, self.batch, self.chance, self.pair_chance, self.active, True)


def backward(
    steps: Sequence[Step], start: Signal, signals: Sequence[Signal | Unknown]
) -> tuple[Gradient | Unknown, ...]:
    """The error signal before each step, relative to that after the last one.

    At the top it is taken as given, of independent directions for different inputs.

    Args:
        steps, start: as for `forward`.
        signals: what `forward` gave.

    Returns:
        One entry per step; `Unknown` at and below the first, from the top, that is not covered.
    """
    inputs = [start, *signals]
    out: list[Gradient | Unknown] = []
    top = inputs[-1]
    if isinstance(top, Unknown):
        return (top,) * len(steps)
    here = Gradient(0.0, top.width, top.batch, alike=1.0 / top.width)
    skips: list[Gradient] = []
    for number in range(len(steps) - 1, -1, -1):
        step, x, y = steps[number], inputs[number], inputs[number + 1]
        assert not isinstance(x, Unknown)
        assert not isinstance(y, Unknown)
        if isinstance(step, SkipCloses):
            skips.append(here)
        elif isinstance(step, SkipOpens):
            here = _opened(skips.pop(), here)
        else:
            here = _back(step, here, x, y)
        out.append(here)
    return tuple(reversed(out))


def _settled(g: Gradient) -> Gradient:
    """Its units' chance counted among what the layers above decide."""
    return replace(
        g,
        law_mean=g.log_mean,
        law_var=g.log_var,
        chance=0.0,
        pair_chance=0.0,
        active=1.0,
    )


def _back(step: Step, g: Gradient, x: Signal, y: Signal) -> Gradient:
    match step:
        case Linear():
            return _linear_back(step, g, x, y)
        case Elementwise(phi=phi):
            return _elementwise_back(phi, g, x)
        case Dropout(rate=rate):
            kept = 1.0 - rate
            return replace(
                g,
                log_norm2=g.log_norm2 - math.log(kept),
                chance=g.chance + (1.0 + g.chance) * (1.0 / kept - 1.0),
                active=g.active * kept,
            )
        case Scale(value=c):
            return replace(g, log_norm2=g.log_norm2 + math.log(c * c))
        case Normalise():
            g = _settled(g)
            return replace(
                g,
                log_norm2=g.log_norm2 + math.log(y.second / x.second),
                pull=-1.0,
                law_pull=0.0,
            )
    raise AssertionError(step)


def _linear_back(step: Linear, g: Gradient, x: Signal, y: Signal) -> Gradient:
    g = _settled(g)
    share = step.sigma_w2 * x.second / y.second
    units = _log_chance(y.width, y.batch, y.chance, y.pair_chance, 1.0, True)
    fixed = 2.0 * step.n_in / max(step.n_in, step.n_out) if step.orthogonal else 0.0
    return replace(
        g,
        log_norm2=g.log_norm2 + math.log(step.sigma_w2),
        width=step.n_in,
        law_mean=g.law_mean + g.pull * units[0],
        law_var=g.law_var + g.pull**2 * units[1],
        chance=2.0 - fixed,
        pair_chance=(2.0 - fixed) * g.alike,
        pull=share * (g.pull + g.law_pull),
        law_pull=0.0,
    )


def _elementwise_back(phi: Phi, g: Gradient, x: Signal) -> Gradient:
    one, two = single(phi, x.second), pair(phi, x.second, x.spread)
    both = 1.0 + g.pair_chance
    square = float(np.mean(two.slope_square))
    return replace(
        g,
        log_norm2=g.log_norm2 + math.log(one.slope),
        chance=(1.0 + g.chance) * one.slope_kurtosis - 1.0,
        pair_chance=both * square - 1.0,
        active=g.active * one.slope_active,
        alike=g.alike * float(np.mean((two.slope / one.slope) ** 2)),
        pull=0.0,
        law_pull=one.growth * g.pull + one.slope_growth,
    )


def _opened(g: Gradient, f: Gradient) -> Gradient:
    g, f = _settled(g), _settled(f)
    rise = f.log_norm2 - g.log_norm2
    total = float(np.logaddexp(0.0, rise))
    r = math.exp(rise - total)
    return replace(
        f,
        log_norm2=g.log_norm2 + total,
        law_mean=g.law_mean + r * (f.law_mean - g.law_mean),
        law_var=g.law_var + r * r * (f.law_var - g.law_var),
        chance=4.0 * r * (1.0 - r),
        pull=f.pull,
    )


__all__ = [
    "Dropout",
    "Elementwise",
    "Gradient",
    "Linear",
    "Normalise",
    "Scale",
    "Signal",
    "SkipCloses",
    "SkipOpens",
    "Step",
    "Unknown",
    "backward",
    "forward",
    "signal",
]
