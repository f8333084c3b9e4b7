"""Signals across depth: is the network deeper than its own measured gain lets train?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from isograd.diagnosis.budget import FIELD_OF, LayerGain
from isograd.diagnosis.case import TRAINABLE, Case, change
from isograd.diagnosis.findings import Finding, Profile
from isograd.diagnosis.rules.common import severity, theory_text
from isograd.nn.activations import largest_slope
from isograd.nn.places import elementwise
from isograd.nn.spec import Activation

_LN10 = math.log(10.0)
_Array = NDArray[np.float64]


def vanishing_gradient(case: Case) -> Finding | None:
    """The error signal fades on its way down over more layers than can be trained."""
    return _gradient(case, -1.0, "vanishing gradient")


def exploding_gradient(case: Case) -> Finding | None:
    """The error signal grows on its way down over more layers than can be trained."""
    return _gradient(case, 1.0, "exploding gradient")


def _gradient(case: Case, sign: float, name: str) -> Finding | None:
    if case.model.depth < 3:
        return None

    def changes(p: Profile) -> _Array:
        """ln ‖δ^l‖² − ln ‖δ^L‖², positive where it changed in the sense of `sign`."""
        return sign * change(p.delta, p.delta[-1])

    step = case.since(lambda p: bool(changes(p)[0] > TRAINABLE))
    if step is None:
        return None
    at = next(p for p in case.profiles if p.step == step)
    moved = changes(at)
    layers = tuple(int(i) + 1 for i in np.flatnonzero(moved > TRAINABLE))
    late = case.profiles[-1]
    rate = float(np.median([late.update[n - 1] for n in layers]))
    top = late.update[-1]
    # Starved, or flooded: the updates relative to the weights differ as the error signals do.
    starved = (
        rate * math.exp(TRAINABLE / 2.0) < top
        if sign < 0
        else rate > top * math.exp(TRAINABLE / 2.0)
    )
    depth = case.model.depth - 1
    decades = float(sign * moved[0]) / 2.0 / _LN10
    gain = decades / depth
    evidence = {
        "decades_over_depth": decades,
        "decades_per_layer": gain,
        "depth_scale_layers": depth / float(moved[0]),
        "trainable_depth_layers": TRAINABLE * depth / float(moved[0]),
        "depth_layers": float(case.model.depth),
        "delta_norm_layer_1": at.delta[0],
        "delta_norm_last_layer": at.delta[-1],
        "relative_update_layers_concerned": rate,
        "relative_update_last_layer": top,
    }
    mean = case.budget(step).mean()
    if mean is not None:
        evidence |= {
            "budget_weights_decades": mean.weights,
            "budget_activation_decades": mean.activation,
            "budget_normalisation_decades": mean.normalisation,
            "budget_residual_decades": mean.residual,
            "budget_factors_decades": mean.factors,
        }
    lost = "smaller" if sign < 0 else "larger"
    return Finding(
        name=name,
        severity=severity(case, starved),
        layers=layers,
        step=step,
        evidence=evidence,
        cause=_budget_text(case, mean, gain),
        expectation=theory_text(case, "delta", layers[0]),
        disproof=(
            f"‖δ‖ at layer 1 within e^{TRAINABLE / 2:.0f} of that at layer {case.model.depth} "
            f"(it is {abs(decades):.1f} decades {lost}), or training just as poor once it is."
        ),
    )


def _budget_text(case: Case, mean: LayerGain | None, gain: float) -> str:
    """Of so many decades per layer, so much from each part."""
    if mean is None:
        return (
            f"{_signed(gain)} decades per layer; the error signal is exactly 0 below the top, so "
            "it cannot be split into parts."
        )
    shares = [
        ("φ′" + _slope_bound(case), "activation"),
        ("the weights", "weights"),
        ("normalisation", "normalisation"),
        ("skip connections", "residual"),
        ("dropout and scale", "factors"),
    ]
    present = {FIELD_OF[p.part] for p in case.model.places}
    text = ", ".join(
        f"{_signed(getattr(mean, field))} from {what}" for what, field in shares if field in present
    )
    return f"Of {_signed(mean.total)} decades per layer: {text}."


def _signed(decades: float) -> str:
    return f"{round(decades, 2) + 0.0:+.2f}"


def _slope_bound(case: Case) -> str:
    names = {p.spec for p in case.model.places if isinstance(p.spec, Activation)}
    layer = names.pop() if len(names) == 1 else None
    if layer is None or layer.is_learned or not elementwise(layer):
        return ""
    bound = largest_slope(layer)
    if not 0.0 < bound < math.inf:
        return ""
    return f" of {layer.name} (never above {bound:.3g}, {_signed(math.log10(bound))})"


def vanishing_signal(case: Case) -> Finding | None:
    """What of the pre-activations depends on the input fades on its way up."""

    if case.model.depth < 3:
        return None

    def fall(p: Profile) -> _Array:
        return -change(p.signal, p.signal[0])

    step = case.since(lambda p: bool(fall(p)[-1] > TRAINABLE))
    if step is None:
        return None
    at = next(p for p in case.profiles if p.step == step)
    fallen = fall(at)
    layers = tuple(int(i) + 1 for i in np.flatnonzero(fallen > TRAINABLE))
    decades = float(-fallen[-1]) / 2.0 / _LN10
    rounded = [
        p.layer
        for p, s, z in zip(case.model.weights, at.signal, at.scale, strict=True)
        if s < _rounding(case, p.n_in) * z
    ]
    drowned = (
        f" From layer {rounded[0]} on it is lost in the rounding of z to {case.spec.dtype}."
        if rounded
        else ""
    )
    return Finding(
        name="vanishing signal",
        severity=severity(case, starved=False),
        layers=layers,
        step=step,
        evidence={
            "decades_over_depth": decades,
            "decades_per_layer": decades / (case.model.depth - 1),
            "signal_layer_1": at.signal[0],
            "signal_last_layer": at.signal[-1],
            "scale_last_layer": at.scale[-1],
            "first_layer_below_rounding": float(rounded[0]) if rounded else math.nan,
        },
        cause=(
            f"Different inputs give the same pre-activations: their spread over the batch falls "
            f"by {abs(decades):.1f} decades over {case.model.depth - 1} layers.{drowned}"
        ),
        expectation=theory_text(case, "signal", layers[-1]),
        disproof=f"A spread at layer {case.model.depth} within e^{TRAINABLE / 2:.0f} of that at "
        "layer 1, or training just as poor once it is.",
    )


def _rounding(case: Case, n: int) -> float:
    """Relative rounding error of a sum of n products, √n·u (Higham & Mary 2019, eq. 1.3)."""
    return math.sqrt(n) * float(np.finfo(case.spec.dtype).eps) / 2.0


def exploding_signal(case: Case) -> Finding | None:
    """The pre-activations of hidden layers grow on their way up."""
    if case.model.depth < 4:
        return None

    def growth(p: Profile) -> _Array:
        return change(p.scale[:-1], p.scale[0])  # the output's scale is what is learned

    step = case.since(lambda p: bool(growth(p)[-1] > TRAINABLE))
    if step is None:
        return None
    at = next(p for p in case.profiles if p.step == step)
    grown = growth(at)
    decades = float(grown[-1]) / 2.0 / _LN10
    return Finding(
        name="exploding signal",
        severity=severity(case, starved=False),
        layers=tuple(int(i) + 1 for i in np.flatnonzero(grown > TRAINABLE)),
        step=step,
        evidence={
            "decades_over_depth": decades,
            "decades_per_layer": decades / (case.model.depth - 2),
            "scale_layer_1": at.scale[0],
            "scale_last_hidden_layer": at.scale[-2],
        },
        cause=(
            f"The pre-activations grow by {decades:.1f} decades over {case.model.depth - 2} "
            "layers: the weights amplify more than the activation takes away."
        ),
        expectation=theory_text(case, "scale", case.model.depth - 1),
        disproof=f"Pre-activations of layer {case.model.depth - 1} within e^{TRAINABLE / 2:.0f} "
        "of those of layer 1, or training just as poor once they are.",
    )
