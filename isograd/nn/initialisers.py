"""Initialisers: the law from which the weights and biases of a layer are drawn.

Var W is σ_w²/fan_in (variance scaling, critical), gain²/fan_in (He, LeCun), gain²/(3 fan_in)
(uniform), 2·gain²/(fan_in + fan_out) (Xavier) or gain²/max(fan_in, fan_out) (orthogonal). The gain
that keeps the second moment of the signal is 1/√E[φ(z)²], z ~ N(0, 1), for the activation φ that
makes the layer's input (He et al. 2015, eq. 7, for any φ); it comes from quadrature, and He and
orthogonal take it unless a gain is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from isograd import theory
from isograd.errors import SpecError, TheoryError
from isograd.nn.spec import (
    LSUV,
    Constant,
    Critical,
    He,
    Init,
    LeCun,
    Normal,
    Orthogonal,
    Uniform,
    VarianceScaling,
    Xavier,
    Zeros,
)


@dataclass(frozen=True, slots=True)
class Variances:
    """σ_w² = fan_in · Var W and σ_b² = Var b, as mean-field theory counts them."""

    sigma_w2: float
    sigma_b2: float


def scale(
    init: Init, phi: theory.Phi, fan_in: int, fan_out: int, *, bias: bool = True
) -> Variances | None:
    """The variances that an initialiser gives a layer.

    None for one that is not random, and for lsuv, whose variances depend on the data.

    Args:
        init: the initialiser.
        phi: the activation at hand: the one that makes the layer's input; for the first layer,
            the one that its output goes into.
        fan_in, fan_out: inputs and outputs of the layer.
        bias: whether the layer has biases; without, σ_b² = 0 and critical takes the point there.

    Raises:
        TheoryError: if `init` is critical and the activation has no critical point.
    """
    match init:
        case Zeros() | Constant() | LSUV():
            return None
        case Normal(std=std):
            return Variances(std * std * fan_in, 0.0)
        case Uniform(gain=gain):
            return Variances(gain * gain / 3.0, 0.0)
        case Xavier(gain=gain):
            return Variances((gain or 1.0) ** 2 * 2.0 * fan_in / (fan_in + fan_out), 0.0)
        case He(gain=gain):
            return Variances((gain or theory.forward_gain(phi)) ** 2, 0.0)
        case LeCun(gain=gain):
            return Variances((gain or 1.0) ** 2, 0.0)
        case Orthogonal(gain=gain):
            # A tall matrix with orthonormal columns has Var W = 1/fan_out.
            square = (gain or theory.forward_gain(phi)) ** 2
            return Variances(square * min(1.0, fan_in / fan_out), 0.0)
        case Critical(q=q, gain=gain):
            point = _critical(phi, q, bias)
            return Variances(point.sigma_w2 * gain * gain, point.sigma_b2)
        case VarianceScaling(sigma_w2=sigma_w2, sigma_b2=sigma_b2):
            return Variances(sigma_w2, sigma_b2 if bias else 0.0)


def _critical(phi: theory.Phi, q: float | None, bias: bool) -> theory.Critical:
    if q is None and not bias:
        return theory.critical(phi, sb2=0.0)
    point = theory.critical(phi, q=q)
    if point.sigma_b2 > 0 and not bias:
        raise TheoryError(
            "a layer without biases must be critical at σ_b² = 0",
            came=f"q = {q:.6g}, where σ_b² = {point.sigma_b2:.6g}",
            where=phi.name,
            fix="remove q, or give the layer biases",
        )
    return point


_DISTRIBUTION = {Uniform: "uniform", Orthogonal: "orthogonal"}


def draw(
    init: Init,
    phi: theory.Phi,
    fan_in: int,
    fan_out: int,
    rng: np.random.Generator,
    dtype: DTypeLike,
    *,
    bias: bool = True,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Weights (fan_out, fan_in) and biases (fan_out,), drawn in float64 and cast.

    Args:
        init, phi, fan_in, fan_out, bias: as for `scale`.
        rng: the source of randomness.
        dtype: of the result.

    References:
        Glorot & Bengio 2010, eqs. 1 (uniform), 12 and 16 (Xavier); He et al. 2015, eq. 10; LeCun et
        al. 1998, eq. 16; Saxe, McClelland & Ganguli 2014 (orthogonal); Mishkin & Matas 2016 (lsuv,
        which starts from orthonormal weights: see `unit_variance`); Poole et al. 2016 and
        Schoenholz et al. 2017 (critical, variance scaling).
    """
    shape = (fan_out, fan_in)
    if isinstance(init, LSUV):
        init = Orthogonal(gain=1.0)
    law = scale(init, phi, fan_in, fan_out, bias=bias)
    if law is None:
        value = init.value if isinstance(init, Constant) else 0.0
        return np.full(shape, value, dtype), np.zeros(fan_out, dtype)
    std = math.sqrt(law.sigma_w2 / fan_in)
    distribution = _DISTRIBUTION.get(type(init)) or getattr(init, "distribution", "normal")
    if distribution == "orthogonal":
        # The elements of Q have variance 1/max(shape).
        weights = std * math.sqrt(max(shape)) * _orthogonal(shape, rng)
    elif distribution == "uniform":
        weights = rng.uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std, shape)
    else:
        weights = std * rng.standard_normal(shape)
    biases = math.sqrt(law.sigma_b2) * rng.standard_normal(fan_out)
    return weights.astype(dtype), biases.astype(dtype)


def _orthogonal(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Haar-distributed orthonormal rows or columns, whichever are fewer."""
    n = max(shape)
    if n == 1:
        return np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    rows, columns = np.linalg.qr(rng.standard_normal((n, min(shape))))
    q: NDArray[np.float64] = rows * np.sign(np.diag(columns))  # Mezzadri 2007: makes Q Haar
    return q if shape[0] == n else q.T


def unit_variance(
    init: LSUV,
    weights: NDArray[np.float64],
    output: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    where: str,
) -> NDArray[np.float64]:
    """Rescale a layer's weights until the variance of its output over a batch is gain².

    W ← W · gain/std(z), until |Var z/gain² − 1| < tolerance or for `iterations` times. The variance
    is that of all elements of z.

    Args:
        init: gain, tolerance and iterations.
        weights: (fan_out, fan_in), the first ones.
        output: z of the batch for given weights.
        where: the layer, for errors.

    Raises:
        SpecError: if the variance is 0 or not finite.

    References:
        Mishkin & Matas 2016, All you need is a good init, algorithm 1.
    """
    for _ in range(init.iterations):
        variance = float(np.var(output(weights)))
        if not 0.0 < variance < math.inf:
            raise SpecError(
                "the output of an lsuv layer must have a finite variance that is not 0",
                came=f"variance {variance:g}",
                where=where,
                fix="take another initialiser there, or below",
            )
        if abs(variance / init.gain**2 - 1.0) < init.tolerance:
            break
        weights = weights * (init.gain / math.sqrt(variance))
    return weights


def has_critical_point(phi: theory.Phi) -> bool:
    """Whether some σ_w², σ_b² ≥ 0 give χ₁ = 1."""
    try:
        theory.critical(phi)
    except TheoryError:
        return False
    return True


__all__ = ["Variances", "draw", "has_critical_point", "scale", "unit_variance"]
