"""Moments of every site of a step in a few bytes: how a run keeps those of all its steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from isograd.backends.llvm.measured import MOMENTS
from isograd.telemetry.raw import Moments, moments


@dataclass(frozen=True, slots=True)
class Packing:
    """What the bytes of a step hold: one record per site.

    Attributes:
        dtype: float32 or float64, that of the run. Means, standard deviations and extremes are
            rounded to it: no measured value is, and none of the four leaves its range.
        sites: where the records were taken, in their order, as ``str`` of a site.
    """

    dtype: str
    sites: tuple[str, ...]

    @property
    def layout(self) -> np.dtype[Any]:
        """Of a record: the fields of MOMENTS in little-endian order, counts of 32 bits."""
        kinds = {"f": np.dtype(self.dtype).newbyteorder("<"), "i": np.dtype("<u4")}
        names = MOMENTS.names or ()
        return np.dtype([(name, kinds[MOMENTS[name].kind]) for name in names])

    def pack(self, taken: NDArray[Any]) -> list[bytes]:
        """The bytes of each step.

        Args:
            taken: (steps, sites) MOMENTS.
        """
        with np.errstate(under="ignore"):
            packed = taken.astype(self.layout)
        return [step.tobytes() for step in packed]

    def unpack(self, steps: Iterable[bytes], site: str) -> Moments:
        """The moments of a site in the order of the steps; none of one that is not in `sites`."""
        layout, parts = self.layout, []
        if site in self.sites:
            start = layout.itemsize * self.sites.index(site)
            parts = [step[start : start + layout.itemsize] for step in steps]
        return moments(np.frombuffer(b"".join(parts), layout))

    def to_json(self) -> str:
        """As text, for the facts of a run."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(text: str) -> Packing:
        """The one of which `to_json` made the text."""
        return msgspec.json.decode(text, type=Packing)
