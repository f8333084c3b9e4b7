"""The rows of the op table that are not elementwise; see `optable`."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
from mpmath import mp, mpf
from optable import ELEMENTWISE, INF, NAN, Case, Row, Shape, apart, indices, normal
from threefry import threefry

from isograd.engine.number_formats import FORMATS
from isograd.engine.ops import Op


def _build(shape: Shape, dtype: Any, element: Any) -> np.ndarray:
    """An array from a function of the index."""
    out = np.empty(shape, dtype)
    for index in np.ndindex(*shape):
        out[index] = element(index)
    return out


# --- narrower formats


def nearest(x: float, form: str, word: float = math.nan) -> float:
    """x rounded to a format in rational arithmetic: to nearest even, or by a random word."""
    f = FORMATS[form]
    if not math.isfinite(x):
        return x if f.infinities else NAN
    least = max(math.frexp(x)[1] - 1, f.min_exponent) - f.fraction_bits
    units = Fraction(abs(x)) / Fraction(2) ** least
    if math.isnan(word):
        units = Fraction(round(units))  # Python's takes ties to even
    else:  # the fraction of the way counts to 32 digits
        whole = math.floor(units)
        units = Fraction(whole + (math.floor((units - whole) * 2**32) + int(word) >= 2**32))
    out = units * Fraction(2) ** least
    if out > Fraction(f.max):
        return math.copysign(INF, x) if f.infinities else NAN
    return math.copysign(float(out), x)


def _round(x: np.ndarray, bits: np.ndarray | None = None, *, form: str) -> np.ndarray:
    words = np.full(x.shape, NAN) if bits is None else bits.astype(np.float64)
    return _build(x.shape, np.float64, lambda i: nearest(float(x[i]), form, float(words[i])))


def _power_of_two(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return 2.0 ** rng.integers(-4, 5, shape)


# --- reductions


def _kept(shape: Shape, axes: Shape) -> list[int]:
    return [k for k in range(len(shape)) if k not in axes]


def _lines(x: np.ndarray, axes: Shape) -> tuple[Shape, Any]:
    """The shape without the axes, and for each index of it the elements along them."""
    kept = _kept(x.shape, axes)

    def elements(index: Shape) -> list[float]:
        at = dict(zip(kept, index, strict=True))
        ranges = [range(n) if k in axes else (at[k],) for k, n in enumerate(x.shape)]
        return [x[i] for i in itertools.product(*ranges)]

    return tuple(x.shape[k] for k in kept), elements


def _total(values: list[Any]) -> Any:
    """The sum, rounded once if all is finite."""
    if all(math.isfinite(v) for v in values):
        return math.fsum(values)
    with np.errstate(invalid="ignore"):
        return np.add.reduce(values)


def _sum(x: np.ndarray, *, axes: Shape) -> np.ndarray:
    shape, line = _lines(x, axes)
    return _build(shape, x.dtype, lambda i: _total(line(i)))


def _sum_bound(x: np.ndarray, *, axes: Shape) -> Any:
    finite = np.where(np.isfinite(x), x, 0.0)
    n = math.prod(x.shape[a] for a in axes)
    return n * _sum(np.abs(finite), axes=axes)


def _reduce_max(x: np.ndarray, *, axes: Shape) -> np.ndarray:
    shape, line = _lines(x, axes)

    def largest(index: Shape) -> Any:
        values = line(index)
        return NAN if any(v != v for v in values) else max(values)

    return _build(shape, x.dtype, largest)


def _matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def element(index: Shape) -> Any:
        *batch, i, j = index
        b = tuple(batch)
        with np.errstate(invalid="ignore", over="ignore"):
            return _total([x[(*b, i, k)] * y[(*b, k, j)] for k in range(x.shape[-1])])

    return _build((*x.shape[:-1], y.shape[-1]), x.dtype, element)


def _matmul_bound(x: np.ndarray, y: np.ndarray) -> Any:
    x, y = (np.abs(np.where(np.isfinite(a), a, 0.0)) for a in (x, y))
    return 2 * x.shape[-1] * _matmul(x, y)


# --- stable composites


def _exact_lse(values: list[float]) -> Any:
    if any(v != v for v in values):
        return mpf(NAN)
    if any(v == INF for v in values):
        return mpf(INF)
    finite = [mpf(v) for v in values if v > -INF]
    if not finite:
        return mpf(-INF)
    top = max(finite)
    rest = mp.fsum(mp.exp(v - top) for v in finite) - 1
    return top + mp.log1p(rest)


def _logsumexp(x: np.ndarray, *, axis: int) -> np.ndarray:
    shape, line = _lines(x, (axis,))
    return _build(shape, np.float64, lambda i: float(_exact_lse(line(i))))


def _logsumexp_bound(x: np.ndarray, *, axis: int) -> Any:
    shape, line = _lines(x, (axis,))

    def size(index: Shape) -> float:
        finite = [abs(v) for v in line(index) if math.isfinite(v)]
        top = max((v for v in line(index) if math.isfinite(v)), default=0.0)
        out = float(_exact_lse(finite)) if finite else 0.0
        exact = float(_exact_lse(line(index)))
        return 4 * max(abs(top), abs(exact) if math.isfinite(exact) else out)

    return _build(shape, np.float64, size)


def _log_softmax(x: np.ndarray, *, axis: int) -> np.ndarray:
    _, line = _lines(x, (axis,))
    kept = _kept(x.shape, (axis,))

    def element(index: Shape) -> float:
        return float(mpf(x[index]) - _exact_lse(line(tuple(index[k] for k in kept))))

    return _build(x.shape, np.float64, element)


def _log_softmax_bound(x: np.ndarray, *, axis: int) -> Any:
    out = _log_softmax(x, axis=axis)
    return 8 * np.where(np.isfinite(out), np.abs(out), 0.0)


# --- movement


def _slice(x: np.ndarray, *, start: Shape, stop: Shape, step: Shape) -> np.ndarray:
    ranges = [range(a, b, s) for a, b, s in zip(start, stop, step, strict=True)]
    shape = tuple(map(len, ranges))
    return _build(shape, x.dtype, lambda i: x[tuple(r[k] for r, k in zip(ranges, i, strict=True))])


def _pad(x: np.ndarray, *, low: Shape, high: Shape, inner: Shape) -> np.ndarray:
    rows = list(zip(x.shape, low, high, inner, strict=True))
    out = np.zeros([a + b + n + max(n - 1, 0) * k for n, a, b, k in rows], x.dtype)
    for index in np.ndindex(*x.shape):
        out[tuple(a + i * (k + 1) for i, a, k in zip(index, low, inner, strict=True))] = x[index]
    return out


def _concatenate(*xs: np.ndarray, axis: int) -> np.ndarray:
    owner = [(p, k) for p, x in enumerate(xs) for k in range(x.shape[axis])]
    shape = (*xs[0].shape[:axis], len(owner), *xs[0].shape[axis + 1 :])

    def element(index: Shape) -> Any:
        p, k = owner[index[axis]]
        return xs[p][(*index[:axis], k, *index[axis + 1 :])]

    return _build(shape, xs[0].dtype, element)


def _gather(x: np.ndarray, where: np.ndarray, *, axis: int) -> np.ndarray:
    n = where.ndim
    shape = (*x.shape[:axis], *where.shape, *x.shape[axis + 1 :])
    return _build(
        shape, x.dtype, lambda i: x[(*i[:axis], where[i[axis : axis + n]], *i[axis + n :])]
    )


def _scatter_add(x: np.ndarray, where: np.ndarray, *, axis: int, size: int) -> np.ndarray:
    n = where.ndim
    out = np.zeros((*x.shape[:axis], size, *x.shape[axis + n :]), x.dtype)
    with np.errstate(invalid="ignore"):
        for i in np.ndindex(*x.shape):
            out[(*i[:axis], where[i[axis : axis + n]], *i[axis + n :])] += x[i]
    return out


def _broadcast(x: np.ndarray, *, shape: Shape) -> np.ndarray:
    new = len(shape) - x.ndim

    def element(index: Shape) -> Any:
        return x[tuple(i if n > 1 else 0 for i, n in zip(index[new:], x.shape, strict=True))]

    return _build(shape, x.dtype, element)


def _transpose(x: np.ndarray, *, axes: Shape) -> np.ndarray:
    def element(index: Shape) -> Any:
        source = [0] * x.ndim
        for k, a in zip(index, axes, strict=True):
            source[a] = k
        return x[tuple(source)]

    return _build(tuple(x.shape[a] for a in axes), x.dtype, element)


def _reshape(x: np.ndarray, *, shape: Shape) -> np.ndarray:
    flat = [x[i] for i in np.ndindex(*x.shape)]
    numbers = iter(flat)
    return _build(shape, x.dtype, lambda i: next(numbers))


# --- random bits


def _random_bits(key: np.ndarray, counter: np.ndarray, *, shape: Shape) -> np.ndarray:
    def element(index: Shape) -> int:
        i = int(np.ravel_multi_index(index, shape)) if index else 0
        return threefry((int(key[0]), int(key[1])), (i // 2, int(counter)))[i % 2]

    return _build(shape, np.uint32, element)


def _words(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.integers(0, 2**32, shape, np.uint32)


def _cases(*rows: tuple[Any, ...]) -> tuple[Case, ...]:
    """From (shape, …, params) to cases."""
    return tuple(Case(row[:-1], row[-1]) for row in rows)


_WILD = np.array([[INF, 1.0, -0.0], [NAN, -INF, 2.0]])
_EDGES = np.array([65519.0, 65520.0, -65520.0, 2.0**-25, -(2.0**-25), 1.0001 * 2.0**-25])
_BIG = np.array([[1e4, -1e4, 1e4], [-INF, 3.0, -INF]])
_EVEN = np.array([[0.0, -40.0, -100.0], [5.0, 5.0, -INF]])
_LOST = np.array([[-INF, -INF, -INF], [INF, 0.0, NAN]])

ARRAYS = (
    Row(
        Op.SUM,
        _cases(
            ((2, 3), {"axes": (0, 1)}),
            ((2, 3), {"axes": (1,)}),
            ((3,), {"axes": (0,)}),
            ((1,), {"axes": (0,)}),
            ((0, 3), {"axes": (0,)}),
            ((2, 1, 3), {"axes": (0, 1)}),
            ((), {"axes": ()}),
        ),
        (normal,),
        value=_sum,
        bound=_sum_bound,
        special=((_WILD,),),
    ),
    Row(
        Op.REDUCE_MAX,
        _cases(
            ((2, 3), {"axes": (1,)}),
            ((2, 3), {"axes": (0, 1)}),
            ((1,), {"axes": (0,)}),
            ((3, 0, 2), {"axes": (0,)}),
            ((), {"axes": ()}),
        ),
        (apart,),
        value=_reduce_max,
        special=((_WILD,), (_BIG,), (_EVEN,)),
    ),
    Row(
        Op.MATMUL,
        _cases(
            ((2, 3), (3, 4), {}),
            ((1, 1), (1, 1), {}),
            ((5, 2, 3), (5, 3, 2), {}),
            ((2, 0), (0, 3), {}),
            ((0, 3), (3, 2), {}),
        ),
        (normal, normal),
        value=_matmul,
        bound=_matmul_bound,
        smooth=(0, 1),
        special=((_WILD, _WILD.reshape(3, 2)), (_WILD, np.ones((3, 2)))),
    ),
    Row(
        Op.RESHAPE,
        _cases(
            ((2, 3), {"shape": (3, 2)}),
            ((), {"shape": (1, 1)}),
            ((1,), {"shape": ()}),
            ((0, 3), {"shape": (2, 0)}),
        ),
        (normal,),
        value=_reshape,
        special=((_WILD,),),
    ),
    Row(
        Op.TRANSPOSE,
        _cases(
            ((2, 3), {"axes": (1, 0)}),
            ((2, 3, 4), {"axes": (2, 0, 1)}),
            ((2, 0), {"axes": (1, 0)}),
            ((), {"axes": ()}),
        ),
        (normal,),
        value=_transpose,
        special=((_WILD,),),
    ),
    Row(
        Op.BROADCAST,
        _cases(
            ((2, 3), {"shape": (2, 2, 3)}),
            ((), {"shape": (2, 3)}),
            ((1,), {"shape": (3,)}),
            ((3, 1), {"shape": (2, 3, 4)}),
            ((1, 3), {"shape": (0, 3)}),
            ((3,), {"shape": (1, 3)}),
        ),
        (normal,),
        value=_broadcast,
        special=((_WILD,),),
    ),
    Row(
        Op.SLICE,
        _cases(
            ((2, 3), {"start": (0, 1), "stop": (2, 3), "step": (1, 1)}),
            ((7,), {"start": (1,), "stop": (6,), "step": (2,)}),
            ((7,), {"start": (0,), "stop": (7,), "step": (3,)}),
            ((2, 3), {"start": (1, 1), "stop": (1, 3), "step": (1, 2)}),
            ((1,), {"start": (0,), "stop": (1,), "step": (5,)}),
            ((), {"start": (), "stop": (), "step": ()}),
        ),
        (normal,),
        value=_slice,
        special=((_WILD,),),
    ),
    Row(
        Op.PAD,
        _cases(
            ((2, 3), {"low": (1, 0), "high": (0, 2), "inner": (0, 1)}),
            ((3,), {"low": (0,), "high": (0,), "inner": (2,)}),
            ((0,), {"low": (1,), "high": (2,), "inner": (3,)}),
            ((), {"low": (), "high": (), "inner": ()}),
        ),
        (normal,),
        value=_pad,
        special=((_WILD,),),
    ),
    Row(
        Op.CONCATENATE,
        _cases(
            ((2, 3), (2, 3), {"axis": 0}),
            ((3,), {"axis": 0}),
            ((2, 3), (2, 0), (2, 1), {"axis": 1}),
            ((0,), (0,), {"axis": 0}),
        ),
        (normal,),
        value=_concatenate,
        special=((_WILD, _BIG),),
        smooth=(0, 1, 2),
    ),
    Row(
        Op.GATHER,
        _cases(
            ((3,), (5,), {"axis": 0}),
            ((2, 3), (2, 2), {"axis": 1}),
            ((3, 2), (), {"axis": 0}),
            ((3, 2), (0,), {"axis": 0}),
        ),
        (normal, indices(3)),
        value=_gather,
    ),
    Row(
        Op.SCATTER_ADD,
        _cases(
            ((5,), (5,), {"axis": 0, "size": 3}),
            ((2, 2, 2), (2, 2), {"axis": 1, "size": 4}),
            ((2,), (), {"axis": 0, "size": 3}),
            ((0, 2), (0,), {"axis": 0, "size": 3}),
        ),
        (normal, indices(3)),
        value=_scatter_add,
        bound=lambda x, where, **params: 4 * np.sum(np.abs(x)),
    ),
    Row(
        Op.CAST,
        tuple(
            Case((shape,), {"dtype": np.dtype(dtype)})
            for shape in ((2, 3), (), (0,))
            for dtype in ("float64", "float32", "int64", "bool")
        ),
        (lambda rng, shape: np.round(4 * rng.normal(size=shape)) / 4,),  # float32 holds them
        value=lambda x, *, dtype: _build(x.shape, dtype, lambda i: dtype.type(x[i])),
    ),
    Row(
        Op.RANDOM_BITS,
        _cases(
            ((2,), (), {"shape": (3, 5)}),
            ((2,), (), {"shape": ()}),
            ((2,), (), {"shape": (4,)}),
            ((2,), (), {"shape": (0, 3)}),
        ),
        (_words, _words),
        value=_random_bits,
        smooth=(),
        integers=False,
    ),
    Row(
        Op.ROUND,
        _cases(
            *(((2, 3), {"form": form}) for form in ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2")),
            *(((4, 5), (4, 5), {"form": form}) for form in ("fp16", "bf16", "fp8_e4m3")),
            ((), {"form": "fp64"}),
            ((0,), (0,), {"form": "fp16"}),
        ),
        (normal, _words),
        value=_round,
        special=((_WILD,), (_EDGES,)),
        integers=False,
        straight=True,
    ),
    Row(
        Op.ROUND_COTANGENT,
        _cases(
            ((2, 3), (2, 3), {"form": "fp64"}),
            ((2, 3), (2, 3), (2, 3), {"form": "fp64"}),
            ((), (), {"form": "fp64"}),
        ),
        (normal, _power_of_two, _words),
        value=lambda x, *rest, form: x,
        integers=False,
    ),
    Row(
        Op.LOGSUMEXP,
        _cases(
            ((2, 3), {"axis": 1}),
            ((2, 3), {"axis": 0}),
            ((1,), {"axis": 0}),
            ((2, 0), {"axis": 1}),
            ((0, 2), {"axis": 1}),
        ),
        (normal,),
        value=_logsumexp,
        bound=_logsumexp_bound,
        special=((_WILD,), (_BIG,), (_EVEN,), (_LOST,)),
        integers=False,
    ),
    Row(
        Op.LOG_SOFTMAX,
        _cases(
            ((2, 3), {"axis": 1}),
            ((2, 3), {"axis": 0}),
            ((1,), {"axis": 0}),
            ((2, 0), {"axis": 1}),
        ),
        (normal,),
        value=_log_softmax,
        bound=_log_softmax_bound,
        special=((_WILD,), (_BIG,), (_EVEN,), (_LOST,)),
        integers=False,
    ),
    Row(
        Op.PROBE,
        _cases(((2, 3), {"site": "a", "cotangent": "b"}), ((), {"site": "a", "cotangent": None})),
        (normal,),
        value=lambda x, **params: x,
        special=((_WILD,),),
    ),
)

TABLE: tuple[Row, ...] = (*ELEMENTWISE, *ARRAYS)
