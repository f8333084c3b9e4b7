"""Magnitudes of arrays, as far as number formats ask: binary exponents, the largest, zeros.

Telemetry's summaries have what is asked for here, and so have arrays by `sizes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike


class Histogram(Protocol):
    """How often binary exponents e occur, where 2^e ≤ |x| < 2^(e+1)."""

    @property
    def first(self) -> int:
        """The exponent of the first bin."""

    @property
    def counts(self) -> Sequence[int]:
        """Of the exponents first, first + 1, …"""


class Magnitudes(Protocol):
    """What is known of the sizes of an array's values."""

    @property
    def histogram(self) -> Histogram:
        """Of the finite values other than zero."""

    @property
    def max_abs(self) -> float:
        """The largest finite magnitude."""

    @property
    def zeros(self) -> int:
        """How many values are zero."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A histogram of binary exponents, as a value."""

    first: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Magnitudes of values, as a value."""

    histogram: Counts
    max_abs: float
    zeros: int = 0


def sizes(x: ArrayLike) -> Sizes:
    """The magnitudes of an array's finite values.

    Args:
        x: any shape; taken as float64.
    """
    values = np.abs(np.asarray(x, np.float64).ravel())
    values = values[np.isfinite(values)]
    exponents = np.frexp(values[values > 0])[1] - 1
    zeros = int(values.size - exponents.size)
    if not exponents.size:
        return Sizes(Counts(0, ()), 0.0, zeros)
    first = int(exponents.min())
    return Sizes(
        Counts(first, tuple(np.bincount(exponents - first).tolist())), float(values.max()), zeros
    )


def join(tensors: Iterable[Magnitudes]) -> Sizes:
    """The magnitudes of the values of several arrays together."""
    counts: Counter[int] = Counter()
    largest, zeros = 0.0, 0
    for t in tensors:
        counts.update(dict(enumerate(t.histogram.counts, t.histogram.first)))
        largest, zeros = max(largest, t.max_abs), zeros + t.zeros
    if not counts:
        return Sizes(Counts(0, ()), largest, zeros)
    first, last = min(counts), max(counts)
    return Sizes(Counts(first, tuple(counts[e] for e in range(first, last + 1))), largest, zeros)


__all__ = ["Counts", "Histogram", "Magnitudes", "Sizes", "join", "sizes"]
