"""Which loss scale suits a network as it is initialised: from the sizes of its gradients."""

from __future__ import annotations

from msgspec.structs import replace

from isograd.nn.spec import Measure, Spec
from isograd.telemetry.records import Record
from isograd.theory.formats import LossScale, loss_scale
from isograd.theory.magnitudes import Counts, Sizes
from isograd.training.data import Split
from isograd.training.loop import fit

MARGIN = 4
"""Bits of headroom: gradients of later steps may be sixteen times as large."""


def scale_for(record: Record, form: str) -> LossScale:
    """The loss scale for the cotangents and gradients of a step.

    Args:
        record: of a measured step whose gradients were not rounded: what is zero cannot be saved.
        form: the format.
    """
    gradients = [
        Sizes(Counts(s.exponents.first, tuple(s.exponents.counts)), s.max_abs, s.zeros)
        for site, s in record.summaries.items()
        if site.kind.startswith("d")
    ]
    return loss_scale(gradients, form, margin=MARGIN)


def scale_at_start(spec: Spec, split: Split) -> LossScale | None:
    """The loss scale for a spec's first step, taken without rounding.

    Args:
        spec: the network and its training.
        split: its data.

    Returns:
        None where gradients are not rounded, or the step is not finite.
    """
    precision = spec.training.precision
    if precision is None or precision.gradients is None:
        return None
    plain = replace(spec.training, precision=None, early_stopping=None)
    outcome = fit(replace(spec, training=plain, measure=Measure(0, 1)), split, steps=1)
    (record,) = outcome.telemetry.records
    return None if record.skipped else scale_for(record, precision.gradients)


__all__ = ["MARGIN", "scale_at_start", "scale_for"]
