"""The engine's functions as NumPy's: broadcasting, dtypes, NumPy's own functions, indices."""

from __future__ import annotations

import itertools
import math
import operator
from typing import Any

import numpy as np
import pytest
import scipy.special
from checks import check_grads, check_modes, run_static, same_bits

import isograd
from isograd.engine.graph import ArraySpec
from isograd.errors import GraphError, ShapeError

F = isograd.functions
grad, jvp, vjp = isograd.grad, isograd.jvp, isograd.vjp


def check_as_numpy(f: Any, *args: Any, derivatives: bool = True) -> None:
    """f on tracers of each kind must give what f gives on NumPy arrays, and right derivatives."""
    with np.errstate(all="ignore"):
        want = np.asarray(f(*args))
    for got in (
        vjp(f, *args)[0],
        jvp(f, args, tuple(map(np.ones_like, args)))[0],
        run_static(f, *args),
    ):
        assert same_bits(np.asarray(got), want), f"{got!r}, not {want!r}"
    if derivatives:
        check_grads(f, args)


# --- broadcasting


_PAIRS = (
    ((), ()),
    ((), (3,)),
    ((1,), (3,)),
    ((3, 1), (1, 4)),
    ((2, 3), (3,)),
    ((2, 1, 3), (4, 1)),
    ((0,), (1,)),
    ((2, 0), (2, 1)),
)


@pytest.mark.parametrize("shapes", _PAIRS, ids=str)
@pytest.mark.parametrize(
    "op",
    [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, np.maximum],
    ids=lambda op: op.__name__,
)
def test_operators_broadcast_as_in_numpy(op: Any, shapes: Any, rng: np.random.Generator) -> None:
    x, y = (rng.uniform(0.5, 2.0, size=s) for s in shapes)
    if op is operator.pow:  # NumPy takes another formula where the exponent is one number
        np.testing.assert_allclose(vjp(op, x, y)[0], op(x, y), rtol=1e-14)
        check_grads(op, (x, y))
    else:
        check_as_numpy(op, x, y)


def test_what_does_not_broadcast_is_refused() -> None:
    for call in (
        lambda x: x + np.ones(4),
        lambda x: np.ones((3, 4)) * x,
        lambda x: F.where(np.ones(2, bool), x, 0.0),
        lambda x: x @ np.ones((4, 2)),
        lambda x: F.maximum(x, np.ones(2)),
    ):
        with pytest.raises(ShapeError) as caught:
            vjp(call, np.ones(3))
        assert "f64[3]" in caught.value.came
        assert caught.value.fix


def test_products_of_every_rank(rng: np.random.Generator) -> None:
    for a, b in (
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((3,), (5, 3, 2)),
        ((5, 2, 3), (3,)),
        ((5, 1, 2, 3), (4, 3, 1)),
        ((2, 0), (0, 3)),
        ((0,), (0,)),
    ):
        x, y = rng.normal(size=a), rng.normal(size=b)
        want = x @ y
        got = vjp(operator.matmul, x, y)[0]
        assert np.shape(got) == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)
        check_grads(operator.matmul, (x, y))
    assert grad(lambda x: x @ [1.0, 2.0])(np.ones(2)).tolist() == [1, 2]
    assert grad(lambda x: [1.0, 2.0] @ x)(np.ones(2)).tolist() == [1, 2]
    with pytest.raises(ShapeError, match="columns of the left"):
        vjp(lambda x: x @ 2.0, np.ones(3))


# --- dtypes


def _dtype_of(f: Any, x: Any) -> set[np.dtype[Any]]:
    results = (vjp(f, x)[0], run_static(f, x), jvp(f, (x,), (x,))[0], f(x))
    return {np.asarray(r).dtype for r in results}


@pytest.mark.parametrize("x", [np.float32(1.5), np.ones(2, np.float32), np.ones(2)], ids=repr)
@pytest.mark.parametrize(
    "other",
    [
        2,
        2.0,
        True,
        np.float32(2),
        np.float64(2),
        np.int64(2),
        np.ones(2, np.float32),
        np.arange(1, 3),
    ],
    ids=repr,
)
def test_dtypes_are_promoted_as_in_numpy(x: Any, other: Any) -> None:
    """Python's numbers take the dtype of the array, NumPy's do not."""
    for op in (operator.add, operator.sub, operator.mul, operator.truediv, np.maximum):
        want = np.asarray(op(x, other)).dtype
        assert _dtype_of(lambda x, op=op: op(x, other), x) == {want}
        assert _dtype_of(lambda x, op=op: op(other, x), x) == {want}
    assert _dtype_of(lambda x: F.where(x > 0, x, other), x) == {np.where(x > 0, x, other).dtype}


def test_elementary_functions_of_integers_are_taken_in_float64() -> None:
    n = np.arange(3)
    assert F.exp(n).dtype == F.tanh(np.arange(3, dtype=np.int32)).dtype == np.float64
    assert (F.divide(n, n + 1)).dtype == np.float64
    assert (F.mean(n)).dtype == np.float64
    assert F.sum(n > 0) == 2
    assert F.sum(np.bool_(True)).dtype == F.sum(n > 0).dtype == np.int64
    for f in (F.add, F.multiply, F.maximum):
        assert f(n, 2).dtype == n.dtype
    np.testing.assert_array_equal(F.clip(n, 1, None), [1, 1, 2])


# --- NumPy's own functions


_NUMPY = {
    "add": lambda x: np.add(x, x),
    "subtract": lambda x: np.subtract(x, 1),
    "multiply": lambda x: np.multiply(x, x),
    "divide": lambda x: np.divide(x, 3),
    "negative": np.negative,
    "absolute": np.abs,
    "sign": lambda x: x + np.sign(x),
    "maximum": lambda x: np.maximum(x, 0.1),
    "minimum": lambda x: np.minimum(0.1, x),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": lambda x: np.log(np.abs(x)),
    "log1p": lambda x: np.log1p(np.abs(x)),
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "square": np.square,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "matmul": lambda x: np.matmul(x, x.T),
    "dot": lambda x: np.dot(x, x.T),
    "sum": np.sum,
    "sum over an axis": lambda x: np.sum(x, axis=-1, keepdims=True),
    "mean": lambda x: np.mean(x, axis=(0, 1)),
    "max": lambda x: np.max(x, axis=0),
    "amin": lambda x: np.amin(x, axis=1),
    "where": lambda x: np.where(x > 0, x, -2.0 * x),
    "clip": lambda x: np.clip(x, -0.5, 0.5),
    "half a clip": lambda x: np.clip(x, None, 0.5),
    "reshape": lambda x: np.reshape(x, (3, -1)),
    "transpose": lambda x: np.transpose(x, (1, 0)),
    "broadcast_to": lambda x: np.broadcast_to(x, (4, 2, 3)),
    "concatenate": lambda x: np.concatenate([x, x[:1], np.ones((1, 3))], axis=0),
    "concatenate one": lambda x: np.concatenate([x], axis=1),
    "stack": lambda x: np.stack([x, x * 2], axis=-1),
    "expand_dims": lambda x: np.expand_dims(x, -1),
    "take": lambda x: np.take(x, [0, -1, 0], axis=1),
    "take from all": lambda x: np.take(x, [0, 5, -1, 5]),
    "zeros_like": lambda x: x + np.zeros_like(x),
    "ones_like": lambda x: x * np.ones_like(x),
    "shape": lambda x: x * (np.shape(x)[0] + np.ndim(x) + np.size(x)),
    "comparisons": lambda x: x * ((x > 0) * (x >= 0) + (x < 1) * (x <= 1) + (x != 0)),
    "array first": lambda x: np.arange(3.0) * x - np.float64(2.0) / x,
}


@pytest.mark.parametrize("name", _NUMPY)
def test_functions_of_numpy_work_on_tracers(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3))
    f = _NUMPY[name]
    np.testing.assert_allclose(vjp(f, x)[0], f(x), rtol=1e-14)
    check_modes(f, x)
    check_grads(f, (x,))


def test_comparisons_are_numpys(rng: np.random.Generator) -> None:
    x = np.array([0.0, -0.0, 1.0, np.nan, np.inf])
    names = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    for ufunc in (getattr(np, name) for name in names):
        for y in (0.0, np.nan, x[::-1].copy()):
            check_as_numpy(lambda x, f=ufunc, y=y: f(x, y), x, derivatives=False)
            check_as_numpy(lambda x, f=ufunc, y=y: f(y, x), x, derivatives=False)


def test_what_has_no_primitive_is_refused() -> None:
    for call in (np.arctan, lambda x: np.linalg.norm(x), lambda x: np.add(x, x, out=np.ones(2))):
        with pytest.raises((TypeError, GraphError)):
            vjp(call, np.ones(2))
    with pytest.raises(GraphError, match="NumPy ones") as caught:
        vjp(np.asarray, np.ones(2))
    assert "stop_gradient" in caught.value.fix
    with pytest.raises(ShapeError, match=r"numpy\.dot"):
        vjp(lambda x: np.dot(x, 2.0), np.ones(2))


def test_functions_of_scipy_agree(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3)) * 10
    np.testing.assert_allclose(F.logistic(x), scipy.special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(F.erf(x), scipy.special.erf(x), rtol=1e-14)
    np.testing.assert_allclose(F.erfc(x), scipy.special.erfc(x), rtol=1e-14)
    for axis in (0, 1, -1):
        want = scipy.special.logsumexp(x, axis=axis)
        np.testing.assert_allclose(F.logsumexp(x, axis), want, rtol=1e-13)
        np.testing.assert_allclose(F.softmax(x, axis), scipy.special.softmax(x, axis), rtol=1e-13)
        want = scipy.special.log_softmax(x, axis)
        np.testing.assert_allclose(F.log_softmax(x, axis), want, rtol=1e-13, atol=1e-15)
    assert F.logsumexp(x, axis=0, keepdims=True).shape == (1, 3)
    check_grads(F.softmax, (x / 10,))


# --- methods and axes


def test_tracers_have_the_methods_of_arrays(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3))
    for f in (
        lambda x: x.T,
        lambda x: x.max(axis=1),
        lambda x: x.max(axis=(0, 1), keepdims=True),
        lambda x: x.reshape(3, 2),
        lambda x: x.reshape((-1,)),
        lambda x: x.transpose(1, 0),
        lambda x: x.transpose(),
        lambda x: x.astype(np.float64),
        lambda x: +x - abs(-x),
        lambda x: x * (len(x) + x.ndim + x.size + x.shape[1]),
        lambda x: np.stack([row * (i + 1.0) for i, row in enumerate(x)]),
        lambda x: 2.0**x,
    ):
        check_as_numpy(f, x)
    for f in (lambda x: x.sum(axis=0), lambda x: x.mean(axis=-1, keepdims=True)):
        np.testing.assert_allclose(vjp(f, x)[0], f(x), rtol=1e-14)
        check_grads(f, (x,))

    def values(x: Any) -> Any:
        a, b = x[0, 0], x[0, 1]
        assert (a.item(), b.item(), bool(a), int(a)) == (2.5, -1.0, True, 2)
        assert a
        assert not a < b
        assert "f64[]" in repr(a)
        with pytest.raises(TypeError):
            len(a)
        with pytest.raises(ValueError, match="ambiguous"):
            bool(x)
        return a * b

    assert grad(values)(np.array([[2.5, -1.0]])).tolist() == [[-1.0, 2.5]]


@pytest.mark.parametrize(
    "axis", [None, 0, 1, -1, (0, 2), (-1, 0), (), np.int64(1), [0, 1]], ids=str
)
def test_axes_are_named_as_in_numpy(axis: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 4))
    numpy_axis = tuple(axis) if isinstance(axis, list) else axis
    for keepdims in (False, True):
        for f, g in ((F.sum, np.sum), (F.mean, np.mean), (F.max, np.max), (F.min, np.min)):
            got, want = f(x, axis, keepdims), g(x, axis=numpy_axis, keepdims=keepdims)
            assert np.shape(got) == np.shape(want)
            np.testing.assert_allclose(got, want, rtol=1e-13)


def test_what_would_lose_a_derivative_in_silence_is_refused() -> None:
    """NumPy's assignment and the functions of math both ask for a float."""

    def fill(x: Any) -> Any:
        out = np.zeros(2)
        out[0] = x
        return F.sum(out)

    for f in (fill, math.exp, lambda x: x * float(x), lambda x: F.sum(np.full(2, x))):
        for call in (
            lambda f=f: grad(f)(1.0),
            lambda f=f: jvp(f, (1.0,), (1.0,)),
            lambda f=f: isograd.trace(f, ArraySpec(())),
        ):
            with pytest.raises(ValueError) as caught:  # noqa: PT011  NumPy wraps the cause
                call()
            error = caught.value if isinstance(caught.value, GraphError) else caught.value.__cause__
            assert isinstance(error, GraphError)
            assert "isograd.functions" in error.fix
    assert grad(lambda x: x * x.item())(3.0) == 3.0

    def change(x: Any) -> Any:
        x[0] = 1.0
        return x

    with pytest.raises(GraphError, match="in place") as caught:
        vjp(change, np.ones(2))
    assert "where" in caught.value.fix


def test_adding_in_place_leaves_the_argument_alone() -> None:
    def f(x: Any) -> Any:
        x += 1.0
        return F.sum(x * x)

    x = np.ones(2)
    assert grad(f)(x).tolist() == [4, 4]
    assert x.tolist() == [1, 1]


def test_what_is_not_finite_can_be_asked_for() -> None:
    x = np.array([1.0, np.nan, np.inf, -np.inf])
    for f in (np.isnan, np.isfinite):
        check_as_numpy(f, x, derivatives=False)
    assert grad(lambda x: F.sum(F.where(np.isfinite(x), x, 0.0)))(x).tolist() == [1, 0, 0, 0]


def test_axes_that_do_not_exist_are_refused() -> None:
    x = np.ones((2, 3))
    for call in (
        lambda: F.sum(x, 2),
        lambda: F.max(x, (0, -3)),
        lambda: F.take(x, [0], 2),
        lambda: F.concatenate([x, x], -3),
        lambda: F.expand_dims(x, 3),
        lambda: F.logsumexp(x, 2),
    ):
        with pytest.raises(ShapeError, match="an axis must lie in"):
            call()
    with pytest.raises(ShapeError, match="named once"):
        F.sum(x, (0, -2))
    with pytest.raises(ShapeError, match="every axis once"):
        F.transpose(x, (0, 0))
    with pytest.raises(ShapeError, match="at least one part"):
        F.concatenate([])
    with pytest.raises(ShapeError, match="at least one element"):
        F.max(np.ones((2, 0)), 1)


def test_reshapes(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 6))
    for shape in (12, (3, 4), [-1, 3], (-1,), (2, 1, 6), np.int64(12)):
        assert same_bits(F.reshape(x, shape), x.reshape(shape))
    assert F.reshape(np.ones((0, 3)), (-1, 3)).shape == (0, 3)
    for shape in ((5,), (-1, 5), (-1, -1), (-2, -6)):
        with pytest.raises(ShapeError, match="number of elements"):
            F.reshape(x, shape)


def test_means_of_nothing_are_nan() -> None:
    assert np.isnan(F.mean(np.ones((0,))))
    assert F.sum(np.ones((0, 2)), 0).tolist() == [0, 0]
    assert F.logsumexp(np.ones((2, 0))).tolist() == [-np.inf, -np.inf]
    assert grad(lambda x: F.sum(F.logsumexp(x)))(np.ones((2, 0))).shape == (2, 0)


# --- indices


_INDICES: dict[str, Any] = {
    "int": 1,
    "negative int": -1,
    "NumPy int": np.int64(1),
    "zero-dimensional array": np.array(1),
    "two ints": (0, -2),
    "all ints": (1, 2, 0),
    "slice": slice(0, 1),
    "step": (slice(None), slice(None, None, 2)),
    "backwards": slice(None, None, -1),
    "backwards by two": (..., slice(None, None, -2)),
    "backwards in part": (slice(None), slice(3, 0, -2)),
    "backwards on two axes": (slice(None, None, -1), slice(None), slice(-1, None, -3)),
    "beyond the end": slice(1, 100),
    "beyond the beginning": slice(-100, 1),
    "empty": slice(1, 1),
    "empty backwards": (slice(None), slice(0, 2, -1)),
    "ellipsis": (..., 0),
    "ellipsis alone": ...,
    "ellipsis for nothing": (0, ..., slice(None), slice(None)),
    "nothing": (),
    "new axis": (None, 0),
    "new axes": (slice(None), None, ..., None),
    "new axis among backwards": (None, slice(None, None, -1), None, 0),
    "array": np.array([1, 0, 1]),
    "negative array": np.array([-1, -2]),
    "array of two axes": np.array([[0, 1], [1, 1]]),
    "list": [0, 0, 1],
    "empty list": [],
    "empty array": np.zeros((0,), int),
    "small ints": np.array([1, 0], np.uint8),
}


@pytest.mark.parametrize("name", _INDICES)
def test_indices_are_those_of_numpy(name: str, rng: np.random.Generator) -> None:
    """Value, and as derivative the selection matrix, built from the positions of the elements."""
    index = _INDICES[name]
    x = rng.normal(size=(2, 4, 3))
    check_as_numpy(lambda x: x[index], x, derivatives=False)
    positions = np.arange(x.size).reshape(x.shape)[index]
    v = np.asarray(rng.normal(size=positions.shape))
    want = np.zeros(x.size)
    np.add.at(want, positions, v)
    np.testing.assert_allclose(vjp(lambda x: x[index], x)[1](v)[0], want.reshape(x.shape))
    check_grads(lambda x: x[index] * x[index], (x,))


@pytest.mark.parametrize("name", [n for n in _INDICES if "backwards" not in n])
def test_gradients_of_indexing_are_those_of_pytorch(name: str, rng: np.random.Generator) -> None:
    """PyTorch has no negative steps."""
    torch = pytest.importorskip("torch")
    index = _INDICES[name]
    if isinstance(index, np.ndarray | list):
        index = torch.as_tensor(np.asarray(index, np.int64))
    x = rng.normal(size=(2, 4, 3))
    t = torch.tensor(x, requires_grad=True)
    (t[index] ** 3).sum().backward()
    np.testing.assert_allclose(grad(lambda x: F.sum(x[_INDICES[name]] ** 3))(x), t.grad, rtol=1e-12)


def test_indices_may_be_traced() -> None:
    x = np.array([1.0, 2.0, 3.0])

    def f(x: Any, i: Any) -> Any:
        return F.sum(x[i] ** 2)

    i = np.array([0, -1, 0])
    np.testing.assert_array_equal(grad(f)(x, i), [4, 0, 6])
    np.testing.assert_array_equal(run_static(grad(f), x, i), [4, 0, 6])
    largest = grad(lambda x: x[F.astype(F.sum(x) / 3, np.int64)])  # an index computed from x
    np.testing.assert_array_equal(largest(x), [0, 0, 1])
    np.testing.assert_array_equal(grad(lambda x: x[F.astype(x[0], np.int64), ...])(x), [0, 1, 0])


def test_indices_that_mean_nothing_here_are_refused() -> None:
    x = np.ones((2, 3))
    for index in (np.array([True, False]), x > 0, np.array([0.5]), [1.5]):
        with pytest.raises(ShapeError, match="index array must hold integers") as caught:
            vjp(lambda x, index=index: x[index], x)
        assert "where" in caught.value.fix
    for index in ((0, np.array([0, 1])), (slice(None), [0, 1]), True, (False, 0), 0.5, "x"):
        with pytest.raises(ShapeError, match="an index must be made of integers") as caught:
            vjp(lambda x, index=index: x[index], x)
        assert "take" in caught.value.fix
    for index in (2, -3, (0, 3), np.array([2])):
        with pytest.raises(IndexError):
            vjp(lambda x, index=index: x[index], x)
    with pytest.raises(ShapeError, match="outnumber"):
        vjp(lambda x: x[0, 0, 0], x)
    with pytest.raises(GraphError, match="static mode must not depend on the value"):
        isograd.trace(lambda x, i: x[i, 0], ArraySpec((2, 3)), ArraySpec((), np.int64))


# --- against PyTorch


def _layer_norm(x: Any) -> Any:
    x = x - F.mean(x, -1, True)
    return x / F.sqrt(F.mean(x**2, -1, True) + 1e-5)


_TORCH: dict[str, tuple[Any, Any]] = {
    "layer norm": (_layer_norm, lambda t, x: t.nn.functional.layer_norm(x, x.shape[-1:])),
    "gelu": (lambda x: 0.5 * x * (1 + F.erf(x / 2**0.5)), lambda t, x: t.nn.functional.gelu(x)),
    "silu": (lambda x: x * F.logistic(x), lambda t, x: t.nn.functional.silu(x)),
    "softplus": (F.softplus, lambda t, x: t.nn.functional.softplus(x)),
    "elu": (
        lambda x: F.where(x > 0, x, F.expm1(F.minimum(x, 0.0))),
        lambda t, x: t.nn.functional.elu(x),
    ),
    "maximum": (lambda x: F.maximum(x, -0.1), lambda t, x: t.clamp(x, min=-0.1)),
    "softmax": (F.softmax, lambda t, x: t.softmax(x, -1)),
    "log softmax": (F.log_softmax, lambda t, x: t.log_softmax(x, -1)),
    "logsumexp": (lambda x: F.logsumexp(x, 0), lambda t, x: t.logsumexp(x, 0)),
    "amax with ties": (
        lambda x: F.max(F.minimum(x, 0.1), -1),
        lambda t, x: t.amax(t.clamp(x, max=0.1), -1),
    ),
    "maximum with ties": (
        lambda x: F.maximum(x, F.stop_gradient(x)),
        lambda t, x: t.maximum(x, x.detach()),
    ),
    "power": (lambda x: abs(x) ** 1.7, lambda t, x: t.abs(x) ** 1.7),
    "log1p": (lambda x: F.log1p(x * x), lambda t, x: t.log1p(x * x)),
}


@pytest.mark.parametrize("name", _TORCH)
def test_gradients_are_those_of_pytorch(name: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = _TORCH[name]
    x = rng.normal(size=(4, 5))
    t = torch.tensor(x, requires_grad=True)
    out = theirs(torch, t)
    v = rng.normal(size=tuple(out.shape))
    out.backward(torch.tensor(v))
    value, pullback = vjp(ours, x)
    np.testing.assert_allclose(value, out.detach(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(pullback(v)[0], t.grad, rtol=1e-10, atol=1e-13)


def test_special_values_take_pytorchs_side_of_a_maximum() -> None:
    """NaN in a maximum hands the cotangent to both; a tie halves it."""
    torch = pytest.importorskip("torch")
    points = [0.0, 1.0, -1.0, np.nan, np.inf, -np.inf]
    for (f, g), (a, b) in itertools.product(
        ((F.maximum, torch.maximum), (F.minimum, torch.minimum)),
        itertools.product(points, repeat=2),
    ):
        s, t = (torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in (a, b))
        g(s, t).backward()
        got = vjp(f, a, b)[1](1.0)
        assert got == (s.grad.item(), t.grad.item()), (a, b)
