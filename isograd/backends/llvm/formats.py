"""The two floating-point formats: widths, and constants that formulas need."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from llvmlite import ir


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format.

    Attributes:
        name: as NumPy calls it.
        bits: width.
        digits: binary digits of the significand, the hidden one included.
    """

    name: str
    bits: int
    digits: int

    @property
    def bias(self) -> int:
        """The largest exponent; the exponent field of 1."""
        return (1 << (self.bits - self.digits - 1)) - 1

    @property
    def shift(self) -> int:
        """Where the exponent field starts."""
        return self.digits - 1

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0 ** (1 - self.bias)

    @property
    def whole(self) -> float:
        """1.5 · 2^(digits − 1): x + whole is rounded to an integer, whole + k has the bits of
        whole plus k."""
        return float(3 << (self.digits - 2))

    def pattern(self, number: float) -> int:
        """The bits of a positive number as an integer."""
        kind, code = ("<f", "<i") if self.bits == 32 else ("<d", "<q")
        return int(struct.unpack(code, struct.pack(kind, number))[0])

    @property
    def ir_float(self) -> Any:
        return ir.FloatType() if self.bits == 32 else ir.DoubleType()

    @property
    def ir_integer(self) -> Any:
        return ir.IntType(self.bits)


FLOAT32 = Format("float32", 32, 24)
FLOAT64 = Format("float64", 64, 53)
