"""The spectrum of a deep network's Jacobian at initialisation, measured and predicted.

Pennington, Schoenholz & Ganguli 2017: for J = D_L W_L … D_1 W_1 of critical networks the variance
of λ/E λ, λ the squared singular values, is L(μ₂/μ₁² − 1 − s₁), s₁ = −1 for Gaussian weights and 0
for orthogonal ones; edges and density are those of a free product (2018). Networks of width 400,
forward pass and all, at inputs of the variance that the layers keep.

The bands: the variance within 5 %; the largest λ/E λ within 12 %, which is how far products of 10
random ReLU layers of width 800 fall short.

    python experiments/jacobian_spectra.py       # about two minutes on 2 quiet cores
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from isograd import nn
from isograd.diagnosis.spectrum import spectra
from isograd.theory import PredictedSpectrum

WIDTH, DRAWS, DEPTHS = 400, 8, (2, 8, 32)
CRITICAL_Q = {"tanh": 0.1, "hard_tanh": 0.2, "relu": 1.0}
WEIGHTS = {"gaussian": "normal", "orthogonal": "orthogonal"}
VARIANCE_BAND, EDGE_BAND = 0.05, 0.12
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "jacobian_spectra.png"


@dataclass(frozen=True)
class Case:
    """One kind of network at one depth.

    Attributes:
        act, weights, depth: which.
        nodes: λ over their mean, (draws, width).
        predicted: of one draw's input; they differ by the sampled mean square of x alone.
    """

    act: str
    weights: str
    depth: int
    nodes: np.ndarray
    predicted: PredictedSpectrum

    @property
    def variances(self) -> np.ndarray:
        """Over the prediction, less 1."""
        return self.nodes.var(axis=1) / self.predicted.variance - 1

    @property
    def edges(self) -> np.ndarray:
        """The largest λ/E λ over the predicted edge, less 1."""
        return self.nodes.max(axis=1) / self.predicted.upper - 1

    @property
    def good(self) -> tuple[bool, bool]:
        """Whether the means over the draws are in their bands."""
        return (
            abs(self.variances.mean()) <= VARIANCE_BAND,
            abs(self.edges.mean()) <= EDGE_BAND,
        )


def measure(act: str, weights: str, depth: int) -> Case:
    """Some networks of the kind, each at an input of its own."""
    init = nn.Critical(q=CRITICAL_Q[act], distribution=WEIGHTS[weights])
    layers = (nn.Repeat(depth, (nn.Dense(WIDTH), nn.Activation(act))),)
    network = nn.Network(layers=layers, init=init, loss=nn.HalfSquaredError())
    model = nn.build(network, WIDTH)
    law = model.scale(model.weights[0])
    second = (CRITICAL_Q[act] - law.sigma_b2) / law.sigma_w2  # so that layer 1 has q already
    rng = np.random.default_rng(depth)
    nodes = []
    for _ in range(DRAWS):
        x = rng.standard_normal(WIDTH)
        x *= math.sqrt(second / np.mean(x * x))
        found = spectra(model, model.init(rng, np.float64), x, rng=rng)
        nodes.append(found.measured.nodes)
    return Case(act, weights, depth, np.stack(nodes), found.predicted)


def table(cases: list[Case]) -> str:
    """A row per case: means over the draws, with standard errors."""
    lines = [
        "| φ | weights | L | variance of λ/E λ | measured | in 5 % | largest λ/E λ | measured | "
        "in 12 % |",
        "|---|---|--:|--:|--:|---|--:|--:|---|",
    ]
    for c in cases:
        variance, edge = (
            f"{100 * x.mean():+.1f} ± {100 * x.std(ddof=1) / math.sqrt(DRAWS):.1f} %"
            for x in (c.variances, c.edges)
        )
        first, second = ("yes" if good else "no" for good in c.good)
        lines.append(
            f"| {c.act} | {c.weights} | {c.depth} | {c.predicted.variance:.4g} | {variance} | "
            f"{first} | {c.predicted.upper:.4g} | {edge} | {second} |"
        )
    return "\n".join(lines)


def figure(cases: list[Case]) -> Figure:
    """Histograms of log₁₀ λ beside the predicted densities."""
    out = Figure(figsize=(10, 6), layout="constrained", facecolor="white")
    axes = out.subplots(len(WEIGHTS), len(CRITICAL_Q), sharex=True)
    decades = np.linspace(-4, 2.2, 125)
    for case in cases:
        ax = axes[list(WEIGHTS).index(case.weights), list(CRITICAL_Q).index(case.act)]
        colour = f"C{DEPTHS.index(case.depth)}"
        held = case.nodes[case.nodes > 1e-20]
        counts, edges = np.histogram(np.log10(held), decades[::2])
        heights = counts / case.nodes.size / np.diff(edges)
        ax.stairs(heights, edges, color=colour, alpha=0.35, fill=True)
        x = 10**decades
        density = case.predicted.density(x) * x * math.log(10)
        label = f"L = {case.depth}"
        ax.plot(decades, density, color=colour, lw=1.3, label=label)
        ax.axvline(math.log10(case.predicted.upper), color=colour, lw=0.8, ls=":")
        ax.set_title(f"{case.act}, q = {CRITICAL_Q[case.act]}, {case.weights}", fontsize=10)
        ax.set_ylim(0, 0.5 if case.weights == "gaussian" else 3)
        ax.grid(alpha=0.3)
    axes[0, 0].legend(title="lines: predicted", fontsize=8, title_fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("log₁₀ λ/E λ")
    for ax in axes[:, 0]:
        ax.set_ylabel("share per decade")
    return out


def main() -> int:
    """Print the table and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FIGURE, help="where the figure goes")
    path = parser.parse_args().out
    cases = [
        measure(act, weights, depth)
        for act in CRITICAL_Q
        for weights in WEIGHTS
        for depth in DEPTHS
    ]
    print(table(cases))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(cases).savefig(path, dpi=110)
    return 0 if all(all(c.good) for c in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
