"""The report as text: for a terminal, and readable without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from isograd.diagnosis import Diagnosis, Finding, Profile
from isograd.nn.model import Model
from isograd.remedy import Arm, Prescription
from isograd.remedy.trials import LEVEL
from isograd.report.doctor import Report
from isograd.training.loop import Outcome

_COLOURS = {
    "healthy": "green",
    "sick": "red",
    "unknown": "yellow",
    "fatal": "red",
    "serious": "dark_orange",
    "minor": "yellow",
}
_ROWS = 16  # of the chart: deeper networks show every so many layers
_WIDTH = 44  # of the chart, in characters


def show_diagnosis(
    console: Console, model: Model, diagnosis: Diagnosis, *, title: str, steps: int
) -> None:
    """Verdict, chart, budget and findings."""
    console.print(Text(title, style="bold"))
    console.print(
        f"{model.depth} layers, {model.parameter_count:,} parameters, {steps} steps\n".replace(
            ",", "\u202f"
        )
    )
    verdict = Text.assemble(
        (diagnosis.verdict.upper(), f"bold {_COLOURS[diagnosis.verdict]}"), ": ", diagnosis.reason
    )
    console.print(verdict)
    if diagnosis.profile is not None:
        console.print()
        console.print(chart(diagnosis.profile))
    if diagnosis.budget is not None and (mean := diagnosis.budget.mean()) is not None:
        parts = [
            ("activation", mean.activation),
            ("weights", mean.weights),
            ("normalisation", mean.normalisation),
            ("skip connections", mean.residual),
        ]
        shares = ", ".join(f"{name} {x:+.2f}" for name, x in parts if x)
        console.print(
            f"\nGain budget of the error signal: {mean.total:+.2f} decades per layer"
            + (f" = {shares}" if shares else "")
        )
    for number, finding in enumerate(diagnosis.findings, start=1):
        console.print()
        console.print(_finding(number, finding))


def _finding(number: int, f: Finding) -> RenderableType:
    where = f", {_layers(f.layers)}" if f.layers else ""
    head = Text.assemble(
        f"{number}. ",
        (f.name, "bold"),
        f" ({f.severity}){where}, since step {f.step}",
    )
    head.stylize(_COLOURS[f.severity], 0, len(f"{number}. {f.name} ({f.severity})"))
    body = Table.grid(padding=(0, 1))
    body.add_column(style="dim", no_wrap=True)
    body.add_column()
    for name, text in (
        ("cause", f.cause),
        ("theory", f.expectation),
        ("refuted by", f.disproof),
    ):
        body.add_row(name, text)
    return Group(head, Padding(body, (0, 0, 0, 3)))


def _layers(layers: Sequence[int]) -> str:
    """Runs of layers: "layers 1–25, 28"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    text = ", ".join(f"{a}–{b}" if b > a else f"{a}" for a, b in runs)
    return f"layer{'s' * (len(layers) > 1)} {text}"


def chart(profile: Profile) -> RenderableType:
    """Depth downwards; log₁₀ of the signal and of the error signal across."""
    depth = len(profile.delta)
    signal, delta = _log10(profile.signal), _log10(profile.delta)
    finite = [x for x in (*signal, *delta) if math.isfinite(x)]
    if not finite:
        return Text("nothing finite to draw", style="dim")
    low, high = math.floor(min(finite)), math.ceil(max(finite))
    high = max(high, low + 1)
    shown = sorted({round(1 + i * (depth - 1) / max(1, _ROWS - 1)) for i in range(_ROWS)})
    shown = [n for n in shown if n <= depth] if depth > _ROWS else list(range(1, depth + 1))

    axis = Text(f"{low:+d}".ljust(_WIDTH // 2) + f"{high:+d}".rjust(_WIDTH - _WIDTH // 2))
    table = Table(box=None, padding=(0, 1), header_style="dim", show_edge=False)
    table.add_column("layer", justify="right")
    table.add_column(axis, no_wrap=True)
    table.add_column("signal", justify="right")
    table.add_column("δ", justify="right")
    table.add_column("δ gain", justify="right")
    for n in shown:
        line = [("·", "dim")] * _WIDTH
        for value, mark, style in (
            (signal[n - 1], "○", "cyan"),
            (delta[n - 1], "●", "magenta"),
        ):
            if math.isfinite(value):
                at = round((value - low) / (high - low) * (_WIDTH - 1))
                both = line[at][0] in "○●"
                line[at] = ("◉" if both else mark, style)
        gain = delta[n - 1] - delta[n] if n < depth else math.nan
        table.add_row(
            str(n),
            Text.assemble(*line),
            _number(signal[n - 1]),
            _number(delta[n - 1]),
            f"{gain:+.2f}" if math.isfinite(gain) else "",
        )
    legend = Text.assemble(
        f"Step {profile.step}, log₁₀:  ",
        ("○", "cyan"),
        " signal (spread of z over the batch)  ",
        ("●", "magenta"),
        " error signal ‖δ‖",
    )
    return Group(legend, table)


def _log10(values: Iterable[float]) -> list[float]:
    return [
        math.log10(v) if 0 < v < math.inf else -math.inf if v == 0 else math.nan for v in values
    ]


def _number(x: float) -> str:
    return f"{x:+.1f}" if math.isfinite(x) else "zero" if x == -math.inf else "–"


def show_trials(console: Console, report: Report) -> None:
    """The trials, the recommendation and its patch."""
    p = report.prescription
    if p is None:
        return
    seeds = len(p.none.trials)
    console.print(
        f"\n[bold]Cures tried[/bold], each with {seeds} seeds and {p.steps} steps on the same "
        "batches (mean ± sd)\n"
    )
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("edit", no_wrap=True)
    for column, width in (
        ("lines", 5),
        ("train loss", 11),
        (f"test {'R²' if report.outcome.metric == 'R²' else 'acc.'} %", 9),
        ("healthy", 7),
        ("gain", 11),
    ):
        table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for arm in (p.none, p.random, *p.cures):
        _arm_row(table, arm, p)
    console.print(table)
    console.print(
        f"gain: training loss below no change, with its {1 - LEVEL:.0%} interval over all cures; "
        "✔ cures: healthy with every seed, and a gain above 0 over both controls",
        style="dim",
    )
    console.print("\nTheir patches:", style="dim")
    for arm in p.cures:
        console.print(_patch_lines(report, arm))
    best = p.recommended
    if best is None:
        console.print(f"\nRecommended: nothing; {p.reason}.")
        return
    console.print(f"\n[bold]Recommended: {best.name}[/bold], {p.reason}. {best.why}.\n")
    console.print(Syntax(report.patch.rstrip("\n"), "diff", background_color="default"))


def _patch_lines(report: Report, arm: Arm) -> RenderableType:
    """An edit's name, and the lines that it removes and adds."""
    lines = report.patch_of(arm).splitlines()[2:]
    table = Table.grid(padding=(0, 1))
    table.add_column(width=26)
    table.add_column(overflow="fold")
    body = Text("\n").join(
        Text(line[0] + " " + line[1:].strip(), style="green" if line[0] == "+" else "red")
        for line in lines
        if line[0] in "+-" and line[1:].strip()
    )
    table.add_row(Text(arm.name, style="dim"), body)
    return table


def _arm_row(table: Table, arm: Arm, p: Prescription) -> None:
    mark = "→" if arm is p.recommended else "✔" if arm.helps else ""
    lines = str(arm.size) if arm.size else ""
    if arm.refused:
        table.add_row("", arm.name, lines, Text(arm.refused.splitlines()[0], style="dim"))
        return
    healthy = sum(t.verdict == "healthy" for t in arm.trials)
    style = "green" if arm.gone else "yellow" if healthy else "red"
    gain = ""
    if arm.over_none is not None:
        e = arm.over_none
        gain = f"{e.mean:+.2f}±{e.high - e.mean:.2f}"
    table.add_row(
        mark,
        Text(arm.name, style="bold" if mark else "dim" if arm.over_none is None else ""),
        lines,
        _mean_sd(arm.mean_sd(lambda t: t.train.loss), ".3f"),
        _mean_sd(arm.mean_sd(lambda t: 100.0 * t.test.accuracy), ".1f"),
        Text(f"{healthy} of {len(arm.trials)}", style=style),
        gain,
    )


def _mean_sd(pair: tuple[float, float], form: str) -> str:
    mean, sd = pair
    return f"{mean:{form}}±{sd:{form}}" if math.isfinite(mean) else "not finite"


def show_outcome(console: Console, outcome: Outcome) -> None:
    """How a training run ended, in two lines."""
    console.print(
        f"{outcome.stopped} after {len(outcome.telemetry.records)} steps in {outcome.seconds:.1f} s"
    )
    for part, score in (("training", outcome.train), ("test", outcome.test)):
        share = f"{score.accuracy:.3f}" if outcome.metric == "R²" else f"{score.accuracy:.1%}"
        console.print(f"{part:<9}loss {score.loss:.4f}, {outcome.metric} {share}")
