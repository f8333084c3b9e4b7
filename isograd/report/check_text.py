"""A check as text: for a terminal, and readable without colour."""

from __future__ import annotations

import math
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from isograd.diagnosis.check import Check
from isograd.diagnosis.findings import Band
from isograd.diagnosis.step_size import StepSize
from isograd.report.chart import Series, chart, decades, log10
from isograd.theory.precision import PrecisionPlan

TITLES = {"will train": "WILL TRAIN", "will not": "WILL NOT TRAIN", "unknown": "UNKNOWN"}
_COLOURS = {"will train": "green", "will not": "red", "unknown": "yellow"}
STATES = {
    "bad": ("✘", "red"),
    "doubt": ("?", "yellow"),
    "note": ("!", "cyan"),
    "ok": ("✔", "green"),
}
_BESIDE = 42  # the columns beside the chart
_WIDTH = 44
REACH = 2.0
"""Of an error bar, in standard deviations: about 95 %."""


def show_check(console: Console, check: Check, *, title: str) -> None:
    """Verdict, chart, items, cost and precision plan."""
    console.print(Text(title, style="bold"))
    console.print(Text(head(check) + "\n"))
    style = f"bold {_COLOURS[check.verdict]}"
    console.print(Text.assemble((TITLES[check.verdict], style), f": {check.reason}"))
    for note in check.notes:
        console.print(Text(note, style="dim"))
    console.print()
    console.print(_chart(check, min(_WIDTH, console.width - _BESIDE)))
    console.print()
    console.print(_items(check))
    if check.precision is not None:
        console.print()
        console.print(_plan(check.precision))


def head(check: Check) -> str:
    """What was checked, in numbers."""
    m, model = check.measured, check.model
    layers = f"{count(model.depth)} layer{'s' * (model.depth != 1)}"
    data = f"one batch of {count(m.rows)} rows" if m else "no data"
    return (
        f"{layers}, {count(model.parameter_count)} parameters, {count(check.flops.total)} flops "
        f"a row; {data}"
    )


def range_of(s: StepSize) -> str:
    """Learning rates in a sentence."""
    if s.skipped:
        return f"No range: {s.skipped}."
    low, high = (f"{x:.2g}" if x is not None else "any" for x in (s.low, s.high))
    return (
        f"From {low}, at which the loss falls by a factor e over the run if it goes on as at "
        f"first, to {high}, the largest that is stable at the sharpness of {s.preconditioned:.3g} "
        f"that the network starts with. The spec has {s.lr:.3g}."
    )


def count(n: int) -> str:
    """1 234, with narrow spaces that do not break."""
    return f"{n:,}".replace(",", "\u202f")


def _chart(check: Check, width: int) -> RenderableType:
    """Depth downwards, log₁₀ of the sizes across: measured marks in the bars of theory."""
    depth, layers = check.model.depth, check.expected.layers
    signal: list[float] = []
    delta: list[float] = []
    if check.measured is not None:
        p = check.measured.profile
        top = log10(p.delta[-1:])[0]
        signal, delta = log10(p.signal), [x - top for x in log10(p.delta)]
    bands = [
        [bar(b) for b in column]
        for column in ([x.signal for x in layers], [x.delta for x in layers])
    ]

    def texts(values: list[float]) -> list[str]:
        return [decades(x) for x in values]

    def expected(bars: list[tuple[float, float, float]]) -> list[str]:
        return [decades(middle) for _, middle, _ in bars] + [""] * (depth - len(bars))

    if signal:
        columns = [("signal", texts(signal)), ("theory", expected(bands[0]))]
        columns += [("δ/δᴸ", texts(delta)), ("theory", expected(bands[1]))]
    else:
        columns = [("signal", expected(bands[0])), ("δ/δᴸ", expected(bands[1]))]
    columns = [c for c in columns if any(c[1])]
    series = (
        Series("○", "cyan", signal, bands[0]),
        Series("●", "magenta", delta, bands[1]),
    )
    legend = Text.assemble(
        "log₁₀ of  ",
        ("○", "cyan"),
        " signal (spread of z over the batch)  ",
        ("●", "magenta"),
        " error signal ‖δ‖/‖δᴸ‖",
    )
    if layers:
        legend.append("\n├┼┤", "dim")
        legend.append(" theory, with the spread of 95 % of draws of the weights")
    drawn = chart(depth, series, columns, width=width)
    return Group(legend, drawn) if isinstance(drawn, Table) else drawn


def bar(band: Band) -> tuple[float, float, float]:
    """Lower end, middle and upper end of a band, in decades."""
    reach = REACH * band.sd if math.isfinite(band.sd) else 0.0
    return band.decades - reach, band.decades, band.decades + reach


def _items(check: Check) -> Table:
    """What was looked at, the gravest first."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    order = list(STATES)
    for item in sorted(check.items, key=lambda item: order.index(item.state)):
        mark, colour = STATES[item.state]
        text = Text(item.came)
        if item.state in ("bad", "doubt"):
            text.append(f"\nmust hold: {item.must} ({item.source})", "dim")
        table.add_row(Text(mark, colour), Text(item.name), text)
    return table


def _plan(plan: PrecisionPlan) -> RenderableType:
    """The cheapest safe format of each role, layers in a row together."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for role, groups in groupby(plan.groups, key=lambda g: g.role):
        name = "master weights" if role == "update" else f"{role}s"
        table.add_row(f"  {name}", Text(", ".join(map(str, groups))))
    if (s := plan.loss_scale) is not None:
        table.add_row("  loss scale", Text(f"2^{s.log2}, for {s.form.name}"))
    return Group(Text("Narrowest formats that are safe for this step", style="bold"), table)
