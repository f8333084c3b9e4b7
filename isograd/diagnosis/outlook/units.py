"""Units and gradients: does every layer take part?"""

from __future__ import annotations

import math

import numpy as np

from isograd.diagnosis.outlook.common import FALL, Item, Look, State, graded, layers
from isograd.diagnosis.rules.steps import computed
from isograd.telemetry.records import Site


def finite(look: Look) -> Item | None:
    """Are all values of a step finite?"""
    m = look.measured
    if m is None:
        return None
    must = f"every value of a step is finite in {look.spec.dtype}"
    source = "IEEE 754"
    for site in computed(look.model):
        summary = m.summaries.get(site)
        if summary is not None and summary.nonfinite:
            limit = float(np.finfo(look.spec.dtype).max)
            came = (
                f"{summary.nonfinite} of {summary.count} values at {site} are not finite: "
                f"{look.spec.dtype} ends at {limit:.1e}"
            )
            return Item("finite values", "bad", site.layer, math.nan, came, must, source)
    if not (m.applied and math.isfinite(m.after)):
        came = f"the loss is {m.loss:.3g}, and {m.after:.3g} after the step"
        return Item("finite values", "bad", None, m.after, came, must, source)
    return Item("finite values", "ok", None, math.nan, "all of them", must, source)


def dead_units(look: Look) -> Item | None:
    """Is any rectifying layer left with fewer units than there are outputs?"""
    cut: dict[int, tuple[int, int]] = {}
    seen = dead = 0
    for place, (low, high) in look.model.active.items():
        site = Site.parse(place)
        summary = look.summaries.get(site)
        one_sided = math.isinf(low) != math.isinf(high)
        if summary is None or summary.units_off is None or not one_sided:
            continue
        width, off = len(summary.units_off), summary.n_units_off
        seen, dead = seen + width, dead + off
        if width - off < min(width, look.model.n_out):
            cut[site.layer] = (width - off, width)
    if not seen:
        return None
    must = f"each layer has units enough for {look.model.n_out} outputs that some row switches on"
    source = "He et al. 2015, sec. 2.2; Lu et al. 2020"
    if not cut:
        came = f"{dead} of {seen} units ({dead / seen:.0%}) are off for every row"
        return Item("dead units", "ok", None, dead / seen, came, must, source)
    layer = min(cut, key=lambda n: cut[n])
    alive, width = cut[layer]
    barred = alive == 0 and layer not in look.bypassed
    came = f"layer {layer} has {alive} of {width} units that any row switches on"
    state: State = "bad" if barred else "doubt"
    return Item("dead units", state, layer, float(alive), came, must, source)


def saturated_units(look: Look) -> Item | None:
    """How much of the bounded layers lies on plateaus?"""
    shares: dict[int, float] = {}
    for place, (low, high) in look.model.active.items():
        site = Site.parse(place)
        if site in look.summaries and math.isinf(low) == math.isinf(high):
            shares[site.layer] = look.summaries[site].saturated_share
    if not shares:
        return None
    layer = max(shares, key=lambda n: shares[n])
    must = "most values lie where |φ′| is above 1 % of its largest"
    sick = [n for n in shares if shares[n] > 0.5]
    came = f"at most {shares[layer]:.0%} of a layer's values (layer {layer})"
    source = "Glorot & Bengio 2010, sec. 3"
    state: State = "note" if sick else "ok"
    return Item(
        "saturated units", state, min(sick) if sick else None, shares[layer], came, must, source
    )


def gradients(look: Look) -> Item | None:
    """Has every layer a gradient that moves its weights?"""
    if look.measured is None or not look.measured.finite:
        return None
    sizes = {p.layer: look.of("dW", p.layer) for p in look.model.weights}
    zero = [n for n, s in sizes.items() if s.finite and s.max_abs == 0.0]
    must, source = "the gradient of every layer's weights is not 0", "definition"
    if zero:
        every = len(zero) == len(sizes)
        state: State = "bad" if every or 1 in zero else "doubt"
        where = "every layer" if every else layers(zero)
        came = f"the gradient is exactly 0 in {where}: nothing moves the weights"
        return Item("gradients", state, zero[0], 0.0, came, must, source)
    if look.epsilon is not None:
        # A step is lr · g/(|g| + ε): its square falls below Adam's by this many e-folds.
        deficit = {n: 2.0 * math.log1p(look.epsilon / s.rms) for n, s in sizes.items() if s.rms > 0}
        worst = max(deficit, key=lambda n: deficit[n])
        state = graded(deficit[worst], FALL)
        if state != "ok":
            starved = [n for n in deficit if deficit[n] > FALL.trains]
            must, source = (
                "most gradients are above the optimiser's eps",
                "Kingma & Ba 2015, alg. 1",
            )
            came = (
                f"gradients of layer {worst} are {sizes[worst].rms:.0e}, below the optimiser's "
                f"eps of {look.epsilon:.0e}: the steps of {layers(starved)} shrink with them"
            )
            return Item("gradients", state, starved[0], sizes[worst].rms, came, must, source)
    low, high = (f(s.rms for s in sizes.values()) for f in (min, max))
    came = f"rms from {low:.1e} to {high:.1e}"
    return Item("gradients", "ok", None, low, came, must, source)
