"""One training step as one graph: forward, loss, backward, clipping, update, and its probes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.numpy import Executable
from isograd.engine.autodiff import value_and_grad
from isograd.engine.functions import concatenate, probe, reshape
from isograd.engine.functions import sum as total
from isograd.engine.graph import ArraySpec, Graph
from isograd.engine.ops import Value
from isograd.engine.passes import EXACT, WITHOUT_PROBES, optimise
from isograd.engine.plan import plan
from isograd.engine.trace import trace
from isograd.engine.tree import map_leaves
from isograd.nn.model import Model
from isograd.nn.spec import SoftmaxCrossEntropy
from isograd.optim.rules import Optimiser, global_norm


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the one vector θ that holds them all.

    One vector lets the update rule run over all parameters at once.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Length of θ."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def split(self, theta: Value) -> dict[str, Value]:
        """Parameters by site, as views of θ."""
        out, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            out[name] = reshape(theta[start:stop], shape)
            start = stop
        return out

    def join(self, params: Mapping[str, Value]) -> Value:
        """θ."""
        return concatenate([reshape(params[name], -1) for name in self.shapes])


@dataclass(frozen=True)
class Step:
    """A compiled training step for batches of one size.

    Attributes:
        graph: what one step does; with probes.
        measured: runs it, and calls an observer at each probe.
        bare: the same without probes.
        loss: the loss of a batch at given parameters.
        state: the update rule's first state.
    """

    graph: Graph
    measured: Executable
    bare: Executable
    loss: Executable
    state: Any


def compile_step(
    model: Model, rule: Optimiser, layout: Layout, batch_size: int, dtype: np.dtype[Any]
) -> Step:
    """Trace, optimise and plan a training step.

    The step maps (θ, state, inputs, targets, lr) to (θ, state, loss, ‖g‖, gᵀΔθ); the last is the
    change of the loss that the step would make if the loss were linear. Its probes see, by site:
    the input, every value of the forward pass and its cotangent, every parameter W, its gradient
    dW and its update uW.

    Args:
        model: the network.
        rule: the update rule.
        layout: of the model's parameters.
        batch_size: rows of a batch.
        dtype: float32 or float64.
    """

    def step(theta: Value, state: Any, x: Value, y: Value, lr: Value) -> tuple[Any, ...]:
        def risk(parts: Mapping[str, Value]) -> Value:
            seen = {name: probe(array, name, f"d{name}") for name, array in parts.items()}
            return model.loss(seen, x, y)

        value, gradients = value_and_grad(risk)(layout.split(theta))
        gradient = layout.join(gradients)
        update, state = rule.update(gradient, state, lr, theta)
        for name, part in layout.split(update).items():
            probe(part, f"u{name}")
        return theta + update, state, value, global_norm(gradient), total(gradient * update)

    labels = isinstance(model.network.loss, SoftmaxCrossEntropy)
    inputs = ArraySpec((batch_size, model.n_in), dtype)
    targets = (
        ArraySpec((batch_size,), np.dtype(np.int64))
        if labels
        else ArraySpec((batch_size, model.n_out), dtype)
    )
    start = rule.init(np.zeros(layout.size, dtype))
    graph = optimise(
        trace(
            step,
            ArraySpec((layout.size,), dtype),
            map_leaves(lambda s: ArraySpec(np.shape(s), np.asarray(s).dtype), start),
            inputs,
            targets,
            ArraySpec((), dtype),
        )
    ).graph
    bare = optimise(graph, (WITHOUT_PROBES, *EXACT)).graph
    params = {name: ArraySpec(shape, dtype) for name, shape in layout.shapes.items()}
    loss = optimise(trace(model.loss, params, inputs, targets), (WITHOUT_PROBES, *EXACT)).graph
    return Step(
        graph, Executable(plan(graph)), Executable(plan(bare)), Executable(plan(loss)), start
    )


def parameters(layout: Layout, theta: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Copies of the parameters, by site."""
    return {name: np.array(array) for name, array in layout.split(theta).items()}


__all__ = ["Layout", "Step", "compile_step", "parameters"]
