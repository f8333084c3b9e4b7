"""A signal through the layers of one network, with error bars of finite width.

Mean-field theory follows the mean, the second moment and the spread over inputs of a unit. Each
comes with the mean and the variance of its logarithm over draws of the weights, to first order in
1/width: what a layer's units leave to chance, and what that moves in the layers above.

References:
    Poole et al. 2016 and Schoenholz et al. 2017 (layers and activations; dropout: sec. 5 there);
    Pretorius et al. 2018 (noise); Yang & Schoenholz 2017, Hanin & Rolnick 2018 (skip connections);
    Yang et al. 2019 (batch normalisation); Hanin & Nica 2019, Roberts, Yaida & Hanin 2022, ch. 4
    (finite width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.quadrature import Array, Phi
from isograd.theory.response import Pair, Single, pair, single
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
    mean_of,
)


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
    law = linear_law(step, x, y)
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
        both_chance=varied * mean_of(y.spread) / y.second,
        spread_chance=varied,
    )


def linear_law(step: Linear, x: Signal, y: Signal) -> Array:
    """How q and the spread behind weights follow those before."""
    return np.diag([step.sigma_w2 * x.second / y.second, 1.0])


def _elementwise(phi: Phi, x: Signal) -> Signal:
    if not x.gaussian:
        raise TheoryError("an activation must read Gaussian pre-activations")
    one, two = response_of(phi, x)
    law = elementwise_law(one, two, x)
    alike, slopes, own = x.alike, mean_of(two.slope_square), law[1, 1]
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
        pair_chance=mean_of(two.square) - 1.0 - taken[0] * alike - tilted * mean_of(x.correlation),
        both_chance=mean_of(two.joint) - 1.0 - taken[1] * alike,
        spread_chance=max(0.0, varied - x.fixed * radial[1] ** 2 * alike),
        rough=x.rough * own**2 + slopes / x.width,
        active=one.active,
        fixed=taken[0] + tilted,
    )
    before = np.maximum(np.diag(x.cov)[2:4], 1e-300)
    after = [chance_of(y.width, y.batch, y.chance, y.pair_chance)[1], y.spread_chance / y.width]
    # A skip connection brings the units' own chance back: the activation's goes with it.
    kept = np.where(before > 1e-300, np.sqrt(np.maximum(after, 0.0) / before), 0.0)
    y = _moved(x, y, law, _NONE, kept)
    y.shift[0] += 0.5 * one.bend * x.cov[0, 0]
    y.shift[0] += on_sphere(x, one.growth, one.bend)
    return y


def on_sphere(x: Signal, growth: float, bend: float) -> float:
    """What ln of an average over Gaussians gains where their norm is fixed: −½q²V″/V · 2/n."""
    return -0.5 * (bend + growth * growth - growth) * x.fixed / x.width


def response_of(phi: Phi, x: Signal) -> tuple[Single, Pair]:
    return _cached_response(phi, x.second, x.spread.tobytes())


@lru_cache(maxsize=1 << 14)  # up and down again, of a batch and of one input: four times the same
def _cached_response(phi: Phi, q: float, spread: bytes) -> tuple[Single, Pair]:
    return single(phi, q), pair(phi, q, np.frombuffer(spread))


def elementwise_law(one: Single, two: Pair, x: Signal) -> Array:
    """How E φ² and the spread behind an activation follow q and the spread before."""
    spread = mean_of(x.spread)
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
    scale, second = norm_of(step, x)
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
    law = norm_law(step)
    return _moved(x, y, law, law, np.zeros(2))


def norm_of(step: Normalise, x: Signal) -> tuple[float, float]:
    """The factor on squares, and the mean square that comes of it."""
    variance = x.second
    if step.over == "features":
        variance -= x.mean**2
    elif step.over == "batch":
        # The variance over a large batch is the same for every unit: q(1 − c).
        variance = (1.0 - 1.0 / x.batch if x.batch else 1.0) * mean_of(x.spread)
    if not variance > 0.0:
        raise TheoryError("what is normalised must have a variance above 0")
    scale = 1.0 / (variance + step.eps)
    return scale, scale * variance


def norm_law(step: Normalise) -> Array:
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
    mean, variance = chance_of(y.width, y.batch, y.chance, y.pair_chance)
    shift[2:] = mean, -0.5 * y.spread_chance / y.width
    cov[2:4, 2:4] = [
        [variance, y.both_chance / y.width],
        [y.both_chance / y.width, y.spread_chance / y.width],
    ]
    return replace(y, shift=shift, cov=cov)


def _moved(x: Signal, y: Signal, law: Array, units: Array, kept: Array) -> Signal:
    """`y` with its chance: law ← law·(law of x) + units·(units of x), and its own units'.

    Args:
        x: the signal before.
        y: the signal after, its chance not yet told.
        law, units: (2, 2), how the new law follows the old law, and the old units.
        kept: (2,), how far the new units' chance is that of the old: 0 is none.
    """
    free = y.active if y.fixed == 0.0 else 1.0
    mean, variance = chance_of(y.width, y.batch, y.chance, y.pair_chance, free)
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


__all__ = [
    "elementwise_law",
    "forward",
    "linear_law",
    "norm_law",
    "norm_of",
    "on_sphere",
    "response_of",
]
