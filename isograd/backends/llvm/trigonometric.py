"""sin and cos.

|x| = j·π/2 + r with |r| ≤ π/4, r in two words. Up to 2¹⁵ (float32) or 2³⁰ (float64) π/2 is taken in
three words (Cody & Waite 1980, ch. 8). Beyond, j mod 4 and r come from a table of 2ᵉ·2/π mod 4 in
four words for every exponent e (Payne & Hanek 1983); a vector takes that way only if one of its
lanes is so large, and the other lanes keep what they had.
"""

from __future__ import annotations

import functools
import math

from isograd.backends.llvm import coefficients
from isograd.backends.llvm.formats import Format
from isograd.backends.llvm.lanes import (
    Floats,
    Integers,
    Table,
    choose_if_any,
    fma,
    nearest_integer,
    polynomial,
    round_down,
    select,
)
from isograd.backends.llvm.two_words import ordered_sum, two_product, two_sum

_LIMIT = {"float32": 2.0**15, "float64": 2.0**30}
_WORDS = 4


@functools.cache
def _pi(bits: int) -> int:
    """⌊π·2^bits⌋ but for its last digits: 16 arctan(1/5) − 4 arctan(1/239) (Machin 1706)."""
    one = 1 << bits

    def arctan_of_inverse(n: int) -> int:
        total = term = one // n
        k = 1
        while term:
            term //= -n * n
            k += 2
            total += term // k
        return total

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def _words(numerator: int, bits: int, count: int, format: Format) -> tuple[float, ...]:
    """numerator/2^bits as a sum of numbers of the format, each cut after its digits."""
    words = []
    for _ in range(count):
        shift = max(numerator.bit_length() - format.digits, 0)
        word = numerator >> shift << shift
        words.append(math.ldexp(word >> shift, shift - bits))
        numerator -= word
    return tuple(words)


@functools.cache
def _half_pi(format: Format) -> tuple[float, ...]:
    """π/2 in three words."""
    return _words(_pi(300), 301, 3, format)


@functools.cache
def _two_over_pi(format: Format) -> Table:
    """2^(shift)·(2^(e − shift)·2/π mod 4) in words, e from that of the limit on.

    The last row, which is that of ∞ and NaN, is NaN.
    """
    bits = format.bias + 6 * format.digits
    inverse = (2 << 2 * bits) // _pi(bits)
    rows = []
    for e in range(int(math.log2(_LIMIT[format.name])), format.bias + 1):
        modulus = 4 << (bits + format.shift)
        rows.append(_words((inverse << e) % modulus, bits, _WORDS, format))
    rows.append((math.nan,) * _WORDS)
    return Table(f"two_over_pi_{format.name}", tuple(rows))


def _distilled(terms: list[Floats]) -> list[Floats]:
    """The same sum, more of it in the first terms (Ogita, Rump & Oishi 2005, algorithm 4.3)."""
    terms = list(terms)
    for i in range(len(terms) - 1, 0, -1):
        terms[i - 1], terms[i] = two_sum(terms[i - 1], terms[i])
    return terms


def _reduce_large(a: Floats) -> tuple[Floats, Floats, Integers]:
    """r in two words and j mod 4, for a from the limit on."""
    format = a.format
    field = a.bits() & (((1 << (format.bits - format.digits)) - 1) << format.shift)
    first = format.bias + int(math.log2(_LIMIT[format.name]))
    row = (field >> format.shift) - first
    words = _two_over_pi(format).look_up(row, a)
    significand = ((a.bits() - field) + format.pattern(1.0)).floats()
    terms: list[Floats] = []
    for word in words[:-1]:
        terms += two_product(significand, word)
    terms.append(significand * words[-1])
    terms[0] = terms[0] - 4.0 * round_down(terms[0] * 0.25)
    terms = _distilled(terms)
    number, j = nearest_integer(terms[0])
    terms[0] = terms[0] - number
    high, low, lower, *_ = _distilled(_distilled(terms))
    half_pi, half_pi_low, _ = _half_pi(format)
    r, r_low = two_product(high, half_pi)
    r_low = r_low + fma(high, half_pi_low, (low + lower) * half_pi)
    return *ordered_sum(r, r_low), j


def _reduce(a: Floats) -> tuple[Floats, Floats, Integers]:
    """r in two words and j mod 4, for a ≥ 0."""
    one, two, three = _half_pi(a.format)
    number, j = nearest_integer(a, 2.0 / math.pi)
    product, product_low = two_product(number, two)
    high, low = two_sum(fma(-number, one, a), -product)
    low = fma(-number, three, low - product_low)
    r, r_low = ordered_sum(high, low)
    large = a >= _LIMIT[a.format.name]
    return choose_if_any(large, lambda: _reduce_large(a), (r, r_low, j))


def _sin_and_cos(r: Floats, low: Floats) -> tuple[Floats, Floats]:
    """Of r + low, |r| ≤ π/4."""
    format = r.format.name
    z = r * r
    half = z * 0.5
    sine = r + fma(z * r, polynomial(z, coefficients.SIN[format]), fma(-half, low, low))
    top = 1.0 - half
    rest = fma(z * z, polynomial(z, coefficients.COS[format]), -(r * low))
    return sine, top + (((1.0 - top) - half) + rest)


def _turned(r: Floats, low: Floats, j: Integers) -> Floats:
    """sin(r + low + j·π/2)."""
    sine, cosine = _sin_and_cos(r, low)
    value = select((j & 1).eq(0), sine, cosine)
    return (value.bits() ^ ((j & 2) << (r.format.bits - 2))).floats()


def sin(x: Floats) -> Floats:
    """sin x; NaN at ±∞."""
    sine = _turned(*_reduce(abs(x)))
    return (sine.bits() ^ (x.bits() ^ abs(x).bits())).floats()


def cos(x: Floats) -> Floats:
    """cos x; NaN at ±∞."""
    r, low, j = _reduce(abs(x))
    return _turned(r, low, j + 1)
