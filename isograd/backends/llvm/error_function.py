"""erf and erfc.

For a = |x| < ½, erf a = a + a·Q(a²). Beyond, erfc a = e^(−a²)·(1 + P(t))/(1 + 2a) with
t = (a − c)/(a + c), P by one minimax polynomial up to underflow (Shepherd & Laframboise 1981). a²,
the exponential and the quotient are kept in two words, so that the relative error stays small.
"""

from __future__ import annotations

from isograd.backends.llvm import coefficients
from isograd.backends.llvm.exponential import exp_two_words, times_small_power_of_two
from isograd.backends.llvm.lanes import (
    Floats,
    at_most,
    fma,
    polynomial,
    select,
    with_sign,
)
from isograd.backends.llvm.two_words import ordered_sum, quotient, two_product

_LAST = {"float32": 10.2, "float64": 27.3}  # erfc is rounded to 0 there


def _erf_near_0(x: Floats) -> Floats:
    return fma(x, polynomial(x * x, coefficients.ERF[x.format.name]), x)


def _erfc_far(a: Floats) -> Floats:
    format = a.format.name
    a = at_most(_LAST[format], a)
    middle = coefficients.ERFC_MIDDLE
    top, top_low = ordered_sum(
        a.like(1.0), polynomial((a - middle) / (a + middle), coefficients.ERFC[format])
    )
    ratio, ratio_low = quotient(top, top_low, *ordered_sum(a + a, a.like(1.0)))
    square, square_low = two_product(a, a)
    e, e_low, k = exp_two_words(-square, -square_low)
    return times_small_power_of_two(fma(e, ratio, fma(e, ratio_low, e_low * ratio)), k)


def erfc(x: Floats) -> Floats:
    """2/√π ∫ₓ^∞ e^(−t²) dt; 2 − erfc |x| left of −½."""
    a = abs(x)
    far = _erfc_far(a)
    return select(a < 0.5, 1.0 - _erf_near_0(x), select(x < 0.0, 2.0 - far, far))


def erf(x: Floats) -> Floats:
    """2/√π ∫₀ˣ e^(−t²) dt; 1 − erfc |x| with the sign of x beyond ±½."""
    a = abs(x)
    return select(a < 0.5, _erf_near_0(x), with_sign(1.0 - _erfc_far(a), x))
