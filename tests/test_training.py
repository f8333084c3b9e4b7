"""The training loop held against loops by hand: NumPy for a chain, PyTorch for all sites."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import same_bits
from msgspec.structs import replace as edited
from scipy.special import expit, log_softmax

import isograd
from isograd.diagnosis import examine
from isograd.errors import DataError, SpecError, TheoryError
from isograd.nn import (
    SGD,
    Activation,
    Adam,
    BatchNorm,
    BinaryCrossEntropy,
    Constant,
    Critical,
    Data,
    Dense,
    EarlyStopping,
    GradientDescent,
    HalfSquaredError,
    He,
    LayerNorm,
    Measure,
    Momentum,
    Network,
    Normal,
    Plateau,
    Repeat,
    Residual,
    RMSProp,
    SoftmaxCrossEntropy,
    Spec,
    Training,
)
from isograd.nn.spec import Loss
from isograd.telemetry import Exponents, Record, Site, Summary
from isograd.training import loop, scores
from isograd.training.data import Split, from_arrays
from isograd.training.loop import Outcome, Progress, Stopped, fit
from isograd.training.scores import evaluate, predict
from isograd.training.start import model_for

ROWS, FEATURES, BATCH = 53, 4, 10
TANH, RELU = Activation("tanh"), Activation("relu")


def spec_of(*layers: Any, loss: Loss | None = None, init: Any = None, **changes: Any) -> Spec:
    """Three epochs of four batches of ten rows; everything is measured."""
    network = Network(layers or (Dense(5), TANH, Dense(3)), loss or SoftmaxCrossEntropy())
    if init is not None:
        network = edited(network, init=init)
    defaults: dict[str, Any] = {
        "training": Training(epochs=3, batch_size=BATCH),
        "measure": Measure(every=1),
        "dtype": "float64",
    }
    return Spec(Data("arrays"), network, **(defaults | changes))


def split_for(spec: Spec, rows: int = ROWS) -> Split:
    """Data of the kind that the spec's loss takes: 42 rows to train on, and 11 to test."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((rows, FEATURES))
    score = X @ rng.standard_normal((FEATURES, 3))
    kind = spec.network.loss
    if isinstance(kind, SoftmaxCrossEntropy):
        y = score.argmax(axis=1)
    else:
        y = score[:, 0] > 0.3 if isinstance(kind, BinaryCrossEntropy) else score[:, :2]
    return from_arrays(X, y, loss_kind=kind, seed=spec.seed, dtype=spec.dtype)


def train(spec: Spec, **options: Any) -> Outcome:
    return fit(spec, split_for(spec), **options)


def orders(seed: int, n: int, epochs: int, batch: int = BATCH) -> list[np.ndarray]:
    """The rows of every step: the second of two streams of the seed shuffles each epoch anew."""
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[1])
    steps: list[np.ndarray] = []
    for _ in range(epochs):
        rows = rng.permutation(n)
        steps += [rows[i * batch : (i + 1) * batch] for i in range(n // batch)]
    return steps


# --- the same bits


def test_the_same_seed_gives_the_same_bits() -> None:
    a, b = train(spec_of(dtype="float32")), train(spec_of(dtype="float32"))
    assert same_bits(dict(a.params), dict(b.params))
    assert a.telemetry == b.telemetry
    assert (a.train, a.test) == (b.train, b.test)
    assert {v.dtype for v in a.params.values()} == {np.dtype(np.float32)}


def test_another_seed_gives_other_parameters_and_another_order() -> None:
    split = split_for(spec_of())
    a, b = (fit(spec_of(seed=s), split) for s in (0, 1))
    assert all(not np.array_equal(a.params[k], b.params[k]) for k in ("W/1", "W/2"))
    inputs = [o.telemetry.series(Site("input", 0))[1] for o in (a, b)]
    assert all(x != y for x, y in zip(*inputs, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        spec_of(Dense(7), RELU, LayerNorm(), Dense(2), TANH, Dense(3)),
        spec_of(init=Normal(std=0.3)),
        spec_of(optimiser=Adam()),
        spec_of(loss=SoftmaxCrossEntropy(l2=0.1)),
    ],
    ids=["layers", "init", "optimiser", "loss"],
)
def test_an_edit_keeps_the_order_of_the_data(other: Spec) -> None:
    """Inputs are the same at every step, so two specs differ by the edit alone."""
    before, after = (train(s).telemetry.series(Site("input", 0)) for s in (spec_of(), other))
    assert before[0].tolist() == after[0].tolist() == list(range(12))
    assert before[1] == after[1]


def test_a_wider_type_starts_from_the_same_numbers() -> None:
    a, b = (train(spec_of(dtype=d), steps=0).params for d in ("float32", "float64"))
    for name, value in b.items():
        np.testing.assert_array_equal(a[name], value.astype(np.float32))


# --- against NumPy


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    logs = log_softmax(logits, axis=1)
    n = len(y)
    return -logs[np.arange(n), y].mean(), (np.exp(logs) - np.eye(logs.shape[1])[y]) / n


def squared(output: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.5 * np.sum((output - y) ** 2) / len(y), (output - y) / len(y)


def binary(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    cost = np.logaddexp(0.0, logits) - y * logits
    return cost.sum() / len(y), (expit(logits) - y) / len(y)


Head = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]


class ByHand:
    """W₂ tanh(W₁x + b₁) + b₂ by gradient descent, in the plainest NumPy."""

    def __init__(self, params: Any, head: Head, lr: float, l2: float = 0.0) -> None:
        self.p = {k: v.copy() for k, v in params.items()}
        self.head, self.lr, self.l2 = head, lr, l2

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z1 = x @ self.p["W/1"].T + self.p["b/1"]
        a1 = np.tanh(z1)
        return z1, a1, a1 @ self.p["W/2"].T + self.p["b/2"]

    def penalty(self) -> float:
        return 0.5 * self.l2 * sum(np.sum(self.p[k] ** 2) for k in ("W/1", "W/2"))

    def step(self, x: np.ndarray, y: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """All arrays by site, and loss, grad_norm, predicted and actual."""
        z1, a1, z2 = self.forward(x)
        value, delta2 = self.head(z2, y)
        value += self.penalty()
        da1 = delta2 @ self.p["W/2"]
        delta1 = da1 * (1 - a1**2)
        g = {
            "W/1": delta1.T @ x + self.l2 * self.p["W/1"],
            "b/1": delta1.sum(0),
            "W/2": delta2.T @ a1 + self.l2 * self.p["W/2"],
            "b/2": delta2.sum(0),
        }
        seen = {
            "input/0": x,
            **{"z/1": z1, "v/1": z1 - z1.mean(0), "delta/1": delta1, "a/1": a1, "da/1": da1},
            **{"z/2": z2, "v/2": z2 - z2.mean(0), "delta/2": delta2},
            **{k: v.copy() for k, v in self.p.items()},
            **{f"d{k}": v for k, v in g.items()},
            **{f"u{k}": -self.lr * v for k, v in g.items()},
        }
        norm = math.sqrt(sum(np.sum(v**2) for v in g.values()))
        for k, v in g.items():
            self.p[k] -= self.lr * v
        after = self.head(self.forward(x)[2], y)[0] + self.penalty()
        numbers = {"loss": value, "grad_norm": norm}
        numbers |= {"predicted": -self.lr * norm**2, "actual": after - value}
        return seen, numbers


def check_record(record: Record, numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        assert getattr(record, name) == pytest.approx(value, rel=1e-10, abs=1e-14), name


def check_summary(got: Summary, x: np.ndarray, active: tuple[float, float] | None) -> None:
    """A summary holds what NumPy's own functions say of the array, to rounding of the array."""
    size = np.abs(x)
    tiny = 1e-12 * max(size.max(), 1e-300)
    close = {"abs": tiny, "rel": 1e-9}
    assert got.count == x.size
    assert got.mean == pytest.approx(x.mean(), **close)
    assert got.std == pytest.approx(x.std(), **close)
    assert got.min == pytest.approx(x.min(), **close)
    assert got.max == pytest.approx(x.max(), **close)
    assert got.max_abs == pytest.approx(size.max(), **close)
    assert got.zeros == np.count_nonzero(x == 0)
    assert got.nonfinite == 0
    nonzero = size[size > 0]
    if nonzero.size and nonzero.min() > tiny:  # else it is rounding itself
        assert got.min_abs == pytest.approx(nonzero.min(), rel=1e-3)
        e = np.frexp(nonzero)[1] - 1
        at_edge = np.abs(np.frexp(nonzero)[0] - np.array([[0.5], [1.0]])).min() < 1e-12
        if not at_edge:
            counts = tuple(np.bincount(e - e.min()).tolist())
            assert got.exponents == Exponents(int(e.min()), counts)
    if active is None:
        assert (got.saturated, got.units_off) == (0, None)
    else:
        outside = (x < active[0]) | (x > active[1])
        assert got.saturated == np.count_nonzero(outside)
        assert got.units_off is not None
        assert got.units_off.tolist() == outside.all(axis=0).tolist()


# 1 − tanh² falls below a hundredth of its largest value, 1, where tanh² = 0.99.
TANH_ACTIVE = (-math.atanh(math.sqrt(0.99)), math.atanh(math.sqrt(0.99)))

CASES = {
    "classes": (SoftmaxCrossEntropy(), 3, cross_entropy),
    "classes, l2": (SoftmaxCrossEntropy(l2=0.3), 3, cross_entropy),
    "regression": (HalfSquaredError(), 2, squared),
    "binary, l2": (BinaryCrossEntropy(l2=0.05), 1, binary),
}


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_a_run_against_numpy(case: str) -> None:
    loss, outputs, head = CASES[case]
    spec = spec_of(
        Dense(5), TANH, Dense(outputs), loss=loss, optimiser=SGD(lr=0.2), init=Normal(std=1.5)
    )
    split = split_for(spec)
    hand = ByHand(fit(spec, split, steps=0).params, head, lr=0.2, l2=loss.l2)
    outcome = fit(spec, split)

    records = outcome.telemetry.records
    rows = orders(spec.seed, len(split.X_train), epochs=3)
    assert [(r.step, r.epoch, r.lr, r.skipped) for r in records] == [
        (i, i // 4, 0.2, False) for i in range(12)
    ]
    for record, batch in zip(records, rows, strict=True):
        seen, numbers = hand.step(split.X_train[batch], split.y_train[batch])
        check_record(record, numbers)
        assert {str(site) for site in record.summaries} == set(seen)
        for site, summary in record.summaries.items():
            active = TANH_ACTIVE if str(site) == "z/1" else None
            check_summary(summary, seen[str(site)], active)
    for name, value in hand.p.items():
        np.testing.assert_allclose(outcome.params[name], value, rtol=1e-11, atol=1e-14)

    assert outcome.stopped == "finished"
    for score, x, y in (
        (outcome.train, split.X_train, split.y_train),
        (outcome.test, split.X_test, split.y_test),
    ):
        output = hand.forward(x)[2]
        assert score.loss == pytest.approx(head(output, y)[0], rel=1e-10), "without the penalty"
        right: Any
        if isinstance(loss, SoftmaxCrossEntropy):
            right = np.mean(output.argmax(1) == y)
        elif isinstance(loss, BinaryCrossEntropy):
            right = np.mean((output > 0) == (y == 1))
        else:
            residual = ((y - output) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
            right = 1 - residual.mean()
        assert score.accuracy == pytest.approx(right, rel=1e-10)
    assert outcome.metric == ("R²" if isinstance(loss, HalfSquaredError) else "accuracy")


def test_the_check_of_a_summary_catches_a_fault() -> None:
    x = np.random.default_rng(0).normal(0, 2, (9, 4))
    good = Summary.of(x, active=TANH_ACTIVE)
    check_summary(good, x, TANH_ACTIVE)
    faults: dict[str, Any] = {
        **{"count": 35, "mean": good.mean + 1e-6, "std": good.std * 1.0001, "min": good.min + 1e-6},
        **{"max_abs": good.max_abs - 1e-6, "min_abs": good.min_abs * 1.01, "zeros": 1, "nans": 1},
        **{"saturated": good.saturated + 1, "units_off": np.ones(4, bool)},
        **{"exponents": Exponents(good.exponents.first + 1, good.exponents.counts)},
    }
    for field, value in faults.items():
        with pytest.raises(AssertionError):
            check_summary(replace(good, **{field: value}), x, TANH_ACTIVE)
    with pytest.raises(AssertionError):
        check_record(Record(0, 0, 1.0, 0.1), {"loss": 1.0 + 1e-9})


def test_gradient_descent_takes_the_whole_training_part_at_every_step() -> None:
    """The order of the rows is then nothing but rounding."""
    spec = spec_of(optimiser=GradientDescent(lr=0.5), training=Training(epochs=4))
    split = split_for(spec)
    hand = ByHand(fit(spec, split, steps=0).params, cross_entropy, lr=0.5)
    records = fit(spec, split).telemetry.records
    assert [(r.step, r.epoch) for r in records] == [(i, i) for i in range(4)]
    for record in records:
        _, numbers = hand.step(split.X_train, split.y_train)
        check_record(record, numbers)


# --- against PyTorch: every kind of site


def by_torch(p: dict[str, Any], x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    """The loss, and every value of the forward pass by site, of the network below."""
    torch = pytest.importorskip("torch")
    seen: dict[str, Any] = {"input/0": x}

    def keep(site: str, value: Any) -> Any:
        seen[site] = value
        value.retain_grad()
        return value

    def dense(u: Any, n: int) -> Any:
        z = u @ p[f"W/{n}"].T + p.get(f"b/{n}", torch.zeros((), dtype=torch.float64))
        seen[f"v/{n}"] = z - z.mean(0)
        return keep(f"z/{n}", z)

    def norm(u: Any, n: int) -> Any:
        size = (u.shape[1],)
        out = torch.nn.functional.layer_norm(u, size, p[f"g/{n}"], p[f"h/{n}"], 1e-5)
        return keep(f"n/{n}", out)

    u = keep("a/1", torch.tanh(dense(norm(x, 0), 1)))
    s = keep("s/1", u.clone())
    u = keep("r/2", u + norm(dense(keep("a/1.1", torch.relu(s)), 2), 2))
    loss = torch.nn.functional.cross_entropy(dense(u, 3), y)
    loss = loss + 0.05 * sum((p[f"W/{n}"] ** 2).sum() for n in (1, 2, 3))
    return loss, seen


def test_every_site_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    layers = (
        LayerNorm(),
        Dense(5),
        TANH,
        Residual((RELU, Dense(5, bias=False), LayerNorm())),
        Dense(3),
    )
    spec = spec_of(
        *layers,
        loss=SoftmaxCrossEntropy(l2=0.1),
        optimiser=Momentum(lr=0.1, momentum=0.8),
        init=Normal(std=0.8),
    )
    split = split_for(spec)
    p = {k: torch.tensor(v) for k, v in fit(spec, split, steps=0).params.items()}
    records = fit(spec, split).telemetry.records
    velocity = {k: torch.zeros_like(v) for k, v in p.items()}
    for record, rows in zip(records, orders(spec.seed, len(split.X_train), 3), strict=True):
        p = {k: v.detach().requires_grad_() for k, v in p.items()}
        x, y = torch.tensor(split.X_train[rows]), torch.tensor(split.y_train[rows])
        loss, seen = by_torch(p, x.requires_grad_(), y)
        loss.backward()
        want = {**seen, **p, **{f"d{k}": v.grad for k, v in p.items()}}
        for site, value in seen.items():
            kind = site.partition("/")[0]
            if kind not in ("input", "v"):
                name = "delta" if kind == "z" else f"d{kind}"
                want[site.replace(kind, name, 1)] = value.grad
        velocity = {k: 0.8 * velocity[k] + v.grad for k, v in p.items()}
        update = {k: -0.1 * v for k, v in velocity.items()}
        want |= {f"u{k}": v for k, v in update.items()}
        with torch.no_grad():
            promised = sum((v.grad * update[k]).sum() for k, v in p.items())
            norm = math.sqrt(sum((v.grad**2).sum() for v in p.values()))
        p = {k: v + update[k] for k, v in p.items()}
        after, _ = by_torch(p, x, y)
        numbers = {"loss": loss.item(), "predicted": float(promised), "grad_norm": norm}
        check_record(record, numbers | {"actual": (after - loss).item()})
        assert {str(site) for site in record.summaries} == set(want)
        active = {"z/1": TANH_ACTIVE, "s/1": (0.0, math.inf)}
        for site, summary in record.summaries.items():
            check_summary(summary, want[str(site)].detach().numpy(), active.get(str(site)))
    assert len(records) == 12


def test_the_promise_is_that_of_the_clipped_update() -> None:
    spec = spec_of(training=Training(epochs=1, batch_size=BATCH, clip_norm=0.01))
    for r in train(spec).telemetry.records:
        assert r.grad_norm is not None
        assert r.grad_norm > 0.01, "it is the norm before clipping"
        assert r.predicted == pytest.approx(-0.1 * 0.01 * r.grad_norm, rel=1e-10)


# --- what is recorded, and when


@pytest.mark.parametrize(
    ("every", "first", "due"),
    [
        (1, 0, range(12)),
        (5, 3, [0, 1, 2, 3, 8]),
        (4, 0, [0, 4, 8]),
        (0, 2, [0, 1]),
        (0, 0, []),
        (100, 100, range(12)),
    ],
)
def test_the_schedule_of_measuring(every: int, first: int, due: Any) -> None:
    records = train(spec_of(measure=Measure(every=every, first=first))).telemetry.records
    assert [r.step for r in records] == list(range(12))
    assert [r.step for r in records if r.summaries] == list(due)
    for r in records:
        assert (r.predicted is None) == (r.actual is None) == (not r.summaries)
        assert r.grad_norm is not None


def test_measuring_changes_no_bit() -> None:
    a = train(spec_of(dtype="float32"))
    b = train(spec_of(dtype="float32", measure=Measure(every=0, first=0)))
    assert same_bits(dict(a.params), dict(b.params))
    assert a.telemetry.losses().tolist() == b.telemetry.losses().tolist()


@pytest.mark.parametrize(("steps", "taken"), [(0, 0), (1, 1), (6, 6), (12, 12), (50, 12)])
def test_a_limit_of_steps(steps: int, taken: int) -> None:
    whole, part = train(spec_of()), train(spec_of(), steps=steps)
    assert part.telemetry.records == whole.telemetry.records[:taken]
    assert part.stopped == "finished"


def test_sink_and_progress_are_told_of_every_step_in_order() -> None:
    told: list[Any] = []
    outcome = train(spec_of(), sink=told.append, progress=told.append)
    records = outcome.telemetry.records
    assert told[::2] == list(records)
    assert told[1::2] == [Progress(r.step + 1, 12, r.loss) for r in records]


def test_a_data_set_by_name() -> None:
    spec = edited(spec_of(Dense(3), training=Training(epochs=1)), data=Data("iris"))
    outcome = fit(spec)
    assert outcome.task == "classes"
    assert len(outcome.telemetry.records) == 120 // 64
    assert outcome.params["W/1"].shape == (3, 4)


# --- runs that end early


def check_stopped(outcome: Outcome, stopped: Stopped, steps: int) -> None:
    assert outcome.stopped == outcome.telemetry.meta["stopped"] == stopped
    assert [r.step for r in outcome.telemetry.records] == list(range(steps))
    assert all(np.isfinite(v).all() for v in outcome.params.values())


def diverging(**changes: Any) -> Spec:
    """The squared error of a linear layer: far beyond 2/λ the error grows at every step."""
    return spec_of(
        Dense(2), loss=HalfSquaredError(), optimiser=SGD(lr=1e9), dtype="float32", **changes
    )


@pytest.mark.parametrize("measure", [Measure(every=1), Measure(every=0, first=0)])
def test_a_run_that_diverges(measure: Measure) -> None:
    spec = diverging(measure=measure)
    outcome = train(spec)
    records = outcome.telemetry.records
    check_stopped(outcome, "diverged", len(records))
    assert 5 < len(records) < 12
    before, skipped = records[:-4], records[-4:]
    assert all(r.skipped for r in skipped), "every batch of an epoch, in turn"
    assert outcome.skipped == 4
    assert not any(r.skipped for r in before)
    assert all(math.isfinite(r.loss) for r in before)
    first = skipped[0]
    assert not math.isfinite(first.loss)
    assert first.summaries, "the first of them is measured whatever the schedule"
    assert all(bool(r.summaries) == bool(measure.every) for r in skipped[1:])
    assert (first.predicted, first.actual) == (None, None)
    split = split_for(spec)
    rows = orders(spec.seed, len(split.X_train), 3)[first.step]
    z = split.X_train[rows].astype(float) @ outcome.params["W/1"].T + outcome.params["b/1"]
    got = first.summaries[Site("z", 1)]
    assert (got.min, got.max) == pytest.approx((z.min(), z.max()), rel=1e-5)
    kept = train(spec, steps=len(before))
    assert same_bits(dict(outcome.params), dict(kept.params)), "as before the steps"


def test_one_bad_row_costs_one_step_an_epoch() -> None:
    """A row whose loss overflows is skipped, counted and reported; the others are learned from."""
    spec = spec_of(
        loss=HalfSquaredError(), dtype="float32", training=Training(epochs=5, batch_size=BATCH)
    )
    spec = edited(spec, network=edited(spec.network, layers=(Dense(5), TANH, Dense(2))))
    split = split_for(spec)
    y = split.y_train.copy()
    y[17, 0] = 1e30  # its square is beyond float32
    told: list[Progress] = []
    outcome = fit(spec, replace(split, y_train=y), progress=told.append)
    batches = orders(spec.seed, len(y), 5)
    bad = [i for i, rows in enumerate(batches) if 17 in rows]
    assert [p.skipped for p in told] == [sum(b < p.step for b in bad) for p in told]
    assert len(bad) >= 3
    assert [r.step for r in outcome.telemetry.records if r.skipped] == bad
    assert outcome.stopped == "finished"
    assert outcome.skipped == len(bad)
    assert all(np.isfinite(v).all() for v in outcome.params.values())
    without = [i for i in range(len(batches)) if i not in bad]
    losses = outcome.telemetry.losses()
    assert losses[without[-1]] < losses[without[0]]
    found = examine(outcome, split)
    (finding,) = (f for f in found.findings if f.name == "non-finite value")
    assert finding.evidence["steps_skipped"] == len(bad)
    assert f"{len(bad)} of {len(batches)} steps were skipped" in finding.cause


@pytest.mark.parametrize("lr", [1e39, 1e300, 1e38])
def test_an_update_that_is_not_finite_is_not_applied(lr: float) -> None:
    """Loss and gradient are finite, their product with the rate is not."""
    spec = edited(diverging(init=Normal(std=50.0)), optimiser=SGD(lr=lr))
    outcome = train(spec)
    check_stopped(outcome, "diverged", 4)
    record = outcome.telemetry.records[0]
    assert math.isfinite(record.loss)
    assert record.grad_norm is not None
    assert math.isfinite(record.grad_norm)
    assert record.summaries[Site("uW", 1)].nonfinite
    assert same_bits(dict(outcome.params), dict(train(spec, steps=0).params))
    assert examine(outcome, split_for(spec)).verdict == "sick"


@pytest.mark.parametrize("told", ["sink", "progress"])
def test_an_interrupt_keeps_what_was_measured(told: str) -> None:
    count = 0

    def interrupt(_: object) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt

    options: dict[str, Any] = {told: interrupt}
    outcome = train(spec_of(), **options)
    steps = 5 if told == "progress" else 4  # a step counts once its record is safe
    check_stopped(outcome, "interrupted", steps)
    same = train(spec_of(), steps=steps)
    assert outcome.telemetry.records == same.telemetry.records
    assert same_bits(dict(outcome.params), dict(same.params))
    assert outcome.test == same.test


def test_an_interrupt_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is lost, those before it are not."""
    real, calls = loop.compile_step, 0

    def compiled(*args: Any, **options: Any) -> Any:
        step = real(*args, **options)

        def measured(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            result = step.measured(*args, **options)
            if calls == 3:
                raise KeyboardInterrupt
            return result

        return replace(step, measured=measured)

    monkeypatch.setattr(loop, "compile_step", compiled)
    check_stopped(train(spec_of()), "interrupted", 2)


# --- what cannot be trained


@pytest.mark.parametrize("batch_size", [43, 10**9])
def test_a_batch_larger_than_the_data(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "compile_step", None)  # refused before the work
    with pytest.raises(SpecError, match=r"with 42 training rows\n.*\n.*lower it to 42"):
        train(spec_of(training=Training(batch_size=batch_size)))


def test_a_batch_as_large_as_the_data_is_an_epoch_a_step() -> None:
    outcome = train(spec_of(training=Training(epochs=2, batch_size=42)))
    assert [r.epoch for r in outcome.telemetry.records] == [0, 1]


def test_a_last_layer_that_does_not_fit() -> None:
    with pytest.raises(SpecError, match=r"must have 3 units, one per class\n.*4 units"):
        train(spec_of(Dense(5), TANH, Dense(4)))


def test_an_initialiser_without_an_answer() -> None:
    with pytest.raises(TheoryError):
        train(spec_of(Dense(5), Activation("softplus"), Dense(3), init=Critical()))


def test_data_made_for_another_spec() -> None:
    spec = spec_of()
    with pytest.raises(
        DataError, match=r"must be float64, .*\n.*X of float32.*\n.*dtype='float64'"
    ):
        fit(spec, split_for(edited(spec, dtype="float32")))
    other = spec_of(Dense(2), loss=HalfSquaredError())
    for a, b in ((spec, other), (other, spec)):
        with pytest.raises(DataError, match=r"y of .*\n.*pass loss_kind=spec\.network\.loss"):
            fit(a, split_for(b))


# --- predictions and scores


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 14, 15, 42])
def test_portions_make_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of()
    split = split_for(spec)
    outcome = fit(spec, split, steps=3)
    x, y = split.X_train[:rows], split.y_train[:rows]
    whole = predict(outcome.model, outcome.params, x)
    score = evaluate(outcome.model, outcome.params, x, y, "classes")
    monkeypatch.setattr(scores, "EVALUATION_ROWS", 7)
    portions = predict(outcome.model, outcome.params, x)
    assert portions.shape == (rows, 3)
    np.testing.assert_allclose(portions, whole, rtol=1e-13)
    again = evaluate(outcome.model, outcome.params, x, y, "classes")
    assert again.loss == pytest.approx(score.loss, rel=1e-13)
    assert again.accuracy == score.accuracy


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_more_rows_than_a_portion_holds(extra: int, rng: np.random.Generator) -> None:
    spec = spec_of(Dense(2), TANH, Dense(3))
    outcome = train(spec, steps=0)
    x = rng.standard_normal((scores.EVALUATION_ROWS + extra, FEATURES))
    p = outcome.params
    want = np.tanh(x @ p["W/1"].T + p["b/1"]) @ p["W/2"].T + p["b/2"]
    np.testing.assert_allclose(predict(outcome.model, p, x), want, rtol=1e-12, atol=1e-14)


def test_a_prediction_for_no_rows() -> None:
    outcome = train(spec_of(), steps=0)
    assert predict(outcome.model, outcome.params, np.zeros((0, FEATURES))).shape == (0, 3)


def scores_of(output: float) -> Any:
    """Scores of a network whose one output is a constant."""
    spec = spec_of(Dense(2), loss=HalfSquaredError(), init=Constant(), dtype="float32")
    split = split_for(spec)
    outcome = fit(spec, split, steps=0)
    params = {**outcome.params, "b/1": np.full(2, output, np.float32)}
    return evaluate(outcome.model, params, split.X_test, split.y_test, "regression")


def test_scores_of_outputs_beyond_the_range() -> None:
    for output in (math.nan, math.inf):
        score = scores_of(output)
        assert math.isnan(score.loss)
        assert math.isnan(score.accuracy)
    huge = scores_of(1e30)
    assert huge.loss == math.inf, "the squares overflow float32"
    assert -1e61 < huge.accuracy < -1e59


def test_classes_learned_by_the_squared_error_are_scored_as_classes() -> None:
    spec = spec_of(Dense(3), loss=HalfSquaredError())
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, FEATURES))
    labels = np.array(["a", "b", "c"])[X[:, :3].argmax(1)]
    split = from_arrays(X, labels, loss_kind=spec.network.loss, dtype="float64")
    outcome = fit(spec, split)
    output = predict(outcome.model, outcome.params, split.X_test)
    assert outcome.task == "classes"
    assert outcome.test.accuracy == np.mean(output.argmax(1) == split.y_test.argmax(1))


def test_the_public_names() -> None:
    assert isograd.fit is fit
    assert isograd.predict is predict
    spec = spec_of()
    assert model_for(spec, split_for(spec)).n_out == 3


# --- depth


def deep(layers: int) -> Outcome:
    hidden = Repeat(layers - 1, (Dense(4), TANH))
    return train(spec_of(hidden, Dense(3), init=He(), measure=Measure(every=0, first=1)), steps=2)


def check_deep(layers: int) -> None:
    outcome = deep(layers)
    assert outcome.model.depth == layers
    check_stopped(outcome, "finished", 2)
    first, second = outcome.telemetry.records
    assert len(first.summaries) == 1 + layers * 9 + 2 * (layers - 1)
    assert not second.summaries
    moved = [s.norm for site, s in first.summaries.items() if site.kind == "uW"]
    assert all(map(math.isfinite, moved))
    assert moved[-1] > 0


def test_three_hundred_layers() -> None:
    check_deep(300)


@pytest.mark.slow  # about a minute, 0.9 GB
def test_ten_thousand_layers() -> None:
    check_deep(10_000)


# --- what is not finite, wherever it comes from


def large_gradient(optimiser: Any) -> tuple[Spec, Split]:
    """A row whose gradient, about 1e20, has a square beyond float32: it is finite itself."""
    spec = spec_of(
        *(Dense(2, bias=False),),
        loss=HalfSquaredError(),
        dtype="float32",
        optimiser=optimiser,
        init=Constant(),
    )
    split = split_for(spec)
    x, y = split.X_train.copy(), split.y_train.copy()
    x[3], y[3] = 1e11, 1e10
    return spec, replace(split, X_train=x, y_train=y)


@pytest.mark.parametrize("optimiser", [Adam(), RMSProp()], ids=["adam", "rmsprop"])
def test_a_square_kept_by_the_rule_that_overflows_skips_the_step(optimiser: Any) -> None:
    """Applied, an infinite mean of g² would make all later steps of these weights 0."""
    spec, split = large_gradient(optimiser)
    outcome = fit(spec, split)
    bad = [i for i, rows in enumerate(orders(spec.seed, len(split.X_train), 3)) if 3 in rows]
    records = outcome.telemetry.records
    assert [r.step for r in records if r.skipped] == bad
    assert all(math.isfinite(r.loss) for r in records)
    assert outcome.skipped == len(bad) > 0
    assert all(np.isfinite(v).all() for v in outcome.params.values())


def test_running_moments_that_overflow_skip_the_step() -> None:
    """Normalised, the batch is finite; its variance, about 1e40, is not."""
    spec = spec_of(
        *(Dense(4, bias=False), BatchNorm(), TANH, Dense(3)), dtype="float32", init=Normal(std=1.0)
    )
    split = split_for(spec)
    x = split.X_train.copy()
    x[5] *= 1e20
    outcome = fit(spec, replace(split, X_train=x))
    bad = [i for i, rows in enumerate(orders(spec.seed, len(x), 3)) if 5 in rows]
    assert [r.step for r in outcome.telemetry.records if r.skipped] == bad
    assert all(np.isfinite(v).all() for v in outcome.params.values())


def test_a_validation_loss_that_is_not_finite_is_no_better() -> None:
    """Early stopping waits it out, the plateau lowers the rate, and nothing breaks."""
    training = Training(
        epochs=6,
        batch_size=BATCH,
        early_stopping=EarlyStopping(patience=3),
        schedule=(Plateau(patience=0, factor=0.5),),
    )
    data = Data("arrays", validation_fraction=0.25)
    network = Network((Dense(2),), HalfSquaredError())
    spec = Spec(data, network, training=training)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, FEATURES))
    y = X[:, :2]
    split = from_arrays(X, y, data, loss_kind=spec.network.loss)
    spoiled = split.X_validation.copy()
    spoiled[0] = np.inf
    outcome = fit(spec, replace(split, X_validation=spoiled))
    records = outcome.telemetry.records
    assert outcome.stopped == "early"
    assert len(records) == 3 * (len(split.X_train) // BATCH)
    assert [math.isnan(r.validation) for r in records if r.validation is not None] == [True] * 3
    rates = sorted({r.lr for r in records}, reverse=True)
    assert rates == pytest.approx([0.1, 0.05, 0.025])
    assert outcome.state.best is None
