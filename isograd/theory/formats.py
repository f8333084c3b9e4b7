"""Number formats: where they end, and what they would lose of measured values.

Measured values come as a histogram of binary exponents, whose bins end at powers of two. All
thresholds but that of overflow are powers of two as well: they split no bin, and shares are exact
but for values on a threshold itself, which count as kept. The threshold of overflow splits one bin:
there magnitudes are taken as uniform, up to the largest where that is known.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from isograd.engine.number_formats import NumberFormat, number_format
from isograd.errors import TheoryError
from isograd.theory.magnitudes import Histogram, Magnitudes, join


def as_format(form: NumberFormat | str) -> NumberFormat:
    """A format, or the format of a name ("fp64", "fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2").

    Raises:
        IsogradError: if there is none of that name.
    """
    return form if isinstance(form, NumberFormat) else number_format(form)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a format ends, under rounding to nearest with ties to even.

    Attributes:
        form: the format.
        max: its largest number.
        overflow_from: max + ½ ulp, exactly: what lies beyond overflows. What lies on it overflows
            too, but for E4M3, where max is the even neighbour.
        min_normal: the smallest number of full precision.
        min_subnormal: the smallest number above zero.
        eps: from 1 to the next number.
        unit_roundoff: eps/2.
        max_exponential: ln max: exp of more is beyond the largest number.
        zero_log2: log₂ of the largest number that is rounded to zero, half the smallest subnormal.
        quarter_depth: the smallest L with 0.25^L rounded to zero; 0.25 is the largest slope of the
            logistic function.

    References:
        IEEE 754-2019, secs. 3.4 and 4.3.1; Micikevicius et al. 2022, table 1 (FP8).
    """

    form: NumberFormat
    max: float
    overflow_from: Fraction
    min_normal: float
    min_subnormal: float
    eps: float
    unit_roundoff: float
    max_exponential: float
    zero_log2: int
    quarter_depth: int


def limits(form: NumberFormat | str) -> Limits:
    """Where a format ends.

    Raises:
        IsogradError: if there is no format of that name.

    Example:
        >>> fp16 = limits("fp16")
        >>> float(fp16.overflow_from), fp16.zero_log2, fp16.quarter_depth
        (65520.0, -25, 13)
    """
    f = as_format(form)
    return Limits(
        form=f,
        max=f.max,
        overflow_from=_overflow_from(f),
        min_normal=f.min_normal,
        min_subnormal=f.min_subnormal,
        eps=f.eps,
        unit_roundoff=f.unit_roundoff,
        max_exponential=math.log(f.max),
        zero_log2=_zero_log2(f),
        quarter_depth=layers_until_zero(f, 0.25),
    )


def _overflow_from(f: NumberFormat) -> Fraction:
    return Fraction(f.max) + Fraction(2) ** (f.max_exponent - f.fraction_bits - 1)


def _zero_log2(f: NumberFormat) -> int:
    return f.min_exponent - f.fraction_bits - 1


def layers_until_zero(form: NumberFormat | str, factor: float, start: float = 1.0) -> int:
    """The smallest L with start · factor^L rounded to zero: how many layers a signal lasts.

    Args:
        form: the format.
        factor: by which each layer multiplies, in (0, 1).
        start: the signal's size before the first layer, above 0.

    Raises:
        TheoryError: if factor or start is not in its range.
    """
    if not (0.0 < factor < 1.0 and 0.0 < start < math.inf):
        raise TheoryError(
            "a signal must fade by a factor between 0 and 1, from a size above 0",
            came=f"factor {factor!r}, start {start!r}",
        )
    bits = math.log2(start) - _zero_log2(as_format(form))
    return max(0, math.ceil(bits / -math.log2(factor)))


@dataclass(frozen=True, slots=True)
class Shares:
    """What becomes of values when they are rounded to a format; the five parts sum to 1.

    Attributes:
        overflow: would be infinite, or NaN where the format has no infinities.
        normal: keep full precision.
        subnormal: lie below the smallest normal number, and lose digits.
        flushed: are rounded to zero.
        zero: are zero already.
        undecided: the share of values in the bin that the threshold of overflow splits: the true
            overflow differs by less than that from the one given. 0 where the largest magnitude
            tells that nothing overflows.
    """

    overflow: float
    normal: float
    subnormal: float
    flushed: float
    zero: float
    undecided: float = 0.0

    @property
    def lost(self) -> float:
        """Overflow or flushed, as a share of the values other than zero."""
        rest = 1.0 - self.zero
        return (self.overflow + self.flushed) / rest if rest > 0.0 else 0.0

    @property
    def underflow(self) -> float:
        """Subnormal or flushed, as a share of the values other than zero."""
        rest = 1.0 - self.zero
        return (self.subnormal + self.flushed) / rest if rest > 0.0 else 0.0


def shares(
    histogram: Histogram,
    form: NumberFormat | str,
    *,
    scale: int = 0,
    max_abs: float | None = None,
    zeros: int = 0,
) -> Shares:
    """What becomes of values x · 2^scale when they are rounded to a format.

    With the exponents e of x · 2^scale, the smallest normal number 2^m and the largest number that
    is rounded to zero 2^z: flushed where e < z, subnormal where z ≤ e < m. Overflow as the module
    says.

    Args:
        histogram: of the exponents of the finite values other than zero.
        form: the format.
        scale: log₂ of a factor that the values are multiplied by first.
        max_abs: the largest magnitude, before the factor. Sharpens the overflow, no more.
        zeros: how many values are zero besides.

    Raises:
        IsogradError: if there is no format of that name.

    Example:
        >>> from isograd.telemetry.summary import Summary
        >>> import numpy as np
        >>> tiny = Summary.of(np.array([1.0, 1e-5, 1e-8, 1e-9]))
        >>> shares(tiny.exponents, "fp16")
        Shares(overflow=0.0, normal=0.25, subnormal=0.25, flushed=0.5, zero=0.0, undecided=0.0)
    """
    f = as_format(form)
    total = sum(histogram.counts) + zeros
    if not total:
        return Shares(0.0, 0.0, 0.0, 0.0, 0.0)
    flushed = subnormal = normal = over = split = 0
    for e, n in enumerate(histogram.counts, histogram.first + scale):
        if e < _zero_log2(f):
            flushed += n
        elif e < f.min_exponent:
            subnormal += n
        elif e < f.max_exponent:
            normal += n
        elif e > f.max_exponent:
            over += n
        else:
            split = n
    beyond = _beyond(
        f, split, None if max_abs is None else Fraction(max_abs) * Fraction(2) ** scale
    )
    return Shares(
        overflow=(over + beyond) / total,
        normal=(normal + split - beyond) / total,
        subnormal=subnormal / total,
        flushed=flushed / total,
        zero=zeros / total,
        undecided=split / total if beyond else 0.0,
    )


def _beyond(f: NumberFormat, split: int, largest: Fraction | None) -> float:
    """How many of the values in the bin of the format's largest number overflow.

    Uniform between the ends of the bin, or up to the largest value if that lies in the bin; then
    at least that one.
    """
    low, threshold = Fraction(2) ** f.max_exponent, _overflow_from(f)
    high, least = 2 * low, 0
    if largest is not None and largest < high:
        high, least = largest, int(largest >= threshold)
    if not split or high < threshold:
        return 0.0
    return max(float(split * (high - threshold) / (high - low)), float(least))


@dataclass(frozen=True, slots=True)
class LossScale:
    """A factor of the loss, and so of every error signal and gradient, for a format.

    Attributes:
        form: the format.
        log2: of the factor, a whole number.
        before, after: what becomes of the gradients without the factor and with it.
        headroom: log₂(max/largest scaled gradient), in bits; infinite where all are zero.
    """

    form: NumberFormat
    log2: int
    before: Shares
    after: Shares
    headroom: float

    @property
    def scale(self) -> float:
        """2^log2."""
        return math.ldexp(1.0, self.log2)

    @property
    def saved(self) -> float:
        """The share of gradients other than zero that the factor keeps from being lost."""
        return self.before.lost - self.after.lost


def loss_scale(
    tensors: Iterable[Magnitudes], form: NumberFormat | str, *, margin: int = 0
) -> LossScale:
    """The power of two that saves the most gradients without overflow.

    The larger the factor, the fewer gradients are flushed or subnormal, until the largest of them
    would exceed the format's largest number. Of the factors that save as many as the largest one
    possible, and flush as few, this is the smallest: what is not needed is left as headroom, as
    gradients of other steps may be larger. It is below 1 only where that prevents an overflow.

    Args:
        tensors: all that the factor multiplies, error signals too.
        form: the format they are kept in.
        margin: bits of headroom to leave at least.

    Raises:
        IsogradError: if there is no format of that name.
        TheoryError: if the margin is negative.

    References:
        Micikevicius et al. 2018, sec. 3.2: a factor whose product with the largest gradient is
        below the largest number.
    """
    f = as_format(form)
    if margin < 0:
        raise TheoryError("the margin of a loss scale must be 0 bits or more", came=repr(margin))
    joined = join(tensors)
    histogram, largest = joined.histogram, joined.max_abs

    def becomes(k: int) -> Shares:
        return shares(histogram, f, scale=k, max_abs=largest, zeros=joined.zeros)

    before = becomes(0)
    if not histogram.counts or not largest:
        return LossScale(f, 0, before, before, math.inf)
    (top, top_log2), (high, high_log2) = math.frexp(f.max), math.frexp(largest)
    most = top_log2 - high_log2 - (high > top) - margin
    none = _zero_log2(f) - histogram.first - len(histogram.counts)  # where all would be flushed
    savings = _underflow(becomes(most))
    # The larger the factor the more it saves, so those that save as many lie together.
    equal = bisect_left(range(none, most), True, key=lambda k: _underflow(becomes(k)) == savings)
    log2 = min(max(none + equal, 0), most)
    headroom = math.log2(top / high) + (top_log2 - high_log2 - log2)
    return LossScale(f, log2, before, becomes(log2), headroom)


def _underflow(s: Shares) -> tuple[float, float]:
    return s.flushed, s.subnormal


__all__ = [
    "Limits",
    "LossScale",
    "Shares",
    "as_format",
    "layers_until_zero",
    "limits",
    "loss_scale",
    "shares",
]
