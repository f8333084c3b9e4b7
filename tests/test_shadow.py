"""The float64 shadow run: errors by site, against references made by hand and in mpmath."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isograd.diagnosis.shadow import Shadow, error_bounds, shadow_step
from isograd.engine import functions as F
from isograd.engine.autodiff import value_and_grad
from isograd.engine.number_formats import FORMATS
from isograd.errors import IsogradError, TheoryError
from isograd.nn.model import build
from isograd.nn.spec import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    He,
    Network,
    Residual,
    SoftmaxCrossEntropy,
    Xavier,
)
from isograd.theory.shadow import SiteError, shadow, site_error

RNG = np.random.default_rng(11)
DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp32": np.float32,
}


def chain(depth: int, act: str = "tanh", width: int = 16, extra: tuple = (), init=None) -> Network:
    body: list = []
    for _ in range(depth - 1):
        body += [Dense(units=width), *extra, Activation(act)]
    return Network((*body, Dense(units=4)), init=init or Xavier(), loss=SoftmaxCrossEntropy())


def case(network: Network, rows: int = 32):
    model = build(network, 8)
    rng = np.random.default_rng(0)
    params = model.init(rng, np.float32)
    x = rng.standard_normal((rows, 8)).astype(np.float32)
    return model, params, x, rng.integers(0, 4, rows)


# --- functions


@pytest.mark.parametrize("name", DTYPES)
def test_errors_are_those_of_exact_fractions(name: str) -> None:
    """y = x/3, z = x·y, each rounded at its probe: the errors in exact rational numbers."""

    def f(x):
        y = F.probe(x / 3.0, "y")
        return F.probe(x * y, "z")

    x = np.linspace(0.5, 2.0, 40).astype(DTYPES[name]).astype(np.float64)
    errors = {e.site: e for e in shadow(f, x, form=name)}

    def low(a):
        return np.asarray(a, np.float32).astype(DTYPES[name]).astype(np.float64)

    y = low(np.float32(x) / np.float32(3))
    rough = {"y": y, "z": low(np.float32(x) * np.float32(y))}
    exact = {
        "y": [Fraction(float(v)) / 3 for v in x],
        "z": [Fraction(float(v)) ** 2 / 3 for v in x],
    }
    for site, values in rough.items():
        off = [float(abs(Fraction(float(a)) - b)) for a, b in zip(values, exact[site], strict=True)]
        size = math.sqrt(sum(float(b) ** 2 for b in exact[site]) / len(x))
        assert errors[site].size == pytest.approx(size, rel=1e-12)
        assert errors[site].max == pytest.approx(max(off) / size, rel=1e-6)
        rms = math.sqrt(sum(e * e for e in off) / len(x))
        assert errors[site].rms == pytest.approx(rms / size, rel=1e-6)


@pytest.mark.parametrize("form", ["fp32", "fp16"])
def test_the_error_of_a_cancellation_is_found(form: str) -> None:
    """(1 + x) − 1 for small x: mpmath has the true value, float32 a part of it."""
    x = np.array([3e-5, 1.1e-4, 7e-4])

    def f(x):
        return F.probe(F.probe(1.0 + x, "sum") - 1.0, "rest")

    found = {e.site: e for e in shadow(f, x, form=form)}
    dtype = DTYPES[form]
    rough = ((np.float32(1) + x.astype(dtype).astype(np.float32)).astype(dtype) - dtype(1)).astype(
        np.float64
    )
    with mp.workdps(30):
        off = [abs(mp.mpf(float(a)) - mp.mpf(float(b))) for a, b in zip(rough, x, strict=True)]
        size = mp.sqrt(mp.fsum(mp.mpf(float(b)) ** 2 for b in x) / 3)
        worst = float(max(off) / size)
    assert found["rest"].max == pytest.approx(worst, rel=1e-6)
    assert found["rest"].max > 100 * found["sum"].max


def test_backward_errors_have_sites_too() -> None:
    def f(x):
        return value_and_grad(lambda x: F.sum(F.exp(F.probe(x, "x", "dx"))))(x)

    x = np.array([0.3, 1.7])
    found = {e.site: e for e in shadow(f, x, form="bf16")}
    low = x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    slope = np.exp(low).astype(ml_dtypes.bfloat16).astype(np.float64)
    size = math.sqrt(float(np.mean(np.exp(x) ** 2)))
    assert found["dx"].max == pytest.approx(np.max(np.abs(slope - np.exp(x))) / size, rel=1e-6)


def test_a_planted_fault_shows_at_its_site_and_behind_it() -> None:
    """An operation that float32 does badly, between two that it does well."""

    def f(x):
        a = F.probe(F.tanh(x), "before")
        b = F.probe((a + 3e6) - 3e6, "fault")
        return F.probe(0.5 * b, "after")

    before, fault, after = shadow(f, RNG.standard_normal(100), form="fp32")
    assert before.rms < 1e-7
    assert fault.rms > 1e-2
    assert after.rms == pytest.approx(fault.rms, rel=1e-3)


def test_labels_stay_whole_and_float64_sees_no_error() -> None:
    def f(x, rows):
        return F.probe(x[rows], "taken")

    (error,) = shadow(f, RNG.standard_normal(9), np.array([8, 0, 3]), form="fp64")
    assert (error.max, error.rms) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("x", "exact", "worst", "rms"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0.0),
        ([0.0, 0.0], [3.0, 4.0], 4 / math.sqrt(12.5), 1.0),
        ([0.0], [0.0], 0.0, 0.0),
        ([1e-9], [0.0], math.inf, math.inf),
        ([np.inf, 1.0], [1e30, 1.0], math.inf, math.inf),
        ([np.nan], [1.0], math.inf, math.inf),
        ([np.inf, 2.0], [np.inf, 1.0], 1.0, 1.0),
        ([2e300, 0.0], [1e300, 0.0], math.sqrt(2), 1.0),
        ([3e-320], [1e-320], 2.0, 2.0),
        ([-3.0, -1.0], [-1.0, -1.0], 2.0, math.sqrt(2)),
    ],
)
def test_errors_of_special_values(x, exact, worst: float, rms: float) -> None:
    found = site_error("s", np.array(x), np.array(exact))
    assert found.max == pytest.approx(worst, rel=1e-3)
    assert found.rms == pytest.approx(rms, rel=1e-3)


def test_a_site_without_finite_values_says_nothing() -> None:
    found = site_error("s", np.array([1.0]), np.array([np.nan]))
    assert math.isnan(found.rms)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(IsogradError, match="fp8_e5m2"):
        shadow(lambda x: x, np.ones(2), form="tf32")


# --- networks


@pytest.mark.parametrize("form", ["fp32", "fp16", "bf16"])
def test_a_network_against_numpy(form: str) -> None:
    """z, a, δ and dW of two layers of tanh, written out in NumPy for both precisions."""
    model, params, x, y = case(chain(2))

    def run(low: bool):
        dtype = np.float32 if low else np.float64

        def at(v):
            return v.astype(DTYPES[form]).astype(dtype) if low else v

        p = {k: at(v.astype(dtype)) for k, v in params.items()}
        h = at(x.astype(dtype))
        z1 = at(h @ p["W/1"].T + p["b/1"])
        t = np.tanh(z1)
        a1 = at(t)
        z2 = at(a1 @ p["W/2"].T + p["b/2"])
        e = np.exp(z2 - z2.max(axis=1, keepdims=True))
        d2 = at((e / e.sum(axis=1, keepdims=True) - np.eye(4)[y]).astype(dtype) / dtype(len(y)))
        da = at(d2 @ p["W/2"])
        d1 = at(da * (1 - t * t))
        return {
            "z/1": z1,
            "a/1": a1,
            "z/2": z2,
            "delta/2": d2,
            "delta/1": d1,
            "dW/2": at(d2.T @ a1),
            "dW/1": at(d1.T @ h),
        }

    found = shadow_step(model, params, x, y, form=form)
    low, exact = run(True), run(False)
    close = 0.5 if form == "fp32" else 0.02
    for site, value in exact.items():
        size = math.sqrt(float(np.mean(value**2)))
        rms = math.sqrt(float(np.mean((low[site] - value) ** 2)))
        # The order of float32's operations is not that of NumPy's here, which its own errors show.
        assert found.sites[site].size == pytest.approx(size, rel=1e-9), site
        assert found.sites[site].rms == pytest.approx(rms / size, rel=close), site


def test_where_the_error_takes_over() -> None:
    """Thirty sigmoid layers: gradients of about 0.25^l fall out of fp16 on their way down."""
    model, params, x, y = case(chain(30, "logistic"))
    half, scaled, wide = (
        shadow_step(model, params, x, y, form=form, loss_scale=scale)
        for form, scale in (("fp16", 1.0), ("fp16", 2.0**14), ("bf16", 1.0))
    )
    assert (half.forward_from, wide.forward_from, wide.backward_from) == (None, None, None)
    assert half.backward_from is not None
    assert scaled.backward_from is not None
    assert half.error("delta", 1) == 1.0  # flushed, all of it
    for s in (half, scaled):
        first = s.backward_from
        assert all(s.error("delta", n) < 1.0 for n in range(first + 1, 31))
        assert s.sites[f"delta/{first}"].size * (2.0**14 if s is scaled else 1.0) < 2.0**-10
    # 2¹⁴ buys seven layers at a factor of a quarter; weights make it a few more or fewer.
    assert scaled.backward_from < half.backward_from - 3


@pytest.mark.parametrize(
    ("form", "depth"), [("bf16", 8), ("bf16", 12), ("bf16", 40), ("fp8_e4m3", 8)]
)
def test_units_that_change_sides_make_the_backward_error_of_a_relu(form: str, depth: int) -> None:
    """A share ε/π of them, where z errs by ε: two Gaussians with an angle ε between them.

    Half of the units pass δ, so the squared error of a layer is 2ε/π of the signal's.
    """
    network = chain(depth, "relu", width=64, init=He())
    found = shadow_step(*case(network, rows=64), form=form, loss_scale=2.0**8)
    errors = [found.error("z", layer) for layer in range(1, depth)]
    expected = math.sqrt(sum(2.0 * e / math.pi for e in errors))
    assert 0.6 < found.error("delta", 1) / expected < 1.6


def test_layers_that_a_network_may_have_besides() -> None:
    network = Network(
        (
            Dense(units=8),
            BatchNorm(),
            Activation("relu"),
            Dropout(rate=0.5),
            Residual((Dense(units=8), Activation("gelu"))),
            Dense(units=4),
        ),
        init=Xavier(),
        loss=SoftmaxCrossEntropy(),
    )
    model, params, x, y = case(network)
    found = shadow_step(model, params, x, y)
    # The masks are the same in both runs, or half of the values would differ entirely.
    assert 0.0 < found.error("m", 1) < 1e-6
    assert math.isnan(found.error("z", 9))


def test_first_layers_are_found_from_both_ends() -> None:
    def at(kind: str, *errors: float) -> dict[str, SiteError]:
        return {
            f"{kind}/{n}": SiteError(f"{kind}/{n}", 1.0, 2 * e, e) for n, e in enumerate(errors, 1)
        }

    sites = at("z", 0.1, 0.5, 1.5, 0.2) | at("delta", 9.0, 2.0, 0.9, 0.1)
    found = Shadow(FORMATS["fp16"], sites, (1, 2, 3, 4))
    assert (found.forward_from, found.backward_from) == (3, 2)
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "z", "a", "delta", "dW"]
    assert lines[3].split() == ["3", "1.5e+00", "9.0e-01"]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(
        ["relu", "tanh", "logistic", "gelu", "selu", "softplus", "sine", "silu", "elu"]
    ),
    st.sampled_from(["fp32", "bf16", "fp16"]),
    st.integers(1, 4),
)
def test_errors_of_networks_are_below_their_bounds(
    seed: int, act: str, form: str, depth: int
) -> None:
    rng = np.random.default_rng(seed)
    model = build(chain(depth, act), 8)
    params = model.init(rng, np.float32)
    x = rng.standard_normal((16, 8)).astype(np.float32)
    bounds = error_bounds(model, params, x, form=form)
    found = shadow_step(model, params, x, rng.integers(0, 4, 16), form=form)
    assert list(bounds) == [p.site for p in model.places]
    for site, bound in bounds.items():
        assert found.sites[site].max <= bound


def test_bounds_of_other_networks_are_refused() -> None:
    model, params, x, _ = case(chain(2, extra=(BatchNorm(),)))
    with pytest.raises(TheoryError, match="chains of dense layers"):
        error_bounds(model, params, x)
