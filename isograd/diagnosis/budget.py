"""The gain budget: what each part of each layer does to the size of the error signal.

Going backwards, ‖∂L/∂x‖ changes at every place of the network by a factor that is measured on both
of its sides. The logarithms of the factors between δ^{l+1} and δ^l sum to log‖δ^l‖ − log‖δ^{l+1}‖:
the budget is an identity, not a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from isograd.nn.model import Model, Part
from isograd.telemetry.records import Site
from isograd.telemetry.summary import EMPTY, Summary


@dataclass(frozen=True, slots=True)
class LayerGain:
    """log₁₀‖δ^l‖ − log₁₀‖δ^{l+1}‖ of layer l, and the parts it is the sum of, in decades.

    Attributes:
        layer: l, from 1 to L − 1.
        weights: of δ^{l+1} ↦ Wᵀδ^{l+1}.
        activation: of the product with φ′(z).
        normalisation: of the Jacobians of normalisations.
        residual: of the skip connections, which add their cotangent.
        factors: of dropout and scale layers, which multiply.
    """

    layer: int
    weights: float
    activation: float
    normalisation: float
    residual: float
    factors: float

    @property
    def total(self) -> float:
        """The gain of the layer, in decades."""
        total: float = sum(getattr(self, field) for field in FIELDS)
        return total


FIELDS = tuple(field.name for field in fields(LayerGain))[1:]
"""The parts of a gain, in their order."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The gains of all layers at one step, from layer L − 1 down to 1.

    Attributes:
        step: when it was measured.
        layers: those at all of whose places the cotangent is finite and not zero.
    """

    step: int
    layers: tuple[LayerGain, ...]

    def mean(self) -> LayerGain | None:
        """The average layer (numbered 0); None if there is none."""
        n = len(self.layers)
        if not n:
            return None
        return LayerGain(0, *(sum(getattr(g, field) for g in self.layers) / n for field in FIELDS))


FIELD_OF = {
    Part.WEIGHTS: "weights",
    Part.ACTIVATION: "activation",
    Part.NORMALISATION: "normalisation",
    Part.SKIP_OPENS: "residual",
    Part.SKIP_CLOSES: "residual",
    Part.DROPOUT: "factors",
    Part.SCALE: "factors",
}
"""Which part of a gain a place belongs to."""


def gain_budget(model: Model, summaries: Mapping[Site, Summary], step: int) -> Budget:
    """Take the budget of one measured step.

    Args:
        model: the network.
        summaries: of all its sites.
        step: the step's number.
    """
    # A skip connection from the input itself has no cotangent: nothing is learned below it.
    seen = (summaries.get(Site.parse(p.cotangent), EMPTY) for p in model.places)
    norms = [_log10_norm(summary) for summary in seen]
    parts: dict[int, dict[str, float]] = {}
    layer = model.depth
    for k in range(len(model.places) - 1, 0, -1):
        place = model.places[k]
        if place.part is Part.WEIGHTS:
            layer = place.layer - 1  # what it does to δ^{l+1} is the first part of layer l
        if layer == model.depth or layer == 0:
            continue  # beside the way from δ^L to δ^1
        field = FIELD_OF[place.part]
        shares = parts.setdefault(layer, dict.fromkeys(FIELDS, 0.0))
        shares[field] += norms[k - 1] - norms[k]
    gains = (LayerGain(layer, **shares) for layer, shares in parts.items())
    return Budget(step, tuple(g for g in gains if math.isfinite(g.total)))


def _log10_norm(summary: Summary) -> float:
    """NaN for zero, and where a value is not finite: a norm leaves those out."""
    norm = 0.0 if summary.nonfinite else summary.norm
    return math.log10(norm) if 0.0 < norm < math.inf else math.nan
