"""What a step costs in matrix products, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from isograd.errors import TheoryError


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of the matrix products of a multilayer perceptron, per row.

    Attributes:
        forward: 2 Σ fan_in·fan_out: a multiplication and an addition per weight.
        backward: as many for the gradients of the weights, and as many again for the error signal
            of every layer but the first, whose input needs no gradient.
    """

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Both."""
        return self.forward + self.backward

    @property
    def total_over_forward(self) -> float:
        """What a step costs in forward passes: below 3 always, and at most 5 for any program.

        References: Griewank & Walther 2008, sec. 3.4 (the bound of 5).
        """
        return self.total / self.forward


def mlp_flops(widths: Sequence[int]) -> Flops:
    """Floating-point operations of the products of a step, per row; exact.

    Biases, activations, loss and update are not counted: they cost O(width) a layer, the products
    O(width²).

    Args:
        widths: n_0 … n_L, at least two, each at least 1.

    Raises:
        TheoryError: there is no layer, or a width that is no whole number above 0.

    Example:
        >>> from isograd import theory
        >>> theory.mlp_flops([784, 256, 256, 10])
        Flops(forward=537600, backward=673792)
    """
    if len(widths) < 2:
        raise TheoryError("a network needs at least two widths", came=repr(list(widths)))
    for place, width in enumerate(widths):
        if int(width) != width or width < 1:
            raise TheoryError(
                "a width must be a whole number above 0", came=repr(width), where=f"widths[{place}]"
            )
    products = [2 * int(a) * int(b) for a, b in pairwise(widths)]
    return Flops(sum(products), 2 * sum(products) - products[0])
