"""What should happen: mean field, criticality, and the spread that a finite width adds.

Works on plain NumPy callables (`Phi`) and imports nothing else of the package.
"""

from isograd.theory.criticality import Critical, correlation_decay, critical, half_stable
from isograd.theory.finite_width import log_norm, log_norm_spread, log_ratio
from isograd.theory.fixed_points import FixedPoint, FixedPoints, fixed_points, limit_q
from isograd.theory.mean_field import (
    MeanField,
    correlation_map,
    correlation_slope,
    depth_scale,
    mean_field,
    stable_correlation,
)
from isograd.theory.moments import (
    Moments,
    backward_gain,
    chi,
    forward_gain,
    length_map,
    moments,
    std_gain,
)
from isograd.theory.quadrature import (
    Phi,
    check_derivative,
    expectation,
    expectation2,
    expectations,
)

__all__ = [
    "Critical",
    "FixedPoint",
    "FixedPoints",
    "MeanField",
    "Moments",
    "Phi",
    "backward_gain",
    "check_derivative",
    "chi",
    "correlation_decay",
    "correlation_map",
    "correlation_slope",
    "critical",
    "depth_scale",
    "expectation",
    "expectation2",
    "expectations",
    "fixed_points",
    "forward_gain",
    "half_stable",
    "length_map",
    "limit_q",
    "log_norm",
    "log_norm_spread",
    "log_ratio",
    "mean_field",
    "moments",
    "stable_correlation",
    "std_gain",
]
