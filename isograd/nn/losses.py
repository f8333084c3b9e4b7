"""Loss functions: a mean over the batch of what each row costs."""

from __future__ import annotations

import math

import numpy as np

from isograd.engine.dispatch import spec_of
from isograd.engine.functions import (
    expand_dims,
    log_softmax,
    mean,
    negative,
    softplus,
    square,
    where,
)
from isograd.engine.functions import sum as total
from isograd.engine.ops import Value
from isograd.errors import ShapeError
from isograd.nn.spec import BinaryCrossEntropy, HalfSquaredError, Loss, SoftmaxCrossEntropy


@np.errstate(all="ignore")
def loss(kind: Loss, output: Value, target: Value) -> Value:
    """The loss of a batch, without the regularisation.

    half_squared_error: mean over rows of ½‖ŷ − y‖², ŷ (n, k), y (n, k).
    binary_cross_entropy: mean over rows of the sum over columns of
        y·softplus(−z) + (1 − y)·softplus(z), logits z (n, k), y in [0, 1] (n, k).
    softmax_cross_entropy: mean over rows of −ln softmax(z)_y, logits z (n, C), labels y (n,)
        integers in 0…C−1.

    Args:
        kind: which loss.
        output: the network's output, float (n, k).
        target: what it should be.

    Returns:
        A scalar of the dtype of the output. From logits it overflows only where it is itself too
        large for the dtype; a logit of −inf for a class that is not the row's costs nothing.

    Raises:
        ShapeError: if the target has not the shape above, or labels are no integers. (A label
            outside 0…C−1 is not seen here: the row would cost nothing.)
    """
    _check(kind, output, target)
    match kind:
        case HalfSquaredError():
            return mean(total(0.5 * square(output - target), axis=1))
        case BinaryCrossEntropy():
            # Two softplus, not softplus(z) − y·z: the difference cancels where the fit is good.
            cost = target * softplus(negative(output)) + (1.0 - target) * softplus(output)
            return mean(total(cost, axis=1))
        case SoftmaxCrossEntropy():
            classes = np.arange(spec_of(output).shape[1])
            right = expand_dims(target, 1) == classes
            # A choice, not a product: the logits of other classes may be −inf.
            return mean(total(where(right, negative(log_softmax(output)), 0.0), axis=1))


def _check(kind: Loss, output: Value, target: Value) -> None:
    """Refuse what would broadcast: targets (n,) against outputs (n, 1) would make (n, n)."""
    out, y = spec_of(output), spec_of(target)
    labels = isinstance(kind, SoftmaxCrossEntropy)
    wanted = out.shape[:1] if labels else out.shape
    integers = np.issubdtype(y.dtype, np.integer)
    if len(out.shape) == 2 and y.shape == wanted and (integers or not labels):
        return
    raise ShapeError(
        "targets must be integers (n,) for logits (n, C)"
        if labels
        else "outputs must be (n, k), and targets of the same shape",
        came=f"targets {y} for outputs {out}",
        where=str(type(kind).__struct_config__.tag),
        fix="give the number of each row's class" if labels else "reshape the targets",
    )


def constant_loss(kind: Loss, target: Value) -> float:
    """The least loss that a constant output reaches: what a network that ignores its input gets.

    The entropy of the label shares for the cross-entropies, half the variance of the target for
    the squared error.

    Args:
        kind: which loss.
        target: all targets, as `loss` takes them.
    """
    y = np.asarray(target)
    if isinstance(kind, HalfSquaredError):
        return float(0.5 * np.sum(np.var(y, axis=0, dtype=np.float64)))
    if isinstance(kind, SoftmaxCrossEntropy):
        share = np.bincount(y) / len(y)
        return float(-sum(p * math.log(p) for p in share if p > 0))
    means = np.asarray(np.mean(y, axis=0, dtype=np.float64)).ravel()
    return float(-sum(q * math.log(q) for p in means for q in (p, 1.0 - p) if q > 0))
