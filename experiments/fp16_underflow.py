"""Gradients that fp16 rounds to zero, against depth; and the loss scale that saves them.

Micikevicius et al. 2018 (Mixed precision training, sec. 3.2): error signals are small, and what
lies at or below 2⁻²⁵ is zero in fp16; a loss multiplied by a power of two moves them up. In the
ordered phase E δ² falls by the factor χ₁ per layer (Schoenholz et al. 2017): depth decides.

Shares: random networks of width 128, one step on 256 rows of scikit-learn's digits, weights,
activations and gradients in emulated fp16; measured is the median of seven draws. Predicted is the
share of |δ| ≤ 2⁻²⁵ in the first layer, from the size of δ at the output in the same step:

- by χ₁^L: δ Gaussian with E δ² = χ₁^L times that at the output (per unit);
- layer by layer: ∂L/∂a Gaussian, times φ′(z) of Gaussian z, both rounded. That differs in two ways:
  where slopes differ among units, δ is not Gaussian and small values are more frequent; and near
  the end, what is rounded up to 2⁻²⁴ carries δ some layers on.

The band: between the shares for norms two standard deviations (of theory, over draws of the weights
at this width) above and below, or within 0.05.

Training: eight logistic layers of width 64 (Xavier), Adam, 500 steps, three seeds; gradients in
float32, in emulated fp16 without a scale, with the scale that `isograd.theory.loss_scale` finds in
the first step in float32, and with the dynamic one. All stand still at first, and what follows is
chaotic: what is compared is the step at which the loss is first 0.1 below ln 10, that of guessing.
The band: without a scale more than twice as late as float32, with one within a tenth.

    python experiments/fp16_underflow.py       # about two minutes on 2 cores
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from scipy import special

from isograd import theory
from isograd.diagnosis.expected import expected, moments_of
from isograd.diagnosis.gradient_scale import scale_for
from isograd.engine.number_formats import number_format, rounded
from isograd.nn import (
    SGD,
    Activation,
    Adam,
    Data,
    Dense,
    Measure,
    Network,
    Precision,
    Repeat,
    Spec,
    Training,
    VarianceScaling,
    Xavier,
)
from isograd.nn.activations import phi
from isograd.telemetry.records import Site
from isograd.training.loop import fit
from isograd.training.start import load_split

WIDTH, ROWS, DRAWS, SEEDS = 128, 256, range(7), (2, 3, 4)
DEPTHS = (2, 5, 10, 15, 20, 25, 30, 35, 40)
KINDS = (("logistic", 16.0, 0.0), ("tanh", 0.5, 0.05))
"""Activation, σ_w², σ_b²."""
GAUSSIAN = special.ndtri((np.arange(2000) + 0.5) / 2000)
"""Quantiles of the normal law, for averages."""
ZERO = 2.0**-25
"""The largest number that fp16 rounds to zero."""
DEEP, EPOCHS, BELOW = 8, 250, math.log(10.0) - 0.1
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "fp16_underflow.png"


# --- the share of zeros


@dataclass(frozen=True)
class Share:
    """Zeros among the error signals of the first layer.

    Attributes:
        name, depth: which network.
        chi: predicted by χ₁^L.
        field: predicted layer by layer.
        low, high: the same for norms two standard deviations above and below.
        measured: median over draws.
    """

    name: str
    depth: int
    chi: float
    field: float
    low: float
    high: float
    measured: float

    @property
    def held(self) -> bool:
        return self.low <= self.measured <= self.high or abs(self.measured - self.field) <= 0.05


def flushed(rms: float) -> float:
    """P(|δ| ≤ 2⁻²⁵) of a Gaussian."""
    return math.erf(ZERO / (math.sqrt(2.0) * rms)) if rms > 0.0 else 1.0


def carried(act: theory.Phi, sw2: float, lengths: list[float], top: float) -> float:
    """The share of zeros in δ of layer 1, layer by layer.

    Args:
        act: φ.
        sw2: σ_w².
        lengths: E z² of the hidden layers, from the first.
        top: rms of δ at the output, as if it had as many units as the layers.
    """
    form = number_format("fp16")
    zeros, size = 0.0, top
    for q in reversed(lengths):
        arriving = rounded(math.sqrt(sw2) * size * GAUSSIAN[:, None], form)
        slopes = act.df(math.sqrt(q) * GAUSSIAN[None, ::4])
        delta = rounded(arriving * slopes, form)
        zeros, size = float(np.mean(delta == 0.0)), float(np.sqrt(np.mean(delta**2)))
    return zeros


def share(name: str, sw2: float, sb2: float, depth: int) -> Share:
    """Predicted and measured, of `depth` hidden layers."""
    layers = [Repeat(depth, [Dense(WIDTH), Activation(name)]), Dense(10)]
    network = Network(layers, init=VarianceScaling(sw2, sb2))
    fp16 = Precision("fp16", "fp16", "fp16")
    zeros, tops = [], []
    for seed in DRAWS:
        training = Training(1, ROWS, precision=fp16)
        spec = Spec(Data("digits"), network, SGD(), training, Measure(0, 1), seed)
        split = load_split(spec)
        outcome = fit(spec, split, steps=1, backend="numpy")
        (record,) = outcome.telemetry.records
        first = record.summaries[Site.parse("delta/1")]
        tops.append(record.summaries[Site.parse(f"delta/{depth + 1}")].rms)
        zeros.append(first.zeros / first.count)
    second, cross = moments_of(split.X_train)
    told = expected(outcome.model, second=second, cross=cross, batch=ROWS).layers[0].delta
    top = float(np.median(tops)) * math.sqrt(10.0 / WIDTH)  # by the number of units
    chi1 = theory.mean_field(phi(Activation(name)), sw2, sb2, 1.0).chi1
    act = phi(Activation(name))
    lengths = [sw2 * second + sb2]
    for _ in range(depth - 1):
        lengths.append(theory.length_map(act, lengths[-1], sw2, sb2))
    field, low, high = (
        carried(act, sw2, lengths, top * 10.0 ** (k * told.sd)) for k in (0.0, 2.0, -2.0)
    )
    chi = flushed(top * chi1 ** (0.5 * depth))
    return Share(name, depth, chi, field, low, high, float(np.median(zeros)))


# --- the scale that restores training


@dataclass(frozen=True)
class Trained:
    """Runs of one precision.

    Attributes:
        name: what was done.
        starts: the first step with a loss below that of guessing, by seed; else their number.
        scales: of the loss, at the end.
        lost: share of zeros among the error signals of the first layer in the first step.
        curves: losses by step.
    """

    name: str
    starts: tuple[int, ...]
    scales: tuple[float, ...]
    lost: float
    curves: np.ndarray

    def held(self, plain: Trained) -> bool:
        """Whether the loss falls as late as it should, next to float32."""
        late = [a / b for a, b in zip(self.starts, plain.starts, strict=True)]
        return min(late) > 2.0 if self.name == "fp16" else max(abs(x - 1.0) for x in late) <= 0.1


def trained(seed: int, scale: float | str | None) -> tuple[int, float, float, np.ndarray, float]:
    """When it starts, scale, zeros, losses, and the scale that theory finds in the first step."""
    layers = [Repeat(DEEP, [Dense(64), Activation("logistic")]), Dense(10)]
    precision = None if scale is None else Precision(gradients="fp16", loss_scale=scale)
    spec = Spec(
        Data("digits"),
        Network(layers, init=Xavier()),
        Adam(0.003),
        Training(EPOCHS, 512, precision=precision),
        Measure(0, 1),
        seed,
    )
    outcome = fit(spec)
    first = next(iter(outcome.telemetry.measured()))
    found = scale_for(first, "fp16")
    delta = first.summaries[Site.parse("delta/1")]
    used = outcome.state.scaling[0] if scale == "dynamic" else float(scale or 1.0)
    losses = outcome.telemetry.losses()
    below = np.flatnonzero(losses < BELOW)
    start = int(below[0]) if len(below) else len(losses)
    return start, used, delta.zeros / delta.count, losses, found.scale


def arms(workers: Parallel) -> list[Trained]:
    """Float32, then fp16 with no scale, the predicted and the dynamic one."""
    plain = workers(delayed(trained)(seed, None) for seed in SEEDS)
    found = {seed: result[4] for seed, result in zip(SEEDS, plain, strict=True)}
    jobs = [(seed, scale) for scale in (1.0, None, "dynamic") for seed in SEEDS]
    done = workers(
        delayed(trained)(seed, found[seed] if scale is None else scale) for seed, scale in jobs
    )
    names = ("float32", "fp16", "fp16, predicted scale", "fp16, dynamic scale")
    groups = [plain, *(done[i : i + len(SEEDS)] for i in range(0, len(done), len(SEEDS)))]
    return [
        Trained(
            name,
            tuple(r[0] for r in group),
            tuple(r[1] for r in group),
            float(np.mean([r[2] for r in group])),
            np.mean([r[3] for r in group], axis=0),
        )
        for name, group in zip(names, groups, strict=True)
    ]


# --- what is shown


def draw(shares: list[Share], runs: list[Trained], path: Path) -> None:
    """Both halves, side by side."""
    figure = Figure((9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, *_) in enumerate(KINDS):
        own = [s for s in shares if s.name == name]
        depths = [s.depth for s in own]
        left.plot(depths, [s.field for s in own], f"C{i}-", label=f"{name}, predicted")
        left.fill_between(
            depths, [s.low for s in own], [s.high for s in own], color=f"C{i}", alpha=0.2, lw=0
        )
        left.plot(depths, [s.measured for s in own], f"C{i}o", label=f"{name}, measured")
    left.set(xlabel="hidden layers", ylabel="share of zeros in δ of layer 1, fp16")
    left.legend(fontsize=8)
    for i, one in enumerate(runs):
        style = ("-", "-", "--", ":")[i]
        right.plot(one.curves, f"C{i}", ls=style, label=one.name)
    right.axhline(BELOW, color="0.6", lw=0.8)
    right.set(xlabel="step", ylabel="training loss, mean of three seeds (nats)")
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Print both tables; 1 if a row is out of its band."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FIGURE)
    out = parser.parse_args().out
    with Parallel(n_jobs=2) as workers:
        shares = workers(delayed(share)(*kind, depth) for kind in KINDS for depth in DEPTHS)
        runs = arms(workers)
    print("| φ | L | by χ₁^L | layer by layer | at ±2 sd | measured | in the band |")
    print("|---|--:|--:|--:|--:|--:|---|")
    for s in shares:
        row = f"{s.chi:.3f} | {s.field:.3f} | {s.low:.3f}-{s.high:.3f} | {s.measured:.3f}"
        print(f"| {s.name} | {s.depth} | {row} | {'yes' if s.held else 'NO'} |")
    held = [s.held for s in shares]
    print(
        "\n| gradients | loss scale | zeros in δ of layer 1 | steps until it learns | in the band |"
    )
    print("|---|--:|--:|--:|---|")
    for one in runs:
        good = one.held(runs[0])
        held.append(good)
        powers = sorted({round(math.log2(s)) for s in one.scales})
        scale = " to ".join(f"2^{k}" for k in dict.fromkeys((powers[0], powers[-1])))
        starts = ", ".join(map(str, one.starts))
        print(f"| {one.name} | {scale} | {one.lost:.3f} | {starts} | {'yes' if good else 'NO'} |")
    draw(shares, runs, out)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
