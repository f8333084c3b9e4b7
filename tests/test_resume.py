"""Runs interrupted, killed or out of disk, and gone on with: the same bits as in one go."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checks import same_bits

from isograd.errors import DataError, IsogradError, RunError
from isograd.nn.toml import loads
from isograd.telemetry import Store
from isograd.training import sealed
from isograd.training.folder import CHECKPOINT, LOCK, RESULT, SPEC, STORE, WEIGHTS, open_run
from isograd.training.loop import Progress, fit
from isograd.training.run import resume, train
from isograd.training.start import load_split, prepare
from isograd.training.state import State, dump, restore

TEXT = """\
[data]
source = "iris"
validation_fraction = 0.2

[network]
layers = [
  { kind = "dense", units = 8 },
  { kind = "batch_norm" },
  { kind = "activation", name = "prelu" },
  { kind = "dropout", rate = 0.2 },
  { kind = "dense", units = 3 },
]

[optimiser]
kind = "adam"
lr = 0.01

[training]
epochs = 6
batch_size = 16
schedule = [{ kind = "warm_up", epochs = 1 }, { kind = "plateau", patience = 0, factor = 0.5 }]
early_stopping = { patience = 5 }
"""
"""Everything that a state holds: moments, running statistics, noise, schedule, best parameters."""


class Stop(KeyboardInterrupt):
    """Ctrl-C, by hand."""


def stop_at(step: int) -> Any:
    def told(progress: Progress) -> None:
        if progress.step >= step:
            raise Stop

    return told


def run(folder: Path, text: str = TEXT, **options: Any) -> Any:
    spec = loads(text)
    return train(spec, text, load_split(spec), folder, **options)


def kept(folder: Path) -> dict[str, Any]:
    return safetensors.numpy.load_file(folder / WEIGHTS)


def same_run(a: Path, b: Path) -> bool:
    """Weights, telemetry and result, but for the time taken."""
    results = [json.loads((folder / RESULT).read_text()) for folder in (a, b)]
    for result in results:
        del result["seconds"]
    telemetry = [open_run(folder).telemetry.records for folder in (a, b)]
    return same_bits(kept(a), kept(b)) and results[0] == results[1] and telemetry[0] == telemetry[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one go."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


# --- the state


def test_a_state_goes_through_json_without_loss() -> None:
    spec = loads(TEXT)
    split = load_split(spec)
    states: list[State] = []
    fit(spec, split, keep=states.append, chunk_seconds=0.0)
    like = prepare(spec, split).state
    assert {s.best is not None for s in states} == {False, True}
    for state in states[:: len(states) // 7]:
        arrays, facts = dump(state)
        again = restore(arrays, json.loads(json.dumps(facts)), like)
        assert same_bits(dump(again)[0], arrays)
        assert dump(again)[1] == facts


def test_a_run_goes_on_from_any_of_its_states() -> None:
    spec = loads(TEXT)
    split = load_split(spec)
    states: list[State] = []
    whole = fit(spec, split, keep=states.append, chunk_seconds=0.0)
    for at in (0, 4, 5, 6, 17, len(states) - 2, len(states) - 1):
        rest = fit(spec, split, state=states[at], records=whole.telemetry.records[: at + 1])
        assert same_bits(dict(rest.params), dict(whole.params))
        assert rest.telemetry == whole.telemetry
        assert rest.stopped == whole.stopped


SCHEDULES = (
    "",
    '{ kind = "warm_up", epochs = 1 }, { kind = "cosine" }',
    '{ kind = "one_cycle" }',
    '{ kind = "step", every = 1 }, { kind = "exponential", factor = 0.9 }',
    '{ kind = "plateau", patience = 0 }, { kind = "plateau", patience = 1, factor = 0.5 }',
)
OPTIMISERS = ("gradient_descent", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(8))
def test_every_optimiser_goes_on_from_every_state(number: int, dtype: str) -> None:
    """Through JSON; with schedules, with and without validation, with rows left over."""
    kind = (*OPTIMISERS, "adamw")[number]
    held_out = (number + (dtype == "float64")) % 2 == 1
    text = TEXT.replace('kind = "adam"', f'kind = "{kind}"')
    text = f'dtype = "{dtype}"\n' + text.replace("epochs = 6", "epochs = 3\nclip_norm = 1.0")
    batch = "" if kind == "gradient_descent" else "batch_size = 35"
    text = text.replace("batch_size = 16", batch).replace("patience = 5", "patience = 2")
    schedule = SCHEDULES[(2 * number + held_out) % len(SCHEDULES)]
    text = re.sub(r"schedule = .*", f"schedule = [{schedule}]", text)
    if not held_out:
        text = re.sub(r"(early_stopping|validation_fraction) = .*", "", text)
    spec = loads(text + "\n[measure]\nevery = 2\nfirst = 1\n")
    split, states = load_split(spec), []
    whole = fit(spec, split, keep=states.append, chunk_seconds=0.0)
    like, records = prepare(spec, split).state, whole.telemetry.records
    for state in states:
        arrays, facts = dump(state)
        again = restore(arrays, json.loads(json.dumps(facts)), like)
        rest = fit(spec, split, state=again, records=records[: again.step])
        assert same_bits(dict(rest.params), dict(whole.params))
        assert rest.telemetry == whole.telemetry
        assert (rest.train, rest.test, rest.stopped) == (whole.train, whole.test, whole.stopped)


def test_noise_comes_again_after_four_billion_steps() -> None:
    """The counter of the noise has 32 bits; the number of steps is not limited by it."""
    spec = loads(TEXT.replace("epochs = 6", "epochs = 10_000_000_000"))
    split = load_split(spec)
    first = prepare(spec, split).state
    far = replace(first, step=2**32 * 6)  # six steps to an epoch: at the start of one

    def stop(_: Progress) -> None:
        raise Stop

    early, late = (fit(spec, split, state=state, progress=stop) for state in (first, far))
    assert late.state.step == 2**32 * 6 + 1
    assert late.telemetry.records[0].loss == early.telemetry.records[0].loss


def test_the_state_of_another_network_is_refused() -> None:
    spec = loads(TEXT)
    other = loads(TEXT.replace("units = 8", "units = 9"))
    split = load_split(spec)
    arrays, facts = dump(prepare(spec, split).state)
    with pytest.raises(RunError, match=r"rule/0 must be float32\[\d+\], as the spec has it"):
        restore(arrays, facts, prepare(other, split).state)


# --- interrupted


@pytest.mark.parametrize("step", [1, 5, 6, 13])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    step: int, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    outcome = run(folder, progress=stop_at(step))
    assert outcome.stopped == "interrupted"
    stored = open_run(folder)
    assert stored.resumable
    assert len(stored.telemetry.records) == outcome.state.step >= step
    with pytest.raises(KeyboardInterrupt):  # a second one within the resumed run, while it scores
        resume(folder, progress=stop_at(step + 2), split=Hurried.of(TEXT))
    resume(folder)
    assert same_run(folder, whole)
    assert {p.name for p in folder.iterdir()} == {SPEC, STORE, WEIGHTS, RESULT, LOCK}


class Hurried:
    """Data whose test part raises Ctrl-C."""

    @staticmethod
    def of(text: str) -> Any:
        split = load_split(loads(text))

        class Rows(np.ndarray):
            def __getitem__(self, rows: Any) -> Any:
                raise KeyboardInterrupt

        return replace(split, X_test=split.X_test.view(Rows))


def test_what_has_ended_is_not_gone_on_with(whole: Path) -> None:
    with pytest.raises(RunError, match=r"must have been interrupted\n  came:  one that has ended"):
        resume(whole)


def test_a_run_in_training_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    refusals = []

    def told(progress: Progress) -> None:
        if progress.step == 3:
            before = (folder / CHECKPOINT).read_bytes()
            with pytest.raises(RunError, match="only one process may train a run") as caught:
                resume(folder)
            assert (folder / CHECKPOINT).read_bytes() == before
            refusals.append(caught.value)

    run(folder, progress=told)
    assert len(refusals) == 1
    assert refusals[0].fix.startswith("wait for it")


def test_of_two_that_go_on_with_a_run_one_does(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", progress=stop_at(5))
    both = [isograd("resume", "run", cwd=tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    codes = [process.returncode for process in both]
    assert min(codes) in (0, 1), answers
    if 2 in codes:  # it came while the other was at work, or when it had ended
        refusal = answers[codes.index(2)][1]
        assert "only one process may train a run" in refusal or "has ended" in refusal
    assert same_run(tmp_path / "run", whole)


def test_of_two_that_train_into_one_folder_one_does(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(TEXT)
    words = ["train", "spec.toml", "--out", "run"]
    both = [isograd(*words, cwd=tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes[0] in (0, 1), answers
    assert codes[1] == 2, answers
    assert any("a run's folder must be new" in err for _, err in answers)
    assert same_run(tmp_path / "run", whole)
    assert {p.name for p in tmp_path.iterdir()} == {"spec.toml", "run"}


def test_another_spec_or_other_data_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, progress=stop_at(5))
    before = (folder / CHECKPOINT).read_bytes()
    (folder / SPEC).write_text(TEXT.replace("lr = 0.01", "lr = 0.02"))
    with pytest.raises(RunError, match=r"must be the one that was trained\n(.*\n)*.*undo"):
        resume(folder)
    (folder / SPEC).write_text("# a comment changes nothing\n" + TEXT)
    with pytest.raises(DataError, match=r"must be those that the run began with"):
        resume(folder, split=load_split(loads(TEXT.replace("iris", "wine"))))
    assert (folder / CHECKPOINT).read_bytes() == before
    assert resume(folder).stopped in ("finished", "early")


# --- damage


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    run(folder, progress=stop_at(9))
    return folder


def refused(folder: Path, content: bytes) -> RunError:
    (folder / CHECKPOINT).write_bytes(content)
    with pytest.raises(RunError) as caught:
        resume(folder)
    assert str(folder / CHECKPOINT) in caught.value.where
    assert caught.value.fix
    return caught.value


def test_a_truncated_checkpoint(interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    content = (folder / CHECKPOINT).read_bytes()
    for length in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
        assert "checksum" in str(refused(folder, content[:length]))
    assert "checksum" in str(refused(folder, content + b"\0"))
    (folder / CHECKPOINT).unlink()
    with pytest.raises(RunError, match="No such file"):
        resume(folder)


def test_a_checkpoint_of_a_newer_version_or_another_kind(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    arrays, facts = sealed.read(folder / CHECKPOINT, "checkpoint")
    monkeypatch.setattr(sealed, "VERSION", 2)
    newer = sealed.pack("checkpoint", arrays, facts)
    monkeypatch.undo()
    error = refused(folder, newer)
    assert "version 2, written by a newer isograd" in error.came
    assert "later" in error.fix
    assert "a file of weights" in refused(folder, (folder / WEIGHTS).read_bytes()).came


def flipped(content: bytes, rng: random.Random) -> bytes:
    """The content with one byte changed."""
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :]


@pytest.mark.parametrize("name", [CHECKPOINT, WEIGHTS])
def test_any_changed_byte_is_seen(name: str, interrupted: Path, tmp_path: Path) -> None:
    """Ten thousand of them, over both kinds of file: the header and the arrays alike."""
    kind = name.partition(".")[0]
    content = (interrupted / name).read_bytes()
    rng = random.Random(3)
    path = tmp_path / name
    for _ in range(5000):
        path.write_bytes(flipped(content, rng))
        with pytest.raises(RunError, match="checksum"):
            sealed.read(path, kind)
    path.write_bytes(content)
    sealed.read(path, kind)  # it is the flips that are refused


def test_with_a_checksum_over_the_header_alone_changed_bytes_would_pass(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail."""
    real = hashlib.sha256

    class Short:
        def __init__(self, data: bytes) -> None:
            self.data = bytes(data)

        def update(self, more: bytes) -> None:
            self.data += bytes(more)

        def hexdigest(self) -> str:
            return real(self.data[:50]).hexdigest()

    arrays, facts = sealed.read(interrupted / CHECKPOINT, "checkpoint")
    monkeypatch.setattr("isograd.training.sealed.hashlib.sha256", Short)
    content = sealed.pack("checkpoint", arrays, facts)
    (tmp_path / CHECKPOINT).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed, _ = sealed.read(tmp_path / CHECKPOINT, "checkpoint")
    assert not same_bits(changed, arrays)


# --- killed

CLI = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
CLI += "from isograd.cli import main; main()"


def isograd(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLI, *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LONGER = TEXT.replace("epochs = 6", "epochs = 150").replace("patience = 5", "patience = 150")
SHORTER = LONGER.replace("epochs = 150", "epochs = 40")  # with a checkpoint at every step


def await_training(process: subprocess.Popen[str], folder: Path) -> None:
    """Until the process holds the lock of the run."""
    await_start(process, folder)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with sealed.locked(folder / LOCK, "", ""):
                pass
        except RunError:
            return
        time.sleep(0.01)


def await_start(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not (folder / LOCK).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["0", "0.05", "30"])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    seconds: str, tmp_path: Path
) -> None:
    """Seven times each with a checkpoint at every step, at some, and with the first alone.

    tests/test_faults.py has all the moments between two steps against the system.
    """
    (tmp_path / "spec.toml").write_text(SHORTER if seconds == "0" else LONGER)
    began = time.monotonic()
    process = isograd("train", "spec.toml", "--out", "whole", cwd=tmp_path)
    process.communicate(timeout=120)
    took = time.monotonic() - began
    assert process.returncode in (0, 1)
    rng = random.Random(int(float(seconds) * 100))
    kills, folder, words = 0, tmp_path / "none", []
    for attempt in range(200):
        if not words:
            folder = tmp_path / f"run{attempt}"
            words = ["train", "spec.toml", "--out", folder.name]
        process = isograd(*words, "--checkpoint-seconds", seconds, cwd=tmp_path)
        time.sleep(rng.uniform(0.2, 1.0) * took)  # starting Python is a part of it
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not folder.exists():
            continue  # it had not begun
        if process.returncode == -signal.SIGKILL and open_run(folder).resumable:
            kills += 1
            with Store.open(folder / STORE) as store:
                steps = [r.step for r in store.read().records]
            assert steps == list(range(len(steps)))
            words = ["resume", folder.name]
            if kills < 7 and rng.random() < 0.7:
                continue  # it is killed again
        if open_run(folder).resumable:
            resume(folder)
        assert same_run(folder, tmp_path / "whole"), folder
        words = []
        if kills >= 7:
            break
    assert kills == 7


@pytest.mark.slow
def test_ctrl_c_at_random_moments(tmp_path: Path) -> None:
    """Twenty of them: each ends the process cleanly, and says how to go on."""
    (tmp_path / "spec.toml").write_text(LONGER)
    run(tmp_path / "whole", LONGER)
    rng, interrupts, number = random.Random(5), 0, 0
    while interrupts < 20:
        folder = tmp_path / f"run{number}"
        words = (
            ["resume", folder.name]
            if folder.exists()
            else ["train", "spec.toml", "--out", folder.name]
        )
        process = isograd(*words, cwd=tmp_path)
        await_training(process, folder)
        time.sleep(rng.uniform(0.0, 0.4))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert err == "", "no traceback"
        if process.returncode != 130 or not open_run(folder).resumable:  # it had ended
            assert same_run(folder, tmp_path / "whole")
            number += 1
            continue
        interrupts += 1
        assert open_run(folder).resumable
        assert f"isogradresume{folder.name}" in "".join(out.split())
        if interrupts % 5 == 0:
            resume(folder)
            assert same_run(folder, tmp_path / "whole")
            number += 1


def test_a_run_killed_before_it_has_begun_leaves_no_half_of_a_folder(tmp_path: Path) -> None:
    """However early: either there is no folder yet, or one that can be gone on with."""
    (tmp_path / "spec.toml").write_text(TEXT)
    for number in range(3):
        folder = tmp_path / f"run{number}"
        process = isograd("train", "spec.toml", "--out", folder.name, cwd=tmp_path)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(f"*{folder.name}*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.002 * number)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if folder.exists():
            assert resume(folder).stopped in ("finished", "early")


# --- a disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of one mebibyte; skipped where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all of a disk but some bytes."""
    usage = shutil.disk_usage(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * max(usage.free - leave, 0))
    return ballast


@pytest.mark.parametrize("leave", [0, 20_000, 60_000, 200_000, 400_000])
def test_a_disk_that_is_full(leave: int, small_disk: Path, tmp_path: Path) -> None:
    """Wherever it strikes, training stops with an error, and goes on once there is space."""
    (tmp_path / "spec.toml").write_text(LONGER)
    ballast = fill(small_disk, leave)
    words = ["train", "spec.toml", "--out", "disk/run", "--checkpoint-seconds", "0"]
    process = isograd(*words, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, (out, err)
    assert "Traceback" not in err
    assert err.startswith("isograd: ")
    assert "fix:" in err
    ballast.unlink()
    folder = small_disk / "run"
    if not folder.exists():
        assert leave < 100_000, "there was room for a start"
        assert not [p for p in small_disk.iterdir() if p.is_dir()], "nothing by halves"
        return
    assert "isograd resume" in "".join(err.split("\n"))
    records = open_run(folder).telemetry.records
    assert [r.step for r in records] == list(range(len(records)))
    shutil.copytree(folder, tmp_path / "elsewhere")
    resume(tmp_path / "elsewhere", split=load_split(loads(LONGER)))
    run(tmp_path / "whole", LONGER)
    assert same_run(tmp_path / "elsewhere", tmp_path / "whole")


def test_errors_are_the_packages_own() -> None:
    assert issubclass(RunError, IsogradError)


# --- the backend


def test_a_run_goes_on_with_the_backend_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fitted(*args: Any, **options: Any) -> Any:
        asked.append((options["backend"], options["threads"]))
        return fit(*args, **options)

    monkeypatch.setattr("isograd.training.run.fit", fitted)
    monkeypatch.setattr("isograd.training.run.choose", lambda name: name)
    run(tmp_path / "one", progress=stop_at(5), backend="numpy", threads=3)
    _, facts = sealed.read(tmp_path / "one" / CHECKPOINT, "checkpoint")
    assert (facts["backend"], facts["threads"]) == ("numpy", 3)
    resume(tmp_path / "one", progress=stop_at(9))
    resume(tmp_path / "one", threads=2, progress=stop_at(13))
    with pytest.raises(IsogradError, match="a backend must be"):
        resume(tmp_path / "one", backend="other")
    assert asked == [("numpy", 3), ("numpy", 3), ("numpy", 2), ("other", 2)]


def test_a_checkpoint_of_before_there_were_backends(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", progress=stop_at(5), backend="numpy")
    path = tmp_path / "one" / CHECKPOINT
    arrays, facts = sealed.read(path, "checkpoint")
    del facts["backend"], facts["threads"]
    path.write_bytes(sealed.pack("checkpoint", arrays, facts))
    assert resume(tmp_path / "one").backend == "numpy"
