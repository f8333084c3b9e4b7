"""Gradient descent at the edge of stability: the sharpness settles at 2/η.

Cohen et al. 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability:
under full-batch gradient descent the largest eigenvalue of the Hessian rises (progressive
sharpening) until it reaches 2/η, above which a quadratic would diverge; from there on it hovers at,
or just above, 2/η, while the loss goes on falling, not at every step but over many.

Here: 64-40-40-10 tanh units on scikit-learn's digits, squared error, float64, η = 0.1 and 0.2, the
pixels divided by 16 into [0, 1], all 1797 rows. (Standardised features are fitted before the
network becomes so sharp: `--standardise` shows it; what it prints is outside of the band.)

The sharpness is measured by Lanczos' method every 25 steps; "late" is the last half of a run. The
band: a median late ratio of sharpness to 2/η from 0.95 to 1.15, a loss that falls over the last
half, and single steps in it that raise the loss, which at a sharpness below 2/η no step does.

    python experiments/edge_of_stability.py       # about a minute on 2 cores
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import isograd
from isograd.nn import Activation, Dense, HalfSquaredError, LeCun, Network, Repeat, build
from isograd.theory import sharpness, stability_limit
from isograd.training.step import Layout

RATES = (0.1, 0.2)
STEPS = {0.1: 4000, 0.2: 2000}  # the same way, the sum of the rates
EVERY = 25
BAND = (0.95, 1.15)
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "edge_of_stability.png"

NETWORK = Network(
    (Repeat(2, (Dense(40), Activation("tanh"))), Dense(10)), HalfSquaredError(), LeCun()
)


@dataclass(frozen=True)
class Run:
    """Gradient descent at one learning rate.

    Attributes:
        lr: η.
        losses: at every step.
        steps, values: where the sharpness was measured, and what it was.
    """

    lr: float
    losses: np.ndarray
    steps: np.ndarray
    values: np.ndarray

    @property
    def limit(self) -> float:
        """2/η."""
        return stability_limit(self.lr)

    @property
    def late(self) -> np.ndarray:
        """Sharpness over 2/η in the last half."""
        return self.values[len(self.values) // 2 :] / self.limit

    @property
    def late_losses(self) -> np.ndarray:
        """Losses in the last half."""
        return self.losses[len(self.losses) // 2 :]

    @property
    def rises(self) -> float:
        """Share of the steps of the last half that raised the loss."""
        return float(np.mean(np.diff(self.late_losses) > 0))

    @property
    def holds(self) -> bool:
        """Whether all of the band holds."""
        inside = BAND[0] <= float(np.median(self.late)) <= BAND[1]
        return inside and self.late_losses[-1] < self.late_losses[0] and self.rises > 0


def run(lr: float, standardise: bool) -> Run:
    """Train by gradient descent, and look at the sharpness on the way."""
    pixels, labels = load_digits(return_X_y=True)
    spread = pixels.std(axis=0)
    unit = (pixels - pixels.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    x, y = unit if standardise else pixels / 16.0, np.eye(10)[labels]
    model = build(NETWORK, 64)
    layout = Layout(model.shapes)

    def loss(theta):
        return model.loss(layout.split(theta), x, y)

    both = isograd.compile(isograd.value_and_grad(loss))
    product = isograd.compile(lambda theta, v: isograd.hvp(loss, (theta,), (v,)))
    theta = np.asarray(layout.join(model.init(np.random.default_rng(0), np.float64)))
    rng = np.random.default_rng(1)
    losses, steps, values = [], [], []
    for step in range(STEPS[lr] + 1):
        if step % EVERY == 0:
            found = sharpness(lambda v, at=theta: product(at, v), theta.size, rng=rng)
            steps.append(step)
            values.append(found.value)
        value, gradient = both(theta)
        losses.append(float(value))
        theta = theta - lr * gradient
    return Run(lr, np.array(losses), np.array(steps), np.array(values))


def table(runs: list[Run]) -> str:
    """Late sharpness beside 2/η."""
    lines = [
        "| η | 2/η | late sharpness: median | ratio (10 % … 90 %) | loss halfway | at the end "
        "| late steps that raise it | in the band |",
        "|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for r in runs:
        low, middle, high = np.quantile(r.late, (0.1, 0.5, 0.9))
        lines.append(
            f"| {r.lr} | {r.limit:.0f} | {middle * r.limit:.2f} "
            f"| {middle:.3f} ({low:.3f} … {high:.3f}) | {r.late_losses[0]:.4f} "
            f"| {r.losses[-1]:.4f} | {r.rises:.0%} | {'yes' if r.holds else 'NO'} |"
        )
    return "\n".join(lines)


def figure(runs: list[Run]) -> Figure:
    """Sharpness and loss over the steps."""
    out = Figure(figsize=(8, 5.5), layout="constrained", facecolor="white")
    top, bottom = out.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for r, colour in zip(runs, ("tab:blue", "tab:orange"), strict=True):
        top.plot(r.steps, r.values, color=colour, lw=1.4, label=f"η = {r.lr}")
        top.axhline(r.limit, color=colour, ls="--", lw=1.2, label=f"2/η = {r.limit:.0f}")
        bottom.semilogy(r.losses, color=colour, lw=0.8, label=f"η = {r.lr}")
    top.set_ylabel("sharpness (largest eigenvalue)")
    top.set_ylim(0, 1.35 * max(r.limit for r in runs))
    top.legend(ncols=2)
    bottom.set_xlabel("step of gradient descent")
    bottom.set_ylabel("training loss")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    top.set_title("The sharpness settles at 2/η: digits, 64-40-40-10 tanh, full batch")
    return out


def main() -> int:
    """Print the table and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FIGURE, help="where the figure goes")
    parser.add_argument("--standardise", action="store_true", help="features of mean 0, spread 1")
    asked = parser.parse_args()
    path = asked.out
    runs = [run(lr, asked.standardise) for lr in RATES]
    print(table(runs))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(runs).savefig(path, dpi=110)
    return 0 if all(r.holds for r in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
