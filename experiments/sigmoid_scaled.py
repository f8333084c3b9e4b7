"""The logistic function against 4σ(x) − 2, ten and twenty layers deep.

Xu, Huang & Li 2016 (Revise saturated activation functions, arXiv 1602.05980): of the logistic
function deep networks learn nothing, of 4σ(x) − 2 they do. At 0 its slope is 1 in place of ¼, and
its value 0 in place of ½. With σ_w² = 1 a layer of the one shrinks the error signal at least to a
quarter; a layer of the other by less and less, as the signal falls to where the slope is 1.

Here: 10 and 20 layers of width 64 and an output layer on scikit-learn's digits (standardised), from
Xavier's initialiser, 30 epochs of SGD with momentum 0.9 at 0.02, batches of 64. The ratio is
‖δ₁‖/‖δ_L‖ of the hidden layers in the first step, the median over five seeds, beside mean field's
Π χ₁^½ for the variances of these layers; the accuracies are the mean over the seeds.

    python experiments/sigmoid_scaled.py                   # about one minute on 2 cores
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
from matplotlib.ticker import MaxNLocator

from isograd import theory
from isograd.nn import (
    Activation,
    Data,
    Dense,
    Measure,
    Momentum,
    Network,
    Repeat,
    Spec,
    Training,
    Xavier,
)
from isograd.nn.activations import phi
from isograd.telemetry import Site
from isograd.training.loop import fit

WIDTH, SEEDS = 64, range(5)
NAMES = {"logistic": "σ(x)", "scaled_sigmoid": "4σ(x) − 2"}
CASES = [(depth, name) for depth in (10, 20) for name in NAMES]
BAND = 0.5  # decades, for the spread of a narrow network


def spec_for(depth: int, name: str, seed: int) -> Spec:
    """The network."""
    return Spec(
        Data("digits"),
        Network([Repeat(depth, [Dense(WIDTH), Activation(name)]), Dense(10)], init=Xavier()),
        Momentum(0.02),
        Training(epochs=30, batch_size=64),
        Measure(first=1, every=0),
        seed=seed,
    )


def measure(depth: int, name: str, seed: int) -> tuple[list[float], float, float]:
    """‖δ‖ of every hidden layer in the first step; accuracies on both parts at the end."""
    outcome = fit(spec_for(depth, name, seed), threads=1)
    summaries = outcome.telemetry.records[0].summaries
    norms = [summaries[Site("delta", layer)].norm for layer in range(1, depth + 1)]
    return norms, outcome.train.accuracy, outcome.test.accuracy


def expected(depth: int, name: str) -> tuple[float, float]:
    """(χ₁ where the variance settles, log₁₀ of ‖δ₁‖/‖δ_L‖): σ_w² = 1, inputs of variance 1."""
    act = phi(Activation(name))
    gradient = theory.over_depth(act, 1.0, depth - 1).log_gradient / 2 / math.log(10)
    return theory.mean_field(act, 1.0, 0.0).chi1, gradient


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures/sigmoid_scaled.png"))
    parser.add_argument("--jobs", type=int, default=-1)
    options = parser.parse_args(arguments)
    flat = Parallel(n_jobs=options.jobs)(
        delayed(measure)(*case, seed) for case in CASES for seed in SEEDS
    )
    print(
        "| φ | layers | φ′(0) | φ′(0)ᴸ | χ₁ | log₁₀ ‖δ₁‖/‖δ_L‖ | theory | within ½ "
        "| training acc. | test acc. |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    norms = []
    for i, (depth, name) in enumerate(CASES):
        runs = flat[i * len(SEEDS) : (i + 1) * len(SEEDS)]
        norms.append(np.median([run[0] for run in runs], axis=0))
        ratio = float(np.median([math.log10(run[0][0] / run[0][-1]) for run in runs]))
        train, test = (float(np.mean([run[k] for run in runs])) for k in (1, 2))
        chi1, wanted = expected(depth, name)
        slope = float(phi(Activation(name)).df(np.zeros(1))[0])
        inside = "yes" if abs(ratio - wanted) <= BAND else "no"
        print(
            f"| {NAMES[name]} | {depth} | {slope:g} | {slope**depth:.2g} | {chi1:.4f} "
            f"| {ratio:+.2f} | {wanted:+.2f} | {inside} | {train:.1%} | {test:.1%} |"
        )
    draw(norms, options.out)
    print(f"\nThe figure is in {options.out}.")
    return 0


def draw(norms: list[np.ndarray], out: Path) -> None:
    """‖δ‖ over the layers, and the decay that mean field says."""
    figure = Figure(figsize=(8.0, 5.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    colours = {"logistic": "#c2410c", "scaled_sigmoid": "#0b7285"}
    for (depth, name), norm in zip(CASES, norms, strict=True):
        layers = np.arange(1, depth + 1)
        style = "o-" if depth == 20 else "s--"
        label = f"{NAMES[name]}, {depth} layers"
        axes.semilogy(layers, norm, style, color=colours[name], markersize=4, label=label)
        act = phi(Activation(name))
        gradients = [theory.over_depth(act, 1.0, n).log_gradient / 2 for n in range(depth)]
        whole = gradients[-1]
        axes.semilogy(
            layers, norm[-1] * np.exp(whole - np.array(gradients)), ":", color=colours[name]
        )
    axes.set(
        xlabel="layer, from the input",
        ylabel="‖δ‖ in the first step (median of five seeds)",
        title=f"Layers of width {WIDTH}, Xavier's initialiser; dotted: mean field",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    sys.exit(main())
