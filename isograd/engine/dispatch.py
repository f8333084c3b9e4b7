"""One entry for every primitive: `apply`. It hands the work to the innermost transformation.

Transformations nest (a gradient inside a trace inside a forward derivative). Each is a `Handler`,
born later than those around it; its tracers stand for values of the transformations outside it.
`apply` finds the youngest handler among the arguments and lets it process the primitive; that
handler does its own part and calls `apply` on the values one level further out, until plain arrays
are left and the rule's `eval` runs. The depth of that descent is the depth of nesting, never the
depth of the graph.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from isograd.engine.graph import ArraySpec
from isograd.engine.ops import RULES, Op, Value

# Only the order of birth matters, so a count that never repeats serves all threads.
_births = itertools.count(1)


class Handler(ABC):
    """A transformation in progress: gives the primitives applied to its tracers a meaning."""

    def __init__(self) -> None:
        self.birth = next(_births)

    @abstractmethod
    def process(self, op: Op, args: tuple[Value, ...], params: dict[str, Any]) -> Value:
        """Apply a primitive of which this handler is the innermost."""


class Tracer:
    """Stands for an array inside a transformation."""

    __slots__ = ("handler", "spec")

    def __init__(self, handler: Handler, spec: ArraySpec) -> None:
        self.handler = handler
        self.spec = spec


def apply(op: Op, *args: Value, **params: Any) -> Value:
    """Apply a primitive to arrays and tracers."""
    youngest: Handler | None = None
    for arg in args:
        if isinstance(arg, Tracer) and (youngest is None or arg.handler.birth > youngest.birth):
            youngest = arg.handler
    if youngest is not None:
        return youngest.process(op, args, params)
    rule = RULES[op]
    with np.errstate(all="ignore"):  # infinities and NaN are results here, not accidents
        try:
            return rule.eval(*args, **params)
        except ValueError:
            rule.shape(*map(spec_of, args), **params)  # says it in the words of the static mode
            raise


def spec_of(value: Value) -> ArraySpec:
    """Shape and dtype of an array, a scalar or a tracer."""
    if isinstance(value, Tracer):
        return value.spec
    if isinstance(value, ArraySpec):
        return value
    if not isinstance(value, np.ndarray | np.generic):
        value = np.asarray(value)
    return ArraySpec(value.shape, value.dtype)
