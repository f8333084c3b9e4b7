"""What the items are made of, and how far a signal may change over the depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isograd.diagnosis.findings import Expectation
from isograd.diagnosis.first_step import FirstStep
from isograd.diagnosis.step_size import StepSize
from isograd.nn.model import Model, Part
from isograd.nn.spec import AdaGrad, Adam, AdamW, RMSProp, Spec
from isograd.telemetry.records import Kind, Site
from isograd.telemetry.summary import EMPTY, Summary
from isograd.theory.precision import PrecisionPlan
from isograd.training.data import Split

State = Literal["ok", "note", "doubt", "bad"]


class Bounds(NamedTuple):
    """Up to `trains` networks were found to train, beyond `fails` not."""

    trains: float
    fails: float


FALL = Bounds(4.0, 8.0)
"""Depth in units of the depth scale ξ, or e-folds by which a squared signal falls over the depth.

Fully connected tanh networks trained with SGD on MNIST ceased to train between 4.4 and 7.0 ξ_c
(Schoenholz et al. 2017, fig. 5, as reproduced in reference H10; they say about 6)."""

GROWTH = Bounds(7.0, 11.0)
"""E-folds by which the squared error signal grows over the depth.

In the chaotic half of the same experiment it had grown by e^7.9 to e^9.4, L ln χ₁, at the depths at
which training ceased: more than it may fall, as there ξ_c is longer than 1/ln χ₁."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: *ok*; *note*, which decides nothing; *doubt*, with which networks were found to train
            and not to train; *bad*, with which they do not.
        layer: the first layer concerned; None where it is not a matter of layers.
        value: the number that decides; NaN without one.
        came: what is.
        must: what must hold.
        source: why it must.
    """

    name: str
    state: State
    layer: int | None
    value: float
    came: str
    must: str
    source: str


@dataclass(frozen=True)
class Sizes:
    """Sizes per layer, entry l − 1 of layer l: measured, or as theory expects them.

    Attributes:
        signal: rms of v, what of z depends on the input; of a layer in a residual block the largest
            from it upwards.
        scale: rms of z.
        delta: ‖δˡ‖/‖δᴸ‖.
    """

    signal: NDArray[np.float64]
    scale: NDArray[np.float64]
    delta: NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What there is to look at.

    Attributes:
        spec, model: the network and its training.
        split, measured: its data, and its first step; None without data.
        expected: what theory says.
        step_size: learning rates; None without data.
        precision: the plan; None without data.
    """

    spec: Spec
    model: Model
    split: Split | None
    measured: FirstStep | None
    expected: Expectation
    step_size: StepSize | None = None
    precision: PrecisionPlan | None = None

    @cached_property
    def sizes(self) -> Sizes | None:
        """Measured if there are data, else expected; None if theory does not reach the top."""
        if self.measured is None:
            sizes = _expected_sizes(self.expected, self.model.depth)
            return None if sizes is None else replace(sizes, signal=self._carried(sizes.signal))
        p = self.measured.profile
        delta = np.array(p.delta)
        with np.errstate(all="ignore"):
            return Sizes(self._carried(np.array(p.signal)), np.array(p.scale), delta / delta[-1])

    def _carried(self, signal: NDArray[np.float64]) -> NDArray[np.float64]:
        """In a block, what gets by on the skip connection counts: it is seen in layers above."""
        above = np.maximum.accumulate(signal[::-1])[::-1]
        inside = np.isin(np.arange(1, len(signal) + 1), list(self.bypassed))
        return np.where(inside, above, signal)

    @property
    def summaries(self) -> Mapping[Site, Summary]:
        """Of every site; none without data."""
        return {} if self.measured is None else self.measured.summaries

    def of(self, kind: Kind, layer: int) -> Summary:
        """The summary of a site; that of no values if there is none."""
        return self.summaries.get(Site(kind, layer), EMPTY)

    @cached_property
    def bypassed(self) -> frozenset[int]:
        """Layers inside of residual blocks: a signal gets by without them."""
        inside, out = 0, set()
        for p in self.model.places:
            inside += (p.part is Part.SKIP_OPENS) - (p.part is Part.SKIP_CLOSES)
            if inside:
                out.add(p.layer)
        return frozenset(out)

    @cached_property
    def normalised(self) -> bool:
        """Whether a normalisation follows the weights of every hidden layer, or nearly."""
        after = {p.layer for p in self.model.places if p.part is Part.NORMALISATION}
        return after >= set(range(2, self.model.depth))

    @property
    def epsilon(self) -> float | None:
        """Of an optimiser whose steps do not shrink with the gradient, down to this size of it."""
        match self.spec.optimiser:
            case Adam(eps=eps) | AdamW(eps=eps) | RMSProp(eps=eps) | AdaGrad(eps=eps):
                return eps
        return None


def _expected_sizes(e: Expectation, depth: int) -> Sizes | None:
    """Theory's, where it covers all layers."""
    if len(e.layers) < depth:
        return None
    columns = ([getattr(x, name).value for x in e.layers] for name in ("signal", "scale", "delta"))
    return Sizes(*map(np.array, columns))


def graded(value: float, bounds: Bounds) -> State:
    """*ok* up to the first bound, *bad* beyond the second; NaN is *doubt*."""
    return "ok" if value <= bounds.trains else "bad" if value > bounds.fails else "doubt"


def milder(state: State) -> State:
    """One less: where the evidence is of other circumstances."""
    return {"bad": "doubt", "doubt": "note"}.get(state, state)  # type: ignore[return-value]


def folds(values: NDArray[np.float64], reference: float) -> NDArray[np.float64]:
    """ln(v²/reference²) of each value: −inf for 0; NaN where there is no reference."""
    if not 0.0 < reference < math.inf:
        return np.full(len(values), math.nan)
    with np.errstate(divide="ignore"):
        return np.asarray(2.0 * (np.log(values) - math.log(reference)))


def decades(e_folds: float) -> str:
    """E-folds of a square as decades of the size itself."""
    size = abs(e_folds) / (2.0 * math.log(10.0))
    return f"by {size:.1f} decades" if math.isfinite(size) else "to 0"


def layers(numbers: list[int]) -> str:
    """ "layer 3", "layers 3 to 7", "3 layers from layer 3 on"."""
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"layers {numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} layers from layer {numbers[0]} on"
