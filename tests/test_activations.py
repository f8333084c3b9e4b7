"""Activations: value, slope and curvature against mpmath, all of them as in PyTorch, active
intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
from checks import run_static, ulps
from mpmath import mpf

from isograd import functions as F
from isograd import grad, jvp, vjp
from isograd.errors import TheoryError
from isograd.nn.activations import (
    FORMULAS,
    activation,
    active_interval,
    largest_slope,
    phi,
)
from isograd.nn.spec import ACTIVATION_NAMES, Activation
from isograd.theory import Phi, check_derivative

INF, NAN = math.inf, math.nan
Triple = tuple[mpf, mpf, mpf]


@dataclass(frozen=True)
class Row:
    """An activation, its value and two derivatives at a real number, and how exact they must be.

    Attributes:
        spec: what is tested.
        true: x ↦ (φ, φ′, φ″), by formulas of its own.
        at_infinity: (φ, φ′, φ″) at −inf and at +inf.
        ulps: tolerances for φ, φ′, φ″, in units in the last place; what lies below the smallest
            normal number counts as right.
        atol: added to these, in unit roundoffs: where a form cancels.
        tail: added to the tolerances in units in the last place at x: where the argument of an
            exponential is rounded.
    """

    spec: Activation
    true: Callable[[mpf], Triple]
    at_infinity: tuple[tuple[float, float, float], tuple[float, float, float]]
    ulps: tuple[float, float, float] = (4, 6, 12)
    atol: tuple[float, float, float] = (0, 0, 0)
    tail: Callable[[float], float] = lambda x: 0.0

    @property
    def name(self) -> str:
        given = self.spec.beta if self.spec.alpha is None else self.spec.alpha
        return self.spec.name if given is None else f"{self.spec.name}-{given}"


def sigma(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x))


def logistic(x: mpf) -> Triple:
    s, r = sigma(x), sigma(-x)
    return s, s * r, s * r * (r - s)


def tanh(x: mpf) -> Triple:
    t, d = mpmath.tanh(x), mpmath.sech(x) ** 2
    return t, d, -2 * t * d


def leaky(alpha: float) -> Callable[[mpf], Triple]:
    return lambda x: (x, mpf(1), mpf(0)) if x > 0 else (alpha * x, mpf(alpha), mpf(0))


def elu(alpha: mpf, scale: float = 1) -> Callable[[mpf], Triple]:
    def f(x: mpf) -> Triple:
        if x > 0:
            return scale * x, scale, mpf(0)
        e = scale * alpha * mpmath.exp(x)
        return scale * alpha * mpmath.expm1(x), e, e

    return f


def silu(x: mpf) -> Triple:
    s, d, h = logistic(x)
    return x * s, s + x * d, 2 * d + x * h


def gelu(x: mpf) -> Triple:
    far = abs(x) > 1e4  # mpmath cannot take the exponential of −10⁶¹⁵
    cdf, pdf = (mpf(x > 0), mpf(0)) if far else (mpmath.ncdf(x), mpmath.npdf(x))
    return x * cdf, cdf + x * pdf, (2 - x * x) * pdf


def x_sigma(u: Callable[[mpf], Triple], far: float = 1e300) -> Callable[[mpf], Triple]:
    """x·σ(u(x)); beyond `far` it is x or 0."""

    def f(x: mpf) -> Triple:
        if abs(x) > far:
            return (x, mpf(1), mpf(0)) if x > 0 else (mpf(0), mpf(0), mpf(0))
        v, v1, v2 = u(x)
        s, d, h = logistic(v)
        return x * s, s + x * d * v1, 2 * d * v1 + x * (h * v1 * v1 + d * v2)

    return f


def cubic(x: mpf) -> Triple:
    """2√(2/π)·(x + 0.044715x³): (1 + tanh u)/2 = σ(2u)."""
    c, k = mpmath.sqrt(8 / mpmath.pi), mpf("0.044715")
    return c * (x + k * x**3), c * (1 + 3 * k * x**2), 6 * c * k * x


def hard_tanh(x: mpf) -> Triple:
    inside = abs(x) < 1
    return (x, mpf(1), mpf(0)) if inside else (mpmath.sign(x), mpf(0), mpf(0))


def erf(x: mpf) -> Triple:
    if abs(x) > 1e4:  # mpmath cannot take the exponential of −10⁶¹⁵
        return mpmath.sign(x), mpf(0), mpf(0)
    d = 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x)
    return mpmath.erf(x), d, -2 * x * d


def sine(x: mpf) -> Triple:
    return mpmath.sin(x), mpmath.cos(x), -mpmath.sin(x)


def selu() -> Callable[[mpf], Triple]:
    """Klambauer et al. 2017, eq. 14, in closed form."""
    root_e = mpmath.sqrt(mpmath.e)
    erf1, erf2 = mpmath.erfc(1 / mpmath.sqrt(2)), mpmath.erfc(mpmath.sqrt(2))
    alpha = -mpmath.sqrt(2 / mpmath.pi) / (erf1 * root_e - 1)
    root = 2 * erf2 * mpmath.e**2 + mpmath.pi * erf1**2 * mpmath.e
    root += -2 * (2 + mpmath.pi) * erf1 * root_e + mpmath.pi + 2
    scale = (1 - erf1 * root_e) * mpmath.sqrt(2 * mpmath.pi) / mpmath.sqrt(root)
    return elu(alpha, scale)


def times(c: float, f: Callable[[mpf], Triple], inner: float) -> Callable[[mpf], Triple]:
    def g(x: mpf) -> Triple:
        a, b, h = f(x * inner)
        return c * a, c * inner * b, c * inner * inner * h

    return g


def row(
    name: str,
    true: Callable[[mpf], Triple],
    low: tuple[float, float, float],
    high: tuple[float, float, float] = (INF, 1.0, 0.0),
    alpha: float | None = None,
    beta: float | None = None,
    **tolerances: Any,
) -> Row:
    return Row(Activation(name, alpha, beta), true, (low, high), **tolerances)


SELU = selu()
SELU_FLOOR, SELU_SCALE = float(SELU(mpf(-1000))[0]), float(SELU(mpf(1))[0])
UNKNOWN = (NAN, NAN, NAN)  # 0 · inf: see `FORMULAS`
ROWS = (
    row("identity", lambda x: (x, mpf(1), mpf(0)), (-INF, 1, 0), ulps=(0, 0, 0)),
    # The curvature is s·r·(r − s), which cancels at 0.
    row("logistic", logistic, (0, 0, 0), (1, 0, 0), atol=(0, 0, 1)),
    row("tanh", tanh, (-1, 0, 0), (1, 0, 0), atol=(0, 0, 4)),
    row("relu", leaky(0), (0, 0, 0), ulps=(0, 0, 0)),
    row("leaky_relu", leaky(0.01), (-INF, 0.01, 0), ulps=(2, 1, 0)),
    row("leaky_relu", leaky(0.3), (-INF, 0.3, 0), alpha=0.3, ulps=(2, 1, 0)),
    row("elu", elu(mpf(1)), (-1, 0, 0)),
    row("elu", elu(mpf(2.5)), (-2.5, 0, 0), alpha=2.5),
    row("selu", SELU, (SELU_FLOOR, 0, 0), (INF, SELU_SCALE, 0), ulps=(6, 6, 12)),
    row("softplus", lambda x: (mpmath.log1p(mpmath.exp(x)), *logistic(x)[:2]), (0, 0, 0)),
    row("silu", silu, UNKNOWN, (INF, NAN, NAN), atol=(0, 1, 2)),
    row("gelu", gelu, UNKNOWN, (INF, NAN, NAN), atol=(0, 2, 4), tail=lambda x: 4 * x * x),
    row(
        "scaled_sigmoid",
        lambda x: (4 * sigma(x) - 2, *times(4, logistic, 1)(x)[1:]),
        (-2, 0, 0),
        (2, 0, 0),
        atol=(0, 0, 4),
    ),
    row("prelu", leaky(0.25), (-INF, 0.25, 0), ulps=(2, 1, 0)),
    row("prelu", leaky(3), (-INF, 3.0, 0), alpha=3.0, ulps=(2, 1, 0)),
    row("swish", silu, UNKNOWN, (INF, NAN, NAN), atol=(0, 1, 2)),
    row(
        "swish",
        x_sigma(lambda x: (mpf(1.7) * x, mpf(1.7), mpf(0))),
        UNKNOWN,
        (INF, NAN, NAN),
        beta=1.7,
        atol=(0, 2, 8),
        tail=lambda x: 4 * abs(x),
    ),
    row(
        "gelu_tanh",
        x_sigma(cubic, far=1e4),
        UNKNOWN,
        (INF, NAN, NAN),
        atol=(0, 2, 8),
        tail=lambda x: 4 * abs(x) + abs(x * x * x),
    ),
    row(
        "gelu_logistic",
        x_sigma(lambda x: (mpf("1.702") * x, mpf("1.702"), mpf(0))),
        UNKNOWN,
        (INF, NAN, NAN),
        atol=(0, 2, 8),
        tail=lambda x: 4 * abs(x),
    ),
    row("hard_tanh", hard_tanh, (-1, 0, 0), (1, 0, 0), ulps=(0, 0, 0)),
    row(
        "lecun_tanh",
        times(mpf("1.7159"), tanh, mpf(2) / 3),
        (-1.7159, 0, 0),
        (1.7159, 0, 0),
        atol=(0, 0, 4),
        tail=lambda x: 4 * abs(x),
    ),
    row("erf", erf, (-1, 0, NAN), (1, 0, NAN), tail=lambda x: 2 * x * x),
    row("sine", sine, (NAN, NAN, NAN), (NAN, NAN, NAN), ulps=(2, 2, 4)),
)
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)


def points(dtype: type[np.floating]) -> np.ndarray:
    info = np.finfo(dtype)
    positive = [
        *(float(info.smallest_subnormal), float(info.tiny), float(info.eps), 1e-8, 1e-3, 0.1),
        *(0.5, 0.7517, 1.0, 1.2785, 1.4142135, 2.5, 5.0, 10.0, 17.3, 40.0, 88.0, 100.0, 709.0),
        *(745.0, 1000.0, 1e15, 1e30, float(info.max) / 4),
    ]
    rng = np.random.default_rng(0)
    positive += [*rng.uniform(0, 4, 8), *rng.uniform(0, 110, 8), *np.exp(rng.uniform(-87, 87, 8))]
    return np.array([0.0, -0.0, *positive, *(-x for x in positive)], dtype)


def derivatives(spec: Activation, x: np.ndarray) -> list[np.ndarray]:
    """φ, φ′ and φ″ by forward mode."""
    f, ones = activation(spec), np.ones_like(x)

    def slope(x: np.ndarray) -> np.ndarray:
        return jvp(f, (x,), (ones,))[1]

    return [f(x), *jvp(slope, (x,), (ones,))]


def reverse(spec: Activation, x: np.ndarray) -> list[np.ndarray]:
    """φ, φ′ and φ″ by reverse mode."""
    f = activation(spec)
    slope = grad(lambda x: F.sum(f(x)))
    return [f(x), slope(x), grad(lambda x: F.sum(slope(x)))(x)]


def errors(row: Row, x: np.ndarray, got: list[np.ndarray]) -> list[str]:
    """What differs from the truth by more than the tolerance."""
    found = []
    roundoff, smallest = float(np.finfo(x.dtype).eps), float(np.finfo(x.dtype).smallest_normal)
    with mpmath.workdps(480):  # 1 − e^−1000 is told from 1
        for i, at in enumerate(x):
            for k, (value, want) in enumerate(zip(got, row.true(mpf(float(at))), strict=True)):
                error = ulps(value[i], want, normal_only=True)
                absolute = abs(mpf(float(value[i])) - want)
                # What cancels in x · (1 + erf) is as large as x; beyond −9 it is 0 outright.
                size = row.atol[k] * np.clip(abs(float(at)), 1.0, 9.0) * roundoff
                # A factor of x has underflowed.
                size = max(size, min(abs(float(at)), 1e3) * smallest)
                if not (error <= row.ulps[k] + row.tail(float(at)) or absolute <= size):
                    found.append(f"φ{k * '′'}({at}) = {value[i]}, not {mpmath.nstr(want, 20)}")
    return found


@each_row
@each_dtype
@pytest.mark.parametrize("mode", [derivatives, reverse], ids=["forward", "reverse"])
def test_value_slope_and_curvature_meet_mpmath(
    row: Row, dtype: type[np.floating], mode: Callable[..., list[np.ndarray]]
) -> None:
    x = points(dtype)
    got = mode(row.spec, x)
    assert all(y.dtype == dtype for y in got)
    assert not errors(row, x, got)


def test_a_wrong_slope_is_seen() -> None:
    row = next(r for r in ROWS if r.name == "tanh")
    x = np.array([0.5, 20.0])
    with mpmath.workdps(60):
        exact = [np.array([float(row.true(mpf(a))[k]) for a in x]) for k in range(3)]
    assert not errors(row, x, exact)
    naive = [exact[0], 1 - exact[0] ** 2, exact[2]]  # 0 at x = 20, where the slope is 1.7e-17
    (found,) = errors(row, x, naive)
    assert found.startswith("φ′(20.0) = 0.0, not 1.69934170211663")


@each_row
@each_dtype
def test_infinities_and_nan(row: Row, dtype: type[np.floating]) -> None:
    x = np.array([-INF, INF, NAN], dtype)
    for k, got in enumerate(derivatives(row.spec, x)):
        want = [row.at_infinity[0][k], row.at_infinity[1][k]]
        np.testing.assert_allclose(got[:2], want, rtol=2 * np.finfo(dtype).eps)
        assert k > 0 or math.isnan(got[2])


@each_row
def test_static_mode_gives_the_same_bits(row: Row) -> None:
    for x in (points(np.float32), points(np.float64)):
        f = activation(row.spec)
        assert run_static(f, x).tobytes() == f(x).tobytes()


def test_every_activation_is_in_the_table() -> None:
    assert {"softmax", *(r.spec.name for r in ROWS)} == set(ACTIVATION_NAMES)
    assert list(FORMULAS)[: len(ACTIVATION_NAMES)] == list(ACTIVATION_NAMES)
    assert [n for n in ACTIVATION_NAMES if not FORMULAS[n].elementwise] == ["softmax"]


def pytorch() -> dict[Activation, Callable[[Any], Any]]:
    """What PyTorch has of them, with the same parameters."""
    torch = pytest.importorskip("torch")
    its = torch.nn.functional
    return {
        Activation("identity"): lambda x: 1.0 * x,
        Activation("logistic"): its.sigmoid,
        Activation("tanh"): its.tanh,
        Activation("relu"): its.relu,
        Activation("leaky_relu"): its.leaky_relu,
        Activation("leaky_relu", alpha=0.3): lambda x: its.leaky_relu(x, 0.3),
        Activation("elu"): its.elu,
        Activation("elu", alpha=2.5): lambda x: its.elu(x, 2.5),
        Activation("selu"): its.selu,
        Activation("softplus"): its.softplus,
        Activation("silu"): its.silu,
        Activation("gelu"): its.gelu,
        Activation("prelu"): lambda x: its.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
        Activation("swish"): its.silu,
        Activation("gelu_tanh"): lambda x: its.gelu(x, approximate="tanh"),
        Activation("hard_tanh"): its.hardtanh,
        Activation("erf"): torch.erf,
        Activation("sine"): torch.sin,
        Activation("softmax"): lambda x: its.softmax(x, dim=-1),
    }


def test_values_and_gradients_are_those_of_pytorch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    table = pytorch()
    assert {s.name for s in table} == set(ACTIVATION_NAMES) - {
        "scaled_sigmoid",
        "gelu_logistic",
        "lecun_tanh",
    }
    x = np.concatenate([2.0 * rng.standard_normal((6, 5)), 15.0 * rng.standard_normal((2, 5))])
    g = rng.standard_normal(x.shape)
    for spec, theirs in table.items():
        leaf = torch.tensor(x, requires_grad=True)
        y = theirs(leaf)
        y.backward(torch.tensor(g))
        got, pull_back = vjp(activation(spec), x)
        # PyTorch's softplus is x beyond 20, and its gelu cancels left of 0.
        slack = {"softplus": 3e-9, "gelu": 1e-15, "gelu_tanh": 1e-14}.get(spec.name, 1e-16)
        np.testing.assert_allclose(got, y.detach(), rtol=1e-13, atol=slack, err_msg=spec.name)
        slope = pull_back(g)[0]
        np.testing.assert_allclose(slope, leaf.grad, rtol=1e-12, atol=slack, err_msg=spec.name)


def test_kinks_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    table = {s: f for s, f in pytorch().items() if FORMULAS[s.name].kinks}
    assert {s.name for s in table} == {n for n, f in FORMULAS.items() if f.kinks}
    for spec, theirs in table.items():
        at = FORMULAS[spec.name].kinks
        beside = [k + s for k in at for s in (0.0, 1e-300, -1e-300, 1e-10, -1e-10)]
        x = torch.tensor([-0.0, *beside], dtype=torch.float64, requires_grad=True)
        theirs(x).sum().backward()
        got = phi(spec).df(x.detach().numpy())
        np.testing.assert_allclose(got, x.grad.numpy(), rtol=1e-15, err_msg=spec.name)


# Parameters that are learned


def test_a_slope_per_unit_is_pytorch_s_prelu(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x, g = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    alpha = np.array([0.25, -0.5, 0.0, 1.5])
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, alpha)]
    y = torch.nn.functional.prelu(*leaves)
    y.backward(torch.tensor(g))
    got, pull_back = vjp(lambda x, a: activation(Activation("prelu"), a)(x), x, alpha)
    np.testing.assert_allclose(got, y.detach(), rtol=1e-15)
    for ours, leaf in zip(pull_back(g), leaves, strict=True):
        np.testing.assert_allclose(ours, leaf.grad, rtol=1e-14)


def test_a_beta_per_unit(rng: np.random.Generator) -> None:
    """∂(x·σ(βx))/∂β = x²·σ′(βx), summed over the rows."""
    x, g = 3.0 * rng.standard_normal((6, 3)), rng.standard_normal((6, 3))
    beta = np.array([1.0, -0.7, 0.0])
    spec = Activation("swish", beta=5.0, learned=True)
    got, pull_back = vjp(lambda x, b: activation(spec, b)(x), x, beta)
    s = scipy.special.expit(beta * x)
    d = s * scipy.special.expit(-beta * x)
    np.testing.assert_allclose(got, x * s, rtol=1e-14)
    dx, db = pull_back(g)
    np.testing.assert_allclose(dx, g * (s + beta * x * d), rtol=1e-12)
    np.testing.assert_allclose(db, (g * x * x * d).sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(activation(spec)(x), activation(spec, 5.0)(x))


# Softmax, the one that mixes the units of a row


@each_dtype
def test_softmax_over_the_whole_range(dtype: type[np.floating]) -> None:
    """Value and Jacobian, p·(δ − p), of rows with large, equal and infinite logits."""
    logits = [[0.0, 0.0, 0.0], [1e4, -1e4, 0.0], [1e30, 1e30, -1e30], [80.0, -3.0, 79.0]]
    f = activation(Activation("softmax"))
    roundoff = float(np.finfo(dtype).eps)
    for z in logits:
        x = np.array([z], dtype)
        with mpmath.workdps(50):
            shifted = [mpf(float(a)) - mpf(float(x.max())) for a in x[0]]
            e = [mpmath.exp(s) if s > -1e5 else mpf(0) for s in shifted]
            p = [a / mpmath.fsum(e) for a in e]
        got, pull_back = vjp(f, x)
        assert got.dtype == dtype
        for a, want, s in zip(got[0], p, shifted, strict=True):
            assert ulps(a, want, normal_only=True) <= 4 + 2 * abs(s)
        for i in range(3):
            (row,) = pull_back(np.eye(3, dtype=dtype)[[i]])[0]
            want = [float(p[i] * ((i == j) - p[j])) for j in range(3)]
            np.testing.assert_allclose(row, want, rtol=400 * roundoff, atol=4 * roundoff**2)
    assert math.isnan(f(np.array([[NAN, 0.0]], dtype))[0, 1])
    np.testing.assert_array_equal(f(np.array([[-INF, 0.0]], dtype)), [[0.0, 1.0]])


def test_theory_says_nothing_of_softmax() -> None:
    for ask in (phi, active_interval, largest_slope):
        with pytest.raises(TheoryError, match="act on each value by itself") as caught:
            ask(Activation("softmax"))
        assert caught.value.came == "softmax: eˣ/Σ eˣ over the row"


# As theory sees them


@each_row
def test_theory_accepts_value_slope_and_kinks(row: Row) -> None:
    check_derivative(phi(row.spec))


def test_an_undeclared_kink_is_seen() -> None:
    relu = phi(Activation("leaky_relu", alpha=0.3))
    with pytest.raises(TheoryError, match="kinks must hold every point"):
        check_derivative(Phi("shifted", lambda x: relu.f(x - 0.1), lambda x: relu.df(x - 0.1)))


def test_one_activation_is_one_phi() -> None:
    """Theory keeps its integrals by activation: an equal spec must find them."""
    assert phi(Activation("elu", alpha=2.5)) is phi(Activation("elu", alpha=2.5))
    assert phi(Activation("elu")).name == "elu"
    assert phi(Activation("elu", alpha=2.5)).name == "elu(2.5)"
    assert phi(Activation("swish", beta=-2.0)).name == "swish(-2)"


GELU_TANH = x_sigma(cubic, far=1e4)
with mpmath.workdps(30):
    # The largest slope of x·σ(βx) is that of x·σ(x), at another place.
    SILU_STEEPEST = float(silu(mpmath.findroot(lambda x: silu(x)[2], 2.4))[1])
    LARGEST_SLOPE = {
        **dict.fromkeys(("identity", "relu", "leaky_relu", "leaky_relu-0.3", "elu"), 1.0),
        **dict.fromkeys(("tanh", "softplus", "scaled_sigmoid", "hard_tanh", "sine"), 1.0),
        **dict.fromkeys(("silu", "swish", "swish-1.7", "gelu_logistic"), SILU_STEEPEST),
        "prelu": 1.0,
        "prelu-3.0": 3.0,
        "lecun_tanh": 1.7159 * 2 / 3,
        "erf": float(2 / mpmath.sqrt(mpmath.pi)),
        "gelu_tanh": float(GELU_TANH(mpmath.findroot(lambda x: GELU_TANH(x)[2], 1.4))[1]),
        "logistic": 0.25,
        "elu-2.5": 2.5,
        "selu": float(SELU(mpf(0))[1]),
        "gelu": float(gelu(mpmath.sqrt(2))[1]),  # φ″ = (2 − x²)·pdf is 0 there
    }


@each_row
def test_the_largest_slope(row: Row) -> None:
    assert largest_slope(row.spec) == pytest.approx(LARGEST_SLOPE[row.name], rel=1e-7)


def test_largest_slopes_in_print() -> None:
    assert largest_slope(Activation("gelu")) == pytest.approx(1.1289, abs=5e-5)
    assert largest_slope(Activation("silu")) == pytest.approx(1.0998, abs=5e-5)
    assert largest_slope(Activation("selu")) == pytest.approx(1.7581, abs=5e-5)


def edge(row: Row, start: float) -> float:
    """The x near `start` where |φ′| is 1 % of its largest value, in 30 digits."""
    bound = LARGEST_SLOPE[row.name] / 100
    with mpmath.workdps(30):
        return float(mpmath.findroot(lambda x: abs(row.true(x)[1]) - bound, start))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("logistic", -6, 6),
        ("tanh", -3, 3),
        ("scaled_sigmoid", -6, 6),
        ("elu", -4.6, INF),
        ("elu-2.5", -3.7, INF),
        ("selu", -4.6, INF),
        ("softplus", -4.6, INF),
        ("silu", -6, INF),
        ("gelu", -3, INF),
        ("swish", -6, INF),
        ("swish-1.7", -3.5, INF),
        ("gelu_tanh", -3, INF),
        ("gelu_logistic", -3.5, INF),
        ("lecun_tanh", -4.5, 4.5),
        ("erf", -2.1, 2.1),
    ],
)
def test_the_active_interval_ends_where_the_slope_is_1_percent(
    name: str, low: float, high: float
) -> None:
    row = next(r for r in ROWS if r.name == name)
    got = active_interval(row.spec)
    # The largest slope is known to 1e-7 of itself, and so are the ends.
    assert got[0] == pytest.approx(edge(row, low), abs=2e-7)
    assert got[1] == pytest.approx(INF if high == INF else edge(row, high), abs=2e-7)


def test_active_intervals_that_end_at_a_kink_or_nowhere() -> None:
    assert active_interval(Activation("relu")) == (0.0, INF)
    assert active_interval(Activation("leaky_relu", alpha=0.001)) == (0.0, INF)
    assert active_interval(Activation("elu", alpha=0.001)) == (0.0, INF)
    assert active_interval(Activation("leaky_relu", alpha=200.0)) == (-INF, 0.0)
    low, high = active_interval(Activation("elu", alpha=200.0))
    assert (low, high) == (pytest.approx(math.log(0.01), abs=1e-9), 0.0)
    assert active_interval(Activation("elu", alpha=0.01)) == (pytest.approx(0.0, abs=1e-9), INF)
    assert active_interval(Activation("leaky_relu")) == (-INF, INF)
    assert active_interval(Activation("identity")) == (-INF, INF)
    assert active_interval(Activation("hard_tanh")) == (-1.0, 1.0)
    assert active_interval(Activation("prelu")) == (-INF, INF)
    assert active_interval(Activation("prelu", alpha=0.0)) == (0.0, INF)
    assert active_interval(Activation("sine")) == (-INF, INF)
    assert active_interval(Activation("logistic"))[1] == pytest.approx(5.9864457, abs=1e-7)
