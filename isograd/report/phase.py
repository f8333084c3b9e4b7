"""A map told: the curves of theory over it, a table, a heat map as text, and what programs read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text
from scipy.optimize import brentq

from isograd import theory
from isograd.errors import IsogradError
from isograd.nn.activations import phi
from isograd.nn.initialisers import Variances, scale
from isograd.nn.settings import VARIANCES, Value, depth_block
from isograd.nn.spec import Activation, Dense, Spec
from isograd.training.axes import Axis, text_of
from isograd.training.cells import Cell
from isograd.training.sweep import Map, Plan

Array = NDArray[np.float64]

BETWEEN = 8
"""Points of a curve between two columns: enough for a smooth line, and seconds of theory."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Depth scales of mean-field theory along the axis that changes the initialiser.

    Attributes:
        along: that axis: "x" or "y"; the other one is depth.
        at: (n,) its values, those of the map's cells among them.
        sigma_w2, sigma_b2: (n,) what the initialiser gives the repeated layer there.
        xi_c: (n,) the depth scale of the correlation, in layers.
        trainable: (n,) 6 ξ_c, the depth that can still be trained (where the signal explodes, that
            of `theory.mean_field`).
        critical: values of the axis where χ₁ = 1.
    """

    along: str
    at: Array
    sigma_w2: Array
    sigma_b2: Array
    xi_c: Array
    trainable: Array
    critical: tuple[float, ...]


def curves(plan: Plan) -> Curves | str:
    """ξ_c and 6 ξ_c over a map, or why there are none.

    They are those of a plain network: its one repeat block must hold a dense layer and an
    elementwise activation and nothing else, one axis must be depth, and the other one must change
    the variances that the initialiser gives that layer.

    References:
        Schoenholz et al. 2017, eq. 9 and fig. 5.
    """
    axes = {"x": (plan.x, plan.settings[0]), "y": (plan.y, plan.settings[1])}
    along = [name for name, (_, each) in axes.items() if each.name != "depth"]
    if len(along) != 1:
        return "no axis is depth"
    axis, each = axes[along[0]]
    block = depth_block(plan.spec).repeat.layers
    acts = [layer for layer in block if isinstance(layer, Activation)]
    if len(block) != 2 or len(acts) != 1 or not any(isinstance(x, Dense) for x in block):
        return "mean field is that of blocks of one dense layer and one activation"
    if not axis.numeric:
        return f"{axis.name} is no number"
    specs: Callable[[float], Spec] = partial(each.edit, plan.spec)
    try:
        laws = {_law(specs(value)) for value in _numbers(axis)}
    except IsogradError as error:
        return error.must
    if None in laws:
        return "the initialiser has no variances that theory knows"
    if len(laws) == 1 and (len(axis.values) > 1 or axis.name not in VARIANCES):
        return f"{axis.name} does not change the initialiser"
    at = _finer(axis) if not each.whole else np.array(_numbers(axis))
    fields = [_field(specs(value)) for value in at.tolist()]
    return Curves(
        along[0],
        at,
        np.array([f.sigma_w2 for f in fields]),
        np.array([f.sigma_b2 for f in fields]),
        np.array([f.xi_c for f in fields]),
        np.array([f.trainable_depth for f in fields]),
        tuple(_crossings(at, [f.chi1 for f in fields], lambda v: _field(specs(v)).chi1)),
    )


def _numbers(axis: Axis) -> list[float]:
    return [float(value) for value in axis.values]


def _finer(axis: Axis) -> Array:
    """The values of an axis, and some between each two."""
    values = np.array(_numbers(axis))
    finer = np.exp(_between(np.log(values))) if axis.log else _between(values)
    finer[:: BETWEEN + 1] = values  # those of cells to the bit
    return finer


def _between(values: Array) -> Array:
    places = np.arange((len(values) - 1) * (BETWEEN + 1) + 1) / (BETWEEN + 1)
    return np.interp(places, np.arange(len(values)), values)


def _layer(spec: Spec) -> tuple[Dense, Activation]:
    block = depth_block(spec)
    return block.dense(), block.activation()


def _law(spec: Spec) -> Variances | None:
    """What the initialiser gives the repeated layer, whose inputs are as many as its outputs."""
    dense, act = _layer(spec)
    init = dense.init or spec.network.init
    return scale(init, phi(act), dense.units, dense.units, bias=dense.bias)


def _field(spec: Spec) -> theory.MeanField:
    law = _law(spec)
    assert law is not None
    return theory.mean_field(phi(_layer(spec)[1]), law.sigma_w2, law.sigma_b2)


def _crossings(at: Array, chi1: list[float], of: Callable[[float], float]) -> Iterator[float]:
    """Where χ₁ passes through 1."""
    for (a, left), (b, right) in zip(
        zip(at.tolist(), chi1, strict=True),
        zip(at[1:].tolist(), chi1[1:], strict=True),
        strict=False,
    ):
        if left == 1.0:
            yield a
        elif (left - 1.0) * (right - 1.0) < 0:
            yield float(brentq(lambda v: of(v) - 1.0, a, b, xtol=1e-9 * b))
    if chi1 and chi1[-1] == 1.0:
        yield float(at[-1])


# As a table -------------------------------------------------------------------------------------


def to_csv(result: Map) -> str:
    """A row for each cell, column by column: both settings, scores, how it ended, how long.

    Numbers are written so that they read back to the same bits.
    """
    out, name = io.StringIO(newline=""), "r2" if result.metric == "R²" else "accuracy"
    writer = csv.writer(out, lineterminator="\n")
    scores = [f"{part}_{score}" for part in ("train", "test") for score in (name, "loss")]
    plan = result.plan
    ends = ["stopped", "steps", "skipped", "seconds", "reason"]
    writer.writerow([plan.x.name, plan.y.name, *scores, *ends])
    for (i, j), cell in sorted(result.cells.items()):
        settings = [_plain(plan.x.values[i]), _plain(plan.y.values[j])]
        numbers = [cell.train.accuracy, cell.train.loss, cell.test.accuracy, cell.test.loss]
        ended = [cell.stopped, cell.steps, cell.skipped, repr(cell.seconds), cell.reason]
        writer.writerow([*settings, *map(repr, numbers), *ended])
    return out.getvalue()


def _plain(value: Value) -> str:
    return repr(value) if isinstance(value, float) else text_of(value)


# As text ----------------------------------------------------------------------------------------

_SHADES = " ░▒▓█"
_COLOURS = dict(zip(_SHADES, ("", "#3b528b", "#21918c", "#5ec962", "#fde725"), strict=True))
_LABEL = 10
_FRAME = _LABEL + 3  # and the two bars
_TALL = 40


def show_map(console: Console, result: Map, theory_of: Curves | str) -> None:
    """The heat map in block characters, what the shades mean, and what theory says below it."""
    plan = result.plan
    console.print(_heading(result))
    columns = _some(len(plan.x.values), console.width - _FRAME)
    rows = _some(len(plan.y.values), _TALL)
    width = max(1, min(6, (console.width - _FRAME) // len(columns)))
    for j in reversed(rows):
        marks = [_shade(result.cells.get((i, j))) for i in columns]
        line = Text.assemble(*((mark * width, _COLOURS.get(mark, "red")) for mark in marks))
        label = f"{text_of(plan.y.values[j]):>{_LABEL}} │"
        console.print(Text.assemble(label, line, "│"), soft_wrap=True)
    console.print(Text(_below(plan.x, columns, width)), soft_wrap=True)
    if not isinstance(theory_of, str) and theory_of.along == "x" and width > 3:
        console.print(Text(_scales(plan.x, theory_of, columns, width)), soft_wrap=True)
    console.print(_legend(result, theory_of), soft_wrap=True)


def _heading(result: Map) -> Text:
    plan, total = result.plan, len(result.plan.specs)
    done = f"{len(result.cells)} of {total}" if len(result.cells) < total else f"{total}"
    name = f"training {result.metric} after {plan.steps} steps, {done} cells"
    return Text.assemble((f"{plan.y.name} over {plan.x.name}", "bold"), f": {name}")


def _some(count: int, most: int) -> list[int]:
    """All of so many rows, or as many of them as there is room for, evenly."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _shade(cell: Cell | None) -> str:
    if cell is None:
        return "?"
    if cell.stopped in ("diverged", "refused"):
        return "×" if cell.stopped == "diverged" else "–"
    value = cell.train.accuracy
    if not math.isfinite(value):
        return "×"
    return _SHADES[min(len(_SHADES) - 1, max(0, int(value * len(_SHADES))))]


def _below(axis: Axis, columns: list[int], width: int) -> str:
    """Labels under the columns, as many as there is room for."""
    labels = [text_of(axis.values[i]) for i in columns]
    every = max(1, math.ceil((max(map(len, labels)) + 1) / width))
    line = " " * (_LABEL + 2)
    for place, label in enumerate(labels):
        if place % every == 0:
            line += label.ljust(width * every)
    return line.rstrip()


def _scales(axis: Axis, theory_of: Curves, columns: list[int], width: int) -> str:
    known = dict(zip(theory_of.at.tolist(), theory_of.trainable.tolist(), strict=True))
    values = [known[float(axis.values[i])] for i in columns]
    shown = [f"{v:.0f}" if v < 10 ** (width - 1) else "∞" if math.isinf(v) else ">" for v in values]
    return "6 ξ_c".rjust(_LABEL) + "  " + "".join(text.ljust(width) for text in shown).rstrip()


def _legend(result: Map, theory_of: Curves | str) -> Text:
    edges = [i / len(_SHADES) for i in range(len(_SHADES))]
    parts = [
        f"{shade} from {100 * low:.0f} %" for shade, low in zip(_SHADES[1:], edges[1:], strict=True)
    ]
    ends = {cell.stopped for cell in result.cells.values()}
    trained = [cell for cell in result.cells.values() if cell.stopped != "refused"]
    lost = any(not math.isfinite(cell.train.accuracy) for cell in trained)
    parts += ["× diverged, or not finite"] if lost or "diverged" in ends else []
    why = dict.fromkeys(c.reason.partition("\n")[0] for c in result.cells.values() if c.reason)
    parts += [f"– refused ({'; '.join(list(why)[:2])})"] if "refused" in ends else []
    text = "blank: below 20 %, " + ", ".join(parts)
    if isinstance(theory_of, str):
        text += f"\nno curves of theory: {theory_of}"
    for value in () if isinstance(theory_of, str) else theory_of.critical:
        axis = result.plan.x if theory_of.along == "x" else result.plan.y  # type: ignore[union-attr]
        text += f"\ncritical (χ₁ = 1) at {axis.name} = {value:.6g}"
    for note in result.plan.notes:
        text += f"\n{note}"
    return Text(text, style="dim")


# For programs -----------------------------------------------------------------------------------


def to_json(result: Map, theory_of: Curves | str) -> dict[str, Any]:
    """Fields of `isograd map --json`."""
    plan = result.plan
    return {
        "metric": result.metric,
        "steps": plan.steps,
        "x": {"setting": plan.x.name, "values": plan.x.values},
        "y": {"setting": plan.y.name, "values": plan.y.values},
        "notes": plan.notes,
        "cells": [
            {
                "x": plan.x.values[i],
                "y": plan.y.values[j],
                "stopped": cell.stopped,
                "train": asdict(cell.train),
                "test": asdict(cell.test),
                "steps": cell.steps,
                "skipped": cell.skipped,
                "seconds": cell.seconds,
                "reason": cell.reason or None,
            }
            for (i, j), cell in sorted(result.cells.items())
        ],
        "curves": None if isinstance(theory_of, str) else asdict(theory_of) | _lists(theory_of),
        "no_curves": theory_of if isinstance(theory_of, str) else None,
        "interrupted": result.interrupted,
    }


def _lists(theory_of: Curves) -> dict[str, list[float]]:
    names = ("at", "sigma_w2", "sigma_b2", "xi_c", "trainable")
    return {name: getattr(theory_of, name).tolist() for name in names}


__all__ = ["Curves", "curves", "show_map", "to_csv", "to_json"]
