"""What the layers of a network do to a batch, one place after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isograd.engine import functions as F
from isograd.engine.dispatch import spec_of
from isograd.engine.ops import Value
from isograd.errors import SpecError
from isograd.nn.activations import activation
from isograd.nn.places import Place
from isograd.nn.spec import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Residual,
    RMSNorm,
    Scale,
)

if TYPE_CHECKING:
    from isograd.nn.emulation import Emulation

Params = Mapping[str, Value]
"""Arrays by name: weights "W/l" (M_l, M_{l−1}), biases "b/l" (M_l,); scale "g/l" and shift "h/l"
(M_l,) of a normalisation; the learned number "c/l" of a scale layer () or, per unit, of an
activation (M_l,); running moments "mean/l" and "var/l" (M_l,) of a batch normalisation."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Counter-based randomness: what is drawn is a function of these and of the place alone.

    Attributes:
        key: (2,) uint32, of the run.
        step: () uint32, of the step.
    """

    key: Value
    step: Value


class Pass:
    """A forward pass in progress.

    Args:
        params: arrays by name.
        training: whether a batch normalisation takes the moments of the batch, not running ones.
        noise: from which dropout draws; without, it is the identity.
        emulation: of narrow formats; None rounds nothing.

    Attributes:
        statistics: the running moments after this batch, by name; filled in training.
    """

    def __init__(
        self,
        params: Params,
        *,
        training: bool = False,
        noise: Noise | None = None,
        emulation: Emulation | None = None,
    ) -> None:
        self.params, self.training, self.noise = params, training, noise
        self.emulation = emulation
        self.statistics: dict[str, Value] = {}
        self._skips: list[Value] = []

    def step(self, place: Place, x: Value) -> Value:
        """The output of a place for its input, seen by a probe."""
        y = self._value(place, x)
        return self.seen(y, place.site, place.cotangent, place.number + 1)

    def seen(self, x: Value, site: str, cotangent: str | None, number: int) -> Value:
        """The input (number 0) or an output, rounded if so asked for, and seen as it then is."""
        if self.emulation is None:
            return F.probe(x, site, cotangent)
        x = F.probe(self.emulation.activation(x, number), site, cotangent)
        return x if cotangent is None else self.emulation.gradient(x, number)

    def _value(self, p: Place, x: Value) -> Value:
        def own(letter: str) -> Value:
            return self.params[f"{letter}/{p.own}"]

        match p.spec:
            case Dense(bias=bias):
                z = dense(x, own("W"), own("b") if bias else None)
                # What of z depends on the input: the rest is the same for every row.
                F.probe(z - F.mean(z, axis=0, keepdims=True), f"v/{p.own}")
                return z
            case Activation(is_learned=learned):
                return activation(p.spec, own("c"))(x) if learned else activation(p.spec)(x)
            case Scale(learned=learned, value=value):
                return (own("c") if learned else value) * x
            case LayerNorm(eps=eps):
                return layer_norm(x, own("g"), own("h"), eps)
            case RMSNorm(eps=eps):
                return rms_norm(x, own("g"), eps)
            case BatchNorm():
                return self._batch_norm(p, p.spec, x)
            case Dropout(rate=rate):
                return x if self.noise is None else dropout(x, rate, self.noise, p.number)
            case Residual():
                self._skips.append(x)
                return x
        return x + self._skips.pop()

    def _batch_norm(self, p: Place, layer: BatchNorm, x: Value) -> Value:
        mean, variance = (F.stop_gradient(self.params[name]) for name in p.statistics)
        gain, shift = self.params[f"g/{p.own}"], self.params[f"h/{p.own}"]
        if not self.training:
            return (x - mean) / F.sqrt(variance + layer.eps) * gain + shift
        rows = spec_of(x).shape[0]
        if rows < 2:
            raise SpecError(
                "a batch must have at least 2 rows to be normalised over",
                came=f"{rows}",
                where=p.where,
                fix="set training.batch_size to 2 or more, or take layer_norm",
            )
        unit, *moments = _standardised(x, 0, layer.eps)
        moments[1] = moments[1] * (rows / (rows - 1))
        for name, old, new in zip(p.statistics, (mean, variance), moments, strict=True):
            new = F.stop_gradient(F.reshape(new, (-1,)))
            self.statistics[name] = (1.0 - layer.momentum) * old + layer.momentum * new
        return unit * gain + shift


def dense(x: Value, weights: Value, bias: Value | None) -> Value:
    """x Wᵀ + b."""
    z = F.matmul(x, F.transpose(weights))
    return z if bias is None else z + bias


def dropout(x: Value, rate: float, noise: Noise, number: int) -> Value:
    """Each value is 0 with probability `rate`, else divided by the probability of being kept.

    A value is kept where its 32 random bits, as an integer, are at least t = ⌈rate · 2³²⌉. The
    probability of that is 1 − t/2³² exactly, and by this the values kept are divided: so the mean
    over masks is x. (At a rate within 2⁻³² of 1 one value in 2³² is kept.)

    Args:
        x: any shape.
        rate: in [0, 1).
        noise: key and step; the mask is a function of these, `number` and the shape.
        number: tells this dropout from the others of a network.

    References:
        Srivastava et al. 2014, Dropout, sec. 10 (the masks scaled in training, not the weights
        after it).
    """
    threshold = min(math.ceil(rate * 2.0**32), 2**32 - 1)
    bits = F.random_bits(F.random_bits(noise.key, number, (2,)), noise.step, spec_of(x).shape)
    kept = 1.0 - threshold / 2.0**32
    return F.where(F.greater_equal(bits, np.uint32(threshold)), x / kept, 0.0)


def layer_norm(x: Value, gain: Value, shift: Value, eps: float) -> Value:
    """Mean 0 and variance 1 over the features of each row, then a learned scale and shift.

    References:
        Ba, Kiros & Hinton 2016, Layer Normalization, eqs. 3–4.
    """
    return _standardised(x, 1, eps)[0] * gain + shift


def rms_norm(x: Value, gain: Value, eps: float) -> Value:
    """Mean square 1 over the features of each row, then a learned scale.

    References:
        Zhang & Sennrich 2019, Root Mean Square Layer Normalization, eq. 4.
    """
    return _to_mean_square_one(x, 1, eps)[0] * gain


def _standardised(x: Value, axis: int, eps: float) -> tuple[Value, Value, Value]:
    """(x − mean)/√(variance + eps) along an axis, the mean and the biased variance."""
    mean = F.mean(x, axis=axis, keepdims=True)
    unit, variance = _to_mean_square_one(x - mean, axis, eps)
    return unit, mean, variance


def _to_mean_square_one(x: Value, axis: int, eps: float) -> tuple[Value, Value]:
    """x/√(mean of x² + eps) along an axis, and the mean of x².

    Where a square would overflow, x is first divided by the largest |x|, which changes nothing but
    the range: the derivative is exact with that divisor held.
    """
    largest = F.stop_gradient(F.max(F.absolute(x), axis=axis, keepdims=True))
    divisor = F.where(largest > _square_limit(spec_of(x).dtype), largest, 1.0)
    x = x / divisor
    square = F.mean(F.square(x), axis=axis, keepdims=True)
    return x / F.sqrt(square + eps / divisor / divisor), square * divisor * divisor


def _square_limit(dtype: np.dtype[np.floating]) -> float:
    """Squares up to this one's can be summed 2³² times."""
    return math.sqrt(float(np.finfo(dtype).max)) * 2.0**-16


__all__ = [
    "Noise",
    "Params",
    "Pass",
    "dense",
    "dropout",
    "layer_norm",
    "rms_norm",
]
