"""What several rules say alike."""

from __future__ import annotations

import math

from isograd.diagnosis.case import Case
from isograd.diagnosis.findings import Expectation, Severity


def severity(case: Case, starved: bool) -> Severity:
    """*fatal* if nothing is learned, *serious* if a part stands still, *minor* else."""
    if not case.learns:
        return "fatal"
    return "serious" if starved else "minor"


def theory_text(e: Expectation) -> str:
    """What theory says of this very network, in a sentence."""
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
        f"As initialised χ₁ = {e.chi1:.3g}, so {e.decades_per_layer:+.2f} decades per layer "
        f"(± {e.spread_decades:.1f} over all layers at this width); {depth}."
    )
