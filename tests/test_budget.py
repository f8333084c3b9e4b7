"""The gain budget against a backward pass written by hand in float64, and as an identity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from threefry import keep

from isograd import grad, trace
from isograd.backends.numpy import Executable
from isograd.diagnosis import Budget, LayerGain, budget, gain_budget
from isograd.engine.plan import plan
from isograd.nn import (
    Activation,
    BatchNorm,
    Data,
    Dense,
    Dropout,
    LayerNorm,
    Model,
    Network,
    Repeat,
    Residual,
    RMSNorm,
    Scale,
    Spec,
    build,
)
from isograd.nn.model import Noise, Part
from isograd.nn.spec import Layer, LeCun
from isograd.telemetry.records import Site
from isograd.telemetry.summary import EMPTY, Summary
from isograd.training.loop import fit

TANH, RELU, LOGISTIC = Activation("tanh"), Activation("relu"), Activation("logistic")
SCALED, IDENTITY = Activation("scaled_sigmoid"), Activation("identity")
PARTS = ("weights", "activation", "normalisation", "residual", "factors")
PRELU = Activation("prelu")
ROWS, N_IN, CLASSES, STEP = 7, 5, 3, 11

Params = dict[str, np.ndarray]
Summaries = dict[Site, Summary]
Slope = Callable[[np.ndarray], np.ndarray]


# By hand: each layer gives its value and how to pull a cotangent back through it

FUNCTIONS: dict[str, tuple[Slope, Slope]] = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0).astype(float)),
    "logistic": (expit, lambda z: expit(z) * expit(-z)),
    "scaled_sigmoid": (lambda z: 4 * expit(z) - 2, lambda z: 4 * expit(z) * expit(-z)),
    "identity": (lambda z: z, np.ones_like),
}


class ByHand:
    """Forward and backward pass over the layers of a spec; notes what each did to ‖cotangent‖.

    `notes` holds, in the order of the backward pass, (part, ‖after‖/‖before‖) of every operation,
    and ("delta", ‖δ‖) where it enters a dense layer.
    """

    def __init__(self, layers: tuple[Layer, ...], params: Params) -> None:
        self.params = params
        self.dense = 0
        self.place = -1
        self.used: dict[str, int] = {}
        self.notes: list[tuple[str, float]] = []
        self.layers = layers

    def note(self, part: str, after: np.ndarray, before: np.ndarray) -> np.ndarray:
        self.notes.append((part, float(np.linalg.norm(after) / np.linalg.norm(before))))
        return after

    def own(self, letter: str) -> str:
        """What stands behind the slash in the name of a parameter of a new layer."""
        key = f"{letter}/{self.dense}"
        k = self.used[key] = self.used.get(key, -1) + 1
        return f"{self.dense}.{k}" if k else f"{self.dense}"

    def forward(
        self, layers: tuple[Layer, ...], x: np.ndarray
    ) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        pulls: list[Callable[[np.ndarray], np.ndarray]] = []
        for layer in layers:
            x, pull = self.one(layer, x)
            pulls.append(pull)

        def pullback(g: np.ndarray) -> np.ndarray:
            for pull in reversed(pulls):
                g = pull(g)
            return g

        return x, pullback

    def one(
        self, layer: Layer, x: np.ndarray
    ) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        self.place += not isinstance(layer, Repeat)
        match layer:
            case Dense():
                self.dense += 1
                w = self.params[f"W/{self.dense}"]
                b = self.params.get(f"b/{self.dense}", 0.0)

                def dense(g: np.ndarray) -> np.ndarray:
                    self.notes.append(("delta", float(np.linalg.norm(g))))
                    return self.note("weights", g @ w, g)

                return x @ w.T + b, dense
            case Activation(name="prelu"):
                c = self.params[f"c/{self.own('c')}"]
                slope = np.where(x > 0, 1.0, c)
                return slope * x, lambda g: self.note("activation", slope * g, g)
            case Activation():
                f, slope_at = FUNCTIONS[layer.name]
                return f(x), lambda g: self.note("activation", slope_at(x) * g, g)
            case Dropout():
                mask = keep((7, 9), STEP, self.place, layer.rate, x.shape)
                return x * mask, lambda g: self.note("factors", g * mask, g)
            case Scale():
                factor = self.params[f"c/{self.own('c')}"] if layer.learned else layer.value
                return factor * x, lambda g: self.note("factors", factor * g, g)
            case LayerNorm() | BatchNorm() | RMSNorm():
                own, axis = self.own("g"), int(not isinstance(layer, BatchNorm))
                centre = 0.0 if isinstance(layer, RMSNorm) else 1.0
                gain, shift = self.params[f"g/{own}"], self.params.get(f"h/{own}", 0.0)
                centred = x - centre * x.mean(axis=axis, keepdims=True)
                spread = np.sqrt((centred**2).mean(axis=axis, keepdims=True) + layer.eps)
                unit = centred / spread

                def norm(g: np.ndarray) -> np.ndarray:
                    u = g * gain
                    along = unit * (u * unit).mean(axis=axis, keepdims=True)
                    mean = centre * u.mean(axis=axis, keepdims=True)
                    return self.note("normalisation", (u - mean - along) / spread, g)

                return unit * gain + shift, norm
            case Residual():
                value, branch = self.forward(layer.layers, x)
                self.place += 1

                def add(g: np.ndarray) -> np.ndarray:
                    below = branch(g)
                    return self.note("residual", g + below, below)

                return x + value, add
            case Repeat():
                return self.forward(layer.layers * layer.times, x)

    def gains(self, x: np.ndarray, labels: np.ndarray) -> tuple[dict[int, LayerGain], Params]:
        """Parts by layer in decades, and ‖δ‖ by layer."""
        logits, pullback = self.forward(self.layers, x)
        pullback((softmax(logits, axis=1) - np.eye(CLASSES)[labels]) / len(x))
        layer, gains, deltas = self.dense + 1, {}, {}
        for part, value in self.notes:
            if part == "delta":
                layer -= 1
                deltas[layer] = value
            elif 1 < layer <= self.dense:  # what follows on δ^l, downwards, belongs to l − 1
                old = gains.get(layer - 1, LayerGain(layer - 1, *[0.0] * 5))
                gains[layer - 1] = replace(old, **{part: getattr(old, part) + math.log10(value)})
        return gains, deltas


# The engine


def random_params(model: Model, seed: int) -> Params:
    """Parameters none of which is 0 or 1 by construction."""
    rng = np.random.default_rng(seed)
    return {k: rng.normal(0.1, 0.6, shape) for k, shape in model.shapes.items()}


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((ROWS, N_IN)), rng.integers(0, CLASSES, ROWS)


def telemetry(model: Model, params: Params, x: np.ndarray, y: np.ndarray) -> Summaries:
    """The summaries of one forward and backward pass of training, in float64."""
    noise = Noise(np.array([7, 9], np.uint32), np.asarray(STEP, np.uint32))
    statistics = {name: np.ones(shape) for name, shape in model.statistics.items()}

    def gradient(p: Params, x: np.ndarray) -> Params:
        return grad(lambda q: model.train_loss(q | statistics, x, y, noise)[0])(p)

    out: Summaries = {}

    def observe(site: str, array: np.ndarray) -> None:
        out[Site.parse(site)] = Summary.of(array)

    Executable(plan(trace(gradient, params, x)))(params, x, observe=observe)
    return out


def check_budget(layers: tuple[Layer, ...], seed: int) -> None:
    """Parts and sums of every layer, against those by hand."""
    model = build(Network(layers), N_IN, CLASSES)
    params, (x, y) = random_params(model, seed), batch(seed)
    want, deltas = ByHand(layers, params).gains(x, y)
    got = gain_budget(model, telemetry(model, params, x, y), 0).layers
    assert [g.layer for g in got] == list(range(model.depth - 1, 0, -1))
    for g in got:
        whole = math.log10(deltas[g.layer]) - math.log10(deltas[g.layer + 1])
        assert g.total == pytest.approx(whole, rel=0, abs=1e-12), f"sum of layer {g.layer}"
        for part in PARTS:
            a, b = getattr(g, part), getattr(want[g.layer], part)
            assert a == pytest.approx(b, rel=0, abs=1e-12), f"{part} of layer {g.layer}"


NETWORKS: dict[str, tuple[Layer, ...]] = {
    "a chain of several widths": (Dense(9), TANH, Dense(4), LOGISTIC, Dense(6), SCALED, Dense(3)),
    "no activations": (Dense(4), Dense(6), IDENTITY, Dense(3)),
    "several activations in one layer": (Dense(4), TANH, LOGISTIC, SCALED, Dense(4), Dense(3)),
    "repeats": (Dense(4), Repeat(5, (Dense(4, bias=False), TANH)), Dense(3)),
    "normalisation": (
        LayerNorm(),
        *(Dense(6), LayerNorm(), TANH, LayerNorm(eps=0.3), LayerNorm()),
        *(Dense(4), LayerNorm(), Dense(3)),
    ),
    "residual blocks": (
        *(Dense(4), TANH, Residual((Dense(4), TANH)), Residual((Dense(4), TANH))),
        *(LOGISTIC, Residual((TANH, Dense(4))), Dense(3)),
    ),
    "a residual block from the input": (Residual((Dense(6), TANH, Dense(5))), TANH, Dense(3)),
    "residual blocks from the input": (
        Residual((Residual((Dense(5), TANH)), Dense(5), LOGISTIC)),
        Dense(3),
    ),
    "a residual block of normalised input": (LayerNorm(), Residual((Dense(5), TANH)), Dense(3)),
    "residual blocks around several layers": (
        Dense(4),
        Residual((Dense(6), TANH, Dense(2), LayerNorm(), SCALED, Dense(4), TANH)),
        *(TANH, Dense(3)),
    ),
    "nested residual blocks": (
        *(Dense(4), TANH, LayerNorm()),
        Residual((SCALED, Dense(4, bias=False), LayerNorm(), Residual((Dense(4),)))),
        Residual((Residual((Residual((Dense(4), TANH)), Dense(4))), LOGISTIC)),
        Dense(3),
    ),
    "residual blocks without weights": (
        *(Dense(4), Residual((TANH,)), Residual((LayerNorm(), LOGISTIC)), Dense(3)),
    ),
    "dropout": (Dropout(0.2), Dense(6), TANH, Dropout(0.5), Dense(4), Dropout(0.1), Dense(3)),
    "scale": (Dense(6), Scale(0.1), TANH, Scale(3.0, learned=False), Scale(), Dense(3)),
    "learned activations": (PRELU, Dense(6), PRELU, Scale(), PRELU, Dense(4), PRELU, Dense(3)),
    "each normalisation": (
        *(BatchNorm(), RMSNorm(), Dense(6), BatchNorm(eps=0.3), TANH, RMSNorm(), LayerNorm()),
        *(Dense(4), RMSNorm(eps=0.1), Dense(3)),
    ),
    "all of them in residual blocks": (
        *(Dense(4), BatchNorm(), Dropout(0.3)),
        Residual((RMSNorm(), Dense(6), PRELU, Dropout(0.5), Dense(4), Scale(0.1))),
        Residual((Residual((Scale(0.5), BatchNorm())), Dense(4), Dropout(0.2))),
        *(Scale(2.0), Dense(3)),
    ),
    "a residual block at the end": (Dense(3), TANH, Residual((Dense(4), TANH, Dense(3))), TANH),
    "a residual block that opens with what closes": (
        Dense(3),
        Residual((Residual((TANH, Dense(3))),)),
        Residual((Dense(3), Residual((LOGISTIC,)))),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_are_those_by_hand_and_sum_to_the_whole(name: str) -> None:
    check_budget(NETWORKS[name], 1)


def blocks(depth: int) -> st.SearchStrategy[Layer]:
    """A layer that keeps four features."""
    plain = [Dense(4), TANH, LOGISTIC, LayerNorm(), Dense(4, bias=False)]
    leaf = st.sampled_from([*plain, BatchNorm(), RMSNorm(), Scale(0.5), PRELU, Dropout(0.1)])
    if not depth:
        return leaf
    several = st.lists(blocks(depth - 1), min_size=1, max_size=3).map(tuple)
    return leaf | several.map(Residual) | st.builds(Repeat, st.integers(1, 2), several)


@settings(max_examples=40)
@given(st.lists(blocks(2), max_size=5), st.integers(0, 2**32 - 1))
def test_parts_of_any_network(middle: list[Layer], seed: int) -> None:
    check_budget((Dense(4), *middle, Dense(3)), seed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Part.WEIGHTS, Part.ACTIVATION),
        (Part.ACTIVATION, Part.NORMALISATION),
        (Part.NORMALISATION, Part.SKIP_OPENS),
        (Part.DROPOUT, Part.NORMALISATION),
        (Part.SCALE, Part.ACTIVATION),
    ],
)
def test_a_wrong_attribution_is_seen(
    one: Part, other: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums stay right; the parts are not."""
    a, b = budget.FIELD_OF[one], budget.FIELD_OF[other]
    monkeypatch.setitem(budget.FIELD_OF, one, b)
    monkeypatch.setitem(budget.FIELD_OF, other, a)
    both = "all of them in residual blocks"
    with pytest.raises(AssertionError, match=f"({a}|{b}) of layer"):
        check_budget(NETWORKS[both], 1)


def test_a_lost_factor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Summary.norm.fget
    monkeypatch.setattr(Summary, "norm", property(lambda s: whole(s) * (1 + 1e-10 * s.count)))
    with pytest.raises(AssertionError, match="of layer"):
        check_budget(NETWORKS["a chain of several widths"], 1)


# The mean, and what cannot be measured


def test_mean_of_the_layers() -> None:
    gains = [LayerGain(2, -1.0, 0.5, 0.25, 0.0, 2.0), LayerGain(1, -3.0, 1.5, 0.75, 1.0, 0.5)]
    assert Budget(4, tuple(gains)).mean() == LayerGain(0, -2.0, 1.0, 0.5, 0.5, 1.25)
    assert Budget(4, ()).mean() is None
    assert gains[1].total == 0.75
    assert {f.name for f in fields(LayerGain)} == {"layer", *PARTS}


@pytest.mark.parametrize("layers", [(Dense(3),), (TANH, LayerNorm(), Dense(3), TANH)])
def test_a_network_of_one_layer(layers: tuple[Layer, ...]) -> None:
    model = build(Network(layers), N_IN, CLASSES)
    seen = telemetry(model, random_params(model, 0), *batch(0))
    assert gain_budget(model, seen, 3) == Budget(3, ())


def test_an_error_signal_that_underflows(rng: np.random.Generator) -> None:
    """Layers below the first zero have no gain; those above have that of float64."""
    layers = (Repeat(80, (Dense(8), LOGISTIC)), Dense(3))
    spec = Spec(Data("iris"), Network(layers, init=LeCun()))
    record = fit(spec, steps=1).telemetry.records[0]
    model = build(spec.network, 4, 3)
    norms = {n: record.summaries[Site("delta", n)].norm for n in range(1, model.depth + 1)}
    assert norms[1] == 0.0 < norms[model.depth]
    got = gain_budget(model, record.summaries, record.step)
    above = [n for n in range(model.depth - 1, 0, -1) if norms[n] > 0]
    assert 50 < len(above) < 80
    assert [g.layer for g in got.layers] == above
    for g in got.layers:
        assert g.total == pytest.approx(math.log10(norms[g.layer] / norms[g.layer + 1]), abs=1e-12)
    mean = got.mean()
    assert mean is not None
    assert mean.total == pytest.approx(sum(g.total for g in got.layers) / len(above), abs=1e-12)
    params = model.init(np.random.default_rng(0), "float64")
    x, y = rng.standard_normal((ROWS, 4)), rng.integers(0, 3, ROWS)
    seen = telemetry(model, params, x, y)  # float64 reaches down to layer 1
    assert len(gain_budget(model, seen, 0).layers) == model.depth - 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("share", ["one", "all"])
def test_an_error_signal_that_is_not_finite(bad: float, share: str) -> None:
    """Both layers that it bounds have no gain, even where most of its values are finite."""
    layers = (Repeat(5, (Dense(4), TANH)), Dense(3))
    model = build(Network(layers), N_IN, CLASSES)
    seen = telemetry(model, random_params(model, 0), *batch(0))
    array = np.full((ROWS, 4), bad)
    if share == "one":
        array[1:] = 0.5
    planted = seen | {Site("delta", 3): Summary.of(array)}
    whole, rest = (gain_budget(model, s, 0) for s in (seen, planted))
    assert [g.layer for g in whole.layers] == [5, 4, 3, 2, 1]
    assert rest.layers == tuple(g for g in whole.layers if g.layer not in (2, 3))
    assert rest.mean() is not None


def test_a_branch_that_passes_nothing_back() -> None:
    """A dead branch passes nothing back, and its share of the sum is not defined."""
    layers = (Dense(4), Residual((Dense(4), RELU)), Residual((Dense(4), TANH)), Dense(3))
    model = build(Network(layers), N_IN, CLASSES)
    params = random_params(model, 0)
    params["b/2"] -= 1e3
    seen = telemetry(model, params, *batch(0))
    assert seen[Site("delta", 2)].norm == 0.0 < seen[Site("delta", 1)].norm
    assert [g.layer for g in gain_budget(model, seen, 0).layers] == [3]


def test_a_site_that_was_not_measured() -> None:
    layers = (Repeat(3, (Dense(4), TANH)), Dense(3))
    model = build(Network(layers), N_IN, CLASSES)
    seen = telemetry(model, random_params(model, 0), *batch(0))
    whole = gain_budget(model, seen, 0).layers
    part = gain_budget(model, {k: v for k, v in seen.items() if k != Site("da", 2)}, 0).layers
    assert part == tuple(g for g in whole if g.layer != 2)
    assert gain_budget(model, {}, 0).layers == ()
    assert gain_budget(model, dict.fromkeys(seen, EMPTY), 0).layers == ()
