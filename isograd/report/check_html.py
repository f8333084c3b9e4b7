"""A check as a page of its own: every script in it, so that it opens without a network."""

from __future__ import annotations

import html
import importlib.util
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd._version import __version__
from isograd.diagnosis.check import Check
from isograd.diagnosis.findings import Band
from isograd.engine.number_formats import FORMATS
from isograd.errors import RunError
from isograd.report.check_text import REACH, STATES, TITLES, head, range_of
from isograd.telemetry.records import Kind, Site
from isograd.theory.formats import limits
from isograd.theory.precision import PrecisionPlan

_INK, _GREY = "#1b1f24", "#6b7280"
_FORWARD, _BACKWARD, _SCALE = "#0b7285", "#a61e4d", "#868e96"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_VERDICTS = {"will train": "#2b8a3e", "will not": "#c92a2a", "unknown": "#a86500"}
_COLOURS = {"bad": "#c92a2a", "doubt": "#a86500", "note": "#0b7285", "ok": "#2b8a3e"}
_SEEN: tuple[tuple[Kind, str], ...] = (
    ("z", "pre-activations z"),
    ("delta", "error signals δ"),
    ("dW", "gradients of W"),
)
_DRAWN = ("fp8_e4m3", "fp16", "bf16")
_MOST = 400  # layers of a heat map; of deeper networks it shows every so many
_STYLE = f"""
body {{ font: 16px/1.5 {_FONT}; color: {_INK}; background: #fff; margin: 2rem auto;
  max-width: 68rem; padding: 0 1.5rem; }}
h1 {{ font-size: 1.6rem; margin-bottom: 0; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
.quiet {{ color: {_GREY}; margin-top: 0; }}
.verdict {{ border-left: 6px solid; padding: .6rem 1rem; background: #f8f9fa; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid #e9ecef; }}
th {{ color: {_GREY}; font-weight: 600; }}
td.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
"""


def require_plotly() -> None:
    """Plotly draws the figures.

    Raises:
        RunError: if it is not installed.
    """
    if importlib.util.find_spec("plotly") is None:
        raise RunError(
            "a page with figures needs plotly",
            came="no plotly",
            fix="pip install isograd[figures]; the text and --json need nothing more",
        )


def page(check: Check, *, title: str) -> str:
    """The page, as HTML.

    Args:
        check: what it shows.
        title: what was checked.

    Raises:
        RunError: if plotly, which draws the figures, is not installed.
    """
    require_plotly()
    import plotly.io
    from plotly.offline import get_plotlyjs

    def drawn(figure: Any) -> str:
        buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]]
        settings = {"displaylogo": False, "responsive": True, "modeBarButtons": buttons}
        out = plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, config=settings)
        return str(out)

    body = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="quiet">{_text(head(check))}</p>',
        f'<p class="verdict" style="border-color: {_VERDICTS[check.verdict]}">'
        f'<strong style="color: {_VERDICTS[check.verdict]}">{TITLES[check.verdict]}</strong>: '
        f"{_text(check.reason)}</p>",
        *(f'<p class="quiet">{_text(note)}</p>' for note in check.notes),
        "<h2>What was looked at</h2>",
        _items(check),
        "<h2>Sizes over depth</h2>",
        drawn(sizes_figure(check)),
    ]
    if check.measured is not None:
        body += ["<h2>Binary exponents, layer by layer</h2>", drawn(exponents_figure(check))]
    if check.step_size is not None:
        body += ["<h2>Learning rate</h2>", f"<p>{_text(range_of(check.step_size))}</p>"]
    if check.precision is not None:
        body += ["<h2>Narrowest formats that are safe for this step</h2>", _plan(check.precision)]
    body.append(f'<p class="quiet">isograd {__version__}</p>')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


# Figures ----------------------------------------------------------------------------------------


def sizes_figure(check: Check) -> Any:
    """Signal and error signal per layer: measured, and theory with its error bars."""
    from plotly.subplots import make_subplots

    names = (
        "forward: rms of z and of its spread over the batch",
        "backward: ‖δ<sup>l</sup>‖/‖δ<sup>L</sup>‖",
    )
    plot = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1, subplot_titles=names
    )
    expected = check.expected.layers
    for row, name, bands, colour in (
        (1, "signal, theory", [x.signal for x in expected], _FORWARD),
        (2, "error signal, theory", [x.delta for x in expected], _BACKWARD),
    ):
        _draw_bands(plot, row, name, bands, colour)
    if check.measured is not None:
        p = check.measured.profile
        layers = list(range(1, check.model.depth + 1))
        top = p.delta[-1]
        delta = [d / top if 0 < top < math.inf else math.nan for d in p.delta]
        for row, name, values, colour, symbol in (
            (1, "z", p.scale, _SCALE, "x-thin-open"),
            (1, "signal", p.signal, _FORWARD, "circle-open"),
            (2, "error signal", delta, _BACKWARD, "circle"),
        ):
            plot.add_scatter(
                x=layers,
                y=[v if 0 < v < math.inf else None for v in values],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8},
                name=f"{name}, measured",
                hovertemplate="layer %{x}: %{y:.3g}<extra>" + name + "</extra>",
                row=row,
                col=1,
            )
    plot.update_yaxes(type="log", exponentformat="power", dtick=_ticks(check))
    plot.update_xaxes(title_text="layer", row=2, col=1)
    plot.update_layout(
        height=720,
        template="plotly_white",
        font={"family": _FONT, "size": 14, "color": _INK},
        legend={"orientation": "h", "y": -0.12},
        margin={"l": 70, "r": 20, "t": 40, "b": 40},
    )
    return plot


def _ticks(check: Check) -> int | str:
    """Decades between two ticks, about eight over the figure; "D2" is 1, 2, 5."""
    decades = [b.decades for x in check.expected.layers for b in (x.signal, x.delta)]
    if check.measured is not None:
        p = check.measured.profile
        decades += [math.log10(v) for v in (*p.signal, *p.delta) if 0 < v < math.inf]
    finite = [d for d in decades if math.isfinite(d)] or [0.0]
    reach = max(finite) - min(finite)
    return "D2" if reach < 3.0 else math.ceil(reach / 8)


def _draw_bands(plot: Any, row: int, name: str, bands: Sequence[Band], colour: str) -> None:
    """A line, and the range of 95 % of the draws around it."""
    drawn = [(n, b) for n, b in enumerate(bands, start=1) if math.isfinite(b.decades)]
    drawn = [(n, b) for n, b in drawn if abs(b.decades) < 300.0]
    if not drawn:
        return
    x = [n for n, _ in drawn]

    def sizes(deviations: float) -> list[float]:  # within the range of float64
        reaches = [deviations * (b.sd if math.isfinite(b.sd) else 0.0) for _, b in drawn]
        ends = [b.decades + reach for (_, b), reach in zip(drawn, reaches, strict=True)]
        return [10.0 ** min(max(end, -307.0), 307.0) for end in ends]

    low, middle, high = (sizes(s * REACH) for s in (-1.0, 0.0, 1.0))
    common = {"row": row, "col": 1, "hoverinfo": "skip"}
    plot.add_scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        fill="toself",
        mode="lines",
        line={"width": 0},
        fillcolor=colour,
        opacity=0.2,
        name=f"{name}, 95 % of draws",
        **common,
    )
    plot.add_scatter(x=x, y=middle, mode="lines", line={"color": colour}, name=name, **common)


def exponents_figure(check: Check) -> Any:
    """How often each binary exponent occurs in each layer, and where number formats end."""
    from plotly.subplots import make_subplots

    assert check.measured is not None
    plot = make_subplots(
        rows=1,
        cols=len(_SEEN),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[title for _, title in _SEEN],
    )
    depth = check.model.depth
    layers = np.unique(np.linspace(1, depth, min(depth, _MOST)).round().astype(int))
    for column, (kind, _) in enumerate(_SEEN, start=1):
        first, shares = _exponents(check, kind, layers)
        plot.add_heatmap(
            x=np.arange(first, first + shares.shape[1]),
            y=layers,
            z=shares,
            colorscale=[[0, "#e7f5ff"], [0.5, "#4dabf7"], [1, "#1c3f8f"]],
            zmin=-4.0,
            zmax=0.0,
            showscale=column == len(_SEEN),
            colorbar={
                "title": {"text": "share of<br>values"},
                "tickvals": [-4, -3, -2, -1, 0],
                "ticktext": ["10⁻⁴", "10⁻³", "1 %", "10 %", "all"],
            },
            hovertemplate="layer %{y}, 2^%{x}: 10^%{z:.1f} of the values<extra></extra>",
            row=1,
            col=column,
        )
        ends = (first, first + shares.shape[1] - 1)
        for name in _DRAWN:
            form = limits(name)
            low, high = math.log2(form.min_normal), math.log2(form.max)
            for at in (low, high):
                if ends[0] - 2 <= at <= ends[1] + 2:
                    plot.add_vline(
                        x=at,
                        line={"color": _INK, "width": 1.5, "dash": "dot"},
                        annotation={
                            "text": f"{name} {'min' if at == low else 'max'}",
                            "font": {"size": 11},
                            "textangle": -90,
                            "bgcolor": "rgba(255, 255, 255, 0.8)",
                            "yanchor": "bottom",
                            "y": 0.02,
                        },
                        row=1,
                        col=column,
                    )
        plot.update_xaxes(title_text="exponent e of 2ᵉ", row=1, col=column)
    plot.update_yaxes(autorange="reversed", showgrid=False)
    plot.update_yaxes(title_text="layer", row=1, col=1)
    plot.update_layout(
        height=max(360, min(900, 120 + 16 * len(layers))),
        template="plotly_white",
        font={"family": _FONT, "size": 14, "color": _INK},
        margin={"l": 70, "r": 20, "t": 40, "b": 60},
    )
    return plot


def _exponents(
    check: Check, kind: Kind, layers: NDArray[np.int64]
) -> tuple[int, NDArray[np.float64]]:
    """The first exponent, and log₁₀ of the share of each from it on, by layer; NaN where none."""
    assert check.measured is not None
    own = {p.layer: p.site.partition("/")[2] for p in check.model.weights}
    found = [check.measured.summaries.get(Site.parse(f"{kind}/{own[int(n)]}")) for n in layers]
    histograms = [s.exponents if s is not None else None for s in found]
    filled = [h for h in histograms if h is not None and h.counts]
    if not filled:
        return 0, np.full((len(layers), 1), math.nan)
    first = min(h.first for h in filled)
    last = max(h.first + len(h.counts) for h in filled)
    shares = np.full((len(layers), last - first), math.nan)
    for row, h in zip(shares, histograms, strict=True):
        if h is not None and h.counts:
            counts = np.array(h.counts, np.float64)
            with np.errstate(divide="ignore"):
                logs = np.log10(counts / counts.sum())
            row[h.first - first :][: len(counts)] = np.where(counts > 0, logs, math.nan)
    return first, shares


# Tables -----------------------------------------------------------------------------------------


def _items(check: Check) -> str:
    order = list(STATES)
    rows = []
    for item in sorted(check.items, key=lambda item: order.index(item.state)):
        mark = f'<span style="color: {_COLOURS[item.state]}">{STATES[item.state][0]}</span>'
        text = _text(item.came)
        needs = f"{_text(item.must)} <span class='quiet'>({_text(item.source)})</span>"
        rows.append((mark, _text(item.name), text, needs))
    return _table(("", "", "what is", "what must hold"), rows)


def _plan(plan: PrecisionPlan) -> str:
    rows = []
    for role, groups in groupby(plan.groups, key=lambda g: g.role):
        name = "master weights" if role == "update" else f"{role}s"
        rows.append((_text(name), _text(", ".join(map(str, groups)))))
    if (s := plan.loss_scale) is not None:
        rows.append(("loss scale", f"2<sup>{s.log2}</sup>, for {_text(s.form.name)}"))
    bits = ", ".join(f"{name} {form.bits}" for name, form in FORMATS.items())
    return _table(("tensors", "format"), rows) + f'<p class="quiet">Bits: {_text(bits)}.</p>'


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; its cells are HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{top}</tr>\n{body}\n</table>"
