"""What a finite width adds to mean field: the spread of ‖x_L‖ over random initialisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    if kind == "linear":
        half = fan_out / 2
        return (
            float(special.digamma(half)) + math.log(2 / fan_in),
            float(special.polygamma(1, half)),
        )
    if kind != "relu":
        raise TheoryError('kind must be "linear" or "relu"', came=repr(kind))
    from scipy import stats  # slow to import, and few need it

    # 40 standard deviations hold all of the binomial that a float64 sum can see.
    reach = 20 * math.sqrt(fan_out) + 2
    active = np.arange(
        max(1, math.floor(fan_out / 2 - reach)), min(fan_out, math.ceil(fan_out / 2 + reach)) + 1
    )
    p = stats.binom.pmf(active, fan_out, 0.5)
    p /= p.sum()
    log = special.digamma(active / 2)
    mean = float(p @ log)
    within = special.polygamma(1, active / 2)
    variance = float(p @ (within + (log - mean) ** 2))
    return mean + math.log(4 / fan_in), variance


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
