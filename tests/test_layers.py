"""Dropout, normalisations, scale and learned activations, in training and outside of it.

Against PyTorch in float64, and against NumPy and Python's integers where PyTorch draws its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import check_grads, check_modes, run_static, same_bits
from msgspec.structs import replace
from threefry import keep

import isograd
from isograd.backends.numpy import Executable
from isograd.diagnosis import Diagnosis, Expectation, Finding, examine
from isograd.diagnosis.expected import expected
from isograd.engine.plan import plan
from isograd.errors import SpecError
from isograd.nn import (
    LSUV,
    SGD,
    Activation,
    Adam,
    BatchNorm,
    Data,
    Dense,
    Dropout,
    HalfSquaredError,
    He,
    LayerNorm,
    Model,
    Network,
    Repeat,
    Residual,
    RMSNorm,
    Scale,
    SoftmaxCrossEntropy,
    Spec,
    Training,
    Uniform,
    Xavier,
    Zeros,
    build,
)
from isograd.nn.forward import dropout, layer_norm, rms_norm
from isograd.nn.model import Noise
from isograd.nn.spec import Init, Layer
from isograd.nn.toml import dumps, loads
from isograd.remedy import candidates
from isograd.remedy.edits import add_layer_norm, add_residuals, set_activation
from isograd.telemetry.records import Site
from isograd.training.data import Split, from_arrays
from isograd.training.loop import Outcome, fit

TANH, RELU, PRELU = Activation("tanh"), Activation("relu"), Activation("prelu")
SWISH = Activation("swish", beta=0.7, learned=True)
KEY = np.array([0x13198A2E, 0x03707344], np.uint32)
WORDS = (0x13198A2E, 0x03707344)
Params = dict[str, Any]


def noise(step: int = 3) -> Noise:
    return Noise(KEY, np.asarray(step, np.uint32))


def random_params(model: Model, rng: np.random.Generator) -> Params:
    """Parameters and statistics none of which is 0 or 1 by construction."""
    out: Params = {k: rng.normal(0.2, 0.7, shape) for k, shape in model.shapes.items()}
    for name, shape in model.statistics.items():
        out[name] = rng.normal(0.2, 0.7, shape) if name[0] == "m" else rng.uniform(0.3, 2, shape)
    return out


def one(*layers: Layer, n_in: int = 5, **loss: Any) -> Model:
    """A network that ends in one dense layer of two outputs."""
    return build(Network((*layers, Dense(2)), **loss), n_in, 2)


# Names

EVERYTHING = (
    *(Dropout(0.2), Scale(), BatchNorm(), Dense(4), BatchNorm(momentum=0.3), PRELU, Scale(0.5)),
    *(SWISH, RMSNorm(), Dropout(0.5), LayerNorm(), Dropout(0.3)),
    Residual((Dense(4), BatchNorm(), RELU, Scale(0.1, learned=False), Dropout(0.4))),
    *(Repeat(2, (Dense(3), RMSNorm(), TANH)), Scale(), PRELU),
)


def test_sites_of_the_new_layers() -> None:
    places = one(*EVERYTHING).places
    assert [(p.site, p.cotangent) for p in places[:12]] == [
        *(("m/0", "dm/0"), ("k/0", "dk/0"), ("n/0", "dn/0")),
        *(("z/1", "delta/1"), ("n/1", "dn/1"), ("a/1", "da/1"), ("k/1", "dk/1")),
        *(("a/1.1", "da/1.1"), ("n/1.1", "dn/1.1"), ("m/1", "dm/1"), ("n/1.2", "dn/1.2")),
        ("m/1.1", "dm/1.1"),
    ]
    assert [p.number for p in places] == list(range(len(places)))
    assert len({p.site for p in places}) == len(places)


def test_what_the_new_layers_learn_and_gather() -> None:
    """Within a layer, each parameter of one letter has a name of its own."""
    model = one(*EVERYTHING)
    unlike = {k: v for k, v in model.shapes.items() if k[0] not in "Wb"}
    assert unlike == {
        **{"c/0": (), "g/0": (5,), "h/0": (5,)},
        **{"g/1": (4,), "h/1": (4,), "c/1": (4,), "c/1.1": (), "c/1.2": (4,), "g/1.1": (4,)},
        **{"g/1.2": (4,), "h/1.2": (4,), "g/2": (4,), "h/2": (4,)},
        **{"g/3": (3,), "g/4": (3,), "c/4": (), "c/4.1": (3,)},
    }
    assert model.statistics == {
        **{"mean/0": (5,), "var/0": (5,), "mean/1": (4,), "var/1": (4,)},
        **{"mean/2": (4,), "var/2": (4,)},
    }
    assert model.parameter_count == sum(int(np.prod(s)) for s in model.shapes.values())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_they_start_from(dtype: Any, rng: np.random.Generator) -> None:
    model = one(*EVERYTHING)
    start = model.init(rng, dtype)
    assert {k: v.shape for k, v in start.items()} == model.shapes | model.statistics
    assert {v.dtype for v in start.values()} == {np.dtype(dtype)}
    want = {"g": 1, "h": 0, "mean": 0, "var": 1, "c/0": 1, "c/1": 0.25, "c/1.1": 0.5, "c/1.2": 0.7}
    for name, array in start.items():
        value = want.get(name, want.get(name.partition("/")[0]))
        if value is not None:
            np.testing.assert_array_equal(array, np.full(array.shape, value, dtype), name)


# Against PyTorch

LAYERS: dict[str, tuple[Layer, Any]] = {
    "batch_norm": (BatchNorm(), lambda nn: nn.BatchNorm1d(4)),
    "batch_norm, other numbers": (
        BatchNorm(eps=0.3, momentum=0.7),
        lambda nn: nn.BatchNorm1d(4, eps=0.3, momentum=0.7),
    ),
    "batch_norm, no memory": (
        BatchNorm(momentum=1.0),
        lambda nn: nn.BatchNorm1d(4, momentum=1.0),
    ),
    "layer_norm": (LayerNorm(eps=0.2), lambda nn: nn.LayerNorm(4, eps=0.2)),
    "rms_norm": (RMSNorm(), lambda nn: nn.RMSNorm(4, eps=1e-5)),
    "rms_norm, other eps": (RMSNorm(eps=0.2), lambda nn: nn.RMSNorm(4, eps=0.2)),
    "prelu": (PRELU, lambda nn: nn.PReLU(4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_that_of_pytorch(name: str, rng: np.random.Generator) -> None:
    """Three batches in training, of which running moments are kept, then one outside of it."""
    torch = pytest.importorskip("torch")
    layer, make = LAYERS[name]
    model = build(Network((Dense(4), layer, Dense(2)), loss=HalfSquaredError()), 5, 2)
    p = random_params(model, rng)
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), make(torch.nn), torch.nn.Linear(4, 2))
    module = module.double()
    learned = dict(zip(model.shapes, module.parameters(), strict=True))
    for key, tensor in learned.items():
        tensor.data = torch.tensor(p[key])
    for ours, buffer in (("mean/1", "running_mean"), ("var/1", "running_var")):
        if ours in p:
            getattr(module[1], buffer).data = torch.tensor(p[ours])

    def risk(q: Params, stats: Params, x: Any, y: Any) -> Any:
        return model.train_loss(q | stats, x, y, noise())

    stats = {k: p.pop(k) for k in model.statistics}
    for rows in (7, 2, 5):
        x, y = rng.normal(1.0, 2.0, (rows, 5)), rng.standard_normal((rows, 2))
        (value, stats), slopes = isograd.value_and_grad(risk, has_aux=True)(p, stats, x, y)
        module.zero_grad()
        loss = 0.5 * ((module(torch.tensor(x)) - torch.tensor(y)) ** 2).sum(1).mean()
        loss.backward()
        assert float(value) == pytest.approx(float(loss.detach()), rel=1e-12)
        for key, tensor in learned.items():
            np.testing.assert_allclose(
                slopes[key], tensor.grad.numpy(), rtol=1e-9, atol=1e-12, err_msg=key
            )
        for key, buffer in (("mean/1", "running_mean"), ("var/1", "running_var")):
            if key in stats:
                np.testing.assert_allclose(
                    stats[key], getattr(module[1], buffer).numpy(), rtol=1e-12, atol=1e-14
                )
    module.eval()
    x = rng.normal(1.0, 2.0, (1, 5))
    want = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(model(p | stats, x), want, rtol=1e-12, atol=1e-14)


# Dropout


def sites(model: Model, p: Params, x: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """What is seen at each site of a batch in training."""
    seen: dict[str, np.ndarray] = {}
    y = np.zeros(len(x), int)
    graph = isograd.trace(lambda q, x: model.train_loss(q, x, y, noise(step)), p, x)
    Executable(plan(graph))(p, x, observe=lambda site, a: seen.update({site: np.array(a)}))
    return seen


def test_dropout_draws_the_mask_that_it_says(rng: np.random.Generator) -> None:
    """The place's key is the block of (0, place); the words are those of (i, step)."""
    model = one(Dropout(0.25), Dense(6), TANH, Dropout(0.6))
    p, x = random_params(model, rng), rng.standard_normal((7, 5))
    for step in (0, 3):
        seen = sites(model, p, x, step)
        first, second = (
            keep(WORDS, step, place, rate, shape)
            for place, rate, shape in ((0, 0.25, (7, 5)), (3, 0.6, (7, 6)))
        )
        np.testing.assert_allclose(seen["m/0"], x * first, rtol=1e-15)
        np.testing.assert_allclose(seen["m/1"], seen["a/1"] * second, rtol=1e-15)
        assert 0 < np.count_nonzero(first) < first.size


def test_a_mask_of_another_place_or_step_is_seen(rng: np.random.Generator) -> None:
    model = one(Dropout(0.5))
    p, x = random_params(model, rng), rng.standard_normal((20, 5))
    got = sites(model, p, x, 3)["m/0"]
    np.testing.assert_allclose(got, x * keep(WORDS, 3, 0, 0.5, x.shape))
    for step, place in ((4, 0), (3, 1)):
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(got, x * keep(WORDS, step, place, 0.5, x.shape))


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.1, 0.5, 0.9, 1 - 2.0**-32, 1 - 2.0**-53])
def test_the_divisor_is_the_share_that_is_kept(rate: float) -> None:
    """The share of words at or above the threshold, times the value of those kept, is 1."""
    ones = np.ones(2**16)
    got = dropout(ones, rate, noise(), 0)
    kept = got[got != 0]
    threshold = min(-int(-(rate * 2**32) // 1), 2**32 - 1)
    share = (2**32 - threshold) / 2**32
    assert abs(len(kept) - share * ones.size) <= 5 * np.sqrt(ones.size * share * (1 - share))
    assert np.all(kept * share == 1.0)
    assert abs(share - (1 - rate)) < 2.0**-32


def test_dropout_hides_what_it_drops_from_both_passes() -> None:
    """Chosen, not multiplied: 0 · inf would be NaN."""
    x = np.where(keep(WORDS, 3, 0, 0.5, (8, 8)) > 0, 1.0, np.inf)
    value, pullback = isograd.vjp(lambda x: dropout(x, 0.5, noise(), 0), x)
    np.testing.assert_array_equal(value, np.where(np.isinf(x), 0.0, 2.0))
    np.testing.assert_array_equal(pullback(np.ones((8, 8)))[0], value)


def test_outside_of_training_nothing_is_dropped(rng: np.random.Generator) -> None:
    model, plain = one(Dropout(0.9), Dense(6), TANH, Dropout(0.5)), one(Dense(6), TANH)
    p, x = random_params(plain, rng), rng.standard_normal((4, 5))
    assert same_bits(model(p, x), plain(p, x))
    y = np.array([0, 1, 1, 0])
    assert same_bits(model.loss(p, x, y), plain.loss(p, x, y))


# Both modes, both derivatives


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(l2=0.1), SoftmaxCrossEntropy()])
def test_derivatives_in_training(loss: Any, rng: np.random.Generator) -> None:
    model = one(*EVERYTHING, loss=loss)
    p = random_params(model, rng)
    stats = {k: p.pop(k) for k in model.statistics}
    x, y = rng.standard_normal((5, 5)), rng.integers(0, 2, 5)

    def risk(q: Params) -> Any:
        return model.train_loss(q | stats, x, y, noise())[0]

    check_grads(risk, [p], rtol=1e-5)
    check_modes(lambda q: isograd.value_and_grad(risk)(q), p)


def test_derivatives_outside_of_training(rng: np.random.Generator) -> None:
    model = one(*EVERYTHING)
    p = random_params(model, rng)
    stats = {k: p.pop(k) for k in model.statistics}
    x, y = rng.standard_normal((5, 5)), rng.integers(0, 2, 5)
    check_grads(lambda q: model.loss(q | stats, x, y), [p], rtol=1e-5)


def test_the_step_is_an_argument_of_the_graph(rng: np.random.Generator) -> None:
    """One graph serves all steps, and gives the bits of the dynamic mode at each."""
    model = one(Dense(6), TANH, Dropout(0.5))
    p, x, y = random_params(model, rng), rng.standard_normal((4, 5)), np.array([0, 1, 1, 0])

    def risk(q: Params, step: Any) -> Any:
        return model.train_loss(q, x, y, Noise(KEY, step))[0]

    values = []
    for step in range(4):
        number = np.asarray(step, np.uint32)
        dynamic = risk(p, number)
        assert same_bits(dynamic, run_static(risk, p, number))
        values.append(float(dynamic))
    assert len(set(values)) == 4


def test_statistics_carry_no_gradient(rng: np.random.Generator) -> None:
    """Neither by those that come out, nor to those that go in."""
    model = one(Dense(4), BatchNorm())
    p = random_params(model, rng)
    x, y = rng.standard_normal((6, 5)), rng.integers(0, 2, 6)

    def gathered(q: Params) -> Any:
        _, stats = model.train_loss(q, x, y, noise())
        return isograd.functions.sum(stats["mean/1"]) + isograd.functions.sum(stats["var/1"])

    along = {k: np.ones_like(v) for k, v in p.items() if k in model.shapes}
    still = {k: np.zeros_like(v) for k, v in p.items() if k in model.statistics}
    assert isograd.jvp(gathered, (p,), (along | still,))[1] == 0.0
    for risk in (lambda q: model.train_loss(q, x, y, noise())[0], lambda q: model.loss(q, x, y)):
        slopes = isograd.grad(risk)(p)
        assert np.any(slopes["W/1"])
        for name in model.statistics:
            np.testing.assert_array_equal(slopes[name], np.zeros(4), name)


def test_a_batch_normalisation_takes_more_than_one_row(rng: np.random.Generator) -> None:
    model = one(Dense(4), BatchNorm())
    p = random_params(model, rng)
    with pytest.raises(SpecError, match="at least 2 rows to be normalised over") as e:
        model.train_loss(p, np.ones((1, 5)), np.array([0]), noise())
    assert (e.value.came, e.value.where) == ("1", "network.layers[1] (layer 1)")
    assert model(p, np.ones((1, 5))).shape == (1, 2)


def test_float32_stays_float32_in_training(rng: np.random.Generator) -> None:
    model = one(*EVERYTHING)
    p = model.init(rng, np.float32)
    x, y = rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 2, 6)
    both = isograd.value_and_grad(lambda q: model.train_loss(q, x, y, noise()), has_aux=True)
    (value, stats), slopes = both(p)
    assert value.dtype == np.float32
    assert {a.dtype for a in (*stats.values(), *slopes.values())} == {np.dtype(np.float32)}


# Normalisations at the edges


def unit(x: np.ndarray, axis: int, eps: float, centre: bool = True) -> np.ndarray:
    """In the widest floats that NumPy has."""
    wide = x.astype(np.longdouble)
    wide = wide - wide.mean(axis=axis, keepdims=True) if centre else wide
    return wide / np.sqrt((wide**2).mean(axis=axis, keepdims=True) + eps)


NORMS: dict[str, tuple[Any, Any]] = {
    "layer_norm": (
        lambda x, eps: layer_norm(x, np.float32(1), np.float32(0), eps),
        lambda x, eps: unit(x, 1, eps),
    ),
    "rms_norm": (
        lambda x, eps: rms_norm(x, np.float32(1), eps),
        lambda x, eps: unit(x, 1, eps, centre=False),
    ),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e10, 1e15, 1e25, 1e30, 1e37])
def test_normalisations_at_any_size(name: str, size: float, rng: np.random.Generator) -> None:
    """In float32 the square of 1e20 overflows; value and derivative do not feel it."""
    ours, exact = NORMS[name]
    x = (size * rng.uniform(-1.0, 1.0, (6, 7))).astype(np.float32)
    g = rng.standard_normal((6, 7)).astype(np.float32)
    value, pullback = isograd.vjp(lambda x: ours(x, 1e-5), x)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, exact(x, 1e-5).astype(float), rtol=2e-5, atol=1e-36)
    # float64 holds these squares: its derivative is the reference, which PyTorch confirms above
    slope = isograd.vjp(lambda x: ours(x, 1e-5), x.astype(float))[1](g.astype(float))[0]
    top = np.abs(slope).max()
    np.testing.assert_allclose(pullback(g)[0], slope, rtol=1e-4, atol=1e-4 * top + 1e-38)


def test_a_batch_normalisation_at_any_size(rng: np.random.Generator) -> None:
    """The output holds to 1e37; the running variance of float32 ends where the square does."""
    model = one(BatchNorm())
    p = {k: v for k, v in model.init(rng, np.float32).items()}
    for size in (1e-30, 1.0, 1e15, 1e30, 1e37):
        x = (size * rng.uniform(-1.0, 1.0, (6, 5))).astype(np.float32)
        p["W/1"] = np.eye(2, 5, dtype=np.float32)
        seen = sites(model, p, x, 0)["n/0"]
        np.testing.assert_allclose(seen, unit(x, 0, 1e-5).astype(float), rtol=2e-5, atol=1e-36)
        stats = model.train_loss(p, x, np.zeros(6, int), noise())[1]
        spread = 0.9 + 0.1 * x.astype(np.longdouble).var(axis=0, ddof=1)
        want = np.where(spread > 3.4e38, np.inf, spread).astype(float)
        np.testing.assert_allclose(stats["var/0"], want, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 3.0, -7e4])
def test_what_does_not_vary_becomes_the_shift(dtype: Any, value: float) -> None:
    """Variance 0: the output is 0 to the rounding of the mean over √eps, the derivative finite."""
    x = np.full((6, 4), value, dtype)
    shift = np.arange(4, dtype=dtype)
    out, pullback = isograd.vjp(lambda x: layer_norm(x, np.ones(4, dtype), shift, 1e-5), x)
    np.testing.assert_allclose(out, np.tile(shift, (6, 1)), atol=0)
    g = np.tile(np.array([1.0, -1.0, 2.0, 0.5], dtype), (6, 1))
    want = (g - g.mean(axis=1, keepdims=True)) / np.sqrt(1e-5)
    np.testing.assert_allclose(pullback(g)[0], want, rtol=1e-5)
    model = one(BatchNorm(), n_in=4)
    p = model.init(np.random.default_rng(0), dtype)
    both = isograd.value_and_grad(
        lambda q: model.train_loss(q, x, np.array([0, 1] * 3), noise()), has_aux=True
    )
    (loss, stats), slopes = both(p)
    assert float(loss) == pytest.approx(np.log(2))
    np.testing.assert_allclose(stats["mean/0"], np.full(4, 0.1 * value), rtol=1e-6)
    np.testing.assert_allclose(stats["var/0"], np.full(4, 0.9), rtol=1e-6)
    assert all(np.isfinite(s).all() for s in slopes.values())


def test_normalisations_of_what_is_not_finite() -> None:
    """A row with an infinity or a NaN is NaN, and no other."""
    x = np.ones((3, 4), np.float32) * np.arange(4, dtype=np.float32)
    x[0, 1], x[2, 0] = np.inf, np.nan
    for ours, _ in NORMS.values():
        out = isograd.vjp(lambda x, f=ours: f(x, 1e-5), x)[0]
        assert np.isnan(out[2]).all()
        assert np.isnan(out[0]).any()
        assert np.isfinite(out[1]).all()


# Scale, learned activations, softmax


def test_scale_by_hand(rng: np.random.Generator) -> None:
    """c · x: ∂L/∂c is Σ x ∂L/∂(cx); a fixed one learns nothing."""
    model = build(Network((Dense(3), Scale(0.3)), loss=HalfSquaredError()), 4, 3)
    p = random_params(model, rng)
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    z = x @ p["W/1"].T + p["b/1"]
    np.testing.assert_allclose(model(p, x), p["c/1"] * z, rtol=1e-14)
    slopes = isograd.grad(lambda q: model.loss(q, x, y))(p)
    want = (z * (p["c/1"] * z - y)).sum() / 5
    assert slopes["c/1"].shape == ()
    assert float(slopes["c/1"]) == pytest.approx(want, rel=1e-12)
    fixed = build(Network((Dense(3), Scale(0.3, learned=False))), 4, 3)
    assert "c/1" not in fixed.shapes
    np.testing.assert_allclose(fixed(p, x), 0.3 * z, rtol=1e-14)


def test_a_learned_activation_has_a_number_per_unit(rng: np.random.Generator) -> None:
    model = one(Dense(3), PRELU, Dense(3), SWISH)
    p, x = random_params(model, rng), rng.standard_normal((6, 5))
    z = x @ p["W/1"].T + p["b/1"]
    a = np.where(z > 0, z, p["c/1"] * z)
    z = a @ p["W/2"].T + p["b/2"]
    a = z / (1 + np.exp(-p["c/2"] * z))
    np.testing.assert_allclose(model(p, x), a @ p["W/3"].T + p["b/3"], rtol=1e-12)


def test_intervals_are_those_of_fixed_elementwise_activations() -> None:
    """A learned one's interval moves, and softmax has none."""
    fixed = Activation("swish", beta=0.7)
    layers = (Dense(3), Dropout(0.5), RELU, Dense(3), PRELU, Dense(3), SWISH, Dense(3), fixed)
    active = one(*layers, Dense(3), Activation("softmax")).active
    assert set(active) == {"m/1", "z/4"}


def test_softmax_is_no_activation_at_hand() -> None:
    softmax = Activation("softmax")
    model = one(softmax, Dense(3), softmax, Dense(3), RELU, Dropout(0.5), Scale(), Dense(3))
    hands = [p.phi.name for p in model.weights if p.phi is not None]
    assert hands == ["identity", "identity", "relu", "identity"]


# What theory and remedies make of them

XAVIER, STACK = Xavier(), (Dense(4), TANH, Dense(4), TANH)


@pytest.mark.parametrize(
    ("layers", "init", "reason"),
    [
        ((*STACK, BatchNorm()), XAVIER, ""),
        ((*STACK, RMSNorm()), XAVIER, ""),
        ((*STACK, Dropout()), XAVIER, ""),
        ((Scale(), *STACK), XAVIER, ""),
        ((*STACK, Activation("softmax"), Dense(4), TANH), XAVIER, "mixes units is outside"),
        (STACK, LSUV(), "not random, or scaled to the data"),
        (STACK, Zeros(), "not random, or scaled to the data"),
        ((*STACK, Dense(4, init=LSUV()), TANH), XAVIER, "not random, or scaled to the data"),
        (STACK, Uniform(), ""),
        ((Dense(4), PRELU, Dense(4), PRELU), He(), ""),
        ((Dense(4), SWISH, Dense(4), SWISH), He(), ""),
    ],
)
def test_what_theory_says_of_them(layers: tuple[Layer, ...], init: Init, reason: str) -> None:
    """It covers a learned activation as it starts; of what it leaves out it says which."""
    theory = expected(one(*layers, init=init))
    assert reason in theory.reason
    assert theory.covered == (not reason)


def spec_of(*layers: Layer, n_out: int = 2, **keys: Any) -> Spec:
    network = Network((*layers, Dense(n_out)), init=keys.pop("init", XAVIER))
    return Spec(Data("iris"), network, **keys)


def test_remedies_leave_the_output_and_what_mixes_units() -> None:
    softmax, tail = Activation("softmax"), (Dense(2), Activation("logistic"), Scale())
    block = Residual((BatchNorm(), PRELU, Dropout(), Dense(4), softmax))
    spec = spec_of()
    spec = replace(spec, network=replace(spec.network, layers=(Dense(4), TANH, block, *tail)))
    for edit, new in (
        (lambda s: set_activation(s, "relu"), lambda layer: (RELU,)),
        (add_layer_norm, lambda layer: (LayerNorm(), layer)),
    ):
        inner = Residual((BatchNorm(), *new(PRELU), Dropout(), Dense(4), softmax))
        assert edit(spec).network.layers == (Dense(4), *new(TANH), inner, *tail)


def test_skip_connections_go_around_the_new_layers() -> None:
    block = (Dense(4), BatchNorm(), PRELU, Scale(0.5), RMSNorm(), Dropout(0.1))
    spec = spec_of(Dense(4), Repeat(3, block))
    edited = add_residuals(spec, 5)
    assert edited == spec_of(Dense(4), Repeat(3, (Residual(block),)))
    assert loads(dumps(edited)) == edited


@pytest.mark.parametrize("norm", [BatchNorm(), RMSNorm(), LayerNorm()])
def test_a_normalised_network_is_not_normalised_again(norm: Layer) -> None:
    sick = diagnosis("vanishing gradient")
    bare, full = (spec_of(Dense(4), *more, TANH) for more in ((), (norm,)))
    assert "layer_norm" in {c.name for c in candidates(bare, sick, 5)}
    assert "layer_norm" not in {c.name for c in candidates(full, sick, 5)}


def diagnosis(name: str) -> Diagnosis:
    """One finding, as candidates look at it."""
    nan = float("nan")
    finding = Finding(name, "fatal", (1,), 0, {}, "", "", "")
    outlook = Expectation(False, "", nan, nan, nan, nan, nan)
    return Diagnosis("sick", "", (finding,), None, None, None, outlook, 0.0)


# Runs, and what is said of them

RUNS: dict[str, tuple[Layer, ...]] = {
    "dropout": (Dropout(0.1), Dense(16), RELU, Dropout(0.2), Dense(16), RELU, Dropout(0.2)),
    "batch_norm": (Dense(16), BatchNorm(), RELU, Dense(16), BatchNorm(), RELU),
    "rms_norm": (Dense(16), RMSNorm(), TANH, Dense(16), RMSNorm(), TANH),
    "scale": (Dense(16), TANH, Scale(2.0), Dense(16), TANH, Scale(0.5, learned=False)),
    "prelu": (Dense(16), PRELU, Dense(16), PRELU),
    "swish": (Dense(16), SWISH, Dense(16), SWISH),
    "residual": (Dense(16), Repeat(2, (Residual((BatchNorm(), PRELU, Dropout(0.1), Dense(16))),))),
}


@pytest.fixture(scope="module")
def split() -> Split:
    """Two classes, told apart by a plane."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((240, 5))
    return from_arrays(
        x,
        (x @ np.array([1, -1, 2, 0, 1.0]) > 0).astype(int),
        loss_kind="softmax_cross_entropy",
        dtype="float64",
    )


def examined(layers: tuple[Layer, ...], split: Split, **keys: Any) -> tuple[Outcome, Diagnosis]:
    training = Training(epochs=keys.pop("epochs", 12), batch_size=20)
    spec = spec_of(*layers, training=training, dtype="float64", seed=1, **keys)
    outcome = fit(spec, split)
    return outcome, examine(outcome, split)


@pytest.mark.parametrize("name", RUNS)
def test_a_small_network_with_each_learns_and_is_healthy(name: str, split: Split) -> None:
    outcome, said = examined(RUNS[name], split, optimiser=Adam(lr=0.01))
    assert outcome.stopped == "finished"
    assert outcome.test.accuracy > 0.85
    assert said.verdict == "healthy", [f.name for f in said.findings]
    moved = {site.kind for site in outcome.telemetry.sites()}
    letters = {name[0] for name in outcome.model.shapes}
    assert {kind for kind in moved if kind[0] == "u"} == {f"u{letter}" for letter in letters}
    assert set(outcome.params) == {*outcome.model.shapes, *outcome.model.statistics}


def test_running_moments_are_those_of_the_data(split: Split) -> None:
    """What a batch normalisation of the inputs gathers: their mean and variance."""
    outcome, _ = examined((BatchNorm(momentum=0.02), Dense(4), TANH), split, epochs=60)
    x = split.X_train
    np.testing.assert_allclose(outcome.params["mean/0"], x.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(outcome.params["var/0"], x.var(axis=0), rtol=0.2)


def test_a_scale_that_starves_the_lower_layers_is_named(split: Split) -> None:
    """Of a gain of a hundredth a layer the budget names the scale layers."""
    layers = (Repeat(4, (Dense(16), TANH, Scale(0.01, learned=False))),)
    _, said = examined(layers, split, optimiser=SGD(0.1))
    found = {f.name: f for f in said.findings}
    evidence = found["vanishing gradient"].evidence
    assert evidence["budget_factors_decades"] == pytest.approx(-2.0, abs=1e-9)
    assert "-2.00 from dropout and scale" in found["vanishing gradient"].cause
    assert "Expected log₁₀ ‖δ¹‖/‖δᴸ‖ = -8" in found["vanishing gradient"].expectation


def test_a_network_that_starts_from_lsuv_learns(split: Split) -> None:
    layers = (Repeat(6, (Dense(16), TANH)),)
    outcome, said = examined(layers, split, init=LSUV(), optimiser=Adam(lr=0.01))
    first = outcome.telemetry.records[0].summaries
    for n in range(1, 8):
        assert first[Site("z", n)].std == pytest.approx(1.0, rel=0.3)
    assert said.verdict == "healthy", [f.name for f in said.findings]
