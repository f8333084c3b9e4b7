"""Steps in chunks: however many a call of the backend takes, a run is the same to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import same_bits
from msgspec.structs import replace as edited
from test_resume import TEXT

from isograd.nn.spec import HalfSquaredError, Measure, Spec
from isograd.nn.toml import loads
from isograd.telemetry import Record
from isograd.training import loop
from isograd.training.data import Split
from isograd.training.folder import open_run
from isograd.training.loop import Outcome, fit
from isograd.training.run import train
from isograd.training.start import load_split
from isograd.training.state import State

SPEC = edited(
    loads(TEXT.replace("batch_size = 16", "batch_size = 5")), measure=Measure(every=13, first=2)
)
"""19 steps to an epoch, of which about one is measured; all that a state holds is used."""
SPLIT = load_split(SPEC)
EVERY = 10**9


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of steps that were asked for in each chunk."""
    seen: list[int] = []
    real = loop._Run._take

    def take(run: Any, rows: np.ndarray) -> Any:
        seen.append(len(rows))
        return real(run, rows)

    monkeypatch.setattr(loop._Run, "_take", take)
    return seen


@pytest.fixture
def at_most(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], dict[str, Any]]:
    """Bounds the size of chunks, which otherwise grow without end."""
    real = loop._Run._until_measured

    def bound(size: int) -> dict[str, Any]:
        monkeypatch.setattr(loop._Run, "_until_measured", lambda run: min(real(run), size))
        return {"chunk_seconds": math.inf}

    return bound


def same(a: Outcome, b: Outcome) -> bool:
    return (
        same_bits(dict(a.params), dict(b.params))
        and a.telemetry == b.telemetry
        and (a.train, a.validation, a.test) == (b.train, b.validation, b.test)
        and a.stopped == b.stopped
    )


@pytest.fixture(params=["numpy", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        pytest.importorskip("llvmlite")
    return str(request.param)


@pytest.mark.parametrize("size", [1, 2, 7, EVERY])
def test_results_do_not_depend_on_the_size_of_chunks(
    size: int, backend: str, chunks: list[int], at_most: Callable[[int], dict[str, Any]]
) -> None:
    one_by_one = fit(SPEC, SPLIT, chunk_seconds=0.0, backend=backend)
    assert one_by_one.backend == backend
    assert set(chunks) == {1}
    chunks.clear()
    assert same(fit(SPEC, SPLIT, backend=backend, **at_most(size)), one_by_one)
    assert max(chunks) == min(size, 12), "a step of thirteen is measured, by itself"


def test_a_run_in_chunks_is_told_from_another() -> None:
    """The test above can fail."""
    shuffled = replace(SPLIT, X_train=SPLIT.X_train[::-1].copy())
    assert not same(fit(SPEC, SPLIT), fit(SPEC, shuffled))


@pytest.mark.parametrize("size", [3, EVERY])
def test_a_run_goes_on_from_the_end_of_any_chunk(
    size: int, at_most: Callable[[int], dict[str, Any]]
) -> None:
    whole = fit(SPEC, SPLIT, chunk_seconds=0.0)
    states: list[State] = []
    fit(SPEC, SPLIT, keep=states.append, **at_most(size))
    assert len(states) < len(whole.telemetry.records)
    for state in states[::5]:
        before = whole.telemetry.records[: state.step]
        assert same(fit(SPEC, SPLIT, state=state, records=before, **at_most(4)), whole)


# --- how large a chunk is


class Clock:
    """Time that steps take, and nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step = 0.0, 0.0
        monkeypatch.setattr(loop, "time", self)
        real = loop._Run._take

        def take(run: Any, rows: np.ndarray) -> Any:
            self.now += len(rows) * self.step
            return real(run, rows)

        monkeypatch.setattr(loop._Run, "_take", take)

    def perf_counter(self) -> float:
        return self.now


def test_chunks_grow_while_they_are_short_and_shrink_when_they_are_long(
    chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 50 ms: from one on, doubled below 25 ms, halved above 50 ms."""
    clock = Clock(monkeypatch)
    clock.step = 0.005
    spec = edited(SPEC, measure=Measure(every=0, first=0))

    def slower(record: Record) -> None:
        if record.step >= 3 * 19:
            clock.step = 0.020

    fit(spec, SPLIT, sink=slower)
    assert chunks[:6] == [1, 2, 4, 8, 4, 8], "19 steps make an epoch"
    later = chunks[np.cumsum(chunks).tolist().index(4 * 19) + 1 :]
    assert set(later) == {2, 1}, "2 steps of 20 ms, and one that is left of an epoch"


# --- steps that are skipped


def spoiled(rows: dict[int, float]) -> tuple[Spec, Split]:
    """A regression in which some rows have targets whose squares are beyond float32."""
    network = edited(SPEC.network, loss=HalfSquaredError())
    training = edited(SPEC.training, early_stopping=None, clip_norm=1.0, epochs=4)
    spec = edited(SPEC, network=network, training=training, measure=Measure(every=0, first=0))
    split = load_split(spec)
    y = split.y_train.copy()
    for row, value in rows.items():
        y[row, 0] = value
    return spec, replace(split, y_train=y)


@pytest.mark.parametrize("count", [1, 12])
def test_steps_that_are_skipped_within_chunks(
    count: int, backend: str, chunks: list[int], at_most: Callable[[int], dict[str, Any]]
) -> None:
    """One by itself or several in a row, of which the first is measured."""
    spec, split = spoiled({7 * i: 1e30 for i in range(count)})
    one_by_one = fit(spec, split, chunk_seconds=0.0, backend=backend)
    chunks.clear()
    whole = fit(spec, split, backend=backend, **at_most(EVERY))
    assert max(chunks) >= 8
    assert same(whole, one_by_one)
    order = np.random.default_rng(np.random.SeedSequence(spec.seed).spawn(2)[1])
    batches = [b for _ in range(4) for b in order.permutation(96)[:95].reshape(19, 5)]
    bad = {i for i, rows in enumerate(batches) if any(r % 7 == 0 and r < 7 * count for r in rows)}
    records = whole.telemetry.records
    assert len(records) == len(batches)
    assert {r.step for r in records if r.skipped} == bad
    assert whole.skipped == len(bad)
    assert {r.step for r in records if r.summaries} == {i for i in bad if i - 1 not in bad}
    assert all(math.isfinite(r.loss) for r in records if not r.skipped)
    runs = any(i + 1 in bad for i in bad)
    assert runs == (count > 1), "the case is the one that is meant"


# --- interrupts


@pytest.mark.parametrize("told", ["sink", "keep", "progress"])
@pytest.mark.parametrize("at", [1, 30, 37, 60])
def test_an_interrupt_between_chunks_leaves_whole_ones(
    at: int, told: str, at_most: Callable[[int], dict[str, Any]]
) -> None:
    whole = fit(SPEC, SPLIT, chunk_seconds=0.0)

    def interrupt(news: Any) -> None:
        if news.step >= at:
            raise KeyboardInterrupt

    options: dict[str, Any] = {told: interrupt} | at_most(EVERY)
    part = fit(SPEC, SPLIT, **options)
    assert part.stopped == "interrupted"
    assert part.telemetry.records == whole.telemetry.records[: part.state.step]
    assert at - 9 < part.state.step < at + 9
    rest = fit(SPEC, SPLIT, state=part.state, records=part.telemetry.records, **at_most(3))
    assert same(rest, whole)


def test_a_checkpoint_at_every_step_is_one_at_every_step(chunks: list[int], tmp_path: Path) -> None:
    spec = loads(TEXT)
    outcome = train(spec, TEXT, load_split(spec), tmp_path / "run", checkpoint_seconds=0.0)
    assert set(chunks) == {1}
    assert open_run(tmp_path / "run").telemetry.records == outcome.telemetry.records
