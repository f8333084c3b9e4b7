"""The report for programs; the schema is described in docs/json.md and changes with its number."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import msgspec

from isograd._version import __version__
from isograd.diagnosis import Diagnosis
from isograd.diagnosis.check import Check
from isograd.remedy import Arm, Effect
from isograd.report.doctor import Report
from isograd.training.folder import StoredRun
from isograd.training.loop import Outcome

if TYPE_CHECKING:
    from isograd.backends.llvm.profile import Profile

SCHEMA = 1


def dumps(kind: str, content: dict[str, Any]) -> str:
    """JSON text of an answer; a number that is not finite is null, as JSON has none.

    Args:
        kind: the command that answers.
        content: its fields.
    """
    envelope = {"isograd": __version__, "schema": SCHEMA, "kind": kind, **content}
    return json.dumps(_plain(envelope), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def report(r: Report) -> dict[str, Any]:
    """Fields of `isograd doctor --json`."""
    out: dict[str, Any] = {
        "spec": r.name,
        "seconds": r.seconds,
        "rows": {"train": r.rows[0], "test": r.rows[1]},
        "outcome": outcome(r.outcome),
        "diagnosis": diagnosis(r.diagnosis),
        "trials": None,
        "patch": r.patch or None,
    }
    if r.prescription is not None:
        p = r.prescription
        out["trials"] = {
            "steps": p.steps,
            "no_change": _arm(r, p.none),
            "random_change": _arm(r, p.random),
            "cures": [_arm(r, a) for a in p.cures],
            "recommended": p.recommended.name if p.recommended else None,
            "reason": p.reason,
            "interrupted": p.interrupted,
        }
    return out


def check(c: Check) -> dict[str, Any]:
    """Fields of `isograd check --json`."""
    m, plan = c.measured, c.precision
    return {
        "verdict": c.verdict,
        "reason": c.reason,
        "items": [dataclasses.asdict(item) for item in c.items],
        "layers": c.model.depth,
        "parameters": c.model.parameter_count,
        "flops": {"forward": c.flops.forward, "backward": c.flops.backward},
        "measured": {
            "rows": m.rows,
            "lr": m.lr,
            "loss": m.loss,
            "loss_after": m.after,
            "profile": dataclasses.asdict(m.profile),
        }
        if m
        else None,
        "expectation": dataclasses.asdict(c.expected),
        "step_size": dataclasses.asdict(c.step_size) if c.step_size else None,
        "precision": {
            "groups": [
                {**dataclasses.asdict(g), "form": g.form.name, "text": str(g)} for g in plan.groups
            ],
            "loss_scale_log2": plan.loss_scale.log2 if plan.loss_scale else None,
        }
        if plan
        else None,
        "notes": c.notes,
    }


def timing(p: Profile | None) -> dict[str, Any] | None:
    """Where the time of a step goes."""
    if p is None:
        return None
    return {
        "seconds": p.seconds,
        "threads": p.threads,
        "peak_flops_per_second": p.peak,
        "kernels": [dataclasses.asdict(line) for line in p.lines],
    }


def outcome(o: Outcome) -> dict[str, Any]:
    """How a run ended."""
    return {
        "stopped": o.stopped,
        "steps": len(o.telemetry.records),
        "skipped": o.skipped,
        "seconds": o.seconds,
        "telemetry_seconds": o.telemetry_seconds,
        "steps_per_second": o.steps_per_second,
        "backend": o.backend,
        "layers": o.model.depth,
        "parameters": o.model.parameter_count,
        "train": dataclasses.asdict(o.train),
        "test": dataclasses.asdict(o.test),
        "validation": dataclasses.asdict(o.validation) if o.validation else None,
    }


def run(r: StoredRun) -> dict[str, Any]:
    """A run in its folder: where, how far, and how it ended."""
    return {
        "run": str(r.path),
        "steps": len(r.telemetry.records),
        "result": r.result,
        "resumable": r.resumable,
    }


def diagnosis(d: Diagnosis) -> dict[str, Any]:
    """Verdict, findings, profile, budget and expectation."""
    return {
        "verdict": d.verdict,
        "reason": d.reason,
        "learned": d.learned,
        "findings": [{**dataclasses.asdict(f), "first_layer": f.first_layer} for f in d.findings],
        "profile": dataclasses.asdict(d.profile) if d.profile else None,
        "late_profile": dataclasses.asdict(d.late) if d.late else None,
        "budget": {
            "step": d.budget.step,
            "layers": [{**dataclasses.asdict(g), "total": g.total} for g in d.budget.layers],
        }
        if d.budget
        else None,
        "expectation": dataclasses.asdict(d.expectation),
    }


def _arm(r: Report, a: Arm) -> dict[str, Any]:
    return {
        "name": a.name,
        "why": a.why,
        "lines": a.size,
        "patches": r.patches(a),
        "spec": msgspec.to_builtins(a.spec),
        "refused": a.refused or None,
        "trials": [dataclasses.asdict(t) for t in a.trials],
        "over_no_change": _effect(a.over_none),
        "over_random_change": _effect(a.over_random),
        "finding_gone": a.gone,
        "helps": a.helps,
    }


def _effect(e: Effect | None) -> dict[str, Any] | None:
    return None if e is None else {**dataclasses.asdict(e), "clear": e.clear}
