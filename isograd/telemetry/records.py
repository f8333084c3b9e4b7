"""What a run leaves behind: a record of every step, with a summary of every site in some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from isograd.errors import IsogradError, nearest
from isograd.telemetry.summary import EMPTY, Summary

Signal = Literal["input", "z", "n", "a", "r", "loss"]
"""Input, pre-activation, normalised, activation, residual output, loss."""
Cotangent = Literal["delta", "dn", "da", "dr"]
"""∂L/∂z (the error signal δ), ∂L/∂n, ∂L/∂a, ∂L/∂r."""
Parameter = Literal["W", "b", "g"]
"""Weights, biases, scale of a normalisation."""
Gradient = Literal["dW", "db", "dg"]
"""∂L/∂W, ∂L/∂b, ∂L/∂g."""
Update = Literal["uW", "ub", "ug"]
"""ΔW, Δb, Δg: what the optimiser adds."""
Kind: TypeAlias = Literal[Signal, Cotangent, Parameter, Gradient, Update]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A place in the network where a summary is taken, written "z/3".

    Attributes:
        kind: what is measured there, one of KINDS.
        layer: which layer's, counted from 0.
    """

    kind: Kind
    layer: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise IsogradError(
                "a site's kind must be a known one",
                came=repr(self.kind),
                where=f"site {self}",
                fix=nearest(str(self.kind), KINDS),
            )
        if self.layer < 0:
            raise IsogradError(
                "a site's layer must not be negative",
                came=str(self.layer),
                where=f"site {self}",
                fix="count layers from 0",
            )

    def __str__(self) -> str:
        """kind/layer."""
        return f"{self.kind}/{self.layer}"

    @staticmethod
    def parse(text: str) -> Site:
        """The site that is written so: the inverse of ``str``.

        Raises:
            IsogradError: the text is not of the form kind/layer, or the kind is not known.
        """
        kind, slash, layer = text.partition("/")
        if not (slash and layer.isascii() and layer.isdigit()):
            raise IsogradError(
                "a site must be written kind/layer", came=repr(text), fix='for example "z/3"'
            )
        return Site(cast(Kind, kind), int(layer))


@dataclass(frozen=True, slots=True)
class Record:
    """One step of training.

    Attributes:
        step: counted from the start of the run.
        epoch: passes over the data begun before this one.
        loss: of the step's batch, before the update.
        lr: learning rate of the update.
        skipped: the update was not applied, as gradients were not finite.
        grad_norm: norm of all gradients before clipping; None if not taken.
        summaries: what was measured; empty in a step that was not.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    skipped: bool = False
    grad_norm: float | None = None
    summaries: Mapping[Site, Summary] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The records of a run, or of the part of it that has been written so far.

    Attributes:
        meta: facts about the run as a whole, by name.
        records: in increasing order of step.
    """

    meta: Mapping[str, str]
    records: tuple[Record, ...]

    def steps(self) -> NDArray[np.int64]:
        """(records,) int64, the step of each record."""
        return _steps(self.records)

    def losses(self) -> NDArray[np.float64]:
        """(records,) float64, the loss of each record."""
        return np.array([record.loss for record in self.records], np.float64)

    def measured(self) -> tuple[Record, ...]:
        """The records that have summaries."""
        return tuple(record for record in self.records if record.summaries)

    def sites(self) -> tuple[Site, ...]:
        """Every site that was ever measured, ordered by kind and layer."""
        return tuple(sorted({site for record in self.records for site in record.summaries}))

    def series(self, site: Site) -> tuple[NDArray[np.int64], list[Summary]]:
        """The steps in which the site was measured, (n,) int64, and its n summaries."""
        records = [record for record in self.records if site in record.summaries]
        return _steps(records), [record.summaries[site] for record in records]

    def window(self, first: int, last: int) -> dict[Site, Summary]:
        """Each site's summaries merged over the measured steps in [first, last]."""
        merged: dict[Site, Summary] = {}
        for record in self.records:
            if first <= record.step <= last:
                for site, summary in record.summaries.items():
                    merged[site] = merged.get(site, EMPTY) + summary
        return merged


def _steps(records: Sequence[Record]) -> NDArray[np.int64]:
    return np.array([record.step for record in records], np.int64)
