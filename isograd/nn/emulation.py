"""A training step in narrow formats, emulated: what is rounded, and where.

Every value is rounded once, where it is complete: products and sums are computed in the dtype, as
tensor cores do it in float32 (Micikevicius et al. 2018, sec. 3.3), and their result is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from isograd.engine import functions as F
from isograd.engine.dispatch import spec_of
from isograd.engine.ops import Value
from isograd.nn.forward import Noise, Params
from isograd.nn.precision import Precision

# Numbers of the draws: above those of the places that dropout draws for.
_STREAMS = {"weights": 0, "d weights": 1, "activations": 2, "d activations": 3, "parameters": 4}
_FIRST, _EACH = 2**31, 2**24


@dataclass(frozen=True, slots=True)
class Emulation:
    """The roundings of a training step.

    Attributes:
        precision: which formats.
        noise: from which stochastic rounding draws.
        scale: of the loss, a power of two.
    """

    precision: Precision
    noise: Noise
    scale: Value = 1.0

    def parameters(self, params: Params, names: Iterable[str]) -> Mapping[str, Value]:
        """The parameters of these names as they enter the forward pass; the others as they are."""
        out = dict(params)
        form = self.precision.weights if self.precision.master else None  # else they are rounded
        for number, name in enumerate(names):
            value = self._rounded(out[name], form, "weights", number)
            out[name] = self._back(value, "d weights", number)
        return out

    def activation(self, value: Value, number: int) -> Value:
        """The input (number 0) or what a place gives."""
        return self._rounded(value, self.precision.activations, "activations", number)

    def gradient(self, value: Value, number: int) -> Value:
        """The same, so that its cotangent is rounded."""
        return self._back(value, "d activations", number)

    def updated(self, theta: Value) -> Value:
        """All parameters after an update, as they are kept without a master copy."""
        return self._rounded(theta, self.precision.weights, "parameters", 0)

    def _rounded(self, x: Value, form: str | None, stream: str, number: int) -> Value:
        return x if form is None else F.round_to(x, form, self._bits(x, stream, number))

    def _back(self, x: Value, stream: str, number: int) -> Value:
        form = self.precision.gradients
        if form is None:
            return x
        return F.round_cotangent(x, form, self.scale, self._bits(x, stream, number))

    def _bits(self, x: Value, stream: str, number: int) -> Value | None:
        """Words of this step, stream and number."""
        if self.precision.rounding == "nearest":
            return None
        key = F.random_bits(self.noise.key, _FIRST + _STREAMS[stream] * _EACH + number, (2,))
        return F.random_bits(key, self.noise.step, spec_of(x).shape)


__all__ = ["Emulation"]
