"""What should happen: mean field, criticality, and the spread that a finite width adds.

Works on activations as functions of an array (`Phi`); knows nothing of specs and networks.
"""

from isograd.theory.activation import PhiLike, check_derivative, phi_of
from isograd.theory.conventions import (
    CONVENTIONS,
    Convention,
    OverDepth,
    WidthScaling,
    over_depth,
    torch_gain,
    width_scaling,
)
from isograd.theory.cost import Flops, mlp_flops
from isograd.theory.criticality import Critical, correlation_decay, critical, half_stable
from isograd.theory.finite_width import log_norm, log_norm_spread, log_ratio
from isograd.theory.fixed_points import FixedPoint, FixedPoints, fixed_points, limit_q
from isograd.theory.lyapunov import Lyapunov, gaussian_exponents, lyapunov
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
    expectation,
    expectation2,
    expectations,
)
from isograd.theory.self_normalising import (
    Normalised,
    normalising_fixed_point,
    normalising_map,
)
from isograd.theory.sharpness import (
    Sharpness,
    alternating_gain,
    safe_learning_rate,
    sharpness,
    stability_limit,
    steady_gain,
)
from isograd.theory.spectra import (
    PredictedSpectrum,
    RandomLayer,
    equal_layers,
    predicted_spectrum,
)

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Critical",
    "FixedPoint",
    "FixedPoints",
    "Flops",
    "Lyapunov",
    "MeanField",
    "Moments",
    "Normalised",
    "OverDepth",
    "Phi",
    "PhiLike",
    "PredictedSpectrum",
    "RandomLayer",
    "Sharpness",
    "WidthScaling",
    "alternating_gain",
    "backward_gain",
    "check_derivative",
    "chi",
    "correlation_decay",
    "correlation_map",
    "correlation_slope",
    "critical",
    "depth_scale",
    "equal_layers",
    "expectation",
    "expectation2",
    "expectations",
    "fixed_points",
    "forward_gain",
    "gaussian_exponents",
    "half_stable",
    "length_map",
    "limit_q",
    "log_norm",
    "log_norm_spread",
    "log_ratio",
    "lyapunov",
    "mean_field",
    "mlp_flops",
    "moments",
    "normalising_fixed_point",
    "normalising_map",
    "over_depth",
    "phi_of",
    "predicted_spectrum",
    "safe_learning_rate",
    "sharpness",
    "stability_limit",
    "stable_correlation",
    "std_gain",
    "steady_gain",
    "torch_gain",
    "width_scaling",
]
