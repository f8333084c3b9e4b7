"""What `isograd check` prints and writes: text, a page that needs no network, JSON, exit codes."""

from __future__ import annotations

import builtins
import importlib.util
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from test_cli import Answer, Command, answer_of, command, refused

import isograd
from isograd.diagnosis.check import Check
from isograd.nn import Activation, Dense, Repeat
from isograd.nn.toml import loads
from isograd.report.chart import Series, chart, shown_layers
from isograd.report.check_html import exponents_figure, page, sizes_figure
from isograd.report.check_text import show_check

__all__ = ["command"]  # a fixture
ROOT = Path(__file__).parent.parent
SICK = """\
[data]
source = "iris"

[network]
layers = [
  { kind = "repeat", times = 9, layers = [
    { kind = "dense", units = 16 },
    { kind = "activation", name = "logistic" },
  ] },
  { kind = "dense", units = 3 },
]
"""
WELL = SICK.replace("logistic", "tanh")


@pytest.fixture(scope="module")
def sick() -> Check:
    return isograd.check(loads(SICK))


@pytest.fixture(scope="module")
def alone() -> Check:
    return isograd.check([Repeat(9, (Dense(16), Activation("logistic"))), Dense(3)])


def text_of(check: Check, width: int = 80) -> str:
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    show_check(console, check, title="isograd check deep.toml")
    return console.export_text()


# --- text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_fits_and_says_it_all(width: int, sick: Check) -> None:
    text = text_of(sick, width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for part in (
        "WILL NOT TRAIN: the signal is lost at layer",
        "must hold: it falls by 0.9 decades",
    ):
        assert part in flat
    assert {item.name for item in sick.items} <= {n for n in map(str, NAMES) if n in flat}


NAMES = (
    *("finite values", "inputs", "signal", "rounding", "error signal", "depth", "dead units"),
    *("saturated units", "gradients", "output", "initial loss", "learning rate", "theory"),
)


def test_the_gravest_stand_first(sick: Check) -> None:
    marks = [line[0] for line in text_of(sick).splitlines() if line[:1] in set("✘?!✔")]
    assert marks == sorted(marks, key="✘?!✔".index)
    assert marks[0] == "✘"


def test_without_data_the_text_says_what_was_assumed(alone: Check) -> None:
    text = text_of(alone)
    assert "no data" in text
    assert "assumed: 16 features" in text
    assert "Narrowest formats" not in text


def drawn(values: list[float], bars: list[tuple[float, float, float]]) -> list[str]:
    """The lines of a chart, without its frame."""
    table = chart(len(values) or len(bars), (Series("○", "", values, bars),), (), width=21)
    assert isinstance(table, Table)
    console = Console(width=80, color_system=None, record=True, file=io.StringIO())
    console.print(table)
    return [line.split()[-1] for line in console.export_text().splitlines()[1:]]


def test_measured_marks_lie_in_the_bars_of_theory() -> None:
    """A scale from −1 to +1 in 21 characters: a tenth of a decade each."""
    bars = [(-1.0, -0.5, 0.0), (0.0, 0.0, 0.0), (-0.2, 0.0, 0.3)]
    assert drawn([-0.5, 0.5, 0.0], bars) == [
        "├────○────┤··········",
        "··········│····○·····",
        "········├─○──┤·······",
    ]
    assert drawn([], bars)[0] == "├────○────┤··········"


def test_deep_charts_show_the_ends() -> None:
    assert shown_layers(3) == [1, 2, 3]
    shown = shown_layers(10_000)
    assert (shown[0], shown[-1], len(shown)) == (1, 10_000, 16)


# --- a page


class Loads(HTMLParser):
    """What a page would fetch, and the tags that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fetching = [v for name, v in attrs if name in ("src", "href", "data") and v]
        self.fetched += fetching
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        if tag == "link":
            self.fetched.append("link")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def loads_of(text: str) -> list[str]:
    parser = Loads()
    parser.feed(text)
    assert not parser.open
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    found = re.findall(r"@import|url\(", style[1]) if style else []
    return parser.fetched + found


def test_the_page_loads_nothing(sick: Check, alone: Check) -> None:
    pytest.importorskip("plotly")
    for check in (sick, alone):
        text = page(check, title="<deep> & 'steep'")
        assert not loads_of(text)
        assert "&lt;deep&gt; &amp; &#x27;steep&#x27;" in text
        assert "<deep>" not in text
        assert "WILL NOT TRAIN" in text
    assert page(sick, title="x").count('class="plotly-graph-div"') == 2


@pytest.mark.parametrize(
    "bad",
    [
        '<script src="https://cdn.plot.ly/plotly.js"></script>',
        '<link rel="stylesheet" href="style.css">',
        '<img src="x.png">',
        "<style>@import 'x.css'</style>",
    ],
)
def test_a_page_that_loads_something_is_caught(bad: str) -> None:
    assert loads_of(f"<html>{bad}</html>")


def test_sizes_beyond_float64_are_drawn_at_its_ends() -> None:
    wild = isograd.check(loads(WELL + "[network.init]\nkind = 'normal'\nstd = 1e10\n"))
    traces = [trace for trace in sizes_figure(wild).data if "draws" in trace.name]
    assert traces
    for trace in traces:
        assert 0 < min(trace.y) <= max(trace.y) < np.inf


def test_the_figures_hold_what_was_measured(sick: Check) -> None:
    pytest.importorskip("plotly")
    assert sick.measured is not None
    profile = sick.measured.profile
    traces = {trace.name: trace for trace in sizes_figure(sick).data}
    assert np.allclose(traces["signal, measured"].y, profile.signal)
    assert np.allclose(
        traces["error signal, measured"].y, np.array(profile.delta) / profile.delta[-1]
    )
    middle = [10.0**layer.signal.decades for layer in sick.expected.layers]
    assert np.allclose(traces["signal, theory"].y, middle)
    for heat in exponents_figure(sick).data:
        shares = 10.0 ** np.nan_to_num(heat.z, nan=-np.inf)
        assert np.allclose(shares.sum(axis=1), 1.0)


# --- the command


def test_the_example_will_not_train(command: Command) -> None:
    """As promised: the verdict, and the layer at which the signal is lost."""
    answer = command("check", ROOT / "examples/deep_sigmoid.toml")
    assert answer.code == 1
    assert "WILL NOT TRAIN: the signal is lost at layer 5" in answer.words


def test_answers_and_exit_codes(command: Command) -> None:
    for name, text, code, verdict in (
        ("sick", SICK, 1, "will not"),
        ("well", WELL, 0, "will train"),
        (
            "depth",
            SICK.replace("times = 9", "times = 3") + '[optimiser]\nkind = "adam"',
            0,
            "unknown",
        ),
    ):
        Path(f"{name}.toml").write_text(text, encoding="utf-8")
        answer = command("check", f"{name}.toml", "--json")
        assert answer.code == code
        content = answer_of(answer, "check")
        assert content["verdict"] == verdict
        assert content["html"] is None
    seeded = answer_of(command("check", "well.toml", "--json", "--seed", "3"), "check")
    plain = answer_of(command("check", "well.toml", "--json"), "check")
    assert seeded["measured"]["loss"] != plain["measured"]["loss"]


def test_a_page_is_written_and_nothing_over_it(command: Command) -> None:
    pytest.importorskip("plotly")
    Path("well.toml").write_text(WELL, encoding="utf-8")
    answer = command("check", "well.toml", "--html", "page.html")
    assert answer.code == 0
    assert "page.html" in answer.out
    assert Path("page.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    refused(command("check", "well.toml", "--html", "page.html"), "written over", "page.html")
    refused(command("check", "well.toml", "--html", "none/page.html"), "none/page.html")


def test_without_plotly_the_page_is_refused_and_the_text_is_not(
    command: Command, monkeypatch: Any
) -> None:
    Path("well.toml").write_text(WELL, encoding="utf-8")
    find, real = importlib.util.find_spec, builtins.__import__
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "plotly" else find(name, *a)
    )

    def without(name: str, *rest: Any, **more: Any) -> Any:
        assert not name.startswith("plotly")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(
        command("check", "well.toml", "--html", "page.html"),
        "plotly",
        "pip install isograd[figures]",
    )
    assert not Path("page.html").exists()
    assert command("check", "well.toml").code == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (WELL.replace("tanh", "tanhh"), ("tanhh", "tanh")),
        (WELL.replace("iris", "no.csv"), ("no.csv",)),
        (WELL.replace("units = 3", "units = 4"), ("3 units", "4 units")),
        (WELL + "[training]\nbatch_size = 4000", ("batch_size = 4000",)),
    ],
)
def test_what_cannot_be_used_is_refused(
    text: str, parts: tuple[str, ...], command: Command
) -> None:
    Path("bad.toml").write_text(text, encoding="utf-8")
    refused(command("check", "bad.toml"), *parts)


def test_an_interrupt_ends_it_quietly(command: Command, monkeypatch: Any) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    Path("well.toml").write_text(WELL, encoding="utf-8")
    monkeypatch.setattr("isograd.diagnosis.check.first_step", stop)
    answer = command("check", "well.toml")
    assert isinstance(answer, Answer)
    assert (answer.code, answer.out) == (130, "")


def test_json_has_no_numbers_that_are_none(command: Command) -> None:
    """NaN and infinities are null."""
    Path("sick.toml").write_text(SICK, encoding="utf-8")
    text = command("check", "sick.toml", "--json").out
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
