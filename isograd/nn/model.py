"""A network as a function of its parameters: the spec's layers, placed, numbered and sized.

Layers are numbered by their weights: layer l is the l-th Dense, with what follows it up to the
next. Every value that a layer makes passes a probe, so telemetry, the gain budget and the
parameters all speak of the same sites ("z/3", "delta/3", "W/3").
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from isograd.engine import functions as F
from isograd.engine.dispatch import spec_of
from isograd.engine.ops import Value
from isograd.errors import ShapeError, SpecError
from isograd.nn.activations import activation, active_interval, phi
from isograd.nn.initialisers import Scale, draw, scale
from isograd.nn.losses import loss
from isograd.nn.spec import (
    Activation,
    Dense,
    Init,
    Layer,
    LayerNorm,
    Network,
    Residual,
    SoftmaxCrossEntropy,
    flatten,
)
from isograd.theory import Phi

Params = Mapping[str, Value]
"""Arrays by site: weights "W/l" (M_l, M_{l−1}), biases "b/l" (M_l,), norm scale "g/l" and shift
"h/l" (M_l,)."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Counter-based randomness: what is drawn is a function of these and of the place alone.

    Attributes:
        key: (2,) uint32, of the run.
        step: () uint32, of the step.
    """

    key: Value
    step: Value


class Part(enum.Enum):
    """What a place does. Its value names its share in the gain budget."""

    WEIGHTS = "weights"
    ACTIVATION = "activation"
    NORMALISATION = "normalisation"
    SKIP_OPENS = "residual"
    SKIP_CLOSES = "residual sum"


@dataclass(frozen=True, slots=True)
class Place:
    """One step of the forward pass.

    Attributes:
        part: what it does.
        layer: the number of the weight layer it belongs to; 0 before the first.
        site: the probe on its output, and `cotangent` the one on ∂L/∂output.
        n_in, n_out: features before and after.
        spec: the layer of the spec (None for the two ends of a skip connection).
        path: its place in the spec.
        phi: for weights, the activation at hand (see `initialisers`).
    """

    part: Part
    layer: int
    site: str
    cotangent: str
    n_in: int
    n_out: int
    spec: Layer | None
    path: str
    phi: Layer | None = None


_SITES = {
    Part.WEIGHTS: ("z", "delta"),
    Part.ACTIVATION: ("a", "da"),
    Part.NORMALISATION: ("n", "dn"),
    Part.SKIP_OPENS: ("s", "ds"),
    Part.SKIP_CLOSES: ("r", "dr"),
}

_IDENTITY = Activation("identity")


@dataclass(frozen=True)
class Model:
    """A network of known sizes.

    Attributes:
        network: what it was built from.
        n_in, n_out: features in and out.
        places: the forward pass, in order.
    """

    network: Network
    n_in: int
    n_out: int
    places: tuple[Place, ...]

    @property
    def depth(self) -> int:
        """Number of weight layers L."""
        return self.places[-1].layer

    @property
    def weights(self) -> tuple[Place, ...]:
        """The places with weights, from layer 1 to L."""
        return tuple(p for p in self.places if p.part is Part.WEIGHTS)

    @property
    def parameter_count(self) -> int:
        """Number of learned parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, by site."""
        out: dict[str, tuple[int, ...]] = {}
        for p in self.places:
            suffix = p.site.partition("/")[2]
            if isinstance(p.spec, Dense):
                out[f"W/{suffix}"] = (p.n_out, p.n_in)
                if p.spec.bias:
                    out[f"b/{suffix}"] = (p.n_out,)
            elif isinstance(p.spec, LayerNorm):
                out[f"g/{suffix}"] = out[f"h/{suffix}"] = (p.n_out,)
        return out

    @property
    def active(self) -> dict[str, tuple[float, float]]:
        """Sites that an activation reads, and the interval in which it is not saturated."""
        out = {}
        for before, p in zip(self.places, self.places[1:], strict=False):
            if isinstance(p.spec, Activation) and p.spec.name != "identity":
                out[before.site] = active_interval(p.spec)
        return out

    def scale(self, place: Place) -> Scale | None:
        """σ_w² and σ_b² that the initialiser gives the weights at a place."""
        init, at_hand, bias = self._law(place)
        return scale(init, at_hand, place.n_in, place.n_out, bias=bias)

    def _law(self, place: Place) -> tuple[Init, Phi, bool]:
        dense, at_hand = place.spec, place.phi
        assert isinstance(dense, Dense)
        assert isinstance(at_hand, Activation)
        return dense.init or self.network.init, phi(at_hand), dense.bias

    def init(self, rng: np.random.Generator, dtype: DTypeLike) -> dict[str, NDArray[Any]]:
        """Draw parameters.

        Args:
            rng: the source of randomness.
            dtype: float32 or float64. Draws are made in float64, so both hold the same numbers.

        Raises:
            TheoryError: if the initialiser is critical and an activation has no critical point.
        """
        out: dict[str, NDArray[Any]] = {}
        for p in self.places:
            suffix = p.site.partition("/")[2]
            if isinstance(p.spec, Dense):
                init, at_hand, bias = self._law(p)
                weights, biases = draw(init, at_hand, p.n_in, p.n_out, rng, dtype, bias=bias)
                out[f"W/{suffix}"] = weights
                if p.spec.bias:
                    out[f"b/{suffix}"] = biases
            elif isinstance(p.spec, LayerNorm):
                out[f"g/{suffix}"] = np.ones(p.n_out, dtype)
                out[f"h/{suffix}"] = np.zeros(p.n_out, dtype)
        return out

    @np.errstate(all="ignore")  # infinities and NaN are results, on plain arrays too
    def __call__(self, params: Params, x: Value) -> Value:
        """The output for a batch.

        Args:
            params: from `init`, or trained.
            x: inputs (n, n_in).

        Returns:
            (n, n_out); for the cross-entropies these are logits.

        Raises:
            ShapeError: if x has another number of features.
        """
        shape = spec_of(x).shape
        if len(shape) != 2 or shape[1] != self.n_in:
            raise ShapeError(
                f"inputs of this network must be (n, {self.n_in})",
                came=str(spec_of(x)),
                where="layer 1",
            )
        x = F.probe(x, "input/0")
        skips: list[Value] = []
        for p in self.places:
            suffix = p.site.partition("/")[2]
            match p.part:
                case Part.WEIGHTS:
                    x = F.matmul(x, F.transpose(params[f"W/{suffix}"]))
                    if f"b/{suffix}" in params:
                        x = x + params[f"b/{suffix}"]
                    # What of z depends on the input: the rest is the same for every row.
                    F.probe(x - F.mean(x, axis=0, keepdims=True), f"v/{suffix}")
                case Part.ACTIVATION:
                    assert isinstance(p.spec, Activation)
                    x = activation(p.spec)(x)
                case Part.NORMALISATION:
                    assert isinstance(p.spec, LayerNorm)
                    x = layer_norm(x, params[f"g/{suffix}"], params[f"h/{suffix}"], p.spec.eps)
                case Part.SKIP_OPENS:
                    skips.append(x)
                case Part.SKIP_CLOSES:
                    x = x + skips.pop()
            x = F.probe(x, p.site, p.cotangent)
        return x

    @property
    def statistics(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what training gathers but does not learn (running moments), by name."""
        return {}

    def train_loss(
        self, params: Params, x: Value, target: Value, noise: Noise
    ) -> tuple[Value, dict[str, Value]]:
        """The structured risk of a batch as training sees it, and the statistics after it.

        Args:
            params: learned parameters and statistics.
            x: inputs (n, n_in).
            target: as `isograd.nn.losses.loss` takes it.
            noise: from which random layers draw.
        """
        return self.loss(params, x, target), {name: params[name] for name in self.statistics}

    @np.errstate(all="ignore")
    def loss(self, params: Params, x: Value, target: Value) -> Value:
        """The structured risk of a batch: loss plus ½λ‖W‖_F² over all weight matrices."""
        kind = self.network.loss
        value = loss(kind, self(params, x), target)
        if kind.l2:
            for name, array in params.items():
                if name.startswith("W/"):
                    value = value + 0.5 * kind.l2 * F.sum(F.square(array))
        return value


def layer_norm(x: Value, gain: Value, shift: Value, eps: float) -> Value:
    """Mean 0 and variance 1 over the features of each row, then a learned scale and shift.

    References:
        Ba, Kiros & Hinton 2016, Layer Normalization, eqs. 3–4.
    """
    centred = x - F.mean(x, axis=1, keepdims=True)
    variance = F.mean(F.square(centred), axis=1, keepdims=True)
    return centred / F.sqrt(variance + eps) * gain + shift


def build(network: Network, n_in: int, n_out: int | None = None) -> Model:
    """Place a network's layers on data of known sizes.

    Args:
        network: from a spec.
        n_in: features of the data.
        n_out: outputs that the loss needs (classes, or targets); None takes what comes.

    Raises:
        SpecError: if shapes do not meet; it names the layer and both sizes.
    """
    places = tuple(_place(network, n_in))
    width = places[-1].n_out
    last = next((p for p in reversed(places) if p.part is Part.WEIGHTS), None)
    if last is None:
        raise SpecError(
            "a network must have at least one dense layer",
            came=f"{len(places)} layers without weights",
            where="network.layers",
            fix='add { kind = "dense", units = … }',
        )
    if n_out is not None and width != n_out:
        softmax = isinstance(network.loss, SoftmaxCrossEntropy)
        raise SpecError(
            f"the last layer must have {n_out} units, one per {'class' if softmax else 'target'}",
            came=f"{width} units",
            where=f"{last.path} (layer {last.layer})",
            fix=f"set units = {n_out} there",
        )
    return Model(network, n_in, width, places)


def _place(network: Network, n_in: int) -> Iterator[Place]:
    """Walk the layers with a stack of open residual blocks, keeping count of sizes and sites."""
    used: dict[str, count[int]] = {}

    def site_names(part: Part, layer: int) -> tuple[str, str]:
        names = _SITES[part]
        again = next(used.setdefault(f"{names[0]}/{layer}", count()))
        suffix = f"/{layer}.{again}" if again else f"/{layer}"
        return names[0] + suffix, names[1] + suffix

    nominal = next((x for _, x in _walk(network.layers) if isinstance(x, Activation)), _IDENTITY)
    width, layer = n_in, 0
    made_by: Layer | None = None  # the activation behind the running value
    blocks: list[tuple[str, int]] = []
    for path, node in _walk(network.layers):
        entered = width
        match node:
            case Dense():
                part, layer, width = Part.WEIGHTS, layer + 1, node.units
            case Activation():
                part = Part.ACTIVATION
            case LayerNorm():
                part = Part.NORMALISATION
            case Residual():
                part = Part.SKIP_OPENS
                blocks.append((path, width))
            case _:  # the end of a block
                part = Part.SKIP_CLOSES
                path, outside = blocks.pop()
                if outside != width:
                    raise SpecError(
                        "a residual block must keep the number of features",
                        came=f"{outside} in, {width} out",
                        where=f"{path} (after layer {layer})",
                        fix=f"set the units of its last dense layer to {outside}",
                    )
        site, cotangent = site_names(part, layer)
        at_hand = (made_by or nominal) if part is Part.WEIGHTS else None
        yield Place(part, layer, site, cotangent, entered, width, node, path, at_hand)
        if part is Part.ACTIVATION:
            made_by = node
        elif part in (Part.WEIGHTS, Part.NORMALISATION):
            made_by = _IDENTITY


def _walk(layers: tuple[Layer, ...]) -> Iterator[tuple[str, Layer | None]]:
    """The layers in order, repeats written out; None where a residual block ends."""
    stack: list[Iterator[tuple[str, Layer]]] = [flatten(layers)]
    while stack:
        for path, layer in stack[-1]:
            yield path, layer
            if isinstance(layer, Residual):
                stack.append(flatten(layer.layers, path + ".layers"))
                break
        else:
            stack.pop()
            if stack:
                yield "", None
