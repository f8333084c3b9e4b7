"""Functions of arrays, compiled for the shapes that they are called with."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, update_wrapper
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.select import Backend, choose, executable
from isograd.engine.dispatch import Tracer, spec_of
from isograd.engine.graph import ArraySpec
from isograd.engine.passes import EXACT, WITHOUT_PROBES, optimise
from isograd.engine.trace import trace
from isograd.engine.tree import Structure, flatten, unflatten
from isograd.errors import GraphError

PLANS = 32
"""Forms of arguments for which a function is kept compiled."""


def compile(f: Callable[..., Any], *, backend: str | None = None) -> Compiled:
    """`f`, compiled: the same function of arrays, faster from its second call on.

    It is traced, optimised and planned once for each form of its arguments: nesting, shapes and
    dtypes. What `f` prints or chooses is fixed then. The 32 forms used last are kept.

    Args:
        f: a function of arrays in nested containers; derivatives (`grad` and so on) may be taken
            in it and of it.
        backend: "native" or "numpy"; None takes the default.

    Returns:
        A function of the same arguments, by position. Python's numbers count as arrays without
        axes, of float64, int64 or bool. Its results are arrays of their own.

    Raises:
        IsogradError: no backend has that name.

    Example:
        >>> import isograd, numpy as np
        >>> slope = isograd.compile(isograd.grad(lambda x: np.sum(np.sin(x) ** 2)))
        >>> slope(np.zeros(2)).tolist(), slope(0.0).tolist()
        ([0.0, 0.0], 0.0)
    """
    return Compiled(f, choose(backend))


class Compiled:
    """A function of arrays, compiled for the forms of arguments that it was called with last.

    Attributes:
        backend: what runs it.
    """

    def __init__(self, f: Callable[..., Any], backend: Backend) -> None:
        update_wrapper(self, f)
        self.backend = backend
        self._function = f
        self._compiled = lru_cache(maxsize=PLANS)(self._compile)

    @property
    def forms(self) -> int:
        """For how many forms of arguments it is compiled at present."""
        return self._compiled.cache_info().currsize

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Compute.

        Raises:
            GraphError: an argument is no array, has a name, or decides what the function does.
            ShapeError: shapes do not meet.
        """
        if settings:
            raise GraphError(
                "the arguments of a compiled function must be arrays, given by position",
                came=", ".join(f"{name}=…" for name in settings),
                fix="bind settings before: isograd.compile(functools.partial(f, name=value))",
            )
        leaves, tree = flatten(args)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._function(*args)  # a transformation around it looks into it
        arrays = [_array(leaf, i) for i, leaf in enumerate(leaves)]
        run = self._compiled(tree, tuple(map(spec_of, arrays)))
        results, out_tree = flatten(run(*unflatten(tree, arrays)))
        return unflatten(out_tree, map(np.array, results))  # they may show memory of others

    def _compile(self, tree: Structure, specs: tuple[ArraySpec, ...]) -> Callable[..., Any]:
        graph = trace(self._function, *unflatten(tree, specs))
        return executable(optimise(graph, (WITHOUT_PROBES, *EXACT)).graph, self.backend)


def _array(leaf: Any, i: int) -> NDArray[Any]:
    """An argument as an array in order, in the bytes' order of the machine."""
    known = isinstance(leaf, bool | int | float | np.ndarray | np.generic)
    array = np.asarray(leaf) if known else None
    if array is None or array.dtype.kind not in "biuf":
        raise GraphError(
            "the arguments of a compiled function must be arrays or numbers, real ones",
            came=type(leaf).__name__ if array is None else f"an array of {array.dtype}",
            where=f"array {i} of the arguments",
            fix="bind what is no array before: isograd.compile(functools.partial(f, value))",
        )
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


__all__ = ["Compiled", "compile"]
