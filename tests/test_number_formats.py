"""Rounding to narrower formats, on each backend: ml_dtypes, NumPy and rational arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checks import check_modes, same_bits
from optable_arrays import nearest
from theory_table import FACTS

import isograd
from isograd.engine.number_formats import FORMATS, rounded
from isograd.engine.ops import Op
from isograd.errors import IsogradError, ShapeError

F = isograd.functions
Array = np.ndarray[Any, Any]

NARROW = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}
each_narrow = pytest.mark.parametrize("form", NARROW)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)


def numbers_of(form: str) -> Array:
    """Every finite number of a format, in order."""
    bits = FORMATS[form].bits
    with np.errstate(invalid="ignore"):
        every = np.arange(2**bits, dtype=f"u{bits // 8}").view(NARROW[form]).astype(np.float64)
    return np.unique(every[np.isfinite(every)])


@np.errstate(over="ignore", invalid="ignore")
def neighbourhoods(form: str, dtype: Any) -> Array:
    """Every number, every tie, what lies beside them, beyond the end, and special values."""
    held = numbers_of(form)
    top = held[-1] + np.array([0.5, 1.0, 2.0]) * (held[-1] - held[-2])
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e300, -1e300, 5e-324]
    points = np.concatenate([held, (held[1:] + held[:-1]) / 2, top, -top, special]).astype(dtype)
    beside = [np.nextafter(points, dtype(side)) for side in (math.inf, -math.inf)]
    return np.concatenate([points, *beside])


def anywhere(rng: np.random.Generator, dtype: Any, count: int = 20_000) -> Array:
    """Random words, read as numbers; half of them in the range of narrow formats."""
    words = rng.integers(
        0, 2 ** (8 * np.dtype(dtype).itemsize), count, f"u{np.dtype(dtype).itemsize}"
    )
    near = np.exp2(rng.uniform(-30, 18, count)) * rng.choice([-1.0, 1.0], count)
    return np.concatenate([words.view(dtype), near.astype(dtype)])


def check_rounded(round_: Callable[[Array], Array], form: str, x: Array) -> None:
    """Against the formats' own libraries; from float64 these go by way of float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(NARROW[form]).astype(x.dtype)
    got = round_(x)
    assert same_bits(got, want), x[~((got == want) | (np.isnan(got) & np.isnan(want)))]


# --- values


@each_narrow
def test_all_numbers_and_ties_of_a_format(form: str, rng: np.random.Generator) -> None:
    for x in (neighbourhoods(form, np.float32), anywhere(rng, np.float32)):
        check_rounded(lambda x: rounded(x, FORMATS[form]), form, x)


def test_numbers_of_float64_are_rounded_once(rng: np.random.Generator) -> None:
    """NumPy rounds float64 to float16 and float32 directly."""
    for form, dtype in (("fp16", np.float16), ("fp32", np.float32)):
        ties = neighbourhoods("fp16", np.float64)
        for x in (ties, anywhere(rng, np.float64)):
            with np.errstate(over="ignore", invalid="ignore"):
                want = x.astype(dtype).astype(np.float64)
            assert same_bits(rounded(x, FORMATS[form]), want)
    just_above = 1 + 2.0**-8 + 2.0**-40  # by way of float32 it would be a tie, and go to 1
    assert rounded(np.float64(just_above), FORMATS["bf16"]) == 1 + 2.0**-7


@each_narrow
@each_dtype
def test_against_rational_arithmetic(form: str, dtype: Any, rng: np.random.Generator) -> None:
    """To nearest and by random words, at random points of the neighbourhoods."""
    pool = np.concatenate([neighbourhoods(form, dtype), anywhere(rng, dtype, 1000)])
    x = rng.choice(pool, 500)
    words = rng.integers(0, 2**32, x.size, np.uint32)
    for bits in (None, words):
        given = np.full(x.size, math.nan) if bits is None else bits.astype(np.float64)
        want = [nearest(float(a), form, float(w)) for a, w in zip(x, given, strict=True)]
        with np.errstate(over="ignore"):
            assert same_bits(rounded(x, FORMATS[form], bits), np.array(want).astype(dtype))


def test_edges_of_float16() -> None:
    expected = FACTS["H6"]["expected"]
    names = {k.partition("(")[2].rstrip(")"): v for k, v in expected.items() if k[:5] == "float"}
    for text, want in names.items():
        x = math.prod(
            float(a) ** float(b or 1) for a, _, b in (t.partition("^") for t in text.split("*"))
        )
        assert rounded(np.float64(x), FORMATS["fp16"]) == float(want), text


def test_what_a_dtype_holds_is_left_as_it_is(rng: np.random.Generator) -> None:
    for dtype, forms in ((np.float32, ("fp32", "fp64")), (np.float64, ("fp64",))):
        x = anywhere(rng, dtype)
        assert all(same_bits(rounded(x, FORMATS[form]), x) for form in forms)


@each_narrow
def test_rounding_twice_is_rounding_once(form: str, rng: np.random.Generator) -> None:
    """Numbers of the format stay, whatever the random word."""
    x = numbers_of(form).astype(np.float32)
    words = rng.integers(0, 2**32, x.size, np.uint32)
    assert same_bits(rounded(x, FORMATS[form]), x)
    assert same_bits(rounded(x, FORMATS[form], words), x)


# --- stochastic rounding


@each_narrow
@each_dtype
def test_it_goes_up_for_so_many_words_as_the_fraction_says(form: str, dtype: Any) -> None:
    """Of 2³² words exactly ⌊fraction · 2³²⌋: the last that does not, and the first that does."""
    f = FORMATS[form]
    for below in (1.0, f.min_normal, f.min_subnormal, 0.0, f.max / 2):
        low = float(rounded(np.float64(below), f))
        step = f.eps * max(2.0 ** (math.frexp(low)[1] - 1) if low else 0.0, f.min_normal)
        for share in (2.0**-12, 0.25, 0.5, 1 - 2.0**-12):
            x = dtype(low + share * step)
            ups = int(share * 2**32)
            words = np.array([0, 2**32 - ups - 1, 2**32 - ups, 2**32 - 1], np.uint32)
            for sign in (1, -1):
                got = rounded(np.full(4, sign * x), f, words)
                want = sign * np.array([low, low, low + step, low + step])
                np.testing.assert_array_equal(got, want.astype(dtype))


def test_small_updates_are_lost_to_nearest_and_kept_in_the_mean(rng: np.random.Generator) -> None:
    """1 + 2⁻¹² 4096 times in fp16: 1 to nearest, 2 in the mean."""
    expected = FACTS["E2"]["expected"]

    def after(form: str, x: float, times: int, runs: int | None) -> Array:
        total = np.ones(runs or 1)
        for _ in range(times):
            words = rng.integers(0, 2**32, total.size, np.uint32) if runs else None
            total = rounded(total + x, FORMATS[form], words)
        return total

    assert after("fp16", 2.0**-12, 4096, None) == expected["RNE_result"]
    assert after("bf16", 2.0**-9, 512, None) == expected["bf16: add 2^-9 512 times RNE"]
    totals = after("fp16", 2.0**-12, 4096, 400)
    error = totals.std(ddof=1) / math.sqrt(totals.size)
    assert abs(totals.mean() - expected["SR_mean"]) < 4 * error


def test_overflow_is_stochastic_too() -> None:
    """Between the largest number of fp16 and 2¹⁶ it is infinite with the share of the way."""
    x = np.full(2, 65504.0 + 8.0)
    words = np.array([2**32 - 2**30 - 1, 2**32 - 2**30], np.uint32)
    np.testing.assert_array_equal(rounded(x, FORMATS["fp16"], words), [65504.0, math.inf])


# --- native code


@each_narrow
@each_dtype
def test_native_code_gives_the_same_bits(form: str, dtype: Any, rng: np.random.Generator) -> None:
    pytest.importorskip("llvmlite")
    from native_kernels import Ready

    x = np.concatenate([neighbourhoods(form, dtype), anywhere(rng, dtype)])
    words = rng.integers(0, 2**32, x.size, np.uint32)
    words[:4] = 0, 2**32 - 1, 2**31, 1
    for width in (16, 32, 64):
        got = Ready(Op.ROUND, x, width=width, form=form)()
        assert same_bits(got, rounded(x, FORMATS[form])), width
        got = Ready(Op.ROUND, x, words, width=width, form=form)()
        assert same_bits(got, rounded(x, FORMATS[form], words)), width


def test_native_code_rounds_float64_to_float32(rng: np.random.Generator) -> None:
    pytest.importorskip("llvmlite")
    from native_kernels import native

    x = anywhere(rng, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(np.float32).astype(np.float64)
    assert same_bits(native(Op.ROUND, x, form="fp32"), want)


def test_within_loops_and_behind_products(rng: np.random.Generator) -> None:
    """Small whole numbers, so that sums are exact in any order."""
    pytest.importorskip("llvmlite")
    x, w = (rng.integers(-99, 99, shape).astype(np.float32) for shape in ((37, 20), (20, 23)))
    bits = rng.integers(0, 2**32, (37, 23), np.uint32)

    def f(x: Any, w: Any) -> Any:
        z = F.round_to(x @ w + 1.0, "bf16")
        return F.round_to(F.maximum(z, 0.0) * 1.25, "fp16", bits), F.round_to(w, "fp8_e4m3")

    want = f(x, w)
    assert same_bits(isograd.compile(f, backend="native")(x, w), want)
    assert same_bits(want[1], w.astype(NARROW["fp8_e4m3"]).astype(np.float32))


def test_a_wrong_digit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties that go away from zero, and subnormal numbers that are cut off."""
    pytest.importorskip("llvmlite")
    from native_kernels import native

    from isograd.backends.llvm import rounding

    x = neighbourhoods("fp16", np.float32)

    def check() -> None:
        check_rounded(lambda x: native(Op.ROUND, x, form="fp16"), "fp16", x)

    check()
    for name, fault in (
        ("_half", lambda bits, dropped: bits.like(1 << (dropped - 1))),
        ("_nearest", rounding.round_down),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(rounding, name, fault)
            with pytest.raises(AssertionError):
                check()


# --- derivatives


def test_the_derivative_is_that_of_the_identity() -> None:
    x, t = np.array([1.0 + 2.0**-12, 1e9, -1e-9]), np.array([0.3, 1e-9, 7.0])
    value, tangent = isograd.jvp(lambda x: F.round_to(x, "fp16"), (x,), (t,))
    np.testing.assert_array_equal(value, [1.0, math.inf, 0.0])
    assert same_bits(tangent, t)
    assert same_bits(isograd.vjp(lambda x: F.round_to(x, "fp16"), x)[1](t)[0], t)


def test_cotangents_are_rounded_in_units_of_the_scale(rng: np.random.Generator) -> None:
    """As if the loss were multiplied: by 2¹⁰, what fp16 rounds to 0 is kept, and 100 is lost."""
    x = np.zeros(6, np.float32)
    g = np.array([2.0**-25, 3.0**-20, 100.0, 0.1, -0.0, math.nan], np.float32)
    for scale in (1.0, 1024.0):
        value, pull = isograd.vjp(lambda x, s=scale: F.round_cotangent(x, "fp16", s), x)
        with np.errstate(over="ignore"):
            want = (g * scale).astype(np.float16).astype(np.float32) / np.float32(scale)
        assert same_bits(value, x)
        assert same_bits(pull(g)[0], want)
    words = rng.integers(0, 2**32, 6, np.uint32)
    pull = isograd.vjp(lambda x: F.round_cotangent(x, "bf16", 1.0, words), x)[1]
    assert same_bits(pull(g)[0], rounded(g, FORMATS["bf16"], words))
    forward = isograd.jvp(lambda x: F.round_cotangent(x, "fp16"), (x,), (g,))[1]
    assert same_bits(forward, g)  # it is the reverse mode that rounds


def test_the_scale_may_be_computed() -> None:
    """A scalar array; and the derivative of what is pulled back is that of the identity."""

    def pulled(g: Any, scale: Any) -> Any:
        return isograd.vjp(lambda x: F.round_cotangent(x, "fp16", scale), np.zeros(3))[1](g)[0]

    g, scale = np.array([1e-8, 1.0, 3.0]), np.float64(2.0**14)
    want = (g * scale).astype(np.float16).astype(np.float64) / scale
    np.testing.assert_array_equal(pulled(g, scale), want)
    check_modes(pulled, g, scale)
    assert same_bits(isograd.vjp(pulled, g, scale)[1](g)[0], g)


# --- refusals


def test_unknown_formats_and_words_of_another_shape() -> None:
    for call in (F.round_to, F.round_cotangent):
        with pytest.raises(IsogradError, match="fp64, fp32, bf16"):
            call(np.ones(2), "fp12")
    for bits in (np.ones(3, np.uint32), np.ones(2, np.int64)):
        with pytest.raises(ShapeError):
            isograd.trace(lambda x, b=bits: F.round_to(x, "fp16", b), np.ones(2))
