"""Rounding bounds: constants against mpmath, and never below the errors that are measured."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_table import FACTS

from isograd.engine.number_formats import FORMATS, rounded
from isograd.errors import IsogradError, ShapeError, TheoryError
from isograd.theory.forward_error import DenseLayer, forward_error
from isograd.theory.rounding import (
    expected_growth,
    gamma,
    gamma_probable,
    logsumexp_condition,
    softmax_condition,
    softmax_jacobian_norm,
)

# --- γ_n


def test_gamma_is_that_of_the_table() -> None:
    expected = FACTS["E3"]["expected"]
    assert gamma(1000, "fp32") == pytest.approx(expected["fp32_n=1000"], rel=1e-12)
    assert gamma(1000, "fp16") == pytest.approx(expected["fp16_n=1000"], rel=1e-12)
    void = expected["fp16_bound_void_at_n"]
    assert gamma(void, "fp16") == math.inf > gamma(void - 1, "fp16")
    growth = expected["fp16 sqrt(n)u n=1000"]
    assert expected_growth(1000, "fp16") == pytest.approx(growth, rel=1e-12)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n", [0, 1, 7, 100, 4096, 10**6])
def test_gamma_against_mpmath(n: int, name: str) -> None:
    with mp.workdps(40):
        nu = n * mp.mpf(2) ** -(FORMATS[name].fraction_bits + 1)
        expected = float(nu / (1 - nu)) if nu < 1 else math.inf
        growth = float(mp.sqrt(n) * mp.mpf(2) ** -(FORMATS[name].fraction_bits + 1))
    assert gamma(n, name) == pytest.approx(expected, rel=1e-12)
    assert expected_growth(n, name) == pytest.approx(growth, rel=1e-12)


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp8_e4m3"])
@pytest.mark.parametrize("n", [2, 10, 30, 100])
def test_sums_and_products_keep_within_gamma(n: int, name: str) -> None:
    """A recursive dot product, every operation rounded to the format."""
    rng, form = np.random.default_rng(n), FORMATS[name]
    x, y = (rounded(rng.uniform(0.5, 1.0, (500, n)), form) for _ in range(2))
    total = np.zeros(500)
    for i in range(n):
        total = rounded(total + rounded(x[:, i] * y[:, i], form), form)
    exact = np.sum(x * y, axis=1)  # to 1e-15, far below u
    ratio = np.abs(total - exact) / np.sum(np.abs(x * y), axis=1)
    assert np.max(ratio) <= gamma(n, name)
    # Not so loose that it says nothing: the error is of the size of u.
    assert np.max(ratio) > form.unit_roundoff / 10


def test_the_probable_bound() -> None:
    with mp.workdps(40):
        u, n, lam = mp.mpf(2) ** -11, 1000, mp.mpf(4)
        bound = mp.expm1(lam * mp.sqrt(n) * u + n * u * u / (1 - u))
        chance = 1 - 2 * mp.exp(-(lam**2) * (1 - u) ** 2 / 2)
    found = gamma_probable(1000, "fp16", 4.0)
    assert found == pytest.approx((float(bound), float(chance)), rel=1e-12)
    assert found[0] < gamma(1000, "fp16")
    assert gamma_probable(10, "fp16", 0.1)[1] == 0.0

    # Products of independent factors 1 + δ, δ uniform in [−u, u], exceed it as seldom as it says.
    rng, unit = np.random.default_rng(0), FORMATS["bf16"].unit_roundoff
    factors = np.prod(1 + unit * rng.uniform(-1, 1, (20_000, 400)), axis=1)
    bound, chance = gamma_probable(400, "bf16", 2.0)
    assert np.mean(np.abs(factors - 1) <= bound) >= chance


def test_what_is_no_sum_is_refused() -> None:
    half: Any = 2.5
    for call in (
        lambda: gamma(-1, "fp32"),
        lambda: expected_growth(-2, "fp16"),
        lambda: gamma(half, "fp16"),
    ):
        with pytest.raises(TheoryError, match="0 terms or more"):
            call()
    with pytest.raises(TheoryError, match="λ"):
        gamma_probable(3, "fp32", 0.0)
    with pytest.raises(IsogradError, match="number format"):
        gamma(3, "float32")


# --- softmax and logsumexp

VECTORS = [
    [0.0, 0.0],
    [0.1, 0.2],
    [1000.0, 1000.0],
    [-1000.0, -1000.0],
    [3.0],
    [40.0, 0.0, -5.0],
    [-1.0, 2.5, 0.3, 0.3, 7.0],
    [1e-8, -1e-8, 0.0],
]


@pytest.mark.parametrize("x", VECTORS)
def test_conditioning_against_mpmath(x: list[float]) -> None:
    with mp.workdps(60):
        v = [mp.mpf(t) for t in x]
        total = mp.fsum(mp.exp(t) for t in v)
        g = [mp.exp(t) / total for t in v]
        rows = [
            mp.fsum(abs((gi if i == j else 0) - gi * gj) for j, gj in enumerate(g))
            for i, gi in enumerate(g)
        ]
        largest = max(map(abs, v))
        norm, softmax = max(rows), max(rows) * largest / max(g)
        lse = largest / abs(mp.log(total)) if mp.log(total) else mp.inf
    assert softmax_jacobian_norm(x) == pytest.approx(float(norm), rel=1e-13, abs=1e-300)
    assert softmax_condition(x) == pytest.approx(float(softmax), rel=1e-13, abs=1e-300)
    assert logsumexp_condition(x) == pytest.approx(float(lse), rel=1e-12)
    assert softmax_jacobian_norm(x) <= 0.5


def test_conditioning_is_that_of_the_table() -> None:
    from isograd.engine import functions as F

    expected = FACTS["E4"]["expected"]
    assert softmax_jacobian_norm(FACTS["E4"]["inputs"]["x"]) == expected["J_inf_norm"]
    for size in (1000.0, -1000.0):
        value = float(F.logsumexp(np.array([size, size]), axis=0))
        assert value == pytest.approx(expected[f"lse({size:.0f},{size:.0f})"], rel=1e-14)
    found = logsumexp_condition([0.1, 0.2])
    key = "cond_lse(x)=||x||_inf/|lse(x)| at [0.1,0.2]"
    assert found == pytest.approx(expected[key], rel=1e-14)


def test_a_perturbation_grows_by_no_more_than_the_condition() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        x = rng.normal(size=6) * rng.uniform(0.1, 5)
        step = 1e-6 * np.max(np.abs(x)) * rng.uniform(-1, 1, x.size)
        with mp.workdps(40):
            values = [mp.log(mp.fsum(mp.exp(mp.mpf(float(t))) for t in v)) for v in (x, x + step)]
            change = float(abs(values[1] - values[0]) / abs(values[0]))
        relative = np.max(np.abs(step)) / np.max(np.abs(x))
        assert change <= logsumexp_condition(x) * relative * (1 + 1e-5)


def test_conditioning_at_a_root_and_of_what_is_no_vector() -> None:
    assert logsumexp_condition([-math.log(2.0), -math.log(2.0)]) > 1e15
    assert math.isnan(logsumexp_condition([0.0]))
    for bad in ([], [[1.0]], [math.inf, 0.0], [math.nan]):
        with pytest.raises(ShapeError, match="vector of finite numbers"):
            softmax_condition(bad)


# --- a forward pass


def low_run(x, layers, form, sums):
    """Each product and each partial sum rounded to `sums`, z and a to `form`."""
    x = rounded(x, form)
    for layer in layers:
        w = rounded(np.asarray(layer.weights, np.float64), form)
        total = np.zeros((len(x), len(w)))
        for i in range(x.shape[1]):
            product = rounded(x[:, i : i + 1] * w[:, i], sums)
            total = rounded(total + product, sums)
        if layer.bias is not None:
            total = rounded(total + rounded(np.asarray(layer.bias, np.float64), form), sums)
        z = rounded(total, form)
        x = z if layer.f is None else rounded(rounded(layer.f(z), sums), form)
        yield z, x


def logistic(x):
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "identity": (None, 1.0, 0.0),
    "relu": (lambda x: np.maximum(x, 0.0), 1.0, 0.0),
    "tanh": (np.tanh, 1.0, 1.0),
    "logistic": (logistic, 0.25, 1.0),
    "sin": (np.sin, 1.0, 1.0),
}


def network(rng, widths: list[int], name: str, size: float = 1.0) -> list[DenseLayer]:
    f, slope, roundings = FUNCTIONS[name]
    return [
        DenseLayer(
            size * rng.standard_normal((n_out, n_in)) / math.sqrt(n_in),
            0.1 * rng.standard_normal(n_out) if rng.random() < 0.7 else None,
            f,
            slope,
            roundings,
        )
        for n_in, n_out in pairwise(widths)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(FUNCTIONS)),
    st.sampled_from(["fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2"]),
    st.booleans(),
    st.sampled_from([1.0, 1e-3, 1e-7]),
)
def test_the_error_never_exceeds_its_bound(
    seed: int, name: str, form: str, wide: bool, size: float
) -> None:
    """Tiny signals included, where underflow makes the error."""
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 12, rng.integers(2, 6)).tolist()
    layers = network(rng, widths, name, size if name == "identity" else 1.0)
    x = size * rng.standard_normal((5, widths[0]))
    sums = FORMATS["fp32" if wide else form]
    bounds = forward_error(x, layers, form, accumulate=sums)
    runs = low_run(x, layers, FORMATS[form], sums)
    for bound, (z, a) in zip(bounds, runs, strict=True):
        assert (np.abs(z - bound.z) <= bound.z_error).all()
        assert (np.abs(a - bound.a) <= bound.a_error).all()


def test_the_bound_is_not_void_and_a_wrong_one_would_be_seen() -> None:
    rng = np.random.default_rng(5)
    layers = network(rng, [16, 16, 16, 16], "tanh")
    x = rng.standard_normal((64, 16))
    bounds = forward_error(x, layers, "fp16", accumulate="fp32")
    runs = list(low_run(x, layers, FORMATS["fp16"], FORMATS["fp32"]))
    for bound, (z, _) in zip(bounds, runs, strict=True):
        worst = np.max(np.abs(z - bound.z) / bound.z_error)
        assert 1e-3 < worst <= 1.0
    # A bound that takes the format for fp32, whose u is 2⁻¹³ of it, does not hold.
    wrong = forward_error(x, layers, "fp32")
    assert (np.abs(runs[0][0] - wrong[0].z) > wrong[0].z_error).any()


def test_exact_values_are_those_of_mpmath() -> None:
    rng = np.random.default_rng(2)
    (layer,) = network(rng, [3, 2], "tanh")
    x = rng.standard_normal((1, 3))
    (bound,) = forward_error(x, [layer], "fp64")
    bias = np.zeros(2) if layer.bias is None else layer.bias
    with mp.workdps(40):
        for i in range(2):
            terms = (
                mp.mpf(float(w)) * mp.mpf(float(v))
                for w, v in zip(layer.weights[i], x[0], strict=True)
            )
            z = mp.fsum(terms) + mp.mpf(float(bias[i]))
            assert abs(float(z - mp.mpf(float(bound.z[0, i])))) <= bound.z_error[0, i]
            assert abs(float(mp.tanh(z) - mp.mpf(float(bound.a[0, i])))) <= bound.a_error[0, i]


def test_long_sums_have_no_bound() -> None:
    layer = DenseLayer(np.full((1, 2046), 1e-3))
    x = np.full((1, 2046), 1e-3)
    (void,) = forward_error(x, [layer], "fp16")
    (held,) = forward_error(x, [layer], "fp16", accumulate="fp32")
    assert np.isinf(void.z_error).all()
    assert np.isfinite(held.z_error).all()


def test_what_has_no_bound_is_refused() -> None:
    with pytest.raises(ShapeError, match="layer 2"):
        forward_error(np.ones((1, 2)), [DenseLayer(np.ones((3, 2)))] * 2, "fp32")
    with pytest.raises(TheoryError, match=r"range of fp16.*\n.*\n.*layer 1"):
        forward_error(np.full((1, 2), 1e3), [DenseLayer(np.full((1, 2), 1e3))], "fp16")
    with pytest.raises(IsogradError, match="number format"):
        forward_error(np.ones((1, 2)), [], "fp33")
