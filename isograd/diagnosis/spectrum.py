"""The spectrum of a network's Jacobian as measured, beside the one that theory predicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isograd import theory
from isograd.errors import TheoryError
from isograd.nn.activations import phi
from isograd.nn.forward import Params
from isograd.nn.model import Model
from isograd.nn.places import Place, elementwise
from isograd.nn.spec import Activation, Dense, Dropout, Orthogonal, Scale
from isograd.nn.stretch import stretch


@dataclass(frozen=True, eq=False)
class Spectra:
    """The squared singular values of a stretch of layers.

    Attributes:
        measured: at one input, with the parameters as they are.
        predicted: for the network as initialised, at large widths; None where theory has none.
        reason: why there is no prediction; "" where there is one.
    """

    measured: theory.JacobianSpectrum
    predicted: theory.PredictedSpectrum | None
    reason: str


def spectra(
    model: Model,
    params: Params,
    x: ArrayLike,
    first: int = 1,
    last: int | None = None,
    *,
    rng: np.random.Generator,
    k: int = 64,
) -> Spectra:
    """The spectrum of the Jacobian of layers `first` to `last`, measured and predicted.

    Theory covers stacks of dense layers with random weights, each with an activation of its own or
    none. The variance of the pre-activations follows from the mean square of x, layer by layer.

    Args:
        model: the network.
        params: learned parameters and statistics; the prediction is for those of `Model.init`.
        x: one input, (n_in,) or (1, n_in).
        first, last: as `isograd.nn.stretch` takes them.
        rng, k: as `isograd.theory.spectrum` takes them.

    Raises:
        SpecError, ShapeError: as of `isograd.nn.stretch`.
        TheoryError: as of `isograd.theory.spectrum`.

    References: Pennington, Schoenholz & Ganguli 2018; Poole et al. 2016, eq. 3.
    """
    measured = theory.spectrum(*stretch(model, params, x, first, last), rng=rng, k=k)
    last = model.depth if last is None else last
    try:
        factors = list(_factors(model, float(np.mean(np.square(x))), last))
        predicted = theory.predicted_spectrum(factors[first - 1 :])
    except TheoryError as error:
        where = f"{error.where}: " if error.where else ""
        return Spectra(measured, None, f"{where}{error.must}")
    return Spectra(measured, predicted, "")


def _factors(model: Model, second: float, last: int) -> Iterator[theory.RandomLayer]:
    """Layers 1 to `last` as factors of a Jacobian; `second` is the mean square of the input."""
    _, before, after = _behind(p for p in model.places if p.layer == 0)
    second *= before * after
    for weights in model.weights[:last]:
        law = model.scale(weights)
        if law is None:
            raise TheoryError(
                "the weights are not random, or scaled to the data", where=weights.where
            )
        act, before, after = _behind(
            p for p in model.places if p.layer == weights.layer and p is not weights
        )
        q = before * (law.sigma_w2 * second + law.sigma_b2)
        yield theory.RandomLayer(
            law.sigma_w2 * before * after,
            _kind(model, weights),
            act,
            q,
            weights.n_in,
            weights.n_out,
        )
        second = after * (q if act is None else theory.moments(act, q).second)


def _behind(places: Iterable[Place]) -> tuple[theory.Phi | None, float, float]:
    """What follows weights: φ, and what multiplies the squares before and after it."""
    act, factors = None, [1.0, 1.0]
    for p in places:
        match p.spec:
            case Dropout() | Activation(name="identity"):
                pass
            case Scale(value=value):
                factors[act is not None] *= value * value
            case Activation() if act is None and p.layer and elementwise(p.spec):
                act = phi(p.spec)
            case Activation():
                raise TheoryError("an activation must follow weights of its own", where=p.where)
            case _:
                raise TheoryError(f"this theory has no {p.part.value} layers", where=p.where)
    return act, factors[0], factors[1]


def _kind(model: Model, weights: Place) -> theory.Weights:
    """Whether the weights are drawn orthogonal; independent entries act as Gaussian ones."""
    layer = weights.spec
    assert isinstance(layer, Dense)
    init = layer.init or model.network.init
    drawn = isinstance(init, Orthogonal) or getattr(init, "distribution", "") == "orthogonal"
    return "orthogonal" if drawn else "gaussian"
