"""Derivatives of functions: nesting, containers, both modes, any order, any depth, and the cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
from checks import check_grads, check_modes, run_static, same_bits
from mpmath import mp

import isograd
from isograd.backends.numpy import Executable
from isograd.engine import evaluate
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import RULES, Op
from isograd.engine.passes import optimise
from isograd.engine.plan import plan
from isograd.errors import GraphError, ShapeError

F = isograd.functions
grad, jvp, vjp, hvp, jacobian = (
    isograd.grad,
    isograd.jvp,
    isograd.vjp,
    isograd.hvp,
    isograd.jacobian,
)
trace = isograd.trace


def forward_derivative(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: jvp(f, (x,), (1.0,))[1]


DERIVATIVES = {"forward": forward_derivative, "reverse": grad}
each_pair = pytest.mark.parametrize(
    "pair", [*itertools.product(DERIVATIVES, repeat=2)], ids="-".join
)

# --- paths, closures, nesting


def test_a_variable_used_along_several_paths_sums_what_arrives() -> None:
    def f(x: Any) -> Any:
        a = x * 3.0
        b = a * x
        return a + b * a + x  # 3x + 9x³ + x

    assert grad(f)(2.0) == 4 + 27 * 4
    assert forward_derivative(f)(2.0) == 4 + 27 * 4
    x = np.array([1.0, 2.0])
    np.testing.assert_array_equal(grad(lambda x: F.sum(x + x))(x), [2, 2])


@each_pair
def test_perturbations_are_not_confused(pair: tuple[str, str]) -> None:
    """d/dx (x · d/dy (x + y)) is 1; who confuses the two perturbations gets 2."""
    outer, inner = (DERIVATIVES[name] for name in pair)

    def f(x: Any) -> Any:
        return x * inner(lambda y: x + y)(1.0)

    def g(x: Any) -> Any:
        return x * inner(lambda y: x * y * y)(x)  # x · 2x·x

    assert outer(f)(5.0) == 1.0
    assert outer(g)(3.0) == 6 * 9.0
    assert run_static(outer(g), np.float64(3.0)) == 6 * 9.0


@each_pair
def test_closures_are_held_constant(pair: tuple[str, str]) -> None:
    outer, inner = (DERIVATIVES[name] for name in pair)

    def f(x: Any) -> Any:
        def g(y: Any) -> Any:
            return x**3 * y**2

        return inner(g)(2.0)  # 4x³

    assert outer(f)(3.0) == 12 * 9.0


def test_stop_gradient_holds_a_value() -> None:
    assert grad(lambda x: x * isograd.stop_gradient(x))(3.0) == 3.0
    assert forward_derivative(lambda x: x * isograd.stop_gradient(x))(3.0) == 3.0
    assert grad(grad(lambda x: isograd.stop_gradient(x) ** 3))(3.0) == 0.0


def test_control_flow_may_depend_on_values_in_dynamic_mode() -> None:
    def newton(a: Any) -> Any:
        x = a
        while abs(x * x - a) > 1e-14 * a:
            x = 0.5 * (x + a / x)
        return x if a > 1 else -x

    assert grad(newton)(9.0) == pytest.approx(1 / 6, rel=1e-12)
    assert grad(newton)(0.25) == pytest.approx(-1.0, rel=1e-12)
    assert grad(grad(newton))(9.0) == pytest.approx(-1 / 108, rel=1e-10)
    assert grad(lambda x: x * [1.0, 5.0][int(x)])(1.5) == 5.0
    with pytest.raises(GraphError, match="static mode") as caught:
        trace(newton, ArraySpec(()))
    assert "isograd.functions.where" in caught.value.fix


def test_threads_do_not_meet() -> None:
    def third(x: float) -> float:
        return float(grad(grad(grad(lambda x: F.tanh(x) * x)))(x))

    points = [0.1 * k for k in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(third, points)) == [third(x) for x in points]


# --- arguments and results


class Layer(NamedTuple):
    w: Any
    b: Any


def test_gradients_are_nested_as_their_arguments() -> None:
    params = {
        "layers": [Layer(np.ones((2, 2)), np.zeros(2)), Layer(np.ones((2, 1)), np.zeros(1))],
        "scale": (2.0, None),
    }

    def f(p: Any, x: Any) -> Any:
        for layer in p["layers"]:
            x = x @ layer.w + layer.b
        return F.sum(x) * p["scale"][0]

    x = np.array([[1.0, 2.0]])
    got = grad(f)(params, x)
    assert isinstance(got["layers"][0], Layer)
    assert got["scale"] == (6.0, None)
    np.testing.assert_array_equal(got["layers"][0].w, [[2, 2], [4, 4]])
    np.testing.assert_array_equal(got["layers"][1].w, [[6], [6]])
    np.testing.assert_array_equal(got["layers"][0].b, [2, 2])
    check_grads(lambda p: f(p, x), (params,))


def test_argnums_choose_the_arguments() -> None:
    def f(a: Any, b: Any, c: Any) -> Any:
        return a * b**2 * len(c)

    assert grad(f)(2.0, 3.0, "xy") == 18.0
    assert grad(f, 1)(2.0, 3.0, "xy") == 24.0
    assert grad(f, (1, 0))(2.0, 3.0, "xy") == (24.0, 18.0)
    assert grad(f, -2)(2.0, 3.0, "xy") == 24.0
    for bad, text in ((3, "that is given"), ((0, 0), "once"), ((0, -3), "once")):
        with pytest.raises(GraphError, match=text):
            grad(f, bad)(2.0, 3.0, "xy")


def test_what_comes_beside_the_scalar_is_handed_on() -> None:
    def f(x: Any) -> Any:
        y = x * x
        return F.sum(y), {"y": y, "n": 3}

    x = np.array([1.0, 2.0])
    (value, aux), gradient = isograd.value_and_grad(f, has_aux=True)(x)
    assert value == 5.0
    np.testing.assert_array_equal(aux["y"], [1, 4])
    np.testing.assert_array_equal(gradient, [2, 4])
    gradient, aux = grad(f, has_aux=True)(x)
    assert aux["n"] == 3
    inner = grad(lambda z: F.sum(grad(f, has_aux=True)(z)[1]["y"]))  # aux is differentiated too
    np.testing.assert_array_equal(inner(x), [2, 4])
    with pytest.raises(GraphError, match="must return a pair"):
        grad(lambda x: x, has_aux=True)(1.0)


def test_an_argument_without_influence_has_a_zero_gradient() -> None:
    x = np.ones((2, 3), np.float32)
    gradient = grad(lambda x, y: y * 2.0, (0, 1))(x, 1.0)[0]
    assert same_bits(gradient, np.zeros_like(x))
    assert same_bits(jvp(lambda x: 3.0, (x,), (x,)), (np.asarray(3.0), np.asarray(0.0)))
    assert grad(lambda x: x)(3.0) == 1.0
    assert grad(lambda x: 5.0)(3.0) == 0.0


def test_python_numbers_are_points() -> None:
    assert grad(lambda x: x**2)(3) == 6.0
    assert grad(lambda xs: xs[0] * xs[1])([2, 3.0]) == [3.0, 2.0]
    assert jvp(lambda x: x**2, (3,), (1,)) == (9.0, 6.0)
    assert hvp(lambda x: x**3, (3,), (2,)) == 36.0
    assert vjp(lambda x: x**2, 3)[1](1)[0] == 6.0


@pytest.mark.parametrize("bad", [np.arange(3), np.int64(3), True, np.array(True), "x"], ids=repr)
def test_what_is_not_floating_point_is_refused(bad: Any) -> None:
    def f(x: Any) -> Any:
        return F.sum(x * 2.0)

    for call in (
        lambda: grad(f)(bad),
        lambda: grad(lambda a, x: f(x), 1)(1.0, {"k": [bad]}),
        lambda: vjp(f, bad),
        lambda: jvp(f, (bad,), (bad,)),
        lambda: hvp(f, (bad,), (bad,)),
        lambda: jacobian(f)(bad),
    ):
        with pytest.raises(GraphError, match="floating-point") as caught:
            call()
        assert "in argument" in caught.value.came
        assert "argnums" in caught.value.fix


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x,
        lambda x: F.reshape(F.sum(x), (1,)),
        lambda x: (F.sum(x), F.sum(x)),
        lambda x: [F.sum(x)],
        lambda x: None,
        lambda x: F.astype(F.sum(x), np.int64),
        lambda x: F.sum(x) > 0,
    ],
    ids=["array", "length-1", "pair", "list", "nothing", "integer", "bool"],
)
def test_a_gradient_is_that_of_a_scalar(f: Any) -> None:
    with pytest.raises(ShapeError, match="scalar function of floating point") as caught:
        grad(f)(np.ones(3))
    assert "isograd.jacobian" in caught.value.fix


def test_a_result_that_is_no_array_is_refused() -> None:
    for call in (lambda: grad(lambda x: "x")(1.0), lambda: vjp(lambda x: {x}, 1.0)):
        with pytest.raises((GraphError, TypeError)):
            call()


def test_tangents_and_cotangents_must_fit() -> None:
    x = np.ones(3)
    for tangent in (1.0, np.ones(2), [x]):
        with pytest.raises(ShapeError, match="tangents must have") as caught:
            jvp(F.tanh, (x,), (tangent,))
        assert "f64[3]" in caught.value.where
    pullback = vjp(F.tanh, x)[1]
    for cotangent in (1.0, np.ones(2), (x,)):
        with pytest.raises(ShapeError, match="cotangent must have"):
            pullback(cotangent)


def test_a_pullback_may_be_called_again() -> None:
    value, pullback = vjp(lambda x: {"a": x * x, "b": F.sum(x)}, np.array([1.0, 2.0]))
    for scale in (1.0, 2.0):
        (got,) = pullback({"b": scale, "a": np.array([scale, 0.0])})
        np.testing.assert_array_equal(got, [3 * scale, scale])
    assert value["b"] == 3.0


# --- dtypes


def _network(p: Any, x: Any) -> Any:
    """Every kind of primitive that a network uses, with Python numbers strewn in."""
    for w, b in p:
        x = x @ w + b
        x = (x - F.mean(x, axis=-1, keepdims=True)) / F.sqrt(F.mean(x**2, axis=-1)[:, None] + 1e-5)
        x = 0.5 * x * (1 + F.erf(x / 2**0.5)) + F.maximum(x, 0) + F.where(x > 1, 1, x) ** 3
        x = F.concatenate([x[:, :2], x[:, ::-1][:, :2]], axis=1)
    return -F.mean(F.log_softmax(x)[:, 0]) + F.logsumexp(F.max(x, axis=0)) - F.softplus(x[0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_one_dtype_from_end_to_end(dtype: Any, rng: np.random.Generator) -> None:
    p = [(rng.normal(size=(4, 4)).astype(dtype), rng.normal(size=4).astype(dtype))] * 2
    x = rng.normal(size=(5, 4)).astype(dtype)

    def all_of(p: Any, x: Any) -> Any:
        value, gradient = isograd.value_and_grad(_network)(p, x)
        along = jvp(lambda p: _network(p, x), (p,), (p,))
        second = hvp(lambda p: _network(p, x), (p,), (p,))
        return value, gradient, along, second

    dynamic = all_of(p, x)
    for leaf in isograd.engine.tree.flatten(dynamic)[0]:
        assert np.asarray(leaf).dtype == dtype
    graph = trace(all_of, p, x)
    floating = {e.output.spec.dtype for e in graph.eqns if e.output.spec.differentiable}
    assert floating == {np.dtype(dtype)}
    check_modes(all_of, p, x)


def test_seeds_take_the_dtype_of_what_they_seed() -> None:
    """A float64 tangent or cotangent must not promote a float32 function."""
    x = np.ones(3, np.float32)
    assert jvp(F.tanh, (x,), (np.ones(3),))[1].dtype == np.float32
    assert jvp(F.tanh, (np.float32(1),), (1.0,))[1].dtype == np.float32
    assert vjp(F.tanh, x)[1](np.ones(3))[0].dtype == np.float32
    assert jacobian(F.tanh, mode="forward")(x).dtype == np.float32
    assert jacobian(F.tanh, mode="reverse")(x).dtype == np.float32


def test_casts_carry_derivatives_back_in_the_dtype_they_came_in() -> None:
    x = np.ones(3, np.float32)
    gradient = grad(lambda x: F.sum(F.astype(x, np.float64) ** 2))(x)
    assert same_bits(gradient, np.full(3, 2, np.float32))
    through_integers = grad(lambda x: F.sum(x * F.astype(F.astype(x, np.int64), np.float32)))(x)
    assert same_bits(through_integers, x)


# --- order


mp.dps = 40
_SMOOTH: dict[str, tuple[Any, Any]] = {
    "tanh": (F.tanh, mp.tanh),
    "logistic": (F.logistic, lambda x: 1 / (1 + mp.exp(-x))),
    "gelu": (
        lambda x: 0.5 * x * (1.0 + F.erf(x / np.sqrt(2.0))),
        lambda x: x * (1 + mp.erf(x / mp.sqrt(2))) / 2,
    ),
    "silu": (lambda x: x * F.logistic(x), lambda x: x / (1 + mp.exp(-x))),
    "softplus": (F.softplus, lambda x: mp.log1p(mp.exp(x))),
    "erf": (F.erf, mp.erf),
    "power": (lambda x: (x + 3.0) ** 2.5, lambda x: (x + 3) ** mpmath.mpf(2.5)),
    "quotient": (lambda x: F.exp(x) / (x * x + 1.0), lambda x: mp.exp(x) / (x * x + 1)),
    "roots": (lambda x: F.sqrt(x + 3.0) * F.log(x + 4.0), lambda x: mp.sqrt(x + 3) * mp.log(x + 4)),
    "small": (lambda x: F.expm1(x) * F.log1p(x * x), lambda x: mp.expm1(x) * mp.log1p(x * x)),
}


@pytest.mark.parametrize("name", _SMOOTH)
def test_third_derivatives_in_all_eight_modes(name: str) -> None:
    f, exact = _SMOOTH[name]
    for x in (0.0, 0.7, -2.0):
        want = float(mp.diff(exact, mpmath.mpf(x), 3, h=mpmath.mpf(10) ** -12))
        for names in itertools.product(DERIVATIVES, repeat=3):
            third = f
            for n in names:
                third = DERIVATIVES[n](third)
            assert third(x) == pytest.approx(want, rel=1e-12, abs=1e-13), (x, names)


def test_networks_to_order_two_in_all_modes(rng: np.random.Generator) -> None:
    p = [(rng.normal(size=(4, 4)), rng.normal(size=4)) for _ in range(2)]
    check_grads(_network, (p, rng.normal(size=(5, 4))), rtol=1e-5)


def test_hvp_is_the_hessian_times_the_vector(rng: np.random.Generator) -> None:
    def f(x: Any) -> Any:
        return F.sum(F.tanh(x[:, None] * x) ** 2) + F.logsumexp(x)

    x, t = rng.normal(size=4), rng.normal(size=4)
    hessian = jacobian(grad(f))(x)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(hvp(f, (x,), (t,)), hessian @ t, rtol=1e-12)
    np.testing.assert_allclose(jacobian(jacobian(f))(x), hessian, rtol=1e-12)
    np.testing.assert_allclose(run_static(lambda x: hvp(f, (x,), (t,)), x), hessian @ t, rtol=1e-12)


def test_hvp_of_several_arguments_against_a_known_hessian() -> None:
    """x·A·y + x·x: H = [[2I, A], [Aᵀ, 0]]."""
    a = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    x, y, s, t = np.ones(2), np.ones(3), np.array([1.0, -1.0]), np.array([1.0, 0.0, 2.0])
    hx, hy = hvp(lambda x, y: x @ a @ y + x @ x, (x, y), (s, t))
    np.testing.assert_allclose(hx, 2 * s + a @ t)
    np.testing.assert_allclose(hy, a.T @ s)


# --- Jacobians


@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
def test_jacobians(mode: str, rng: np.random.Generator) -> None:
    a = rng.normal(size=(4, 3))
    x = rng.normal(size=(3, 2))
    got = jacobian(lambda x: F.tanh(a @ x), mode=mode)(x)
    want = np.einsum("ik,ij,kl->ikjl", 1 - np.tanh(a @ x) ** 2, a, np.eye(2))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    for shape, value in (((), ()), ((), (2,)), ((2,), ()), ((0,), ()), ((2,), (0,))):

        def f(x: Any, value: Any = value) -> Any:
            return F.broadcast_to(F.sum(x) * 2.0, value)

        got = jacobian(f, mode=mode)(np.ones(shape))
        assert same_bits(got, np.full(value + shape, 2.0))


def test_jacobians_are_of_one_array() -> None:
    for call in (
        lambda: jacobian(lambda xs: xs[0])([1.0, 2.0]),
        lambda: jacobian(lambda x: (x, x))(1.0),
    ):
        with pytest.raises(GraphError, match="one array to one array"):
            call()
    with pytest.raises(GraphError, match="mode must be") as caught:
        jacobian(F.tanh, mode="backward")
    assert caught.value.came == "'backward'"


# --- graphs are functions too


def test_a_graph_can_be_differentiated(rng: np.random.Generator) -> None:
    def f(x: Any) -> Any:
        return F.sum(F.tanh(x) * x[::-1] ** 2)

    x, t = rng.normal(size=5), rng.normal(size=5)
    graph = optimise(trace(f, x)).graph

    def g(x: Any) -> Any:
        return evaluate(graph, x)

    assert same_bits(vjp(g, x)[1](1.0), vjp(f, x)[1](1.0))
    assert same_bits(jvp(g, (x,), (t,)), jvp(f, (x,), (t,)))
    assert same_bits(hvp(g, (x,), (t,)), hvp(f, (x,), (t,)))
    for mode in ("forward", "reverse"):
        assert same_bits(jacobian(grad(g), mode=mode)(x), jacobian(grad(f), mode=mode)(x))
    check_grads(g, (x,))
    assert same_bits(run_static(grad(g), x), grad(f)(x))


def test_a_gradient_graph_can_be_differentiated_again(rng: np.random.Generator) -> None:
    x = rng.normal(size=3)
    graph = trace(grad(lambda x: F.sum(F.tanh(x) ** 3)), x)
    hessian = jacobian(lambda x: evaluate(graph, x))(x)
    want = jacobian(grad(lambda x: F.sum(F.tanh(x) ** 3)))(x)
    np.testing.assert_allclose(hessian, want, rtol=1e-14)


# --- depth

DEPTH = 10_000


def _deep(x: Any) -> Any:
    for _ in range(DEPTH):
        x = F.tanh(x)
    return x


def _by_hand(x: float) -> tuple[float, float]:
    """tanh 10 000 times, and the product of the slopes, with the standard library."""
    y, slope = np.longdouble(x), np.longdouble(1)
    for _ in range(DEPTH):
        y = np.tanh(y)
        slope *= (1 - y) * (1 + y)
    return float(y), float(slope)


def test_depth_is_no_limit() -> None:
    value, slope = _by_hand(0.5)
    assert _deep(0.5) == pytest.approx(value, rel=1e-11)
    assert grad(_deep)(0.5) == pytest.approx(slope, rel=1e-10)
    assert forward_derivative(_deep)(0.5) == pytest.approx(slope, rel=1e-10)
    graph = trace(isograd.value_and_grad(_deep), ArraySpec(()))
    assert len(str(graph).splitlines()) > 2 * DEPTH
    done = optimise(graph).graph
    p = plan(done)
    got = Executable(p)(np.float64(0.5))
    assert same_bits(got, isograd.value_and_grad(_deep)(0.5))
    assert same_bits(evaluate(graph, np.float64(0.5)), got)
    assert grad(lambda x: evaluate(trace(_deep, ArraySpec(())), x))(0.5) == got[1]
    tangent = forward_derivative(_deep)
    assert same_bits(run_static(tangent, np.float64(0.5)), tangent(0.5))
    del graph, done, p  # nothing is nested, so nothing is freed by recursion


def test_depth_is_no_limit_for_second_derivatives() -> None:
    def f(x: Any) -> Any:
        for _ in range(DEPTH):
            x = x * x * (1.0 / x)  # the identity, through quotients and sums of paths
        return x * x

    assert hvp(f, (1.5,), (1.0,)) == pytest.approx(2.0, rel=1e-6)


# --- cost


def _chain(ws: Any, x: Any) -> Any:
    for w in ws:
        x = F.tanh(x @ w)
    return F.sum(x)


@pytest.mark.parametrize(
    ("widths", "ratio"), [([64] * 51, 2.98), ([784, 256, 256, 10], 2.2533)], ids=["deep", "wide"]
)
def test_a_gradient_costs_less_than_three_forward_passes(
    widths: list[int], ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 8
    ws = [np.zeros((m, n)) for m, n in itertools.pairwise(widths)]
    x = np.zeros((batch, widths[0]))
    forward = optimise(trace(_chain, ws, x)).graph.matmul_flops
    both = optimise(trace(isograd.value_and_grad(_chain), ws, x)).graph.matmul_flops
    assert forward == 2 * batch * sum(m * n for m, n in itertools.pairwise(widths))
    assert round(both / forward, 4) == ratio

    counted = 0

    def counting(x: Any, y: Any) -> Any:
        nonlocal counted
        counted += 2 * x.shape[0] * x.shape[1] * y.shape[1]
        return x @ y

    monkeypatch.setitem(RULES, Op.MATMUL, replace(RULES[Op.MATMUL], eval=counting))
    _chain(ws, x)  # plain arrays: not counted, they are NumPy's
    assert counted == 0
    isograd.value_and_grad(_chain)(ws, x)
    assert counted == both
    counted = 0
    Executable(plan(optimise(trace(isograd.value_and_grad(_chain), ws, x)).graph))(ws, x)
    assert counted == both
