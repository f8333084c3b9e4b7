"""What several rules say alike."""

from __future__ import annotations

import math
from typing import Literal

from isograd.diagnosis.case import Case
from isograd.diagnosis.findings import Expectation, Severity


def severity(case: Case, starved: bool) -> Severity:
    """*fatal* if nothing is learned, *serious* if a part stands still, *minor* else."""
    if not case.learns:
        return "fatal"
    return "serious" if starved else "minor"


_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def theory_text(case: Case, size: Literal["delta", "signal", "scale"], layer: int) -> str:
    """What theory says of this very network at a layer, beside what was measured at the start.

    Args:
        case: the run.
        size: what is expected there: ‖δ^l‖ relative to the last layer's, or the rms of z minus
            its mean over the batch, or of z.
        layer: l.
    """
    e = case.expectation
    texts = []
    band = next((getattr(at, size) for at in e.layers if at.layer == layer), None)
    if band is not None and math.isfinite(band.sd):
        number = str(layer).translate(_SUPERSCRIPTS)
        name = f"‖δ{number}‖/‖δᴸ‖" if size == "delta" else f"rms of layer {layer}'s {size}"
        measured = ""
        if case.profiles:
            first = case.profiles[0]
            values = getattr(first, size)
            value = _log10(values[layer - 1])
            if size == "delta":
                value -= _log10(values[-1])
            if math.isfinite(value):
                measured = f", measured {value:+.1f} at step {first.step}"
        sd = f"{band.sd:.1f}" if band.sd >= 0.05 else f"{band.sd:.1g}"
        texts.append(f"Expected log₁₀ {name} = {band.decades:+.1f} ± {sd}{measured}.")
    texts.append(network_text(e))
    return " ".join(texts)


def network_text(e: Expectation) -> str:
    """What theory says of the network as a whole, in a sentence."""
    if not e.covered:
        return f"Unknown: {e.reason}."
    if math.isinf(e.depth_scale):
        depth = "inputs stay distinct at any depth"
    else:
        depth = (
            f"depth scale {e.depth_scale:.2g} layers, trainable to about "
            f"{e.trainable_depth:.2g} layers"
        )
    return (
        f"As initialised χ₁ = {e.chi1:.3g}, so {e.decades_per_layer:+.2f} decades per layer; "
        f"{depth}."
    )


def _log10(value: float) -> float:
    return math.log10(value) if 0.0 < value < math.inf else math.nan
