"""Native matrix products against exact sums, at the edges of memory and of the number range."""

from __future__ import annotations

import ctypes
import math
import mmap
import platform
import subprocess
import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isograd.backends.llvm.blas import Product, product
from isograd.backends.llvm.elements import Operand
from isograd.backends.llvm.fused import Fused
from isograd.backends.llvm.gemm import Gemm, gemm
from isograd.backends.llvm.jit import Codes, vector_bytes
from isograd.backends.llvm.views import View
from isograd.engine.graph import ArraySpec, Var
from isograd.engine.ops import Op

pytestmark = pytest.mark.skipif(platform.system() == "Windows", reason="needs mprotect")

Array = np.ndarray[Any, Any]

# (m, k, n): edges of tiles and vectors of every width, primes, and single rows and columns.
SHAPES = [
    (1, 1, 1), (1, 7, 33), (37, 5, 1), (2, 1, 16), (3, 64, 10), (5, 17, 31), (7, 2, 64),
    (8, 33, 48), (13, 10, 70), (16, 16, 17), (31, 70, 65), (53, 3, 23), (64, 9, 47), (70, 70, 70),
]  # fmt: skip
# Whether A and B lie by rows, as in X W, by columns, as in Xᵀ Δ, Δ Wᵀ and their product.
ORIENTATIONS = ["rows rows", "rows columns", "columns rows", "columns columns"]


# --- memory that ends where an operand ends


def fenced(values: Array, at_end: bool, by_columns: bool = False) -> Array:
    """A copy that ends before, or begins after, memory that may not be touched."""
    page = mmap.PAGESIZE
    size = -(-max(values.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, size + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for fence in (base, base + page + size):
        assert protect(fence, page, 0) == 0
    start = page + (size - values.nbytes if at_end else 0)
    flat = np.frombuffer(memory, values.dtype, values.size, start)
    out = flat.reshape(values.shape, order="F" if by_columns else "C")
    out[...] = values
    return out


def test_touching_what_lies_behind_an_operand_is_seen() -> None:
    code = "import numpy, test_native_products as t; x = t.fenced(numpy.zeros(3), True); "
    for tail, fine in (("x[2]", True), ("t.ctypes.string_at(x.ctypes.data + 24, 1)", False)):
        done = subprocess.run([sys.executable, "-c", code + tail], cwd=Path(__file__).parent)
        assert (done.returncode == 0) == fine


# --- running a kernel


def view(x: Array) -> View:
    """Of an array, as the resolver of views gives it: no step along an axis of one element."""
    steps = [s // x.itemsize if n != 1 else 0 for n, s in zip(x.shape, x.strides, strict=True)]
    var = Var(ArraySpec(x.shape, x.dtype))
    return View(var, 0, x.shape, tuple(steps))


def operand(x: Array) -> Operand:
    return Operand(x.dtype.name, x.shape, view(x).strides)


@dataclass(frozen=True)
class Narrow:
    """A kernel for vectors of another width than the host's."""

    kernel: Any
    width: int

    def build(self, module: Any, name: str, width: int) -> None:
        self.kernel.build(module, name, self.width)


def run(kernel: Any, arrays: list[Array], width: int = 0) -> None:
    """Compile a kernel, for vectors of so many bytes, and call it once."""
    wanted = Narrow(kernel, width) if width else kernel
    address = Codes(None).addresses([wanted])[wanted]
    scratch = getattr(kernel, "scratch", 0)
    if scratch:
        # Rubbish in scratch must not reach the result.
        arrays = [*arrays, fenced(np.full(-(-scratch // 64) * 64, 0xFF, np.uint8), True)]
    table = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(table)


def factors(m: int, k: int, n: int, dtype: str, how: str, at_end: bool) -> tuple[Array, Array]:
    draw = np.random.default_rng([m, k, n]).standard_normal
    left, right = (side == "columns" for side in how.split())
    return (
        fenced(draw((m, k)).astype(dtype), at_end, left),
        fenced(draw((k, n)).astype(dtype), at_end, right),
    )


def result(m: int, n: int, dtype: str, at_end: bool) -> Array:
    return fenced(np.full((m, n), 12345.0, dtype), at_end)


# --- an independent product


def exact(a: Array, b: Array) -> tuple[Array, Array]:
    """A B rounded once, and |A||B|; products are split in halves whose own products are exact."""
    a, b = a.astype(float), b.astype(float)

    def halves(x: Array) -> tuple[Array, Array]:
        big = x * (2.0**27 + 1)
        high = big - (big - x)
        return high, x - high

    terms = [x[:, :, None] * y[None] for x in halves(a) for y in halves(b)]
    rows = np.concatenate(terms, axis=1).transpose(0, 2, 1)
    sums = [[math.fsum(row) for row in plane] for plane in rows.tolist()]
    return np.array(sums), np.abs(a) @ np.abs(b)


def bound(k: int, dtype: str) -> float:
    """γ_k of Higham (2002), section 3.1: |fl(Σ) − Σ| ≤ γ_k Σ|terms|, in whatever order."""
    u = np.finfo(dtype).eps / 2
    return float((k + 1) * u / (1 - (k + 1) * u))


def close(c: Array, a: Array, b: Array) -> None:
    want, size = exact(a, b)
    assert np.all(np.abs(c.astype(float) - want) <= bound(a.shape[1], c.dtype.name) * size)


# --- tests


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ORIENTATIONS)
def test_products(how: str, dtype: str) -> None:
    for i, (m, k, n) in enumerate(SHAPES):
        a, b = factors(m, k, n, dtype, how, i % 2 == 0)
        c = result(m, n, dtype, i % 2 == 0)
        kernel = own(a, b)
        run(kernel, [a, b, c])
        close(c, a, b)


@pytest.mark.parametrize("how", ORIENTATIONS)
def test_rows_far_apart(how: str) -> None:
    """A B too large for caches, of which each strip is copied."""
    a, b = factors(33, 1030, 1021, "float32", how, True)
    c = result(33, 1021, "float32", True)
    run(own(a, b), [a, b, c])
    want, size = a.astype(float) @ b.astype(float), np.abs(a) @ np.abs(b)
    assert np.all(np.abs(c - want) <= bound(1030, "float32") * size)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ORIENTATIONS)
def test_products_of_every_size(how: str, dtype: str) -> None:
    """Each of m, k and n takes every value from 1 to 70, for vectors of every width."""
    draw = np.random.default_rng(0)
    sizes = [draw.permutation(70) + 1 for _ in range(3)]
    widths = cycle(w for w in (16, 32, 64) if w <= vector_bytes())
    for i, ((m, k, n), width) in enumerate(zip(zip(*sizes, strict=True), widths, strict=False)):
        a, b = factors(m, k, n, dtype, how, i % 2 == 0)
        c = result(m, n, dtype, i % 2 == 0)
        run(own(a, b), [a, b, c], width)
        close(c, a, b)


def test_a_wrong_product_is_seen() -> None:
    a, b = factors(5, 70, 9, "float32", ORIENTATIONS[0], True)
    c = (a.astype(float) @ b.astype(float)).astype("float32")
    close(c, a, b)
    c[4, 8] += 1e-3
    with pytest.raises(AssertionError):
        close(c, a, b)


@pytest.mark.parametrize("how", ORIENTATIONS)
def test_parts_of_larger_matrices(how: str) -> None:
    """Rows and columns that do not lie side by side; what is between them is left alone."""
    a, b = factors(21, 40, 50, "float32", how, True)
    a, b = a[2:19, 1:38], b[1:38, 3:46]
    whole = fenced(np.full((17, 60), 7.0, "float32"), True)
    c = whole[:, 5:48]
    kernel = own(a, b, Fused((operand(c),), (operand(c),), (), (0,)))
    run(kernel, [a, b, c])
    close(c, a, b)
    assert np.all(whole[:, :5] == 7)
    assert np.all(whole[:, 48:] == 7)


@pytest.mark.parametrize("m", [1, 9])
def test_repeated_rows_and_columns(m: int) -> None:
    """Factors that are broadcast, with no step along an axis."""
    row, column = (fenced(np.linspace(-1, 2, 40).astype("float32"), True) for _ in range(2))
    factor = fenced(np.linspace(3, 5, 40 * m).astype("float32").reshape(m, 40), True)
    for a, b in (
        (np.broadcast_to(row, (m, 40)), np.broadcast_to(column[:, None], (40, 37))),
        (factor, np.broadcast_to(row[:37], (40, 37))),
        (np.broadcast_to(column[:m, None], (m, 40)), np.broadcast_to(column[:, None], (40, 37))),
    ):
        c = result(m, 37, "float32", True)
        run(own(a, b), [a, b, c])
        close(c, a, b)


@pytest.mark.parametrize("how", ORIENTATIONS)
@pytest.mark.parametrize("shape", [(1, 20, 9), (19, 20, 1), (9, 1, 33), (17, 20, 37)])
def test_nan_and_infinity(shape: tuple[int, int, int], how: str) -> None:
    """Zeros are not skipped: 0·∞ and 0·NaN are NaN wherever they stand."""
    m, k, n = shape
    draw = np.random.default_rng(1)
    for special in (np.nan, np.inf, -np.inf):
        a, b = factors(m, k, n, "float32", how, True)
        a[draw.random((m, k)) < 0.3] = 0.0
        b[draw.random((k, n)) < 0.3] = 0.0
        a[draw.integers(m), draw.integers(k)] = special
        b[draw.integers(k), draw.integers(n)] = -special
        c = result(m, n, "float32", True)
        run(own(a, b), [a, b, c])
        with np.errstate(invalid="ignore"):
            want = (a[:, :, None] * b[None]).astype(float).sum(axis=1)
        np.testing.assert_array_equal(np.isnan(c), np.isnan(want))
        np.testing.assert_array_equal(c == np.inf, want == np.inf)
        np.testing.assert_array_equal(c == -np.inf, want == -np.inf)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 5, 40), (30, 8, 1), (9, 20, 10), (33, 20, 64), (18, 6, 70)])
def test_bias_and_activation(shape: tuple[int, int, int], dtype: str) -> None:
    """tanh(AB + bias) and max(AB + bias, 0): a long epilogue and a short one."""
    m, k, n = shape
    a, b = factors(m, k, n, dtype, ORIENTATIONS[1], True)
    bias = fenced(np.linspace(-1, 1, n).astype(dtype), True)
    zero = fenced(np.zeros(1, dtype), True)
    want, size = exact(a, b)
    want = want + bias
    error = bound(k, dtype) * size + 4 * np.finfo(dtype).eps * (1 + np.abs(want))
    rows = Operand(dtype, (m, n), (0, 1 if n > 1 else 0))
    one = Operand(dtype, (m, n), (0, 0))
    for last, reads, function in (
        ((Op.TANH, (3,), dtype), (bias, zero), np.tanh),
        ((Op.MAX, (3, 2), dtype), (bias, zero), lambda x: np.maximum(x, 0)),
    ):
        c = result(m, n, dtype, True)
        steps = ((Op.ADD, (0, 1), dtype), last)
        epilogue = Fused((operand(c), rows, one), (operand(c),), steps, (4,))
        run(own(a, b, epilogue), [a, b, *reads, c])
        assert np.all(np.abs(c - function(want)) <= error)


@pytest.mark.parametrize("shape", [(1, 5, 40), (30, 8, 1), (9, 20, 10), (33, 20, 70)])
def test_a_sum_in_its_place(shape: tuple[int, int, int]) -> None:
    """C + A B where C lies, and A B behind it."""
    m, k, n = shape
    a, b = factors(m, k, n, "float64", ORIENTATIONS[0], True)
    c, plain = result(m, n, "float64", True), result(m, n, "float64", False)
    steps = ((Op.ADD, (1, 0), "float64"),)
    both = (operand(c), operand(plain))
    run(own(a, b, Fused(both, both, steps, (2, 0), (1, -1))), [a, b, c, plain])
    close(plain, a, b)
    np.testing.assert_array_equal(c, 12345.0 + plain)


@pytest.mark.parametrize("shape", [(1, 5, 40), (30, 8, 1), (9, 20, 10), (33, 20, 70)])
def test_masks_and_two_writes(shape: tuple[int, int, int]) -> None:
    """A B where a mask is set, times a column; the mask of its signs; and A B itself."""
    m, k, n = shape
    draw = np.random.default_rng(2)
    a, b = factors(m, k, n, "float64", ORIENTATIONS[2], True)
    mask = fenced(draw.random((m, n)) < 0.5, True)
    column = fenced(draw.standard_normal(m), True)
    zero = fenced(np.zeros(1), True)
    scaled, plain = result(m, n, "float64", True), result(m, n, "float64", False)
    signs = fenced(np.zeros((m, n), bool), True)
    down = Operand("float64", (m, n), (1 if m > 1 else 0, 0))
    one = Operand("float64", (m, n), (0, 0))
    steps = (
        (Op.SELECT, (1, 0, 3), "float64"),
        (Op.MUL, (4, 2), "float64"),
        (Op.LT, (3, 0), "bool"),
    )
    epilogue = Fused(
        (operand(plain), operand(mask), down, one),
        (operand(scaled), operand(signs), operand(plain)),
        steps,
        (5, 6, 0),
    )
    run(own(a, b, epilogue), [a, b, mask, column, zero, scaled, signs, plain])
    close(plain, a, b)
    np.testing.assert_array_equal(scaled, np.where(mask, plain, 0.0) * column[:, None])
    np.testing.assert_array_equal(signs, plain > 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ORIENTATIONS)
def test_blas(how: str, dtype: str) -> None:
    for m, k, n in SHAPES:
        a, b = factors(m, k, n, dtype, how, True)
        c = result(m, n, dtype, True)
        kernel = product(dtype, view(a), view(b))
        assert isinstance(kernel, Product)
        run(kernel, [a, b, c])
        close(c, a, b)


def test_what_there_is_no_kernel_for() -> None:
    a, b = np.zeros((4, 6)), np.zeros((6, 8))
    plain = operand(np.zeros((4, 8)))
    assert gemm("int64", view(a), view(b), None) is None
    assert gemm("float64", view(a[:, :0]), view(b[:0]), None) is None
    assert gemm("float64", view(a[:, ::2]), view(b[::2, ::2]), None) is None
    far = np.zeros((1024, 1024)).T
    assert isinstance(gemm("float64", view(far), view(far), None), Product)
    total = Fused((plain,), (plain,), (), (0,), (), ((Op.SUM, 0),))
    inside = Fused((plain,), (plain,), (), (0,), (0,))
    across = Fused((plain,), (Operand("float64", (4, 8), (1, 4)),), (), (0,))
    for epilogue in (total, inside, across):
        assert gemm("float64", view(a), view(b), epilogue) is None


def own(a: Array, b: Array, epilogue: Fused | None = None) -> Gemm:
    """The kernel that is not BLAS."""
    if epilogue is None:
        plain = operand(np.empty((a.shape[0], b.shape[1]), a.dtype))
        epilogue = Fused((plain,), (plain,), (), (0,))
    kernel = gemm(a.dtype.name, view(a), view(b), epilogue)
    assert isinstance(kernel, Gemm)
    return kernel
