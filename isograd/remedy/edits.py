"""Edits of a spec: functions from one frozen tree to another."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from msgspec.structs import replace

from isograd.nn.places import elementwise
from isograd.nn.spec import Activation, Dense, Init, Layer, LayerNorm, Repeat, Residual, Spec
from isograd.nn.toml import dumps

Layers = tuple[Layer, ...]


def size(old: Spec, new: Spec) -> int:
    """How large an edit is: lines removed or added in the spec's TOML, whichever are more.

    Indentation does not count: a block put around lines leaves them as they are.
    """
    before, after = ([line.strip() for line in dumps(x).splitlines()] for x in (old, new))
    signs = [line[0] for line in difflib.ndiff(before, after)]
    return max(signs.count("-"), signs.count("+"))


def map_layers(layers: Layers, f: Callable[[Layer], Layer | Layers]) -> Layers:
    """Replace each layer that holds no others by what f gives; blocks keep their nesting."""
    out: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Repeat | Residual):
            out.append(replace(layer, layers=map_layers(layer.layers, f)))
        else:
            result = f(layer)
            out.extend(result if isinstance(result, tuple) else (result,))
    return tuple(out)


def with_layers(spec: Spec, layers: Layers) -> Spec:
    """The spec with other layers."""
    return replace(spec, network=replace(spec.network, layers=layers))


def _map_activations(spec: Spec, f: Callable[[Activation], Layer | Layers]) -> Spec:
    """Replace each elementwise activation but the identity by what f gives.

    What stands behind the last dense layer makes the output what the loss takes, and stays.
    """

    def change(layer: Layer) -> Layer | Layers:
        if not isinstance(layer, Activation) or layer.name == "identity" or not elementwise(layer):
            return layer
        return f(layer)

    layers = spec.network.layers
    above = next((i for i, x in enumerate(reversed(layers)) if _has_weights(x)), 0)
    cut = len(layers) - above
    return with_layers(spec, map_layers(layers[:cut], change) + layers[cut:])


def _has_weights(layer: Layer) -> bool:
    if isinstance(layer, Repeat | Residual):
        return any(map(_has_weights, layer.layers))
    return isinstance(layer, Dense)


def set_activation(spec: Spec, name: str) -> Spec:
    """Every hidden activation but the identity becomes `name`."""
    return _map_activations(spec, lambda layer: Activation(name))


def set_init(spec: Spec, init: Init) -> Spec:
    """Every dense layer takes this initialiser."""

    def change(layer: Layer) -> Layer:
        return replace(layer, init=None) if isinstance(layer, Dense) else layer

    layers = map_layers(spec.network.layers, change)
    return replace(spec, network=replace(spec.network, layers=layers, init=init))


def add_layer_norm(spec: Spec) -> Spec:
    """A layer normalisation before every hidden activation but the identity."""
    return _map_activations(spec, lambda layer: (LayerNorm(), layer))


def add_residuals(spec: Spec, n_in: int) -> Spec | None:
    """A skip connection around each repeated block that keeps its width; None if none does.

    A block whose first copy meets another width is split: that copy stays plain.
    """
    out: list[Layer] = []
    width, changed = n_in, False
    for layer in spec.network.layers:
        after = _width(layer, width)
        if isinstance(layer, Repeat) and not any(isinstance(x, Residual) for x in layer.layers):
            fits = width == after
            inside = layer.times if fits else layer.times - 1
            if inside:
                block = Residual(layer.layers)
                out.extend(() if fits else layer.layers)
                out.append(Repeat(inside, (block,)) if inside > 1 else block)
                changed = True
            else:
                out.append(layer)
        else:
            out.append(layer)
        width = after
    return with_layers(spec, tuple(out)) if changed else None


def _width(layer: Layer, before: int) -> int:
    if isinstance(layer, Dense):
        return layer.units
    if isinstance(layer, Repeat | Residual):
        for inner in layer.layers:
            before = _width(inner, before)
    return before
