"""Cures: edits of the spec, and the trials that tell which of them works."""

from isograd.remedy.candidates import Candidate, candidates, random_edit
from isograd.remedy.trials import Arm, Effect, Prescription, Trial, prescribe

__all__ = [
    "Arm",
    "Candidate",
    "Effect",
    "Prescription",
    "Trial",
    "candidates",
    "prescribe",
    "random_edit",
]
