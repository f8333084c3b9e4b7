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
from isograd.theory.formats import (
    Limits,
    LossScale,
    Shares,
    layers_until_zero,
    limits,
    loss_scale,
    shares,
)
from isograd.theory.forward_error import DenseLayer, LayerBound, forward_error
from isograd.theory.free_products import RandomLayer, Weights
from isograd.theory.gradients import Gradient, backward
from isograd.theory.jacobian import Jacobian, linearise, singular_values
from isograd.theory.lanczos import Bounded, JacobianSpectrum, spectrum
from isograd.theory.lyapunov import Lyapunov, gaussian_exponents, lyapunov
from isograd.theory.magnitudes import sizes
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
from isograd.theory.pairs import expectation2
from isograd.theory.precision import PrecisionPlan
from isograd.theory.precision import plan as precision_plan
from isograd.theory.propagation import forward
from isograd.theory.quadrature import (
    Phi,
    expectation,
    expectations,
)
from isograd.theory.rounding import (
    expected_growth,
    gamma,
    gamma_probable,
    logsumexp_condition,
    softmax_condition,
    softmax_jacobian_norm,
)
from isograd.theory.self_normalising import (
    Normalised,
    normalising_fixed_point,
    normalising_map,
)
from isograd.theory.shadow import SiteError, shadow
from isograd.theory.sharpness import (
    Sharpness,
    alternating_gain,
    safe_learning_rate,
    sharpness,
    stability_limit,
    steady_gain,
)
from isograd.theory.signals import (
    Dropout,
    Elementwise,
    Linear,
    Normalise,
    Scale,
    Signal,
    SkipCloses,
    SkipOpens,
    Step,
    Unknown,
    signal,
)
from isograd.theory.spectra import PredictedSpectrum, equal_layers, predicted_spectrum
from isograd.theory.tensors import ShareRow, Tensor, share_table
from isograd.theory.updates import (
    AdamEpsilon,
    UpdatesLost,
    adam_epsilon,
    rounded_away,
    updates_lost,
)

__all__ = [
    "CONVENTIONS",
    "AdamEpsilon",
    "Bounded",
    "Convention",
    "Critical",
    "DenseLayer",
    "Dropout",
    "Elementwise",
    "FixedPoint",
    "FixedPoints",
    "Flops",
    "Gradient",
    "Jacobian",
    "JacobianSpectrum",
    "LayerBound",
    "Limits",
    "Linear",
    "LossScale",
    "Lyapunov",
    "MeanField",
    "Moments",
    "Normalise",
    "Normalised",
    "OverDepth",
    "Phi",
    "PhiLike",
    "PrecisionPlan",
    "PredictedSpectrum",
    "RandomLayer",
    "Scale",
    "ShareRow",
    "Shares",
    "Sharpness",
    "Signal",
    "SiteError",
    "SkipCloses",
    "SkipOpens",
    "Step",
    "Tensor",
    "Unknown",
    "UpdatesLost",
    "Weights",
    "WidthScaling",
    "adam_epsilon",
    "alternating_gain",
    "backward",
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
    "expected_growth",
    "fixed_points",
    "forward",
    "forward_error",
    "forward_gain",
    "gamma",
    "gamma_probable",
    "gaussian_exponents",
    "half_stable",
    "layers_until_zero",
    "length_map",
    "limit_q",
    "limits",
    "linearise",
    "log_norm",
    "log_norm_spread",
    "log_ratio",
    "logsumexp_condition",
    "loss_scale",
    "lyapunov",
    "mean_field",
    "mlp_flops",
    "moments",
    "normalising_fixed_point",
    "normalising_map",
    "over_depth",
    "phi_of",
    "precision_plan",
    "predicted_spectrum",
    "rounded_away",
    "safe_learning_rate",
    "shadow",
    "share_table",
    "shares",
    "sharpness",
    "signal",
    "singular_values",
    "sizes",
    "softmax_condition",
    "softmax_jacobian_norm",
    "spectrum",
    "stability_limit",
    "stable_correlation",
    "std_gain",
    "steady_gain",
    "torch_gain",
    "updates_lost",
    "width_scaling",
]
