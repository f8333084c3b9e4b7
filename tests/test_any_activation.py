"""Any function as an activation: its kinks, its averages against other quadratures, bad input."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special
from theory_table import PHI

from isograd import functions as F
from isograd.errors import TheoryError
from isograd.theory import (
    Phi,
    backward_gain,
    chi,
    correlation_map,
    correlation_slope,
    critical,
    fixed_points,
    forward_gain,
    half_stable,
    length_map,
    limit_q,
    mean_field,
    moments,
    phi_of,
    stable_correlation,
    std_gain,
)


def elu(alpha: float) -> Callable[[Any], Any]:
    return lambda u: np.where(u > 0, u, alpha * np.expm1(np.where(u > 0, 0.0, u)))


KNOTS = {-2.0: 1.0, -1.0: -2.0, 1.0: 2.0, 1.5: -1.0}


def spline(u):
    return sum(a * np.maximum(u - k, 0) ** 2 for k, a in KNOTS.items())


# Kinks


@pytest.mark.parametrize(
    ("f", "kinks"),
    [
        (np.tanh, []),
        (np.sin, []),
        (lambda u: u / (1 + np.exp(-u)), []),
        (lambda u: np.maximum(u, 0), [0]),
        (lambda u: np.maximum(u, 0.1 * u), [0]),
        (np.abs, [0]),
        (elu(1.0), [0]),  # φ″ jumps
        (elu(2.0), [0]),  # φ′ jumps
        (lambda u: np.clip(u, -1, 1), [-1, 1]),
        (lambda u: np.clip(u / 6 + 0.5, 0, 1) * u, [-3, 3]),
        (lambda u: np.sign(u) * np.maximum(np.abs(u) - 0.5, 0), [-0.5, 0.5]),
        (lambda u: np.maximum(u - 1 / 3, 0), [1 / 3]),
        (lambda u: np.maximum(u + math.pi, 0) ** 2, [-math.pi]),
        (lambda u: np.maximum(u - 0.3, 0) + np.maximum(u - 0.30001, 0), [0.3, 0.30001]),
        (lambda u: np.maximum(u - 39.9, 0) + np.maximum(-39.7 - u, 0), [-39.7, 39.9]),
        (lambda u: np.tanh(u) + 1e-6 * np.maximum(u - 2, 0), [2]),
        (lambda u: np.maximum(u - 0.1661736, 0), [0.1661736]),  # where panels meet
        (spline, list(KNOTS)),
        (lambda u: np.abs(u) ** 0.75, [0]),
        (lambda u: F.where(u > 2, F.tanh(u), np.tanh(2.0) + (u - 2) * 0.5), [2]),
    ],
)
def test_kinks_are_found(f: Callable[[Any], Any], kinks: list[float]) -> None:
    found = phi_of(f).kinks
    assert found == pytest.approx(kinks, abs=1e-6)
    assert all(k in found for k in kinks if k == round(k, 3))  # round ones to the last bit


@settings(max_examples=15, deadline=None)
@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(0.01, 5), st.booleans())
@example(0.0, 1e-3, 1.0, True)
@example(0.0, 8.999780932711744, 1.0, False)
def test_two_kinks_anywhere_are_found(one: float, other: float, jump: float, smooth: bool) -> None:
    if abs(one - other) < 1e-3:
        other = one + 1e-3

    def f(u):
        bends = np.maximum(u - one, 0), np.maximum(u - other, 0)
        return np.tanh(u) * smooth + jump * bends[0] - bends[1]

    assert phi_of(f).kinks == pytest.approx(sorted((one, other)), abs=1e-10)


def test_the_derivative_is_the_engine_s() -> None:
    u = np.array([-3.0, -0.2, 0.7, 5.0])
    assert phi_of(np.tanh).df(u) == pytest.approx(1 / np.cosh(u) ** 2, rel=1e-14)
    mish = phi_of(lambda u: u * F.tanh(F.softplus(u)), name="mish")
    h = 1e-5
    assert mish.df(u) == pytest.approx((mish.f(u + h) - mish.f(u - h)) / (2 * h), rel=1e-9)
    assert mish.name == "mish"
    assert phi_of(mish) is mish
    assert phi_of(np.tanh) is phi_of(np.tanh)


def test_a_function_of_another_library_needs_its_derivative() -> None:
    given = phi_of(special.ndtr, df=lambda u: np.exp(-u * u / 2) / math.sqrt(2 * math.pi))
    # E Φ(√q Z)² = ¼ + arcsin(q/(1 + q))/(2π)
    want = 0.25 + math.asin(0.7 / 1.7) / (2 * math.pi)
    assert moments(given, 0.7).second == pytest.approx(want, rel=1e-13)
    with pytest.raises(TheoryError, match="φ′ must take an array of float64") as caught:
        phi_of(special.ndtr)
    assert "give df" in caught.value.fix


# Averages


@dataclass(frozen=True)
class Mixture:
    """Tanhs, bumps, bends and a line: φ, φ′, and where they turn."""

    tanhs: list[tuple[float, float, float]]
    bumps: list[tuple[float, float, float]]
    bends: list[tuple[float, float, int]]
    line: float

    def f(self, u):
        out = self.line * u
        for a, b, c in self.tanhs:
            out = out + a * np.tanh(b * (u - c))
        for a, w, c in self.bumps:
            out = out + a * np.exp(-(((u - c) / w) ** 2))
        for a, k, p in self.bends:
            out = out + a * np.maximum(u - k, 0.0) ** p
        return out

    def df(self, u):
        out = self.line + 0 * u
        for a, b, c in self.tanhs:
            out = out + a * b / np.cosh(np.clip(b * (u - c), -300, 300)) ** 2
        for a, w, c in self.bumps:
            out = out - 2 * a * (u - c) / w**2 * np.exp(-(((u - c) / w) ** 2))
        for a, k, p in self.bends:
            out = out + a * p * (u > k) * np.maximum(u - k, 0.0) ** (p - 1)
        return out

    def turns(self) -> list[tuple[float, float]]:
        return [
            (0.0, 1.0),
            *((c, 1 / b) for _, b, c in self.tanhs),
            *((c, w) for _, w, c in self.bumps),
            *((k, 1.0) for _, k, _ in self.bends),
        ]

    def panels(self, q: float) -> tuple[Any, Any]:
        """Nodes and Gaussian weights on panels made for this function: 24 nodes each."""
        reach = 37 * math.sqrt(q)
        edges = [np.linspace(-reach, reach, 400)]
        for c, w in self.turns():
            steps = w / 8 * 1.3 ** np.arange(120)
            edges += [[c], c + steps, c - steps, c + np.linspace(-8, 8, 65) * w]
        ends = np.unique(np.concatenate(edges))
        ends = ends[abs(ends) <= reach]
        x, w = np.polynomial.legendre.leggauss(24)
        half = np.diff(ends)[:, None] / 2
        u = ends[:-1, None] + half * (1 + x)
        return u, half * w * np.exp(-u * u / (2 * q)) / math.sqrt(2 * math.pi * q)


centres = st.one_of(st.just(0.0), st.floats(-1, 1), st.floats(-15, 15))
sizes = st.floats(0.1, 2).flatmap(lambda a: st.sampled_from([a, -a]))
mixtures = st.builds(
    Mixture,
    st.lists(st.tuples(sizes, st.floats(0.1, 30), centres), max_size=2),
    st.lists(st.tuples(sizes, st.floats(0.03, 3), centres), max_size=2),
    st.lists(st.tuples(sizes, centres, st.integers(1, 3)), max_size=3),
    st.floats(0.1, 2),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(mixtures, st.floats(-12, 8))
def test_averages_of_any_function_over_20_decades(mixture: Mixture, log_q: float) -> None:
    q = 10**log_q
    got = moments(phi_of(mixture.f), q)
    u, weights = mixture.panels(q)
    f, df = mixture.f(u), mixture.df(u)
    for value, terms in (
        (got.mean, f * weights),
        (got.second, f * f * weights),
        (got.slope, df * df * weights),
        (got.growth, f * df * u / q * weights),
    ):
        assert value == pytest.approx(math.fsum(terms.ravel()), abs=1e-10 * np.abs(terms).sum())


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(mixtures, st.floats(-3, 2), st.floats(-0.7, 0.7))
def test_averages_over_pairs_are_mehler_s_series(mixture: Mixture, log_q: float, c: float) -> None:
    # E φ(u₁)φ(u₂) = Σ a_k² cᵏ with the Hermite coefficients a_k of φ(√q z).
    q = 10**log_q
    phi = phi_of(mixture.f)
    u, weights = mixture.panels(q)
    near = np.abs(u) <= 12 * math.sqrt(q)
    z, terms = u[near] / math.sqrt(q), (mixture.f(u) * weights)[near]
    total, h_old, h = 0.0, np.zeros_like(z), np.ones_like(z)
    for k in range(80):
        total += float((terms * h).sum()) ** 2 * c**k
        h_old, h = h, (z * h - math.sqrt(k) * h_old) / math.sqrt(k + 1)
    second = moments(phi, q).second
    got = correlation_map(phi, q, 1.0, 0.0, c) * length_map(phi, q, 1.0, 0.0)
    assert got == pytest.approx(total, abs=2e-9 * second)


MP_CASES: dict[str, tuple[Any, Any, Any, list[float]]] = {
    "narrow tanh": (
        lambda u: np.tanh(20 * (u - 0.7)),
        lambda u: mp.tanh(20 * (u - mp.mpf("0.7"))),
        lambda u: 20 * mp.sech(20 * (u - mp.mpf("0.7"))) ** 2,
        [0.6, 0.7, 0.8],
    ),
    "bump on a bend": (
        lambda u: np.maximum(u + 1.3, 0) + 2 * np.exp(-((u / 0.2) ** 2)),
        lambda u: mp.mpf(max(u + mp.mpf("1.3"), 0)) + 2 * mp.exp(-((u / mp.mpf("0.2")) ** 2)),
        lambda u: (u > mp.mpf("-1.3")) - 100 * u * mp.exp(-((u / mp.mpf("0.2")) ** 2)),
        [-1.3, -0.5, -0.2, 0.2, 0.5],
    ),
    "mish": (
        lambda u: u * F.tanh(F.softplus(u)),
        lambda u: u * mp.tanh(mp.log1p(mp.exp(u))),
        lambda u: (
            mp.tanh(mp.log1p(mp.exp(u))) + u * mp.sech(mp.log1p(mp.exp(u))) ** 2 / (1 + mp.exp(-u))
        ),
        [-4.0, -1.0, 1.0, 4.0],
    ),
}


@pytest.mark.parametrize("name", MP_CASES)
@pytest.mark.parametrize("q", [1e-6, 40.0])
def test_averages_meet_mpmath(name: str, q: float) -> None:
    f, mp_f, mp_df, places = MP_CASES[name]
    got = moments(phi_of(f), q)
    with mp.workdps(25):
        s = mp.sqrt(mp.mpf(q))
        ends = sorted({*(mp.mpf(str(p)) for p in places), *(k * s / 2 for k in range(-28, 29))})
        ends = [e for e in ends if abs(e) <= 14 * s]

        def average(g):
            return mp.quad(lambda u: g(u) * mp.exp(-u * u / (2 * mp.mpf(q))), ends) / (
                s * mp.sqrt(2 * mp.pi)
            )

        second, slope = average(lambda u: mp_f(u) ** 2), average(lambda u: mp_df(u) ** 2)
        mean = average(mp_f)
    assert got.second == pytest.approx(float(second), rel=1e-11)
    assert got.slope == pytest.approx(float(slope), rel=1e-11)
    assert got.mean == pytest.approx(float(mean), abs=1e-11 * math.sqrt(float(second)))


@pytest.mark.parametrize("p", [0.6, 0.75, 1.5, 2.5, 3.0])
@pytest.mark.parametrize("q", [1e-12, 1e-3, 1.0, 1e8])
def test_powers(p: float, q: float) -> None:
    # E|u|^r = (2q)^(r/2) Γ((r + 1)/2)/√π; below p = 1 the slope at 0 is infinite.
    def absolute(r: float) -> float:
        return (2 * q) ** (r / 2) * math.gamma((r + 1) / 2) / math.sqrt(math.pi)

    for f in (lambda u: np.abs(u) ** p, lambda u: np.sign(u) * np.abs(u) ** p):
        got = moments(phi_of(f), q)
        assert got.second == pytest.approx(absolute(2 * p), rel=1e-10)
        assert got.slope == pytest.approx(p**2 * absolute(2 * p - 2), rel=1e-10)


def test_a_slope_without_an_average_is_refused() -> None:
    root = phi_of(lambda u: np.sign(u) * np.sqrt(np.abs(u)), name="signed root")
    for q in (1e-12, 1.0, 1e8):
        with pytest.raises(TheoryError, match="must be resolved to 1e-10") as caught:
            moments(root, q)
        assert "φ′² can be integrated" in caught.value.fix
        assert "signed root" in caught.value.where
    with pytest.raises(TheoryError, match="φ′ must have a limit at 0"):
        moments(phi_of(lambda u: np.abs(u) ** 0.75), 0.0)


def test_a_narrow_turn_far_out_is_not_stepped_over() -> None:
    # E exp(−2((u − c)/w)²) = exp(−2c²/(w² + 4q))/√(1 + 4q/w²)
    c, w = 31.7, 0.02
    bump = phi_of(lambda u: np.exp(-(((u - c) / w) ** 2)))
    for q in (1.0, 100.0, 1e8):
        want = math.exp(-2 * c * c / (w * w + 4 * q)) / math.sqrt(1 + 4 * q / w**2)
        assert moments(bump, q).second == pytest.approx(want, rel=1e-11)


# Use


def test_every_function_takes_a_plain_function() -> None:
    tanh = Phi("tanh", np.tanh, PHI["tanh"].df)

    def mine(u):
        return np.tanh(u)

    for ask in (
        lambda phi: moments(phi, 0.7).slope,
        lambda phi: forward_gain(phi),
        lambda phi: backward_gain(phi),
        lambda phi: std_gain(phi),
        lambda phi: length_map(phi, 0.7, 1.5, 0.1),
        lambda phi: chi(phi, 0.7, 1.5),
        lambda phi: fixed_points(phi, 1.5, 0.0).points[1].q,
        lambda phi: limit_q(phi, 1.5, 0.1),
        lambda phi: correlation_map(phi, 0.7, 1.5, 0.1, 0.5),
        lambda phi: correlation_slope(phi, 0.7, 1.5, 0.1, 0.5),
        lambda phi: stable_correlation(phi, 1.06, 2.5, 0.05),
        lambda phi: mean_field(phi, 2.5, 0.05).xi_c,
        lambda phi: critical(phi, sb2=0.05).q,
    ):
        assert ask(mine) == pytest.approx(ask(tanh), rel=1e-9)
    gelu = half_stable(lambda u: u * F.erfc(-math.sqrt(0.5) * u) * 0.5)
    assert gelu.q == pytest.approx((3 + math.sqrt(17)) / 2, rel=1e-9)


# Fixed points of unusual functions


def wave(u):
    """V(q)/q swings with ln q: many fixed points."""
    return u * (1 + 0.3 * np.sin(2 * np.log(1 + u * u)))


def ratios(f: Callable[[Any], Any], qs: Any) -> Any:
    """E φ²/q by the trapezoidal rule, which converges like a Gaussian on smooth functions."""
    z = np.linspace(-14, 14, 20_001)
    w = np.exp(-z * z / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    return np.array([(f(math.sqrt(q) * z) ** 2 * w).sum() / q for q in qs])


@pytest.mark.parametrize("sw2", [0.9, 1.05])
def test_all_of_many_fixed_points(sw2: float) -> None:
    qs = np.logspace(-3, 8, 1101)
    above = sw2 * ratios(wave, qs) > 1
    crossings = np.flatnonzero(above[1:] != above[:-1])
    found = [p for p in fixed_points(wave, sw2, 0.0).points if 1e-3 < p.q < 1e8]
    assert len(crossings) >= 2
    assert len(found) == len(crossings)
    for point, i in zip(found, crossings, strict=True):
        assert qs[i] <= point.q <= qs[i + 1]
        assert point.stable == bool(above[i])  # V falls below q where it attracts
        assert (point.slope < 1) == point.stable


@pytest.mark.parametrize(
    ("f", "sw2", "sb2", "want"),
    [
        (lambda u: np.maximum(u, 0), 2.0, 0.1, "unbounded"),
        (lambda u: np.maximum(u, 0), 2.0, 0.0, "every"),
        (lambda u: u, 1.0, 0.0, "every"),
        (lambda u: u, 0.5, 0.0, [0.0]),
        (lambda u: u, 0.5, 0.5, [1.0]),
        (lambda u: u * u, 1 / 3, 0.0, [0.0, 1.0]),  # E u⁴ = 3q²: 0 attracts, 1 repels
        (lambda u: np.cos(u), 0.0, 0.25, [0.25]),
        (lambda u: np.tanh(u), 0.0, 0.0, [0.0]),
    ],
)
def test_fixed_points_in_closed_form(f: Any, sw2: float, sb2: float, want: Any) -> None:
    got = fixed_points(f, sw2, sb2)
    if want == "every":
        assert got.every_q
    elif want == "unbounded":
        assert got.unbounded
        assert got.points == ()
    else:
        assert [p.q for p in got.points] == pytest.approx(want, rel=1e-10)
    for wrong in (-1.0, math.nan, "1", None, np.ones(2)):
        with pytest.raises(TheoryError, match="σ_w² must be finite and not negative"):
            fixed_points(f, wrong, 0.0)  # type: ignore[arg-type]


def test_a_function_need_not_be_hashable() -> None:
    class Leaky:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, u: Any) -> Any:
            return np.maximum(u, 0.1 * u)

    assert critical(Leaky()).sigma_w2 == pytest.approx(2 / 1.01, rel=1e-12)  # He et al. 2015


def test_a_repelling_fixed_point_says_so() -> None:
    zero, one = fixed_points(lambda u: u * u, 1 / 3, 0.0).points
    assert zero.stable
    assert not one.stable
    assert one.slope == pytest.approx(2.0, rel=1e-10)
    assert fixed_points(lambda u: u * u, 1 / 3, 0.0).unbounded


# Bad input


def scalar_only(u):
    return u if u > 0 else 0.0


@pytest.mark.parametrize(
    ("f", "match", "came"),
    [
        (3.0, "an activation must be a function", "3.0"),
        (np.sum, "φ must keep the shape", r"float64 \(\)"),
        (lambda u: 1.0, "φ must keep the shape", r"float64 \(\)"),
        (lambda u: u.astype(np.float32), "φ must keep the shape and the dtype", "float32"),
        (lambda u: u + 0j, "φ must keep the shape and the dtype", "complex128"),
        (lambda u: (u > 0) * 1, "φ must keep the shape and the dtype", "int64"),
        (lambda u: np.concatenate([u, u]), "φ must keep the shape", "float64"),
        (scalar_only, "φ must take an array", "ValueError"),
        (lambda u: np.where(u > 3, np.nan, u), "φ must be finite on", "nan at 3"),
        (np.log, "φ must be finite on", "nan at -"),
        (lambda u: np.exp(u * u), "φ must be finite on", "inf at"),
        (lambda u: np.sign(u) + 0.0 * u, "must be continuous", "a step from -1 to 1 at 0"),
        (lambda u: np.where(u > 0.7, u, u + 1e-6), "must be continuous", "at 0.7"),
        (lambda u: np.floor(4.0 * u) / 4.0, "must be continuous", "a step"),
        (lambda u: u - np.mean(u), "must act on each value by itself", "beside other values"),
        (lambda u: np.sin(1e5 * u), "must be piecewise smooth", "pieces"),
        (
            lambda u: u.astype(np.float32).astype(np.float64),
            "must be piecewise smooth|must take an array",
            "",
        ),
    ],
)
def test_what_is_no_activation_is_refused(f: Any, match: str, came: str) -> None:
    def slope(u):
        return np.ones_like(u)

    with pytest.raises(TheoryError, match=match) as caught:
        phi_of(f, df=slope if f is not scalar_only else None, name="mine")
    assert caught.value.fix or "function" in match
    assert re.search(came, caught.value.came)


@pytest.mark.parametrize(
    ("df", "match"),
    [
        (lambda u: (1 - np.tanh(u) ** 2) * (1 + 1e-8), "φ must be the integral of φ′"),
        (lambda u: 1 - np.tanh(u / 2) ** 2, "φ must be the integral of φ′"),
        (lambda u: np.where(np.abs(u) > 3, np.nan, 1 - np.tanh(u) ** 2), "φ′ must be finite"),
        (np.sum, "φ′ must keep the shape"),
    ],
)
def test_a_wrong_derivative_is_seen(df: Any, match: str) -> None:
    with pytest.raises(TheoryError, match=match):
        phi_of(np.tanh, df=df)


@pytest.mark.parametrize("kinks", [(), (0.1,), (1e-6,), (5.0, -5.0)])
def test_a_kink_that_is_missing_is_named(kinks: tuple[float, ...]) -> None:
    with pytest.raises(TheoryError, match="kinks must hold every point") as caught:
        phi_of(lambda u: np.maximum(u, 0), kinks=kinks)
    assert "a kink at 0" in caught.value.came
    assert "kinks = [0.0]" in caught.value.fix


@pytest.mark.parametrize("kinks", [(math.nan,), ("one",), 3, (math.inf,)])
def test_kinks_are_numbers(kinks: Any) -> None:
    with pytest.raises(TheoryError, match="kinks must be a sequence of finite numbers"):
        phi_of(np.tanh, kinks=kinks)


def test_further_kinks_do_no_harm() -> None:
    given = phi_of(lambda u: np.maximum(u, 0), kinks=(-2.0, 0.0, 55.5))
    assert given.kinks == (-2.0, 0.0, 55.5)
    assert moments(given, 3.0).second == pytest.approx(1.5, rel=1e-13)


def test_growth_that_the_measure_does_not_hold_is_refused() -> None:
    fast = phi_of(lambda u: np.exp(0.2 * u * u), name="fast")
    # E exp(0.4u²) = 1/√(1 − 0.8q)
    assert moments(fast, 0.5).second == pytest.approx(1 / math.sqrt(0.6), rel=1e-11)
    with pytest.raises(TheoryError, match="must not outgrow the Gaussian measure") as caught:
        moments(fast, 1.25)
    assert "fast" in caught.value.where
    with pytest.raises(TheoryError, match=r"must not outgrow the Gaussian measure|finite"):
        mean_field(fast, 1.0, 1.0)
