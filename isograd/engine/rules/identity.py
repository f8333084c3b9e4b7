"""Identities that mean something to differentiation or to an observer."""

from __future__ import annotations

from typing import Any

from isograd.engine.functions import probe
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define

_Params = dict[str, Any]
_Args = tuple[Value, ...]


def _none(i: int, t: Value, out: Value, args: _Args, params: _Params) -> None:
    return None


define(
    Op.STOP_GRADIENT,
    Rule(lambda x: x, lambda x: x, _none, _none, domain="all; derivative 0", elementwise=True),
)

# --- probe: y = x, seen at `site`; ∂L/∂x, seen at `cotangent`


def _probe_shape(x: ArraySpec, *, site: str, cotangent: str | None) -> ArraySpec:
    return x


def _probe_jvp(i: int, t: Value, out: Value, args: _Args, params: _Params) -> Value:
    return t


def _probe_vjp(i: int, g: Value, out: Value, args: _Args, params: _Params) -> Value:
    return g if params["cotangent"] is None else probe(g, params["cotangent"])


define(
    Op.PROBE,
    Rule(
        lambda x, *, site, cotangent: x,
        _probe_shape,
        _probe_jvp,
        _probe_vjp,
        domain="all",
        effect=True,
    ),
)
