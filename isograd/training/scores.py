"""What a network says of data, and how right it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.nn.losses import loss
from isograd.nn.model import Model
from isograd.training.data import Task

EVALUATION_ROWS = 4096  # rows per forward pass of an evaluation: bounds its memory


@dataclass(frozen=True, slots=True)
class Score:
    """How well a part of the data is fitted.

    Attributes:
        loss: without the regularisation.
        accuracy: share of right answers; in regression R², the share of variance explained.
    """

    loss: float
    accuracy: float


def predict(model: Model, params: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
    """The network's output, in portions that bound the memory.

    Args:
        model, params: a network and its parameters.
        x: (n, n_in).

    Returns:
        (n, n_out); logits for the cross-entropies.
    """
    portions = range(0, max(1, len(x)), EVALUATION_ROWS)
    return np.concatenate([model(params, x[i : i + EVALUATION_ROWS]) for i in portions])


def evaluate(
    model: Model, params: Mapping[str, NDArray[Any]], x: NDArray[Any], y: NDArray[Any], task: Task
) -> Score:
    """Loss and accuracy on a part of the data; both NaN where the output is not finite.

    Args:
        model, params: a network and its parameters.
        x, y: inputs and targets, as in a `Split`.
        task: that of the `Split`: "classes", "binary" or "regression" (R² for accuracy).
    """
    with np.errstate(all="ignore"):
        output = predict(model, params, x)
        value = float(loss(model.network.loss, output, y))
    if not np.isfinite(output).all():
        return Score(math.nan, math.nan)
    from sklearn.metrics import accuracy_score, r2_score  # slow to import: only when needed

    if task == "regression":
        with np.errstate(over="ignore"):  # of an output as large as that, R² is −inf
            return Score(value, float(r2_score(y.astype(np.float64), output)))
    if task == "binary":
        even = 0.5 if getattr(model.network.loss, "inputs", "") == "probabilities" else 0.0
        return Score(value, float(accuracy_score(y > 0.5, output > even)))
    labels = y.argmax(axis=1) if y.ndim == 2 else y
    return Score(value, float(accuracy_score(labels, output.argmax(axis=1))))
