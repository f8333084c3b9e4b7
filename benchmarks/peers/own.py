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
from isograd.training.cadence import cadence
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


def compiled(problem: Problem, backend: str, moments: bool = False) -> tuple[Step, Any]:
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
        moments=moments,
    )
    arrays = [a for pair in zip(problem.weights, problem.biases, strict=True) for a in pair]
    theta = layout.join(dict(zip(model.shapes, arrays, strict=True)))
    return step, theta


def make(problem: Problem, setting: str) -> Steps:
    """The step that training takes, many to a call as there, its rows gathered by number.

    Args:
        problem: what to train.
        setting: "native" or "numpy"; with "+summaries" or "+moments" these are taken of every site
            at every step, with "+cadence" summaries as often as in a long run of training.

    Raises:
        Unavailable: if no native code can be made here.
    """
    backend, _, extra = setting.partition("+")
    if backend == "native" and (reason := available()) is not None:
        raise Unavailable(reason)
    start = time.perf_counter()
    step, theta = compiled(problem, backend, extra == "moments")
    stages = {"trace and compile": time.perf_counter() - start}
    run = _taken(step, extra)
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


def _taken(step: Step, extra: str) -> Any:
    """What takes the steps of a call, with telemetry of a kind."""
    if extra != "cadence":
        return {"": step.bare, "summaries": step.measured, "moments": step.brief}[extra]
    every, at = cadence(step.graph, 10**9), 0

    def run(carry: Any, fixed: Any, each: Any) -> Any:
        nonlocal at
        found, first, count = [], 0, len(each[0])
        while first < count:
            due = (at + first) % every == 0
            last = first + 1 if due else min(count, first + every - (at + first) % every)
            some = tuple(a[first:last] for a in each)
            carry, out, applied, *_ = (step.measured if due else step.bare)(carry, fixed, some)
            found.append(out)
            first += applied
            if applied < len(some[0]):
                break
        at += first
        return carry, [np.concatenate(part) for part in zip(*found, strict=True)], first

    return run


def each_of(row: Row, at: int) -> tuple[Any, Any, Any]:
    """The rows, learning rates and numbers of a call's steps from number `at` on."""
    numbers = at + np.arange(row.steps_per_call)
    rows = np.arange(row.batch) + row.batch * (numbers % row.batches)[:, None]
    return rows, np.full(len(numbers), LR, np.float32), numbers.astype(np.uint32)
