"""How deep a tanh network can be and still train, against mean-field theory's 6 ξ_c.

Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017 (Deep information propagation, fig. 5): a random
network is trainable to a depth of about 6 ξ_c, the depth scale on which the correlation of two
inputs is forgotten. Here: tanh, σ_b² = 0.05, width 128, batches of 128, SGD at 0.01, 200 steps on
scikit-learn's digits (standardised), and for each σ_w² the depth L₅₀ at which the training accuracy
has fallen half way from its best to chance, by interpolation between the depths that were trained.
The ratio L₅₀/ξ_c is to lie between 3.5 and 9 *away from criticality*: where 6 ξ_c is less than the
L₅₀ of the critical column, which the budget of steps limits and not the propagation of signals.

    python experiments/trainable_depth.py             # about three minutes on 2 cores

Cells are kept in --keep as they are done: a run that was cut is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

import isograd
from isograd.nn import (
    SGD,
    Activation,
    Data,
    Dense,
    Network,
    Repeat,
    Spec,
    Training,
    VarianceScaling,
)
from isograd.report.phase import Curves, curves
from isograd.report.phase_figures import png
from isograd.report.progress import progress_bar
from isograd.training.axes import Axis
from isograd.training.files import write_whole
from isograd.training.sweep import Map

SIGMA_W2 = (1.0, 1.2, 1.4, 1.6, 1.76, 2.0, 2.4, 2.8, 3.4, 4.0)
SIGMA_B2 = 0.05
DEPTHS = (6, 10, 14, 18, 24, 30, 38, 48, 60, 75, 90, 110)
CRITICAL = 1.76
BAND = (3.5, 9.0)  # of L₅₀/ξ_c
STEPS = 200
CHANCE = 0.1

SPEC = Spec(
    Data("digits"),
    Network(
        [Repeat(10, [Dense(128), Activation("tanh")]), Dense(10)],
        init=VarianceScaling(sigma_b2=SIGMA_B2),
    ),
    SGD(0.01),
    Training(epochs=20, batch_size=128),
)


def half_depth(depths: Sequence[int], accuracy: Sequence[float]) -> float:
    """The depth at which the accuracy crosses half between its best and chance.

    Linear between the depths there are, from the best one on; inf where it does not cross.
    """
    best = int(np.argmax(accuracy))
    half = 0.5 * (accuracy[best] + CHANCE)
    for i in range(best, len(depths) - 1):
        high, low = accuracy[i], accuracy[i + 1]
        if low < half:
            return depths[i] + (depths[i + 1] - depths[i]) * (high - half) / (high - low)
    return math.inf


def rows(result: Map, theory: Curves) -> list[tuple[float, float, float, float, float]]:
    """σ_w², ξ_c, best accuracy, L₅₀ and L₅₀/ξ_c of every column."""
    xi = dict(zip(theory.at.tolist(), theory.xi_c.tolist(), strict=True))
    out = []
    for i, sigma_w2 in enumerate(SIGMA_W2):
        column = result.accuracy[:, i].tolist()
        depth = half_depth(DEPTHS, column)
        out.append((sigma_w2, xi[sigma_w2], max(column), depth, depth / xi[sigma_w2]))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the cells, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", type=Path, default=Path("maps/trainable_depth"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/trainable_depth.png"))
    parser.add_argument("--jobs", type=int, default=-1)
    options = parser.parse_args(arguments)
    with progress_bar(Console(stderr=True)) as bar:
        result = isograd.map(
            SPEC,
            Axis("sigma_w2", SIGMA_W2),
            Axis("depth", DEPTHS),
            steps=STEPS,
            folder=options.keep,
            jobs=options.jobs,
            progress=lambda done, total, note: bar("cells", done, total, note),
        )
    if result.interrupted:
        print(f"interrupted; the same command goes on with the cells in {options.keep}")
        return 130
    theory = curves(result.plan)
    assert isinstance(theory, Curves)
    table = rows(result, theory)
    # At criticality ξ_c is no limit: what L₅₀ is there, the steps allow for, and no more.
    cap = next(depth for sigma_w2, _, _, depth, _ in table if sigma_w2 == CRITICAL)
    print(f"| σ_w² | ξ_c | 6 ξ_c < {cap:.0f} | best accuracy | L₅₀ | L₅₀/ξ_c | in 3.5 to 9 |")
    print("|---|---|---|---|---|---|---|")
    for sigma_w2, xi, best, depth, ratio in table:
        away = "yes" if 6 * xi < cap else "no"
        inside = "yes" if BAND[0] <= ratio <= BAND[1] else "no"
        row = (f"{sigma_w2:g}", f"{xi:.4g}", away, f"{best:.1%}", f"{depth:.1f}", f"{ratio:.2f}")
        print(f"| {' | '.join(row)} | {inside} |")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, png(result, theory))
    print(f"\nThe figure is in {options.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
