"""A stretch of layers of a network as a function of one row: what its Jacobian is taken of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isograd.engine import functions as F
from isograd.engine.dispatch import spec_of
from isograd.engine.ops import Value
from isograd.errors import ShapeError, SpecError
from isograd.nn.forward import Params, Pass
from isograd.nn.model import Model
from isograd.nn.places import Part, Place

Array = NDArray[np.float64]


def stretch(
    model: Model, params: Params, x: ArrayLike, first: int = 1, last: int | None = None
) -> tuple[Callable[[Value], Value], Array]:
    """The map from what enters layer `first` to what leaves layer `last`, and its point at x.

    A layer is a dense layer with what follows it up to the next one, as in telemetry; layer 1 also
    has what comes before it. So the Jacobian of layers 1 … l times that of l+1 … m, from the right,
    is that of 1 … m, and that of layers 1 … L is that of the network. Where the next dense layer
    opens a residual block, the layer ends before the block.

    Everything is in float64 and outside of training: no dropout, running moments.

    Args:
        model: the network.
        params: learned parameters and statistics.
        x: one input, (n_in,) or (1, n_in).
        first, last: numbers of layers, from 1 to L; without `last`, L.

    Returns:
        (function, point): the function takes and gives one row, (n,) to (m,); the point is what
        enters layer `first` for x. `isograd.theory.spectrum(*stretch(…), rng=…)` is its spectrum.

    Raises:
        SpecError: no such layers, or the stretch would cut a residual block.
        ShapeError: x is no row of n_in features.
    """
    last = model.depth if last is None else last
    if not 1 <= first <= last <= model.depth:
        raise SpecError(
            f"a stretch must be of layers from 1 to {model.depth}, the first not behind the last",
            came=f"first = {first}, last = {last}",
        )
    row = np.asarray(x, np.float64)
    if row.shape not in ((model.n_in,), (1, model.n_in)):
        raise ShapeError(f"x must be one input of {model.n_in} features", came=str(spec_of(row)))
    low, high = _start(model, first), _start(model, last + 1)
    held = {name: np.asarray(array, np.float64) for name, array in params.items()}

    def through(places: tuple[Place, ...], x: Value) -> Value:
        run = Pass(held)
        x = F.reshape(x, (1, -1))
        with np.errstate(all="ignore"):
            for p in places:
                x = run.step(p, x)
        return F.reshape(x, (-1,))

    part = model.places[low:high]
    return lambda x: through(part, x), np.asarray(through(model.places[:low], row))


def _start(model: Model, layer: int) -> int:
    """The place where a layer starts: at its weights, or where a block opens before them."""
    if layer == 1:
        return 0
    if layer > model.depth:
        return len(model.places)
    weights = next(i for i, p in enumerate(model.places) if p.layer == layer)
    opened: list[int] = []
    for i, p in enumerate(model.places[:weights]):
        if p.part is Part.SKIP_OPENS:
            opened.append(i)
        elif p.part is Part.SKIP_CLOSES:
            opened.pop()
    start = min([*opened, weights])
    if any(p.part is Part.WEIGHTS for p in model.places[start:weights]):
        raise SpecError(
            "a stretch must not cut a residual block",
            came=f"one between layers {layer - 1} and {layer}",
            where=model.places[start].path,
            fix="let the stretch begin and end outside of the block",
        )
    return start
