"""The reference interpreter: it runs plans, shows probes, and leaves what it is given alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import same_bits

import isograd
from isograd.backends.numpy import Executable
from isograd.engine import evaluate
from isograd.engine.graph import ArraySpec
from isograd.engine.passes import WITHOUT_PROBES, optimise
from isograd.engine.plan import plan
from isograd.errors import ShapeError

F = isograd.functions


def compiled(f: Any, *specs: Any) -> Executable:
    return Executable(plan(optimise(isograd.trace(f, *specs)).graph))


def seen_by(run: Executable, *args: Any) -> dict[str, list[np.ndarray]]:
    seen: dict[str, list[np.ndarray]] = {}
    run(*args, observe=lambda site, x: seen.setdefault(site, []).append(np.array(x)))
    return seen


# --- probes


def _loss(w: Any, x: Any, y: Any) -> Any:
    z = F.probe(x @ w, "z", "δ")
    a = F.probe(F.tanh(z), "a")
    return 0.5 * F.sum((a - y) ** 2)


def test_observers_see_activations_and_error_signals(rng: np.random.Generator) -> None:
    """δ = ∂L/∂z by hand: (a − y)(1 − a²)."""
    w, x, y = rng.normal(size=(3, 2)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    run = compiled(isograd.value_and_grad(_loss), w, x, y)
    seen = seen_by(run, w, x, y)
    assert {site: len(values) for site, values in seen.items()} == {"z": 1, "a": 1, "δ": 1}
    a = np.tanh(x @ w)
    delta = (a - y) * (1 - a**2)
    np.testing.assert_allclose(seen["z"][0], x @ w, rtol=1e-12)
    np.testing.assert_allclose(seen["a"][0], a, rtol=1e-12)
    np.testing.assert_allclose(seen["δ"][0], delta, rtol=1e-12)
    np.testing.assert_allclose(run(w, x, y)[1], x.T @ delta, rtol=1e-12)


def test_the_forward_pass_alone_shows_no_error_signal(rng: np.random.Generator) -> None:
    args = rng.normal(size=(3, 2)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    assert set(seen_by(compiled(_loss, *args), *args)) == {"z", "a"}


def test_a_value_used_twice_has_one_error_signal_the_sum() -> None:
    def f(x: Any) -> Any:
        z = F.probe(x, "z", "δ")
        return F.sum(3.0 * z + z * z)

    x = np.array([1.0, -2.0])
    seen = seen_by(compiled(isograd.grad(f), x), x)
    np.testing.assert_array_equal(seen["δ"], [3.0 + 2.0 * x])


def test_special_values_reach_the_observer() -> None:
    x = np.array([np.nan, -np.inf, -0.0, 5e-324])
    seen = seen_by(compiled(lambda x: F.probe(x, "x") * 2.0, x), x)
    assert same_bits(seen["x"][0], x)


def test_probes_change_no_bit_and_no_derivative(rng: np.random.Generator) -> None:
    args = rng.normal(size=(3, 2)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    graph = isograd.trace(isograd.value_and_grad(_loss), *args)
    with_probes = Executable(plan(graph))(*args)
    without = Executable(plan(optimise(graph, (WITHOUT_PROBES,)).graph))
    assert same_bits(with_probes, without(*args))
    assert not seen_by(without, *args)
    tangents = tuple(map(np.ones_like, args))
    assert same_bits(isograd.jvp(_loss, args, tangents)[0], _loss(*args))
    hessian = isograd.hvp(lambda w: _loss(w, *args[1:]), args[:1], tangents[:1])
    plain = isograd.hvp(
        lambda w: 0.5 * F.sum((F.tanh(args[1] @ w) - args[2]) ** 2), args[:1], tangents[:1]
    )
    assert same_bits(hessian, plain)


# --- running


def test_an_executable_may_be_run_again_and_again() -> None:
    x = np.arange(3.0)
    run = compiled(lambda x: F.exp(x) * np.arange(3.0), x)
    first = run(x)
    second = run(x + 1.0)
    np.testing.assert_array_equal(run(x), first)
    np.testing.assert_allclose(second, np.exp(x + 1) * x, rtol=1e-15)


def test_a_result_that_is_a_constant_of_the_graph_is_read_only() -> None:
    """The gradient of a linear function is a constant of the graph: it must not be spoilt."""
    c = np.array([1.0, 2.0, 3.0])
    run = compiled(isograd.grad(lambda x: F.sum(c * x)), np.zeros(3))
    out = run(np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        out += 1.0
    np.testing.assert_array_equal(run(np.ones(3)), [1, 2, 3])


def test_arguments_are_left_alone(rng: np.random.Generator) -> None:
    args = [rng.normal(size=(3, 2)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))]
    copies = [a.copy() for a in args]
    compiled(isograd.value_and_grad(_loss), *args)(*args)
    assert same_bits(args, copies)


def test_arguments_of_another_shape_are_refused() -> None:
    run = compiled(lambda x: x * 2.0, ArraySpec((3,), np.float32))
    with pytest.raises(ShapeError, match="input 0 of the graph must be f32\\[3\\]") as caught:
        run(np.ones(3))
    assert caught.value.came == "f64[3]"
    with pytest.raises(ShapeError):
        run(np.ones(4, np.float32))
    with pytest.raises(ShapeError, match="nested"):
        run((np.ones(3, np.float32),))


def test_an_index_out_of_bounds_is_an_error_at_run_time() -> None:
    run = compiled(lambda x, i: F.take(x, i), ArraySpec((3,)), ArraySpec((2,), np.int64))
    np.testing.assert_array_equal(run(np.arange(3.0), np.array([-1, 0])), [2, 0])
    with pytest.raises(IndexError):
        run(np.arange(3.0), np.array([0, 3]))


def test_overflow_makes_infinities_and_no_warning() -> None:
    run = compiled(lambda x: (F.exp(x), F.log(-x), x / 0.0), np.float64(1000.0))
    assert same_bits(
        run(np.float64(1000.0)), (np.float64(np.inf), np.float64(np.nan), np.float64(np.inf))
    )


def test_no_equations_and_no_inputs() -> None:
    assert compiled(lambda x: x, ArraySpec(()))(np.float64(3.0)) == 3.0
    assert compiled(lambda: 2.0)() == 2.0
    assert compiled(lambda x: (), ArraySpec(()))(np.float64(1.0)) == ()


def test_a_plan_keeps_what_evaluate_gives(rng: np.random.Generator) -> None:
    args = rng.normal(size=(3, 2)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    graph = isograd.trace(isograd.value_and_grad(_loss), *args)
    assert same_bits(evaluate(graph, *args), Executable(plan(graph))(*args))
