"""Inputs, outputs and the loss: does the network suit its data?"""

from __future__ import annotations

import math

import numpy as np

from isograd.diagnosis.outlook.common import FALL, Item, Look, State
from isograd.engine.ops import Value
from isograd.nn.activations import activation
from isograd.nn.losses import constant_loss, loss
from isograd.nn.model import Part
from isograd.nn.places import elementwise
from isograd.nn.spec import (
    Activation,
    BinaryCrossEntropy,
    HalfSquaredError,
    Huber,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from isograd.telemetry.records import Site

_SQUARED = HalfSquaredError | MeanSquaredError | Huber
_LECUN = "LeCun et al. 1998, sec. 4.3"


def inputs(look: Look) -> Item | None:
    """Have the inputs the scale that initialisers assume, and do they differ?"""
    if look.split is None or look.measured is None:
        return None
    x = look.split.X_train
    seen = look.summaries[Site("input", 0)]
    must = "features have a mean square about 1, and differ between rows"
    spread = np.ptp(x, axis=0) if len(x) else np.zeros(0)
    constant = int(np.count_nonzero(spread == 0.0))
    if constant == x.shape[1]:
        came = "the inputs are the same in all rows"
        return Item("inputs", "bad", 0, 0.0, came, must, "definition")
    off = 2.0 * math.log(seen.rms) if 0.0 < seen.rms < math.inf else math.inf
    came = f"rms {seen.rms:.3g}, mean {seen.mean:.2g}"
    if constant:
        came += f"; {constant} of {x.shape[1]} features are constant"
    if abs(off) > FALL.trains:
        came = f"the inputs have {came}: set data.standardise, or scale them"
        return Item("inputs", "doubt", 0, seen.rms, came, must, _LECUN)
    return Item("inputs", "ok", None, seen.rms, came, must, _LECUN)


def output(look: Look) -> Item | None:
    """Can the last layer give what the loss asks for?

    What is certain to fail, a softmax before a loss that applies it again, is an error of the spec.
    """
    kind, last = look.model.network.loss, look.model.places[-1]
    must, source = "the last layer's range holds the targets", "Goodfellow et al. 2016, sec. 6.2.2"
    name = last.spec.name if isinstance(last.spec, Activation) else last.part.value
    if last.part is Part.WEIGHTS:
        return Item("output", "ok", None, math.nan, "dense, without bounds", must, source)
    state: State = "ok"
    came = f"{name} before {kind.__struct_config__.tag}"
    if isinstance(kind, _SQUARED) and name in ("softmax", "logistic"):
        state = "note"
        came += ": its gradient fades where it is sure and wrong; a cross-entropy's does not"
    if isinstance(kind, SoftmaxCrossEntropy | BinaryCrossEntropy) and name in ("relu", "dropout"):
        state = "note"
        what = "logits never fall below 0" if name == "relu" else "logits are dropped in training"
        came += f": {what}"
    value = math.nan
    if isinstance(kind, _SQUARED) and look.split is not None and isinstance(last.spec, Activation):
        value = _within_reach(look, last.spec)
        if value < 0.5:
            state = "doubt"
            came += f": targets lie outside its range, {value:.0%} of the loss can be learned"
    return Item("output", state, None, value, came, must, source)


def _within_reach(look: Look, last: Activation) -> float:
    """The share of a constant output's loss that is left to learn within an activation's range."""
    assert look.split is not None
    if last.is_learned or not elementwise(last):
        return 1.0
    y = np.asarray(look.split.y_train, np.float64)
    x = np.concatenate([-np.geomspace(1e3, 1e-3, 4000), [0.0], np.geomspace(1e-3, 1e3, 4000)])
    with np.errstate(all="ignore"):
        values = np.asarray(activation(last)(x))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    nearest = np.clip(y, low, high if high < 100.0 else np.inf)
    nearest = np.clip(nearest, low if low > -100.0 else -np.inf, None)
    kind = look.model.network.loss
    constant = constant_loss(kind, y)
    return 1.0 - float(loss(kind, nearest, y)) / constant if constant > 0 else 1.0


def initial_loss(look: Look) -> Item | None:
    """Does the network start about where outputs of zero do?"""
    m, split = look.measured, look.split
    if m is None or split is None or not m.finite:
        return None
    kind = look.model.network.loss
    zero = zero_loss(look)
    constant = constant_loss(kind, split.y_train)
    start = m.loss - m.penalty
    names = {
        SoftmaxCrossEntropy: f"ln {look.model.n_out} = {zero:.3g}",
        BinaryCrossEntropy: f"ln 2 = {zero:.3g} an output",
    }
    plain = getattr(kind, "class_weights", None) is None
    what = names.get(type(kind), f"{zero:.3g} of outputs of 0") if plain else f"{zero:.3g}"
    must = f"about {what}, and not above it by as much as there is to learn"
    source = "the loss of outputs of 0, and to second order of random ones"
    came = f"{start:.3g}; expected {zero:.3g}"
    if (share := random_excess(look)) is not None and share > 0.01 * constant:
        came += f" + {share:.2g} for outputs of rms {look.summaries[_last(look)].rms:.2g}"
    state: State = "ok"
    if not start <= zero + constant:
        state = "note"
        came += ": the last layer starts too large, and must first unlearn that"
    return Item("initial loss", state, None, start, came, must, source)


def zero_loss(look: Look) -> float:
    """The loss of the batch if every output were 0 (½ where outputs are probabilities)."""
    assert look.measured is not None
    assert look.split is not None
    y = look.split.y_train[look.measured.batch]
    kind = look.model.network.loss
    value = 0.5 if isinstance(kind, BinaryCrossEntropy) and kind.inputs != "logits" else 0.0
    output: Value = np.full((len(y), look.model.n_out), value)
    y = y if y.ndim == 1 else np.asarray(y, np.float64)
    return float(loss(kind, output, y))


def random_excess(look: Look) -> float | None:
    """How much outputs of the size measured add to the loss, if they know nothing of the targets.

    For outputs of variance s², independent of each other and of the targets, to second order:
    ½s²(1 − 1/C) for C classes, s²/8 for each logit of two, and exactly ½s² or s² for each output
    under the squared errors.
    """
    model, kind = look.model, look.model.network.loss
    if model.places[-1].part is not Part.WEIGHTS:
        return None
    square = look.summaries[_last(look)].rms ** 2
    match kind:
        case SoftmaxCrossEntropy():
            return 0.5 * square * (1.0 - 1.0 / model.n_out)
        case BinaryCrossEntropy(inputs="logits"):
            return model.n_out * square / 8.0
        case HalfSquaredError():
            return 0.5 * model.n_out * square
        case MeanSquaredError():
            return square
    return None


def _last(look: Look) -> Site:
    return Site.parse(look.model.places[-1].site)
