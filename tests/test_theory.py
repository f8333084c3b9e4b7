"""Gaussian averages, moments, gains and finite width, against mpmath and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from theory_table import FACTS, PHI, facts, mp_moments, sech2

from isograd.errors import TheoryError
from isograd.theory import (
    Phi,
    backward_gain,
    expectation,
    expectation2,
    forward_gain,
    length_map,
    log_norm,
    log_norm_spread,
    log_ratio,
    mean_field,
    moments,
    phi_of,
    std_gain,
)

# Quadrature


@pytest.mark.parametrize("phi", PHI.values(), ids=PHI)
def test_the_derivatives_of_the_table_are_right(phi: Phi) -> None:
    assert phi_of(phi.f, df=phi.df, kinks=phi.kinks).kinks == phi.kinks


@pytest.mark.parametrize("fact", facts("M."))
def test_moments_meet_30_digits(fact: dict[str, Any]) -> None:
    expected = fact["expected"]
    got = moments(PHI[fact["inputs"]["activation"]], fact["inputs"]["q"])
    assert got.second == pytest.approx(expected["E_phi2"], rel=1e-11)
    assert got.slope == pytest.approx(expected["E_dphi2"], rel=1e-11)
    assert got.mean == pytest.approx(
        expected["E_phi"], rel=1e-11, abs=1e-13 * math.sqrt(expected["E_phi2"])
    )


@pytest.mark.parametrize(("name", "q"), [("tanh", 1.0), ("hard_tanh", 0.1), ("sin", 45.0)])
def test_the_30_digits_are_what_mpmath_gives(name: str, q: float) -> None:
    stored = FACTS[f"M.{name}.q={q:g}"]["expected"]
    assert mp_moments(name, q) == pytest.approx(stored, rel=1e-15, abs=1e-25)


@pytest.mark.parametrize("fact", facts("A1."))
def test_moments_and_gains_at_unit_variance(fact: dict[str, Any]) -> None:
    phi, expected = PHI[fact["inputs"]["activation"]], fact["expected"]
    got = moments(phi, 1.0)
    assert got.mean == pytest.approx(expected["E_phi"], rel=1e-10, abs=1e-15)
    assert got.second == pytest.approx(expected["E_phi2"], rel=1e-10)
    assert got.slope == pytest.approx(expected["E_dphi2"], rel=1e-10)
    assert forward_gain(phi) == pytest.approx(expected["forward_gain_1/sqrt(E_phi2)"], rel=1e-10)
    assert backward_gain(phi) == pytest.approx(expected["backward_gain_1/sqrt(E_dphi2)"], rel=1e-10)


def test_closed_forms() -> None:
    expected = FACTS["A2"]["expected"]
    assert moments(PHI["relu"], 1.0).second == pytest.approx(expected["E_relu2"], rel=1e-12)
    erf2 = expected["E_erf2=(2/pi)asin(2/3)"]
    assert moments(PHI["erf"], 1.0).second == pytest.approx(erf2, rel=1e-12)
    assert moments(PHI["sin"], 1.0).second == pytest.approx(
        expected["E_sin2=(1-e^-2)/2"], rel=1e-12
    )
    assert moments(PHI["gelu"], 1.0).second == pytest.approx(expected["E_gelu2"], rel=1e-12)


def test_std_gains() -> None:
    for name, expected in FACTS["H3"]["expected"].items():
        assert std_gain(PHI[name]) == pytest.approx(expected, rel=1e-10), name


@settings(max_examples=60, deadline=None)
@given(st.floats(-12, 6))
def test_closed_forms_hold_over_18_decades(log_q: float) -> None:
    q = 10**log_q
    erf, sine, relu = (moments(PHI[name], q) for name in ("erf", "sin", "relu"))
    assert erf.second == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-12)
    assert erf.slope == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-12)
    assert sine.second == pytest.approx(-math.expm1(-2 * q) / 2, rel=1e-10)
    assert sine.growth == pytest.approx(math.exp(-2 * q), rel=1e-10, abs=1e-10 / math.sqrt(q))
    assert (relu.second, relu.slope, relu.growth) == pytest.approx((q / 2, 0.5, 0.5), rel=1e-12)
    assert relu.mean == pytest.approx(math.sqrt(q / (2 * math.pi)), rel=1e-12)


def test_growth_is_the_derivative_of_the_second_moment() -> None:
    for phi in PHI.values():
        for q in (0.01, 1.0, 30.0):
            h = 1e-4 * q
            low, high = moments(phi, q - h).second, moments(phi, q + h).second
            assert moments(phi, q).growth == pytest.approx((high - low) / (2 * h), rel=1e-6), phi


def test_variance_zero_is_the_limit() -> None:
    assert moments(PHI["leaky_0.2"], 0.0).slope == pytest.approx((1 + 0.2**2) / 2, rel=1e-15)
    assert moments(PHI["tanh"], 0.0).second == 0
    zero, near = moments(PHI["sigmoid"], 0.0), moments(PHI["sigmoid"], 1e-7)
    assert (zero.mean, zero.second, zero.slope) == (0.5, 0.25, 0.0625)
    assert zero.growth == pytest.approx(near.growth, rel=1e-4)


def test_extreme_variances() -> None:
    for q in (1e-200, 1e200):
        relu = moments(PHI["relu"], q)
        assert (relu.second / q, relu.slope) == pytest.approx((0.5, 0.5), rel=1e-12)
    assert moments(PHI["tanh"], 1e200).second == pytest.approx(1.0, rel=1e-12)


def test_bad_variances_are_refused() -> None:
    for q in (-1.0, math.nan, math.inf):
        with pytest.raises(TheoryError, match="a variance must be finite and not negative"):
            moments(PHI["tanh"], q)
    with pytest.raises(TheoryError, match="σ_w² must be finite"):
        length_map(PHI["tanh"], 1.0, -1.0, 0.0)
    with pytest.raises(TheoryError, match="σ_b² must be finite"):
        mean_field(PHI["tanh"], 1.0, math.nan)
    with pytest.raises(TheoryError, match=r"correlation must lie in \[−1, 1\]"):
        expectation2(lambda a, b: a * b, 1.0, 1.5)


def test_an_integral_that_is_not_resolved_is_refused() -> None:
    root = Phi("root", lambda x: np.sqrt(np.abs(x)), lambda x: np.sign(x) / np.sqrt(np.abs(x)) / 2)
    with pytest.raises(TheoryError, match="must be resolved to 1e-10") as caught:
        moments(root, 2.0)  # φ′² = 1/4|u|, which has no average
    assert "root" in caught.value.where
    assert "q = 2" in caught.value.where
    assert "near pre-activation" in caught.value.came
    with pytest.raises(TheoryError, match="must be resolved"):
        expectation(lambda u: np.sin(1e7 * u), 1.0)
    with pytest.raises(TheoryError, match="an average over two pre-activations must be resolved"):
        expectation2(lambda a, b: (a > 0.3) * (b > 0.3) * 1.0, 1.0, 0.5)  # kinks not named


def test_values_that_are_not_finite_are_refused() -> None:
    naive = Phi("naive softplus", lambda x: np.log1p(np.exp(x)), special.expit)
    assert moments(naive, 1.0).second == pytest.approx(moments(PHI["softplus"], 1.0).second)
    with pytest.raises(TheoryError, match="must be finite everywhere") as caught:
        moments(naive, 1e4)
    assert "naive softplus" in caught.value.where
    assert "inf at pre-activation" in caught.value.came


def test_a_kink_that_is_not_named_costs_no_digits() -> None:
    for kinks in ((), (0.3,), (0.0, 0.3, 1.7)):
        kink = Phi("kinked", lambda x: np.maximum(x, 0.3), lambda x: (x > 0.3) * 1.0, kinks)
        want = stats.norm.sf(0.3 / math.sqrt(2))
        assert moments(kink, 2.0).slope == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("rate", "q"), [(3.0, 1.0), (3.0, 16.0), (0.5, 900.0)])
def test_an_average_whose_mass_lies_far_out(rate: float, q: float) -> None:
    got = expectation(lambda u: np.exp(rate * u), q)
    assert got == pytest.approx(math.exp(rate**2 * q / 2), rel=1e-11)


def test_an_activation_that_outgrows_the_measure_is_refused() -> None:
    def square(u):
        return np.exp(0.2 * u * u)

    got = expectation(square, 1.0)  # E exp(a u²) = 1/√(1 − 2aq)
    assert got == pytest.approx(1 / math.sqrt(0.6), rel=1e-12)
    for q in (2.49, 2.5, 10.0):  # the tail falls like exp(−z²/500), or rises
        with pytest.raises(TheoryError, match="must not outgrow the Gaussian measure") as caught:
            expectation(square, q, name="exp(u²/5)")
        assert "exp(u²/5)" in caught.value.where
        assert "standard deviations" in caught.value.came


# Two dimensions


CORRELATIONS = (-1.0, -0.999, -0.4, 0.0, 0.3, 0.9, 0.999999, 1 - 1e-12, 1.0)


@pytest.mark.parametrize("q", [1e-6, 1.0, 45.0, 1e4])
def test_two_dimensional_closed_forms(q: float) -> None:
    relu, erf = PHI["relu"], PHI["erf"]
    for c in CORRELATIONS:
        angle = math.acos(c)
        got = expectation2(lambda a, b: relu.df(a) * relu.df(b), q, c, kinks=(0.0,))
        assert got == pytest.approx((math.pi - angle) / (2 * math.pi), rel=1e-12, abs=1e-15)
        got = expectation2(lambda a, b: relu.f(a) * relu.f(b), q, c, kinks=(0.0,))
        want = q * (math.sin(angle) + c * (math.pi - angle)) / (2 * math.pi)
        assert got == pytest.approx(want, rel=1e-12, abs=1e-13 * q)  # Cho & Saul 2009
        got = expectation2(lambda a, b: erf.f(a) * erf.f(b), q, c)
        want = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))  # Williams 1997
        assert got == pytest.approx(want, rel=1e-11, abs=1e-16)


@pytest.mark.parametrize("q", [0.1, 1.0, 10.0])
def test_two_dimensional_averages_between_two_kinks(q: float) -> None:
    clip = PHI["hard_tanh"]
    h = 1 / math.sqrt(q)
    for c in (-0.6, 0.3, 0.9, 0.9999):
        want = stats.multivariate_normal.cdf(
            [h, h],
            cov=[[1, c], [c, 1]],
            lower_limit=[-h, -h],
            maxpts=10**6,
            abseps=1e-13,
            releps=1e-13,
        )
        got = expectation2(lambda a, b: clip.df(a) * clip.df(b), q, c, kinks=clip.kinks)
        assert got == pytest.approx(want, abs=1e-12)


def test_two_dimensional_averages_at_a_kink_on_one_side() -> None:
    for c in (-0.999999, -0.99, -0.3, 0.5, 0.9999):
        want = stats.multivariate_normal.cdf(
            [0.7, 0.7], cov=[[1, c], [c, 1]], maxpts=10**6, abseps=1e-13, releps=1e-13
        )
        got = expectation2(lambda a, b: (a < 0.7) * (b < 0.7) * 1.0, 1.0, c, kinks=(0.7,))
        assert got == pytest.approx(want, abs=1e-12)


def test_two_dimensional_averages_against_mehler() -> None:
    # E φ(u₁)φ(u₂) = Σ a_k² cᵏ with the Hermite coefficients a_k of φ(√q z).
    x, w = np.polynomial.hermite_e.hermegauss(180)
    w = w / math.sqrt(2 * math.pi)
    for name in ("tanh", "gelu", "silu", "softplus", "sin"):
        phi, q, c = PHI[name], 0.7, 0.6
        total, h_old, h = 0.0, np.zeros_like(x), np.ones_like(x)
        for k in range(60):
            total += float((w * phi.f(math.sqrt(q) * x) * h).sum()) ** 2 * c**k
            h_old, h = h, (x * h - math.sqrt(k) * h_old) / math.sqrt(k + 1)
        got = expectation2(lambda a, b, f=phi.f: f(a) * f(b), q, c)
        assert got == pytest.approx(total, rel=1e-11), name


# Finite width


@pytest.mark.parametrize("fact", facts("C7."))
def test_log_ratio_of_a_relu_layer(fact: dict[str, Any]) -> None:
    n = fact["inputs"]["n"]
    mean, variance = log_ratio(n, n, "relu")
    assert mean == pytest.approx(fact["expected"]["E_ln_r"], rel=1e-10)
    assert variance == pytest.approx(fact["expected"]["Var_ln_r"], rel=1e-10)
    total, spread = log_norm([n] * 51, "relu")
    assert math.exp(2 * total) == pytest.approx(fact["expected"]["median_factor_L=50"], rel=1e-8)
    assert spread == pytest.approx(math.sqrt(50 * variance) / 2, rel=1e-12)


def test_log_ratio_of_a_linear_layer() -> None:
    fact = FACTS["C8"]
    for n, mean, variance in zip(
        fact["inputs"]["n"],
        fact["expected"]["E_ln_r"],
        fact["expected"]["Var_ln_r"],
        strict=True,
    ):
        assert log_ratio(n, n, "linear") == pytest.approx((mean, variance), rel=1e-10)


def test_the_spread_of_random_networks() -> None:
    rng = np.random.default_rng(7)
    widths = [9, 20, 12, 30]
    for kind in ("linear", "relu"):
        logs = []
        for _ in range(2000):
            x = np.ones(9)
            for n, m in pairwise(widths):
                x = rng.normal(size=(m, n)) @ x / math.sqrt(n)
                x = np.maximum(x, 0) * math.sqrt(2) if kind == "relu" else x
            logs.append(math.log(np.linalg.norm(x) / 3))
        mean, spread = log_norm(widths, kind)
        assert log_norm_spread(widths, kind) == spread
        assert np.mean(logs) == pytest.approx(mean, abs=4 * spread / math.sqrt(2000))
        assert np.std(logs) == pytest.approx(spread, rel=4 / math.sqrt(2 * 2000) * 1.5)


def test_wide_layers_spread_like_five_over_n() -> None:
    for n in (10**4, 10**7):
        assert log_ratio(n, n, "relu")[1] == pytest.approx(5 / n, rel=20 / n)
    mean, variance = log_ratio(1, 1, "linear")  # one unit, active: a χ² with one degree
    assert log_ratio(1, 1, "relu") == pytest.approx((mean + math.log(2), variance), rel=1e-12)


def test_bad_widths_are_refused() -> None:
    with pytest.raises(TheoryError, match="fan_out must be at least 1"):
        log_ratio(3, 0, "linear")
    with pytest.raises(TheoryError, match="at least two widths"):
        log_norm_spread([3], "relu")
    with pytest.raises(TheoryError, match="kind must be"):
        log_ratio(3, 3, "tanh")  # type: ignore[arg-type]


# Use


def test_theory_imports_nothing_of_the_package_but_errors() -> None:
    room = Path(__file__).parents[1] / "isograd" / "theory"
    for file in (
        "quadrature",
        "moments",
        "fixed_points",
        "mean_field",
        "criticality",
        "finite_width",
    ):
        lines = (room / f"{file}.py").read_text("utf-8").splitlines()
        imports = [line for line in lines if line.startswith(("from isograd", "import isograd"))]
        assert all(
            line.startswith(("from isograd.errors", "from isograd.theory")) for line in imports
        )


def test_phi_is_a_key() -> None:
    a, b = Phi("x", np.tanh, sech2, (1, -1)), Phi("x", np.tanh, sech2, [-1.0, 1.0])  # type: ignore[arg-type]
    assert a == b
    assert hash(a) == hash(b)
    assert a.kinks == (-1.0, 1.0)
