"""scikit-learn's MLP: partial_fit over several batches per call, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from common import Steps
from networks import BETA1, BETA2, EPS, LR, Problem
from sklearn.neural_network import MLPClassifier, MLPRegressor


def make(problem: Problem, setting: str) -> Steps:
    """An estimator with the row's parameters.

    Its Adam puts ε elsewhere (the efficient form of Kingma & Ba 2015, section 2), and its squared
    error is half of ours; neither changes how long a step takes.

    Args:
        problem: what to train.
        setting: "partial_fit".
    """
    row = problem.row
    classes = row.loss == "softmax_cross_entropy"
    kind: Any = MLPClassifier if classes else MLPRegressor
    model = kind(
        hidden_layer_sizes=row.sizes[1:-1],
        activation=row.activation,
        solver="adam",
        alpha=0.0,
        batch_size=row.batch,
        learning_rate_init=LR,
        beta_1=BETA1,
        beta_2=BETA2,
        epsilon=EPS,
        shuffle=False,
        random_state=0,
    )
    options = {"classes": np.arange(row.sizes[-1])} if classes else {}

    def fit(first: int, last: int) -> float:
        rows = slice(first * row.batch, last * row.batch)
        model.partial_fit(problem.inputs[rows], problem.targets[rows], **options)
        return float(model.loss_) * (1.0 if classes else 2.0)

    fit(0, 1)  # makes its arrays; the next call makes the rule anew
    for ours, theirs in ((problem.weights, model.coefs_), (problem.biases, model.intercepts_)):
        for i, array in enumerate(ours):
            theirs[i] = array.T.copy()
    del model._optimizer
    count = min(row.steps_per_call, row.batches)
    count = max(n for n in range(1, count + 1) if row.batches % n == 0)
    at, begun = 0, False

    def call() -> Sequence[float]:
        nonlocal at, begun
        first, at = at, (at + count) % row.batches
        if begun or count == 1:
            begun = True
            return [fit(first, first + count)]
        begun = True
        return [fit(0, 1), fit(1, count)]  # the loss that it tells is the mean over a call

    return Steps(count, call)
