"""The rules: each looks at the case and says what it finds, or nothing.

No rule compares a size with a fixed number. Rules on depth ask whether the network is deeper than
the depth that its own measured gain lets train (6 ξ, Schoenholz et al. 2017); rules on the
learning rate ask whether a step does what its own gradient promised (the trust-region ratio,
Nocedal & Wright 2006, ch. 4); rules on learning compare with a constant output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from isograd.diagnosis.case import TRAINABLE, Case, log
from isograd.diagnosis.findings import Expectation, Finding, Profile, Severity
from isograd.nn.activations import largest_slope
from isograd.nn.model import Part, Place
from isograd.nn.spec import Activation
from isograd.telemetry.records import Record, Site

Rule = Callable[[Case], Finding | None]

_LN10 = math.log(10.0)


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
                expectation=_theory(case.expectation),
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
            expectation=_theory(case.expectation),
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


# --- signals across depth


def _severity(case: Case, starved: bool) -> Severity:
    if not case.learns:
        return "fatal"
    return "serious" if starved else "minor"


def vanishing_gradient(case: Case) -> Finding | None:
    """The error signal fades on its way down over more layers than can be trained."""
    return _gradient(case, -1.0, "vanishing gradient")


def exploding_gradient(case: Case) -> Finding | None:
    """The error signal grows on its way down over more layers than can be trained."""
    return _gradient(case, 1.0, "exploding gradient")


_Array = NDArray[np.float64]


def _gradient(case: Case, sign: float, name: str) -> Finding | None:
    if case.model.depth < 3:
        return None

    def changes(p: Profile) -> _Array:
        """ln ‖δ^l‖² − ln ‖δ^L‖², positive where it changed in the sense of `sign`."""
        level = 2.0 * log(p.delta)
        return sign * (level - level[-1]) if math.isfinite(level[-1]) else np.zeros(len(level))

    step = case.since(lambda p: bool(changes(p)[0] > TRAINABLE))
    if step is None:
        return None
    at = next(p for p in case.profiles if p.step == step)
    change = changes(at)
    layers = tuple(int(i) + 1 for i in np.flatnonzero(change > TRAINABLE))
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
    decades = float(sign * change[0]) / 2.0 / _LN10
    gain = decades / depth
    evidence = {
        "decades_over_depth": decades,
        "decades_per_layer": gain,
        "depth_scale_layers": depth / float(change[0]),
        "trainable_depth_layers": TRAINABLE * depth / float(change[0]),
        "depth_layers": float(case.model.depth),
        "delta_norm_layer_1": at.delta[0],
        "delta_norm_last_layer": at.delta[-1],
        "relative_update_layers_concerned": rate,
        "relative_update_last_layer": top,
    }
    mean = case.budget.mean() if case.budget else None
    if mean is not None:
        evidence |= {
            "budget_weights_decades": mean.weights,
            "budget_activation_decades": mean.activation,
            "budget_normalisation_decades": mean.normalisation,
            "budget_residual_decades": mean.residual,
        }
    lost = "smaller" if sign < 0 else "larger"
    return Finding(
        name=name,
        severity=_severity(case, starved),
        layers=layers,
        step=step,
        evidence=evidence,
        cause=_budget_text(case, gain),
        expectation=_theory(case.expectation),
        disproof=(
            f"‖δ‖ at layer 1 within e^{TRAINABLE / 2:.0f} of that at layer {case.model.depth} "
            f"(it is {abs(decades):.1f} decades {lost}), or training just as poor once it is."
        ),
    )


def _budget_text(case: Case, gain: float) -> str:
    """Of so many decades per layer, so much from each part."""
    mean = case.budget.mean() if case.budget else None
    if mean is None:
        return (
            f"{gain:+.2f} decades per layer; the error signal is exactly 0 below the top, so it "
            "cannot be split into parts."
        )
    shares = [
        ("φ′" + _slope_bound(case), mean.activation, Part.ACTIVATION),
        ("the weights", mean.weights, Part.WEIGHTS),
        ("normalisation", mean.normalisation, Part.NORMALISATION),
        ("skip connections", mean.residual, Part.SKIP_OPENS),
    ]
    present = {p.part for p in case.model.places}
    text = ", ".join(f"{x:+.2f} from {what}" for what, x, part in shares if part in present)
    return f"Of {mean.total:+.2f} decades per layer: {text}."


def _slope_bound(case: Case) -> str:
    names = {p.spec for p in case.model.places if isinstance(p.spec, Activation)}
    if len(names) != 1:
        return ""
    (layer,) = names
    return f" of {layer.name} (never above {largest_slope(layer):.3g})"


def _theory(e: Expectation) -> str:
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


def vanishing_signal(case: Case) -> Finding | None:
    """What of the pre-activations depends on the input fades on its way up."""

    def fades(p: Profile) -> bool:
        level = 2.0 * log(p.signal)
        return bool(level[0] - level[-1] > TRAINABLE)

    step = case.since(fades) if case.model.depth >= 3 else None
    if step is None:
        return None
    at = next(p for p in case.profiles if p.step == step)
    level = 2.0 * log(at.signal)
    layers = tuple(int(i) + 1 for i in np.flatnonzero(level[0] - level > TRAINABLE))
    decades = float(level[-1] - level[0]) / 2.0 / _LN10
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
        severity=_severity(case, starved=False),
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
        expectation=_theory(case.expectation),
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
        level = 2.0 * log(p.scale[:-1])  # the output's scale is what is learned
        change: _Array = level - level[0]
        return change

    step = case.since(lambda p: bool(growth(p)[-1] > TRAINABLE))
    if step is None:
        return None
    at = next(p for p in case.profiles if p.step == step)
    change = growth(at)
    decades = float(change[-1]) / 2.0 / _LN10
    return Finding(
        name="exploding signal",
        severity=_severity(case, starved=False),
        layers=tuple(int(i) + 1 for i in np.flatnonzero(change > TRAINABLE)),
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
        expectation=_theory(case.expectation),
        disproof=f"Pre-activations of layer {case.model.depth - 1} within e^{TRAINABLE / 2:.0f} "
        "of those of layer 1, or training just as poor once they are.",
    )


# --- units


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
        expectation=_theory(case.expectation),
        disproof="Rows of the training data that switch more of these units on.",
    )


def saturated_units(case: Case) -> Finding | None:
    """Bounded units that sit on their plateaus: most of a layer, most of the time."""
    cut, worst = _units(case, rectifying=False)
    if not cut:
        return None
    return Finding(
        name="saturated units",
        severity=_severity(case, starved=False),
        layers=tuple(cut),
        step=case.clean[len(case.clean) // 2].step,
        evidence={"saturated_share": worst[1], "units": worst[2]},
        cause=(
            f"In layer {worst[0]:.0f}, {worst[1]:.0%} of the values lie where |φ′| is below 1 % "
            "of its largest: less than a hundredth of the error signal passes there."
        ),
        expectation=_theory(case.expectation),
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


RULES: tuple[Rule, ...] = (
    non_finite,
    vanishing_gradient,
    exploding_gradient,
    vanishing_signal,
    exploding_signal,
    dead_units,
    saturated_units,
    learning_rate_too_high,
    learning_rate_too_low,
    no_learning,
)
