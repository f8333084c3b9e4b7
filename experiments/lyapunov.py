"""Lyapunov exponents of products of Gaussian matrices, measured and exact.

Newman 1986: λ_i = ½(ψ((N − i + 1)/2) + ln 2) for N × N matrices of independent N(0, 1) elements,
and the logarithm of what direction i is stretched by in a step has variance ¼ψ₁((N − i + 1)/2). At
10 000 layers the product is about e^5600 (N = 4) and e^20700 (N = 64) long; float64 ends at e^709.

The band: each exponent within four exact standard errors √(variance/layers), of which a chance of
6e-5 lies outside; of 68 exponents, 0.004 would.

    python experiments/lyapunov.py       # some seconds
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from isograd.theory import Lyapunov, gaussian_exponents, lyapunov

WIDTHS = (4, 64)
LAYERS = 10_000
SHOWN = {4: (1, 2, 3, 4), 64: (1, 2, 8, 16, 32, 48, 63, 64)}
BAND = 4.0
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "lyapunov.png"


@dataclass(frozen=True)
class Product:
    """The spectrum of one product of Gaussian matrices.

    Attributes:
        width: N.
        found: what was measured.
        exact: Newman's exponents.
        errors: their exact standard errors at this depth.
    """

    width: int
    found: Lyapunov
    exact: np.ndarray
    errors: np.ndarray

    @property
    def deviations(self) -> np.ndarray:
        """In standard errors."""
        return (self.found.exponents - self.exact) / self.errors


def measure(width: int) -> Product:
    """10 000 matrices, drawn one at a time."""
    rng = np.random.default_rng(width)
    matrices = (rng.standard_normal((width, width)) for _ in range(LAYERS))
    found = lyapunov(matrices, rng=np.random.default_rng(0))
    exact, variances = gaussian_exponents(width)
    return Product(width, found, exact, np.sqrt(variances / LAYERS))


def table(products: list[Product]) -> str:
    """Some of the exponents, and of all of them how many are in the band."""
    lines = [
        "| N | i | exact λ_i | measured | deviation | in the band |",
        "|--:|--:|--:|--:|--:|---|",
    ]
    for p in products:
        for i in SHOWN[p.width]:
            z = p.deviations[i - 1]
            lines.append(
                f"| {p.width} | {i} | {p.exact[i - 1]:.5f} | {p.found.exponents[i - 1]:.5f} ± "
                f"{p.found.errors[i - 1]:.5f} | {z:+.2f} | {'yes' if abs(z) < BAND else 'NO'} |"
            )
    for p in products:
        inside = int((np.abs(p.deviations) < BAND).sum())
        rms = float(np.sqrt(np.mean(p.deviations**2)))
        lines.append(
            f"\n{p.width} × {p.width}: {inside} of {p.width} exponents in the band; deviations of "
            f"{rms:.2f} standard errors (rms), {np.abs(p.deviations).max():.2f} at most; "
            f"Σ λ_i = {p.found.log_volume:.4f}, exact {p.exact.sum():.4f}."
        )
    return "\n".join(lines)


def figure(product: Product) -> Figure:
    """The whole spectrum, and how far it is from the exact one."""
    out = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    top, bottom = out.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    i = np.arange(1, product.width + 1)
    top.plot(i, product.exact, color="tab:orange", lw=1.5, label="exact (Newman 1986)")
    top.plot(i, product.found.exponents, "o", ms=3.5, color="tab:blue", label="measured")
    top.set_ylabel("Lyapunov exponent λ_i\n(nats per layer)")
    top.set_title(f"{LAYERS} Gaussian matrices, {product.width} × {product.width}")
    top.legend()
    bottom.axhspan(-BAND, BAND, color="tab:orange", alpha=0.15, lw=0)
    bottom.plot(i, product.deviations, "o", ms=3.5, color="tab:blue")
    bottom.set_ylabel("deviation\n(standard errors)")
    bottom.set_xlabel("i")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    return out


def main() -> int:
    """Print the table and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FIGURE, help="where the figure goes")
    path = parser.parse_args().out
    products = [measure(width) for width in WIDTHS]
    print(table(products))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(products[-1]).savefig(path, dpi=110)
    return 0 if all((np.abs(p.deviations) < BAND).all() for p in products) else 1


if __name__ == "__main__":
    sys.exit(main())
