"""Whole trainings beside PyTorch's: the same weights and batches, 100 steps in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from checks import once
from test_optim import torch_rule

from isograd.backends.numpy import Scan
from isograd.engine.graph import ArraySpec
from isograd.engine.plan import plan
from isograd.nn import (
    SGD,
    Activation,
    AdaGrad,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    Dense,
    GradientDescent,
    HalfSquaredError,
    LayerNorm,
    Model,
    Momentum,
    Nesterov,
    Network,
    Repeat,
    Residual,
    RMSProp,
    SoftmaxCrossEntropy,
    Training,
    build,
)
from isograd.nn.spec import Loss
from isograd.nn.spec import Optimiser as OptimiserSpec
from isograd.optim import optimiser
from isograd.training.step import Layout, compile_step, parameters

torch = pytest.importorskip("torch")
nn = torch.nn

FEATURES, WIDTH, OUTPUTS, BATCH, STEPS = 6, 10, 3, 16, 100


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """PyTorch's threads wait for each other longer than they work on matrices of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Skip(nn.Sequential):
    """x + f(x)."""

    def forward(self, x: Any) -> Any:
        return x + super().forward(x)


def dense(n_in: int, n_out: int, bias: bool = True) -> Any:
    return nn.Linear(n_in, n_out, bias=bias, dtype=torch.float64)


def norm() -> Any:
    return nn.LayerNorm(WIDTH, dtype=torch.float64)


@dataclass(frozen=True)
class Twin:
    """One network, as a spec and as a PyTorch module with its layers in the same order."""

    layers: tuple[Any, ...]
    module: Callable[[], Any]


def chain(name: str, activation: Callable[[], Any], depth: int, **kwargs: Any) -> Twin:
    def module() -> Any:
        parts = []
        for n in range(depth):
            parts += [dense(WIDTH if n else FEATURES, WIDTH), activation()]
        return nn.Sequential(*parts, dense(WIDTH, OUTPUTS))

    hidden = Repeat(depth, (Dense(WIDTH), Activation(name, **kwargs)))
    return Twin((hidden, Dense(OUTPUTS)), module)


class ScaledSigmoid(nn.Module):
    """4σ(x) − 2."""

    def forward(self, x: Any) -> Any:
        return 4.0 * torch.sigmoid(x) - 2.0


TWINS = {
    "relu": chain("relu", nn.ReLU, 4),
    "logistic": chain("logistic", nn.Sigmoid, 3),
    "tanh, norms and skips": Twin(
        (
            Dense(WIDTH),
            LayerNorm(),
            Activation("tanh"),
            Residual((Dense(WIDTH, bias=False), LayerNorm(), Activation("tanh"), Dense(WIDTH))),
            Residual((Activation("tanh"), Residual((Dense(WIDTH),)))),
            LayerNorm(),
            Dense(OUTPUTS),
        ),
        lambda: nn.Sequential(
            dense(FEATURES, WIDTH),
            norm(),
            nn.Tanh(),
            Skip(dense(WIDTH, WIDTH, bias=False), norm(), nn.Tanh(), dense(WIDTH, WIDTH)),
            Skip(nn.Tanh(), Skip(dense(WIDTH, WIDTH))),
            norm(),
            dense(WIDTH, OUTPUTS),
        ),
    ),
}
OTHER_ACTIVATIONS = {
    "identity": chain("identity", nn.Identity, 2),
    "leaky_relu": chain("leaky_relu", nn.LeakyReLU, 3),
    "leaky_relu(0.2)": chain("leaky_relu", lambda: nn.LeakyReLU(0.2), 3, alpha=0.2),
    "elu": chain("elu", nn.ELU, 3),
    "elu(0.5)": chain("elu", lambda: nn.ELU(0.5), 3, alpha=0.5),
    "selu": chain("selu", nn.SELU, 3),
    "softplus": chain("softplus", lambda: nn.Softplus(threshold=1000.0), 3),
    "silu": chain("silu", nn.SiLU, 3),
    "gelu": chain("gelu", nn.GELU, 3),
    "scaled_sigmoid": chain("scaled_sigmoid", ScaledSigmoid, 3),
}
LOSSES: dict[str, Loss] = {
    "half squared error": HalfSquaredError(),
    "binary cross-entropy": BinaryCrossEntropy(l2=0.01),
    "softmax cross-entropy": SoftmaxCrossEntropy(),
    "softmax cross-entropy, l2": SoftmaxCrossEntropy(l2=0.01),
}
OPTIMISERS: dict[str, tuple[OptimiserSpec, Training]] = {
    "gradient descent": (GradientDescent(lr=0.03), Training()),
    "SGD": (SGD(lr=0.1), Training()),
    "SGD, clipped": (SGD(lr=0.2), Training(clip_value=0.03)),
    "momentum": (Momentum(lr=0.02), Training()),
    "Nesterov": (Nesterov(lr=0.02), Training()),
    "AdaGrad": (AdaGrad(lr=0.03), Training()),
    "RMSProp": (RMSProp(lr=0.003), Training()),
    "Adam": (Adam(lr=0.005), Training()),
    "AdamW": (AdamW(lr=0.005, weight_decay=0.1), Training()),
}


def torch_loss(kind: Loss, module: Any, output: Any, target: Any) -> Any:
    n = len(output)
    if isinstance(kind, SoftmaxCrossEntropy):
        value = nn.functional.cross_entropy(output, target)
    elif isinstance(kind, BinaryCrossEntropy):
        f = nn.functional.binary_cross_entropy_with_logits
        value = f(output, target, reduction="sum") / n
    else:
        value = 0.5 * nn.functional.mse_loss(output, target, reduction="sum") / n
    weights = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]
    return value + 0.5 * kind.l2 * sum((w**2).sum() for w in weights)


def names(model: Model) -> list[str]:
    """Our names of the parameters, in the order in which PyTorch lists its own."""
    return [name for p in model.places for name in p.shapes]


def data(loss: Loss, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four batches that can be learned."""
    x = rng.standard_normal((4 * BATCH, FEATURES))
    score = np.sin(x @ rng.standard_normal((FEATURES, OUTPUTS)))
    if isinstance(loss, SoftmaxCrossEntropy):
        return x, score.argmax(axis=1)
    return x, (score > 0) * 1.0 if isinstance(loss, BinaryCrossEntropy) else score


def ours(
    model: Model,
    kind: OptimiserSpec,
    training: Training,
    params: dict[str, np.ndarray],
    batches: Any,
) -> tuple[list[float], dict[str, np.ndarray]]:
    layout = Layout(model.shapes)
    rule = optimiser(kind, training)
    specs = (ArraySpec((len(batches) * len(a), *a.shape[1:]), a.dtype) for a in batches[0])
    size, key = len(batches[0][0]), np.zeros(2, np.uint32)
    step = compile_step(model, rule, layout, *specs, size, key)
    rows = [np.arange(size) + size * (n % len(batches)) for n in range(STEPS)]
    each = np.stack(rows), np.full(STEPS, kind.lr), np.arange(STEPS, dtype=np.uint32)
    fixed = tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
    (theta, *_), (losses, *_), _ = step.bare((layout.join(params), step.state, {}), fixed, each)
    return losses.tolist(), parameters(layout, theta)


def theirs(
    module: Any, loss: Loss, kind: OptimiserSpec, training: Training, batches: Any
) -> list[float]:
    rule, losses = torch_rule(kind, list(module.parameters())), []
    for n in range(STEPS):
        x, y = map(torch.tensor, batches[n % len(batches)])
        rule.zero_grad()
        value = torch_loss(loss, module, module(x), y)
        value.backward()
        if training.clip_value is not None:
            nn.utils.clip_grad_value_(module.parameters(), training.clip_value)
        rule.step()
        losses.append(value.item())
    return losses


def check(
    twin: Twin,
    loss: Loss,
    kind: OptimiserSpec,
    training: Training,
    rng: np.random.Generator,
    fault: float = 0.0,
) -> None:
    """Train both from the same parameters on the same batches; hold losses and parameters."""
    model = build(Network(twin.layers, loss=loss), FEATURES, OUTPUTS)
    params: dict[str, np.ndarray] = {
        name: np.asarray(rng.normal(1.0 if name[0] == "g" else 0.0, 0.3, shape))
        for name, shape in model.shapes.items()
    }
    module = twin.module()
    tensors = dict(zip(names(model), module.parameters(), strict=True))
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.tensor(params[name]) + fault)
    x, y = data(loss, rng)
    if isinstance(kind, GradientDescent):
        batches = [(x, y)]
    else:
        batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    losses, after = ours(model, kind, training, params, batches)
    np.testing.assert_allclose(
        losses, theirs(module, loss, kind, training, batches), rtol=TOLERANCE
    )
    for name, tensor in tensors.items():
        want = tensor.detach().numpy()
        np.testing.assert_allclose(after[name], want, rtol=TOLERANCE, atol=1e-9, err_msg=name)
    assert losses[-1] < losses[0]
    assert all(np.abs(after[name] - params[name]).max() > 1e-4 for name in after)


# At a learning rate near divergence the roundings grow tenfold a step; these rates are well below.
TOLERANCE = 1e-9


@pytest.mark.parametrize("rule", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_a_training_is_that_of_pytorch(
    twin: Twin, loss: Loss, rule: tuple[OptimiserSpec, Training], rng: np.random.Generator
) -> None:
    check(twin, loss, *rule, rng)


@pytest.mark.parametrize("twin", OTHER_ACTIVATIONS.values(), ids=OTHER_ACTIVATIONS)
def test_a_training_with_each_other_activation(twin: Twin, rng: np.random.Generator) -> None:
    check(twin, SoftmaxCrossEntropy(), Momentum(lr=0.02), Training(), rng)


def test_a_start_that_is_off_by_1e_5_is_seen(rng: np.random.Generator) -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(TWINS["relu"], SoftmaxCrossEntropy(), SGD(lr=0.1), Training(), rng, fault=1e-5)


def test_error_signals_are_those_of_pytorch_s_hooks(rng: np.random.Generator) -> None:
    """δ = ∂L/∂z of every weight layer of a network with norms and skips."""
    twin = TWINS["tanh, norms and skips"]
    model = build(Network(twin.layers), FEATURES, OUTPUTS)
    params = {k: rng.normal(0.0, 0.5, shape) for k, shape in model.shapes.items()}
    layout, module = Layout(model.shapes), twin.module()
    tensors = dict(zip(names(model), module.parameters(), strict=True))
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.tensor(params[name]))
    deltas: list[Any] = []
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.register_full_backward_hook(lambda m, inward, outward: deltas.append(outward[0]))
    x, y = data(SoftmaxCrossEntropy(), rng)
    output = module(torch.tensor(x, requires_grad=True))
    nn.functional.cross_entropy(output, torch.tensor(y)).backward()

    seen: dict[str, np.ndarray] = {}
    specs = (ArraySpec(a.shape, a.dtype) for a in (x, y))
    rule = optimiser(SGD(), Training())
    step = compile_step(model, rule, layout, *specs, len(x), np.zeros(2, np.uint32))
    once(
        Scan(plan(step.graph)),
        (layout.join(params), step.state, {}),
        (x, y),
        (np.arange(len(x)), 0.1, np.uint32(0)),
        observe=lambda site, array: seen.update({site: np.array(array)}),
    )
    assert len(deltas) == model.depth == 5
    for n, delta in zip(range(model.depth, 0, -1), deltas, strict=True):
        np.testing.assert_allclose(seen[f"delta/{n}"], delta.numpy(), rtol=1e-10, atol=1e-16)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(seen[f"d{name}"], tensor.grad.numpy(), rtol=1e-10, atol=1e-15)
