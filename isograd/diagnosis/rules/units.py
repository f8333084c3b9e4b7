"""Units: how many still take part?"""

from __future__ import annotations

import math

from isograd.diagnosis.case import Case
from isograd.diagnosis.findings import Finding
from isograd.diagnosis.rules.common import severity, theory_text
from isograd.telemetry.records import Site


def dead_units(case: Case) -> Finding | None:
    """Rectifying units that no row switches on, in layers left with fewer than the task needs."""
    cut, worst = _units(case, rectifying=True)
    if not cut:
        return None
    needed = case.model.n_out
    return Finding(
        name="dead units",
        severity="fatal" if not case.learns else "serious",
        layers=tuple(cut),
        step=case.clean[len(case.clean) // 2].step,
        evidence={"units_alive": worst[1], "units": worst[2], "outputs": float(needed)},
        cause=(
            f"Layer {worst[0]:.0f} has {worst[1]:.0f} of {worst[2]:.0f} units that any row "
            f"measured in the last half of the run switches on: fewer than the {needed} "
            "outputs that must be told apart behind it."
        ),
        expectation=theory_text(case, "scale", int(worst[0])),
        disproof="Rows of the training data that switch more of these units on.",
    )


def saturated_units(case: Case) -> Finding | None:
    """Bounded units that sit on their plateaus: most of a layer, most of the time."""
    cut, worst = _units(case, rectifying=False)
    if not cut:
        return None
    return Finding(
        name="saturated units",
        severity=severity(case, starved=False),
        layers=tuple(cut),
        step=case.clean[len(case.clean) // 2].step,
        evidence={"saturated_share": worst[1], "units": worst[2]},
        cause=(
            f"In layer {worst[0]:.0f}, {worst[1]:.0%} of the values lie where |φ′| is below 1 % "
            "of its largest: less than a hundredth of the error signal passes there."
        ),
        expectation=theory_text(case, "scale", int(worst[0])),
        disproof="Pre-activations most of which lie in the active interval.",
    )


def _units(case: Case, *, rectifying: bool) -> tuple[list[int], tuple[float, float, float]]:
    """Layers concerned, and of the worst its number, its measure and its width."""
    cut: list[int] = []
    worst = (0.0, 0.0, 0.0)
    gravest = -math.inf
    for site_name, (low, high) in case.model.active.items():
        summary = case.late.get(Site.parse(site_name))
        if summary is None or summary.units_off is None:
            continue
        one_sided = math.isinf(low) != math.isinf(high)
        if one_sided is not rectifying:
            continue
        layer = Site.parse(site_name).layer
        width = len(summary.units_off)
        alive = width - summary.n_units_off
        if rectifying:
            sick = alive < min(width, case.model.n_out)
            measure, gravity = float(alive), -float(alive)
        else:
            sick = summary.saturated_share > 0.5
            measure = gravity = summary.saturated_share
        if sick:
            cut.append(layer)
            if gravity > gravest:
                gravest, worst = gravity, (float(layer), measure, float(width))
    return cut, worst
