"""The initialisers, losses and optimisers that a spec can name.

In TOML a table says by `kind` which it is: `{ kind = "adam", lr = 0.001 }`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from msgspec import Struct

from isograd.nn.checks import one_of, real


class Kind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A table of a spec that says by `kind` which of several it is."""


# Initialisers -----------------------------------------------------------------------------------


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


class Critical(Kind, frozen=True, tag="critical"):
    """σ_w and σ_b such that χ₁ = 1 for the activation at hand.

    q is the variance of the pre-activation at the fixed point; None leaves it to the theory.
    """

    q: float | None = None
    distribution: Literal["normal", "orthogonal"] = "normal"

    def __post_init__(self) -> None:
        real(self, "q", above=0, optional=True)
        one_of(self, "distribution", ("normal", "orthogonal"))


Init: TypeAlias = Constant | Normal | Xavier | He | LeCun | Orthogonal | Critical


# Losses -----------------------------------------------------------------------------------------


class _Loss(Kind, frozen=True):
    """A loss with the penalty l2/2 · ‖W‖_F²."""

    l2: float = 0.0

    def __post_init__(self) -> None:
        real(self, "l2", low=0)


class HalfSquaredError(_Loss, frozen=True, tag="half_squared_error"):
    """½ ‖ŷ − y‖², the mean over examples."""


class BinaryCrossEntropy(_Loss, frozen=True, tag="binary_cross_entropy"):
    """−y log σ(z) − (1 − y) log(1 − σ(z)) from one logit z, the mean over examples."""


class SoftmaxCrossEntropy(_Loss, frozen=True, tag="softmax_cross_entropy"):
    """−log softmax(z)[y] from one logit per class, the mean over examples."""


Loss: TypeAlias = HalfSquaredError | BinaryCrossEntropy | SoftmaxCrossEntropy


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


Optimiser: TypeAlias = GradientDescent | SGD | Momentum | AdaGrad | RMSProp | Adam


def kinds(union: Any) -> dict[str, type[Struct]]:
    """The structs of a tagged union by their `kind` in TOML."""
    return {str(cls.__struct_config__.tag): cls for cls in get_args(union)}
