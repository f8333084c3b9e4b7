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
    With random bits the rounding is stochastic: up with the probability of the fraction of the way
    to the next number, so that its mean is x (Connolly, Higham & Mary 2021, eq. 2.1).

    Args:
        x: float32 or float64.
        form: the format.
        bits: of the shape of x, for stochastic rounding.
    """
    y = np.asarray(x)
    if form.fraction_bits >= np.finfo(y.dtype).nmant:
        return y
    _, exponent = np.frexp(y)
    least = np.maximum(exponent - 1, form.min_exponent) - form.fraction_bits
    units = np.ldexp(y.astype(np.float64), -least)
    units = np.rint(units) if bits is None else np.floor(units + bits / 2.0**32)
    with np.errstate(over="ignore"):
        out = np.ldexp(units, least).astype(y.dtype)
    beyond = np.isfinite(y) & (np.abs(out) > form.max)
    overflow = np.copysign(np.inf, y) if form.infinities else np.nan
    out = np.where(beyond, overflow, np.where(np.isfinite(y), out, y)).astype(y.dtype)
    return out if form.infinities else np.where(np.isinf(out), np.nan, out).astype(y.dtype)


__all__ = ["FORMATS", "NumberFormat", "number_format", "rounded"]
