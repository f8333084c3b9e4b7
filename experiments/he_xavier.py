"""Thirty ReLU layers from three initialisers: how far the gradient shrinks, and what is learned.

He, Zhang, Ren & Sun 2015 (Delving deep into rectifiers, sec. 2.2): of ReLU layers with n inputs,
Var w = 2/n keeps the variance of the error signal; Xavier's 1/n halves it in every layer, and the
rule of thumb before it, w from U(−1/√n, 1/√n), of variance 1/(3n), divides it by six. So over 30
layers the gradients of the first one are as 1 : 2⁻¹⁵ : 6⁻¹⁵.

Here: 30 ReLU layers of width 256 and an output layer on scikit-learn's digits (standardised),
batches of 64. The gradient is that of the first step, the median over five seeds; the accuracies
are those after 20 epochs of SGD at 0.01, the mean over three seeds.

    python experiments/he_xavier.py                   # about one minute on 2 cores
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from isograd.nn import (
    SGD,
    Activation,
    Data,
    Dense,
    He,
    Measure,
    Network,
    Repeat,
    Spec,
    Training,
    Uniform,
    Xavier,
)
from isograd.telemetry import Site
from isograd.training.loop import fit

LAYERS, WIDTH = 30, 256
SEEDS, TRAINED = range(5), range(3)
BAND = 0.5  # decades
INITS = {"He": (He(), 1.0), "Xavier": (Xavier(), 2.0), "old uniform": (Uniform(), 6.0)}
"""By name: the initialiser, and what it divides the variance of the error signal by in a layer."""


def spec_for(name: str, seed: int) -> Spec:
    """The network."""
    return Spec(
        Data("digits"),
        Network(
            [Repeat(LAYERS, [Dense(WIDTH), Activation("relu")]), Dense(10)], init=INITS[name][0]
        ),
        SGD(0.01),
        Training(epochs=20, batch_size=64),
        Measure(first=1, every=0),
        seed=seed,
    )


def gradients(name: str, seed: int) -> list[list[float]]:
    """‖∂L/∂W‖ and ‖δ‖ of every layer in the first step."""
    outcome = fit(spec_for(name, seed), steps=1, threads=1)
    summaries = outcome.telemetry.records[0].summaries
    layers = range(1, LAYERS + 2)
    return [[summaries[Site(kind, layer)].norm for layer in layers] for kind in ("dW", "delta")]


def accuracies(name: str, seed: int) -> tuple[float, float]:
    """On the training and the test part, after the epochs."""
    outcome = fit(spec_for(name, seed), threads=1)
    return outcome.train.accuracy, outcome.test.accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures/he_xavier.png"))
    parser.add_argument("--jobs", type=int, default=-1)
    options = parser.parse_args(arguments)
    parallel = Parallel(n_jobs=options.jobs)
    measured = parallel(delayed(gradients)(n, s) for n in INITS for s in SEEDS)
    scores = parallel(delayed(accuracies)(n, s) for n in INITS for s in TRAINED)
    norms, errors = np.median(
        np.reshape(measured, (len(INITS), len(SEEDS), 2, LAYERS + 1)), axis=1
    ).swapaxes(0, 1)
    means = np.mean(np.reshape(scores, (len(INITS), len(TRAINED), 2)), axis=1)
    print(
        "| initialiser | log₁₀ ‖∂L/∂W₁‖ / He's | published | within ½ | training acc. | test acc. |"
    )
    print("|---|---|---|---|---|---|")
    for (name, (_, factor)), norm, (train, test) in zip(INITS.items(), norms, means, strict=True):
        found = math.log10(norm[0] / norms[0, 0])
        wanted = -0.5 * LAYERS * math.log10(factor) + 0.0
        inside = "yes" if abs(found - wanted) <= BAND else "no"
        print(f"| {name} | {found:+.2f} | {wanted:+.2f} | {inside} | {train:.1%} | {test:.1%} |")
    draw(norms, errors, options.out)
    print(f"\nThe figure is in {options.out}.")
    return 0


def draw(norms: np.ndarray, errors: np.ndarray, out: Path) -> None:
    """Gradients and error signals over the layers, and what the variances give."""
    figure = Figure(figsize=(8.0, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    layers = np.arange(1, LAYERS + 2)
    for (name, (_, factor)), norm, error, colour in zip(
        INITS.items(), norms, errors, ("#0b7285", "#c2410c", "#6b21a8"), strict=True
    ):
        style = {"color": colour, "markersize": 4, "label": name}
        left.semilogy(layers, error, "o-", **style)
        right.semilogy(layers, norm, "o-", **style)
        # Back from the last layer; and at the published multiple of He's.
        left.semilogy(layers, error[-1] * factor ** (-0.5 * (LAYERS + 1 - layers)), "k:")
        right.axhline(norms[0, 0] * factor ** (-0.5 * LAYERS), color="k", linestyle=":")
    left.set(xlabel="layer, from the input", ylabel="‖δ‖, error signal of the first step")
    right.set(xlabel="layer, from the input", ylabel="‖∂L/∂W‖ of the first step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(loc="lower right")
    figure.suptitle(
        f"{LAYERS} ReLU layers of width {WIDTH}; dotted: variances divided by 1, 2, 6 in a layer"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    sys.exit(main())
