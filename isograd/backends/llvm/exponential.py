"""Exponentials: exp, expm1, tanh, the logistic function.

eˣ = 2ᵏ·eʳ with k = round(x/ln 2) and |r| ≤ ½ ln 2; ln 2 is taken in two words (Cody & Waite 1980,
ch. 6), eʳ by a minimax polynomial. The first word of r is exact, as it comes from one fma. Results
below the smallest normal number are rounded once, by the multiplication with the second half of 2ᵏ.
"""

from __future__ import annotations

from dataclasses import dataclass

from isograd.backends.llvm import coefficients
from isograd.backends.llvm.formats import Format
from isograd.backends.llvm.lanes import (
    Floats,
    Integers,
    at_least,
    at_most,
    fma,
    nearest_integer,
    polynomial,
    select,
    with_sign,
)
from isograd.backends.llvm.two_words import ordered_sum, quotient

LOG2_E = 1.4426950408889634
LN2 = {  # in two words, each the nearest number to what is left
    "float32": (0.6931471824645996, -1.904654323148236e-09),
    "float64": (0.6931471805599453, 2.3190468138462996e-17),
}


def largest_exponent(format: Format) -> float:
    """A little above the largest x with a finite eˣ."""
    return {32: 88.73, 64: 709.79}[format.bits]


def smallest_exponent(format: Format) -> float:
    """Below it eˣ is rounded to 0."""
    return {32: -105.0, 64: -746.0}[format.bits]


@dataclass(frozen=True, slots=True)
class Reduced:
    """eˣ = 2ᵏ·(1 + first + rest), with first exact and rest far smaller.

    Attributes:
        k: an integer.
        first: first word of r.
        rest: eʳ − 1 − first.
    """

    k: Integers
    first: Floats
    rest: Floats


def reduce(x: Floats, low: Floats | None = None) -> Reduced:
    """Of x + low; |x| ≤ 2^(digits − 3), |low| within a few units in the last place of x."""
    format = x.format.name
    ln2_high, ln2_low = LN2[format]
    number, k = nearest_integer(x, LOG2_E)
    first = fma(-number, ln2_high, x)
    second = -number * ln2_low if low is None else fma(-number, ln2_low, low)
    r = first + second
    return Reduced(k, first, fma(r * r, polynomial(r, coefficients.EXP[format]), second))


def times_power_of_two(x: Floats, k: Integers) -> Floats:
    """x·2ᵏ for any k that the sum of two exponents can make; rounded once."""
    half = k >> 1
    return x * half.power_of_two() * (k - half).power_of_two()


def times_small_power_of_two(x: Floats, k: Integers) -> Floats:
    """x·2ᵏ for |x| ≤ 2 and −1.4·bias < k ≤ 0, where one of two powers can be a constant."""
    lift = x.format.bias // 2
    return x * (k + lift).power_of_two() * 2.0**-lift


def _exp_of_reduced(x: Floats) -> tuple[Floats, Integers]:
    """eʳ and k, where no digits beyond those of the format are wanted of eʳ."""
    format = x.format.name
    ln2_high, ln2_low = LN2[format]
    number, k = nearest_integer(x, LOG2_E)
    r = fma(-number, ln2_low, fma(-number, ln2_high, x))
    return polynomial(r, (1.0, 1.0, *coefficients.EXP[format])), k


def exp(x: Floats) -> Floats:
    """eˣ."""
    x = at_least(smallest_exponent(x.format), at_most(largest_exponent(x.format), x))
    return times_power_of_two(*_exp_of_reduced(x))


def exp_of_minus_abs(x: Floats) -> Floats:
    """e^−|x|, which does not overflow."""
    return times_small_power_of_two(
        *_exp_of_reduced(at_least(smallest_exponent(x.format), -abs(x)))
    )


def exp_two_words(x: Floats, low: Floats) -> tuple[Floats, Floats, Integers]:
    """e^(x + low) = (first + second)·2ᵏ."""
    e = reduce(x, low)
    first, second = ordered_sum(x.like(1.0), e.first + e.rest)
    return first, second, e.k


def expm1(x: Floats) -> Floats:
    """eˣ − 1 = 2·(2^(k−1)·(eʳ − 1) + (2^(k−1) − ½)); 2^(k−1) as 2ᵏ itself may overflow."""
    format = x.format
    small = -0.7 * (format.digits + 3)  # e^small is below half a unit in the last place of 1
    e = reduce(at_least(small, at_most(largest_exponent(format), x)))
    scale = (e.k - 1).power_of_two()
    scaled = fma(scale, e.first, scale - 0.5) + scale * e.rest
    # Where k is 0, half a subnormal number may not be one.
    return with_sign(select(e.k.eq(0), e.first + e.rest, scaled + scaled), x)


def tanh(x: Floats) -> Floats:
    """tanh |x| = t/(t + 2) with t = e^(2|x|) − 1; the sign is that of x."""
    one = 0.35 * (x.format.digits + 2) * 2.0  # tanh is rounded to 1 from half of this on
    e = reduce(at_most(one, abs(x) * 2.0))
    scale = e.k.power_of_two()
    t = fma(scale, e.first, scale - 1.0) + scale * e.rest
    bottom = t + 2.0
    bottom_low = t - (bottom - 2.0)  # exact while t < 2^(digits + 1); beyond, it does not count
    ratio, ratio_low = quotient(t, None, bottom, bottom_low)
    return with_sign(ratio + ratio_low, x)


def logistic(x: Floats) -> Floats:
    """1/(1 + e⁻ˣ); eˣ/(1 + eˣ) left of 0, where e⁻ˣ overflows."""
    z = exp_of_minus_abs(x)
    bottom, bottom_low = ordered_sum(x.like(1.0), z)
    ratio, ratio_low = quotient(select(x < 0.0, z, 1.0), None, bottom, bottom_low)
    return ratio + ratio_low
