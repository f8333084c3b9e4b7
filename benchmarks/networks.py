"""The networks that are timed: sizes, data, first parameters, a float64 reference, and counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
"""Of Adam, as Kingma & Ba 2015 have it."""
INPUTS, CLASSES = 64, 10
BATCHES = 32
"""Distinct batches; steps go round them."""


@dataclass(frozen=True)
class Row:
    """A network, a batch size and a number of threads.

    Attributes:
        name: what it is called in the tables.
        sizes: of the input, of every hidden layer, of the output.
        batch: rows per step.
        threads: cores that may be used.
        activation: relu or tanh, after every layer but the last.
        loss: softmax_cross_entropy on labels, or mean_squared_error on vectors.
        batches: how many distinct batches there are; 1 is training on all rows at once.
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    threads: int
    activation: str = "relu"
    loss: str = "softmax_cross_entropy"
    batches: int = BATCHES

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(n_in, n_out) of each weight layer."""
        return list(zip(self.sizes, self.sizes[1:], strict=False))

    @property
    def parameters(self) -> int:
        """How many weights and biases."""
        return sum(n_in * n_out + n_out for n_in, n_out in self.layers)

    @property
    def flops(self) -> int:
        """Of the products of a step: forward, dX (but of the first layer) and dW, 2 B n m each."""
        products = [(2 if i == 0 else 3) * n * m for i, (n, m) in enumerate(self.layers)]
        return 2 * self.batch * sum(products)

    @property
    def steps_per_call(self) -> int:
        """Steps that a peer takes in a row before anyone looks: 8 GFLOP, from 8 to 512."""
        return int(np.clip(8_000_000_000 // self.flops, 8, 512))


def chain(layers: int, width: int, batch: int, threads: int) -> Row:
    """`layers` weight layers of one width, 64 inputs, 10 classes."""
    sizes = (INPUTS, *[width] * (layers - 1), CLASSES)
    return Row(f"{layers}×{width}, batch {batch}", sizes, batch, threads)


ROWS = {
    "1": chain(10, 64, 32, 1),
    "2": chain(50, 64, 64, 1),
    "3": chain(100, 64, 64, 1),
    "4": chain(5, 256, 128, 2),
    "5": chain(5, 1024, 256, 2),
    "6": Row(
        "4-32-16-4 tanh, all of 10 000 rows",
        (4, 32, 16, 4),
        10_000,
        2,
        "tanh",
        "mean_squared_error",
        1,
    ),
}


def row_of(text: str) -> Row:
    """A row by its number, or `LxWxBxT`: layers, width, batch, threads.

    Raises:
        ValueError: if it is neither.
    """
    if text in ROWS:
        return ROWS[text]
    if re.fullmatch(r"\d+x\d+x\d+x\d+", text):
        layers, width, batch, threads = map(int, text.split("x"))
        if layers >= 2 and min(width, batch, threads) >= 1:
            return chain(layers, width, batch, threads)
    raise ValueError(f"{text}: a row is one of {', '.join(ROWS)}, or LxWxBxT as in 10x64x32x1")


@dataclass(frozen=True)
class Problem:
    """Data and first parameters of a row, drawn from a seed.

    Half of the labels are noise and the targets of a regression are noisy, so that the loss falls
    but gradients do not vanish, however many steps a fast peer takes.
    """

    row: Row
    seed: int = 0

    @cached_property
    def weights(self) -> list[NDArray[np.float32]]:
        """W (n_out, n_in) of each layer: He for relu, Xavier's for tanh, both normal."""
        rng = np.random.default_rng([self.seed, 0])
        gain = 2.0 if self.row.activation == "relu" else 1.0
        return [
            (rng.standard_normal((n_out, n_in)) * np.sqrt(gain / n_in)).astype(np.float32)
            for n_in, n_out in self.row.layers
        ]

    @cached_property
    def biases(self) -> list[NDArray[np.float32]]:
        """b (n_out,) of each layer: zero."""
        return [np.zeros(n_out, np.float32) for _, n_out in self.row.layers]

    @cached_property
    def inputs(self) -> NDArray[np.float32]:
        """X (batches · B, n_in)."""
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.row.batch * self.row.batches, self.row.sizes[0])
        return rng.standard_normal(shape, dtype=np.float32)

    @cached_property
    def targets(self) -> NDArray[Any]:
        """Labels (n,) int64, or vectors (n, n_out)."""
        rng = np.random.default_rng([self.seed, 2])
        n, n_out = len(self.inputs), self.row.sizes[-1]
        teacher = self.inputs @ rng.standard_normal((self.row.sizes[0], n_out), dtype=np.float32)
        if self.row.loss == "mean_squared_error":
            noise = rng.standard_normal((n, n_out), dtype=np.float32)
            return np.asarray(np.tanh(teacher) + 0.5 * noise, np.float32)
        noisy = rng.random(n) < 0.5
        labels = np.where(noisy, rng.integers(0, n_out, n), teacher.argmax(axis=1))
        return np.asarray(labels, np.int64)

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """The rows of a step, as views: batches lie side by side."""
        start = step % self.row.batches * self.row.batch
        rows = slice(start, start + self.row.batch)
        return self.inputs[rows], self.targets[rows]

    def reference(self) -> float:
        """The loss of the first batch at the first parameters, in float64 from the formula."""
        x, y = self.batch(0)
        a = x.astype(np.float64)
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            a = a @ w.T.astype(np.float64) + b
            if i < len(self.weights) - 1:
                a = np.maximum(a, 0.0) if self.row.activation == "relu" else np.tanh(a)
        if self.row.loss == "mean_squared_error":
            return float(np.mean((a - y) ** 2))
        top = a.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(a - top).sum(axis=1))
        return float(np.mean(log_sum - a[np.arange(len(a)), y]))
