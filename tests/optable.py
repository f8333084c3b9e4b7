"""One record per primitive: how to call it, and what it must give, by a reference of its own.

Elementwise primitives are held against mpmath (arithmetic against Python's own floats) value by
value, derivative included, at a table of special points. The others are written out here element by
element, in plain Python.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf

from isograd.engine.ops import Op

mp.dps = 40
INF, NAN = math.inf, math.nan
Shape = tuple[int, ...]
Sampler = Callable[[np.random.Generator, Shape], np.ndarray]


@dataclass(frozen=True)
class Case:
    """Shapes of the arguments, and parameters."""

    shapes: tuple[Shape, ...]
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scalar:
    """An elementwise primitive as a function of real numbers.

    Attributes:
        value: from Python floats to an mpf, or to a float where that is IEEE arithmetic itself.
        slopes: ∂/∂xᵢ likewise, one per argument; None where it is not held (not defined there).
        points: special arguments for a dtype, beside those that all primitives get.
        ulps: tolerance of the value in units in the last place, beyond the rounding of the
            reference: 0 demands the nearest number.
        slope_ulps: tolerance of the slopes, at the arguments. An error below the smallest normal
            number counts as none.
        flushes: whether the value too may lose what is below the smallest normal number.
    """

    value: Callable[..., Any]
    slopes: tuple[Callable[..., Any] | None, ...]
    points: Callable[[Any], list[float]] = lambda info: []
    ulps: float = 4
    slope_ulps: Callable[..., float] = lambda *x: 8
    flushes: bool = False


@dataclass(frozen=True)
class Row:
    """A primitive.

    Attributes:
        cases: shapes and parameters to call it with.
        samplers: per argument, random values inside the domain and away from kinks.
        scalar: for elementwise primitives, the reference.
        value: for the others, `value(*arrays, **params)` on float64 (or integer) arrays.
        bound: the absolute error allowed in a value, from the arguments as float64 arrays, in units
            of roundoff; None demands the bits.
        special: arguments with infinities, NaN, ties and saturation, for the first case that fits.
        smooth: the arguments with derivatives that are not zero.
        integers: whether it takes int32 and int64.
        straight: whether its derivative is by definition that of its first argument, not of itself.
    """

    op: Op
    cases: tuple[Case, ...]
    samplers: tuple[Sampler, ...]
    scalar: Scalar | None = None
    value: Callable[..., np.ndarray] | None = None
    bound: Callable[..., Any] | None = None
    special: tuple[tuple[Any, ...], ...] = ()
    smooth: tuple[int, ...] = (0,)
    integers: bool = True
    straight: bool = False

    def sample(self, rng: np.random.Generator, case: Case, dtype: Any) -> list[np.ndarray]:
        """Arguments for a case; integer samplers (indices, conditions) keep their dtype."""
        samplers = itertools.chain(self.samplers, itertools.repeat(self.samplers[-1]))
        arrays = [
            np.asarray(s(rng, shape)) for s, shape in zip(samplers, case.shapes, strict=False)
        ]
        return [a.astype(dtype) if a.dtype == np.float64 else a for a in arrays]


# --- samplers


def normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.normal(size=shape)


def positive(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.uniform(0.5, 2.5, size=shape)


def apart(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """No two elements equal or nearly so, none near 0."""
    n = math.prod(shape)
    return (rng.permutation(n) - n // 2 + rng.uniform(0.3, 0.7, size=n)).reshape(shape)


def above(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Away from `apart`: never a tie with it."""
    return np.floor(apart(rng, shape)) + rng.choice([0.1, 0.9], size=shape)


def condition(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.random(size=shape) < 0.5


def indices(n: int) -> Sampler:
    """Integers in [−n, n): negative and repeated ones among them."""
    return lambda rng, shape: rng.integers(-n, n, size=shape)


# --- the elementwise ones

_SHAPES: tuple[Shape, ...] = ((), (1,), (3,), (2, 3), (0,), (2, 0))


def common_points(info: Any) -> list[float]:
    """Points at which every elementwise primitive is held, for a dtype."""
    tiny, small, top = float(info.smallest_subnormal), float(info.smallest_normal), float(info.max)
    positive_points = [0.0, tiny, small, float(info.eps), 0.5, 1.0, 2.0, 10.0, top, INF]
    return [s * x for x in positive_points for s in (1.0, -1.0)] + [NAN]


def _elementwise(op: Op, scalar: Scalar, *samplers: Sampler, **more: Any) -> Row:
    arity = len(scalar.slopes)
    cases = tuple(Case((shape,) * arity) for shape in _SHAPES)
    smooth = tuple(i for i, slope in enumerate(scalar.slopes) if slope is not None)
    return Row(op, cases, samplers or (normal,), scalar=scalar, **{"smooth": smooth, **more})


def _real(value: Callable[..., Any], slope: Callable[..., Any], **more: Any) -> Scalar:
    """A smooth function of one variable; NaN in, NaN out."""

    def guarded(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: NAN if math.isnan(x) else f(mpf(x))

    return Scalar(guarded(value), (guarded(slope),), **more)


def _divide(x: float, y: float) -> float:
    """IEEE division, which Python refuses at 0."""
    if y != 0:
        return x / y
    if x == 0 or math.isnan(x):
        return NAN
    return math.copysign(INF, x) * math.copysign(1.0, y)


def _power(x: float, y: float) -> Any:
    """pow of C99 at zeros, infinities and NaN; mpmath elsewhere."""
    if x == 0 or not (math.isfinite(x) and math.isfinite(y)):
        try:
            return math.pow(x, y)
        except ValueError:  # 0 to a negative power
            return math.copysign(INF, x) if y % 2 == 1 else INF
    return NAN if x < 0 and y != int(y) else mpf(x) ** mpf(y)


def _moderate(x: Any, y: Any) -> bool:
    return x > 0 and 1e-37 < x**y < 1e37


def _finite(f: Callable[..., Any]) -> Callable[..., Any]:
    """A slope that is held at finite arguments alone."""
    return lambda *xs: f(*map(mpf, xs)) if all(map(math.isfinite, xs)) else None


def _pick(order: Callable[[float, float], bool], first: bool) -> Callable[[float, float], float]:
    """Slope of max or min: all to the winner, a tie shared, NaN passed on to both."""

    def slope(x: float, y: float) -> float:
        x, y = (x, y) if first else (y, x)
        return 0.0 if order(y, x) else 0.5 if x == y else 1.0

    return slope


def _extreme(choose: Callable[[float, float], float]) -> Callable[[float, float], float]:
    return lambda x, y: NAN if math.isnan(x) or math.isnan(y) else choose(x, y)


def _logistic_slope(x: Any) -> Any:
    return mpf(0) if mpmath.isinf(x) else mp.exp(-abs(x)) / (1 + mp.exp(-abs(x))) ** 2


def _erfc(x: Any) -> Any:
    """mpmath cannot take the exponential of −10⁶¹⁵."""
    return mpf(0) if x > 1e4 else mp.erfc(x)


def _oscillating(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of an angle, with digits enough to reduce the largest one; NaN at ±inf."""

    def value(x: Any) -> Any:
        if mpmath.isinf(x):
            return NAN
        with mpmath.workdps(360):
            return +f(x)

    return value


def _large_angles(info: Any) -> list[float]:
    """Angles near multiples of π/2, where digits cancel, and large ones; the last is the float64
    nearest to such a multiple (Muller 2016, Elementary functions, on range reduction)."""
    near = [k * math.pi / 2 for k in (1, 2, 3, 101, 1e5, 1e15)]
    worst = [math.ldexp(6381956970095103.0, 797)] if info.bits == 64 else []
    return [s * x for x in (*near, 1e3, 1e5, 71476.0, 1e8, 1e22, 1e30, *worst) for s in (1, -1)]


_EXACT = {"ulps": 0, "slope_ulps": lambda *x: 0}
_NONE = (None, None)


def _ln_max(info: Any) -> float:
    return math.log(float(info.max))


def _around(*centres: float) -> Callable[[Any], list[float]]:
    return lambda info: [s * c for c in centres for s in (1.0, -1.0)]


_GREATER, _LESS = (lambda x, y: x > y), (lambda x, y: x < y)

ELEMENTWISE = (
    _elementwise(Op.ADD, Scalar(lambda x, y: x + y, (lambda x, y: 1.0,) * 2, **_EXACT)),
    _elementwise(
        Op.SUB,
        Scalar(lambda x, y: x - y, (lambda x, y: 1.0, lambda x, y: -1.0), **_EXACT),
    ),
    _elementwise(
        Op.MUL,
        Scalar(lambda x, y: x * y, (lambda x, y: y, lambda x, y: x), **_EXACT),
    ),
    _elementwise(
        Op.DIV,
        Scalar(
            _divide,
            (
                lambda x, y: _divide(1.0, y),
                _finite(lambda x, y: -x / y**2 if y else None),
            ),
            ulps=0,
            slope_ulps=lambda x, y: 2,
        ),
        normal,
        positive,
        integers=False,
    ),
    _elementwise(
        Op.POW,
        Scalar(
            _power,
            (
                _finite(lambda x, y: y * x ** (y - 1) if _moderate(x, y - 1) else None),
                _finite(lambda x, y: x**y * mp.log(x) if _moderate(x, y) else None),
            ),
            # y − 1 is rounded
            slope_ulps=lambda x, y: 8 + (abs((y - 1) * math.log(x)) if 0 < x < INF else 0),
        ),
        positive,
        normal,
        integers=False,
    ),
    _elementwise(Op.NEG, Scalar(lambda x: -x, (lambda x: -1.0,), **_EXACT)),
    _elementwise(
        Op.ABS,
        Scalar(abs, (lambda x: x if math.isnan(x) or x == 0 else math.copysign(1, x),), **_EXACT),
        apart,
    ),
    _elementwise(
        Op.SIGN,
        Scalar(lambda x: x if math.isnan(x) else float((x > 0) - (x < 0)), (None,), ulps=0),
        apart,
    ),
    _elementwise(
        Op.MAX,
        Scalar(_extreme(max), (_pick(_GREATER, True), _pick(_GREATER, False)), **_EXACT),
        apart,
        above,
    ),
    _elementwise(
        Op.MIN,
        Scalar(_extreme(min), (_pick(_LESS, True), _pick(_LESS, False)), **_EXACT),
        apart,
        above,
    ),
    _elementwise(
        Op.EXP,
        _real(mp.exp, mp.exp, points=lambda i: [_ln_max(i) * s for s in (1.001, 0.999, -0.98)]),
        integers=False,
    ),
    _elementwise(
        Op.EXPM1,
        _real(mp.expm1, mp.exp, points=_around(1e-3, 1e-8, 1e-20, 40, 88, 700)),
        integers=False,
    ),
    _elementwise(
        Op.LOG,
        _real(
            lambda x: mp.log(x) if x >= 0 else NAN,
            lambda x: 1 / x if x > 0 else None,
            points=lambda info: [1 + float(info.eps), 1 - float(info.eps), 3.0],
        ),
        positive,
        integers=False,
    ),
    _elementwise(
        Op.LOG1P,
        _real(
            lambda x: mp.log1p(x) if x > -1 else -INF if x == -1 else NAN,
            lambda x: 1 / (1 + x) if x > -1 else None,
            points=lambda info: [float(info.eps) - 1, -0.999, 1e-10, -1e-10, 1e30],
        ),
        positive,
        integers=False,
    ),
    _elementwise(
        Op.SQRT,
        _real(
            lambda x: NAN if x < 0 else mp.sqrt(x),
            lambda x: 1 / (2 * mp.sqrt(x)) if x > 0 else None,
            ulps=0.5,
        ),
        positive,
        integers=False,
    ),
    _elementwise(
        Op.TANH,
        _real(mp.tanh, lambda x: mp.sech(x) ** 2, points=_around(5, 10, 20, 40, 300, 1000)),
        integers=False,
    ),
    _elementwise(
        Op.LOGISTIC,
        _real(
            lambda x: 1 / (1 + mp.exp(-x)),
            _logistic_slope,
            points=_around(20, 40, 80, 600, 1000),
            flushes=True,
        ),
        integers=False,
    ),
    *(
        _elementwise(
            op,
            _real(
                value,
                lambda x, sign=sign: sign * 2 / mp.sqrt(mp.pi) * mp.exp(-(x**2)),
                points=_around(3, 6, 9, 26),
                slope_ulps=lambda x: 8 + x * x,
                flushes=op is Op.ERFC,
            ),
            integers=False,
        )
        for op, value, sign in ((Op.ERF, mp.erf, 1), (Op.ERFC, _erfc, -1))
    ),
    *(
        _elementwise(
            op,
            # NumPy's vector instructions are 8 units off at the worst case.
            _real(_oscillating(f), _oscillating(slope), points=_large_angles, ulps=8),
            integers=False,
        )
        for op, f, slope in (
            (Op.SIN, mp.sin, mp.cos),
            (Op.COS, mp.cos, lambda x: -mp.sin(x)),
        )
    ),
    *(
        _elementwise(op, Scalar(compare, _NONE, ulps=0))
        for op, compare in (
            (Op.EQ, lambda x, y: x == y),
            (Op.NE, lambda x, y: x != y),
            (Op.LT, lambda x, y: x < y),
            (Op.LE, lambda x, y: x <= y),
            (Op.GT, lambda x, y: x > y),
            (Op.GE, lambda x, y: x >= y),
        )
    ),
    _elementwise(
        Op.SELECT,
        Scalar(
            lambda c, x, y: x if c else y,
            (None, lambda c, x, y: 1.0 if c else 0.0, lambda c, x, y: 0.0 if c else 1.0),
            **_EXACT,
        ),
        condition,
        normal,
        normal,
    ),
    _elementwise(
        Op.SOFTPLUS,
        _real(
            lambda x: mpf(0) if x == -INF else x if x == INF else mp.log1p(mp.exp(x)),
            lambda x: 1 / (1 + mp.exp(-x)),
            points=_around(20, 40, 80, 600, 1000),
            flushes=True,
        ),
        integers=False,
    ),
    _elementwise(
        Op.STOP_GRADIENT,
        Scalar(lambda x: x, (None,), ulps=0),
    ),
)
