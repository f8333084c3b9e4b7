"""The initialisers, losses, optimisers and schedules that a spec can name.

In TOML a table says by `kind` which it is: `{ kind = "adam", lr = 0.001 }`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from msgspec import Struct

from isograd.nn.checks import one_of, real, reals, whole


class Kind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A table of a spec that says by `kind` which of several it is."""


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


Init: TypeAlias = (
    Zeros | Constant | Normal | Uniform | Xavier | He | LeCun | Orthogonal | LSUV | Critical
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
        reals(self, "class_weights", low=0, optional=True)


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


# Schedules --------------------------------------------------------------------------------------
# Each is a factor of the optimiser's learning rate; times are in epochs, and may be fractions.


class ConstantRate(Kind, frozen=True, tag="constant"):
    """1."""


class StepDecay(Kind, frozen=True, tag="step"):
    """factor^⌊t / every⌋."""

    every: float
    factor: float = 0.1

    def __post_init__(self) -> None:
        real(self, "every", above=0)
        real(self, "factor", above=0)


class ExponentialDecay(Kind, frozen=True, tag="exponential"):
    """factor^t."""

    factor: float

    def __post_init__(self) -> None:
        real(self, "factor", above=0)


class CosineDecay(Kind, frozen=True, tag="cosine"):
    """From 1 to final along half a cosine; epochs None takes as long as the training."""

    final: float = 0.0
    epochs: float | None = None

    def __post_init__(self) -> None:
        real(self, "final", low=0)
        real(self, "epochs", above=0, optional=True)


class WarmUp(Kind, frozen=True, tag="warm_up"):
    """From start to 1 along a line over the first epochs, then 1."""

    epochs: float
    start: float = 0.01

    def __post_init__(self) -> None:
        real(self, "epochs", above=0)
        real(self, "start", above=0)


class OneCycle(Kind, frozen=True, tag="one_cycle"):
    """From start up to 1 in a share of the epochs, then down to final, along half cosines."""

    start: float = 0.04
    final: float = 4e-6
    up: float = 0.3
    epochs: float | None = None

    def __post_init__(self) -> None:
        real(self, "start", above=0)
        real(self, "final", low=0)
        real(self, "up", above=0, below=1)
        real(self, "epochs", above=0, optional=True)


class Plateau(Kind, frozen=True, tag="plateau"):
    """Times factor when the loss has not fallen by a share of threshold for patience epochs.

    The loss is that of the validation part, or of the training batches if there is none.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        real(self, "factor", above=0, below=1)
        whole(self, "patience", low=0)
        real(self, "threshold", low=0, below=1)


Schedule: TypeAlias = (
    ConstantRate | StepDecay | ExponentialDecay | CosineDecay | WarmUp | OneCycle | Plateau
)


def kinds(union: Any) -> dict[str, type[Struct]]:
    """The structs of a tagged union by their `kind` in TOML."""
    return {str(cls.__struct_config__.tag): cls for cls in get_args(union)}
