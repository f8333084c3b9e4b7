"""The examples: specs load, and the approximation says truly what it has reached."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from documents import ROOT

import isograd

pytest.importorskip("plotly")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


UA: Any = script("universal_approximation")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_every_spec_loads(path: Path) -> None:
    assert isinstance(isograd.load_spec(path), isograd.nn.spec.Spec)


# --- universal approximation: the fits


def fit(units: int, name: str = "kink", activation: str = "tanh", steps: int = 200) -> Any:
    spec = UA.spec_for(units, activation=activation, seed=0, steps=steps)
    return UA.train(UA.FUNCTIONS[name][1], spec)


def stub(units: int, error: float) -> Any:
    return UA.Fit(units, 3 * units + 1, error**2, error, 0.1, np.full_like(UA.GRID, error))


def test_blancmange_against_the_sum_by_hand() -> None:
    def saw(t: float) -> float:
        return min(t % 1.0, 1.0 - t % 1.0)

    x = [0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0]
    by_hand = [sum(saw(2**k * t) / 2**k for k in range(8)) for t in x]
    np.testing.assert_allclose(UA.blancmange(np.array(x)), by_hand, rtol=0, atol=1e-14)
    # Takagi's curve is 2/3 at 1/3; eight terms leave out Σ_{k ≥ 8} (1/3)/2ᵏ = (2/3)/2⁸.
    assert UA.blancmange(np.array([1 / 3]))[0] == pytest.approx(2 / 3 * (1 - 2**-8), abs=1e-12)


def test_the_grid_is_finer_than_the_training_points_and_has_the_ends() -> None:
    assert np.diff(UA.GRID).max() < np.diff(UA.TRAINING_POINTS).max() / 16
    for points in (UA.GRID, UA.TRAINING_POINTS):
        assert (points[0], points[-1]) == (0.0, 1.0)
        assert (np.diff(points) > 0).all()


def test_the_network_is_one_hidden_layer_and_the_error_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """f̂ written out in NumPy from the parameters, on the grid."""
    outcomes = []

    def spy(*args: Any, **settings: Any) -> Any:
        outcomes.append(real(*args, **settings))
        return outcomes[-1]

    real = isograd.fit
    monkeypatch.setattr(isograd, "fit", spy)
    found = fit(5, "waves")
    (w, v, c) = (outcomes[0].params[name] for name in ("W/1", "W/2", "b/2"))
    x = np.linspace(0.0, 1.0, len(UA.GRID))
    hidden = np.tanh(np.outer(2 * x - 1, w[:, 0]) + w[:, 1])
    by_hand = hidden @ v[0] + c
    f = 0.6 * np.sin(2 * np.pi * x) + 0.4 * np.cos(6 * np.pi * x)
    np.testing.assert_allclose(found.values, by_hand, rtol=0, atol=1e-10)
    assert found.error == pytest.approx(np.abs(by_hand - f).max(), abs=1e-10)
    assert found.parameters == w.size + v.size + c.size == 3 * 5 + 1
    assert found.units == 5


def test_a_polynomial_activation_does_not_approximate() -> None:
    """A sum of lines is a line, and no line is nearer than ¼ to |x − ½| (Chebyshev)."""
    fits = list(UA.approximate(lambda m: fit(m, activation="identity"), epsilon=0.24, max_units=8))
    assert [one.units for one in fits] == [2, 4, 8]
    assert all(one.error >= 0.25 - 1e-12 for one in fits)


@pytest.mark.parametrize(
    ("errors", "max_units", "tried"),
    [
        ((0.5, 0.1, 0.01, 0.001), 512, [2, 4]),  # ε itself is met
        ((0.5, 0.2, 0.3, 0.05), 512, [2, 4, 8, 16]),
        ((0.5, 0.4, 0.3, 0.01), 15, [2, 4, 8]),
        ((np.nan, np.nan, 0.1), 8, [2, 4, 8]),
    ],
)
def test_when_it_stops(errors: tuple[float, ...], max_units: int, tried: list[int]) -> None:
    left = iter(errors)
    fits = UA.approximate(lambda m: stub(m, next(left)), epsilon=0.1, max_units=max_units)
    assert [one.units for one in fits] == tried


def test_the_slope_of_a_power_law() -> None:
    rate, intercept = UA.slope([stub(m, 3.0 * m**-1.5) for m in (2, 4, 8, 16)])
    assert rate == pytest.approx(-1.5)
    assert np.exp(intercept) == pytest.approx(3.0)
    assert np.isnan(UA.slope([stub(2, 1.0)])).all()


# --- universal approximation: the command


class Loaded(HTMLParser):
    """Whatever a page loads: sources, styles and links, with the address of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        keys = ("src", "href", "srcset", "data")
        self.addresses += [str(value) for key, value in attrs if key in keys]


def test_what_is_not_met_is_said_and_the_page_loads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "picture.html"
    options = ["--function", "kink", "--activation", "identity", "--epsilon", "0.2"]
    assert UA.main([*options, "--max-units", "4", "--steps", "20", "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "ε = 0.2 is not met with m ≤ 4" in printed
    rows = [line.split() for line in printed.splitlines() if re.match(r" +\d", line)]
    assert [row[:2] for row in rows] == [["2", "7"], ["4", "13"]]
    text = out.read_text("utf-8")
    assert Loaded(text).addresses == []
    assert "does not meet" in text


def test_what_is_met_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "picture.html"
    options = ["--function", "kink", "--epsilon", "0.6", "--steps", "100", "--out", str(out)]
    assert UA.main(options) == 0
    assert "ε = 0.6 is met with m = 2." in capsys.readouterr().out


def test_a_page_that_loads_something_is_seen() -> None:
    assert Loaded('<script src="https://a.b/c.js"></script>').addresses == ["https://a.b/c.js"]
    assert Loaded('<script>x = "<img src=1>"</script><p>').addresses == []


def test_an_interrupt_keeps_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second training, which `isograd.fit` turns into an outcome."""
    calls, real = [], isograd.fit

    def fit_and_stop(*args: Any, **settings: Any) -> Any:
        calls.append(1)
        outcome = real(*args, **settings)
        return dataclasses.replace(outcome, stopped="interrupted") if len(calls) > 1 else outcome

    monkeypatch.setattr(isograd, "fit", fit_and_stop)
    out = tmp_path / "picture.html"
    assert UA.main(["--steps", "5", "--out", str(out)]) == 130
    printed = capsys.readouterr().out
    assert "not met with m ≤ 2" in printed
    assert out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epsilon", "0"], "--epsilon must be a finite number above 0"),
        (["--epsilon", "nan"], "--epsilon must be a finite number above 0"),
        (["--max-units", "1"], "--max-units must be at least 2"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--function", "sine"], "invalid choice: 'sine'"),
        (["--activation", "thanh"], "did you mean 'tanh'?"),
        (["--activation", "softmax"], "softmax mixes them"),
        (["--out", "nowhere/picture.html"], "--out must lie in a folder that exists"),
    ],
)
def test_options_that_cannot_be_used(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        UA.main(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_default_run_meets_epsilon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert UA.main(["--out", str(tmp_path / "picture.html")]) == 0
    assert "ε = 0.02 is met with m = " in capsys.readouterr().out
