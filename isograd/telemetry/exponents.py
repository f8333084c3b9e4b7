"""Binary exponents, read off the bits: how far floats are from the ends of their format."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = NDArray[np.signedinteger[Any]]


class Exponents(NamedTuple):
    """Histogram of binary exponents e, where |x| = m·2^e with 1 ≤ m < 2; no zeros at its ends.

    Attributes:
        first: the smallest exponent that occurs (0 in an empty histogram).
        counts: how often first, first + 1, … occur.
    """

    first: int
    counts: tuple[int, ...]

    def merge(self, other: Exponents) -> Exponents:
        """The histogram of the values of both."""
        if not self.counts or not other.counts:
            return self if self.counts else other
        first = min(self.first, other.first)
        counts = [0] * (max(h.first + len(h.counts) for h in (self, other)) - first)
        for start, shard in (self, other):
            for i, n in enumerate(shard, start - first):
                counts[i] += n
        return Exponents(first, tuple(counts))


def exponent(magnitude: float) -> int:
    """e of magnitude = m·2^e with 1 ≤ m < 2."""
    return math.frexp(magnitude)[1] - 1


class Format(NamedTuple):
    """A binary interchange format and the dtypes its bits are seen through.

    Without their sign, the bits of floats are ordered as their magnitudes are. They begin with the
    biased exponent, which is all zeros for 0 and subnormals, all ones for NaN and infinities, and
    e + bias for other numbers.

    References:
        IEEE 754-2019, section 3.4 and table 3.5.
    """

    dtype: type[np.floating[Any]]
    signed: type[np.signedinteger[Any]]
    unsigned: type[np.unsignedinteger[Any]]
    bits: int
    fraction_bits: int
    bias: int

    def split(self, values: NDArray[Any]) -> tuple[Bits, NDArray[np.intp]]:
        """Of a 1-d array: the bits without their sign, and how often each biased exponent occurs.

        Returns:
            Integers of the array's length, and counts; the last counts what is not finite.
        """
        magnitudes = values.view(self.signed) & ((1 << self.bits - 1) - 1)
        bins = 1 << self.bits - 1 - self.fraction_bits
        return magnitudes, np.bincount(magnitudes >> self.fraction_bits, minlength=bins)

    def smallest(self, magnitudes: Bits) -> float:
        """The smallest magnitude other than zero, where there is one."""
        # In unsigned arithmetic 0 - 1 is the largest number, so a zero is never the smallest.
        bits = np.minimum.reduce((magnitudes - 1).view(self.unsigned)) + 1
        return float(bits.view(self.dtype))

    def histogram(
        self, magnitudes: Bits, biased: NDArray[np.intp], min_abs: float, max_abs: float
    ) -> Exponents:
        """The histogram of exponents: normal numbers as counted, subnormals by their leading bit.

        Args:
            magnitudes: of the finite values, as from ``split``.
            biased: counts, as from ``split``.
            min_abs: their smallest magnitude other than zero.
            max_abs: their largest magnitude, not zero.
        """
        first, last = exponent(min_abs), exponent(max_abs)
        normal = 1 - self.bias
        if first >= normal:
            counts = biased[first + self.bias : last + self.bias + 1]
        else:
            counts = np.zeros(last - first + 1, np.intp)
            if last >= normal:
                counts[normal - first :] = biased[1 : last + self.bias + 1]
            subnormal = magnitudes[(magnitudes > 0) & (magnitudes < 1 << self.fraction_bits)]
            e = np.frexp(subnormal.astype(np.float64))[1] - 1 + normal - self.fraction_bits
            counts += np.bincount(e - first, minlength=counts.size)
        return Exponents(first, tuple(counts.tolist()))


FORMATS = {
    np.dtype(np.float16): Format(np.float16, np.int16, np.uint16, 16, 10, 15),
    np.dtype(np.float32): Format(np.float32, np.int32, np.uint32, 32, 23, 127),
    np.dtype(np.float64): Format(np.float64, np.int64, np.uint64, 64, 52, 1023),
}
"""The formats a summary can be taken of, by dtype (native byte order)."""
