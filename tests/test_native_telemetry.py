"""Native measurements against `Summary.of` and correctly rounded sums, in every layout."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from llvmlite import binding, ir
from native_arrays import host, optimised

from isograd.backends.llvm import histogram, measure
from isograd.backends.llvm.elements import Operand
from isograd.backends.llvm.measure import Measure
from isograd.backends.llvm.measured import MOMENTS
from isograd.telemetry.raw import merge_moments, moments, summary
from isograd.telemetry.summary import EMPTY, Summary

Array = np.ndarray
Interval = tuple[float, float] | None
DTYPES = ("float32", "float64")


@cache
def compiled(kernel: Measure, width: int) -> tuple[Any, Any]:
    """A kernel to call, and what its machine code lives as long as."""
    module, machine = ir.Module("measure"), host()
    kernel.build(module, "run", width)
    engine = binding.create_mcjit_compiler(optimised(str(module), machine), machine)
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return kind(engine.get_function_address("run")), engine


def measured(
    x: Array, active: Interval = None, *, full: bool = False, width: int = 64
) -> tuple[Measure, Array]:
    """The kernel for an array, and what it writes; it must not write beyond."""
    strides = (s // x.itemsize if n != 1 else 0 for n, s in zip(x.shape, x.strides, strict=True))
    kernel = Measure(Operand(x.dtype.name, x.shape, tuple(strides)), active, full)
    buffers = [np.full(n + 192, 0xA5, np.uint8) for n in (kernel.nbytes, kernel.scratch)]
    out, scratch = (buffer[64 - buffer.ctypes.data % 64 :] for buffer in buffers)
    table = np.array([x.ctypes.data, out.ctypes.data, scratch.ctypes.data], np.int64)
    compiled(kernel, width)[0](table.ctypes.data)
    assert (out[kernel.nbytes :] == 0xA5).all()
    assert (scratch[kernel.scratch :] == 0xA5).all()
    return kernel, out[: kernel.nbytes]


def reference(x: Array) -> tuple[float, float, float]:
    """Mean and standard deviation of the finite values by correctly rounded sums; max_abs."""
    values = [v for v in x.ravel().tolist() if math.isfinite(v)]
    top = max(map(abs, values), default=0.0)
    if not top:
        return 0.0, 0.0, 0.0
    e = math.frexp(top)[1]
    scaled = [math.ldexp(v, -e) for v in values]
    mean = math.fsum(scaled) / len(scaled)
    variance = math.fsum((v - mean) ** 2 for v in scaled) / len(scaled)
    return math.ldexp(mean, e), math.ldexp(math.sqrt(variance), e), top


def check_full(x: Array, active: Interval = None, width: int = 64) -> None:
    got = summary(*measured(x, active, full=True, width=width))
    want = Summary.of(x, active=active)
    assert replace(got, mean=0.0, std=0.0) == replace(want, mean=0.0, std=0.0)
    mean, std, top = reference(x)
    grain = 4e-15 * top + 1e-322
    assert got.mean == pytest.approx(mean, rel=0, abs=grain)
    assert got.std == pytest.approx(std, rel=1e-12, abs=grain)
    if want.min == want.max:
        assert (got.mean, got.std) == (want.min, 0)


def check_brief(x: Array, active: Interval = None, width: int = 64) -> None:
    kernel, raw = measured(x, active, width=width)
    assert kernel.nbytes == MOMENTS.itemsize == 64
    got, want = moments(raw.view(MOMENTS)[0]), Summary.of(x, active=active)
    assert (got.count, got.nonfinite) == (want.finite, want.nonfinite)
    names = ("min", "max", "max_abs", "zeros", "saturated")
    assert [getattr(got, n) for n in names] == [getattr(want, n) for n in names]
    # The bounds that `isograd/backends/llvm/measure.py` derives; beside them, rounding of the
    # results themselves.
    mean, std, top = reference(x)
    epsilon = 37 * float(np.finfo(x.dtype).eps) / 2
    grain = 4e-15 * top + 1e-322
    assert got.mean == pytest.approx(mean, rel=0, abs=math.sqrt(17) * epsilon * std + grain)
    assert got.std == pytest.approx(std, rel=max(25 * epsilon, 1e-12), abs=grain)
    if want.min == want.max:
        assert (got.mean, got.std) == (want.min, 0)


CHECKS = {"brief": check_brief, "full": check_full}


def strewn(x: Array) -> Array:
    """Values of every kind among the others."""
    info = np.finfo(x.dtype)
    kinds = [math.nan, math.inf, -math.inf, 0.0, -0.0, info.max, info.min]
    kinds += [info.tiny, -info.tiny, info.smallest_subnormal, -info.smallest_subnormal * 3]
    return np.where(np.arange(x.size) % 3 == 1, np.resize(kinds, x.size), x).astype(x.dtype)


def first(x: Array, value: float) -> Array:
    return np.where(np.arange(x.size) == 0, value, x).astype(x.dtype)


def scaled(small: float, large: float) -> Callable[[Array], Array]:
    """By a factor for float32 and one for float64."""
    return lambda x: x * x.dtype.type(small if x.dtype == np.float32 else large)


VALUES: dict[str, Callable[[Array], Array]] = {
    "normal": lambda x: x,
    "half zeros": lambda x: np.maximum(x, 0),
    "far mean": lambda x: x + x.dtype.type(1e6),
    "first far": lambda x: first(x, 1e6),
    "large": scaled(1e30, 1e200),
    "squares overflow": scaled(1e37, 1e307),
    "small": scaled(1e-30, 1e-200),
    "subnormal": scaled(1e-40, 1e-310),
    "some subnormal": lambda x: np.where(x > 0, x, x * np.finfo(x.dtype).tiny),
    "strewn": strewn,
    "first NaN": lambda x: first(x, math.nan),
    "first inf": lambda x: first(x, math.inf),
    "last NaN": lambda x: first(x, math.nan)[::-1].copy(),
    "last inf": lambda x: first(x, -math.inf)[::-1].copy(),
    "one": lambda x: x * 0 + 1,
    "a third": lambda x: x * 0 + x.dtype.type(1 / 3),
    "zeros": lambda x: x * 0,
    "only NaN": lambda x: x * math.nan,
    "NaN among constants": lambda x: np.where(np.arange(x.size) % 5 == 2, math.nan, x * 0 + 1),
    "both ends": lambda x: np.copysign(np.finfo(x.dtype).max, x),
}
INTERVALS: tuple[Interval, ...] = (
    *(None, (-1.0, 1.0), (0.0, math.inf), (-math.inf, 2.0), (0.1, 0.1)),
    *((-1e6, 1e300), (-math.inf, math.inf)),
)


def normal(rng: np.random.Generator, shape: Any, dtype: str) -> Array:
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_values(values: Any, dtype: str, check: Any, rng: np.random.Generator) -> None:
    for size in (1, 7, 561):
        x = values(normal(rng, size, dtype)).astype(dtype)
        check(x)
        check(x, (-0.5, 1.5))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(dtype: str, check: Any, rng: np.random.Generator) -> None:
    # 2048 float32 are added in lanes before they are added in float64.
    for shape in [(), (1,), (7,), (64, 64), (33, 17), (4160,), (2047,), (5000,), (3, 1, 40)]:
        x = normal(rng, shape, dtype)
        check(x, (-1.0, 1.0))
        check(np.asarray(strewn(x.ravel())).reshape(shape), (-1.0, 1.0))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype: str, check: Any, rng: np.random.Generator) -> None:
    x, y = normal(rng, (24, 35), dtype), normal(rng, (3, 20, 5), dtype)
    row, column = x[0], x[:, :1]
    views = [x.T, x[:, 3:30], x[::2, ::3], x[::-1], x[:, ::-1], x[:, 4], y.transpose(2, 0, 1)]
    views += [np.broadcast_to(row, (9, 35)), np.broadcast_to(column, (24, 9)), x[5:6], x[:, :1]]
    for view in views:
        check(view, (-0.5, 0.5))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_active_intervals(dtype: str, check: Any, rng: np.random.Generator) -> None:
    x = normal(rng, (19, 37), dtype)
    x[:, 3:9] = 5
    x[:, 20] = -math.inf
    x[:, 21] = math.nan
    x[4, 5] = 0.1
    for active in INTERVALS:
        check(x, active)
        check(x.T, active)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 32])
def test_other_vectors(width: int, dtype: str, check: Any, rng: np.random.Generator) -> None:
    x = strewn(normal(rng, 561, dtype)).reshape(33, 17)
    x[:, 6] = 3
    for array in (x, x.T, x[::2], x[:20, :3], np.abs(normal(rng, (64, 64), dtype))):
        check(array, (-1.0, 1.0), width)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_nothing(shape: Any, dtype: str) -> None:
    x = np.zeros(shape, dtype)
    assert summary(*measured(x, (0.0, 1.0), full=True)) == EMPTY
    check_brief(x, (0.0, 1.0))


def test_exponents_at_the_bounds_of_binades() -> None:
    for dtype, e in (("float32", np.arange(-149, 128)), ("float64", np.arange(-1074, 1024))):
        powers = np.ldexp(1.0, e).astype(dtype)
        check_full(powers)
        check_full(np.nextafter(powers[1:], powers.dtype.type(0)))


FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "squares": (measure, "fma", lambda x, y, z: z + x * y * 1.001, "normal"),
    "minimum": (measure, "least", lambda x, y: x, "normal"),
    "maximum": (measure, "largest", lambda x, y: y, "normal"),
    "interval": (measure, "_outside", lambda x, active: x < active[0], "normal"),
    "root": (measure, "sqrt", lambda x: x, "normal"),
}
IN_BRIEF = {"the mean may be far": (measure, "_FAR", 1e9, "first far")}
IN_FULL = {
    "tables": (histogram, "_increment", lambda b, table, i: None, "normal"),
    "columns": (measure, "_mark_columns", lambda *_: None, "one"),
}


@pytest.mark.parametrize(
    ("check", "fault"),
    [(check_brief, f) for f in (FAULTS | IN_BRIEF).values()]
    + [(check_full, f) for f in (FAULTS | IN_FULL).values()],
)
def test_a_fault_is_seen(
    check: Any, fault: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, wrong, values = fault
    x = VALUES[values](normal(rng, 66560, "float32")).reshape(1040, 64)
    x[:, 4] += 7
    check(x, (-1.0, 1.0))
    monkeypatch.setattr(module, name, wrong)
    compiled.cache_clear()
    try:
        with pytest.raises(AssertionError):
            check(x, (-1.0, 1.0))
    finally:
        compiled.cache_clear()


# --- many records


def records(arrays: list[Array], active: Interval = None) -> Array:
    """(n,) MOMENTS, measured natively."""
    return np.concatenate([measured(x, active)[1] for x in arrays]).view(MOMENTS)


def test_a_block_of_records_is_read_at_once(rng: np.random.Generator) -> None:
    arrays = [normal(rng, n, "float64") - 2 for n in (5, 16, 40, 3, 64, 1)]
    block = records(arrays, (-2.0, 2.0)).view(np.uint8).reshape(2, 3 * 64)
    got = moments(block)
    assert got.std.shape == (2, 3)
    np.testing.assert_allclose(got.mean.ravel(), [x.mean() for x in arrays], rtol=1e-12)
    np.testing.assert_allclose(got.std.ravel(), [x.std() for x in arrays], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(got.max_abs.ravel(), [abs(x).max() for x in arrays])
    np.testing.assert_array_equal(got.saturated.ravel(), [(abs(x) > 2).sum() for x in arrays])


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_merged_records_are_those_of_the_whole(values: Any, rng: np.random.Generator) -> None:
    x = np.asarray(values(normal(rng, 90, "float64")))
    shards = np.split(x, [0, 1, 30, 31, 77])
    *_, merged = accumulate(records(shards, (-1.0, 1.0)), merge_moments)
    got, want = moments(merged), Summary.of(x, active=(-1.0, 1.0))
    mean, std, top = reference(x)
    assert (got.count, got.nonfinite) == (want.finite, want.nonfinite)
    names = ("min", "max", "max_abs", "zeros", "saturated")
    assert [getattr(got, n) for n in names] == [getattr(want, n) for n in names]
    grain = 1e-14 * top + 1e-320
    assert got.mean == pytest.approx(mean, rel=0, abs=grain)
    assert got.std == pytest.approx(std, rel=1e-12, abs=grain)


def test_records_merge_elementwise(rng: np.random.Generator) -> None:
    arrays = [normal(rng, 20 + k, "float32") * 10**k for k in range(6)]
    block = records(arrays).reshape(2, 3)
    merged = merge_moments(block[0], block[1])
    for k, record in enumerate(merged):
        both = np.concatenate([arrays[k], arrays[k + 3]])
        mean, std, _ = reference(both)
        assert record["count"] == both.size
        assert record["mean"] == pytest.approx(mean, rel=0, abs=1e-5 * std)
        assert record["std"] == pytest.approx(std, rel=1e-4)
