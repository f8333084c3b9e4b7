"""Steps: are they finite, do they keep what their gradient promised, and do they lead anywhere?"""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import numpy as np

from isograd.diagnosis.case import TRAINABLE, Case
from isograd.diagnosis.findings import Finding
from isograd.diagnosis.rules.common import network_text, severity, theory_text
from isograd.engine.number_formats import number_format
from isograd.nn.model import Model
from isograd.nn.precision import DYNAMIC
from isograd.telemetry.records import Parameter, Record, Signal, Site

# --- non-finite values


def non_finite(case: Case) -> Finding | None:
    """The first value that is not finite, in the order of computation."""
    records = case.telemetry.records
    skipped = [r for r in records if r.skipped and r.step not in case.rescaled]
    share = f" {len(skipped)} of {len(records)} steps were skipped." * bool(skipped)
    for record in case.measured:
        for site in computed(case.model):
            summary = record.summaries.get(site)
            if summary is None or not summary.nonfinite:
                continue
            before = _largest_before(case, record, site)
            form, limit = _end(case, site)
            return Finding(
                name="non-finite value",
                severity=severity(case, starved=False),
                layers=(site.layer,) if site.layer else (),
                step=record.step,
                evidence={
                    "non_finite": summary.nonfinite,
                    "of": summary.count,
                    "nan": summary.nans,
                    "largest_before": before,
                    "largest_of_format": limit,
                    "steps_skipped": len(skipped),
                },
                cause=(
                    f"{summary.nonfinite} of {summary.count} values at {site} are not finite; "
                    f"the largest magnitude computed before them was {before:.1e}, and "
                    f"{form} ends at {limit:.1e}.{share}"
                ),
                expectation=theory_text(case, "scale", site.layer),
                disproof=f"The same step in float64 would also be non-finite first at {site} "
                "if the cause were not the range of the format.",
            )
    if skipped:
        first = skipped[0]
        return Finding(
            name="non-finite value",
            severity=severity(case, starved=False),
            layers=(),
            step=first.step,
            evidence={
                "loss": first.loss,
                "grad_norm": math.nan if first.grad_norm is None else first.grad_norm,
                "steps_skipped": len(skipped),
            },
            cause="The loss, the norm of the gradient or what the update rule keeps is not finite, "
            f"every layer's values are: the overflow is in a sum or a square of them.{share}",
            expectation=network_text(case.expectation),
            disproof="A finite loss at the same parameters in float64.",
        )
    return None


def computed(model: Model) -> list[Site]:
    """Sites in the order in which a step computes them."""
    forward = ["input/0", *(p.site for p in model.places)]
    backward = [p.cotangent for p in reversed(model.places)]
    parameters = sorted(model.shapes, key=lambda name: -Site.parse(name).layer)  # from the top
    gradients = [kind + name for kind in ("d", "u") for name in parameters]
    return [Site.parse(s) for s in (*parameters, *forward, *backward, *gradients)]


def _end(case: Case, site: Site) -> tuple[str, float]:
    """The format of the numbers at a site, and the largest of them."""
    dtype, precision = case.spec.dtype, case.spec.training.precision
    forms = precision.formats if precision is not None else {}
    if site.kind.startswith("d"):
        key = "gradients"
    elif site.kind in get_args(Signal) and site.kind != "v":
        key = "activations"
    elif site.kind in get_args(Parameter) and precision is not None and not precision.master:
        key = "weights"
    else:
        key = ""
    if precision is None or key not in forms:
        return dtype, float(np.finfo(dtype).max)
    largest = min(number_format(forms[key]).max, float(np.finfo(dtype).max))
    if key != "gradients" or precision.loss_scale in (1.0, DYNAMIC):  # whose least is 1
        return forms[key], largest
    return f"{forms[key]} at this loss scale", largest / float(precision.loss_scale)


def _largest_before(case: Case, record: Record, site: Site) -> float:
    largest = 0.0
    for other in computed(case.model):
        if other == site:
            break
        if other in record.summaries:
            largest = max(largest, record.summaries[other].max_abs)
    return largest


# --- learning rate


class _Promise(NamedTuple):
    """What came of the fall of a batch's loss that a step's gradient promised.

    Args:
        step: its number.
        rate: its learning rate.
        kept: actual over predicted change.
    """

    step: int
    rate: float
    kept: float


def _promises(case: Case) -> list[_Promise]:
    """Those of the steps where rounding leaves them a meaning."""
    return [
        _Promise(r.step, r.lr, r.actual / r.predicted)
        for r in case.clean
        if r.predicted is not None
        and r.actual is not None
        and abs(r.predicted) > 100.0 * case.unit * abs(r.loss)
    ]


def _medians(promises: list[_Promise]) -> tuple[float, float]:
    """Of the rate, and of what was kept; NaN and 1 if there are none."""
    if not promises:
        return math.nan, 1.0
    rates, kept = ([p.rate for p in promises], [p.kept for p in promises])
    return float(np.median(rates)), float(np.median(kept))


SHRINK = 0.25
"""Below this ratio of actual to promised change a trust region is shrunk (Nocedal & Wright 2006,
algorithm 4.1). On a quadratic it means a step of more than one and a half times the best one."""


def learning_rate_too_high(case: Case) -> Finding | None:
    """Steps raise the loss of their own batch; or lower it by far less than promised, in vain."""
    promises = _promises(case)
    opening = [p for p in promises if p.step < case.spec.measure.first]
    closing = promises[len(promises) // 2 :]
    # What blows up in the first steps may lie still later; what learns may overshoot a little.
    bounds = [(closing, 0.0)] if case.learns else [(closing, SHRINK), (opening, SHRINK)]
    for window, bound in bounds:
        rate, kept = _medians(window)
        if not kept >= bound:
            break
    else:
        return None
    raising = float(np.mean([not p.kept >= 0.0 for p in window]))
    first, last = window[0].step, window[-1].step
    return Finding(
        name="learning rate too high",
        severity="fatal" if not case.learns else "serious",
        layers=(),
        step=next(p.step for p in promises if not p.kept >= bound),
        evidence={
            "steps_that_raise_their_loss_share": raising,
            "actual_over_predicted_median": kept,
            "learning_rate": rate,
        },
        cause=(
            f"In steps {first} to {last}, at learning rates around {rate:.2g}, the loss of a "
            f"step's own batch changed by {kept:.2f} of what its gradient promised (median), and "
            f"{raising:.0%} of the steps raised it: they overshoot the minimum along the step."
        ),
        expectation="On a quadratic the ratio of actual to promised change is 1 − ½ of the step "
        f"over the best one: {SHRINK} at one and a half times the best step, 0 at twice.",
        disproof="Steps of a third of the size that keep no more of what they promise.",
    )


def learning_rate_too_low(case: Case) -> Finding | None:
    """The steps see no curvature, and lead too slowly to where the loss is low."""
    # The predicted fall per learning rate: a schedule changes the one as the other.
    slopes = [-r.predicted / r.lr for r in case.clean if r.predicted is not None]
    if not slopes or case.stopped == "diverged" or case.learned > 0.5:
        return None
    # Where rounding leaves no promise a meaning, steps are straight as far as one can see.
    judged = _promises(case) or [_Promise(r.step, r.lr, 1.0) for r in case.clean]
    # Where a schedule starts or ends near 0, steps are short whatever the learning rate.
    top = max(p.rate for p in judged)
    judged = [p for p in judged if p.rate >= 0.5 * top]
    rate, kept = _medians(judged[len(judged) // 2 :])
    curvature = 1.0 - kept
    room = 0.5 / curvature if curvature > 0.0 else math.inf
    promised = float(np.median(slopes)) * math.fsum(case.rates)
    short = not case.learns and promised < 0.5 * case.constant
    # Where some layers stand still beside others, it is not the learning rate that is too low.
    update = case.profiles[-1].update
    together = max(update) < min(update) * math.exp(TRAINABLE / 2.0)
    if room < 10.0 or not together or not (short or case.falling):
        return None
    return Finding(
        name="learning rate too low",
        severity="serious" if case.learns else "fatal",
        layers=(),
        step=case.clean[0].step,
        evidence={
            "longer_step_possible_factor": room,
            "actual_over_predicted_median": 1.0 - curvature,
            "promised_fall": promised,
            "learned_share": case.learned,
            "learning_rate": rate,
        },
        cause=(
            f"Over the whole run the steps promised a fall of the loss by {promised:.2g}, of "
            f"{case.constant:.2g} that can be learned; and along steps at learning rates around "
            f"{rate:.2g} the loss is straight to {abs(curvature):.1%}, so they can be "
            f"{_times(room)} longer."
        ),
        expectation="On a quadratic the ratio of actual to predicted change is 1 − ½ of the step "
        "over the best one.",
        disproof="A run at ten times the learning rate that ends no lower.",
    )


def _times(room: float) -> str:
    return f"about {room:.0f} times" if room < 1000.0 else "over 1000 times"


# --- learning


def no_learning(case: Case) -> Finding | None:
    """The loss ends no lower than that of a constant output, and has stopped falling."""
    if case.learns or (case.stopped in ("finished", "early") and case.falling):
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
        disproof="A closing loss below that of a constant output by more than two standard errors, "
        "now or after a longer run.",
    )
