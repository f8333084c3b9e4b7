"""What is measured of an array, as bytes: fixed layouts that native code writes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

MOMENTS = np.dtype(
    [
        ("count", np.int64),
        ("mean", np.float64),
        ("std", np.float64),
        ("min", np.float64),
        ("max", np.float64),
        ("zeros", np.int64),
        ("nonfinite", np.int64),
        ("saturated", np.int64),
    ]
)
"""Of the finite values: how many, mean, standard deviation (both 0 where there are none), minimum
(then +inf), maximum (-inf) and zeros. Of all: how many are not finite, and outside the active
interval. 64 bytes, a line of the cache."""


@cache
def exponents(dtype: str) -> tuple[int, int]:
    """(first, n): the binary exponents of a format, from its smallest subnormal number's on."""
    info = np.finfo(dtype)
    first = int(info.minexp) - int(info.nmant)
    return first, int(info.maxexp) - first


@cache
def summary_layout(dtype: str, width: int) -> np.dtype[Any]:
    """The layout of everything that a summary holds.

    Args:
        dtype: float32 or float64.
        width: the number of columns, if it is measured which are outside the active interval in
            every row; else 0.

    Returns:
        The fields of MOMENTS; then the numbers of NaNs and of either infinity, the smallest
        magnitude other than zero (+inf where there is none), how often each exponent occurs, and
        a boolean per column.
    """
    return np.dtype(
        [
            ("moments", MOMENTS),
            ("nans", np.int64),
            ("pos_infs", np.int64),
            ("neg_infs", np.int64),
            ("min_abs", np.float64),
            ("exponents", np.uint32, (exponents(dtype)[1],)),
            ("units_off", np.bool_, (width,)),
        ]
    )
