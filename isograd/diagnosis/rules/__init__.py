"""The rules: each looks at the case and says what it finds, or nothing.

No rule compares a size with a fixed number. Rules on depth ask whether the network is deeper than
the depth that its own measured gain lets train (6 ξ, Schoenholz et al. 2017); rules on the
learning rate ask whether a step does what its own gradient promised (the trust-region ratio,
Nocedal & Wright 2006, ch. 4); rules on learning compare with a constant output.
"""

from __future__ import annotations

from collections.abc import Callable

from isograd.diagnosis.case import Case
from isograd.diagnosis.findings import Finding
from isograd.diagnosis.rules.depth import (
    exploding_gradient,
    exploding_signal,
    vanishing_gradient,
    vanishing_signal,
)
from isograd.diagnosis.rules.steps import (
    learning_rate_too_high,
    learning_rate_too_low,
    no_learning,
    non_finite,
)
from isograd.diagnosis.rules.units import dead_units, saturated_units

Rule = Callable[[Case], Finding | None]

RULES: tuple[Rule, ...] = (
    non_finite,
    vanishing_gradient,
    exploding_gradient,
    vanishing_signal,
    exploding_signal,
    dead_units,
    saturated_units,
    learning_rate_too_high,
    learning_rate_too_low,
    no_learning,
)
