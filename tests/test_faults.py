"""Runs killed, refused or interrupted at every step that they take against the system.

Whatever ends them, they are gone on with to the same bits; and what ends them is said.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from faults import At, full, injected
from test_resume import TEXT as LONGER
from test_resume import same_run, stop_at

from isograd.errors import RunError
from isograd.nn.toml import loads
from isograd.training.folder import CHECKPOINT, LOCK, RESULT, SPEC, STORE, WEIGHTS, open_run
from isograd.training.run import resume, train
from isograd.training.start import load_split

TEXT = LONGER.replace("epochs = 6", "epochs = 2").replace("batch_size = 16", "batch_size = 48")
TEXT += "\n[measure]\nevery = 2\nfirst = 0\n"
SPLIT = load_split(loads(TEXT))
ENDED = {SPEC, STORE, WEIGHTS, RESULT, LOCK}
SIDES = {STORE + "-wal", STORE + "-shm"}


def run(folder: Path, **options: Any) -> Any:
    return train(loads(TEXT), TEXT, SPLIT, folder, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one go."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(folder).stopped == "finished"
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run interrupted in its second epoch."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    run(folder, progress=stop_at(3))
    return folder


def check_goes_on(folder: Path, whole: Path) -> None:
    """A folder is a run, and ends as if nothing had happened; or it was never there."""
    if not folder.exists():
        return
    records = open_run(folder).telemetry.records
    assert [r.step for r in records] == list(range(len(records)))
    if (folder / CHECKPOINT).exists():
        resume(folder, split=SPLIT)
    assert {p.name for p in folder.iterdir()} - SIDES == ENDED
    assert same_run(folder, whole)


# --- killed


def killed(tmp_path: Path, *begun: Path) -> Iterator[tuple[str, Path]]:
    """The steps at which runs were killed, and their folders."""
    (tmp_path / "spec.toml").write_text(TEXT)
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "faults.py", "runs", "spec.toml", *begun],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        number, _, step = line.partition(" ")
        yield step, tmp_path / "runs" / f"run{number}"


MADE = {"mkdir", "write", "rename", "sqlite CREATE", "sqlite COMMIT", "acquire", "fsync"}
TRAINED = {"compile_step", "replace", "evaluate", "after replace", "unlink", "after unlink"}


@pytest.mark.slow
def test_a_run_killed_at_any_step_is_gone_on_with_to_the_same_bits(
    whole: Path, tmp_path: Path
) -> None:
    steps = []
    for step, folder in killed(tmp_path):
        check_goes_on(folder, whole)
        steps.append(step)
    assert steps.pop() == "", "the last one came to its end"
    assert set(steps) >= MADE | TRAINED
    assert len(steps) > 100


@pytest.mark.slow
def test_a_resumed_run_killed_at_any_step_is_gone_on_with_to_the_same_bits(
    whole: Path, begun: Path, tmp_path: Path
) -> None:
    steps = []
    for step, folder in killed(tmp_path, begun):
        check_goes_on(folder, whole)
        steps.append(step)
    assert steps.pop() == ""
    assert set(steps) >= TRAINED


# --- a disk that is full


def not_of_space(step: str) -> bool:
    """Steps that need no space."""
    return step.startswith("after ") or step in ("sqlite ROLLBACK", "compile_step", "evaluate")


@pytest.mark.slow
@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
def test_a_disk_that_is_full_at_any_step(stays: bool, whole: Path, tmp_path: Path) -> None:
    for n in count(1):
        folder = tmp_path / f"run{n}" / "run"
        fault = At(n, full, skip=not_of_space, stays=stays)
        error = None
        with injected(fault):
            try:
                run(folder, checkpoint_seconds=0.0)
            except RunError as caught:
                error = caught
        if not fault.came:
            break
        step = fault.steps[n - 1]
        if error is None:
            assert step == "sqlite PRAGMA", f"{n}: {step}"  # that the store is one file in the end
        elif folder.exists():
            assert f"`isograd resume {folder}` goes on from step" in error.fix, f"{n}: {step}"
        else:
            assert "free space" in error.fix or "disk" in error.fix
            assert not folder.parent.exists() or not list(folder.parent.iterdir())
        check_goes_on(folder, whole)
    assert n > 50


# --- Ctrl-C


def interrupt(_: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_ctrl_c_at_any_step(twice: bool, whole: Path, tmp_path: Path) -> None:
    """The second one comes up to seven steps after the first."""
    for n in count(1):
        folder = tmp_path / f"run{n}" / "run"
        first = At(n, interrupt)
        second = At(n + 1 + n % 7, interrupt if twice else lambda _: None)

        def act(name: str, first: At = first, second: At = second) -> None:
            second(name)
            first(name)

        outcome = None
        with injected(act), suppress(KeyboardInterrupt):
            outcome = run(folder, checkpoint_seconds=0.02)
        if not first.came:
            break
        if outcome is not None and folder.exists():
            assert outcome.telemetry.records == open_run(folder).telemetry.records
            assert open_run(folder).stopped == outcome.stopped, f"{n}: {first.steps[-1]}"
        check_goes_on(folder, whole)
    assert n > 50


LINES = ("training/loop.py", "training/run.py", "training/files.py", "telemetry/store.py")


@pytest.mark.slow
# Ctrl-C between a file's opening and the block that closes it leaves that to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("first", [3, 14])
def test_ctrl_c_at_lines_of_the_program(first: int, whole: Path, tmp_path: Path) -> None:
    """At every 29th line that is run in the files that keep a run."""
    for n in count(first, 29):
        lines = 0

        def line(frame: Any, event: str, _: Any, n: int = n) -> Any:
            nonlocal lines
            if event == "call" and not frame.f_code.co_filename.endswith(LINES):
                return None
            if event == "line":
                lines += 1
                if lines == n:
                    raise KeyboardInterrupt
            return line

        folder, outcome = tmp_path / f"run{n}" / "run", None
        before = sys.gettrace()
        sys.settrace(line)
        try:
            with suppress(KeyboardInterrupt):
                outcome = run(folder, checkpoint_seconds=0.02)
        finally:
            sys.settrace(before)
        if lines < n:
            break
        gc.collect()  # what the end of the process would let go of: the lock, the connection
        if outcome is not None:
            assert outcome.telemetry.records == open_run(folder).telemetry.records
            assert len(outcome.telemetry.records) == outcome.state.step
        check_goes_on(folder, whole)
    assert n > 500
