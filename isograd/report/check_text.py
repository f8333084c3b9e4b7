"""A check as text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isograd.diagnosis.check import Check
from isograd.report.terminal import chart

_COLOURS = {"will train": "green", "will not": "red", "unknown": "yellow"}
_MARKS = {"ok": "✔", "note": "·", "doubt": "?", "bad": "✘"}


def show_check(console: Console, check: Check, *, title: str) -> None:
    """Verdict, chart and items."""
    console.print(Text(title, style="bold"))
    verdict = "will not train" if check.verdict == "will not" else check.verdict
    console.print(
        Text.assemble((verdict.upper(), f"bold {_COLOURS[check.verdict]}"), ": ", check.reason)
    )
    if check.measured is not None:
        console.print()
        console.print(chart(check.measured.profile, width=min(44, console.width - 34)))
    table = Table.grid(padding=(0, 1))
    for item in check.items:
        table.add_row(_MARKS[item.state], item.name, item.came)
    console.print()
    console.print(table)
