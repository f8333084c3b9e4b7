"""What common initialisers mean as σ_w², over depth, and how scales go with width.

σ_w² = fan_in · Var W is what mean field speaks of; libraries speak of gains, bounds and modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from isograd.errors import TheoryError, nearest
from isograd.theory.activation import PhiLike, phi_of
from isograd.theory.moments import moments
from isograd.theory.quadrature import check_variance

TORCH_LEAKY_SLOPE = 0.01


def torch_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain that PyTorch recommends: `torch.nn.init.calculate_gain`.

    A kaiming or "fan_in" initialiser with gain g has σ_w² = g². That of tanh, 5/3, lies in the
    chaotic phase (χ₁ = 1.21); that of SELU, 3/4, does not keep SELU's fixed point, which needs 1.

    Args:
        nonlinearity: linear, conv1d … conv3d, sigmoid, tanh, relu, leaky_relu or selu.
        param: of leaky_relu, the slope below 0; 0.01 if not given.

    References: PyTorch, torch/nn/init.py, `calculate_gain`.
    """
    table = {
        "linear": 1.0,
        "conv1d": 1.0,
        "conv2d": 1.0,
        "conv3d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3.0,
        "relu": math.sqrt(2.0),
        "selu": 3.0 / 4.0,
    }
    if nonlinearity == "leaky_relu":
        slope = TORCH_LEAKY_SLOPE if param is None else param
        return math.sqrt(2.0 / (1.0 + slope**2))
    if nonlinearity not in table:
        raise TheoryError(
            "a gain must be one of PyTorch's table",
            came=repr(nonlinearity),
            fix=nearest(nonlinearity, [*table, "leaky_relu"]),
        )
    return table[nonlinearity]


@dataclass(frozen=True)
class Convention:
    """An initialiser that is usual.

    Attributes:
        name: of it.
        text: the law of a weight.
        source: where it comes from.
        variance: (fan_in, fan_out) -> Var W.
    """

    name: str
    text: str
    source: str
    variance: Callable[[int, int], float]

    def sigma_w2(self, fan_in: int, fan_out: int | None = None) -> float:
        """σ_w² = fan_in · Var W; fan_out is fan_in if not given."""
        return fan_in * self._variance(fan_in, fan_out)

    def bound(self, fan_in: int, fan_out: int | None = None) -> float:
        """a = √(3 Var W): half the width of a uniform law with this variance."""
        return math.sqrt(3.0 * self._variance(fan_in, fan_out))

    def std(self, fan_in: int, fan_out: int | None = None) -> float:
        """√Var W."""
        return math.sqrt(self._variance(fan_in, fan_out))

    def _variance(self, fan_in: int, fan_out: int | None) -> float:
        fan_out = fan_in if fan_out is None else fan_out
        for what, width in (("fan_in", fan_in), ("fan_out", fan_out)):
            if width < 1:
                raise TheoryError(f"{what} must be at least 1", came=repr(width), where=self.name)
        return self.variance(fan_in, fan_out)


CONVENTIONS: dict[str, Convention] = {
    convention.name: convention
    for convention in (
        Convention(
            "heuristic",
            "U(−1/√fan_in, 1/√fan_in)",
            "the heuristic of Glorot & Bengio 2010, eq. 1",
            lambda n, _: 1.0 / (3.0 * n),
        ),
        Convention(
            "torch_linear",
            "kaiming_uniform, a = √5: U(−1/√fan_in, 1/√fan_in)",
            "PyTorch, torch/nn/modules/linear.py, `reset_parameters`",
            lambda n, _: torch_gain("leaky_relu", math.sqrt(5.0)) ** 2 / n,
        ),
        Convention("lecun", "variance 1/fan_in", "LeCun et al. 1998, eq. 16", lambda n, _: 1.0 / n),
        Convention(
            "glorot",
            "variance 2/(fan_in + fan_out): U(−a, a), a = √(6/(fan_in + fan_out))",
            "Glorot & Bengio 2010, eq. 16",
            lambda n, m: 2.0 / (n + m),
        ),
        Convention("he", "variance 2/fan_in", "He et al. 2015, eq. 10", lambda n, _: 2.0 / n),
    )
}


@dataclass(frozen=True)
class OverDepth:
    """What L layers of one kind do, at infinite width.

    Attributes:
        q: variances of the pre-activations after each layer; 0 and inf beyond 10^±200.
        log_signal: ln(q_L/q₀).
        log_gradient: ln of the factor on E δ² back over the L layers, Σ ln χ₁(q_l).
    """

    q: tuple[float, ...]
    log_signal: float
    log_gradient: float


def over_depth(
    phi: PhiLike, sw2: float, layers: int, *, sb2: float = 0.0, q0: float = 1.0
) -> OverDepth:
    """What an initialiser does to signal and gradient over L layers of φ.

    Layer by layer q ↦ σ_w² E φ² + σ_b², and E δ² gains the factor σ_w² E φ′² on its way back
    through the same layer. In logarithms, which do not underflow.

    Args:
        phi: the activation.
        sw2: σ_w².
        layers: L.
        sb2: σ_b².
        q0: variance of the pre-activations that enter, above 0.

    Raises:
        TheoryError: a variance is not one, or an integral does not converge.

    References: Glorot & Bengio 2010, eqs. 5–11; He et al. 2015, sec. 2.2; Poole et al. 2016, eq. 3.
    """
    phi, sw2, sb2 = phi_of(phi), check_variance(sw2, "σ_w²"), check_variance(sb2, "σ_b²")
    q = check_variance(q0, "q₀")
    if not q > 0:
        raise TheoryError("q₀ must be above 0", came=repr(q0))
    seen, log_signal, log_gradient = [], 0.0, 0.0
    for _ in range(layers):
        m = moments(phi, q)
        v = sw2 * m.second + sb2
        log_gradient += _log(sw2 * m.slope)
        log_signal += _log(v / q)
        seen.append(0.0 if v <= _TINY else math.inf if v >= _HUGE else v)
        if v == 0:
            log_gradient += (layers - len(seen)) * _log(sw2 * moments(phi, 0.0).slope)
            seen += [0.0] * (layers - len(seen))
            break
        # Out there φ is homogeneous, or the averages are refused: the factors stay.
        q = min(max(v, _TINY), _HUGE)
    return OverDepth(tuple(seen), log_signal, log_gradient)


_TINY, _HUGE = 1e-200, 1e200


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


Role = Literal["input", "hidden", "output", "bias"]


@dataclass(frozen=True)
class WidthScaling:
    """How a parameter's scales go with width, up to constants.

    Attributes:
        init_variance: of its elements at the start.
        sgd: factor of the learning rate of SGD.
        adam: factor of the learning rate of Adam.
    """

    init_variance: float
    sgd: float
    adam: float


def width_scaling(role: Role, fan_in: int, fan_out: int, *, mup: bool = True) -> WidthScaling:
    """Scales with width in the maximal update parametrisation (μP), or in the standard one.

    |                        | input weights, biases | hidden weights | output weights  |
    |------------------------|-----------------------|----------------|-----------------|
    | variance at the start  | 1/fan_in              | 1/fan_in       | 1/fan_in² (1/fan_in) |
    | SGD's learning rate    | fan_out (1)           | 1              | 1/fan_in (1)    |
    | Adam's learning rate   | 1                     | 1/fan_in (1)   | 1/fan_in (1)    |

    In brackets the standard parametrisation where it differs. In μP the change that a step makes to
    the activations of every layer is the same at every width, so that a learning rate tuned on a
    narrow network serves a wide one.

    Args:
        role: "input" (fan_in stays, fan_out grows), "hidden" (both grow), "output" (fan_in grows,
            fan_out stays), or "bias" (fan_in is 1, whatever is given).
        fan_in: of the weight.
        fan_out: of the weight.
        mup: μP, or the standard parametrisation.

    References: Yang et al. 2021 (Tensor Programs V), table 3.
    """
    if role not in ("input", "hidden", "output", "bias"):
        raise TheoryError('role must be "input", "hidden", "output" or "bias"', came=repr(role))
    n, m = float(1 if role == "bias" else fan_in), float(fan_out)
    if not (n >= 1 and m >= 1):
        raise TheoryError("fan_in and fan_out must be at least 1", came=f"{fan_in}, {fan_out}")
    if not mup:
        return WidthScaling(1 / n, 1.0, 1.0)
    if role == "hidden":
        return WidthScaling(1 / n, 1.0, 1 / n)
    if role == "output":
        return WidthScaling(1 / n**2, 1 / n, 1 / n)
    return WidthScaling(1 / n, m, 1.0)
