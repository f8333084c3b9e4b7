"""A map told: curves against theory's reference facts, tables that read back, figures as drawn."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import ROOT
from msgspec.structs import replace
from rich.console import Console
from theory_table import FACTS, facts

from isograd.nn import (
    LSUV,
    SGD,
    Activation,
    Critical,
    Data,
    Dense,
    He,
    LayerNorm,
    Network,
    Repeat,
    Spec,
    VarianceScaling,
)
from isograd.report import json as as_json
from isograd.report.phase import Curves, curves, show_map, to_csv, to_json
from isograd.report.phase_figures import (
    drawing,
    edges,
    figure,
    page,
    png,
    positions,
    write_figures,
)
from isograd.training.axes import Axis, axis
from isograd.training.cells import Cell
from isograd.training.scores import Score
from isograd.training.sweep import Map, plan

NONE = Score(math.nan, math.nan)


def spec_of(*block: Any, init: Any = None) -> Spec:
    layers = block or (Dense(32), Activation("tanh"))
    init = init or VarianceScaling(1.5, 0.05)
    return Spec(Data("digits"), Network([Repeat(3, layers), Dense(10)], init=init), SGD(0.1))


def made(x: Any, y: Any, spec: Spec | None = None, **others: Cell) -> Map:
    """A map of cells that were never trained, each of an accuracy of its own."""
    chosen = plan(spec or spec_of(), x, y)
    cells = {}
    for i, j in chosen.specs:
        accuracy = ((7 * i + 3 * j) % 19) / 19
        score, test = Score(2.0 - accuracy / 3, accuracy), Score(2.5 - accuracy, accuracy / 2)
        cells[i, j] = Cell(i, j, "finished", score, test, steps=200, seconds=0.1 + i / 3)
    for place, cell in others.items():
        i, j = (int(digit) for digit in place[1:].split("_"))
        cells[i, j] = replace(cell, column=i, row=j)
    return Map(chosen, cells, "accuracy")


DIVERGED = Cell(0, 0, "diverged", Score(math.inf, 0.1), NONE, steps=7, skipped=5)
REFUSED = Cell(0, 0, "refused", NONE, NONE, reason='no <b>"critical"</b>, point\n  came:  x')
SMALL = made("sigma_w2=1,1.2,2", "depth=4,8,30", _2_0=DIVERGED, _0_2=REFUSED)


# --- curves


@pytest.mark.parametrize("fact", [f for f in facts("B3.tanh") if "0.05" in str(f.values)])
def test_the_curves_are_those_of_theory(fact: dict[str, Any]) -> None:
    """Schoenholz et al. 2017: ξ_c and 6 ξ_c at a column, whichever setting names σ_w."""
    sigma_w2 = fact["inputs"]["sigma_w2"]
    sigma_b2, want = fact["inputs"]["sigma_b2"], fact["expected"]
    spec = spec_of(init=VarianceScaling(1.0, sigma_b2))
    for name, value in (("sigma_w2", sigma_w2), ("sigma_w", math.sqrt(sigma_w2))):
        got = curves(plan(spec, Axis(name, (value, 2 * value)), "depth=4,8"))
        assert isinstance(got, Curves)
        assert got.at[0] == value
        assert got.at[-1] == 2 * value
        assert got.sigma_w2[0] == pytest.approx(sigma_w2, rel=1e-12)
        assert got.xi_c[0] == pytest.approx(want["xi_c"], rel=1e-6)
        assert got.trainable[0] == pytest.approx(want["six_xi_c"], rel=1e-6)
        assert set(got.sigma_b2) == {sigma_b2}
        assert (np.diff(got.at) > 0).all()


@pytest.mark.parametrize("sigma_b2", ["0.001", "0.05", "0.2"])
def test_where_the_map_is_critical(sigma_b2: str) -> None:
    """χ₁ = 1 against the reference points, on either axis and on a logarithmic one."""
    want = FACTS[f"B1.tanh.sb2={sigma_b2}"]["expected"]
    spec = spec_of(init=VarianceScaling(1.0, float(sigma_b2)))
    chosen = curves(plan(spec, "sigma_w2=0.5:4:4", "depth=4,8"))
    other = curves(plan(spec, "depth=4,8", "sigma_w=0.5:4:3:log"))
    assert isinstance(chosen, Curves)
    assert isinstance(other, Curves)
    assert (chosen.along, other.along) == ("x", "y")
    assert chosen.critical == pytest.approx([want["sigma_w2"]], abs=1e-6)
    assert other.critical == pytest.approx([want["sigma_w"]], abs=1e-6)


def test_relu_is_critical_at_two() -> None:
    spec = spec_of(Dense(32), Activation("relu"), init=VarianceScaling(1.0, 0.0))
    got = curves(plan(spec, "sigma_w2=1,2,3", "depth=4,8"))
    assert isinstance(got, Curves)
    assert got.critical == (2.0,)
    assert got.xi_c[0] == pytest.approx(1 / math.log(2)), "χ₁ = σ_w²/2"


def test_the_axis_of_biases_has_curves_too() -> None:
    got = curves(
        plan(spec_of(init=VarianceScaling(1.760954639606739)), "sigma_b2=0.01,0.09", "depth=4")
    )
    assert isinstance(got, Curves)
    assert got.critical == pytest.approx([0.05], abs=1e-6)


def test_a_key_of_the_initialiser_is_as_good() -> None:
    got = curves(plan(spec_of(init=He(gain=1.0)), "network.init.gain=1,2", "depth=4"))
    assert isinstance(got, Curves)
    assert got.sigma_w2[[0, -1]] == pytest.approx([1.0, 4.0])


BLOCK = "mean field is that of blocks of one dense layer and one activation"


@pytest.mark.parametrize(
    ("spec", "x", "y", "why"),
    [
        (spec_of(), "sigma_w=1,2", "optimiser.lr=0.1,0.2", "no axis is depth"),
        (spec_of(), "optimiser.lr=0.1,0.2", "depth=4", "optimiser.lr does not change"),
        (spec_of(), "optimiser.lr=0.1", "depth=4", "optimiser.lr does not change"),
        (spec_of(Dense(8), LayerNorm(), Activation("tanh")), "sigma_w=1,2", "depth=4", BLOCK),
        (spec_of(Dense(8)), "sigma_w=1,2", "depth=4", BLOCK),
        (spec_of(), "network.layers.0.layers.1.name=tanh,relu", "depth=4", "is no number"),
        (spec_of(init=LSUV()), "network.init.gain=1,2", "depth=4", "no variances that theory"),
        (
            spec_of(Dense(8), Activation("softplus"), init=Critical()),
            "network.init.gain=1,2",
            "depth=4",
            "no critical initialisation",
        ),
    ],
)
def test_why_there_are_no_curves(spec: Spec, x: str, y: str, why: str) -> None:
    got = curves(plan(spec, x, y))
    assert isinstance(got, str)
    assert why in got


# --- the table


def test_the_table_reads_back_to_the_bit() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(SMALL))))
    assert [(float(row["sigma_w2"]), int(row["depth"])) for row in rows] == [
        (x, y) for x in (1, 1.2, 2) for y in (4, 8, 30)
    ]
    for row, (_, cell) in zip(rows, sorted(SMALL.cells.items()), strict=True):
        read = [float(row[f"{p}_{s}"]) for p in ("train", "test") for s in ("loss", "accuracy")]
        want = [cell.train.loss, cell.train.accuracy, cell.test.loss, cell.test.accuracy]
        assert np.array_equal(read, want, equal_nan=True)
        assert (row["stopped"], row["reason"]) == (cell.stopped, cell.reason)
        assert (int(row["steps"]), int(row["skipped"])) == (cell.steps, cell.skipped)
        assert float(row["seconds"]) == cell.seconds


def test_the_table_of_a_regression_says_r2() -> None:
    regression = Map(SMALL.plan, SMALL.cells, "R²")
    assert to_csv(regression).startswith("sigma_w2,depth,train_r2,train_loss,test_r2,test_loss,")


# --- as text


def shown(result: Map, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    show_map(console, result, curves(result.plan))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_heat_map_in_the_terminal() -> None:
    lines = shown(SMALL)
    # accuracies: column i, row j: (7i + 3j mod 19)/19; the deepest row first
    assert lines[1:4] == [
        "        30 │––––––▓▓▓▓▓▓      │",
        "         8 │      ▒▒▒▒▒▒██████│",
        "         4 │      ░░░░░░××××××│",
    ]
    text = "\n".join(lines)
    for part in ("1     1.2   2", "6 ξ_c  22    36    151", "× diverged", "– refused (no <b>"):
        assert part in text
    assert "critical (χ₁ = 1) at sigma_w2 = 1.76095" in text
    assert "blank: below 20 %, ░ from 20 %, ▒ from 40 %, ▓ from 60 %, █ from 80 %" in text


def test_a_cell_that_ends_without_a_number_is_in_the_legend() -> None:
    """Its steps were skipped one by one, too few in turn to count as diverged."""
    lost = Cell(0, 0, "finished", NONE, NONE, steps=10, skipped=4)
    cells = {place: lost for place in SMALL.cells}
    text = "\n".join(shown(Map(SMALL.plan, cells, "accuracy")))
    assert "××" in text
    assert "× diverged, or not finite" in text


@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_wide_map_is_thinned_to_the_width(width: int) -> None:
    lines = shown(made("optimiser.lr=0.1:1:100", "depth=2:101:100"), width)
    rows = [line for line in lines if "│" in line]
    assert len(rows) == 40
    assert rows[0].startswith("       101 │")
    assert rows[-1].startswith("         2 │")
    assert max(map(len, rows)) <= width


def test_cells_that_are_not_there_yet() -> None:
    part = Map(SMALL.plan, {(0, 0): SMALL.cells[0, 0]}, "accuracy", interrupted=True)
    lines = shown(part)
    assert "1 of 9 cells" in lines[0]
    assert lines[1] == "        30 │??????????????????│"
    assert len(to_csv(part).splitlines()) == 2


# --- the figures


def test_the_page_s_traces_are_the_results_and_the_theory() -> None:
    pytest.importorskip("plotly")
    theory = curves(SMALL.plan)
    assert isinstance(theory, Curves)
    drawn = figure(SMALL, theory)
    by_name: dict[str, Any] = {trace.name: trace for trace in drawn.data if trace.name}
    cells = by_name["cells"]
    for (i, j), cell in SMALL.cells.items():
        assert np.array_equal(cells.z[j][i], cell.train.accuracy, equal_nan=True)
        assert f"sigma_w2 = {SMALL.plan.x.values[i]:g}<br>depth = " in cells.customdata[j][i]
    assert "no &lt;b&gt;" in cells.customdata[2][0], "what came from outside is no markup"
    assert (len(cells.x), len(cells.y)) == (4, 4)
    for name, values in (("ξ<sub>c</sub>", theory.xi_c), ("6 ξ<sub>c</sub>", theory.trainable)):
        seen = np.isfinite(np.array(by_name[name].y, float))
        assert seen.any()
        assert np.array_equal(np.array(by_name[name].x), theory.at)
        assert np.array_equal(np.array(by_name[name].y, float)[seen], values[seen])
        assert (values[~seen] > 30).all(), "only what lies beyond the figure is left out"
    (critical,) = [trace for name, trace in by_name.items() if name.startswith("χ₁")]
    assert list(critical.x) == [theory.critical[0]] * 2
    assert (list(by_name["diverged"].x), list(by_name["diverged"].y)) == ([2.0], [4.0])
    assert (list(by_name["refused"].x), list(by_name["refused"].y)) == ([1.0], [30.0])
    assert not {"ξ<sub>c</sub>", "diverged"} & {
        t.name for t in figure(made("optimiser.lr=0.1,0.2", "depth=4,8"), "none").data
    }


def test_the_png_is_drawn_from_the_same() -> None:
    pytest.importorskip("matplotlib")
    theory = curves(SMALL.plan)
    assert isinstance(theory, Curves)
    axes = drawing(SMALL, theory).axes[0]
    mesh = axes.collections[0]
    assert np.array_equal(mesh.get_array().filled(np.nan), SMALL.accuracy, equal_nan=True)
    by_name = {line.get_label(): line for line in axes.lines}
    assert np.array_equal(by_name[r"$ξ_c$"].get_xdata(), theory.at)
    seen = np.isfinite(by_name[r"6 $ξ_c$"].get_ydata())
    assert np.array_equal(by_name[r"6 $ξ_c$"].get_ydata()[seen], theory.trainable[seen])
    assert axes.get_xlim() == tuple(edges(SMALL.plan.x)[[0, -1]])
    assert png(SMALL, theory).startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("text", "where", "want"),
    [
        ("optimiser.lr=1,2,4", [1, 2, 4], [0.5, 1.5, 3, 5]),
        ("optimiser.lr=1:100:3:log", [1, 10, 100], [10**-0.5, 10**0.5, 10**1.5, 10**2.5]),
        ("network.layers.0.layers.1.name=tanh,relu", [0, 1], [-0.5, 0.5, 1.5]),
        ("depth=7", [7], [6.5, 7.5]),
    ],
)
def test_borders_of_cells_lie_half_way(text: str, where: list[float], want: list[float]) -> None:
    assert positions(axis(text)) == pytest.approx(where)
    assert edges(axis(text)) == pytest.approx(want)


def test_every_kind_of_axis_is_drawn() -> None:
    name = "network.layers.0.layers.1.name=tanh,relu,gelu"
    result = made(name, "optimiser.lr=1e-3:1:4:log")
    plotly, matplotlib = pytest.importorskip("plotly"), pytest.importorskip("matplotlib")
    assert plotly
    assert matplotlib
    drawn = figure(result, "none")
    assert list(drawn.layout.xaxis.ticktext) == ["tanh", "relu", "gelu"]
    assert drawn.layout.yaxis.type == "log"
    axes = drawing(result, "none").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["tanh", "relu", "gelu"]
    assert axes.get_yscale() == "log"


def test_the_page_opens_without_a_network() -> None:
    pytest.importorskip("plotly")
    from test_examples import Loaded

    text = page(SMALL, "none").decode()
    assert Loaded(text).addresses == []
    assert "Training accuracy after 200 steps" in text


@pytest.mark.parametrize("library", ["plotly", "matplotlib"])
def test_a_library_that_is_missing_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    for module in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    files, advice = write_figures(tmp_path, SMALL, "none")
    suffix = {"plotly": "html", "matplotlib": "png"}[library]
    assert {f.name for f in files} == {"map.csv", "map.html", "map.png"} - {f"map.{suffix}"}
    assert advice == f"map.{suffix} needs {library}: pip install isograd[figures]"
    assert (tmp_path / "map.csv").read_text() == to_csv(SMALL)


# --- for programs


def test_json_holds_every_cell() -> None:
    import json

    theory = curves(SMALL.plan)
    answer = json.loads(as_json.dumps("map", to_json(SMALL, theory)))
    assert [(cell["x"], cell["y"]) for cell in answer["cells"]] == [
        (x, y) for x in (1, 1.2, 2) for y in (4, 8, 30)
    ]
    assert answer["cells"][6]["stopped"] == "diverged"
    assert answer["cells"][6]["train"] == {"loss": None, "accuracy": 0.1}
    assert answer["curves"]["critical"] == pytest.approx([1.7609546], abs=1e-6)
    assert len(answer["curves"]["at"]) == len(answer["curves"]["xi_c"])
    assert answer["no_curves"] is None
    assert json.loads(as_json.dumps("map", to_json(SMALL, "no axis is depth")))["curves"] is None


# --- the experiment that the curves were made for


@pytest.mark.parametrize(
    ("accuracy", "want"),
    [
        ([0.9, 0.9, 0.5, 0.1], 20.0),  # half of 0.9 and 0.1 is 0.5: met at 20
        ([0.7, 0.9, 0.9, 0.1], 25.0),  # between 20 and 30
        ([0.3, 0.9, 0.7, 0.1], 20 + 10 / 3),  # the dip before the best does not count
        ([0.9, 0.9, 0.9, 0.8], math.inf),
    ],
)
def test_the_depth_at_half_the_accuracy(accuracy: list[float], want: float) -> None:
    path = ROOT / "experiments/trainable_depth.py"
    spec = importlib.util.spec_from_file_location("trainable_depth", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.half_depth((5, 10, 20, 30), accuracy) == pytest.approx(want)
