"""Train deep feedforward networks, say why one does not train, and prove what cures it."""

from isograd import nn
from isograd._version import __version__
from isograd.backends.compile import compile
from isograd.engine import (
    ArraySpec,
    evaluate,
    functions,
    grad,
    hvp,
    jacobian,
    jvp,
    stop_gradient,
    trace,
    value_and_grad,
    vjp,
)
from isograd.errors import IsogradError
from isograd.nn.toml import load as load_spec
from isograd.report import check, doctor
from isograd.training.data import from_arrays
from isograd.training.loop import fit
from isograd.training.scores import predict
from isograd.training.sweep import sweep as map

__all__ = [
    "ArraySpec",
    "IsogradError",
    "__version__",
    "check",
    "compile",
    "doctor",
    "evaluate",
    "fit",
    "from_arrays",
    "functions",
    "grad",
    "hvp",
    "jacobian",
    "jvp",
    "load_spec",
    "map",
    "nn",
    "predict",
    "stop_gradient",
    "trace",
    "value_and_grad",
    "vjp",
]
