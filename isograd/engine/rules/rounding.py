"""Numbers rounded to a narrower format: forwards, or on the way back.

Rounding has no useful derivative, as it is constant almost everywhere: that of x itself is taken in
its place (the straight-through estimator, Bengio, Léonard & Courville 2013, sec. 4), as arithmetic
in a narrow format takes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.functions import round_to
from isograd.engine.graph import ArraySpec
from isograd.engine.number_formats import FORMATS, rounded
from isograd.engine.ops import Op, Rule, Value, define
from isograd.errors import ShapeError

_Params = dict[str, Any]
_Args = tuple[Value, ...]

_WORD = np.dtype(np.uint32)


def _same(x: ArraySpec, others: tuple[ArraySpec, ...], *, scaled: bool) -> ArraySpec:
    """The spec of x, if that of the scale is the same, and random words have its shape."""
    wanted = [x] * scaled + [ArraySpec(x.shape, _WORD)] * (len(others) - scaled)
    if list(others) != wanted or len(others) > scaled + 1:
        raise ShapeError(
            "what rounds an array must have its shape: random bits of uint32, a scale of its dtype",
            came=", ".join(map(str, (x, *others))),
            fix="broadcast and cast them first (isograd.functions does)",
        )
    return x


def _round(x: NDArray[Any], *bits: NDArray[Any], form: str) -> NDArray[Any]:
    return rounded(x, FORMATS[form], *bits)


def _straight(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    return t if i == 0 else None


define(
    Op.ROUND,
    Rule(
        _round,
        lambda x, *bits, form: _same(x, bits, scaled=False),
        _straight,
        _straight,
        domain="all; the derivative is that of x",
        elementwise=True,
    ),
)


def _rounded(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value | None:
    if i:
        return None
    _, scale, *bits = args
    return round_to(g * scale, params["form"], *bits) / scale


define(
    Op.ROUND_COTANGENT,
    Rule(
        lambda x, *rest, form: x,
        lambda x, *rest, form: _same(x, rest, scaled=True),
        _straight,
        _rounded,
        domain="all; the cotangent is rounded",
        elementwise=True,
    ),
)
