"""Diagnoses of runs whose learning rate follows a schedule: rates are judged as they were taken."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as edited
from test_diagnosis import Run, chain, check, run, sick, spec_of

from isograd.diagnosis import Case, diagnose
from isograd.nn import (
    SGD,
    Activation,
    BatchNorm,
    CosineDecay,
    Dense,
    Dropout,
    EarlyStopping,
    ExponentialDecay,
    He,
    Measure,
    Nesterov,
    OneCycle,
    Plateau,
    Repeat,
    Spec,
    StepDecay,
    WarmUp,
    Xavier,
)
from isograd.nn.spec import Layer, Optimiser, Schedule
from isograd.telemetry.records import Telemetry

EPOCHS, PER_EPOCH = 41, 3  # 120 rows of iris in batches of 32
STEPS = EPOCHS * PER_EPOCH
RELU, BATCH_NORMED = chain(3, 16, "relu", 3), (Dense(16), BatchNorm(), Activation("relu"))


def scheduled(
    optimiser: Optimiser,
    *schedule: Schedule,
    layers: tuple[Layer, ...] = RELU,
    stop: EarlyStopping | None = None,
    measure: Measure | None = None,
    validation: float = 0.0,
) -> Spec:
    spec = spec_of(layers, He(), optimiser, epochs=EPOCHS)
    training = edited(spec.training, schedule=schedule, early_stopping=stop)
    data = edited(spec.data, validation_fraction=validation)
    return edited(spec, data=data, training=training, measure=measure or spec.measure)


def cosine(lr: float) -> np.ndarray:
    return lr * 0.5 * (1.0 + np.cos(np.pi * np.arange(STEPS) / STEPS))


SOUND = {
    "cosine": scheduled(SGD(0.1), CosineDecay()),
    "one cycle to 0": scheduled(SGD(0.2), OneCycle(final=0.0)),
    "warm-up and steps": scheduled(Nesterov(0.02), WarmUp(3), StepDecay(15, 0.3)),
    "exponential": scheduled(SGD(0.2), ExponentialDecay(0.9)),
    "plateau": scheduled(SGD(0.1), Plateau(0.3, 2), validation=0.2),
    "stopped early": scheduled(
        *(SGD(0.3), CosineDecay()), stop=EarlyStopping(4, 0.01), validation=0.2
    ),
    "dropout": scheduled(
        *(SGD(0.1), CosineDecay()),
        layers=(Repeat(2, (Dense(32), Activation("relu"), Dropout(0.2))), Dense(3)),
    ),
    "batch norm": scheduled(SGD(0.1), OneCycle(), layers=(Repeat(6, BATCH_NORMED), Dense(3))),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_healthy_runs_with_schedules_stay_healthy(name: str) -> None:
    """What trains is told by its accuracy, which no rule sees."""
    r = run(SOUND[name])
    assert r.outcome.train.accuracy > 0.9
    assert r.outcome.stopped == ("early" if name == "stopped early" else "finished")
    assert (r.diagnosis.verdict, r.diagnosis.names) == ("healthy", frozenset()), r.diagnosis.reason


@pytest.mark.parametrize("times", [1e-3, 1e-2])
def test_a_rate_that_is_too_low_with_a_cosine(times: float) -> None:
    """A thousandth and a hundredth of the healthy one; the figures are the rates as taken."""
    lr = times * 0.1
    r = run(scheduled(SGD(lr), CosineDecay()))
    finding = r.finding("learning rate too low")
    taken = cosine(lr)
    full = [n for n in r.measured if taken[n] >= 0.5 * lr]
    rate = float(np.median(taken[full[len(full) // 2 :]]))
    assert 0.5 * lr < rate < 0.9 * lr
    slopes = [-x.predicted / taken[x.step] for x in r.case.measured if x.predicted is not None]
    promised = float(np.median(slopes)) * float(taken.sum())
    check(finding.evidence, {"learning_rate": rate, "promised_fall": promised})
    assert f"around {rate:.2g} " in finding.cause
    # What would disprove it is not so: ten times the rate ends lower.
    faster = run(scheduled(SGD(10 * lr), CosineDecay()))
    assert faster.outcome.train.loss < r.outcome.train.loss


def test_a_rate_that_is_too_high_with_a_cosine() -> None:
    spec = scheduled(SGD(300.0), CosineDecay(), layers=chain(3, 16, "tanh", 3))
    r = run(edited(spec, network=edited(spec.network, init=Xavier())))
    finding = r.finding("learning rate too high")
    taken = cosine(300.0)
    kept = [(x.step, x.actual / x.predicted) for x in r.case.measured if x.predicted]
    windows = [kept[len(kept) // 2 :], [k for k in kept if k[0] < r.spec.measure.first]]
    judged = next(w for w in windows if np.median([rho for _, rho in w]) < 0.25)
    check(
        finding.evidence,
        {
            "learning_rate": float(np.median([taken[n] for n, _ in judged])),
            "actual_over_predicted_median": float(np.median([rho for _, rho in judged])),
        },
    )


def with_steps(c: Case, rates: Any, ratios: Any) -> Case:
    """The case as if its steps had had these rates, and kept these parts of their promises."""
    records = tuple(
        replace(r, lr=lr, predicted=-lr, actual=-lr * rho) if r.summaries else replace(r, lr=lr)
        for r, lr, rho in zip(c.telemetry.records, rates, ratios, strict=True)
    )
    return replace(c, telemetry=Telemetry(c.telemetry.meta, records))


@pytest.mark.parametrize("kept", [0.4, 0.94, 0.96, 0.99])
@pytest.mark.parametrize("shape", ["decay", "warm-up", "cycle"])
def test_steps_at_a_small_part_of_the_rate_do_not_count(shape: str, kept: float) -> None:
    """They are straight whatever the rate; what counts is what steps at the full rate keep."""
    c = sick("steps too short").case  # 100 steps of a run that learns, but slowly
    share = np.linspace(1.0, 0.0, 100, endpoint=False) ** 3
    shares = {"decay": share, "warm-up": share[::-1], "cycle": np.sort(share)}
    shares["cycle"] = np.concatenate([shares["cycle"][::2], shares["cycle"][1::2][::-1]])
    rates = 3e-3 * shares[shape]
    ratios = 1.0 - (1.0 - kept) * (shares[shape] >= 0.5)  # the others: no curvature at all
    planted = with_steps(c, rates, ratios)
    planted.__dict__["falling"] = True
    found = {f.name: f for f in diagnose(planted).findings}
    assert ("learning rate too low" in found) == (kept > 0.95)
    if kept > 0.95:
        evidence = found["learning rate too low"].evidence
        assert evidence["longer_step_possible_factor"] == pytest.approx(0.5 / (1.0 - kept))
        assert 1.5e-3 <= evidence["learning_rate"] <= 3e-3


@pytest.mark.parametrize("shape", [np.ones(200), cosine(1.0), np.linspace(0.01, 1, 200)])
@pytest.mark.parametrize(("until", "falls"), [(1.0, True), (0.6, False)])
def test_a_loss_falls_per_learning_rate(shape: np.ndarray, until: float, falls: bool) -> None:
    """In proportion to the sum of the rates it falls on; where it stops on the way, it does not."""
    c, along = sick("steps too short").case, np.cumsum(shape) / np.sum(shape)
    losses = 2.0 - np.minimum(along, until)
    record = c.telemetry.records[0]
    records = tuple(
        replace(record, step=n, lr=float(lr), loss=float(loss), summaries={})
        for n, (lr, loss) in enumerate(zip(shape, losses, strict=True))
    )
    assert replace(c, telemetry=Telemetry({}, records)).falling == falls


def ending_at_zero(spec: Spec) -> Run:
    """A run whose last step, at rate 0, is measured."""
    r = run(edited(spec, measure=Measure(every=1)))
    last = r.outcome.telemetry.records[-1]
    assert last.lr == 0.0
    assert last.summaries
    return r


def test_a_last_step_at_rate_0_hides_nothing() -> None:
    """It moves no layer, so no layer stands still beside others."""
    r = ending_at_zero(scheduled(SGD(1e-4), OneCycle(final=0.0)))
    assert r.finding("learning rate too low").severity == "fatal"
    lower = chain(14, 16, "logistic", 3)
    r = ending_at_zero(scheduled(SGD(0.05), OneCycle(final=0.0), layers=lower))
    evidence = r.finding("vanishing gradient").evidence
    starved, top = (
        evidence[f"relative_update_{which}"] for which in ("layers_concerned", "last_layer")
    )
    assert top > 0.0
    assert 0.0 < starved < math.exp(-3) * top
