"""One training step as one graph: forward, loss, backward, clipping, update, and its probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.select import Backend, executable, scan
from isograd.engine.autodiff import value_and_grad
from isograd.engine.dispatch import spec_of
from isograd.engine.functions import concatenate, probe, reshape
from isograd.engine.functions import sum as total
from isograd.engine.graph import ArraySpec, Graph, Var
from isograd.engine.ops import Value
from isograd.engine.passes import EXACT, TURNED_PRODUCTS, WITHOUT_PROBES, optimise
from isograd.engine.trace import trace
from isograd.engine.tree import flatten, map_leaves
from isograd.nn.emulation import Emulation
from isograd.nn.model import Model, Noise
from isograd.nn.spec import Precision
from isograd.optim.rules import Optimiser, global_norm
from isograd.telemetry.measured import Active, measured_scan, moments_scan
from isograd.telemetry.records import Site


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
    """A compiled training step, in rounds as `isograd.backends.rounds` has them.

    It maps (θ, state, statistics), (inputs, targets) of all rows, and (rows, lr, number), with a
    dynamic loss scale behind them, to (θ, state, statistics), (loss, ‖g‖, gᵀΔθ), and a number that
    is finite if the loss, the norm and what is carried on are. gᵀΔθ is the change of the loss that
    the step would make if the loss were linear.

    Attributes:
        graph: what one step does; with probes.
        measured: runs it, and gives the summaries of each round too.
        bare: runs it without probes.
        brief: runs it, and gives the moments of `sites` in each round too; None if not asked for.
        sites: in the order of those moments.
        loss: the loss of a batch, (θ, statistics, (inputs, targets), rows, number) to a scalar.
        state: the update rule's first state.
    """

    graph: Graph
    measured: Callable[..., Any]
    bare: Callable[..., Any]
    brief: Callable[..., Any] | None
    sites: tuple[Site, ...]
    loss: Callable[..., Any]
    state: Any


def trace_step(
    model: Model,
    rule: Optimiser,
    layout: Layout,
    inputs: ArraySpec,
    targets: ArraySpec,
    batch_size: int,
    key: NDArray[np.uint32],
    precision: Precision | None = None,
) -> Graph:
    """A training step as a graph, with probes; see `compile_step`."""

    def step(carry: Any, fixed: Any, each: Any) -> tuple[Any, ...]:
        theta, state, statistics = carry
        rows, lr, number, *scale = each
        x, y = (array[rows] for array in fixed)
        noise = Noise(key, number)
        emulated = _emulation(precision, noise, *scale)

        def risk(parts: Mapping[str, Value]) -> tuple[Value, Any]:
            seen = {name: probe(array, name, f"d{name}") for name, array in parts.items()}
            return model.train_loss(seen | statistics, x, y, noise, emulated)

        (value, statistics), gradients = value_and_grad(risk, has_aux=True)(layout.split(theta))
        gradient = layout.join(gradients)
        update, state = rule.update(gradient, state, lr, theta)
        new = theta + update
        if emulated is not None and not emulated.precision.master:
            new = emulated.updated(new)
            update = new - theta  # what comes of it
        for name, part in layout.split(update).items():
            probe(part, f"u{name}")
        norm, slope = global_norm(gradient), total(gradient * update)
        carry = new, state, statistics
        return carry, (value, norm, slope), _finite((value, norm, carry))

    dtype = inputs.dtype
    theta, statistics = _carried(model, layout, dtype)
    start = rule.init(np.zeros(layout.size, dtype))
    state = map_leaves(lambda s: ArraySpec(np.shape(s), np.asarray(s).dtype), start)
    each = [ArraySpec((batch_size,), np.int64), ArraySpec((), dtype), ArraySpec((), np.uint32)]
    each += [ArraySpec((), dtype)] * is_dynamic(precision)
    traced = trace(step, (theta, state, statistics), (inputs, targets), tuple(each))
    return optimise(traced, (*EXACT, TURNED_PRODUCTS, *EXACT)).graph


def _emulation(precision: Precision | None, noise: Noise, *scale: Value) -> Emulation | None:
    """The roundings of a step; a static scale is that of the spec."""
    if precision is None:
        return None
    return Emulation(precision, noise, *(scale or [float(precision.loss_scale)]))


def is_dynamic(precision: Precision | None) -> bool:
    """Whether a step is given the loss scale."""
    return precision is not None and precision.dynamic


def without_probes(graph: Graph) -> Graph:
    """The same step, unseen."""
    return optimise(graph, (WITHOUT_PROBES, *EXACT)).graph


def batch_of(graph: Graph) -> dict[Var, int]:
    """The input of a step that chooses its rows, and the axis along which it does."""
    whole = (v for v in reversed(graph.inputs) if v.spec.dtype == np.int64 and v.spec.shape)
    return {next(whole): 0}


def compile_step(
    model: Model,
    rule: Optimiser,
    layout: Layout,
    inputs: ArraySpec,
    targets: ArraySpec,
    batch_size: int,
    key: NDArray[np.uint32],
    *,
    active: Active | None = None,
    backend: Backend = "numpy",
    threads: int | None = None,
    recompute: bool = False,
    moments: bool = False,
    precision: Precision | None = None,
) -> Step:
    """Trace, optimise and plan a training step.

    Its probes see, by site: the input, every value of the forward pass and its cotangent, every
    parameter W, its gradient dW and its update uW.

    Args:
        model: the network.
        rule: the update rule.
        layout: of the model's parameters.
        inputs, targets: of all rows; the inputs' dtype is that of the parameters.
        batch_size: rows of a step, chosen by (batch_size,) int64.
        key: (2,) of the run's randomness; the number of the step, () uint32, is its counter.
        active: by site, the interval outside of which values count as saturated.
        backend, threads, recompute: how it is run, as for `isograd.backends.select.scan`.
        moments: whether steps are to give moments of every site.
        precision: narrow formats that they emulate; None rounds nothing.
    """

    def loss(theta: Value, statistics: Any, fixed: Any, rows: Value, number: Value) -> Value:
        params, noise = layout.split(theta) | statistics, Noise(key, number)
        x, y = (array[rows] for array in fixed)
        emulated = _emulation(precision, noise, 1.0)
        return model.train_loss(params, x, y, noise, emulated)[0]

    graph = trace_step(model, rule, layout, inputs, targets, batch_size, key, precision)
    rows, number = ArraySpec((batch_size,), np.int64), ArraySpec((), np.uint32)
    theta, statistics = _carried(model, layout, inputs.dtype)
    alone = trace(loss, theta, statistics, (inputs, targets), rows, number)
    how: Any = {"axes": batch_of(graph), "threads": threads, "recompute": recompute}
    brief, sites = moments_scan(graph, backend, active or {}, **how) if moments else (None, ())
    return Step(
        graph=graph,
        measured=measured_scan(graph, backend, active or {}, **how),
        bare=scan(without_probes(graph), backend, **how),
        brief=brief,
        sites=sites,
        loss=executable(without_probes(alone), backend),
        state=rule.init(np.zeros(layout.size, inputs.dtype)),
    )


def _carried(
    model: Model, layout: Layout, dtype: np.dtype[Any]
) -> tuple[ArraySpec, dict[str, ArraySpec]]:
    """θ, and what training gathers but does not learn."""
    shapes = model.statistics.items()
    return ArraySpec((layout.size,), dtype), {n: ArraySpec(shape, dtype) for n, shape in shapes}


def _finite(tree: Any) -> Value:
    """0 if all numbers of a tree are finite, else NaN: 0 times infinity is that."""
    leaves = [leaf for leaf in flatten(tree)[0] if spec_of(leaf).differentiable]
    out = total(leaves[0] * 0.0)
    for leaf in leaves[1:]:
        out = out + total(leaf * 0.0)
    return out


def parameters(layout: Layout, theta: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Copies of the parameters, by site."""
    return {name: np.array(array) for name, array in layout.split(theta).items()}


__all__ = [
    "Layout",
    "Step",
    "batch_of",
    "compile_step",
    "is_dynamic",
    "parameters",
    "trace_step",
    "without_probes",
]
