"""What a user may do wrong, through the command line: exit code 2, a message, and nothing changed.

Every message says what must hold, what came, where, and what to do.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from test_cli import CSV, HEALTHY, Answer, Command, call, flowers

from isograd.nn.toml import loads
from isograd.training import sealed
from isograd.training.folder import CHECKPOINT, LOCK, SPEC, STORE, WEIGHTS, open_run
from isograd.training.run import train
from isograd.training.start import load_split

REGRESSION = CSV.replace("units = 2 }]", 'units = 1 }]\nloss = { kind = "half_squared_error" }')


@pytest.fixture
def command(monkeypatch: Any, capsys: Any, tmp_path: Path) -> Command:
    """Runs `isograd ARGUMENTS` in a new folder, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, arguments)


def everything() -> dict[str, bytes | None]:
    """All that lies in the current folder, but for locks, which any look at a run may make."""
    return {
        str(p): p.read_bytes() if p.is_file() else None
        for p in sorted(Path().rglob("*"))
        if p.name not in (LOCK, STORE + "-shm", STORE + "-wal")
    }


def refuses(command: Command, *words: Any, parts: tuple[str, ...] | list[str]) -> None:
    """A command says what is wrong, with all parts in any order, and changes nothing."""
    before = everything()
    answer = command(*words)
    check_refusal(answer, parts)
    assert everything() == before


def check_refusal(answer: Answer, parts: tuple[str, ...] | list[str]) -> None:
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert re.match(r"isograd: .+\n  came:  .", answer.err), answer.err
    assert "\n  fix:   " in answer.err, answer.err
    for part in parts:
        assert part in answer.err, f"{part!r} is missing in\n{answer.err}"


def test_the_check_of_refusals_catches_faults() -> None:
    good = "isograd: a\n  came:  b\n  where: c\n  fix:   d\n"
    check_refusal(Answer(2, "", good), ["b", "d"])
    for bad in (
        Answer(1, "", good),
        Answer(2, "x", good),
        Answer(2, "", good.replace("fix", "fox")),
        Answer(2, "", good.replace("came", "game")),
        Answer(2, "", "Traceback\n" + good),
        Answer(2, "", good.replace("b", "x")),
    ):
        with pytest.raises(AssertionError):
            check_refusal(bad, ["b", "d"])


# --- data


def column(name: str, *values: Any) -> str:
    """Rows of two numbers and a last column, repeated up to sixty rows."""
    rng = np.random.default_rng(0)
    lines = (f"{a:.4f},{b:.4f}" for a, b in rng.standard_normal((60, 2)))
    cells = (f"{line},{values[i % len(values)]}\n" for i, line in enumerate(lines))
    return f"width,height,{name}\n" + "".join(cells)


def cell(row: int, at: int, value: str) -> str:
    """`flowers` with one cell replaced; row 0 is that below the header."""
    lines = flowers().splitlines()
    cells = lines[row + 1].split(",")
    cells[at] = value
    lines[row + 1] = ",".join(cells)
    return "\n".join(lines) + "\n"


BAD_DATA: dict[str, tuple[str, str, list[str]]] = {
    "labels with decimals": (CSV, column("label", 0.5, 1.5), ["whole numbers or text", "line 2"]),
    "one class": (CSV, column("label", 7), ["two classes", "7", "x.csv"]),
    "three classes for two units": (CSV, column("label", 0, 1, 5), ["3 units", "2 units"]),
    "every row its own class": (CSV, column("label", *range(60)), ["share a class", "60"]),
    "a target that is infinite": (
        REGRESSION,
        column("label", 0.5, float("inf"), 1),
        ["line 3", "label", "x.csv"],
    ),
    "a target that is missing": (REGRESSION, column("label", 0.5, ""), ["line 3", "label"]),
    "a label that is missing": (CSV, cell(4, 2, ""), ["label", "line 6"]),
    "text for a regression": (
        REGRESSION,
        column("label", "tall", "short"),
        ["2 units", "network.layers[0]"],
    ),
    "numbers and text for a regression": (
        REGRESSION,
        column("label", 1.5, "two", 2.5),
        ["all numbers or all text", "line 3", "two"],
    ),
    "a missing value": (CSV, cell(3, 1, ""), ["line 5", "height", "x.csv"]),
    "a value that is not a number": (CSV, cell(3, 1, "nan"), ["line 5", "height"]),
    "an infinite value": (CSV, cell(0, 0, "-inf"), ["line 2", "width", "x.csv"]),
    "a value beyond float32": (CSV, cell(9, 0, "1e300"), ["1e+300", "x.csv"]),
    "text among numbers": (CSV, cell(5, 0, "wide"), ["line 7", "wide"]),
    "no such column": (CSV.replace("label", "colour"), flowers(), ["colour", "label", "x.csv"]),
    "a column twice": (CSV, column("width", 1, 2), ["width", "x.csv"]),
    "no rows": (CSV, "width,height,label\n", ["x.csv"]),
    "nothing": (CSV, "", ["x.csv"]),
    "rows of other lengths": (CSV, flowers() + "1,2\n", ["line 62", "x.csv"]),
    "a batch larger than the data": (
        CSV.replace("batch_size = 8", "batch_size = 49"),
        flowers(),
        ["49", "48 training rows", "training.batch_size"],
    ),
    "nothing left for validation": (
        CSV.replace('"label"', '"label"\nvalidation_fraction = 0.001'),
        flowers(),
        ["validation part must hold 2", "validation_fraction = 0.001", "x.csv"],
    ),
    "all for validation": (
        CSV.replace('"label"', '"label"\nvalidation_fraction = 0.999'),
        flowers(),
        ["validation part must hold 2", "validation_fraction = 0.999"],
    ),
}


@pytest.mark.parametrize(("spec", "data", "parts"), BAD_DATA.values(), ids=BAD_DATA)
def test_data(spec: str, data: str, parts: list[str], command: Command) -> None:
    Path("x.csv").write_text(data)
    Path("spec.toml").write_text(spec)
    for name in ("train", "doctor"):
        refuses(command, name, "spec.toml", parts=parts)


@pytest.mark.parametrize("value", ["0", "3.5", "1e30", "-1e-30"])
def test_columns_that_are_constant(value: str, command: Command) -> None:
    """They say nothing: the network learns as with any other constant, and it is warned of none."""
    spec = CSV + "[optimiser]\nkind = 'sgd'\nlr = 0.1\n"
    outcomes = []
    for constant in ("1", value):
        lines = flowers().splitlines()
        rows = [f"{lines[0]},third", *(f"{line},{constant}" for line in lines[1:])]
        Path("x.csv").write_text("\n".join(rows) + "\n")
        Path("spec.toml").write_text(spec)
        answer = command("train", "spec.toml", "--out", f"run{len(outcomes)}")
        assert (answer.code in (0, 1), answer.err) == (True, "")
        outcomes.append(open_run(Path(f"run{len(outcomes)}")).telemetry.losses())
    np.testing.assert_array_equal(*outcomes)


# --- specs


def with_optimiser(line: str) -> str:
    return re.sub(r"\[optimiser\]\n.*\n.*\n", f"[optimiser]\n{line}\n", HEALTHY)


OPTIMISERS = ("gradient_descent", "sgd", "momentum", "nesterov", "adagrad", "rmsprop")
OPTIMISERS += ("adam", "adamw")
RATES = [
    (with_optimiser(f'kind = "{kind}"\nlr = {lr}'), ["lr", lr, "optimiser.lr"])
    for kind in OPTIMISERS
    for lr in ("0.0", "-0.1", "nan", "inf")
]


def with_training(line: str) -> str:
    return HEALTHY.replace("batch_size = 16", f"batch_size = 16\n{line}")


SPECS = [
    *RATES,
    (with_training('schedule = { kind = "warm_up", epochs = 21 }'), ["training.schedule"]),
    (
        with_training('schedule = [{ kind = "constant", epochs = 5 }]'),
        ["training.schedule"],
    ),
    (
        with_training("early_stopping = { patience = 3 }"),
        ["validation_fraction", "early_stopping"],
    ),
    *(
        (
            CSV.replace("x.csv", path),
            ["outside its folder", "data.source", "--data"],
        )
        for path in (
            *("/x.csv", "../x.csv", "a/../../x.csv", "~/x.csv", "~root/x.csv"),
            *("C:/x.csv", "c:x.csv", r"\\\\x.csv", r"..\\x.csv", "a/.. /../x.csv"),
        )
    ),
    (
        CSV.replace('"x.csv"', '"x.csv"\ntest = "../y.csv"'),
        ["outside its folder", "data.test", "--data"],
    ),
]


@pytest.mark.parametrize(("spec", "parts"), SPECS)
def test_specs(spec: str, parts: list[str], command: Command) -> None:
    Path("inner").mkdir()
    for place in (Path(), Path("inner")):
        (place / "x.csv").write_text(flowers())
    Path("inner/spec.toml").write_text(spec)
    for name in ("train", "doctor"):
        refuses(command, name, "inner/spec.toml", parts=["inner/spec.toml", *parts])


def test_data_elsewhere(command: Command) -> None:
    """The way out for a spec that may not reach outside its folder."""
    Path("specs").mkdir()
    Path("elsewhere/below").mkdir(parents=True)
    Path("elsewhere/below/x.csv").write_text(flowers())
    Path("specs/spec.toml").write_text(CSV.replace("x.csv", "below/x.csv"))
    parts = ["specs/below/x.csv"]
    refuses(command, "train", "specs/spec.toml", parts=parts)
    answer = command("train", "specs/spec.toml", "--data", "elsewhere", "--out", "run")
    assert (answer.code in (0, 1), answer.err) == (True, "")
    assert open_run(Path("run")).base == Path.cwd() / "elsewhere"
    refuses(command, "train", "specs/spec.toml", "--data", "nowhere", parts=["nowhere/below/x.csv"])


# --- sizes

LIMITED = """
import resource, sys
sys.argv[1:] = {words!r}
from isograd.cli import main
import isograd.nn.model, isograd.training.run, isograd.diagnosis, isograd.report, sklearn.datasets
isograd.backends.select.available()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 2**27
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main()
"""
LAYERS = {
    "wide": (
        '{ kind = "dense", units = 1_000_000 }, { kind = "dense", units = 1_000_000 },',
        "1000000 × 1000000",
    ),
    "deep": (
        '{ kind = "repeat", times = 999_990, layers = [{ kind = "dense", units = 1000 }] },',
        "1000 × 1000",
    ),
}


@pytest.mark.parametrize(("layers", "widest"), LAYERS.values(), ids=LAYERS)
def test_networks_that_are_too_large(layers: str, widest: str, tmp_path: Path) -> None:
    """Refused before anything is allocated: 128 MiB are enough for the refusal."""
    text = HEALTHY.replace('{ kind = "dense", units = 8 },', layers)
    (tmp_path / "spec.toml").write_text(text)
    for name in ("train", "doctor"):
        program = LIMITED.format(words=[name, "spec.toml"])
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        parts = ["must fit in memory", "TiB", "are free", widest, "network.layers[", "units"]
        check_refusal(Answer(done.returncode, done.stdout, done.stderr), parts)
    assert [p.name for p in tmp_path.iterdir()] == ["spec.toml"]


# --- runs


@pytest.fixture
def run(command: Command) -> Path:
    """A run that has ended, of rows in x.csv."""
    Path("x.csv").write_text(flowers())
    Path("spec.toml").write_text(CSV)
    assert command("train", "spec.toml", "--out", "run").code in (0, 1)
    return Path("run")


@pytest.fixture
def stopped(run: Path) -> Path:
    """The same, interrupted after the fifth step."""

    def told(progress: Any) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    spec = loads(CSV)
    train(spec, CSV, load_split(spec), Path("stopped"), base=Path(), progress=told)
    return Path("stopped")


def test_folders_that_exist(run: Path, command: Command) -> None:
    refuses(command, "train", "spec.toml", "--out", "run", parts=["must be new", "run exists"])
    refuses(command, "train", "spec.toml", "--out", "x.csv", parts=["must be new", "x.csv exists"])
    refuses(command, "train", "spec.toml", "--out", "x.csv/a", parts=["writable", "x.csv/a"])
    refuses(command, "doctor", "spec.toml", "--out", "x.csv", parts=["x.csv exists"])


def test_runs_that_cannot_be_gone_on_with(run: Path, stopped: Path, command: Command) -> None:
    refuses(command, "resume", "run", parts=["interrupted", "has ended: finished", "run"])
    refuses(command, "resume", "nowhere", parts=["nowhere is no folder", "isograd runs"])
    refuses(command, "resume", "x.csv", parts=["x.csv is no folder"])
    refuses(command, "resume", ".", parts=["has no telemetry"])
    refuses(command, "resume", "stopped", "--data", "run", parts=["run/x.csv"])
    with FileLock(stopped / LOCK):
        refuses(command, "resume", "stopped", parts=["one process", "another", "wait for it"])
    Path("x.csv").write_text(cell(3, 0, "1.25"))
    refuses(command, "resume", "stopped", parts=["data", "began with", "x.csv"])


def test_checkpoints_that_cannot_be_used(stopped: Path, command: Command, monkeypatch: Any) -> None:
    path = stopped / CHECKPOINT
    whole = path.read_bytes()
    arrays, facts = sealed.read(path, "checkpoint")

    def refused(content: bytes, *parts: str) -> None:
        path.write_bytes(content)
        refuses(command, "resume", "stopped", parts=[str(path), *parts])

    refused(whole[:-100], "checksum")
    refused(b"", "0 bytes")
    refused((stopped / WEIGHTS).read_bytes(), "a file of weights")
    other = facts | {"spec": facts["spec"].replace("epochs = 3", "epochs = 4")}
    assert other != facts
    refused(sealed.pack("checkpoint", arrays, other), "another spec", SPEC)
    wrong = arrays | {"theta": arrays["theta"][:-1]}
    refused(sealed.pack("checkpoint", wrong, facts), "theta", "float32[6]", "float32[5]")
    with monkeypatch.context() as patch:
        patch.setattr(sealed, "VERSION", 2)
        newer = sealed.pack("checkpoint", arrays, facts)
    refused(newer, "version 2", "newer isograd")
    path.unlink()
    refuses(command, "resume", "stopped", parts=[str(path), "No such file"])


def test_weights_that_cannot_be_used(run: Path, command: Command) -> None:
    whole = (run / WEIGHTS).read_bytes()
    commands = (("predict", "run", "x.csv"), ("export", "run", "--to", "npz"))
    for content, part in ((whole[:-8], "checksum"), (b"", "0 bytes"), (whole + b"\0", "checksum")):
        (run / WEIGHTS).write_bytes(content)
        for words in commands:
            refuses(command, *words, parts=[f"run/{WEIGHTS}", part])
    (run / WEIGHTS).unlink()
    for words in commands:
        refuses(command, *words, parts=[f"no {WEIGHTS}"])


NEW_ROWS: dict[str, tuple[str, list[str]]] = {
    "a column is missing": ("width,label\n1,yes\n", ["height", "new.csv"]),
    "other columns": ("a,b,c\n1,2,yes\n", ["width", "new.csv"]),
    "another class": ("width,height,label\n1,2,maybe\n", ["maybe", "line 2", "no", "yes"]),
    "text": ("width,height\n1,2\n1,tall\n", ["tall", "line 3"]),
    "a missing value": ("width,height\n1,2\n1,\n", ["height", "line 3"]),
    "an infinite value": ("width,height\ninf,2\n", ["width", "line 2"]),
    "no rows": ("width,height\n", ["new.csv"]),
    "nothing": ("", ["new.csv"]),
}


@pytest.mark.parametrize(("content", "parts"), NEW_ROWS.values(), ids=NEW_ROWS)
def test_predictions(content: str, parts: list[str], run: Path, command: Command) -> None:
    Path("new.csv").write_text(content)
    refuses(command, "predict", "run", "new.csv", parts=parts)
    refuses(command, "predict", "run", "new.csv", "--out", "out.csv", parts=parts)


def test_files_to_predict(run: Path, command: Command) -> None:
    refuses(command, "predict", "run", "no.csv", parts=["no.csv"])
    refuses(command, "predict", "run", "x.txt", parts=["x.txt", ".csv"])
    refuses(command, "predict", "run", "iris", parts=["4", "2"])
    refuses(command, "predict", "run", "x.csv", "--out", "spec.toml", parts=["spec.toml exists"])
    refuses(command, "predict", "run", "x.csv", "--out", "a/b.csv", parts=["a/b.csv", "writable"])
    refuses(command, "predict", "run", "x.csv", "--labels", "y.idx", parts=["labels", "y.idx"])


@pytest.mark.parametrize("to", ["npz", "onnx"])
def test_exports(to: str, run: Path, command: Command) -> None:
    if to == "onnx":
        pytest.importorskip("onnx")
    out = f"x.{to}"
    Path(out).write_text("dear")
    refuses(command, "export", "run", "--to", to, "--out", out, parts=[f"{out} exists"])
    refuses(command, "export", "run", "--to", to, "--out", f"no/{out}", parts=[f"no/{out}"])


@pytest.mark.parametrize(
    "words",
    [
        ("train", "spec.toml", "--checkpoint-seconds", "-1"),
        ("train", "spec.toml", "--checkpoint-seconds", "nan"),
        ("resume", "stopped", "--checkpoint-seconds", "-0.5"),
        ("resume", "stopped", "--checkpoint-seconds", "soon"),
        ("export", "run", "--to", "pickle"),
        ("export", "run"),
        ("predict", "run"),
    ],
)
def test_options(words: tuple[str, ...], stopped: Path, command: Command) -> None:
    before = everything()
    answer = command(*words)
    assert (answer.code, answer.out) == (2, "")
    assert re.search("Invalid value for '--|Missing (option|argument)", answer.words), answer
    assert everything() == before
