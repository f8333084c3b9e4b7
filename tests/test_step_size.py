"""Learning rates of networks, against Hessians and gradients worked out by hand or by PyTorch."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from isograd.diagnosis import StepSize, step_size
from isograd.diagnosis.step_size import Point, divisor, preconditioner
from isograd.nn import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    HalfSquaredError,
    LayerNorm,
    Network,
    Normal,
    Repeat,
    Residual,
    build,
)
from isograd.nn.spec import (
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Data,
    GradientDescent,
    Momentum,
    Nesterov,
    Optimiser,
    RMSProp,
    Spec,
    Training,
    WarmUp,
)

PLAIN = SGD()
LINEAR = Network((Dense(1),), loss=HalfSquaredError())


def spec_of(network: Network, kind: Optimiser = PLAIN, **training: Any) -> Spec:
    return Spec(Data("arrays"), network, kind, Training(epochs=5, **training))


def linear_case(rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """Least squares in one layer: the Hessian is the second moment of (x, 1)."""
    x, y = rng.standard_normal((40, 3)) * [1.0, 3.0, 0.2], rng.standard_normal((40, 1))
    model = build(LINEAR, 3)
    params = model.init(rng, np.float64)
    wide = np.column_stack([x, np.ones(40)])
    hessian = wide.T @ wide / 40
    theta = np.concatenate([params["W/1"].ravel(), params["b/1"]])
    gradient = wide.T @ (wide @ theta - y[:, 0]) / 40
    return model, params, (x, y), (hessian, gradient, 0.5 * np.mean((wide @ theta - y[:, 0]) ** 2))


def sized(
    kind: Optimiser, rng: np.random.Generator, steps: int = 100, **training: Any
) -> tuple[StepSize, Any, Any, float]:
    model, params, batch, (hessian, gradient, loss) = linear_case(rng)
    spec = spec_of(LINEAR, kind, **training)
    return step_size(spec, model, params, *batch, rng=rng, steps=steps), hessian, gradient, loss


@pytest.mark.parametrize(
    ("kind", "flips", "steady"),
    [
        (GradientDescent(), 1.0, 1.0),
        (SGD(), 1.0, 1.0),
        (Momentum(momentum=0.8), 1 / 1.8, 5.0),
        (Nesterov(momentum=0.8), 2.6 / 1.8, 5.0),
    ],
    ids=lambda x: str(x)[:16],
)
def test_least_squares(
    kind: Optimiser, flips: float, steady: float, rng: np.random.Generator
) -> None:
    found, hessian, gradient, loss = sized(kind, rng)
    top = float(np.linalg.eigvalsh(hessian)[-1])
    assert found.sharpness == pytest.approx(top, rel=1e-3)
    assert found.preconditioned == found.sharpness
    assert found.high == pytest.approx(2 / (flips * top), rel=1e-3)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.gradient == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    assert found.low == pytest.approx(loss / (steady * gradient @ gradient * 100), rel=1e-12)
    assert found.rate == pytest.approx(1 / (max(steady, flips) * top), rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "p_of", "flips"),
    [
        (Adam(beta1=0.8), lambda g: np.abs(g) + 1e-8, 0.2 / 1.8),
        (AdamW(beta1=0.8, weight_decay=0.0), lambda g: np.abs(g) + 1e-8, 0.2 / 1.8),
        (RMSProp(), lambda g: np.abs(g) + 1e-8, 1.0),
        (AdaGrad(), lambda g: 10 * np.abs(g) + 1e-10, 1.0),
    ],
    ids=lambda x: str(x)[:16],
)
def test_rules_that_divide(
    kind: Optimiser, p_of: Any, flips: float, rng: np.random.Generator
) -> None:
    found, hessian, gradient, loss = sized(kind, rng)
    p = p_of(gradient)
    top = float(np.linalg.eigvals(hessian / p[:, None]).real.max())
    assert found.preconditioned == pytest.approx(top, rel=1e-3)
    assert found.high == pytest.approx(2 / (flips * top), rel=1e-3)
    assert found.rate == pytest.approx(found.high / 2)
    assert found.low == pytest.approx(loss / (gradient @ (gradient / p) * 100), rel=1e-9)
    assert found.sharpness == pytest.approx(float(np.linalg.eigvalsh(hessian)[-1]), rel=1e-3)


def test_weight_decay_of_adamw(rng: np.random.Generator) -> None:
    plain = sized(AdamW(weight_decay=0.0), np.random.default_rng(3))[0]
    heavy = sized(AdamW(weight_decay=50.0), np.random.default_rng(3))[0]
    assert plain.high is not None
    assert heavy.high == pytest.approx(2 / (2 / plain.high + 50.0), rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "steps"), [(Adam(), 1), (AdamW(weight_decay=0.0), 1), (AdaGrad(), 1), (RMSProp(), 900)]
)
def test_what_rules_divide_by(kind: Optimiser, steps: int, rng: np.random.Generator) -> None:
    """By the rules themselves, fed the same gradient again and again; 0.99⁹⁰⁰ is 1e-4."""
    from isograd.optim.rules import optimiser

    g = rng.standard_normal(5) * [1.0, 1e-3, 10.0, 1e-8, 0.0]
    rule = optimiser(kind, Training())
    state, step = rule.init(g), g
    for _ in range(steps):
        step, state = rule.update(g, state, 1.0, g)
    p = preconditioner(kind, g, steps)
    assert p is not None
    np.testing.assert_allclose(step[:4], -g[:4] / p[:4], rtol=2e-4)
    assert p[4] == kind.eps  # type: ignore[union-attr]


def test_clipping_scales_the_limit(rng: np.random.Generator) -> None:
    free, _, gradient, _ = sized(SGD(), np.random.default_rng(3))
    norm = float(np.linalg.norm(gradient))
    assert free.high is not None
    assert free.low is not None
    clipped = sized(SGD(), np.random.default_rng(3), clip_norm=norm / 4)[0]
    assert clipped.high == pytest.approx(4 * free.high, rel=1e-3)
    assert clipped.low == pytest.approx(4 * free.low, rel=1e-3)
    loose = sized(SGD(), np.random.default_rng(3), clip_norm=norm * 4)[0]
    assert loose.high == pytest.approx(free.high, rel=1e-9)
    unit = sized(SGD(), np.random.default_rng(3), normalise_gradient=True)[0]
    assert unit.high == pytest.approx(norm * free.high, rel=1e-3)
    bound = float(np.abs(gradient).min() * 2)
    p = divisor(SGD(), Training(clip_value=bound), gradient, 1)
    np.testing.assert_allclose(p, np.maximum(1.0, np.abs(gradient) / bound), rtol=1e-14)


@pytest.mark.parametrize(("factor", "standing"), [(0.5, "inside"), (1.01, "above")])
def test_where_the_learning_rate_lies(
    factor: float, standing: str, rng: np.random.Generator
) -> None:
    free = sized(SGD(), np.random.default_rng(3), steps=10_000)[0]
    assert free.high is not None
    assert free.low is not None
    again = sized(SGD(factor * free.high), np.random.default_rng(3), steps=10_000)[0]
    assert (again.standing, again.lr) == (standing, factor * free.high)
    assert sized(SGD(0.9 * free.low), np.random.default_rng(3), steps=10_000)[0].standing == "below"


# --- networks

EVERY = (
    *(Dense(6), LayerNorm(), Activation("gelu"), Dropout(0.3)),
    *(Residual((Dense(6), BatchNorm(), Activation("tanh"))), Dense(3)),
)


def test_the_hessian_of_a_network(rng: np.random.Generator) -> None:
    """Every kind of layer: against differences of gradients, column by column."""
    model = build(Network(EVERY), 4)
    params = model.init(rng, np.float64)
    x, y = rng.standard_normal((16, 4)), rng.integers(0, 3, 16)
    point = Point(model, params, x, y, rng)
    n = point.theta.size
    start, columns = point.theta, []
    for e in np.eye(n):
        ends = []
        for sign in (1.0, -1.0):
            point.theta = start + sign * 1e-5 * e
            ends.append(point.loss_and_gradient()[1])
        columns.append((ends[0] - ends[1]) / 2e-5)
    point.theta = start
    hessian = np.array(columns)
    products = np.array([point.product(e) for e in np.eye(n)])
    np.testing.assert_allclose(products, hessian, atol=1e-6)
    found = step_size(
        spec_of(Network(EVERY)), model, params, x, y, rng=np.random.default_rng(1), steps=10
    )
    assert found.sharpness is not None
    assert found.products > 5


def test_the_sharpness_of_a_network_against_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    network = Network((Dense(7), Activation("tanh"), Dense(5), Activation("tanh"), Dense(3)))
    model = build(network, 4)
    params = model.init(rng, np.float32)
    x, y = rng.standard_normal((30, 4)).astype(np.float32), rng.integers(0, 3, 30)
    found = step_size(spec_of(network), model, params, x, y, rng=rng, steps=10)

    shapes = {name: params[name].shape for name in model.shapes}

    def loss(theta: Any) -> Any:
        parts, at = {}, 0
        for name, shape in shapes.items():
            parts[name] = theta[at : at + math.prod(shape)].reshape(shape)
            at += math.prod(shape)
        a = torch.tensor(x, dtype=torch.float64)
        for layer in (1, 2):
            a = torch.tanh(a @ parts[f"W/{layer}"].T + parts[f"b/{layer}"])
        return torch.nn.functional.cross_entropy(a @ parts["W/3"].T + parts["b/3"], torch.tensor(y))

    theta = torch.tensor(np.concatenate([params[n].ravel() for n in shapes]).astype(np.float64))
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta))
    assert found.sharpness == pytest.approx(float(values[-1]), rel=2e-3)
    assert found.loss == pytest.approx(float(loss(theta)), rel=1e-12)


def test_its_numbers_are_plain(rng: np.random.Generator) -> None:
    found = sized(Adam(), rng, schedule=(WarmUp(2.0),))[0]
    assert json.loads(json.dumps(dataclasses.asdict(found)))["high"] == found.high
    assert any("schedule" in text for text in found.assumptions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            Network((Repeat(9, (Dense(4), Activation("relu"))), Dense(3)), init=Normal(1e80)),
            "finite",
        ),
        (Network((Repeat(5000, (Dense(2), Activation("relu"))), Dense(3))), "too long"),
    ],
    ids=["overflow", "deep"],
)
def test_what_is_skipped_says_why(network: Network, words: str, rng: np.random.Generator) -> None:
    model = build(network, 4)
    params = model.init(rng, np.float64)
    x, y = rng.standard_normal((16, 4)), rng.integers(0, 3, 16)
    found = step_size(spec_of(network), model, params, x, y, rng=rng, steps=10)
    assert words in found.skipped
    assert (found.standing, found.high, found.low, found.sharpness) == ("unknown", *[None] * 3)


def test_a_loss_without_curvature_sets_no_limit(rng: np.random.Generator) -> None:
    """Zero weights under a ReLU: only the last bias moves, and the rest of the Hessian is 0."""
    network = Network((Dense(4), Activation("relu"), Dense(1)), loss=HalfSquaredError())
    model = build(network, 3)
    params = {n: np.zeros(s) for n, s in model.shapes.items()}
    x, y = rng.standard_normal((8, 3)), np.zeros((8, 1))
    found = step_size(spec_of(network), model, params, x, y, rng=rng, steps=10)
    assert found.sharpness == pytest.approx(1.0)
    assert found.high == pytest.approx(2.0)
    assert (found.loss, found.gradient, found.low) == (0.0, 0.0, None)
