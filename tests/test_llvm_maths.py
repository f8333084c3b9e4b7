"""Native maths: held against mpmath, float64 and the NumPy backend, in machine code on arrays."""

from __future__ import annotations

import functools
import itertools
import math
import platform
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
from llvmlite import binding, ir
from mpmath import mp, mpf
from native_arrays import Array, Compiled, loop, machine_of, optimised

from isograd.backends.llvm import coefficients
from isograd.backends.llvm.lanes import Floats, fma, nearest_integer
from isograd.backends.llvm.maths import ELEMENTWISE
from isograd.engine.ops import RULES, Op

ROOT = Path(__file__).parent.parent
DTYPES = (np.float32, np.float64)
INF, NAN = math.inf, math.nan
COMPARISONS = (Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE)
BINARY = (Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.POW, Op.MAX, Op.MIN, *COMPARISONS)


def types(op: Op, dtype: str) -> tuple[tuple[str, ...], str]:
    """What a primitive reads and writes."""
    reads = ("bool", dtype, dtype) if op is Op.SELECT else (dtype,) * (1 + (op in BINARY))
    return reads, "bool" if op in COMPARISONS else dtype


@functools.cache
def compiled(op: Op, dtype: str, n: int) -> Compiled:
    return Compiled(ELEMENTWISE[op], *types(op, dtype), n)


def native(op: Op, *arrays: Array, n: int = 0) -> Array:
    dtype = arrays[-1].dtype
    return compiled(op, dtype.name, n or 64 // dtype.itemsize)(*arrays)


def by_numpy(op: Op, *arrays: Array) -> Array:
    with np.errstate(all="ignore"):
        if op not in BOUND:
            return RULES[op].eval(*arrays)
        # In float64: SciPy's logistic function loses subnormal numbers of float32.
        wide = RULES[op].eval(*(a.astype(np.float64) for a in arrays))
        return np.asarray(wide).astype(arrays[0].dtype)


# --- references


def _softplus(x: mpf) -> mpf:
    return x + mpmath.log1p(mpmath.exp(-x)) if x > 0 else mpmath.log1p(mpmath.exp(x))


def _erf(x: mpf) -> mpf:
    return mpmath.sign(x) if abs(x) > 30 else mpmath.erf(x)


def _erfc(x: mpf) -> mpf:
    return 1 - mpmath.sign(x) if abs(x) > 30 else mpmath.erfc(x)


EXACT: dict[Op, Callable[[mpf], mpf]] = {
    Op.EXP: mpmath.exp,
    Op.EXPM1: mpmath.expm1,
    Op.LOG: mpmath.log,
    Op.LOG1P: mpmath.log1p,
    Op.SQRT: mpmath.sqrt,
    Op.TANH: mpmath.tanh,
    Op.LOGISTIC: lambda x: 1 / (1 + mpmath.exp(-x)),
    Op.SOFTPLUS: _softplus,
    Op.ERF: _erf,
    Op.ERFC: _erfc,
    Op.SIN: mpmath.sin,
    Op.COS: mpmath.cos,
}
DOUBLE: dict[Op, Callable[[Array], Array]] = {
    Op.EXP: np.exp,
    Op.EXPM1: np.expm1,
    Op.LOG: np.log,
    Op.LOG1P: np.log1p,
    Op.SQRT: np.sqrt,
    Op.TANH: np.tanh,
    Op.LOGISTIC: scipy.special.expit,
    Op.SOFTPLUS: lambda x: np.logaddexp(x, 0.0),
    Op.ERF: scipy.special.erf,
    Op.ERFC: scipy.special.erfc,
    Op.SIN: np.sin,
    Op.COS: np.cos,
}
BOUND = {op: 2.0 for op in EXACT} | {Op.SQRT: 0.5, Op.POW: 2.0}
"""Units in the last place, as docs/sources.md states."""


def domain(op: Op, x: Array) -> Array:
    low = {Op.LOG: 0.0, Op.SQRT: 0.0, Op.LOG1P: -1.0}.get(op, -INF)
    return x[np.isfinite(x) & (x > low)]


def breakpoints(op: Op, dtype: Any) -> list[float]:
    """Where a method, a binade or saturation begins."""
    info = np.finfo(dtype)
    ln2, top, bottom = math.log(2), math.log(float(info.max)), math.log(2.0) * (info.minexp - 0.0)
    last = bottom - (info.nmant + 1) * ln2
    steps = [(k + 0.5) * ln2 for k in (*range(-4, 5), 20, -20)]
    exponential = [*steps, top, bottom, last, (info.nmant + 2) * ln2, -(info.nmant + 2) * ln2]
    powers = [m * 2.0**k for m in (1.0, math.sqrt(2)) for k in (*range(-3, 4), info.minexp, 40)]
    octants = [k * math.pi / 4 for k in (*range(1, 13), 1000, 2**14, 41721, 2**29)]
    far = [math.sqrt(-bottom), math.sqrt(-last), 9.19, 26.54]
    return {
        Op.EXP: exponential,
        Op.EXPM1: exponential,
        Op.LOGISTIC: exponential,
        Op.SOFTPLUS: exponential,
        Op.TANH: [x / 2 for x in exponential],
        Op.LOG: powers,
        Op.SQRT: powers,
        Op.LOG1P: [p - 1 for p in powers] + powers,
        Op.ERF: [0.5, 1.0, 4.0, 6.0, *far],
        Op.ERFC: [0.5, 1.0, 4.0, 6.0, *far],
        Op.SIN: [*octants, 2.0**15, 2.0**30],
        Op.COS: [*octants, 2.0**15, 2.0**30],
    }[op]


def patterns(generator: np.random.Generator, dtype: Any, count: int) -> Array:
    """Numbers of any bits."""
    bits = np.dtype(f"uint{8 * np.dtype(dtype).itemsize}")
    return generator.integers(0, np.iinfo(bits).max, count, bits, endpoint=True).view(dtype)


def samples(op: Op, dtype: Any, count: int, seed: int) -> Array:
    """Of the whole range, of the range where most happens, and about breakpoints."""
    generator = np.random.default_rng(seed)
    scale = -math.log(float(np.finfo(dtype).smallest_subnormal))
    about = np.array(breakpoints(op, dtype))
    near = about[:, None] * (1 + 2.0 ** -generator.uniform(1, 24, (len(about), 12)))
    x = np.concatenate(
        [
            domain(op, patterns(generator, dtype, count)),
            generator.choice([-1, 1], count) * 2.0 ** generator.uniform(-30, 8, count),
            generator.uniform(-3, 3, count),
            generator.uniform(-1.02 * scale, 1.02 * scale, count),
            np.ravel([near, 2 * about[:, None] - near]),
        ]
    )
    x = x.astype(dtype)
    exact = about.astype(dtype)
    return domain(op, np.concatenate([x, -x[-len(near) :], np.nextafter(exact, INF), exact]))


def errors(found: Array, exact: list[mpf]) -> list[float]:
    """In units in the last place of the exact value; ∞ counts as the next number above max."""
    info = np.finfo(found.dtype)
    result = []
    beyond = mpf(2) ** info.maxexp
    for number, value in zip(found.tolist(), exact, strict=True):
        if math.isinf(number):
            number = beyond if number > 0 else -beyond
        exponent = max(mpmath.frexp(value)[1] - 1, int(info.minexp)) if value else info.minexp
        unit = mpf(2) ** (min(exponent, info.maxexp - 1) - info.nmant)
        both = abs(value) >= beyond and number == mpmath.sign(value) * beyond
        result.append(0.0 if both else float(abs(number - value) / unit))
    return result


def worst(op: Op, x: Array, function: Callable[[Array], Array]) -> tuple[float, float]:
    """The largest error, and where."""
    with mp.workdps(50):
        found = errors(function(x), [EXACT[op](mpf(v)) for v in x.tolist()])
    at = int(np.argmax(found))
    return found[at], float(x[at])


# --- values


def held(op: Op, dtype: Any, count: int, seed: int) -> None:
    error, x = worst(op, samples(op, dtype, count, seed), lambda a: native(op, a))
    assert error <= BOUND[op], f"{op.value}({x!r}) is {error:.3f} units in the last place off"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", EXACT)
def test_values_are_those_of_mpmath(op: Op, dtype: Any) -> None:
    held(op, dtype, 150, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", EXACT)
def test_more_values_are_those_of_mpmath(op: Op, dtype: Any) -> None:
    held(op, dtype, 5000, seed=1)


def sweep(op: Op, stride: int) -> None:
    """float32 patterns at equal distances: error, NaNs, infinities, zeros and their signs."""
    size = 1 << 22
    for start in range(0, 2**32, stride * size):
        stop = min(start + stride * size, 2**32)
        x = np.arange(start, stop, stride, np.int64).astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            exact = DOUBLE[op](x.astype(np.float64))
            nearest = exact.astype(np.float32)
        found = native(op, x)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(nearest))
        finite = np.isfinite(nearest) & np.isfinite(found)
        assert np.all((found == nearest) | finite | np.isnan(found))
        assert np.all(np.signbit(found[found == 0]) == np.signbit(exact[found == 0]))
        unit = np.spacing(np.abs(nearest[finite])).astype(np.float64)
        error = np.abs(found[finite] - exact[finite]) / unit
        assert np.max(error, initial=0.0) <= BOUND[op] + 1e-6, (
            f"{op.value}({x[finite][np.argmax(error)]!r}): {np.max(error):.3f}"
        )


@pytest.mark.parametrize("op", DOUBLE)
def test_float32_is_held_against_float64(op: Op) -> None:
    sweep(op, stride=9973)


@pytest.mark.slow
@pytest.mark.parametrize("op", DOUBLE)
def test_more_float32_is_held_against_float64(op: Op) -> None:
    sweep(op, stride=61)


def special_values(dtype: Any) -> Array:
    info = np.finfo(dtype)
    whole = 2.0**info.nmant
    positive = [0, 1, 0.5, 2, 3, 2.5, 7, 0.1, 1e-10, 1e10, INF, NAN, info.max, info.tiny]
    positive += [info.smallest_subnormal, 1 + info.eps, 1 - info.epsneg, whole, whole + 1]
    positive += [2 * whole, whole / 2 + 0.5, 20.0, 50.0, 100.0, 750.0, math.pi / 2, 2.0**40]
    return np.array([s * float(v) for v in positive for s in (1, -1)], dtype)


def same(found: Array, expected: Array) -> Array:
    """The same number, sign of zero included; any NaN is as good as another."""
    equal = (found == expected) & (np.signbit(found) == np.signbit(expected))
    return np.asarray(equal | (np.isnan(found) & np.isnan(expected)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_special_values_are_those_of_the_numpy_backend(op: Op, dtype: Any) -> None:
    points = special_values(dtype)
    arguments: tuple[Array, ...] = (points,)
    if op in BINARY:
        arguments = tuple(np.ravel(a) for a in np.meshgrid(points, points))
    elif op is Op.SELECT:
        x, y = (np.ravel(a) for a in np.meshgrid(points, points))
        arguments = (np.arange(x.size) % 3 == 0, x, y)
    found, expected = native(op, *arguments), by_numpy(op, *arguments)
    agrees = same(found, expected)
    if op in BOUND:
        ordinary = np.isfinite(found) & np.isfinite(expected) & (found != 0) & (expected != 0)
        apart = np.abs(found[ordinary].astype(np.float64) - expected[ordinary])
        agrees[ordinary] = apart <= 4 * np.spacing(np.abs(expected[ordinary]) / 2) * 2
    wrong = [tuple(map(float, row)) for row in np.stack([*arguments, found, expected], 1)[~agrees]]
    assert not wrong, f"{op.value}: arguments, found, expected: {wrong[:9]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_are_those_of_mpmath(dtype: Any) -> None:
    generator = np.random.default_rng(0)
    x = np.abs(patterns(generator, dtype, 600))
    x = np.concatenate([x, generator.uniform(0, 3, 300), 1 + generator.uniform(-1e-3, 1e-3, 300)])
    x = x.astype(dtype)
    x = x[np.isfinite(x) & (x > 0) & (x != 1)]
    spread = -math.log(float(np.finfo(dtype).smallest_subnormal))
    size = np.where(generator.random(x.size) < 0.5, spread, 30.0)
    y = (generator.uniform(-1, 1, x.size) * size / np.log(x.astype(np.float64))).astype(dtype)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    with mp.workdps(50):
        exact = [mpmath.power(mpf(a), mpf(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        found = errors(native(Op.POW, x, y), exact)
    at = int(np.argmax(found))
    assert found[at] <= BOUND[Op.POW], f"pow({x[at]!r}, {y[at]!r}): {found[at]:.3f}"


def near_multiples_of_half_pi(dtype: Any, exponents: range) -> Array:
    """For each e the numbers m·2ᵉ nearest to multiples of π/2, by continued fractions."""
    digits = np.finfo(dtype).nmant + 1
    found = []
    with mp.workdps(700):
        for e in exponents:
            x = mpf(2) ** e * 2 / mp.pi
            p, q = (0, 1), (1, 0)
            while True:
                whole = int(mpmath.floor(x))
                p, q = (p[1], whole * p[1] + p[0]), (q[1], whole * q[1] + q[0])
                if q[1] >= 2**digits:
                    break
                found.append(math.ldexp(q[1], e))
                x = 1 / (x - whole)
    return np.array(found, dtype)


@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [(np.float32, range(-20, 104, 4)), (np.float64, range(-40, 970, 40))],
)
def test_sin_and_cos_near_multiples_of_half_pi(dtype: Any, exponents: range) -> None:
    x = near_multiples_of_half_pi(dtype, exponents)
    x = x[x > 0.5]
    # Muller 2016, ch. 11: the worst numbers of the two formats.
    known = {np.float32: 16367173 * 2.0**72, np.float64: 6381956970095103 * 2.0**797}[dtype]
    x = np.concatenate([x, np.array([known], dtype)])
    for op, function in ((Op.SIN, mpmath.sin), (Op.COS, mpmath.cos)):
        with mp.workdps(400):
            found = errors(native(op, x), [function(mpf(v)) for v in x.tolist()])
        at = int(np.argmax(found))
        assert found[at] <= BOUND[op], f"{op.value}({x[at]!r}): {found[at]:.3f}"


def mixed(op: Op, dtype: Any) -> tuple[Array, ...]:
    """Arguments of all sizes, large beside small."""
    generator = np.random.default_rng(2)
    x, y = (
        generator.permutation(
            np.concatenate(
                [patterns(generator, dtype, 400), generator.normal(0, 5, 403)], dtype=dtype
            )
        )
        for _ in range(2)
    )
    return (x > y, x, y) if op is Op.SELECT else (x, y) if op in BINARY else (x,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_bits_depend_neither_on_lanes_nor_on_place(op: Op, dtype: Any) -> None:
    arguments = mixed(op, dtype)
    first = native(op, *arguments, n=1)
    for n in (4, 8, 16):
        assert np.all(same(native(op, *arguments, n=n), first))
    shifted = native(op, *(a[5:] for a in arguments), n=8)
    assert np.all(same(shifted, first[5:]))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is x86-64's")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [*EXACT, Op.POW])
def test_bits_do_not_depend_on_the_processor(op: Op, dtype: Any) -> None:
    baseline = machine_of(binding.get_default_triple(), "x86-64")
    code = Compiled(ELEMENTWISE[op], *types(op, np.dtype(dtype).name), 8, baseline)
    arguments = mixed(op, dtype)
    assert np.all(same(code(*arguments), native(op, *arguments)))


# --- the code


def test_every_elementwise_primitive_is_there() -> None:
    # A cast depends on its dtype and rounding on its format: they are functions of their own.
    elementwise = {op for op, rule in RULES.items() if rule.elementwise}
    assert set(ELEMENTWISE) == elementwise - {Op.CAST, Op.ROUND, Op.ROUND_COTANGENT}


def calls(assembly: str) -> set[str]:
    """Names that the code refers to and does not define."""
    direct = re.findall(r"(?:\$|\bcallq?\s+|\bjmp\s+|\bbl\s+)([A-Za-z_]\w*)", assembly)
    by_address = re.findall(r"(\w+)@", assembly)
    defined = re.findall(r"^(\w+):", assembly, re.MULTILINE)
    return {*direct, *by_address}.difference(defined)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("triple", "cpu"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64"),
        ("x86_64-unknown-linux-gnu", "x86-64-v3"),
        ("x86_64-unknown-linux-gnu", "x86-64-v4"),
        ("aarch64-unknown-linux-gnu", "generic"),
        ("arm64-apple-darwin", "apple-m1"),
    ],
)
def test_the_code_calls_nothing(triple: str, cpu: str, dtype: str) -> None:
    machine = machine_of(triple, cpu)
    for op, function in ELEMENTWISE.items():
        module = optimised(loop(function, *types(op, dtype), 8), machine)
        called = calls(machine.emit_assembly(module))
        allowed = {"fma", "fmaf", "floor", "floorf"} if cpu == "x86-64" else set()
        assert called <= allowed, f"{op.value} calls {called}"


def test_a_call_is_seen() -> None:
    def unsupported(x: Floats) -> Floats:
        kind = x.value.type
        name = f"llvm.tan.v{x.n}f32"
        tan = ir.Function(x.builder.module, ir.FunctionType(kind, [kind]), name)
        return Floats(x.builder, x.builder.call(tan, [x.value]))

    for triple in ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "arm64-apple-darwin"):
        machine = machine_of(triple)
        module = optimised(loop(unsupported, ("float32",), "float32", 8), machine)
        assert {name.strip("_") for name in calls(machine.emit_assembly(module))} == {"tanf"}


# --- faults that are seen


@pytest.mark.parametrize(
    ("table", "op"),
    [
        ("EXP", Op.EXP),
        ("EXP", Op.TANH),
        ("EXP", Op.LOGISTIC),
        ("LOG", Op.LOG),
        ("LOG", Op.LOG1P),
        ("LOG_WIDE", Op.SOFTPLUS),
        ("SIN", Op.SIN),
        ("COS", Op.COS),
        ("ERF", Op.ERF),
        ("ERFC", Op.ERFC),
    ],
)
@pytest.mark.parametrize(("dtype", "fault"), [(np.float32, 1e-4), (np.float64, 1e-6)])
def test_a_coefficient_that_is_off_is_seen(
    table: str, op: Op, dtype: Any, fault: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = np.dtype(dtype).name
    first, *rest = getattr(coefficients, table)[name]
    monkeypatch.setitem(getattr(coefficients, table), name, (first * (1 + fault), *rest))
    faulty = Compiled(ELEMENTWISE[op], (name,), name, 8)
    error, _ = worst(op, samples(op, dtype, 150, seed=0), faulty)
    assert error > BOUND[op]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_result_without_gradual_underflow_is_seen(dtype: Any) -> None:
    tiny = float(np.finfo(dtype).tiny)

    def flushed(x: Floats) -> Floats:
        y = ELEMENTWISE[Op.EXP](x)
        return ELEMENTWISE[Op.SELECT](y < tiny, y.like(0.0), y)

    faulty = Compiled(flushed, (np.dtype(dtype).name,), np.dtype(dtype).name, 8)
    error, _ = worst(Op.EXP, samples(Op.EXP, dtype, 150, seed=0), faulty)
    assert error > BOUND[Op.EXP]


@pytest.mark.slow
def test_coefficients_are_those_that_the_script_derives() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "minimax.py"))
    for target, format in itertools.product(script["TARGETS"], ("float32", "float64")):
        if format in target.interval:
            derived, _ = script["derive"](target, format)
            expected = np.array([float(c) for c in derived], format)
            committed = np.array(getattr(coefficients, target.name)[format], format)
            np.testing.assert_array_equal(committed, expected)


# --- lanes


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nearest_integer_is_even_in_a_tie_and_never_minus_zero(dtype: Any) -> None:
    name = np.dtype(dtype).name
    rounded = Compiled(lambda x: nearest_integer(x)[0], (name,), name, 4)
    converted = Compiled(lambda x: nearest_integer(x)[1].number(), (name,), name, 4)
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -0.0, 0.2, -0.2, 1000.7, -1000.7], dtype)
    expected = np.rint(x) + 0.0
    assert np.all(same(rounded(x), expected))
    assert np.all(same(converted(x), expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_and_a_sum_are_two_roundings_and_fma_is_one(dtype: Any) -> None:
    name, unit = np.dtype(dtype).name, float(np.finfo(dtype).eps)
    x = np.array([1 + unit], dtype)
    y = np.array([-1 - 2 * unit], dtype)
    apart = Compiled(lambda a, b: a * a + b, (name, name), name, 4)
    at_once = Compiled(lambda a, b: fma(a, a, b), (name, name), name, 4)
    assert apart(x, y)[0] == 0.0
    assert at_once(x, y)[0] == unit**2
