"""Fixed points, depth scales and criticality, against published values and iteration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_table import FACTS, PHI, facts, sech2

from isograd.errors import TheoryError
from isograd.theory import (
    Phi,
    backward_gain,
    chi,
    correlation_decay,
    correlation_map,
    correlation_slope,
    critical,
    depth_scale,
    expectation,
    fixed_points,
    half_stable,
    length_map,
    limit_q,
    mean_field,
    moments,
    stable_correlation,
)


def same(got: float, want: float, rel: float) -> bool:
    return got == pytest.approx(want, rel=rel, abs=1e-12)


SETTLED = [*facts("B3."), *facts("B5.sigmoid.("), pytest.param(FACTS["B4"], id="B4")]


@pytest.mark.parametrize("fact", SETTLED)
def test_fixed_points_and_depth_scales(fact: dict[str, Any]) -> None:
    expected, inputs = fact["expected"], fact["inputs"]
    phi = PHI["sigmoid" if "sigmoid" in fact["id"] else "tanh"]
    got = mean_field(phi, inputs["sigma_w2"], inputs["sigma_b2"])
    assert same(got.q, expected["q_star"], 1e-9)
    assert same(got.chi1, expected["chi_1"], 1e-9)
    assert same(got.c, expected["c_star"], 1e-6)
    assert same(got.chi_c, expected["chi_cstar"], 1e-6)
    assert same(got.xi_q, expected["xi_q"], 1e-6)
    assert same(got.xi_c, expected["xi_c"], 1e-6)
    assert same(got.trainable_depth, expected["six_xi_c"], 1e-6)
    assert same(got.xi_grad, expected["xi_grad"], 1e-6)
    assert got.phase == ("ordered" if expected["chi_1"] < 1 else "chaotic")
    mapped = correlation_map(phi, got.q, got.sigma_w2, got.sigma_b2, got.c)
    assert mapped == pytest.approx(got.c, abs=1e-9)
    assert chi(phi, got.q, got.sigma_w2) == got.chi1


def test_tanh_with_the_gain_of_pytorch() -> None:
    expected = FACTS["H2"]["expected"]
    got = mean_field(PHI["tanh"], (5 / 3) ** 2, 0.0)
    assert got.q == pytest.approx(expected["q_star"], rel=1e-9)
    assert got.chi1 == pytest.approx(expected["chi1"], rel=1e-9)
    std = math.sqrt(moments(PHI["tanh"], got.q).second)
    assert std == pytest.approx(expected["output_std"], rel=1e-9)


def test_the_length_decays_like_one_over_depth_at_criticality() -> None:
    q, lengths = 1.0, [1.0]
    for _ in range(200):
        q = length_map(PHI["tanh"], q, 1.0, 0.0)
        lengths.append(q)
    assert lengths[1] == pytest.approx(FACTS["B4b"]["expected"]["q_1"], rel=1e-8)
    for layer, want in FACTS["B4c"]["expected"]["q_l"]:
        assert lengths[layer] == pytest.approx(want, rel=1e-8)
    assert limit_q(PHI["tanh"], 1.0, 0.0) == 0


def test_the_correlation_of_a_relu() -> None:
    c = 0.0
    wanted = {row[0]: row[1] for row in FACTS["B7"]["expected"]["[l,c_l,(1-c_l)l^2]"]}
    for layer in range(1, 51):
        c = correlation_map(PHI["relu"], 1.0, 2.0, 0.0, c)
        if layer in wanted:
            assert c == pytest.approx(wanted[layer], rel=1e-10)


def test_relu_keeps_every_length_at_he_initialisation() -> None:
    relu = PHI["relu"]
    assert fixed_points(relu, 2.0, 0.0).every_q
    assert fixed_points(relu, 2.0, 0.0).points == ()
    for q0 in (1e-9, 1.0, 7.0, 1e9):
        got = mean_field(relu, 2.0, 0.0, q0)
        assert got.q == q0
        assert got.chi1 == pytest.approx(FACTS["B6"]["expected"]["chi_1"], rel=1e-14)
        assert got.c == 1
        assert got.phase == "critical"
        assert math.inf == got.xi_q == got.xi_c == got.xi_grad == got.trainable_depth


def test_relu_off_criticality() -> None:
    relu = PHI["relu"]
    below = fixed_points(relu, 1.0, 0.05)  # q* = σ_b²/(1 − σ_w²/2)
    assert [p.q for p in below.points] == pytest.approx([0.1], rel=1e-12)
    assert below.points[0].stable
    assert not below.unbounded
    tiny = fixed_points(relu, 1.0, 1e-20)
    assert [p.q for p in tiny.points] == pytest.approx([2e-20], rel=1e-12)
    none = fixed_points(relu, 2.0, 0.05)
    assert none.points == ()
    assert none.unbounded
    dying = mean_field(relu, 1.0, 0.0)
    assert (dying.q, dying.c) == (0.0, 1.0)
    assert dying.xi_q == pytest.approx(1 / math.log(2))
    assert dying.xi_c == pytest.approx(1 / math.log(2))
    exploding = mean_field(relu, 3.0, 0.1)
    assert exploding.q == math.inf
    assert exploding.chi1 == pytest.approx(1.5)
    assert exploding.trainable_depth == pytest.approx(6 / math.log(1.5))


def test_a_length_of_zero() -> None:
    zero, above = fixed_points(PHI["tanh"], 1.5, 0.0).points
    assert (zero.q, zero.from_below, zero.from_above) == (0.0, True, False)
    assert zero.slope == pytest.approx(1.5, rel=1e-15)  # σ_w² φ′(0)²
    assert above.stable
    (alone,) = fixed_points(PHI["tanh"], 1.0, 0.0).points
    assert alone.stable  # marginal: the slope is 1
    assert fixed_points(PHI["tanh"], 1.5, 0.01).points[0].q > 0


def test_two_stable_lengths() -> None:
    # The published SiLU point with σ_b² ten times too small collapses to a length of 0.12.
    collapsed = mean_field(PHI["silu"], 1.9880046783, 0.055514317)
    assert collapsed.q == pytest.approx(0.1201, abs=1e-4)
    assert collapsed.chi1 == pytest.approx(0.5504, abs=1e-4)
    silu = PHI["silu"]
    found = fixed_points(silu, 2.5, 0.05)
    low, high = found.points
    assert found.unbounded
    assert low.stable
    assert not high.stable
    assert (high.from_below, high.from_above) == (False, False)
    assert low.slope < 1 < high.slope
    for point in found.points:
        assert length_map(silu, point.q, 2.5, 0.05) == pytest.approx(point.q, rel=1e-12)
    assert limit_q(silu, 2.5, 0.05, 1.6) == low.q
    assert limit_q(silu, 2.5, 0.05, 1.7) == math.inf


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "elu_1", "hard_tanh", "sin"])
def test_the_limit_is_where_iteration_ends(name: str) -> None:
    for sw2, sb2, q0 in ((0.8, 0.1, 5.0), (1.7, 0.02, 0.01), (3.0, 0.3, 1.0)):
        want = q0
        for _ in range(400):
            want = length_map(PHI[name], want, sw2, sb2)
        got = limit_q(PHI[name], sw2, sb2, q0)
        if want > 1e6:
            assert got == math.inf
        else:
            assert got == pytest.approx(want, rel=1e-9)


BUMP = Phi("bump", lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x))


def test_a_length_that_falls_is_iterated() -> None:
    for sw2 in (0.5, 4.0):  # E φ² = 1/√(1 + 4q), so q* solves q√(1 + 4q) = σ_w²
        for q0 in (0.01, 3.0):
            got = limit_q(BUMP, sw2, 0.0, q0)
            assert got * math.sqrt(1 + 4 * got) == pytest.approx(sw2, rel=1e-11)
    with pytest.raises(TheoryError, match="must settle") as caught:
        limit_q(BUMP, 0.5, 0.0, 3.0, layers=2)
    assert "after 2 layers" in caught.value.came


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([*PHI.values(), BUMP]), st.floats(-3, 4))
def test_no_length_map_falls_fast_enough_to_cycle(phi: Phi, log_q: float) -> None:
    q = 10**log_q
    m = moments(phi, q)
    assert q * m.growth >= -0.5 * m.second


@settings(max_examples=15, deadline=None)
@given(st.floats(1.05, 6), st.floats(0.001, 0.5), st.sampled_from(["tanh", "hard_tanh", "erf"]))
def test_the_stable_correlation_attracts(sw2: float, sb2: float, name: str) -> None:
    phi = PHI[name]
    got = mean_field(phi, sw2, sb2)
    assert 0 <= got.c <= 1
    assert abs(got.chi_c) <= 1 + 1e-8
    assert (got.c < 1) == (got.chi1 > 1 + 1e-8)
    assert correlation_map(phi, got.q, sw2, sb2, got.c) == pytest.approx(got.c, abs=1e-8)
    h = 1e-4
    if h < got.c < 1 - h:
        high, low = (correlation_map(phi, got.q, sw2, sb2, got.c + d) for d in (h, -h))
        assert got.chi_c == pytest.approx((high - low) / (2 * h), rel=1e-4)


def test_a_correlation_next_to_one() -> None:
    # 1 − c* → (χ₁ − 1)·β at the critical line, β = 2/C″(1).
    start = critical(PHI["tanh"], q=1.0)
    beta = correlation_decay(PHI["tanh"], 1.0)
    for excess in (1e-3, 1e-5):
        sw2 = start.sigma_w2 * (1 + excess)
        sb2 = 1.0 - sw2 * moments(PHI["tanh"], 1.0).second
        gap = 1 - stable_correlation(PHI["tanh"], 1.0, sw2, sb2)
        assert gap == pytest.approx(excess * beta, rel=10 * excess)
        slope = correlation_slope(PHI["tanh"], 1.0, sw2, sb2, 1 - gap)
        assert slope == pytest.approx(1 - excess, abs=20 * excess**2)


def test_a_signal_of_nothing_is_taken_as_one_of_little() -> None:
    got = mean_field(PHI["tanh"], 2.0, 0.0, q0=0.0)  # V(0) = 0, and χ₁ = σ_w² there
    assert got.chi1 == pytest.approx(2.0, rel=1e-12)
    assert got.trainable_depth == pytest.approx(6 / math.log(2), rel=1e-12)


def test_a_correlation_is_a_number() -> None:
    for c in (1.5, math.nan, "0.5"):
        with pytest.raises(TheoryError, match="a correlation must lie in"):
            correlation_map(PHI["tanh"], 1.0, 1.0, 0.0, c)  # type: ignore[arg-type]


def test_no_variance_no_correlation() -> None:
    with pytest.raises(TheoryError, match="a correlation needs a variance above 0"):
        correlation_map(PHI["tanh"], 0.0, 1.0, 0.0, 0.5)


def test_depth_scale() -> None:
    assert depth_scale(1.0) == math.inf
    assert depth_scale(0.0) == 0
    assert depth_scale(math.exp(-0.25)) == pytest.approx(4)
    assert depth_scale(math.exp(0.25)) == pytest.approx(-4)


# Criticality


@pytest.mark.parametrize("fact", facts("B1."))
def test_tanh_critical_points(fact: dict[str, Any]) -> None:
    expected = fact["expected"]
    got = critical(PHI["tanh"], sb2=fact["inputs"]["sigma_b2"])
    assert got.sigma_w2 == pytest.approx(expected["sigma_w2"], abs=1e-9)
    assert got.q == pytest.approx(expected["q_star"], abs=1e-9)
    if "sigma_w" in expected:
        assert math.sqrt(got.sigma_w2) == pytest.approx(expected["sigma_w"], abs=1e-9)
        beta = expected["beta (1-c_l~beta/l)"]
        assert correlation_decay(PHI["tanh"], got.q) == pytest.approx(beta, abs=1e-6)
        settled = mean_field(PHI["tanh"], got.sigma_w2, got.sigma_b2, 3.0)
        assert settled.phase == "critical"
        assert settled.q == pytest.approx(got.q, rel=1e-8)


@pytest.mark.parametrize("name", ["tanh", "scaled_sigmoid_4s-2", "sin"])
def test_odd_activations_with_unit_slope_without_biases(name: str) -> None:
    got = critical(PHI[name], sb2=0.0)
    assert (got.sigma_w2, got.sigma_b2, got.q) == (1.0, 0.0, 0.0)
    erf = critical(PHI["erf"], sb2=0.0)
    assert (erf.sigma_w2, erf.q) == pytest.approx((math.pi / 4, 0.0), rel=1e-14)


def test_the_scaled_sigmoid_starts_like_the_identity() -> None:
    expected = FACTS["B5.scaled"]["expected"]
    scaled, plain = PHI["scaled_sigmoid_4s-2"], PHI["sigmoid"]
    assert moments(scaled, 1.0).second == pytest.approx(expected["E_phi2"], rel=1e-10)
    assert backward_gain(scaled, 0.0) == expected["phi_prime0"]
    assert 1 / backward_gain(plain, 0.0) == expected["vs sigmoid phi_prime0"]
    assert chi(scaled, 0.0, 1.3) == pytest.approx(1.3, rel=1e-15)


@pytest.mark.parametrize("fact", facts("B2.tanh.q"))
def test_the_critical_line_of_tanh(fact: dict[str, Any]) -> None:
    got = critical(PHI["tanh"], q=fact["inputs"]["q_star"])
    assert got.sigma_w2 == pytest.approx(fact["expected"]["sigma_w2"], rel=1e-8)
    assert got.sigma_b2 == pytest.approx(fact["expected"]["sigma_b2"], rel=1e-8)


def test_the_published_critical_tanh() -> None:
    expected = FACTS["B2.tanh.sw2=1.05"]["expected"]
    got = critical(PHI["tanh"], sb2=expected["sigma_b2"])
    assert got.sigma_w2 == pytest.approx(1.05, rel=1e-8)
    assert got.q == pytest.approx(expected["q_star"], rel=1e-6)


def test_the_critical_tanh_of_hayou() -> None:
    expected = FACTS["B10.tanh"]["expected"]
    got = critical(PHI["tanh"], sb2=FACTS["B10.tanh"]["inputs"]["sigma_b"] ** 2)
    assert math.sqrt(got.sigma_w2) == pytest.approx(expected["sigma_w"], abs=1e-6)
    assert got.q == pytest.approx(expected["q_star"], abs=1e-6)


@pytest.mark.parametrize("fact", facts("B9."))
def test_critical_lines(fact: dict[str, Any]) -> None:
    phi = PHI[fact["inputs"]["activation"]]
    for q, sw2, sb2 in fact["expected"]["[q,sigma_w2,sigma_b2]"]:
        if sb2 < 0:
            with pytest.raises(TheoryError, match="no critical initialisation") as caught:
                critical(phi, q=q)
            assert f"{sb2:.6g}" in caught.value.came
            continue
        got = critical(phi, q=q)
        assert got.sigma_w2 == pytest.approx(sw2, rel=1e-8)
        assert got.sigma_b2 == pytest.approx(sb2, rel=1e-8)
        back = critical(phi, sb2=sb2)
        assert chi(phi, back.q, back.sigma_w2) == pytest.approx(1, rel=1e-12)
        assert length_map(phi, back.q, back.sigma_w2, sb2) == pytest.approx(back.q, rel=1e-10)


def test_the_default_is_the_admissible_q_nearest_to_one() -> None:
    for name in ("tanh", "gelu", "silu", "elu_1", "selu", "hard_tanh"):
        assert critical(PHI[name]).q == 1
    assert critical(PHI["linear"]) == critical(PHI["linear"], q=1.0)
    linear = critical(PHI["linear"])
    assert (linear.sigma_w2, linear.sigma_b2) == pytest.approx((1.0, 0.0), abs=1e-14)
    expected = FACTS["B5.sigmoid.crit"]["expected"]
    sigmoid = critical(PHI["sigmoid"])
    assert sigmoid == critical(PHI["sigmoid"], sb2=0.0)
    assert sigmoid.sigma_w2 == pytest.approx(expected["sigma_w2"], rel=1e-9)
    assert math.sqrt(sigmoid.sigma_w2) == pytest.approx(expected["sigma_w"], rel=1e-9)
    assert sigmoid.q == pytest.approx(expected["q_star"], rel=1e-9)
    assert sigmoid.sigma_b2 == 0


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("relu", 2.0),
        ("leaky_0.01", FACTS["B6"]["expected"]["leaky_0.01_sigma_w2"]),
        ("leaky_0.2", FACTS["B6"]["expected"]["leaky_0.2_sigma_w2"]),
    ],
)
def test_scale_invariant_activations(name: str, want: float) -> None:
    for got in (critical(PHI[name]), critical(PHI[name], sb2=0.0), critical(PHI[name], q=3.0)):
        assert got.sigma_w2 == pytest.approx(want, rel=1e-14)
        assert got.sigma_b2 == 0
    assert critical(PHI[name], sb2=0.0).q == 1
    with pytest.raises(TheoryError, match="χ₁ = 1 must be reached") as caught:
        critical(PHI[name], sb2=0.1)
    assert "σ_b² is at most 0" in caught.value.fix


def test_softplus_has_no_critical_initialisation() -> None:
    for q, want in zip(
        FACTS["H8"]["inputs"]["q"], FACTS["H8"]["expected"]["softplus_sigma_b2"], strict=True
    ):
        m = moments(PHI["softplus"], q)
        assert q - m.second / m.slope == pytest.approx(want, rel=1e-6)
    for ask in ({}, {"sb2": 0.0}, {"sb2": 0.3}, {"q": 2.0}):
        with pytest.raises(TheoryError, match="no critical initialisation") as caught:
            critical(PHI["softplus"], **ask)
        assert "admissible q: none" in caught.value.came
        assert caught.value.where == "softplus"


def test_a_point_off_the_critical_line_names_the_range() -> None:
    with pytest.raises(TheoryError, match="χ₁ = 1 must be reached") as caught:
        critical(PHI["sigmoid"], q=1.0)
    assert "q in 45.6243 … ∞" in caught.value.fix
    with pytest.raises(TheoryError, match="χ₁ = 1 must be reached") as caught:
        critical(PHI["tanh"], sb2=1e20)
    assert "at no q up to 10¹²" in str(caught.value)
    with pytest.raises(TheoryError, match="by q or by σ_b², not by both"):
        critical(PHI["tanh"], q=1.0, sb2=0.1)
    step = Phi("step", lambda x: np.sign(x), np.zeros_like, (0.0,))
    with pytest.raises(TheoryError, match="it needs E φ′² > 0"):
        critical(step)


@pytest.mark.parametrize("fact", [*facts("B8.gelu"), *facts("B8.silu")])
def test_half_stable_points(fact: dict[str, Any]) -> None:
    name = fact["id"].split(".")[1]
    got = half_stable(PHI[name])
    expected = fact["expected"]
    assert got.q == pytest.approx(expected["K_star"], rel=1e-12 if "closed" in fact["id"] else 1e-9)
    if "closed" not in fact["id"]:
        assert got.sigma_w2 == pytest.approx(expected["C_W=sigma_w2"], abs=1e-9)
        assert got.sigma_b2 == pytest.approx(expected["C_b=sigma_b2"], abs=1e-9)
    assert got.sigma_w2 * moments(PHI[name], got.q).growth == pytest.approx(1, rel=1e-12)


def test_the_half_stable_gelu_attracts_from_above_alone() -> None:
    gelu = PHI["gelu"]
    point = half_stable(gelu)
    low, high = fixed_points(gelu, point.sigma_w2, point.sigma_b2).points
    assert low.stable
    assert high.q == pytest.approx(point.q, rel=1e-6)
    assert (high.from_below, high.from_above) == (False, True)
    assert limit_q(gelu, point.sigma_w2, point.sigma_b2, 10.0) == high.q
    assert limit_q(gelu, point.sigma_w2, point.sigma_b2, 1.0) == low.q


def test_no_half_stable_point() -> None:
    for name in ("tanh", "sin", "sigmoid", "softplus"):
        with pytest.raises(TheoryError, match="half-stable"):
            half_stable(PHI[name])
    assert half_stable(PHI["relu"]) == critical(PHI["relu"])


def test_decay_of_the_correlation_at_criticality() -> None:
    # β = 2 E φ′²/(q E φ″²), with φ″ in closed form.
    def second(u):
        return -2 * np.tanh(u) * sech2(u)

    for q in (0.1, 1.0, 5.0):
        want = 2 * moments(PHI["tanh"], q).slope / (q * expectation(lambda u: second(u) ** 2, q))
        assert correlation_decay(PHI["tanh"], q) == pytest.approx(want, rel=1e-7)
    kink = expectation(lambda u: (u < 0) * np.exp(2 * np.minimum(u, 0)), 1.0)
    want = 2 * moments(PHI["elu_1"], 1.0).slope / kink
    assert correlation_decay(PHI["elu_1"], 1.0) == pytest.approx(want, rel=1e-8)
    assert correlation_decay(PHI["linear"], 1.0) == math.inf
    with pytest.raises(TheoryError, match="only where φ′ is continuous"):
        correlation_decay(PHI["relu"], 1.0)
