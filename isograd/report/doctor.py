"""The doctor: train, diagnose, try cures, and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isograd.diagnosis import Diagnosis, examine
from isograd.diagnosis.gradient_scale import scale_at_start
from isograd.diagnosis.step_size import step_size_at_start
from isograd.nn.spec import Spec
from isograd.nn.toml import diff, dumps, patch
from isograd.remedy import Arm, Prescription, candidates, prescribe
from isograd.training.data import Split
from isograd.training.loop import Outcome, Progress, fit
from isograd.training.start import load_split


@dataclass(frozen=True)
class Report:
    """What the doctor found and tried.

    Attributes:
        name: of the spec.
        text: the spec's TOML.
        outcome: the run that was examined.
        rows: (training, test) rows.
        diagnosis: of that run.
        prescription: the trials; None if the network is not sick, or no trials were asked for.
        cured: TOML of the recommended spec; None without one.
        seconds: wall time in all.
    """

    name: str
    text: str
    outcome: Outcome
    rows: tuple[int, int]
    diagnosis: Diagnosis
    prescription: Prescription | None
    cured: str | None
    seconds: float

    @property
    def patch(self) -> str:
        """The recommended edit as a diff of the TOML; empty without one."""
        return diff(self.text, self.cured, self.name) if self.cured is not None else ""

    def patches(self, arm: Arm) -> tuple[str, ...]:
        """The edits of an arm as diffs of the TOML: one; one per seed of the random control."""
        spec = self.outcome.spec
        edited = [s for s in arm.draws or (arm.spec,) if s != spec]
        return tuple(diff(self.text, patch(self.text, spec, s), self.name) for s in edited)


def doctor(
    spec: Spec,
    *,
    text: str | None = None,
    name: str = "spec.toml",
    base: Path | None = None,
    split: Split | None = None,
    trials: bool = True,
    seeds: int = 3,
    jobs: int = -1,
    backend: str | None = None,
    threads: int | None = None,
    on_train: Callable[[Progress], None] | None = None,
    on_diagnosis: Callable[[Outcome, Diagnosis], None] | None = None,
    on_trial: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Train a spec, say why it does not train, and prove what cures it.

    Args:
        spec: what to examine.
        text: its TOML, so that the patch keeps its comments; by default it is written anew.
        name: what the patch calls it.
        base: the folder that relative data paths start from.
        split: the data, where they are arrays of the caller's; by default those of the spec.
        trials: whether to try cures on a sick network.
        seeds: runs per arm of the trials, at least 3.
        jobs: processes for the trials; −1 takes one per core.
        backend, threads: as for `fit`; the trials take one thread each.
        on_train, on_diagnosis, on_trial: told how far it is.

    Returns:
        The report. Its verdict can be healthy, and it can say that no cure helps.

    Raises:
        IsogradError: if spec or data cannot be used.
    """
    start = time.perf_counter()
    text = dumps(spec) if text is None else text
    if split is None:
        split = load_split(spec, base)
    outcome = fit(spec, split, progress=on_train, backend=backend, threads=threads)
    diagnosis = examine(outcome, split)
    if on_diagnosis is not None:
        on_diagnosis(outcome, diagnosis)
    prescription, cured = None, None
    if trials and diagnosis.verdict == "sick" and outcome.stopped != "interrupted":
        sizes, scale = step_size_at_start(spec, split), scale_at_start(spec, split)
        edits = candidates(spec, diagnosis, outcome.model.n_in, sizes, scale)
        prescription = prescribe(outcome, split, edits, seeds=seeds, jobs=jobs, progress=on_trial)
        if prescription.recommended is not None:
            cured = patch(text, spec, prescription.recommended.spec)
    return Report(
        name=name,
        text=text,
        outcome=outcome,
        rows=(len(split.X_train), len(split.X_test)),
        diagnosis=diagnosis,
        prescription=prescription,
        cured=cured,
        seconds=time.perf_counter() - start,
    )


__all__ = ["Report", "doctor"]
