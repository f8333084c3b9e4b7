"""Networks as functions: places, shapes, values and error signals against NumPy written by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from checks import check_grads, check_modes, once, same_bits
from scipy.special import expit, log_softmax, softmax

import isograd
from isograd.backends.numpy import Scan
from isograd.engine.plan import plan
from isograd.errors import ShapeError, SpecError
from isograd.nn import (
    Activation,
    BinaryCrossEntropy,
    Constant,
    Dense,
    Dropout,
    HalfSquaredError,
    LayerNorm,
    Model,
    Network,
    Repeat,
    Residual,
    Scale,
    SoftmaxCrossEntropy,
    Training,
    build,
)
from isograd.nn.forward import layer_norm
from isograd.nn.model import Part
from isograd.nn.spec import Adam, Layer
from isograd.optim import Optimiser, optimiser
from isograd.optim.rules import sgd
from isograd.training.step import Layout, Step, compile_step, parameters

TANH, RELU, LOGISTIC = Activation("tanh"), Activation("relu"), Activation("logistic")
Params = dict[str, np.ndarray]
Seen = list[tuple[str, np.ndarray]]


def random_params(model: Model, rng: np.random.Generator) -> Params:
    """Parameters none of which is 0 or 1 by construction."""
    return {k: rng.normal(0.2, 0.7, shape) for k, shape in model.shapes.items()}


def compiled(model: Model, batch: int, rule: Optimiser | None = None) -> tuple[Step, Layout]:
    """A step for batches of some size."""
    layout = Layout(model.shapes)
    inputs = isograd.ArraySpec((batch, model.n_in), np.float64)
    outputs = isograd.ArraySpec((batch, model.n_out), np.float64)
    labels = isinstance(model.network.loss, SoftmaxCrossEntropy)
    targets = isograd.ArraySpec((batch,), np.int64) if labels else outputs
    key = np.zeros(2, np.uint32)
    return compile_step(model, rule or sgd(), layout, inputs, targets, batch, key), layout


# Places

EVERYTHING = Network(
    (
        LayerNorm(),
        Dense(4),
        TANH,
        LayerNorm(),
        Residual((RELU, Dense(4, bias=False), LayerNorm(), Residual((Dense(4),)))),
        Repeat(2, (Dense(3), LOGISTIC)),
        Dense(2),
    )
)


def test_every_layer_has_its_place_its_number_and_its_sizes() -> None:
    model = build(EVERYTHING, 5, 2)
    block = "network.layers[4]"
    want = [
        (Part.NORMALISATION, 0, "n/0", "dn/0", 5, 5, "network.layers[0]"),
        (Part.WEIGHTS, 1, "z/1", "delta/1", 5, 4, "network.layers[1]"),
        (Part.ACTIVATION, 1, "a/1", "da/1", 4, 4, "network.layers[2]"),
        (Part.NORMALISATION, 1, "n/1", "dn/1", 4, 4, "network.layers[3]"),
        (Part.SKIP_OPENS, 1, "s/1", "ds/1", 4, 4, block),
        (Part.ACTIVATION, 1, "a/1.1", "da/1.1", 4, 4, block + ".layers[0]"),
        (Part.WEIGHTS, 2, "z/2", "delta/2", 4, 4, block + ".layers[1]"),
        (Part.NORMALISATION, 2, "n/2", "dn/2", 4, 4, block + ".layers[2]"),
        (Part.SKIP_OPENS, 2, "s/2", "ds/2", 4, 4, block + ".layers[3]"),
        (Part.WEIGHTS, 3, "z/3", "delta/3", 4, 4, block + ".layers[3].layers[0]"),
        (Part.SKIP_CLOSES, 3, "r/3", "dr/3", 4, 4, block + ".layers[3]"),
        (Part.SKIP_CLOSES, 3, "r/3.1", "dr/3.1", 4, 4, block),
        (Part.WEIGHTS, 4, "z/4", "delta/4", 4, 3, "network.layers[5].layers[0]"),
        (Part.ACTIVATION, 4, "a/4", "da/4", 3, 3, "network.layers[5].layers[1]"),
        (Part.WEIGHTS, 5, "z/5", "delta/5", 3, 3, "network.layers[5].layers[0]"),
        (Part.ACTIVATION, 5, "a/5", "da/5", 3, 3, "network.layers[5].layers[1]"),
        (Part.WEIGHTS, 6, "z/6", "delta/6", 3, 2, "network.layers[6]"),
    ]
    got = [(p.part, p.layer, p.site, p.cotangent, p.n_in, p.n_out, p.path) for p in model.places]
    assert got == want
    assert (model.depth, model.n_in, model.n_out) == (6, 5, 2)
    assert [p.layer for p in model.weights] == [1, 2, 3, 4, 5, 6]


def test_parameters_and_their_shapes(rng: np.random.Generator) -> None:
    model = build(EVERYTHING, 5)
    dense = {"W/1": (4, 5), "b/1": (4,), "W/2": (4, 4), "W/3": (4, 4), "b/3": (4,)}
    dense |= {"W/4": (3, 4), "b/4": (3,), "W/5": (3, 3), "b/5": (3,), "W/6": (2, 3), "b/6": (2,)}
    norms = {"g/0": (5,), "h/0": (5,), "g/1": (4,), "h/1": (4,), "g/2": (4,), "h/2": (4,)}
    assert model.shapes == dense | norms
    assert model.parameter_count == 20 + 4 + 16 + 16 + 4 + 12 + 3 + 9 + 3 + 6 + 2 + 2 * (5 + 4 + 4)
    drawn = model.init(rng, np.float32)
    assert {k: v.shape for k, v in drawn.items()} == model.shapes
    assert all(v.dtype == np.float32 for v in drawn.values())


def test_what_activations_read_is_where_saturation_is_looked_for() -> None:
    active = build(EVERYTHING, 5).active
    assert set(active) == {"z/1", "s/1", "z/4", "z/5"}
    assert active["s/1"] == (0.0, math.inf)
    assert active["z/4"] == pytest.approx((-5.986, 5.986), abs=1e-3)
    assert build(Network((Dense(3), Activation("identity"))), 2).active == {}


# Values, by hand


def test_a_network_of_three_layers_by_hand(rng: np.random.Generator) -> None:
    model = build(Network((Dense(4), TANH, Dense(3), RELU, Dense(2))), 5, 2)
    p = random_params(model, rng)
    x, y = rng.standard_normal((6, 5)), rng.integers(0, 2, 6)
    a1 = np.tanh(x @ p["W/1"].T + p["b/1"])
    a2 = np.maximum(a1 @ p["W/2"].T + p["b/2"], 0.0)
    logits = a2 @ p["W/3"].T + p["b/3"]
    np.testing.assert_allclose(model(p, x), logits, rtol=1e-14)
    want = -log_softmax(logits, axis=1)[np.arange(6), y].mean()
    assert float(model.loss(p, x, y)) == pytest.approx(want, rel=1e-14)


def normalised(x: np.ndarray, gain: np.ndarray, shift: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * gain + shift


def test_everything_at_once_by_hand(rng: np.random.Generator) -> None:
    model = build(EVERYTHING, 5, 2)
    p = random_params(model, rng)
    x = rng.standard_normal((6, 5))
    u = normalised(x, p["g/0"], p["h/0"])
    u = normalised(np.tanh(u @ p["W/1"].T + p["b/1"]), p["g/1"], p["h/1"])
    v = normalised(np.maximum(u, 0) @ p["W/2"].T, p["g/2"], p["h/2"])
    u = u + (v + (v @ p["W/3"].T + p["b/3"]))
    u = expit(expit(u @ p["W/4"].T + p["b/4"]) @ p["W/5"].T + p["b/5"])
    np.testing.assert_allclose(model(p, x), u @ p["W/6"].T + p["b/6"], rtol=1e-13)


def test_derivatives_of_everything_at_once(rng: np.random.Generator) -> None:
    layers = (LayerNorm(), Dense(3), TANH, Residual((Dense(3), LOGISTIC)), Dense(2))
    model = build(Network(layers, loss=SoftmaxCrossEntropy(l2=0.1)), 4, 2)
    p = random_params(model, rng)
    x, y = rng.standard_normal((5, 4)), rng.integers(0, 2, 5)
    check_grads(lambda p: model.loss(p, x, y), [p])
    check_modes(lambda p: isograd.value_and_grad(lambda q: model.loss(q, x, y))(p), p)


def test_a_residual_block_and_its_gradient_by_hand(rng: np.random.Generator) -> None:
    """x + W tanh(Vx): the cotangent of x is g + Vᵀ(tanh′ ∘ Wᵀg)."""
    model = build(Network((Residual((Dense(4, bias=False), TANH, Dense(3, bias=False))),)), 3)
    p = random_params(model, rng)
    x, g = rng.standard_normal((6, 3)), rng.standard_normal((6, 3))
    value, pullback = isograd.vjp(lambda x: model(p, x), x)
    t = np.tanh(x @ p["W/1"].T)
    np.testing.assert_allclose(value, x + t @ p["W/2"].T, rtol=1e-13)
    want = g + ((1 - t**2) * (g @ p["W/2"])) @ p["W/1"]
    np.testing.assert_allclose(pullback(g)[0], want, rtol=1e-12)


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_layer_norm_is_that_of_pytorch(eps: float, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.normal(3.0, 2.0, (7, 5))
    x[0] = 4.0  # no variance at all
    gain, shift, g = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal((7, 5))
    value, pullback = isograd.vjp(lambda *a: layer_norm(*a, eps), x, gain, shift)
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, gain, shift)]
    out = torch.nn.functional.layer_norm(theirs[0], (5,), theirs[1], theirs[2], eps)
    out.backward(torch.tensor(g))
    np.testing.assert_allclose(value, out.detach().numpy(), rtol=1e-13, atol=1e-13)
    for got, tensor in zip(pullback(g), theirs, strict=True):
        np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_float32_stays_float32(rng: np.random.Generator) -> None:
    for loss in (SoftmaxCrossEntropy(l2=0.1), BinaryCrossEntropy(l2=0.1)):
        model = build(Network(EVERYTHING.layers, loss=loss), 5)
        p = model.init(rng, np.float32)
        x = rng.standard_normal((3, 5)).astype(np.float32)
        softmax_loss = isinstance(loss, SoftmaxCrossEntropy)
        y: Any = np.array([0, 1, 1]) if softmax_loss else np.ones((3, 2), np.float32)
        value, gradient = isograd.value_and_grad(model.loss)(p, x, y)
        assert value.dtype == np.float32
        assert {array.dtype for array in gradient.values()} == {np.dtype(np.float32)}


def test_infinities_pass_without_a_warning() -> None:
    model = build(Network((Dense(2, init=Constant(value=1e200)), RELU, Dense(1))), 1)
    p = model.init(np.random.default_rng(0), np.float64)
    p["W/2"] = np.array([[1e200, -1.0]])
    assert np.isinf(model(p, np.array([[1e9]]))).all()
    assert np.isnan(model(p, np.array([[np.nan]]))).all()


# Worked examples


def test_one_neuron_by_hand() -> None:
    """ŷ = wx + b = 1.4, L = ½(ŷ − y)² = 0.18, ∂L/∂w = 0.9, ∂L/∂b = 0.6."""
    model = build(Network((Dense(1),), loss=HalfSquaredError()), 1, 1)
    p = {"W/1": np.array([[0.8]]), "b/1": np.array([0.2])}
    x, y = np.array([[1.5]]), np.array([[0.8]])
    value, gradient = isograd.value_and_grad(lambda p: model.loss(p, x, y))(p)
    assert model(p, x).item() == pytest.approx(1.4, rel=1e-15)
    assert float(value) == pytest.approx(0.18, rel=1e-14)
    assert gradient["W/1"].item() == pytest.approx(0.9, rel=1e-14)
    assert gradient["b/1"].item() == pytest.approx(0.6, rel=1e-14)


def test_one_sigmoid_by_hand() -> None:
    """1/(exp(−(wx + b)) + 1) at x = 1, w = 0, b = 0: the slope by w is ¼."""
    model = build(Network((Dense(1), LOGISTIC)), 1)
    p = {"W/1": np.zeros((1, 1)), "b/1": np.zeros(1)}
    slope = isograd.grad(lambda p: isograd.functions.sum(model(p, np.ones((1, 1)))))(p)
    assert slope["W/1"].item() == 0.25


@pytest.mark.parametrize(("w", "depth", "end"), [(1.5, 100, 4e17), (0.8, 100, 2e-10)])
def test_a_hundred_equal_weights(w: float, depth: int, end: float) -> None:
    chain = Repeat(depth, (Dense(1, bias=False),))
    model = build(Network((chain,), init=Constant(value=w)), 1)
    p = model.init(np.random.default_rng(0), np.float64)
    out = model(p, np.ones((1, 1))).item()
    assert out == pytest.approx(w**depth, rel=1e-13)
    assert out == pytest.approx(end, rel=0.05)


def test_ten_thousand_layers() -> None:
    """No recursion anywhere: ŷ = wᴸx and ∂L/∂w_l = (ŷ − y) wᴸ⁻¹x for each of them."""
    w, depth, x, y = 1.0001, 10_000, 0.7, 0.4
    chain = Repeat(depth, (Dense(1, bias=False),))
    network = Network((chain,), loss=HalfSquaredError(), init=Constant(value=w))
    model = build(network, 1, 1)
    assert model.depth == model.parameter_count == depth
    p = model.init(np.random.default_rng(0), np.float64)
    value, gradient = isograd.value_and_grad(
        lambda p: model.loss(p, np.array([[x]]), np.array([[y]]))
    )(p)
    out = w**depth * x
    assert float(value) == pytest.approx(0.5 * (out - y) ** 2, rel=1e-11)
    slopes = np.concatenate([g.ravel() for g in gradient.values()])
    np.testing.assert_allclose(slopes, (out - y) * w ** (depth - 1) * x, rtol=1e-11)


def test_ten_thousand_layers_in_a_residual_block() -> None:
    chain = Repeat(5000, (Dense(1, bias=False), Activation("identity")))
    model = build(Network((Repeat(2, (Residual((chain,)),)),), init=Constant(value=1.0)), 1)
    p = model.init(np.random.default_rng(0), np.float64)
    assert model.depth == 10_000
    assert model(p, np.array([[3.0]])).item() == 12.0


# What probes see


def run(
    step: Step, layout: Layout, p: Params, x: np.ndarray, y: np.ndarray, lr: float
) -> tuple[Any, Seen]:
    seen: Seen = []
    result = once(
        Scan(plan(step.graph)),
        *arguments(step, layout, p, x, y, lr),
        observe=lambda site, array: seen.append((site, np.array(array))),
    )
    return result, seen


def arguments(
    step: Step, layout: Layout, p: Params, x: np.ndarray, y: np.ndarray, lr: float
) -> tuple[Any, ...]:
    """Of a step over all rows."""
    return (layout.join(p), step.state, {}), (x, y), (np.arange(len(x)), lr, np.uint32(0))


def by_hand(p: Params, x: np.ndarray, y: np.ndarray, lr: float) -> Params:
    """Every site of a network Dense, tanh, Dense, logistic, Dense under softmax, in NumPy."""
    out = {"input/0": x, **p}
    a = x
    for n, f in ((1, np.tanh), (2, expit), (3, lambda z: z)):
        z = a @ p[f"W/{n}"].T + p[f"b/{n}"]
        out[f"z/{n}"], out[f"v/{n}"] = z, z - z.mean(axis=0)
        a = f(z)
        if n < 3:
            out[f"a/{n}"] = a
    out["delta/3"] = (softmax(z, axis=1) - np.eye(2)[y]) / len(y)
    slopes = {1: 1 - out["a/1"] ** 2, 2: out["a/2"] * (1 - out["a/2"])}
    for n in (2, 1):
        out[f"da/{n}"] = out[f"delta/{n + 1}"] @ p[f"W/{n + 1}"]
        out[f"delta/{n}"] = out[f"da/{n}"] * slopes[n]
    for n in (1, 2, 3):
        before = out[f"a/{n - 1}"] if n > 1 else x
        out[f"dW/{n}"] = out[f"delta/{n}"].T @ before
        out[f"db/{n}"] = out[f"delta/{n}"].sum(axis=0)
        for name in (f"W/{n}", f"b/{n}"):
            out[f"u{name}"] = -lr * out[f"d{name}"]
    return out


def test_a_step_shows_each_site_once_with_what_belongs_there(rng: np.random.Generator) -> None:
    model = build(Network((Dense(4), TANH, Dense(3), LOGISTIC, Dense(2))), 5, 2)
    step, layout = compiled(model, 6)
    p = random_params(model, rng)
    x, y = rng.standard_normal((6, 5)), rng.integers(0, 2, 6)
    _, seen = run(step, layout, p, x, y, 0.3)
    want = by_hand(p, x, y, 0.3)
    assert Counter(site for site, _ in seen) == dict.fromkeys(want, 1)
    for site, array in seen:
        np.testing.assert_allclose(array, want[site], rtol=1e-11, atol=1e-15, err_msg=site)


def test_a_step_of_everything_shows_each_site_once(rng: np.random.Generator) -> None:
    model = build(EVERYTHING, 5, 2)
    step, layout = compiled(model, 6)
    x, y = rng.standard_normal((6, 5)), rng.integers(0, 2, 6)
    _, seen = run(step, layout, random_params(model, rng), x, y, 0.3)
    places = [s for p in model.places for s in (p.site, p.cotangent)]
    spread = [f"v/{p.layer}" for p in model.weights]
    learned = [a + b for a in ("", "d", "u") for b in model.shapes]
    assert Counter(site for site, _ in seen) == Counter(["input/0", *places, *spread, *learned])


def test_every_error_signal_is_the_slope_by_an_offset(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """∂L/∂z of each place, against central differences of L by an offset added there."""
    model = build(EVERYTHING, 5, 2)
    p = random_params(model, rng)
    x, y = rng.standard_normal((3, 5)), rng.integers(0, 2, 3)
    seen = dict(run(*compiled(model, 3), p, x, y, 0.1)[1])

    def shifted(site: str, offset: np.ndarray) -> float:
        def probe(array: Any, name: str, cotangent: str | None = None) -> Any:
            return array + offset if name == site else array

        with monkeypatch.context() as patch:
            patch.setattr(isograd.functions, "probe", probe)
            return float(model.loss(p, x, y))

    for place in model.places:
        shape = (3, place.n_out)
        steps = 1e-6 * np.eye(3 * place.n_out).reshape(-1, *shape)
        want = [(shifted(place.site, e) - shifted(place.site, -e)) / 2e-6 for e in steps]
        np.testing.assert_allclose(
            seen[place.cotangent], np.reshape(want, shape), rtol=1e-6, atol=1e-9, err_msg=place.site
        )


# A step


def test_a_step_returns_what_it_says(rng: np.random.Generator) -> None:
    """θ, loss, ‖g‖ and gᵀΔθ by hand; the measured and the bare graph to the same bits."""
    model = build(Network((Dense(4), TANH, Dense(3), LOGISTIC, Dense(2))), 5, 2)
    step, layout = compiled(model, 6)
    p = random_params(model, rng)
    x, y = rng.standard_normal((6, 5)), rng.integers(0, 2, 6)
    result, _ = run(step, layout, p, x, y, 0.3)
    assert same_bits(result, once(step.bare, *arguments(step, layout, p, x, y, 0.3)))
    (theta, _, _), (value, norm, slope) = result
    want = by_hand(p, x, y, 0.3)
    g = np.concatenate([want[f"d{name}"].ravel() for name in layout.shapes])
    np.testing.assert_allclose(theta, layout.join(p) - 0.3 * g, rtol=1e-13)
    assert float(value) == pytest.approx(float(model.loss(p, x, y)), rel=1e-14)
    loss = step.loss(layout.join(p), {}, (x, y), np.arange(6), np.uint32(0))
    assert same_bits(loss, model.loss(p, x, y))
    assert float(norm) == pytest.approx(np.linalg.norm(g), rel=1e-12)
    assert float(slope) == pytest.approx(-0.3 * g @ g, rel=1e-12)


def test_the_gradient_is_reported_before_it_is_clipped(rng: np.random.Generator) -> None:
    model = build(Network((Dense(3), RELU, Dense(2)), loss=HalfSquaredError()), 4, 2)
    rule = optimiser(Adam(lr=0.1), Training(clip_norm=1e-3))
    step, layout = compiled(model, 5, rule)
    p = random_params(model, rng)
    x, y = rng.standard_normal((5, 4)), 100.0 * rng.standard_normal((5, 2))
    ((theta, _, _), (_, norm, slope)), seen = run(step, layout, p, x, y, 0.1)
    g = np.concatenate([dict(seen)[f"d{name}"].ravel() for name in layout.shapes])
    assert norm > 1.0
    assert float(norm) == pytest.approx(np.linalg.norm(g), rel=1e-12)
    assert float(slope) == pytest.approx(g @ (theta - layout.join(p)), rel=1e-9)


def test_one_vector_holds_all_parameters(rng: np.random.Generator) -> None:
    model = build(EVERYTHING, 5)
    layout, p = Layout(model.shapes), random_params(model, rng)
    theta = layout.join(p)
    assert layout.size == theta.size == model.parameter_count
    copies = parameters(layout, theta)
    assert same_bits(copies, p)
    theta[:] = 0.0
    assert same_bits(copies, p)


# Bad input


def test_the_last_layer_must_fit_the_data() -> None:
    layers = (Repeat(2, (Dense(4), TANH)), Dense(7), Activation("identity"))
    with pytest.raises(SpecError, match="the last layer must have 10 units, one per class") as e:
        build(Network(layers), 5, 10)
    assert (e.value.came, e.value.where) == ("7 units", "network.layers[1] (layer 3)")
    assert e.value.fix == "set units = 10 there"
    with pytest.raises(SpecError, match="must have 1 units, one per target"):
        build(Network(layers, loss=HalfSquaredError()), 5, 1)


def test_a_residual_block_must_keep_the_width() -> None:
    inner = Residual((Dense(4), Residual((TANH, Dense(6)))))
    with pytest.raises(SpecError, match="a residual block must keep the number of features") as e:
        build(Network((Dense(4), Repeat(3, (inner,)), Dense(2))), 5, 2)
    assert e.value.came == "4 in, 6 out"
    assert e.value.where == "network.layers[1].layers[0].layers[1] (after layer 3)"
    assert e.value.fix == "set the units of its last dense layer to 4"


def test_a_network_must_have_weights() -> None:
    with pytest.raises(SpecError, match="at least one dense layer") as e:
        build(Network((TANH, LayerNorm())), 5, 5)
    assert e.value.came == "2 layers without weights"
    assert e.value.where == "network.layers"


@pytest.mark.parametrize("shape", [(3, 4), (5,), (1, 3, 5)])
def test_inputs_must_have_the_features_that_were_built_for(shape: tuple[int, ...]) -> None:
    model = build(Network((Dense(2),)), 5)
    p = model.init(np.random.default_rng(0), np.float64)
    with pytest.raises(ShapeError, match=r"inputs of this network must be \(n, 5\)") as e:
        model(p, np.zeros(shape))
    assert e.value.came.startswith("f64[")


def test_no_rows_give_no_outputs() -> None:
    model = build(EVERYTHING, 5)
    p = model.init(np.random.default_rng(0), np.float64)
    assert model(p, np.zeros((0, 5))).shape == (0, 2)


PROBABILITIES = BinaryCrossEntropy(inputs="probabilities")


@pytest.mark.parametrize(
    ("layers", "loss", "must", "came", "fix"),
    [
        ((Activation("softmax"),), SoftmaxCrossEntropy(), "has the softmax", "twice", "remove"),
        ((LOGISTIC,), BinaryCrossEntropy(), "has the logistic", "twice", '"probabilities"'),
        ((), PROBABILITIES, "must give probabilities", "dense", '"logistic"'),
        ((TANH,), PROBABILITIES, "must give probabilities", "tanh", '"logits"'),
        ((TANH, Scale()), PROBABILITIES, "must give probabilities", "tanh", '"logits"'),
        ((LOGISTIC, Dropout()), PROBABILITIES, "must give probabilities", "dropout", "logistic"),
        ((Activation("softmax"),), PROBABILITIES, "probabilities", "always 1", "logistic"),
    ],
)
def test_the_last_layer_gives_what_the_loss_takes(
    layers: tuple[Layer, ...], loss: Any, must: str, came: str, fix: str
) -> None:
    n_out = 3 if isinstance(loss, SoftmaxCrossEntropy) else 1
    with pytest.raises(SpecError, match=must) as e:
        build(Network((Dense(n_out), *layers), loss=loss), 4, n_out)
    named = len(layers) - (isinstance(layers[-1], Scale) if layers else 0)
    assert e.value.where == f"network.layers[{named}] (layer 1)"
    assert came in e.value.came
    assert fix in e.value.fix


@pytest.mark.parametrize(
    ("layers", "n_out", "loss"),
    [
        ((LOGISTIC,), 1, PROBABILITIES),
        ((LOGISTIC, Scale(0.7, learned=False)), 1, PROBABILITIES),  # a known share of labels
        ((Activation("softmax"),), 2, PROBABILITIES),
        ((TANH,), 1, BinaryCrossEntropy()),  # bounded logits
        ((LOGISTIC,), 3, SoftmaxCrossEntropy()),
        ((Activation("softmax"), Scale(9.0)), 3, SoftmaxCrossEntropy()),
        ((Activation("softmax"),), 3, HalfSquaredError()),
    ],
)
def test_last_layers_with_a_use_are_allowed(
    layers: tuple[Layer, ...], n_out: int, loss: Any
) -> None:
    assert build(Network((Dense(n_out), *layers), loss=loss), 4, n_out).n_out == n_out
