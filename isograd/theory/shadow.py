"""A function run beside its float64 shadow: how far rounding takes each site from the exact value.

"Exact" is the float64 run; its own errors, near 1e-16, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.graph import ArraySpec, Graph, Var
from isograd.engine.number_formats import NumberFormat, rounded
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import plan
from isograd.engine.trace import trace
from isograd.engine.tree import flatten, unflatten
from isograd.theory.formats import as_format

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SiteError:
    """How far the values at a site are from the exact ones.

    Attributes:
        site: the probe's.
        size: root mean square of the exact values.
        max: the largest error, over `size`.
        rms: the root mean square of the errors, over `size`.

    Infinite where the low precision gives what is not finite and the exact value is, or where the
    exact values are all 0 and the others are not; values that are not finite in both are left out.
    """

    site: str
    size: float
    max: float
    rms: float


def shadow(
    f: Callable[..., Any], *args: Any, form: NumberFormat | str = "fp32"
) -> tuple[SiteError, ...]:
    """Run a function in low precision and in float64, and compare it probe by probe.

    The low precision: floats among the arguments are rounded to the format, every operation is done
    in float32 (float64 for fp64), and values are rounded to the format again at each probe, forward
    and backward. So are networks trained whose layers keep their values in 16 bits and sum up
    in 32. A derivative that is taken from an operation's result takes it before the probe. With
    "fp32" the probes round nothing.

    Args:
        f: a function of arrays, with probes; derivatives may be taken in it.
        args: nested arrays. What they lose by being rounded to the format is part of the error.
        form: the format.

    Returns:
        The sites in the order in which the function meets them; a site met again joins the first.

    Raises:
        IsogradError: if there is no format of that name.
        GraphError: if the function cannot be traced.

    Example:
        >>> import isograd, numpy as np
        >>> from isograd.engine import functions as F
        >>> third = lambda x: F.probe(x / 3.0, "third")
        >>> (error,) = shadow(third, np.ones(1), form="fp16")
        >>> error.site, error.max <= 2.0**-11
        ('third', True)
    """
    low = as_format(form)
    dtype = np.dtype(np.float64 if low.fraction_bits > 23 else np.float32)
    leaves, tree = flatten(args)
    arrays = [np.asarray(leaf) for leaf in leaves]
    with np.errstate(over="ignore"):
        rough = [rounded(a.astype(dtype), low) if a.dtype.kind == "f" else a for a in arrays]
    exact = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    seen: dict[str, list[tuple[Array, Array]]] = {}
    runs = (_observed(f, tree, values, form) for values, form in ((rough, low), (exact, None)))
    for (site, x), (_, y) in zip(*runs, strict=True):
        seen.setdefault(site, []).append((np.ravel(x), np.ravel(y)))
    return tuple(
        site_error(site, *map(np.concatenate, zip(*pairs, strict=True)))
        for site, pairs in seen.items()
    )


def _observed(
    f: Callable[..., Any], tree: Any, values: list[Array], form: NumberFormat | None
) -> Iterator[tuple[str, Array]]:
    """What passes the probes of a function, rounded to a format there."""
    graph = trace(f, *unflatten(tree, [ArraySpec(v.shape, v.dtype) for v in values]))
    return probed(graph, values, form)


def probed(
    graph: Graph, leaves: list[Array], form: NumberFormat | None
) -> Iterator[tuple[str, Array]]:
    """Run a graph by its rules, round at each probe, and give what has passed it.

    Args:
        graph: with probes.
        leaves: of the arguments.
        form: to which is rounded; None for not at all.
    """
    planned = plan(graph)
    values: dict[Var, Array] = dict(planned.graph.constants)
    values.update(zip(planned.graph.inputs, leaves, strict=True))
    for eqn, released in zip(planned.graph.eqns, planned.releases, strict=True):
        with np.errstate(all="ignore"):
            out = RULES[eqn.op].eval(*(values[v] for v in eqn.inputs), **eqn.params)
            if eqn.op is Op.PROBE and form is not None and eqn.output.spec.differentiable:
                out = rounded(out, form)
        values[eqn.output] = out
        if eqn.op is Op.PROBE:
            yield eqn.params["site"], out
        for var in released:
            del values[var]


def site_error(site: str, x: Array, exact: Array) -> SiteError:
    """How far x is from the exact values, in units of their root mean square.

    Args:
        site: its name.
        x, exact: of one shape.
    """
    y = np.asarray(exact, np.float64)
    finite = np.isfinite(y)
    largest = float(np.max(np.abs(y), initial=0.0, where=finite))
    if not finite.any():
        return SiteError(site, math.nan, math.nan, math.nan)
    # Squares of what is near the ends of float64 would leave it: by a power of two they do not.
    shift = -math.frexp(largest)[1] if largest else 0
    with np.errstate(all="ignore"):
        difference = np.where(finite, np.ldexp(np.asarray(x, np.float64) - y, shift), 0.0)
        wide = np.abs(np.where(np.isnan(difference), np.inf, difference))
        size = _rms(np.ldexp(y[finite], shift))
        error, most = _rms(wide[finite]), float(np.max(wide))
    return SiteError(site, math.ldexp(size, -shift), _over(most, size), _over(error, size))


def _rms(x: Array) -> float:
    top = float(np.max(np.abs(x)))
    return top * math.sqrt(float(np.mean(np.square(x / top)))) if 0.0 < top < math.inf else top


def _over(error: float, size: float) -> float:
    return error / size if size else math.inf if error else 0.0


__all__ = ["SiteError", "probed", "shadow", "site_error"]
