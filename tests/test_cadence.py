"""How often a run is measured by itself, what that costs, and the moments of every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import isograd
from isograd.engine.ops import Op
from isograd.nn import Activation, Data, Dense, Network, Repeat, Spec, Training
from isograd.nn.spec import Measure
from isograd.telemetry.records import Site, Telemetry
from isograd.telemetry.summary import Summary
from isograd.training import cadence as module
from isograd.training.cadence import AT_LEAST, BUDGET, Costs, cadence
from isograd.training.loop import fit

SPEC = Spec(
    Data("arrays"),
    Network((Repeat(2, (Dense(8), Activation("tanh"))), Dense(3))),
    training=Training(epochs=40, batch_size=10),
)


def split(dtype: str = "float32") -> Any:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 5)), rng.integers(0, 3, 80)
    return isograd.from_arrays(x, y, loss_kind=SPEC.network.loss, dtype=dtype)


def graph(layers: int, width: int, batch: int) -> isograd.engine.graph.Graph:
    """Products of so many layers, with a probe behind each."""

    def f(x: Any, weights: Any) -> Any:
        for i, w in enumerate(weights):
            x = isograd.functions.probe(x @ w, f"z/{i}")
        return x

    square = isograd.ArraySpec((width, width), np.float32)
    return isograd.trace(f, isograd.ArraySpec((batch, width), np.float32), [square] * layers)


@pytest.mark.parametrize("width", [4, 64, 1024])
@pytest.mark.parametrize("layers", [1, 30])
def test_long_runs_keep_to_the_budget(layers: int, width: int) -> None:
    traced = graph(layers, width, 64)
    every = cadence(traced, 10**9)
    probes = [e for e in traced.eqns if e.op is Op.PROBE]
    products = layers * (1e-7 + 1e-11 * 2 * 64 * width * width)
    summaries = len(probes) * (3e-5 + 8e-10 * 64 * width) + 6e-9 * 64 * width
    assert len(probes) == layers
    assert summaries / every <= BUDGET * products
    assert every == 1 or summaries / (every - 1) > BUDGET * products


@pytest.mark.parametrize(("steps", "want"), [(1, 1), (AT_LEAST, 1), (10 * AT_LEAST + 5, 10)])
def test_short_runs_are_measured_often_enough(steps: int, want: int) -> None:
    assert cadence(graph(3, 4, 64), steps) == want


def test_a_run_is_measured_at_these_steps() -> None:
    outcome = fit(SPEC, split(), backend="numpy")
    steps = len(outcome.telemetry.records)
    every = steps // AT_LEAST  # its steps are tiny
    want = [s for s in range(steps) if s < 10 or (s - 10) % every == 0]
    assert [r.step for r in outcome.telemetry.measured()] == want


def test_none_means_none() -> None:
    outcome = fit(replace(SPEC, measure=Measure(every=0, first=0)), split(), backend="numpy")
    assert not outcome.telemetry.measured()
    assert outcome.telemetry_seconds == 0.0


# --- what it costs


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass, which else stands still."""
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    return passes


def test_a_measured_step_costs_what_a_bare_one_does_not_take(
    clock: Callable[[float], None],
) -> None:
    costs, bare = Costs(), []

    def step() -> None:
        bare.append(1)
        clock(2.0)

    for _ in range(3):
        costs.measured(7.0, step)
    assert costs.seconds == 15.0
    assert len(bare) == 2  # it is taken again for the clock alone, and not each time


def test_moments_cost_a_share_of_their_steps(clock: Callable[[float], None]) -> None:
    costs = Costs()
    for seconds in (4.0, 8.0):
        costs.brief(seconds, lambda: clock(3.0))
    assert costs.seconds == pytest.approx(0.25 * 12.0)
    with costs.storing():
        clock(1.5)
    assert costs.seconds == pytest.approx(4.5)


# --- moments of every step


def moments_of_every_step(backend: str, threads: int | None = None) -> Telemetry:
    spec = replace(SPEC, dtype="float64", measure=Measure(every=1, moments=True))
    spec = replace(spec, training=replace(spec.training, epochs=3))
    return fit(spec, split("float64"), backend=backend, threads=threads).telemetry


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_moments_are_those_of_summaries(backend: str) -> None:
    telemetry = moments_of_every_step(backend)
    check(telemetry, telemetry)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_moments_of_steps_that_are_not_summarised(threads: int) -> None:
    pytest.importorskip("llvmlite")
    spec = replace(SPEC, dtype="float64", measure=Measure(every=0, first=0, moments=True))
    spec = replace(spec, training=replace(spec.training, epochs=3))
    brief = fit(spec, split("float64"), backend="native", threads=threads).telemetry
    assert not brief.measured()
    check(brief, moments_of_every_step("numpy"))


def test_moments_of_another_site_are_seen() -> None:
    telemetry = moments_of_every_step("numpy")
    shifted = {"moments": telemetry.meta["moments"].replace('"v/1","z/1"', '"z/1","v/1"')}
    assert shifted["moments"] != telemetry.meta["moments"]
    with pytest.raises(AssertionError):
        check(Telemetry(shifted, telemetry.records), telemetry)


def check(brief: Telemetry, full: Telemetry) -> None:
    """The moments of one against the summaries of the other."""
    sites = full.sites()
    assert Site.parse("z/1") in sites
    for site in sites:
        steps, found = brief.moments(site)
        assert steps.tolist() == [r.step for r in full.records]
        for i, record in enumerate(full.records):
            s: Summary = record.summaries[site]
            size = 1e-8 * s.max_abs + 1e-12
            assert (found.count[i], found.nonfinite[i]) == (s.finite, s.nonfinite)
            for name in ("mean", "std", "min", "max"):
                want = getattr(s, name)
                assert getattr(found, name)[i] == pytest.approx(want, abs=size, rel=1e-4), site
