"""What a diagnosis says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from isograd.diagnosis.budget import Budget

Severity = Literal["fatal", "serious", "minor"]
Verdict = Literal["healthy", "sick", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        name: one of a fixed list, "vanishing gradient".
        severity: *fatal* where the network does not learn for it, *serious* where a part of it
            does not, *minor* where it learns all the same.
        layers: weight layers concerned, ascending; empty where it is not a matter of layers.
        step: the first step at which it was seen to hold.
        evidence: measured numbers, by name; units stand in the name.
        cause: why, in a sentence or two, with numbers.
        expectation: what theory says of this very network.
        disproof: what observation would show the finding wrong.
    """

    name: str
    severity: Severity
    layers: tuple[int, ...]
    step: int
    evidence: Mapping[str, float]
    cause: str
    expectation: str
    disproof: str

    @property
    def first_layer(self) -> int | None:
        """Where it begins: a gradient's finding at the top of its layers, all others below."""
        if not self.layers:
            return None
        return self.layers[-1] if self.name.endswith("gradient") else self.layers[0]


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes per layer at one measured step; entry l − 1 belongs to layer l.

    Attributes:
        step: its number.
        delta: ‖δ^l‖, the Frobenius norm over the batch of ∂L/∂z.
        signal: rms of z minus its mean over the batch: what depends on the input.
        scale: rms of z.
        update: ‖ΔW‖/‖W‖.
    """

    step: int
    delta: tuple[float, ...]
    signal: tuple[float, ...]
    scale: tuple[float, ...]
    update: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """A size that is expected, and its error bar over draws of the weights.

    Attributes:
        decades: log₁₀ of the size: its mean over draws.
        sd: its standard deviation.
    """

    decades: float
    sd: float

    @property
    def value(self) -> float:
        """The size."""
        return float(10.0**self.decades) if self.decades < 308.0 else math.inf

    def __str__(self) -> str:
        return f"{self.decades:+.2f} ± {self.sd:.2f}"


@dataclass(frozen=True, slots=True)
class LayerExpectation:
    """What theory expects of a weight layer, in decades.

    Attributes:
        layer: l.
        scale: log₁₀ of the rms of z.
        signal: log₁₀ of the rms of z minus its mean over the batch.
        delta: log₁₀(‖δ^l‖/‖δ^L‖); NaN where theory does not reach the top.
    """

    layer: int
    scale: Band
    signal: Band
    delta: Band


@dataclass(frozen=True, slots=True)
class Expectation:
    """What mean-field theory says of the network as initialised.

    Attributes:
        covered: whether theory covers all its layers; if not, the numbers are NaN.
        reason: why not.
        chi1: χ₁, the mean squared gain of the error signal per layer.
        decades_per_layer: ½ log₁₀ χ₁.
        depth_scale: ξ_c, over which differences between inputs fade, in layers.
        trainable_depth: 6 ξ_c.
        spread_decades: standard deviation over draws of log₁₀‖δ¹‖ at these widths.
        layers: each weight layer, up to the last that theory covers.
    """

    covered: bool
    reason: str
    chi1: float
    decades_per_layer: float
    depth_scale: float
    trainable_depth: float
    spread_decades: float
    layers: tuple[LayerExpectation, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict on a run, and what it rests on.

    Attributes:
        verdict: *healthy*, *sick*, or *unknown* where too little was measured.
        reason: the verdict in a sentence.
        findings: the gravest first.
        profile: sizes per layer at the first measured step, and `late` at the last.
        budget: the gain budget at the first measured step.
        expectation: theory's.
        learned: share of the loss of a constant output that was learned away; 1 is all.
    """

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...]
    profile: Profile | None
    late: Profile | None
    budget: Budget | None
    expectation: Expectation
    learned: float

    @property
    def names(self) -> frozenset[str]:
        """Names of the findings that are not minor."""
        return frozenset(f.name for f in self.findings if f.severity != "minor")
