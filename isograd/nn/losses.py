"""Loss functions: a mean over the batch of what each row costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

from isograd.engine.dispatch import spec_of
from isograd.engine.functions import (
    clip,
    expand_dims,
    log,
    log1p,
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
from isograd.nn.spec import (
    BinaryCrossEntropy,
    HalfSquaredError,
    Huber,
    Loss,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)


@np.errstate(all="ignore")
def loss(kind: Loss, output: Value, target: Value) -> Value:
    """The loss of a batch, without the regularisation.

    half_squared_error: mean over rows of ½‖ŷ − y‖², ŷ (n, k), y (n, k).
    mean_squared_error: mean over rows and columns of (ŷ − y)².
    huber: mean over rows of the sum over columns of ½e² where |e| ≤ δ, else δ(|e| − ½δ), with
        e = ŷ − y: half the square near 0, a line beyond.
    binary_cross_entropy: mean over rows of the sum over columns of
        y·softplus(−z) + (1 − y)·softplus(z), logits z (n, k), y in [0, 1] (n, k); or of
        −y ln p − (1 − y) ln(1 − p), probabilities p (n, k).
    softmax_cross_entropy: mean over rows of −ln softmax(z)_y, logits z (n, C), labels y (n,)
        integers in 0…C−1; or of −Σ_c y_c ln softmax(z)_c, y (n, C) floats, each row of sum 1. With
        class weights w: Σ w_y (−ln softmax(z)_y) / Σ w_y, or the mean of −Σ_c w_c y_c ln
        softmax(z)_c, as PyTorch has it.

    Args:
        kind: which loss.
        output: the network's output, float (n, k).
        target: what it should be.

    Returns:
        A scalar of the dtype of the output. From logits it overflows only where it is itself too
        large for the dtype; a logit of −inf for a class without a share in the row costs nothing.
        From probabilities, nothing is clamped: p = 0 costs infinitely much where y > 0, as does
        p = 1 where y < 1, and outside of [0, 1] it is NaN. Where all rows of a batch are of classes
        of weight 0 it is NaN.

    Raises:
        ShapeError: if the target has not the shape above, labels are no integers, or there is not
            one weight per class. (A label outside 0…C−1 is not seen here: the row would cost
            nothing.)
    """
    _check(kind, output, target)
    match kind:
        case SoftmaxCrossEntropy():
            return _softmax_cross_entropy(kind, output, target)
        case MeanSquaredError():
            return mean(square(output - target))
        case HalfSquaredError():
            cost = 0.5 * square(output - target)
        case Huber():
            error = output - target
            near = clip(error, -kind.delta, kind.delta)
            cost = near * (error - 0.5 * near)
        case BinaryCrossEntropy(inputs="logits"):
            # Two softplus, not softplus(z) − y·z: the difference cancels where the fit is good.
            cost = target * softplus(negative(output)) + (1.0 - target) * softplus(output)
        case BinaryCrossEntropy():
            # Where a logarithm has no share, it is taken of 1: 0 · inf is no cost.
            yes = target * log(where(target == 0, 1.0, output))
            no = (1.0 - target) * log1p(negative(where(target == 1, 0.0, output)))
            cost = negative(yes + no)
    return mean(total(cost, axis=1))


def _softmax_cross_entropy(kind: SoftmaxCrossEntropy, logits: Value, target: Value) -> Value:
    spec = spec_of(logits)
    weights = np.asarray(kind.class_weights or 1.0, spec.dtype)
    labels = _are_labels(target)
    if labels:
        share = where(expand_dims(target, 1) == np.arange(spec.shape[1]), weights, 0.0)
    else:
        share = target * weights
    # A choice, not a product alone: the logits of classes without a share may be −inf.
    cost = where(share == 0, 0.0, negative(share * log_softmax(logits)))
    if labels and kind.class_weights is not None:
        return total(cost) / total(share)
    return mean(total(cost, axis=1))


def _are_labels(target: Value) -> bool:
    """Whether targets are the numbers of classes, not the shares of all classes."""
    return len(spec_of(target).shape) == 1


def _check(kind: Loss, output: Value, target: Value) -> None:
    """Refuse what would broadcast: targets (n,) against outputs (n, 1) would make (n, n)."""
    out, y = spec_of(output), spec_of(target)
    classes = isinstance(kind, SoftmaxCrossEntropy)
    integers = np.issubdtype(y.dtype, np.integer)
    labels = classes and integers and y.shape == out.shape[:1]
    values = y.shape == out.shape and not (classes and integers)
    where = str(type(kind).__struct_config__.tag)
    if len(out.shape) != 2 or not (labels or values):
        raise ShapeError(
            "targets must be integers (n,), or shares of the classes (n, C), for logits (n, C)"
            if classes
            else "outputs must be (n, k), and targets of the same shape",
            came=f"targets {y} for outputs {out}",
            where=where,
            fix="give the number of each row's class" if classes else "reshape the targets",
        )
    weights = kind.class_weights if isinstance(kind, SoftmaxCrossEntropy) else None
    if weights is not None and len(weights) != out.shape[1]:
        raise ShapeError(
            "class_weights must hold one weight per class",
            came=f"{len(weights)} weights for {out.shape[1]} classes",
            where=where,
            fix=f"give {out.shape[1]} weights",
        )


@np.errstate(all="ignore")
def constant_loss(kind: Loss, target: Value) -> float:
    """The least loss that a constant output reaches: what a network that ignores its input gets.

    The entropy of the classes' (weighted) shares for the cross-entropies, the variance of the
    target for the squared errors, or half of it; for Huber's loss it is found numerically.

    Args:
        kind: which loss.
        target: all targets, as `loss` takes them.
    """
    y = np.asarray(target)
    match kind:
        case SoftmaxCrossEntropy():
            mass = _mass(kind, y)
            # −Σ m ln(m/Σm): p = m/Σm is the best constant.
            return float(mass.sum() * scipy.special.entr(mass / mass.sum()).sum())
        case BinaryCrossEntropy():
            p = np.mean(y, axis=0, dtype=np.float64)
            return float(np.sum(scipy.special.entr(p) + scipy.special.entr(1.0 - p)))
        case MeanSquaredError():
            return float(np.mean(np.var(y, axis=0, dtype=np.float64)))
        case HalfSquaredError():
            return float(0.5 * np.sum(np.var(y, axis=0, dtype=np.float64)))
        case Huber():
            columns = np.asarray(y, np.float64).T
            best = np.array([_centre(column, kind.delta) for column in columns])
            return float(loss(kind, np.tile(best, (len(y), 1)), columns.T))


def _mass(kind: SoftmaxCrossEntropy, target: NDArray[Any]) -> NDArray[np.float64]:
    """How much −ln p of each class counts in the loss of all rows."""
    weights = np.asarray(kind.class_weights or 1.0)
    if _are_labels(target):
        counts = weights * np.bincount(target, minlength=weights.size)
        return np.asarray(counts / counts.sum())
    return np.asarray(weights * np.mean(target, axis=0, dtype=np.float64))


def _centre(y: NDArray[np.float64], delta: float) -> float:
    """The constant of least Huber loss, where the pulls of all targets, cut at δ, balance."""

    def pull(c: float) -> float:
        return float(np.mean(np.clip(c - y, -delta, delta)))

    low, high = float(y.min()), float(y.max())
    return low if pull(low) == 0 else float(scipy.optimize.brentq(pull, low, high, xtol=1e-300))
