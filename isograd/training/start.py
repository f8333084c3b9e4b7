"""What a run starts from: data, network and first state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.number_formats import number_format, rounded
from isograd.errors import DataError
from isograd.nn.model import Model, build
from isograd.nn.spec import SoftmaxCrossEntropy, Spec
from isograd.optim.rules import optimiser
from isograd.optim.schedules import Schedule, schedule
from isograd.training.data import Split, batches, load
from isograd.training.memory import require_memory
from isograd.training.state import State
from isograd.training.step import Layout


def load_split(spec: Spec, base: Path | None = None) -> Split:
    """The data of a spec; relative paths start from `base`."""
    return load(spec.data, loss_kind=spec.network.loss, seed=spec.seed, dtype=spec.dtype, base=base)


def model_for(spec: Spec, split: Split) -> Model:
    """The spec's network, sized for the data.

    Raises:
        SpecError: if its last layer does not fit the classes or targets.
    """
    n_out = split.y_train.shape[1] if split.y_train.ndim == 2 else len(split.classes or ())
    return build(spec.network, split.X_train.shape[1], n_out)


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        model: the network.
        params: its first parameters and statistics, by site.
        state: the same as the state of a run.
        key: (2,) uint32, of what random layers draw.
        batch_size: rows per step.
        steps: of the spec's epochs.
    """

    model: Model
    params: Mapping[str, NDArray[Any]]
    state: State
    key: NDArray[np.uint32]
    batch_size: int
    steps: int

    @property
    def layout(self) -> Layout:
        """Where the parameters lie in θ."""
        return Layout(self.model.shapes)


def prepare(spec: Spec, split: Split) -> Start:
    """Size and initialise the network of a spec; raises what `fit` raises, in less time.

    Three streams are drawn from the seed, one for the parameters, one for the order of the data
    and one for random layers, so an edit of the network keeps the order.
    """
    _require_match(spec, split)
    n, n_in = split.X_train.shape
    batch_size = spec.batch_size_for(n)
    batches(n, batch_size, np.random.default_rng())  # refuses a batch that is too large
    require_memory(spec, n_in, batch_size)  # before layers are written out
    model = model_for(spec, split)
    for_parameters, for_order, for_noise = np.random.SeedSequence(spec.seed).spawn(3)
    params = model.init(
        np.random.default_rng(for_parameters), spec.dtype, split.X_train[:batch_size]
    )
    precision = spec.training.precision
    if precision is not None and precision.weights is not None and not precision.master:
        form = number_format(precision.weights)
        params |= {name: rounded(params[name], form) for name in model.shapes}
    theta = Layout(model.shapes).join(params)
    key = for_noise.generate_state(2).astype(np.uint32)
    steps_per_epoch = n // batch_size
    state = State(
        step=0,
        theta=theta,
        rule=optimiser(spec.optimiser, spec.training).init(theta),
        statistics={name: params[name] for name in model.statistics},
        order=np.random.default_rng(for_order).bit_generator.state,
        schedule=schedule_of(spec, steps_per_epoch).init(),
    )
    steps = spec.training.epochs * steps_per_epoch
    return Start(model, params, state, key, batch_size, steps)


def schedule_of(spec: Spec, steps_per_epoch: int) -> Schedule:
    """The schedule of a spec's learning rate."""
    training = spec.training
    return schedule(training.schedule, epochs=training.epochs, steps_per_epoch=steps_per_epoch)


def _require_match(spec: Spec, split: Split) -> None:
    """Data that a caller hands over must have been made for this spec."""
    x, y = split.X_train, split.y_train
    softmax = isinstance(spec.network.loss, SoftmaxCrossEntropy)
    labels = softmax and y.ndim == 1  # else one probability per class
    if x.dtype != spec.dtype:
        fix = f"pass dtype={spec.dtype!r} to from_arrays"
    elif (
        y.dtype != (np.int64 if labels else x.dtype)
        or y.ndim != (1 if labels else 2)
        or (softmax and split.task != "classes")
    ):
        fix = "pass loss_kind=spec.network.loss to from_arrays"
    elif spec.training.early_stopping is not None and not len(split.X_validation):
        fix = "pass data=spec.data to from_arrays: early stopping needs a validation part"
    else:
        return
    raise DataError(
        f"data must be {spec.dtype}, with targets as {spec.network.loss.__struct_config__.tag} "
        "takes them, and with the parts that the spec asks for",
        came=f"X of {x.dtype}, y of {y.dtype} and shape {y.shape}, "
        f"{len(split.X_validation)} rows for validation",
        fix=fix,
    )
