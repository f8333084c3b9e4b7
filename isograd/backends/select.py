"""Which backend runs a plan."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from isograd.backends import numpy as reference
from isograd.backends.llvm.jit import available
from isograd.engine.graph import Graph, Var
from isograd.engine.plan import plan
from isograd.engine.recompute import plan_recomputed
from isograd.errors import IsogradError, nearest

if TYPE_CHECKING:
    from isograd.backends.llvm.program import Scan

Backend = Literal["native", "numpy"]
"""Machine code made for this machine, or the reference interpreter."""

DEFAULT: Backend = "native"

VARIABLE = "ISOGRAD_BACKEND"
"""Of the environment: another default."""

SLOWER = "the slower interpreter runs instead of machine code"
"""What is said where no machine code can be made."""


def choose(backend: str | None = None) -> Backend:
    """The backend of a name; without a name that of `ISOGRAD_BACKEND`, or the default.

    Where no machine code can be made it is the interpreter, and a `RuntimeWarning` says so, once.

    Raises:
        IsogradError: no backend has that name.
    """
    name = os.environ.get(VARIABLE, DEFAULT) if backend is None else backend
    if name not in get_args(Backend):
        raise IsogradError(
            "a backend must be " + " or ".join(get_args(Backend)),
            came=repr(name),
            fix=nearest(str(name), get_args(Backend)),
        )
    if name == "native":
        reason = available()
        if reason is None:
            return "native"
        _tell(reason)
    return "numpy"


@cache
def _tell(reason: str) -> None:
    warnings.warn(f"{SLOWER}: {reason}", RuntimeWarning, stacklevel=3)


@cache
def _tell_of_pieces(primitives: tuple[str, ...]) -> None:
    """Say once, of each set of primitives, that they have no native code."""
    if primitives:
        names = ", ".join(primitives)
        text = f"pieces without native code on these dtypes run in the interpreter: {names}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def executable(graph: Graph, backend: Backend) -> Callable[..., Any]:
    """A graph, ready to be called as `isograd.backends.numpy.Executable` is; it runs in one thread.

    Args:
        graph: what to run.
        backend: from `choose`.
    """
    if backend == "numpy":
        return reference.Executable(plan(graph))
    from isograd.backends.llvm.program import Native

    made = Native(plan(graph))
    _tell_of_pieces(tuple(made.fallbacks))
    return made


def scan(
    graph: Graph,
    backend: Backend,
    *,
    axes: Mapping[Var, int] | None = None,
    threads: int | None = None,
    recompute: bool = False,
) -> Callable[..., Any]:
    """A step in rounds, ready to be called as `isograd.backends.numpy.Scan` is.

    Args:
        graph: of the step.
        backend: from `choose`.
        axes: inputs that are split among threads, and along which axis: the batch.
        threads: that it may use; None takes one for little work, else one for each core. The
            interpreter runs in one, and its matrix products in as many as NumPy's BLAS takes.
        recompute: whether to compute again what takes memory from the forward to the backward pass.
    """
    if backend == "numpy":
        return reference.Scan(plan_recomputed(graph) if recompute else plan(graph))
    return native_scan(graph, axes=axes, threads=threads, recompute=recompute)


def native_scan(
    graph: Graph,
    *,
    axes: Mapping[Var, int] | None = None,
    threads: int | None = None,
    recompute: bool = False,
    active: Mapping[str, tuple[float, float]] | None = None,
    full: bool = True,
    timed: bool = False,
) -> Scan:
    """Likewise as machine code, which can measure.

    Args:
        graph, axes, threads, recompute: as for `scan`.
        active: by site, the interval outside of which values count as saturated: what probes show
            is measured; None lets observers look at it.
        full: whether everything that a summary holds is measured, or moments alone.
        timed: whether to take the time of each kernel.
    """
    from isograd.backends.llvm.division import divided
    from isograd.backends.llvm.program import Scan
    from isograd.backends.llvm.work import Measuring

    found, count = divided(graph, axes or {}, threads, recompute=recompute)
    measuring = None if active is None else Measuring(full, active)
    made = Scan(found, count, timed=timed, measuring=measuring)
    _tell_of_pieces(tuple(made.fallbacks))
    return made
