"""Sharpness, the largest eigenvalue of the Hessian, and the learning rates that are stable for it.

Near a minimum along an eigenvector of curvature h, an update rule that filters the gradient,
θ ← θ − η F g, first fails by a flip of sign at every step (z = −1): it is stable where
η F(−1) h < 2, with F(−1) the gain of its filter there. Momentum amplifies steady gradients, F(1) =
1/(1 − β), and damps those that flip, so it allows larger rates than F(1) suggests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

from isograd.errors import TheoryError

Vector = NDArray[np.float64]
Method = Literal[
    "gradient_descent", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"
]
"""Update rules, named as in a spec; "momentum" is the heavy ball."""

MAX_PRODUCTS = 200
"""Hessian-vector products at most; a trained network's sharpness takes 10 to 40."""

_AT_LEAST = 5  # products: a first vector near another eigenvector would else be taken for the one


@dataclass(frozen=True, slots=True)
class Sharpness:
    """The largest eigenvalue of a symmetric matrix, found by products with it.

    Attributes:
        value: the Ritz value, which is at most the largest eigenvalue (up to rounding).
        error: norm of the residual: an eigenvalue lies within it of the value.
        products: matrix-vector products taken.
        converged: whether the error is within what was asked for.
    """

    value: float
    error: float
    products: int
    converged: bool


def sharpness(
    hvp: Callable[[Vector], Vector],
    n: int,
    *,
    rng: np.random.Generator,
    preconditioner: Vector | None = None,
    tol: float = 1e-3,
    max_products: int = MAX_PRODUCTS,
) -> Sharpness:
    """The largest (not the largest in size) eigenvalue of H, or of P^{-1/2} H P^{-1/2}.

    Lanczos' method without reorthogonalisation: memory for a few vectors, and the copies of
    eigenvalues that rounding makes do not move the largest one (Paige 1980). The error of the value
    is of the order of the residual squared over the gap to the next eigenvalue.

    Args:
        hvp: v (n,) float64 ↦ H v (n,), H symmetric.
        n: order of H, at least 1.
        rng: draws the first vector. The chance that it hides the largest eigenvalue is 0.
        preconditioner: (n,) above 0, the diagonal of P; None for the identity.
        tol: of the residual, relative to the value.
        max_products: with H, at most.

    Raises:
        TheoryError: a product is not finite or not of length n, or P is not positive.

    References:
        Lanczos 1950; Parlett 1998, theorem 4.5.1 (the residual bounds the distance to an
        eigenvalue) and sec. 13.3; Kuczyński & Woźniakowski 1992 (random first vectors).
    """
    _require(n >= 1, "a Hessian has at least one row", f"n = {n}")
    _require(max_products >= 1, "at least one product must be allowed", f"{max_products}")
    _require(tol >= 0, "the tolerance must be at least 0", f"{tol!r}")
    root = _root(preconditioner, n)
    q, before = rng.standard_normal(n), np.zeros(n)
    q /= np.linalg.norm(q)
    diagonal: list[float] = []
    beside: list[float] = []
    value, error, unit = math.nan, math.inf, 0.0
    for _ in range(min(max_products, 10 * n + 10)):
        w = _product(hvp, q / root) / root
        unit = unit or float(np.abs(w).max()) or 1.0  # so that no square leaves the range
        w = w / unit
        alpha = float(q @ w)
        w = w - alpha * q - (beside[-1] if beside else 0.0) * before
        w -= (q @ w) * q
        beta = float(np.linalg.norm(w))
        diagonal.append(alpha)
        _require(math.isfinite(alpha) and math.isfinite(beta), *_NOT_FINITE)
        last = len(diagonal) - 1
        values, vectors = eigh_tridiagonal(
            np.array(diagonal), np.array(beside), select="i", select_range=(last, last)
        )
        value, error = float(values[0]), beta * abs(float(vectors[-1, 0]))
        largest = max(map(abs, (*diagonal, *beside)))
        near = error <= tol * abs(value) and last + 1 >= _AT_LEAST
        if near or beta <= 1e-14 * largest:
            return Sharpness(value * unit, error * unit, len(diagonal), True)
        beside.append(beta)
        before, q = q, w / beta
    return Sharpness(value * unit, error * unit, len(diagonal), False)


_NOT_FINITE = (
    "products with the Hessian must be finite",
    "infinity or NaN",
    "look at parameters of smaller size, or at an initialisation that keeps the signal's size",
)


def _product(hvp: Callable[[Vector], Vector], v: Vector) -> Vector:
    with np.errstate(all="ignore"):
        out = np.asarray(hvp(v), np.float64)
    _require(out.shape == v.shape, "H v must be shaped as v", f"{out.shape} for {v.shape}")
    _require(bool(np.isfinite(out).all()), *_NOT_FINITE)
    return out


def _root(preconditioner: Vector | None, n: int) -> Vector:
    if preconditioner is None:
        return np.ones(n)
    p = np.asarray(preconditioner, np.float64)
    good = p.shape == (n,) and bool((p > 0).all() and np.isfinite(p).all())
    _require(
        good, "a preconditioner must be n numbers above 0", f"shape {p.shape}, least {p.min()}"
    )
    return np.sqrt(p)


def _require(holds: bool, must: str, came: str, fix: str = "") -> None:
    if not holds:
        raise TheoryError(must, came=came, where="sharpness", fix=fix)


# --- learning rates


def alternating_gain(method: Method, beta: float = 0.0) -> float:
    """F(−1), what a rule makes of a gradient that flips its sign at every step.

    1 without momentum; 1/(1 + β) for v ← βv + g; (1 + 2β)/(1 + β) for Nesterov's g + βv; and
    (1 − β)/(1 + β) for Adam's average m ← βm + (1 − β)g.

    Args:
        method: the rule; of those that divide by a diagonal P, what is left of them without it.
        beta: its momentum (β₁ of Adam), in [0, 1); 0 for those without.

    References:
        Cohen et al. 2021, appendix B (momentum); Cohen et al. 2022, sec. 2 (Adam).
    """
    _momentum(method, beta)
    match method:
        case "momentum":
            return 1.0 / (1.0 + beta)
        case "nesterov":
            return (1.0 + 2.0 * beta) / (1.0 + beta)
        case "adam" | "adamw":
            return (1.0 - beta) / (1.0 + beta)
    return 1.0


def steady_gain(method: Method, beta: float = 0.0) -> float:
    """F(1), what a rule makes of a gradient that stays: 1/(1 − β) with momentum, else 1.

    Args:
        method, beta: as for `alternating_gain`.
    """
    _momentum(method, beta)
    return 1.0 / (1.0 - beta) if method in ("momentum", "nesterov") else 1.0


def stability_limit(
    lr: float, method: Method = "gradient_descent", *, beta: float = 0.0, decay: float = 0.0
) -> float:
    """The largest sharpness at which a rule is stable: (2/η − λ)/F(−1).

    2/η for gradient descent, (2 + 2β)/η with momentum, (2 + 2β)/((1 + 2β)η) with Nesterov's,
    (2 + 2β₁)/((1 − β₁)η) for Adam: 38/η at β₁ = 0.9. For AdaGrad, RMSProp and Adam the sharpness is
    that of P^{-1/2} H P^{-1/2}, with P the diagonal that they divide by.

    Args:
        lr: η, above 0.
        method, beta: as for `alternating_gain`.
        decay: λ of a weight decay beside the rule, θ ← θ − ηλθ (AdamW).

    Raises:
        TheoryError: a number out of its range, or an unknown method.

    Example:
        >>> stability_limit(0.1), stability_limit(0.25, "adam", beta=0.5)
        (20.0, 24.0)

    References:
        Polyak 1964; Cohen et al. 2021, sec. 2 and appendix B; Cohen et al. 2022, sec. 2.
    """
    _require(0 < lr < math.inf, "a learning rate must be above 0", f"{lr!r}")
    _require(0 <= decay < math.inf, "a weight decay must be at least 0", f"{decay!r}")
    return max(0.0, 2.0 / lr - decay) / alternating_gain(method, beta)


def safe_learning_rate(
    sharpness: float, method: Method = "gradient_descent", *, beta: float = 0.0, decay: float = 0.0
) -> float:
    """The largest stable learning rate at a sharpness h: 2/(F(−1) h + λ); inf where h and λ are 0.

    The inverse of `stability_limit`. Below it the sharpest direction shrinks; at half of it,
    gradient descent removes it in one step.

    Args:
        sharpness: h, of H or of P^{-1/2} H P^{-1/2}; h ≤ 0 sets no limit.
        method, beta, decay: as for `stability_limit`.
    """
    _require(not math.isnan(sharpness), "a sharpness must be a number", "NaN")
    _require(0 <= decay < math.inf, "a weight decay must be at least 0", f"{decay!r}")
    rate = alternating_gain(method, beta) * max(sharpness, 0.0) + decay
    return 2.0 / rate if rate > 0 else math.inf


def _momentum(method: str, beta: float) -> None:
    _require(method in get_args(Method), "the method must be a known one", repr(method))
    _require(0 <= beta < 1, "a momentum must be in [0, 1)", f"{beta!r}")
    plain = method in ("gradient_descent", "sgd", "adagrad", "rmsprop")
    _require(not (plain and beta), f"{method} has no momentum", f"beta = {beta!r}")
