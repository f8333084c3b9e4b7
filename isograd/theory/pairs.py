"""Averages over two correlated pre-activations, E g(u₁, u₂), with their errors.

One line of quadrature across the other: for each u₁ the line of u₂ has its own panels, cut where u₂
meets a kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from isograd.errors import TheoryError
from isograd.theory.quadrature import (
    ORDER,
    RIM,
    Adapted,
    Array,
    adapted,
    averaged,
    check_variance,
    expectation,
    finite,
    graded,
    is_number,
    nodes,
    outgrown,
    rule_errors,
)

_REACHES = (10.0, 38.0)  # in standard deviations
_WIDTHS = (
    2.0,
    1.0,
    0.5,
    0.25,
    0.125,
    0.0625,
)  # of the largest panels of an inner line, tried in turn
_AIM = 1e-9
_MOST = 1 << 10  # outer panels
_VALUES = 1 << 20  # at once, to bound the memory


def expectation2(
    g: Callable[[Array, Array], Array],
    q: float,
    c: float,
    *,
    kinks: tuple[float, ...] = (),
    cuts: tuple[float, ...] = (),
    name: str = "g",
) -> float:
    """E g(u₁, u₂) for Gaussians of variance q and correlation c, to 1e-9 of E|g| (1e-12 as a rule).

    u₁ = √q z₁, u₂ = √q (c z₁ + √(1−c²) z₂) with independent standard z₁, z₂ (Poole 2016, eq. 5).
    For each z₁ the inner line is cut where u₂ meets a kink. The inner average, as a function of
    u₁, is smooth but turns within √(q(1−c²)) of kink/c; the outer panels shrink to that size, and
    further where their rule sees an error.

    Args:
        g: (u₁ of shape (m, 1), u₂ of shape (m, n)) -> (m, n).
        q: variance of both.
        c: correlation, −1 … 1.
        kinks: where g, as a function of either argument, or a derivative of it jumps.
        cuts: further points to cut at.
        name: of the activation, for messages.

    Raises:
        TheoryError: |c| > 1, g is not finite, or the error exceeds 1e-9 of E|g|.
    """
    scale = math.sqrt(check_variance(q))
    if not (is_number(c) and -1 <= c <= 1):
        raise TheoryError("a correlation must lie in [−1, 1]", came=repr(c), where=name)
    if abs(c) == 1 or scale == 0:
        both = (*kinks, *(math.copysign(k, k * c) for k in kinks))
        return expectation(lambda u: g(u, math.copysign(1, c) * u), q, kinks=both, name=name)
    for reach in _REACHES:
        got = _average(g, scale, c, kinks, cuts, reach, name)
        if got.tail_share <= 1e-12:
            return float(got.value[0])
    raise outgrown(name, q, got.tail_share, _REACHES[-1] - RIM)


def _average(
    g: Callable[[Array, Array], Array],
    scale: float,
    c: float,
    kinks: tuple[float, ...],
    cuts: tuple[float, ...],
    reach: float,
    name: str,
) -> Adapted:
    """E g and E|g| by panels across panels, the inner ones halved all together if they must be."""
    rest = math.sqrt((1 - c) * (1 + c))
    points, ends = np.array([0.0, *kinks]) / scale, np.array(cuts, np.float64) / scale
    centres, finest = points, min(1.0, 1 / scale)
    if kinks and c:
        crossed = points[1:][np.abs(points[1:]) <= reach * abs(c)] / c
        centres = np.concatenate([points, crossed])
        finest = min(finest, rest / abs(c))
    edges = np.unique(graded(centres, finest, reach=reach, width=2.0, cuts=ends))

    def panel_sums(width: float, a: Array, b: Array) -> tuple[Array, Array, Array]:
        z, weights = (array[:, 0] for array in nodes(np.stack([a, b], axis=-1), ORDER))
        shape, z = z.shape, z.ravel()
        inner = max(1, _VALUES // ((2 * math.ceil(reach / width) + 40 * len(points)) * ORDER))
        parts = [line(width, z[i : i + inner]) for i in range(0, len(z), inner)]
        means, sizes, errors = (
            np.concatenate(part).reshape(shape) * weights for part in zip(*parts, strict=True)
        )
        # The errors of the inner lines are a second average, to the size of the first.
        sums = np.stack([means.sum(axis=-1), errors.sum(axis=-1)])
        size = np.broadcast_to(sizes.sum(axis=-1), sums.shape)
        outer = rule_errors(means)
        if sums[1].sum() > _AIM * size.sum():
            outer[:] = 0.0  # the inner lines decide: no panel need be halved for their noise
        return sums, size, np.stack([outer, np.zeros(len(outer))])

    def line(width: float, z1: Array) -> tuple[Array, Array, Array]:
        meets = (points - c * z1[:, None]) / rest
        other = (ends - c * z1[:, None]) / rest
        finest = min(width, 1 / (scale * rest))
        z2, weights = nodes(graded(meets, finest, reach=reach, width=width, cuts=other), ORDER)
        u1, u2 = scale * z1[:, None], scale * (c * z1[:, None, None] + rest * z2)
        flat = u2.reshape(len(z1), -1)
        with np.errstate(all="ignore"):
            values = finite(np.asarray(g(u1, flat), np.float64), flat, name, scale**2)
            terms = values.reshape(u2.shape) * weights
        return (
            terms.sum(axis=(1, 2)),
            np.abs(terms).sum(axis=(1, 2)),
            rule_errors(terms).sum(axis=-1),
        )

    for width in _WIDTHS:
        got = adapted(partial(panel_sums, width), edges, _AIM, most=_MOST)
        error = got.error + (float(got.value[1] / got.size[0]) if got.size[0] > 0 else 0.0)
        if error <= _AIM:
            return got
    raise TheoryError(
        "an average over two pre-activations must be resolved to 1e-9",
        came=f"a relative error of {error:.2g}",
        where=averaged(name, scale**2),
        fix="name the kinks of φ (phi_of finds them); an activation must not oscillate fast",
    )
