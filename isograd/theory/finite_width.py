"""What a finite width adds to mean field: the spread of ‖x_L‖ over random initialisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import special

from isograd.errors import TheoryError

Kind = Literal["linear", "relu"]


def log_ratio(fan_in: int, fan_out: int, kind: Kind) -> tuple[float, float]:
    """Mean and variance of ln r, r = ‖x_l‖²/‖x_{l−1}‖², for one random Gaussian layer.

    "linear", Var W = 1/fan_in: fan_in·r is χ² with fan_out degrees of freedom, so
    E ln r = ψ(fan_out/2) + ln(2/fan_in) and Var ln r = ψ₁(fan_out/2).

    "relu", Var W = 2/fan_in (He), no biases: fan_in·r/2 is χ² with K degrees of freedom, where K,
    the number of active units, is binomial(fan_out, ½). A layer with K = 0 is dead, and ln r is
    taken over the others.

    Either law is the same for every input, so the layers of a network are independent.

    Args:
        fan_in: width of x_{l−1}.
        fan_out: width of x_l.
        kind: "linear" or "relu".

    Returns:
        (E ln r, Var ln r).

    References: Hanin 2018; Hanin & Nica 2019 (variance 5/n a layer of a ReLU at large width n).
    """
    for what, width in (("fan_in", fan_in), ("fan_out", fan_out)):
        if width < 1:
            raise TheoryError(f"{what} must be at least 1", came=repr(width))
    if kind not in _LAWS:
        raise TheoryError('kind must be "linear" or "relu"', came=repr(kind))
    mean, variance = log_mean_square(fan_out, *_LAWS[kind])
    return mean + math.log(fan_out / fan_in), variance


_LAWS: dict[Kind, tuple[float, float]] = {"linear": (3.0, 1.0), "relu": (6.0, 0.5)}
"""Kurtosis E x⁴/(E x²)² of a unit, and the share of units that are not 0."""


@lru_cache(maxsize=4096)
def log_mean_square(n: int, kurtosis: float, active: float = 1.0) -> tuple[float, float]:
    """Mean and variance of ln X, X the mean of x² over n independent units, relative to E x².

    E X = 1 and Var X = (kurtosis − 1)/n. K of the units, binomial(n, active), are not 0; given K,
    X is taken as gamma-distributed with the mean and the variance it has. For Gaussian units
    (kurtosis 3), and those of which a ReLU or dropout leaves a share p (kurtosis 3/p), that is
    exact: χ² with K degrees of freedom. Draws with K = 0 are left out.

    Args:
        n: units.
        kurtosis: E x⁴/(E x²)²; 1 or less is no chance at all.
        active: the share of units that are not 0.

    References: Hanin 2018; Hanin & Nica 2019 (ReLU: (kurtosis − 1)/n = 5/n).
    """
    if active > 1.0 - 1e-9:
        return _log_gamma(n / (kurtosis - 1.0)) if kurtosis > 1.0 else (0.0, 0.0)
    from scipy import stats  # slow to import, and few need it

    # 40 standard deviations hold all of the binomial that a float64 sum can see.
    middle, reach = n * active, 40.0 * math.sqrt(n * active * (1.0 - active)) + 2.0
    units = np.arange(max(1, math.floor(middle - reach)), min(n, math.ceil(middle + reach)) + 1)
    p = stats.binom.pmf(units, n, active)
    p /= p.sum()
    log, within = np.log(units / middle), np.zeros(len(units))
    excess = kurtosis * active - 1.0
    if excess > 0.0:
        shapes = units / excess
        log += special.digamma(shapes) - np.log(shapes)
        within = special.polygamma(1, shapes)
    mean = float(p @ log)
    return mean, float(p @ (within + (log - mean) ** 2))


def _log_gamma(shape: float) -> tuple[float, float]:
    """Mean and variance of the logarithm of a gamma-distributed number with mean 1."""
    if shape < 30.0:
        return float(special.digamma(shape)) - math.log(shape), float(special.polygamma(1, shape))
    x, y = 1.0 / shape, 1.0 / (shape * shape)  # Stirling's series: no cancellation
    mean = -x / 2.0 - y * (1.0 / 12.0 - y * (1.0 / 120.0 - y / 252.0))
    return mean, x + y / 2.0 + x * y * (1.0 / 6.0 - y * (1.0 / 30.0 - y / 42.0))


def log_norm(widths: Sequence[int], kind: Kind) -> tuple[float, float]:
    """Mean and standard deviation of ln(‖x_L‖/‖x_0‖) over random initialisations.

    Half the sum over the layers of E ln r, and half the root of the sum of Var ln r.

    Args:
        widths: n_0 … n_L, at least two.
        kind: as in `log_ratio`.

    References: Hanin & Rolnick 2018; Hanin & Nica 2019.
    """
    if len(widths) < 2:
        raise TheoryError("a network needs at least two widths", came=repr(list(widths)))
    pairs = list(pairwise(widths))
    laws = {pair: log_ratio(*pair, kind) for pair in set(pairs)}
    mean = sum(laws[pair][0] for pair in pairs) / 2
    return mean, math.sqrt(sum(laws[pair][1] for pair in pairs)) / 2


def log_norm_spread(widths: Sequence[int], kind: Kind) -> float:
    """Standard deviation of ln‖x_L‖ over random initialisations: the error bar of a measured norm.

    Args:
        widths: n_0 … n_L, at least two.
        kind: as in `log_ratio`.
    """
    return log_norm(widths, kind)[1]
