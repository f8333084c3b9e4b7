"""A function laid out in panels on which it is a polynomial to rounding, and so its kinks.

Panels are halved until φ and φ′ are resolved: until the last of their Chebyshev coefficients have
fallen to nothing (Trefethen 2013, ch. 3). A smooth function needs few panels; halving that does not
end, or not before the panels are tiny, closes in on a kink.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from isograd.errors import TheoryError
from isograd.theory.quadrature import Array, Function

REACH = 40.0
"""Functions are laid out on |u| ≤ 40."""

_WIDTH = 0.5  # of the panels at the start; a turn within about 1/50 of it may be missed
_DEGREE = 16
_RESOLVED = 1e-11  # of the largest |φ| and |φ′| nearer to 0
_KINK = 2.0**-12  # panels narrower than this surround a kink
_MOST = 1 << 14  # panels
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Panels:
    """Panels [a, b] in ascending order, with φ and φ′ on their Chebyshev points.

    Attributes:
        a, b: shape (P,).
        values: (2, P, _DEGREE + 1): φ, φ′.
        scale: (2, P): the largest |φ|, |φ′| nearer to 0.
    """

    a: Array
    b: Array
    values: Array
    scale: Array

    def integrals(self) -> Array:
        """∫ φ′ over each panel, shape (P,)."""
        _, _, weights = _chebyshev()
        return np.asarray((self.b - self.a) / 2 * (self.values[1] @ weights))

    def cuts(self) -> tuple[float, ...]:
        """The ends of the narrow panels: a quadrature must not step over what made them so."""
        width = self.b - self.a
        narrow = (width < 0.99 * _WIDTH) & (width > 1e-6)
        return tuple(np.union1d(self.a[narrow], self.b[narrow]))


@lru_cache(maxsize=1)
def _chebyshev() -> tuple[Array, Array, Array]:
    """(points on [−1, 1] with both ends, values -> coefficients, weights of the integral).

    References: Trefethen 2013, ch. 3; Clenshaw & Curtis 1960.
    """
    x = np.sort(np.cos(np.pi * np.arange(_DEGREE + 1) / _DEGREE))
    to_coefficients = np.linalg.inv(np.polynomial.chebyshev.chebvander(x, _DEGREE))
    even = np.arange(0, _DEGREE + 1, 2)
    of_each = np.zeros(_DEGREE + 1)
    of_each[even] = 2.0 / (1.0 - even.astype(np.float64) ** 2)
    return x, to_coefficients, of_each @ to_coefficients


def kinks_of(f: Function, df: Function, name: str) -> tuple[Panels, dict[float, float]]:
    """The panels of φ between its kinks, and the kinks, each with how well it is known.

    Raises:
        TheoryError: φ or φ′ is not finite, φ jumps, or φ turns too often to be laid out.
    """
    found: dict[float, float] = {}
    while True:
        panels = _laid_out(f, df, found, name)
        new = _closed_in_on(panels, found)
        if not new:
            return panels, dict(sorted(found.items()))
        for kink, error in new.items():
            _refuse_jump(f, kink, error, float(panels.scale[0].max()), name)
        found |= new


def _closed_in_on(panels: Panels, known: dict[float, float]) -> dict[float, float]:
    """The places, beside those known, that halving closed in on.

    About a kink, and about an infinite slope, a panel is at least ¼ as wide as it is far away;
    narrower ones surround another.
    """
    width, middle = panels.b - panels.a, (panels.a + panels.b) / 2
    new: dict[float, float] = {}
    for i in np.argsort(width, kind="stable"):
        if width[i] >= _KINK:
            break
        taken = (known | new).items()
        if all(abs(middle[i] - kink) > 8 * width[i] + 2 * error for kink, error in taken):
            near = max(1.5 * float(width[i]), 1e-17)
            new[_simplest(float(middle[i]), near)] = 3 * near
    return new


def _simplest(x: float, error: float) -> float:
    """The number of the fewest decimals near x: kinks lie at 0 and ½, not at 5·10⁻¹⁷."""
    for digits in range(17):
        rounded = round(x, digits) + 0.0
        if abs(rounded - x) <= error:
            return rounded
    return x


def _refuse_jump(f: Function, kink: float, error: float, scale: float, name: str) -> None:
    """φ is continuous if its difference across the kink falls with the distance.

    Across a root's infinite slope it falls like √distance, by 30 for a thousandth.
    """
    near = max(error, 4 * float(np.spacing(abs(kink))))
    ends = np.array([kink - near, kink + near, kink - 1e3 * near, kink + 1e3 * near])
    low, high, far_low, far_high = map(float, f(ends))
    step, far = abs(high - low), abs(far_high - far_low)
    if step > 1e-12 * scale and step > 0.5 * far:
        raise TheoryError(
            "an activation must be continuous: φ′ holds nothing of a jump",
            came=f"a step from {low:.6g} to {high:.6g} at {kink:.12g}",
            where=name,
            fix="a steep slope in its place (hard tanh, logistic), as training needs it too",
        )


def _laid_out(f: Function, df: Function, kinks: dict[float, float], name: str) -> Panels:
    """Panels on |u| ≤ 40 beside the kinks, halved until φ and φ′ are resolved on them."""
    a, b = _first(kinks)
    values = _on(f, df, a, b, name)
    outward = np.argsort(np.abs(a + b), kind="stable")
    largest = np.where(np.isfinite(values), np.abs(values), 0.0).max(axis=-1)
    scale = np.empty_like(largest)
    scale[:, outward] = np.maximum.accumulate(largest[:, outward], axis=1)
    done: list[tuple[Array, Array, Array, Array]] = []
    count = len(a)
    while len(a):
        roundings = _EPS * np.maximum(np.abs(a), np.abs(b))
        wide = b - a > np.maximum(8 * roundings, 1e-18)
        split = wide & _rough(values, scale, roundings / (b - a))
        done.append((a[~split], b[~split], values[:, ~split], scale[:, ~split]))
        count += int(np.count_nonzero(split))
        if count > _MOST:
            raise TheoryError(
                f"an activation must be piecewise smooth on |u| ≤ {REACH:g}",
                came=f"more than {_MOST} pieces, one of them near {a[split][0]:.6g}",
                where=name,
                fix="a smoother function: no noise (float32 inside), no fast oscillation",
            )
        middle = (a + b)[split] / 2
        a, b = np.concatenate([a[split], middle]), np.concatenate([middle, b[split]])
        scale = np.concatenate([scale[:, split], scale[:, split]], axis=1)
        values = _on(f, df, a, b, name)
    a, b = (np.concatenate([panel[i] for panel in done]) for i in (0, 1))
    values, scale = (np.concatenate([panel[i] for panel in done], axis=1) for i in (2, 3))
    order = np.argsort(a)
    return Panels(a[order], b[order], values[:, order], scale[:, order])


def _first(kinks: dict[float, float]) -> tuple[Array, Array]:
    """The panels to begin with: of even width, up to each kink as near as it is known."""
    # Off the round numbers, where kinks are likely: one on an edge would be seen by neither side.
    edges = list(np.arange(-REACH, REACH + _WIDTH, _WIDTH) - 0.0838264)
    ends = sorted([(edge, edge) for edge in edges] + [(k - e, k + e) for k, e in kinks.items()])
    pairs = [(low[1], high[0]) for low, high in pairwise(ends)]
    a, b = np.array([pair for pair in pairs if pair[1] > pair[0]]).T
    return a, b


def _on(f: Function, df: Function, a: Array, b: Array, name: str) -> Array:
    """φ and φ′ on the points of each panel, (2, P, _DEGREE + 1)."""
    x, _, _ = _chebyshev()
    u = a[:, None] + (b - a)[:, None] / 2 * (1 + x)
    u[:, -1] = b
    values = np.stack([f(u.ravel()), df(u.ravel())]).reshape(2, *u.shape)
    bad = ~np.isfinite(values)
    # φ′ may be infinite in one point, and is then not asked there by any average.
    bad[1] &= np.isnan(values[1]) | (np.isinf(values[1]).sum(axis=-1) > 1)[:, None]
    if bad.any():
        which, p, i = (int(k[0]) for k in np.nonzero(bad))
        raise TheoryError(
            f"{('φ', 'φ′')[which]} must be finite on |u| ≤ {REACH:g}",
            came=f"{values[which, p, i]} at {u[p, i]:.6g}",
            where=name,
            fix="use a form that does not overflow, and cut other branches out by np.where",
        )
    return values


def _rough(values: Array, scale: Array, rounding: Array) -> NDArray[np.bool]:
    """Whether φ or φ′ is not resolved on a panel, (P,); `rounding`: of a point, in widths of it."""
    _, to_coefficients, _ = _chebyshev()
    with np.errstate(invalid="ignore"):
        last = np.abs(values @ to_coefficients.T)[..., -4:].max(axis=-1)
        size = np.maximum(scale, np.abs(values).max(axis=-1))  # larger beside an infinite slope
        # A point lies where it should to a rounding, which a steep function passes on.
        noise = 2 * rounding * np.ptp(values, axis=-1)
        resolved = (last <= _RESOLVED * size + noise) & np.isfinite(size)
    return np.asarray(~resolved.all(axis=0))
