"""Predicted spectra of Jacobians, against closed forms, published values and random matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from theory_table import FACTS, PHI, facts

from isograd.errors import TheoryError
from isograd.theory import (
    Phi,
    PredictedSpectrum,
    RandomLayer,
    chi,
    critical,
    equal_layers,
    moments,
    predicted_spectrum,
)

LINEAR_FACT, RELU_FACT, UNIT_FACT = FACTS["C1"], FACTS["C2"], FACTS["C6"]


def chain(
    name: str | None, q: float, sw2: float, depth: int, weights: Any = "gaussian"
) -> PredictedSpectrum:
    return predicted_spectrum(equal_layers(PHI[name] if name else None, q, sw2, depth, weights))


def integrals(p: PredictedSpectrum, count: int = 400) -> tuple[float, float, float]:
    """∫ρ, ∫xρ and ∫x²ρ, with points that crowd at both edges and, for ln x, at 0."""
    low, high = math.log(max(p.lower, 1e-14 * p.upper)), math.log(p.upper)
    t = (np.arange(count) + 0.5) / count
    x = np.exp(low + (high - low) * np.sin(math.pi * t / 2) ** 2)
    dx = x * (high - low) * math.pi / 2 * np.sin(math.pi * t) / count
    mass = p.density(x) * dx
    return float(mass.sum()), float(mass @ x), float(mass @ x**2)


# --- closed forms


@pytest.mark.parametrize("depth", [1, 2, 5, 10, 50, 100])
def test_linear_gaussian(depth: int) -> None:
    p = chain(None, 1.0, 1.0, depth)
    want = LINEAR_FACT["expected"]["lambda_max"][str(depth)]
    assert p.upper == pytest.approx(want, rel=1e-12)
    assert p.upper == pytest.approx(
        math.exp(math.log(depth + 1) * (depth + 1) - depth * math.log(depth))
    )
    assert p.variance == pytest.approx(depth, rel=1e-12)
    assert (p.lower, p.zeros, p.log_mean, p.at_upper) == (0, 0, 0, 0)
    assert p.condition == math.inf
    s_max = LINEAR_FACT["expected"]["s_max"].get(str(depth))
    if s_max is not None:
        assert math.sqrt(p.upper) == pytest.approx(s_max, rel=1e-12)


def test_moments_are_those_of_fuss_and_catalan() -> None:
    def moment(depth: int, k: int) -> float:
        return math.comb((depth + 1) * k, k) / (depth * k + 1)

    assert moment(10, 2) == LINEAR_FACT["expected"]["m2_L10"]
    assert moment(10, 3) == LINEAR_FACT["expected"]["m3_L10"]
    for depth in (1, 2, 3):
        p = chain(None, 1.0, 0.7, depth)
        low, high = math.log(1e-14), math.log(p.upper)
        t = (np.arange(2000) + 0.5) / 2000
        x = np.exp(low + (high - low) * np.sin(math.pi * t / 2) ** 2)
        mass = p.density(x) * x * (high - low) * math.pi / 2 * np.sin(math.pi * t) / t.size
        for k in (1, 2, 3, 4):
            assert float(mass @ x**k) == pytest.approx(moment(depth, k), rel=1e-7)


def test_one_gaussian_layer_is_marchenko_and_pastur() -> None:
    x = np.linspace(0.01, 4.2, 50)
    want = np.sqrt((4 - x).clip(0) / x) / (2 * math.pi)
    np.testing.assert_allclose(chain(None, 1.0, 3.0, 1).density(x), want, rtol=1e-9)
    for ratio in (0.25, 4.0):  # the other widths: c = min/max
        p = predicted_spectrum([RandomLayer(2.0, n_in=1.0, n_out=ratio)])
        c = 0.25
        low, high = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
        assert (p.lower, p.upper) == pytest.approx((low, high), rel=1e-12)
        assert p.variance == pytest.approx(c, rel=1e-12)
        assert p.log_mean == pytest.approx(math.log(2.0 * max(ratio, 1.0)))
        x = np.linspace(0.2, 2.3, 40)
        want = np.sqrt(((high - x) * (x - low)).clip(0)) / (2 * math.pi * c * x)
        np.testing.assert_allclose(p.density(x), want, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 10, 50, 100])
def test_relu_gaussian(depth: int) -> None:
    expected = RELU_FACT["expected"]
    p = chain("relu", 1.0, 2.0, depth)
    assert p.upper == pytest.approx(expected["lambda_max"][str(depth)], rel=1e-11)
    assert p.variance == pytest.approx(2 * depth, rel=1e-12)
    if str(depth) in expected["variance"]:
        assert p.variance == pytest.approx(expected["variance"][str(depth)], rel=1e-12)
    assert p.zeros == pytest.approx(0.5, rel=1e-12)
    if depth == 1:  # Marchenko–Pastur of aspect ½, times 2
        assert p.lower == pytest.approx((math.sqrt(2) - 1) ** 2, rel=1e-12)


@pytest.mark.parametrize("fact", facts("C4."))
def test_hard_tanh_orthogonal(fact: dict[str, Any]) -> None:
    q, depth, expected = fact["inputs"]["q_star"], fact["inputs"]["L"], fact["expected"]
    sw2 = 1 / moments(PHI["hard_tanh"], q).slope
    assert sw2 == pytest.approx(expected["sigma_w2"], rel=1e-12)
    p = chain("hard_tanh", q, sw2, depth, "orthogonal")
    assert p.variance == pytest.approx(expected["variance"], rel=1e-10)
    assert 1 - p.zeros == pytest.approx(expected["p"], rel=1e-12)
    assert p.log_mean == pytest.approx(0, abs=1e-10)
    assert p.at_upper == pytest.approx(max(0, 1 - depth * (1 - expected["p"])), abs=1e-9)


def test_two_free_projections() -> None:
    """PQP for projections of rank p: from 0 to 4p(1 − p), and for p > ½ a share 2p − 1 at 1."""
    for q in (0.4, 4.0):
        share = math.erf(1 / math.sqrt(2 * q))
        p = chain("hard_tanh", q, 1.0, 2, "orthogonal")
        edge = 4 * share * (1 - share)
        top = 1.0 if share > 0.5 else edge
        assert p.upper * share**2 == pytest.approx(top, rel=1e-9)
        assert p.at_upper == pytest.approx(max(0, 2 * share - 1), abs=1e-9)
        x = np.linspace(0.01, 0.99, 30) * edge
        want = np.sqrt(edge - x) / (2 * math.pi * np.sqrt(x) * (1 - x))
        np.testing.assert_allclose(p.density(x / share**2) / share**2, want, rtol=1e-8)


@pytest.mark.parametrize("fact", facts("C5."))
def test_tanh_per_layer(fact: dict[str, Any]) -> None:
    q, expected = fact["inputs"]["q_star"], fact["expected"]
    sw2 = 1 / moments(PHI["tanh"], q).slope
    for weights in ("orthogonal", "gaussian"):
        for depth in (1, 7):
            growth = chain("tanh", q, sw2, depth, weights).variance / depth
            assert growth == pytest.approx(expected[f"{weights}_per_layer"], rel=1e-8)


@pytest.mark.parametrize("depth", [1, 10, 10_000])
def test_orthogonal_linear(depth: int) -> None:
    p = chain(None, 1.0, 1.0, depth, "orthogonal")
    want = UNIT_FACT["expected"]["s"] ** 2
    assert (p.lower, p.upper, p.at_upper) == pytest.approx((want,) * 3, abs=1e-12 * depth)
    assert (p.variance, p.zeros, p.condition) == pytest.approx((0, 0, 1), abs=1e-12 * depth)


def test_leaky_orthogonal() -> None:
    one = chain("leaky_0.2", 1.0, 1.0, 1, "orthogonal")  # φ′² itself: 1 and 0.04
    assert one.upper / one.lower == pytest.approx(25, rel=1e-9)
    assert (one.upper, one.at_upper) == pytest.approx((1 / 0.52, 0.5), rel=1e-9)
    two = chain("leaky_0.2", 1.0, 1.0, 2, "orthogonal")
    # As of projections of rank ½: the edges are just those of commuting factors.
    assert (two.lower * 0.52**2, two.upper * 0.52**2) == pytest.approx((0.04**2, 1), rel=1e-9)


CASES = [
    ("tanh", "gaussian", 3, 0.5),
    ("tanh", "orthogonal", 10, 0.5),
    ("hard_tanh", "orthogonal", 10, 0.2),
    ("leaky_0.2", "orthogonal", 4, 1.0),
    ("gelu", "orthogonal", 3, 1.0),
    ("sin", "orthogonal", 4, 1.0),
    ("relu", "gaussian", 3, 1.0),
]


@pytest.mark.parametrize(("name", "weights", "depth", "q"), CASES)
def test_a_density_has_the_moments_of_the_spectrum(
    name: str, weights: str, depth: int, q: float
) -> None:
    """Mean 1 and the predicted variance: the first from the equation, the second in closed form."""
    p = chain(name, q, 1.7, depth, weights)
    _, first, second = integrals(p)
    assert first + p.at_upper * p.upper == pytest.approx(1, abs=2e-4)
    assert second + p.at_upper * p.upper**2 == pytest.approx(1 + p.variance, rel=2e-4)


# --- random matrices


def haar(rng: np.random.Generator, n: int, m: int) -> np.ndarray[Any, Any]:
    q, r = np.linalg.qr(rng.standard_normal((max(n, m), min(n, m))))
    q = q * np.sign(np.diag(r)) * math.sqrt(max(n, m))
    return (q if n >= m else q.T) / math.sqrt(m)


def sampled(
    rng: np.random.Generator, layers: tuple[RandomLayer, ...], n: int
) -> np.ndarray[Any, Any]:
    """λ of a product of D W with D = φ′ at independent Gaussians, n times as wide as told."""
    product = np.eye(round(n * layers[0].n_in))
    for layer in layers:
        n_in, n_out = round(n * layer.n_in), round(n * layer.n_out)
        if layer.weights == "gaussian":
            w = rng.standard_normal((n_out, n_in)) / math.sqrt(n_in)
        else:
            w = haar(rng, n_out, n_in)
        product = math.sqrt(layer.sigma_w2) * w @ product
        if layer.phi is not None:
            slope = layer.phi.df(math.sqrt(layer.q) * rng.standard_normal(n_out))
            product = slope[:, None] * product
    return np.linalg.svd(product, compute_uv=False) ** 2


def at(
    name: str | None, q: float, sw2: float, weights: Any, n_in: float = 1, n_out: float = 1
) -> RandomLayer:
    return RandomLayer(sw2, weights, PHI[name] if name else None, q, n_in, n_out)


MIXED = {
    "tanh": [at("tanh", 0.8, 1.3, "gaussian")] * 4,
    "tanh, orthogonal": [at("tanh", 0.8, 1.3, "orthogonal")] * 6,
    "gelu": [at("gelu", 1.0, 2.0, "gaussian")] * 3,
    "gelu, orthogonal": [at("gelu", 1.0, 2.0, "orthogonal")] * 5,
    "sin": [at("sin", 2.0, 1.0, "orthogonal")] * 3,
    "erf": [at("erf", 0.3, 1.1, "orthogonal")] * 8,
    "selu": [at("selu", 1.0, 1.0, "gaussian")] * 3,
    "leaky, orthogonal": [at("leaky_0.2", 1.0, 1.0, "orthogonal")] * 4,
    "hard tanh": [at("hard_tanh", 0.5, 1.0, "gaussian")] * 3,
    "settling": [at("tanh", q, 1.5, "gaussian") for q in (1.5, 0.9, 0.6)],
    "with a linear head": [*[at("relu", 1.0, 2.0, "gaussian")] * 2, at(None, 1.0, 1.0, "gaussian")],
    "both weights": [at("tanh", 0.5, 1.0, "orthogonal"), at("tanh", 0.5, 1.0, "gaussian")],
    "widening": [at("tanh", 0.5, 1.0, "gaussian", 1, 2), at("tanh", 0.5, 1.0, "gaussian", 2, 3)],
    "narrowing": [at("tanh", 0.5, 1.0, "gaussian", 2, 1), at(None, 0.5, 2.0, "gaussian", 1, 0.5)],
    "widening, orthogonal": [
        at("leaky_0.2", 1.0, 2.0, "orthogonal", 1, 2),
        at("tanh", 1.0, 2.0, "orthogonal", 2, 1),
    ],
    "bottleneck": [
        at("tanh", 0.5, 1.0, "gaussian", 1, 0.5),
        at(None, 0.5, 1.0, "gaussian", 0.5, 1),
    ],
}


@pytest.mark.parametrize("layers", MIXED.values(), ids=MIXED.keys())
def test_random_matrices_of_other_kinds(layers: list[RandomLayer]) -> None:
    """Mean and variance to 5 %, edges to the n^(−2/3) of a finite width, and the whole law.

    The band of the law is that of Kolmogorov's distance, 3/√n at n λs of which few are independent.
    """
    n = 400
    p = predicted_spectrum(layers)
    rng = np.random.default_rng(7)
    draws = np.stack([sampled(rng, tuple(layers), n) for _ in range(4)])
    mean = draws.mean()
    draws /= mean
    assert math.log(mean) == pytest.approx(p.log_mean, abs=0.05)
    assert draws.var() == pytest.approx(p.variance, rel=0.05)
    assert draws.max(axis=1).mean() == pytest.approx(p.upper, rel=2 * n ** (-2 / 3) * len(layers))
    assert np.mean(draws < 1e-18) == pytest.approx(p.zeros, abs=0.03)
    if p.lower > 0:
        positive = np.where(draws > 1e-18, draws, np.inf)
        assert positive.min(axis=1).mean() == pytest.approx(p.lower, rel=0.15)
    for share in (0.5, 1.0, 2.0):  # of λ above the mean times this
        if share < p.upper:
            x = share * (p.upper / share) ** ((np.arange(40) + 0.5) / 40)
            above = float(p.density(x) @ x) * math.log(p.upper / share) / 40 + p.at_upper
            assert np.mean(draws > share) == pytest.approx(above, abs=0.02)


def test_random_matrices_linear() -> None:
    rng = np.random.default_rng(0)
    for depth in (1, 2, 5):
        draws = sampled(rng, equal_layers(None, 1.0, 1.0, depth), 1000)
        assert draws.max() == pytest.approx(chain(None, 1.0, 1.0, depth).upper, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "count", "short"), [(800, 6, 0.12), (1600, 4, 0.06)])
def test_random_matrices_relu(n: int, count: int, short: float) -> None:
    """The variance to 5 %, and at 10 layers λ_max/mean as far short as a finite width leaves it.

    A draw's λ_max varies by 10 %: the shortfall is that of the reference to 3 standard errors.
    """
    rng = np.random.default_rng(1)
    layers = equal_layers(PHI["relu"], 1.0, 2.0, 10)
    draws = np.stack([sampled(rng, layers, n) for _ in range(count)])
    p = predicted_spectrum(layers)
    draws /= draws.mean(axis=1, keepdims=True)
    assert draws.var(axis=1).mean() == pytest.approx(p.variance, rel=0.05)
    tops = draws.max(axis=1) / p.upper
    assert tops.mean() == pytest.approx(1 - short, abs=3 * tops.std(ddof=1) / math.sqrt(count))


@pytest.mark.slow
@pytest.mark.parametrize("fact", facts("C4."))
def test_random_matrices_hard_tanh(fact: dict[str, Any]) -> None:
    q, depth, expected = fact["inputs"]["q_star"], fact["inputs"]["L"], fact["expected"]
    layers = equal_layers(PHI["hard_tanh"], q, expected["sigma_w2"], depth, "orthogonal")
    rng = np.random.default_rng(2)
    draws = [sampled(rng, layers, 400) for _ in range(4)]
    variance = np.mean([d.var() / d.mean() ** 2 for d in draws])
    assert variance == pytest.approx(expected["variance"], rel=0.05)


# --- limits and errors


def test_a_mean_is_chi1_to_the_depth() -> None:
    phi, q = PHI["tanh"], 0.7
    for sw2 in (0.5, 3.0):
        p = predicted_spectrum(equal_layers(phi, q, sw2, 20_000))
        assert p.log_mean == pytest.approx(20_000 * math.log(chi(phi, q, sw2)), rel=1e-12)
        assert p.variance == pytest.approx(chain("tanh", q, 1.0, 20_000).variance)
    point = critical(phi, q=q)
    assert chain("tanh", q, point.sigma_w2, 1000).log_mean == pytest.approx(0, abs=1e-9)


def test_any_function_is_an_activation() -> None:
    p = predicted_spectrum(equal_layers(np.tanh, 0.5, 1.0, 3, "orthogonal"))
    want = chain("tanh", 0.5, 1.0, 3, "orthogonal")
    assert (p.variance, p.upper) == pytest.approx((want.variance, want.upper), rel=1e-10)


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("q", [0.0, 1e-6, 1e-2, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("name", ["tanh", "sin", "softplus", "gelu", "cubic", "relu"])
def test_every_q_gives_edges(name: str, q: float, weights: Any) -> None:
    """E λ² ≤ λ_max E λ, and no λ of a product is above the product of the largest factors."""
    cubic = Phi("cubic", lambda u: u + u**3 / 10, lambda u: 1 + 0.3 * u**2)
    phi = cubic if name == "cubic" else PHI[name]
    for depth in (1, 2, 1000):
        p = predicted_spectrum(equal_layers(phi, q, 1.3, depth, weights))
        assert 1 + p.variance <= p.upper * (1 + 1e-9)
        assert 0 <= p.lower <= p.upper
        near = [1e-13, *np.linspace(-5, 5, 20_000)]
        u = np.array([*(np.linspace(-9, 9, 20_000) * math.sqrt(q)), *near])
        top = np.max(phi.df(u[np.abs(u) <= 9 * math.sqrt(q) + 1e-12]) ** 2) * 1.3
        if weights == "orthogonal":
            assert math.log(p.upper) + p.log_mean <= depth * (math.log(top) + 1e-6)


def test_a_density_is_zero_outside() -> None:
    p = chain("relu", 1.0, 2.0, 1)
    x = np.array([[-1.0, 0.0], [p.lower / 2, p.upper * 1.01]])
    np.testing.assert_array_equal(p.density(x), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("layers", "must"),
    [
        (lambda: predicted_spectrum([]), "at least 1 layer"),
        (lambda: equal_layers(None, 1.0, 1.0, 0), "at least 1 layer"),
        (lambda: RandomLayer(0.0), "must be above 0"),
        (lambda: RandomLayer(1.0, "uniform"), '"gaussian" or "orthogonal"'),
        (lambda: RandomLayer(1.0, n_out=0), "widths must be above 0"),
        (
            lambda: predicted_spectrum([RandomLayer(1, n_out=2), RandomLayer(1)]),
            "what the one before",
        ),
        (lambda: chain("tanh", 0.5, 1.0, 1, "orthogonal").density(0.5), "of a product"),
    ],
)
def test_errors(layers: Any, must: str) -> None:
    with pytest.raises(TheoryError, match=must):
        layers()
