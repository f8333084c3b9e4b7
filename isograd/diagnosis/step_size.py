"""Which learning rates suit a network where it stands: from its sharpness and its gradient."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from isograd.backends.compile import compile
from isograd.engine.autodiff import grad, jvp, value_and_grad
from isograd.engine.ops import Value
from isograd.errors import TheoryError
from isograd.nn.model import Model, Noise
from isograd.nn.spec import (
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    Optimiser,
    RMSProp,
    Spec,
    Training,
)
from isograd.optim.rules import optimiser
from isograd.theory.sharpness import Method, safe_learning_rate, sharpness, steady_gain
from isograd.training.data import Split
from isograd.training.start import prepare
from isograd.training.step import Layout

Vector = NDArray[np.float64]
Standing = Literal["below", "inside", "above", "unknown"]

MAX_PRODUCTS = 40
"""Hessian-vector products at most, for each of the two spectra; most take 5 to 25."""

MIN_PRODUCTS = 5
"""With fewer the largest eigenvalue is a guess."""

SECONDS = 2.0
"""Nominal time for the products of a spectrum: how many are taken follows from the sizes alone, so
that it is the same on every machine."""

FEWEST_ROWS = 64
"""The sharpness of a smaller batch is more that of its rows than that of the network."""

TOLERANCE = 0.02
"""Relative, of the residual; the error of the sharpness is of the order of its square."""


@dataclass(frozen=True, slots=True)
class StepSize:
    """Learning rates for a network at given parameters, by its loss on one batch.

    Numbers are None where they are not known, or where there is no such bound. Where low is above
    high, no learning rate is both stable and fast enough: what is wrong is not the learning rate.

    Attributes:
        method: the optimiser's kind.
        lr: the spec's learning rate.
        standing: where that lies between low and high; "unknown" where nothing was computed.
        low: the rate at which the loss falls by a factor e over the run, if the square of the
            gradient stays in proportion to the loss.
        high: the largest stable rate. Losses are no quadratics: training above it is common, as
            networks move to where they are less sharp (Cohen et al. 2021; Lewkowycz et al. 2020).
        rate: the one to try first: half of high; with momentum, the one whose steady step
            η/(1 − β) is half of what is stable without.
        sharpness: largest eigenvalue of the Hessian of the loss.
        preconditioned: likewise of P^{-1/2} H P^{-1/2}; the same for rules without a P.
        error: of the latter: norm of the residual.
        loss, gradient: the loss, and the norm of its gradient.
        products: Hessian-vector products taken.
        skipped: why nothing was computed; empty where it was.
        assumptions: what the numbers rest on, in sentences.
    """

    method: Method
    lr: float
    standing: Standing = "unknown"
    low: float | None = None
    high: float | None = None
    rate: float | None = None
    sharpness: float | None = None
    preconditioned: float | None = None
    error: float | None = None
    loss: float | None = None
    gradient: float | None = None
    products: int = 0
    skipped: str = ""
    assumptions: tuple[str, ...] = ()


def step_size(
    spec: Spec,
    model: Model,
    params: Mapping[str, Value],
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    rng: np.random.Generator,
    steps: int,
    max_products: int = MAX_PRODUCTS,
) -> StepSize:
    """Sharpness, and the learning rates that it allows.

    high is `safe_learning_rate` of the preconditioned sharpness. low is L/(T s), with the loss L,
    the steps T and the fall s of the loss per step and rate, gᵀP⁻¹g F(1): where s stays in
    proportion to the loss, as under the Polyak–Łojasiewicz condition, L(t) = L e^{−η s t/L}.

    Args:
        spec: for the optimiser, and what comes before it (clipping, normalising).
        model: its network.
        params: learned parameters and statistics, by site: of `Start.params`, or trained.
        x, y: one batch, as a training step takes it; (n, n_in) and targets.
        rng: draws the first vectors of Lanczos' method, and dropout's mask.
        steps: of the run, at least 1.
        max_products: with the Hessian, for each spectrum, at most.

    References:
        Cohen et al. 2021 and 2022 (the limits); Karimi, Nutini & Schmidt 2016 (exponential falls).
    """
    method, beta, decay = stability_form(spec.optimiser)
    known = StepSize(method, spec.optimiser.lr)
    seconds = _seconds(model, len(x))
    allowed = min(max_products, int(SECONDS / seconds))
    if allowed < MIN_PRODUCTS:
        why = f"a product with the Hessian takes too long (some {seconds:.1g} s)"
        return dataclasses.replace(known, skipped=why)
    point = Point(model, params, x, y, rng)
    loss, gradient = point.loss_and_gradient()
    if not (math.isfinite(loss) and np.isfinite(gradient).all()):
        return dataclasses.replace(known, skipped="the loss or its gradient is not finite")
    p = divisor(spec.optimiser, spec.training, gradient, steps)
    settings: Any = {"rng": rng, "tol": TOLERANCE, "max_products": allowed}
    try:
        plain = scaled = sharpness(point.product, gradient.size, **settings)
        if (p != 1.0).any():
            scaled = sharpness(point.product, gradient.size, preconditioner=p, **settings)
    except TheoryError as error:
        return dataclasses.replace(known, skipped=f"{error.must}; they held {error.came}")
    high = safe_learning_rate(scaled.value, method, beta=beta, decay=decay)
    slope = float(gradient @ (gradient / p)) * steady_gain(method, beta)
    low = loss / slope / steps if slope > 0 else math.inf
    steady = safe_learning_rate(scaled.value * steady_gain(method, beta))
    return dataclasses.replace(
        known,
        standing="above" if known.lr > high else "below" if known.lr < low else "inside",
        low=_known(low),
        high=_known(high),
        rate=_known(min(high, steady) / 2 if steady_gain(method, beta) > 1 else high / 2),
        sharpness=plain.value,
        preconditioned=scaled.value,
        error=scaled.error,
        loss=loss,
        gradient=float(np.linalg.norm(gradient)),
        products=plain.products + (scaled.products if scaled is not plain else 0),
        assumptions=tuple(_assumptions(spec, scaled.converged)),
    )


def step_size_at_start(spec: Spec, split: Split) -> StepSize:
    """Likewise for a network as it is initialised, on its first rows; a batch of 64 at least.

    Args:
        spec: the network and its training.
        split: its data.
    """
    start = prepare(spec, split)
    rows = slice(max(FEWEST_ROWS, start.batch_size))
    return step_size(
        *(spec, start.model, start.params, split.X_train[rows], split.y_train[rows]),
        rng=np.random.default_rng(spec.seed),
        steps=start.steps,
    )


def _seconds(model: Model, rows: int) -> float:
    """Nominal time of a product: 2 ms a weight layer, and 12 operations per weight and row."""
    return 2e-3 * model.depth + 12.0 * model.parameter_count * rows / 1e10


def _known(x: float) -> float | None:
    return x if math.isfinite(x) else None


def stability_form(kind: Optimiser) -> tuple[Method, float, float]:
    """How the stability analysis sees an optimiser: its name, momentum and weight decay."""
    method = cast(Method, kind.__struct_config__.tag)
    match kind:
        case Momentum(momentum=beta) | Nesterov(momentum=beta):
            return method, beta, 0.0
        case AdamW(beta1=beta, weight_decay=decay):
            return method, beta, decay
        case Adam(beta1=beta):
            return method, beta, 0.0
    return method, 0.0, 0.0


def preconditioner(kind: Optimiser, gradient: Vector, steps: int = 1) -> Vector | None:
    """The diagonal P that a rule divides by, if all squares it has kept are of this gradient.

    |g| + ε for Adam and RMSProp, whose averages are then g²; √t |g| + ε for AdaGrad, whose sum has
    t of them. None for rules that divide by nothing.
    """
    size = np.abs(gradient)
    match kind:
        case Adam(eps=eps) | AdamW(eps=eps) | RMSProp(eps=eps):
            return size + eps
        case AdaGrad(eps=eps):
            return math.sqrt(steps) * size + eps
    return None


def divisor(kind: Optimiser, training: Training, gradient: Vector, steps: int) -> Vector:
    """Likewise with what clipping and normalising make of the gradient before; 1 for nothing."""
    before = optimiser(SGD(), training)
    fed = np.asarray(-before.update(gradient, before.init(gradient), 1.0, gradient)[0], np.float64)
    p = preconditioner(kind, fed, steps)
    out = np.ones_like(gradient) if p is None else p
    there = fed != 0
    out[there] *= np.abs(gradient[there] / fed[there])
    return out


def _assumptions(spec: Spec, converged: bool) -> list[str]:
    out = ["the loss of this batch, and a quadratic around these parameters"]
    match spec.optimiser:
        case Adam() | AdamW():
            out.append("v is the square of this batch's gradient, as after the first step")
        case RMSProp():
            out.append("the average is full of this gradient's square; the first steps are longer")
        case AdaGrad():
            out.append("the sum at the end of the run, of squares like this gradient's")
        case Momentum() | Nesterov():
            out.append("no noise of batches, which momentum amplifies: near high it may not train")
    training = spec.training
    if training.normalise_gradient or training.clip_norm or training.clip_value:
        out.append("clipping and normalising change the gradient as they do here")
    if training.schedule:
        out.append("the rate without its schedule")
    if not converged:
        out.append("Lanczos' method was stopped early: the sharpness is a lower bound")
    return out


class Point:
    """The training loss around given parameters, in float64, as a function of θ.

    Args:
        model, params, x, y: as for `step_size`.
        rng: draws the key of dropout's mask, which stays the same.
    """

    def __init__(
        self,
        model: Model,
        params: Mapping[str, Value],
        x: NDArray[Any],
        y: NDArray[Any],
        rng: np.random.Generator,
    ) -> None:
        layout = Layout(model.shapes)
        wide = {name: np.asarray(array, np.float64) for name, array in params.items()}
        statistics = {name: wide[name] for name in model.statistics}
        noise = Noise(rng.integers(2**32, size=2, dtype=np.uint32), np.uint32(0))
        inputs = np.asarray(x, np.float64)
        targets = y if y.dtype.kind in "iu" else np.asarray(y, np.float64)

        def loss(theta: Value) -> Value:
            return model.train_loss(layout.split(theta) | statistics, inputs, targets, noise)[0]

        # The interpreter: native code would take longer to make than it saves in so few products.
        self._both = value_and_grad(loss)
        self._product = compile(
            lambda theta, v: jvp(grad(loss), (theta,), (v,))[1], backend="numpy"
        )
        self.theta: Vector = np.asarray(layout.join(wide))

    def loss_and_gradient(self) -> tuple[float, Vector]:
        """L and ∂L/∂θ."""
        value, gradient = self._both(self.theta)
        return float(value), np.asarray(gradient)

    def product(self, v: Vector) -> Vector:
        """H v."""
        return np.asarray(self._product(self.theta, v))


__all__ = [
    "MAX_PRODUCTS",
    "Point",
    "StepSize",
    "divisor",
    "preconditioner",
    "step_size",
    "step_size_at_start",
]
