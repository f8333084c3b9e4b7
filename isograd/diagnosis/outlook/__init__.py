"""What must hold of a network before it is trained: item by item, each with its source."""

from __future__ import annotations

from collections.abc import Callable

from isograd.diagnosis.outlook.common import FALL, GROWTH, Item, Look, Sizes, State
from isograd.diagnosis.outlook.data import initial_loss, inputs, output
from isograd.diagnosis.outlook.depth import covered, error_signal, rounding, signal, trainable_depth
from isograd.diagnosis.outlook.steps import learning_rate
from isograd.diagnosis.outlook.units import dead_units, finite, gradients, saturated_units

ITEMS: tuple[Callable[[Look], Item | None], ...] = (
    finite,
    inputs,
    signal,
    rounding,
    error_signal,
    trainable_depth,
    dead_units,
    saturated_units,
    gradients,
    output,
    initial_loss,
    learning_rate,
    covered,
)


def look_at(look: Look) -> tuple[Item, ...]:
    """All items that apply."""
    found = (rule(look) for rule in ITEMS)
    return tuple(item for item in found if item)


__all__ = ["FALL", "GROWTH", "ITEMS", "Item", "Look", "Sizes", "State", "look_at"]
