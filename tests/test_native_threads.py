"""Programs on several threads: the same bits each time, whoever calls them, also after a fork."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import isograd
from isograd.backends.llvm.division import divided
from isograd.backends.llvm.program import Program, Scan
from isograd.engine.graph import Graph

pytest.importorskip("llvmlite")
F = isograd.functions


def graph_of(rows: int = 64, width: int = 16) -> Graph:
    """Descent on Σ tanh(XW)², the rows of X chosen anew in each round."""

    def step(w: Any, x: Any, each: Any) -> Any:
        chosen, rate = each
        value, slope = isograd.value_and_grad(lambda w: F.sum(F.square(F.tanh(x[chosen] @ w))))(w)
        return w - rate * slope, value, value

    w, x = isograd.ArraySpec((width, width)), isograd.ArraySpec((200, width))
    each = isograd.ArraySpec((rows,), np.int64), isograd.ArraySpec(())
    return isograd.trace(step, w, x, each)


def made(threads: int, seed: int = 0) -> tuple[Scan, Callable[[], tuple[Any, Any, int]]]:
    graph = graph_of()
    scan = Scan(*divided(graph, {graph.inputs[2]: 0}, threads))
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((16, 16)), rng.standard_normal((200, 16))
    each = rng.integers(0, 200, (30, 64)), np.full(30, 1e-3)
    return scan, lambda: scan(w, x, each)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_same_bits_each_time_and_the_same_values_as_on_one(threads: int) -> None:
    scan, run = made(threads)
    assert scan.program.count == threads
    first = run()
    for _ in range(5):
        again = run()
        np.testing.assert_array_equal(again[0], first[0])
        np.testing.assert_array_equal(again[1], first[1])
    _, alone = made(1)
    np.testing.assert_allclose(first[0], alone()[0], rtol=1e-11, atol=1e-13)


def test_threads_share_the_work() -> None:
    scan, _ = made(3)
    shares = np.bincount(scan.program.threads, minlength=3)
    assert shares.min() > 0.5 * shares.max()
    assert len(scan.program._barriers) >= 1  # before the gradient's terms are added


def test_without_barriers_the_terms_would_be_read_too_early() -> None:
    """What the barriers are for: the stage that adds up reads what other threads wrote."""
    program: Program = made(2)[0].program
    written: dict[Any, set[int]] = {}
    crossing = []
    for i, (work, thread) in enumerate(zip(program.items, program.threads, strict=True)):
        if any(written.get(view.root, set()) - {thread} for view in work.reads):
            crossing.append(i)
        for view in work.writes:
            written.setdefault(view.root, set()).add(thread)
    assert crossing
    for i in crossing:
        assert any(barrier <= i for barrier in program._barriers)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_callers_at_once(threads: int) -> None:
    """Of one program and of several; a program's memory is one caller's at a time."""
    runs = [made(threads, seed)[1] for seed in range(3)]
    want = [run()[0] for run in runs]
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(10):
            if not np.array_equal(runs[number % 3]()[0], want[number % 3]):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(9)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_a_fork() -> None:
    """A child has none of its parent's threads, and makes its own."""
    _, run = made(2)
    want = run()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(run()[0], want) else 1)
    assert os.waitpid(child, 0)[1] == 0
