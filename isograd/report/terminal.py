"""The report as text: for a terminal, and readable without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isograd.diagnosis import Diagnosis, Finding, Profile
from isograd.nn.model import Model
from isograd.remedy import Arm, Prescription
from isograd.remedy.trials import LEVEL
from isograd.report.chart import BESIDE, WIDTH, Series, decades, log10
from isograd.report.chart import chart as over_depth
from isograd.report.doctor import Report
from isograd.training.folder import StoredRun
from isograd.training.loop import Outcome

_COLOURS = {
    "healthy": "green",
    "sick": "red",
    "unknown": "yellow",
    "fatal": "red",
    "serious": "dark_orange",
    "minor": "yellow",
}
_DIFF = {"+": "green", "-": "red", "@": "cyan"}
_RUNS = 8  # of layers in a finding's first line


def show_diagnosis(
    console: Console, model: Model, diagnosis: Diagnosis, *, title: str, steps: int
) -> None:
    """Verdict, chart, budget and findings."""
    console.print(Text(title, style="bold"))
    sizes = ((model.depth, "layer"), (model.parameter_count, "parameter"), (steps, "step"))
    _print(console, ", ".join(_count(n, noun) for n, noun in sizes) + "\n")
    verdict = Text.assemble(
        (diagnosis.verdict.upper(), f"bold {_COLOURS[diagnosis.verdict]}"), ": ", diagnosis.reason
    )
    console.print(verdict)
    if diagnosis.profile is not None:
        console.print()
        console.print(chart(diagnosis.profile, width=min(WIDTH, console.width - BESIDE)))
    if diagnosis.budget is not None and (mean := diagnosis.budget.mean()) is not None:
        parts = [
            ("activation", mean.activation),
            ("weights", mean.weights),
            ("normalisation", mean.normalisation),
            ("skip connections", mean.residual),
            ("dropout and scale", mean.factors),
        ]
        shares = ", ".join(f"{name} {x:+.2f}" for name, x in parts if x)
        total = f"\nGain budget of δ: {mean.total:+.2f} decades per layer"
        _print(console, total + (f" = {shares}" if shares else ""))
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
        body.add_row(name, Text(text))
    return Group(head, Padding(body, (0, 0, 0, 3)))


def _layers(layers: Sequence[int]) -> str:
    """Runs of layers: "layers 1–25, 28"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    text = ", ".join(f"{a}–{b}" if b > a else f"{a}" for a, b in runs[:_RUNS])
    if len(runs) > _RUNS:
        text += f", … ({len(layers)} in all)"
    return f"layer{'s' * (len(layers) > 1)} {text}"


def chart(profile: Profile, *, width: int = WIDTH) -> RenderableType:
    """Depth downwards; log₁₀ of the signal and of the error signal across, in `width` characters.

    Deep networks show some of their layers; gains are over the next layer, shown or not.
    """
    depth = len(profile.delta)
    signal, delta = log10(profile.signal), log10(profile.delta)
    gains = [a - b for a, b in pairwise(delta)] + [math.nan]
    columns = (
        ("signal", [decades(x) for x in signal]),
        ("δ", [decades(x) for x in delta]),
        ("δ gain", [f"{x:+.2f}" if math.isfinite(x) else "" for x in gains]),
    )
    series = (Series("○", "cyan", signal), Series("●", "magenta", delta))
    legend = Text.assemble(
        f"Step {profile.step}, log₁₀:  ",
        ("○", "cyan"),
        " signal (spread of z over the batch)  ",
        ("●", "magenta"),
        " error signal ‖δ‖",
    )
    drawn = over_depth(depth, series, columns, width=width)
    return Group(legend, drawn) if isinstance(drawn, Table) else drawn


def show_trials(console: Console, report: Report) -> None:
    """The trials, the recommendation and its patch."""
    p = report.prescription
    if p is None:
        return
    head = f", each with {_count(len(p.none.trials), 'seed')} and {_count(p.steps, 'step')} on the "
    console.print(Text.assemble("\n", ("Cures tried", "bold"), head + "same batches (mean ± sd)\n"))
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("edit", no_wrap=True)
    for column, width in (
        ("lines", 5),
        ("train loss", 11),
        (f"test {'R²' if report.outcome.metric == 'R²' else 'acc.'} %", 9),
        ("gone", 6),
        ("gain", 11),
    ):
        table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for arm in (p.none, p.random, *p.cures):
        _arm_row(table, arm, p)
    console.print(table)
    note = (
        "gone: runs without a grave finding; gain: training loss below no change, with its "
        f"{1 - LEVEL:.0%} interval over all cures; ✔ cures: gone with every seed, and a gain above "
        "0 over both controls"
    )
    console.print(Text(note + "\n\nTheir patches:", style="dim"))
    for arm in (p.random, *p.cures):
        console.print(_patch_lines(report, arm))
    best = p.recommended
    if best is None:
        _print(console, f"\nRecommended: nothing; {p.reason}.")
        return
    choice = Text.assemble(
        "\n", (f"Recommended: {best.name}", "bold"), f", {p.reason}. What it does: {best.why}.\n"
    )
    console.print(choice)
    for line in report.patch.splitlines():  # as they are: to be copied, or piped to `patch`
        console.print(Text(line, _DIFF.get(line[:1], "")), soft_wrap=True)


def _patch_lines(report: Report, arm: Arm) -> RenderableType:
    """An edit's name, and the lines that it removes and adds."""
    lines = [line for text in report.patches(arm) for line in text.splitlines()[2:]]
    table = Table.grid(padding=(0, 1))
    table.add_column(width=26)
    table.add_column()
    table.add_column(overflow="fold")
    name = arm.name
    for line in lines:
        if line[0] in "+-" and line[1:].strip():
            sign, edit = (Text(part, _DIFF[line[0]]) for part in (line[0], line[1:].strip()))
            table.add_row(Text(name, style="dim"), sign, edit)
            name = ""
    if arm.refused:
        table.add_row("", "", Text(f"cannot run: {arm.refused.splitlines()[0]}", style="dim"))
    return table


def _arm_row(table: Table, arm: Arm, p: Prescription) -> None:
    mark = "→" if arm is p.recommended else "✔" if arm.helps else ""
    lines = str(arm.size) if arm.size else ""
    if arm.refused:  # why is said with its patch
        table.add_row("", arm.name, lines, Text("cannot run", style="dim"))
        return
    if not arm.trials:  # the trials were interrupted before its first
        table.add_row("", arm.name, lines)
        return
    gone = sum(not t.findings for t in arm.trials)
    style = "green" if gone == len(arm.trials) else "yellow" if gone else "red"
    gain = ""
    if arm.over_none is not None:
        e = arm.over_none
        gain = _pm(e.mean, e.high - e.mean, 2, "+")
    table.add_row(
        mark,
        Text(arm.name, style="bold" if mark else "dim" if arm.over_none is None else ""),
        lines,
        _mean_sd(arm.mean_sd(lambda t: t.train.loss), 3),
        _mean_sd(arm.mean_sd(lambda t: 100.0 * t.test.accuracy), 1),
        Text(f"{gone} of {len(arm.trials)}", style=style),
        gain,
    )


def _mean_sd(pair: tuple[float, float], decimals: int) -> str:
    mean, sd = pair
    if math.isnan(mean):
        return "not finite"
    return f"{mean:.4g}" if math.isnan(sd) else _pm(mean, sd, decimals)


def _pm(value: float, reach: float, decimals: int, sign: str = "") -> str:
    """value±reach in at most four digits each, so that the columns fit 80 characters."""
    size = max(abs(value), abs(reach))
    form = ".0e" if size >= 1000 else f".{min(decimals, 4 - len(str(int(size))))}f"
    return f"{value:{sign}z{form}}±{reach:{form}}"  # z: no −0


def show_runs(console: Console, runs: Sequence[StoredRun]) -> None:
    """A table of runs, and how each of them ended."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for column in ("steps", "training loss", "test score"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        scores = ["", ""]
        if run.result is not None:
            loss, share = run.result["train"]["loss"], run.result["test"]["accuracy"]
            scores = [
                "not finite" if loss is None else f"{loss:.4g}",
                _share(run.result["metric"], math.nan if share is None else share),
            ]
        steps = _count(len(run.telemetry.records))
        table.add_row(Text(str(run.path)), run.stopped, steps, *scores)
    console.print(table)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """How a training run ended, in a few lines."""
    steps = _count(len(outcome.telemetry.records), "step")
    how = "stopped early" if outcome.stopped == "early" else outcome.stopped
    rate = f", {_count(round(outcome.steps_per_second))} steps/s" if outcome.seconds else ""
    _print(console, f"{how} after {steps} in {outcome.seconds:.1f} s{rate} ({outcome.backend})")
    if outcome.telemetry_seconds:
        part = 100.0 * outcome.telemetry_seconds / max(outcome.seconds, 1e-9)
        _print(console, f"telemetry took {outcome.telemetry_seconds:.2g} s of it ({part:.0f} %)")
    if outcome.skipped:
        skipped = _count(outcome.skipped, "step")
        _print(console, f"{skipped} skipped: loss, gradient or result was not finite")
    parts = {"training": outcome.train, "validation": outcome.validation, "test": outcome.test}
    for name, score in parts.items():
        if score is not None:
            share = _share(outcome.metric, score.accuracy)
            _print(console, f"{name:<11}loss {_loss(score.loss)}, {share}")


def _share(metric: str, value: float) -> str:
    """An accuracy in per cent; an R², which has no lower bound, as a number."""
    if not math.isfinite(value):
        return f"{metric} not finite"
    return f"{metric} {value:.3g}" if metric == "R²" else f"{metric} {value:.1%}"


def _loss(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def _count(n: int, noun: str = "") -> str:
    """1 234 steps, with narrow spaces that do not break."""
    number = f"{n:,}".replace(",", "\u202f")
    return f"{number} {noun}{'s' * (n != 1)}" if noun else number


def _print(console: Console, text: str) -> None:
    """Print as it is: what looks like markup is not meant as such."""
    console.print(Text(text))
