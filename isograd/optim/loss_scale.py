"""The dynamic loss scale: as large as gradients allow.

It starts at 2¹⁶. A step that is not finite is not applied, and halves it; so many finite steps in a
row double it. It does not fall below 1, so that what fails there is the network's own doing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from isograd.nn.precision import SCALE_EXPONENT

Scaling: TypeAlias = tuple[float, int]
"""The scale of the next step, and the finite steps since it last changed."""

FIRST, LEAST, MOST = 2.0**16, 1.0, 2.0**SCALE_EXPONENT
START: Scaling = (FIRST, 0)


def advanced(scaling: Scaling, finite: bool, interval: int) -> Scaling:
    """After a step.

    Args:
        scaling: before it.
        finite: whether it was.
        interval: finite steps in a row that double the scale.

    References:
        Micikevicius et al. 2018, Mixed precision training, sec. 3.2; the numbers are those of
        PyTorch's GradScaler, the least scale is that of TensorFlow's LossScaleOptimizer.
    """
    scale, good = scaling
    if not finite:
        return max(0.5 * scale, LEAST), 0
    if good + 1 < interval:
        return scale, good + 1
    return min(2.0 * scale, MOST), 0


def scales(scaling: Scaling, finite: Iterable[bool], interval: int) -> Iterator[float]:
    """The scale of each of the steps that follow, by whether they were finite."""
    for one in finite:
        yield scaling[0]
        scaling = advanced(scaling, one, interval)


__all__ = ["FIRST", "LEAST", "MOST", "START", "Scaling", "advanced", "scales"]
