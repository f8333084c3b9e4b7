"""The precision plan: for every tensor of a training step the cheapest format that is safe.

A format is safe for a tensor where

- nothing overflows (error signals and gradients are multiplied by the loss scale first);
- fewer than 5 % of the values other than zero are flushed to zero: at about 5 % of the weight
  gradients harm was reported (Micikevicius et al. 2018, sec. 3.1);
- what lies below the smallest normal number costs no more than rounding does above it: the root
  mean square of that error is at most u times the tensor's (Demmel 1984, who so compares underflow
  with roundoff);
- it has the digits that trainings of that kind of tensor were shown to need: 3 bits of fraction for
  weights and activations, 2 for error signals (Micikevicius et al. 2022), 7 for gradients
  of weights (Kalamkar et al. 2019);
- the errors of all roundings on the way leave a bit of the signal: √k·u ≤ ½ after k of them, as
  independent errors grow (Higham & Mary 2019). Networks whose depth is bridged by skip connections
  stand more than this;
- for weights that take updates: fewer than 5 % of the updates other than zero are rounded away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from isograd.engine.number_formats import FORMATS, NumberFormat
from isograd.errors import TheoryError
from isograd.theory.formats import LossScale, Shares, as_format, loss_scale
from isograd.theory.rounding import expected_growth, gamma
from isograd.theory.tensors import ROLES, SCALED, Role, Tensor, below_range

HARMFUL = 0.05
"""The share of values lost at which harm was reported."""
FRACTION_BITS: dict[Role, int] = {
    "weight": 3,
    "activation": 3,
    "error": 2,
    "gradient": 7,
    "update": 0,
}
"""The bits of fraction that a role needs; of an update the share rounded away decides."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The format for a tensor.

    Attributes:
        tensor: which.
        form: the cheapest that is safe; the widest of those allowed where none is. Of an update:
            the format in which the weights are kept that take it.
        safe: whether it is.
        why: a sentence with the numbers.
        shares: what the format does to the values, multiplied by the loss scale where it applies.
        accumulate: in which the products of each value are to be summed: the cheapest format, as
            wide as `form` at least, whose γ_n is at most the unit roundoff that the role needs.
            None where there is no sum.
    """

    tensor: Tensor
    form: NumberFormat
    safe: bool
    why: str
    shares: Shares
    accumulate: NumberFormat | None


@dataclass(frozen=True, slots=True)
class Group:
    """Layers in a row whose tensors of one role take the same format.

    Attributes:
        role: of the tensors.
        first, last: the layers.
        form: the format; the widest of them where a layer has several tensors of the role.
        safe: whether it is safe for all of them.
        all_zero: whether all values of all of them are zero, so that any format would do.
    """

    role: Role
    first: int
    last: int
    form: NumberFormat
    safe: bool
    all_zero: bool

    def __str__(self) -> str:
        one = self.first == self.last
        layers = f"layer {self.first}" if one else f"layers {self.first}–{self.last}"
        form = "all zero" if self.all_zero else self.form.name
        return f"{layers}: {form}" + ("" if self.safe else " (not safe)")


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """A format for every tensor, and the loss scale they were chosen for.

    Attributes:
        choices: in the order of the tensors.
        loss_scale: for the narrowest format that an error signal or a gradient takes; None where
            there are none.
    """

    choices: tuple[Choice, ...]
    loss_scale: LossScale | None

    @property
    def groups(self) -> tuple[Group, ...]:
        """Role by role, layers in a row that take the same format."""
        out = []
        for role in ROLES:
            mine = sorted(
                (c for c in self.choices if c.tensor.role == role), key=lambda c: c.tensor.layer
            )
            layers = []
            for layer, several in groupby(mine, key=lambda c: c.tensor.layer):
                choices = list(several)
                filled = [c for c in choices if not c.tensor.all_zero]
                forms = (c.form for c in filled or choices)
                widest = max(forms, key=_width)
                layers.append((layer, widest, all(c.safe for c in choices), not filled))
            for alike, run in groupby(layers, key=lambda x: x[1:]):
                numbers = [layer for layer, *_ in run]
                out.append(Group(role, numbers[0], numbers[-1], *alike))
        return tuple(out)

    @property
    def uniform(self) -> dict[Role, NumberFormat]:
        """One format for each role, for all layers: the widest that any of its tensors takes."""
        return {
            role: max((g.form for g in groups), key=_width)
            for role, groups in groupby(self.groups, key=lambda g: g.role)
        }

    def __str__(self) -> str:
        """A line for each role, and one for the loss scale."""
        lines = []
        for role, groups in groupby(self.groups, key=lambda g: g.role):
            what = "weights that take updates" if role == "update" else f"{role}s"
            lines.append(f"{what}: " + ", ".join(map(str, groups)))
        if self.loss_scale is not None:
            s = self.loss_scale
            lines.append(
                f"loss scale: 2^{s.log2} for {s.form.name}, headroom {s.headroom:.1f} bits; "
                f"{_percent(s.before.lost)} of the gradients lost before, "
                f"{_percent(s.after.lost)} after"
            )
        return "\n".join(lines)


def plan(
    tensors: Iterable[Tensor],
    *,
    formats: Sequence[NumberFormat | str] = tuple(FORMATS),
    margin: int = 0,
) -> PrecisionPlan:
    """For each tensor the cheapest of some formats that is safe, why, and the loss scale.

    Cheapest is what takes the fewest bits, and among those the one with the most digits. There is
    one loss scale for all error signals and gradients: that for the narrowest format which any of
    them takes.

    Args:
        tensors: of one step or of several.
        formats: that may be taken.
        margin: bits of headroom that the loss scale is to leave at least.

    Raises:
        IsogradError: if a format is not known.
        TheoryError: if there is no format to choose from, or the margin is negative.

    Example:
        >>> from isograd.theory.magnitudes import sizes
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> s = sizes(1e-6 * rng.standard_normal(1000))
        >>> delta = Tensor(3, "delta/3", "error", s.histogram, s.max_abs)
        >>> print(plan([delta], formats=["fp32", "fp16"]))
        errors: layer 3: fp16
        loss scale: 2^17 for fp16, headroom 17.0 bits; 2.4 % of the gradients lost before, 0 % after
    """
    chosen = tuple(tensors)
    known = sorted({as_format(f).name: as_format(f) for f in formats}.values(), key=_cost)
    if not known:
        raise TheoryError("a plan must have formats to choose from", came="none")
    backward = [t for t in chosen if t.role in SCALED]
    if not backward:
        return PrecisionPlan(tuple(_choose(t, known, 0) for t in chosen), None)
    against = [""] * len(chosen)
    for form in sorted(known, key=lambda f: f.max):
        # A format that nothing backward takes must not limit the loss scale.
        scale = loss_scale(backward, form, margin=margin)
        allowed = [f for f in known if f.max >= form.max]
        choices = tuple(
            _choose(t, allowed, scale.log2, before) if t.role in SCALED else _choose(t, known, 0)
            for t, before in zip(chosen, against, strict=True)
        )
        if any(c.form == form for c in choices if c.tensor.role in SCALED):
            break
        against = [f"{form.name}: {_judge(t, form, scale.log2)[0]}" for t in chosen]
    return PrecisionPlan(choices, scale)


def _width(form: NumberFormat) -> tuple[int, int]:
    return form.bits, form.exponent_bits


def _cost(form: NumberFormat) -> tuple[int, int]:
    return form.bits, -form.fraction_bits


def _choose(
    tensor: Tensor, formats: Sequence[NumberFormat], scale: int, against: str = ""
) -> Choice:
    """The first format that is safe, and what spoke against the one before it."""
    for form in formats:
        fault, praise, held = _judge(tensor, form, scale)
        if not fault:
            break
        against = f"{form.name}: {fault}"
    why = f"{form.name}: {fault or praise}" + (f"; {against}" if against and not fault else "")
    return Choice(tensor, form, not fault, why, held, _accumulate(tensor, form))


def _judge(tensor: Tensor, form: NumberFormat, scale: int) -> tuple[str, str, Shares]:
    """What speaks against a format, and for it."""
    kept = tensor.kept
    held = tensor.shares(form, scale=scale)
    noise = below_range(kept.histogram, form, scale=scale)
    lost = tensor.updates_lost(form)
    scaled = f", scaled by 2^{scale}" if scale else ""
    largest = f"(2^{math.log2(kept.max_abs) + scale:.1f}{scaled})" if kept.max_abs else ""
    digits = FRACTION_BITS[tensor.role]
    grown = expected_growth(tensor.roundings, form)
    faults = (
        (tensor.nonfinite, f"{tensor.nonfinite} values are not finite already"),
        (held.overflow, f"the largest value {largest} exceeds 2^{math.log2(form.max):.1f}"),
        (
            form.fraction_bits < digits,
            f"{form.fraction_bits} bits of fraction, where {tensor.role}s need {digits}",
        ),
        (
            grown > 0.5,
            f"the errors of {tensor.roundings} roundings on the way grow to {grown:.2f} of it",
        ),
        (lost >= HARMFUL, f"{_percent(lost)} of the updates are rounded away"),
        (held.lost >= HARMFUL, f"{_percent(held.lost)} flushed to zero{scaled}"),
        (
            noise > form.unit_roundoff,
            f"what is subnormal or flushed{scaled} costs {noise:.1e} of the rms, more than "
            f"u = 2^{round(math.log2(form.unit_roundoff))}",
        ),
    )
    fault = next((text for found, text in faults if found), "")
    if tensor.all_zero:
        return fault, "all values are zero as measured, so that any format would do", held
    if tensor.weights is not None:
        return fault, f"{_percent(lost)} of the updates are rounded away", held
    praise = (
        f"the largest value fits {largest}, {_percent(held.lost)} flushed, "
        f"{_percent(held.underflow - held.lost)} subnormal"
    )
    return fault, praise, held


def _accumulate(tensor: Tensor, form: NumberFormat) -> NumberFormat | None:
    if tensor.fan_in <= 1:
        return None
    needed = 2.0 ** -(FRACTION_BITS[tensor.role] + 1)
    wider = [
        f
        for f in sorted(FORMATS.values(), key=_cost)
        if f.exponent_bits >= form.exponent_bits and f.fraction_bits >= form.fraction_bits
    ]
    return next((f for f in wider if gamma(tensor.fan_in, f) <= needed), wider[-1])


def _percent(share: float) -> str:
    """Two digits, and never a 0 or 100 that is none."""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share < 0.001:
        return "under 0.1 %"
    return "over 99.9 %" if share > 0.999 else f"{100 * share:.3g} %"


__all__ = ["FRACTION_BITS", "HARMFUL", "Choice", "Group", "PrecisionPlan", "plan"]
