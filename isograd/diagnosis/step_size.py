"""Which learning rates suit a network where it stands: from its sharpness and its gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isograd.backends.compile import compile
from isograd.engine.autodiff import grad, jvp, value_and_grad
from isograd.engine.ops import Value
from isograd.errors import TheoryError
from isograd.nn.model import Model, Noise
from isograd.nn.spec import AdaGrad, Adam, AdamW, Momentum, Nesterov, Optimiser, RMSProp, Spec
from isograd.theory.sharpness import Method, safe_learning_rate, sharpness, steady_gain
from isograd.training.step import Layout

Vector = NDArray[np.float64]
Standing = Literal["below", "inside", "above", "unknown"]

MAX_PRODUCTS = 40
"""Hessian-vector products at most; sharpness needs no more than two digits here."""

MAX_DEPTH = 500
"""Weight layers at most: a product takes about 2 ms a layer."""

TOLERANCE = 0.02
"""Relative, of the residual; the error of the sharpness is of the order of its square."""


@dataclass(frozen=True, slots=True)
class StepSize:
    """Learning rates for a network at given parameters, by its loss on one batch.

    Numbers are None where they are not known, or where there is no such bound.

    Attributes:
        method: the optimiser's kind.
        lr: the spec's learning rate.
        standing: where that lies in the recommended range; "unknown" where there is none.
        low: the rate at which the loss falls by a factor e over the run, as it falls at first.
        high: the largest stable rate.
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
    steps: int | None = None,
    max_products: int = MAX_PRODUCTS,
) -> StepSize:
    """Sharpness, and the learning rates that it allows.

    Args:
        spec: for the optimiser and the length of the run.
        model: its network.
        params: learned parameters and statistics, by site: of `Start.params`, or trained.
        x, y: one batch, as a training step takes it; (n, n_in) and targets.
        rng: draws the first vector of Lanczos' method, and dropout's mask.
        steps: of the run; None takes the epochs times one step.
        max_products: with the Hessian, at most.
    """
    method, beta, decay = _form(spec.optimiser)
    known = StepSize(method, spec.optimiser.lr)
    if model.depth > MAX_DEPTH:
        return _skipped(known, f"{model.depth} layers: products take too long")
    point = _Point(model, params, x, y, rng)
    value, gradient = point.loss_and_gradient()
    if not (math.isfinite(value) and np.isfinite(gradient).all()):
        return _skipped(known, "loss or gradient is not finite")
    p = preconditioner(spec.optimiser, gradient)
    try:
        plain = sharpness(
            point.product, gradient.size, rng=rng, tol=TOLERANCE, max_products=max_products
        )
        scaled = plain
        if p is not None:
            scaled = sharpness(
                *(point.product, gradient.size),
                rng=rng,
                preconditioner=p,
                tol=TOLERANCE,
                max_products=max_products,
            )
    except TheoryError:
        return _skipped(known, "products with the Hessian are not finite")
    high = safe_learning_rate(scaled.value, method, beta=beta, decay=decay)
    slope = float(gradient @ (gradient if p is None else gradient / p)) * steady_gain(method, beta)
    run = spec.training.epochs if steps is None else steps
    low = value / (slope * run) if slope > 0 else math.inf
    return StepSize(
        method=method,
        lr=spec.optimiser.lr,
        standing=_standing(spec.optimiser.lr, low, high),
        low=_number(low),
        high=_number(high),
        sharpness=plain.value,
        preconditioned=scaled.value,
        error=scaled.error,
        loss=value,
        gradient=float(np.linalg.norm(gradient)),
        products=plain.products + (scaled.products if p is not None else 0),
    )


def _skipped(known: StepSize, why: str) -> StepSize:
    return StepSize(known.method, known.lr, skipped=why)


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _standing(lr: float, low: float, high: float) -> Standing:
    if lr > high:
        return "above"
    return "below" if lr < low else "inside"


def _form(kind: Optimiser) -> tuple[Method, float, float]:
    """How the stability analysis sees an optimiser: its name, momentum and weight decay."""
    method: Method = kind.__struct_config__.tag  # type: ignore[assignment]
    match kind:
        case Momentum(momentum=beta) | Nesterov(momentum=beta):
            return method, beta, 0.0
        case AdamW(beta1=beta, weight_decay=decay):
            return method, beta, decay
        case Adam(beta1=beta):
            return method, beta, 0.0
    return method, 0.0, 0.0


def preconditioner(kind: Optimiser, gradient: Vector) -> Vector | None:
    """The diagonal P that an optimiser divides by after one step with this gradient."""
    size = np.abs(gradient)
    match kind:
        case AdaGrad(eps=eps) | Adam(eps=eps) | AdamW(eps=eps):
            return size + eps
        case RMSProp(decay=decay, eps=eps):
            return math.sqrt(1.0 - decay) * size + eps
    return None


class _Point:
    """The training loss around given parameters, in float64."""

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

        self._both = value_and_grad(loss)
        self._theta = np.asarray(layout.join(wide))
        # The interpreter: native code would take longer to make than it saves in so few products.
        self._product = compile(
            lambda theta, v: jvp(grad(loss), (theta,), (v,))[1], backend="numpy"
        )

    def loss_and_gradient(self) -> tuple[float, Vector]:
        value, gradient = self._both(self._theta)
        return float(value), np.asarray(gradient, np.float64)

    def product(self, v: Vector) -> Vector:
        return np.asarray(self._product(self._theta, v))
