"""Predictions for one network against networks drawn at random, quadrature and published facts."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from drawn_networks import logs
from scipy import stats
from theory_table import FACTS, PHI

from isograd import theory as P
from isograd.theory import expectation2, moments
from isograd.theory.response import pair, single

PHIS = {name: P.Elementwise(phi) for name, phi in PHI.items()}
LN, RMS, BN = (P.Normalise(over) for over in ("features", "square", "batch"))


# What an activation makes of Gaussians, against quadrature of its own


def test_far_out_a_sigmoid_is_a_step() -> None:
    """Of sign(u), ½E(φ₁ − φ₂)² = 1 − (2/π) arcsin c, at any q."""
    c = np.array([0.9, 0.1, -0.4])
    for q in (1e13, 1e20, 1e40):
        for tabulated in (True, False):
            found = pair(PHI["tanh"], q, q * (1 - c), tabulated=tabulated)
            assert found.spread == pytest.approx(1 - 2 / np.pi * np.arcsin(c), rel=1e-4)


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "sigmoid", "elu_1", "hard_tanh"])
@pytest.mark.parametrize("q", [0.02, 0.7, 3.0])
def test_responses_are_those_of_quadrature(name: str, q: float) -> None:
    phi, one, want = PHI[name], single(PHI[name], q), moments(PHI[name], q)
    assert one.mean == pytest.approx(want.mean, abs=1e-9)
    assert one.second == pytest.approx(want.second, rel=1e-9)
    assert one.slope == pytest.approx(want.slope, rel=1e-9)
    assert one.growth == pytest.approx(want.growth * q / want.second, rel=1e-7)
    c = np.array([0.95, 0.3, -0.6])
    spreads = pair(phi, q, q * (1 - c)).spread
    for correlation, spread in zip(c, spreads, strict=True):

        def half_square(a, b):
            return (phi.f(a) - phi.f(b)) ** 2 / 2

        wanted = expectation2(half_square, q, correlation, kinks=phi.kinks)
        assert spread == pytest.approx(wanted, rel=1e-6)


def test_nearly_equal_inputs_stay_apart() -> None:
    """½E(φ₁ − φ₂)² → E φ′² · q(1 − c), at 1 − c far below a rounding of c."""
    spread = pair(PHI["tanh"], 0.8, np.array([1e-40])).spread[0]
    assert spread == pytest.approx(1e-40 * moments(PHI["tanh"], 0.8).slope, rel=1e-7)


# Facts


def through(*steps: P.Step, second: float = 1.0) -> P.Signal:
    out = P.forward(steps, P.signal(second, width=50))[-1]
    assert isinstance(out, P.Signal)
    return out


def test_critical_weights_under_dropout() -> None:
    """B12: σ_w² = 2ρ keeps the variance of a ReLU network that keeps a share ρ of its units."""
    for kept in (FACTS["B12"]["inputs"]["rho"], 0.5, 0.3):
        scale = FACTS["B12"]["expected"]["sigma_w2"] / FACTS["B12"]["inputs"]["rho"] * kept
        block = (PHIS["relu"], P.Dropout(1 - kept), P.Linear(scale, 0.0, 50, 50))
        assert through(P.Linear(1.0, 0.0, 50, 50), *block * 9).second == pytest.approx(1.0)


@pytest.mark.parametrize("key", ["a=1", "a=1/sqrt(L)"])
def test_residual_networks_grow_by_one_plus_a_squared(key: str) -> None:
    """B13: and so does their gradient, going back."""
    depth = FACTS["B13"]["inputs"]["L"]
    a = 1.0 if key == "a=1" else 1 / math.sqrt(depth)
    block = [P.SkipOpens(), PHIS["relu"], P.Linear(2.0, 0.0, 50, 50), P.Scale(a), P.SkipCloses()]
    steps = [P.Linear(1.0, 0.0, 50, 50), *block * depth]
    start = P.signal(1.0, width=50)
    signals = P.forward(steps, start)
    want = FACTS["B13"]["expected"][key]
    assert signals[-1].second == pytest.approx(want, rel=1e-9)
    assert P.backward(steps, start, signals)[1].log_norm2 == pytest.approx(math.log(want), rel=1e-9)


def test_gradients_explode_through_batch_norm() -> None:
    """By π/(π − 1) a layer of a ReLU (Yang et al. 2019, large batches)."""
    steps = [P.Linear(1.7, 0.0, 50, 50), *[BN, PHIS["relu"], P.Linear(1.7, 0.0, 50, 50)] * 6]
    start = P.signal(1.0, width=50)
    down = P.backward(steps, start, P.forward(steps, start))
    factors = [math.exp(down[i].log_norm2 - down[i + 3].log_norm2) for i in (1, 4, 7)]
    # The first reads uncorrelated inputs, q(1 − c) = σ_w²; the others what a ReLU leaves.
    assert factors == pytest.approx([0.5, *[math.pi / (math.pi - 1)] * 2])


@pytest.mark.parametrize("key", ["C7.n=10", "C7.n=50", "C7.n=300"])
def test_laws_of_a_relu_layer(key: str) -> None:
    n, want = FACTS[key]["inputs"]["n"], FACTS[key]["expected"]
    x = through(P.Linear(2.0, 0.0, n, n), PHIS["relu"], P.Linear(2.0, 0.0, n, n))
    assert x.shift[0] == pytest.approx(want["E_ln_r"], rel=1e-7)
    assert x.cov[0, 0] == pytest.approx(want["Var_ln_r"], rel=1e-7)


@pytest.mark.parametrize("rows", [2, 16])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "sigmoid"])
def test_what_units_add_to_the_chance_of_the_spread(name: str, rows: int) -> None:
    """Of inputs whose pre-activations share, each, a correlation √c with one Gaussian."""
    rng, blocks, units = np.random.default_rng(5), 20, 20_000
    for c in (0.0, 0.4, 0.9):
        start = P.Signal(0.0, 1.0, np.array([1 - c]), True, 1, rows)
        found = P.forward([PHIS[name]], start)[0]
        drawn = []
        for _ in range(blocks):
            common, own = rng.standard_normal((units, 1)), rng.standard_normal((units, rows))
            values = PHI[name].f(np.sqrt(c) * common + np.sqrt(1 - c) * own)
            spread, square = values.var(axis=1, ddof=1), np.mean(values**2, axis=1)
            spread, square = spread / spread.mean(), square / square.mean()
            drawn.append([np.mean(spread**2) - 1, np.mean(spread * square) - 1])
        got, error = np.mean(drawn, axis=0), np.std(drawn, axis=0, ddof=1) / np.sqrt(blocks)
        want = np.array([found.spread_chance, found.both_chance])
        assert np.all(np.abs(got - want) < 4.5 * error + 1e-3)  # a ratio of means: 1/units


def test_ten_thousand_layers_of_a_relu() -> None:
    """All inputs come to lie in one direction: the spread has the exact law of the norm."""
    n, depth, rows = 32, 10_000, 64
    layers = [PHIS["relu"], P.Linear(2.0, 0.0, n, n)] * depth
    x = P.forward([P.Linear(1.0, 0.0, n, n), *layers], P.signal(1.0, None, n, rows))[-1]
    mean, sd = (2 * v for v in P.log_norm([n] * (depth + 1), "relu"))
    for found_mean, variance in ((x.log_mean, x.log_var), (x.spread_log_mean, x.spread_log_var)):
        assert found_mean == pytest.approx(mean, abs=sd / 10)
        assert math.sqrt(variance) == pytest.approx(sd, rel=0.01)


# Where theory ends


@pytest.mark.parametrize(
    ("steps", "at", "reason"),
    [
        ((P.Linear(1, 0, 5, 5), PHIS["tanh"], PHIS["relu"]), 2, "Gaussian"),
        ((PHIS["tanh"],), 0, "Gaussian"),
        ((P.Linear(1, 0, 5, 5), P.Dropout(0.1), PHIS["relu"]), 2, "Gaussian"),
        ((P.Linear(0, 0, 5, 5),), 0, "variance above 0"),
        ((P.Linear(1, 0, 5, 5), P.SkipOpens(), PHIS["tanh"], P.SkipCloses()), 3, "weights"),
    ],
)
def test_theory_ends(steps: tuple[P.Step, ...], at: int, reason: str) -> None:
    start = P.signal(1.0, width=5)
    signals = P.forward([*steps, P.Scale(1.0)], start)
    for signal in signals[at:]:
        assert isinstance(signal, P.Unknown)
        assert signal.step == at
        assert reason in signal.reason
    assert all(isinstance(s, P.Signal) for s in signals[:at])
    assert all(isinstance(g, P.Unknown) for g in P.backward([*steps, P.Scale(1.0)], start, signals))


# Error bars, against networks drawn at random


def chain(name: str, sw2: float, sb2: float = 0.0, n: int = 80, **keys) -> list[P.Step]:
    pre, post = keys.get("pre", ()), keys.get("post", ())
    orthogonal, widths = keys.get("orthogonal", False), keys.get("widths", [n] * 6)
    steps: list[P.Step] = []
    for a, b in pairwise(widths):
        steps += [P.Linear(sw2, sb2, a, b, orthogonal), *pre, PHIS[name], *post]
    return [*steps, P.Linear(sw2, sb2, widths[-1], n, orthogonal)]


def blocks(*inner: P.Step, n: int = 80) -> list[P.Step]:
    plain = P.Linear(1.0, 0.0, n, n)
    return [plain, *[P.SkipOpens(), *inner, P.SkipCloses()] * 5, plain]


W = P.Linear(2.0, 0.0, 80, 80)
NETWORKS = {
    "linear": chain("linear", 1.0),
    "relu": chain("relu", 2.0),
    "relu, unequal": chain("relu", 2.0, widths=[30, 90, 40, 70, 25]),
    "tanh": chain("tanh", 1.5, 0.1),
    "gelu": chain("gelu", 2.2, 0.05),
    "logistic": chain("sigmoid", 1.5),
    "relu, orthogonal": chain("relu", 2.0, orthogonal=True),
    "tanh, orthogonal": chain("tanh", 1.5, orthogonal=True),
    "relu, dropout": chain("relu", 1.6, post=(P.Dropout(0.2),)),
    "tanh, layer norm before": chain("tanh", 1.3, pre=(LN,)),
    "relu, layer norm behind": chain("relu", 1.0, post=(LN,)),
    "relu, rms norm": chain("relu", 2.0, pre=(RMS,)),
    "relu, batch norm": chain("relu", 2.0, pre=(BN,)),
    "relu, ten layers": chain("relu", 2.0, n=160, widths=[160] * 11),
    "tanh, residual": blocks(PHIS["tanh"], W),
    "relu, residual, layer norm": blocks(LN, W, PHIS["relu"], W),
}
DRAWS = 120


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),  # a batch norm needs rows
    [(name, rows) for name in NETWORKS for rows in (1, 24) if rows > 1 or "batch" not in name],
)
def test_drawn_networks_lie_within_the_error_bars(name: str, rows: int) -> None:
    """Of the signal and the gradient at the far ends.

    Theory is of first order: what it leaves out is of order 1/n, beside bars of order 1/√n.
    """
    steps, rng = NETWORKS[name], np.random.default_rng(7)
    x = rng.standard_normal((rows, steps[0].n_in))
    x /= np.sqrt(np.mean(x**2, axis=1, keepdims=True))  # theory takes inputs of one length
    gram = x @ x.T / x.shape[1]
    pairs = gram[np.triu_indices(rows, 1)] if rows > 1 else None
    start = P.signal(np.trace(gram) / rows, pairs, x.shape[1], rows if rows > 1 else None)
    signals = P.forward(steps, start)
    down = P.backward(steps, start, signals)
    drawn = [logs(steps, x, rng) for _ in range(DRAWS)]
    squares, spreads, norms = (np.array(v) for v in zip(*drawn, strict=True))
    top = signals[-1]
    check(squares[:, -1] - math.log(top.second), top.log_mean, top.log_var)
    if rows > 1 and name != "tanh, orthogonal":  # where the bar of the spread is too wide
        spread = np.mean(top.spread) * (1 - 1 / rows)
        check(spreads[:, -1] - math.log(spread), top.spread_log_mean, top.spread_log_var)
    check(norms[:, 1] - down[1].log_norm2, down[1].log_mean, down[1].log_var)


ORDER = 1 / 80


def check(values: np.ndarray, mean: float, variance: float) -> None:
    """Mean and deviation to a third of the bar, 95 % within two bars; 120 draws leave open more."""
    sd = math.sqrt(variance) + ORDER
    assert abs(values.mean() - mean) < 3.5 * sd / math.sqrt(DRAWS) + sd / 3
    assert abs(values.std() - sd) < 3.5 * sd / math.sqrt(2 * DRAWS) + sd / 3
    within = np.sum(np.abs(values - mean) < 2 * sd)
    assert within >= stats.binom.ppf(1e-3, DRAWS, 0.9)


def test_an_error_bar_too_small_is_seen() -> None:
    values = np.random.default_rng(0).normal(0, 0.3, DRAWS)
    check(values, 0.0, 0.09)
    for mean, sd in ((0.0, 0.15), (0.0, 0.9), (0.3, 0.3)):
        with pytest.raises(AssertionError):
            check(values, mean, sd * sd)
