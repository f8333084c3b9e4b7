"""A chart for a terminal: depth downwards, logarithms of sizes across."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

WIDTH = 44  # of the chart, in characters
BESIDE = 34  # the columns beside it
_ROWS = 16  # deeper networks show every so many layers


@dataclass(frozen=True, slots=True)
class Series:
    """A size per layer, and where theory expects it.

    Attributes:
        mark, style: how it is drawn.
        values: log₁₀, by layer from 1 on; NaN draws nothing. Without any the marks stand for the
            middles of what is expected.
        expected: log₁₀ of the lower end, the middle and the upper end, by layer; it may be shorter.
    """

    mark: str
    style: str
    values: Sequence[float] = ()
    expected: Sequence[tuple[float, float, float]] = ()


def shown_layers(depth: int) -> list[int]:
    """The layers that a chart has room for."""
    if depth <= _ROWS:
        return list(range(1, depth + 1))
    return sorted({round(1 + i * (depth - 1) / (_ROWS - 1)) for i in range(_ROWS)})


def chart(
    depth: int,
    series: Sequence[Series],
    columns: Sequence[tuple[str, Sequence[str]]],
    *,
    width: int,
) -> Table | Text:
    """Draw series over depth, with columns of text beside them.

    Args:
        depth: layers.
        series: what is drawn; where two marks meet a third stands for both.
        columns: headers, and what stands beside each layer.
        width: of the drawing, in characters.
    """
    width = max(width, 12)
    finite = [x for s in series for x in _all(s) if math.isfinite(x)]
    if not finite:
        return Text("nothing finite to draw", style="dim")
    low, high = math.floor(min(finite)), math.ceil(max(finite))
    high = max(high, low + 1)
    ends = [f"{x:+d}" if x else "0" for x in (low, high)]
    axis = Text(ends[0] + ends[1].rjust(width - len(ends[0])))
    table = Table(box=None, padding=(0, 1), header_style="dim", show_edge=False)
    table.add_column("layer", justify="right")
    table.add_column(axis, no_wrap=True)
    for header, _ in columns:
        table.add_column(header, justify="right", no_wrap=True)

    def at(x: float) -> int:
        return round((x - low) / (high - low) * (width - 1))

    marks = {s.mark for s in series}
    for n in shown_layers(depth):
        line = [("·", "dim")] * width
        for s in series:
            if n <= len(s.expected) and all(map(math.isfinite, s.expected[n - 1])):
                a, middle, b = map(at, s.expected[n - 1])
                for i in range(a, b + 1):
                    line[i] = ("─", s.style)
                if b > a:
                    line[a], line[b] = ("├", s.style), ("┤", s.style)
                centre = s.mark if not s.values else "┼" if a < middle < b else line[middle][0]
                line[middle] = ("│" if a == b and s.values else centre, s.style)
        for s in series:
            if n <= len(s.values) and math.isfinite(s.values[n - 1]):
                i = at(s.values[n - 1])
                line[i] = ("◉" if line[i][0] in marks else s.mark, s.style)
        table.add_row(str(n), Text.assemble(*line), *(c[n - 1] for _, c in columns))
    return table


def _all(s: Series) -> Iterable[float]:
    yield from s.values
    for ends in s.expected:
        yield from ends


def log10(values: Iterable[float]) -> list[float]:
    """Of each value; −inf for 0, NaN for what is not finite."""
    return [
        math.log10(v) if 0 < v < math.inf else -math.inf if v == 0 else math.nan for v in values
    ]


def decades(x: float) -> str:
    """A logarithm in a column."""
    return f"{x:+z.1f}" if math.isfinite(x) else "zero" if x == -math.inf else "–"
