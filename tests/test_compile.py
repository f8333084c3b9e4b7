"""isograd.compile: the same function, for every form of its arguments."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from typing import Any

import numpy as np
import pytest
from checks import same_bits
from scipy.special import expit

import isograd
from isograd import functions as F
from isograd.backends import compile as module
from isograd.backends.select import choose
from isograd.engine.tree import flatten
from isograd.errors import GraphError, IsogradError, ShapeError

BACKENDS = ("numpy", "native")
Point = namedtuple("Point", "x y")


@pytest.fixture(params=BACKENDS, autouse=True)
def compiled(request: pytest.FixtureRequest) -> Any:
    if request.param == "native":
        pytest.importorskip("llvmlite")
    return partial(isograd.compile, backend=request.param)


def layer(p: Any, x: Any) -> Any:
    return F.logistic(x @ p["W"] + p["b"])


def counted(f: Any) -> tuple[Any, list[Any]]:
    """f, and a list that grows by one at each call of it."""
    calls: list[Any] = []

    def g(*args: Any) -> Any:
        calls.append(args)
        return f(*args)

    return g, calls


def test_values_are_those_of_numpy(compiled: Any, rng: np.random.Generator) -> None:
    f, calls = counted(layer)
    run = compiled(f)
    for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-13)):
        for n, m in ((3, 2), (5, 2), (1, 4)):
            p = {"W": rng.standard_normal((n, m)), "b": rng.standard_normal(m)}
            p = {k: v.astype(dtype) for k, v in p.items()}
            for _ in range(3):
                x = rng.standard_normal((7, n)).astype(dtype)
                out = run(p, x)
                assert out.dtype == dtype
                np.testing.assert_allclose(out, expit(x @ p["W"] + p["b"]), rtol=rtol)
    assert len(calls) == run.forms == 6, "once for each form"


def test_forms_are_nesting_shapes_and_dtypes(compiled: Any) -> None:
    run = compiled(lambda tree: F.sum(F.stack([F.sum(a) for a in flatten(tree)[0]])) * 2)
    a, b = np.arange(3.0), np.arange(4.0)
    forms: list[Any] = [
        *([a, b], (a, b), {"a": a, "b": b}, {"a": a, "c": b}, Point(a, b), [[a], b], [a, b, None]),
        *([b, a], [a, b.astype(np.float32)], [a, b.reshape(2, 2)], [a, np.arange(4)], [a, 6.0]),
        *([a, 6], [a, np.array([True] * 6)]),
    ]
    for number, tree in enumerate(forms, start=1):
        assert run(tree) == 18.0
        assert run.forms == number
    assert run({"b": b, "a": a}) == 18.0
    assert run([a, np.float64(6.0)]) == 18.0
    assert run.forms == len(forms), "neither the order of keys nor the kind of a number is a form"


def test_results_are_nested_as_the_function_s(compiled: Any) -> None:
    run = compiled(lambda x: {"p": Point(x + 1, [x * 2, None]), "q": 3.0})
    out = run(np.arange(2.0))
    want = {"p": Point(np.array([1.0, 2.0]), [np.array([0.0, 2.0]), None]), "q": np.array(3.0)}
    assert same_bits(out, want)
    assert type(out["p"]) is Point


@pytest.mark.parametrize(
    ("number", "dtype"), [(2.0, np.float64), (2, np.int64), (True, np.bool_), (np.float32(2), "f4")]
)
def test_numbers_are_arrays_without_axes(number: Any, dtype: Any, compiled: Any) -> None:
    out = compiled(lambda x: x)(number)
    assert isinstance(out, np.ndarray)
    assert (out.shape, out.dtype, out) == ((), np.dtype(dtype), number)


def test_the_form_used_longest_ago_is_let_go_of(compiled: Any) -> None:
    f, calls = counted(lambda x: x + 1.0)
    run = compiled(f)
    for n in range(module.PLANS):
        run(np.zeros(n))
    run(np.zeros(0))
    assert len(calls) == run.forms == 32
    run(np.zeros(99))
    assert (len(calls), run.forms) == (33, 32)
    run(np.zeros(0))
    assert len(calls) == 33, "it was used later than the others"
    run(np.zeros(1))
    assert (len(calls), run.forms) == (34, 32)


LAYOUTS = {
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "in columns": np.asfortranarray,
    "other bytes' order": lambda x: x.astype(x.dtype.newbyteorder()),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_arrays_in_any_order_of_memory(
    layout: Any, compiled: Any, rng: np.random.Generator
) -> None:
    f, calls = counted(lambda x: F.sum(x * x, axis=0) + x[1])
    run, x = compiled(f), rng.integers(-9, 9, (4, 3)) * 0.5
    assert same_bits(run(x), (x * x).sum(0) + x[1])
    assert same_bits(run(layout(x)), (x * x).sum(0) + x[1])
    assert len(calls) == 1


def test_results_are_the_caller_s(compiled: Any) -> None:
    """To change, without a change of arguments, of constants, or of what comes next."""
    constant = np.arange(3.0)
    run = compiled(lambda x: (x, x.T, constant, x + 1.0, F.sum(x)))
    x = np.ones((2, 2))
    first = run(x)
    copies = [a.copy() for a in first]
    for out in first:
        out[...] = 7.0
    assert same_bits(x, np.ones((2, 2)))
    assert same_bits(list(run(x)), copies)
    assert same_bits(list(first), [np.full_like(a, 7.0) for a in copies])


# --- derivatives


def f(x: Any) -> Any:
    return F.sum(F.sin(x) ** 2 * F.exp(-x))


def test_derivatives_within(compiled: Any, rng: np.random.Generator) -> None:
    x, v = rng.standard_normal(5), rng.standard_normal(5)
    s, c, e = np.sin(x), np.cos(x), np.exp(-x)
    slope = (2 * s * c - s**2) * e
    curve = (2 * (c**2 - s**2) - 2 * s * c) * e - slope
    value, got = compiled(isograd.value_and_grad(f))(x)
    np.testing.assert_allclose(value, np.sum(s**2 * e), rtol=1e-12)
    np.testing.assert_allclose(got, slope, rtol=1e-12)
    hvp = compiled(lambda x, v: isograd.hvp(f, (x,), (v,)))
    np.testing.assert_allclose(hvp(x, v), curve * v, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(
        compiled(isograd.jacobian(isograd.grad(f)))(x), np.diag(curve), rtol=1e-11, atol=1e-13
    )


def test_derivatives_of_it(compiled: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal(5)
    run = compiled(f)
    assert same_bits(isograd.grad(run)(x), isograd.grad(f)(x))
    assert str(isograd.trace(isograd.grad(run), x)) == str(isograd.trace(isograd.grad(f), x))
    twice = compiled(lambda x: run(x) * 2.0)
    assert twice(x) == pytest.approx(2.0 * f(x), rel=1e-13)


def test_it_is_a_decorator_and_keeps_the_name() -> None:
    @isograd.compile
    def doubled(x: Any) -> Any:
        """Twice x."""
        return x + x

    assert doubled(3.0) == 6.0
    assert (doubled.__name__, doubled.__doc__) == ("doubled", "Twice x.")
    assert doubled.backend == choose()


# --- what is refused


@pytest.mark.parametrize(
    ("argument", "came"),
    [
        ("relu", "str"),
        (np.tanh, "ufunc"),
        (1j, "complex"),
        (np.zeros(2, complex), "an array of complex128"),
        (np.array(["a"]), "an array of <U1"),
        (np.array([object()]), "an array of object"),
        ({1, 2}, "set"),
        (10**30, "an array of object"),
    ],
)
def test_arguments_that_are_no_arrays(argument: Any, came: str, compiled: Any) -> None:
    run = compiled(lambda x, tree: x)
    with pytest.raises(GraphError, match="must be arrays or numbers") as error:
        run(np.zeros(2), [1.0, argument])
    assert error.value.came == came
    assert error.value.where == "array 2 of the arguments"
    assert "functools.partial" in error.value.fix
    assert run.forms == 0


def test_arguments_with_names(compiled: Any) -> None:
    with pytest.raises(GraphError, match="by position") as error:
        compiled(F.sum)(np.zeros(2), axis=0)
    assert error.value.came == "axis=…"
    assert compiled(partial(F.sum, axis=0))(np.ones((2, 2))).tolist() == [2.0, 2.0]


def test_functions_that_cannot_be_compiled(compiled: Any) -> None:
    with pytest.raises(GraphError, match="must not depend on the value"):
        compiled(lambda x, n: x * 2.0 if n > 1 else x)(np.zeros(2), 3)
    with pytest.raises(ShapeError):
        compiled(lambda x, y: x + y)(np.zeros(2), np.zeros(3))
    with pytest.raises(GraphError):
        compiled(lambda x: "text")(np.zeros(2))


def test_a_backend_that_is_not_there() -> None:
    with pytest.raises(IsogradError, match="a backend must be native or numpy") as error:
        isograd.compile(f, backend="nunpy")
    assert (error.value.came, error.value.fix) == ("'nunpy'", "did you mean 'numpy'?")
