"""Measurements as native code leaves them: read, and merged, many at a time."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.llvm.measured import MOMENTS, exponents
from isograd.telemetry.exponents import Exponents, exponent
from isograd.telemetry.summary import EMPTY, Summary

if TYPE_CHECKING:
    from isograd.backends.llvm.measure import Measure

_HEAD = struct.Struct("=q4d3q3qd")  # MOMENTS, and what follows it in `summary_layout`


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of many arrays at once: in every field one number for each, integer or float.

    From native code in brief, the mean is right to 1e-5 standard deviations and the standard
    deviation to 6e-5 of itself; all else is exact.

    Attributes:
        count: how many values are finite.
        mean: of the finite values; 0 where there are none.
        std: the standard deviation of these very values; 0 likewise.
        min: the smallest finite value; +inf where there is none.
        max: the largest finite value; -inf where there is none.
        max_abs: the largest finite magnitude; 0 where there is none.
        zeros: how many are +0 or -0.
        nonfinite: how many are NaN or infinite.
        saturated: how many are outside the active interval; 0 if there was none.
    """

    count: NDArray[Any]
    mean: NDArray[Any]
    std: NDArray[Any]
    min: NDArray[Any]
    max: NDArray[Any]
    max_abs: NDArray[Any]
    zeros: NDArray[Any]
    nonfinite: NDArray[Any]
    saturated: NDArray[Any]


def moments(raw: NDArray[Any]) -> Moments:
    """Moments out of records.

    Args:
        raw: any shape of a dtype with the fields of MOMENTS; or (…, 64 n) bytes, which make (…, n)
            of MOMENTS.

    Returns:
        Its fields as views, and max_abs.
    """
    found = raw if raw.dtype.names else raw.view(MOMENTS)
    by_name = {name: found[name] for name in MOMENTS.names or ()}
    return Moments(**by_name, max_abs=np.maximum(np.maximum(-found["min"], found["max"]), 0.0))


def merge_moments(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Moments of the values of both, as `isograd.telemetry.summary.merge` has them.

    Args:
        a: MOMENTS, any shape.
        b: likewise; the two broadcast.

    Returns:
        MOMENTS. All but mean and standard deviation is exact.

    References:
        Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance: analysis and
        recommendations", The American Statistician 37(3), eq. 2.1, here divided by the count.
    """
    out = np.empty(np.broadcast_shapes(a.shape, b.shape), MOMENTS)
    for name in ("count", "zeros", "nonfinite", "saturated"):
        out[name] = a[name] + b[name]
    low, high = np.minimum(a["min"], b["min"]), np.maximum(a["max"], b["max"])
    out["min"], out["max"] = low, high
    some = out["count"] > 0
    total = np.maximum(out["count"], 1)
    w, v = a["count"] / total, b["count"] / total
    # Halved, as the difference of two finite means can overflow; √(w·v) is at most a half. Rounded
    # sums must not pass the bounds either, which are infinite where nothing is finite.
    with np.errstate(over="ignore", under="ignore"):
        between = 2 * np.sqrt(w * v) * (b["mean"] / 2 - a["mean"] / 2)
        std = np.hypot(np.hypot(a["std"] * np.sqrt(w), b["std"] * np.sqrt(v)), between)
        mean = w * a["mean"] + v * b["mean"]
        out["mean"] = np.where(some, np.minimum(np.maximum(mean, low), high), 0.0)
        out["std"] = np.where(some, np.minimum(std, high / 2 - low / 2), 0.0)
    return out


def merge_summaries(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """What was measured in full of the values of both, as `isograd.telemetry.summary.merge` has it.

    Args:
        a: of a layout of `summary_layout`, any shape.
        b: likewise.

    Returns:
        The same layout. All but mean and standard deviation is exact.
    """
    out = np.empty(np.broadcast_shapes(a.shape, b.shape), a.dtype)
    out["moments"] = merge_moments(a["moments"], b["moments"])
    for name in ("nans", "pos_infs", "neg_infs", "exponents"):
        out[name] = a[name] + b[name]
    out["min_abs"] = np.minimum(a["min_abs"], b["min_abs"])
    out["units_off"] = a["units_off"] & b["units_off"]
    return out


def summary(measure: Measure, raw: NDArray[np.uint8]) -> Summary:
    """A summary out of what a measurement in full has written.

    Args:
        measure: the kernel, with ``full``.
        raw: (nbytes,) uint8; may be merged from shards, all but whose rows are the kernel's.

    Returns:
        What ``Summary.of`` the array is, up to the rounding of mean and std.
    """
    if not math.prod(measure.read.shape):
        return EMPTY
    head = _HEAD.unpack_from(raw.data)
    count, mean, std, low, high, zeros, nonfinite, saturated = head[:8]
    nans, pos_infs, neg_infs, min_abs = head[8:]
    max_abs = max(-low, high) if count else 0.0
    first, n = exponents(measure.read.dtype)
    end = _HEAD.size + 4 * n
    found = Exponents(0, ())
    if max_abs:
        smallest, largest = exponent(min_abs), exponent(max_abs)
        places = raw[_HEAD.size + 4 * (smallest - first) : _HEAD.size + 4 * (largest - first + 1)]
        found = Exponents(smallest, tuple(places.view(np.uint32).tolist()))
    units_off = None
    if measure.active is not None and len(measure.read.shape) == 2:
        units_off = raw[end : end + measure.read.shape[1]].astype(np.bool_)
        units_off.setflags(write=False)
    return Summary(
        count=count + nonfinite,
        mean=mean,
        std=std,
        min=low,
        max=high,
        max_abs=max_abs,
        min_abs=min_abs,
        zeros=zeros,
        nans=nans,
        pos_infs=pos_infs,
        neg_infs=neg_infs,
        saturated=saturated,
        exponents=found,
        units_off=units_off,
    )
