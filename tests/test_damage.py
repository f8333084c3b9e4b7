"""Runs whose files were damaged: every command gives a right answer, or refuses and says why.

What is right: what the commands make of the run before the damage; of telemetry, and of what is
drawn from it, also a run that was cut short.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checks import same_bits

from isograd import cli
from isograd.errors import IsogradError, RunError
from isograd.nn.toml import loads
from isograd.telemetry import Record
from isograd.training.folder import CHECKPOINT, RESULT, SPEC, STORE, WEIGHTS, open_run
from isograd.training.loop import Progress
from isograd.training.run import train
from isograd.training.start import load_split

TEXT = """\
# Flowers, once more.
[data]
source = "x.csv"
target = "label"

[network]
layers = [
  { kind = "dense", units = 4 },
  { kind = "activation", name = "tanh" },
  { kind = "dense", units = 2 },
]

[optimiser]
kind = "momentum"
lr = 0.05

[training]
epochs = 3
batch_size = 8
"""
WAL, SHM = STORE + "-wal", STORE + "-shm"
SPLIT_ROWS = 40


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str


def isograd(*words: str) -> Answer:
    """`isograd WORDS` in this process; what is not told as an error is raised."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["isograd", *words])
        patch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            cli.main()
    code = end.value.code
    assert code is None or isinstance(code, int)
    return Answer(code or 0, out.getvalue(), err.getvalue())


COMMANDS = {
    "show": ("show", "run", "--json"),
    "runs": ("runs", ".", "--json"),
    "resume": ("resume", "run", "--json"),
    "predict": ("predict", "run", "x.csv"),
    "export": ("export", "run", "--to", "npz", "--out", "out.npz"),
    "doctor": ("doctor", "run", "--no-trials", "--json"),
}


# --- runs to damage


@dataclass(frozen=True)
class Whole:
    """Undamaged runs of one spec, as folders, and what the commands make of them."""

    root: Path
    records: tuple[Record, ...]
    answers: dict[tuple[str, str], Answer]


RUNS = ("finished", "interrupted", "killed")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def answer_to(command: str, folder: Path, data: Path) -> Answer:
    """What a command makes of a run, in a folder of its own."""
    shutil.copyfile(data, folder / "x.csv")
    with inside(folder):
        return isograd(*COMMANDS[command])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One run three times: to its end, up to Ctrl-C, and as `kill -9` would have left it."""
    root = tmp_path_factory.mktemp("whole")
    X = np.random.default_rng(0).standard_normal((40, 2))
    rows = "".join(f"{a:.4f},{b:.4f},{'yes' if a > b else 'no'}\n" for a, b in X)
    (root / "x.csv").write_text("width,height,label\n" + rows)

    def stop(progress: Progress) -> None:
        if progress.step == 7:
            raise KeyboardInterrupt

    def copy(progress: Progress) -> None:
        if progress.step == 7:
            shutil.copytree(root / "copied", root / "killed")

    spec = loads(TEXT)
    split = load_split(spec, root)
    for name, told in (("finished", None), ("interrupted", stop), ("copied", copy)):
        train(spec, TEXT, split, root / name, base=root, progress=told, checkpoint_seconds=0)
    assert (root / "killed" / WAL).stat().st_size > 0
    answers = {}
    for name in RUNS:
        for command in COMMANDS:
            folder = root / f"{name}-{command}"
            shutil.copytree(root / name, folder / "run")
            answers[name, command] = answer_to(command, folder, root / "x.csv")
    return Whole(root, open_run(root / "finished").telemetry.records, answers)


# --- damage


def flip(path: Path, rng: random.Random, _: Path) -> None:
    """One to three bytes."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if content:
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)


def blank(path: Path, rng: random.Random, _: Path) -> None:
    """A block of a disk that reads as zeros or as noise."""
    content = bytearray(path.read_bytes())
    size = rng.choice((16, 512, 4096))
    start = rng.randrange(len(content) // size + 1) * size
    block = bytes(size) if rng.random() < 0.5 else rng.randbytes(size)
    content[start : start + size] = block
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random, _: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def extend(path: Path, rng: random.Random, _: Path) -> None:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.choice((1, 100, 5000))))


def delete(path: Path, rng: random.Random, _: Path) -> None:
    path.unlink()


def replace(path: Path, rng: random.Random, root: Path) -> None:
    """By a file of this run, or of another moment of it, or by a folder."""
    if rng.random() < 0.1:
        path.unlink()
        path.mkdir()
        return
    files = sorted(p for name in RUNS for p in (root / name).iterdir())
    shutil.copyfile(rng.choice(files), path)


DAMAGE: tuple[Callable[[Path, random.Random, Path], None], ...] = (
    *(flip, flip, flip, flip, blank, blank, truncate, truncate),
    *(extend, delete, replace),
)
TARGETS = (STORE, STORE, STORE, WAL, SHM, SPEC, CHECKPOINT, WEIGHTS, RESULT)


def damaged(whole: Whole, folder: Path, case: int) -> tuple[str, str]:
    """A run in which one file is damaged: which run, and what was done."""
    rng = random.Random(case)
    name = RUNS[case % len(RUNS)]
    shutil.copytree(whole.root / name, folder / "run")
    targets = [t for t in TARGETS if (folder / "run" / t).exists()]
    target, harm = rng.choice(targets), rng.choice(DAMAGE)
    harm(folder / "run" / target, rng, whole.root)
    return name, f"case {case}: {harm.__name__} {target} of a run that was {name}"


# --- what must come of it


def check(whole: Whole, name: str, command: str, folder: Path, answer: Answer) -> None:
    """A refusal that says what to do, or what is right."""
    assert answer.code in (0, 1, 2)
    if answer.code == 2:
        assert answer.err.startswith("isograd: ")
        assert re.search(r"\n  came:  .*\n(.*\n)*  fix:   .", answer.err), answer.err
        assert command == "runs" or answer.out == ""
        return
    assert answer.err == "" or command == "predict"
    before = whole.answers[name, command]
    match command:
        case "predict":
            assert answer == before
        case "export":
            arrays = [np.load(at / "out.npz") for at in (folder, whole.root / f"{name}-export")]
            assert same_bits(*map(dict, arrays))
        case "resume":
            same_end(folder / "run", whole)
        case "doctor" if loads((folder / "run" / SPEC).read_text()) == loads(TEXT):
            assert timeless(answer.out) == timeless(before.out)
        case "show" | "runs" if (folder / "run" / STORE).is_file():  # else it is no run
            same_telemetry(folder / "run", whole)


def same_end(folder: Path, whole: Whole) -> None:
    """Weights, telemetry and result are those of the run in one go."""
    end = whole.root / "finished"
    weights = [safetensors.numpy.load_file(at / WEIGHTS) for at in (folder, end)]
    assert same_bits(*weights)
    results = [timeless((at / RESULT).read_text()) for at in (folder, end)]
    assert results[0] == results[1]
    assert open_run(folder).telemetry.records == whole.records


def same_telemetry(folder: Path, whole: Whole) -> None:
    """What can be read was written so, from the first step on."""
    stored = open_run(folder)
    assert stored.telemetry.records == whole.records[: len(stored.telemetry.records)]
    assert stored.spec == loads(TEXT)
    assert (stored.rows, stored.base) == (32, whole.root)


def timeless(text: str) -> Any:
    """JSON without how long it took."""
    content = json.loads(text)
    for place in (content, content.get("outcome", {})):
        for key in ("seconds", "telemetry_seconds", "steps_per_second"):
            place.pop(key, None)
    return content


@contextmanager
def patience(what: str) -> Iterator[None]:
    """A minute, which is a thousand times what a command takes here."""

    def over(*_: Any) -> None:
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def through_commands(whole: Whole, folder: Path, case: int) -> int:
    """A damaged run, and one command on it."""
    command = random.Random(-case - 1).choice(list(COMMANDS))
    name, what = damaged(whole, folder, case)
    try:
        with patience(what):
            answer = answer_to(command, folder, whole.root / "x.csv")
            check(whole, name, command, folder, answer)
    except Exception as error:
        error.add_note(f"{command}, {what}")
        raise
    finally:
        shutil.rmtree(folder)
    return answer.code


@pytest.mark.parametrize("hundred", range(3))
def test_a_damaged_run(hundred: int, whole: Whole, tmp_path: Path) -> None:
    codes = [
        through_commands(whole, tmp_path / str(case), case)
        for case in range(100 * hundred, 100 * hundred + 100)
    ]
    assert {0, 2} <= set(codes), "some damage is seen, and some does not matter"


@pytest.mark.slow
def test_a_thousand_damaged_runs(whole: Whole, tmp_path: Path) -> None:
    for case in range(1000, 2000):
        through_commands(whole, tmp_path / str(case), case)


@pytest.mark.slow
def test_ten_thousand_damaged_stores(whole: Whole, tmp_path: Path) -> None:
    """As all commands read them."""
    read = 0
    for case in range(10_000):
        rng, folder = random.Random(case), tmp_path / str(case)
        name, harm = rng.choice(RUNS), rng.choice(DAMAGE)
        shutil.copytree(whole.root / name, folder)
        target = rng.choice([t for t in (STORE, WAL, SHM) if (folder / t).exists()])
        harm(folder / target, rng, whole.root)
        try:
            with patience(harm.__name__):
                same_telemetry(folder, whole)
            read += 1
        except IsogradError:
            pass
        except Exception as error:
            error.add_note(f"case {case}: {harm.__name__} {target} of a run that was {name}")
            raise
        shutil.rmtree(folder)
    assert 1000 < read < 9000, "some damage is seen, and some does not matter"


def test_a_number_that_changed_would_be_seen(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without checksums it would pass for a measurement; the checks above catch that."""
    run = tmp_path / "run"
    shutil.copytree(whole.root / "finished", run)
    with closing(sqlite3.connect(run / STORE)) as database:
        database.execute("UPDATE records SET loss = loss * 1.001 WHERE step = 6")
        database.commit()
    with pytest.raises(RunError, match="step 6 does not agree with its checksum"):
        open_run(run)
    monkeypatch.setattr("isograd.telemetry.rows._checksum", lambda *_: Agreeable())
    with pytest.raises(AssertionError):
        same_telemetry(run, whole)


class Agreeable:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def test_commands_on_undamaged_runs(whole: Whole) -> None:
    """What the answers above are compared with."""
    codes = {key: answer.code for key, answer in whole.answers.items()}
    unusable = {("finished", "resume"), ("killed", "predict"), ("killed", "export")}
    assert codes == {key: 2 if key in unusable else 0 for key in codes}
    for name in ("interrupted", "killed"):
        same_end(whole.root / f"{name}-resume" / "run", whole)
    assert json.loads(whole.answers["killed", "show"].out)["steps"] == 7
