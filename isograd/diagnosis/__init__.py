"""What is wrong with a run, in which layers, since when, and why."""

from isograd.diagnosis.budget import Budget, LayerGain, gain_budget
from isograd.diagnosis.case import Case
from isograd.diagnosis.diagnose import diagnose, examine
from isograd.diagnosis.findings import Diagnosis, Expectation, Finding, Profile
from isograd.diagnosis.lyapunov import network_lyapunov
from isograd.diagnosis.precision import precision_plan
from isograd.diagnosis.shadow import Shadow, error_bounds, shadow_step
from isograd.diagnosis.step_size import StepSize, step_size

__all__ = [
    "Budget",
    "Case",
    "Diagnosis",
    "Expectation",
    "Finding",
    "LayerGain",
    "Profile",
    "Shadow",
    "StepSize",
    "diagnose",
    "error_bounds",
    "examine",
    "gain_budget",
    "network_lyapunov",
    "precision_plan",
    "shadow_step",
    "step_size",
]
