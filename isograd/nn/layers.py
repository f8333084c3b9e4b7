"""The layers that a spec can name, and the walk over them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any, TypeAlias

from msgspec.structs import force_setattr

from isograd.errors import SpecError
from isograd.nn.checks import flag, is_a, one_of, place, real, shown, whole, wrong
from isograd.nn.kinds import Init
from isograd.nn.structs import Kind, kinds

ACTIVATION_NAMES = (
    "identity",
    "logistic",
    "tanh",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "softplus",
    "silu",
    "gelu",
    "scaled_sigmoid",
    "prelu",
    "swish",
    "gelu_tanh",
    "gelu_logistic",
    "hard_tanh",
    "lecun_tanh",
    "erf",
    "sine",
    "softmax",
)
_SYNONYMS = {"sigmoid": "logistic", "linear": "identity", "sin": "sine", "hardtanh": "hard_tanh"}
DEFAULT_PARAMETER = {
    "leaky_relu": ("alpha", 0.01),
    "elu": ("alpha", 1.0),
    "prelu": ("alpha", 0.25),
    "swish": ("beta", 1.0),
}
"""The key of an activation's parameter, and what None means."""
LEARNED = {"prelu": True, "swish": False}
"""The activations whose parameter can be learned, one number per unit, and what None means."""

MAX_NESTING = 32
"""How deep residual and repeat blocks may nest; `repeat` gives depth, nesting does not."""
MAX_UNITS = 1_000_000
MAX_LAYERS = 1_000_000
"""How many layers a network may have once its repeats are written out."""


class Dense(Kind, frozen=True, tag="dense"):
    """z = a Wᵀ + b with `units` outputs; init None takes the network's."""

    units: int
    bias: bool = True
    init: Init | None = None

    def __post_init__(self) -> None:
        whole(self, "units", low=1, high=MAX_UNITS)
        flag(self, "bias")
        is_a(self, "init", Init, optional=True)


class Activation(Kind, frozen=True, tag="activation"):
    """a = φ(z), φ by name.

    alpha (leaky_relu, elu, prelu) or beta (swish) is its parameter; None takes that of
    DEFAULT_PARAMETER. Where it is learned, one number per unit, this is what it starts from.
    """

    name: str
    alpha: float | None = None
    beta: float | None = None
    learned: bool | None = None

    def __post_init__(self) -> None:
        one_of(self, "name", (*ACTIVATION_NAMES, *_DEFINED), _SYNONYMS)
        own = DEFAULT_PARAMETER.get(self.name, ("", 0.0))[0]
        for key in ("alpha", "beta"):
            if key != own and getattr(self, key) is not None:
                takes = [name for name, (k, _) in DEFAULT_PARAMETER.items() if k == key]
                raise SpecError(
                    f"only {' and '.join(takes)} take {'an' if key == 'alpha' else 'a'} {key}",
                    came=f"{key} = {shown(getattr(self, key))} with {self.name}",
                    where=place(self, key),
                    fix=f"remove {key}, or change the activation",
                )
        real(self, "alpha", low=0, optional=True)
        real(self, "beta", optional=True)
        if self.learned is not None:
            flag(self, "learned")
            if self.name not in LEARNED:
                raise SpecError(
                    f"only {' and '.join(LEARNED)} can be learned",
                    came=f"learned = {shown(self.learned)} with {self.name}",
                    where=place(self, "learned"),
                    fix="remove learned, or change the activation",
                )

    @property
    def parameter(self) -> float:
        """Its parameter, or the first value of a learned one; 0 for an activation without."""
        key, default = DEFAULT_PARAMETER.get(self.name, ("", 0.0))
        value = getattr(self, key) if key else None
        return default if value is None else float(value)

    @property
    def is_learned(self) -> bool:
        """Whether its parameter is learned."""
        return LEARNED.get(self.name, False) if self.learned is None else self.learned


_DEFINED: set[str] = set()


def define_activation_name(name: str) -> None:
    """Let specs name an activation that a program defines: see `isograd.nn.define_activation`."""
    _DEFINED.add(name)


class Dropout(Kind, frozen=True, tag="dropout"):
    """In training each value is 0 with probability `rate`, else divided by 1 − rate."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        real(self, "rate", low=0, below=1)


class LayerNorm(Kind, frozen=True, tag="layer_norm"):
    """(z − mean) / √(variance + eps) over the features, then a learned scale and shift."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        real(self, "eps", above=0)


class RMSNorm(Kind, frozen=True, tag="rms_norm"):
    """z / √(mean of z² over the features + eps), then a learned scale."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        real(self, "eps", above=0)


class BatchNorm(Kind, frozen=True, tag="batch_norm"):
    """(z − mean) / √(variance + eps) over the batch, then a learned scale and shift.

    Outside of training, running means of both are used: r ← (1 − momentum) r + momentum · batch.
    """

    eps: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        real(self, "eps", above=0)
        real(self, "momentum", above=0, high=1)


class Scale(Kind, frozen=True, tag="scale"):
    """c · x with one number c, learned from `value` on unless `learned` is false."""

    value: float = 1.0
    learned: bool = True

    def __post_init__(self) -> None:
        real(self, "value")
        flag(self, "learned")


class Residual(Kind, frozen=True, tag="residual"):
    """x + f(x), with f the layers in order."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        check_layers(self)


class Repeat(Kind, frozen=True, tag="repeat"):
    """The layers in order, `times` times over, each time with weights of their own."""

    times: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        whole(self, "times", low=1)
        check_layers(self)


Layer: TypeAlias = (
    Dense | Activation | Dropout | LayerNorm | RMSNorm | BatchNorm | Scale | Residual | Repeat
)


def flatten(
    layers: tuple[Layer, ...], where: str = "network.layers"
) -> Iterator[tuple[str, Layer]]:
    """The layers in the order they run, repeats written out, each with its place in the spec.

    A Residual comes whole: `flatten(residual.layers, path + ".layers")` walks inside. The copies
    of a repeated layer share one place, as they share one line of the spec.
    """
    stack = [_placed(layers, where)]
    while stack:
        for path, layer in stack[-1]:
            if isinstance(layer, Repeat):
                block = repeat((layer.layers, path + ".layers"), layer.times)
                stack.append(chain.from_iterable(_placed(*copy) for copy in block))
                break
            yield path, layer
        else:
            stack.pop()


def each(layers: tuple[Layer, ...], where: str = "network.layers") -> Iterator[tuple[str, Layer]]:
    """Every layer of a spec once, blocks and what they hold, each with its place in the spec."""
    stack = [_placed(layers, where)]
    while stack:
        for path, layer in stack[-1]:
            yield path, layer
            if isinstance(layer, Residual | Repeat):
                stack.append(_placed(layer.layers, path + ".layers"))
                break
        else:
            stack.pop()


def _placed(layers: tuple[Layer, ...], where: str) -> Iterator[tuple[str, Layer]]:
    return ((f"{where}[{i}]", layer) for i, layer in enumerate(layers))


def check_layers(node: Any) -> None:
    """Layers as a tuple, not empty, neither nested too deep nor too many once written out."""
    if not (isinstance(node.layers, list | tuple) and node.layers):
        raise wrong(node, "layers", "a list of at least one layer", "add a layer")
    layers = tuple(node.layers)
    force_setattr(node, "layers", layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise SpecError(
                "layers must hold layers only",
                came=shown(layer),
                where=place(node, f"layers[{i}]"),
                fix="known: " + ", ".join(kinds(Layer)),
            )
    count, stack = 0, [(layer, 1, 1) for layer in layers]
    while stack:
        layer, times, depth = stack.pop()
        if isinstance(layer, Residual | Repeat):
            if depth > MAX_NESTING:
                raise SpecError(
                    f"residual and repeat blocks must not nest deeper than {MAX_NESTING}",
                    came="a deeper one",
                    where=place(node, "layers"),
                    fix="for depth, raise times of a repeat block",
                )
            times *= layer.times if isinstance(layer, Repeat) else 1
            stack.extend((inner, times, depth + 1) for inner in layer.layers)
        else:
            count += times
        if count > MAX_LAYERS:
            raise SpecError(
                f"a network must not have more than {MAX_LAYERS} layers, repeats written out",
                came=f"at least {shown(count)}",
                where=place(node, "layers"),
                fix="lower times in the repeat blocks",
            )
