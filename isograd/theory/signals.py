"""The steps of a network, and what theory knows of the units between them.

References:
    Poole et al. 2016 (layers and activations); Hanin & Nica 2019, Roberts, Yaida & Hanin 2022,
    ch. 4 (finite width).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from isograd.theory.finite_width import log_mean_square
from isograd.theory.quadrature import Array, Phi

# --- the steps


@dataclass(frozen=True)
class Linear:
    """z = W a + b, Var W = σ_w²/n_in, Var b = σ_b²; or W orthonormal times a gain, as scaled."""

    sigma_w2: float
    sigma_b2: float
    n_in: int
    n_out: int
    orthogonal: bool = False


@dataclass(frozen=True)
class Elementwise:
    """a = φ(z); tabulated where hundreds of layers ask for the averages over φ."""

    phi: Phi
    tabulated: bool = False


@dataclass(frozen=True)
class Dropout:
    """Each value 0 with probability `rate`, else divided by 1 − rate."""

    rate: float


@dataclass(frozen=True)
class Normalise:
    """To mean 0 and variance 1 over features or batch, or to mean square 1 ("square")."""

    over: Literal["features", "square", "batch"]
    eps: float = 0.0


@dataclass(frozen=True)
class Scale:
    """x times one number."""

    value: float


@dataclass(frozen=True)
class SkipOpens:
    """What comes here is added again where the block closes."""


@dataclass(frozen=True)
class SkipCloses:
    """x + f(x), f the steps since the block opened."""


Step: TypeAlias = Linear | Elementwise | Dropout | Normalise | Scale | SkipOpens | SkipCloses


# --- what is known between them


@dataclass(frozen=True)
class Unknown:
    """Where theory ends: the number of the first step it does not cover, and why."""

    step: int
    reason: str


@dataclass(frozen=True, eq=False)
class Signal:
    """The units of a layer over draws of the weights.

    Their chance is that of four numbers: the logarithms of the mean square and of the spread, each
    as the layers below decide it (its *law*), and what the units themselves add.

    Attributes:
        mean: E x of a unit.
        second: E x².
        spread: ½E(x − x′)² of two inputs, one entry per kind of pair: E x² − E xx′ without its
            cancellation.
        gaussian: whether units are Gaussian, jointly over inputs, given the layers below.
        width: number of units, n.
        batch: rows that mean square and spread are taken over; None is one, or one pair.
        shift: mean over draws of law (2) and units (2), less the logarithms of `second` and
            of the mean of `spread`.
        cov: their covariance (4, 4); within blocks larger, by what the open skips carry.
        chance: n times the variance of the units' mean square, relative to its square, given the
            law; and `pair_chance` the covariance of those of two inputs.
        both_chance, spread_chance: likewise with the spread, and of the spread.
        rough: how far the spreads of single pairs differ by chance, as a variance relative to
            their square.
        lengths: variance between inputs, by chance, of ln E x² given the layers below.
        active: the share of units that are not 0.
        fixed: n times what a norm that is held fixed takes from `chance` of Gaussian units.
        centred: whether the units' mean is held at 0 too.
    """

    mean: float
    second: float
    spread: Array
    gaussian: bool
    width: int
    batch: int | None = None
    shift: Array = field(default_factory=lambda: np.zeros(4))
    cov: Array = field(default_factory=lambda: np.zeros((4, 4)))
    chance: float = 0.0
    pair_chance: float = 0.0
    both_chance: float = 0.0
    spread_chance: float = 0.0
    rough: float = 0.0
    lengths: float = 0.0
    active: float = 1.0
    fixed: float = 0.0
    centred: bool = False

    @property
    def cross(self) -> Array:
        """E xx′ of two inputs."""
        return self.second - self.spread

    @property
    def turned(self) -> Array:
        """E x²(1 − c), c the cosine of two inputs: the spread but for lengths that differ."""
        return self._turned(self.lengths)

    @property
    def of_one_length(self) -> Array:
        """Likewise, c that of the units as they are: the spread behind a norm that fixes ‖x‖."""
        return self._turned(self.unit_lengths)

    @property
    def unit_lengths(self) -> float:
        """Variance between inputs, by chance, of ln of the units' mean square."""
        return self.lengths + max(0.0, self.chance - self.pair_chance) / self.width

    def _turned(self, lengths: float) -> Array:
        along = min(0.25 * lengths, 0.5)
        return np.maximum(self.spread - along * self.second, 0.0) / (1.0 - along)

    @property
    def correlation(self) -> Array:
        """E xx′/E x², of inputs of one length."""
        return 1.0 - self.turned / self.second

    @property
    def alike(self) -> float:
        """Mean squared correlation of two inputs."""
        apart = self.turned / self.second
        return mean_of((1.0 - apart) ** 2 + self.rough * apart**2)

    @property
    def plurality(self) -> float:
        """1/d: inputs differ from their mean in d directions, if they differed in all alike."""
        spread, turned = mean_of(self.spread), mean_of(self.turned)
        if not spread:
            return 0.0
        even = 1.0 / max(1, (self.batch or 2) - 1)
        varied = mean_of((self.turned / turned - 1.0) ** 2) if turned else 0.0
        across = min(1.0, even + varied + self.rough)
        # What comes of lengths lies in one direction, that of x.
        along = min(1.0, 0.25 * self.lengths * self.second / spread)
        return along**2 + 2.0 * along * (1.0 - along) * even + (1.0 - along) ** 2 * across

    @property
    def log_mean(self) -> float:
        """Over draws, the mean of ln of the units' mean square, less ln E x²."""
        return float(self.shift[0] + self.shift[2])

    @property
    def log_var(self) -> float:
        """Over draws, the variance of ln of the units' mean square."""
        return max(0.0, float(self.cov[0, 0] + 2.0 * self.cov[0, 2] + self.cov[2, 2]))

    @property
    def spread_log_mean(self) -> float:
        """Over draws, the mean of ln of the units' spread, less the ln of the mean of `spread`."""
        return float(self.shift[1] + self.shift[3])

    @property
    def spread_log_var(self) -> float:
        """Over draws, the variance of ln of the units' spread."""
        return max(0.0, float(self.cov[1, 1] + 2.0 * self.cov[1, 3] + self.cov[3, 3]))


def signal(
    second: float, cross: ArrayLike | None = None, width: int = 1, batch: int | None = None
) -> Signal:
    """Given inputs: no chance in them.

    Args:
        second: mean square of a feature.
        cross: E xx′ of two inputs, or quantiles of it over pairs; None: uncorrelated.
        width: number of features.
        batch: rows, as in `Signal`.
    """
    spread = second - np.atleast_1d(np.asarray(0.0 if cross is None else cross, np.float64))
    return Signal(0.0, float(second), np.maximum(spread, 0.0), False, width, batch)


T = TypeVar("T")


def changed(x: T, **fields: Any) -> T:
    """`dataclasses.replace` of what needs no check: it is ten times as fast, for many layers."""
    new = object.__new__(type(x))
    new.__dict__.update(x.__dict__, **fields)
    return new


def mean_of(values: Array) -> float:
    return float(values.sum() if values.size > 1 else values[0]) / values.size


def chance_of(
    width: int, share: float, chance: float, pair_chance: float, active: float = 1.0
) -> tuple[float, float]:
    """Mean and variance of the logarithm of a mean square over units, and rows of a batch.

    Args:
        width: units.
        share: Σ p², p the rows' shares of the whole: 1/B of B rows that are alike, 1 of one row.
        chance, pair_chance, active: as in `Signal`.
    """
    kurtosis = 1.0 + share * chance + (1.0 - share) * pair_chance
    # Units are 0 in all rows no oftener than the variance has room for.
    return log_mean_square(width, kurtosis, active if kurtosis * active >= 1.0 else 1.0)


__all__ = [
    "Dropout",
    "Elementwise",
    "Linear",
    "Normalise",
    "Scale",
    "Signal",
    "SkipCloses",
    "SkipOpens",
    "Step",
    "Unknown",
    "chance_of",
    "changed",
    "mean_of",
    "signal",
]
