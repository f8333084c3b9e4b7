"""Are learning rates from the sharpness right? Networks trained at multiples of the stable rate.

20 networks on scikit-learn's data sets, each with seven optimisers, 200 steps. `step_size` gives
the largest stable learning rate and the one to try first, at the initialisation, from one batch;
the networks are then trained at 0.3, 0.9, 1.5 and 4 times the stable one, and at the one to try. A
training *learns* if its loss on the training part ends below both the loss at the start and that of
the best constant output, and its first ten steps *fall* if their mean loss is below the first
step's. Beside it stands by which factor the best of eleven rates, a factor 2.15 apart, is above the
one to try.

What theory says of a quadratic is that training falls below 1 and not above. Networks are none:
they move to where they are less sharp, so that what is above the stable rate is not said to fail.

    python experiments/learning_rates.py          # two to three minutes on 2 cores
"""

from __future__ import annotations

import math
import statistics
import sys
import warnings
from dataclasses import dataclass

from joblib import Parallel, delayed
from msgspec.structs import replace

from isograd.diagnosis.step_size import step_size_at_start
from isograd.nn import (
    SGD,
    Activation,
    AdaGrad,
    Adam,
    Critical,
    Data,
    Dense,
    GradientDescent,
    HalfSquaredError,
    He,
    LayerNorm,
    LeCun,
    MeanSquaredError,
    Momentum,
    Nesterov,
    Network,
    Orthogonal,
    Repeat,
    Residual,
    RMSProp,
    SoftmaxCrossEntropy,
    Spec,
    Training,
    Xavier,
)
from isograd.nn.losses import constant_loss
from isograd.nn.spec import Measure
from isograd.training.loop import fit
from isograd.training.start import load_split

STEPS = 200
FACTORS = (0.3, 0.9, 1.5, 4.0)
SCAN = tuple(2.1544 ** (i - 5) for i in range(11))  # times the rate to try


def network(data, act, depth, width, init, kind="", loss=None):
    """A spec's data set and network."""
    out = {"digits": 10, "wine": 3, "iris": 3, "breast_cancer": 2, "diabetes": 1}[data]
    inner = (Dense(width), *([LayerNorm()] if kind == "norm" else []), Activation(act))
    if kind == "residual":
        layers = (Dense(width), Repeat(depth - 2, (Residual(inner),)), Dense(out))
    else:
        layers = (Repeat(depth - 1, inner), Dense(out))
    loss = loss or (HalfSquaredError() if data == "diabetes" else SoftmaxCrossEntropy())
    return Data(data), Network(layers, loss, init)


NETWORKS = {
    "digits relu 3": network("digits", "relu", 3, 64, He()),
    "digits relu 8": network("digits", "relu", 8, 32, He()),
    "digits tanh 6": network("digits", "tanh", 6, 48, Xavier()),
    "digits gelu 10": network("digits", "gelu", 10, 32, Critical()),
    "digits relu 8 norm": network("digits", "relu", 8, 32, He(), "norm"),
    "digits silu 8 residual": network("digits", "silu", 8, 32, He(), "residual"),
    "digits tanh 20": network("digits", "tanh", 20, 32, Orthogonal(gain=1.0)),
    "digits tanh 3 squared": network("digits", "tanh", 3, 40, LeCun(), loss=MeanSquaredError()),
    "digits selu 5": network("digits", "selu", 5, 32, LeCun()),
    "wine relu 4": network("wine", "relu", 4, 16, He()),
    "wine tanh 2": network("wine", "tanh", 2, 16, Xavier()),
    "wine elu 6": network("wine", "elu", 6, 16, He()),
    "breast_cancer silu 5": network("breast_cancer", "silu", 5, 24, He()),
    "breast_cancer logistic 2": network("breast_cancer", "logistic", 2, 24, Xavier()),
    "breast_cancer tanh 10": network("breast_cancer", "tanh", 10, 24, Critical()),
    "iris relu 2": network("iris", "relu", 2, 16, He()),
    "iris gelu 4": network("iris", "gelu", 4, 16, He()),
    "diabetes tanh 3": network("diabetes", "tanh", 3, 16, Xavier()),
    "diabetes relu 4": network("diabetes", "relu", 4, 16, He()),
    "diabetes softplus 2": network("diabetes", "softplus", 2, 16, Xavier()),
}
OPTIMISERS = {
    "gradient_descent": GradientDescent(),
    "sgd": SGD(),
    "momentum": Momentum(),
    "nesterov": Nesterov(),
    "adagrad": AdaGrad(),
    "rmsprop": RMSProp(),
    "adam": Adam(),
}


@dataclass(frozen=True)
class Case:
    """One network with one optimiser.

    Attributes:
        rule: the optimiser's name.
        learns, falls: by factor of the stable rate; 0 stands for the rate to try.
        best: the best rate of the scan over the one to try; NaN where none learned.
        order: high over low.
    """

    rule: str
    learns: dict[float, bool]
    falls: dict[float, bool]
    best: float
    order: float


def case(name: str, rule: str) -> Case:
    """Look at the sharpness, then train."""
    warnings.simplefilter("ignore")
    data, net = NETWORKS[name]
    kind = OPTIMISERS[rule]
    spec = Spec(data, net, kind, measure=Measure(every=0, first=0), seed=1)
    split = load_split(spec)
    rows = len(split.X_train)
    epochs = math.ceil(STEPS / (rows // spec.batch_size_for(rows)))
    spec = replace(spec, training=Training(epochs=epochs))
    found = step_size_at_start(spec, split)
    constant = constant_loss(net.loss, split.y_train)

    def train(lr: float):
        done = fit(replace(spec, optimiser=replace(kind, lr=lr)), split, steps=STEPS, threads=1)
        losses = [record.loss for record in done.telemetry.records]
        end = done.train.loss if done.stopped == "finished" else math.inf
        end = end if math.isfinite(end) else math.inf
        early = statistics.fmean(losses[1:11])
        return end, end < min(found.loss, constant), early < losses[0]

    rates = {0.0: found.rate} | {factor: factor * found.high for factor in FACTORS}
    runs = {factor: train(rate) for factor, rate in rates.items()}
    scan = {factor: train(factor * found.rate) for factor in SCAN}
    best = min(scan, key=lambda factor: scan[factor][0])
    return Case(
        rule,
        {factor: run[1] for factor, run in runs.items()},
        {factor: run[2] for factor, run in runs.items()},
        best if scan[best][1] else math.nan,
        found.high / found.low,
    )


def table(cases: list[Case]) -> str:
    """Shares of the networks, by optimiser and rate."""
    heads = ["rate to try", *(f"{factor} ×" for factor in FACTORS)]
    lines = [
        f"| optimiser | {' | '.join(heads)} | best rate over the one to try |",
        "|---|" + "--:|" * (len(heads) + 1),
    ]
    for rule in OPTIMISERS:
        mine = [c for c in cases if c.rule == rule]
        cells = [
            f"{sum(c.learns[f] for c in mine)} ({sum(c.falls[f] for c in mine)})"
            for f in (0.0, *FACTORS)
        ]
        ratios = sorted(c.best for c in mine if not math.isnan(c.best))
        middle = statistics.median(ratios)
        span = f"{middle:.2g} ({ratios[0]:.2g} … {ratios[-1]:.2g})"
        lines.append(f"| {rule} | {' | '.join(cells)} | {span} |")
    return "\n".join(lines)


def main() -> int:
    """Print how many of the networks learn (and fall at first) at each rate."""
    cases = Parallel(n_jobs=-1)(delayed(case)(n, r) for r in OPTIMISERS for n in NETWORKS)
    print(f"Of {len(NETWORKS)} networks, how many learn (how many fall in the first ten steps):\n")
    print(table(cases))
    print(
        f"\nThe range from low to high spans a factor {min(c.order for c in cases):.2g} at least."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
