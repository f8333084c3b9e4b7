"""Rounding errors of sums, products and the softmax: bounds before a computation, from n and u."""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from isograd.engine.number_formats import NumberFormat
from isograd.errors import ShapeError, TheoryError
from isograd.theory.formats import as_format


def gamma(n: int, form: NumberFormat | str) -> float:
    """γ_n = nu/(1 − nu), or infinity where nu ≥ 1 and the bound says nothing.

    Of a dot product of n terms, summed in any order: |fl(xᵀy) − xᵀy| ≤ γ_n |x|ᵀ|y|.

    Args:
        n: how many terms, 0 or more.
        form: in which products and sums are rounded.

    Raises:
        TheoryError: if n is negative.

    References:
        Higham 2002, lemma 3.1 and eq. 3.5.

    Example:
        >>> gamma(1000, "fp32"), gamma(2048, "fp16")
        (5.9608197700840286e-05, inf)
    """
    nu = _terms(n) * as_format(form).unit_roundoff
    return nu / (1.0 - nu) if nu < 1.0 else math.inf


def expected_growth(n: int, form: NumberFormat | str) -> float:
    """√n·u: the size of the error of n roundings that are independent, with mean zero.

    References:
        Higham & Mary 2019, sec. 1 (Wilkinson's rule of thumb).
    """
    return math.sqrt(_terms(n)) * as_format(form).unit_roundoff


def gamma_probable(n: int, form: NumberFormat | str, deviation: float) -> tuple[float, float]:
    """γ̃_n(λ) = exp(λ√n·u + n·u²/(1 − u)) − 1, and the probability with which it holds.

    Args:
        n: how many terms.
        form: in which they are rounded.
        deviation: λ, above 0.

    Returns:
        The bound on a product of n factors 1 + δ, and 1 − 2·exp(−λ²(1 − u)²/2), at least 0. Of a
        dot product each of the n terms has such a product, and all bounds hold at once with
        probability 1 − n(1 − that).

    Raises:
        TheoryError: if n is negative or λ is not above 0.

    References:
        Higham & Mary 2019, theorems 2.4 and 3.1.
    """
    if not deviation > 0.0:
        raise TheoryError("λ must be above 0", came=repr(deviation))
    u = as_format(form).unit_roundoff
    bound = math.expm1(deviation * math.sqrt(_terms(n)) * u + n * u * u / (1.0 - u))
    return bound, max(0.0, 1.0 - 2.0 * math.exp(-0.5 * (deviation * (1.0 - u)) ** 2))


def _terms(n: int) -> int:
    if not (isinstance(n, Integral) and n >= 0):
        raise TheoryError("a sum must have 0 terms or more, a whole number", came=repr(n))
    return n


def logsumexp_condition(x: ArrayLike) -> float:
    """max|x| / |ln Σ exp x|: relative condition number of logsumexp in the maximum norm.

    The gradient is the softmax, whose 1-norm is 1. Infinite where the value is 0 and x is not.

    Args:
        x: (n,), finite.

    References:
        Blanchard, Higham & Higham 2021, sec. 2.
    """
    y = _vector(x)
    value, largest = abs(float(special.logsumexp(y))), float(np.max(np.abs(y)))
    return largest / value if value else math.inf if largest else math.nan


def softmax_jacobian_norm(x: ArrayLike) -> float:
    """2·max g(1 − g): the norm of the softmax's Jacobian diag(g) − ggᵀ in the maximum norm.

    At most ½, as is the 2-norm: the softmax does not magnify absolute errors of its logits.

    Args:
        x: (n,), finite.

    References:
        Blanchard, Higham & Higham 2021, sec. 2.
    """
    g = special.softmax(_vector(x))
    # g(1 − g) is largest at the largest g; 1 − g, as the sum of the others, keeps its digits.
    top = int(np.argmax(g))
    return float(2.0 * g[top] * np.sum(np.delete(g, top)))


def softmax_condition(x: ArrayLike) -> float:
    """‖J‖·‖x‖/‖g‖ in the maximum norm: relative condition number of the softmax g.

    Args:
        x: (n,), finite.

    References:
        Blanchard, Higham & Higham 2021, sec. 2.
    """
    y = _vector(x)
    largest = float(np.max(special.softmax(y)))
    return softmax_jacobian_norm(y) * float(np.max(np.abs(y))) / largest


def _vector(x: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    y = np.asarray(x, np.float64)
    if y.ndim != 1 or not y.size or not np.isfinite(y).all():
        raise ShapeError(
            "logits must be a vector of finite numbers",
            came=f"shape {y.shape}" if y.ndim != 1 or not y.size else "a number that is not finite",
        )
    return y


__all__ = [
    "expected_growth",
    "gamma",
    "gamma_probable",
    "logsumexp_condition",
    "softmax_condition",
    "softmax_jacobian_norm",
]
