"""What a run leaves behind: a record of every step, with a summary of every site in some."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from isograd.errors import IsogradError, nearest
from isograd.telemetry.packing import Packing
from isograd.telemetry.raw import Moments
from isograd.telemetry.summary import EMPTY, Summary

Signal = Literal["input", "z", "v", "n", "a", "m", "k", "s", "r"]
"""Input, pre-activation, z minus its mean over the batch (what of it depends on the input),
normalised, activation, masked by dropout, scaled, input of a residual branch, residual sum."""
Cotangent = Literal["delta", "dn", "da", "dm", "dk", "ds", "dr"]
"""∂L/∂z (the error signal δ), and ∂L/∂ of n, a, m, k, s and r."""
Parameter = Literal["W", "b", "g", "h", "c"]
"""Weights, biases, scale and shift of a normalisation, and the learned number of a scale layer or
of an activation."""
Gradient = Literal["dW", "db", "dg", "dh", "dc"]
"""∂L/∂ of the parameters."""
Update = Literal["uW", "ub", "ug", "uh", "uc"]
"""ΔW, Δb, Δg, Δh, Δc: what the optimiser adds."""
Kind: TypeAlias = Literal[Signal, Cotangent, Parameter, Gradient, Update]
KINDS: tuple[Kind, ...] = get_args(Kind)
_WRITTEN = re.compile(r"([^/]*)/(\d+)(?:\.([1-9]\d*))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A place in the network where a summary is taken, written "z/3", or "a/3.1".

    Attributes:
        kind: what is measured there, one of KINDS.
        layer: which layer's, counted from 0.
        part: which of several of the kind within the layer, counted from 0.
    """

    kind: Kind
    layer: int
    part: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise IsogradError(
                "a site's kind must be a known one",
                came=repr(self.kind),
                where=f"site {self}",
                fix=nearest(str(self.kind), KINDS),
            )
        if self.layer < 0 or self.part < 0:
            raise IsogradError(
                "a site's layer and part must not be negative",
                came=f"layer {self.layer}, part {self.part}",
                where=f"site {self}",
                fix="count them from 0",
            )

    def __str__(self) -> str:
        """kind/layer, with .part behind it where that is not 0."""
        return f"{self.kind}/{self.layer}" + (f".{self.part}" if self.part else "")

    @staticmethod
    def parse(text: str) -> Site:
        """The site that is written so: the inverse of ``str``.

        Raises:
            IsogradError: the text is not of that form, or the kind is not known.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise IsogradError(
                "a site must be written kind/layer or kind/layer.part",
                came=repr(text),
                fix='for example "z/3"',
            )
        kind, layer, part = match.groups(default="0")
        return Site(cast(Kind, kind), int(layer), int(part))


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
        predicted, actual: change of the batch's loss by the update, as the gradient promised it
            and as it came; None in a step that was not measured.
        validation, accuracy: loss and accuracy of the validation part after the step; None but in
            the last step of an epoch, and without that part.
        moments: of every site, as `isograd.telemetry.packing.Packing` packs them; None if not
            taken.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    skipped: bool = False
    grad_norm: float | None = None
    summaries: Mapping[Site, Summary] = field(default_factory=dict)
    predicted: float | None = None
    actual: float | None = None
    validation: float | None = None
    accuracy: float | None = None
    moments: bytes | None = None


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

    def moments(self, site: Site) -> tuple[NDArray[np.int64], Moments]:
        """The steps of which the site's moments are kept, (n,) int64, and the moments, (n,)."""
        fact, name = self.meta.get("moments"), str(site)
        packing = Packing.from_json(fact) if fact else Packing("float64", ())
        taken = [
            (record, record.moments)
            for record in self.records
            if record.moments is not None and name in packing.sites
        ]
        return _steps([r for r, _ in taken]), packing.unpack((m for _, m in taken), name)

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
