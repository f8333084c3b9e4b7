"""From a run to a verdict."""

from __future__ import annotations

from isograd.diagnosis.case import Case
from isograd.diagnosis.findings import Diagnosis, Finding, Verdict
from isograd.diagnosis.rules import RULES
from isograd.nn.losses import constant_loss
from isograd.training.data import Split
from isograd.training.loop import Outcome

_GRAVITY = {"fatal": 0, "serious": 1, "minor": 2}


def examine(outcome: Outcome, split: Split) -> Diagnosis:
    """Diagnose a run that has just ended; see `diagnose`."""
    spec, rows = outcome.spec, len(split.X_train)
    return diagnose(
        Case(
            spec=spec,
            model=outcome.model,
            telemetry=outcome.telemetry,
            constant=constant_loss(spec.network.loss, split.y_train),
            rows=rows,
            stopped=outcome.stopped,
            fitted=outcome.train.loss,
        )
    )


def diagnose(case: Case) -> Diagnosis:
    """From what a run measured to a verdict.

    Args:
        case: the run, whether it has just ended or was read from its folder.

    Returns:
        *sick* if a finding is fatal or serious; *unknown* if less than one epoch or three measured
        steps are there to judge by, or nothing was found and yet less than half of what a constant
        output leaves was learned; *healthy* else.
    """
    findings: list[Finding] = []
    if case.enough:
        found = (rule(case) for rule in RULES)
        findings = sorted((f for f in found if f), key=lambda f: _GRAVITY[f.severity])
    verdict, reason = _verdict(case, findings)
    return Diagnosis(
        verdict=verdict,
        reason=reason,
        findings=tuple(findings),
        profile=case.profiles[0] if case.profiles else None,
        late=case.profiles[-1] if case.profiles else None,
        budget=case.budget(case.measured[0].step) if case.measured else None,
        expectation=case.expectation,
        learned=case.learned,
    )


def _verdict(case: Case, findings: list[Finding]) -> tuple[Verdict, str]:
    if not case.enough:
        return "unknown", (
            f"{len(case.telemetry.records)} steps, {len(case.clean)} of them measured: a verdict "
            f"needs {case.steps_per_epoch} (one epoch) and 3"
        )
    grave = [f.name for f in findings if f.severity != "minor"]
    if grave:
        return "sick", ", ".join(grave)
    if case.learned < 0.5:
        why = "the loss no longer falls: the data may hold no more, or no rule sees the cause"
        if case.falling:
            why = "the loss is still falling: train longer"
        share = f"{case.learned:.0%} of what a constant output leaves"
        return "unknown", f"nothing was found, but it learned only {share}, and {why}"
    return "healthy", f"it learned {case.learned:.0%} of what a constant output leaves"
