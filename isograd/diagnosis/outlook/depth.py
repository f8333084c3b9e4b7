"""Depth: do signal and error signal reach the other end?"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from isograd.diagnosis.outlook.common import (
    FALL,
    GROWTH,
    Item,
    Look,
    State,
    decades,
    folds,
    graded,
    milder,
)

_SCHOENHOLZ = "Schoenholz et al. 2017, fig. 5"
# The output's weights have a gradient of full size however small they are: what they do to the
# sizes is undone in a few steps, and is not of depth.
_HIDDEN = "over the hidden layers"


def signal(look: Look) -> Item | None:
    """Does what depends on the input reach the last hidden layer?

    Adam's steps do not shrink with the gradient, so under it a signal that only gets smaller can
    grow again; what has become alike is not told apart by longer steps, but the evidence is of SGD.
    """
    s, depth = look.sizes, look.model.depth
    if s is None or depth < 3 or not s.signal[0] > 0.0:
        return None  # of constant inputs another item tells
    fall = -folds(s.signal[:-1], s.signal[0])
    value = float(fall[-1])
    if math.isnan(value):
        return None  # of values that are not finite too
    state = graded(value, FALL)
    must = f"it falls {decades(FALL.trains)} at most {_HIDDEN}"
    item = partial(Item, "signal", must=must, source=_SCHOENHOLZ)
    if state == "ok":
        return item("ok", None, value, f"{_moves(-value)} {_HIDDEN}")
    if look.epsilon is not None:
        alike = value + float(folds(s.scale[:-1], s.scale[0])[-1])
        state = milder(graded(alike, FALL))
        if state == "ok":
            came = f"{_moves(-value)}, as z itself does, so inputs stay distinct; {_kept(look)}"
            return item("note", None, alike, came)
    bound = FALL.fails if value > FALL.fails else FALL.trains
    layer = int(np.flatnonzero(fall > bound)[0]) + 1
    verb = "is lost" if state == "bad" else "fades"
    came = (
        f"the signal {verb} at layer {layer}: the spread of z over the batch "
        f"{_moves(-value)} from layer 1 to {depth - 1}"
    )
    return item(state, layer, value, came)


def error_signal(look: Look) -> Item | None:
    """Does the error signal reach the first layer, and at a like size?

    Where every layer's z is normalised the weights' scale does not matter to what they do, and a
    gradient that is too large makes them grow until it is not (Arora, Li & Lyu 2019).
    """
    s, depth = look.sizes, look.model.depth
    if s is None or depth < 3:
        return None
    moved = folds(s.delta[:-1], float(s.delta[-2]))
    value = float(moved[0])
    if math.isnan(value):
        return None  # zero gradients, and values that are not finite, are items of their own
    bounds = GROWTH if value > 0 else FALL
    state = graded(abs(value), bounds)
    must = f"‖δ‖ falls {decades(FALL.trains)} at most, or grows {decades(GROWTH.trains)}, {_HIDDEN}"
    item = partial(Item, "error signal", must=must, source=_SCHOENHOLZ)
    if state == "ok":
        return item("ok", None, value, f"{_moves(value)} {_HIDDEN}")
    layer = int(np.flatnonzero(np.abs(moved) > getattr(bounds, _BOUND[state]))[-1]) + 1
    came = (
        f"the error signal {'explodes' if value > 0 else 'vanishes'}: ‖δ‖ {_moves(value)} from "
        f"layer {depth - 1} to 1, too much from layer {layer} down"
    )
    if look.epsilon is not None:
        state = milder(state)
        came += f"; {_kept(look)}"
    if value > 0 and look.normalised:
        state = milder(state)
        came += "; normalised weights can grow out of it"
    return item(state, layer, value, came)


_BOUND = {"doubt": "trains", "bad": "fails"}


def trainable_depth(look: Look) -> Item | None:
    """Is the network deeper than theory lets train?"""
    e, depth = look.expected, look.model.depth
    if not e.covered or depth < 3:
        return None
    must = f"at most {FALL.trains:.0f} depth scales of layers, and less than {FALL.fails:.0f}"
    item = partial(Item, "depth", must=must, source=_SCHOENHOLZ)
    if math.isinf(e.depth_scale):
        return item("ok", None, 0.0, f"{depth} layers; inputs stay distinct at any depth")
    value = depth / e.depth_scale if e.depth_scale > 0 else math.inf
    state = graded(value, FALL)
    came = f"{depth} layers, trainable to about {e.trainable_depth:.2g}"
    if state != "ok":
        came = (
            f"{depth} layers are deeper than trains: about {e.trainable_depth:.2g} "
            f"(6 ξ_c, ξ_c = {e.depth_scale:.2g} layers)"
        )
    if look.epsilon is not None:
        state = milder(state)
    return item(state, None, value, came)


def rounding(look: Look) -> Item | None:
    """Is what depends on the input above the rounding of z?"""
    s, dtype = look.sizes, look.spec.dtype
    if s is None or not s.signal[0] > 0.0:
        return None
    unit = float(np.finfo(dtype).eps) / 2.0
    lost = [
        w.layer
        for w, v, z in zip(look.model.weights, s.signal, s.scale, strict=True)
        if v < math.sqrt(w.n_in) * unit * z
    ]
    must = f"the spread of z over the batch is above the rounding of z to {dtype}"
    item = partial(Item, "rounding", must=must, source="Higham & Mary 2019, eq. 1.3")
    if not lost:
        return item("ok", None, math.nan, "the signal is above it")
    came = f"the signal drowns in the rounding of z to {dtype} from layer {lost[0]} on"
    return item("bad", lost[0], math.nan, came)


def _moves(e_folds: float) -> str:
    return f"{'grows' if e_folds > 0 else 'falls'} {decades(e_folds)}"


def _kept(look: Look) -> str:
    return f"steps of {look.spec.optimiser.__struct_config__.tag} keep their size"


def covered(look: Look) -> Item | None:
    """Does theory reach all layers?"""
    e, reach = look.expected, len(look.expected.layers)
    must, source = "theory covers every layer", "docs/theory.md"
    if reach == look.model.depth:
        return Item("theory", "ok", None, math.nan, "covers every layer", must, source)
    came = f"theory covers {reach} of {look.model.depth} layers: {e.reason}"
    state: State = "note" if look.measured is not None else "doubt"
    return Item("theory", state, reach + 1, math.nan, came, must, source)
