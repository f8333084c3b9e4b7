"""The frozen description of a data set, a network and its training: data, never code.

A spec is a tree of frozen structs. Every struct checks its own values when it is made, so a spec
written in Python and one read from TOML meet the same checks. A remedy is an edit of this tree.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec.structs import force_setattr

from isograd.engine.number_formats import FORMATS
from isograd.errors import SpecError
from isograd.nn.checks import flag, is_a, one_of, place, real, shown, whole, wrong
from isograd.nn.kinds import (
    LSUV,
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    Constant,
    Critical,
    GradientDescent,
    HalfSquaredError,
    He,
    Huber,
    Init,
    LeCun,
    Loss,
    MeanSquaredError,
    Momentum,
    Nesterov,
    Normal,
    Optimiser,
    Orthogonal,
    RMSProp,
    SoftmaxCrossEntropy,
    Uniform,
    VarianceScaling,
    Xavier,
    Zeros,
)
from isograd.nn.layers import (
    ACTIVATION_NAMES,
    DEFAULT_PARAMETER,
    LEARNED,
    MAX_LAYERS,
    MAX_NESTING,
    MAX_UNITS,
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Repeat,
    Residual,
    RMSNorm,
    Scale,
    check_layers,
    define_activation_name,
    each,
    flatten,
)
from isograd.nn.precision import Precision
from isograd.nn.schedules import (
    ConstantRate,
    CosineDecay,
    ExponentialDecay,
    OneCycle,
    Plateau,
    Schedule,
    StepDecay,
    WarmUp,
)
from isograd.nn.sources import (
    ARRAYS,
    BUILT_IN_DATA,
    FILE_TYPES,
    SYNTHETIC_DATA,
    Data,
    format_of,
)
from isograd.nn.structs import (
    Table,
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
    "Precision",
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
    "VarianceScaling",
    "WarmUp",
    "Xavier",
    "Zeros",
    "define_activation_name",
    "flatten",
    "format_of",
    "kinds",
]

DEFAULT_BATCH_SIZE = 64


class Network(Table, frozen=True):
    """Layers in order, the loss on the last one's output, and the initialiser of its weights."""

    layers: tuple[Layer, ...]
    loss: Loss = SoftmaxCrossEntropy()
    init: Init = Xavier()

    def __post_init__(self) -> None:
        check_layers(self)
        is_a(self, "loss", Loss)
        is_a(self, "init", Init)


class EarlyStopping(Table, frozen=True):
    """Stop when the validation loss has not fallen by min_delta for patience epochs.

    The parameters kept are those of the epoch with the least validation loss (Prechelt 1998).
    """

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        whole(self, "patience", low=1)
        real(self, "min_delta", low=0)


class Training(Table, frozen=True):
    """How long and in what portions to train.

    Args:
        epochs: passes over the training part.
        batch_size: rows per step; None is 64, or all rows for gradient_descent.
        clip_value: bound on |g| of every element; None does not clip.
        clip_norm: bound on the global norm ‖g‖₂; None does not clip.
        normalise_gradient: divide the gradient by its global norm.
        schedule: factors of the learning rate, multiplied.
        early_stopping: when to stop before the epochs are over; None does not.
        recompute: compute values of the forward pass again for the backward pass, where that lets
            a step do with less memory.
        precision: what is rounded to narrow formats; None rounds nothing.
    """

    epochs: int = 30
    batch_size: int | None = None
    clip_value: float | None = None
    clip_norm: float | None = None
    normalise_gradient: bool = False
    schedule: tuple[Schedule, ...] = ()
    early_stopping: EarlyStopping | None = None
    recompute: bool = False
    precision: Precision | None = None

    def __post_init__(self) -> None:
        whole(self, "epochs", low=1)
        whole(self, "batch_size", low=1, optional=True)
        real(self, "clip_value", above=0, optional=True)
        real(self, "clip_norm", above=0, optional=True)
        flag(self, "normalise_gradient")
        flag(self, "recompute")
        if self.normalise_gradient and self.clip_norm is not None:
            raise SpecError(
                "a gradient is divided by its norm or clipped to one",
                came="normalise_gradient and clip_norm",
                where=place(self, "clip_norm"),
                fix="remove one of them",
            )
        is_a(self, "early_stopping", EarlyStopping, optional=True)
        is_a(self, "precision", Precision, optional=True)
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


class Measure(Table, frozen=True):
    """When telemetry is taken.

    Args:
        every: every site is summarised in each `every`-th step after the first ones; 0: in none of
            them. None: as often as takes a twentieth of the time, and twenty times at least.
        first: and in each of the first `first` steps.
        moments: whether moments and extremes of every site are kept of every step.
    """

    every: int | None = None
    first: int = 10
    moments: bool = False

    def __post_init__(self) -> None:
        whole(self, "every", low=0, optional=True)
        whole(self, "first", low=0)
        flag(self, "moments")


class Spec(Table, frozen=True):
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
        for path, part in (("optimiser", self.optimiser), *each(self.network.layers)):
            self._check_positive(path, part)
        if self.training.precision is not None:
            self._check_formats(self.training.precision)

    def _check_formats(self, precision: Precision) -> None:
        """A wider format than the dtype would round nothing."""
        digits = np.finfo(self.dtype).nmant
        for key, name in precision.formats.items():
            if FORMATS[name].fraction_bits > digits:
                raise SpecError(
                    "the dtype must hold the formats that it emulates",
                    came=f"{key} = {name!r} in {self.dtype}",
                    where=place(self, f"training.precision.{key}"),
                    fix='give a narrower format, or set dtype = "float64"',
                )

    def _check_positive(self, path: str, part: Optimiser | Layer) -> None:
        """What must be above 0 must be so in the dtype too: an eps of 0 guards nothing."""
        least = float(np.finfo(self.dtype).smallest_subnormal)
        for key in ("lr", "eps"):
            value = getattr(part, key, None)
            if value is not None and value <= 0.5 * least:
                raise SpecError(
                    f"{key} must be above 0 in {self.dtype}",
                    came=f"{key} = {value!r}, which rounds to 0",
                    where=place(self, f"{path}.{key}"),
                    fix=f'give {least:.2g} or more, or set dtype = "float64"',
                )

    def batch_size_for(self, n: int) -> int:
        """The rows per step for n training rows; an explicit batch_size is returned as it is."""
        if isinstance(self.optimiser, GradientDescent):
            return n
        return self.training.batch_size or min(DEFAULT_BATCH_SIZE, n)
