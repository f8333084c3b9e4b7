"""Where a run stands between two steps: all that its further steps depend on, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.tree import flatten, unflatten
from isograd.errors import RunError
from isograd.optim.loss_scale import START

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Best:
    """The epoch with the least validation loss so far, which early stopping goes back to.

    Attributes:
        epoch: counted from 0.
        loss: of the validation part.
        theta, statistics: as in `State`, after that epoch.
    """

    epoch: int
    loss: float
    theta: NDArray[Any]
    statistics: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class State:
    """A run between two steps.

    Attributes:
        step: the number of the next step.
        theta: (P,) all learned parameters.
        rule: the state of the update rule, a tree of arrays.
        statistics: what training gathers but does not learn, by name.
        order: the state of the generator that shuffles the rows, before the current epoch.
        schedule: the state of the learning rate's schedule: nested tuples of numbers.
        losses: sum and number of the losses of the epoch's steps so far.
        streak: steps skipped since the last that was applied, but for those that a smaller loss
            scale may still save.
        scaling: the dynamic loss scale of the next step, and the steps applied since it changed.
        waited: epochs since the validation loss was least.
        best: that epoch; None before there is one, and without early stopping.
        seconds: wall time so far.
    """

    step: int
    theta: NDArray[Any]
    rule: Any
    statistics: Mapping[str, NDArray[Any]]
    order: Mapping[str, Any]
    schedule: Any
    losses: tuple[float, int] = (0.0, 0)
    streak: int = 0
    scaling: tuple[float, int] = START
    waited: int = 0
    best: Best | None = None
    seconds: float = field(default=0.0, compare=False)


_NUMBERS = ("step", "order", "schedule", "losses", "streak", "scaling", "waited", "seconds")


def dump(state: State) -> tuple[Arrays, dict[str, Any]]:
    """A state as arrays by name and facts that JSON can hold, without loss."""
    leaves, _ = flatten(state.rule)
    arrays: Arrays = {"theta": state.theta}
    arrays |= {f"rule/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays |= {f"statistics/{name}": array for name, array in state.statistics.items()}
    facts = {name: getattr(state, name) for name in _NUMBERS}
    if state.best is not None:
        arrays["best/theta"] = state.best.theta
        arrays |= {f"best/{name}": array for name, array in state.best.statistics.items()}
        facts |= {"best_epoch": state.best.epoch, "best_loss": state.best.loss}
    return arrays, facts


def restore(arrays: Arrays, facts: Mapping[str, Any], like: State) -> State:
    """The state that `dump` took apart.

    Args:
        arrays, facts: from `dump`.
        like: the state that the same spec starts from; it gives structure, shapes and dtypes.

    Raises:
        RunError: the arrays are those of another network, optimiser or dtype.
    """
    first, tree = flatten(like.rule)
    wanted: Arrays = {"theta": like.theta}
    wanted |= {f"rule/{i}": np.asarray(leaf) for i, leaf in enumerate(first)}
    wanted |= {f"statistics/{name}": array for name, array in like.statistics.items()}
    if "best_epoch" in facts:
        wanted["best/theta"] = like.theta
        wanted |= {f"best/{name}": array for name, array in like.statistics.items()}
    for name in sorted({*wanted, *arrays}):
        want, came = (_described(source.get(name)) for source in (wanted, arrays))
        if want != came:
            raise RunError(
                f"{name} must be {want}, as the spec has it",
                came=came,
                fix="resume with the spec that the run was trained with",
            )
    best = None
    if "best_epoch" in facts:
        statistics = {name: arrays[f"best/{name}"] for name in like.statistics}
        theta = arrays["best/theta"]
        best = Best(facts["best_epoch"], facts["best_loss"], theta, statistics)
    numbers = {name: _tuples(facts[name]) for name in _NUMBERS if name in facts}
    return State(
        theta=arrays["theta"],
        rule=unflatten(tree, [arrays[f"rule/{i}"] for i in range(len(first))]),
        statistics={name: arrays[f"statistics/{name}"] for name in like.statistics},
        best=best,
        **numbers,
    )


def _described(array: NDArray[Any] | None) -> str:
    return "absent" if array is None else f"{array.dtype}{list(array.shape)}"


def _tuples(value: Any) -> Any:
    """JSON has lists where a state has tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


__all__ = ["Best", "State", "dump", "restore"]
