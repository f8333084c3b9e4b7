"""Train deep feedforward networks, say why one does not train, and prove what cures it."""

from isograd._version import __version__
from isograd.engine import (
    ArraySpec,
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

__all__ = [
    "ArraySpec",
    "IsogradError",
    "__version__",
    "functions",
    "grad",
    "hvp",
    "jacobian",
    "jvp",
    "stop_gradient",
    "trace",
    "value_and_grad",
    "vjp",
]
