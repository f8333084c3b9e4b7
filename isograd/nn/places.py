"""The layers of a network in order: placed, numbered, named and sized.

Layers are numbered by their weights: layer l is the l-th Dense, with what follows it up to the
next. Every place has a site of its own, by which telemetry, the gain budget and the parameters
speak of it ("z/3", "delta/3", "W/3").
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from isograd.errors import SpecError
from isograd.nn.activations import FORMULAS
from isograd.nn.spec import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Network,
    Residual,
    RMSNorm,
    Scale,
    flatten,
)

Shapes = dict[str, tuple[int, ...]]
"""Shapes of arrays, by name."""


class Part(enum.Enum):
    """What a place does."""

    WEIGHTS = "weights"
    ACTIVATION = "activation"
    NORMALISATION = "normalisation"
    DROPOUT = "dropout"
    SCALE = "scale"
    SKIP_OPENS = "residual"
    SKIP_CLOSES = "residual sum"


_SITES = {
    Part.WEIGHTS: ("z", "delta"),
    Part.ACTIVATION: ("a", "da"),
    Part.NORMALISATION: ("n", "dn"),
    Part.DROPOUT: ("m", "dm"),
    Part.SCALE: ("k", "dk"),
    Part.SKIP_OPENS: ("s", "ds"),
    Part.SKIP_CLOSES: ("r", "dr"),
}
"""Kinds of the sites of a place's output and of ∂L/∂output."""


@dataclass(frozen=True, slots=True)
class Place:
    """One step of the forward pass.

    Attributes:
        part: what it does.
        number: its position in the forward pass, from 0.
        layer: the number of the weight layer it belongs to; 0 before the first.
        site: the probe on its output, and `cotangent` the one on ∂L/∂output.
        own: what stands behind the slash in the names of its parameters.
        n_in, n_out: features before and after.
        spec: the layer of the spec (None where a skip connection closes).
        path: its place in the spec.
        phi: for weights, the activation at hand (see `initialisers`); the identity stands for one
            that is not elementwise.
    """

    part: Part
    number: int
    layer: int
    site: str
    cotangent: str
    own: str
    n_in: int
    n_out: int
    spec: Layer | None
    path: str
    phi: Activation | None = None

    @property
    def shapes(self) -> Shapes:
        """Of its learned parameters."""
        shapes = _learned(self.spec, self.n_in, self.n_out)
        return {f"{letter}/{self.own}": shape for letter, shape in shapes.items()}

    @property
    def statistics(self) -> Shapes:
        """Of what it gathers in training but does not learn: running moments."""
        if not isinstance(self.spec, BatchNorm):
            return {}
        return {f"{name}/{self.own}": (self.n_out,) for name in ("mean", "var")}

    @property
    def where(self) -> str:
        """For errors: its place in the spec, and the layer."""
        return f"{self.path} (layer {self.layer})"


_PARTS: dict[type[Layer] | type[None], Part] = {
    Dense: Part.WEIGHTS,
    Activation: Part.ACTIVATION,
    LayerNorm: Part.NORMALISATION,
    RMSNorm: Part.NORMALISATION,
    BatchNorm: Part.NORMALISATION,
    Dropout: Part.DROPOUT,
    Scale: Part.SCALE,
    Residual: Part.SKIP_OPENS,
    type(None): Part.SKIP_CLOSES,
}

_IDENTITY = Activation("identity")


def _learned(layer: Layer | None, n_in: int, n_out: int) -> Shapes:
    """Shapes of what a layer learns, by letter."""
    match layer:
        case Dense(bias=bias):
            return {"W": (n_out, n_in)} | ({"b": (n_out,)} if bias else {})
        case LayerNorm() | BatchNorm():
            return {"g": (n_out,), "h": (n_out,)}
        case RMSNorm():
            return {"g": (n_out,)}
        case Scale(learned=True):
            return {"c": ()}
        case Activation(is_learned=True):
            return {"c": (n_out,)}
    return {}


def elementwise(layer: Layer | None) -> bool:
    """Whether a layer is an activation of each element by itself."""
    return isinstance(layer, Activation) and FORMULAS[layer.name].elementwise


def places(network: Network, n_in: int) -> Iterator[Place]:
    """The forward pass, in order.

    Args:
        network: from a spec.
        n_in: features of the data.

    Raises:
        SpecError: if a residual block changes the number of features.
    """
    used: dict[str, count[int]] = {}

    def suffix(kind: str, layer: int) -> str:
        """The layer, and which of several of the kind within it."""
        again = next(used.setdefault(f"{kind}/{layer}", count()))
        return f"{layer}.{again}" if again else f"{layer}"

    first = next((x for _, x in _walk(network.layers) if isinstance(x, Activation)), _IDENTITY)
    nominal = first if elementwise(first) else _IDENTITY
    width, layer = n_in, 0
    made_by: Activation | None = None  # the activation behind the running value
    blocks: list[tuple[str, int]] = []
    for number, (path, node) in enumerate(_walk(network.layers)):
        entered, part = width, _PARTS[type(node)]
        if isinstance(node, Dense):
            layer, width = layer + 1, node.units
        elif isinstance(node, Residual):
            blocks.append((path, width))
        elif node is None:
            path, outside = blocks.pop()
            if outside != width:
                raise SpecError(
                    "a residual block must keep the number of features",
                    came=f"{outside} in, {width} out",
                    where=f"{path} (after layer {layer})",
                    fix=f"set the units of its last dense layer to {outside}",
                )
        kind, cotangent = _SITES[part]
        at = suffix(kind, layer)
        letter = next(iter(_learned(node, entered, width)), None)
        yield Place(
            part,
            number,
            layer,
            site=f"{kind}/{at}",
            cotangent=f"{cotangent}/{at}",
            own=suffix(letter, layer) if letter else "",
            n_in=entered,
            n_out=width,
            spec=node,
            path=path,
            phi=(made_by or nominal) if part is Part.WEIGHTS else None,
        )
        if isinstance(node, Activation):
            made_by = node if elementwise(node) else _IDENTITY
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


__all__ = ["Part", "Place", "Shapes", "elementwise", "places"]
