"""Numbers rounded to a narrower format, by the bits of the wider one.

Where the narrower format has normal numbers, the digits to be dropped are the last of the word, and
what carries out of them goes on into the exponent, as it should. Below, its numbers lie evenly:
there x is counted in units of the smallest.
"""

from __future__ import annotations

import math

from isograd.backends.llvm.casts import cast
from isograd.backends.llvm.lanes import Floats, Integers, Unsigned, round_down, select
from isograd.engine.number_formats import FORMATS


def rounded(x: Floats, name: str, words: Unsigned | None = None) -> Floats:
    """As `isograd.engine.number_formats.rounded`, to the bit.

    Args:
        x: float32 or float64.
        name: of the narrower format.
        words: 32 random bits for each lane, for stochastic rounding.
    """
    source, target = x.format, FORMATS[name]
    dropped = source.shift - target.fraction_bits
    if dropped <= 0:
        return x
    infinity, size = source.pattern(math.inf), abs(x)
    bits = size.bits()
    added = _half(bits, dropped) if words is None else _share(words, dropped, source.bits)
    out = ((bits + added) >> dropped) << dropped
    if target.min_exponent > 1 - source.bias:
        units = size * (1.0 / target.min_subnormal)
        whole = _nearest(units) if words is None else _carried(units, words)
        few = (whole * target.min_subnormal).bits()
        out = select(bits < source.pattern(target.min_normal), few, out)
    beyond = infinity if target.infinities else infinity | 1 << (source.shift - 1)
    out = select(out > source.pattern(target.max), out.like(beyond), out)
    special = bits if target.infinities else out.like(beyond)
    out = select(bits >= infinity, special, out)  # of NaN the sum may have gone into the sign
    return (out | (x.bits() ^ bits)).floats()


def _half(bits: Integers, dropped: int) -> Integers:
    """Just below half of the last digit kept, and half where that digit is odd."""
    return ((bits >> dropped) & 1) + ((1 << (dropped - 1)) - 1)


def _share(words: Unsigned, dropped: int, width: int) -> Integers:
    """Random digits in the place of those that are dropped, at most 32 of them from the left."""
    spare = 32 - dropped
    wide: Integers = cast(words, f"uint{width}")
    return wide >> spare if spare >= 0 else wide << -spare


def _nearest(units: Floats) -> Floats:
    """The nearest whole number of few digits, ties to even."""
    whole = units.format.whole
    return (units + whole) - whole


def _carried(units: Floats, words: Unsigned) -> Floats:
    """The whole number below or above, by random words."""
    whole = round_down(units)
    share = cast((units - whole) * 2.0**32, "uint32")
    return whole + select(share + words < share, whole.like(1.0), whole.like(0.0))


__all__ = ["rounded"]
