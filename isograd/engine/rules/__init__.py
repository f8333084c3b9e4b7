"""What each primitive means: value, shape and both derivatives, side by side.

Derivatives are written in the engine's own operations, so one rule serves arrays, the dynamic mode,
the static mode and derivatives of any order.
"""

from isograd.engine.ops import RULES, Op
from isograd.engine.rules import (
    elementwise,
    identity,
    linalg,
    random,
    reduce,
    rounding,
    shape,
    stable,
)

__all__ = [
    "elementwise",
    "identity",
    "linalg",
    "random",
    "reduce",
    "rounding",
    "shape",
    "stable",
]

_missing = [op for op in Op if op not in RULES]
assert not _missing, f"primitives without a rule: {_missing}"
