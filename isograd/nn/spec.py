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
    LSUV,
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    Constant,
    ConstantRate,
    CosineDecay,
    Critical,
    ExponentialDecay,
    GradientDescent,
    HalfSquaredError,
    He,
    Huber,
    Init,
    Kind,
    LeCun,
    Loss,
    MeanSquaredError,
    Momentum,
    Nesterov,
    Normal,
    OneCycle,
    Optimiser,
    Orthogonal,
    Plateau,
    RMSProp,
    Schedule,
    SoftmaxCrossEntropy,
    StepDecay,
    Uniform,
    WarmUp,
    Xavier,
    Zeros,
    kinds,
)

__all__ = [
    "ACTIVATION_NAMES",
    "ARRAYS",
    "BUILT_IN_DATA",
    "DEFAULT_BATCH_SIZE",
    "DEFAULT_PARAMETER",
    "FILE_TYPES",
    "LEARNED",
    "LSUV",
    "MAX_LAYERS",
    "MAX_NESTING",
    "MAX_UNITS",
    "SGD",
    "SYNTHETIC_DATA",
    "Activation",
    "AdaGrad",
    "Adam",
    "AdamW",
    "BatchNorm",
    "BinaryCrossEntropy",
    "Constant",
    "ConstantRate",
    "CosineDecay",
    "Critical",
    "Data",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "ExponentialDecay",
    "GradientDescent",
    "HalfSquaredError",
    "He",
    "Huber",
    "Init",
    "Layer",
    "LayerNorm",
    "LeCun",
    "Loss",
    "MeanSquaredError",
    "Measure",
    "Momentum",
    "Nesterov",
    "Network",
    "Normal",
    "OneCycle",
    "Optimiser",
    "Orthogonal",
    "Plateau",
    "RMSNorm",
    "RMSProp",
    "Repeat",
    "Residual",
    "Scale",
    "Schedule",
    "SoftmaxCrossEntropy",
    "Spec",
    "StepDecay",
    "Training",
    "Uniform",
    "WarmUp",
    "Xavier",
    "Zeros",
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

BUILT_IN_DATA = ("digits", "iris", "wine", "breast_cancer", "diabetes")
SYNTHETIC_DATA = ("moons", "circles", "blobs", "spirals")
"""Data drawn from the seed."""
FILE_TYPES = (".npz", ".csv", ".parquet", ".idx", ".idx.gz")
"""How a path of data ends; files of MNIST's format may also be called …-ubyte and …-ubyte.gz."""
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
    """a = φ(z), φ by name.

    alpha (leaky_relu, elu, prelu) or beta (swish) is its parameter; None takes that of
    DEFAULT_PARAMETER. Where it is learned, one number per unit, this is what it starts from.
    """

    name: str
    alpha: float | None = None
    beta: float | None = None
    learned: bool | None = None

    def __post_init__(self) -> None:
        if self.name not in _DEFINED:
            one_of(self, "name", ACTIVATION_NAMES, _SYNONYMS)
        own = DEFAULT_PARAMETER.get(self.name, ("", 0.0))[0]
        real(self, "alpha", low=0, optional=True)
        real(self, "beta", optional=True)
        for key in ("alpha", "beta"):
            if key != own and getattr(self, key) is not None:
                takes = [name for name, (k, _) in DEFAULT_PARAMETER.items() if k == key]
                raise SpecError(
                    f"only {' and '.join(takes)} take {'an' if key == 'alpha' else 'a'} {key}",
                    came=f"{key} = {shown(getattr(self, key))} with {self.name}",
                    where=place(self, key),
                    fix=f"remove {key}, or change the activation",
                )
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
        real(self, "momentum", above=0)
        if self.momentum > 1:
            raise wrong(self, "momentum", "a number in (0, 1]", "give a number in (0, 1]")


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
        _block(self)


class Repeat(Kind, frozen=True, tag="repeat"):
    """The layers in order, `times` times over, each time with weights of their own."""

    times: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        whole(self, "times", low=1)
        _block(self)


Layer: TypeAlias = (
    Dense | Activation | Dropout | LayerNorm | RMSNorm | BatchNorm | Scale | Residual | Repeat
)


# The whole --------------------------------------------------------------------------------------


class Data(_Table, frozen=True):
    """Where the data come from and how they are split.

    Args:
        source: a built-in or synthetic set, a path that ends as in FILE_TYPES, or "arrays" for
            data that a Python program hands over.
        target: the target column of a .csv or .parquet; None is the last.
        labels: the file of the labels, for source a file of images in idx format.
        test: a file of test rows, in the format of source; None splits source.
        test_labels: the file of their labels, for idx.
        test_fraction: the share of rows kept for the test, in (0, 1); not used with `test`.
        validation_fraction: the share of the other rows kept for validation, in [0, 1).
        standardise: bring every feature to mean 0 and variance 1 on the training part;
            "jointly" takes one mean and one variance for all features together.
        stratify: keep the shares of the classes in all parts.
        missing: what to do with missing features: refuse them, fill in the mean or the median of
            the training part, or drop the row.
        rows, noise: how many rows to draw of a synthetic set, and how noisy; None are its own.
    """

    source: str
    target: str | None = None
    labels: str | None = None
    test: str | None = None
    test_labels: str | None = None
    test_fraction: float = 0.2
    validation_fraction: float = 0.0
    standardise: bool | Literal["jointly"] = True
    stratify: bool = True
    missing: Literal["refuse", "mean", "median", "drop"] = "refuse"
    rows: int | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        for key in ("source", "labels", "test", "test_labels"):
            if isinstance(getattr(self, key), os.PathLike):
                force_setattr(self, key, os.fspath(getattr(self, key)))
        known = (*BUILT_IN_DATA, *SYNTHETIC_DATA, ARRAYS)
        endings = f"{', '.join(FILE_TYPES[:-1])} or {FILE_TYPES[-1]}"
        if not isinstance(self.source, str) or not (self.source in known or self.format):
            raise SpecError(
                f"source must be a built-in data set or a path that ends in {endings}",
                came=shown(self.source),
                where=place(self, "source"),
                fix=nearest(self.source if isinstance(self.source, str) else "", known),
            )
        self._only("target", "names a column, so source must be a .csv or .parquet file", "table")
        self._only("labels", "names the labels of an idx file", "idx")
        self._only("test", "must stand beside a source that is a file", "table", "idx", "npz")
        self._only("test_labels", "names the labels of an idx file", "idx")
        if self.format == "idx" and self.labels is None:
            raise SpecError(
                "an idx file of images needs one of labels",
                came=f"source = {shown(self.source)} alone",
                where=place(self, "labels"),
                fix='add labels = "…-labels-idx1-ubyte.gz"',
            )
        if self.test is not None and format_of(self.test) != self.format:
            raise wrong(self, "test", "a file of the format of source", "convert it")
        if self.format == "idx" and (self.test is None) != (self.test_labels is None):
            raise SpecError(
                "test and test_labels go together",
                came="one of them",
                where=place(self, "test_labels"),
                fix="give both or none",
            )
        real(self, "test_fraction", above=0, below=1)
        real(self, "validation_fraction", low=0, below=1)
        if self.standardise != "jointly" and not isinstance(self.standardise, bool):
            raise wrong(self, "standardise", 'true, false or "jointly"', "give one of these")
        flag(self, "stratify")
        one_of(self, "missing", ("refuse", "mean", "median", "drop"))
        for key in ("rows", "noise"):
            if getattr(self, key) is not None and self.source not in SYNTHETIC_DATA:
                raise SpecError(
                    f"{key} is for synthetic data: {', '.join(SYNTHETIC_DATA)}",
                    came=f"{key} = {shown(getattr(self, key))} with {shown(self.source)}",
                    where=place(self, key),
                    fix=f"remove {key}",
                )
        whole(self, "rows", low=10, high=10_000_000, optional=True)
        real(self, "noise", low=0, optional=True)

    @property
    def format(self) -> str | None:
        """ "npz", "table", "idx", or None where source is no file."""
        return format_of(self.source)

    def _only(self, key: str, must: str, *formats: str) -> None:
        value = getattr(self, key)
        if value is None:
            return
        if not (isinstance(value, str) and value):
            raise wrong(self, key, "a string", "remove it, or give a name")
        if self.format not in formats:
            raise SpecError(
                f"{key} {must}",
                came=f"{key} = {shown(value)} with source = {shown(self.source)}",
                where=place(self, key),
                fix=f"remove {key}",
            )


def format_of(path: str) -> str | None:
    """The format that a path ends in: "npz", "table" or "idx"; None if it is none of them."""
    name = path.lower()
    if name.endswith(".npz"):
        return "npz"
    if name.endswith((".csv", ".parquet")):
        return "table"
    return "idx" if name.endswith((".idx", ".idx.gz", "-ubyte", "-ubyte.gz")) else None


class Network(_Table, frozen=True):
    """Layers in order, the loss on the last one's output, and the initialiser of its weights."""

    layers: tuple[Layer, ...]
    loss: Loss = SoftmaxCrossEntropy()
    init: Init = Xavier()

    def __post_init__(self) -> None:
        _block(self)
        is_a(self, "loss", Loss)
        is_a(self, "init", Init)


class EarlyStopping(_Table, frozen=True):
    """Stop when the validation loss has not fallen by min_delta for patience epochs.

    The parameters kept are those of the epoch with the least validation loss (Prechelt 1998).
    """

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        whole(self, "patience", low=1)
        real(self, "min_delta", low=0)


class Training(_Table, frozen=True):
    """How long and in what portions to train.

    Args:
        epochs: passes over the training part.
        batch_size: rows per step; None is 64, or all rows for gradient_descent.
        clip_value: bound on |g| of every element; None does not clip.
        clip_norm: bound on the global norm ‖g‖₂; None does not clip.
        normalise_gradient: divide the gradient by its global norm.
        schedule: factors of the learning rate, multiplied.
        early_stopping: when to stop before the epochs are over; None does not.
    """

    epochs: int = 30
    batch_size: int | None = None
    clip_value: float | None = None
    clip_norm: float | None = None
    normalise_gradient: bool = False
    schedule: tuple[Schedule, ...] = ()
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        whole(self, "epochs", low=1)
        whole(self, "batch_size", low=1, optional=True)
        real(self, "clip_value", above=0, optional=True)
        real(self, "clip_norm", above=0, optional=True)
        flag(self, "normalise_gradient")
        if self.normalise_gradient and self.clip_norm is not None:
            raise SpecError(
                "a gradient is divided by its norm or clipped to one",
                came="normalise_gradient and clip_norm",
                where=place(self, "clip_norm"),
                fix="remove one of them",
            )
        is_a(self, "early_stopping", EarlyStopping, optional=True)
        if not isinstance(self.schedule, list | tuple):
            raise wrong(self, "schedule", "a list of schedules", "put it in square brackets")
        force_setattr(self, "schedule", tuple(self.schedule))
        for i, part in enumerate(self.schedule):
            self._check(f"schedule[{i}]", part)

    def _check(self, key: str, part: Schedule) -> None:
        if not isinstance(part, Schedule):
            raise SpecError(
                "schedule must hold schedules only",
                came=shown(part),
                where=place(self, key),
                fix="known: " + ", ".join(kinds(Schedule)),
            )
        epochs = getattr(part, "epochs", None)
        if epochs is None:
            return
        warm_up = isinstance(part, WarmUp)
        if epochs > self.epochs if warm_up else epochs < self.epochs:
            raise SpecError(
                "a warm-up must not last longer than the training"
                if warm_up
                else "a schedule must not end before the training does",
                came=f"epochs = {epochs:g} with training.epochs = {self.epochs}",
                where=place(self, f"{key}.epochs"),
                fix=f"give {self.epochs} or {'less' if warm_up else 'more'}"
                + ("" if warm_up else ", or remove it to end with the training"),
            )


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
        if self.training.early_stopping is not None and self.data.validation_fraction == 0:
            raise SpecError(
                "early stopping needs a validation part",
                came="validation_fraction = 0",
                where=place(self, "training.early_stopping"),
                fix="set data.validation_fraction = 0.1, or remove early_stopping",
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
