"""Depth: do signal and error signal reach the other end?"""

from __future__ import annotations

import math

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
    if s is None or depth < 3:
        return None
    if not s.signal[0] > 0.0:
        return None  # the inputs say so
    fall = -folds(s.signal[:-1], s.signal[0])
    growth = -folds(s.scale[:-1], s.scale[0])
    value = float(fall[-1])
    state = graded(value, FALL)
    must = f"it falls by less than {decades(FALL.trains)} {_HIDDEN}"
    if state != "ok" and look.epsilon is not None:
        alike = float((fall - growth)[-1])
        state = milder(graded(alike, FALL))
        if state == "ok":
            state, value = "note", alike
    if state == "ok":
        came = f"falls by {decades(value)}" if value > 0 else f"grows by {decades(value)}"
        return Item("signal", "ok", None, value, f"{came} {_HIDDEN}", must, _SCHOENHOLZ)
    bound = FALL.fails if fall[-1] > FALL.fails else FALL.trains
    layer = int(np.flatnonzero(fall > bound)[0]) + 1
    came = (
        f"is lost at layer {layer}: the spread of z over the batch falls by "
        f"{decades(float(fall[-1]))} from layer 1 to {depth - 1}"
    )
    if state == "note":
        came = (
            f"falls by {decades(float(fall[-1]))}, as z itself does: inputs stay distinct, and "
            f"steps of {look.spec.optimiser.__struct_config__.tag} keep their size"
        )
    elif state == "doubt":
        came = came.replace("is lost", "fades", 1)
    return Item("signal", state, layer, value, came, must, _SCHOENHOLZ)


def error_signal(look: Look) -> Item | None:
    """Does the error signal reach the first layer, and at a like size?"""
    s, depth = look.sizes, look.model.depth
    if s is None or depth < 3:
        return None
    moved = folds(s.delta[:-1], float(s.delta[-2]))
    value = float(moved[0])
    bounds = GROWTH if value > 0 else FALL
    state = graded(abs(value), bounds)
    must = (
        f"‖δ‖ falls by less than {decades(FALL.trains)}, or grows by less than "
        f"{decades(GROWTH.trains)}, {_HIDDEN}"
    )
    if math.isnan(value):
        return None  # zero gradients, or values that are not finite: other items say so
    if state == "ok":
        came = f"{'grows' if value > 0 else 'falls'} by {decades(value)} {_HIDDEN}"
        return Item("error signal", "ok", None, value, came, must, _SCHOENHOLZ)
    bound = bounds.fails if state == "bad" else bounds.trains
    layer = int(np.flatnonzero(np.abs(moved) > bound)[-1]) + 1
    verb = "explodes" if value > 0 else "vanishes"
    came = f"{verb}: ‖δ‖ {'grows' if value > 0 else 'falls'} by {decades(value)} from layer "
    came += f"{depth - 1} to 1, beyond what trains from layer {layer} down"
    if look.epsilon is not None and value < 0:
        state = milder(state)
        came += f"; steps of {look.spec.optimiser.__struct_config__.tag} keep their size"
    elif look.epsilon is not None:
        state = milder(state)
    return Item("error signal", state, layer, value, came, must, _SCHOENHOLZ)


def trainable_depth(look: Look) -> Item | None:
    """Is the network deeper than theory lets train?"""
    e, depth = look.expected, look.model.depth
    if not e.covered or depth < 3:
        return None
    must = f"at most {FALL.trains:.0f} depth scales, and less than {FALL.fails:.0f}"
    if math.isinf(e.depth_scale):
        came = f"{depth} layers; theory sets no limit (χ₁ = {e.chi1:.3g})"
        return Item("depth", "ok", None, 0.0, came, must, _SCHOENHOLZ)
    value = depth / e.depth_scale if e.depth_scale > 0 else math.inf
    state = graded(value, FALL)
    if look.epsilon is not None:
        state = milder(state)
    came = (
        f"{depth} layers; trainable to about {e.trainable_depth:.2g} "
        f"(depth scale ξ_c = {e.depth_scale:.2g}, χ₁ = {e.chi1:.3g})"
    )
    return Item("depth", state, None, value, came, must, _SCHOENHOLZ)


def rounding(look: Look) -> Item | None:
    """Is what depends on the input above the rounding of z?"""
    s = look.sizes
    if s is None or (look.measured is not None and look.measured.rows < 2):
        return None
    unit = float(np.finfo(look.spec.dtype).eps) / 2.0
    lost = [
        w.layer
        for w, v, z in zip(look.model.weights, s.signal, s.scale, strict=True)
        if v < math.sqrt(w.n_in) * unit * z
    ]
    must = f"the spread of z over the batch is above the rounding of z to {look.spec.dtype}"
    source = "Higham & Mary 2019, eq. 1.3"
    if not lost or not s.signal[0] > 0.0:
        return Item("rounding", "ok", None, math.nan, "the signal is above it", must, source)
    came = (
        f"drowns the signal from layer {lost[0]} on: z no longer differs between inputs by more "
        f"than {look.spec.dtype} resolves"
    )
    return Item("rounding", "bad", lost[0], float(lost[0]), came, must, source)


def covered(look: Look) -> Item | None:
    """Does theory reach all layers?"""
    e, reach = look.expected, len(look.expected.layers)
    must, source = "theory covers every layer", "docs/theory.md"
    if reach == look.model.depth:
        return Item("theory", "ok", None, math.nan, "covers every layer", must, source)
    came = f"covers {reach} of {look.model.depth} layers: {e.reason}"
    state: State = "note" if look.measured is not None else "doubt"
    return Item("theory", state, reach + 1, math.nan, came, must, source)
