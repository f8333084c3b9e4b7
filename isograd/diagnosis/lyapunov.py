"""The Lyapunov spectrum of a network: what its hidden layers do to small differences, per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.autodiff import jvp
from isograd.engine.ops import Value
from isograd.errors import ShapeError, TheoryError
from isograd.nn.forward import Params, Pass
from isograd.nn.model import Model, Part
from isograd.nn.places import Place, elementwise
from isograd.theory.lyapunov import Lyapunov, Matrix, lyapunov


def network_lyapunov(
    model: Model,
    params: Params,
    x: NDArray[Any],
    *,
    rng: np.random.Generator,
    k: int | None = None,
    discard: int = 0,
) -> Lyapunov:
    """The Lyapunov spectrum of the Jacobians of a network's hidden layers at one input.

    A layer is a dense one with all that follows it up to the next, so that its Jacobian is
    diag(φ′(z)) W; a residual block is one layer, whatever it holds. The first layer, whose inputs
    are the data, and the last, whose outputs are the network's, are not counted. In a wide random
    network the largest exponent is about ½ ln χ₁ (Schoenholz et al. 2017, sec. 3).

    The network is taken as it is outside of training: without dropout, and with running moments in
    batch normalisations.

    Args:
        model: the network.
        params: learned parameters and statistics, by site.
        x: (n_in,), the input.
        rng: draws the frame.
        k: how many exponents; None takes as many as the narrowest hidden layer has units.
        discard: layers that only settle the frame, as in `isograd.theory.lyapunov`.

    Raises:
        ShapeError: x is not one input of the network.
        TheoryError: there is no layer between the first and the last, or a Jacobian is not finite.
    """
    if np.shape(x) != (model.n_in,):
        raise ShapeError(f"the input must be one row, ({model.n_in},)", came=f"shape {np.shape(x)}")
    first, *hidden = _layers(model)
    hidden = hidden[:-1]
    if not hidden:
        raise TheoryError(
            "a Lyapunov spectrum needs a layer between the first and the last",
            came=f"{model.depth} layers of weights",
            fix="take a deeper network, or isograd.theory.lyapunov of its Jacobians",
        )
    n = first[-1].n_out
    k = min(n, *(p.n_out for layer in hidden for p in layer)) if k is None else k
    wide = {name: np.asarray(array, np.float64) for name, array in params.items()}
    jacobians = _jacobians(wide, [first, *hidden], np.asarray(x, np.float64)[None])
    next(jacobians)
    return lyapunov(jacobians, rng=rng, k=k, n=n, discard=discard)


def _jacobians(
    params: Params, layers: list[list[Place]], row: Value
) -> Iterator[Callable[[Matrix], Matrix]]:
    """V ↦ J V of each layer in turn, at the row that comes out of those before it."""
    for layer in layers:
        run = Pass(params)
        met = []
        for place in layer:
            met.append((place, row))
            with np.errstate(all="ignore"):
                row = run.step(place, row)
        yield partial(_pushed, params, met)


def _pushed(params: Params, met: list[tuple[Place, Value]], v: Matrix) -> Matrix:
    """J V of places, each at the row that enters it."""
    skips: list[Matrix] = []
    for place, row in met:
        run = partial(Pass(params).step, place)
        if place.part is Part.SKIP_OPENS:
            skips.append(v)
        elif place.part is Part.SKIP_CLOSES:
            v = v + skips.pop()
        elif place.part is Part.WEIGHTS:
            v = params[f"W/{place.own}"] @ v
        elif elementwise(place.spec):
            v = np.asarray(jvp(run, (row,), (np.ones_like(row),))[1]).T * v
        else:  # one row of a batch for each tangent: rows do not see each other
            rows = np.broadcast_to(row, (v.shape[1], row.shape[1]))
            v = np.asarray(jvp(run, (rows,), (v.T,))[1]).T
    return v


def _layers(model: Model) -> list[list[Place]]:
    """The places in groups: up to the next dense layer, or the next residual block."""
    groups: list[list[Place]] = [[]]
    open_blocks, weights = 0, False
    for place in model.places:
        starts = place.part in (Part.WEIGHTS, Part.SKIP_OPENS)
        if starts and not open_blocks and weights:
            groups.append([])
            weights = False
        weights = weights or starts
        open_blocks += (place.part is Part.SKIP_OPENS) - (place.part is Part.SKIP_CLOSES)
        groups[-1].append(place)
    return groups


__all__ = ["network_lyapunov"]
