"""What must hold of a network before it is trained, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isograd.diagnosis.case import change
from isograd.diagnosis.findings import Expectation
from isograd.diagnosis.first_step import FirstStep
from isograd.nn.losses import constant_loss
from isograd.nn.model import Model
from isograd.nn.spec import Spec
from isograd.training.data import Split

State = Literal["ok", "note", "doubt", "bad"]

# Networks were found to train down to between 4.4 and 7.0 times ξ_c (Schoenholz et al. 2017, fig. 5,
# and their about 6): below the one a network trains, above the other it does not.
TRAINS, FAILS = 4.0, 8.0


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: *ok*; *note*, which decides nothing; *doubt*, with which a network may not train;
            *bad*, with which it will not.
        layer: the first layer concerned; None where it is not a matter of layers.
        value: the number that decides.
        must: what must hold.
        came: what is.
        source: why it must.
    """

    name: str
    state: State
    layer: int | None
    value: float
    must: str
    came: str
    source: str


@dataclass(frozen=True)
class Look:
    """What the items are made of.

    Attributes:
        spec, model: the network.
        split, measured: its data and its first step; None without data.
        expected: what theory says.
    """

    spec: Spec
    model: Model
    split: Split | None
    measured: FirstStep | None
    expected: Expectation


def look_at(look: Look) -> tuple[Item, ...]:
    """All items that apply."""
    found = (rule(look) for rule in ITEMS)
    return tuple(item for item in found if item)


_SCHOENHOLZ = "Schoenholz et al. 2017, sec. 5"


def graded(folds: float) -> State:
    """Of the squared change of a signal over the depth, in e-folds."""
    return "ok" if folds <= TRAINS else "bad" if folds > FAILS else "doubt"


def signal(look: Look) -> Item | None:
    """Does what depends on the input reach the output?"""
    if look.measured is None or look.model.depth < 3:
        return None
    p = look.measured.profile
    fall = -change(p.signal, p.signal[0])
    state = graded(fall[-1])
    layer = int(np.flatnonzero(fall > TRAINS)[0]) + 1 if state != "ok" else None
    return Item(
        "signal",
        state,
        layer,
        float(fall[-1]),
        f"its square falls by less than e^{TRAINS:.0f} over the layers",
        f"the signal's square changes by e^{-fall[-1]:.1f} from layer 1 to {look.model.depth}",
        _SCHOENHOLZ,
    )


def error_signal(look: Look) -> Item | None:
    """Does the error signal reach the first layer?"""
    if look.measured is None or look.model.depth < 3:
        return None
    p = look.measured.profile
    moved = change(p.delta, p.delta[-1])
    state = graded(abs(moved[0]))
    layer = int(np.flatnonzero(abs(moved) > TRAINS)[-1]) + 1 if state != "ok" else None
    return Item(
        "error signal",
        state,
        layer,
        float(moved[0]),
        f"its square changes by less than e^{TRAINS:.0f} over the layers",
        f"the error signal's square changes by e^{moved[0]:.1f} from layer {look.model.depth} to 1",
        _SCHOENHOLZ,
    )


def rounding(look: Look) -> Item | None:
    """Is what depends on the input above the rounding of z?"""
    if look.measured is None or look.measured.rows < 2:
        return None
    p, unit = look.measured.profile, float(np.finfo(look.spec.dtype).eps) / 2.0
    lost = [
        w.layer
        for w, s, z in zip(look.model.weights, p.signal, p.scale, strict=True)
        if s < math.sqrt(w.n_in) * unit * z
    ]
    return Item(
        "rounding",
        "bad" if lost else "ok",
        lost[0] if lost else None,
        float(lost[0]) if lost else math.nan,
        "the spread of z over the batch is above the rounding of z",
        f"the signal is lost in the rounding of z from layer {lost[0]} on"
        if lost
        else "it is at every layer",
        "Higham & Mary 2019, eq. 1.3",
    )


def initial_loss(look: Look) -> Item | None:
    """Does the network start where a constant output does?"""
    if look.measured is None or look.split is None:
        return None
    constant = constant_loss(look.spec.network.loss, look.split.y_train)
    loss = look.measured.loss
    return Item(
        "initial loss",
        "ok" if loss < 2.0 * constant else "note",
        None,
        loss,
        f"about that of a constant output, {constant:.3g}",
        f"the loss starts at {loss:.3g}",
        "constant output",
    )


ITEMS: tuple[Callable[[Look], Item | None], ...] = (signal, error_signal, rounding, initial_loss)
