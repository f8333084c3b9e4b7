"""Binary floating-point formats, and how numbers are rounded to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.errors import IsogradError


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A binary floating-point format: a sign, exponent and fraction.

    Attributes:
        name: by which specs and reports name it.
        exponent_bits, fraction_bits: stored bits.
        max: its largest finite number.
        infinities: whether it has infinities; without, what overflows is NaN.

    References:
        IEEE 754-2019, sec. 3.4 (binary16, 32, 64); Kalamkar et al. 2019 (bfloat16); Micikevicius et
        al. 2022, table 1 (FP8).
    """

    name: str
    exponent_bits: int
    fraction_bits: int
    max: float
    infinities: bool = True

    @property
    def bias(self) -> int:
        """Of the exponent."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def min_exponent(self) -> int:
        """log₂ of the smallest normal number."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """⌊log₂ max⌋."""
        return int(np.frexp(self.max)[1]) - 1

    @property
    def min_normal(self) -> float:
        """The smallest normal number."""
        return 2.0**self.min_exponent

    @property
    def min_subnormal(self) -> float:
        """The smallest number above 0."""
        return 2.0 ** (self.min_exponent - self.fraction_bits)

    @property
    def eps(self) -> float:
        """From 1 to the next number."""
        return 2.0**-self.fraction_bits

    @property
    def unit_roundoff(self) -> float:
        """u: the largest relative error of rounding to nearest within the normal range."""
        return self.eps / 2.0

    @property
    def bits(self) -> int:
        """Of a number, with its sign."""
        return 1 + self.exponent_bits + self.fraction_bits


FORMATS: dict[str, NumberFormat] = {
    f.name: f
    for f in (
        NumberFormat("fp64", 11, 52, float(np.finfo(np.float64).max)),
        NumberFormat("fp32", 8, 23, float(np.finfo(np.float32).max)),
        NumberFormat("bf16", 8, 7, (2.0 - 2.0**-7) * 2.0**127),
        NumberFormat("fp16", 5, 10, 65504.0),
        NumberFormat("fp8_e4m3", 4, 3, 448.0, infinities=False),
        NumberFormat("fp8_e5m2", 5, 2, 57344.0),
    )
}
"""From the widest to the narrowest."""


def number_format(name: str) -> NumberFormat:
    """The format of a name.

    Raises:
        IsogradError: if there is none.
    """
    if name not in FORMATS:
        raise IsogradError("a number format must be one of " + ", ".join(FORMATS), came=repr(name))
    return FORMATS[name]


def rounded(
    x: NDArray[Any], form: NumberFormat, bits: NDArray[np.uint32] | None = None
) -> NDArray[Any]:
    """The numbers of a format nearest to x, as numbers of x's own dtype.

    To nearest, ties to even; what lies at or beyond the middle between the largest number and the
    next that a wider exponent would give is infinite (NaN where the format has no infinities).
    With random bits the rounding is stochastic: away from 0 with the probability of the fraction of
    the way to the next number, cut off after 32 binary digits, so that the mean is x (Connolly,
    Higham & Mary 2021, eq. 2.1): where fraction + bits/2³² ≥ 1.

    Args:
        x: floating-point numbers.
        form: the format; one with as many digits as x, or more, leaves x as it is.
        bits: of the shape of x, for stochastic rounding.
    """
    y = np.asarray(x)
    if form.fraction_bits >= np.finfo(y.dtype).nmant:
        return y
    with np.errstate(all="ignore"):
        size = np.abs(y).astype(np.float64)
        _, exponent = np.frexp(size)
        least = np.maximum(exponent - 1, form.min_exponent) - form.fraction_bits
        units = np.ldexp(size, -least)
        if bits is None:
            whole = np.rint(units)
        else:
            whole = np.floor(units)
            share = np.where(np.isfinite(size), (units - whole) * 2.0**32, 0.0)
            whole += share.astype(np.uint64) + bits >= 2**32
        out = np.ldexp(whole, least)
        if not form.infinities:
            out = np.where(out > form.max, np.nan, out)
        out = np.copysign(np.where(out > form.max, np.inf, out), y)
    return np.asarray(out, y.dtype)


__all__ = ["FORMATS", "NumberFormat", "number_format", "rounded"]
