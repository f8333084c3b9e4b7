"""Native kernels one by one: exact sums, mpmath, NumPy on every dtype, layout and vector width."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

pytest.importorskip("llvmlite")

from checks import same_bits
from mpmath import mp, mpf
from native_kernels import Ready, native
from threefry import threefry

import isograd
from isograd.backends.llvm.program import Native
from isograd.backends.numpy import Executable
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import plan

F = isograd.functions
FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64", "uint32", "uint8", "int8", "int16", "uint16", "uint64")
DTYPES = (*FLOATS, *INTEGERS, "bool")
WIDTHS = (16, 32, 64)
each_float = pytest.mark.parametrize("dtype", FLOATS)


def by_rule(op: Op, *arrays: np.ndarray, **params: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(RULES[op].eval(*arrays, **params))


def layouts(x: np.ndarray) -> list[np.ndarray]:
    """The same values, lying in several ways."""
    spread = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    spread[..., ::2] = x
    return [x, np.asfortranarray(x), spread[..., ::2]]


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if kind == "b":
        return rng.random(shape) < 0.5
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


# --- sums and maxima

SHAPES = ((), (7,), (16,), (300,), (64, 10), (3, 65), (2, 1, 40), (5, 9, 17))


def axes_of(x: np.ndarray) -> list[tuple[int, ...]]:
    ends = {(), (0,), (x.ndim - 1,), tuple(range(x.ndim)), (0, x.ndim - 1)}
    return [a for a in ends if len(set(a)) == len(a) and all(0 <= k < x.ndim for k in a)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_maxima_over_any_axes(dtype: str, rng: np.random.Generator) -> None:
    """Exactly those of NumPy where nothing is rounded: numbers are small integers here."""
    for shape in SHAPES:
        x = values(rng, shape, dtype)
        x = np.round(8 * x) if x.dtype.kind == "f" else x
        for y in layouts(x) if shape == (5, 9, 17) else [x]:
            for axes in axes_of(x):
                for op in (Op.SUM, Op.REDUCE_MAX):
                    got, want = native(op, y, axes=axes), by_rule(op, x, axes=axes)
                    np.testing.assert_array_equal(got, want, strict=True)


@pytest.mark.parametrize("width", WIDTHS)
@each_float
def test_the_error_of_a_sum_does_not_grow_with_its_length(
    dtype: str, width: int, rng: np.random.Generator
) -> None:
    """By fsum: (16 + log₂ 8 + log₂ lanes + 2)·u·Σ|x|, for sums that cancel too."""
    u = np.finfo(dtype).eps / 2
    bound = (16 + 3 + math.log2(width // np.dtype(dtype).itemsize) + 2) * u
    for shape, axes in (((100_003,), (0,)), ((20_011, 3), (0,)), ((3, 20_011), (1,))):
        for scale in (0.0, 8.0):
            x = (rng.standard_normal(shape) * np.exp(scale * rng.random(shape))).astype(dtype)
            got = native(Op.SUM, x, axes=axes, width=width)
            rows = np.moveaxis(x, axes[0], -1).reshape(-1, shape[axes[0]]).astype(np.float64)
            for one, row in zip(got.reshape(-1).tolist(), rows, strict=True):
                size = math.fsum(np.abs(row))
                assert abs(math.fsum([*row, -one])) <= bound * size * (1 + 1e-6)


@each_float
def test_the_error_of_a_sum_within_a_loop_does_not_grow_either(
    dtype: str, rng: np.random.Generator
) -> None:
    """Chains of 32, and at most 64 lanes: 40·u·Σ|x|."""
    x = (rng.standard_normal(200_003) * np.exp(8 * rng.random(200_003))).astype(dtype)
    program = Native(plan(isograd.trace(lambda x: F.sum(-x), x)))
    assert [type(work.kernel).__name__ for work in program.program.items] == ["Fused"]
    error = math.fsum([*x.astype(np.float64), float(program(x))])
    assert abs(error) <= 40 * np.finfo(dtype).eps / 2 * math.fsum(np.abs(x.astype(np.float64)))


@each_float
def test_sums_of_special_values(dtype: str) -> None:
    inf, nan, largest = np.inf, np.nan, float(np.finfo(dtype).max)
    for length in (4, 700):
        rows = np.ones((6, length), dtype)
        rows[0, 1], rows[1, 2], rows[2, :2], rows[3] = inf, nan, (inf, -inf), largest
        rows[4], rows[5, ::2] = -0.0, -1.0
        for x, axis in ((rows, 1), (np.ascontiguousarray(rows.T), 0)):
            got = native(Op.SUM, x, axes=(axis,))
            want = np.array([inf, nan, nan, inf, 0.0, 0.0], dtype)
            assert same_bits(got, want), got
            top = native(Op.REDUCE_MAX, x, axes=(axis,))
            assert same_bits(top + 0, np.array([inf, nan, inf, largest, 0, 1], dtype)), top


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_of_nothing_is_0(dtype: str) -> None:
    x = np.zeros((0, 3), dtype)
    for axes in ((0,), (0, 1)):
        want = by_rule(Op.SUM, x, axes=axes)
        assert same_bits(native(Op.SUM, x, axes=axes), want)


# --- products

PRODUCTS = (
    *(((1, 3, 4), (1, 4, 5)), ((2, 3, 7), (2, 7, 33)), ((2, 2, 1, 1), (2, 2, 1, 70))),
    *(((5, 1, 40), (5, 40, 1)), ((2, 3, 0), (2, 0, 4)), ((1, 2, 300), (1, 300, 3))),
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_in_stacks_and_of_integers(dtype: str, rng: np.random.Generator) -> None:
    """Exactly those of NumPy where nothing is rounded: numbers are small integers here."""
    for shapes in PRODUCTS:
        x, y = (values(rng, shape, dtype) for shape in shapes)
        if x.dtype.kind == "f":
            x, y = np.round(8 * x), np.round(8 * y)
        want = by_rule(Op.MATMUL, x, y)
        for a, b in ((x, y), (x, np.swapaxes(np.swapaxes(y, -1, -2).copy(), -1, -2))):
            assert same_bits(native(Op.MATMUL, a, b) + 0, want + 0)
        repeated = np.broadcast_to(y[:1], y.shape)
        assert same_bits(native(Op.MATMUL, x, repeated) + 0, by_rule(Op.MATMUL, x, repeated) + 0)


# --- softmax


def excess(row: list[float]) -> tuple[mpf, mpf]:
    """ln Σ e^(x − m), m the largest x, and how far it moves if each x − m does by its share."""
    first, *others = sorted(map(mpf, row), reverse=True)
    terms = [(v - first, mp.exp(v - first)) for v in others]
    return mpmath.log1p(mp.fsum(e for _, e in terms)), mp.fsum(-v * e for v, e in terms)


@pytest.mark.parametrize("width", WIDTHS)
@each_float
def test_rows_are_those_of_mpmath(dtype: str, width: int, rng: np.random.Generator) -> None:
    """To a few units in the last place of ln Σ e^(x − m), of x − m in it, and of x − m or m beside.

    Rows of every length about that of a vector; flat ones, steep ones, and ones that tie.
    """
    info = np.finfo(dtype)
    u, least = float(info.eps) / 2, float(info.smallest_subnormal)
    for classes in (1, 2, 10, 15, 16, 17, 33, 100):
        x = rng.standard_normal((19, classes)).astype(dtype)
        x[1], x[2, 0], x[3] = x[1, 0], 30.0, 60.0 * x[3]
        x[4, -1] = x[4].max()
        with mp.workdps(40):
            exact = [excess(row) for row in x.tolist()]
            for y, axis in ((x, 1), (np.ascontiguousarray(x.T), 0), (np.asfortranarray(x), 1)):
                lse = native(Op.LOGSUMEXP, y, axis=axis, width=width).tolist()
                out = native(Op.LOG_SOFTMAX, y, axis=axis, width=width)
                for i, row in enumerate(x.tolist()):
                    top, (log, moved) = mpf(max(row)), exact[i]
                    rest = u * (12 * log + moved) + least
                    assert abs(lse[i] - top - log) <= 2 * u * abs(top) + rest
                    for got, v in zip((out if axis else out.T)[i].tolist(), row, strict=True):
                        far = v - top
                        assert abs(got - (far - log)) <= 2 * u * abs(far) + rest


@each_float
def test_rows_of_special_values_are_those_of_the_rule(dtype: str) -> None:
    inf, nan, largest = np.inf, np.nan, float(np.finfo(dtype).max)
    odd = (0.0, 1.0, inf, -inf, nan, largest, -largest)
    pairs = [(a, b, c) for a in odd for b in odd for c in odd]
    for extra in (0, 20):
        x = np.array([(*p, *[-2.0] * extra) for p in pairs], dtype)
        for y, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
            for op in (Op.LOG_SOFTMAX, Op.LOGSUMEXP):
                got, want = native(op, y, axis=axis), by_rule(op, y, axis=axis)
                np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps)
    only = np.full((3, 5), -inf, dtype)
    for op in (Op.LOG_SOFTMAX, Op.LOGSUMEXP):
        assert same_bits(native(op, only, axis=1), by_rule(op, only, axis=1))
    none = np.zeros((3, 0), dtype)
    assert same_bits(native(Op.LOGSUMEXP, none, axis=1), np.full(3, -inf, dtype))


# --- movement

INDICES = (
    np.array([0, -1, 3, 3, -7]),
    np.array([[6, 0], [-7, 2]], np.int32),
    np.array([1, 6, 1], np.uint8),
    np.array([2, 5], np.uint32),
    np.array(-2),
    np.zeros((0,), np.int64),
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_taken_and_added_by_their_indices(dtype: str, rng: np.random.Generator) -> None:
    for shape, axis in (((7,), 0), ((7, 20), 0), ((3, 7), 1), ((2, 7, 5), 1), ((7, 1, 4), 0)):
        x = values(rng, shape, dtype)
        for indices in INDICES:
            taken = np.take(x, indices, axis)
            for y in layouts(x) if taken.size else []:  # what has no elements needs no kernel
                assert same_bits(native(Op.GATHER, y, indices, axis=axis), taken)
            for y in layouts(taken) if taken.ndim else [taken]:
                got = native(Op.SCATTER_ADD, y, indices, axis=axis, size=7)
                assert same_bits(got, by_rule(Op.SCATTER_ADD, taken, indices, axis=axis, size=7))


def test_an_index_out_of_bounds_is_an_error_and_touches_no_other_memory() -> None:
    x, high = np.arange(6.0).reshape(3, 2), np.int64(2**62)
    for indices in ([0, 3], [-4, 0], [high, 1], [-high, 1]):
        bad = np.array(indices)
        ready = Ready(Op.GATHER, x, bad, axis=0)
        ready()
        assert ready.flag[0]
        assert np.isin(ready.out, x).all()
        added = Ready(Op.SCATTER_ADD, x[:2], bad, axis=0, size=3)
        added()
        assert added.flag[0]
    nothing = Ready(Op.GATHER, np.zeros((0, 2)), np.array([0]), axis=0)
    nothing()
    assert nothing.flag[0]


@pytest.mark.parametrize(
    "take", [F.take, lambda x, i: isograd.grad(lambda y: F.sum(F.take(y, i)))(x)]
)
def test_a_program_refuses_indices_out_of_bounds_once(take: Any) -> None:
    x = np.arange(4.0)
    program = Native(plan(isograd.trace(take, x, np.array([0, 1]))))
    right = program(x, np.array([3, -4]))
    with pytest.raises(IndexError, match="out of bounds"):
        program(x, np.array([0, 4]))
    np.testing.assert_array_equal(program(x, np.array([3, -4])), right)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_are_put_around(dtype: str, rng: np.random.Generator) -> None:
    cases = [((5,), (1,), (2,), (0,)), ((5,), (0,), (0,), (3,)), ((), (), (), ())]
    cases += [((4, 20), (1, 0), (0, 2), (0, 1)), ((0, 3), (2, 1), (1, 0), (4, 0))]
    cases += [((1, 33), (0, 0), (2, 0), (5, 0))]
    for shape, low, high, inner in cases:
        x = values(rng, shape, dtype)
        for y in layouts(x) if shape else [x]:
            got = native(Op.PAD, y, low=low, high=high, inner=inner)
            assert same_bits(got, by_rule(Op.PAD, x, low=low, high=high, inner=inner))


# --- random bits


@pytest.mark.parametrize("width", WIDTHS)
def test_random_bits_are_those_of_threefry(width: int) -> None:
    key, counter = np.array([0x13198A2E, 0x03707344], np.uint32), np.array(77, np.uint32)
    for n in (1, 2, 7, 32, 33, 200):
        blocks = [threefry(tuple(key.tolist()), (i // 2, 77))[i % 2] for i in range(n)]
        got = native(Op.RANDOM_BITS, key, counter, shape=(n,), width=width)
        assert got.tolist() == blocks
    turned = np.array([key[1], 5, key[0]], np.uint32)[::-2]
    got = native(Op.RANDOM_BITS, turned, counter, shape=(2, 3))
    assert got.reshape(-1).tolist() == [
        threefry(tuple(turned.tolist()), (i // 2, 77))[i % 2] for i in range(6)
    ]


# --- integers, booleans and casts

ARITHMETIC = (Op.ADD, Op.SUB, Op.MUL, Op.MAX, Op.MIN)
COMPARISONS = (Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE)


def corners(dtype: str) -> np.ndarray:
    if dtype == "bool":
        return np.array([False, True])
    info = np.iinfo(dtype)
    near = [info.min, info.min + 1, info.max, info.max - 1, info.max // 2, 0, 1, 2, 7]
    return np.array([*near, *([-1, -2, -7] if info.min else [])], dtype)


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_integers_and_booleans_are_those_of_numpy(dtype: str, rng: np.random.Generator) -> None:
    x = np.concatenate([corners(dtype), values(rng, (100,), dtype)])
    x, y = (np.ravel(a) for a in np.meshgrid(x, x))
    logical = (Op.ADD, Op.MUL, Op.MAX, Op.MIN)
    for op in (*(logical if dtype == "bool" else ARITHMETIC), *COMPARISONS):
        assert same_bits(native(op, x, y), by_rule(op, x, y)), op
    for op in (Op.ABS, *(() if dtype == "bool" else (Op.NEG, Op.SIGN))):
        assert same_bits(native(op, x), by_rule(op, x)), op
    mask = rng.random(x.size) < 0.5
    assert same_bits(native(Op.SELECT, mask, x, y), np.where(mask, x, y))


def castable(source: str, target: str, rng: np.random.Generator) -> np.ndarray:
    """Values of one dtype; numbers whose integer part the other has, if it has integers."""
    if source not in FLOATS:
        return np.concatenate([corners(source), values(rng, (60,), source)])
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-320, 1e30, -1e300, 0.5, -0.99, 1 / 3])
    with np.errstate(all="ignore"):
        odd = np.append(odd, 1.0 + np.array([2.0**-24, 3 * 2.0**-24, 2.0**-52])).astype(source)
    x = np.concatenate([odd, (100 * rng.standard_normal(60)).astype(source)])
    if target not in INTEGERS:
        return x
    info = np.iinfo(target)
    x = x[np.isfinite(x)]
    inside = [info.min <= math.trunc(Fraction(v)) <= info.max for v in x.tolist()]
    ends = np.array([info.min, info.max // 2, float(info.max) * (1 - 2.0**-20)], source)
    return np.concatenate([x[inside], ends])


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_casts_are_those_of_numpy(source: str, target: str, rng: np.random.Generator) -> None:
    x = castable(source, target, rng)
    got = native(Op.CAST, x, dtype=np.dtype(target))
    assert same_bits(got, by_rule(Op.CAST, x, dtype=np.dtype(target)))


@pytest.mark.parametrize("target", INTEGERS)
@each_float
def test_numbers_beyond_an_integer_end_at_its_bounds(dtype: str, target: str) -> None:
    """Where NumPy gives what the processor does."""
    info = np.iinfo(target)
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**64] * 5, dtype)
    want = [0, info.max, info.min, info.max, info.min, info.max] * 5
    assert native(Op.CAST, x, dtype=np.dtype(target)).tolist() == want


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.complex64])
def test_other_dtypes_are_left_to_the_rules(dtype: Any) -> None:
    """They can still be shown otherwise, joined and given back."""
    x = np.arange(6.0).reshape(2, 3).astype(dtype)

    def f(x: Any) -> Any:
        turned = F.transpose(x)
        return x, turned, F.reshape(turned, -1), F.concatenate([x, x + x]), F.sum(x, 0), x[1:]

    both = plan(isograd.trace(f, x))
    for got, want in zip(Native(both)(x), Executable(both)(x), strict=True):
        assert same_bits(got, want)


def test_widths_may_meet_in_one_loop(rng: np.random.Generator) -> None:
    """Masks and bytes, 32 and 64 bits: one kernel, and NumPy's values."""

    def f(x: Any, n: Any, mask: Any, byte: Any, wide: Any) -> Any:
        y = F.where(mask, x, 0.0) * F.astype(n, np.float32)
        hot = F.astype(F.equal(F.astype(byte, np.int64), n), np.float32)
        return y + hot + F.astype(wide + F.astype(byte, np.float64), np.float32)

    kinds = ("float32", "int64", "bool", "uint8", "float64")
    args = [values(rng, (67,), kind) for kind in kinds]
    args[1] = args[1] % 300
    program = Native(plan(isograd.trace(f, *(ArraySpec(a.shape, a.dtype) for a in args))))
    assert program.fallbacks == []
    x, n, mask, byte, wide = args
    want = np.where(mask, x, np.float32(0)) * n.astype(np.float32)
    want = want + (byte == n).astype(np.float32)
    want = want + (wide + byte.astype(np.float64)).astype(np.float32)
    assert same_bits(program(*args), want)
