"""Update rules and schedules as pure functions; the rules in the engine's operations."""

from isograd.optim.rules import (
    Optimiser,
    adagrad,
    adam,
    adamw,
    chain,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
    momentum,
    nesterov,
    normalise_by_global_norm,
    optimiser,
    rmsprop,
    sgd,
)
from isograd.optim.schedules import Schedule, schedule

__all__ = [
    "Optimiser",
    "Schedule",
    "adagrad",
    "adam",
    "adamw",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "global_norm",
    "momentum",
    "nesterov",
    "normalise_by_global_norm",
    "optimiser",
    "rmsprop",
    "schedule",
    "sgd",
]
