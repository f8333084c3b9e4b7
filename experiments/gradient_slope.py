"""The slope of the error signal over depth, against ln χ₁ of mean field.

Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017 (Deep information propagation, the section on
backpropagation): in a random network E δ² changes by the factor χ₁ = σ_w² E φ′² per layer, so that
ln E δ² is straight in depth, with slope ln χ₁ going back: it falls in the ordered phase and grows
in the chaotic one.

Here: random Gaussian networks of width 400 and 60 layers, in float64, whose input has the variance
at which the pre-activations settle; a random error signal at the last layer is carried back. E δ²
is the mean over the units, over 16 such signals and over 12 networks; a straight line is fitted to
its logarithm over layers 6 to 55. The standard error is the jackknife's over the networks.

    python experiments/gradient_slope.py                   # about one minute on 2 cores
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

from isograd import theory
from isograd.nn import Activation
from isograd.nn.activations import phi

WIDTH, DEPTH, NETWORKS, SIGNALS = 400, 60, 12, 16
FITTED = slice(5, 55)  # layers 6 to 55
BAND = 0.02
POINTS = [
    *(("tanh", sw2, 0.05) for sw2 in (1.0, 1.3, 1.5, 1.7609546, 2.0, 2.5, 4.0)),
    *(("relu", sw2, 0.0) for sw2 in (1.5, 2.0, 2.4)),
    *(("hard_tanh", sw2, 0.1) for sw2 in (1.0, 2.0, 4.0)),
    *(("gelu", sw2, 0.1) for sw2 in (1.5, 2.1)),
]
"""Activation, σ_w², σ_b²: ordered and chaotic, the fourth critical."""


def profile(name: str, sw2: float, sb2: float, network: int) -> np.ndarray:
    """The mean of δ² over units and signals, (DEPTH,), at layers 1 … DEPTH of one network."""
    rng = np.random.default_rng([network, *name.encode(), int(1e6 * sw2)])
    act = phi(Activation(name))
    q = theory.limit_q(act, sw2, sb2)
    # A ReLU without biases has the same slope at every length: it starts at 1.
    z = math.sqrt(q if 0.0 < q < math.inf else 1.0) * rng.standard_normal(WIDTH)
    weights, slopes = [], [act.df(z)]
    for _ in range(DEPTH - 1):
        weights.append(math.sqrt(sw2 / WIDTH) * rng.standard_normal((WIDTH, WIDTH)))
        z = weights[-1] @ act.f(z) + math.sqrt(sb2) * rng.standard_normal(WIDTH)
        slopes.append(act.df(z))
    delta = rng.standard_normal((WIDTH, SIGNALS))
    sizes = [float(np.mean(delta**2))]
    for w, slope in zip(reversed(weights), reversed(slopes[:-1]), strict=True):
        delta = slope[:, None] * (w.T @ delta)
        sizes.append(float(np.mean(delta**2)))
    return np.array(sizes[::-1])


def slope_of(profiles: np.ndarray) -> float:
    """ln E δ² per layer going back, by a straight line."""
    logs = np.log(profiles.mean(axis=0))
    layers = np.arange(1, DEPTH + 1)
    return -float(np.polynomial.polynomial.polyfit(layers[FITTED], logs[FITTED], 1)[1])


def jackknife(profiles: np.ndarray) -> float:
    """The standard error of the slope over networks (Efron & Stein 1981)."""
    left_out = [slope_of(np.delete(profiles, i, axis=0)) for i in range(len(profiles))]
    return math.sqrt((len(profiles) - 1) * float(np.var(left_out)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures/gradient_slope.png"))
    parser.add_argument("--jobs", type=int, default=-1)
    options = parser.parse_args(arguments)
    parallel = Parallel(n_jobs=options.jobs)
    flat = parallel(delayed(profile)(*point, k) for point in POINTS for k in range(NETWORKS))
    measured = np.reshape(flat, (len(POINTS), NETWORKS, DEPTH))
    print("| φ | σ_w² | σ_b² | ln χ₁ | slope | difference | standard error | within 0.02 |")
    print("|---|---|---|---|---|---|---|---|")
    wanted, found, errors = [], [], []
    for (name, sw2, sb2), profiles in zip(POINTS, measured, strict=True):
        wanted.append(math.log(theory.mean_field(phi(Activation(name)), sw2, sb2).chi1))
        found.append(slope_of(profiles))
        errors.append(jackknife(profiles))
        gap = found[-1] - wanted[-1]
        print(
            f"| {name} | {sw2:.4g} | {sb2:g} | {wanted[-1]:+.4f} | {found[-1]:+.4f} | {gap:+.4f} "
            f"| {errors[-1]:.4f} | {'yes' if abs(gap) <= BAND else 'no'} |"
        )
    draw(wanted, found, errors, measured, options.out)
    print(f"\nThe figure is in {options.out}.")
    return 0


def draw(
    wanted: list[float], found: list[float], errors: list[float], measured: np.ndarray, out: Path
) -> None:
    """Slopes against ln χ₁, and profiles over the layers with the slopes of theory."""
    figure = Figure(figsize=(10.0, 4.6), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    ends = np.array([min(wanted) - 0.05, max(wanted) + 0.05])
    left.plot(ends, ends, color="#555", linewidth=1, label="slope = ln χ₁")
    left.fill_between(ends, ends - BAND, ends + BAND, color="#999", alpha=0.3, label="± 0.02")
    colours = {"tanh": "#0b7285", "relu": "#c2410c", "hard_tanh": "#6b21a8", "gelu": "#4d7c0f"}
    for name, colour in colours.items():
        at = [i for i, point in enumerate(POINTS) if point[0] == name]
        left.errorbar(
            *([values[i] for i in at] for values in (wanted, found, errors)),
            fmt="o",
            color=colour,
            markersize=5,
            label=name,
        )
    left.set(xlabel="ln χ₁ of theory, per layer", ylabel="measured slope of ln E δ², per layer")
    left.legend()
    layers = np.arange(1, DEPTH + 1)
    for i, (name, sw2, _) in enumerate(POINTS):
        if name != "tanh":
            continue
        logs = np.log(measured[i].mean(axis=0))
        (line,) = right.plot(layers, logs, ".", markersize=4, label=f"σ_w² = {sw2:.3g}")
        middle = float(logs[FITTED].mean())
        straight = middle - wanted[i] * (layers - layers[FITTED].mean())
        right.plot(layers, straight, "-", color=line.get_color(), linewidth=1)
    right.set(xlabel="layer, from the input", ylabel="ln E δ²", title="tanh; lines: slope −ln χ₁")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    sys.exit(main())
