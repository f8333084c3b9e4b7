"""Native plans against the reference interpreter, special values included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layered import LAYERS

import isograd
from isograd.backends.llvm.program import Native
from isograd.backends.llvm.views import nest
from isograd.backends.numpy import Executable
from isograd.engine.passes import optimise
from isograd.engine.plan import plan
from isograd.engine.tree import flatten
from isograd.nn import (
    Activation,
    Adam,
    Dense,
    He,
    Network,
    Repeat,
    Training,
    build,
)
from isograd.optim.rules import optimiser
from isograd.training.step import Layout, compile_step

F = isograd.functions


def kinds(x: np.ndarray) -> np.ndarray:
    """Which values are NaN, +∞ and −∞."""
    return np.isnan(x) + 2 * np.isposinf(x) + 3 * np.isneginf(x)


def check(got: Any, want: Any, tolerance: float) -> None:
    """The same nesting, shapes, dtypes and special values; finite values to a share of the size."""
    (a, tree), (b, wanted) = flatten(got), flatten(want)
    assert tree == wanted
    for u, v in zip(map(np.asarray, a), map(np.asarray, b), strict=True):
        assert (u.shape, u.dtype) == (v.shape, v.dtype)
        if not np.issubdtype(v.dtype, np.floating):
            np.testing.assert_array_equal(u, v)
            continue
        np.testing.assert_array_equal(kinds(u), kinds(v))
        finite = np.isfinite(v)
        bound = tolerance * np.finfo(v.dtype).eps * np.abs(v[finite]).max(initial=0.0)
        np.testing.assert_allclose(
            u[finite], v[finite], rtol=1e3 * np.finfo(v.dtype).eps, atol=bound
        )


def observed(program: Any, args: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """What a program gives, and what its probes see but for updates."""
    seen: dict[str, np.ndarray] = {}
    result = program(*args, observe=lambda site, x: seen.update({site: np.array(x)}))
    return result, {site: x for site, x in seen.items() if not site.startswith("u")}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_a_training_step(layers: Any, dtype: Any, rng: np.random.Generator) -> None:
    """Value, gradient, update and every probe; twice, as memory is used again."""
    model = build(Network(layers, init=He()), 12, 10)
    layout, rule = Layout(model.shapes), optimiser(Adam(), Training(clip_norm=1.0))
    x, y = rng.standard_normal((19, 12)).astype(dtype), rng.integers(0, 10, 19)
    specs = (isograd.ArraySpec(a.shape, a.dtype) for a in (x, y))
    step = compile_step(model, rule, layout, *specs, 19, np.zeros(2, np.uint32))
    params = model.init(rng, dtype)
    statistics = {name: params[name] for name in model.statistics}
    theta = layout.join(params)
    carry, rows = (theta, step.state, statistics), np.arange(19)
    for measured in (plan(step.graph), step.bare.plan):
        native, reference = Native(measured), Executable(measured)
        for number in range(2):
            args = carry, (x, y), (rows, dtype(0.01), np.uint32(number))
            (got, ours), (want, theirs) = observed(native, args), observed(reference, args)
            # A step of Adam turns roundings of a small gradient into steps of the rate.
            np.testing.assert_allclose(got[0][0], want[0][0], atol=0.011)
            check((got[0][1:], got[1:]), (want[0][1:], want[1:]), 2000.0)
            check(ours, theirs, 2000.0)


def test_the_code_does_not_grow_with_depth() -> None:
    def compiled(depth: int) -> Native:
        model = build(Network((Repeat(depth, (Dense(8), Activation("tanh"))), Dense(2))), 8, 2)
        spec = isograd.ArraySpec((4, 8))
        params = {name: isograd.ArraySpec(shape) for name, shape in model.shapes.items()}
        graph = optimise(
            isograd.trace(isograd.grad(lambda p, x: F.sum(F.square(model(p, x)))), params, spec)
        )
        return Native(plan(graph.graph))

    def kernels(native: Native) -> set[Any]:
        return {work.kernel for work in native.program.items}

    few, many = compiled(5), compiled(50)
    assert few.fallbacks == many.fallbacks == []
    assert kernels(many) == kernels(few)


@pytest.mark.parametrize(
    ("shape", "strides", "lengths", "steps"),
    [
        ((2, 3), [(3, 1)], (6,), ((1,),)),
        ((2, 3), [(3, 1), (0, 1)], (2, 3), ((3, 1), (0, 1))),
        ((2, 1, 3), [(3, 0, 1), (3, 7, 1)], (6,), ((1,), (1,))),
        ((2, 3, 4), [(12, 4, 1), (12, 1, 3)], (2, 3, 4), ((12, 4, 1), (12, 1, 3))),
        ((), [()], (), ((),)),
    ],
)
def test_axes_that_are_walked_in_one_go_become_one(
    shape: Any, strides: Any, lengths: Any, steps: Any
) -> None:
    got = nest(shape, strides)
    assert (got.lengths, got.steps) == (lengths, steps)


def test_arrays_that_lie_otherwise_are_read_right(rng: np.random.Generator) -> None:
    """By columns, backwards, every other element, off the grid of their elements, read-only."""
    native = Native(plan(isograd.trace(lambda x: F.tanh(x) + x, np.zeros((5, 7)))))
    x = rng.standard_normal((5, 7))
    bytes_of = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:]
    wide = np.zeros((10, 14))
    wide[::2, ::2] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    views = (np.asfortranarray(x), x[::-1][::-1], wide[::2, ::2], fixed)
    for view in (*views, np.ndarray((5, 7), np.float64, bytes_of.data)):
        np.testing.assert_array_equal(view, x)
        np.testing.assert_array_equal(native(view), native(x))
    with pytest.raises(isograd.IsogradError, match="must be f64"):
        native(x.astype(np.float32))
