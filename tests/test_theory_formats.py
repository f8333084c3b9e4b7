"""Number formats: limits, shares from histograms, and the loss scale, against real rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from theory_table import FACTS, facts

from isograd.engine.number_formats import FORMATS, NumberFormat, rounded
from isograd.errors import IsogradError, TheoryError
from isograd.telemetry.summary import Summary
from isograd.theory import formats
from isograd.theory.formats import layers_until_zero, limits, loss_scale
from isograd.theory.magnitudes import Counts, Sizes, sizes

DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp32": np.float32,
}
NARROW = [name for name in DTYPES if name != "fp32"]


def cast(x, name: str):
    """Rounded by NumPy's own conversion; ml_dtypes converts from float32 alone rightly."""
    with np.errstate(over="ignore", invalid="ignore"):
        source = x.astype(np.float32) if name in ("bf16", "fp8_e4m3", "fp8_e5m2") else x
        return source.astype(DTYPES[name]).astype(np.float64)


def true_shares(x, name: str):
    y, size = cast(x, name), np.abs(x)
    normal = FORMATS[name].min_normal
    return {
        "overflow": np.mean(~np.isfinite(y)),
        "flushed": np.mean((y == 0) & (x != 0)),
        "subnormal": np.mean((y != 0) & (size < normal)),
        "zero": np.mean(x == 0),
    }


# --- limits


@pytest.mark.parametrize("fact", facts("E1."))
def test_limits_are_those_published(fact) -> None:
    name = fact["id"].removeprefix("E1.")
    end = limits({"e4m3": "fp8_e4m3", "e5m2": "fp8_e5m2"}.get(name, name))
    expected = dict(fact["expected"])
    bits = fact["inputs"]
    if bits:
        assert (end.form.exponent_bits, end.form.fraction_bits) == tuple(bits.values())
    found = {
        "max": end.max,
        "rne_overflow_threshold": end.overflow_from,
        "min_normal_log2": math.log2(end.min_normal),
        "min_subnormal_log2": math.log2(end.min_subnormal),
        "eps_log2": math.log2(end.eps),
        "unit_roundoff_log2": math.log2(end.unit_roundoff),
        "exp_overflow_x": end.max_exponential,
        "rne_to_zero_log2 (<=)": end.zero_log2,
        "sigmoid_0.25^L first flushed to 0 at L": end.quarter_depth,
        "bias": end.form.bias,
    }
    if name == "fp64":
        expected["rne_overflow_threshold"] = 2**1024 - 2**970
    for key, value in expected.items():
        assert found[key] == value, key


@pytest.mark.parametrize("name", NARROW)
def test_limits_are_where_conversion_changes(name: str) -> None:
    end = limits(name)
    threshold = float(end.overflow_from)
    inside, outside = np.nextafter(np.float32(threshold), np.float32([0, np.inf]))
    assert cast(np.array([inside]), name) == end.max
    assert not np.isfinite(cast(np.array([outside]), name))
    tie = cast(np.array([threshold]), name)
    assert tie == end.max if name == "fp8_e4m3" else np.isinf(tie)
    zero = np.ldexp(1.0, end.zero_log2)
    assert cast(np.array([zero]), name) == 0
    assert cast(np.array([zero * 1.001]), name) == end.min_subnormal
    depth = end.quarter_depth
    assert cast(np.array([0.25**depth]), name) == 0 < cast(np.array([0.25 ** (depth - 1)]), name)


def test_rounding_at_the_edges_of_fp16() -> None:
    expected = dict(FACTS["H6"]["expected"])
    total, fp16 = np.array(1.0), FORMATS["fp16"]
    for _ in range(4096):
        total = rounded(total + 2.0**-12, fp16)
    assert total == expected.pop("1+2^-12 repeated 4096x")
    inputs = (65519, 65520, 2.0**-25, 1.0001 * 2.0**-25)
    for x, (text, value) in zip(inputs, expected.items(), strict=True):
        assert rounded(np.array(x, np.float64), fp16) == float(value), text
        assert cast(np.array(x, np.float64), "fp16") == float(value), text


@pytest.mark.parametrize(
    ("form", "factor", "start"),
    [("fp16", 0.5, 1.0), ("bf16", 0.1, 1e3), ("fp8_e5m2", 0.9, 0.3), ("fp16", 0.25, 1e-9)],
)
def test_a_fading_signal_lasts_so_long(form: str, factor: float, start: float) -> None:
    depth, value = 0, Fraction(start)
    while cast(np.array([float(value)]), form):
        depth, value = depth + 1, value * Fraction(factor)
    assert layers_until_zero(form, factor, start) == depth


def test_a_format_of_ones_own_has_limits_too() -> None:
    e2m3 = NumberFormat("fp6_e2m3", 2, 3, 7.5, infinities=False)
    assert limits(e2m3).overflow_from == Fraction(31, 4)
    assert (limits(e2m3).min_normal, limits(e2m3).min_subnormal) == (1.0, 0.125)


# --- shares

RNG = np.random.default_rng(7)
ARRAYS = {
    "normal": RNG.standard_normal(40_000),
    "small": 3e-8 * RNG.standard_normal(40_000),
    "large": 2e4 * RNG.standard_normal(40_000),
    "wide": 2.0 ** RNG.uniform(-30, 20, 40_000) * RNG.choice([-1, 1], 40_000),
    "relu": np.maximum(200 * RNG.standard_normal(40_000), 0),
    "e4m3's end": RNG.uniform(200, 500, 40_000),
    "fp16's end": RNG.uniform(6e4, 6.6e4, 40_000),
}


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("scale", [0, 9])
@pytest.mark.parametrize("case", ARRAYS)
def test_shares_are_those_of_real_rounding(case: str, name: str, scale: int) -> None:
    x = ARRAYS[case].astype(np.float32).astype(np.float64)
    s = Summary.of(x)
    found = formats.shares(s.exponents, name, scale=scale, max_abs=s.max_abs, zeros=s.zeros)
    true = true_shares(np.ldexp(x, scale), name)
    for part in ("flushed", "subnormal", "zero"):
        assert getattr(found, part) == pytest.approx(true[part], abs=1e-15), part
    # Only where the threshold splits a bin is the overflow not exact, and by no more than the bin.
    assert abs(found.overflow - true["overflow"]) <= found.undecided
    whole = found.overflow + found.normal + found.subnormal + found.flushed + found.zero
    assert whole == pytest.approx(1.0, abs=1e-15)
    if not true["overflow"] or not found.undecided:
        assert found.overflow == pytest.approx(true["overflow"], abs=1e-15)


def test_a_split_bin_is_taken_as_uniform() -> None:
    x = RNG.uniform(256, 480, 200_000)
    s = Summary.of(x)
    true = np.mean(x > 464)
    error = 4 * math.sqrt(true / x.size)
    known = formats.shares(s.exponents, "fp8_e4m3", max_abs=s.max_abs)
    assert known.overflow == pytest.approx(true, abs=error)
    # Without the largest value the bin reaches to 512: (512 − 464)/256.
    assert formats.shares(s.exponents, "fp8_e4m3").overflow == 48 / 256


def test_the_largest_value_alone_decides_where_it_can() -> None:
    ends = np.array([300.0, 463.0]), np.array([300.0, 465.0]), np.array([300.0, 1e6])
    below, above, far = (sizes(x) for x in ends)
    for s, share in ((below, 0.0), (above, 0.5)):
        got = formats.shares(s.histogram, "fp8_e4m3", max_abs=s.max_abs)
        assert got.overflow == share
    assert formats.shares(far.histogram, "fp16", max_abs=far.max_abs).overflow == 0.5


def test_a_fault_in_a_histogram_would_be_seen() -> None:
    """Bins that are one off, as by rounding log₂ up, give other shares."""
    s = sizes(ARRAYS["wide"])
    off = Counts(s.histogram.first + 1, s.histogram.counts)
    true = true_shares(ARRAYS["wide"], "fp16")["flushed"]
    assert formats.shares(off, "fp16").flushed != pytest.approx(true, abs=1e-3)


def test_shares_of_nothing_and_of_zeros() -> None:
    nothing = formats.shares(Counts(0, ()), "fp16")
    assert (nothing.lost, nothing.underflow, nothing.normal) == (0.0, 0.0, 0.0)
    zeros = formats.shares(Counts(0, ()), "fp16", zeros=5)
    assert (zeros.zero, zeros.lost) == (1.0, 0.0)
    half = formats.shares(Counts(-40, (1, 1)), "fp16", zeros=2)
    assert (half.flushed, half.lost, half.underflow) == (0.5, 1.0, 1.0)


def test_subnormal_float64_values_are_counted() -> None:
    x = np.array([5e-324, 1e-310, 1.0])
    s = sizes(x)
    assert s.histogram.first == -1074
    assert formats.shares(s.histogram, "fp64").subnormal == pytest.approx(2 / 3)
    assert formats.shares(s.histogram, "fp64", max_abs=s.max_abs, scale=40).subnormal == 1 / 3


@pytest.mark.parametrize("x", [ARRAYS["wide"], np.zeros(3), np.array([1.0, np.nan, -np.inf, 0])])
def test_sizes_are_those_of_a_summary(x) -> None:
    s, summary = sizes(x), Summary.of(x)
    assert (s.histogram.first, s.histogram.counts) == tuple(summary.exponents)
    assert (s.max_abs, s.zeros) == (summary.max_abs, summary.zeros)


# --- the loss scale


def brute(x, name: str) -> tuple[int, float]:
    """By rounding at every power of two: the most that survives without overflow, and at least."""
    best: dict[int, tuple[float, float]] = {}
    for k in range(-60, 121):
        y = np.ldexp(x, k)
        if np.max(np.abs(y)) > FORMATS[name].max:
            break
        true = true_shares(y, name)
        best[k] = (true["flushed"], true["subnormal"])
    least = min(best.values())
    k = min((k for k, value in best.items() if value == least), key=lambda k: (k < 0, abs(k)))
    return k, 1.0 - least[0]


GRADIENTS = {
    "tiny": 1e-9 * RNG.standard_normal(20_000),
    "wide": 10.0 ** RNG.uniform(-14, -1, 20_000),
    "very wide": 10.0 ** RNG.uniform(-30, 2, 20_000),
    "fit": RNG.uniform(0.1, 1, 1000),
    "too large": RNG.uniform(1e5, 1e7, 1000),
    "with zeros": np.maximum(1e-6 * RNG.standard_normal(20_000), 0),
}


@pytest.mark.parametrize("name", ["fp16", "fp8_e5m2", "fp8_e4m3"])
@pytest.mark.parametrize("case", GRADIENTS)
def test_the_loss_scale_saves_the_most(case: str, name: str) -> None:
    x = GRADIENTS[case].astype(np.float32).astype(np.float64)
    found = loss_scale([sizes(part) for part in np.split(x, 4)], name)
    k, kept = brute(x, name)
    assert found.log2 == k
    assert 1.0 - found.after.flushed == pytest.approx(kept, abs=1e-12)
    assert found.after.overflow == 0
    largest = np.max(np.abs(x))
    assert found.headroom == pytest.approx(math.log2(FORMATS[name].max / largest) - k)
    assert found.headroom >= 0
    assert found.before.flushed == pytest.approx(true_shares(x, name)["flushed"], abs=1e-12)
    assert found.saved == pytest.approx(found.before.lost - found.after.lost)


def test_the_loss_scale_leaves_its_margin() -> None:
    wide = [sizes(GRADIENTS["very wide"])]
    close, far = loss_scale(wide, "fp16"), loss_scale(wide, "fp16", margin=3)
    assert 0 <= close.headroom < 1
    assert far.log2 == close.log2 - 3
    with pytest.raises(TheoryError, match="0 bits or more"):
        loss_scale(wide, "fp16", margin=-1)


def test_the_loss_scale_without_gradients_is_one() -> None:
    for tensors in ([], [sizes(np.zeros(3))]):
        found = loss_scale(tensors, "fp16")
        assert (found.scale, found.headroom, found.saved) == (1.0, math.inf, 0.0)


def test_the_ends_of_float64_do_not_disturb() -> None:
    x = np.array([5e-324, 1.7e308])
    found = loss_scale([sizes(x)], "fp64")
    assert (found.log2, found.after.overflow) == (0, 0.0)
    assert loss_scale([Sizes(Counts(-1074, (1,)), 5e-324)], "fp64").log2 == 52


# --- what is not known


@pytest.mark.parametrize(
    "call",
    [
        lambda: limits("fp12"),
        lambda: formats.shares(Counts(0, (1,)), "float16"),
        lambda: loss_scale([], ""),
        lambda: layers_until_zero("half", 0.25),
    ],
)
def test_an_unknown_format_is_refused(call) -> None:
    with pytest.raises(IsogradError, match="fp8_e4m3"):
        call()


@pytest.mark.parametrize(("factor", "start"), [(1.0, 1.0), (0.0, 1.0), (0.5, 0.0), (0.5, math.inf)])
def test_a_signal_that_does_not_fade_is_refused(factor: float, start: float) -> None:
    with pytest.raises(TheoryError, match="between 0 and 1"):
        layers_until_zero("fp16", factor, start)
