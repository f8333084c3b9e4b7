"""Update rules.

A rule is a pair: `init(params)` gives its state, and `update(gradient, state, lr, params)` the step
to add to the parameters and the next state. Rules act on trees of arrays leaf by leaf (the global
norm over all of them), hold no state of their own, and are written in the engine's operations, so
that a whole training step is one graph.

Orders of operations and places of ε are PyTorch's: ε stands outside the root, also where a paper
has it elsewhere or has none. The rules that keep squares of gradients take |g| below √max of the
dtype (1.8e19 in float32); above it the square is infinite and the step 0, as there.
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
    equal,
    expm1,
    maximum,
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
    AdamW,
    GradientDescent,
    Momentum,
    Nesterov,
    RMSProp,
    Training,
)
from isograd.nn.spec import Optimiser as OptimiserSpec

Tree = Any


@dataclass(frozen=True, slots=True)
class Optimiser:
    """An update rule as a pure pair.

    Attributes:
        init: `init(params) -> state`.
        update: `update(gradient, state, lr, params) -> (step, state)`; lr is a scalar array, params
            are the parameters before the step, which is to be added to them.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Value, Tree], tuple[Tree, Tree]]


_quiet = np.errstate(all="ignore")  # infinities and NaN are results, on plain arrays too


def _stateless(f: Callable[[Tree, Value], Tree]) -> Optimiser:
    return Optimiser(lambda params: (), _quiet(lambda g, state, lr, params: (f(g, lr), state)))


def _zeros(params: Tree) -> Tree:
    return map_leaves(zeros_like, params)


def sgd() -> Optimiser:
    """θ ← θ − η g (Robbins & Monro 1951). On the whole training set it is gradient descent."""
    return _stateless(lambda g, lr: map_leaves(lambda x: -(lr * x), g))


def momentum(beta: float) -> Optimiser:
    """v ← β v + g; θ ← θ − η v (Polyak 1964; Sutskever et al. 2013; PyTorch's form).

    Args:
        beta: in [0, 1).
    """

    @_quiet
    def update(g: Tree, v: Tree, lr: Value, params: Tree) -> tuple[Tree, Tree]:
        v = map_leaves(lambda vi, gi: beta * vi + gi, v, g)
        return map_leaves(lambda vi: -(lr * vi), v), v

    return Optimiser(_zeros, update)


def nesterov(beta: float) -> Optimiser:
    """v ← β v + g; θ ← θ − η (g + β v), with the new v (Nesterov 1983).

    At a constant η, θ is the point θ′ + β v′ at which Sutskever et al. 2013 (eqs. 3 and 4) take the
    gradient, and v is −v′/η; PyTorch's form.

    Args:
        beta: in [0, 1).
    """

    @_quiet
    def update(g: Tree, v: Tree, lr: Value, params: Tree) -> tuple[Tree, Tree]:
        v = map_leaves(lambda vi, gi: beta * vi + gi, v, g)
        return map_leaves(lambda vi, gi: -(lr * (gi + beta * vi)), v, g), v

    return Optimiser(_zeros, update)


def adagrad(eps: float) -> Optimiser:
    """s ← s + g²; θ ← θ − η g/(√s + ε) (Duchi, Hazan & Singer 2011, whose δ is ε).

    Args:
        eps: above 0.
    """

    @_quiet
    def update(g: Tree, s: Tree, lr: Value, params: Tree) -> tuple[Tree, Tree]:
        s = map_leaves(lambda si, gi: si + square(gi), s, g)
        return map_leaves(lambda si, gi: -(lr * gi) / (sqrt(si) + eps), s, g), s

    return Optimiser(_zeros, update)


def rmsprop(decay: float, eps: float) -> Optimiser:
    """s ← ρ s + (1 − ρ) g²; θ ← θ − η g/(√s + ε) (Tieleman & Hinton 2012, who have no ε).

    Args:
        decay: ρ, in [0, 1).
        eps: above 0.
    """

    @_quiet
    def update(g: Tree, s: Tree, lr: Value, params: Tree) -> tuple[Tree, Tree]:
        s = map_leaves(lambda si, gi: decay * si + (1.0 - decay) * square(gi), s, g)
        return map_leaves(lambda si, gi: -(lr * gi) / (sqrt(si) + eps), s, g), s

    return Optimiser(_zeros, update)


def adam(beta1: float, beta2: float, eps: float) -> Optimiser:
    """m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; θ ← θ − η m̂/(√v̂ + ε).

    m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ) (Kingma & Ba 2015, algorithm 1: the step holds m̂ alone, not
    m̂ times g). ε is that of algorithm 1; the efficient form at the end of their section 2 divides
    by √v + ε̂, which is the same for ε̂ = ε√(1 − β₂ᵗ). 1 − βᵗ is taken as −expm1(t ln β), which
    does not cancel at small t in float32.

    Args:
        beta1: in [0, 1).
        beta2: in [0, 1).
        eps: above 0.
    """

    def init(params: Tree) -> Tree:
        t = np.zeros((), spec_of(flatten(params)[0][0]).dtype)
        return {"m": _zeros(params), "v": _zeros(params), "t": t}

    def corrected(beta: float, t: Value) -> Value:
        return -expm1(t * math.log(beta)) if beta > 0 else 1.0

    @_quiet
    def update(g: Tree, state: Tree, lr: Value, params: Tree) -> tuple[Tree, Tree]:
        t = state["t"] + 1.0
        m = map_leaves(lambda mi, gi: beta1 * mi + (1.0 - beta1) * gi, state["m"], g)
        v = map_leaves(lambda vi, gi: beta2 * vi + (1.0 - beta2) * square(gi), state["v"], g)
        rate = lr / corrected(beta1, t)
        scale = 1.0 / sqrt(corrected(beta2, t)) if beta2 > 0 else 1.0
        step = map_leaves(lambda mi, vi: -(rate * mi) / (sqrt(vi) * scale + eps), m, v)
        return step, {"m": m, "v": v, "t": t}

    return Optimiser(init, update)


def adamw(beta1: float, beta2: float, eps: float, weight_decay: float) -> Optimiser:
    """θ ← θ − η λ θ − η m̂/(√v̂ + ε), both from the old θ, with Adam's m̂ and v̂.

    Loshchilov & Hutter 2019, algorithm 2: the decay does not pass through m and v. They
    multiply λ by the schedule's factor alone, PyTorch and this by the whole learning rate η: their
    λ is αλ with α the rate before schedules. All parameters decay, biases too.

    Args:
        beta1: in [0, 1).
        beta2: in [0, 1).
        eps: above 0.
        weight_decay: λ, at least 0.
    """
    rule = adam(beta1, beta2, eps)

    @_quiet
    def update(g: Tree, state: Tree, lr: Value, params: Tree) -> tuple[Tree, Tree]:
        step, state = rule.update(g, state, lr, params)
        decay = lr * weight_decay
        return map_leaves(lambda u, p: u - decay * p, step, params), state

    return Optimiser(rule.init, update)


def clip_by_value(bound: float) -> Optimiser:
    """Every element of the gradient held to [−bound, bound]."""
    return _stateless(lambda g, lr: map_leaves(lambda x: clip(x, -bound, bound), g))


def _scaled_norm(tree: Tree) -> tuple[Value, Value]:
    """(u, r) with ‖tree‖ = u r: u is the largest |x|, so that r ≤ √n.

    At the ends of the format, u is as near to it as a number can be that has an inverse.
    """
    leaves = flatten(tree)[0]
    largest = amax(stack([amax(absolute(leaf)) for leaf in leaves]))
    tiny = float(np.finfo(spec_of(largest).dtype).smallest_normal)
    unit = maximum(minimum(largest, 1.0 / tiny), tiny * 2.0**26)
    inverse = 1.0 / unit
    squares = [total(square(leaf * inverse)) for leaf in leaves]
    result = squares[0]
    for s in squares[1:]:
        result = result + s
    return unit, sqrt(result)


@_quiet
def global_norm(tree: Tree) -> Value:
    """√Σ x² over all leaves, scaled by the largest |x| so that no square over- or underflows."""
    unit, root = _scaled_norm(tree)
    return unit * root


def clip_by_global_norm(bound: float) -> Optimiser:
    """g ← g · min(1, bound/‖g‖) (Pascanu, Mikolov & Bengio 2013, algorithm 1).

    PyTorch's clip_grad_norm_ divides by ‖g‖ + 1e-6, and so ends a little below the bound.
    """

    def scaled(g: Tree, lr: Value) -> Tree:
        factor = minimum(bound / global_norm(g), 1.0)
        return map_leaves(lambda x: x * factor, g)

    return _stateless(scaled)


def normalise_by_global_norm() -> Optimiser:
    """g ← g/‖g‖ over all leaves; a zero gradient stays zero (Hazan, Levy & Shalev-Shwartz 2015).

    Right for every finite gradient, also where ‖g‖² or ‖g‖ itself over- or underflows.
    """

    def scaled(g: Tree, lr: Value) -> Tree:
        unit, root = _scaled_norm(g)
        root = where(equal(root, 0.0), 1.0, root)
        return map_leaves(lambda x: x / unit / root, g)

    return _stateless(scaled)


def chain(*parts: Optimiser) -> Optimiser:
    """One rule after another: each gets as gradient what the one before gave as step."""

    def update(g: Tree, states: Tree, lr: Value, params: Tree) -> tuple[Tree, Tree]:
        after = []
        for part, state in zip(parts, states, strict=True):
            g, state = part.update(g, state, lr, params)
            after.append(state)
        return g, tuple(after)

    return Optimiser(lambda params: tuple(part.init(params) for part in parts), update)


def optimiser(kind: OptimiserSpec, training: Training) -> Optimiser:
    """The rule of a spec: clipping by value, then normalising or clipping the norm, then the rule.

    Args:
        kind: the optimiser of the spec; its learning rate is an argument of `update`.
        training: of the spec, for clip_value, clip_norm and normalise_gradient.
    """
    before = []
    if training.clip_value is not None:
        before.append(clip_by_value(training.clip_value))
    if training.normalise_gradient:
        before.append(normalise_by_global_norm())
    if training.clip_norm is not None:
        before.append(clip_by_global_norm(training.clip_norm))
    rule = _rule(kind)
    return chain(*before, rule) if before else rule


def _rule(kind: OptimiserSpec) -> Optimiser:
    match kind:
        case GradientDescent() | SGD():
            return sgd()
        case Momentum():
            return momentum(kind.momentum)
        case Nesterov():
            return nesterov(kind.momentum)
        case AdaGrad():
            return adagrad(kind.eps)
        case RMSProp():
            return rmsprop(kind.decay, kind.eps)
        case Adam():
            return adam(kind.beta1, kind.beta2, kind.eps)
        case AdamW():
            return adamw(kind.beta1, kind.beta2, kind.eps, kind.weight_decay)
