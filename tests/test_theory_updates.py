"""Updates that rounding takes away, and Adam's ε, against real rounding."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_table import FACTS

from isograd.engine.number_formats import FORMATS, rounded
from isograd.errors import IsogradError, ShapeError, TheoryError
from isograd.telemetry.summary import Summary
from isograd.theory.magnitudes import Counts, sizes
from isograd.theory.updates import adam_epsilon, rounded_away, updates_lost

N = 60_000
RNG = np.random.default_rng(3)
WEIGHTS = {
    "uniform": RNG.uniform(-0.1, 0.1, N),
    "normal": 0.05 * RNG.standard_normal(N),
    "ones": RNG.uniform(1.0, 1.01, N),
}
DTYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32}


def kept(weights, updates, name: str) -> float:
    """By the conversions of NumPy and ml_dtypes: the share of weights that stay as they are."""
    dtype = DTYPES[name]
    w = weights.astype(dtype).astype(np.float64)
    after = (w + updates).astype(np.float32 if name == "bf16" else np.float64)
    return float(np.mean((after.astype(dtype).astype(np.float64) == w)[updates != 0]))


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("ratio", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("case", WEIGHTS)
def test_the_share_is_that_of_real_rounding(case: str, ratio: float, name: str) -> None:
    w = WEIGHTS[case]
    u = ratio * np.std(w) * RNG.standard_normal(N)
    true = kept(w, u, name)
    # To bf16 the reference rounds twice, by way of float32, which moves a few ties.
    assert rounded_away(w, u, name) == pytest.approx(true, abs=1e-4 if name == "bf16" else 1e-12)
    held = rounded(w, FORMATS[name])
    found = updates_lost(Summary.of(held).exponents, Summary.of(u).exponents, name)
    # 2^−(p+1) of the weights are powers of two, whose lower neighbour is half as far; and chance.
    slack = 2.0 ** -(FORMATS[name].fraction_bits + 1) + 4 * math.sqrt(max(true, 1 / N) / N)
    assert found.share == pytest.approx(true, abs=slack)
    assert found.low <= found.share <= found.high


def test_updates_of_a_thousandth_of_their_weight() -> None:
    """In bf16 all are lost, in fp32 none."""
    w = 0.05 * RNG.standard_normal(N)
    u = 1e-3 * w * RNG.choice([-1, 1], N)
    assert rounded_away(w, u, "bf16") == 1.0  # |u| < 2⁻⁹|w| < ½ ulp(w), each and every one
    assert rounded_away(w, u, "fp32") == 0.0
    # The histograms do not know that they belong together, the bounds do.
    found = updates_lost(sizes(w).histogram, sizes(u).histogram, "bf16")
    assert found.share < 1.0
    assert found.high == 1.0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-12, 2),
    st.sampled_from(["independent", "together", "against"]),
    st.sampled_from(["fp16", "bf16", "fp8_e5m2"]),
)
def test_the_bounds_hold_however_updates_and_weights_go_together(
    seed: int, decade: float, how: str, name: str
) -> None:
    rng = np.random.default_rng(seed)
    form = FORMATS[name]
    # Odd last digits, so that no weight is a power of two.
    w = rounded(np.abs(rng.standard_normal(500)) + 0.01, form)
    w = w[np.frexp(w)[0] != 0.5]
    u = np.abs(10.0**decade * rng.standard_normal(w.size))
    if how != "independent":
        w, u = np.sort(w), np.sort(u)[:: 1 if how == "together" else -1]
    found = updates_lost(sizes(w).histogram, sizes(u).histogram, form)
    true = rounded_away(w, u, form)
    assert found.low - 1e-12 <= true <= found.high + 1e-12


def test_stagnation_and_stochastic_rounding() -> None:
    expected = FACTS["E2"]["expected"]
    for name, step, times, result in (
        ("fp16", 2.0**-12, 4096, expected["RNE_result"]),
        ("bf16", 2.0**-9, 512, expected["bf16: add 2^-9 512 times RNE"]),
        ("fp8_e4m3", 2.0**-5, 32, 1.0),
        ("fp8_e5m2", 2.0**-4, 16, 1.0),
    ):
        form, total = FORMATS[name], np.array([1.0])
        for _ in range(times):
            total = rounded(total + step, form)
        assert total == result, name
        assert rounded_away([1.0], [step], name) == 1.0
        one, small = (sizes([x]).histogram for x in (1.0, step))
        lost = updates_lost(one, small, name)
        assert (lost.share, lost.low, lost.high) == (1.0, 1.0, 1.0)

    walks, form = np.ones(400), FORMATS["fp16"]
    for _ in range(4096):
        bits = RNG.integers(0, 2**32, walks.size, dtype=np.uint32)
        walks = rounded(walks + 2.0**-12, form, bits)
    error = np.std(walks, ddof=1) / math.sqrt(walks.size)
    assert abs(np.mean(walks) - expected["SR_mean"]) <= 4 * error
    assert error < 0.01


def test_updates_of_nothing_and_of_weights_that_are_zero() -> None:
    one, none = sizes([1.0]).histogram, Counts(0, ())
    assert updates_lost(one, none, "fp16").share == 0.0
    assert updates_lost(none, one, "fp16").share == 0.0
    # Of a weight of 0 an update is lost where it is flushed to zero itself.
    flushed, held = sizes([2.0**-26]).histogram, sizes([2.0**-24]).histogram
    assert updates_lost(none, flushed, "fp16", zeros=1).share == 1.0
    assert updates_lost(none, held, "fp16", zeros=1).share == 0.0
    assert rounded_away([0.0, 0.0], [2.0**-26, 2.0**-24], "fp16") == 0.5
    assert rounded_away([1.0, 1.0], [0.0, 1.0], "fp16") == 0.0
    assert rounded_away([1.0], [0.0], "fp16") == 0.0


# --- Adam


@pytest.mark.parametrize(
    ("epsilon", "name", "vanishes", "subnormal"),
    [
        (1e-8, "fp16", True, False),
        (2.0**-25, "fp16", True, False),
        (3e-8, "fp16", False, True),
        (1e-7, "fp16", False, True),
        (1e-4, "fp16", False, False),
        (1e-8, "bf16", False, False),
        (1e-40, "bf16", False, True),
        (1e-8, "fp32", False, False),
        (1e-8, "fp8_e4m3", True, False),
        (1e-3, "fp8_e4m3", False, True),
        (1e-6, "fp8_e5m2", True, False),
    ],
)
def test_epsilon_in_a_format(epsilon: float, name: str, vanishes: bool, subnormal: bool) -> None:
    found = adam_epsilon(epsilon, name)
    assert (found.vanishes, found.subnormal) == (vanishes, subnormal)
    dtype = {**DTYPES, "fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2}
    assert found.rounded == float(np.array(epsilon).astype(dtype[name]))
    assert math.isnan(found.dominates)
    assert math.isnan(found.flushed)


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp32"])
def test_a_safe_epsilon_keeps_the_first_step_within_lr(name: str) -> None:
    """|g|/(√fl(g²) + ε) ≤ 1 for every g, where smaller powers of two fail or are subnormal."""
    form = FORMATS[name]
    zero = form.min_exponent - form.fraction_bits - 1
    g = 2.0 ** np.linspace(zero / 2 - 20, zero / 2 + 6, 4001)
    v = rounded(g * g, form)
    safe = adam_epsilon(1e-8, name).safe

    def step(epsilon: float) -> float:
        # Where v̂ is 0; elsewhere its own rounding alone decides.
        return float(np.max((g / (np.sqrt(v) + epsilon))[v == 0]))

    assert step(safe) <= 1.0
    assert safe >= form.min_normal
    assert step(safe / 2) > 1.0 or safe / 2 < form.min_normal


def test_where_epsilon_dominates_and_second_moments_vanish() -> None:
    root = 10.0 ** RNG.uniform(-12, -1, N)
    found = adam_epsilon(3e-6, "fp16", root=Summary.of(root).exponents)
    # Within one bin of 36 the values lie log-uniformly here, not uniformly: below a tenth of it.
    assert found.dominates == pytest.approx(np.mean(root <= 3e-6), abs=0.1 / 36)
    flushed = np.mean(rounded(root * root, FORMATS["fp16"]) == 0)
    assert found.flushed == pytest.approx(flushed, abs=0.1 / 36)
    uniform = RNG.uniform(0.0, 1.0, N)
    share = adam_epsilon(0.3, "fp16", root=sizes(uniform).histogram).dominates
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / N))
    assert adam_epsilon(1e-30, "fp32", root=sizes(uniform).histogram).dominates == 0.0
    assert adam_epsilon(10.0, "fp32", root=sizes(uniform).histogram).dominates == 1.0


def test_what_cannot_be_used_is_refused() -> None:
    for epsilon in (0.0, -1e-8, math.inf, math.nan):
        with pytest.raises(TheoryError, match="above 0"):
            adam_epsilon(epsilon, "fp16")
    with pytest.raises(ShapeError, match="its update"):
        rounded_away(np.ones(2), np.ones(3), "fp16")
    one = Counts(0, (1,))
    for call in (lambda: updates_lost(one, one, "x"), lambda: adam_epsilon(1e-8, "fp4")):
        with pytest.raises(IsogradError, match="fp8_e5m2"):
            call()
