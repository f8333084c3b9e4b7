"""The benchmarks' harness: what is timed, in which order, and that no failure is hidden."""

from __future__ import annotations

import ast
import json
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import ceiling  # noqa: E402
import common  # noqa: E402
import depth  # noqa: E402
import networks  # noqa: E402
import race as races  # noqa: E402
import steps as table  # noqa: E402
import telemetry  # noqa: E402
import worker  # noqa: E402
from common import Spread, Steps, Unavailable, Worker, WorkerError, interleave, ratio  # noqa: E402
from peers import PEERS, Peer  # noqa: E402
from race import Entry, race, results  # noqa: E402

# --- interleaving and figures


class Fake:
    """A worker with times given beforehand, which writes down when it ran."""

    def __init__(self, name: str, log: list[str], times: Sequence[float | Exception]) -> None:
        self.name, self.log, self.times = name, log, iter(times)

    def slice(self, seconds: float) -> float:
        self.log.append(self.name)
        time = next(self.times)
        if isinstance(time, Exception):
            raise time
        return time


def test_rounds_are_interleaved_and_every_other_goes_backwards() -> None:
    log: list[str] = []
    peers = {name: Fake(name, log, [i, i + 1, i + 2]) for i, name in enumerate("abc")}
    times, failed = interleave(peers, 3, 0.0, pause=0.0)
    assert "".join(log) == "abccbaabc"
    assert times == {"a": [0, 1, 2], "b": [1, 2, 3], "c": [2, 3, 4]}
    assert not failed


def test_a_peer_that_fails_in_a_round_is_out_and_said_to_be() -> None:
    log: list[str] = []
    peers = {
        "good": Fake("g", log, [1, 2, 3]),
        "bad": Fake("b", log, [1, WorkerError("it broke")]),
    }
    times, failed = interleave(peers, 3, 0.0, pause=0.0)
    assert "".join(log) == "gbbgg"
    assert times == {"good": [1, 2, 3]}
    assert failed == {"bad": "it broke"}


def test_a_mistake_of_the_harness_is_not_taken_for_a_failing_peer() -> None:
    with pytest.raises(ZeroDivisionError):
        interleave({"a": Fake("a", [], [ZeroDivisionError()])}, 1, 0.0, pause=0.0)


def test_median_and_quartiles() -> None:
    assert Spread.of([5, 1, 4, 2, 3]) == Spread(median=3, low=2, high=4)
    assert Spread.of([1, 2, 3, 4]) == Spread(median=2.5, low=1.75, high=3.25)


def test_a_ratio_is_taken_within_each_round() -> None:
    slow_spell = np.array([1.0, 1.0, 10.0, 10.0, 1.0])
    assert ratio(6 * slow_spell, 2 * slow_spell) == Spread(3, 3, 3)
    assert ratio([2, 3, 8], [1, 1, 2]) == Spread(3, 2.5, 3.5)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1, 2], [1])


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (9.999, "10.00"),
        (1.0, "1.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (123456.0, "123 000"),
        (float("inf"), "inf"),
    ],
)
def test_significant_digits(x: float, text: str) -> None:
    assert common.significant(x) == text


def test_tables_are_markdown() -> None:
    assert common.table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_the_machine_is_described_without_names_and_places() -> None:
    text = str(common.machine())
    assert np.__version__ in text
    assert "/" not in text
    assert not re.search(rf"\b{re.escape(platform.node())}\b", text)


# --- workers


SERVING = """
import sys
sys.path.insert(0, {folder!r})
from common import Steps, Unavailable, serve
{code}
serve(build)
"""


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts workers of given code, which defines `build`; they end with the test."""
    started: list[Worker] = []

    def start(code: str) -> Worker:
        text = SERVING.format(folder=str(ROOT / "benchmarks"), code=code)
        started.append(Worker([sys.executable, "-c", text]))
        return started[-1]

    yield start
    for one in started:
        one.stop()


COUNTING = """
def call():
    print("a library speaks")
    return [3.0, 2.0]
def build():
    print("and here")
    return {"first": 0.5}, Steps(2, call), 0.001
"""


def test_a_worker_answers_whatever_its_libraries_print(start: Any) -> None:
    one = start(COUNTING)
    assert one.ask({"do": "build"}, 60) == {"first": 0.5}
    answer = one.ask({"do": "slice", "seconds": 0.004}, 60)
    assert answer["steps"] == 2 * 4
    assert answer["seconds"] > 0


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("def build(): raise ValueError('wrong\\nand more')", WorkerError, "ValueError: wrong$"),
        ("def build(): raise Unavailable('no compiler')", Unavailable, "no compiler"),
        ("def build():\n    import os; os._exit(3)", WorkerError, "ended with exit code 3"),
        ("raise SystemExit('not even started')", WorkerError, "1: not even started"),
        ("import time\ndef build(): time.sleep(60)", WorkerError, "no answer in 0.5 s"),
    ],
)  # fmt: skip
def test_what_a_worker_says_or_dies_of_is_raised(
    start: Any, code: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        start(code).ask({"do": "build"}, 0.5 if "sleep" in code else 60)


def test_a_race_reports_those_that_fail_and_those_that_are_missing(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(races, "SLICE", 0.001)
    code = {
        "good": COUNTING,
        "slow": COUNTING.replace("return [3.0", "import time; time.sleep(0.01); return [3.0"),
        "missing": "def build(): raise Unavailable('not installed')",
        "failed": "def build(): raise AssertionError('the first loss is 1, and 2 is right')",
        "breaks": COUNTING.replace("print(", "1 / 0, print(", 1),
    }
    peer = Peer("a title", "module", ("one",))
    entries = [Entry(key, peer, "one", "2x2x2x1") for key in code]
    told: list[str] = []
    race(entries, seconds=0, tell=told.append, start=lambda entry, caches: start(code[entry.key]))
    by_key = {entry.key: entry for entry in entries}
    assert len(by_key["good"].times) == len(by_key["slow"].times) == 5
    assert by_key["missing"].missing == "not installed"
    assert by_key["failed"].failed.endswith("and 2 is right")
    assert by_key["breaks"].failed.startswith("ZeroDivisionError")
    assert not any(by_key[key].times for key in ("missing", "failed", "breaks"))
    assert "missing/one: not measured: not installed" in told


# --- from entries to tables


def entry(key: str, setting: str, times: Sequence[float], **more: Any) -> Entry:
    return Entry(key, PEERS[key], setting, "1", {"first": 1.5}, list(times), **more)


def found() -> list[Entry]:
    return [
        entry("native", "native", [1e-6, 2e-6, 3e-6]),
        entry("torch", "fused", [8e-6, 16e-6, 24e-6]),
        entry("torch", "foreach", [4e-6, 8e-6, 15e-6]),
        entry("compile", "model", [], missing="no C++ compiler"),
        entry("scan", "scan, tree", [], failed="KeyError: 'x'"),
    ]


def test_the_best_setting_counts_and_ratios_are_to_isograd() -> None:
    native, torch, compiled, scan = results(found(), ("native", "numpy"))
    assert native.ratio == Spread(1, 1, 1)
    assert torch.best is not None
    assert torch.best.setting == "foreach"
    assert torch.microseconds == Spread(8, 6, 11.5)
    assert torch.ratio == Spread(4, 4, 4.5)
    assert compiled.why == {"model": "not measured: no C++ compiler"}
    assert (compiled.best, compiled.failed) == (None, False)
    assert scan.failed


def test_without_the_native_backend_the_next_is_compared_with() -> None:
    entries = [entry("numpy", "numpy", [2e-6, 4e-6, 5e-6]), *found()[1:3]]
    assert results(entries, ("native", "numpy"))[1].ratio == Spread(2, 2, 2.5)
    assert results(found()[1:3], ("native", "numpy"))[0].ratio is None


def test_a_report_says_what_was_not_measured_and_why() -> None:
    ceiling = {"seconds": 1e-6, "peak": 1e11, "product": 9e10, "by": "dX, NumPy"}
    ceiling |= {"bandwidth": {"L1": 2e11}}
    text = table.report("1", results(found(), ("native",)), ceiling)
    assert "| isograd, native | native | 2.00 (1.50–2.50) | 1.00 (1.00–1.00) | 50 % |" in text
    assert "| PyTorch, torch.compile |  | not measured: no C++ compiler |" in text
    assert "KeyError: 'x'" in text
    assert "Ceiling not measured: no llvmlite." in table.report("1", [], "no llvmlite")


def test_telemetry_and_depth_make_ratios_of_the_same_rounds() -> None:
    (bare, measured), *_ = telemetry.pairs("10x64x32x1")
    assert bare.name != measured.name
    bare.times, measured.times = [1e-6, 2e-6], [3e-6, 6e-6]
    assert telemetry.line(bare, measured)[-1] == "3.00 (3.00–3.00)"
    measured.failed = "it broke"
    assert "it broke" in telemetry.line(bare, measured)
    shallow, deep = depth.entry("10"), depth.entry("100")
    shallow.times, deep.times = [1e-6, 2e-6], [20e-6, 40e-6]
    assert depth.per_layer([shallow, deep])[1][-1] == "2.00 (2.00–2.00)"


# --- what is timed


def test_rows() -> None:
    row = networks.row_of("1")
    assert row.sizes == (64, *[64] * 9, 10)
    assert networks.row_of("10x64x32x1").sizes == row.sizes
    assert networks.ROWS["6"].sizes == (4, 32, 16, 4)
    for wrong in ("7", "1x64x32x1", "3x8x4", "3x8x4x0", ""):
        with pytest.raises(ValueError, match="a row is one of"):
            networks.row_of(wrong)


def test_counts_by_hand() -> None:
    row = networks.chain(3, 8, 4, 1)  # 64-8-8-10
    assert row.parameters == 64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert row.flops == 2 * 4 * (2 * 64 * 8 + 3 * 8 * 8 + 3 * 8 * 10)


def test_the_ceiling_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "caches", lambda: {"L1": 1000, "L2": 100_000})
    row = networks.chain(3, 8, 4, 1)
    rates = ceiling.Ceiling(1.0, 100.0, "", {"L1": 10.0, "L2": 5.0, "memory": 1.0})
    rule = 28 * row.parameters / 5.0  # 16 bytes each of 682 parameters fit into L2
    activations = 20 * 4 * 16 / 10.0  # 3 · 4 · 8 floats fit into L1
    assert rates.seconds(row) == pytest.approx(row.flops / 100.0 + rule + activations)


def test_the_reference_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    for name in ("3x8x4x1", "6"):
        problem = networks.Problem(networks.row_of(name))
        x, y = map(torch.from_numpy, problem.batch(0))
        a = x.double()
        for i, (w, b) in enumerate(zip(problem.weights, problem.biases, strict=True)):
            a = torch.nn.functional.linear(a, torch.tensor(w).double(), torch.tensor(b).double())
            if i < len(problem.weights) - 1:
                a = torch.tanh(a) if name == "6" else torch.relu(a)
        loss = torch.nn.functional
        value = loss.mse_loss(a, y.double()) if name == "6" else loss.cross_entropy(a, y)
        assert problem.reference() == pytest.approx(float(value), rel=1e-12)


def test_batches_go_round() -> None:
    problem = networks.Problem(networks.row_of("3x8x4x1"))
    last, first = problem.batch(networks.BATCHES - 1), problem.batch(networks.BATCHES)
    assert np.array_equal(last[0], problem.inputs[-4:])
    assert np.array_equal(first[1], problem.targets[:4])


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        (2.001, 1.0, "reference"),
        (float("nan"), 1.0, "reference"),
        (2.0, 2.0, "warm-up"),
        (2.0, float("nan"), "warm-up"),
        (2.0, float("inf"), "warm-up"),
    ],
)
def test_another_computation_or_one_that_does_not_train_is_refused(
    first: float, later: float, message: str
) -> None:
    worker.check(2.0001, 1.0, 2.0)
    worker.check(2.0001, 3.0, 2.0, learns=False)
    with pytest.raises(AssertionError, match=message):
        worker.check(first, later, 2.0)


def test_time_ends_when_the_last_loss_is_there() -> None:
    waited: list[int] = []

    class Late:
        def __float__(self) -> float:
            waited.append(1)
            return 1.0

    seconds, losses = Steps(1, lambda: [Late()]).take(3)
    assert (len(waited), len(losses)) == (1, 1)
    assert seconds > 0


# --- whole


def test_a_tiny_race_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(races, "SLICE", 0.01)

    def left_out(row: str) -> dict[str, Any]:
        raise Unavailable("left out here")

    monkeypatch.setattr(table, "in_process", left_out)
    files = [tmp_path / "a.json", tmp_path / "a.md"]
    arguments = ["--rows", "3x8x4x1", "--peers", "numpy,products", "--seconds", "0"]
    assert table.main([*arguments, "--json", str(files[0]), "--markdown", str(files[1])]) == 0
    printed = capsys.readouterr().out
    assert "| isograd, NumPy | numpy |" in printed
    assert "× isograd, NumPy" in printed
    assert "Ceiling not measured: left out here." in printed
    assert files[1].read_text("utf-8").strip() in printed.replace("\n\n\n", "\n\n")
    answer = json.loads(files[0].read_text("utf-8"))
    own, products = answer["rows"]["3x8x4x1"]["results"]
    assert own["best"]["built"]["later_loss"] < own["best"]["built"]["first_loss"]
    assert len(products["best"]["times"]) == 5
    assert products["ratio"]["median"] == pytest.approx(
        np.median(np.divide(products["best"]["times"], own["best"]["times"]))
    )


@pytest.mark.parametrize(
    "arguments", [["--rows", "3x8"], ["--peers", "numpy,theano"]], ids=["row", "peer"]
)
def test_what_there_is_not_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        table.main(arguments)
    assert left.value.code == 2
    assert "there are" in (told := capsys.readouterr().err) or "a row is one of" in told


def test_every_peer_has_a_module() -> None:
    for peer in PEERS.values():
        source = (ROOT / f"benchmarks/peers/{peer.module}.py").read_text("utf-8")
        names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert "make" in names
