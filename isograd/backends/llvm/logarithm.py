"""Logarithms and powers: log, log1p, softplus, pow.

x = 2ᵏ·(1 + f) with 1 + f from √½ to √2, s = f/(2 + f), and ln(1 + f) = f − (½f² − s·(½f² + R)),
R = ln(1 + f)/s − 2 by a minimax polynomial in s² (Sun Microsystems 1993). As f is exact and the
rest is small beside it, the sum keeps the relative accuracy of the result.
"""

from __future__ import annotations

import math

from isograd.backends.llvm import coefficients
from isograd.backends.llvm.exponential import (
    LN2,
    exp,
    exp_of_minus_abs,
    exp_two_words,
    largest_exponent,
    smallest_exponent,
    times_power_of_two,
)
from isograd.backends.llvm.lanes import (
    Floats,
    Integers,
    at_least,
    at_most,
    fma,
    polynomial,
    round_down,
    select,
)
from isograd.backends.llvm.two_words import ordered_sum, two_product, two_sum

_SQRT_HALF = math.sqrt(0.5)


def _split(x: Floats) -> tuple[Integers, Floats]:
    """k and 1 + f with x = 2ᵏ·(1 + f), for normal x > 0."""
    format = x.format
    base = format.pattern(_SQRT_HALF)
    moved = x.bits() - base
    mantissa = (moved & ((1 << format.shift) - 1)) + base
    return moved >> format.shift, mantissa.floats()


def _split_any(x: Floats) -> tuple[Integers, Floats]:
    """Likewise for x > 0 that may be subnormal."""
    format = x.format
    subnormal = x < format.tiny
    k, m = _split(select(subnormal, x * 2.0**format.digits, x))
    return select(subnormal, k - format.digits, k), m


def _log_sum(k: Floats, f: Floats) -> Floats:
    """k·ln 2 + ln(1 + f)."""
    format = f.format.name
    ln2_high, ln2_low = LN2[format]
    s = f / (2.0 + f)
    z = s * s
    half = f * f * 0.5
    rest = s * fma(z, polynomial(z, coefficients.LOG[format]), half)
    return fma(k, ln2_high, f - (half - fma(k, ln2_low, rest)))


def log(x: Floats) -> Floats:
    """ln x; −∞ at ±0, NaN for x < 0."""
    k, m = _split_any(x)
    found = _log_sum(k.number(), m - 1.0)
    other = select(x.eq(0.0), x.like(-math.inf), select(x < 0.0, x.like(math.nan), x))
    return select((x > 0.0) & (x < math.inf), found, other)


def log1p(x: Floats) -> Floats:
    """ln(1 + x) = k·ln 2 + ln(1 + f); f takes up what the rounding of 1 + x lost."""
    total = 1.0 + x
    lost = x - (total - 1.0)
    k, m = _split(total)
    # 2⁻ᵏ is 0 where it would be subnormal; nothing was lost there.
    least = -x.format.bias
    scale = select(-k < least, k.like(least), -k).power_of_two()
    found = _log_sum(k.number(), fma(lost, scale, m - 1.0))
    other = select(x.eq(-1.0), x.like(-math.inf), select(x < -1.0, x.like(math.nan), x))
    return select((x > -1.0) & (x < math.inf) & x.ne(0.0), found, other)


def softplus(x: Floats) -> Floats:
    """ln(1 + eˣ) = max(x, 0) + ln(1 + z), z = e^−|x| ≤ 1, so that ln(1 + z) needs no splitting."""
    z = exp_of_minus_abs(x)
    s = z / (2.0 + z)
    s2 = s * s
    half = z * 0.5
    rest = s * fma(s2, polynomial(s2, coefficients.LOG_WIDE[x.format.name]), half * z)
    total, lost = two_sum(select(x > 0.0, x, 0.0), z)
    return total + select(total < math.inf, fma(-half, z, rest + lost), 0.0)  # not ∞ − ∞


# --- powers


def _log_two_words(x: Floats) -> tuple[Floats, Floats]:
    """ln x of float64 x > 0 in two words, to a relative error of about 2⁻⁶⁴.

    ln(1 + f) = 2s + s³·(2/3 + s²·tail); all but the tail in two words.
    """
    k, m = _split_any(x)
    f = m - 1.0
    total, lost = ordered_sum(f.like(2.0), f)
    s = f / total
    s_low = fma(-s, lost, fma(-s, total, f)) / total
    z, z_low = two_product(s, s)
    z_low = fma(s + s, s_low, z_low)
    tail = z * polynomial(z, coefficients.LOG_TAIL["float64"])
    third, third_low = ordered_sum(z.like(2.0 / 3.0), tail)
    third_low = third_low + _TWO_THIRDS_LOW
    product, product_low = two_product(z, third)
    product_low = fma(z, third_low, fma(z_low, third, product_low))
    factor, factor_low = ordered_sum(z.like(2.0), product)
    factor_low = factor_low + product_low
    log_m, log_m_low = two_product(s, factor)
    log_m_low = fma(s, factor_low, fma(s_low, factor, log_m_low))
    number = k.number()
    ln2_high, ln2_low = LN2["float64"]
    whole, whole_low = two_product(number, ln2_high)
    high, low = ordered_sum(whole, log_m)
    return ordered_sum(high, low + (fma(number, ln2_low, whole_low) + log_m_low))


_TWO_THIRDS_LOW = 2.0 / 3.0 * 2.0**-54  # 2/3 in binary is 0.101010…, cut after 53 digits


def _power(x: Floats, y: Floats) -> Floats:
    """e^(y ln x) for finite x > 0 and |y| ≤ 2⁶⁵."""
    if x.format.bits == 32:
        return exp(y.wide() * log(x.wide())).narrow()
    log_high, log_low = _log_two_words(x)
    high, low = two_product(y, log_high)
    clamped = at_least(smallest_exponent(x.format), at_most(largest_exponent(x.format), high))
    low = select(clamped.eq(high), fma(y, log_low, low), 0.0)
    first, second, k = exp_two_words(clamped, low)
    return times_power_of_two(first + second, k)


def pow(x: Floats, y: Floats) -> Floats:
    """xʸ with the special values of C99, sec. F.9.4.4.

    |x|ʸ = e^(y ln |x|) with ln |x| and the product in two words, or in float64 for float32.
    """
    size, extent = abs(x), abs(y)
    # Beyond 2⁶⁵ only the sign of y matters; the bound keeps the product finite.
    power = _power(size, at_least(-(2.0**65), at_most(2.0**65, y)))
    to_zero = size.eq(0.0) ^ (y < 0.0)
    at_end = select(to_zero, x.like(0.0), x.like(math.inf))
    power = select(size.eq(0.0) | size.eq(math.inf), at_end, power)
    whole, half = round_down(y).eq(y), y * 0.5
    odd = whole & round_down(half).ne(half) & (extent < math.inf)
    power = select((x.bits() < 0) & odd, -power, power)
    power = select((x < 0.0) & (x > -math.inf) & ~whole, x.like(math.nan), power)
    power = select(x.ne(x) | y.ne(y), x + y, power)
    return select(y.eq(0.0) | x.eq(1.0), x.like(1.0), power)
