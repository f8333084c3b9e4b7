"""Update rules against PyTorch over 100 steps, by hand in fractions, and as pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from checks import check_modes, same_bits

import isograd
from isograd.backends.numpy import Executable
from isograd.engine.passes import optimise
from isograd.engine.plan import plan
from isograd.engine.tree import flatten, map_leaves
from isograd.nn import (
    SGD,
    Activation,
    AdaGrad,
    Adam,
    AdamW,
    Dense,
    GradientDescent,
    Momentum,
    Nesterov,
    Network,
    RMSProp,
    SoftmaxCrossEntropy,
    Training,
    build,
)
from isograd.nn.spec import Optimiser as OptimiserSpec
from isograd.nn.spec import kinds
from isograd.optim import (
    chain,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
    normalise_by_global_norm,
    optimiser,
    sgd,
)

KINDS: dict[str, OptimiserSpec] = {
    "gradient descent": GradientDescent(lr=0.5),
    "SGD": SGD(lr=0.3),
    "momentum": Momentum(lr=0.1, momentum=0.9),
    "Nesterov": Nesterov(lr=0.05, momentum=0.9),
    "AdaGrad": AdaGrad(lr=0.1),
    "RMSProp": RMSProp(lr=0.01, decay=0.95),
    "Adam": Adam(lr=0.02),
    "Adam without memory": Adam(lr=0.02, beta1=0.0, beta2=0.0, eps=1e-3),
    "AdamW": AdamW(lr=0.02, weight_decay=0.1),
}
CLIPS = {
    "plain": Training(),
    "clip_value": Training(clip_value=0.01),
    "clip_norm": Training(clip_norm=0.05),
    "both": Training(clip_value=0.02, clip_norm=0.05),
    "normalised": Training(normalise_gradient=True),
    "value, normalised": Training(clip_value=0.02, normalise_gradient=True),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def test_every_rule_of_a_spec_is_held_here() -> None:
    assert {type(kind) for kind in KINDS.values()} == set(kinds(OptimiserSpec).values())


# Against PyTorch


def torch_rule(kind: OptimiserSpec, params: list[Any]) -> Any:
    from torch import optim

    match kind:
        case GradientDescent() | SGD():
            return optim.SGD(params, lr=kind.lr)
        case Momentum():
            return optim.SGD(params, lr=kind.lr, momentum=kind.momentum)
        case Nesterov():
            return optim.SGD(params, lr=kind.lr, momentum=kind.momentum, nesterov=True)
        case AdaGrad():
            return optim.Adagrad(params, lr=kind.lr, eps=kind.eps)
        case RMSProp():
            return optim.RMSprop(params, lr=kind.lr, alpha=kind.decay, eps=kind.eps)
        case Adam():
            return optim.Adam(params, lr=kind.lr, betas=(kind.beta1, kind.beta2), eps=kind.eps)
        case AdamW():
            betas, decay = (kind.beta1, kind.beta2), kind.weight_decay
            return optim.AdamW(params, lr=kind.lr, betas=betas, eps=kind.eps, weight_decay=decay)


def torch_clip(params: list[Any], training: Training) -> None:
    import torch

    if training.clip_value is not None:
        torch.nn.utils.clip_grad_value_(params, training.clip_value)
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in params))
    if training.normalise_gradient:  # PyTorch has nothing for it
        for p in params:
            p.grad /= norm
    if training.clip_norm is not None and norm > training.clip_norm:
        # PyTorch divides by norm + 1e-6; a bound that is larger in that ratio undoes it.
        bound = training.clip_norm * (norm + 1e-6) / norm
        torch.nn.utils.clip_grad_norm_(params, bound)


@pytest.mark.parametrize("training", [CLIPS["plain"], CLIPS["both"]], ids=["plain", "both"])
@each_kind
def test_a_hundred_steps_are_those_of_pytorch(
    kind: OptimiserSpec, training: Training, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # its threads wait for each other longer than they work
    layers = (Dense(8), Activation("tanh"), Dense(8), Activation("tanh"), Dense(3))
    model = build(Network(layers, loss=SoftmaxCrossEntropy(l2=0.01)), 5, 3)
    params: Any = model.init(rng, np.float64)
    x, y = rng.standard_normal((200, 5)), rng.integers(0, 3, 200)
    theirs = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    their_rule = torch_rule(kind, list(theirs.values()))
    rule = optimiser(kind, training)
    state = rule.init(params)
    gradient = isograd.grad(model.loss)
    for step in range(100):
        full = isinstance(kind, GradientDescent)
        rows = np.arange(200) if full else (np.arange(20) + 20 * step) % 200
        g = gradient(params, x[rows], y[rows])
        update, state = rule.update(g, state, np.float64(kind.lr), params)
        params = map_leaves(lambda p, u: p + u, params, update)

        a = torch.tensor(x[rows])
        for n in (1, 2, 3):
            a = a @ theirs[f"W/{n}"].T + theirs[f"b/{n}"]
            a = torch.tanh(a) if n < 3 else a
        loss = torch.nn.functional.cross_entropy(a, torch.tensor(y[rows]))
        loss = loss + 0.005 * sum((theirs[f"W/{n}"] ** 2).sum() for n in (1, 2, 3))
        their_rule.zero_grad()
        loss.backward()
        torch_clip(list(theirs.values()), training)
        their_rule.step()
    for name, array in params.items():
        want = theirs[name].detach().numpy()
        np.testing.assert_allclose(array, want, rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("training", CLIPS.values(), ids=CLIPS)
@each_kind
def test_gradients_of_very_different_scales(
    kind: OptimiserSpec, training: Training, static: bool, rng: np.random.Generator
) -> None:
    """The same hundred gradients, of 1e-120 to 1e120, to PyTorch's rule and to ours."""
    torch = pytest.importorskip("torch")
    scales = 10.0 ** np.arange(-120, 121, 20)
    theta: Any = rng.standard_normal(scales.size)
    theirs = torch.tensor(theta, requires_grad=True)
    their_rule = torch_rule(kind, [theirs])
    rule, lr = optimiser(kind, training), np.asarray(kind.lr)
    state, update, largest = rule.init(theta), rule.update, np.abs(theta)
    if static:
        graph = isograd.trace(rule.update, theta, state, lr, theta)
        update = Executable(plan(optimise(graph).graph))
    for _ in range(100):
        g = scales * rng.standard_normal(scales.size)
        step, state = update(g, state, lr, theta)
        theta = theta + step
        theirs.grad = torch.tensor(g)
        torch_clip([theirs], training)
        their_rule.step()
        largest = np.maximum(largest, np.abs(theta))
    assert (np.abs(theta - theirs.detach().numpy()) <= 1e-12 * largest).all()


def test_a_slightly_wrong_rule_is_seen(rng: np.random.Generator) -> None:
    """One part in 1e10 of the rate, in a hundred steps."""
    torch = pytest.importorskip("torch")
    theta = rng.standard_normal(3)
    theirs = torch.tensor(theta, requires_grad=True)
    their_rule, rule = torch_rule(SGD(lr=0.1 * (1 + 1e-10)), [theirs]), sgd()
    for _ in range(100):
        g = rng.standard_normal(3)
        theta = theta + rule.update(g, (), np.float64(0.1), theta)[0]
        theirs.grad = torch.tensor(g)
        their_rule.step()
    assert np.abs(theta - theirs.detach().numpy()).max() > 1e-12


# By hand: two steps in fractions, where every root is rational

QUARTER, HALF = Fraction(1, 4), Fraction(1, 2)
BY_HAND: dict[str, tuple[OptimiserSpec, tuple[int, int], tuple[Fraction, Fraction]]] = {
    "SGD": (SGD(lr=0.25), (3, 4), (Fraction(-3, 4), Fraction(-1))),
    "gradient descent": (GradientDescent(lr=0.25), (3, 4), (Fraction(-3, 4), Fraction(-1))),
    # v = 3, then 3/2 + 4
    "momentum": (Momentum(lr=0.25, momentum=0.5), (3, 4), (Fraction(-3, 4), Fraction(-11, 8))),
    # v = 3, then 3/2 + 4: g + v/2 = 9/2, then 27/4
    "Nesterov": (Nesterov(lr=0.25, momentum=0.5), (3, 4), (Fraction(-9, 8), Fraction(-27, 16))),
    # √s = 3, then √(9 + 16) = 5
    "AdaGrad": (
        AdaGrad(lr=0.25, eps=0.5),
        (3, 4),
        (-QUARTER * 3 / (3 + HALF), -QUARTER * 4 / (5 + HALF)),
    ),
    # √s = √(16/4) = 2, then √(¾·4 + ¼·4) = 2
    "RMSProp": (
        RMSProp(lr=0.25, decay=0.75, eps=0.5),
        (4, 2),
        (-QUARTER * 4 / (2 + HALF), -QUARTER * 2 / (2 + HALF)),
    ),
    # m̂ = 2, √v̂ = 2, then m̂ = (2/4 + 5/2)/(3/4) = 4, √v̂ = √((3·2²/16 + 5²/4)/(7/16)) = 4
    "Adam": (
        Adam(lr=0.25, beta1=0.5, beta2=0.75, eps=0.5),
        (2, 5),
        (-QUARTER * 2 / (2 + HALF), -QUARTER * 4 / (4 + HALF)),
    ),
    # the same, and ¼ · ½ · 8 of the parameter
    "AdamW": (
        AdamW(lr=0.25, beta1=0.5, beta2=0.75, eps=0.5, weight_decay=0.5),
        (2, 5),
        (-QUARTER * 2 / (2 + HALF) - 1, -QUARTER * 4 / (4 + HALF) - 1),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_two_steps_by_hand(name: str, dtype: Any) -> None:
    kind, gradients, steps = BY_HAND[name]
    rule = optimiser(kind, Training())
    for sign in (1, -1):
        params = np.array([sign * 8, 0], dtype)
        state = rule.init(params)
        for g, want in zip(gradients, steps, strict=True):
            step, state = rule.update(np.array([sign * g, 0], dtype), state, dtype(0.25), params)
            assert step.dtype == dtype
            assert float(step[0]) == pytest.approx(
                float(sign * want), rel=4 * float(np.finfo(dtype).eps)
            )
            assert step[1] == 0.0


def test_every_rule_is_done_by_hand() -> None:
    assert {type(kind) for kind, _, _ in BY_HAND.values()} == set(kinds(OptimiserSpec).values())


def test_adam_s_first_step_does_not_cancel_in_float32() -> None:
    """1 − 0.999¹ in float32 is off by 5e-5; the first step must be −η g/(|g| + ε) all the same."""
    rule = optimiser(Adam(lr=0.001), Training())
    g = np.array([1e-3, -2.0, 30.0], np.float32)
    step, _ = rule.update(g, rule.init(g), np.float32(0.001), g)
    want = -0.001 * g.astype(np.float64) / (np.abs(g.astype(np.float64)) + 1e-8)
    np.testing.assert_allclose(step, want, rtol=1e-6)


def test_nesterov_is_the_point_ahead_of_sutskever_s() -> None:
    """Sutskever et al. 2013, eqs. 3 and 4, on ½x²: v′ ← βv′ − η∇f(x + βv′); x ← x + v′."""
    beta, lr = 0.75, 0.125
    rule, x, v = optimiser(Nesterov(momentum=beta), Training()), 1.0, 0.0
    theta: Any = np.float64(1.0)
    state = rule.init(theta)
    for _ in range(20):
        v = beta * v - lr * (x + beta * v)
        x = x + v
        step, state = rule.update(theta, state, lr, theta)
        theta = theta + step
        assert float(theta) == pytest.approx(x + beta * v, rel=1e-13)


def first_step(kind: OptimiserSpec, g: Any, theta: Any) -> Any:
    """The first step in mpmath, from the formulas with all memories 0."""
    size = abs(g)
    match kind:
        case GradientDescent() | SGD() | Momentum():
            return -kind.lr * g
        case Nesterov():
            return -kind.lr * (1 + mpmath.mpf(kind.momentum)) * g
        case AdaGrad() | Adam():
            return -kind.lr * g / (size + kind.eps)
        case RMSProp():
            return -kind.lr * g / (mpmath.sqrt(1 - mpmath.mpf(kind.decay)) * size + kind.eps)
        case AdamW():
            return -kind.lr * (g / (size + kind.eps) + kind.weight_decay * theta)


@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [(np.float32, range(-34, 19)), (np.float64, range(-300, 154, 3))],
    ids=["float32", "float64"],
)
@each_kind
def test_a_first_step_at_every_scale(kind: OptimiserSpec, dtype: Any, exponents: range) -> None:
    rule, eps = optimiser(kind, Training()), float(np.finfo(dtype).eps)
    g = np.array([10.0**e for e in exponents], dtype)
    g[::2] *= -1
    theta = np.full_like(g, 0.75)
    rate = dtype(kind.lr)
    step, _ = rule.update(g, rule.init(g), rate, theta)
    for x, got in zip(g, step, strict=True):
        with mpmath.workdps(40):
            want = float(first_step(kind, mpmath.mpf(float(x)), 0.75))
        # Rates and constants are rounded to the dtype; below the normal numbers so is the step.
        tiny = float(np.finfo(dtype).smallest_normal) * eps / abs(kind.lr)
        assert float(got) == pytest.approx(want, rel=16 * eps, abs=tiny)
    # At the ends of the range too nothing warns, and what overflows stays a number.
    ends = np.array([np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, 0.0], dtype)
    step, _ = rule.update(ends, rule.init(ends), rate, np.zeros_like(ends))
    assert not np.isnan(step).any()
    assert step[2] == 0.0


# Clipping and normalising


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([3e-30, 4e-30], 5e-30),
        ([3e30, 4e30], 5e30),
        ([3e-42, 4e-42], 5e-42),  # subnormal
        ([1e30, 1e-30], 1e30),
        ([0.0, -0.0], 0.0),
        ([-7.0], 7.0),
        ([math.inf, 1.0], math.inf),
        ([-math.inf, math.inf], math.inf),
        ([math.nan, 1.0], math.nan),
        ([math.nan, math.inf], math.nan),
    ],
)
def test_the_global_norm_neither_over_nor_underflows(values: list[float], want: float) -> None:
    x = np.array(values, np.float32)
    for tree in (x, {"a": x[:1], "b": [x[1:]]} if len(x) > 1 else [x]):
        norm = global_norm(tree)
        assert norm.dtype == np.float32
        assert float(norm) == pytest.approx(want, rel=1e-6, abs=2e-45, nan_ok=True)


def test_the_global_norm_of_a_tree(rng: np.random.Generator) -> None:
    tree = {"W": rng.standard_normal((30, 20)), "b": (rng.standard_normal(7), np.float64(2.0))}
    flat = np.concatenate([np.ravel(leaf) for leaf in flatten(tree)[0]])
    assert float(global_norm(tree)) == pytest.approx(np.linalg.norm(flat), rel=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_clipping_by_norm_keeps_the_direction(scale: float) -> None:
    g = {"a": np.array([3.0, 0.0], np.float32), "b": np.array([[-4.0]], np.float32)}
    g = map_leaves(lambda x: x * np.float32(scale), g)
    for bound, factor in ((0.5 * 5.0 * scale, 0.5), (2.0 * 5.0 * scale, 1.0)):
        clipped, state = clip_by_global_norm(bound).update(g, (), np.float32(0.1), g)
        assert state == ()
        for got, was in zip(flatten(clipped)[0], flatten(g)[0], strict=True):
            np.testing.assert_allclose(got, factor * was, rtol=1e-6)
            assert got.dtype == np.float32


@pytest.mark.parametrize("size", [1e-45, 1e-30, 1.0, 1e30, 3e38])
def test_a_normalised_gradient_has_norm_1(size: float) -> None:
    """Also where ‖g‖² underflows (1e-45, 1e-30) or overflows (1e30), or ‖g‖ itself (3e38)."""
    rule, leaf = normalise_by_global_norm(), np.full(2, size, np.float32)
    for g in (np.full(4, size, np.float32), {"a": leaf, "b": [-leaf]}):
        got, state = rule.update(g, (), np.float32(0.1), g)
        assert state == ()
        for x, was in zip(flatten(got)[0], flatten(g)[0], strict=True):
            np.testing.assert_allclose(x, 0.5 * np.sign(was), rtol=1e-6)
            assert x.dtype == np.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_normalising_hides_no_nan_and_no_infinity(bad: float) -> None:
    """Nothing is left that looks like a direction."""
    step, _ = normalise_by_global_norm().update(np.array([1.0, bad]), (), 0.1, np.zeros(2))
    assert not np.isfinite(step).all()
    assert step[0] == 0.0 or math.isnan(step[0])


def test_clipping_leaves_zeros_alone_and_hides_no_nan() -> None:
    zeros = [np.zeros(3)]
    for rule in (clip_by_global_norm(1.0), clip_by_value(1.0), normalise_by_global_norm()):
        assert same_bits(rule.update(zeros, (), 0.1, zeros)[0], zeros)
        (bad,), _ = rule.update([np.array([1.0, math.nan, 0.5])], (), 0.1, zeros)
        assert math.isnan(bad[1])
    (held,), _ = clip_by_value(2.0).update([np.array([-math.inf, -1.0, 5.0])], (), 0.1, zeros)
    np.testing.assert_array_equal(held, [-2.0, -1.0, 2.0])


@pytest.mark.parametrize(
    "training",
    [Training(clip_value=2.0, clip_norm=1.0), Training(clip_value=2.0, normalise_gradient=True)],
    ids=["clipped", "normalised"],
)
def test_values_are_clipped_before_the_norm(training: Training) -> None:
    rule = optimiser(SGD(lr=1.0), training)
    zeros = np.zeros(2)
    step, _ = rule.update(np.array([10.0, 1.0]), rule.init(zeros), 1.0, zeros)
    np.testing.assert_allclose(step, -np.array([2.0, 1.0]) / math.sqrt(5.0), rtol=1e-15)


def test_a_chain_keeps_the_state_of_each_part() -> None:
    rule = chain(clip_by_value(1.0), optimiser(Momentum(momentum=0.5), Training()), sgd())
    state = rule.init(np.zeros(1))
    assert state == ((), pytest.approx(np.zeros(1)), ())
    step, state = rule.update(np.array([3.0]), state, 0.5, np.zeros(1))
    step, state = rule.update(np.array([3.0]), state, 0.5, np.zeros(1))
    np.testing.assert_array_equal(state[1], [1.5])  # ½·1 + 1
    np.testing.assert_array_equal(step, [0.375])  # −½·(−½·1.5)


# Pure functions of trees, in both modes


def tree_of(rng: np.random.Generator, dtype: Any = np.float64) -> Any:
    shapes = {"W": (3, 4), "b": (4,), "s": ()}
    tree = {k: np.asarray(rng.standard_normal(shape), dtype) for k, shape in shapes.items()}
    return (tree, [np.zeros(2, dtype)])


@pytest.mark.parametrize("training", CLIPS.values(), ids=CLIPS)
@each_kind
def test_updates_change_nothing_that_they_are_given(
    kind: OptimiserSpec, training: Training, rng: np.random.Generator
) -> None:
    rule = optimiser(kind, training)
    params, g = tree_of(rng), tree_of(rng)
    state = rule.init(params)
    _, state = rule.update(g, state, np.float64(0.1), params)
    given = (g, state, params)
    before = map_leaves(np.array, given)
    for leaf in flatten(given)[0]:
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    first = rule.update(g, state, np.float64(0.1), params)
    assert same_bits(given, before)
    assert same_bits(first, rule.update(g, state, np.float64(0.1), params))
    assert flatten(first[0])[1] == flatten(params)[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("training", CLIPS.values(), ids=CLIPS)
@each_kind
def test_a_compiled_update_gives_the_same_bits(
    kind: OptimiserSpec, training: Training, dtype: Any, rng: np.random.Generator
) -> None:
    rule = optimiser(kind, training)
    g, params, lr = tree_of(rng, dtype), tree_of(rng, dtype), np.asarray(0.1, dtype)
    state = rule.init(g)
    for _ in range(3):
        check_modes(rule.update, g, state, lr, params)
        step, state = rule.update(g, state, lr, params)
        assert {leaf.dtype for leaf in flatten((step, state))[0]} == {np.dtype(dtype)}
        g = tree_of(rng, dtype)


@pytest.mark.parametrize("training", [CLIPS["both"], CLIPS["normalised"]], ids=["both", "norm"])
@each_kind
def test_one_vector_is_a_tree_in_one_piece(
    kind: OptimiserSpec, training: Training, rng: np.random.Generator
) -> None:
    """Clipping and updates of the joined vector are those of the parts."""

    def joined(tree: Any) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in flatten(tree)[0]])

    rule = optimiser(kind, training)
    params = tree_of(rng)
    states = rule.init(params), rule.init(joined(params))
    for _ in range(3):
        g = tree_of(rng)
        parts, a = rule.update(g, states[0], np.float64(0.1), params)
        whole, b = rule.update(joined(g), states[1], np.float64(0.1), joined(params))
        states = a, b
        np.testing.assert_allclose(joined(parts), whole, rtol=1e-13)


def test_a_rule_can_be_differentiated() -> None:
    """Written in the engine's operations: d(step)/d(lr) of SGD is −g."""
    rule = optimiser(SGD(), Training())
    g = np.array([2.0, -3.0])
    step: Callable[[Any], Any] = lambda lr: rule.update(g, (), lr, g)[0]  # noqa: E731
    np.testing.assert_array_equal(isograd.jvp(step, (np.float64(0.1),), (np.float64(1.0),))[1], -g)
