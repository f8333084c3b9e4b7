"""Jacobians of stretches of networks, against PyTorch, finite differences and theory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from layered import LAYERS

from isograd import nn
from isograd.diagnosis.spectrum import spectra
from isograd.errors import IsogradError, ShapeError, SpecError
from isograd.nn import (
    Activation,
    Critical,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Orthogonal,
    Repeat,
    Residual,
    Scale,
    Xavier,
)
from isograd.nn.stretch import stretch
from isograd.theory import linearise, spectrum

RNG = np.random.default_rng


def network(*layers: Any, **settings: Any) -> Network:
    return Network(layers=layers, loss=nn.HalfSquaredError(), **settings)


def drawn(net: Network, n_in: int, seed: int = 0) -> tuple[nn.Model, dict[str, Any], Any]:
    model = nn.build(net, n_in)
    rng = RNG(seed)
    params = model.init(rng, np.float64)
    params = {k: v + 0.1 * rng.random(v.shape) for k, v in params.items()}
    return model, params, rng.standard_normal(n_in)


def dense(model: nn.Model, params: Any, x: Any, *layers: int) -> Any:
    return linearise(*stretch(model, params, x, *layers)).dense()


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_the_whole_network_by_finite_differences(layers: Any) -> None:
    model, params, x = drawn(network(*layers), 7)
    h = 1e-6
    steps = h * np.eye(7)
    want = (model(params, x + steps) - model(params, x - steps)).T / (2 * h)
    np.testing.assert_allclose(dense(model, params, x), want, atol=1e-7)


@pytest.mark.parametrize("name", ["relu", "norms", "batch norm, dropout", "learned numbers"])
def test_stretches_compose(name: str) -> None:
    model, params, x = drawn(network(*LAYERS[name]), 7)
    whole = dense(model, params, x)
    product = np.eye(7)
    for layer in range(1, model.depth + 1):
        part = dense(model, params, x, layer, layer)
        assert part.shape[1] == model.weights[layer - 1].n_in
        product = part @ product
    np.testing.assert_allclose(product, whole, rtol=1e-9, atol=1e-12)


def test_a_layer_is_weights_with_what_follows() -> None:
    model, params, x = drawn(network(Dense(5), Activation("tanh"), Dense(4)), 3)
    f, point = stretch(model, params, x, 2)
    z = x @ params["W/1"].T + params["b/1"]
    np.testing.assert_allclose(point, np.tanh(z), rtol=1e-14)
    np.testing.assert_allclose(f(point), model(params, x[None])[0], rtol=1e-14)
    slope = 1 - np.tanh(z) ** 2
    np.testing.assert_allclose(dense(model, params, x, 1, 1), slope[:, None] * params["W/1"])
    np.testing.assert_allclose(dense(model, params, x[None], 2), params["W/2"])


BLOCKS = (
    Dense(6),
    Activation("tanh"),
    Residual((LayerNorm(), Dense(6), Activation("tanh"))),
    Residual((Dense(6), Activation("relu"), Dense(6))),
    Dense(2),
)


def test_stretches_keep_residual_blocks_whole() -> None:
    model, params, x = drawn(network(*BLOCKS), 4)
    whole = dense(model, params, x)
    parts = [dense(model, params, x, *ends) for ends in ((1, 1), (2, 2), (3, 4), (5, 5))]
    np.testing.assert_allclose(np.linalg.multi_dot(parts[::-1]), whole, rtol=1e-10)
    unit = np.tanh(x @ params["W/1"].T + params["b/1"])
    h = 1e-6
    f, point = stretch(model, params, x, 2, 2)
    np.testing.assert_allclose(point, unit)
    want = np.array([(f(unit + e) - f(unit - e)) / (2 * h) for e in h * np.eye(6)]).T
    np.testing.assert_allclose(parts[1], want, atol=1e-8)
    for ends in ((4, 5), (1, 3), (3, 3)):
        with pytest.raises(SpecError, match="cut a residual block") as caught:
            stretch(model, params, x, *ends)
        assert "layers[3]" in str(caught.value)


def test_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    net = network(
        Dense(9),
        LayerNorm(),
        Activation("gelu"),
        Residual((Dense(9), Activation("tanh"))),
        Dense(9),
        Activation("elu"),
        Dense(3),
    )
    model, params, x = drawn(net, 6)
    p = {name: torch.tensor(array) for name, array in params.items()}
    F = torch.nn.functional

    def layer(h: Any, number: int) -> Any:
        return F.linear(h, p[f"W/{number}"], p[f"b/{number}"])

    def middle(h: Any) -> Any:
        return F.elu(layer(h + torch.tanh(layer(h, 2)), 3))

    def start(h: Any) -> Any:
        return F.gelu(F.layer_norm(layer(h, 1), (9,), p["g/1"], p["h/1"], 1e-5))

    at = torch.tensor(x)
    jacobian = torch.autograd.functional.jacobian
    whole = jacobian(lambda h: layer(middle(start(h)), 4), at).numpy()
    np.testing.assert_allclose(dense(model, params, x), whole, rtol=1e-9, atol=1e-12)
    part = jacobian(middle, start(at)).numpy()
    np.testing.assert_allclose(dense(model, params, x, 2, 3), part, rtol=1e-9, atol=1e-12)
    found = spectrum(*stretch(model, params, x, 2, 3), rng=RNG(0))
    np.testing.assert_allclose(found.values, np.linalg.svd(part)[1], rtol=1e-9)


def test_float32_parameters_are_read_in_float64() -> None:
    model, params, x = drawn(network(*LAYERS["tanh"]), 7)
    small = {k: v.astype(np.float32) for k, v in params.items()}
    exact = {k: v.astype(np.float64) for k, v in small.items()}
    np.testing.assert_array_equal(dense(model, small, x), dense(model, exact, x))


@pytest.mark.parametrize(
    ("call", "error", "must"),
    [
        (lambda m, p, x: stretch(m, p, x, 0), SpecError, "layers from 1 to 4"),
        (lambda m, p, x: stretch(m, p, x, 2, 5), SpecError, "layers from 1 to 4"),
        (lambda m, p, x: stretch(m, p, x, 3, 2), SpecError, "layers from 1 to 4"),
        (lambda m, p, x: stretch(m, p, x[:5]), ShapeError, "7 features"),
        (lambda m, p, x: stretch(m, p, np.stack([x, x])), ShapeError, "7 features"),
    ],
)
def test_errors(call: Any, error: type[IsogradError], must: str) -> None:
    with pytest.raises(error, match=must):
        call(*drawn(network(*LAYERS["relu"]), 7))


# --- predicted beside measured


WIDE = 200
STACKS = {
    "tanh, Gaussian": (Critical(q=0.5), "tanh", 4),
    "tanh, orthogonal": (Orthogonal(gain=1.2), "tanh", 6),
    "relu, He": (nn.He(), "relu", 3),
    "hard tanh, orthogonal": (Orthogonal(gain=1.05), "hard_tanh", 6),
    "gelu, Xavier": (Xavier(gain=1.5), "gelu", 3),
}


@pytest.mark.parametrize(("init", "act", "depth"), STACKS.values(), ids=STACKS.keys())
def test_a_prediction_meets_the_measured(init: Any, act: str, depth: int) -> None:
    """The logarithm of the mean to 4 standard errors over draws, its width's own spread."""
    net = network(Repeat(depth, (Dense(WIDE), Activation(act))), init=init)
    model = nn.build(net, WIDE)
    rng = RNG(11)
    logs, variances, tops = [], [], []
    for _ in range(6):
        params = model.init(rng, np.float64)
        found = spectra(model, params, rng.standard_normal(WIDE), rng=rng)
        assert found.predicted is not None and found.reason == ""  # noqa: PT018
        logs.append(found.measured.log_mean)
        variances.append(found.measured.variance)
        tops.append(found.measured.nodes[-1])
    p = found.predicted
    band = 4 * np.std(logs, ddof=1) / math.sqrt(len(logs))
    assert band < 0.6
    assert np.mean(logs) == pytest.approx(p.log_mean, abs=band)
    assert np.mean(variances) == pytest.approx(p.variance, rel=0.1)
    assert np.mean(tops) == pytest.approx(p.upper, rel=2 * WIDE ** (-2 / 3) * depth)


def test_a_prediction_of_a_stretch_knows_the_layers_before() -> None:
    """q of layer 2 is that after layer 1, with scales counted in, and widths as they are."""
    net = network(
        Dense(40),
        Activation("tanh"),
        Dropout(0.2),
        Scale(2.0),
        Dense(20),
        Scale(3.0),
        Activation("tanh"),
        Dense(10),
        init=nn.LeCun(gain=1.5),
    )
    model, params, x = drawn(net, 30)
    found = spectra(model, params, x, 2, 3, rng=RNG(0))
    assert found.predicted is not None
    z = RNG(1).standard_normal(2_000_000)
    q1 = 1.5**2 * np.mean(x**2)
    q2 = 9 * 1.5**2 * 4 * np.mean(np.tanh(math.sqrt(q1) * z) ** 2)
    slope = 9 * 1.5**2 * np.mean((1 - np.tanh(math.sqrt(q2) * z) ** 2) ** 2)
    # λ of 10 of 10 × 40: n_out/m times σ_w² E φ′² of each layer.
    assert found.predicted.log_mean == pytest.approx(math.log(slope * 1.5**2), abs=5e-3)
    assert (found.measured.n_in, found.measured.n_out) == (40, 10)


@pytest.mark.parametrize(
    ("layers", "init", "reason"),
    [
        ((Dense(8), LayerNorm(), Dense(4)), nn.He(), "no normalisation"),
        ((Residual((Dense(8),)), Dense(4)), nn.He(), "no residual"),
        ((Dense(8), Activation("tanh"), Activation("relu")), nn.He(), "weights of its own"),
        ((Activation("tanh"), Dense(8)), nn.He(), "weights of its own"),
        ((Dense(8), Activation("softmax"), Dense(4)), nn.He(), "weights of its own"),
        ((Dense(8, init=nn.LSUV()), Dense(4)), nn.He(), "not random"),
    ],
)
def test_no_prediction_has_a_reason(layers: Any, init: Any, reason: str) -> None:
    model = nn.build(network(*layers, init=init), 8)
    rng = RNG(0)
    params = model.init(rng, np.float64, rng.standard_normal((20, 8)))
    found = spectra(model, params, rng.standard_normal(8), rng=rng)
    assert found.predicted is None
    assert reason in found.reason
    assert "layers[" in found.reason
    assert found.measured.values is not None
