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
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.quadrature import Array
from isograd.theory.response import Single, pair, single
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


_NONE = np.zeros((2, 2))


def _through(step: Step, x: Signal) -> Signal:
    match step:
        case Linear():
            return _linear(step, x)
        case Elementwise():
            return _elementwise(step, x)
        case Dropout(rate=rate):
            return _dropped(1.0 - rate, x)
        case Normalise():
            return _normalised(step, x)
        case Scale(value=c):
            return changed(x, mean=c * x.mean, second=c * c * x.second, spread=c * c * x.spread)
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
    law = linear_law(step, x, y)
    y = changed(y, lengths=float(law[0, 0]) ** 2 * x.unit_lengths)
    y = _gaussian(y, 1.0 - fixed)
    y = _moved(x, y, law, law, (0.0, 0.0))
    y.shift[0] += 0.5 * law[0, 0] * (1.0 - law[0, 0]) * x.log_var
    return y


def _gaussian(y: Signal, free: float) -> Signal:
    """Units that are Gaussian given the layers below, but for what a fixed norm takes."""
    varied = 2.0 * free * y.plurality
    return changed(
        y,
        chance=2.0 * free,
        pair_chance=2.0 * free * y.alike,
        both_chance=varied * mean_of(y.spread) / y.second,
        spread_chance=varied,
    )


def linear_law(step: Linear, x: Signal, y: Signal) -> Array:
    """How q and the spread behind weights follow those before."""
    return np.array([[step.sigma_w2 * x.second / y.second, 0.0], [0.0, 1.0]])


def _elementwise(step: Elementwise, x: Signal) -> Signal:
    if not x.gaussian:
        raise TheoryError("an activation must read Gaussian pre-activations")
    r = response_of(step, x)
    one, alike, plurality = r.one, x.alike, x.plurality
    lengths = one.growth**2 * x.lengths
    rows = 1.0 / (x.batch or 2)
    varied = r.varied * (1.0 + 2.0 * plurality) + (r.fourth - 3.0 * r.varied) * rows
    both = r.both + (r.both_own - r.both) * rows
    # A norm that is held fixed takes what of this is chance of its own.
    common = plurality * mean_of(x.spread) / x.second
    held = np.array([[rows + (1.0 - rows) * alike, common], [common, plurality]])
    held = x.fixed * r.law @ held @ r.law.T
    taken, tilted = x.fixed * one.growth**2, one.tilt**2 if x.centred else 0.0
    y = Signal(
        mean=one.mean,
        second=one.second,
        spread=r.spread,
        gaussian=False,
        width=x.width,
        batch=x.batch,
        chance=one.kurtosis - 1.0 - taken - tilted,
        pair_chance=r.square - 1.0 - taken * alike - tilted * mean_of(x.correlation),
        both_chance=both - 1.0 - float(held[0, 1]),
        spread_chance=max(0.0, varied - 1.0 - float(held[1, 1])),
        rough=x.rough * float(r.law[1, 1]) ** 2 + (1.0 - plurality) * r.slope_square / x.width,
        lengths=lengths,
        active=one.active,
        fixed=taken + tilted,
    )
    # A skip connection brings the units' own chance back: the activation's goes with it.
    square = chance_of(y.width, 1.0 / (y.batch or 1), y.chance, y.pair_chance)[1]
    spread = y.spread_chance / y.width
    kept = _kept(float(x.cov[2, 2]), square), _kept(float(x.cov[3, 3]), spread)
    y = _moved(x, y, r.law, _NONE, kept)
    y.shift[0] += 0.5 * one.bend * float(x.cov[0, 0]) + bent(x, one.growth, one.bend)
    return y


def _kept(before: float, after: float) -> float:
    return math.sqrt(max(after, 0.0) / before) if before > 1e-300 else 0.0


def bent(x: Signal, growth: float, bend: float) -> float:
    """What ln of an average V(q) over Gaussians gains by norms that differ between rows.

    ½q²V″/V · Var ln q; where norms are held fixed they differ by 2/n less than those of Gaussians.
    """
    apart = x.lengths * (1.0 - 1.0 / x.batch) if x.batch else 0.0
    return 0.5 * (bend + growth * growth - growth) * (apart - x.fixed / x.width)


@dataclass(frozen=True, eq=False)
class Response:
    """What an activation makes of a signal.

    Attributes:
        one: averages over one input.
        spread: ½E(φ − φ′)² of two inputs, whose lengths differ.
        law: (2, 2), how E φ² and the spread follow q and the spread before, in logarithms.
        square, slope_square, joint, varied, fourth, both, both_own: as in `Pair`, the means over
            pairs.
        aligned: the mean square of E φ′₁φ′₂/E φ′².
    """

    one: Single
    spread: Array
    law: Array
    square: float
    slope_square: float
    joint: float
    varied: float
    fourth: float
    both: float
    both_own: float
    aligned: float


def response_of(step: Elementwise, x: Signal) -> Response:
    """The response to a signal of Gaussian units."""
    return _response(step, x.second, x.turned.tobytes(), x.lengths)


@lru_cache(maxsize=1 << 14)  # up and down again, of a batch and of one input: four times the same
def _response(step: Elementwise, q: float, pairs: bytes, lengths: float) -> Response:
    one = single(step.phi, q)
    turned, along = np.frombuffer(pairs), min(0.25 * one.growth**2 * lengths, 0.5)
    two = pair(step.phi, q, turned, tabulated=step.tabulated)
    across = (1.0 - along) * two.spread
    spread = across + along * one.second
    law = np.array([[one.growth, 0.0], [one.slope_growth, 1.0]])
    if spread.any():
        total, lengthwise = float(spread.sum()), along * one.second * len(turned)
        own = (float(((1.0 - along) * turned * two.slope).sum()) + lengthwise) / total
        grown = (float(across @ two.growth) + lengthwise * one.growth) / total
        law[1] = grown - own, own
    return Response(
        one,
        spread,
        law,
        mean_of(two.square),
        mean_of(two.slope_square),
        mean_of(two.joint),
        mean_of(two.varied),
        mean_of(two.fourth),
        mean_of(two.both),
        mean_of(two.both_own),
        mean_of((two.slope / one.slope) ** 2),
    )


def _dropped(kept: float, x: Signal) -> Signal:
    lost = 1.0 / kept - 1.0
    spread = x.spread + x.second * lost
    y = changed(
        x,
        second=x.second / kept,
        spread=spread,
        gaussian=x.gaussian and lost == 0.0,
        chance=x.chance + (1.0 + x.chance + x.fixed) * lost,
        active=x.active * kept,
    )
    own = float(np.mean(x.spread) / np.mean(spread))
    law = np.array([[1.0, 0.0], [1.0 - own, own]])
    y = changed(y, spread_chance=float(law[1] @ _matrix(x) @ law[1]), rough=x.rough * own**2)
    return _moved(x, y, law, _NONE, (1.0, 1.0))


def _matrix(x: Signal) -> Array:
    pair_chance = x.pair_chance if x.batch else x.chance
    return np.array([[pair_chance, x.both_chance], [x.both_chance, x.spread_chance]])


def _normalised(step: Normalise, x: Signal) -> Signal:
    scale, second = norm_of(step, x)
    y = changed(
        x,
        mean=x.mean * math.sqrt(scale) if step.over == "square" else 0.0,
        second=second,
        spread=(x.spread if step.over == "batch" else x.of_one_length) * scale,
        lengths=0.0,
        chance=0.0,
        pair_chance=0.0,
        both_chance=0.0,
        spread_chance=0.0,
        rough=0.0 if step.over == "batch" else x.rough,
        fixed=0.0 if step.over == "batch" else 2.0,
        centred=step.over == "features",
    )
    law = norm_law(step)
    return _moved(x, y, law, law, (0.0, 0.0))


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
    return changed(x, cov=x.cov[np.ix_(twice, twice)])


def _closed(x: Signal, f: Signal) -> Signal:
    second = x.second + f.second + 2.0 * x.mean * f.mean
    spread = x.spread + f.spread
    own = np.array([f.second / second, 0.0])
    own[1] = np.mean(f.spread) / np.mean(spread) if spread.any() else own[0]
    rest = 1.0 - own
    step = np.eye(len(f.cov))[4:]
    step[:4, :4], step[:4, 4:8] = np.diag([*own, *own]), np.diag([*rest, *rest])
    cov = step @ f.cov @ step.T
    y = changed(
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
        y = changed(
            y,
            chance=y.chance + (part.chance - 2.0) * share**2,
            pair_chance=y.pair_chance + (part.pair_chance - 2.0 * part.alike) * share**2,
        )
    shift = np.tile(own, 2) * f.shift + np.tile(rest, 2) * x.shift
    return _with_units(y, shift, cov)


def _moved(x: Signal, y: Signal, law: Array, units: Array, kept: tuple[float, float]) -> Signal:
    """`y` with its chance: law ← law·(law of x) + units·(units of x), and its own units'.

    Args:
        x: the signal before.
        y: the signal after, its chance not yet told.
        law, units: (2, 2), how the new law follows the old law, and the old units.
        kept: how far the new units' chance is that of the old: 0 is none.
    """
    step = np.zeros((4, 4))
    step[:2, :2], step[:2, 2:] = law, units
    step[2, 2], step[3, 3] = kept
    shift, cov = step @ x.shift, x.cov.copy()
    cov[:4] = step @ cov[:4]
    cov[:, :4] = cov[:, :4] @ step.T
    return _with_units(y, shift, cov)


def _with_units(y: Signal, shift: Array, cov: Array) -> Signal:
    """`y` with the law in shift and cov, which are written to, and its own units' chance."""
    active = y.active if y.fixed == 0.0 else 1.0
    shift[2], cov[2, 2] = chance_of(y.width, 1.0 / (y.batch or 1), y.chance, y.pair_chance, active)
    shift[3], cov[3, 3] = chance_of(y.width, 1.0, y.spread_chance, 0.0, active)
    most = math.sqrt(float(cov[2, 2] * cov[3, 3]))  # each of the three is an estimate by itself
    cov[2, 3] = cov[3, 2] = min(max(y.both_chance / y.width, -most), most)
    return changed(y, shift=shift, cov=cov)


__all__ = [
    "Response",
    "bent",
    "forward",
    "linear_law",
    "norm_law",
    "norm_of",
    "response_of",
]
