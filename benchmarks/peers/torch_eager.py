"""PyTorch, eager: a Sequential of Linear layers and Adam, fused or foreach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from common import Steps
from networks import BETA1, BETA2, EPS, LR, Problem


def network(problem: Problem) -> torch.nn.Module:
    """The row's network with its first parameters."""
    row = problem.row
    torch.set_num_threads(row.threads)
    parts: list[torch.nn.Module] = []
    for i, (n_in, n_out) in enumerate(row.layers):
        linear = torch.nn.Linear(n_in, n_out)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(problem.weights[i]))
            linear.bias.copy_(torch.from_numpy(problem.biases[i]))
        parts.append(linear)
        if i < len(row.layers) - 1:
            parts.append(torch.nn.ReLU() if row.activation == "relu" else torch.nn.Tanh())
    return torch.nn.Sequential(*parts)


def loss_function(problem: Problem) -> Any:
    """The row's loss, of output and target."""
    square = problem.row.loss == "mean_squared_error"
    return torch.nn.functional.mse_loss if square else torch.nn.functional.cross_entropy


def adam(model: torch.nn.Module, **options: Any) -> torch.optim.Adam:
    """Adam over a model's parameters."""
    return torch.optim.Adam(model.parameters(), lr=LR, betas=(BETA1, BETA2), eps=EPS, **options)


def steps(problem: Problem, step: Callable[[Any, Any], Any]) -> Steps:
    """Calls that take the batches in turn; a batch is a view of the data."""
    batches = [tuple(map(torch.from_numpy, problem.batch(i))) for i in range(problem.row.batches)]
    count, at = problem.row.steps_per_call, 0

    def call() -> list[Any]:
        nonlocal at
        losses = []
        for _ in range(count):
            losses.append(step(*batches[at]).detach())
            at = (at + 1) % len(batches)
        return losses

    return Steps(count, call)


def make(problem: Problem, setting: str) -> Steps:
    """A step as the tutorials have it.

    Args:
        problem: what to train.
        setting: "fused" or "foreach", the implementation of Adam.
    """
    model, loss = network(problem), loss_function(problem)
    rule = adam(model, **{setting: True})

    def step(x: Any, y: Any) -> Any:
        rule.zero_grad(set_to_none=True)
        value = loss(model(x), y)
        value.backward()
        rule.step()
        return value

    return steps(problem, step)
