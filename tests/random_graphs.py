"""Random functions of arrays, rich in what passes look for, and arguments rich in NaN and ±0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import isograd
from isograd.engine.dispatch import apply
from isograd.engine.graph import ArraySpec, Graph
from isograd.engine.ops import Op

F = isograd.functions
SHAPES = ((), (3,), (2, 3), (4, 1, 3))

_UNARY: tuple[Callable[[Any], Any], ...] = (
    F.negative,
    F.absolute,
    F.sign,
    F.exp,
    F.log,
    F.sqrt,
    F.tanh,
    F.logistic,
    F.erf,
    F.softplus,
    F.square,
    F.stop_gradient,
    lambda x: F.negative(F.negative(x)),
    lambda x: x * 1.0,
    lambda x: 1.0 * x,
    lambda x: x / 1.0,
    lambda x: x - 0.0,
    lambda x: x + 0.0,
    lambda x: x * 0.0,
    lambda x: x + -0.0,
    lambda x: x - -0.0,
    lambda x: x**1.0,
    lambda x: F.log(F.exp(x)),
    lambda x: F.exp(F.log(x)),
    lambda x: F.where(x > 0, x, x),
    lambda x: F.maximum(x, 0.0),
    lambda x: x + np.inf,
    lambda x: F.probe(x, "here"),
    lambda x: F.sum(x, keepdims=True),
    lambda x: F.astype(F.astype(x, np.float64), x.dtype),
)
_BINARY: tuple[Callable[[Any, Any], Any], ...] = (
    F.add,
    F.subtract,
    F.multiply,
    F.divide,
    F.maximum,
    F.minimum,
    lambda x, y: F.where(x > y, x, y),
    lambda x, y: F.where(x == y, y, x * y),
)
_AXES: tuple[Callable[[Any], Any], ...] = (
    lambda x: F.reshape(F.reshape(x, -1), x.shape[::-1]),
    lambda x: F.reshape(F.reshape(x, -1), x.shape),
    lambda x: F.reshape(F.transpose(x), x.shape),
    F.transpose,
    lambda x: F.transpose(F.transpose(x)),
    lambda x: F.transpose(x, (*range(1, x.ndim), 0)),
    lambda x: F.broadcast_to(F.broadcast_to(x, (1, *x.shape)), (2, *x.shape)),
    lambda x: F.sum(x, axis=0),
    lambda x: F.max(x, axis=-1),
    lambda x: F.logsumexp(x, axis=0),
    lambda x: F.log_softmax(x),
    lambda x: x[::-1],
    lambda x: x[..., ::2],
    lambda x: x[..., -1],
    lambda x: x[[0, -1, 0]],
    lambda x: F.concatenate([x, x[:1]]),
    lambda x: F.expand_dims(x, 0),
    lambda x: F.transpose(x) @ x if x.ndim == 2 else x,
    lambda x: x @ F.transpose(x) if x.ndim == 2 else x,
)


def random_function(seed: int, dtype: Any) -> Callable[..., Any]:
    """A function of three arrays of the shapes (), (3,) and (2, 3): the same at every call."""

    def f(*args: Any) -> Any:
        rng = np.random.default_rng(seed)
        pool = [*args, F.asarray(rng.normal(size=(2, 3)).astype(dtype)), dtype(1.0), dtype(0.0)]
        for _ in range(rng.integers(4, 24)):
            x = pool[rng.integers(len(pool))]
            kind = rng.random()
            if kind < 0.5:
                out = _UNARY[rng.integers(len(_UNARY))](F.asarray(x))
            elif kind < 0.75 and np.ndim(x):
                out = _AXES[rng.integers(len(_AXES))](x)
            else:
                y = pool[rng.integers(len(pool))]
                fits = np.shape(x) == np.shape(y) or not np.ndim(x) or not np.ndim(y)
                out = _BINARY[rng.integers(len(_BINARY))](x, y if fits else x)
            if F.asarray(out).size <= 64:
                pool.append(out)
        return [pool[i] for i in rng.integers(len(pool), size=3)] + pool[-1:]

    return f


def random_graph(seed: int, dtype: Any) -> Graph:
    """The graph of such a function."""
    specs = [ArraySpec(shape, dtype) for shape in ((), (3,), (2, 3))]
    return isograd.trace(random_function(seed, dtype), *specs)


def arguments(seed: int, dtype: Any) -> list[np.ndarray]:
    """Arguments for it: normal numbers, with special values strewn in."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.smallest_subnormal, 1.0],
        dtype,
    )
    arrays = []
    for shape in ((), (3,), (2, 3)):
        x = rng.normal(size=shape).astype(dtype)
        arrays.append(np.where(rng.random(shape) < 0.4, rng.choice(special, shape), x))
    return arrays


# --- graphs of every primitive, on every dtype

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


class Draw:
    """What the steps of a random function choose from; the same choices at every call."""

    def __init__(self, seed: int, pool: list[Any]) -> None:
        self.rng, self.pool = np.random.default_rng(seed), pool

    def some(self, kinds: str, fits: Callable[[Any], bool] = lambda x: True) -> Any:
        """An array of one of these kinds (of a dtype) with a property; a new one if none has it."""
        found = [x for x in self.pool if x.dtype.kind in kinds and fits(x)]
        if found:
            return found[self.rng.integers(len(found))]
        dtype = {"f": np.float32, "i": np.int64, "u": np.uint32, "b": np.bool_}[kinds[0]]
        return F.asarray(self.rng.integers(0, 2, (int(self.rng.integers(1, 4)), 3)).astype(dtype))

    def pair(self, kinds: str) -> tuple[Any, Any]:
        """Two arrays that broadcast, mostly of two dtypes."""
        x = self.some(kinds)
        return x, self.some(kinds, lambda y: _joint(x, y) is not None)

    def axis(self, x: Any) -> int:
        return int(self.rng.integers(x.ndim))

    def axes(self, x: Any) -> tuple[int, ...]:
        return tuple(k for k in range(x.ndim) if self.rng.random() < 0.6)

    def indices(self, n: int) -> Any:
        """Integers in [−n, n), computed or known, negative and repeated ones among them."""
        if self.rng.random() < 0.5:
            shape = [(), (2,), (3,), (0,), (2, 2)][self.rng.integers(5)]
            return self.rng.integers(-n, n, shape).astype(self.choice(("int32", "int64")))
        low = self.some("i", lambda x: x.size <= 8)
        return F.clip(low, -n, n - 1)

    def choice(self, options: tuple[Any, ...]) -> Any:
        return options[self.rng.integers(len(options))]

    def chosen(self, functions: tuple[Callable[..., Any], ...], *args: Any) -> Any:
        return self.choice(functions)(*args)


def _joint(*arrays: Any) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*(x.shape for x in arrays))
    except ValueError:
        return None


def _to_integers(d: Draw) -> Any:
    """Numbers within the range of the target: what lies beyond is nobody's promise."""
    x, dtype = d.some("f"), d.choice(INTEGERS)
    low, high = (0.0, 200.0) if dtype.startswith("u") else (-120.0, 120.0)
    return F.astype(F.where(F.equal(x, x), F.clip(x, low, high), 0.0), dtype)


def _chosen_by_mask(d: Draw) -> Any:
    x, y = d.pair("fiub")
    mask = d.some("b", lambda mask: _joint(mask, x, y) is not None)
    return F.where(mask if _joint(mask, x, y) is not None else F.greater(x, y), x, y)


def _product(d: Draw) -> Any:
    x = d.some("f" if d.rng.random() < 0.8 else "iu", lambda x: x.ndim >= 1)
    rows = x.shape[-1]
    y = d.some(
        x.dtype.kind,
        lambda y: (
            y.ndim >= 1
            and y.shape[-2 if y.ndim > 1 else 0] == rows
            and _joint(np.empty(x.shape[:-2]), np.empty(y.shape[:-2])) is not None
        ),
    )
    if y.ndim < 1 or y.shape[-2 if y.ndim > 1 else 0] != rows:
        y = F.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)) if x.ndim > 1 else x
    return x @ y


def _gathered(d: Draw) -> Any:
    x = d.some("fiub", lambda x: x.ndim >= 1 and x.size)
    axis = d.axis(x)
    return F.take(x, d.indices(x.shape[axis]), axis)


def _scattered(d: Draw) -> Any:
    x = d.some("fiu", lambda x: x.ndim >= 1)
    axis, size = d.axis(x), int(d.rng.integers(1, 5))
    indices = d.rng.integers(-size, size, x.shape[axis])
    return apply(Op.SCATTER_ADD, x, F.asarray(indices), axis=axis, size=size)


def _padded(d: Draw) -> Any:
    x = d.some("fiub")
    low, high, inner = (tuple(map(int, d.rng.integers(0, 3, x.ndim))) for _ in range(3))
    return apply(Op.PAD, x, low=low, high=high, inner=inner)


def _joined(d: Draw) -> Any:
    x = d.some("fiub", lambda x: x.ndim >= 1)
    axis = d.axis(x)
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    y = d.some("fiub", lambda y: y.ndim == x.ndim and y.shape[:axis] + y.shape[axis + 1 :] == rest)
    y = y if y.ndim == x.ndim and y.shape[:axis] + y.shape[axis + 1 :] == rest else x
    return F.concatenate([x, y, x[:0]] if axis == 0 else [y, x], axis)


def _sliced(d: Draw) -> Any:
    x = d.some("fiub", lambda x: x.ndim >= 1)
    index = (slice(None),) * d.axis(x)
    step = d.choice((slice(None, None, -1), slice(1, None), slice(None, None, 2), slice(0, 0), 0))
    return x if step == 0 and 0 in x.shape else x[(*index, step)]


def _repeated(d: Draw) -> Any:
    x = d.some("fiub")
    shape = (2, *(d.choice((2, 3)) if n == 1 else n for n in x.shape))
    return F.broadcast_to(x, shape)


def _moved(d: Draw) -> Any:
    x = d.some("fiub")
    return F.transpose(x, tuple(map(int, d.rng.permutation(x.ndim))))


def _maximum(d: Draw) -> Any:
    x = d.some("fiub", lambda x: x.size)
    return apply(Op.REDUCE_MAX, x, axes=d.axes(x))


def _total(d: Draw) -> Any:
    x = d.some("fiub")
    return apply(Op.SUM, x, axes=d.axes(x))


def _bits(d: Draw) -> Any:
    key = d.some("u", lambda x: x.dtype == np.uint32 and x.shape == (2,))
    shape = d.choice(((3,), (2, 3), (), (0,), (37,)))
    if key.dtype != np.uint32 or key.shape != (2,):
        return F.random_bits(np.array([1, 2], np.uint32), int(d.rng.integers(9)), shape)
    return F.random_bits(key, int(d.rng.integers(9)), shape)


def _rounded(d: Draw) -> Any:
    x, form = d.some("f"), d.choice(("fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2"))
    key = np.array([1, 2], np.uint32)
    words = F.random_bits(key, int(d.rng.integers(9)), x.shape) if d.rng.random() < 0.5 else None
    if d.rng.random() < 0.5:
        return F.round_to(x, form, words)
    return F.round_cotangent(x, form, d.choice((1.0, 1024.0)), words)


_NUMERIC = (F.add, F.subtract, F.multiply, F.maximum, F.minimum)
_COMPARISONS = (F.equal, F.not_equal, F.less, F.less_equal, F.greater, F.greater_equal)
_ELEMENTARY = (
    *(F.exp, F.expm1, F.log, F.log1p, F.sqrt, F.tanh, F.logistic, F.erf, F.erfc, F.sin, F.cos),
    *(F.softplus, F.negative, F.absolute, F.sign, F.square, F.stop_gradient),
    lambda x: F.probe(x, "here"),
)
_ROWS = (F.logsumexp, F.log_softmax)

STEPS: tuple[Callable[[Draw], Any], ...] = (
    *[lambda d: d.chosen(_ELEMENTARY, d.some("f"))] * 4,
    *[lambda d: d.chosen((*_NUMERIC, F.divide, F.power), *d.pair("f"))] * 3,
    lambda d: d.chosen(_NUMERIC, *d.pair("iu")),
    lambda d: d.chosen((F.negative, F.absolute, F.sign, F.square), d.some("iu")),
    lambda d: d.chosen((F.add, F.multiply, F.maximum, F.minimum), *d.pair("b")),
    lambda d: d.chosen(_COMPARISONS, *d.pair("fiub")),
    lambda d: d.chosen(_COMPARISONS, *d.pair("f")),
    _chosen_by_mask,
    lambda d: (lambda x, y: F.where(F.less(x, y), x, y))(*d.pair("fiu")),
    _to_integers,
    lambda d: F.astype(d.some("iub"), d.choice((*INTEGERS, "bool", "float32", "float64"))),
    lambda d: F.astype(d.some("f"), d.choice(("bool", "float32", "float64"))),
    *(_product, _gathered, _scattered, _padded, _joined, _sliced, _repeated, _moved),
    *(_maximum, _total, _total, _bits, _rounded),
    lambda d: F.reshape(d.some("fiub"), -1),
    lambda d: (lambda x: d.chosen(_ROWS, x, d.axis(x)))(d.some("f", lambda x: x.ndim >= 1)),
)

KNOWN = (
    *(((), "f"), ((3,), "f"), ((2, 3), "f"), ((4, 1, 3), "g"), ((0, 3), "f"), ((5, 21), "f")),
    *(((3,), "int64"), ((2, 3), "int32"), ((2,), "uint32"), ((5,), "uint8"), ((2, 3), "bool")),
)
"""Shapes and dtypes of the arguments: f is the one asked for, g the other one of numbers."""


def _dtypes(dtype: Any) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    names = {"f": np.dtype(dtype), "g": np.dtype("f4" if dtype == np.float64 else "f8")}
    return [(shape, names.get(name) or np.dtype(name)) for shape, name in KNOWN]


def every_function(seed: int, dtype: Any) -> Callable[..., Any]:
    """A function of arrays of every dtype, made of every primitive: the same at every call."""

    def f(*args: Any) -> Any:
        draw = Draw(seed, [F.asarray(x) for x in args])
        known = [special(draw.rng, shape, d) for shape, d in _dtypes(dtype)[1:]]
        draw.pool += [F.asarray(x) for x in known]
        start = len(draw.pool)
        for _ in range(draw.rng.integers(4, 30)):
            out = draw.chosen(STEPS, draw)
            if out.size <= 128:
                draw.pool.append(F.asarray(out))
        return draw.pool[start:][-4:]

    return f


def every_graph(seed: int, dtype: Any) -> Graph:
    """The graph of such a function."""
    specs = [ArraySpec(shape, d) for shape, d in _dtypes(dtype)]
    return isograd.trace(every_function(seed, dtype), *specs)


def gradient_graph(seed: int, dtype: Any) -> Graph:
    """The graph of its gradient, of what it gives in numbers, by its arguments that are numbers."""
    f, specs = every_function(seed, dtype), [ArraySpec(s, d) for s, d in _dtypes(dtype)]

    def total(*args: Any) -> Any:
        outs = [F.sum(F.astype(x, dtype)) for x in f(*args) if x.dtype.kind == "f"]
        return sum(outs, F.asarray(dtype(0.0)) + args[0])

    numbers = tuple(i for i, spec in enumerate(specs) if spec.dtype.kind == "f")
    return isograd.trace(isograd.grad(total, argnums=numbers), *specs)


def special(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Ordinary values of a dtype, with special ones strewn in."""
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        odd = np.array([info.min, info.max, 0, 1], dtype)
        x = rng.integers(max(info.min, -5), 6, shape).astype(dtype)
    else:
        limits = np.finfo(dtype)
        odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, limits.max, -limits.max], dtype)
        odd = np.append(odd, np.array([limits.smallest_subnormal, limits.tiny, 1.0], dtype))
        x = rng.normal(size=shape).astype(dtype)
    return np.where(rng.random(shape) < 0.3, rng.choice(odd, shape), x)


def every_argument(seed: int, dtype: Any) -> list[Any]:
    """Arguments for such a function."""
    rng = np.random.default_rng(seed)
    return [special(rng, shape, d) for shape, d in _dtypes(dtype)]
