"""The layers of a network in order: placed, numbered, named and sized.

Layers are numbered by their weights: layer l is the l-th Dense, with what follows it up to the
next. Every place has a site of its own, by which telemetry, the gain budget and the parameters
speak of it ("z/3", "delta/3", "W/3").
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

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
    Repeat,
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


class Extent(NamedTuple):
    """How large layers are, as functions of the width w of what enters them.

    Args:
        per_unit: learned numbers per unit of w, and `parameters` those beside: per_unit · w + them.
        passed: values per row that a backward pass reads, per unit of w, and `values` those beside:
            what enters weights, and what a normalisation makes before its scale.
        n_out: the width of what leaves; None where it is w.
    """

    per_unit: int = 0
    parameters: int = 0
    passed: int = 0
    values: int = 0
    n_out: int | None = None

    def at(self, n_in: int) -> tuple[int, int]:
        """Learned numbers, and values per row, where n_in features enter."""
        return self.per_unit * n_in + self.parameters, self.passed * n_in + self.values

    def then(self, other: Extent, times: int = 1) -> Extent:
        """These layers, and so many copies of others behind them."""
        if not times:
            return self
        more, n_out = other, other.n_out
        if self.n_out is not None:
            parameters, values = other.at(self.n_out)
            more, n_out = Extent(0, parameters, 0, values), n_out or self.n_out
        joined = Extent(
            self.per_unit + more.per_unit,
            self.parameters + more.parameters,
            self.passed + more.passed,
            self.values + more.values,
            n_out,
        )
        if times == 1:
            return joined
        # Before every copy but the first the width is the same: that behind the first.
        return joined.then(other.alike(times - 1, joined.n_out))

    def alike(self, times: int, n_in: int | None) -> Extent:
        """Copies one behind the other, before each of which the width is n_in; None is w."""
        per_unit, passed, (parameters, values) = self.per_unit, self.passed, self.at(0)
        if n_in is not None:
            per_unit, passed, (parameters, values) = 0, 0, self.at(n_in)
        return Extent(
            times * per_unit, times * parameters, times * passed, times * values, self.n_out
        )


def extent(layers: tuple[Layer, ...]) -> Extent:
    """How large layers are, repeats counted but not written out: a million take no time."""
    total = Extent()
    for layer in layers:
        if isinstance(layer, Repeat):
            total = total.then(extent(layer.layers), layer.times)
        elif isinstance(layer, Residual):
            total = total.then(extent(layer.layers))
        else:
            total = total.then(_extent(layer))
    return total


def _extent(layer: Layer) -> Extent:
    n_out = layer.units if isinstance(layer, Dense) else None
    none, one = (
        sum(math.prod(shape) for shape in _learned(layer, w, n_out or w).values()) for w in (0, 1)
    )
    read = isinstance(layer, Dense | LayerNorm | RMSNorm | BatchNorm)
    return Extent(one - none, none, passed=int(read), n_out=n_out)


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


__all__ = ["Extent", "Part", "Place", "Shapes", "elementwise", "extent", "places"]
