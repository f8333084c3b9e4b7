"""Training in narrow formats, as a spec asks for it."""

from __future__ import annotations

import math
from typing import Literal

from isograd.engine.number_formats import FORMATS
from isograd.errors import SpecError, nearest
from isograd.nn.checks import flag, one_of, place, real, whole, wrong
from isograd.nn.structs import Table

DYNAMIC = "dynamic"
"""The loss scale that follows from the steps that were finite."""
SCALE_EXPONENT = 126
"""Of the largest loss scale; the inverse is then still a normal number of float32."""

_SYNONYMS = {
    **{"half": "fp16", "float16": "fp16", "binary16": "fp16", "f16": "fp16"},
    **{"bfloat16": "bf16", "brain": "bf16", "single": "fp32", "float32": "fp32", "f32": "fp32"},
    **{"double": "fp64", "float64": "fp64", "f64": "fp64"},
    **{"fp8": "fp8_e4m3", "e4m3": "fp8_e4m3", "float8_e4m3fn": "fp8_e4m3"},
    **{"e5m2": "fp8_e5m2", "float8_e5m2": "fp8_e5m2"},
}


class Precision(Table, frozen=True):
    """Which numbers of a training step are rounded to which format, and how.

    Args:
        weights: format of the parameters in the forward and the backward pass; None: not rounded.
        activations: of the input and of what every layer gives.
        gradients: of the cotangents of these, and of the parameters' gradients.
        rounding: to nearest even, or up with the probability of the fraction of the way.
        master: whether the parameters themselves keep the digits of the dtype; without, they are
            rounded after every update, and updates of less than half a unit are lost.
        loss_scale: what the loss is multiplied with before gradients are rounded, a power of two;
            or "dynamic".
        interval: steps without a failure after which the dynamic scale doubles.

    References:
        Micikevicius et al. 2018, Mixed precision training, sec. 3.
    """

    weights: str | None = None
    activations: str | None = None
    gradients: str | None = None
    rounding: Literal["nearest", "stochastic"] = "nearest"
    master: bool = True
    loss_scale: float | Literal["dynamic"] = 1.0
    interval: int = 2000

    def __post_init__(self) -> None:
        for key in ("weights", "activations", "gradients"):
            if getattr(self, key) is not None:
                one_of(self, key, tuple(FORMATS), _SYNONYMS)
        one_of(self, "rounding", ("nearest", "stochastic"))
        flag(self, "master")
        whole(self, "interval", low=1)
        self._check_scale()
        if self.weights is self.activations is self.gradients is None:
            raise SpecError(
                "precision must name the format of weights, activations or gradients",
                came="none of them",
                where=place(self, "weights"),
                fix='give one, such as gradients = "fp16", or remove the table',
            )
        if not self.master and self.weights is None:
            raise SpecError(
                "parameters without a master copy must have a format",
                came="master = false without weights",
                where=place(self, "master"),
                fix='add weights = "bf16", or remove master',
            )
        if self.loss_scale != 1.0 and self.gradients is None:
            raise SpecError(
                "a loss scale must have gradients to act on that are rounded",
                came=f"loss_scale = {self.loss_scale!r} without gradients",
                where=place(self, "loss_scale"),
                fix='add gradients = "fp16", or remove loss_scale',
            )

    def _check_scale(self) -> None:
        value = self.loss_scale
        if value == DYNAMIC:
            return
        must = f'a power of two from 2^-{SCALE_EXPONENT} to 2^{SCALE_EXPONENT}, or "{DYNAMIC}"'
        if isinstance(value, str):
            raise wrong(self, "loss_scale", must, nearest(value, [DYNAMIC]))
        real(self, "loss_scale", above=0)
        fraction, exponent = math.frexp(value)
        if fraction != 0.5 or abs(exponent - 1) > SCALE_EXPONENT:
            near = min(max(round(math.log2(value)), -SCALE_EXPONENT), SCALE_EXPONENT)
            raise wrong(self, "loss_scale", must, f"give {2.0**near!r}")

    @property
    def dynamic(self) -> bool:
        """Whether the loss scale follows from the steps."""
        return self.loss_scale == DYNAMIC

    @property
    def formats(self) -> dict[str, str]:
        """What is rounded to which format."""
        named = {key: getattr(self, key) for key in ("weights", "activations", "gradients")}
        return {key: name for key, name in named.items() if name is not None}


__all__ = ["DYNAMIC", "SCALE_EXPONENT", "Precision"]
