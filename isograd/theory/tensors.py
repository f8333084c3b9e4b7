"""What was measured of the tensors of a training step, and what number formats do to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from isograd.engine.number_formats import FORMATS, NumberFormat
from isograd.errors import TheoryError
from isograd.theory.formats import Shares, as_format, limits, shares
from isograd.theory.magnitudes import Histogram, Magnitudes
from isograd.theory.updates import updates_lost

Role = Literal["weight", "activation", "error", "gradient", "update"]
"""What a tensor is: "error" is an error signal ∂L/∂z, "gradient" that of a parameter, "update" what
is added to one."""
ROLES: tuple[Role, ...] = get_args(Role)

SCALED = ("error", "gradient")
"""The roles that the loss scale multiplies."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What was measured of a tensor.

    Attributes:
        layer: of the network.
        name: as in "dW/3".
        role: what it is.
        histogram: of the binary exponents of its finite values other than zero.
        max_abs: the largest finite magnitude.
        zeros: how many values are zero.
        count: how many values there are, finite or not; 0 where all are finite.
        fan_in: how many products are summed up for a value; 1 for none.
        roundings: how many times values were rounded on the way from the input; 0 leaves that out.
        weights: of an update: what it is added to.
    """

    layer: int
    name: str
    role: Role
    histogram: Histogram
    max_abs: float
    zeros: int = 0
    count: int = 0
    fan_in: int = 1
    roundings: int = 0
    weights: Magnitudes | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise TheoryError(
                "a tensor's role must be one of " + ", ".join(ROLES),
                came=repr(self.role),
                where=self.name,
            )
        if (self.weights is None) == (self.role == "update"):
            raise TheoryError(
                "an update, and nothing else, must come with the weights it is added to",
                came=f"a tensor of role {self.role}",
                where=self.name,
            )

    @property
    def nonfinite(self) -> int:
        """How many values are infinite or NaN already."""
        return max(0, self.count - self.zeros - sum(self.histogram.counts))

    @property
    def all_zero(self) -> bool:
        """Whether there is nothing to keep: no value but zeros, in the format that was measured."""
        return not sum(self.histogram.counts) and not self.nonfinite

    @property
    def kept(self) -> Magnitudes:
        """What a format would keep: the values, or the weights that take the update."""
        return self if self.weights is None else self.weights

    def shares(self, form: NumberFormat | str, *, scale: int = 0) -> Shares:
        """What becomes of what is kept, multiplied by 2^scale, in a format."""
        x = self.kept
        return shares(x.histogram, form, scale=scale, max_abs=x.max_abs, zeros=x.zeros)

    def updates_lost(self, form: NumberFormat | str) -> float:
        """The share of the updates that weights in a format would not take; 0 of other roles."""
        w = self.weights
        if w is None:
            return 0.0
        return updates_lost(w.histogram, self.histogram, form, zeros=w.zeros).share


class ShareRow(NamedTuple):
    """What a format does to a tensor.

    Attributes:
        layer, name, role: of the tensor.
        form: the format's name.
        shares: of the values that overflow, are subnormal, flushed and so on.
        updates_lost: of the updates that the weights would not take in the format; NaN for what is
            no update.
    """

    layer: int
    name: str
    role: Role
    form: str
    shares: Shares
    updates_lost: float


def share_table(
    tensors: Iterable[Tensor],
    *,
    formats: Sequence[NumberFormat | str] = tuple(FORMATS),
    scale: int = 0,
) -> Iterator[ShareRow]:
    """For each tensor and format a row: what would overflow, be flushed or become subnormal.

    Args:
        tensors: of one step or of several.
        formats: in question.
        scale: log₂ of a loss scale, by which error signals and gradients are multiplied.

    Raises:
        IsogradError: if a format is not known.
    """
    known = [as_format(f) for f in formats]
    for t in tensors:
        for form in known:
            held = shares(
                t.histogram,
                form,
                scale=scale if t.role in SCALED else 0,
                max_abs=t.max_abs,
                zeros=t.zeros,
            )
            lost = math.nan if t.weights is None else t.updates_lost(form)
            yield ShareRow(t.layer, t.name, t.role, form.name, held, lost)


def below_range(histogram: Histogram, form: NumberFormat | str, *, scale: int = 0) -> float:
    """The error of rounding what lies below the smallest normal number, over the values' size.

    Both as root mean squares: a flushed value errs by itself, a subnormal one by a uniform part of
    the spacing s, s²/12 on average; magnitudes are uniform within a bin, of mean square 7/3 · 4^e.

    Args:
        histogram: of the exponents of the finite values other than zero.
        form: the format.
        scale: log₂ of a factor that the values are multiplied by first.
    """
    f = as_format(form)
    zero = limits(f).zero_log2
    top = histogram.first + scale + len(histogram.counts) - 1
    error = total = 0.0
    for e, n in enumerate(histogram.counts, histogram.first + scale):
        square = n * 7.0 / 3.0 * 4.0 ** max(e - top, -500)
        total += square
        if e < zero:
            error += square
        elif e < f.min_exponent:
            error += n / 12.0 * 4.0 ** max(zero + 1 - top, -500)
    return math.sqrt(error / total) if total else 0.0


__all__ = ["ROLES", "SCALED", "Role", "ShareRow", "Tensor", "below_range", "share_table"]
