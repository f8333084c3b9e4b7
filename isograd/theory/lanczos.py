"""The spectrum of a Jacobian from products: extreme singular values, and the density.

Golub, Kahan and Lanczos reduce J to a bidiagonal matrix whose singular values come near the
extreme ones of J, each with a residual that bounds its error; from random starts the same matrices
are Gauss quadratures of the density.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.jacobian import (
    Array,
    Jacobian,
    Product,
    finite,
    in_range,
    linearise,
    singular_values_of,
)

DENSE = 400
"""Up to so many singular values the Jacobian is formed, and all are computed."""


@dataclass(frozen=True)
class Bounded:
    """A number, and a bound on its error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Bidiagonal:
    """What k steps of Golub, Kahan and Lanczos know of J.

    Attributes:
        values: singular values θ of the bidiagonal matrix, descending.
        weights: of the nodes θ² of the Gauss quadrature that belongs to the start: Σ weights = 1.
        errors: within so much of each θ there is a singular value of J.
        products: how many were taken.
    """

    values: Array
    weights: Array
    errors: Array
    products: int


def bidiagonalise(jacobian: Jacobian, start: Array, steps: int) -> Bidiagonal:
    """Golub–Kahan–Lanczos bidiagonalisation with full reorthogonalisation.

    J V = U B and Jᵀ U = V Bᵀ + β v eᵀ with B upper bidiagonal: for B = P Θ Qᵀ the residual of θ_i
    is β |P_ki|. Of equal singular values one is found. It ends early where the start holds no more:
    then all that it holds are known.

    Args:
        jacobian: with n_in ≤ n_out, so that zeros among its min(n_in, n_out) singular values are
            found (`Jacobian.turned`).
        start: (n_in,), not 0.
        steps: k; two products each.

    References: Golub & Kahan 1965; Golub & Van Loan 2013, sec. 10.4; Simon & Zha 2000.
    """
    steps = min(steps, jacobian.n_in)
    rounding = jacobian.eps * max(jacobian.n_in, jacobian.n_out)
    right, left = np.zeros((steps, jacobian.n_in)), np.zeros((steps, jacobian.n_out))
    alpha, beta = np.zeros(steps), np.zeros(steps)
    v, size, taken = start / np.linalg.norm(start), 0.0, steps
    for j in range(steps):
        right[j] = v
        u = _without(left[:j], finite(jacobian.jvp(v)))
        alpha[j] = np.linalg.norm(u)
        size = max(size, alpha[j])
        if alpha[j] <= rounding * size:
            alpha[j], taken = 0.0, j + 1
            break
        left[j] = u / alpha[j]
        w = _without(right[: j + 1], finite(jacobian.vjp(left[j])))
        beta[j] = np.linalg.norm(w)
        size = max(size, beta[j])
        if j + 1 == jacobian.n_in or beta[j] <= rounding * size:
            beta[j], taken = 0.0, j + 1
            break
        v = w / beta[j]
    matrix = np.diag(alpha[:taken]) + np.diag(beta[: taken - 1], 1)
    p, values, q = np.linalg.svd(matrix)
    errors = beta[taken - 1] * np.abs(p[-1]) + rounding * values[0]
    return Bidiagonal(values, q[:, 0] ** 2, errors, 2 * taken)


def _without(basis: Array, vector: Array) -> Array:
    """What of a vector is orthogonal to the rows of a basis: Gram and Schmidt, twice."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector


@dataclass(frozen=True, eq=False)
class JacobianSpectrum:
    """The min(n_in, n_out) singular values s of a Jacobian, and λ = s² over their mean.

    Attributes:
        n_in, n_out: of the Jacobian.
        values: all s, descending; None where they were not computed.
        largest: of s. Without `values`: there is an s within the error, and none below it is larger
            but for an improbable start.
        smallest: likewise. Without `values` the least s may be smaller still.
        log_mean: ln of the mean of λ.
        variance: of λ over its mean.
        log_mean_error, variance_error: standard errors, over the random starts; 0 with `values`.
        nodes, weights: the law of λ over its mean, nodes ascending: every λ, or a quadrature.
        products: how many with J and Jᵀ were taken.
    """

    n_in: int
    n_out: int
    values: Array | None
    largest: Bounded
    smallest: Bounded
    log_mean: float
    variance: float
    log_mean_error: float
    variance_error: float
    nodes: Array
    weights: Array
    products: int

    @property
    def zeros(self) -> float:
        """The share of s that cannot be told from 0."""
        limit = max(self.n_in, self.n_out) * float(np.finfo(np.float64).eps)
        return float(self.weights[self.nodes <= limit * limit * self.nodes[-1]].sum())

    def density(self, x: Any, *, width: float = 0.1) -> Array:
        """The density of λ over its mean at x > 0, smoothed; zeros left out.

        Args:
            x: where, of any shape.
            width: standard deviation, in ln λ, of the Gaussians that stand for the nodes.

        References: Lin, Saad & Yang 2016, sec. 3.
        """
        x = np.asarray(x, np.float64)
        held = self.nodes > 0
        gap = (np.log(x)[..., None] - np.log(self.nodes[held])) / width
        kernel = np.exp(-gap * gap / 2) / (width * math.sqrt(2 * math.pi))
        return np.asarray(kernel @ self.weights[held] / x)


def spectrum(
    f: Callable[[Any], Any] | Jacobian,
    x: Any = None,
    *,
    rng: np.random.Generator,
    k: int = 64,
    starts: int = 8,
    dense: int = DENSE,
) -> JacobianSpectrum:
    """The spectrum of the Jacobian of f at x: exact where it is small, else extremes and density.

    Beyond `dense` singular values, k steps of Golub, Kahan and Lanczos from each of several random
    starts. The largest singular value is then right to its error; the smallest is an upper bound,
    close where it stands apart. Mean and variance are averages over the starts.

    Args:
        f: from one array to one array; or its `Jacobian`, and no x.
        x: the point.
        rng: from which the starts are drawn.
        k: steps.
        starts: at least 2.
        dense: up to so many singular values all are computed.

    Raises:
        TheoryError: ⟨v, J u⟩ ≠ ⟨Jᵀ v, u⟩; J is 0, or its products overflow or underflow, as those
            of thousands of layers may; or as `linearise`.

    Example:
        >>> import numpy as np
        >>> from isograd import theory
        >>> w = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> found = theory.spectrum(lambda x: w @ x, np.zeros(2), rng=np.random.default_rng(0))
        >>> found.values.tolist(), round(found.variance, 12)
        ([3.0, 1.0], 0.64)

    References: Golub & Kahan 1965; Ubaru, Chen & Saad 2017 (stochastic Lanczos quadrature).
    """
    if k < 1 or starts < 2:
        raise TheoryError(
            "a spectrum needs k ≥ 1 steps and at least 2 starts", came=f"k = {k}, starts = {starts}"
        )
    jacobian = f if isinstance(f, Jacobian) else linearise(f, x)
    if not min(jacobian.n_in, jacobian.n_out):
        raise TheoryError(
            "a Jacobian must have rows and columns", came=f"{jacobian.n_out} by {jacobian.n_in}"
        )
    scaled, exponent = _scaled(jacobian, rng)
    if min(jacobian.n_in, jacobian.n_out) <= dense:
        return _all(scaled, exponent)
    return _sampled(scaled, exponent, rng, k, starts)


def _scaled(jacobian: Jacobian, rng: np.random.Generator) -> tuple[Jacobian, int]:
    """J/2^e of size about 1, and e: squares of tiny or huge J would leave the range of numbers.

    Raises:
        TheoryError: the two products do not belong to one matrix, or J is out of range.
    """
    u, v = rng.standard_normal(jacobian.n_in), rng.standard_normal(jacobian.n_out)
    forward, backward = jacobian.jvp(u), jacobian.vjp(v)
    exponent = math.frexp(in_range(float(np.abs(forward).max())))[1]
    in_range(float(np.abs(backward).max()))

    def scaled(product: Product) -> Product:
        return lambda vector: np.ldexp(finite(product(vector)), -exponent)

    forward, backward = np.ldexp(forward, -exponent), np.ldexp(backward, -exponent)
    size = np.linalg.norm(forward) * np.linalg.norm(v)
    size = max(size, np.linalg.norm(backward) * np.linalg.norm(u))
    gap = abs(v @ forward - backward @ u) / size
    if not gap <= math.sqrt(jacobian.eps):
        raise TheoryError(
            "J u and Jᵀ v must be products with one matrix: ⟨v, J u⟩ = ⟨Jᵀ v, u⟩",
            came=f"a difference of {gap:.2g} of their size",
            fix="the derivative of a primitive in the function is wrong",
        )
    push, pull = scaled(jacobian.jvp), scaled(jacobian.vjp)
    return Jacobian(jacobian.n_in, jacobian.n_out, push, pull, jacobian.eps), exponent


def _all(jacobian: Jacobian, exponent: int) -> JacobianSpectrum:
    values = singular_values_of(jacobian.dense())
    square = values[::-1] ** 2
    mean = float(square.mean())
    error = jacobian.eps * max(jacobian.n_in, jacobian.n_out) * float(values[0])
    return JacobianSpectrum(
        jacobian.n_in,
        jacobian.n_out,
        np.ldexp(values, exponent),
        _bounded(values[0], error, exponent),
        _bounded(values[-1], error, exponent),
        math.log(mean) + 2 * exponent * math.log(2),
        float(square.var()) / mean**2,
        0.0,
        0.0,
        square / mean,
        np.full(values.size, 1 / values.size),
        2 + values.size,
    )


def _sampled(
    jacobian: Jacobian, exponent: int, rng: np.random.Generator, k: int, starts: int
) -> JacobianSpectrum:
    turned = jacobian.turned
    runs = [bidiagonalise(turned, rng.standard_normal(turned.n_in), k) for _ in range(starts)]
    high = max(runs, key=lambda run: float(run.values[0]))
    low = min(runs, key=lambda run: float(run.values[-1]))
    nodes = np.concatenate([run.values**2 for run in runs])
    weights = np.concatenate([run.weights / starts for run in runs])
    moments = np.array([[run.weights @ run.values**n for n in (2, 4)] for run in runs])
    mean, second = moments.mean(axis=0)
    # Var λ/E² as a function of both averages, to first order in what each start adds.
    ratio = moments[:, 1] / mean**2 - 2 * second / mean**3 * moments[:, 0]
    order = np.argsort(nodes)
    return JacobianSpectrum(
        jacobian.n_in,
        jacobian.n_out,
        None,
        _bounded(high.values[0], high.errors[0], exponent),
        _bounded(low.values[-1], low.errors[-1], exponent),
        math.log(mean) + 2 * exponent * math.log(2),
        float(max(second / mean**2 - 1, 0.0)),
        float(moments[:, 0].std(ddof=1) / mean / math.sqrt(starts)),
        float(ratio.std(ddof=1) / math.sqrt(starts)),
        nodes[order] / mean,
        weights[order],
        2 + sum(run.products for run in runs),
    )


def _bounded(value: float, error: float, exponent: int) -> Bounded:
    return Bounded(float(np.ldexp(value, exponent)), float(np.ldexp(error, exponent)))


__all__ = ["DENSE", "Bidiagonal", "Bounded", "JacobianSpectrum", "bidiagonalise", "spectrum"]
