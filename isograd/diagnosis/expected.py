"""What theory expects of one network as initialised: layer by layer, with error bars."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isograd import theory
from isograd.diagnosis.findings import Band, Expectation, LayerExpectation
from isograd.errors import TheoryError
from isograd.nn.activations import phi
from isograd.nn.model import Model, Part
from isograd.nn.places import Place, elementwise
from isograd.nn.spec import Activation, BatchNorm, Dense, LayerNorm, Orthogonal, RMSNorm, Scale

_LN10 = math.log(10.0)
_MANY = 1000  # layers, from which on tables of averages take less time than the averages


def expected(
    model: Model,
    *,
    second: float = 1.0,
    cross: ArrayLike | None = None,
    batch: int | None = None,
) -> Expectation:
    """Mean-field theory of a network as initialised, with the error bars of its widths.

    Args:
        model: the network.
        second: mean square of an input feature; see `moments_of`.
        cross: mean product of a feature in two rows, or quantiles of it over pairs of rows; None:
            rows that have nothing in common.
        batch: rows of a batch; None: many.

    Returns:
        What is expected of each weight layer, as far as theory goes, and of the network as a whole.
    """
    rows = batch or 10**9
    start = theory.signal(second, cross, model.n_in, rows)
    compiled, reason = _compiled(model)
    signals = theory.forward(compiled, start)
    known = [i for i, p in enumerate(model.places) if p.part is Part.WEIGHTS]
    bands = []
    for number, i in enumerate(known, start=1):
        z = signals[i] if i < len(signals) else None
        if not isinstance(z, theory.Signal):
            if isinstance(z, theory.Unknown):
                reason = f"{_where(model.places[z.step])}: {z.reason}"
            break
        bands.append((number, z))
    complete = len(bands) == len(known)
    top = known[-1] + 1 if complete else 0
    gradients = theory.backward(compiled[:top], start, signals[:top])
    layers = []
    for (number, z), i in zip(bands, known, strict=False):
        below = gradients[i + 1] if i + 1 < top else None
        delta = Band(math.nan, math.nan)
        if isinstance(below, theory.Gradient):
            delta = _band(below.log_norm2 + below.log_mean, below.log_var)
        elif complete:
            delta = Band(0.0, 0.0)
        spread = float(np.mean(z.spread)) * (1.0 - 1.0 / rows)
        layers.append(
            LayerExpectation(
                layer=number,
                scale=_band(math.log(z.second) + z.log_mean, z.log_var),
                signal=_band(
                    math.log(spread) + z.spread_log_mean if spread else -math.inf,
                    z.spread_log_var,
                ),
                delta=delta,
            )
        )
    if not complete:
        return _not_covered(reason, tuple(layers))
    return _whole(model, tuple(layers))


def moments_of(
    X: NDArray[np.floating], *, rows: int = 512, quantiles: int = 9
) -> tuple[float, NDArray[np.float64]]:
    """The second moment of inputs, and quantiles of the cross moment over pairs of rows.

    Args:
        X: inputs (n, features).
        rows: how many to look at, evenly spaced.
        quantiles: how many.

    Returns:
        (mean of x², quantiles of the mean of xx′), as `expected` takes them.
    """
    sample = np.asarray(X[:: max(1, len(X) // rows)][:rows], np.float64)
    gram = sample @ sample.T / sample.shape[1]
    pairs = gram[np.triu_indices(len(sample), 1)]
    if not len(pairs):
        return float(gram.mean()), np.zeros(1)
    middles = (np.arange(quantiles) + 0.5) / quantiles
    return float(np.trace(gram)) / len(sample), np.asarray(np.quantile(pairs, middles))


def _compiled(model: Model) -> tuple[list[theory.Step], str]:
    """The places as steps of theory, up to the first that has none, and why it has none."""
    out: list[theory.Step] = []
    for place in model.places:
        try:
            step = _step(model, place)
        except TheoryError as error:
            return out, f"{_where(place)}: {error.must}"
        out.append(step)
    return out, ""


def _step(model: Model, p: Place) -> theory.Step:
    layer = p.spec
    match p.part:
        case Part.WEIGHTS:
            law = model.scale(p)
            assert isinstance(layer, Dense)
            if law is None:
                raise TheoryError("the weights are not random, or scaled to the data")
            if not law.sigma_w2:
                raise TheoryError("the weights are 0: nothing passes them")
            init = layer.init or model.network.init
            return theory.Linear(
                law.sigma_w2, law.sigma_b2, p.n_in, p.n_out, isinstance(init, Orthogonal)
            )
        case Part.ACTIVATION:
            assert isinstance(layer, Activation)
            if not elementwise(layer):
                raise TheoryError("an activation that mixes units is outside this theory")
            return theory.Elementwise(phi(layer), tabulated=model.depth > _MANY)
        case Part.DROPOUT:
            return theory.Dropout(layer.rate)  # type: ignore[union-attr]
        case Part.SCALE:
            assert isinstance(layer, Scale)
            if not layer.value:
                raise TheoryError("a scale of 0 lets nothing pass")
            return theory.Scale(layer.value)
        case Part.SKIP_OPENS:
            return theory.SkipOpens()
        case Part.SKIP_CLOSES:
            return theory.SkipCloses()
    if isinstance(layer, BatchNorm):
        return theory.Normalise("batch", layer.eps)
    if isinstance(layer, LayerNorm):
        return theory.Normalise("features", layer.eps)
    assert isinstance(layer, RMSNorm)
    return theory.Normalise("square", layer.eps)


def _where(place: Place) -> str:
    return f"layer {place.layer}"


def _band(log_square: float, variance: float) -> Band:
    """Of a size whose square has this logarithm."""
    return Band(0.5 * log_square / _LN10, 0.5 * math.sqrt(variance) / _LN10)


def _whole(model: Model, layers: tuple[LayerExpectation, ...]) -> Expectation:
    """The numbers of the network as a whole."""
    hidden = model.weights[1:]
    if not hidden:
        return _not_covered("there is no hidden layer", layers)
    field = _settled(model)
    if field is not None:
        chi1, depth_scale, trainable = field.chi1, field.xi_c, field.trainable_depth
    else:
        decades = layers[0].delta.decades / len(hidden)
        chi1 = 10.0 ** (2.0 * decades)
        fall = 2.0 * _LN10 * (layers[0].signal.decades - layers[-1].signal.decades)
        depth_scale = len(hidden) / fall if fall > 0.0 else math.inf
        trainable = 6.0 * depth_scale
    return Expectation(
        covered=True,
        reason="",
        chi1=chi1,
        decades_per_layer=0.5 * math.log10(chi1) if chi1 > 0 else -math.inf,
        depth_scale=depth_scale,
        trainable_depth=trainable,
        spread_decades=layers[0].delta.sd,
        layers=layers,
    )


def _settled(model: Model) -> theory.MeanField | None:
    """Where a chain of equal layers settles; None for any other network."""
    plain = (Part.WEIGHTS, Part.ACTIVATION)
    hidden = model.weights[1:]
    laws = {model.scale(p) for p in hidden}
    chain = all(p.part in plain for p in model.places) and all(
        a.part is not b.part for a, b in pairwise(model.places)
    )
    acts = {p.phi for p in hidden}
    if not chain or len(acts) > 1:
        return None
    law, act = laws.pop(), acts.pop()
    first = model.scale(model.weights[0])
    if law is None or act is None:
        return None
    q0 = first.sigma_w2 + first.sigma_b2 if first else 1.0
    try:
        return theory.mean_field(phi(act), law.sigma_w2, law.sigma_b2, q0)
    except TheoryError:
        return None


def _not_covered(reason: str, layers: tuple[LayerExpectation, ...]) -> Expectation:
    nan = math.nan
    return Expectation(False, reason, nan, nan, nan, nan, nan, layers)


__all__ = ["expected", "moments_of"]
