"""Update rules.

A rule is a pair: `init(params)` gives its state, and `update(gradient, state, lr)` the step to add
to the parameters and the next state. Rules act on trees of arrays leaf by leaf (the global norm
over all of them), hold no state of their own, and are written in the engine's operations, so that
a whole training step is one graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from isograd.engine.dispatch import spec_of
from isograd.engine.functions import (
    absolute,
    clip,
    expm1,
    minimum,
    sqrt,
    square,
    stack,
    where,
    zeros_like,
)
from isograd.engine.functions import max as amax
from isograd.engine.functions import sum as total
from isograd.engine.ops import Value
from isograd.engine.tree import flatten, map_leaves
from isograd.nn.spec import (
    SGD,
    AdaGrad,
    Adam,
    GradientDescent,
    Momentum,
    RMSProp,
    Training,
)
from isograd.nn.spec import Optimiser as OptimiserSpec

Tree = Any


@dataclass(frozen=True, slots=True)
class Optimiser:
    """A pure pair.

    Attributes:
        init: `init(params) -> state`.
        update: `update(gradient, state, lr) -> (step, state)`; lr is a scalar array.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Value], tuple[Tree, Tree]]


_quiet = np.errstate(all="ignore")  # infinities and NaN are results, on plain arrays too


def _stateless(f: Callable[[Tree, Value], Tree]) -> Optimiser:
    return Optimiser(lambda params: (), _quiet(lambda g, state, lr: (f(g, lr), state)))


def sgd() -> Optimiser:
    """θ ← θ − η g (Robbins & Monro 1951). On the whole training set it is gradient descent."""
    return _stateless(lambda g, lr: map_leaves(lambda x: -(lr * x), g))


def momentum(beta: float) -> Optimiser:
    """v ← β v + g; θ ← θ − η v (Polyak 1964; Sutskever et al. 2013; PyTorch's form)."""

    @_quiet
    def update(g: Tree, v: Tree, lr: Value) -> tuple[Tree, Tree]:
        v = map_leaves(lambda vi, gi: beta * vi + gi, v, g)
        return map_leaves(lambda vi: -(lr * vi), v), v

    return Optimiser(lambda params: map_leaves(zeros_like, params), update)


def adagrad(eps: float) -> Optimiser:
    """s ← s + g²; θ ← θ − η g/(√s + ε) (Duchi, Hazan & Singer 2011; ε outside the root)."""

    @_quiet
    def update(g: Tree, s: Tree, lr: Value) -> tuple[Tree, Tree]:
        s = map_leaves(lambda si, gi: si + square(gi), s, g)
        return map_leaves(lambda si, gi: -(lr * gi) / (sqrt(si) + eps), s, g), s

    return Optimiser(lambda params: map_leaves(zeros_like, params), update)


def rmsprop(decay: float, eps: float) -> Optimiser:
    """s ← ρ s + (1 − ρ) g²; θ ← θ − η g/(√s + ε) (Tieleman & Hinton 2012; ε outside the root)."""

    @_quiet
    def update(g: Tree, s: Tree, lr: Value) -> tuple[Tree, Tree]:
        s = map_leaves(lambda si, gi: decay * si + (1.0 - decay) * square(gi), s, g)
        return map_leaves(lambda si, gi: -(lr * gi) / (sqrt(si) + eps), s, g), s

    return Optimiser(lambda params: map_leaves(zeros_like, params), update)


def adam(beta1: float, beta2: float, eps: float) -> Optimiser:
    """m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; θ ← θ − η m̂/(√v̂ + ε).

    m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ) (Kingma & Ba 2015, algorithm 1: the step holds m̂ alone, not
    m̂ times g). 1 − βᵗ is taken as −expm1(t ln β), which does not cancel at small t in float32.
    """

    def init(params: Tree) -> Tree:
        t = np.zeros((), spec_of(flatten(params)[0][0]).dtype)
        return {
            "m": map_leaves(zeros_like, params),
            "v": map_leaves(zeros_like, params),
            "t": t,
        }

    def corrected(beta: float, t: Value) -> Value:
        return -expm1(t * math.log(beta)) if beta > 0 else 1.0

    @_quiet
    def update(g: Tree, state: Tree, lr: Value) -> tuple[Tree, Tree]:
        t = state["t"] + 1.0
        m = map_leaves(lambda mi, gi: beta1 * mi + (1.0 - beta1) * gi, state["m"], g)
        v = map_leaves(lambda vi, gi: beta2 * vi + (1.0 - beta2) * square(gi), state["v"], g)
        rate = lr / corrected(beta1, t)
        root = sqrt(corrected(beta2, t)) if beta2 > 0 else 1.0
        step = map_leaves(lambda mi, vi: -(rate * mi) / (sqrt(vi) / root + eps), m, v)
        return step, {"m": m, "v": v, "t": t}

    return Optimiser(init, update)


def clip_by_value(bound: float) -> Optimiser:
    """Every element of the gradient held to [−bound, bound]."""
    return _stateless(lambda g, lr: map_leaves(lambda x: clip(x, -bound, bound), g))


@_quiet
def global_norm(tree: Tree) -> Value:
    """√Σ x² over all leaves, scaled by the largest |x| so that no square over- or underflows."""
    leaves = flatten(tree)[0]
    largest = amax(stack([amax(absolute(leaf)) for leaf in leaves]))
    top = float(np.finfo(spec_of(largest).dtype).max)
    unit = where(largest > 0, minimum(largest, top), 1.0)
    squares = [total(square(leaf / unit)) for leaf in leaves]
    result = squares[0]
    for s in squares[1:]:
        result = result + s
    return unit * sqrt(result)


def clip_by_global_norm(bound: float) -> Optimiser:
    """g ← g · min(1, bound/‖g‖) (Pascanu, Mikolov & Bengio 2013, algorithm 1)."""

    def scaled(g: Tree, lr: Value) -> Tree:
        factor = minimum(bound / global_norm(g), 1.0)
        return map_leaves(lambda x: x * factor, g)

    return _stateless(scaled)


def chain(*parts: Optimiser) -> Optimiser:
    """One rule after another: each gets as gradient what the one before gave as step."""

    def update(g: Tree, states: Tree, lr: Value) -> tuple[Tree, Tree]:
        after = []
        for part, state in zip(parts, states, strict=True):
            g, state = part.update(g, state, lr)
            after.append(state)
        return g, tuple(after)

    return Optimiser(lambda params: tuple(part.init(params) for part in parts), update)


def optimiser(kind: OptimiserSpec, training: Training) -> Optimiser:
    """The rule of a spec: clipping by value, then by global norm, then the update."""
    match kind:
        case GradientDescent() | SGD():
            rule = sgd()
        case Momentum():
            rule = momentum(kind.momentum)
        case AdaGrad():
            rule = adagrad(kind.eps)
        case RMSProp():
            rule = rmsprop(kind.decay, kind.eps)
        case Adam():
            rule = adam(kind.beta1, kind.beta2, kind.eps)
    clips = []
    if training.clip_value is not None:
        clips.append(clip_by_value(training.clip_value))
    if training.clip_norm is not None:
        clips.append(clip_by_global_norm(training.clip_norm))
    return chain(*clips, rule) if clips else rule
