"""What a training needs in memory, told before anything is allocated."""

from __future__ import annotations

import math

import numpy as np
import psutil

from isograd.errors import SpecError
from isograd.nn.model import Model
from isograd.nn.spec import SGD, Adam, AdamW, GradientDescent, Spec


def required_bytes(spec: Spec, model: Model, batch_size: int) -> int:
    """The least that a training step holds at once.

    The parameters, their gradient, the update and the parameters after it; what the update rule
    keeps; and for every value of the forward pass the value and its cotangent.
    """
    kept = 0 if isinstance(spec.optimiser, GradientDescent | SGD) else 1
    kept += isinstance(spec.optimiser, Adam | AdamW)
    values = sum(place.n_out for place in model.places)
    numbers = model.parameter_count * (4 + kept) + 2 * batch_size * values
    return numbers * np.dtype(spec.dtype).itemsize


def require_memory(spec: Spec, model: Model, batch_size: int) -> None:
    """Refuse a network that cannot fit.

    Raises:
        SpecError: it would need more than the memory that is free; the error says how much.
    """
    needed, free = required_bytes(spec, model, batch_size), psutil.virtual_memory().available
    if needed <= free:
        return
    widest = max(model.weights, key=lambda place: place.n_in * place.n_out)
    raise SpecError(
        "a network in training must fit in memory",
        came=f"{model.parameter_count:.3g} parameters and batches of {batch_size} rows need at "
        f"least {_size(needed)}; {_size(free)} are free",
        where=f"{widest.path} (layer {widest.layer}, {widest.n_in} × {widest.n_out} weights)",
        fix="lower units or times there, or training.batch_size",
    )


def _size(count: int) -> str:
    """A number of bytes, to three digits."""
    power = min(max(int(math.log2(max(count, 1)) // 10), 0), 8)
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")[power]
    return f"{count / 1024.0**power:.3g} {unit}"


__all__ = ["require_memory", "required_bytes"]
