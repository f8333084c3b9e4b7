"""isograd itself: the step that training takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import Steps, Unavailable
from networks import BETA1, BETA2, EPS, LR, Problem, Row

from isograd.backends.llvm.jit import available
from isograd.engine.graph import ArraySpec
from isograd.nn import (
    Activation,
    Adam,
    Data,
    Dense,
    MeanSquaredError,
    Network,
    SoftmaxCrossEntropy,
    Spec,
    Training,
)
from isograd.nn.model import Model, build
from isograd.optim.rules import optimiser
from isograd.training.step import Layout, Step, compile_step


def model_of(problem: Problem) -> tuple[Spec, Model]:
    """The row's network as a spec, and sized."""
    row = problem.row
    layers: list[Any] = []
    for i, (_, n_out) in enumerate(row.layers):
        layers.append(Dense(n_out))
        if i < len(row.layers) - 1:
            layers.append(Activation(row.activation))
    loss = MeanSquaredError() if row.loss == "mean_squared_error" else SoftmaxCrossEntropy()
    spec = Spec(
        Data("arrays"),
        Network(tuple(layers), loss),
        Adam(LR, beta1=BETA1, beta2=BETA2, eps=EPS),
        Training(batch_size=row.batch),
    )
    return spec, build(spec.network, row.sizes[0], row.sizes[-1])


def compiled(problem: Problem, backend: str) -> tuple[Step, Any]:
    """The step of the row on a backend, and the first θ."""
    spec, model = model_of(problem)
    layout = Layout(model.shapes)
    x, y = problem.inputs, problem.targets
    step = compile_step(
        model,
        optimiser(spec.optimiser, spec.training),
        layout,
        ArraySpec(x.shape, x.dtype),
        ArraySpec(y.shape, y.dtype),
        problem.row.batch,
        np.zeros(2, np.uint32),
        active=model.active,
        backend=backend,  # type: ignore[arg-type]
        threads=problem.row.threads,
    )
    arrays = [a for pair in zip(problem.weights, problem.biases, strict=True) for a in pair]
    theta = layout.join(dict(zip(model.shapes, arrays, strict=True)))
    return step, theta


def make(problem: Problem, setting: str) -> Steps:
    """The step that training takes, many to a call as there, its rows gathered by number.

    Args:
        problem: what to train.
        setting: "native" or "numpy"; with "+telemetry" every site is summarised at every step.

    Raises:
        Unavailable: if no native code can be made here.
    """
    backend, _, extra = setting.partition("+")
    if backend == "native" and (reason := available()) is not None:
        raise Unavailable(reason)
    start = time.perf_counter()
    step, theta = compiled(problem, backend)
    stages = {"trace and compile": time.perf_counter() - start}
    run = step.measured if extra == "telemetry" else step.bare
    row, at = problem.row, 0
    carry = theta, step.state, {}
    fixed = problem.inputs, problem.targets

    def call() -> Sequence[Any]:
        nonlocal carry, at
        carry, (losses, *_), applied, *_ = run(carry, fixed, each_of(row, at))
        at += applied
        if applied < row.steps_per_call:
            raise FloatingPointError(f"step {at} is not finite")
        out: Sequence[Any] = losses
        return out

    facts = {"interpreted primitives": len(getattr(run, "fallbacks", ()))}
    return Steps(row.steps_per_call, call, stages, facts)


def each_of(row: Row, at: int) -> tuple[Any, Any, Any]:
    """The rows, learning rates and numbers of a call's steps from number `at` on."""
    numbers = at + np.arange(row.steps_per_call)
    rows = np.arange(row.batch) + row.batch * (numbers % row.batches)[:, None]
    return rows, np.full(len(numbers), LR, np.float32), numbers.astype(np.uint32)
