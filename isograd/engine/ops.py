"""The closed set of primitives, and the table of their rules.

A primitive is one line of `Op` and one `Rule`, defined in `isograd.engine.rules`. Nothing else in
the library computes on arrays under differentiation: dynamic mode, static mode, both directions of
differentiation and every backend read this one table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from isograd.engine.graph import ArraySpec

Value: TypeAlias = Any
"""A NumPy array, or a tracer that stands for one. Rules are written for both at once."""


class Op(enum.Enum):
    """Every primitive there is."""

    __hash__ = object.__hash__  # that of an enumeration is a function in Python

    # arithmetic
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    NEG = "neg"
    ABS = "abs"
    SIGN = "sign"
    MAX = "max"
    MIN = "min"
    # elementary functions
    EXP = "exp"
    EXPM1 = "expm1"
    LOG = "log"
    LOG1P = "log1p"
    SQRT = "sqrt"
    TANH = "tanh"
    LOGISTIC = "logistic"
    ERF = "erf"
    ERFC = "erfc"
    SIN = "sin"
    COS = "cos"
    ROUND = "round"
    # comparisons and choice
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    SELECT = "select"
    # reductions and products
    SUM = "sum"
    REDUCE_MAX = "reduce_max"
    MATMUL = "matmul"
    # shape and movement
    RESHAPE = "reshape"
    TRANSPOSE = "transpose"
    BROADCAST = "broadcast"
    SLICE = "slice"
    PAD = "pad"
    CONCATENATE = "concatenate"
    GATHER = "gather"
    SCATTER_ADD = "scatter_add"
    CAST = "cast"
    # randomness without state
    RANDOM_BITS = "random_bits"
    # stable composites
    SOFTPLUS = "softplus"
    LOGSUMEXP = "logsumexp"
    LOG_SOFTMAX = "log_softmax"
    # identities with a meaning
    STOP_GRADIENT = "stop_gradient"
    PROBE = "probe"
    ROUND_COTANGENT = "round_cotangent"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a primitive means.

    Attributes:
        eval: `eval(*arrays, **params)` on NumPy arrays.
        shape: `shape(*specs, **params)`, the output's spec; raises `ShapeError`.
        jvp: `jvp(i, t, out, args, params)`, the output tangent due to tangent `t` of argument
            `i`, linear in `t`; None stands for zero.
        vjp: `vjp(i, g, out, args, params)`, the cotangent of argument `i` due to cotangent `g`
            of the output: the transpose of `jvp`; None stands for zero.
        domain: where value and derivatives are finite and accurate.
        elementwise: the output at an index depends on the inputs at that index alone.
        effect: must be kept even where its output is not used.
    """

    eval: Callable[..., Value]
    shape: Callable[..., ArraySpec]
    jvp: Callable[[int, Value, Value, tuple[Value, ...], dict[str, Any]], Value | None]
    vjp: Callable[[int, Value, Value, tuple[Value, ...], dict[str, Any]], Value | None]
    domain: str
    elementwise: bool = False
    effect: bool = False


RULES: dict[Op, Rule] = {}


def define(op: Op, rule: Rule) -> None:
    """Enter the rule of a primitive, once."""
    assert op not in RULES, f"{op} has two rules"
    RULES[op] = rule
