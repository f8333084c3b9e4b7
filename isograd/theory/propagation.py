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
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from isograd.errors import TheoryError
from isograd.theory.finite_width import log_mean_square
from isograd.theory.quadrature import Array, Phi
from isograd.theory.response import Pair, Single, pair, single

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

    Their chance is that of four numbers: the logarithms of the mean square and of the spread, each
    as the layers below decide it (its *law*), and what the units themselves add.

    Attributes:
        mean: E x of a unit.
        second: E x².
        spread: ½E(x − x′)² of two inputs, one entry per kind of pair: E x² − E xx′ without its
            cancellation.
        gaussian: whether units are Gaussian, jointly over inputs, given the layers below.
        width: number of units, n.
        batch: rows that mean square and spread are taken over; None is one, or one pair.
        shift: mean over draws of law (2) and units (2), less the logarithms of `second` and
            of the mean of `spread`.
        cov: their covariance (4, 4); within blocks larger, by what the open skips carry.
        chance: n times the variance of the units' mean square, relative to its square, given the
            law; and `pair_chance` the covariance of those of two inputs.
        both_chance, spread_chance: likewise with the spread, and of the spread.
        rough: how far the spreads of single pairs differ by chance, as a variance relative to
            their square.
        active: the share of units that are not 0.
        fixed: n times what a norm that is held fixed takes from `chance` of Gaussian units.
        centred: whether the units' mean is held at 0 too.
    """

    mean: float
    second: float
    spread: Array
    gaussian: bool
    width: int
    batch: int | None = None
    shift: Array = field(default_factory=lambda: np.zeros(4))
    cov: Array = field(default_factory=lambda: np.zeros((4, 4)))
    chance: float = 0.0
    pair_chance: float = 0.0
    both_chance: float = 0.0
    spread_chance: float = 0.0
    rough: float = 0.0
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
    def alike(self) -> float:
        """Mean squared correlation of two inputs."""
        apart = self.spread / self.second
        return _mean((1.0 - apart) ** 2 + self.rough * apart**2)

    @property
    def plurality(self) -> float:
        """1/d: inputs differ from their mean in d directions, if they differed in all alike."""
        if not self.spread.any():
            return 0.0
        varied = float(np.var(self.spread) / np.mean(self.spread) ** 2)
        return 1.0 / max(1, (self.batch or 2) - 1) + varied + self.rough

    @property
    def log_mean(self) -> float:
        """Over draws, the mean of ln of the units' mean square, less ln E x²."""
        return float(self.shift[0] + self.shift[2])

    @property
    def log_var(self) -> float:
        """Over draws, the variance of ln of the units' mean square."""
        return float(self.cov[0, 0] + 2.0 * self.cov[0, 2] + self.cov[2, 2])

    @property
    def spread_log_mean(self) -> float:
        """Over draws, the mean of ln of the units' spread, less the ln of the mean of `spread`."""
        return float(self.shift[1] + self.shift[3])

    @property
    def spread_log_var(self) -> float:
        """Over draws, the variance of ln of the units' spread."""
        return float(self.cov[1, 1] + 2.0 * self.cov[1, 3] + self.cov[3, 3])


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


def _mean(values: Array) -> float:
    return float(values.sum()) / values.size


def _chance(
    width: int, batch: int | None, chance: float, pair_chance: float, active: float = 1.0
) -> tuple[float, float]:
    """Mean and variance of the logarithm of a mean square over units, and rows of a batch."""
    if batch is None:
        return log_mean_square(width, 1.0 + chance, active)
    return log_mean_square(width, 1.0 + chance / batch + (1.0 - 1.0 / batch) * pair_chance)


def _moved(x: Signal, y: Signal, law: Array, units: Array, kept: Array) -> Signal:
    """`y` with its chance: law ← law·(law of x) + units·(units of x), and its own units'.

    Args:
        x: the signal before.
        y: the signal after, its chance not yet told.
        law, units: (2, 2), how the new law follows the old law, and the old units.
        kept: (2,), how far the new units' chance is that of the old: 0 is none.
    """
    free = y.active if y.fixed == 0.0 else 1.0
    mean, variance = _chance(y.width, y.batch, y.chance, y.pair_chance, free)
    step = np.eye(len(x.cov))
    step[:2, :2], step[:2, 2:4] = law, units
    step[2:4, 2:4] = np.diag(kept)
    cov = step @ x.cov @ step.T
    cov[2:4, 2:4] = [
        [variance, y.both_chance / y.width],
        [y.both_chance / y.width, y.spread_chance / y.width],
    ]
    shift = law @ x.shift[:2] + units @ x.shift[2:]
    own = [mean, -0.5 * y.spread_chance / y.width]
    return replace(y, shift=np.array([*shift, *own]), cov=cov)


# --- up


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
    skips: list[tuple[int, Signal]] = []
    for number, step in enumerate(steps):
        try:
            if isinstance(step, SkipOpens):
                skips.append((number, here))
                here = _opened(here)
            elif isinstance(step, SkipCloses):
                opened, before = skips.pop()
                if not any(isinstance(s, Linear) for s in steps[opened:number]):
                    raise TheoryError("a residual block must hold weights")
                here = _closed(before, here)
            else:
                here = _through(step, here)
        except TheoryError as error:
            unknown = Unknown(number, error.must)
            return (*out, *[unknown] * (len(steps) - number))
        out.append(here)
    return tuple(out)


_SAME, _NONE = np.eye(2), np.zeros((2, 2))


def _through(step: Step, x: Signal) -> Signal:
    match step:
        case Linear():
            return _linear(step, x)
        case Elementwise(phi=phi):
            return _elementwise(phi, x)
        case Dropout(rate=rate):
            return _dropped(1.0 - rate, x)
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
    spread = step.sigma_w2 * x.spread
    # Orthonormal weights fix the norm of W a, and of z as far as that makes it.
    share = weights / q
    fixed = share**2 * step.n_out / max(step.n_in, step.n_out) if step.orthogonal else 0.0
    y = Signal(0.0, q, spread, True, step.n_out, x.batch, rough=x.rough, fixed=2.0 * fixed)
    y = _gaussian(y, 1.0 - fixed)
    law = _linear_law(step, x, y)
    y = _moved(x, y, law, law, np.zeros(2))
    y.shift[0] += 0.5 * law[0, 0] * (1.0 - law[0, 0]) * x.log_var
    return y


def _gaussian(y: Signal, free: float) -> Signal:
    """Units that are Gaussian given the layers below, but for what a fixed norm takes."""
    varied = 2.0 * free * y.plurality
    return replace(
        y,
        chance=2.0 * free,
        pair_chance=2.0 * free * y.alike,
        both_chance=varied * _mean(y.spread) / y.second,
        spread_chance=varied,
    )


def _linear_law(step: Linear, x: Signal, y: Signal) -> Array:
    """How q and the spread behind weights follow those before."""
    return np.diag([step.sigma_w2 * x.second / y.second, 1.0])


def _elementwise(phi: Phi, x: Signal) -> Signal:
    if not x.gaussian:
        raise TheoryError("an activation must read Gaussian pre-activations")
    one, two = _response(phi, x)
    law = _elementwise_law(one, two, x)
    alike, slopes, own = x.alike, _mean(two.slope_square), law[1, 1]
    radial = np.array([one.growth, law[1].sum()])  # of a larger norm, on second and spread
    taken = x.fixed * radial[0] * radial
    tilted = one.tilt**2 if x.centred else 0.0
    varied = slopes * (1.0 + (2.0 - x.fixed * own**2) * x.plurality) - 1.0
    y = Signal(
        mean=one.mean,
        second=one.second,
        spread=two.spread,
        gaussian=False,
        width=x.width,
        batch=x.batch,
        chance=one.kurtosis - 1.0 - taken[0] - tilted,
        pair_chance=_mean(two.square) - 1.0 - taken[0] * alike - tilted * _mean(x.correlation),
        both_chance=_mean(two.joint) - 1.0 - taken[1] * alike,
        spread_chance=max(0.0, varied - x.fixed * radial[1] ** 2 * alike),
        rough=x.rough * own**2 + slopes / x.width,
        active=one.active,
        fixed=taken[0] + tilted,
    )
    before = np.maximum(np.diag(x.cov)[2:4], 1e-300)
    after = [_chance(y.width, y.batch, y.chance, y.pair_chance)[1], y.spread_chance / y.width]
    # A skip connection brings the units' own chance back: the activation's goes with it.
    kept = np.where(before > 1e-300, np.sqrt(np.maximum(after, 0.0) / before), 0.0)
    y = _moved(x, y, law, _NONE, kept)
    y.shift[0] += 0.5 * one.bend * x.cov[0, 0]
    y.shift[0] += _on_sphere(x, one.growth, one.bend)
    return y


def _on_sphere(x: Signal, growth: float, bend: float) -> float:
    """What ln of an average over Gaussians gains where their norm is fixed: −½q²V″/V · 2/n."""
    return -0.5 * (bend + growth * growth - growth) * x.fixed / x.width


def _response(phi: Phi, x: Signal) -> tuple[Single, Pair]:
    return _cached_response(phi, x.second, x.spread.tobytes())


@lru_cache(maxsize=1 << 14)  # up and down again, of a batch and of one input: four times the same
def _cached_response(phi: Phi, q: float, spread: bytes) -> tuple[Single, Pair]:
    return single(phi, q), pair(phi, q, np.frombuffer(spread))


def _elementwise_law(one: Single, two: Pair, x: Signal) -> Array:
    """How E φ² and the spread behind an activation follow q and the spread before."""
    spread = _mean(x.spread)
    if not spread:
        return np.array([[one.growth, 0.0], [one.slope_growth, 1.0]])
    weights = two.spread / np.sum(two.spread)
    own = float(np.sum(x.spread * two.slope) / np.sum(two.spread))
    return np.array([[one.growth, 0.0], [float(weights @ two.growth) - own, own]])


def _dropped(kept: float, x: Signal) -> Signal:
    lost = 1.0 / kept - 1.0
    spread = x.spread + x.second * lost
    y = replace(
        x,
        second=x.second / kept,
        spread=spread,
        gaussian=x.gaussian and lost == 0.0,
        chance=x.chance + (1.0 + x.chance + x.fixed) * lost,
        active=x.active * kept,
    )
    own = float(np.mean(x.spread) / np.mean(spread))
    law = np.array([[1.0, 0.0], [1.0 - own, own]])
    y = replace(y, spread_chance=float(law[1] @ _matrix(x) @ law[1]), rough=x.rough * own**2)
    return _moved(x, y, law, _NONE, np.ones(2))


def _matrix(x: Signal) -> Array:
    pair_chance = x.pair_chance if x.batch else x.chance
    return np.array([[pair_chance, x.both_chance], [x.both_chance, x.spread_chance]])


def _normalised(step: Normalise, x: Signal) -> Signal:
    scale, second = _norm(step, x)
    y = replace(
        x,
        mean=x.mean * math.sqrt(scale) if step.over == "square" else 0.0,
        second=second,
        spread=x.spread * scale,
        chance=0.0,
        pair_chance=0.0,
        both_chance=0.0,
        spread_chance=0.0,
        rough=0.0 if step.over == "batch" else x.rough,
        fixed=0.0 if step.over == "batch" else 2.0,
        centred=step.over == "features",
    )
    law = _norm_law(step)
    return _moved(x, y, law, law, np.zeros(2))


def _norm(step: Normalise, x: Signal) -> tuple[float, float]:
    """The factor on squares, and the mean square that comes of it."""
    variance = x.second
    if step.over == "features":
        variance -= x.mean**2
    elif step.over == "batch":
        # The variance over a large batch is the same for every unit: q(1 − c).
        variance = (1.0 - 1.0 / x.batch if x.batch else 1.0) * _mean(x.spread)
    if not variance > 0.0:
        raise TheoryError("what is normalised must have a variance above 0")
    scale = 1.0 / (variance + step.eps)
    return scale, scale * variance


def _norm_law(step: Normalise) -> Array:
    return _NONE if step.over == "batch" else np.array([[0.0, 0.0], [-1.0, 1.0]])


def _opened(x: Signal) -> Signal:
    """The state twice: what runs through the block, and what waits for its end."""
    twice = np.concatenate([np.arange(4), np.arange(len(x.cov))])
    return replace(x, cov=x.cov[np.ix_(twice, twice)])


def _closed(x: Signal, f: Signal) -> Signal:
    second = x.second + f.second + 2.0 * x.mean * f.mean
    spread = x.spread + f.spread
    own = np.array([f.second / second, 0.0])
    own[1] = np.mean(f.spread) / np.mean(spread) if spread.any() else own[0]
    rest = 1.0 - own
    step = np.eye(len(f.cov))[4:]
    step[:4, :4], step[:4, 4:8] = np.diag([*own, *own]), np.diag([*rest, *rest])
    cov = step @ f.cov @ step.T
    y = replace(
        f,
        mean=x.mean + f.mean,
        second=second,
        spread=spread,
        gaussian=x.gaussian and f.gaussian,
        rough=rest[1] ** 2 * x.rough + own[1] ** 2 * f.rough,
        active=1.0,
        fixed=0.0,
        centred=False,
    )
    y = _gaussian(y, 1.0)
    for part, share in ((x, rest[0]), (f, own[0])):  # fourth cumulants add
        y = replace(
            y,
            chance=y.chance + (part.chance - 2.0) * share**2,
            pair_chance=y.pair_chance + (part.pair_chance - 2.0 * part.alike) * share**2,
        )
    shift = np.tile(own, 2) * f.shift + np.tile(rest, 2) * x.shift
    mean, variance = _chance(y.width, y.batch, y.chance, y.pair_chance)
    shift[2:] = mean, -0.5 * y.spread_chance / y.width
    cov[2:4, 2:4] = [
        [variance, y.both_chance / y.width],
        [y.both_chance / y.width, y.spread_chance / y.width],
    ]
    return replace(y, shift=shift, cov=cov)


# --- and back


@dataclass(frozen=True, eq=False)
class Gradient:
    """The error signal ∂L/∂x of a layer's units, relative to that at the top.

    Attributes:
        log_norm2: ln E‖∂L/∂x‖² less that at the top, at infinite width.
        width: number of units, n.
        batch: rows that the norm is taken over; None is one.
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

    @cached_property
    def _units(self) -> tuple[float, float]:
        active = self.active if self.fixed == 0.0 else 1.0
        return _chance(self.width, self.batch, self.chance, self.pair_chance, active)

    def settled(self) -> Gradient:
        """Its units' chance counted among what the layers above decide."""
        mean, variance = self._units
        return replace(
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
        return replace(self, below=(float(pull @ x.shift[:2]), float(pull @ x.cov[:2, :2] @ pull)))


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
        single_row = replace(start, batch=None)
        rows = backward(steps, single_row, forward(steps, single_row))
    here = Gradient(0.0, top.width, top.batch, alike=1.0 / top.width)
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
        if isinstance(row, Gradient):
            met = replace(met, row=(row.log_mean, row.log_var))
        out.append(met)
    return tuple(reversed(out))


def _over_batch(step: Step) -> bool:
    return isinstance(step, Normalise) and step.over == "batch"


def _back(step: Step, g: Gradient, x: Signal, y: Signal) -> Gradient:
    match step:
        case Linear():
            return _linear_back(step, g, x, y)
        case Elementwise(phi=phi):
            return _elementwise_back(phi, g, x)
        case Dropout(rate=rate):
            lost = rate / (1.0 - rate)
            return replace(
                g,
                log_norm2=g.log_norm2 - math.log1p(-rate),
                chance=g.chance + (1.0 + g.chance + g.fixed) * lost,
                active=g.active * (1.0 - rate),
            )
        case Scale(value=c):
            if not c:
                raise TheoryError("a scale must not be 0: nothing passes it")
            return replace(g, log_norm2=g.log_norm2 + math.log(c * c))
        case Normalise():
            return _norm_back(step, g, x)
    raise AssertionError(step)


def _pulled(g: Gradient, x: Signal, pull: Array) -> Gradient:
    """`g` with a pull on the units of x, whose own chance it then feels."""
    return replace(
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
    pull = _linear_law(step, x, y).T @ (g.pull + g.law_pull)
    g = _pulled(g.settled(), x, pull)
    return replace(
        g,
        log_norm2=g.log_norm2 + math.log(step.sigma_w2),
        width=step.n_in,
        chance=2.0 * (1.0 - fixed),
        pair_chance=2.0 * (1.0 - fixed) * g.alike,
        fixed=2.0 * fixed,
        alike=g.alike + (1.0 - g.alike) / step.n_in,
    )


def _elementwise_back(phi: Phi, g: Gradient, x: Signal) -> Gradient:
    one, two = _response(phi, x)
    square, share = _mean(two.slope_square), 1.0 / (x.batch or 1)
    fixed = g.fixed * g.alike
    # The units that make the signal large by chance also make the slopes so.
    alike = share + (1.0 - share) * x.alike
    joint = share * one.joint + (1.0 - share) * _mean(two.joint) - 1.0
    joint -= x.fixed * one.growth * one.slope_growth * alike
    taken = x.fixed * one.slope_growth**2  # a norm that is held fixed holds the slopes too
    return replace(
        g,
        log_norm2=g.log_norm2 + math.log(one.slope),
        law_mean=g.law_mean + _on_sphere(x, one.slope_growth, one.slope_bend),
        law_var=max(0.0, g.law_var + 2.0 * float(g.pull[0]) * joint / x.width),
        chance=(1.0 + g.chance + g.fixed) * one.slope_kurtosis - 1.0 - g.fixed - taken,
        pair_chance=(1.0 + g.pair_chance + fixed) * square - 1.0 - fixed - taken * x.alike,
        active=g.active * one.slope_active,
        alike=g.alike * _mean((two.slope / one.slope) ** 2),
        pull=np.zeros(2),
        law_pull=_elementwise_law(one, two, x).T @ g.pull + np.array([one.slope_growth, 0.0]),
    )


def _norm_back(step: Normalise, g: Gradient, x: Signal) -> Gradient:
    pull = _norm_law(step).T @ (g.pull + g.law_pull)
    pull[1 if step.over == "batch" else 0] -= 1.0
    scale, _ = _norm(step, x)
    # Of the directions of the error signal those that the norm holds fixed are taken out.
    taken = {"features": 2.0 / x.width, "square": 1.0 / x.width}.get(step.over, 0.0)
    if step.over == "batch" and x.batch:
        # E 1/χ² of d directions: every unit has a variance of its own.
        own = min(0.45, x.plurality)
        taken = 1.0 - (1.0 - 2.0 / x.batch) / (1.0 - 2.0 * own)
    g = _pulled(g.settled(), x, pull)
    return replace(
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
    return replace(
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
