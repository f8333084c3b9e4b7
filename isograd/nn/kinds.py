"""The initialisers, losses and optimisers that a spec can name.

In TOML a table says by `kind` which it is: `{ kind = "adam", lr = 0.001 }`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from isograd.nn.checks import one_of, real, weights, whole
from isograd.nn.structs import Kind

# Initialisers -----------------------------------------------------------------------------------


class Zeros(Kind, frozen=True, tag="zeros"):
    """Every weight 0: all units of a layer stay the same for ever."""


class Constant(Kind, frozen=True, tag="constant"):
    """Every weight the same: w = value."""

    value: float = 0.0

    def __post_init__(self) -> None:
        real(self, "value")


class Normal(Kind, frozen=True, tag="normal"):
    """w ~ N(0, std²), whatever the width."""

    std: float = 0.01

    def __post_init__(self) -> None:
        real(self, "std", above=0)


class Uniform(Kind, frozen=True, tag="uniform"):
    """w ~ U(−gain/√fan_in, gain/√fan_in), the rule of thumb before Xavier."""

    gain: float = 1.0

    def __post_init__(self) -> None:
        real(self, "gain", above=0)


class _Scaled(Kind, frozen=True):
    """An initialiser whose variance is gain² over a fan; gain None is computed."""

    distribution: Literal["normal", "uniform"] = "normal"
    gain: float | None = None

    def __post_init__(self) -> None:
        one_of(self, "distribution", ("normal", "uniform"))
        real(self, "gain", above=0, optional=True)


class Xavier(_Scaled, frozen=True, tag="xavier"):
    """Var w = gain² · 2 / (fan_in + fan_out); gain None is 1."""


class He(_Scaled, frozen=True, tag="he"):
    """Var w = gain² / fan_in; gain None is computed from the activation."""


class LeCun(_Scaled, frozen=True, tag="lecun"):
    """Var w = gain² / fan_in; gain None is 1."""


class Orthogonal(Kind, frozen=True, tag="orthogonal"):
    """W = gain · Q with orthonormal rows or columns; gain None is computed from the activation."""

    gain: float | None = None

    def __post_init__(self) -> None:
        real(self, "gain", above=0, optional=True)


class LSUV(Kind, frozen=True, tag="lsuv"):
    """Orthogonal weights, scaled layer by layer until the batch at hand gives Var z = gain²."""

    gain: float = 1.0
    tolerance: float = 0.01
    iterations: int = 10

    def __post_init__(self) -> None:
        real(self, "gain", above=0)
        real(self, "tolerance", above=0)
        whole(self, "iterations", low=1, high=1000)


class Critical(Kind, frozen=True, tag="critical"):
    """σ_w and σ_b such that χ₁ = 1 for the activation at hand; gain multiplies σ_w.

    q is the variance of the pre-activation at the fixed point; None leaves it to the theory.
    """

    q: float | None = None
    distribution: Literal["normal", "orthogonal"] = "normal"
    gain: float = 1.0

    def __post_init__(self) -> None:
        real(self, "q", above=0, optional=True)
        one_of(self, "distribution", ("normal", "orthogonal"))
        real(self, "gain", above=0)


class VarianceScaling(Kind, frozen=True, tag="variance_scaling"):
    """Var w = σ_w² / fan_in and Var b = σ_b², as mean-field theory counts them."""

    sigma_w2: float = 1.0
    sigma_b2: float = 0.0
    distribution: Literal["normal", "uniform", "orthogonal"] = "normal"

    def __post_init__(self) -> None:
        real(self, "sigma_w2", low=0)
        real(self, "sigma_b2", low=0)
        one_of(self, "distribution", ("normal", "uniform", "orthogonal"))


Init: TypeAlias = (
    Zeros
    | Constant
    | Normal
    | Uniform
    | Xavier
    | He
    | LeCun
    | Orthogonal
    | LSUV
    | Critical
    | VarianceScaling
)


# Losses -----------------------------------------------------------------------------------------


class _Loss(Kind, frozen=True):
    """A loss with the penalty l2/2 · ‖W‖_F²."""

    l2: float = 0.0

    def __post_init__(self) -> None:
        real(self, "l2", low=0)


class HalfSquaredError(_Loss, frozen=True, tag="half_squared_error"):
    """½ ‖ŷ − y‖², the mean over examples."""


class MeanSquaredError(_Loss, frozen=True, tag="mean_squared_error"):
    """(ŷ − y)², the mean over examples and outputs."""


class Huber(_Loss, frozen=True, tag="huber"):
    """½e² where |e| ≤ delta, else delta·(|e| − ½delta), e = ŷ − y; the mean as for the square."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real(self, "delta", above=0)


class BinaryCrossEntropy(_Loss, frozen=True, tag="binary_cross_entropy"):
    """−y log p − (1 − y) log(1 − p), the mean over examples.

    inputs says what the network's output is: the logit z of p = σ(z), or p itself.
    """

    inputs: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "inputs", ("logits", "probabilities"))


class SoftmaxCrossEntropy(_Loss, frozen=True, tag="softmax_cross_entropy"):
    """−log softmax(z)[y] from one logit per class, the mean over examples.

    class_weights, one per class, weight the examples of each class in that mean.
    """

    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        weights(self, "class_weights", optional=True)


Loss: TypeAlias = (
    HalfSquaredError | MeanSquaredError | Huber | BinaryCrossEntropy | SoftmaxCrossEntropy
)


# Optimisers -------------------------------------------------------------------------------------


class GradientDescent(Kind, frozen=True, tag="gradient_descent"):
    """W ← W − lr · g, with g over the whole training set."""

    lr: float = 0.1

    def __post_init__(self) -> None:
        real(self, "lr", above=0)


class SGD(Kind, frozen=True, tag="sgd"):
    """W ← W − lr · g, with g over a batch."""

    lr: float = 0.1

    def __post_init__(self) -> None:
        real(self, "lr", above=0)


class Momentum(Kind, frozen=True, tag="momentum"):
    """v ← momentum · v + g; W ← W − lr · v."""

    lr: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        real(self, "lr", above=0)
        real(self, "momentum", low=0, below=1)


class Nesterov(Kind, frozen=True, tag="nesterov"):
    """v ← momentum · v + g; W ← W − lr · (g + momentum · v)."""

    lr: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        real(self, "lr", above=0)
        real(self, "momentum", low=0, below=1)


class AdaGrad(Kind, frozen=True, tag="adagrad"):
    """s ← s + g²; W ← W − lr · g / (√s + eps)."""

    lr: float = 0.01
    eps: float = 1e-10

    def __post_init__(self) -> None:
        real(self, "lr", above=0)
        real(self, "eps", above=0)


class RMSProp(Kind, frozen=True, tag="rmsprop"):
    """s ← decay · s + (1 − decay) · g²; W ← W − lr · g / (√s + eps)."""

    lr: float = 0.001
    decay: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        real(self, "lr", above=0)
        real(self, "decay", low=0, below=1)
        real(self, "eps", above=0)


class Adam(Kind, frozen=True, tag="adam"):
    """W ← W − lr · m̂ / (√v̂ + eps), with m and v the corrected running means of g and g²."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        real(self, "lr", above=0)
        real(self, "beta1", low=0, below=1)
        real(self, "beta2", low=0, below=1)
        real(self, "eps", above=0)


class AdamW(Kind, frozen=True, tag="adamw"):
    """Adam, and W ← W − lr · weight_decay · W beside it."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        real(self, "lr", above=0)
        real(self, "beta1", low=0, below=1)
        real(self, "beta2", low=0, below=1)
        real(self, "eps", above=0)
        real(self, "weight_decay", low=0)


Optimiser: TypeAlias = (
    GradientDescent | SGD | Momentum | Nesterov | AdaGrad | RMSProp | Adam | AdamW
)
