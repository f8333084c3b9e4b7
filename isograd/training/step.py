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
from isograd.nn.model import Model, Noise
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
        loss: the loss of a batch, (θ, statistics, inputs, targets, number) to a scalar.
        state: the update rule's first state.
    """

    graph: Graph
    measured: Executable
    bare: Executable
    loss: Executable
    state: Any


def compile_step(
    model: Model,
    rule: Optimiser,
    layout: Layout,
    inputs: ArraySpec,
    targets: ArraySpec,
    key: NDArray[np.uint32],
) -> Step:
    """Trace, optimise and plan a training step.

    The step maps (θ, state, statistics, inputs, targets, lr, number) to (θ, state, statistics,
    loss, ‖g‖, gᵀΔθ); the last is the change of the loss that the step would make if the loss were
    linear. Its probes see, by site: the input, every value of the forward pass and its cotangent,
    every parameter W, its gradient dW and its update uW.

    Args:
        model: the network.
        rule: the update rule.
        layout: of the model's parameters.
        inputs, targets: of a batch; the inputs' dtype is that of the parameters.
        key: (2,) of the run's randomness; the number of the step, () uint32, is its counter.
    """

    def step(
        theta: Value, state: Any, statistics: Any, x: Value, y: Value, lr: Value, number: Value
    ) -> tuple[Any, ...]:
        def risk(parts: Mapping[str, Value]) -> tuple[Value, Any]:
            seen = {name: probe(array, name, f"d{name}") for name, array in parts.items()}
            return model.train_loss(seen | statistics, x, y, Noise(key, number))

        (value, statistics), gradients = value_and_grad(risk, has_aux=True)(layout.split(theta))
        gradient = layout.join(gradients)
        update, state = rule.update(gradient, state, lr, theta)
        for name, part in layout.split(update).items():
            probe(part, f"u{name}")
        slope = total(gradient * update)
        return theta + update, state, statistics, value, global_norm(gradient), slope

    def loss(theta: Value, statistics: Any, x: Value, y: Value, number: Value) -> Value:
        params = layout.split(theta) | statistics
        return model.train_loss(params, x, y, Noise(key, number))[0]

    dtype = inputs.dtype
    start = rule.init(np.zeros(layout.size, dtype))
    state = map_leaves(lambda s: ArraySpec(np.shape(s), np.asarray(s).dtype), start)
    theta, lr = ArraySpec((layout.size,), dtype), ArraySpec((), dtype)
    statistics = {name: ArraySpec(shape, dtype) for name, shape in model.statistics.items()}
    number = ArraySpec((), np.dtype(np.uint32))
    graph = optimise(trace(step, theta, state, statistics, inputs, targets, lr, number)).graph
    bare = optimise(graph, (WITHOUT_PROBES, *EXACT)).graph
    alone = trace(loss, theta, statistics, inputs, targets, number)
    alone = optimise(alone, (WITHOUT_PROBES, *EXACT)).graph
    return Step(*(graph, *(Executable(plan(g)) for g in (graph, bare, alone)), start))


def parameters(layout: Layout, theta: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Copies of the parameters, by site."""
    return {name: np.array(array) for name, array in layout.split(theta).items()}


__all__ = ["Layout", "Step", "compile_step", "parameters"]
