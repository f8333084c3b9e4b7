"""Numbers of two words: the unevaluated sum of a number and of a far smaller one."""

from __future__ import annotations

from isograd.backends.llvm.lanes import Floats, fma


def two_sum(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """x + y rounded, and what the rounding lost (Knuth 1969, sec. 4.2.2)."""
    total = x + y
    moved = total - x
    return total, (x - (total - moved)) + (y - moved)


def ordered_sum(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """As two_sum where |x| ≥ |y| (Dekker 1971)."""
    total = x + y
    return total, y - (total - x)


def two_product(x: Floats, y: Floats | float) -> tuple[Floats, Floats]:
    """x·y rounded, and what the rounding lost."""
    product = x * y
    return product, fma(x, y, -product)


def quotient(
    top: Floats, top_low: Floats | None, bottom: Floats, bottom_low: Floats
) -> tuple[Floats, Floats]:
    """(top + top_low)/(bottom + bottom_low) in two words, by a step of Newton's."""
    reciprocal = 1.0 / bottom
    ratio = top * reciprocal
    left = fma(-ratio, bottom_low, fma(-ratio, bottom, top))
    return ratio, (left if top_low is None else left + top_low) * reciprocal
