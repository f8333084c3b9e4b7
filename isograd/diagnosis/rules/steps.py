"""Steps: are they finite, do they keep what their gradient promised, and do they lead anywhere?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isograd.diagnosis.case import Case
from isograd.diagnosis.findings import Finding
from isograd.diagnosis.rules.common import theory_text
from isograd.nn.model import Part, Place
from isograd.telemetry.records import Record, Site

# --- non-finite values


def non_finite(case: Case) -> Finding | None:
    """The first value that is not finite, in the order of computation."""
    for record in case.measured:
        for site in _computed(case.model.places):
            summary = record.summaries.get(site)
            if summary is None or not summary.nonfinite:
                continue
            before = _largest_before(case, record, site)
            limit = float(np.finfo(case.spec.dtype).max)
            return Finding(
                name="non-finite value",
                severity="fatal",
                layers=(site.layer,) if site.layer else (),
                step=record.step,
                evidence={
                    "non_finite": summary.nonfinite,
                    "of": summary.count,
                    "nan": summary.nans,
                    "largest_before": before,
                    "largest_of_format": limit,
                },
                cause=(
                    f"{summary.nonfinite} of {summary.count} values at {site} are not finite; "
                    f"the largest magnitude computed before them was {before:.1e}, and "
                    f"{case.spec.dtype} ends at {limit:.1e}."
                ),
                expectation=theory_text(case.expectation),
                disproof=f"The same step in float64 would also be non-finite first at {site} "
                "if the cause were not the range of the format.",
            )
    last = case.telemetry.records[-1] if case.telemetry.records else None
    if last is not None and last.skipped:
        return Finding(
            name="non-finite value",
            severity="fatal",
            layers=(),
            step=last.step,
            evidence={"loss": last.loss, "grad_norm": last.grad_norm or math.nan},
            cause="The loss or the norm of the gradient is not finite, every layer's values are: "
            "the overflow is in the loss itself or in the sum of squares.",
            expectation=theory_text(case.expectation),
            disproof="A finite loss at the same parameters in float64.",
        )
    return None


def _computed(places: Sequence[Place]) -> list[Site]:
    """Sites in the order in which a step computes them."""
    forward = ["input/0", *(p.site for p in places)]
    backward = [p.cotangent for p in reversed(places)]
    suffixes = [p.site.partition("/")[2] for p in reversed(places) if p.part is Part.WEIGHTS]
    gradients = [f"{kind}/{n}" for n in suffixes for kind in ("dW", "db", "uW", "ub")]
    weights = [f"W/{n}" for n in suffixes]
    return [Site.parse(s) for s in (*weights, *forward, *backward, *gradients)]


def _largest_before(case: Case, record: Record, site: Site) -> float:
    largest = 0.0
    for other in _computed(case.model.places):
        if other == site:
            break
        if other in record.summaries:
            largest = max(largest, record.summaries[other].max_abs)
    return largest


# --- learning rate


def _promises(case: Case) -> list[tuple[int, float]]:
    """(step, actual/predicted change of the batch's loss) where rounding leaves it a meaning."""
    unit = float(np.finfo(case.spec.dtype).eps)
    return [
        (r.step, r.actual / r.predicted)
        for r in case.clean
        if r.predicted is not None
        and r.actual is not None
        and abs(r.predicted) > 100.0 * unit * abs(r.loss)
    ]


def learning_rate_too_high(case: Case) -> Finding | None:
    """Steps raise the loss of their own batch."""
    promises = _promises(case)
    recent = [rho for _, rho in promises[len(promises) // 2 :]]
    if not recent:
        return None
    broken = float(np.mean([rho < 0.0 or math.isnan(rho) for rho in recent]))
    if broken <= 0.5:
        return None
    return Finding(
        name="learning rate too high",
        severity="fatal" if not case.learns else "serious",
        layers=(),
        step=next(step for step, rho in promises if rho < 0.0 or math.isnan(rho)),
        evidence={
            "steps_that_raise_their_loss_share": broken,
            "actual_over_predicted_median": float(np.median(recent)),
            "learning_rate": case.spec.optimiser.lr,
        },
        cause=(
            f"{broken:.0%} of the measured steps in the last half of the run raise the loss of "
            "the very batch they were computed on: they overshoot its minimum along the step."
        ),
        expectation="A step that keeps to the region where the gradient holds lowers its own "
        "batch's loss; on a quadratic it does so if and only if η < 2/λ along it.",
        disproof="Steps of a third of the size that raise their own batch's loss as often.",
    )


def learning_rate_too_low(case: Case) -> Finding | None:
    """The loss is still falling steadily, and steps see no curvature at all."""
    promises = _promises(case)
    recent = [rho for _, rho in promises[len(promises) // 2 :]]
    if len(recent) < 3 or not case.learns or case.learned > 0.5:
        return None
    curvature = 1.0 - float(np.median(recent))
    room = 0.5 / curvature if curvature > 0 else math.inf
    if not case.falling or room < 10.0:
        return None
    return Finding(
        name="learning rate too low",
        severity="serious",
        layers=(),
        step=case.clean[0].step,
        evidence={
            "longer_step_possible_factor": room,
            "actual_over_predicted_median": 1.0 - curvature,
            "learned_share": case.learned,
            "learning_rate": case.spec.optimiser.lr,
        },
        cause=(
            "The loss falls as steadily at the end as at the start, and along the steps it is "
            f"straight to {abs(curvature):.1%}: the best step along the same direction is about "
            f"{room:.0f} times longer."
            if math.isfinite(room)
            else "The loss falls as steadily at the end as at the start, and along the steps it "
            "does not even curve upwards."
        ),
        expectation="On a quadratic the ratio of actual to predicted change is 1 − ½ of the step "
        "over the best one.",
        disproof="A run at ten times the learning rate that ends no lower.",
    )


# --- learning


def no_learning(case: Case) -> Finding | None:
    """The loss ends no lower than that of a constant output."""
    if case.learns:
        return None
    end, error = case.closing_loss
    return Finding(
        name="no learning",
        severity="fatal",
        layers=(),
        step=case.telemetry.records[-1].step if case.telemetry.records else 0,
        evidence={"closing_loss": end, "standard_error": error, "constant_loss": case.constant},
        cause=(
            f"The last epoch's loss is {end:.4g} ± {error:.1g}; an output that ignores its input "
            f"has {case.constant:.4g}."
        ),
        expectation="A network whose signal and error signal cross all its layers beats a "
        "constant output within the first epochs.",
        disproof="A closing loss below that of a constant output by more than two standard errors.",
    )
