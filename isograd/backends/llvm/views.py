"""Where the elements of each variable lie: views of memory, resolved before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isograd.engine.graph import Eqn, Graph, Var
from isograd.engine.ops import Op

Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Elements of a root variable, by strides.

    Attributes:
        root: the variable whose memory it is.
        offset: of its first element there, in elements.
        shape: its axes.
        strides: steps along them, in elements; 0 along a repeated axis.
    """

    root: Var
    offset: int
    shape: Ints
    strides: Ints

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie side by side in order."""
        return self.strides == row_major(self.shape)

    def plain(self) -> View:
        """The same, with no step along axes of one element."""
        return View(self.root, self.offset, self.shape, _plain(self.shape, self.strides))

    def overlaps(self, other: View) -> bool:
        """Whether the stretches of memory in which the elements lie meet."""
        if self.root is not other.root:
            return False
        (a, b), (c, d) = self._stretch(), other._stretch()
        return a < d and c < b

    def _stretch(self) -> tuple[int, int]:
        steps = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.offset + sum(s for s in steps if s < 0)
        return low, self.offset + sum(s for s in steps if s > 0) + 1

    def reshaped(self, shape: Ints) -> View | None:
        """The same elements in another shape; None if strides cannot say it."""
        if self.contiguous:
            return View(self.root, self.offset, shape, row_major(shape))
        short = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        if [n for n, _ in short] != [n for n in shape if n != 1]:
            return None
        rest = iter([s for _, s in short])
        return View(
            self.root, self.offset, shape, tuple(next(rest) if n != 1 else 0 for n in shape)
        )


def row_major(shape: Sequence[int]) -> Ints:
    """Strides of elements in order; 0 along axes of one element."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step if n != 1 else 0)
        step *= n
    return tuple(reversed(strides))


def resolve(graph: Graph) -> dict[Var, View]:
    """The view of every variable; one that is its own root is to be written by its equation."""
    views = {var: own(var) for var in (*graph.inputs, *graph.constants)}
    for eqn in graph.eqns:
        views[eqn.output] = _view(eqn, views) or own(eqn.output)
    return views


def own(var: Var) -> View:
    """All of a variable's memory, in order."""
    return View(var, 0, var.spec.shape, row_major(var.spec.shape))


def _view(eqn: Eqn, views: dict[Var, View]) -> View | None:
    """What an equation shows of its input's memory; None if it makes new elements."""
    if not eqn.inputs:
        return None
    x, shape = views[eqn.inputs[0]], eqn.output.spec.shape
    match eqn.op:
        case Op.RESHAPE:
            return x.reshaped(shape)
        case Op.TRANSPOSE:
            strides = tuple(x.strides[a] for a in eqn.params["axes"])
        case Op.BROADCAST:
            new = len(shape) - len(x.shape)
            kept = zip(x.shape, x.strides, shape[new:], strict=True)
            strides = (*[0] * new, *(s if n == m else 0 for n, s, m in kept))
        case Op.SLICE:
            start, step = eqn.params["start"], eqn.params["step"]
            offset = x.offset + sum(i * s for i, s in zip(start, x.strides, strict=True))
            strides = tuple(k * s for k, s in zip(step, x.strides, strict=True))
            return View(x.root, offset, shape, _plain(shape, strides))
        case Op.STOP_GRADIENT | Op.PROBE | Op.ROUND_COTANGENT:
            return x
        case _:
            return None
    return View(x.root, x.offset, shape, _plain(shape, strides))


def _plain(shape: Ints, strides: Ints) -> Ints:
    return tuple(s if n != 1 else 0 for n, s in zip(shape, strides, strict=True))


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops over elements: lengths from the outermost in, and the step of each operand in each."""

    lengths: Ints
    steps: tuple[Ints, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.lengths)


def nest(shape: Ints, strides: Sequence[Ints]) -> Nest:
    """The fewest loops over a shape: axes that all operands walk in one go become one."""
    axes = [k for k, n in enumerate(shape) if n != 1]
    lengths: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for k in axes:
        n = shape[k]
        if lengths and all(
            mine[-1] == theirs[k] * n for mine, theirs in zip(steps, strides, strict=True)
        ):
            lengths[-1] *= n
            for mine, theirs in zip(steps, strides, strict=True):
                mine[-1] = theirs[k]
        else:
            lengths.append(n)
            for mine, theirs in zip(steps, strides, strict=True):
                mine.append(theirs[k])
    return Nest(tuple(lengths), tuple(map(tuple, steps)))
