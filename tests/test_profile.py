"""Where the time of a step goes: every kernel is counted, with its operations and its time."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import isograd
from isograd.backends.llvm import jit
from isograd.backends.select import native_scan
from isograd.nn import Activation, Data, Dense, Network, Repeat, Spec, Training
from isograd.report.profile import show_profile
from isograd.training.profile import profile, require_native

pytest.importorskip("llvmlite")

SPEC = Spec(
    Data("arrays"),
    Network((Repeat(3, (Dense(16), Activation("tanh"))), Dense(3))),
    training=Training(batch_size=10),
)


@pytest.fixture(scope="module")
def split() -> Any:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 5)), rng.integers(0, 3, 80)
    return isograd.from_arrays(x, y, loss_kind=SPEC.network.loss)


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, split: Any) -> Any:
    return profile(SPEC, split, threads=request.param)


def test_every_product_is_counted_with_its_operations(found: Any, split: Any) -> None:
    rows = SPEC.batch_size_for(len(split.X_train))
    sizes = [5, 16, 16, 16, 3]
    weights = [a * b for a, b in pairwise(sizes)]
    # Forward, for the weights, and but in the first layer for the input.
    flops = 2 * rows * (2 * sum(weights) + sum(weights[1:]))
    assert sum(line.flops for line in found.lines) == flops
    products = sum(line.items for line in found.lines if "product" in line.kernel)
    assert products == found.threads * (3 * len(weights) - 1)


def test_the_times_of_the_kernels_are_those_of_the_step(found: Any) -> None:
    assert all(line.seconds > 0 and line.nbytes > 0 and line.items > 0 for line in found.lines)
    seconds = [line.seconds for line in found.lines]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) <= found.threads * found.seconds


def test_rows_that_are_gathered_count_and_not_the_array(found: Any, split: Any) -> None:
    rows, width = SPEC.batch_size_for(len(split.X_train)), split.X_train.shape[1]
    (line,) = (
        line for line in found.lines if line.kernel.startswith(f"gather {len(split.X_train)}×")
    )
    itemsize = split.X_train.itemsize
    assert line.nbytes == 2 * rows * width * itemsize + 8 * rows


def test_a_program_without_a_clock_has_no_times() -> None:
    def step(carry: Any, fixed: Any, each: Any) -> Any:
        return carry + fixed * each, (), each

    scalar = isograd.ArraySpec(())
    graph = isograd.trace(step, scalar, scalar, scalar)
    for timed in (False, True):
        run = native_scan(graph, timed=timed)
        run(0.0, 1.0, np.ones(1000))
        assert any(run.program.nanoseconds.values()) == timed


def test_the_table(found: Any) -> None:
    text = io.StringIO()
    show_profile(Console(file=text, width=120), found)
    table = text.getvalue()
    for word in ("kernel", "GFLOP/s", "GB/s", "product 10×16", "µs on", "tanh"):
        assert (word in table) or found.threads == 2, word
    assert f"{found.peak * found.threads / 1e9:.0f}" in table


def test_it_is_refused_at_once_where_there_is_no_native_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jit.host.cache_clear()
    monkeypatch.setattr(jit, "available", lambda: "no llvmlite here")
    with pytest.raises(isograd.IsogradError, match="no llvmlite here"):
        require_native()
