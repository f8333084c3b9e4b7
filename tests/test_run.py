"""Folders of runs: what lies in them, whatever ends a run, and errors about them."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checks import same_bits

from isograd.errors import IsogradError, RunError, SpecError, TheoryError
from isograd.nn.losses import constant_loss
from isograd.nn.toml import loads
from isograd.telemetry import Record, Store
from isograd.training import loop
from isograd.training.data import Split
from isograd.training.folder import (
    CHECKPOINT,
    LOCK,
    RESULT,
    SPEC,
    STORE,
    WEIGHTS,
    StoredRun,
    base_of,
    list_runs,
    new_folder,
    open_run,
)
from isograd.training.loop import Outcome, Progress
from isograd.training.run import resume, train
from isograd.training.start import load_split

TEXT = """\
# A comment, which stays — ü.
[data]
source = "iris"

[network]
layers = [
    { kind = "dense",   units = 6 },   # six
  { kind = "activation", name = "tanh" },
  { kind = "dense", units = 3 },
]

[training]
epochs = 2
batch_size = 16
"""
LONG = TEXT.replace("epochs = 2", "epochs = 1_000_000") + "\n[measure]\nevery = 10\n"


@pytest.fixture(scope="module")
def split() -> Split:
    return load_split(loads(TEXT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


def run(text: str, split: Split, folder: Path, **options: Any) -> Outcome:
    return train(loads(text), text, split, folder, **options)


def strict(text: str) -> Any:
    """JSON as the standard has it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


# --- what lies in a folder


def test_everything_is_kept(split: Split, folder: Path) -> None:
    told: list[Progress] = []
    outcome = run(TEXT, split, folder, progress=told.append)
    assert {p.name for p in folder.iterdir()} == {SPEC, STORE, WEIGHTS, RESULT, LOCK}
    assert (folder / SPEC).read_text(encoding="utf-8") == TEXT
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    assert same_bits(weights, dict(outcome.params))
    assert told[-1].step == len(outcome.telemetry.records) == 14

    stored = open_run(folder)
    assert (stored.path, stored.spec, stored.model) == (folder, outcome.spec, outcome.model)
    assert stored.telemetry.records == outcome.telemetry.records
    assert stored.stopped == "finished"
    assert stored.rows == 120
    assert stored.constant == constant_loss(outcome.spec.network.loss, split.y_train)
    assert stored.constant == pytest.approx(math.log(3), rel=1e-6)
    assert stored.base == Path.cwd()
    assert stored.result == {
        **{"stopped": "finished", "steps": 14, "skipped": 0, "seconds": outcome.seconds},
        **{"train": asdict(outcome.train), "test": asdict(outcome.test), "validation": None},
        **{"metric": "accuracy", "backend": outcome.backend},
    }
    assert strict((folder / RESULT).read_text()) == stored.result


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_spec_is_kept_word_for_word(newline: str, split: Split, folder: Path) -> None:
    text = TEXT.replace("\n", newline)
    run(text, split, folder)
    assert (folder / SPEC).read_bytes() == text.encode()
    assert open_run(folder).spec == loads(TEXT)


def test_scores_that_are_not_finite_are_null(folder: Path) -> None:
    text = TEXT.replace("[training]", '[optimiser]\nkind = "sgd"\nlr = 1e9\n\n[training]')
    text = text.replace('"tanh"', '"relu"').replace(
        "units = 3 },\n]", "units = 3 },\n]\n" + SQUARED
    )
    spec = loads(text)
    outcome = train(spec, text, load_split(spec), folder)
    assert outcome.stopped == "diverged"
    assert not math.isfinite(outcome.train.loss)
    result = strict((folder / RESULT).read_text())
    assert result["stopped"] == "diverged"
    assert result["train"]["loss"] is None
    stored = open_run(folder)
    assert stored.result == result
    assert stored.telemetry.records[-1].skipped
    kept = safetensors.numpy.load_file(folder / WEIGHTS)
    assert all(np.isfinite(v).all() for v in kept.values())


SQUARED = 'loss = { kind = "half_squared_error" }'


def test_a_run_is_readable_while_it_is_trained(split: Split, folder: Path) -> None:
    seen: list[tuple[int, StoredRun]] = []

    def look(progress: Progress) -> None:
        if progress.step >= 5000 and not seen:
            seen.append((progress.step, open_run(folder)))

    outcome = run(TEXT.replace("epochs = 2", "epochs = 1000"), split, folder, progress=look)
    ((done, early),) = seen
    assert early.stopped == "unfinished"
    assert early.result is None
    steps = len(early.telemetry.records)
    assert done - 4096 <= steps <= done
    assert early.telemetry.records == outcome.telemetry.records[:steps]


def test_where_relative_paths_start(tmp_path: Path, folder: Path, rng: Any) -> None:
    X = rng.standard_normal((40, 3))
    rows = "".join(f"{a:.3f},{b:.3f},{c:.3f},{int(a > 0)}\n" for a, b, c in X)
    home = tmp_path / "some where"
    home.mkdir()
    (home / "x.csv").write_text("a,b,c,y\n" + rows)
    text = '[data]\nsource = "x.csv"\n[network]\nlayers = [{ kind = "dense", units = 2 }]\n'
    spec = loads(text)
    outcome = train(spec, text, load_split(spec, home), folder, base=home)
    stored = open_run(folder)
    assert stored.base == base_of(folder) == home
    again = load_split(stored.spec, stored.base)
    np.testing.assert_array_equal(again.X_train, load_split(spec, home).X_train)
    assert stored.rows == len(again.X_train) == 32
    assert stored.model == outcome.model


# --- names


def test_names_are_numbered(tmp_path: Path, split: Split) -> None:
    spec, root = tmp_path / "deep.v2.toml", tmp_path / "runs"
    assert new_folder(spec, root) == root / "deep.v2-001"
    (root / "deep.v2-001").mkdir(parents=True)
    (root / "deep.v2-002").touch()
    (root / "deep.v2-004").mkdir()
    assert new_folder(spec, root) == root / "deep.v2-003"
    assert new_folder(Path("deep.toml"), root) == root / "deep-001"


def test_runs_are_listed_by_name(tmp_path: Path, split: Split) -> None:
    assert list_runs(tmp_path / "nowhere") == []
    for name in ("b-002", "a-001", "b-001"):
        run(TEXT, split, tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert list_runs(tmp_path / "file") == []
    assert [p.name for p in list_runs(tmp_path)] == ["a-001", "b-001", "b-002"]


# --- folders that cannot be


def contents(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_folder_takes_one_run(split: Split, folder: Path) -> None:
    run(TEXT, split, folder)
    before = contents(folder)
    with pytest.raises(RunError, match=r"must be new\n  came:  .*one exists\n  fix:   .*--out"):
        run(TEXT, split, folder)
    assert contents(folder) == before


def test_a_file_in_place_of_the_folder(split: Split, folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("dear")
    with pytest.raises(RunError, match="must be new"):
        run(TEXT, split, folder)
    with pytest.raises(
        RunError, match=r"must be writable\n  came:  (File exists|Not a directory)\n  where: "
    ):
        run(TEXT, split, folder / "below")
    assert folder.read_text() == "dear"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(split: Split, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"must be writable\n  came:  Permission"):
        run(TEXT, split, tmp_path / "one")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("batch_size = 16", "batch_size = 121", SpecError),
        ("units = 3", "units = 4", SpecError),
        ('"tanh"', '"softplus"', TheoryError),
    ],
    ids=["batch", "width", "init"],
)
def test_what_cannot_be_trained_makes_no_folder(
    old: str, new: str, error: type[IsogradError], split: Split, folder: Path
) -> None:
    text = TEXT.replace(old, new).replace("units = 6", "units = 6, init = { kind = 'critical' }")
    with pytest.raises(error):
        run(text, split, folder)
    assert not folder.parent.exists()


# --- runs that end before their time


def test_an_interrupt_keeps_everything(split: Split, folder: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    outcome = run(TEXT, split, folder, progress=interrupt)
    stored = open_run(folder)
    assert stored.stopped == "interrupted"
    assert stored.telemetry.records == outcome.telemetry.records
    assert len(stored.telemetry.records) == 5
    assert same_bits(safetensors.numpy.load_file(folder / WEIGHTS), dict(outcome.params))


def test_an_interrupt_before_the_first_step(
    split: Split, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "compile_step", interrupted)
    run(TEXT, split, folder)
    stored = open_run(folder)
    assert (stored.stopped, stored.telemetry.records) == ("interrupted", ())
    assert stored.resumable


def test_a_disk_that_fills_up_at_the_end(
    split: Split, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    def last(progress: Progress) -> None:
        if progress.step == progress.steps:
            monkeypatch.setattr("isograd.training.files.os.fsync", full)

    with pytest.raises(
        RunError, match=r"writable\n  came:  No space left .*\n.*weights.*\n.*free space"
    ):
        run(TEXT, split, folder, progress=last)
    monkeypatch.undo()
    assert {p.name for p in folder.iterdir()} == {SPEC, STORE, CHECKPOINT, LOCK}, "none by halves"
    assert len(open_run(folder).telemetry.records) == 14
    resume(folder)
    assert open_run(folder).stopped == "finished"


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(
    split: Split, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("isograd.training.files.os.fsync", full)
    with pytest.raises(RunError, match=r"writable\n  came:  No space left"):
        run(TEXT, split, folder)
    assert list(folder.parent.iterdir()) == []


# --- damage


def check_damaged(folder: Path, name: str, kind: type[IsogradError] = RunError) -> None:
    with pytest.raises(kind) as caught:
        open_run(folder)
    assert str(folder / name) in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"stopped": "finished"}',
        b'{"stopped": "eaten", "steps": 1, "seconds": 1, "metric": "", "train": {}, "test": {}}',
        b'{"stopped": "finished", "steps": "1", "seconds": 1, "metric": "", "train": {}}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_result(content: bytes, split: Split, folder: Path) -> None:
    run(TEXT, split, folder)
    (folder / RESULT).write_bytes(content)
    check_damaged(folder, RESULT)


def test_other_damage(split: Split, folder: Path) -> None:
    run(TEXT, split, folder)
    (folder / RESULT).unlink()
    assert open_run(folder).stopped == "unfinished"
    (folder / RESULT).mkdir()
    check_damaged(folder, RESULT)
    (folder / RESULT).rmdir()

    (folder / SPEC).write_text("[data\n")
    check_damaged(folder, SPEC, SpecError)
    (folder / SPEC).unlink()
    check_damaged(folder, SPEC, SpecError)
    (folder / SPEC).write_text(TEXT)

    database = sqlite3.connect(folder / STORE)
    database.execute("UPDATE meta SET value = '12' || value || '}' WHERE name = 'rows'")
    database.commit()
    check_damaged(folder, STORE)
    database.execute("DELETE FROM meta WHERE name = 'rows'")
    database.commit()
    database.close()
    with pytest.raises(RunError, match="missing required field `rows`"):
        base_of(folder)
    (folder / STORE).write_bytes(b"no database" * 1000)
    check_damaged(folder, STORE)
    (folder / STORE).unlink()
    with pytest.raises(RunError, match=r"one has no telemetry\.sqlite"):
        open_run(folder)


def test_telemetry_of_another_network(split: Split, folder: Path) -> None:
    run(TEXT, split, folder)
    layer = '  { kind = "dense", units = 3 },\n'
    (folder / SPEC).write_text(TEXT.replace(layer, 2 * layer))
    with pytest.raises(RunError, match=r"must be the one that was trained\n(.*\n)*.*undo"):
        open_run(folder)
    (folder / SPEC).write_text(TEXT)
    database = sqlite3.connect(folder / STORE)
    database.execute("DELETE FROM summaries WHERE step = 4 AND site = 'a/1'")
    database.commit()
    database.close()
    with pytest.raises(RunError, match=r"whole\n  came:  step 4 does not agree with its checksum"):
        open_run(folder)


def test_folders_of_no_run(tmp_path: Path) -> None:
    for look in (open_run, base_of):
        with pytest.raises(RunError, match=r"training made\n  came:  .* has no telemetry"):
            look(tmp_path)
        with pytest.raises(RunError, match=r"training made\n  came:  .*nowhere is no folder"):
            look(tmp_path / "nowhere")


# --- processes that are ended from outside


def training(tmp_path: Path, text: str, first: str) -> subprocess.Popen[str]:
    """`isograd train` in a process of its own, into the folder `one`, after a first statement."""
    (tmp_path / "spec.toml").write_text(text, encoding="utf-8")
    program = f"import resource, signal; {first}; from isograd.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "train", "spec.toml", "--out", "one"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records_in(folder: Path) -> tuple[Record, ...]:
    """What is recorded so far; nothing where the store is still being made."""
    try:
        with Store.open(folder / STORE) as store:
            return store.read().records
    except RunError:
        return ()


def await_records(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not records_in(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_a_process_that_is_ended(number: signal.Signals, tmp_path: Path) -> None:
    # Where tests run in the background SIGINT is ignored, and children inherit that.
    first = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = training(tmp_path, LONG, first)
    await_records(process, tmp_path / "one")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    stored = open_run(tmp_path / "one")
    records = stored.telemetry.records
    assert [r.step for r in records] == list(range(len(records)))
    assert [r.step for r in records if r.summaries][:12] == [*range(10), 10, 20]
    assert "Traceback" not in err
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert stored.stopped == "unfinished"
        assert {p.name for p in (tmp_path / "one").iterdir()} >= {SPEC, STORE}
        return
    assert process.returncode == 130
    assert stored.stopped == "interrupted"
    assert stored.result is not None
    assert stored.result["steps"] == len(records)
    assert f"interrupted after {len(records)} steps".replace(" ", "") in "".join(out.split())
    kept = {SPEC, STORE, WEIGHTS, RESULT, LOCK, CHECKPOINT}
    assert {p.name for p in (tmp_path / "one").iterdir()} == kept
    assert "isogradresumeone" in "".join(out.split())
    assert err == ""


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As a full disk: what was written stays, and the error says so."""
    first = "resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))"
    process = training(tmp_path, LONG.replace("every = 10", "every = 1000"), first)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert out == ""
    assert err.startswith("isograd: ")
    assert "Traceback" not in err
    stored = open_run(tmp_path / "one")
    assert stored.stopped == "unfinished"
    records = stored.telemetry.records
    assert [r.step for r in records] == list(range(len(records)))
    assert "what was committed before is kept" in err
    assert "`isograd resume one` goes on from step 0" in "".join(err.split("\n"))
    assert len(records) >= 64
    assert {p.name for p in (tmp_path / "one").iterdir()} <= {SPEC, STORE, CHECKPOINT, LOCK, *SIDES}


def test_a_limit_that_the_first_checkpoint_meets(tmp_path: Path) -> None:
    """128 kB of parameters and a limit below: no folder is left behind."""
    text = TEXT.replace("units = 6", "units = 4000")
    process = training(
        tmp_path, text, "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "a file must be writable\n  came:  File too large" in err
    assert [p.name for p in tmp_path.iterdir()] == ["spec.toml"]


SIDES = (STORE + "-wal", STORE + "-shm", STORE + "-journal")
