"""The frozen description of a data set, a network and its training: data, never code.

A spec is a tree of frozen structs. Every struct checks its own values when it is made, so a spec
written in Python and one read from TOML meet the same checks. A remedy is an edit of this tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr

from isograd.errors import SpecError, nearest
from isograd.nn.checks import flag, is_a, one_of, place, real, shown, whole, wrong
from isograd.nn.kinds import (
    SGD,
    AdaGrad,
    Adam,
    BinaryCrossEntropy,
    Constant,
    Critical,
    GradientDescent,
    HalfSquaredError,
    He,
    Init,
    Kind,
    LeCun,
    Loss,
    Momentum,
    Normal,
    Optimiser,
    Orthogonal,
    RMSProp,
    SoftmaxCrossEntropy,
    Xavier,
    kinds,
)

__all__ = [
    "ACTIVATION_NAMES",
    "ARRAYS",
    "BUILT_IN_DATA",
    "DEFAULT_ALPHA",
    "DEFAULT_BATCH_SIZE",
    "MAX_LAYERS",
    "MAX_NESTING",
    "MAX_UNITS",
    "SGD",
    "Activation",
    "AdaGrad",
    "Adam",
    "BinaryCrossEntropy",
    "Constant",
    "Critical",
    "Data",
    "Dense",
    "GradientDescent",
    "HalfSquaredError",
    "He",
    "Init",
    "Layer",
    "LayerNorm",
    "LeCun",
    "Loss",
    "Measure",
    "Momentum",
    "Network",
    "Normal",
    "Optimiser",
    "Orthogonal",
    "RMSProp",
    "Repeat",
    "Residual",
    "SoftmaxCrossEntropy",
    "Spec",
    "Training",
    "Xavier",
    "flatten",
    "kinds",
]

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
)
_SYNONYMS = {"sigmoid": "logistic", "swish": "silu", "linear": "identity"}
DEFAULT_ALPHA = {"leaky_relu": 0.01, "elu": 1.0}
"""What `alpha = None` means, for the activations that have one."""

BUILT_IN_DATA = ("digits", "iris", "wine", "breast_cancer", "diabetes")
ARRAYS = "arrays"
"""The source of data that a Python program hands over as arrays."""

DEFAULT_BATCH_SIZE = 64
MAX_NESTING = 32
"""How deep residual and repeat blocks may nest; `repeat` gives depth, nesting does not."""
MAX_UNITS = 1_000_000
MAX_LAYERS = 1_000_000
"""How many layers a network may have once its repeats are written out."""


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a spec."""


# Layers -----------------------------------------------------------------------------------------


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
    """a = φ(z), φ by name; alpha (leaky_relu, elu) None takes DEFAULT_ALPHA."""

    name: str
    alpha: float | None = None

    def __post_init__(self) -> None:
        one_of(self, "name", ACTIVATION_NAMES, _SYNONYMS)
        if self.name in DEFAULT_ALPHA:
            real(self, "alpha", low=0, optional=True)
        elif self.alpha is not None:
            raise SpecError(
                f"only {' and '.join(DEFAULT_ALPHA)} take an alpha",
                came=f"alpha = {shown(self.alpha)} with {self.name}",
                where=place(self, "alpha"),
                fix="remove alpha, or change the activation",
            )


class LayerNorm(Kind, frozen=True, tag="layer_norm"):
    """(z − mean) / √(variance + eps) over the features, then a learned scale and shift."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        real(self, "eps", above=0)


class Residual(Kind, frozen=True, tag="residual"):
    """x + f(x), with f the layers in order."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        _block(self)


class Repeat(Kind, frozen=True, tag="repeat"):
    """The layers in order, `times` times over, each time with weights of their own."""

    times: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        whole(self, "times", low=1)
        _block(self)


Layer: TypeAlias = Dense | Activation | LayerNorm | Residual | Repeat


# The whole --------------------------------------------------------------------------------------


class Data(_Table, frozen=True):
    """Where the data come from and how they are split.

    Args:
        source: a built-in set, a path that ends in .npz or .csv, or "arrays" for data that a
            Python program hands over.
        target: the target column of a .csv; None is the last.
        test_fraction: the share of rows kept for the test, in (0, 1).
        standardise: bring every feature to mean 0 and variance 1 on the training part.
        stratify: keep the shares of the classes in both parts.
    """

    source: str
    target: str | None = None
    test_fraction: float = 0.2
    standardise: bool = True
    stratify: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.source, os.PathLike):
            force_setattr(self, "source", os.fspath(self.source))
        known = (*BUILT_IN_DATA, ARRAYS)
        if not isinstance(self.source, str) or not (
            self.source in known or self.source.lower().endswith((".npz", ".csv"))
        ):
            raise SpecError(
                "source must be a built-in data set or a path that ends in .npz or .csv",
                came=shown(self.source),
                where=place(self, "source"),
                fix=nearest(self.source if isinstance(self.source, str) else "", known),
            )
        if self.target is not None and not (isinstance(self.target, str) and self.target):
            raise wrong(self, "target", "the name of a column", "remove it to take the last one")
        if self.target is not None and not self.source.lower().endswith(".csv"):
            raise SpecError(
                "target names a column, so source must be a .csv file",
                came=f"target = {shown(self.target)} with source = {shown(self.source)}",
                where=place(self, "target"),
                fix="remove target",
            )
        real(self, "test_fraction", above=0, below=1)
        flag(self, "standardise")
        flag(self, "stratify")


class Network(_Table, frozen=True):
    """Layers in order, the loss on the last one's output, and the initialiser of its weights."""

    layers: tuple[Layer, ...]
    loss: Loss = SoftmaxCrossEntropy()
    init: Init = Xavier()

    def __post_init__(self) -> None:
        _block(self)
        is_a(self, "loss", Loss)
        is_a(self, "init", Init)


class Training(_Table, frozen=True):
    """How long and in what portions to train.

    Args:
        epochs: passes over the training part.
        batch_size: rows per step; None is 64, or all rows for gradient_descent.
        clip_value: bound on |g| of every element; None does not clip.
        clip_norm: bound on the global norm ‖g‖₂; None does not clip.
    """

    epochs: int = 30
    batch_size: int | None = None
    clip_value: float | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        whole(self, "epochs", low=1)
        whole(self, "batch_size", low=1, optional=True)
        real(self, "clip_value", above=0, optional=True)
        real(self, "clip_norm", above=0, optional=True)


class Measure(_Table, frozen=True):
    """When telemetry is taken: each of the first `first` steps, then every `every`-th (0: none)."""

    every: int = 10
    first: int = 10

    def __post_init__(self) -> None:
        whole(self, "every", low=0)
        whole(self, "first", low=0)


class Spec(_Table, frozen=True):
    """Everything that a run depends on."""

    data: Data
    network: Network
    optimiser: Optimiser = SGD()
    training: Training = Training()
    measure: Measure = Measure()
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        is_a(self, "data", Data)
        is_a(self, "network", Network)
        is_a(self, "optimiser", Optimiser)
        is_a(self, "training", Training)
        is_a(self, "measure", Measure)
        whole(self, "seed", low=0)
        one_of(self, "dtype", ("float32", "float64"))
        if isinstance(self.optimiser, GradientDescent) and self.training.batch_size is not None:
            raise SpecError(
                "gradient_descent takes the whole training set at every step",
                came=f"batch_size = {self.training.batch_size}",
                where=place(self, "training.batch_size"),
                fix='remove batch_size, or take kind = "sgd"',
            )

    def batch_size_for(self, n: int) -> int:
        """The rows per step for n training rows; an explicit batch_size is returned as it is."""
        if isinstance(self.optimiser, GradientDescent):
            return n
        return self.training.batch_size or min(DEFAULT_BATCH_SIZE, n)


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


def _placed(layers: tuple[Layer, ...], where: str) -> Iterator[tuple[str, Layer]]:
    return ((f"{where}[{i}]", layer) for i, layer in enumerate(layers))


def _block(node: Residual | Repeat | Network) -> None:
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
