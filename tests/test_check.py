"""isograd.check: faults planted and seen, the healthy left alone, and the rule of the verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from scipy.special import log_softmax, softmax
from theory_table import FACTS

import isograd
from isograd import theory
from isograd.diagnosis.check import Check, judge
from isograd.diagnosis.check import check as examine
from isograd.diagnosis.findings import Expectation
from isograd.diagnosis.first_step import FEWEST_ROWS, first_batch
from isograd.diagnosis.outlook import FALL, GROWTH, Item, Look
from isograd.diagnosis.outlook.data import loss_of
from isograd.diagnosis.outlook.depth import trainable_depth
from isograd.errors import DataError, IsogradError, SpecError
from isograd.nn import (
    LSUV,
    SGD,
    Activation,
    Adam,
    BatchNorm,
    BinaryCrossEntropy,
    Constant,
    Data,
    Dense,
    HalfSquaredError,
    He,
    LayerNorm,
    Network,
    Normal,
    Orthogonal,
    Precision,
    Repeat,
    Residual,
    Scale,
    SoftmaxCrossEntropy,
    Spec,
    Training,
    VarianceScaling,
    Xavier,
    Zeros,
    build,
)
from isograd.nn.activations import phi
from isograd.nn.spec import ARRAYS, Init, Layer, Loss, MeanSquaredError, Optimiser
from isograd.training.data import from_arrays
from isograd.training.start import prepare

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 12))
LABELS = (X @ RNG.standard_normal((12, 3))).argmax(axis=1)
NAMES = LABELS.astype(str)
TARGETS = X @ RNG.standard_normal(12)
Layers = tuple[Layer, ...]


def chain(
    depth: int, activation: str, *between: Layer, width: int = 48, outputs: int = 3
) -> Layers:
    """`depth` dense layers."""
    return (Repeat(depth - 1, (Dense(width), *between, Activation(activation))), Dense(outputs))


XAVIER, SLOW, SOFTMAX = Xavier(), SGD(0.05), SoftmaxCrossEntropy()
HALF = Training(
    precision=Precision(weights="fp16", activations="fp16", gradients="fp16", loss_scale="dynamic")
)
NOTHING = VarianceScaling(0.0, 0.1)
PLAIN, RAW, USUAL = Data(ARRAYS), Data(ARRAYS, standardise=False), Training()


@dataclass(frozen=True)
class Given:
    """A network, its training and its data."""

    layers: Layers
    init: Init = XAVIER
    optimiser: Optimiser = SLOW
    loss: Loss = SOFTMAX
    X: Any = field(default_factory=lambda: X)
    y: Any = field(default_factory=lambda: LABELS)
    dtype: str = "float32"
    data: Data = PLAIN
    training: Training = USUAL

    @property
    def spec(self) -> Spec:
        network = Network(self.layers, self.loss, self.init)
        return Spec(self.data, network, self.optimiser, self.training, dtype=self.dtype)

    def check(self) -> Check:
        return isograd.check(self.spec, self.X, self.y)


RELU, TANH, DEEP = chain(5, "relu"), chain(5, "tanh"), chain(30, "logistic")
ABOVE = RNG.uniform(0.5, 1.5, (200, 12))

# name: what is given, and the state, and where it matters the layer, of items; then the verdict
PLANTED: dict[str, tuple[Given, dict[str, str], str]] = {
    "signal and error signal lost": (
        Given(DEEP, Orthogonal()),
        {"signal": "bad", "error signal": "bad", "rounding": "bad", "depth": "bad"},
        "will not",
    ),
    "the same in float64 is above rounding": (
        Given(chain(16, "logistic"), Orthogonal(), dtype="float64"),
        {"signal": "bad", "rounding": "ok"},
        "will not",
    ),
    "a little too deep": (
        Given(chain(4, "logistic"), Xavier(), Adam()),
        {"signal": "note", "error signal": "note", "depth": "doubt"},
        "unknown",
    ),
    "exploding": (
        Given(chain(16, "tanh"), Normal(1.0)),
        {"error signal": "bad", "signal": "ok"},
        "will not",
    ),
    "exploding under Adam": (
        Given(chain(16, "tanh"), Normal(1.0), Adam()),
        {"error signal": "doubt"},
        "unknown",
    ),
    "Adam makes up for small weights": (
        Given(chain(4, "relu"), Normal(0.01), Adam()),
        {"signal": "note", "error signal": "doubt"},
        "unknown",
    ),
    "Adam's eps is above the gradients": (
        Given(RELU, He(), Adam(eps=1e3)),
        {"gradients": "bad"},
        "will not",
    ),
    "gradients explode through batch normalisation": (
        Given(chain(24, "relu", BatchNorm()), He()),
        {"error signal": "note", "signal": "ok"},
        "will train",
    ),
    "too large for an emulated format": (
        Given(RELU, Normal(1.5), training=Training(precision=Precision(activations="fp8_e4m3"))),
        {"finite values": "bad"},
        "will not",
    ),
    "too large for the format": (
        Given(chain(4, "relu"), Normal(1e15)),
        {"finite values": "bad"},
        "will not",
    ),
    "no weight": (Given(RELU, Zeros()), {"gradients": "bad"}, "will not"),
    "dead layers": (
        Given(chain(3, "relu"), Constant(-0.1), X=ABOVE, data=RAW),
        {"dead units": "bad", "gradients": "bad"},
        "will not",
    ),
    "half saturated": (
        Given(chain(3, "tanh"), Normal(1.0)),
        {"saturated units": "note"},
        "will train",
    ),
    "inputs that do not differ": (
        Given(RELU, He(), X=np.ones((200, 12)), data=RAW),
        {"inputs": "bad"},
        "will not",
    ),
    "inputs in other units": (
        Given(RELU, He(), X=1e6 * X, data=RAW),
        {"inputs": "doubt", "initial loss": "note"},
        "unknown",
    ),
    "inputs in other units, standardised": (
        Given(RELU, He(), X=1e6 * X),
        {"inputs": "ok"},
        "will train",
    ),
    "targets out of reach": (
        Given(
            (Dense(8), Activation("relu"), Dense(1), Activation("relu")),
            He(),
            loss=HalfSquaredError(),
            y=-np.exp(TARGETS),
            data=RAW,
        ),
        {"output": "doubt"},
        "unknown",
    ),
    "softmax under a squared error": (
        Given((*chain(3, "relu"), Activation("softmax")), He(), loss=MeanSquaredError(), y=NAMES),
        {"output": "note"},
        "will train",
    ),
    "a last layer that is too large": (
        Given((Dense(48), Activation("tanh"), Dense(3, init=Normal(5.0)))),
        {"initial loss": "note"},
        "will train",
    ),
    "steps that are far too long": (
        Given(chain(3, "tanh", outputs=1), optimiser=SGD(50.0), loss=HalfSquaredError(), y=TARGETS),
        {"learning rate": "doubt"},
        "unknown",
    ),
    "the same under a cross-entropy": (
        Given(chain(3, "tanh"), optimiser=SGD(500.0)),
        {"learning rate": "doubt"},
        "unknown",
    ),
    "a penalty that diverges": (
        Given(RELU, He(), loss=SoftmaxCrossEntropy(l2=100.0)),
        {"learning rate": "bad"},
        "will not",
    ),
    "weights that theory does not cover": (Given(TANH, LSUV()), {"theory": "note"}, "will train"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_seen(name: str) -> None:
    given, states, verdict = PLANTED[name]
    found = given.check()
    seen = {item.name: item.state for item in found.items}
    assert {key: seen.get(key) for key in states} == states, found.items
    assert found.verdict == verdict, found.reason


HEALTHY: dict[str, Given] = {
    "tanh": Given(TANH),
    "relu": Given(RELU, He()),
    "relu, Adam": Given(RELU, He(), Adam()),
    "float64": Given(RELU, He(), dtype="float64"),
    "fifty residual blocks": Given(
        (
            Dense(48),
            Repeat(50, (Residual((LayerNorm(), Dense(48), Activation("relu"))),)),
            Dense(3),
        ),
        He(),
    ),
    "blocks that start as nothing": Given(
        (
            Dense(8),
            Repeat(6, (Residual((Dense(8), Activation("tanh"), Dense(8, init=NOTHING))),)),
            Dense(3),
        ),
    ),
    "lsuv": Given(TANH, LSUV()),
    "no hidden layer": Given((Dense(3),)),
    "regression": Given(chain(4, "tanh", outputs=1), loss=HalfSquaredError(), y=TARGETS),
    "two classes": Given(chain(4, "tanh", outputs=1), loss=BinaryCrossEntropy(), y=LABELS > 0),
    "batches of one row": Given(TANH, training=Training(batch_size=1)),
    "a last layer of zeros": Given((*RELU[:-1], Dense(3, init=Zeros())), He()),
    "emulated fp16, dynamic loss scale": Given(RELU, He(), training=HALF),
    "three rows": Given(TANH, X=X[:6], y=np.array([0, 1, 2, 0, 1, 2])),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_the_healthy_are_left_alone(name: str) -> None:
    found = HEALTHY[name].check()
    assert found.verdict == "will train", found.reason
    assert not [item for item in found.items if item.state in ("bad", "doubt")]


def test_the_layer_is_named_where_the_signal_is_lost() -> None:
    """By hand, in float64: the first layer whose spread is below e⁻⁴ of layer 1's."""
    given = Given(chain(12, "logistic"), dtype="float64")
    found = given.check()
    split = from_arrays(X, LABELS, loss_kind=given.loss, dtype="float64")
    start = prepare(given.spec, split)
    rows = split.X_train[first_batch(start, len(split.X_train))]
    spreads = []
    for layer in range(1, 13):
        z = rows @ start.params[f"W/{layer}"].T + start.params[f"b/{layer}"]
        spreads.append(math.sqrt(np.mean((z - z.mean(axis=0)) ** 2)))
        rows = 1 / (1 + np.exp(-z))
    first = next(n for n, s in enumerate(spreads, start=1) if s < math.exp(-4) * spreads[0])
    (item,) = (item for item in found.items if item.name == "signal")
    assert item.layer == first
    assert item.value == pytest.approx(2 * math.log(spreads[0] / spreads[10]), rel=1e-6)
    assert f"layer {first}:" in found.reason


def test_sizes_are_those_of_a_step_by_hand() -> None:
    """Forward and backward in float64, the softmax's δ written out."""
    given = Given((Dense(20), Activation("tanh"), Dense(3)), dtype="float64")
    measured = given.check().measured
    assert measured is not None
    split = from_arrays(X, LABELS, loss_kind=given.loss, dtype="float64")
    params = prepare(given.spec, split).params
    x, y = split.X_train[measured.batch], split.y_train[measured.batch]
    z1 = x @ params["W/1"].T + params["b/1"]
    z2 = np.tanh(z1) @ params["W/2"].T + params["b/2"]
    delta2 = (softmax(z2, axis=1) - np.eye(3)[y]) / len(y)
    delta1 = (delta2 @ params["W/2"]) * (1 - np.tanh(z1) ** 2)
    p = measured.profile
    norms = [np.linalg.norm(d) for d in (delta1, delta2)]
    assert np.allclose(p.delta, norms, rtol=1e-10)
    assert np.allclose(p.scale, [np.sqrt(np.mean(z**2)) for z in (z1, z2)], rtol=1e-10)
    loss = -log_softmax(z2, axis=1)[np.arange(len(y)), y].mean()
    assert measured.loss == pytest.approx(loss, rel=1e-12)
    step = params["W/2"] - 0.05 * delta2.T @ np.tanh(z1)
    assert measured.after < measured.loss
    update = np.linalg.norm(step - params["W/2"]) / np.linalg.norm(params["W/2"])
    assert p.update[1] == pytest.approx(update, rel=1e-9)


def test_small_batches_are_filled_up() -> None:
    found = Given(TANH, training=Training(batch_size=2)).check()
    assert found.measured is not None
    assert found.measured.rows == FEWEST_ROWS


# --- the rule


def published() -> list[tuple[float, float]]:
    """σ_w² and the depth, in units of ξ_c, at which tanh networks ceased to train."""
    fact = FACTS["H10"]
    return list(zip(fact["inputs"]["sigma_w2"], fact["expected"], strict=True))


@pytest.mark.parametrize(("sigma_w2", "limit"), published())
def test_published_limits_lie_between_the_bounds(sigma_w2: float, limit: float) -> None:
    """And below half of them networks trained, beyond twice none did."""
    scale = 20.0
    for share, state in ((0.5, "ok"), (1.0, "doubt"), (2.0, "bad")):
        network = Network(chain(round(share * limit * scale), "tanh"))
        expected = Expectation(True, "", 1.0, 0.0, scale, 6 * scale, 0.0)
        look = Look(Spec(Data(ARRAYS), network), build(network, 48), None, None, expected)
        item = trainable_depth(look)
        assert item is not None
        assert item.state == state
    # What the squared error signal had grown by there, in the chaotic phase (σ_b² = 0.05).
    field_ = theory.mean_field(phi(Activation("tanh")), sigma_w2, 0.05)
    folds = limit * field_.xi_c * math.log(field_.chi1)
    bounds = GROWTH if folds > 0 else FALL
    assert bounds.trains < abs(folds) < bounds.fails


def item_of(name: str, state: Any) -> Item:
    return Item(name, state, None, 0.0, f"{name} came", "", "")


@pytest.mark.parametrize(
    ("states", "verdict", "reason"),
    [
        (["ok", "note"], "will train", "nothing"),
        (["ok", "doubt", "note"], "unknown", "b came"),
        (["doubt", "bad", "bad"], "will not", "b came (also: c)"),
        ([], "will train", "nothing"),
    ],
)
def test_the_gravest_item_decides(states: list[str], verdict: str, reason: str) -> None:
    found, why = judge(tuple(map(item_of, "abc", states)))
    assert found == verdict
    assert why.startswith(reason)


# --- the loss at the start

LOSSES: dict[str, tuple[Given, Callable[[float], float]]] = {
    "ln C + ½s²(1 − 1/C)": (Given(TANH), lambda s: math.log(3) + 0.5 * s * s * (1 - 1 / 3)),
    "ln 2 + s²/8": (
        Given(chain(3, "tanh", outputs=1), loss=BinaryCrossEntropy(), y=LABELS > 0),
        lambda s: math.log(2) + s * s / 8,
    ),
    "½(1 + s²)": (
        Given(chain(3, "tanh", outputs=1), loss=HalfSquaredError(), y=np.sign(TARGETS), data=RAW),
        lambda s: 0.5 * (1 + s * s),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_random_outputs(name: str) -> None:
    given, formula = LOSSES[name]
    split = from_arrays(given.X, given.y, given.data, loss_kind=given.loss)
    found = examine(given.spec, split)
    look = Look(given.spec, found.model, split, found.measured, found.expected)
    for size in (0.0, 0.1, 0.3):
        error = 3 * size / math.sqrt(4096) + size**4
        assert loss_of(look, size) == pytest.approx(formula(size), abs=1e-6 + error)


# --- theory alone


def test_layers_alone_get_what_theory_says() -> None:
    found = isograd.check(list(DEEP))
    assert found.verdict == "will not"
    assert found.measured is None
    assert len(found.expected.layers) == 30
    assert any("48 features" in note for note in found.notes)
    assert isograd.check(Network(chain(15, "tanh"))).verdict == "will train"


def test_theory_and_measurement_name_the_same_layer_within_one() -> None:
    spec = Given(DEEP, Orthogonal()).spec
    measured, alone = isograd.check(spec, X, LABELS), isograd.check(spec, n_in=12)
    for name in ("signal", "error signal"):
        layers = [
            next(item.layer for item in found.items if item.name == name)
            for found in (measured, alone)
        ]
        assert None not in layers
        assert abs(layers[0] - layers[1]) <= 1  # type: ignore[operator]


def test_where_theory_ends_is_said_and_the_rest_is_given() -> None:
    layers = (Dense(16), Activation("tanh"), Dense(16), Activation("softmax"), Dense(3))
    found = isograd.check(layers)
    assert found.verdict == "unknown"
    assert "covers 2 of 3 layers" in found.reason
    assert len(found.expected.layers) == 2


def test_cost_and_plan_are_there() -> None:
    found = Given(TANH).check()
    products = 12 * 48 + 3 * 48 * 48 + 48 * 3
    assert found.flops.forward == 2 * products
    assert found.flops.backward == 4 * products - 2 * 12 * 48
    assert found.precision is not None
    assert {g.role for g in found.precision.groups} >= {"weight", "error", "gradient"}
    assert found.step_size is not None
    assert found.step_size.low is not None
    assert found.step_size.high is not None


def test_a_check_says_the_same_again() -> None:
    first, again = (Given(RELU, He(), Adam()).check() for _ in range(2))
    assert first.items == again.items
    assert dataclasses.astuple(first.flops) == dataclasses.astuple(again.flops)


# --- what cannot be checked


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "part"),
    [
        (("spec.toml",), {}, SpecError, "load_spec"),
        (([3],), {}, SpecError, "layers must hold layers"),
        (([],), {}, SpecError, "at least one layer"),
        (([Activation("tanh")],), {}, SpecError, "at least one dense layer"),
        ((list(TANH), X), {}, DataError, "together"),
        ((list(TANH), None, LABELS), {}, DataError, "together"),
        ((list(TANH), X, LABELS[:7]), {}, DataError, "rows"),
        ((list(TANH),), {"n_in": 0}, SpecError, "n_in"),
        ((list(TANH),), {"n_in": 2.5}, SpecError, "n_in"),
        ((list(TANH), X, LABELS), {"n_in": 11}, DataError, "features"),
        ((list(chain(3, "tanh", outputs=7)), X, LABELS), {}, SpecError, "3 units"),
        ((list(TANH), X, LABELS), {"backend": "nunpy"}, IsogradError, "numpy"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    arguments: Any, settings: Any, error: type[IsogradError], part: str
) -> None:
    with pytest.raises(error, match=part):
        isograd.check(*arguments, **settings)


def test_what_a_training_would_refuse_is_refused() -> None:
    """A batch of one row cannot be normalised over, and is not filled up."""
    layers = (Dense(8), BatchNorm(), Activation("relu"), Dense(3))
    with pytest.raises(SpecError, match="at least 2 rows"):
        Given(layers, training=Training(batch_size=1)).check()


def test_values_that_are_missing_are_refused() -> None:
    holes = X.copy()
    holes[3, 4] = math.nan
    with pytest.raises(DataError):
        isograd.check(list(TANH), holes, LABELS)


def test_the_machine_code_says_the_same() -> None:
    pytest.importorskip("llvmlite")
    spec = replace(Given(RELU, He()).spec, dtype="float64")
    numpy, native = (isograd.check(spec, X, LABELS, backend=b) for b in ("numpy", "native"))
    assert numpy.verdict == native.verdict
    assert numpy.measured is not None
    assert native.measured is not None
    assert np.allclose(numpy.measured.profile.delta, native.measured.profile.delta, rtol=1e-9)


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (Scale(0.0), "layer 3: a scale of 0"),  # ReZero (Bachlechner et al. 2021)
        (Dense(8, init=VarianceScaling(0.0, 0.1)), "layer 4: the weights are 0"),
    ],
)
def test_theory_ends_where_nothing_passes_and_the_check_does_not(last: Layer, why: str) -> None:
    block = Residual((Dense(8), Activation("tanh"), Dense(8), last))
    found = isograd.check([Dense(8), *[block] * 6, Dense(3)], X, LABELS)
    assert found.measured is not None
    assert not found.expected.covered
    assert why in found.expected.reason
