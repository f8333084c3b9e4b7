"""PyTorch with torch.compile: the model and its loss, with or without the rule."""

from __future__ import annotations

import shutil
from typing import Any

import torch
import torch._inductor.config as inductor
from common import Steps, Unavailable
from networks import Problem

from peers.torch_eager import adam, loss_function, network, steps


def make(problem: Problem, setting: str) -> Steps:
    """A compiled step.

    Args:
        problem: what to train.
        setting: "model": forward, loss and backward are compiled, fused Adam is not; "model+adam":
            Adam too; "cpp": as "model", with the calls between kernels in C++ as well.

    Raises:
        Unavailable: without a C++ compiler.
    """
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise Unavailable("no C++ compiler")
    inductor.cpp_wrapper = setting == "cpp"
    model, loss = network(problem), loss_function(problem)
    forward = torch.compile(lambda x, y: loss(model(x), y), fullgraph=True, dynamic=False)
    if setting == "model+adam":
        rule = adam(model, foreach=True)
        update = torch.compile(rule.step)
    else:
        rule = adam(model, fused=True)
        update = rule.step

    def step(x: Any, y: Any) -> Any:
        rule.zero_grad(set_to_none=True)
        value = forward(x, y)
        value.backward()
        update()
        return value

    return steps(problem, step)
