"""The command line: answers, exit codes, files, and what it says of bad input."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as edited
from rich.console import Console
from test_run import strict

import isograd.report
from isograd import cli
from isograd.backends import select
from isograd.diagnosis import Profile
from isograd.nn import He, Xavier
from isograd.nn.spec import ACTIVATION_NAMES, BUILT_IN_DATA, Init, Layer, Loss, Optimiser, kinds
from isograd.nn.template import TEMPLATE
from isograd.nn.toml import diff, loads
from isograd.report import Report
from isograd.report.terminal import chart
from isograd.training.folder import RESULT, SPEC, STORE, open_run

ROOT = Path(__file__).parent.parent

HEALTHY = """\
[data]
source = "iris"

[network]
layers = [
  { kind = "dense", units = 8 },
  { kind = "activation", name = "tanh" },
  { kind = "dense", units = 3 },
]

[optimiser]
kind = "sgd"
lr = 0.2

[training]
epochs = 20
batch_size = 16
"""
SICK = """\
# Eight layers of sigmoids.
[data]
source = "iris"   # 150 flowers

[network]
layers = [
  { kind = "repeat", times = 7, layers = [
    { kind = "dense", units = 8 },
    { kind = "activation", name = "logistic" },
  ] },
  { kind = "dense", units = 3 },
]
init = { kind = "orthogonal" }

[optimiser]
kind = "sgd"
lr = 0.2

[training]
epochs = 30
batch_size = 60
"""


@dataclass(frozen=True)
class Answer:
    """What a command came to; `words` is all that it said, in one line."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        plain = re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", self.out + self.err)
        return " ".join(plain.replace("\u202f", "").split())


Command = Callable[..., Answer]


@pytest.fixture
def command(monkeypatch: Any, capsys: Any, tmp_path: Path) -> Command:
    """Runs `isograd ARGUMENTS` in a new folder, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, arguments)


def call(monkeypatch: Any, capsys: Any, arguments: tuple[Any, ...]) -> Answer:
    monkeypatch.setattr(sys, "argv", ["isograd", *map(str, arguments)])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return Answer(end.value.code or 0, out, err)


def refused(answer: Answer, *parts: str) -> None:
    """Exit code 2, nothing on standard output, and a message with all parts in order."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    rest = answer.err
    for part in parts:
        assert part in rest, f"{part!r} is missing, or out of order, in\n{answer.err}"
        rest = rest.partition(part)[2]


def answer_of(answer: Answer, kind: str) -> dict[str, Any]:
    content = strict(answer.out)
    assert content["kind"] == kind
    assert content["schema"] == 1
    assert answer.err == ""
    return dict(content)


def test_the_check_of_refusals_catches_faults() -> None:
    good = Answer(2, "", "isograd: a\n  b")
    refused(good, "a", "b")
    for bad in (
        Answer(1, "", good.err),
        Answer(2, "x", good.err),
        Answer(2, "", "Traceback a b"),
        Answer(2, "", "b a"),
    ):
        with pytest.raises(AssertionError):
            refused(bad, "a", "b")


# --- help


def test_version(command: Command) -> None:
    answer = command("--version")
    assert (answer.code, answer.out) == (0, f"isograd {isograd.__version__}\n")


@pytest.mark.parametrize("name", ["doctor", "train", "show", "runs", "init"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help_with_examples(name: str, flag: str, command: Command) -> None:
    answer = command(name, flag)
    assert answer.code == 0
    assert re.search(rf"Examples: isograd {name}\b", answer.words)
    assert name in command("--help").words


def test_no_command_is_a_call_for_help(command: Command) -> None:
    answer = command()
    assert answer.code == 2
    assert "Usage: isograd [OPTIONS] COMMAND" in answer.words


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["doktor", "x.toml"], "No such command"),
        (["train", "--epochs", "3", "x.toml"], "No such option"),
        (["--nope"], "--nope"),
        (["train"], "Missing argument"),
        (["doctor"], "Missing argument"),
        (["show"], "Missing argument"),
        (["train", "a.toml", "b.toml"], "unexpected extra argument"),
        (["doctor", "x.toml", "--seeds", "2"], "Invalid value for '--seeds'"),
        (["doctor", "x.toml", "--seeds", "many"], "Invalid value for '--seeds'"),
        (["doctor", "x.toml", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["train", "x.toml", "--seed", "-1"], "Invalid value for '--seed'"),
        (["train", "x.toml", "--out"], "requires an argument"),
    ],
)
def test_wrong_usage(arguments: list[str], part: str, command: Command) -> None:
    answer = command(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert part in answer.words
    assert "Traceback" not in answer.words


# --- init, train, show, runs


def test_init_then_train(command: Command) -> None:
    answer = command("init", "first.toml")
    assert answer.code == 0
    assert "isograd train first.toml" in answer.out
    assert Path("first.toml").read_text(encoding="utf-8") == TEMPLATE
    short = TEMPLATE.replace("epochs = 30", "epochs = 2")
    assert short != TEMPLATE
    Path("short.toml").write_text(short, encoding="utf-8")
    answer = command("train", "short.toml")
    assert answer.code in (0, 1)
    assert "finished after 44 steps" in answer.words
    assert open_run(Path("runs/short-001")).stopped == "finished"


def test_the_template_says_its_defaults() -> None:
    keys = "seed|dtype|test_fraction|standardise|stratify|loss|init|lr|epochs|first|every"
    bare = re.sub(rf"(?m)^({keys}) .*", "", TEMPLATE)
    whole, left = loads(TEMPLATE), loads(bare.replace("batch_size = 64", ""))
    assert (whole.network.init, left.network.init) == (He(), Xavier())
    assert whole.training.batch_size == left.batch_size_for(1000) == 64
    network = edited(left.network, init=He())
    training = edited(left.training, batch_size=64)
    assert edited(left, network=network, training=training) == whole


def test_the_template_names_all_that_can_be_chosen() -> None:
    for names in (BUILT_IN_DATA, ACTIVATION_NAMES, *map(kinds, (Layer, Loss, Init, Optimiser))):
        assert all(re.search(rf"\b{name}\b", TEMPLATE) for name in names)


def test_init_writes_over_nothing(command: Command) -> None:
    assert command("init").code == 0
    Path("spec.toml").write_text("dear")
    refused(command("init"), "nothing is written over", "spec.toml exists", "another name")
    assert Path("spec.toml").read_text() == "dear"
    refused(command("init", "no/where.toml"), "must be writable", "No such file", "no/where.toml")
    refused(command("init", "spec.toml/x"), "must be writable", "Not a directory")


def test_train_show_runs(command: Command) -> None:
    Path("ok.toml").write_text(HEALTHY)
    answer = command("train", "ok.toml")
    assert answer.code == 0
    assert answer.err == ""
    assert "finished after 140 steps" in answer.words
    assert "healthy: " in answer.out
    assert "isograd show runs/ok-001\n" in answer.out

    answer = command("train", "ok.toml", "--json", "--seed", 3, "--out", "runs/three")
    content = answer_of(answer, "train")
    assert content["run"] == "runs/three"
    assert content["outcome"]["stopped"] == "finished"
    assert content["diagnosis"]["verdict"] == "healthy"
    assert answer.code == 0
    stored = open_run(Path("runs/three"))
    assert stored.spec.seed == 3
    assert Path("runs/three", SPEC).read_text() != HEALTHY
    assert stored.result is not None
    assert stored.result["test"] == content["outcome"]["test"]

    answer = command("show", "runs/ok-001")
    assert answer.code == 0
    assert "runs/ok-001 (finished)" in answer.out
    assert "2 layers, 67 parameters, 140 steps" in answer.words
    assert "HEALTHY: " in answer.out
    content = answer_of(command("show", "runs/three", "--json"), "show")
    assert content["steps"] == 140
    assert content["result"] == stored.result
    assert content["diagnosis"]["verdict"] == "healthy"

    answer = command("runs")
    assert answer.code == 0
    assert re.search(r"runs/ok-001 +finished +140 ", answer.out)
    assert re.search(r"runs/three +finished +140 .*accuracy \d+\.\d%", answer.out)
    content = answer_of(command("runs", "--json"), "runs")
    assert [r["run"] for r in content["runs"]] == ["runs/ok-001", "runs/three"]
    assert content["runs"][1]["result"] == stored.result

    refused(command("train", "ok.toml", "--out", "runs/three"), "must be new", "three exists")
    refused(command("train", "ok.toml", "--out", "ok.toml/x"), "writable", "File exists")


def test_steps_that_were_skipped_are_told(command: Command) -> None:
    """One row whose squared error is beyond float32 costs a step an epoch."""
    rows = "".join(f"{i},{0.1 * i}\n" for i in range(99)) + "50,1e30\n"
    Path("rows.csv").write_text("x,y\n" + rows)
    Path("spec.toml").write_text(
        """\
        data = { source = "rows.csv", standardise = false, test_fraction = 0.02 }
        optimiser = { kind = "adam", lr = 0.01 }
        training = { epochs = 4, batch_size = 14 }
        [network]
        layers = [{ kind = "dense", units = 1 }]
        loss = { kind = "half_squared_error" }
        """
    )
    answer = command("train", "spec.toml", "--out", "one")
    assert "4 steps skipped: loss, gradient or result was not finite" in answer.words
    content = answer_of(command("train", "spec.toml", "--json"), "train")
    assert content["outcome"]["skipped"] == 4
    assert content["outcome"]["steps"] == 28
    shown = answer_of(command("show", "one", "--json"), "show")
    assert shown["result"]["skipped"] == 4
    assert "4 of 28 steps were skipped" in command("show", "one").words


def test_no_runs(command: Command) -> None:
    answer = command("runs", "nowhere")
    assert (answer.code, answer.err) == (0, "")
    assert "no runs in nowhere" in answer.out
    assert answer_of(command("runs", "--json"), "runs")["runs"] == []


def test_a_damaged_run_does_not_hide_the_others(command: Command) -> None:
    Path("ok.toml").write_text(HEALTHY.replace("epochs = 20", "epochs = 1"))
    for _ in range(3):
        command("train", "ok.toml")
    Path("runs/ok-001", RESULT).write_text("{")
    Path("runs/ok-002", SPEC).write_text("{")
    answer = command("runs")
    assert answer.code == 2
    assert "runs/ok-003" in answer.out
    assert "ok-001" not in answer.out
    for path in (f"runs/ok-001/{RESULT}", f"runs/ok-002/{SPEC}"):
        assert path in answer.err
    assert len(strict(command("runs", "--json").out)["runs"]) == 1
    refused(command("show", "runs/ok-001"), "must be whole", f"ok-001/{RESULT}", "train again")
    refused(command("show", "runs/ok-002"), "valid TOML", f"ok-002/{SPEC}")


def test_an_unfinished_run_is_shown(command: Command) -> None:
    Path("ok.toml").write_text(HEALTHY)
    command("train", "ok.toml", "--out", "one")
    Path("one", RESULT).unlink()
    answer = command("show", "one")
    assert "one (unfinished)" in answer.out
    content = answer_of(command("show", "one", "--json"), "show")
    assert content["result"] is None
    assert content["steps"] == 140
    assert re.search(r"one +unfinished +140", command("runs", ".").out)


def test_a_run_of_which_nothing_is_recorded(command: Command, monkeypatch: Any) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    Path("ok.toml").write_text(HEALTHY)
    with monkeypatch.context() as patched:
        patched.setattr("isograd.training.loop.compile_step", interrupted)
        assert command("train", "ok.toml", "--out", "one").code == 130
    answer = command("show", "one")
    assert answer.code == 0
    assert "one (interrupted)" in answer.out
    assert "UNKNOWN: 0 steps" in answer.out
    assert answer_of(command("show", "one", "--json"), "show")["diagnosis"]["verdict"] == "unknown"


def test_ctrl_c_in_training(command: Command, monkeypatch: Any) -> None:
    from isograd.training import loop

    real = loop._Run.chunks

    def chunks(*args: Any) -> Iterator[Any]:
        for records, state in real(*args):
            if records[-1].step >= 30:  # which is measured, and so a chunk by itself
                raise KeyboardInterrupt
            yield records, state

    monkeypatch.setattr(loop._Run, "chunks", chunks)
    Path("ok.toml").write_text(HEALTHY + "\n[measure]\nevery = 10\n")
    answer = command("train", "ok.toml")
    assert answer.code == 130
    assert "interrupted after 30 steps" in answer.words
    assert open_run(Path("runs/ok-001")).stopped == "interrupted"
    answer = command("doctor", "ok.toml")
    assert answer.code == 130
    assert answer.out.startswith("isograd doctor ok.toml (interrupted)\n")
    content = answer_of(command("doctor", "ok.toml", "--json"), "doctor")
    assert content["outcome"]["stopped"] == "interrupted"
    assert content["trials"] is None


# --- doctor


def test_a_healthy_network_needs_no_trials(command: Command) -> None:
    Path("ok.toml").write_text(HEALTHY)
    answer = command("doctor", "ok.toml")
    assert answer.code == 0
    assert "HEALTHY: " in answer.out
    assert "Cures tried" not in answer.out
    assert answer.err == ""
    assert sorted(p.name for p in Path().iterdir()) == ["ok.toml"]
    content = answer_of(command("doctor", "ok.toml", "--json"), "doctor")
    assert content["diagnosis"]["verdict"] == "healthy"
    assert (content["trials"], content["patch"], content["cured_spec"]) == (None, None, None)
    assert content["rows"] == {"train": 120, "test": 30}


def test_a_sick_network_without_trials(command: Command) -> None:
    Path("sick.toml").write_text(SICK)
    answer = command("doctor", "sick.toml", "--no-trials")
    assert answer.code == 1
    assert "SICK: vanishing gradient" in answer.out
    assert "8 layers, 499 parameters, 60 steps" in answer.words
    content = answer_of(command("doctor", "sick.toml", "--no-trials", "--json"), "doctor")
    assert content["diagnosis"]["findings"][0]["name"] == "vanishing gradient"
    assert content["trials"] is None
    assert command("train", "sick.toml").code == 1
    assert command("show", "runs/sick-001").code == 1
    assert sorted(p.name for p in Path().iterdir()) == ["runs", "sick.toml"]


@dataclass(frozen=True)
class Cure:
    """One real run of the doctor on SICK, and the report that it made."""

    answer: Answer
    report: Report
    written: str


@pytest.fixture(scope="module")
def cure(tmp_path_factory: Any) -> Cure:
    """Thirty trials: done once for all tests."""
    folder = tmp_path_factory.mktemp("cure")
    reports: list[Report] = []
    real = isograd.report.doctor

    def doctor(*arguments: Any, **options: Any) -> Report:
        reports.append(real(*arguments, **options))
        return reports[0]

    (folder / "sick.toml").write_text(SICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(isograd.report, "doctor", doctor)
        patch.setattr(sys, "argv", ["isograd", "doctor", "sick.toml", "--jobs", "1"])
        patch.setattr(sys, "excepthook", sys.excepthook)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            cli.main()
    answer = Answer(end.value.code or 0, out.getvalue(), err.getvalue())
    assert sorted(p.name for p in folder.iterdir()) == ["sick.cured.toml", "sick.toml"]
    assert (folder / "sick.toml").read_text() == SICK
    return Cure(answer, reports[0], (folder / "sick.cured.toml").read_text())


@pytest.fixture
def doctored(cure: Cure, monkeypatch: Any) -> list[dict[str, Any]]:
    """The doctor makes that report at once; gives the options of its calls."""
    calls: list[dict[str, Any]] = []

    def doctor(spec: Any, **options: Any) -> Report:
        calls.append(options)
        options["on_diagnosis"](cure.report.outcome, cure.report.diagnosis)
        return cure.report

    monkeypatch.setattr(isograd.report, "doctor", doctor)
    return calls


def test_a_sick_network_is_cured(cure: Cure, command: Command) -> None:
    answer, report = cure.answer, cure.report
    assert answer.code == 0
    assert answer.err == ""
    assert answer.out.startswith("isograd doctor sick.toml\n8 layers, 499 parameters, 60 steps\n")
    assert report.prescription is not None
    best = report.prescription.recommended
    assert best is not None
    assert report.diagnosis.verdict == "sick"
    steps = ["SICK: ", "Cures tried", "3 seeds and 60 steps", "Recommended: " + best.name]
    places = [answer.out.replace("\u202f", "").index(step) for step in steps]
    assert places == sorted(places)
    for arm in report.prescription.cures:
        assert re.search(rf"(?m)^[ ✔→] {re.escape(arm.name)} +{arm.size} ", answer.out)
    assert re.search(rf"(?m)^→ {re.escape(best.name)} ", answer.out)

    assert cure.written == report.cured
    assert diff(SICK, cure.written, "sick.toml") == report.patch
    assert report.patch in answer.out, "as it is: to be copied, or piped"
    assert "# Eight layers of sigmoids." in cure.written
    assert "\n  isograd train sick.cured.toml\n" in answer.out

    assert "…" not in answer.out, "nothing is cut off"
    assert max(map(len, answer.out.splitlines())) <= 80

    Path("sick.cured.toml").write_text(cure.written)
    content = answer_of(command("train", "sick.cured.toml", "--json"), "train")
    assert content["outcome"]["test"]["accuracy"] > 0.8
    accuracy = best.trials[0].test.accuracy
    assert content["outcome"]["test"]["accuracy"] == pytest.approx(accuracy), "as in the trial"


def test_the_cured_spec_as_json(cure: Cure, doctored: Any, command: Command) -> None:
    Path("sick.toml").write_text(SICK)
    content = answer_of(command("doctor", "sick.toml", "--json"), "doctor")
    assert content["cured_spec"] == "sick.cured.toml"
    assert Path("sick.cured.toml").read_text() == cure.written
    assert content["patch"] == cure.report.patch
    trials = content["trials"]
    assert trials["recommended"] in [arm["name"] for arm in trials["cures"] if arm["helps"]]
    for arm in (trials["no_change"], trials["random_change"], *trials["cures"]):
        assert [t["seed"] for t in arm["trials"]] == [0, 1, 2]
    for arm in trials["cures"]:
        effect = arm["over_no_change"]
        assert effect["low"] <= effect["mean"] <= effect["high"]
        assert arm["patches"][0].startswith("--- a/sick.toml")


def test_a_cured_spec_is_written_over_nothing(
    cure: Cure, doctored: list[Any], command: Command
) -> None:
    Path("sick.toml").write_text(SICK)
    Path("sick.cured.toml").write_text("dear")
    for name in ("sick.cured-2.toml", "sick.cured-3.toml"):
        assert f"isograd train {name}\n" in command("doctor", "sick.toml").out
        assert Path(name).read_text() == cure.written
    assert command("doctor", "sick.toml", "--out", "well.toml").code == 0
    assert Path("well.toml").read_text() == cure.written
    assert len(doctored) == 3
    refused(command("doctor", "sick.toml", "--out", "well.toml"), "over a file", "well.toml exists")
    assert len(doctored) == 3, "it is refused before the work"
    assert Path("sick.cured.toml").read_text() == "dear"
    assert Path("sick.toml").read_text() == SICK


def test_a_cured_spec_that_cannot_be_written(doctored: Any, command: Command) -> None:
    """The trials took a minute: they are shown first."""
    Path("sick.toml").write_text(SICK)
    answer = command("doctor", "sick.toml", "--out", "no/where.toml")
    assert answer.code == 2
    assert "Recommended: " in answer.out
    assert "isograd: the folder of a new file must be writable" in answer.err
    answer = command("doctor", "sick.toml", "--out", "no/where.toml", "--json")
    content = strict(answer.out)
    assert answer.code == 2
    assert content["cured_spec"] is None
    assert content["patch"]


def test_no_cure_and_an_interruption(cure: Cure, command: Command, monkeypatch: Any) -> None:
    Path("sick.toml").write_text(SICK)
    assert cure.report.prescription is not None
    for interrupted, code in ((False, 1), (True, 130)):
        none = replace(cure.report.prescription, recommended=None, interrupted=interrupted)
        report = replace(cure.report, prescription=none, cured=None)
        monkeypatch.setattr(isograd.report, "doctor", lambda *_, report=report, **__: report)
        answer = command("doctor", "sick.toml")
        assert answer.code == code
        assert "Recommended: nothing" in answer.out
        assert [p.name for p in Path().iterdir()] == ["sick.toml"]


def test_options_reach_the_doctor(doctored: list[dict[str, Any]], command: Command) -> None:
    Path("sick.toml").write_text(SICK)
    command("doctor", "sick.toml", "--seeds", 5, "--jobs", 2, "--no-trials", "--seed", 9)
    (options,) = doctored
    assert (options["seeds"], options["jobs"], options["trials"]) == (5, 2, False)
    assert loads(options["text"]).seed == 9
    assert (options["name"], options["base"]) == ("sick.toml", Path())


def flowers(rows: int = 60) -> str:
    """A .csv that a linear network can learn."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, 2))
    body = "".join(f"{a:.4f},{b:.4f},{'yes' if a > b else 'no'}\n" for a, b in X)
    return "width,height,label\n" + body


CSV = """[data]
source = "x.csv"
target = "label"

[network]
layers = [{ kind = "dense", units = 2 }]

[training]
epochs = 3
batch_size = 8
"""


def test_doctor_on_a_run(cure: Cure, command: Command, doctored: list[Any]) -> None:
    Path("specs").mkdir()
    Path("specs/sick.toml").write_text(SICK)
    command("train", "specs/sick.toml", "--out", "runs/one")
    answer = command("doctor", "runs/one")
    assert answer.code == 0
    assert answer.out.startswith("isograd doctor runs/one\n")
    assert doctored[0]["text"] == SICK
    cured = Path.cwd() / "specs/one.cured.toml"
    assert cured.read_text() == cure.written, "where its relative paths hold"
    assert f"  isograd train {cured}\n" in answer.out
    assert {p.name for p in Path("runs/one").iterdir()} >= {SPEC, STORE, RESULT}
    assert not list(Path("runs/one").glob("*cured*"))
    refused(command("doctor", "specs"), "folder that training made", "specs has no telemetry")


def test_relative_data_of_a_run(command: Command) -> None:
    Path("here").mkdir()
    Path("here/x.csv").write_text(flowers())
    Path("here/spec.toml").write_text(CSV)
    assert command("train", "here/spec.toml").code in (0, 1)
    answer = command("doctor", "runs/spec-001", "--no-trials", "--json")
    assert answer_of(answer, "doctor")["rows"] == {"train": 48, "test": 12}
    Path("here/x.csv").unlink()
    refused(command("doctor", "runs/spec-001"), str(Path.cwd() / "here/x.csv"))


def test_names_that_look_like_markup(command: Command, doctored: Any) -> None:
    folder = Path("[bold]a :x: " + "long " * 20 + "[")
    spec = folder / "red].toml"
    folder.mkdir()
    assert f"  isograd train {spec}\n" in command("init", spec).out
    assert f"  came:  {spec} exists\n" in command("init", spec).err
    spec.write_text(HEALTHY.replace("epochs = 20", "epochs = 1"))
    run = folder / "one]"
    assert (
        f"kept in {run}; look at it with\n\n  isograd show {run}\n"
        in command("train", spec, "--out", run).out
    )
    assert f"  came:  {run}/x is no folder\n" in command("show", run / "x").err
    assert "[bold]a :x: long" in command("show", run).out
    assert "[bold]a :x: long" in command("runs", folder).out
    assert f"  isograd train {folder}/red].cured.toml\n" in command("doctor", spec).out


# --- bad input


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("units = 8", "unit = 8", ["known keys", "'unit'", "bad.toml: network", "'units'"]),
        ("[training]", "[trainig]", ["known keys", "trainig", "did you mean 'training'"]),
        ('"tanh"', '"tahn"', ["tahn", "bad.toml: network.layers[1].name", "mean 'tanh'"]),
        ('"tanh"', '"sigmoid"', ["sigmoid", "logistic"]),
        ("units = 3", "units = 5", ["3 units, one per class", "5 units", "layers[2]", "units = 3"]),
        ("units = 8", "units = 0", ["at least 1", "0", "network.layers[0].units"]),
        ("units = 8", "units = -1", ["at least 1", "-1"]),
        ("units = 8", "units = 8.5", ["whole number", "8.5"]),
        ("batch_size = 16", "batch_size = 500", ["500 with 120", "batch_size", "120 or less"]),
        ("batch_size = 16", "batch_size = 0", ["at least 1", "training.batch_size"]),
        ("epochs = 20", "epochs = 0", ["at least 1", "training.epochs"]),
        ("lr = 0.2", "lr = 0", ["lr", "0", "optimiser.lr"]),
        ("lr = 0.2", "lr = nan", ["lr", "nan"]),
        ('kind = "sgd"', 'kind = "sdg"', ["sdg", "optimiser", "mean 'sgd'"]),
        ('kind = "sgd"', "", ["'kind' must be given", "optimiser.kind", "sgd"]),
        ('"iris"', '"irises"', ["source", "irises", "mean 'iris'"]),
        ('"iris"', '"no.csv"', ["no.csv"]),
        ('"iris"', '"diabetes"', ["must be classes", "diabetes, a regression"]),
        ("layers = [", "layers = [\n[", ["valid TOML", "bad.toml:"]),
        ("\nlayers", "\nlayers = []\nx", ["bad.toml"]),
        (
            "units = 3 },\n]",
            "units = 3 },\n]\ninit = { kind = 'critcal' }",
            ["critcal", "critical"],
        ),
        (
            '"tanh" },\n',
            '"softplus" },\n  { kind = "dense", units = 8, init = { kind = "critical" } },\n',
            ["softplus"],
        ),
        (
            '{ kind = "activation", name = "tanh" },',
            '{ kind = "residual", layers = [{ kind = "dense", units = 4 }] },',
            ["must keep the number of features", "8 in, 4 out", "network.layers[1]", "8"],
        ),
    ],
)
def test_specs_that_cannot_be_used(old: str, new: str, parts: list[str], command: Command) -> None:
    assert old in HEALTHY
    Path("bad.toml").write_text(HEALTHY.replace(old, new, 1))
    for name in ("doctor", "train"):
        refused(command(name, "bad.toml"), "isograd: ", *parts)
    assert [p.name for p in Path().iterdir()] == ["bad.toml"], "nothing is left behind"


def test_specs_that_cannot_be_read(command: Command) -> None:
    Path("binary.toml").write_bytes(bytes(range(256)))
    Path("empty.toml").touch()
    for name in ("doctor", "train"):
        refused(command(name, "missing.toml"), "can be read", "No such file", "missing.toml")
        refused(command(name, "binary.toml"), "UTF-8", "binary.toml", "save it as UTF-8")
        refused(command(name, "empty.toml"), "'data' must be given", "empty.toml: data")
        refused(command(name, "x" * 300 + ".toml"), "File name too long")
        refused(command(name, "a\nb.toml"), "No such file")
    refused(command("train", "."), "can be read", "Is a directory")
    refused(command("doctor", "."), "folder that training made")
    refused(command("show", "missing"), "folder that training made", "missing is no folder")
    refused(command("show", "binary.toml"), "binary.toml is no folder", "isograd runs")
    Path("one").mkdir()
    Path("one", STORE).write_bytes(bytes(range(256)) * 40)
    refused(command("show", "one"), "SQLite", f"one/{STORE}")


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda t: t.replace("label", "colour"), ["label", "x.csv", "colour"]),
        (lambda t: re.sub(r"(?m)^.*?,(.*\n)", r"nan,\1", t, count=4), ["x.csv"]),
        (lambda t: t.replace(",", ";"), ["x.csv"]),
        (lambda t: "", ["x.csv"]),
        (lambda t: t.splitlines()[0] + "\n", ["x.csv"]),
        (lambda t: "\n".join(t.splitlines()[:3]), ["x.csv"]),
        (lambda t: t.replace("yes", "no"), ["x.csv"]),
        (lambda t: t + "1,2\n", ["x.csv"]),
        (lambda t: t + "1,two,no\n", ["two", "x.csv"]),
        (lambda t: t + "1,inf,no\n", ["line 62", "height", "x.csv"]),
    ],
)
def test_data_that_cannot_be_used(edit: Any, parts: list[str], command: Command) -> None:
    text = edit(flowers())
    Path("x.csv").write_text(text)
    Path("spec.toml").write_text(CSV)
    for name in ("doctor", "train"):
        answer = command(name, "spec.toml")
        refused(answer, "isograd: ")
        assert all(part in answer.err for part in parts), answer.err
    assert not Path("runs").exists()


def test_a_seed_that_is_too_large(command: Command) -> None:
    Path("ok.toml").write_text(HEALTHY)
    refused(command("train", "ok.toml", "--seed", 10**30), "seed", "at most")


def test_a_network_that_does_not_fit_in_memory(command: Command, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise MemoryError("Unable to allocate 7.28 TiB")

    monkeypatch.setattr("isograd.nn.model.Model.init", full)
    Path("ok.toml").write_text(HEALTHY)
    refused(command("train", "ok.toml"), "must fit in memory", "7.28 TiB", "units")


def test_a_run_that_diverges_as_json(command: Command) -> None:
    text = HEALTHY.replace("lr = 0.2", "lr = 1e12").replace('"tanh"', '"relu"')
    text = text.replace(
        "units = 3 },\n]", 'units = 3 },\n]\nloss = { kind = "half_squared_error" }'
    )
    Path("bad.toml").write_text(text)
    answer = command("train", "bad.toml", "--json")
    content = answer_of(answer, "train")
    assert answer.code == 1
    assert content["outcome"]["stopped"] == "diverged"
    assert content["outcome"]["train"]["loss"] is None
    assert "not finite" in command("runs").out
    assert (
        answer_of(command("runs", "--json"), "runs")["runs"][0]["result"]["train"]["loss"] is None
    )
    answer = command("show", "runs/bad-001")
    assert "(diverged)" in answer.out
    assert answer.code == 1
    assert "non-finite value" in answer.out


# --- the chart


def drawn(profile: Profile, **options: Any) -> list[str]:
    """The chart's lines: a legend, the axis, and a row per layer."""
    console = Console(file=io.StringIO(), width=200)
    console.print(chart(profile, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def profile_of(signal: Any, delta: Any) -> Profile:
    ones = (1.0,) * len(signal)
    return Profile(0, delta=tuple(delta), signal=tuple(signal), scale=ones, update=ones)


def test_marks_stand_where_the_sizes_are() -> None:
    """From −4 to 1 in 51 characters a decade is ten characters wide."""
    _, axis, *rows = drawn(profile_of([10, 1, 0.1, 1], [1e-4, 1e-2, 0.1, 10**-2.5]), width=51)
    assert re.search(r" -4 {47}\+1 ", axis)
    places = [(row.find("○") - 8, row.find("●") - 8, row.find("◉") - 8) for row in rows]
    assert places == [(50, 0, -9), (40, 20, -9), (-9, -9, 30), (40, 15, -9)]
    numbers = [row.split()[2:] for row in rows]
    assert numbers[0] == ["+1.0", "-4.0", "-2.00"], "signal, δ and the gain from layer 2"
    assert numbers[3] == ["+0.0", "-2.5"]


def test_sizes_that_cannot_be_drawn() -> None:
    nan, inf = float("nan"), float("inf")
    _, _, *rows = drawn(profile_of([1, 0, inf, nan], [1, 1, 0, 1]))
    assert [len(re.findall("[○●◉]", row)) for row in rows] == [1, 1, 0, 1]
    assert [row.split()[2] for row in rows] == ["+0.0", "zero", "–", "–"]
    assert drawn(profile_of([nan], [0])) == ["nothing finite to draw"]


def test_a_deep_network_shows_some_of_its_layers() -> None:
    _, _, *rows = drawn(profile_of([1] * 200, [1] * 200))
    layers = [int(row.split()[0]) for row in rows]
    assert (layers[0], layers[-1], len(layers)) == (1, 200, 16)
    assert {b - a for a, b in pairwise(layers)} <= {13, 14}


# --- as a process: pipes, terminals, encodings


def process(*arguments: str, cwd: Path, **options: Any) -> Any:
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    env = plain | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | options.pop("env", {})
    command = [sys.executable, "-m", "isograd.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=cwd, env=env, **pipes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with a sick spec and a run of it, made by a process whose output is piped."""
    folder = Path(tmp_path_factory.mktemp("place"))
    (folder / "sick.toml").write_text(SICK)
    with process("train", "sick.toml", "--out", "runs/one", cwd=folder) as child:
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (1, b"")
    check_plain(out.decode())
    return folder


def check_plain(text: str) -> None:
    assert "\x1b" not in text
    assert "\r" not in text
    assert "━" not in text, "the bar is for terminals"
    assert text


def test_what_is_piped_is_plain_text(place: Path) -> None:
    with process("doctor", "sick.toml", "--no-trials", cwd=place) as child:
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (1, b"")
    check_plain(out.decode())
    assert max(map(len, out.decode().splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["runs"], ["show", "runs/one", "--json"], ["--version"]])
def test_output_that_nobody_reads(arguments: list[str], place: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with process(*arguments, cwd=place, stdout=write) as child:
        os.close(write)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 141, "as after SIGPIPE; 1 would be `sick`"
    assert err == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_output_to_a_full_disk(place: Path) -> None:
    with open("/dev/full", "wb") as full, process("runs", cwd=place, stdout=full) as child:
        _, err = child.communicate(timeout=60)
    assert child.returncode == 2
    assert b"No space left" in err
    assert b"Traceback" not in err


def test_an_encoding_without_greek_letters(place: Path) -> None:
    with process("show", "runs/one", cwd=place, env={"PYTHONIOENCODING": "ascii"}) as child:
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (1, b"")
    assert b"vanishing gradient" in out


# --- backends


def test_the_backend_is_told_and_kept(command: Command) -> None:
    Path("ok.toml").write_text(HEALTHY)
    answer = command("train", "ok.toml", "--out", "one", "--backend", "numpy", "--threads", "1")
    assert re.search(r"finished after 140 steps in \d+\.\d s, \d+ steps/s \(numpy\)", answer.words)
    outcome = answer_of(command("train", "ok.toml", "--backend", "numpy", "--json"), "train")[
        "outcome"
    ]
    assert outcome["backend"] == "numpy"
    assert outcome["steps_per_second"] == outcome["steps"] / outcome["seconds"]
    result = answer_of(command("show", "one", "--json"), "show")["result"]
    assert result["backend"] == "numpy"
    content = answer_of(command("doctor", "ok.toml", "--backend", "numpy", "--json"), "doctor")
    assert content["outcome"]["backend"] == "numpy"


@pytest.mark.parametrize("name", ["train", "doctor"])
def test_a_backend_that_is_not_there(name: str, command: Command) -> None:
    Path("ok.toml").write_text(HEALTHY)
    answer = command(name, "ok.toml", "--backend", "nativ")
    assert answer.code == 2
    assert "a backend must be native or numpy" in answer.err
    assert "did you mean 'native'?" in answer.err
    assert not Path("runs").exists()


def test_where_no_machine_code_can_be_made_the_interpreter_runs(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is said in a line, and once."""
    monkeypatch.setattr(select, "available", lambda: "no compiler")
    select._tell.cache_clear()
    Path("ok.toml").write_text(HEALTHY)
    answer = command("train", "ok.toml", "--backend", "native")
    told = "isograd: the slower interpreter runs instead of machine code: no compiler"
    assert " ".join(answer.err.split()) == told
    assert "(numpy)" in answer.words
    again = command("train", "ok.toml", "--backend", "native", "--json")
    assert again.err == ""
    assert answer_of(again, "train")["outcome"]["backend"] == "numpy"
