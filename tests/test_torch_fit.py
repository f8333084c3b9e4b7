"""Whole runs of `fit` beside PyTorch's: every new layer, optimiser, loss and schedule in float64.

The losses and learning rates of every step, the validation losses, and the parameters, statistics
and outputs at the end. PyTorch gets our first parameters, the order of our rows, and the masks of
our dropout worked out in Python's integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from test_optim import torch_rule
from threefry import keep

from isograd.nn import (
    SGD,
    Activation,
    AdaGrad,
    Adam,
    AdamW,
    BatchNorm,
    BinaryCrossEntropy,
    CosineDecay,
    Data,
    Dense,
    Dropout,
    GradientDescent,
    HalfSquaredError,
    Huber,
    LayerNorm,
    MeanSquaredError,
    Momentum,
    Nesterov,
    Network,
    OneCycle,
    Plateau,
    Residual,
    RMSNorm,
    RMSProp,
    Scale,
    SoftmaxCrossEntropy,
    Spec,
    StepDecay,
    Training,
    WarmUp,
)
from isograd.nn.spec import Loss, Schedule
from isograd.nn.spec import Optimiser as OptimiserSpec
from isograd.training.data import Split, from_arrays
from isograd.training.loop import Outcome, fit
from isograd.training.scores import predict
from isograd.training.start import prepare

torch = pytest.importorskip("torch")
nn, its = torch.nn, torch.nn.functional

FEATURES, WIDTH, OUTPUTS, BATCH, PER_EPOCH, EPOCHS = 5, 8, 3, 16, 4, 25
STEPS = PER_EPOCH * EPOCHS
TOLERANCE = 1e-9


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


class Times(nn.Module):
    """c · x."""

    def __init__(self, c: float, learned: bool = True) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c)) if learned else c

    def forward(self, x: Any) -> Any:
        return self.c * x


class Swish(nn.Module):
    """x σ(βx), one β per unit."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Any) -> Any:
        return x * torch.sigmoid(self.beta * x)


class Masked(nn.Module):
    """Dropout with masks that are handed in."""

    def __init__(self, rate: float, place: int) -> None:
        super().__init__()
        self.rate, self.place, self.mask = rate, place, None

    def forward(self, x: Any) -> Any:
        return x * self.mask if self.training else x


def dense(n_in: int = WIDTH, n_out: int = WIDTH, bias: bool = True) -> Any:
    return nn.Linear(n_in, n_out, bias=bias)


TANH, RELU, LOGISTIC = Activation("tanh"), Activation("relu"), Activation("logistic")
HIDDEN = Dense(WIDTH)
BARE = Dense(WIDTH, bias=False)  # a batch normalisation takes any bias off again


@dataclass(frozen=True)
class Twin:
    """Hidden layers, as a spec and as PyTorch's modules in the same order."""

    layers: tuple[Any, ...]
    modules: Callable[[], list[Any]]


TWINS = {
    "batch norm": Twin(
        (BARE, BatchNorm(momentum=0.3), RELU, BARE, BatchNorm(eps=1e-3), TANH),
        lambda: [
            *(dense(FEATURES, bias=False), nn.BatchNorm1d(WIDTH, momentum=0.3), nn.ReLU()),
            *(dense(bias=False), nn.BatchNorm1d(WIDTH, eps=1e-3), nn.Tanh()),
        ],
    ),
    "rms and layer norm": Twin(
        (HIDDEN, RMSNorm(), TANH, Residual((LayerNorm(eps=1e-3), HIDDEN, RMSNorm(eps=1e-2)))),
        lambda: [
            *(dense(FEATURES), nn.RMSNorm(WIDTH, eps=1e-5), nn.Tanh()),
            Skip(nn.LayerNorm(WIDTH, eps=1e-3), dense(), nn.RMSNorm(WIDTH, eps=1e-2)),
        ],
    ),
    "prelu and swish": Twin(
        (HIDDEN, Activation("prelu"), HIDDEN, Activation("swish", learned=True)),
        lambda: [dense(FEATURES), nn.PReLU(WIDTH), dense(), Swish()],
    ),
    "scale": Twin(
        (HIDDEN, Scale(0.7), TANH, Residual((HIDDEN, TANH, Scale(0.2))), Scale(2.0, learned=False)),
        lambda: [
            *(dense(FEATURES), Times(0.7), nn.Tanh(), Skip(dense(), nn.Tanh(), Times(0.2))),
            Times(2.0, learned=False),
        ],
    ),
    "dropout": Twin(
        (Dropout(0.1), HIDDEN, TANH, Dropout(0.4), BARE, BatchNorm(), TANH),
        lambda: [
            *(Masked(0.1, 0), dense(FEATURES), nn.Tanh(), Masked(0.4, 3)),
            *(dense(bias=False), nn.BatchNorm1d(WIDTH), nn.Tanh()),
        ],
    ),
}
WEIGHTS = (0.5, 1.0, 2.0)
LOSSES: dict[str, tuple[Loss, Any]] = {
    "mean squared error": (
        MeanSquaredError(),
        lambda z, y: its.mse_loss(z, y),
    ),
    "half squared error, l2": (
        HalfSquaredError(l2=0.01),
        lambda z, y: 0.5 * its.mse_loss(z, y, reduction="sum") / len(z),
    ),
    "Huber": (
        Huber(delta=0.3),
        lambda z, y: its.huber_loss(z, y, delta=0.3, reduction="sum") / len(z),
    ),
    "binary cross-entropy of logits": (
        BinaryCrossEntropy(l2=0.01),
        lambda z, y: its.binary_cross_entropy_with_logits(z, y),
    ),
    "binary cross-entropy of probabilities": (
        BinaryCrossEntropy(inputs="probabilities"),
        lambda z, y: its.binary_cross_entropy(z, y),
    ),
    "cross-entropy, weighted": (
        SoftmaxCrossEntropy(class_weights=WEIGHTS),
        lambda z, y: its.cross_entropy(z, y, weight=torch.tensor(WEIGHTS, dtype=torch.float64)),
    ),
    "cross-entropy of shares": (
        SoftmaxCrossEntropy(),
        lambda z, y: its.cross_entropy(z, y),
    ),
    "cross-entropy of shares, weighted": (
        SoftmaxCrossEntropy(class_weights=WEIGHTS, l2=0.01),
        lambda z, y: its.cross_entropy(z, y, weight=torch.tensor(WEIGHTS, dtype=torch.float64)),
    ),
}
CLASSES: tuple[Loss, Any] = (SoftmaxCrossEntropy(), lambda z, y: its.cross_entropy(z, y))
OPTIMISERS: dict[str, OptimiserSpec] = {
    "gradient descent": GradientDescent(lr=0.1),
    "SGD": SGD(lr=0.1),
    "momentum": Momentum(lr=0.02),
    "Nesterov": Nesterov(lr=0.02),
    "AdaGrad": AdaGrad(lr=0.03),
    "RMSProp": RMSProp(lr=0.003),
    "Adam": Adam(lr=0.005),
    "AdamW": AdamW(lr=0.005, weight_decay=0.1),
}


def schedulers(rule: Any, schedule: tuple[Schedule, ...]) -> list[Any]:
    """PyTorch's, for rules that step once per step."""
    from torch.optim import lr_scheduler as s

    out: list[Any] = []
    lr = rule.param_groups[0]["lr"]
    for part in schedule:
        match part:
            case CosineDecay(final=final):
                out.append(s.CosineAnnealingLR(rule, STEPS, eta_min=final * lr))
            case OneCycle():
                out.append(s.OneCycleLR(rule, lr, total_steps=STEPS, cycle_momentum=False))
            case WarmUp(epochs=epochs, start=start):
                out.append(s.LinearLR(rule, start, total_iters=int(epochs * PER_EPOCH)))
            case StepDecay(every=every, factor=factor):
                out.append(s.StepLR(rule, int(every * PER_EPOCH), factor))
    return out


SCHEDULES: dict[str, tuple[Schedule, ...]] = {
    "none": (),
    "cosine": (CosineDecay(final=0.1),),
    "one cycle": (OneCycle(),),
    "warm-up and steps": (WarmUp(3, start=0.05), StepDecay(8, 0.3)),
    "plateau": (Plateau(factor=0.5, patience=1, threshold=0.05),),
}


def data(loss: Loss, name: str) -> Split:
    """Four batches that can be learned, and as many rows for validation."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((160, FEATURES))
    score = np.sin(x @ rng.standard_normal((FEATURES, OUTPUTS)))
    y: Any = score
    if isinstance(loss, BinaryCrossEntropy):
        y = (score[:, 0] > 0).astype(int)
    elif isinstance(loss, SoftmaxCrossEntropy):
        y = score.argmax(axis=1)
        if "shares" in name:
            y = np.exp(2 * score) / np.exp(2 * score).sum(axis=1, keepdims=True)
    settings = Data("arrays", test_fraction=0.2, validation_fraction=0.4)
    return from_arrays(x, y, settings, loss_kind=loss, dtype="float64")


@dataclass(frozen=True)
class Theirs:
    """What PyTorch's training left."""

    losses: list[float]
    rates: list[float]
    validation: list[float]
    module: Any


def theirs(
    module: Any, cost: Callable[[Any, Any], Any], spec: Spec, split: Split, fault: str
) -> Theirs:
    rule = torch_rule(spec.optimiser, list(module.parameters()))
    schedule = spec.training.schedule
    steppers = schedulers(rule, schedule if fault != "schedule" else (CosineDecay(),))
    plateaus = [
        torch.optim.lr_scheduler.ReduceLROnPlateau(
            rule, factor=p.factor, patience=p.patience, threshold=p.threshold, eps=0.0
        )
        for p in schedule
        if isinstance(p, Plateau)
    ]
    _, for_order, for_noise = np.random.SeedSequence(spec.seed).spawn(3)
    order = np.random.default_rng(for_order)
    first, second = for_noise.generate_state(2).astype(np.uint32)
    key = int(first), int(second)
    x, y = torch.tensor(split.X_train), torch.tensor(split.y_train)
    held = torch.tensor(split.X_validation), torch.tensor(split.y_validation)
    linear = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]
    size = spec.training.batch_size or len(x)
    out = Theirs([], [], [], module)
    while len(out.losses) < spec.training.epochs * (len(x) // size):
        permuted = torch.tensor(order.permutation(len(x)))
        module.train()
        for rows in permuted[: len(x) // size * size].split(size):
            for m in module.modules():
                if isinstance(m, Masked):
                    step = len(out.losses) + (fault == "masks")
                    width = FEATURES if m.place == 0 else WIDTH
                    m.mask = torch.tensor(keep(key, step, m.place, m.rate, (size, width)))
            rule.zero_grad()
            penalty = 0.5 * spec.network.loss.l2 * sum((w**2).sum() for w in linear)
            value = cost(module(x[rows]), y[rows]) + penalty
            value.backward()
            out.losses.append(value.item())
            out.rates.append(rule.param_groups[0]["lr"])
            rule.step()
            for stepper in steppers:
                stepper.step()
        if fault != "mode":
            module.eval()
        with torch.no_grad():
            out.validation.append(cost(module(held[0]), held[1]).item())
        for plateau in plateaus:
            plateau.step(out.validation[-1])
    module.eval()
    return out


def check(
    twin: Twin,
    loss: tuple[Loss, Any],
    optimiser: OptimiserSpec,
    schedule: tuple[Schedule, ...] = (),
    name: str = "",
    fault: str = "",
) -> tuple[Outcome, Theirs]:
    """Train both from the same parameters on the same rows; hold all that comes out."""
    kind, cost = loss
    binary = isinstance(kind, BinaryCrossEntropy)
    outputs = 1 if binary else OUTPUTS
    last = (LOGISTIC,) if binary and kind.inputs == "probabilities" else ()
    full = isinstance(optimiser, GradientDescent)
    epochs = STEPS if full else EPOCHS
    training = Training(epochs, None if full else BATCH, schedule=schedule)
    layers = (*twin.layers, Dense(outputs), *last)
    network = Network(layers, kind)
    spec = Spec(
        *(Data("arrays", validation_fraction=0.4), network, optimiser, training),
        seed=11,
        dtype="float64",
    )
    split = data(kind, name)
    assert len(split.X_train) // BATCH == PER_EPOCH  # and some rows are left over
    start = prepare(spec, split)
    torch.set_default_dtype(torch.float64)
    try:
        tail = [nn.Sigmoid()] if last else []
        module = nn.Sequential(*twin.modules(), dense(WIDTH, outputs), *tail)
    finally:
        torch.set_default_dtype(torch.float32)
    names = [n for p in start.model.places for n in p.shapes]
    tensors = dict(zip(names, module.parameters(), strict=True))
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(torch.tensor(start.params[key]) + (1e-6 if fault == "start" else 0.0))
    want = theirs(module, cost, spec, split, fault)
    got = fit(spec, split)
    records = got.telemetry.records

    def close(ours: Any, theirs: Any, what: str, atol: float = 0.0) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=atol, err_msg=what)

    close([r.lr for r in records], want.rates, "rates", atol=1e-15)
    close([r.loss for r in records], want.losses, "losses")
    validation = [r.validation for r in records if r.validation is not None]
    close(validation, want.validation, "validation")
    for key, tensor in tensors.items():
        close(got.params[key], tensor.detach().numpy(), key, atol=TOLERANCE)
    buffers = [b for n, b in module.named_buffers() if n.startswith(tuple("0123456789"))]
    buffers = [b for b in buffers if b.ndim]  # without the counts of batches
    for key, buffer in zip(got.model.statistics, buffers, strict=True):
        close(got.params[key], buffer.numpy(), key, atol=TOLERANCE)
    output = module(torch.tensor(split.X_test)).detach().numpy()
    close(predict(got.model, got.params, split.X_test), output, "outputs", atol=TOLERANCE)
    assert np.mean(want.losses[-PER_EPOCH:]) < np.mean(want.losses[:PER_EPOCH])
    assert all(np.abs(got.params[n] - start.params[n]).max() > 1e-4 for n in names)
    return got, want


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_a_run_with_each_layer_and_schedule(twin: Twin, schedule: tuple[Schedule, ...]) -> None:
    got, want = check(twin, CLASSES, SGD(lr=0.1), schedule)
    assert got.stopped == "finished"
    assert (len(set(want.rates)) > 1) == bool(schedule)


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("schedule", ["none", "cosine", "one cycle"])
def test_a_run_with_each_optimiser(optimiser: OptimiserSpec, schedule: str) -> None:
    check(TWINS["scale"], CLASSES, optimiser, SCHEDULES[schedule])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("twin", ["batch norm", "prelu and swish"])
def test_a_run_with_each_loss(name: str, twin: str) -> None:
    check(TWINS[twin], LOSSES[name], Nesterov(lr=0.01), SCHEDULES["warm-up and steps"], name)


@pytest.mark.parametrize(
    ("fault", "twin", "seen"),
    [
        ("start", "prelu and swish", "losses"),
        ("start", "rms and layer norm", "losses"),
        ("masks", "dropout", "losses"),
        ("schedule", "scale", "rates"),
        ("mode", "batch norm", "validation"),
    ],
)
def test_a_planted_fault_is_seen(fault: str, twin: str, seen: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s)Not equal to tolerance.*{seen}"):
        check(TWINS[twin], CLASSES, SGD(lr=0.1), SCHEDULES["one cycle"], fault=fault)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Huber", "half squared error, l2"),
        ("cross-entropy of shares", "cross-entropy of shares, weighted"),
        ("binary cross-entropy of logits", "binary cross-entropy of probabilities"),
    ],
)
def test_another_loss_is_seen(name: str, other: str) -> None:
    planted = LOSSES[name][0], LOSSES[other][1]
    with pytest.raises((AssertionError, RuntimeError), match=r"losses|between 0 and 1"):
        check(TWINS["scale"], planted, SGD(lr=0.05), name=name)


@pytest.mark.parametrize("other", ["momentum", "Adam"])
def test_another_optimiser_is_seen(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {"momentum": Nesterov(lr=0.02), "Adam": AdamW(lr=0.005, weight_decay=0.1)}[other]
    real = torch_rule
    monkeypatch.setitem(globals(), "torch_rule", lambda kind, p: real(OPTIMISERS[other], p))
    with pytest.raises(AssertionError, match=r"(?s)Not equal to tolerance.*losses"):
        check(TWINS["scale"], CLASSES, planted)
