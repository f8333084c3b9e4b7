"""A bound on the rounding error of a forward pass, component by component, before it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.number_formats import NumberFormat
from isograd.errors import ShapeError, TheoryError
from isograd.theory.formats import as_format
from isograd.theory.rounding import gamma

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """a = φ(z), z = x Wᵀ + b.

    Attributes:
        weights: W (n_out, n_in).
        bias: b (n_out,), or None.
        f: φ, elementwise; None for the identity.
        slope: the largest |φ′|.
        roundings: how many units of roundoff computing φ costs, relative to its value; 0 for what
            is exact, as relu is.
    """

    weights: NDArray[Any]
    bias: NDArray[Any] | None = None
    f: Callable[[Array], Array] | None = None
    slope: float = 1.0
    roundings: float = 0.0


@dataclass(frozen=True, eq=False)
class LayerBound:
    """What a layer gives, and how far from it rounding can take its components.

    Attributes:
        z, a: exact, in float64; of shape (n, n_out).
        z_error, a_error: bounds on |ẑ − z| and |â − a|; infinite where γ_n says nothing.
    """

    z: Array
    z_error: Array
    a: Array
    a_error: Array


def forward_error(
    x: NDArray[Any],
    layers: Sequence[DenseLayer],
    form: NumberFormat | str,
    *,
    accumulate: NumberFormat | str | None = None,
) -> tuple[LayerBound, ...]:
    """Bound the rounding errors of a chain of dense layers, layer by layer.

    Inputs, weights, biases, z and a are rounded to a format, with |x̂ − x| ≤ u|x| + η, η being half
    its smallest subnormal; sums are taken in the format `accumulate`, of unit roundoff v and
    half smallest subnormal ζ. With the bounds d of what enters,

        d(z) = |W| d(x) + d(W) |x̂| + γ_{n+2}(v) (|Ŵ| |x̂| + |b̂|) + d(b) + 2nζ, then u|ẑ| + η,
        d(a) = (sup|φ′|) d(z) + ((1 + rv)(1 + u) − 1) (|a| + (sup|φ′|) d(z)) + 2η,

    where |x̂| ≤ |x| + d(x), and so on, and r are the roundings of φ. The order of the sums does not
    matter.

    Args:
        x: inputs (n, n_in).
        layers: in order.
        form: in which values are kept.
        accumulate: in which products are summed and φ is computed; None for `form` itself.

    Raises:
        IsogradError: if there is no format of that name.
        ShapeError: if shapes do not meet.
        TheoryError: if the values exceed the format, where no such bound holds.

    References:
        Higham 2002, eq. 2.8 (underflow) and sec. 3.5 (matrix products), here from layer to layer.
    """
    low = as_format(form)
    sums = low if accumulate is None else as_format(accumulate)
    return tuple(_layers(np.asarray(x, np.float64), layers, low, sums))


def _layers(
    x: Array, layers: Sequence[DenseLayer], low: NumberFormat, sums: NumberFormat
) -> Iterator[LayerBound]:
    u, eta, v, zeta = (
        low.unit_roundoff,
        low.min_subnormal / 2.0,
        sums.unit_roundoff,
        sums.min_subnormal / 2.0,
    )
    error = u * np.abs(x) + eta
    for number, layer in enumerate(layers, 1):
        w = np.asarray(layer.weights, np.float64)
        if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
            raise ShapeError(
                "weights must be (n_out, n_in), for inputs (n, n_in)",
                came=f"weights {w.shape}, inputs {x.shape}",
                where=f"layer {number}",
            )
        b = np.zeros(w.shape[0]) if layer.bias is None else np.asarray(layer.bias, np.float64)
        w_error, b_error = u * np.abs(w) + eta, u * np.abs(b) + eta
        size = np.abs(x) + error
        with np.errstate(invalid="ignore"):
            terms = size @ (np.abs(w) + w_error).T + np.abs(b) + b_error
            growth = gamma(w.shape[1] + 2, sums)
            z_error = error @ np.abs(w).T + size @ w_error.T + b_error
            z_error = z_error + 2.0 * w.shape[1] * zeta + growth * terms
            z = x @ w.T + b
            z_error = z_error + u * (np.abs(z) + z_error) + eta
            a = z if layer.f is None else np.asarray(layer.f(z), np.float64)
            a_error = z_error
            if layer.f is not None:
                carried = layer.slope * z_error
                own = (1.0 + layer.roundings * v) * (1.0 + u) - 1.0
                a_error = carried + own * (np.abs(a) + carried) + 2.0 * eta
        for kept in (z, a):
            if np.max(np.abs(kept), initial=0.0) > low.max:
                raise TheoryError(
                    f"values must be within the range of {low.name} for an error bound",
                    came=f"{np.max(np.abs(kept)):.3g}",
                    where=f"layer {number}",
                )
        yield LayerBound(z, z_error, a, a_error)
        x, error = a, a_error


__all__ = ["DenseLayer", "LayerBound", "forward_error"]
