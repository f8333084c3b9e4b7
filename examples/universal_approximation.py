"""The universal approximation theorem at work: one hidden layer, more and more units.

Any continuous f on [0, 1] is met within any ε > 0, in the supremum norm, by some

    f̂(x) = c + Σⱼ vⱼ φ(wⱼ x + bⱼ),  j = 1 … m,

if φ is no polynomial (Cybenko 1989; Hornik 1991; Leshno et al. 1993). The theorem says that such
weights exist, not that training finds them. This script trains networks of m = 2, 4, 8, … hidden
units until max |f − f̂| ≤ ε on a grid 32 times finer than the training points, and draws them.

    python examples/universal_approximation.py --function kink --epsilon 0.01

Exit codes: 0 ε is met, 1 it is not met, 2 unusable options, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import isograd
from isograd.nn import (
    Activation,
    Adam,
    Data,
    Dense,
    MeanSquaredError,
    Measure,
    Network,
    Normal,
    OneCycle,
    Spec,
    Training,
)

Array = NDArray[np.float64]


def blancmange(x: Array) -> Array:
    """Eight terms of Takagi's curve, Σₖ s(2ᵏx)/2ᵏ with s the distance to the nearest integer."""
    return np.sum([abs(2**k * x - np.round(2**k * x)) / 2**k for k in range(8)], axis=0)


FUNCTIONS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "waves": (
        "0.6 sin 2πx + 0.4 cos 6πx",
        lambda x: 0.6 * np.sin(2 * np.pi * x) + 0.4 * np.cos(6 * np.pi * x),
    ),
    "kink": ("|x − ½|", lambda x: abs(x - 0.5)),
    "chirp": ("sin 2π(x + 2x²)", lambda x: np.sin(2 * np.pi * (x + 2 * x * x))),
    "root": ("√x", np.sqrt),
    "blancmange": ("blancmange curve, eight terms", blancmange),
}
POINTS = 257
# Chebyshev points: training points that lie denser at the ends, where errors are largest.
TRAINING_POINTS: Array = 0.5 - 0.5 * np.cos(np.pi * np.linspace(0.0, 1.0, POINTS))
GRID: Array = np.linspace(0.0, 1.0, 32 * (POINTS - 1) + 1)
STEPS = 3000


@dataclasses.dataclass(frozen=True)
class Fit:
    """A network of `units` hidden units: its values on GRID, and max |f − f̂| there."""

    units: int
    parameters: int
    loss: float
    error: float
    seconds: float
    values: Array


def inputs(x: Array) -> Array:
    """(2x − 1, 1): with the constant beside it, slope and threshold are drawn from one law."""
    return np.stack([2.0 * x - 1.0, np.ones_like(x)], axis=1)


def spec_for(units: int, *, activation: str, seed: int, steps: int = STEPS) -> Spec:
    """One hidden layer of `units` units, trained on all points at every step.

    The kink of a unit lies where w·(2x − 1) + b = 0. With w and b normal of the same variance that
    is all over the interval, and denser in the middle; half of the units have it inside. A unit's
    share of the interval shrinks with m, so their slopes start in proportion to it.
    """
    return Spec(
        Data("arrays", standardise=False),
        Network(
            [
                Dense(units, bias=False, init=Normal(4.0 + units / 8.0)),
                Activation(activation),
                Dense(1),
            ],
            loss=MeanSquaredError(),
        ),
        Adam(0.03, beta2=0.99),
        Training(epochs=steps, batch_size=POINTS, schedule=[OneCycle(up=0.1)]),
        Measure(every=0, first=0),
        seed=seed,
        dtype="float64",
    )


def train(
    f: Callable[[Array], Array], spec: Spec, progress: Callable[[Any], None] | None = None
) -> Fit:
    """Train a network on f at the training points, and measure it on the grid.

    Raises:
        KeyboardInterrupt: if the training was interrupted.
    """
    began = time.perf_counter()
    y, y_grid = f(TRAINING_POINTS)[:, None], f(GRID)[:, None]
    split = isograd.from_arrays(
        inputs(TRAINING_POINTS), y, spec.data, loss_kind=spec.network.loss, dtype=spec.dtype
    )
    # No training point is held out: the grid is the test.
    split = dataclasses.replace(
        split, X_train=inputs(TRAINING_POINTS), y_train=y, X_test=inputs(GRID), y_test=y_grid
    )
    outcome = isograd.fit(spec, split, progress=progress)
    if outcome.stopped == "interrupted":
        raise KeyboardInterrupt
    values = isograd.predict(outcome.model, outcome.params, split.X_test)
    return Fit(
        units=outcome.model.weights[0].n_out,
        parameters=outcome.model.parameter_count,
        loss=outcome.train.loss,
        error=float(np.max(np.abs(values - y_grid))),
        seconds=time.perf_counter() - began,
        values=values[:, 0],
    )


def approximate(fit: Callable[[int], Fit], *, epsilon: float, max_units: int) -> Iterator[Fit]:
    """Fits of 2, 4, 8, … units, up to the first whose error is at most ε, or to max_units."""
    units = 2
    while units <= max_units:
        result = fit(units)
        yield result
        if result.error <= epsilon:
            return
        units *= 2


def slope(fits: Sequence[Fit]) -> tuple[float, float]:
    """Slope and intercept of log error over log m, by least squares; NaN of fewer than two fits."""
    if len(fits) < 2:
        return math.nan, math.nan
    rate, intercept = np.polyfit(
        np.log([fit.units for fit in fits]), np.log([fit.error for fit in fits]), 1
    )
    return float(rate), float(intercept)


# --- the picture

INK, GREY, RED = "#1b1f24", "#6b7280", "#b5123e"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
SHOWN = 4  # fits that are drawn at first; a click on the legend draws the others


def figure(name: str, fits: Sequence[Fit], *, epsilon: float, activation: str) -> Any:
    """f and the fits, the error of the last one, and the errors over m, as a plotly figure."""
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    text, f = FUNCTIONS[name]
    last, (rate, intercept) = fits[-1], slope(fits)
    plot = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {"rowspan": 2}], [{}, None]],
        column_widths=[0.6, 0.4],
        row_heights=[0.72, 0.28],
        horizontal_spacing=0.09,
        vertical_spacing=0.13,
        subplot_titles=(
            f"f and the networks of m units: {text}",
            "largest error over the number of units",
            f"error of the last one, m = {last.units}: max |f − f̂| = {last.error:.3g}",
        ),
    )
    x, left = GRID[::8], {"row": 1, "col": 1}
    below, right = {"row": 2, "col": 1}, {"row": 1, "col": 2}
    line = {"color": "#c9ced6", "width": 6}
    plot.add_scatter(x=x, y=f(x), name="f", mode="lines", line=line, **left)
    # Viridis without its yellow end: it reads on white, in grey and for the colour-blind.
    places = np.linspace(0.82, 0.0, len(fits))
    colours = sample_colorscale("Viridis", places.tolist())
    shown = np.linspace(0, len(fits) - 1, SHOWN).round()
    for i, (fit, colour) in enumerate(zip(fits, colours, strict=True)):
        plot.add_scatter(
            x=x,
            y=fit.values[::8],
            name=f"m = {fit.units}",
            mode="lines",
            line={"color": colour, "width": 2.6 if fit is last else 1.7},
            visible=True if i in shown else "legendonly",
            **left,
        )
    errors = last.values - f(GRID)
    style = {"mode": "lines", "line": {"color": colours[-1], "width": 1.2}, "showlegend": False}
    plot.add_scatter(x=GRID[::2], y=errors[::2], name="f̂ − f", **style, **below)
    plot.add_hrect(-epsilon, epsilon, line_width=0, fillcolor=RED, opacity=0.08, **below)
    for height in (-epsilon, epsilon):
        plot.add_hline(height, line={"color": RED, "width": 1, "dash": "dash"}, **below)
    units = [fit.units for fit in fits]
    if len(fits) > 1:
        trend = [math.exp(intercept) * m**rate for m in units]
        line = {"color": GREY, "width": 1.5, "dash": "dot"}
        style = {"mode": "lines", "line": line, "showlegend": False, "hoverinfo": "skip"}
        plot.add_scatter(x=units, y=trend, **style, **right)
        note = {"text": f"slope {rate:.2f}".replace("-", "−"), "showarrow": False}
        font = {"color": GREY, "size": 15}
        at = {
            "x": math.log10(units[0]),
            "y": math.log10(trend[0]),
            "xshift": 28,
            "yshift": 8,
            "xanchor": "left",
        }
        plot.add_annotation(**note, **at, font=font, **right)
    plot.add_scatter(
        x=units,
        y=[fit.error for fit in fits],
        name="max |f − f̂|",
        mode="lines+markers",
        line={"color": INK, "width": 1.5},
        marker={"color": colours, "size": 12, "line": {"color": "white", "width": 1.5}},
        showlegend=False,
        **right,
    )
    plot.add_hline(epsilon, line={"color": RED, "width": 1.5, "dash": "dash"}, **right)
    note = {"text": f"ε = {epsilon:g}", "showarrow": False, "font": {"color": RED, "size": 15}}
    at = {"x": math.log10(units[0]), "y": math.log10(epsilon), "yshift": 12, "xanchor": "left"}
    plot.add_annotation(**note, **at, **right)
    plot.update_xaxes(range=[0, 1], title_text="x", title_standoff=4, **below)
    plot.update_xaxes(range=[0, 1], showticklabels=False, **left)
    height = 1.3 * max(epsilon, float(np.max(np.abs(errors))))
    plot.update_yaxes(title_text="f̂ − f", range=[-height, height], **below)
    ticks = {"tickvals": units, "ticktext": [str(m) for m in units]}
    plot.update_xaxes(type="log", title_text="hidden units m", **ticks, **right)
    heights = [digit * 10.0**k for k in range(-9, 3) for digit in (1, 2, 5)]
    ticks = {"tickvals": heights, "ticktext": [f"{height:g}" for height in heights]}
    plot.update_yaxes(type="log", **ticks, **right)
    axis = {"showline": True, "linecolor": "#9aa1ab", "gridcolor": "#eceef1", "zeroline": False}
    plot.update_xaxes(**axis)
    plot.update_yaxes(**axis)
    plot.update_annotations(selector={"xref": "paper"}, font={"size": 15, "color": INK})
    plot.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 14, "color": INK},
        title={
            "text": f"One hidden layer of {activation} units "
            + ("meets" if last.error <= epsilon else "does not meet")
            + f" ε = {epsilon:g}",
            "x": 0.06,
            "font": {"size": 21},
        },
        legend={"orientation": "h", "x": 0.0, "y": -0.13, "yanchor": "top", "title_text": ""},
        margin={"l": 70, "r": 30, "t": 100, "b": 90},
        hovermode="closest",
    )
    return plot


def page(plot: Any, title: str) -> str:
    """A page that holds the figure and all that draws it: it opens without a network."""
    options = {"displaylogo": False, "responsive": True}
    body = plot.to_html(
        include_plotlyjs=True, full_html=False, config=options, default_height="100%"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n"
        "<style>html, body, body > div { height: 100%; margin: 0 }</style>\n"
        f"<body>{body}</body>\n</html>\n"
    )


# --- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print the table, draw the picture."""
    options = parse(arguments)
    console, fits, interrupted = Console(highlight=False, soft_wrap=True), [], False
    text, f = FUNCTIONS[options.function]
    console.print(f"f(x) = {text} on [0, 1], {options.activation}, ε = {options.epsilon:g}\n")
    console.print(f"{'m':>6}{'parameters':>12}{'training loss':>15}{'max |f − f̂|':>15}{'s':>8}")
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:

            def fit(units: int) -> Fit:
                task = bar.add_task(f"m = {units}", total=options.steps)
                spec = spec_for(
                    units, activation=options.activation, seed=options.seed, steps=options.steps
                )
                result = train(f, spec, lambda p: bar.update(task, completed=p.step))
                bar.remove_task(task)
                return result

            wanted = {"epsilon": options.epsilon, "max_units": options.max_units}
            for found in approximate(fit, **wanted):
                fits.append(found)
                console.print(
                    f"{found.units:>6}{found.parameters:>12}{found.loss:>15.2e}"
                    f"{found.error:>15.4f}{found.seconds:>8.1f}"
                )
    except KeyboardInterrupt:
        interrupted = True
    except isograd.IsogradError as error:
        console.print(str(error), markup=False)
        return 2
    met = bool(fits) and fits[-1].error <= options.epsilon
    console.print()
    if met:
        console.print(f"ε = {options.epsilon:g} is met with m = {fits[-1].units}.")
    elif fits:
        best = min(fits, key=lambda fit: fit.error)
        console.print(
            f"ε = {options.epsilon:g} is not met with m ≤ {fits[-1].units}: "
            f"the least error is {best.error:.6g}, with m = {best.units}."
        )
    if fits:
        plot = figure(
            options.function, fits, epsilon=options.epsilon, activation=options.activation
        )
        title = f"Universal approximation: {options.function}"
        try:
            options.out.write_text(page(plot, title), encoding="utf-8")
        except OSError as error:
            console.print(f"{options.out} cannot be written: {error.strerror}", markup=False)
            return 2
        console.print(f"The picture is in {options.out}.", markup=False)
    if interrupted:
        console.print("Interrupted.")
        return 130
    return 0 if met else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; ends the program with exit code 2 where they cannot be used."""
    parser = argparse.ArgumentParser(
        description="Fit a function on [0, 1] to ε in the supremum norm with one hidden layer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--function", choices=FUNCTIONS, default="blancmange", help="what to fit")
    parser.add_argument("--epsilon", type=float, default=0.02, help="the error to reach, above 0")
    parser.add_argument("--activation", default="tanh", help="by its name in specs")
    parser.add_argument("--out", type=Path, default=Path("approximation.html"), help="the picture")
    parser.add_argument("--max-units", type=int, default=512, help="the widest layer, at least 2")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training, at least 1")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters, at least 0")
    options = parser.parse_args(arguments)
    if not 0.0 < options.epsilon < math.inf:
        parser.error(f"--epsilon must be a finite number above 0, not {options.epsilon}")
    for name, least in (("max_units", 2), ("steps", 1), ("seed", 0)):
        if getattr(options, name) < least:
            key = name.replace("_", "-")
            parser.error(f"--{key} must be at least {least}, not {getattr(options, name)}")
    try:
        Activation(options.activation)
    except isograd.IsogradError as error:
        parser.error(f"--activation: {error}")
    if options.activation == "softmax":
        parser.error("--activation must work on each unit alone, and softmax mixes them")
    if not options.out.parent.is_dir():
        parser.error(f"--out must lie in a folder that exists, not in {options.out.parent}")
    try:
        import plotly  # noqa: F401
    except ImportError:
        parser.error("the picture needs plotly: pip install isograd[figures]")
    return options


if __name__ == "__main__":
    sys.exit(main())
