"""Rewrites of a graph, each named and flagged.

An *exact* pass gives the same bits for every input, NaN, infinities and signed zeros included (an
input with gaps in its memory can lose the last bit of a matrix product to the order of memory). A
pass that *changes values* may not: it is never in the default list, and the report of `optimise`
names it. (Compilers that take log(exp(x)) for x hide the overflow a user is looking for.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.graph import ArraySpec, Eqn, Graph, Var
from isograd.engine.ops import RULES, Op


@dataclass(frozen=True, slots=True)
class Pass:
    """A named rewrite. `run` returns the new graph and how often it rewrote."""

    name: str
    run: Callable[[Graph], tuple[Graph, int]]
    exact: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """What one pass did."""

    name: str
    exact: bool
    rewrites: int


@dataclass(frozen=True, eq=False)
class Optimised:
    """A rewritten graph, and the report of what was done to it."""

    graph: Graph
    applied: tuple[Applied, ...]

    @property
    def exact(self) -> bool:
        """Whether no pass that changes values rewrote anything."""
        return all(a.exact or not a.rewrites for a in self.applied)

    def __str__(self) -> str:
        return "\n".join(
            f"{a.name}: {a.rewrites} ({'exact' if a.exact else 'changes values'})"
            for a in self.applied
        )


def _substitute(graph: Graph, eqns: Iterable[Eqn], new: Mapping[Var, Var]) -> Graph:
    return replace(graph, eqns=tuple(eqns), outputs=tuple(new.get(v, v) for v in graph.outputs))


def _renamed(eqn: Eqn, new: Mapping[Var, Var]) -> Eqn:
    if not any(v in new for v in eqn.inputs):
        return eqn
    return replace(eqn, inputs=tuple(new.get(v, v) for v in eqn.inputs))


# --- constant folding

_GROWING = frozenset({Op.BROADCAST, Op.RANDOM_BITS})


def _fold_constants(graph: Graph) -> tuple[Graph, int]:
    """Evaluate what depends on constants alone. What makes much of little would take memory."""
    constants = dict(graph.constants)
    eqns: list[Eqn] = []
    folded = 0
    for eqn in graph.eqns:
        rule = RULES[eqn.op]
        if eqn.op not in _GROWING and not rule.effect and all(v in constants for v in eqn.inputs):
            with np.errstate(all="ignore"):
                value = rule.eval(*(constants[v] for v in eqn.inputs), **eqn.params)
            constants[eqn.output] = np.asarray(value)
            constants[eqn.output].flags.writeable = False
            folded += 1
        else:
            eqns.append(eqn)
    return replace(graph, eqns=tuple(eqns), constants=constants), folded


# --- common subexpressions

_SMALL = 64  # constants up to this many elements are compared by content, others by identity


def _constant_key(array: NDArray[Any]) -> object:
    if array.size <= _SMALL:
        return (array.dtype.str, array.shape, array.tobytes())
    return id(array)


def _eliminate_common(graph: Graph) -> tuple[Graph, int]:
    """Compute equal equations, and hold equal constants, once."""
    new: dict[Var, Var] = {}
    constants: dict[Var, NDArray[Any]] = {}
    first: dict[object, Var] = {}
    for var, array in graph.constants.items():
        kept = first.setdefault(_constant_key(array), var)
        if kept is var:
            constants[var] = array
        else:
            new[var] = kept
    eqns: list[Eqn] = []
    for eqn in graph.eqns:
        eqn = _renamed(eqn, new)
        if RULES[eqn.op].effect:
            eqns.append(eqn)
            continue
        key = (eqn.op, eqn.inputs, tuple(sorted(eqn.params.items())))
        kept = first.setdefault(key, eqn.output)
        if kept is eqn.output:
            eqns.append(eqn)
        else:
            new[eqn.output] = kept
    return _substitute(replace(graph, constants=constants), eqns, new), len(new)


# --- dead code


def _eliminate_dead(graph: Graph) -> tuple[Graph, int]:
    """Drop what neither an output nor an effect needs."""
    live = set(graph.outputs)
    kept: list[Eqn] = []
    for eqn in reversed(graph.eqns):
        if eqn.output in live or RULES[eqn.op].effect:
            kept.append(eqn)
            live.update(eqn.inputs)
    constants = {v: a for v, a in graph.constants.items() if v in live}
    dropped = len(graph.eqns) - len(kept) + len(graph.constants) - len(constants)
    return replace(graph, eqns=tuple(reversed(kept)), constants=constants), dropped


# --- algebraic identities


_FAITHFUL_VIEWS = (Op.TRANSPOSE, Op.STOP_GRADIENT, Op.PROBE, Op.ROUND_COTANGENT)


class _Facts:
    """What is known of the variables of a graph while it is walked.

    `scattered` are views that repeat or leave out elements. The memory order of what is computed
    from one may differ from that of a computed array, and with it the last bit of a matrix product.
    """

    def __init__(self, graph: Graph) -> None:
        self.constants = graph.constants
        self.made_by: dict[Var, Eqn] = {}
        self.scattered: set[Var] = set()

    def learn(self, eqn: Eqn) -> None:
        """Take note of an equation that stays."""
        self.made_by[eqn.output] = eqn
        view_of_scattered = eqn.op in _FAITHFUL_VIEWS and eqn.inputs[0] in self.scattered
        if eqn.op in (Op.BROADCAST, Op.SLICE) or view_of_scattered:
            self.scattered.add(eqn.output)

    def scalar(self, var: Var) -> Any | None:
        """The one value that all elements have, if that is known."""
        eqn = self.made_by.get(var)
        if eqn is not None and eqn.op is Op.BROADCAST:
            var = eqn.inputs[0]
        array = self.constants.get(var)
        return array.reshape(-1)[0] if array is not None and array.size == 1 else None

    def source(self, var: Var, op: Op) -> Eqn | None:
        """The equation that made a variable, if it is of this primitive."""
        eqn = self.made_by.get(var)
        return eqn if eqn is not None and eqn.op is op else None


_Rewrite = Callable[[Eqn, _Facts], "Var | Eqn | None"]


def _exact_identity(eqn: Eqn, facts: _Facts) -> Var | Eqn | None:
    same = _same_as(eqn, facts)
    return _merged(eqn, facts) if same is None or same in facts.scattered else same


def _same_as(eqn: Eqn, facts: _Facts) -> Var | None:
    """The variable that an equation computes again."""
    op, ins = eqn.op, eqn.inputs
    last = facts.scalar(ins[-1])
    match op:
        case Op.MUL if last == 1:
            return ins[0]
        case Op.MUL if facts.scalar(ins[0]) == 1:
            return ins[1]
        case Op.DIV if last == 1:
            return ins[0]
        case Op.SUB if last is not None and last == 0 and not np.signbit(last):
            return ins[0]  # x − (+0) is x for every x; x + (+0) is not: it turns −0 into +0
        case Op.NEG if inner := facts.source(ins[0], Op.NEG):
            return inner.inputs[0]
        case Op.BROADCAST | Op.CAST if eqn.output.spec == ins[0].spec:
            return ins[0]
        # Of more than one axis it may be an array in column order, put into row order.
        case Op.RESHAPE if eqn.output.spec == ins[0].spec and _is_line(ins[0]):
            return ins[0]
        case Op.TRANSPOSE if inner := facts.source(ins[0], op):
            if _composed(inner, eqn) == tuple(range(len(eqn.params["axes"]))):
                return inner.inputs[0]
    return None


def _merged(eqn: Eqn, facts: _Facts) -> Eqn | None:
    """One equation for two that only move elements."""
    op, ins = eqn.op, eqn.inputs
    match op:
        case Op.RESHAPE | Op.BROADCAST if inner := facts.source(ins[0], op):
            return replace(eqn, inputs=inner.inputs)
        case Op.TRANSPOSE if inner := facts.source(ins[0], op):
            return replace(eqn, inputs=inner.inputs, params={"axes": _composed(inner, eqn)})
    return None


def _composed(inner: Eqn, outer: Eqn) -> tuple[int, ...]:
    axes: tuple[int, ...] = inner.params["axes"]
    return tuple(axes[a] for a in outer.params["axes"])


def _is_line(var: Var) -> bool:
    return sum(n > 1 for n in var.spec.shape) <= 1


def _inexact_identity(eqn: Eqn, facts: _Facts) -> Var | Eqn | None:
    ins = eqn.inputs
    match eqn.op:
        case Op.ADD if facts.scalar(ins[1]) == 0:
            return ins[0]
        case Op.ADD if facts.scalar(ins[0]) == 0:
            return ins[1]
        case Op.POW if facts.scalar(ins[1]) == 1:
            return ins[0]  # vector libraries give x¹ to an ulp or two
        case Op.LOG if inner := facts.source(ins[0], Op.EXP):
            return inner.inputs[0]
        case Op.EXP if inner := facts.source(ins[0], Op.LOG):
            return inner.inputs[0]
    return None


def _rewriting(rewrite: _Rewrite) -> Callable[[Graph], tuple[Graph, int]]:
    def run(graph: Graph) -> tuple[Graph, int]:
        facts = _Facts(graph)
        new: dict[Var, Var] = {}
        eqns: list[Eqn] = []
        count = 0
        for eqn in graph.eqns:
            eqn = _renamed(eqn, new)
            result = rewrite(eqn, facts)
            count += result is not None
            if isinstance(result, Var):
                new[eqn.output] = result
                continue
            eqn = result or eqn
            facts.learn(eqn)
            eqns.append(eqn)
        return _substitute(graph, eqns, new), count

    return run


def _turn_products(graph: Graph) -> tuple[Graph, int]:
    """(AB)ᵀ = BᵀAᵀ where only the transpose is read: so the result lies in order."""
    readers: Counter[Var] = Counter(graph.outputs)
    made_by: dict[Var, Eqn] = {}
    for eqn in graph.eqns:
        readers.update(eqn.inputs)
    eqns: list[Eqn] = []
    count = 0
    for eqn in graph.eqns:
        inner = made_by.get(eqn.inputs[0]) if eqn.op is Op.TRANSPOSE else None
        made_by[eqn.output] = eqn
        if inner is None or inner.op is not Op.MATMUL or readers[inner.output] > 1:
            eqns.append(eqn)
            continue
        if len(eqn.output.spec.shape) != 2 or eqn.params["axes"] != (1, 0):
            eqns.append(eqn)
            continue
        turned = []
        for var in reversed(inner.inputs):
            shape = var.spec.shape[::-1]
            turned.append(
                Eqn(Op.TRANSPOSE, (var,), eqn.params, Var(ArraySpec(shape, var.spec.dtype)))
            )
        operands = tuple(t.output for t in turned)
        eqns += [*turned, Eqn(Op.MATMUL, operands, inner.params, eqn.output)]
        count += 1
    return replace(graph, eqns=tuple(eqns)), count


def _drop_probes(eqn: Eqn, facts: _Facts) -> Var | None:
    return eqn.inputs[0] if eqn.op is Op.PROBE else None


FOLD_CONSTANTS = Pass("fold constants", _fold_constants, exact=True)
COMMON_SUBEXPRESSIONS = Pass("common subexpressions", _eliminate_common, exact=True)
DEAD_CODE = Pass("dead code", _eliminate_dead, exact=True)
IDENTITIES = Pass("algebraic identities", _rewriting(_exact_identity), exact=True)
FAST_IDENTITIES = Pass("fast identities", _rewriting(_inexact_identity), exact=False)
TURNED_PRODUCTS = Pass("turned products", _turn_products, exact=False)
WITHOUT_PROBES = Pass("without probes", _rewriting(_drop_probes), exact=True)

EXACT = (FOLD_CONSTANTS, COMMON_SUBEXPRESSIONS, IDENTITIES, COMMON_SUBEXPRESSIONS, DEAD_CODE)


def optimise(graph: Graph, passes: Iterable[Pass] = EXACT) -> Optimised:
    """Run passes in turn.

    Args:
        graph: a valid graph.
        passes: by default those that are exact. `FAST_IDENTITIES` changes values: x + 0 → x
            loses the sign of a zero, log(exp(x)) → x an overflow.

    Returns:
        The new graph, and what each pass did.
    """
    applied = []
    for p in passes:
        graph, rewrites = p.run(graph)
        applied.append(Applied(p.name, p.exact, rewrites))
    return Optimised(graph, tuple(applied))
