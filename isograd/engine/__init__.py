"""Graphs of arrays and their derivatives; knows nothing of networks."""

from isograd.engine import functions, rules
from isograd.engine.autodiff import grad, hvp, jacobian, jvp, value_and_grad, vjp
from isograd.engine.functions import probe, stop_gradient
from isograd.engine.graph import ArraySpec, Graph
from isograd.engine.ops import Op
from isograd.engine.trace import evaluate, trace

__all__ = [
    "ArraySpec",
    "Graph",
    "Op",
    "evaluate",
    "functions",
    "grad",
    "hvp",
    "jacobian",
    "jvp",
    "probe",
    "rules",
    "stop_gradient",
    "trace",
    "value_and_grad",
    "vjp",
]
