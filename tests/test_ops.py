"""Every primitive against its row of the op table, in value, shape, dtype and both derivatives."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from checks import check_grads, check_modes, run_static, same_bits, ulps
from optable import Case, Row, common_points
from optable_arrays import TABLE

import isograd
from isograd.engine.dispatch import apply, spec_of
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import RULES, Op
from isograd.errors import ShapeError

F = isograd.functions
DTYPES = (np.float32, np.float64)
each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.op.value)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
elementwise_rows = pytest.mark.parametrize(
    "row", [row for row in TABLE if row.scalar], ids=lambda row: row.op.value
)


def function(row: Row, case: Case, args: list[Any], over: tuple[int, ...]) -> Any:
    """The primitive as a function of the arguments `over`, the others held."""

    def f(*xs: Any) -> Any:
        full = list(args)
        for i, x in zip(over, xs, strict=True):
            full[i] = x
        return apply(row.op, *full, **case.params)

    return f


def floating(args: list[Any]) -> tuple[int, ...]:
    return tuple(i for i, a in enumerate(args) if np.issubdtype(np.asarray(a).dtype, np.floating))


# --- the table is complete


def without_rows(table: Any) -> set[Op]:
    return set(Op) - {row.op for row in table}


def test_every_primitive_has_a_row_and_a_domain() -> None:
    assert not without_rows(TABLE)
    assert len({row.op for row in TABLE}) == len(TABLE)
    assert set(RULES) == set(Op)
    assert all(RULES[op].domain for op in Op)
    elementwise = {op for op in Op if RULES[op].elementwise}
    # Those with parameters have rows in their own form.
    with_parameters = {Op.CAST, Op.ROUND, Op.ROUND_COTANGENT}
    assert {row.op for row in TABLE if row.scalar} == elementwise - with_parameters


def test_a_missing_row_is_seen() -> None:
    assert without_rows([row for row in TABLE if row.op is not Op.TANH]) == {Op.TANH}


# --- values


def expected(row: Row, case: Case, args: list[np.ndarray]) -> np.ndarray:
    """The reference's value, in float64 or the integers' own dtype."""
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in args]
    if row.value is not None:
        return np.asarray(row.value(*wide, **case.params))
    out = np.empty(args[0].shape, np.float64)
    for index in np.ndindex(*out.shape):
        out[index] = float(row.scalar.value(*(_python(a[index]) for a in wide)))
    return out


def _python(x: Any) -> Any:
    return x.item() if isinstance(x, np.generic) else x


def check_value(row: Row, case: Case, args: list[np.ndarray]) -> None:
    got = np.asarray(apply(row.op, *args, **case.params))
    want = expected(row, case, args)
    dtype = got.dtype
    assert got.shape == want.shape
    if not np.issubdtype(dtype, np.floating) or (row.bound is None and row.scalar is None):
        np.testing.assert_array_equal(got, want.astype(dtype))
        return
    if row.scalar is not None:
        for g, w in zip(got.ravel(), want.ravel(), strict=True):
            assert ulps(g, w) <= row.scalar.ulps + 0.5, f"{g!r}, not {w!r}"
        return
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in args]
    bound = np.asarray(row.bound(*wide, **case.params)) * float(np.finfo(dtype).eps) / 2
    fine = np.isfinite(want)
    np.testing.assert_array_equal(got[~fine], want.astype(dtype)[~fine])
    error = np.abs(got[fine].astype(np.float64) - want[fine])
    assert np.all(error <= np.broadcast_to(bound, want.shape)[fine]), f"{got}, not {want}"


@each_row
@each_dtype
def test_value(row: Row, dtype: Any, rng: np.random.Generator) -> None:
    for case in row.cases:
        check_value(row, case, row.sample(rng, case, dtype))
    for args in row.special:
        check_value(row, row.cases[0], [np.asarray(a).astype(dtype) for a in args])


@pytest.mark.parametrize("row", [r for r in TABLE if r.integers], ids=lambda r: r.op.value)
@pytest.mark.parametrize("dtype", [np.int32, np.int64], ids=lambda d: d.__name__)
def test_integers(row: Row, dtype: Any, rng: np.random.Generator) -> None:
    for case in row.cases:
        args = [
            rng.integers(-4, 5, size=a.shape).astype(dtype) if a.dtype == np.float64 else a
            for a in row.sample(rng, case, np.float64)
        ]
        check_value(row, case, args)
        check_shape_rule(row, case, args)


def _points(row: Row, dtype: Any) -> list[tuple[Any, ...]]:
    """Special arguments: all of them for one argument, all pairs of a shorter list for two."""
    info = np.finfo(dtype)
    arity = len(row.scalar.slopes)
    if arity == 1:
        return [(x,) for x in (*common_points(info), *row.scalar.points(info))]
    pairs = itertools.product([*common_points(info), 3.0, -3.0, 0.1], repeat=2)
    return [(c, *p) for c in (True, False) for p in pairs] if arity == 3 else list(pairs)


@elementwise_rows
@each_dtype
def test_special_values(row: Row, dtype: Any) -> None:
    """0, ±tiny, ±max, ±inf, NaN and the saturation points: value, and slope in both modes."""
    for point in _points(row, dtype):
        args = [np.asarray(p) if isinstance(p, bool) else np.asarray(p, dtype) for p in point]
        floats = tuple(a.item() for a in args)
        scalar = row.scalar
        got = np.asarray(apply(row.op, *args))[()]
        want = scalar.value(*floats)
        if got.dtype == np.bool_:
            assert got == want, floats
            continue
        error = ulps(got, want, normal_only=scalar.flushes)
        assert error <= scalar.ulps + 0.5, f"{floats}: {got!r}, not {want}"
        if got == 0 and row.op not in (Op.MAX, Op.MIN) and isinstance(want, float):
            assert np.signbit(got) == (math.copysign(1, want) < 0), floats
        check_slopes(row, dtype, args, got)


def check_slopes(row: Row, dtype: Any, args: list[Any], value: Any) -> None:
    floats = tuple(a.item() for a in args)
    one = np.ones((), dtype)
    for i, slope in enumerate(row.scalar.slopes):
        if args[i].dtype == np.bool_:
            continue
        f = function(row, Case(()), args, (i,))
        forward = isograd.jvp(f, (args[i],), (one,))[1]
        reverse = isograd.vjp(f, args[i])[1](one)[0]
        assert same_bits(np.asarray(forward), np.asarray(reverse)), floats
        if slope is None:
            assert forward == 0
            continue
        want = slope(*floats)
        if want is None or (np.isnan(value) and not math.isnan(want)):
            continue
        error = ulps(np.asarray(forward)[()], want, normal_only=True)
        assert error == 0 or error <= row.scalar.slope_ulps(*floats) + 0.5, (
            f"∂{i} at {floats}: {forward!r}, not {want}"
        )


def test_odd_functions_keep_the_sign_of_zero() -> None:
    for op in (Op.TANH, Op.ERF, Op.SIN, Op.EXPM1, Op.LOG1P, Op.SQRT, Op.NEG):
        for zero in (0.0, -0.0):
            out = apply(op, np.asarray(zero))
            assert np.signbit(out) == (np.signbit(zero) != (op is Op.NEG)), op


def test_saturated_slopes_are_no_rounded_difference() -> None:
    """1 − tanh² in float32 at 10 is 0; the slope is 8.2e-9."""
    x = np.float32(10)
    slope = isograd.grad(isograd.functions.tanh)(x)
    assert slope.dtype == np.float32
    assert slope == pytest.approx(8.2446145e-09, rel=1e-6)
    slope = isograd.grad(isograd.functions.logistic)(np.float32(40))
    assert slope == pytest.approx(4.248354255e-18, rel=1e-6)


def test_confident_softmax_keeps_its_residual() -> None:
    """1 − p of the right class, and the loss, at p that rounds to 1 (mpmath: 1/(1 + e⁴⁰))."""
    tail = 4.248354255291589e-18
    x = np.array([40.0, 0.0])
    loss, slope = isograd.value_and_grad(lambda x: -isograd.functions.log_softmax(x)[0])(x)
    assert loss == pytest.approx(tail, rel=1e-14)
    np.testing.assert_allclose(slope, [-tail, tail], rtol=1e-14)
    tangent = isograd.jvp(isograd.functions.log_softmax, (x,), (np.array([1.0, 0.0]),))[1]
    np.testing.assert_allclose(tangent, [tail, -1.0], rtol=1e-14)


def test_slope_of_logsumexp_is_accurate_far_from_zero() -> None:
    """In float32 the spacing at 1e4 is 1e-3; the softmax must not feel it."""
    x = np.array([1e4, 1e4 - 1.0], np.float32)
    slope = isograd.grad(isograd.functions.logsumexp)(x)
    np.testing.assert_allclose(slope, [0.7310585786300049, 0.2689414213699951], rtol=1e-6)


# --- shapes and dtypes


def check_shape_rule(row: Row, case: Case, args: list[Any]) -> None:
    """The shape rule must foretell shape and dtype of the value."""
    rule = RULES[row.op]
    if row.op is Op.REDUCE_MAX and 0 in args[0].shape and not np.size(args[0]):
        empty = any(args[0].shape[a] == 0 for a in case.params["axes"])
        assert not empty, "the table has no maximum over nothing"
    told = rule.shape(*map(spec_of, args), **case.params)
    came = spec_of(apply(row.op, *args, **case.params))
    assert told == came, f"{row.op}: the shape rule says {told}, the value is {came}"


def check_derivative_specs(row: Row, case: Case, args: list[Any]) -> None:
    """A tangent must have shape and dtype of the output, a cotangent those of its argument."""
    rule = RULES[row.op]
    out = apply(row.op, *args, **case.params)
    if not spec_of(out).differentiable:
        return
    for i in floating(args):
        t = rule.jvp(i, args[i], out, tuple(args), dict(case.params))
        g = rule.vjp(i, out, out, tuple(args), dict(case.params))
        assert t is None or spec_of(t) == spec_of(out), f"{row.op}: tangent {spec_of(t)}"
        assert g is None or spec_of(g) == spec_of(args[i]), f"{row.op}: cotangent {spec_of(g)}"
        assert (t is None) == (g is None)


@each_row
@pytest.mark.parametrize("dtype", [np.float16, *DTYPES], ids=lambda dtype: dtype.__name__)
def test_shapes_and_dtypes(row: Row, dtype: Any, rng: np.random.Generator) -> None:
    for case in row.cases:
        args = row.sample(rng, case, dtype)
        check_shape_rule(row, case, args)
        with np.errstate(all="ignore"):
            check_derivative_specs(row, case, args)
            if all(shape == () for shape in case.shapes):  # NumPy's scalars are no arrays
                generics = [a[()] for a in args]
                check_shape_rule(row, case, generics)
                check_derivative_specs(row, case, generics)


def test_a_wrong_shape_rule_is_seen(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    row = next(r for r in TABLE if r.op is Op.TRANSPOSE)
    wrong = replace(RULES[Op.TRANSPOSE], shape=lambda x, *, axes: x)
    monkeypatch.setitem(RULES, Op.TRANSPOSE, wrong)
    with pytest.raises(AssertionError, match="shape rule says"):
        check_shape_rule(row, row.cases[0], row.sample(rng, row.cases[0], np.float64))


def test_a_wrong_dtype_of_a_derivative_is_seen(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    row = next(r for r in TABLE if r.op is Op.EXP)
    wrong = replace(RULES[Op.EXP], vjp=lambda i, g, out, args, params: g * np.float64(1) * out)
    monkeypatch.setitem(RULES, Op.EXP, wrong)
    with pytest.raises(AssertionError, match="cotangent f64"):
        check_derivative_specs(row, row.cases[0], row.sample(rng, row.cases[0], np.float32))


# --- derivatives


@each_row
def test_derivatives(row: Row, rng: np.random.Generator) -> None:
    """Both modes, both modes of both, against central differences and each other."""
    for case in row.cases:
        args = row.sample(rng, case, np.float64)
        f = function(row, case, args, floating(args))
        points = [args[i] for i in floating(args)]
        out = apply(row.op, *args, **case.params)
        if row.straight:
            assert same_bits(isograd.jvp(f, points, points)[1], points[0])
            assert same_bits(isograd.vjp(f, *points)[1](points[0])[0], points[0])
        elif not row.smooth or not spec_of(out).differentiable:
            assert not np.any(isograd.jvp(f, points, points)[1])
        elif not np.all(np.isfinite(out)):
            assert not np.size(args[0])  # ln Σ over nothing
        elif spec_of(out).dtype == np.float64:
            check_grads(f, points)
        else:
            check_grads(f, points, rtol=1e-2)


@each_row
def test_arguments_without_derivative_are_declared(row: Row, rng: np.random.Generator) -> None:
    case = row.cases[0]
    args = row.sample(rng, case, np.float64)
    out = apply(row.op, *args, **case.params)
    for i in range(len(args)):
        t = RULES[row.op].jvp(i, args[i], out, tuple(args), dict(case.params))
        assert (t is not None) == (i in row.smooth), f"{row.op}, argument {i}"


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
def test_a_wrong_derivative_is_seen(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(i: int, t: Any, out: Any, args: Any, params: Any) -> Any:
        return t * (1.0 - out * args[0])

    x = np.array([0.3, -1.2])
    f = isograd.functions.tanh
    check_grads(f, (x,))
    monkeypatch.setitem(RULES, Op.TANH, replace(RULES[Op.TANH], **{mode: wrong}))
    with pytest.raises(AssertionError, match=mode):
        check_grads(f, (x,), modes=("fwd",) if mode == "jvp" else ("rev",))
    with pytest.raises(AssertionError):
        check_grads(f, (x,))


def test_a_wrong_second_derivative_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first derivative that holds its factor constant is right once and wrong twice."""

    def frozen(i: int, t: Any, out: Any, args: Any, params: Any) -> Any:
        return t * isograd.stop_gradient(out)

    monkeypatch.setitem(RULES, Op.EXP, replace(RULES[Op.EXP], jvp=frozen, vjp=frozen))
    x = np.array([0.3, -1.2])
    check_grads(isograd.functions.exp, (x,), order=1)
    for modes in (("fwd",), ("rev",), ("fwd", "rev")):
        with pytest.raises(AssertionError):
            check_grads(isograd.functions.exp, (x,), order=2, modes=modes)


def test_ties_share_the_derivative() -> None:
    grad = isograd.grad
    assert grad(lambda x: F.maximum(x, 1.0))(1.0) == 0.5
    assert grad(lambda x: F.minimum(x, 0.0))(-0.0) == 0.5
    assert grad(lambda x: F.maximum(x, x))(2.0) == 1.0
    x = np.array([3.0, 1.0, 3.0])
    np.testing.assert_array_equal(grad(F.max)(x), [0.5, 0, 0.5])
    np.testing.assert_array_equal(grad(F.min)(-x), [0.5, 0, 0.5])


def test_an_infinite_cotangent_does_not_reach_what_lost() -> None:
    """0 · inf is NaN, so the loser's zero must be chosen, not multiplied."""
    for f, loser in (
        (lambda x: F.maximum(x, 0.0), -1.0),
        (lambda x: F.minimum(x, 0.0), 1.0),
        (lambda x: F.where(x > 0, x, 0.0), -1.0),
    ):
        assert isograd.vjp(f, loser)[1](np.inf)[0] == 0
        assert isograd.jvp(f, (loser,), (np.inf,))[1] == 0
    np.testing.assert_array_equal(
        isograd.vjp(F.max, np.array([1.0, 2.0]))[1](np.inf)[0], [0, np.inf]
    )
    assert isograd.jvp(F.max, (np.array([1.0, 2.0]),), (np.array([np.nan, 1.0]),))[1] == 1


def test_the_branch_not_taken_gives_nothing() -> None:
    """Its value may be NaN; only the usual trick keeps a NaN out of its derivative too."""
    value, slope = isograd.value_and_grad(lambda x: F.where(x > 0, x, np.nan))(2.0)
    assert (value, slope) == (2.0, 1.0)
    assert isograd.grad(lambda x: F.where(x > 0, F.stop_gradient(F.log(x)), x))(-1.0) == 1.0
    safe = isograd.grad(lambda x: F.where(x > 0, F.log(F.where(x > 0, x, 1.0)), 0.0))
    assert (safe(-1.0), safe(2.0)) == (0.0, 0.5)


def _power(n: int, x: Any) -> Any:
    return x**n


def test_powers_at_zero_and_of_negative_numbers() -> None:
    grad = isograd.grad
    for n in range(5):
        f: Any = partial(_power, n)
        for k in range(5):
            want = math.perm(n, k) * (0.0 ** (n - k) if n >= k else 0.0)
            assert f(0.0) == want, (n, k)
            f = grad(f)
    assert grad(lambda x: x**3)(-2.0) == 12.0
    assert grad(lambda x: x**-2)(-2.0) == 0.25
    assert grad(grad(lambda x: x**3))(-2.0) == -12.0
    assert grad(isograd.functions.power, 1)(0.0, 2.0) == 0.0
    assert np.isnan(grad(isograd.functions.power, 1)(-1.0, 2.0))


def test_a_power_does_not_depend_on_shape_or_memory() -> None:
    """C99: (−∞)^½ is ∞ and (−0)^½ is +0, not √ of them; NumPy takes √ where one ½ is repeated."""
    for shape in ((), (1,), (3,), (2, 3)):
        for y in (np.full(shape, 0.5), np.broadcast_to(0.5, shape)):
            assert np.all(F.power(np.full(shape, -np.inf), y) == np.inf)
            zero = F.power(np.full(shape, -0.0), y)
            assert not np.any(zero)
            assert not np.any(np.signbit(zero))


# --- both graph modes


def _derivatives(f: Any, count: int) -> Any:
    """Value, both first derivatives and one second derivative, along fixed directions."""

    def ones(tree: Any) -> Any:
        return isograd.functions.ones_like(tree)

    def all_of(*xs: Any) -> Any:
        tangents = tuple(map(ones, xs))
        value, tangent = isograd.jvp(f, xs, tangents)
        pulled = isograd.vjp(f, *xs)[1](ones(value))
        second = isograd.jvp(lambda *ys: isograd.vjp(f, *ys)[1](ones(value)), xs, tangents)[1]
        return value, tangent, pulled, second

    return all_of


@each_row
@each_dtype
def test_static_mode_gives_the_same_bits(row: Row, dtype: Any, rng: np.random.Generator) -> None:
    runs = [(case, row.sample(rng, case, dtype)) for case in row.cases]
    runs += [(row.cases[0], [np.asarray(a).astype(dtype) for a in args]) for args in row.special]
    if row.scalar is not None:
        columns = zip(*_points(row, dtype), strict=True)
        special = [np.array(c, np.bool_ if type(c[0]) is bool else dtype) for c in columns]
        runs.append((Case(()), special))
    for case, args in runs:
        over = floating(args)
        f = function(row, case, args, over)
        points = [args[i] for i in over]
        check_modes(f, *points)
        if spec_of(apply(row.op, *args, **case.params)).differentiable:
            check_modes(_derivatives(f, len(points)), *points)


def test_a_difference_between_the_modes_is_seen() -> None:
    calls = []

    def differs(x: Any) -> Any:
        calls.append(x)
        return x * float(len(calls))

    with pytest.raises(AssertionError, match="dynamic"):
        check_modes(differs, np.ones(2))
    assert not same_bits(np.array(0.0), np.array(-0.0))
    assert not same_bits(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    assert not same_bits(np.zeros(2, np.float32), np.zeros(2))
    assert same_bits({"a": np.array(np.nan)}, {"a": np.array(-np.nan)})


def test_errors_are_the_same_in_both_modes() -> None:
    """What NumPy would say in dynamic mode is said in the words of the shape rule."""
    for f, shapes in (
        (lambda x, y: F.concatenate([x, y]), ((2, 3), (2, 4))),
        (lambda x, y: F.add(x, y), ((2, 3), (2, 4))),
        (lambda x, y: F.matmul(x, y), ((2, 3), (2, 3))),
        (lambda x, y: F.matmul(x, y), ((2, 2, 3), (3, 3, 2))),
        (lambda x, y: F.where(x, y, y), ((2,), (3,))),
        (lambda x, y: F.broadcast_to(x, (2, 4)), ((3,), ())),
        (lambda x, y: F.max(x), ((0,), ())),
    ):
        arrays = [np.ones(s) for s in shapes]
        with pytest.raises(ShapeError):
            f(*arrays)
        with pytest.raises(ShapeError):
            isograd.grad(lambda x, y, f=f: F.sum(f(x, y)))(*arrays)
        with pytest.raises(ShapeError):
            isograd.trace(f, *map(ArraySpec, shapes))


def test_run_static_returns_what_the_function_nests() -> None:
    assert run_static(lambda x: {"a": (x, [x + 1])}, np.float64(1.0)) == {"a": (1.0, [2.0])}
