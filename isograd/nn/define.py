"""Activations that a program defines, for specs to name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.autodiff import vjp
from isograd.engine.graph import ArraySpec, Graph
from isograd.engine.ops import RULES, Op, Value
from isograd.engine.trace import trace
from isograd.errors import SpecError
from isograd.nn.activations import FORMULAS, Formula
from isograd.nn.spec import ACTIVATION_NAMES, define_activation_name

_FIX = "write it with isograd.functions, or with the operators and functions of NumPy they mirror"


def define_activation(
    name: str,
    f: Callable[[Value], Value],
    *,
    kinks: Sequence[float] = (),
    text: str = "",
    source: str = "",
) -> None:
    """Let specs name an activation of your own, in this process, its trials and its maps.

    f is run on arrays of several shapes, and differentiated by the engine. It counts as elementwise
    if it is made of elementwise functions alone; one that mixes values (as softmax does) can be
    used too, but theory says nothing of it.

    Args:
        name: by which specs name it; an identifier that no other activation has.
        f: of an array (n, M) in float32 or float64, giving a real array of the same shape and
            dtype; written with `isograd.functions`, operators, or functions of NumPy.
        kinks: where its first or second derivative jumps.
        text: the formula, for reports.
        source: where it comes from.

    Raises:
        SpecError: if the name is taken by another function, or f is no such function.

    Example:
        >>> from isograd import functions as F, nn
        >>> nn.define_activation("mish", lambda x: x * F.tanh(F.softplus(x)), source="Misra 2019")
        >>> nn.Activation("mish").name
        'mish'
    """
    if not (isinstance(name, str) and name.isidentifier()):
        raise _refusal(name, "the name of an activation must be an identifier", repr(name), "")
    if name in ACTIVATION_NAMES:
        fix = "choose another name"
        raise _refusal(name, "a built-in activation must not be defined anew", name, fix)
    if not callable(f):
        raise _refusal(name, "an activation must be a function of an array", repr(f), _FIX)
    formula = Formula(
        lambda x, _: f(x),
        text or f"{name}(x)",
        source or "defined by the program",
        _kinks(name, kinks),
        _elementwise(_check(name, f)),
    )
    if name in FORMULAS and not _same(FORMULAS[name], formula):
        raise _refusal(
            name,
            "an activation must not be defined twice, in different ways",
            "another function or other kinks",
            "choose another name: what theory says of the first is kept",
        )
    enter({name: formula})


def defined() -> dict[str, Formula]:
    """The activations that the program has defined, by name: what a worker process must be told."""
    return {name: formula for name, formula in FORMULAS.items() if name not in ACTIVATION_NAMES}


def enter(formulas: Mapping[str, Formula]) -> None:
    """Make activations known that were defined here before, or in the process that sends work."""
    for name, formula in formulas.items():
        FORMULAS.setdefault(name, formula)
        define_activation_name(name)


def _refusal(name: Any, must: str, came: str, fix: str) -> SpecError:
    return SpecError(must, came=came, where=f"define_activation({name!r})", fix=fix)


def _kinks(name: str, kinks: Sequence[float]) -> tuple[float, ...]:
    try:
        points = tuple(sorted(float(k) for k in kinks))
    except (TypeError, ValueError):
        points = (math.nan,)
    if not all(map(math.isfinite, points)):
        must, fix = "kinks must be a sequence of finite numbers", "list where the slope jumps"
        raise _refusal(name, must, f"kinks = {kinks!r}", fix)
    return points


def _check(name: str, f: Callable[[Value], Value]) -> Graph:
    """The graph of f, if it does on arrays of each kind what an activation must do."""
    rng = np.random.default_rng(0)
    for dtype in (np.float64, np.float32):
        for shape in ((4, 3), (7, 5), (1, 1)):
            x = (3.0 * rng.standard_normal(shape)).astype(dtype)
            x.flags.writeable = False
            plain = _attempt(name, f, x)
            value, pull_back = _attempt(name, vjp, f, x)
            _alike(name, x, plain, value)
            (slope,) = _attempt(name, pull_back, np.ones_like(x))
            if not (np.isfinite(value).all() and np.isfinite(slope).all()):
                came = "one that is not, between −10 and 10"
                must = "values and slopes of an activation must be finite where inputs are moderate"
                raise _refusal(
                    name, must, came, "cut the other branch out by isograd.functions.where"
                )
    graph: Graph = _attempt(name, trace, f, ArraySpec((4, 3)))
    return graph


def _attempt(name: str, call: Callable[..., Any], *args: Any) -> Any:
    try:
        with np.errstate(all="ignore"):
            return call(*args)
    except Exception as error:  # whatever the user's function may raise
        must = "an activation must be a function of one array that can be traced and differentiated"
        came = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise _refusal(name, must, came, _FIX) from error


def _alike(name: str, x: NDArray[Any], plain: Any, value: Any) -> None:
    """Refuse a result of another shape or dtype, and one that changes from call to call."""
    for result in (np.asarray(plain), np.asarray(value)):
        if result.shape != x.shape or result.dtype != x.dtype:
            must = "an activation must keep the shape and the dtype of its input"
            came = f"{result.dtype} {result.shape} from {x.dtype} {x.shape}"
            raise _refusal(name, must, came, "keep the axes, and use Python numbers for constants")
    if not np.allclose(plain, value, rtol=1e-5, equal_nan=True):
        must = "an activation must give the same for the same input, differentiated or not"
        came = "two results that differ"
        raise _refusal(name, must, came, "use no randomness, no state and no type of its input")


def _elementwise(graph: Graph) -> bool:
    """Whether a graph proves that each value depends on the one at its own place alone.

    It does if nothing but single numbers is broadcast, no constant differs from place to place, and
    all else is elementwise.
    """

    def keeps(op: Op) -> bool:
        return op is Op.BROADCAST or RULES[op].elementwise

    return (
        all(keeps(eqn.op) for eqn in graph.eqns)
        and all(e.inputs[0].spec.size == 1 for e in graph.eqns if e.op is Op.BROADCAST)
        and all(c.size == 1 or np.ptp(c) == 0 for c in graph.constants.values())
    )


def _same(one: Formula, other: Formula) -> bool:
    """Whether two formulas do the same: a notebook may run a definition twice."""
    a, b = (trace(lambda x, f=f: f.f(x, 0.0), ArraySpec((4, 3))) for f in (one, other))
    constants = zip(a.constants.values(), b.constants.values(), strict=False)
    return (
        str(a) == str(b)
        and one.kinks == other.kinks
        and all(np.array_equal(x, y, equal_nan=True) for x, y in constants)
    )


__all__ = ["define_activation", "defined", "enter"]
