"""What a number format does to updates: those that are rounded away, and Adam's ε."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isograd.engine.number_formats import NumberFormat, rounded
from isograd.errors import ShapeError, TheoryError
from isograd.theory.formats import as_format, limits
from isograd.theory.magnitudes import Histogram


@dataclass(frozen=True, slots=True)
class UpdatesLost:
    """The share of updates other than zero that leave their weight as it is.

    Attributes:
        share: if update and weight were independent.
        low, high: bounds that hold for any dependence between them.
    """

    share: float
    low: float
    high: float


def updates_lost(
    weights: Histogram, updates: Histogram, form: NumberFormat | str, *, zeros: int = 0
) -> UpdatesLost:
    """The share of updates u with |u| < ½ ulp(w), which rounding to nearest takes away: w + u = w.

    For |w| of exponent e, ½ ulp(w) = 2^(max(e, m) − p − 1), with the format's smallest normal
    exponent m and p bits of fraction: a power of two, which splits no bin of the updates.
    Histograms do not tell which update belongs to which weight, so the share is that of independent
    pairs; the bounds are those on P(U < V) for any U and V of the given laws. Left out is that
    numbers below a power of two lie half as far apart: about 2^−(p+1) of the weights are such
    powers and meet an update towards zero.

    Args:
        weights, updates: of the exponents of the finite values other than zero.
        form: in which the weights are kept.
        zeros: how many weights are zero; their spacing is the smallest subnormal.

    Raises:
        IsogradError: if there is no format of that name.

    References:
        Micikevicius et al. 2018, sec. 3.1; Makarov 1981 (the bounds).
    """
    f = as_format(form)
    n, m = sum(weights.counts) + zeros, sum(updates.counts)
    if not n or not m:
        return UpdatesLost(0.0, 0.0, 0.0)
    least = f.min_exponent
    spacing = Counter({least: zeros})
    for e, count in enumerate(weights.counts, weights.first):
        spacing[max(e, least)] += count
    # In whole numbers of pairs, out of n·m.
    share = low = gap = closer = 0
    for e in sorted(spacing):
        below = _below(updates, e - f.fraction_bits - 1)
        share += spacing[e] * below
        low = max(low, below * n - closer * m)
        closer += spacing[e]
        gap = max(gap, closer * m - below * n)
    return UpdatesLost(share / (n * m), low / (n * m), (n * m - gap) / (n * m))


def _below(histogram: Histogram, exponent: int) -> int:
    """How many values are below 2^exponent."""
    return sum(histogram.counts[: max(0, exponent - histogram.first)])


def rounded_away(weights: ArrayLike, updates: ArrayLike, form: NumberFormat | str) -> float:
    """The share of updates other than zero that leave their weight as it is, by rounding them.

    Args:
        weights, updates: of one shape; the weights are rounded to the format first.
        form: in which the weights are kept.

    Raises:
        IsogradError: if there is no format of that name.
        ShapeError: if the shapes differ.
    """
    f = as_format(form)
    w, u = np.asarray(weights, np.float64), np.asarray(updates, np.float64)
    if w.shape != u.shape:
        raise ShapeError(
            "every weight must have its update", came=f"shapes {w.shape} and {u.shape}"
        )
    w = rounded(w, f)
    moved = rounded(w + u, f) != w
    n = np.count_nonzero(u)
    return float(np.count_nonzero(~moved & (u != 0)) / n) if n else 0.0


@dataclass(frozen=True, slots=True)
class AdamEpsilon:
    """Adam's ε in a number format.

    Attributes:
        epsilon: as given.
        rounded: as the format holds it.
        vanishes: it is 0 in the format, so that 0/0 = NaN where √v̂ is 0 as well.
        subnormal: the format holds it with fewer digits.
        dominates: the share of √v̂ that are not larger than ε: their steps are smaller than Adam
            means them to be. NaN if not given.
        flushed: the share of v̂ that are zero in the format. NaN if not given.
        safe: the smallest power of two that is safe: see `adam_epsilon`.
    """

    epsilon: float
    rounded: float
    vanishes: bool
    subnormal: bool
    dominates: float
    flushed: float
    safe: float


def adam_epsilon(
    epsilon: float, form: NumberFormat | str, *, root: Histogram | None = None
) -> AdamEpsilon:
    """What becomes of Adam's ε, in lr · m̂/(√v̂ + ε), where a format holds it and v̂.

    v̂ is zero in the format where it is at most 2^z, the largest number that is rounded to zero.
    There the step is lr · m̂/ε, with |m̂| ≤ √v̂ in a first step: at most lr, as it is meant to
    be, if ε ≥ 2^(z/2). And ε must be a normal number of the format. The safe ε is the smallest
    power of two with both: 2⁻¹² in fp16, 2⁻⁶⁷ in bf16. (v itself, before the correction of its
    bias, is smaller by 1 − β₂^t: in the first steps more of it is flushed.)

    Args:
        epsilon: above 0.
        form: the format.
        root: of the exponents of √v̂ other than zero. In the first step √v̂ is the gradient's
            magnitude; later that stands for it as long as gradients keep their size.

    Raises:
        IsogradError: if there is no format of that name.
        TheoryError: if ε is not a finite number above 0.

    References:
        Kingma & Ba 2015, algorithm 1 and sec. 2.1 (a step of at most lr).
    """
    if not 0.0 < epsilon < math.inf:
        raise TheoryError("Adam's ε must be a finite number above 0", came=repr(epsilon))
    f = as_format(form)
    end = limits(f)
    held = float(rounded(np.asarray(epsilon, np.float64), f))
    return AdamEpsilon(
        epsilon=epsilon,
        rounded=held,
        vanishes=held == 0.0,
        subnormal=0.0 < held < f.min_normal,
        dominates=_share_up_to(root, math.log2(epsilon)),
        flushed=_share_up_to(root, end.zero_log2 / 2),
        safe=2.0 ** max(f.min_exponent, math.ceil(end.zero_log2 / 2)),
    )


def _share_up_to(histogram: Histogram | None, log2: float) -> float:
    """The share of values up to 2^log2, those in its bin taken as uniform."""
    if histogram is None or not sum(histogram.counts):
        return math.nan
    e = math.floor(log2)
    i = e - histogram.first
    inside = histogram.counts[i] if 0 <= i < len(histogram.counts) else 0
    return float(_below(histogram, e) + inside * (2.0 ** (log2 - e) - 1.0)) / sum(histogram.counts)


__all__ = ["AdamEpsilon", "UpdatesLost", "adam_epsilon", "rounded_away", "updates_lost"]
