"""Which backend runs a plan."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Literal, get_args

from isograd.backends import numpy as reference
from isograd.engine.plan import Plan
from isograd.errors import IsogradError, nearest

Backend = Literal["native", "numpy"]
"""Machine code made for this machine, or the reference interpreter."""

DEFAULT: Backend = "numpy"


def choose(backend: str | None = None) -> Backend:
    """The backend of a name; without a name that which is taken by default.

    Where no machine code can be made it is the interpreter, and a `RuntimeWarning` says so, once.

    Raises:
        IsogradError: no backend has that name.
    """
    name = DEFAULT if backend is None else backend
    if name not in get_args(Backend):
        raise IsogradError(
            "a backend must be " + " or ".join(get_args(Backend)),
            came=repr(name),
            fix=nearest(str(name), get_args(Backend)),
        )
    if name == "native":
        reason = unavailable()
        if reason is None:
            return "native"
        _tell(reason)
    return "numpy"


@cache
def unavailable() -> str | None:
    """Why no machine code can be made here; None where it can."""
    try:
        import_module("llvmlite.binding")
    except (ImportError, OSError) as error:
        return f"llvmlite cannot be loaded ({error}); `pip install isograd[native]` brings it"
    for name, make in (("jit", "available"), ("program", "Scan")):
        if not hasattr(import_module(f"isograd.backends.llvm.{name}"), make):
            return "steps in rounds have no native code yet"
    reason: str | None = import_module("isograd.backends.llvm.jit").available()
    return reason


@cache
def _tell(reason: str) -> None:
    text = f"the slower interpreter runs instead of machine code: {reason}"
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def executable(plan: Plan, backend: Backend, *, threads: int | None = None) -> Callable[..., Any]:
    """A plan, ready to be called as `isograd.backends.numpy.Executable` is.

    Args:
        plan: what to run.
        backend: from `choose`.
        threads: that it may use; None leaves their number to the backend. The interpreter runs in
            one, and its matrix products in as many as NumPy's BLAS takes.
    """
    if backend == "numpy":
        return reference.Executable(plan)
    from isograd.backends.llvm.program import Native

    made: Callable[..., Any] = Native(plan)
    return made


def scan(plan: Plan, backend: Backend, *, threads: int | None = None) -> Callable[..., Any]:
    """A step in rounds, ready to be called as `isograd.backends.numpy.Scan` is.

    Args:
        plan, backend, threads: as for `executable`.
    """
    if backend == "numpy":
        return reference.Scan(plan)
    program: Any = import_module("isograd.backends.llvm.program")
    made: Callable[..., Any] = program.Scan(plan, threads=threads)
    return made
