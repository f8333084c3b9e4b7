"""Initialisers: the law of what is drawn, gains against mpmath, χ₁ = 1 in a wide network."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats

from isograd.errors import ShapeError, SpecError, TheoryError
from isograd.nn import (
    LSUV,
    Activation,
    BatchNorm,
    Constant,
    Critical,
    Dense,
    Dropout,
    He,
    LayerNorm,
    LeCun,
    Network,
    Normal,
    Orthogonal,
    Residual,
    Scale,
    Uniform,
    VarianceScaling,
    Xavier,
    Zeros,
    build,
)
from isograd.nn.activations import FORMULAS, phi
from isograd.nn.initialisers import Variances, draw, has_critical_point, scale, unit_variance
from isograd.nn.spec import ACTIVATION_NAMES, Init

TANH, RELU = Activation("tanh"), Activation("relu")
TANH_GAIN2 = 2.5361754332  # 1/E tanh², see `test_gains`
FANS = ((300, 200), (200, 300), (1000, 1), (1, 1000))


# The law


def laws(fan_in: int, fan_out: int) -> list[tuple[Init, float, str]]:
    """Initialisers for a tanh, the variance that they must give, and the distribution."""
    return [
        (Normal(std=0.3), 0.09, "norm"),
        (Xavier(), 2 / (fan_in + fan_out), "norm"),
        (Xavier(gain=3.0), 18 / (fan_in + fan_out), "norm"),
        (Xavier(distribution="uniform"), 2 / (fan_in + fan_out), "uniform"),
        (He(), TANH_GAIN2 / fan_in, "norm"),
        (He(gain=0.5, distribution="uniform"), 0.25 / fan_in, "uniform"),
        (LeCun(), 1 / fan_in, "norm"),
        (LeCun(gain=2.0, distribution="uniform"), 4 / fan_in, "uniform"),
        (Uniform(), 1 / (3 * fan_in), "uniform"),
        (Uniform(gain=2.0), 4 / (3 * fan_in), "uniform"),
        (Critical(), 2.15330264890 / fan_in, "norm"),
        (Critical(gain=0.5), 0.25 * 2.15330264890 / fan_in, "norm"),
        (VarianceScaling(1.76, 0.05), 1.76 / fan_in, "norm"),
        (VarianceScaling(0.3, distribution="uniform"), 0.3 / fan_in, "uniform"),
    ]


@pytest.mark.parametrize(("fan_in", "fan_out"), FANS)
def test_weights_follow_their_law(fan_in: int, fan_out: int, rng: np.random.Generator) -> None:
    for init, variance, name in laws(fan_in, fan_out):
        draws = [draw(init, phi(TANH), fan_in, fan_out, rng, float)[0] for _ in range(3)]
        assert draws[0].shape == (fan_out, fan_in)
        w = np.stack(draws).ravel() / math.sqrt(variance)
        fourth = 3.0 if name == "norm" else 9 / 5
        assert abs(w.mean()) < 4 / math.sqrt(w.size), init
        assert abs(w.var() - 1) < 4 * math.sqrt((fourth - 1) / w.size), init
        wanted = scipy.stats.norm() if name == "norm" else scipy.stats.uniform(-(3**0.5), 12**0.5)
        assert scipy.stats.kstest(w, wanted.cdf).pvalue > 1e-4, init


def test_another_law_is_seen(rng: np.random.Generator) -> None:
    """What the test above looks at tells a factor of 2 % and a uniform from a normal law."""
    w = 1.02 * rng.standard_normal(180_000)
    assert abs(w.var() - 1) > 4 * math.sqrt(2 / w.size)
    assert scipy.stats.kstest(w, scipy.stats.uniform(-(3**0.5), 12**0.5).cdf).pvalue < 1e-4


@pytest.mark.parametrize(("fan_in", "fan_out"), FANS)
def test_uniform_xavier_fills_its_bounds(
    fan_in: int, fan_out: int, rng: np.random.Generator
) -> None:
    """Glorot & Bengio 2010, eq. 16."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    init = Xavier(distribution="uniform")
    w, b = draw(init, phi(TANH), fan_in, fan_out, rng, np.float64)
    assert 0.99 * bound < np.abs(w).max() <= bound
    assert not b.any()


def test_the_old_rule_of_thumb_fills_its_bounds(rng: np.random.Generator) -> None:
    """Glorot & Bengio 2010, eq. 1: U(−1/√n, 1/√n), n inputs."""
    w, b = draw(Uniform(), phi(TANH), 400, 100, rng, np.float64)
    assert 0.99 / 20 < np.abs(w).max() <= 1 / 20
    assert not b.any()
    assert scale(Uniform(gain=3.0), phi(TANH), 400, 100) == Variances(3.0, 0.0)


def test_zeros(rng: np.random.Generator) -> None:
    w, b = draw(Zeros(), phi(TANH), 3, 2, rng, np.float32)
    np.testing.assert_array_equal(w, np.zeros((2, 3), np.float32))
    assert not b.any()
    assert scale(Zeros(), phi(TANH), 3, 2) is None


def test_the_gain_of_critical_leaves_the_biases() -> None:
    law, twice = (scale(Critical(gain=g), phi(TANH), 9, 9) for g in (1.0, 2.0))
    assert law is not None
    assert twice == Variances(pytest.approx(4 * law.sigma_w2, rel=1e-14), law.sigma_b2)


def test_constant(rng: np.random.Generator) -> None:
    w, b = draw(Constant(value=-0.25), phi(TANH), 3, 2, rng, np.float32)
    np.testing.assert_array_equal(w, np.full((2, 3), -0.25, np.float32))
    np.testing.assert_array_equal(b, np.zeros(2, np.float32))
    assert w.dtype == b.dtype == np.float32
    assert scale(Constant(value=1.0), phi(TANH), 3, 2) is None


@pytest.mark.parametrize(("fan_in", "fan_out"), [(40, 40), (90, 30), (30, 90), (1, 1), (5, 1)])
def test_orthogonal(fan_in: int, fan_out: int, rng: np.random.Generator) -> None:
    w, b = draw(Orthogonal(gain=3.0), phi(TANH), fan_in, fan_out, rng, np.float64)
    few = min(fan_in, fan_out)
    gram = w @ w.T if fan_out == few else w.T @ w
    np.testing.assert_allclose(gram, 9 * np.eye(few), atol=9e-12)
    assert not b.any()
    law = scale(Orthogonal(gain=3.0), phi(TANH), fan_in, fan_out)
    assert law == Variances(pytest.approx(fan_in * np.mean(w**2), rel=1e-12), 0.0)


def test_orthogonal_matrices_are_spread_evenly(rng: np.random.Generator) -> None:
    """Haar measure: the trace of Q in O(n) has mean 0 and variance 1; plain QR's is shifted."""
    qs = [draw(Orthogonal(gain=1.0), phi(TANH), 6, 6, rng, float)[0] for _ in range(2000)]
    traces = np.array([np.trace(q) for q in qs])
    assert abs(traces.mean()) < 4 / math.sqrt(2000)
    assert abs(traces.var() - 1) < 4 * math.sqrt(2 / 2000)
    signs = [draw(Orthogonal(gain=1.0), phi(TANH), 1, 1, rng, float)[0].item() for _ in range(400)]
    assert set(signs) == {-1.0, 1.0}
    assert abs(np.mean(signs)) < 4 / math.sqrt(400)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(60, 60), (90, 30), (30, 90)])
def test_critical_orthogonal_has_the_critical_variance(
    fan_in: int, fan_out: int, rng: np.random.Generator
) -> None:
    init = Critical(distribution="orthogonal")
    w, _ = draw(init, phi(TANH), fan_in, fan_out, rng, np.float64)
    law = scale(init, phi(TANH), fan_in, fan_out)
    assert law is not None
    assert fan_in * np.mean(w**2) == pytest.approx(law.sigma_w2, rel=1e-12)
    singular = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(singular, singular[0], rtol=1e-12)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(60, 60), (90, 30), (30, 90)])
def test_variance_scaling_orthogonal_has_the_variance_asked_for(
    fan_in: int, fan_out: int, rng: np.random.Generator
) -> None:
    """fan_in · mean W² = σ_w² for every shape, and all singular values are equal."""
    init = VarianceScaling(2.5, distribution="orthogonal")
    w, b = draw(init, phi(TANH), fan_in, fan_out, rng, np.float64)
    assert fan_in * np.mean(w**2) == pytest.approx(2.5, rel=1e-12)
    singular = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(singular, singular[0], rtol=1e-12)
    assert not b.any()


def test_variance_scaling_is_what_theory_is_told(rng: np.random.Generator) -> None:
    """σ_w² and σ_b² whatever the activation and the width; without biases σ_b² is 0."""
    init = VarianceScaling(1.76, 0.05)
    for activation in (TANH, RELU):
        for fans in FANS:
            assert scale(init, phi(activation), *fans) == Variances(1.76, 0.05)
    assert scale(init, phi(TANH), 9, 9, bias=False) == Variances(1.76, 0.0)
    _, b = draw(init, phi(TANH), 2, 50_000, rng, np.float64)
    assert abs(b.mean()) < 4 * math.sqrt(0.05 / b.size)
    assert abs(b.var() / 0.05 - 1) < 4 * math.sqrt(2 / b.size)
    w, b = draw(VarianceScaling(0.0, 0.0), phi(TANH), 5, 4, rng, np.float32)
    assert not w.any()
    assert not b.any()


# Gains


def squared(name: str, x: Any) -> Any:
    """φ(x)² in mpmath."""
    sigma = 1 / (1 + mpmath.exp(-x))
    leak = {"relu": 0, "leaky_relu": 0.01, "prelu": 0.25}
    if name in leak:
        return (x if x > 0 else leak[name] * x) ** 2
    if name in ("elu", "selu"):
        alpha, by = (1, 1) if name == "elu" else (1.6732632423543772, 1.0507009873554805)
        return (by * x if x > 0 else by * alpha * mpmath.expm1(x)) ** 2
    smooth = {
        "identity": x,
        "logistic": sigma,
        "tanh": mpmath.tanh(x),
        "softplus": mpmath.log1p(mpmath.exp(x)),
        "silu": x * sigma,
        "gelu": x * mpmath.ncdf(x),
        "scaled_sigmoid": 4 * sigma - 2,
        "swish": x * sigma,
        "gelu_tanh": x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * x**3))),
        "gelu_logistic": x / (1 + mpmath.exp(-1.702 * x)),
        "hard_tanh": max(-1, min(1, x)),
        "lecun_tanh": 1.7159 * mpmath.tanh(2 * x / 3),
        "erf": mpmath.erf(x),
        "sine": mpmath.sin(x),
    }
    return smooth[name] ** 2


@pytest.mark.parametrize("name", [n for n in ACTIVATION_NAMES if FORMULAS[n].elementwise])
def test_gains(name: str) -> None:
    """Gain² = 1/E φ(z)², z ~ N(0, 1), by mpmath's quadrature."""
    second = mpmath.quad(lambda x: squared(name, x) * mpmath.npdf(x), [-12, -4, -1, 0, 1, 4, 12])
    at_hand = phi(Activation(name))
    for init in (He(), Orthogonal()):
        law = scale(init, at_hand, 7, 7)
        assert law == Variances(pytest.approx(float(1 / second), rel=1e-10), 0.0)
    assert scale(LeCun(), at_hand, 7, 9) == Variances(1.0, 0.0)
    assert scale(Xavier(), at_hand, 6, 18) == Variances(0.5, 0.0)


def test_gains_in_print() -> None:
    known = {"relu": math.sqrt(2), "tanh": 1.5925374197228312, "identity": 1.0, "selu": 1.0}
    known["leaky_relu"] = math.sqrt(2 / (1 + 0.01**2))
    for name, gain in known.items():
        law = scale(He(), phi(Activation(name)), 5, 3)
        assert law is not None
        assert math.sqrt(law.sigma_w2) == pytest.approx(gain, rel=1e-9)
    assert math.sqrt(TANH_GAIN2) == pytest.approx(known["tanh"], rel=1e-10)


# Critical


def _gelu_slope(x: Any) -> Any:
    return scipy.special.ndtr(x) + x * scipy.stats.norm.pdf(x)


def _logistic_slope(x: Any) -> Any:
    return scipy.special.expit(x) * scipy.special.expit(-x)


CRITICAL = {  # φ and φ′ of their own
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "gelu": (lambda x: x * scipy.special.ndtr(x), _gelu_slope),
    "logistic": (scipy.special.expit, _logistic_slope),
}
WIDTH, DEPTH, SEEDS = 2000, 2, 6


@pytest.mark.parametrize("name", CRITICAL)
def test_a_wide_critical_network_keeps_signal_and_error_signal(name: str) -> None:
    """From an input that starts at the fixed point q: E z² stays q, σ_w² E φ′² is 1, and E δ²
    keeps its size on the way back."""
    f, slope = CRITICAL[name]
    layers = (Dense(WIDTH), Activation(name)) * DEPTH + (Dense(WIDTH),)
    model = build(Network(layers, init=Critical()), WIDTH)
    law = model.scale(model.weights[1])
    assert law is not None
    assert model.scale(model.weights[0]) == law
    q = 1.0 if law.sigma_b2 > 0 or name == "relu" else 45.624277797
    ratios = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        params = model.init(rng, np.float64)
        x = rng.standard_normal((WIDTH, 8)) * math.sqrt((q - law.sigma_b2) / law.sigma_w2)
        zs = [params["W/1"] @ x + params["b/1"][:, None]]
        for n in range(2, DEPTH + 2):
            zs.append(params[f"W/{n}"] @ f(zs[-1]) + params[f"b/{n}"][:, None])
        delta = rng.standard_normal((WIDTH, 8))
        before = np.mean(delta**2)
        for n in range(DEPTH + 1, 1, -1):
            delta = params[f"W/{n}"].T @ delta * slope(zs[n - 2])
        chis = [law.sigma_w2 * np.mean(slope(z) ** 2) for z in zs]
        ratios.append([np.mean(z**2) / q for z in zs] + chis + [np.mean(delta**2) / before])
    mean, error = np.mean(ratios, axis=0), np.std(ratios, axis=0, ddof=1) / math.sqrt(SEEDS)
    assert error.max() < 0.05
    assert error[DEPTH + 1] < 0.006  # σ_w² E φ′² where the signal comes in
    # Student's t with 5 degrees of freedom lies beyond 8 in 1 of 2000.
    assert np.all(np.abs(mean - 1) < 8 * error + 0.005), (mean, error)


def test_critical_has_no_answer_for_softplus(rng: np.random.Generator) -> None:
    model = build(Network((Dense(4), Activation("softplus"), Dense(2)), init=Critical()), 3)
    with pytest.raises(TheoryError, match="no critical initialisation") as caught:
        model.init(rng, np.float64)
    assert caught.value.where == "softplus"
    assert "σ_b² < 0 for every q" in caught.value.came
    assert not has_critical_point(phi(Activation("softplus")))
    assert has_critical_point(phi(RELU))


def test_critical_at_a_given_q() -> None:
    def sech2(x: float) -> float:
        return float(mpmath.sech(x) ** 2)

    q = 0.5
    slope = mpmath.quad(lambda z: sech2(math.sqrt(q) * z) ** 2 * mpmath.npdf(z), [-12, 0, 12])
    second = mpmath.quad(
        lambda z: mpmath.tanh(math.sqrt(q) * z) ** 2 * mpmath.npdf(z), [-12, 0, 12]
    )
    law = scale(Critical(q=q), phi(TANH), 9, 9)
    assert law is not None
    assert law.sigma_w2 == pytest.approx(float(1 / slope), rel=1e-10)
    assert law.sigma_b2 == pytest.approx(float(q - second / slope), rel=1e-9)


def test_critical_biases_have_their_variance(rng: np.random.Generator) -> None:
    law = scale(Critical(), phi(TANH), 2, 50_000)
    _, b = draw(Critical(), phi(TANH), 2, 50_000, rng, np.float64)
    assert law is not None
    assert abs(b.var() / law.sigma_b2 - 1) < 4 * math.sqrt(2 / b.size)


def test_critical_without_biases_is_the_point_where_there_are_none(
    rng: np.random.Generator,
) -> None:
    layers = (Dense(50, bias=False), TANH, Dense(2, bias=False))
    model = build(Network(layers, init=Critical()), 50)
    assert model.scale(model.weights[1]) == Variances(pytest.approx(1.0, rel=1e-12), 0.0)
    assert set(model.init(rng, np.float64)) == {"W/1", "W/2"}
    with pytest.raises(TheoryError, match="without biases must be critical at σ_b² = 0") as caught:
        scale(Critical(q=1.0), phi(TANH), 3, 3, bias=False)
    assert "q = 1, where σ_b² = 0.15" in caught.value.came
    relu = scale(Critical(q=1.0), phi(RELU), 3, 3, bias=False)
    assert relu == Variances(pytest.approx(2.0, rel=1e-12), 0.0)


# LSUV

LAYERS = (
    *(Dense(6), BatchNorm(), TANH, Dropout(0.5), Dense(6), LayerNorm(), RELU),
    *(Residual((Dense(6), TANH)), Scale(3.0), Dense(4)),
)


def pre_activations(p: dict[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """z of the four dense layers above, with the batch's moments and without dropout."""

    def standard(a: np.ndarray, axis: int) -> np.ndarray:
        return (a - a.mean(axis, keepdims=True)) / np.sqrt(a.var(axis, keepdims=True) + 1e-5)

    def dense(a: np.ndarray, n: int) -> np.ndarray:
        zs.append(a @ p[f"W/{n}"].T + p[f"b/{n}"])
        return zs[-1]

    zs: list[np.ndarray] = []
    a = np.tanh(standard(dense(x, 1), 0))
    a = np.maximum(standard(dense(a, 2), 1), 0)
    a = 3.0 * (a + np.tanh(dense(a, 3)))
    dense(a, 4)
    return zs


@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_lsuv_gives_each_layer_its_variance(gain: float, rng: np.random.Generator) -> None:
    """Layer by layer on what the layers below make of the batch; rows stay orthogonal."""
    x = rng.normal(3.0, 20.0, (30, 5))
    model = build(Network(LAYERS, init=LSUV(gain=gain, tolerance=1e-9)), 5)
    params = model.init(rng, np.float64, x)
    for n, z in enumerate(pre_activations(params, x), start=1):
        assert z.var() == pytest.approx(gain**2, rel=1e-8), n
        w = params[f"W/{n}"]
        gram = w @ w.T if len(w) <= w.shape[1] else w.T @ w
        np.testing.assert_allclose(gram / gram[0, 0], np.eye(len(gram)), atol=1e-12)
    plain = build(Network(LAYERS, init=Orthogonal(gain=gain)), 5).init(rng, np.float64)
    assert all(abs(z.var() / gain**2 - 1) > 0.01 for z in pre_activations(plain, x)[1:])


def test_lsuv_leaves_the_other_draws_alone() -> None:
    """Neither the batch nor what it makes of the weights moves the stream."""

    def drawn(init: Init, x: Any) -> dict[str, np.ndarray]:
        layers = (Dense(6, init=init), TANH, Dense(4, init=Critical()), TANH, Dense(3))
        return build(Network(layers), 5).init(np.random.default_rng(3), np.float64, x)

    rng = np.random.default_rng(0)
    ways = [
        drawn(LSUV(), rng.standard_normal((9, 5))),
        drawn(LSUV(gain=3.0), 50.0 * rng.standard_normal((4, 5))),
        drawn(Orthogonal(gain=1.0), None),
    ]
    for name in ("W/2", "b/2", "W/3"):
        assert len({way[name].tobytes() for way in ways}) == 1
    for way in ways[:2]:
        np.testing.assert_allclose(
            way["W/1"] / ways[2]["W/1"], way["W/1"][0, 0] / ways[2]["W/1"][0, 0]
        )


def test_lsuv_stops_as_the_algorithm_says() -> None:
    """Mishkin & Matas 2016, algorithm 1, where one rescaling is not enough: Var = s² + 3."""
    base = np.array([1.0, -1.0])

    def run(init: LSUV) -> tuple[float, int]:
        calls = []

        def output(w: np.ndarray) -> np.ndarray:
            calls.append(w)
            return np.array([1.0, -1.0]) * math.sqrt(float(w[0, 0] ** 2 + 3.0))

        w = unit_variance(init, base[None, :], output, "here")
        return float(w[0, 0]), len(calls)

    def by_hand(init: LSUV) -> tuple[float, int]:
        s, calls = 1.0, 0
        while calls < init.iterations:
            calls += 1
            variance = s * s + 3.0
            if abs(variance / init.gain**2 - 1.0) < init.tolerance:
                break
            s *= init.gain / math.sqrt(variance)
        return s, calls

    for init in (LSUV(gain=2.0), LSUV(gain=2.2), LSUV(gain=2.2, iterations=3), LSUV(gain=9.0)):
        got, want = run(init), by_hand(init)
        assert got[0] == pytest.approx(want[0], rel=1e-12)
        assert got[1] == want[1]
    assert run(LSUV(gain=2.0)) == (1.0, 1)


def test_lsuv_must_see_a_batch(rng: np.random.Generator) -> None:
    model = build(Network((Dense(3), TANH, Dense(2, init=LSUV()))), 4)
    with pytest.raises(SpecError, match="lsuv initialiser must see a batch") as caught:
        model.init(rng, np.float64)
    assert caught.value.where == "network.layers[2] (layer 2)"
    with pytest.raises(ShapeError, match=r"must be \(n, 4\)"):
        model.init(rng, np.float64, np.ones((5, 3)))
    assert set(build(Network((Dense(3),)), 4).init(rng, np.float64)) == {"W/1", "b/1"}


@pytest.mark.parametrize(
    ("layers", "x", "came", "where"),
    [
        ((Dense(3), RELU, Dense(2)), np.zeros((5, 4)), "variance 0", "network.layers[0] (layer 1)"),
        ((Dense(1),), np.ones((1, 4)), "variance 0", "network.layers[0] (layer 1)"),
        ((Dense(3), Scale(0.0), Dense(2)), None, "variance 0", "network.layers[2] (layer 2)"),
        ((Dense(3),), np.full((5, 4), np.nan), "variance nan", "network.layers[0] (layer 1)"),
        ((Dense(3),), np.full((5, 4), np.inf), "variance nan", "network.layers[0] (layer 1)"),
    ],
)
def test_lsuv_needs_a_variance(
    layers: Any, x: Any, came: str, where: str, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((5, 4)) if x is None else x
    with pytest.raises(SpecError, match="must have a finite variance that is not 0") as caught:
        build(Network(layers, init=LSUV()), 4).init(rng, np.float64, x)
    assert (caught.value.came, caught.value.where) == (came, where)


# In a network


def at_hand(*layers: Any) -> list[str]:
    names = []
    for p in build(Network(layers), 3).weights:
        assert isinstance(p.phi, Activation)
        names.append(p.phi.name)
    return names


def test_the_activation_at_hand() -> None:
    """The one that makes a layer's input; for the first layer the one it goes into."""
    dense = Dense(3)
    assert at_hand(dense, TANH, dense, RELU, dense) == ["tanh", "tanh", "relu"]
    assert at_hand(dense, dense, RELU, dense) == ["relu", "identity", "relu"]
    assert at_hand(dense, RELU, LayerNorm(), dense) == ["relu", "identity"]
    assert at_hand(dense) == ["identity"]
    inner = Residual((dense, TANH, dense))
    assert at_hand(dense, RELU, inner, dense) == ["relu", "relu", "tanh", "identity"]


def test_a_layer_s_own_initialiser_comes_first(rng: np.random.Generator) -> None:
    layers = (Dense(3, init=Constant(value=2.0)), RELU, Dense(2))
    params = build(Network(layers, init=Constant(value=1.0)), 3).init(rng, np.float64)
    assert np.all(params["W/1"] == 2.0)
    assert np.all(params["W/2"] == 1.0)


INITS = (
    Normal(),
    Uniform(),
    Xavier(distribution="uniform"),
    He(),
    Orthogonal(),
    LSUV(),
    Critical(),
    VarianceScaling(),
)


@pytest.mark.parametrize("init", INITS, ids=lambda i: type(i).__name__)
def test_one_seed_is_one_network(init: Init) -> None:
    """The same bits again, the same numbers in float32, and weights that biases do not disturb."""

    def drawn(seed: int, dtype: Any, bias: bool = True) -> dict[str, np.ndarray]:
        layers = (Dense(20, bias=bias), RELU, LayerNorm(), Dense(5))
        x = np.random.default_rng(0).standard_normal((9, 7))
        return build(Network(layers, init=init), 7).init(np.random.default_rng(seed), dtype, x)

    first, again, single = drawn(3, np.float64), drawn(3, np.float64), drawn(3, np.float32)
    for name, array in first.items():
        assert array.dtype == np.float64
        assert single[name].dtype == np.float32
        assert array.tobytes() == again[name].tobytes()
        assert single[name].tobytes() == array.astype(np.float32).tobytes()
    assert first["W/2"].tobytes() == drawn(3, np.float64, bias=False)["W/2"].tobytes()
    assert not np.array_equal(first["W/1"], drawn(4, np.float64)["W/1"])
    np.testing.assert_array_equal(first["g/1"], np.ones(20))
    np.testing.assert_array_equal(first["h/1"], np.zeros(20))
