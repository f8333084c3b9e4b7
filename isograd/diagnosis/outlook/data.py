"""Inputs, outputs and the loss: does the network suit its data?"""

from __future__ import annotations

import math

import numpy as np

from isograd.diagnosis.outlook.common import FALL, Item, Look, State
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
    zero, constant = loss_of(look, 0.0), constant_loss(kind, split.y_train)
    start, size = m.loss - m.penalty, look.summaries[_last(look)].rms
    must = f"not above {zero:.3g}, what outputs of 0 cost, by as much as there is to learn"
    if isinstance(kind, SoftmaxCrossEntropy) and kind.class_weights is None:
        must = must.replace("what", f"ln {look.model.n_out}, what")
    came = f"{start:.3g}; outputs of 0 cost {zero:.3g}"
    if look.model.places[-1].part is Part.WEIGHTS:
        came += f", random ones of rms {size:.2g} as here {loss_of(look, size):.3g}"
    state: State = "ok"
    if not start <= zero + constant:
        state = "note"
        came += ": the last layer starts too large, and must first unlearn that"
    return Item(
        "initial loss", state, None, start, came, must, "Goodfellow et al. 2016, sec. 6.2.2"
    )


def loss_of(look: Look, size: float, *, draws: int = 4096) -> float:
    """The mean loss of the batch's targets for outputs that know nothing of them.

    They are independent, normal, of standard deviation s; where outputs are probabilities, ½. For
    C classes it is ln C + ½s²(1 − 1/C) to second order in s, and ln C + ½s² at most.

    Args:
        look: for loss and targets.
        size: s.
        draws: rows, at least.
    """
    assert look.measured is not None
    assert look.split is not None
    kind = look.model.network.loss
    y = look.split.y_train[look.measured.batch]
    if size:
        y = y[np.arange(draws) % len(y)]
    y = y if y.ndim == 1 else np.asarray(y, np.float64)
    output = size * np.random.default_rng(0).standard_normal((len(y), look.model.n_out))
    if isinstance(kind, BinaryCrossEntropy) and kind.inputs != "logits":
        output = np.full_like(output, 0.5)
    return float(loss(kind, output, y))


def _last(look: Look) -> Site:
    return Site.parse(look.model.places[-1].site)
