"""What is wrong with a run, in which layers, since when, and why."""

from isograd.diagnosis.budget import Budget, LayerGain, gain_budget
from isograd.diagnosis.case import Case
from isograd.diagnosis.diagnose import diagnose, examine
from isograd.diagnosis.findings import Diagnosis, Expectation, Finding, Profile
from isograd.diagnosis.lyapunov import network_lyapunov
from isograd.diagnosis.step_size import StepSize, step_size

__all__ = [
    "Budget",
    "Case",
    "Diagnosis",
    "Expectation",
    "Finding",
    "LayerGain",
    "Profile",
    "StepSize",
    "diagnose",
    "examine",
    "gain_budget",
    "network_lyapunov",
    "step_size",
]
