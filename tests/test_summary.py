"""Summaries against exact rational arithmetic, and the laws of a commutative monoid."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from functools import reduce

import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from isograd.errors import IsogradError, ShapeError
from isograd.telemetry import EMPTY, Exponents, Summary, merge

DTYPES = ("float16", "float32", "float64")
DBL_MAX = float(np.finfo(np.float64).max)
GRAIN = 10 * 5e-324  # the moments of subnormal float64 data are rounded to subnormals themselves
INTERVALS = (None, (-1.0, 1.0), (0.0, math.inf), (-math.inf, 2.0), (0.1, 0.1), (-1e6, 1e300))


def sqrt(x: Fraction) -> float:
    """Correctly rounded, or inf beyond the range of float64."""
    with mpmath.workprec(400):
        root = mpmath.sqrt(mpmath.mpf(x.numerator) / x.denominator)
        return float(root) if root <= DBL_MAX else math.inf


def check(summary: Summary, x: np.ndarray, active: tuple[float, float] | None = None) -> None:
    """Every field and property, computed one value at a time in exact arithmetic."""
    values = [float(v) for v in x.ravel()]
    finite = [v for v in values if math.isfinite(v)]
    sizes = [abs(v) for v in finite if v]
    n = len(finite)

    assert summary.count == len(values)
    assert summary.finite == n
    assert summary.nonfinite == len(values) - n
    assert summary.nans == sum(v != v for v in values)
    assert summary.pos_infs == values.count(math.inf)
    assert summary.neg_infs == values.count(-math.inf)
    assert summary.zeros == finite.count(0.0)
    assert summary.min == min(finite, default=math.inf)
    assert summary.max == max(finite, default=-math.inf)
    assert summary.max_abs == max(sizes, default=0.0)
    assert summary.min_abs == min(sizes, default=math.inf)

    exponents = Counter(math.frexp(v)[1] - 1 for v in sizes)
    first, counts = summary.exponents
    assert first == min(exponents, default=0)
    assert counts == tuple(
        exponents[e] for e in range(first, max(exponents, default=first - 1) + 1)
    )

    exact = [Fraction(v) for v in finite]
    mean = sum(exact) / n if n else Fraction(0)
    m2 = sum((v - mean) ** 2 for v in exact)
    std = sqrt(m2 / n) if n else 0.0
    slack = 2e-14 * summary.max_abs + GRAIN
    assert summary.mean == pytest.approx(float(mean), rel=0, abs=slack)
    assert summary.std == pytest.approx(std, rel=1e-13, abs=slack)
    if n:
        rms = sqrt(sum(v * v for v in exact) / n)
        assert summary.rms == pytest.approx(rms, rel=1e-13, abs=GRAIN)
        assert summary.variance == summary.std * summary.std
    else:
        assert math.isnan(summary.rms)
        assert math.isnan(summary.variance)
    norm = sqrt(sum(v * v for v in exact))
    if norm < 0.999 * DBL_MAX:
        assert summary.norm == pytest.approx(norm, rel=1e-13, abs=GRAIN * math.sqrt(n))
    if 1e-100 < std < 1e100:
        assert summary.m2 == pytest.approx(float(m2), rel=1e-12, abs=4 * n * std * slack)

    outside = np.zeros(x.shape, bool)
    if active is not None:
        with np.errstate(over="ignore"):
            low, high = float(x.dtype.type(active[0])), float(x.dtype.type(active[1]))
        outside = np.array([v < low or v > high for v in values], bool).reshape(x.shape)
    assert summary.saturated == outside.sum()
    if x.size:
        assert summary.saturated_share == outside.sum() / len(values)
    if active is None or x.ndim != 2 or not x.size:
        assert summary.units_off is None
        assert summary.n_units_off == 0
    else:
        off = [all(column) for column in outside.T.tolist()]
        assert summary.units_off is not None
        assert summary.units_off.tolist() == off
        assert summary.n_units_off == sum(off)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any dtype and shape up to 3-d; any floats, or small multiples of one scale (and so ties)."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6))
    width = 8 * dtype.itemsize
    anything = st.floats(width=width)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, float(np.finfo(dtype).max)]
    tiny = float(np.finfo(dtype).smallest_subnormal)
    scale = draw(st.sampled_from([1.0, 0.1, float(np.finfo(dtype).tiny), tiny]))
    multiples = st.integers(-3, 3).map(lambda k: float(dtype.type(k * scale)))
    elements = draw(st.sampled_from([anything, multiples, multiples | st.sampled_from(special)]))
    return draw(hnp.arrays(dtype, shape, elements=elements, fill=st.nothing()))


intervals = st.sampled_from(INTERVALS)


def shards(x: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(x, sorted(c % (len(x) + 1) for c in cuts))


@given(arrays(), intervals)
def test_summary_of_an_array(x, active):
    check(Summary.of(x, active=active), x, active)


@given(arrays(), intervals, st.lists(st.integers(0, 6), max_size=4), st.booleans())
def test_merging_shards_is_summarising_the_whole(x, active, cuts, from_the_right):
    parts = [Summary.of(shard, active=active) for shard in shards(x, cuts)]
    if from_the_right:
        merged = reduce(lambda a, b: merge(b, a), reversed(parts), EMPTY)
    else:
        merged = sum(parts, EMPTY)
    check(merged, x, active)


@given(arrays(), intervals, st.integers(0, 6))
def test_merging_commutes_and_has_an_identity(x, active, cut):
    a, b = (Summary.of(shard, active=active) for shard in shards(x, [cut]))
    assert a + EMPTY == a
    assert EMPTY + a == a
    ab, ba = a + b, b + a
    slack = 1e-15 * ab.max_abs + GRAIN
    assert ab.mean == pytest.approx(ba.mean, rel=0, abs=slack)
    assert ab.std == pytest.approx(ba.std, rel=1e-15, abs=slack)
    assert replace(ab, mean=0.0, std=0.0) == replace(ba, mean=0.0, std=0.0)


@given(arrays(), arrays(), arrays())
def test_summaries_of_different_arrays_merge(x, y, z):
    a, b, c = Summary.of(x), Summary.of(y), Summary.of(z)
    whole = np.concatenate([v.ravel().astype(np.float64) for v in (x, y, z)])
    check((a + b) + c, whole)
    check(a + (b + c), whole)


@given(arrays(), intervals)
def test_a_row_gives_the_summary_back(x, active):
    summary = Summary.of(x, active=active)
    row = summary.to_row()
    assert {type(value) for value in row} <= {int, float, bytes, type(None)}
    assert Summary.from_row(row) == summary


@given(arrays(), intervals)
def test_no_floating_point_error_is_raised(x, active):
    with np.errstate(all="raise"):
        Summary.of(x, active=active)


FAULTS = {
    "count": 13,
    "mean": 0.5,
    "std": 1.5,
    "min": -2.5,
    "max": 4.5,
    "max_abs": 4.5,
    "min_abs": 0.5,
    "zeros": 2,
    "nans": 2,
    "pos_infs": 2,
    "neg_infs": 2,
    "saturated": 1,
    "exponents": Exponents(0, (3, 2, 2)),
    "units_off": np.array([True, True, True]),
}


@pytest.mark.parametrize("field", Summary.__slots__)
def test_the_checker_catches_a_wrong_field(field):
    x = np.array([[1, 2, 3], [4, 0, -2], [np.nan, np.inf, -np.inf], [1, 1, 3]], np.float32)
    summary = Summary.of(x, active=(-2.0, 1.5))
    check(summary, x, (-2.0, 1.5))
    with pytest.raises(AssertionError):
        check(replace(summary, **{field: FAULTS[field]}), x, (-2.0, 1.5))


def test_exponents_by_hand():
    assert Summary.of([1.0, 1.5, -2.0, 3.99, 0.25, 0.0]).exponents == (-2, (1, 0, 2, 2))
    assert Summary.of(np.array([1e-45], np.float32)).exponents == (-149, (1,))
    assert Summary.of(np.array([5e-324])).exponents == (-1074, (1,))
    assert Summary.of(np.array([6e-8], np.float16)).exponents == (-24, (1,))


def test_exponents_of_every_float16():
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    expected = Counter(math.frexp(v)[1] - 1 for v in x.tolist() if math.isfinite(v) and v)
    first, counts = Summary.of(x).exponents
    assert dict(enumerate(counts, first)) == expected
    assert expected[-24] == 2


def test_exponents_of_float32_at_the_bounds_of_binades():
    e = np.arange(-149, 128)
    powers = np.ldexp(np.float64(1), e).astype(np.float32)
    below = np.nextafter(powers[1:], np.float32(0))
    assert Summary.of(powers).exponents == (-149, (1,) * 277)
    assert Summary.of(below).exponents == (-149, (1,) * 276)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", 1e-30), ("float32", 1e30), ("float32", 1e-44)]
    + [("float64", s) for s in (1e-300, 1e-200, 1e200, 1e300, 1e-320)],
)
def test_moments_neither_overflow_nor_underflow(dtype, size):
    x = (size * np.random.default_rng(0).standard_normal((16, 16))).astype(dtype)
    check(Summary.of(x), x)
    check(Summary.of(x[:5]) + Summary.of(x[5:]), x)
    assert 0 < Summary.of(x).norm < math.inf


@pytest.mark.parametrize(
    "values", [(DBL_MAX,) * 3, (*(DBL_MAX,) * 3, -DBL_MAX), (DBL_MAX, 0.0, -1.0)]
)
def test_moments_are_finite_at_the_end_of_the_range(values):
    x = np.array(values)
    check(Summary.of(x), x)
    merged = sum((Summary.of(x[i : i + 1]) for i in range(x.size)), EMPTY)
    check(merged, x)
    assert math.isfinite(merged.std)


def test_a_constant_has_no_spread():
    for dtype in DTYPES:
        x = np.full((7, 9), 0.1, dtype)
        assert Summary.of(x).std == 0
        assert Summary.of(x).mean == x[0, 0]
        assert (Summary.of(x) + Summary.of(x)).std == 0


def test_the_spread_about_a_large_mean_is_kept():
    x = 1e8 + np.random.default_rng(0).standard_normal((32, 32))
    exact = [Fraction(v) for v in x.ravel().tolist()]
    mean = sum(exact) / len(exact)
    std = sqrt(sum((v - mean) ** 2 for v in exact) / len(exact))
    assert Summary.of(x).std == pytest.approx(std, rel=1e-13)
    merged = sum((Summary.of(row) for row in x), EMPTY)
    assert merged.std == pytest.approx(std, rel=1e-8)


@pytest.mark.parametrize("shape", [(40_000,), (1000, 70), (3, 20_000), (1, 40_000), (40_000, 1)])
def test_large_arrays(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32) * np.float32(2) ** rng.integers(-9, 9, shape)
    x = x.astype(np.float32)
    x[rng.random(shape) < 0.01] = np.nan
    if x.ndim == 2:
        x[:, 0] = 5
    check(Summary.of(x, active=(-2.0, 2.0)), x, (-2.0, 2.0))


def test_any_layout_in_memory():
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    for view in (x.T, np.asfortranarray(x), x[::2, ::3], x[::-1, ::-1], x[:, 3], x[2, 2]):
        check(Summary.of(view, active=(-0.5, 0.5)), view, (-0.5, 0.5))
    row = np.broadcast_to(x[0], (5, 8))
    check(Summary.of(row, active=(-0.5, 0.5)), row, (-0.5, 0.5))
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32)
    check(Summary.of(unaligned), unaligned)


def test_units_that_are_off_in_every_shard_are_off():
    first = Summary.of(np.array([[-1.0, -1.0, 1.0], [-2.0, -1.0, 1.0]]), active=(0.0, math.inf))
    then = Summary.of(np.array([[-3.0, 1.0, 1.0]]), active=(0.0, math.inf))
    assert first.units_off.tolist() == [True, True, False]
    assert (first + then).units_off.tolist() == [True, False, False]
    assert (first + then).n_units_off == 1
    unmeasured = Summary.of(np.ones((2, 3)))
    assert (first + unmeasured).units_off.tolist() == [True, True, False]
    assert (unmeasured + first).units_off.tolist() == [True, True, False]


def test_bounds_of_numpy_dtypes_are_taken():
    x = np.array([[0.1, 3.0]], np.float32)
    check(Summary.of(x, active=(np.float64(0.1), np.float64(2))), x, (0.1, 2.0))


def test_the_empty_summary():
    assert Summary.of(np.zeros((0, 4), np.float32), active=(0.0, 1.0)) == EMPTY
    check(EMPTY, np.zeros(0))
    assert math.isnan(EMPTY.saturated_share)
    assert EMPTY.norm == 0


def test_nothing_finite_is_not_a_vanished_signal():
    summary = Summary.of(np.array([np.nan, np.inf], np.float32))
    assert math.isnan(summary.rms)
    check(summary, np.array([np.nan, np.inf]))
    check(summary + Summary.of([3.0, 4.0]), np.array([np.nan, np.inf, 3.0, 4.0]))


def test_summaries_are_frozen_and_compared_by_value():
    x = np.array([[1.0, 2.0]])
    summary = Summary.of(x, active=(5.0, 6.0))
    with pytest.raises(FrozenInstanceError):
        summary.count = 3
    with pytest.raises(ValueError, match="read-only"):
        summary.units_off[0] = False
    assert summary == Summary.of(x, active=(5.0, 6.0))
    assert summary != Summary.of(x, active=(1.5, 6.0))
    assert summary != Summary.of(x)
    assert summary != "a summary"
    with pytest.raises(TypeError, match="unhashable"):
        hash(summary)


@pytest.mark.parametrize(
    "x",
    [np.arange(3), np.array([1j]), np.array(["a"]), np.array([1.0]).astype(">f4"), [True]],
)
def test_other_dtypes_are_refused(x):
    with pytest.raises(ShapeError, match="float16, float32 or float64\n  came:  an array of dtype"):
        Summary.of(x)


@pytest.mark.parametrize("active", [(1.0, -1.0), (math.nan, 1.0), (0.0, math.nan)])
def test_an_active_interval_is_an_interval(active):
    with pytest.raises(IsogradError, match="must have lo ≤ hi"):
        Summary.of(np.ones(3), active=active)


def test_widths_that_differ_do_not_merge():
    a, b = (Summary.of(np.ones((2, width)), active=(0.0, 2.0)) for width in (3, 4))
    with pytest.raises(ShapeError, match="of the same width\n  came:  widths 3 and 4"):
        merge(a, b)
