"""The schedules that a spec can name: factors of the optimiser's learning rate.

Times are in epochs, and may be fractions: t is the number of steps done over the steps per epoch.
"""

from __future__ import annotations

from typing import TypeAlias

from isograd.nn.checks import real, whole
from isograd.nn.structs import Kind


class ConstantRate(Kind, frozen=True, tag="constant"):
    """1: the learning rate stays as it is."""


class StepDecay(Kind, frozen=True, tag="step"):
    """factor^⌊t / every⌋, t in epochs."""

    every: float
    factor: float = 0.1

    def __post_init__(self) -> None:
        real(self, "every", above=0)
        real(self, "factor", above=0)


class ExponentialDecay(Kind, frozen=True, tag="exponential"):
    """factor^t, t in epochs."""

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
