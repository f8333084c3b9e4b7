"""The Jacobian of a function at a point, as products or as a matrix with all its singular values.

J u and Jᵀ v are products with matrices that are never formed: the function is linearised once, at
the point, in either direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.numpy import Executable
from isograd.engine.autodiff import jvp, vjp
from isograd.engine.dispatch import spec_of
from isograd.engine.graph import ArraySpec
from isograd.engine.passes import EXACT, WITHOUT_PROBES, optimise
from isograd.engine.plan import plan
from isograd.engine.trace import trace
from isograd.engine.tree import LEAF, flatten
from isograd.errors import TheoryError

Array = NDArray[np.float64]
Product = Callable[[Array], Array]

_FAINT = 1e-290  # below, products lose digits to the end of float64's range


@dataclass(frozen=True, eq=False)
class Jacobian:
    """J of a function at a point, as products.

    Attributes:
        n_in, n_out: elements of the argument and of the value.
        jvp: u (n_in,) ↦ J u (n_out,), float64.
        vjp: v (n_out,) ↦ Jᵀ v (n_in,), float64.
        eps: the unit roundoff of what the products are computed in.
    """

    n_in: int
    n_out: int
    jvp: Product
    vjp: Product
    eps: float = float(np.finfo(np.float64).eps)

    @property
    def turned(self) -> Jacobian:
        """J, or Jᵀ where J has fewer rows than columns: with its fewer columns first."""
        if self.n_in <= self.n_out:
            return self
        return Jacobian(self.n_out, self.n_in, self.vjp, self.jvp, self.eps)

    def dense(self) -> Array:
        """The matrix (n_out, n_in), from min(n_in, n_out) products."""
        if self.n_out < self.n_in:
            return np.array([finite(self.vjp(e)) for e in np.eye(self.n_out)])
        return np.array([finite(self.jvp(e)) for e in np.eye(self.n_in)]).T


def linearise(f: Callable[[Any], Any], x: Any) -> Jacobian:
    """The Jacobian of f at x, ready for products.

    Both directions are traced once, with all that depends on x alone computed then: a product costs
    the linear part of a forward or of a backward pass.

    Args:
        f: from one array to one array, by functions of `isograd` or NumPy's that they mirror.
        x: the point, float32 or float64, of any shape.

    Raises:
        GraphError: f cannot be traced.
        TheoryError: f takes or gives anything but one array, or its value is not finite.

    References: Griewank & Walther 2008, ch. 3.
    """
    x = np.asarray(x)
    value, pullback = vjp(f, x)
    if flatten(value)[1] != LEAF:
        raise TheoryError(
            "a Jacobian must be that of a function from one array to one array",
            came=f"{type(value).__name__} as its value",
            fix="concatenate the parts",
        )
    spec, target = spec_of(x), spec_of(value)
    if not np.isfinite(value).all():
        raise TheoryError(
            "a Jacobian must be taken where the function is finite",
            came=f"{np.sum(~np.isfinite(value))} of {target.size} values are not",
        )
    push = _compiled(lambda u: jvp(f, (x,), (u,))[1], spec)
    pull = _compiled(lambda v: pullback(v)[0], target)
    eps = max(float(np.finfo(s.dtype).eps) for s in (spec, target))
    return Jacobian(spec.size, target.size, push, pull, eps)


def _compiled(linear: Callable[[Any], Any], spec: ArraySpec) -> Product:
    """A linear function of an array as one of float64 vectors."""
    run = Executable(plan(optimise(trace(linear, spec), (WITHOUT_PROBES, *EXACT)).graph))

    def product(u: Array) -> Array:
        out = run(u.reshape(spec.shape).astype(spec.dtype))
        return np.array(out, np.float64).ravel()

    return product


def finite(product: Array) -> Array:
    if not np.isfinite(product).all():
        raise _out_of_range("a product that is not finite")
    return product


def in_range(size: float) -> float:
    """The size of a product, if it is not about to vanish."""
    if not math.isfinite(size):
        raise _out_of_range("a product that is not finite")
    if size < _FAINT:
        raise _out_of_range(f"a product of size {size:g}")
    return size


def _out_of_range(came: str) -> TheoryError:
    return TheoryError(
        "products with a Jacobian must not be 0, and stay in the range of numbers",
        came=came,
        fix="take fewer layers at a time, or the Lyapunov spectrum (isograd.theory.lyapunov), "
        "which rescales after every layer; where all units of a layer are dead J is 0",
    )


def singular_values(f: Callable[[Any], Any], x: Any) -> Array:
    """All min(n_in, n_out) singular values of the Jacobian of f at x, descending.

    The matrix is formed: for up to a few hundred. They are exact to about eps·s_max·max(n_in,
    n_out), so that small ones of an ill-conditioned Jacobian have no correct digit.

    Args:
        f, x: as `linearise` takes them.

    Raises:
        TheoryError: as `linearise`; or products overflow or underflow.
    """
    matrix = linearise(f, x).dense()
    if matrix.any():
        in_range(float(np.abs(matrix).max()))
    return singular_values_of(matrix)


def singular_values_of(matrix: Array) -> Array:
    return np.asarray(np.linalg.svd(matrix, compute_uv=False), np.float64)


__all__ = [
    "Array",
    "Jacobian",
    "Product",
    "finite",
    "in_range",
    "linearise",
    "singular_values",
    "singular_values_of",
]
