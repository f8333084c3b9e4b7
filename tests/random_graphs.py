"""Random functions of arrays, rich in what passes look for, and arguments rich in NaN and ±0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import isograd
from isograd.engine.graph import ArraySpec, Graph

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
