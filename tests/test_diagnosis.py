"""Diagnoses of real runs: what is found, where and since when, against a training by hand."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as edited
from scipy.special import expit, log_softmax, softmax

from isograd.diagnosis import (
    Case,
    Diagnosis,
    Expectation,
    Finding,
    Profile,
    case,
    diagnose,
    examine,
)
from isograd.diagnosis.expected import expected as expectation_of
from isograd.diagnosis.rules import steps
from isograd.nn import (
    SGD,
    Activation,
    Adam,
    BinaryCrossEntropy,
    Constant,
    Data,
    Dense,
    Dropout,
    GradientDescent,
    HalfSquaredError,
    He,
    LayerNorm,
    Network,
    Normal,
    Orthogonal,
    Repeat,
    Residual,
    SoftmaxCrossEntropy,
    Spec,
    Training,
    Xavier,
    build,
)
from isograd.nn.losses import constant_loss
from isograd.nn.spec import Init, Layer, LeCun, Loss, Measure, Optimiser
from isograd.telemetry.records import Site, Telemetry
from isograd.telemetry.summary import Summary
from isograd.training.data import Split, from_arrays
from isograd.training.loop import Outcome, Progress, fit
from isograd.training.start import load_split

NAMES = {
    "non-finite value",
    "vanishing gradient",
    "exploding gradient",
    "vanishing signal",
    "exploding signal",
    "dead units",
    "saturated units",
    "learning rate too high",
    "learning rate too low",
    "no learning",
}
SIX = 6.0  # natural logarithms of a squared size: networks train to about 6 ξ
LARGEST = float(np.finfo(np.float32).max)
SOFTMAX, BINARY, HALF = SoftmaxCrossEntropy(), BinaryCrossEntropy(), HalfSquaredError()


def chain(depth: int, width: int, activation: str, outputs: int) -> tuple[Layer, ...]:
    """`depth` dense layers."""
    return (Repeat(depth - 1, (Dense(width), Activation(activation))), Dense(outputs))


def spec_of(
    layers: tuple[Layer, ...],
    init: Init,
    optimiser: Optimiser,
    *,
    data: str = "iris",
    loss: Loss = SOFTMAX,
    epochs: int = 5,
    batch_size: int | None = 32,
    dtype: Any = "float64",
) -> Spec:
    batch_size = None if isinstance(optimiser, GradientDescent) else batch_size
    training = Training(epochs=epochs, batch_size=batch_size)
    return Spec(Data(data), Network(layers, loss, init), optimiser, training, dtype=dtype)


SICK = {
    "deep logistic": spec_of(chain(14, 16, "logistic", 3), Xavier(), SGD(0.05)),
    "deep logistic in float32": spec_of(
        chain(24, 16, "logistic", 3), Xavier(), SGD(0.05), dtype="float32"
    ),
    "chaotic tanh": spec_of(chain(14, 16, "tanh", 3), LeCun(gain=3.0), SGD(1e-4)),
    "large relu": spec_of(chain(14, 16, "relu", 3), He(gain=2.5), SGD(1e-12)),
    "dying relu": spec_of(chain(3, 16, "relu", 3), He(), SGD(5.0), epochs=10),
    "saturated tanh": spec_of(chain(3, 16, "tanh", 3), Normal(std=5.0), SGD(0.05)),
    "overflow at once": spec_of(
        chain(8, 8, "relu", 3), Normal(std=1e6), SGD(0.05), dtype="float32"
    ),
    "overflow on the way": spec_of(
        chain(4, 8, "identity", 3), He(), SGD(100.0), dtype="float32"
    ),
    "overflow of the loss": spec_of(
        (Dense(1),), Normal(), GradientDescent(3.0), data="diabetes", loss=HALF, epochs=80,
        dtype="float32",
    ),
    "steps too long": spec_of(
        (Dense(1),), Normal(), GradientDescent(1.0), data="diabetes", loss=HALF, epochs=40
    ),
    "steps too short": spec_of(
        (Dense(8), Activation("tanh"), Dense(3)), Normal(std=0.1), GradientDescent(3e-3), epochs=100
    ),
    "nothing to start from": spec_of(chain(2, 8, "relu", 3), Constant(), SGD(0.05)),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run, and what was made of it."""

    spec: Spec
    split: Split
    outcome: Outcome
    diagnosis: Diagnosis

    def finding(self, name: str) -> Finding:
        found = {f.name: f for f in self.diagnosis.findings}
        assert name in found, f"{name} is not among {sorted(found)}"
        return found[name]

    @property
    def case(self) -> Case:
        constant = constant_loss(self.spec.network.loss, self.split.y_train)
        rows, o = len(self.split.X_train), self.outcome
        return Case(self.spec, o.model, o.telemetry, constant, rows, o.stopped)

    @property
    def measured(self) -> list[int]:
        return [r.step for r in self.outcome.telemetry.measured()]


def run(spec: Spec, **how: Any) -> Run:
    split = load_split(spec)
    outcome = fit(spec, split, **how)
    return Run(spec, split, outcome, examine(outcome, split))


@functools.cache
def sick(name: str) -> Run:
    return run(SICK[name])


# By hand: the same training in NumPy and float64

FUNCTIONS: dict[str, Any] = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0) * 1.0),
    "logistic": (expit, lambda z: expit(z) * expit(-z)),
    "identity": (lambda z: z, np.ones_like),
}


@dataclass
class Step:
    """One step of a chain, by layer: W, z, δ, ∂L/∂W, ∂L/∂b, and the loss of the batch."""

    loss: float = math.nan
    w: dict[int, np.ndarray] = field(default_factory=dict)
    b: dict[int, np.ndarray] = field(default_factory=dict)
    z: dict[int, np.ndarray] = field(default_factory=dict)
    delta: dict[int, np.ndarray] = field(default_factory=dict)
    dw: dict[int, np.ndarray] = field(default_factory=dict)
    db: dict[int, np.ndarray] = field(default_factory=dict)
    gains: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return len(self.w)

    def sizes(self, name: str) -> np.ndarray:
        """‖δ‖, or the rms of z or of v = z − mean over the batch, of layers 1 … L."""
        if name == "delta":
            return np.array([np.linalg.norm(self.delta[n]) for n in range(1, self.depth + 1)])
        z = [self.z[n] for n in range(1, self.depth + 1)]
        z = [a - a.mean(axis=0) for a in z] if name == "v" else z
        return np.array([np.sqrt(np.mean(a**2)) for a in z])

    def change(self, name: str, base: int) -> np.ndarray:
        """ln size² relative to that of a layer."""
        with np.errstate(divide="ignore"):
            level = 2 * np.log(self.sizes(name))
        return level - level[base]


def expanded(layers: Iterable[Layer]) -> list[Layer]:
    out: list[Layer] = []
    for layer in layers:
        out += expanded(layer.layers) * layer.times if isinstance(layer, Repeat) else [layer]
    return out


def step_by_hand(spec: Spec, w: dict, b: dict, x: np.ndarray, y: np.ndarray) -> Step:
    """A forward and a backward pass of a chain of dense layers and activations."""
    out = Step(w=dict(w), b=dict(b))
    layers, number, a, n = expanded(spec.network.layers), 0, x.astype(float), len(x)
    inputs: list[np.ndarray] = []
    for layer in layers:
        inputs.append(a)
        if isinstance(layer, Dense):
            number += 1
            a = out.z[number] = a @ w[number].T + b[number]
        else:
            a = FUNCTIONS[layer.name][0](a)
    if isinstance(spec.network.loss, HalfSquaredError):
        out.loss, g = 0.5 * ((a - y) ** 2).sum() / n, (a - y) / n
    else:
        out.loss = -log_softmax(a, axis=1)[np.arange(n), y].mean()
        g = (softmax(a, axis=1) - np.eye(a.shape[1])[y]) / n
    for layer, before in zip(reversed(layers), reversed(inputs), strict=True):
        at = out.gains.setdefault(number, {})
        size = np.linalg.norm(g)
        if isinstance(layer, Dense):
            out.delta[number], out.dw[number], out.db[number] = g, g.T @ before, g.sum(axis=0)
            g, number = g @ w[number], number - 1
            out.gains[number] = {"weights": _decades(g, size)}
        else:
            g = FUNCTIONS[layer.name][1](before) * g
            at["activation"] = at.get("activation", 0.0) + _decades(g, size)
    return out


def _decades(g: np.ndarray, before: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(np.linalg.norm(g) / before))


@functools.cache
def by_hand(name: str) -> list[Step]:
    """Every step of a sick run: gradient descent from the same first parameters and batches."""
    r = sick(name)
    model, split = r.outcome.model, r.split
    first, order = (np.random.default_rng(s) for s in np.random.SeedSequence(0).spawn(2))
    params = model.init(first, r.spec.dtype)
    w, b = (
        {int(k[2:]): v.astype(float) for k, v in params.items() if k.startswith(kind)}
        for kind in ("W/", "b/")
    )
    n = len(split.X_train)
    size = r.spec.training.batch_size or n
    total, out = r.spec.training.epochs * (n // size), []
    with np.errstate(all="ignore"):
        while len(out) < total:
            rows = order.permutation(n)
            for k in range(n // size):
                some = rows[k * size : (k + 1) * size]
                step = step_by_hand(r.spec, w, b, split.X_train[some], split.y_train[some])
                out.append(step)
                w = {i: w[i] - r.spec.optimiser.lr * step.dw[i] for i in w}
                b = {i: b[i] - r.spec.optimiser.lr * step.db[i] for i in b}
    return out


def check(evidence: Mapping[str, float], want: Mapping[str, float], rel: float = 1e-8) -> None:
    """These numbers must be among the evidence."""
    for name, value in want.items():
        assert name in evidence, f"{name} is not among {sorted(evidence)}"
        assert evidence[name] == pytest.approx(value, rel=rel), name


def numbers(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) + 1 for i in np.flatnonzero(mask))


# Signals across depth


def check_gradient(r: Run, steps_by_hand: list[Step], name: str, sign: float) -> None:
    finding = r.finding(name)
    at = steps_by_hand[finding.step]
    change = sign * at.change("delta", -1)
    layers = numbers(change > SIX)
    assert finding.layers == layers
    assert finding.first_layer == layers[-1]  # it spreads downwards
    delta, depth = at.sizes("delta"), at.depth
    decades = math.log10(delta[0] / delta[-1])
    last = steps_by_hand[r.measured[-1]]
    updates = [
        r.spec.optimiser.lr * np.linalg.norm(last.dw[n]) / np.linalg.norm(last.w[n])
        for n in range(1, depth + 1)
    ]
    check(
        finding.evidence,
        {
            "decades_over_depth": decades,
            "decades_per_layer": decades / (depth - 1),
            "depth_layers": depth,
            "depth_scale_layers": (depth - 1) / abs(2 * decades * math.log(10)),
            "trainable_depth_layers": 6 * (depth - 1) / abs(2 * decades * math.log(10)),
            "delta_norm_layer_1": delta[0],
            "delta_norm_last_layer": delta[-1],
            "relative_update_layers_concerned": float(np.median([updates[n - 1] for n in layers])),
            "relative_update_last_layer": updates[-1],
        },
    )
    gains = [steps_by_hand[0].gains[n] for n in range(1, depth)]
    for part in ("weights", "activation"):
        mean = float(np.mean([g[part] for g in gains]))
        check(finding.evidence, {f"budget_{part}_decades": mean})
        assert f"{mean:+.2f}" in finding.cause
    check(finding.evidence, {"budget_normalisation_decades": 0.0, "budget_residual_decades": 0.0})


@pytest.mark.parametrize(
    ("run_name", "name", "sign"),
    [
        ("deep logistic", "vanishing gradient", -1.0),
        ("chaotic tanh", "exploding gradient", 1.0),
        ("large relu", "exploding gradient", 1.0),
    ],
)
def test_gradients_that_vanish_or_explode(run_name: str, name: str, sign: float) -> None:
    r = sick(run_name)
    assert r.diagnosis.verdict == "sick"
    assert r.finding(name).step == 0
    assert r.finding(name).severity == "fatal"
    check_gradient(r, by_hand(run_name), name, sign)
    other = {"vanishing gradient", "exploding gradient"} - {name}
    assert not other & {f.name for f in r.diagnosis.findings}


def test_profiles_blamed_on_other_layers_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = case.profile

    def shifted(model: Any, record: Any) -> Profile:
        p = real(model, record)
        return replace(p, delta=(p.delta[1], *p.delta[1:]))

    monkeypatch.setattr(case, "profile", shifted)
    r = sick("deep logistic")
    planted = replace(r, diagnosis=examine(r.outcome, r.split))
    with pytest.raises(AssertionError, match="decades_over_depth"):
        check_gradient(planted, by_hand("deep logistic"), "vanishing gradient", -1.0)


def test_a_gradient_that_vanishes_on_the_way() -> None:
    """Units die of a step too long; the finding dates from there, not from the start."""
    r, hand = sick("dying relu"), by_hand("dying relu")
    finding = r.finding("vanishing gradient")
    with np.errstate(invalid="ignore"):
        holds = [bool(-hand[n].change("delta", -1)[0] > SIX) for n in r.measured]
    assert not holds[0]
    first = holds.index(True)
    assert all(holds[first:])
    assert finding.step == r.measured[first] > 0
    assert finding.evidence["delta_norm_layer_1"] == 0.0
    assert finding.evidence["decades_over_depth"] == -math.inf


def test_a_signal_that_vanishes() -> None:
    r, at = sick("deep logistic"), by_hand("deep logistic")[0]
    finding, signal = r.finding("vanishing signal"), at.sizes("v")
    assert (finding.step, finding.severity) == (0, "fatal")
    assert finding.layers == numbers(-at.change("v", 0) > SIX)
    assert finding.first_layer == finding.layers[0]
    decades = math.log10(signal[-1] / signal[0])
    check(
        finding.evidence,
        {
            "decades_over_depth": decades,
            "decades_per_layer": decades / 13,
            "signal_layer_1": signal[0],
            "signal_last_layer": signal[-1],
            "scale_last_layer": at.sizes("z")[-1],
        },
        rel=1e-5,  # it is what is left of numbers of its size of 1e8 times
    )
    assert math.isnan(finding.evidence["first_layer_below_rounding"])


def test_a_signal_that_drowns_in_rounding() -> None:
    """Below √n·u of z (Higham & Mary 2019), the spread over the batch is noise."""
    r, at = sick("deep logistic in float32"), by_hand("deep logistic in float32")[0]
    finding = r.finding("vanishing signal")
    bound = math.sqrt(16) * 2.0**-24
    drowned = numbers(at.sizes("v") < bound * at.sizes("z"))
    assert finding.evidence["first_layer_below_rounding"] == pytest.approx(drowned[0], abs=1)
    assert f"layer {finding.evidence['first_layer_below_rounding']:.0f} on" in finding.cause


def test_a_signal_that_explodes() -> None:
    r, at = sick("large relu"), by_hand("large relu")[0]
    finding, scale = r.finding("exploding signal"), at.sizes("z")[:-1]
    assert (finding.step, finding.severity) == (0, "fatal")
    assert finding.layers == numbers(at.change("z", 0)[:-1] > SIX)
    assert finding.first_layer == finding.layers[0]
    decades = math.log10(scale[-1] / scale[0])
    check(
        finding.evidence,
        {
            "decades_over_depth": decades,
            "decades_per_layer": decades / 12,
            "scale_layer_1": scale[0],
            "scale_last_hidden_layer": scale[-1],
        },
    )


# Units


def late(r: Run) -> list[int]:
    """The last half of the measured steps."""
    return r.measured[len(r.measured) // 2 :]


def test_units_that_die() -> None:
    r, hand = sick("dying relu"), by_hand("dying relu")
    finding = r.finding("dead units")
    on = {n: np.any([(hand[s].z[n] >= 0).any(axis=0) for s in late(r)], axis=0) for n in (1, 2)}
    alive = {n: int(on[n].sum()) for n in on}
    assert finding.layers == tuple(n for n in alive if alive[n] < 3)
    worst = min(finding.layers, key=lambda n: alive[n])
    check(finding.evidence, {"units_alive": alive[worst], "units": 16, "outputs": 3})
    assert finding.severity == "fatal"
    assert finding.step == late(r)[0]


def test_units_that_saturate() -> None:
    """|tanh′| < 0.01 outside of ±arctanh √0.99."""
    r, hand = sick("saturated tanh"), by_hand("saturated tanh")
    finding, edge = r.finding("saturated units"), math.atanh(math.sqrt(0.99))
    share = {n: float(np.mean([np.abs(hand[s].z[n]) > edge for s in late(r)])) for n in (1, 2)}
    assert finding.layers == tuple(n for n in share if share[n] > 0.5)
    check(finding.evidence, {"saturated_share": max(share.values()), "units": 16})
    assert finding.severity == "fatal"


def with_summaries(c: Case, site: Site, summary: Summary) -> Case:
    """The case as if this had been measured there at every step."""
    records = tuple(
        replace(r, summaries={**r.summaries, site: summary}) if r.summaries else r
        for r in c.telemetry.records
    )
    return replace(c, telemetry=Telemetry(c.telemetry.meta, records))


@functools.cache
def well() -> Run:
    spec = spec_of(chain(3, 16, "relu", 3), He(), SGD(0.1), epochs=20)
    return run(edited(spec, measure=Measure(every=10)))


@functools.cache
def well_bounded() -> Run:
    return run(spec_of(chain(3, 16, "tanh", 3), Xavier(), SGD(0.1), epochs=20))


@pytest.mark.parametrize("alive", [0, 2, 3, 16])
def test_fewer_units_than_outputs_count_as_dead(alive: int) -> None:
    z = np.full((32, 16), -1.0)
    z[0, :alive] = 1.0  # one row switches a unit on
    planted = Summary.of(z, active=(0.0, math.inf))
    diagnosis = diagnose(with_summaries(well().case, Site("z", 2), planted))
    found = {f.name: f for f in diagnosis.findings}
    assert ("dead units" in found) == (alive < 3)
    if alive < 3:
        assert found["dead units"].layers == (2,)
        assert found["dead units"].severity == "serious"  # it learns all the same
        assert found["dead units"].evidence["units_alive"] == alive
        assert diagnosis.verdict == "sick"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.5625, 1.0])
def test_most_of_a_layer_on_its_plateaus_counts_as_saturated(share: float) -> None:
    z = np.zeros((32, 16))
    z[: round(32 * share)] = -9.0
    planted = Summary.of(z, active=(-3.0, 3.0))
    diagnosis = diagnose(with_summaries(well_bounded().case, Site("z", 1), planted))
    found = {f.name: f for f in diagnosis.findings}
    assert ("saturated units" in found) == (share > 0.5)
    if share > 0.5:
        assert found["saturated units"].layers == (1,)
        assert found["saturated units"].evidence["saturated_share"] == share


# Values that are not finite


def first_overflow(hand: list[Step]) -> tuple[int, str, int]:
    """The first step, site and layer where float32 ends, in the order of computation."""
    for number, s in enumerate(hand):
        up, down = range(1, s.depth + 1), range(s.depth, 0, -1)
        forward = [("W", n, s.w[n]) for n in down] + [("z", n, s.z[n]) for n in up]
        backward = [("delta", n, s.delta[n]) for n in down] + [("dW", n, s.dw[n]) for n in down]
        for kind, n, array in forward + backward:
            if not np.abs(array).max() <= LARGEST:
                return number, kind, n
    raise AssertionError("nothing overflows")


def check_overflow(r: Run, hand: list[Step]) -> None:
    finding = r.finding("non-finite value")
    step, kind, layer = first_overflow(hand)
    assert f" {kind}/{layer} " in finding.cause
    assert (finding.step, finding.layers) == (step, (layer,))
    s = hand[step]
    order = [*s.w.values(), *(s.z[n] for n in range(1, layer))]
    check(
        finding.evidence,
        {
            "non_finite": int((np.abs(s.z[layer]) > LARGEST).sum()),
            "of": s.z[layer].size,
            "nan": 0,
            "largest_before": max(float(np.abs(a).max()) for a in order),
            "largest_of_format": LARGEST,
        },
        rel=1e-2,  # a run that explodes also magnifies the rounding of its float32
    )


@pytest.mark.parametrize("name", ["overflow at once", "overflow on the way"])
def test_the_first_value_that_is_not_finite(name: str) -> None:
    r, hand = sick(name), by_hand(name)
    assert r.outcome.stopped == "diverged"
    assert r.diagnosis.findings[0] is r.finding("non-finite value")
    assert r.finding("non-finite value").severity == "fatal"
    assert (first_overflow(hand)[0] == 0) == (name == "overflow at once")
    check_overflow(r, hand)


def test_a_search_in_another_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = steps.computed
    monkeypatch.setattr(steps, "computed", lambda places: real(places)[::-1])
    r = sick("overflow at once")
    planted = replace(r, diagnosis=examine(r.outcome, r.split))
    with pytest.raises(AssertionError):
        check_overflow(planted, by_hand("overflow at once"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("site", ["W/2", "input/0", "z/1", "a/2", "delta/3", "dW/1", "uW/2"])
def test_a_planted_value_is_found_in_its_place(site: str, bad: float) -> None:
    """Wherever it is, and at that step; what was measured before is the largest before it."""
    c, at = well().case, Site.parse(site)
    array = np.zeros((4, 4))
    array[1, 2] = bad
    target = c.measured[4].step
    records = tuple(
        replace(r, summaries={**r.summaries, at: Summary.of(array)}) if r.step == target else r
        for r in c.telemetry.records
    )
    planted = replace(c, telemetry=Telemetry({}, records))
    finding = next(f for f in diagnose(planted).findings if f.name == "non-finite value")
    assert (finding.step, finding.layers) == (target, (at.layer,) if at.layer else ())
    check(finding.evidence, {"non_finite": 1, "of": 16, "nan": float(np.isnan(bad))})
    assert f"at {site} " in finding.cause


@pytest.mark.parametrize("kind", ["g", "h", "dg", "dh", "ug", "uh", "n", "dn"])
def test_a_value_of_a_normalisation_that_is_not_finite_is_named(kind: str) -> None:
    layers = (Dense(8), LayerNorm(), Activation("relu"), Dense(3))
    case = run(spec_of(layers, He(), SGD(0.05))).case
    bad = Summary.of(np.array([1.0, np.inf]))
    planted = with_summaries(case, Site.parse(f"{kind}/1"), bad)
    finding = next(f for f in diagnose(planted).findings if f.name == "non-finite value")
    assert f"at {kind}/1 " in finding.cause
    assert finding.layers == (1,)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("W/2", "z/1"), ("input/0", "z/1"), ("z/1", "a/1"), ("z/2", "z/3"), ("z/3", "delta/3")),
        *(("delta/3", "delta/1"), ("delta/1", "dW/3"), ("dW/3", "dW/2"), ("dW/2", "db/2")),
        *(("db/1", "uW/1"),),
    ],
)
def test_of_two_places_the_one_computed_first_is_named(first: str, second: str) -> None:
    bad = Summary.of(np.array([1.0, np.nan]))
    planted = well().case
    for site in (first, second):
        planted = with_summaries(planted, Site.parse(site), bad)
    finding = next(f for f in diagnose(planted).findings if f.name == "non-finite value")
    assert f"at {first} " in finding.cause


def test_a_loss_that_overflows_alone() -> None:
    """½(ŷ − y)² leaves float32 while ŷ, δ and the gradient are still inside."""
    r, hand = sick("overflow of the loss"), by_hand("overflow of the loss")
    finding = r.finding("non-finite value")
    assert r.outcome.stopped == "diverged"
    rows = len(r.split.y_train)  # a mean is a sum first
    step = next(n for n, s in enumerate(hand) if s.loss * rows > LARGEST)
    assert step < first_overflow(hand)[0]
    assert (finding.step, finding.layers, finding.severity) == (step, (), "fatal")
    assert finding.evidence["loss"] == math.inf
    slope = math.hypot(np.linalg.norm(hand[step].dw[1]), np.linalg.norm(hand[step].db[1]))
    assert finding.evidence["grad_norm"] == pytest.approx(slope, rel=1e-3)
    assert "loss" in finding.cause


# Learning rate


def ratios(name: str, r: Run) -> list[float]:
    """Actual change of the batch's loss over the promised −η‖g‖², at the measured steps."""
    hand, out = by_hand(name), []
    for n in r.measured:
        s, lr = hand[n], r.spec.optimiser.lr
        square = sum(float((g**2).sum()) for part in (s.dw, s.db) for g in part.values())
        w, b = ({i: p[i] - lr * d[i] for i in p} for p, d in ((s.w, s.dw), (s.b, s.db)))
        after = step_by_hand(r.spec, w, b, r.split.X_train, r.split.y_train)  # full batches
        out.append((after.loss - s.loss) / (-lr * square))
    return out


def test_a_learning_rate_that_is_too_high() -> None:
    name = "steps too long"
    r = sick(name)
    finding, rho = r.finding("learning rate too high"), ratios(name, r)
    recent = rho[len(rho) // 2 :]
    assert (finding.step, finding.layers, finding.severity) == (0, (), "fatal")
    assert r.measured[next(i for i, x in enumerate(rho) if x < 0)] == finding.step
    check(
        finding.evidence,
        {
            "steps_that_raise_their_loss_share": float(np.mean([x < 0 for x in recent])),
            "actual_over_predicted_median": float(np.median(recent)),
            "learning_rate": 1.0,
        },
    )


@pytest.mark.parametrize("times", [0.95, 1.3])
def test_two_over_the_largest_curvature_divides(times: float) -> None:
    """Gradient descent on a quadratic diverges if and only if η > 2/λ."""
    name = "steps too long"
    x = np.hstack([sick(name).split.X_train, np.ones((len(sick(name).split.X_train), 1))])
    largest = float(np.linalg.eigvalsh(x.T @ x / len(x))[-1])
    spec = spec_of(
        *((Dense(1),), Normal(), GradientDescent(times * 2.0 / largest)),
        data="diabetes",
        loss=HALF,
        epochs=60,
    )
    found = {f.name for f in run(spec).diagnosis.findings}
    assert ("learning rate too high" in found) == (times > 1)


def test_a_learning_rate_that_is_too_low() -> None:
    name = "steps too short"
    r, hand = sick(name), by_hand("steps too short")
    finding, rho = r.finding("learning rate too low"), ratios(name, r)
    median = float(np.median(rho[len(rho) // 2 :]))
    assert (finding.step, finding.layers, finding.severity) == (0, (), "serious")
    check(
        finding.evidence,
        {
            "actual_over_predicted_median": median,
            "learned_share": 1 - hand[-1].loss / math.log(3),
            "learning_rate": 3e-3,
            "longer_step_possible_factor": 0.5 / (1 - median) if median < 1 else math.inf,
        },
        rel=1e-6,
    )
    # What would disprove it is not so: ten times the rate ends lower.
    faster = replace_optimiser(r.spec, GradientDescent(3e-2))
    assert fit(faster, r.split).train.loss < r.outcome.train.loss


def with_ratios(c: Case, ratios: list[float]) -> Case:
    """The case as if the measured steps had changed their loss by these parts of the promise."""
    left = iter(ratios)
    records = tuple(
        replace(r, predicted=-1e-3, actual=-1e-3 * next(left)) if r.summaries else r
        for r in c.telemetry.records
    )
    return replace(c, telemetry=Telemetry(c.telemetry.meta, records))


@pytest.mark.parametrize("raised", range(9))
def test_more_than_half_of_the_late_steps_must_raise_their_loss(raised: int) -> None:
    c = well().case
    n = len(c.measured)
    count = n - n // 2
    assert count == 8
    planted = with_ratios(c, [1.0] * (n // 2) + [-0.1] * raised + [0.9] * (count - raised))
    found = {f.name: f for f in diagnose(planted).findings}
    assert ("learning rate too high" in found) == (raised > 4)
    if raised > 4:
        finding = found["learning rate too high"]
        assert finding.severity == "serious"  # it learns all the same
        assert finding.step == c.measured[n // 2].step
        assert finding.evidence["steps_that_raise_their_loss_share"] == raised / 8


@pytest.mark.parametrize(("ratio", "room"), [(0.4, 0), (0.94, 0), (0.96, 12.5), (0.99, 50.0)])
def test_steps_must_be_ten_times_too_short(ratio: float, room: float) -> None:
    """On a quadratic, actual over predicted is 1 − ½·(step)/(best step)."""
    c = sick("steps too short").case
    found = {f.name: f for f in diagnose(with_ratios(c, [ratio] * len(c.measured))).findings}
    assert ("learning rate too low" in found) == (room > 0)
    if room:
        evidence = found["learning rate too low"].evidence
        assert evidence["longer_step_possible_factor"] == pytest.approx(room)


def replace_optimiser(spec: Spec, optimiser: Optimiser) -> Spec:
    return Spec(spec.data, spec.network, optimiser, spec.training, dtype=spec.dtype)


# Learning


@pytest.mark.parametrize("name", ["nothing to start from", "deep logistic", "large relu"])
def test_no_learning(name: str) -> None:
    r, hand = sick(name), by_hand(name)
    finding = r.finding("no learning")
    losses = np.array([s.loss for s in hand])[-3:]  # three batches of 32 make an epoch of 120 rows
    shares = np.bincount(r.split.y_train) / len(r.split.y_train)
    entropy = -float((shares * np.log(shares)).sum())
    assert (finding.severity, finding.layers) == ("fatal", ())
    check(
        finding.evidence,
        {
            "closing_loss": losses.mean(),
            "standard_error": losses.std(ddof=1) / math.sqrt(3),
            "constant_loss": entropy,
        },
    )
    assert r.diagnosis.learned == pytest.approx(1 - losses.mean() / entropy, rel=1e-8)


def test_a_penalty_is_no_part_of_what_is_learned() -> None:
    """½λ‖W‖² of the weights at hand is taken off before the loss is compared."""
    spec = spec_of(
        chain(2, 16, "tanh", 3), Xavier(), SGD(0.1), loss=SoftmaxCrossEntropy(l2=0.2), epochs=1
    )
    r = run(spec)
    last = r.outcome.telemetry.measured()[-1]
    norms = [last.summaries[Site("W", n)].norm for n in (1, 2)]
    penalty = 0.1 * sum(x * x for x in norms)
    mean = float(np.mean([x.loss for x in r.outcome.telemetry.records]))
    assert penalty > 0.5
    assert r.diagnosis.learned == pytest.approx(1 - (mean - penalty) / math.log(3), rel=1e-9)


def test_a_full_batch_that_learns_nothing_is_not_healthy() -> None:
    spec = spec_of(
        chain(12, 16, "logistic", 3), Xavier(), GradientDescent(0.5), epochs=100, dtype="float32"
    )
    r = run(spec)
    assert r.diagnosis.learned < 1e-4
    assert r.diagnosis.verdict != "healthy"


def test_a_network_that_computes_nothing() -> None:
    r = run(spec_of(chain(4, 8, "relu", 3), Constant(), SGD(0.05)))
    assert r.diagnosis.verdict == "sick"
    assert "no learning" in r.diagnosis.names


def test_a_loss_that_is_infinite_in_an_epoch_of_several_steps() -> None:
    layers = (Dense(8), Activation("relu"), Dense(8), Activation("relu"), Dense(1))
    spec = spec_of(layers, Normal(1.0), SGD(1e3), data="diabetes", loss=HALF, dtype="float32")
    assert run(spec).diagnosis.verdict == "sick"


# Health

TASKS = {
    "iris": (3, SOFTMAX, 32, 0.85),
    "wine": (3, SOFTMAX, 32, 0.95),
    "breast_cancer": (1, BINARY, 64, 0.95),
    "diabetes": (1, HALF, 64, 0.4),
}
NORMALISED = (Dense(16), LayerNorm(), Activation("relu"))
BLOCK = (Dense(16), Activation("tanh"))
SOUND: dict[str, tuple[tuple[Layer, ...], Init]] = {
    "3 relu": (chain(3, 16, "relu", 1)[:-1], He()),
    "5 tanh": (chain(5, 16, "tanh", 1)[:-1], Xavier()),
    "20 scaled sigmoid": (chain(20, 16, "scaled_sigmoid", 1)[:-1], Orthogonal()),
    "8 with layer norm": ((Repeat(7, NORMALISED),), He()),
    "16 residual": ((*BLOCK, Repeat(14, (Residual(BLOCK),))), Xavier()),
}
OPTIMISERS: dict[str, Optimiser] = {"sgd": SGD(0.05), "adam": Adam(0.003)}
HEALTHY = [
    *((kind, task, "adam") for kind in SOUND for task in TASKS),
    *((kind, task, "sgd") for kind in SOUND for task in ("iris", "wine")),
    *(("5 tanh", task, "sgd") for task in ("breast_cancer", "diabetes")),
]


@pytest.mark.parametrize(("kind", "task", "optimiser"), HEALTHY)
def test_networks_that_train_are_healthy(kind: str, task: str, optimiser: str) -> None:
    """What trains is told by its accuracy, which no rule sees."""
    (hidden, init), (outputs, loss, batch_size, good) = SOUND[kind], TASKS[task]
    r = run(
        spec_of(
            *((*hidden, Dense(outputs)), init, OPTIMISERS[optimiser]),
            data=task,
            loss=loss,
            epochs=30,
            batch_size=batch_size,
            dtype="float32",
        )
    )
    assert r.outcome.train.accuracy >= good
    assert r.diagnosis.verdict == "healthy", r.diagnosis.reason
    assert r.diagnosis.names == frozenset()
    assert not [f for f in r.diagnosis.findings if f.severity != "minor"]


# Too little to judge by


def test_too_few_steps_are_unknown() -> None:
    spec = SICK["deep logistic"]
    for count in (0, 1, 2):
        diagnosis = run(spec, steps=count).diagnosis  # an epoch has three steps
        assert (diagnosis.verdict, diagnosis.findings) == ("unknown", ())
        assert f"{count} steps" in diagnosis.reason
        assert diagnosis.names == frozenset()
    assert run(spec, steps=3).diagnosis.verdict == "sick"


def test_too_few_measurements_are_unknown() -> None:
    base = SICK["deep logistic"]
    for measure, verdict in ((Measure(0, 2), "unknown"), (Measure(0, 3), "sick")):
        spec = Spec(base.data, base.network, base.optimiser, base.training, measure)
        assert run(spec).diagnosis.verdict == verdict


def test_an_early_interruption_is_unknown() -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    r = run(SICK["deep logistic"], progress=stop)
    assert r.outcome.stopped == "interrupted"
    assert r.diagnosis.verdict == "unknown"


def test_a_loss_that_still_falls_is_unknown() -> None:
    """Learning, but cut off: neither sound nor sick."""
    r = run(spec_of(chain(3, 16, "relu", 3), He(), SGD(0.02), epochs=3))
    losses = [x.loss for x in r.outcome.telemetry.records]
    quarters = [float(np.mean(q)) for q in np.array_split(losses, 4)]
    assert quarters == sorted(quarters, reverse=True)
    assert 0 < r.diagnosis.learned < 0.5
    assert r.diagnosis.names == frozenset()
    assert r.diagnosis.verdict == "unknown"


# What a finding says


@pytest.mark.parametrize("name", SICK)
def test_findings_say_everything(name: str) -> None:
    r = sick(name)
    found = r.diagnosis.findings
    assert found
    assert len({f.name for f in found}) == len(found)
    gravity = [("fatal", "serious", "minor").index(f.severity) for f in found]
    assert gravity == sorted(gravity)
    assert r.diagnosis.names == {f.name for f in found if f.severity != "minor"}
    assert r.diagnosis.verdict == "sick"
    assert all(f.name in r.diagnosis.reason for f in found if f.severity != "minor")
    for f in found:
        assert f.name in NAMES
        assert f.evidence
        assert all(isinstance(v, int | float) for v in f.evidence.values())
        for text in (f.cause, f.expectation, f.disproof):
            assert len(text) > 20
            assert text[0].isupper() or not text[0].isalpha()
            assert text.endswith(".")
        assert list(f.layers) == sorted(set(f.layers))
        assert set(f.layers) <= set(range(1, r.outcome.model.depth + 1))
        assert f.first_layer in (f.layers or (None,))
        assert f.step in [x.step for x in r.outcome.telemetry.records]


def test_every_finding_is_made_by_some_run() -> None:
    assert {f.name for name in SICK for f in sick(name).diagnosis.findings} == NAMES


# Since when


def since(flags: list[bool]) -> int | None:
    """`Case.since` of a condition that holds at these of the steps 0, 10, 20, …"""
    blank = Profile(0, (), (), (), ())
    c = Case(well().spec, well().outcome.model, Telemetry({}, ()), 1.0, 1, "finished")
    c.__dict__["profiles"] = tuple(replace(blank, step=10 * i) for i in range(len(flags)))
    return c.since(lambda p: flags[p.step // 10])


@pytest.mark.parametrize(
    ("flags", "step"),
    [
        ("", None),
        ("0", None),
        ("1", 0),
        ("00", None),
        ("01", 10),
        ("0000", None),
        ("1111", 0),
        ("0011", 20),
        ("0001", None),  # at no more than half of the last half
        ("00000111", 50),
        ("0100000111", 70),  # from 10 on it holds more seldom than not
        ("01000111", 10),
        ("0010110111", 20),
        ("1100", 0),  # it was so, and is no more
        ("0111000000", 10),
        ("0110000000", None),  # at no more than half of the first half
    ],
)
def test_since_when(flags: str, step: int | None) -> None:
    assert since([c == "1" for c in flags]) == step


@given(st.lists(st.booleans(), max_size=12))
def test_since_is_a_step_where_it_holds(flags: list[bool]) -> None:
    half = len(flags) // 2

    def mostly(part: list[bool]) -> bool:
        return 2 * sum(part) > len(part)

    if mostly(flags[half:]):
        want = next(i for i in range(len(flags)) if flags[i] and mostly(flags[i:]))
    else:
        want = flags.index(True) if mostly(flags[:half]) else None
    assert since(flags) == (None if want is None else 10 * want)


# Theory


def expected(*layers: Layer, init: Init, n_in: int = 64) -> Expectation:
    return expectation_of(build(Network(layers, init=init), n_in))


def test_expectation_is_that_of_the_reference() -> None:
    lines = (Path(__file__).parent / "reference_theory.json").read_text(encoding="utf-8")
    fact = next(f for f in json.loads(lines) if f["id"] == "B5.sigmoid.(1.0,0.0)")["expected"]
    e = expected(*chain(10, 300, "logistic", 10), init=LeCun())
    assert e.covered
    assert e.chi1 == pytest.approx(0.0557207067697018, rel=1e-9)
    assert e.chi1 == pytest.approx(fact["chi_1"], rel=1e-9)
    assert e.depth_scale == pytest.approx(fact["xi_c"], rel=1e-9)
    assert e.trainable_depth == pytest.approx(fact["six_xi_c"], rel=1e-9)
    assert e.decades_per_layer == pytest.approx(0.5 * math.log10(fact["chi_1"]), rel=1e-9)


def test_findings_tell_what_theory_expects() -> None:
    r = sick("deep logistic")  # square layers: Xavier gives σ_w² = 1
    for name in ("vanishing gradient", "vanishing signal"):
        assert "χ₁ = 0.0557, so -0.63 decades per layer" in r.finding(name).expectation
    assert r.diagnosis.expectation.chi1 == pytest.approx(0.0557207067697018, rel=1e-9)


def test_measured_decades_are_those_of_theory_in_wide_layers() -> None:
    """Within 3 standard deviations of the spread at this width, for each of four draws."""
    off = []
    for seed in range(4):
        network = Network(chain(10, 128, "logistic", 10), init=LeCun())
        split = load_split(Spec(Data("digits"), network))
        training = Training(epochs=1, batch_size=32)
        outcome = fit(Spec(Data("digits"), network, SGD(), training, seed=seed), split, steps=1)
        diagnosis = examine(outcome, split)
        e = diagnosis.expectation
        # Layers 1 and 2 are not yet at the fixed point of the variance.
        gains = [g.total for g in diagnosis.budget.layers if g.layer > 2]
        assert len(gains) == 7
        off.append((sum(gains) - len(gains) * e.decades_per_layer) / e.spread_decades)
    assert max(map(abs, off)) < 3
    assert abs(np.mean(off)) < 3 / math.sqrt(4)
    assert np.std(off) > 0.05  # the bar is no wall


@pytest.mark.parametrize(
    ("layers", "init", "reason"),
    [
        (chain(4, 8, "tanh", 3), Constant(0.5), "not random"),
        ((Dense(3),), Xavier(), "no hidden layer"),
        (
            (Dense(8), Activation("tanh"), Activation("relu"), Dense(3)),
            Xavier(),
            "layer 1: an activation must read Gaussian pre-activations",
        ),
    ],
)
def test_what_theory_does_not_cover(layers: tuple[Layer, ...], init: Init, reason: str) -> None:
    e = expected(*layers, init=init)
    assert not e.covered
    assert reason in e.reason
    numbers = (e.chi1, e.decades_per_layer, e.depth_scale, e.trainable_depth, e.spread_decades)
    assert all(map(math.isnan, numbers))


def test_dropout_hides_no_learning() -> None:
    """Batches lose much to dropout; what counts is what the network has learned without it."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((300, 6))
    y = 3.0 * X[:, :1] + rng.standard_normal((300, 1))
    layers = (Dense(24), Activation("relu"), Dropout(0.8), Dense(1))
    spec = Spec(
        Data("arrays"),
        Network(layers, loss=HalfSquaredError()),
        optimiser=Adam(lr=0.003),
        training=Training(epochs=15, batch_size=30),
    )
    split = from_arrays(X, y, loss_kind=spec.network.loss)
    outcome = fit(spec, split)
    assert outcome.train.accuracy > 0.4, "R²: it has learned"
    assert "no learning" not in examine(outcome, split).names
    case = Case(spec, outcome.model, outcome.telemetry, 0.5, 240, "finished", outcome.train.loss)
    assert case.closing_loss[0] == outcome.train.loss
    blind = replace(case, fitted=None)
    assert blind.closing_loss[0] > outcome.train.loss
