"""isograd map: what it prints and writes, exit codes, and how to go on after Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_cli import Answer, Command, call, refused

from isograd.cli.entry import _COMMANDS
from isograd.nn import VarianceScaling
from isograd.nn.toml import loads
from isograd.training.cells import ABOUT, CELLS
from isograd.training.sweep import sweep

pytest.importorskip("plotly")
pytest.importorskip("matplotlib")

SPEC = """\
[data]
source = "moons"   # two half circles
rows = 100

[network]
layers = [
  { kind = "repeat", times = 3, layers = [
    { kind = "dense", units = 6 },
    { kind = "activation", name = "tanh" },
  ] },
  { kind = "dense", units = 2 },
]
init = { kind = "he" }

[optimiser]
kind = "sgd"
lr = 0.1

[training]
epochs = 20
batch_size = 16
"""
GRID = ("--x", "sigma_w=1:2:3", "--y", "depth=2,4")
QUICK = (*GRID, "--steps", "8", "--jobs", "1", "--backend", "numpy")


@pytest.fixture
def command(monkeypatch: Any, capsys: Any, tmp_path: Path) -> Command:
    """Runs `isograd ARGUMENTS` in a new folder with a spec, in this process."""
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text(SPEC, encoding="utf-8")
    return lambda *arguments: call(monkeypatch, capsys, arguments)


def accuracies(folder: Path) -> dict[tuple[float, int], float]:
    with (folder / "map.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(float(r["sigma_w"]), int(r["depth"])): float(r["train_accuracy"]) for r in rows}


def test_a_map_is_printed_and_written(command: Command) -> None:
    answer = command("map", "spec.toml", *QUICK)
    assert answer.code == 0, answer
    folder = Path("maps/spec-001")
    assert {p.name for p in folder.iterdir()} == {
        *(ABOUT, CELLS, "lock", "map.csv", "map.html", "map.png")
    }
    for part in (
        "depth over sigma_w: training accuracy after 8 steps, 6 cells",
        "6 ξ_c",
        'init "he" becomes "variance_scaling" with sigma_b2 = 0',
        "in maps/spec-001: map.csv, map.html, map.png",
    ):
        assert part in answer.words
    assert answer.err == ""
    by_hand = loads(SPEC)
    result = sweep(by_hand, "sigma_w=1,1.5,2", "depth=2,4", steps=8, jobs=1, backend="numpy")
    assert accuracies(folder) == {
        (x, y): result.accuracy[j, i]
        for i, x in enumerate((1.0, 1.5, 2.0))
        for j, y in enumerate((2, 4))
    }
    assert result.plan.specs[2, 0].network.init == VarianceScaling(4.0)
    assert command("map", "spec.toml", *QUICK).code == 0
    assert accuracies(Path("maps/spec-002")) == accuracies(folder), "another free name"


def test_the_help_shows_its_examples_as_they_are_typed(command: Command) -> None:
    """A range such as 4:100:13 holds what a terminal library may take for a name of an emoji."""
    told = command("map", "--help").words
    examples = _COMMANDS[sys.modules["isograd.cli.map"].map]
    assert len(examples) == 3
    for example in examples:
        assert example in told


def test_the_answer_as_json(command: Command) -> None:
    answer = command("map", "spec.toml", *QUICK, "--json", "--out", "here", "--seed", "3")
    assert answer.code == 0
    told = json.loads(answer.out)
    assert (told["kind"], told["map"], told["steps"]) == ("map", "here", 8)
    assert told["files"] == ["here/map.csv", "here/map.html", "here/map.png"]
    found = {(c["x"], c["y"]): c["train"]["accuracy"] for c in told["cells"]}
    assert found == accuracies(Path("here"))
    assert "seed = 3" in json.loads(Path("here", ABOUT).read_text())["spec"]


def test_the_same_command_goes_on(command: Command) -> None:
    words = ("map", "spec.toml", *QUICK, "--out", "here")
    assert command(*words).code == 0
    first = Path("here/map.csv").read_bytes()
    lines = Path("here", CELLS).read_bytes().splitlines(keepends=True)
    Path("here", CELLS).write_bytes(b"".join(lines[:2]) + lines[2][:40])
    assert command(*words).code == 0
    again = Path("here/map.csv").read_bytes()
    strip = re.compile(rb",[0-9.]+,\n")
    assert strip.sub(b"", again) == strip.sub(b"", first), "but for the seconds"
    refused(
        command("map", "spec.toml", *GRID, "--steps", "9", "--out", "here"),
        "gone on with as it began",
        "another steps: 9, and it began with 8",
        "here/map.json",
        "another --out",
    )


def test_a_map_with_a_cell_that_diverges(command: Command) -> None:
    Path("spec.toml").write_text(SPEC.replace('"tanh"', '"relu"'))
    grid = ("--x", "optimiser.lr=0.1,1e30", "--y", "depth=3", "--steps", "60")
    answer = command("map", "spec.toml", *grid, "--jobs", "1", "--out", "here")
    assert answer.code == 0
    assert "× diverged" in answer.words
    assert "no curves of theory: optimiser.lr does not change the initialiser" in answer.words
    assert ",diverged," in Path("here/map.csv").read_text()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--x", "sigma_w2=-1:1:3"), ("sigma_w2 must be", "-1.0", "spec.toml: network.init")),
        (("--x", "optimizer.lr=1"), ("key of the spec", "'optimizer.lr'", "'optimiser.lr'")),
        (("--x", "network.layers.1.times=1,2"), ("key of the spec", "network.layers.0.times")),
        (("--y", "depth=1:3:3"), ("at least 2", "depth = 1", "spec.toml: network.layers[0]")),
        (("--x", "sigma_w=1:2"), ("START:STOP:COUNT", "'sigma_w=1:2'", "sigma_w=1:4:12")),
        (("--x", "depth=3,4"), ("two settings", "depth twice")),
        pytest.param(
            ("--cluster", "tcp://127.0.0.1:1"),
            ("a Dask scheduler that answers", "dask scheduler"),
            marks=pytest.mark.slow,  # it waits ten seconds for an answer
        ),
        (("--backend", "cuda"), ("native or numpy", "'cuda'")),
        (("--out", "spec.toml"), ("must be writable", "spec.toml")),
        (("--out", "."), ("must be new, or hold a map", "'spec.toml'", "--out")),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_made(
    words: tuple[str, ...], parts: tuple[str, ...], command: Command
) -> None:
    if "--cluster" in words:
        pytest.importorskip("distributed")
    refused(command("map", "spec.toml", *QUICK, *words), *parts)
    assert [p.name for p in Path().iterdir()] == ["spec.toml"]


@pytest.mark.parametrize("words", [("--jobs", "0"), ("--steps", "0"), ("--steps", "many")])
def test_options_that_cannot_be_read(words: tuple[str, ...], command: Command) -> None:
    assert command("map", "spec.toml", *QUICK, *words).code == 2
    assert not Path("maps").exists()


def test_without_distributed_the_extra_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    answer = command("map", "spec.toml", *QUICK, "--cluster", "tcp://127.0.0.1:1")
    refused(answer, "a cluster needs Dask", "pip install isograd[cluster]")


class Greeting(socketserver.BaseRequestHandler):
    """Answers as a web server does: to Dask its first bytes are a length."""

    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 4)


def test_what_answers_may_be_no_scheduler(command: Command) -> None:
    pytest.importorskip("distributed")
    with socketserver.TCPServer(("127.0.0.1", 0), Greeting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        answer = command("map", "spec.toml", *QUICK, "--cluster", address)
        server.shutdown()
    refused(answer, "a Dask scheduler that answers", address)


def go_on(answer: str) -> list[str]:
    """The command that an interrupted map says goes on with it."""
    (line,) = [line for line in answer.splitlines() if line.startswith("  isograd map ")]
    return shlex.split(line)[1:]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sys.modules["isograd.training.sweep"].sweep

    def stopped(*args: Any, progress: Any, **options: Any) -> Any:
        def tell(done: int, total: int, note: str) -> None:
            progress(done, total, note)
            if done == 2:
                raise KeyboardInterrupt

        return real(*args, progress=tell, **options)

    with monkeypatch.context() as patch:
        patch.setattr("isograd.training.sweep.sweep", stopped)
        answer = command("map", "spec.toml", *QUICK)
    assert answer.code == 130
    assert "2 of 6 cells" in answer.words
    assert "?" in answer.out
    words = go_on(answer.out)
    assert words == ["map", "spec.toml", *QUICK, "--out", "maps/spec-001"]
    done: Answer = command(*words)
    assert done.code == 0
    assert len(accuracies(Path("maps/spec-001"))) == 6


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C as a signal")
def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """Processes at work, all of which get the signal as from a terminal."""
    (tmp_path / "spec.toml").write_text(SPEC)
    words = ["map", "spec.toml", "--x", "sigma_w=1:2:9", "--y", "depth=2:40:10", "--jobs", "2"]
    # Where tests run in the background SIGINT is ignored, and children inherit that.
    first = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", first + "from isograd.cli import main; main()", *words]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=out, stderr=err, start_new_session=True
        )
        cells = tmp_path / "maps/spec-001" / CELLS
        deadline = time.monotonic() + 100
        while not (cells.exists() and cells.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
    told = (tmp_path / "out").read_text()
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert go_on(told) == [*words, "--out", "maps/spec-001"]
    kept = cells.read_text().splitlines()
    assert 1 <= len(kept) < 90
    assert all(json.loads(line)["cell"]["stopped"] == "finished" for line in kept)
