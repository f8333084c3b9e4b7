"""The matrix products of a step in NumPy and nothing else: forward, dX and dW of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from common import Steps
from networks import Problem


def make(problem: Problem, setting: str) -> Steps:
    """Products of the row's sizes, written into arrays that are there; they depend on no other.

    Args:
        problem: the sizes.
        setting: "matmul".
    """
    row, rng = problem.row, np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    products = []
    for i, (n_in, n_out) in enumerate(row.layers):
        x, w, d = draw(row.batch, n_in), draw(n_in, n_out), draw(row.batch, n_out)
        products += [(x, w, np.empty_like(d)), (x.T, d, np.empty_like(w))]
        if i:
            products.append((d, w.T, np.empty_like(x)))
    count = row.steps_per_call

    def call() -> Sequence[Any]:
        for _ in range(count):
            for left, right, out in products:
                np.matmul(left, right, out=out)
        return ()

    return Steps(count, call)
