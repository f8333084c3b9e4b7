"""Lyapunov exponents: the rates at which a product of Jacobians stretches, right at every depth.

The product itself leaves the numbers of float64 within some hundred layers. Its factors do not: an
orthonormal frame is sent through one layer, and QR = J Q gives the next frame and, in the diagonal
of R, by what its directions were stretched. Their logarithms add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from isograd.errors import TheoryError

Matrix = NDArray[np.float64]
Jacobian = Matrix | Callable[[Matrix], Matrix]
"""A matrix (n_out, n_in), or the function V (n_in, k) ↦ J V (n_out, k)."""


@dataclass(frozen=True, slots=True)
class Lyapunov:
    """The Lyapunov spectrum of a product of `layers` matrices, to one standard error.

    Attributes:
        exponents: (k,) λ_i, mean of ln R_ii over the layers; descending, up to their errors. −inf
            for a direction that some layer sends to zero.
        errors: (k,) their standard errors, from the means of successive blocks of √layers layers;
            inf where there are fewer than two blocks, 0 beside −inf.
        sums: (k,) Σ ln R_ii: λ_i times the layers that were counted.
        layers: how many were counted.
    """

    exponents: Matrix
    errors: Matrix
    sums: Matrix
    layers: int

    @property
    def log_volume(self) -> float:
        """Σ λ_i: the rate of ln volume of the frame; that of ln|det| if the frame is whole."""
        return float(self.exponents.sum())


def lyapunov(
    jacobians: Iterable[Jacobian],
    *,
    rng: np.random.Generator,
    k: int | None = None,
    n: int | None = None,
    discard: int = 0,
) -> Lyapunov:
    """The Lyapunov exponents of J_L … J_2 J_1.

    From a random orthonormal frame Q_0, Q_l R_l = J_l Q_{l−1}; λ_i is the mean of ln |R_l,ii|. The
    frame settles at a rate of the gaps between the exponents: until then (of the order of 1/L in
    the mean) a value is that of random directions, not of singular vectors. The sum over a whole
    frame is exact at every depth.

    Args:
        jacobians: J_1, J_2, …, matrices or functions; widths may change from one to the next, and
            where fewer than k rows come out the other directions end at −inf.
        rng: draws the frame.
        k: how many exponents; None takes all, n.
        n: columns of J_1; needed where it is a function.
        discard: layers, from the first, that only settle the frame and are not counted.

    Raises:
        TheoryError: shapes that do not meet, no layer to count, or a product J Q that is not
            finite.

    References:
        Benettin et al. 1980; Eckmann & Ruelle 1985, sec. V.C. Errors: batch means (Law & Kelton
        1984).
    """
    frame: Matrix | None = None
    rows: list[Matrix] = []
    for number, jacobian in enumerate(jacobians, start=1):
        if frame is None:
            frame = _start(jacobian, n, k, rng)
            alive = np.arange(frame.shape[1])
            width = len(alive)
        frame, kept, stretched = _orthonormal(_product(jacobian, frame, number))
        alive = alive[kept]
        if number > discard:
            row = np.full(width, -math.inf)
            row[alive] = stretched
            rows.append(row)
    if not rows:
        raise TheoryError(
            "a Lyapunov spectrum needs at least one layer to count",
            came=f"{discard} discarded" if frame is not None else "no Jacobians",
        )
    return _summary(np.array(rows))


def _start(jacobian: Jacobian, n: int | None, k: int | None, rng: np.random.Generator) -> Matrix:
    """A random orthonormal frame (n, k)."""
    if not callable(jacobian):
        columns = np.shape(jacobian)[-1] if np.ndim(jacobian) == 2 else -1
        if n not in (None, columns):
            raise TheoryError("n must be the columns of the first Jacobian", came=f"{n}, {columns}")
        n = columns
    if n is None:
        raise TheoryError("the width before a first Jacobian that is a function must be given as n")
    k = n if k is None else k
    if not 1 <= k <= n:
        raise TheoryError("there are from 1 to n exponents", came=f"k = {k} of n = {n}")
    return np.linalg.qr(rng.standard_normal((n, k)))[0]


def _product(jacobian: Jacobian, frame: Matrix, number: int) -> Matrix:
    def refuse(must: str, came: str) -> TheoryError:
        return TheoryError(must, came=came, where=f"Jacobian {number}")

    with np.errstate(all="ignore"):
        if callable(jacobian):
            out = np.asarray(jacobian(frame), np.float64)
        else:
            matrix = np.asarray(jacobian, np.float64)
            if matrix.ndim != 2 or matrix.shape[1] != frame.shape[0]:
                came = f"shape {matrix.shape} after {frame.shape[0]}"
                raise refuse(
                    "a Jacobian must be a matrix that takes what the one before gives", came
                )
            out = matrix @ frame
    if out.ndim != 2 or out.shape[1] != frame.shape[1]:
        raise refuse("J V must have as many columns as V", f"{out.shape} for {frame.shape}")
    if not np.isfinite(out).all():
        raise refuse("what a Jacobian makes of a unit vector must be finite", "infinity or NaN")
    return out


def _orthonormal(v: Matrix) -> tuple[Matrix, NDArray[np.intp], Matrix]:
    """Q of v = QR, the columns of v that it keeps, and ln |R_ii|.

    A column is dropped where nothing but rounding is left of it beside those before: Householder's
    QR errs by a few ε of each column's size (Higham 2002, theorem 19.4). It must not be kept with
    an arbitrary direction, which would be taken out of the columns behind it.
    """
    kept = np.arange(v.shape[1])
    while True:
        q, r = np.linalg.qr(v[:, kept])
        left = np.zeros(len(kept))
        left[: min(r.shape)] = np.abs(np.diagonal(r))
        sizes = np.abs(r).max(axis=0, initial=0.0)
        gone = left <= np.finfo(np.float64).eps * max(v.shape) * sizes
        if not gone.any():
            return q, kept, np.log(left)
        first = int(gone.argmax())
        behind = np.flatnonzero(~gone[first:])
        kept = np.delete(kept, slice(first, first + int(behind[0]) if len(behind) else None))


def _summary(logs: Matrix) -> Lyapunov:
    """Means over the layers, and their standard errors from the means of blocks."""
    count, k = logs.shape
    sums = logs.sum(axis=0)
    length = math.isqrt(count - 1) + 1  # √count, rounded up
    blocks = count // length
    errors = np.full(k, math.inf)
    dead = np.isneginf(sums)
    if blocks >= 2:
        means = logs[: blocks * length, ~dead].reshape(blocks, length, -1).mean(axis=1)
        errors[~dead] = means.std(axis=0, ddof=1) / math.sqrt(blocks)
    errors[dead] = 0.0
    return Lyapunov(sums / count, errors, sums, count)


def gaussian_exponents(n: int, *, k: int | None = None, std: float = 1.0) -> tuple[Matrix, Matrix]:
    """The Lyapunov exponents of products of n × n matrices of independent N(0, std²) elements.

    λ_i = ½(ψ((n − i + 1)/2) + ln 2) + ln std, with ψ the digamma function: by rotational symmetry
    R_ii²/std² is χ² with n − i + 1 degrees of freedom, independent from layer to layer, whatever
    the frame. So ln R_ii has mean λ_i and variance ¼ψ₁((n − i + 1)/2) in every single layer.

    Args:
        n: width, at least 1. (Of a rectangular matrix, its rows.)
        k: how many; None for all n.
        std: of the elements, above 0: σ_w/√n for weights of variance σ_w²/n.

    Returns:
        (λ_1 … λ_k, variance of ln R_ii per layer).

    References:
        Newman 1986, The distribution of Lyapunov exponents: exact results for random matrices.
    """
    k = n if k is None else k
    if not (1 <= k <= n and 0 < std < math.inf):
        raise TheoryError("1 ≤ k ≤ n and std > 0 must hold", came=f"k = {k}, n = {n}, std = {std}")
    half = (n - np.arange(k)) / 2
    exponents = (special.digamma(half) + math.log(2)) / 2 + math.log(std)
    return np.asarray(exponents), np.asarray(special.polygamma(1, half) / 4)
