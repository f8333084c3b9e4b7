"""JAX: a whole step compiled, one call per step or one call for many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import Steps
from jax.flatten_util import ravel_pytree
from networks import BETA1, BETA2, EPS, LR, Problem, Row


def _loss(row: Row, params: list[tuple[Any, Any]], x: Any, y: Any) -> Any:
    for i, (w, b) in enumerate(params):
        x = x @ w + b
        if i < len(params) - 1:
            x = jnp.maximum(x, 0.0) if row.activation == "relu" else jnp.tanh(x)
    if row.loss == "mean_squared_error":
        return jnp.mean(jnp.square(x - y))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1))


def _adam(carry: tuple[Any, ...], g: Any) -> tuple[Any, ...]:
    """Kingma & Ba 2015, algorithm 1."""
    theta, m, v, t = carry
    t = t + 1.0
    m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
    v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
    rate, root = LR / (1 - BETA1**t), jnp.sqrt(1 - BETA2**t)
    theta = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + EPS), theta, m, v)
    return theta, m, v, t


def make(problem: Problem, setting: str) -> Steps:
    """A step, jitted, with its state donated.

    Args:
        problem: what to train.
        setting: "jit" (a call per step) or "scan" (a call for all steps), then "tree" (parameters
            as arrays) or "vector" (parameters in one array, of which layers take slices).
    """
    row = problem.row
    calls, form = setting.split(", ")
    params = [
        (jnp.asarray(w.T.copy()), jnp.asarray(b))
        for w, b in zip(problem.weights, problem.biases, strict=True)
    ]
    loss = partial(_loss, row)
    theta: Any = params
    if form == "vector":
        theta, restore = ravel_pytree(params)

        def loss(theta: Any, x: Any, y: Any) -> Any:
            return _loss(row, restore(theta), x, y)

    def step(carry: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        value, gradient = jax.value_and_grad(loss)(carry[0], *batch)
        return _adam(carry, gradient), value

    zeros = partial(jax.tree.map, jnp.zeros_like)
    carry = (theta, zeros(theta), zeros(theta), jnp.zeros(()))
    make_call = _scanned if calls == "scan" else _jitted
    return make_call(problem, step, carry)


def _jitted(problem: Problem, step: Any, carry: Any) -> Steps:
    run = jax.jit(step, donate_argnums=0)
    count = problem.row.steps_per_call
    batches = [jax.device_put(problem.batch(i)) for i in range(problem.row.batches)]
    at = 0

    def call() -> Sequence[Any]:
        nonlocal carry, at
        losses = []
        for _ in range(count):
            carry, value = run(carry, batches[at])
            losses.append(value)
            at = (at + 1) % len(batches)
        return losses

    return Steps(count, call)


def _scanned(problem: Problem, step: Any, carry: Any) -> Steps:
    count = problem.row.steps_per_call
    n, batch = problem.row.batches, problem.row.batch
    x = jnp.asarray(problem.inputs).reshape(n, batch, -1)
    y = jnp.asarray(problem.targets).reshape(n, batch, *problem.targets.shape[1:])

    @partial(jax.jit, donate_argnums=0)
    def run(carry: Any, x: Any, y: Any, order: Any) -> Any:
        return jax.lax.scan(lambda c, i: step(c, (x[i], y[i])), carry, order)

    at = 0

    def call() -> Sequence[Any]:
        nonlocal carry, at
        order = (at + np.arange(count)) % n
        at = (at + count) % n
        carry, losses = run(carry, x, y, order)
        return np.asarray(losses)

    return Steps(count, call)
