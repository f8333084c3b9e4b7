"""A map drawn: a page that opens without a network (plotly), and a PNG (matplotlib)."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.report.phase import Curves, to_csv
from isograd.training.axes import Axis, text_of
from isograd.training.files import write_whole
from isograd.training.sweep import Map

Array = NDArray[np.float64]

INK, GREY, RED = "#1b1f24", "#6b7280", "#e5484d"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
NAME = "map"
_FEW = 14  # values that each get a tick


def positions(axis: Axis) -> Array:
    """Where the values of an axis lie: numbers at themselves, names one after the other."""
    return np.array(axis.values if axis.numeric else range(len(axis.values)), dtype=np.float64)


def edges(axis: Axis) -> Array:
    """The borders of an axis' cells, one more than values: half way between each two."""
    at = positions(axis)
    return np.exp(_halves(np.log(at))) if axis.log else _halves(at)


def _halves(at: Array) -> Array:
    if len(at) == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middle = 0.5 * (at[1:] + at[:-1])
    return np.array([at[0] - (middle[0] - at[0]), *middle, at[-1] + (at[-1] - middle[-1])])


def write_figures(folder: Path, result: Map, theory_of: Curves | str) -> tuple[list[Path], str]:
    """Write map.csv, map.html and map.png.

    Returns:
        The files, and what to install for those that lack a library; empty if none does.
    """
    written, missing = [folder / f"{NAME}.csv"], []
    write_whole(written[0], to_csv(result).encode())
    for library, suffix, draw in (("plotly", "html", page), ("matplotlib", "png", png)):
        try:
            content = draw(result, theory_of)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != library:
                raise
            missing.append(f"{NAME}.{suffix} needs {library}")
            continue
        written.append(folder / f"{NAME}.{suffix}")
        write_whole(written[-1], content)
    advice = f"{' and '.join(missing)}: pip install isograd[figures]" if missing else ""
    return written, advice


def title(result: Map) -> str:
    """What the figure shows."""
    return f"Training {result.metric} after {result.plan.steps} steps"


_LABELS = {
    "depth": "depth (weight layers)",
    "sigma_w": "σ<sub>w</sub>",
    "sigma_w2": "σ<sub>w</sub>²",
    "sigma_b2": "σ<sub>b</sub>²",
}
"""Of settings that theory has a letter for, as HTML."""


def _label(axis: Axis) -> str:
    return _LABELS.get(axis.name, axis.name)


def _math(text: str) -> str:
    """A label with subscripts as matplotlib writes them."""
    return re.sub(r"(\S)<sub>(\w)</sub>", r"$\1_\2$", text)


def _lines(result: Map, curves: Curves) -> list[tuple[str, str, Array, Array]]:
    """Name, dash, x and y of the two curves; beyond the figure they are cut."""
    out = []
    depth = edges(result.plan.y if curves.along == "x" else result.plan.x)
    for name, dash, values in (
        ("ξ<sub>c</sub>", "dash", curves.xi_c),
        ("6 ξ<sub>c</sub>", "solid", curves.trainable),
    ):
        shown = np.where(np.isfinite(values) & (values <= 20 * depth[-1]), values, np.nan)
        ends = (curves.at, shown) if curves.along == "x" else (shown, curves.at)
        out.append((name, dash, *ends))
    return out


# plotly -----------------------------------------------------------------------------------------


def figure(result: Map, theory_of: Curves | str) -> Any:
    """The map as a plotly figure: a trace for the cells, and one for each curve."""
    import plotly.graph_objects as go

    plan = result.plan
    plot = go.Figure()
    plot.add_heatmap(
        x=edges(plan.x),
        y=edges(plan.y),
        z=result.accuracy,
        zmin=0.0,
        zmax=1.0,
        colorscale="Viridis",
        colorbar={"title": {"text": f"training<br>{result.metric}"}},
        customdata=_hover(result),
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=True,
        name="cells",
    )
    for stopped, symbol in (("diverged", "x-thin"), ("refused", "line-ew")):
        places = [p for p, cell in sorted(result.cells.items()) if cell.stopped == stopped]
        if places:
            i, j = np.array(places).T
            line = {"width": 2, "color": GREY}
            plot.add_scatter(
                x=positions(plan.x)[i],
                y=positions(plan.y)[j],
                mode="markers",
                marker={"symbol": symbol, "size": 10, "line": line},
                name=stopped,
                hoverinfo="skip",
            )
    if not isinstance(theory_of, str):
        _draw_curves(plot, result, theory_of)
    for axis, update in ((plan.x, plot.update_xaxes), (plan.y, plot.update_yaxes)):
        ends = edges(axis)[[0, -1]]
        update(
            title_text=_label(axis),
            range=(np.log10(ends) if axis.log else ends).tolist(),
            type="log" if axis.log else "linear",
            showgrid=False,
            zeroline=False,
            ticks="outside",
            constrain="domain",
        )
        if not axis.numeric or len(axis.values) <= _FEW:
            texts = [text_of(v) for v in axis.values]
            update(tickvals=positions(axis).tolist(), ticktext=texts)
    plot.update_layout(
        template="plotly_white",
        plot_bgcolor="#dfe3e8",
        font={"family": FONT, "size": 14, "color": INK},
        title={"text": title(result), "x": 0.06, "font": {"size": 20}},
        legend={"orientation": "h", "x": 0.0, "y": 1.0, "yanchor": "bottom", "bgcolor": "#c9ced6"},
        margin={"l": 70, "r": 30, "t": 100, "b": 70},
    )
    return plot


def _draw_curves(plot: Any, result: Map, curves: Curves) -> None:
    for name, dash, x, y in _lines(result, curves):
        common = {"x": x, "y": y, "mode": "lines", "hoverinfo": "skip", "legendgroup": name}
        # A dark line below a light one can be seen on every colour.
        plot.add_scatter(**common, line={"color": INK, "width": 5}, showlegend=False)
        plot.add_scatter(**common, line={"color": "white", "width": 2.5, "dash": dash}, name=name)
    for value in curves.critical:
        ends = edges(result.plan.y if curves.along == "x" else result.plan.x)[[0, -1]]
        at = [value, value]
        places = {"x": at, "y": ends} if curves.along == "x" else {"x": ends, "y": at}
        line = {"color": RED, "width": 2.5, "dash": "dot"}
        plot.add_scatter(**places, mode="lines", line=line, name=f"χ₁ = 1 at {value:.6g}")


def _hover(result: Map) -> list[list[str]]:
    """What is said of each cell, row by row."""
    plan = result.plan
    rows = []
    for j, y in enumerate(plan.y.values):
        row = []
        for i, x in enumerate(plan.x.values):
            text = f"{plan.x.name} = {text_of(x)}<br>{plan.y.name} = {text_of(y)}<br>"
            cell = result.cells.get((i, j))
            if cell is None:
                row.append(text + "not trained yet")
                continue
            for name, score in (("training", cell.train), ("test", cell.test)):
                text += f"{name} {result.metric} {score.accuracy:.3f}, loss {score.loss:.4g}<br>"
            why = html.escape(cell.reason.partition("\n")[0])
            text += f"{cell.stopped} after {cell.steps} steps" + (f": {why}" if why else "")
            row.append(text)
        rows.append(row)
    return rows


def page(result: Map, theory_of: Curves | str) -> bytes:
    """A page that holds the figure and all that draws it: it opens without a network."""
    options = {"displaylogo": False, "responsive": True}
    body = figure(result, theory_of).to_html(
        include_plotlyjs=True, full_html=False, config=options, default_height="100%"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title(result))}</title>\n"
        "<style>html, body, body > div { height: 100%; margin: 0 }</style>\n"
        f"<body>{body}</body>\n</html>\n"
    ).encode()


# matplotlib -------------------------------------------------------------------------------------


def drawing(result: Map, theory_of: Curves | str) -> Any:
    """The map as a matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.patheffects import Normal, Stroke

    plan = result.plan
    drawn = Figure(figsize=(8.0, 5.6), dpi=150, layout="constrained")
    axes = drawn.subplots()
    axes.set_facecolor("#dfe3e8")
    mesh = axes.pcolormesh(
        edges(plan.x), edges(plan.y), np.ma.masked_invalid(result.accuracy), vmin=0.0, vmax=1.0
    )
    drawn.colorbar(mesh, ax=axes, label=f"training {result.metric}")
    for stopped, mark in (("diverged", "x"), ("refused", "_")):
        places = [p for p, cell in sorted(result.cells.items()) if cell.stopped == stopped]
        if places:
            i, j = np.array(places).T
            at = positions(plan.x)[i], positions(plan.y)[j]
            axes.scatter(*at, marker=mark, color=GREY, label=stopped)
    if not isinstance(theory_of, str):
        halo = [Stroke(linewidth=4, foreground=INK), Normal()]
        for name, dash, x, y in _lines(result, theory_of):
            style = "--" if dash == "dash" else "-"
            axes.plot(x, y, style, color="white", linewidth=2, label=_math(name), path_effects=halo)
        for value in theory_of.critical:
            draw = axes.axvline if theory_of.along == "x" else axes.axhline
            draw(value, color=RED, linestyle=":", linewidth=2, label=f"χ₁ = 1 at {value:.6g}")
    for axis, name in ((plan.x, "x"), (plan.y, "y")):
        if axis.log:
            axes.set(**{f"{name}scale": "log"})
        axes.set(**{f"{name}lim": edges(axis)[[0, -1]], f"{name}label": _math(_label(axis))})
        if not axis.numeric or len(axis.values) <= _FEW:
            texts = [text_of(v) for v in axis.values]
            axes.set(**{f"{name}ticks": positions(axis), f"{name}ticklabels": texts})
            getattr(axes, f"{name}axis").minorticks_off()
    axes.set_title(title(result), loc="left")
    if axes.get_legend_handles_labels()[0]:
        drawn.legend(loc="outside lower center", ncols=5, facecolor="#c9ced6", frameon=True)
    return drawn


def png(result: Map, theory_of: Curves | str) -> bytes:
    """The map as the content of a PNG file."""
    out = io.BytesIO()
    drawing(result, theory_of).savefig(out, format="png")
    return out.getvalue()


__all__ = ["drawing", "edges", "figure", "page", "png", "positions", "write_figures"]
