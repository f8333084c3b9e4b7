"""Sharpness against dense eigenvalues, and stability limits against the rules themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, eigsh
from theory_table import FACTS

from isograd.errors import TheoryError
from isograd.nn.spec import (
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    GradientDescent,
    Momentum,
    Nesterov,
    Optimiser,
    RMSProp,
    Training,
)
from isograd.optim.rules import optimiser
from isograd.theory import (
    alternating_gain,
    safe_learning_rate,
    sharpness,
    stability_limit,
    steady_gain,
)


def symmetric(rng: np.random.Generator, n: int, shift: float = 0.0) -> Any:
    a = rng.standard_normal((n, n))
    return a + a.T + shift * np.eye(n)


def times(matrix: Any) -> Callable[[Any], Any]:
    return lambda v: matrix @ v


# --- the largest eigenvalue


@pytest.mark.parametrize("n", [1, 2, 3, 10, 200])
@pytest.mark.parametrize("shift", [0.0, 1e3, -1e3], ids=["indefinite", "positive", "negative"])
def test_the_largest_eigenvalue(n: int, shift: float, rng: np.random.Generator) -> None:
    matrix = symmetric(rng, n, shift)
    want = float(np.linalg.eigvalsh(matrix)[-1])
    found = sharpness(times(matrix), n, rng=rng, tol=1e-9, max_products=1000)
    assert found.converged
    assert found.value == pytest.approx(want, rel=1e-12, abs=1e-12)
    rough = sharpness(times(matrix), n, rng=rng)
    assert rough.error <= 1e-3 * abs(rough.value)
    assert abs(rough.value - want) <= rough.error + 1e-12 * abs(want)
    assert rough.products <= found.products <= 1000


def test_against_arpack(rng: np.random.Generator) -> None:
    """A spectrum as of a trained network: a few outliers, and a bulk with many zeros."""
    n = 800
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.concatenate([[50.0, 49.0, 12.0], rng.uniform(-1, 1, 200), np.zeros(n - 203)])
    matrix = (q * values) @ q.T
    operator = LinearOperator((n, n), matvec=times(matrix), dtype=np.float64)
    want = eigsh(operator, k=1, which="LA", return_eigenvectors=False)[0]
    found = sharpness(times(matrix), n, rng=rng, tol=1e-6)
    assert found.value == pytest.approx(want, rel=1e-10)
    assert found.products < 60


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize(
    ("matrix", "want"),
    [
        (np.zeros((5, 5)), 0.0),
        (np.eye(5), 1.0),
        (-np.eye(5), -1.0),
        (np.diag([3.0, 0, 0, 0]), 3.0),
        (np.ones((6, 6)), 6.0),
        (np.diag([-1.0, -2.0]), -1.0),
    ],
    ids=["zero", "one", "minus one", "a single one", "rank 1", "negative"],
)
def test_special_matrices(matrix: Any, want: float, scale: float, rng: np.random.Generator) -> None:
    found = sharpness(times(scale * matrix), len(matrix), rng=rng)
    assert found.converged
    assert found.value == pytest.approx(scale * want, rel=1e-12)


def test_a_preconditioned_hessian(rng: np.random.Generator) -> None:
    """Its eigenvalues are those of P⁻¹H, with a P over six decades."""
    matrix = symmetric(rng, 60, 30.0)
    p = 10.0 ** rng.uniform(-6, 0, 60)
    want = np.linalg.eigvals(matrix / p[:, None]).real.max()
    found = sharpness(times(matrix), 60, rng=rng, preconditioner=p, tol=1e-8)
    assert found.value == pytest.approx(want, rel=1e-10)


def test_a_search_that_was_cut_short_says_so(rng: np.random.Generator) -> None:
    """It gives a lower bound, and its error is no promise of convergence."""
    matrix = np.diag(np.arange(1000.0))
    found = sharpness(times(matrix), 1000, rng=rng, tol=1e-12, max_products=5)
    assert (found.products, found.converged) == (5, False)
    assert found.value < 999.0
    assert np.abs(found.value - np.arange(1000.0)).min() <= found.error


@pytest.mark.parametrize(
    ("hvp", "settings", "words"),
    [
        (lambda v: v * math.nan, {}, "finite"),
        (lambda v: v * math.inf, {}, "finite"),
        (lambda v: v * 1e308 * 1e10, {}, "finite"),
        (lambda v: v[:2], {}, "shaped as v"),
        (lambda v: v, {"n": 0}, "at least one row"),
        (lambda v: v, {"preconditioner": np.zeros(3)}, "above 0"),
        (lambda v: v, {"preconditioner": np.array([1.0, math.nan, 1.0])}, "above 0"),
        (lambda v: v, {"preconditioner": np.ones(2)}, "n numbers"),
        (lambda v: v, {"tol": -1.0}, "tolerance"),
        (lambda v: v, {"max_products": 0}, "product"),
    ],
)
def test_what_has_no_sharpness(
    hvp: Any, settings: Any, words: str, rng: np.random.Generator
) -> None:
    n = settings.pop("n", 3)
    with pytest.raises(TheoryError, match=words):
        sharpness(hvp, n, rng=rng, **settings)


# --- limits


def test_limits_of_the_reference() -> None:
    fact = FACTS["G1"]
    lr, beta, want = fact["inputs"]["eta"], fact["inputs"]["beta"], fact["expected"]
    assert stability_limit(lr) == want["gd"]
    assert stability_limit(lr, "momentum", beta=beta) == want["heavy_ball"]
    assert stability_limit(lr, "nesterov", beta=beta) == want["nesterov"]
    assert stability_limit(1.0, "adam", beta=0.9) == pytest.approx(38.0, rel=1e-15)


def test_twenty_steps_on_a_quadratic() -> None:
    """Also by the package's own rule: 1 − ηh per step."""
    lr = FACTS["G1b"]["inputs"]["eta"]
    for key, want in FACTS["G1b"]["expected"].items():
        h = float(key.removeprefix("h="))
        x, rule = np.array([1.0]), optimiser(GradientDescent(), Training())
        for _ in range(20):
            x = x + rule.update(h * x, (), lr, x)[0]
        assert abs(x[0]) == pytest.approx(want, rel=1e-12)
        assert (h < stability_limit(lr)) == (want < 1)


RULES: list[tuple[Optimiser, float, float]] = [
    (GradientDescent(), 0.0, 0.0),
    (SGD(), 0.0, 0.0),
    *((Momentum(momentum=b), b, 0.0) for b in (0.0, 0.5, 0.9, 0.99)),
    *((Nesterov(momentum=b), b, 0.0) for b in (0.0, 0.5, 0.9, 0.99)),
    (AdaGrad(), 0.0, 0.0),
    (RMSProp(), 0.0, 0.0),
    *((Adam(beta1=b), b, 0.0) for b in (0.0, 0.5, 0.9, 0.99)),
    *((AdamW(beta1=b, weight_decay=d), b, d) for b in (0.0, 0.9) for d in (0.0, 1.0)),
]


def one_step(kind: Optimiser, lr: float, h: float, x: float, memory: float) -> tuple[float, float]:
    """A step of the package's rule on ½hx², with a P of 1: what adaptive rules keep stays there."""
    rule, g, at = optimiser(kind, Training()), np.array([h * x]), np.array([x])
    state: Any = rule.init(at)
    match kind:
        case Adam() | AdamW():
            v = (1.0 - (1.0 - kind.beta2) * g**2) / kind.beta2
            state = {"m": np.array([memory]), "v": v, "t": np.array(1e9)}
        case AdaGrad():
            state = 1.0 - g**2
        case RMSProp():
            state = (1.0 - (1.0 - kind.decay) * g**2) / kind.decay
        case Momentum() | Nesterov():
            state = np.array([memory])
    step, state = rule.update(g, state, lr, at)
    after = {Momentum: state, Nesterov: state}.get(type(kind), np.zeros(1))
    if isinstance(kind, Adam | AdamW):
        after = state["m"]
    return x + float(step[0]), float(after[0])


def radius(kind: Optimiser, lr: float, h: float) -> float:
    """Of the linear map of a step: distances shrink below 1 and grow above."""
    columns = [one_step(kind, lr, h, *start) for start in ((1.0, 0.0), (0.0, 1.0))]
    return float(np.abs(np.linalg.eigvals(np.array(columns).T)).max())


@pytest.mark.parametrize(("kind", "beta", "decay"), RULES, ids=lambda x: str(x)[:60])
@pytest.mark.parametrize("h", [0.01, 1.0, 700.0])
def test_every_rule_converges_below_its_limit_and_diverges_above(
    kind: Optimiser, beta: float, decay: float, h: float
) -> None:
    method: Any = kind.__struct_config__.tag
    lr = safe_learning_rate(h, method, beta=beta, decay=decay)
    assert stability_limit(lr, method, beta=beta, decay=decay) == pytest.approx(h, rel=1e-12)
    for factor in (0.01, 0.3, 0.9, 0.999):
        assert radius(kind, factor * lr, h) < 1.0
    for factor in (1.001, 1.1, 3.0, 100.0):
        assert radius(kind, factor * lr, h) > 1.0


def test_gains_of_a_filter() -> None:
    """F(−1) and F(1) are sums over a rule's memory of alternating and of steady gradients."""
    for kind, beta, decay in RULES:
        if decay or beta > 0.9:
            continue
        method: Any = kind.__struct_config__.tag
        for sign, gain in ((-1.0, alternating_gain), (1.0, steady_gain)):
            memory = total = 0.0
            for t in range(200):
                g = sign**t
                step, memory = one_step(kind, 1.0, 1.0, g, memory)
                total = (g - step) * g
            assert gain(method, beta) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stability_limit(0.0), "above 0"),
        (lambda: stability_limit(math.nan), "above 0"),
        (lambda: stability_limit(0.1, "momentum", beta=1.0), r"in \[0, 1\)"),
        (lambda: stability_limit(0.1, "sgd", beta=0.5), "no momentum"),
        (lambda: stability_limit(0.1, "lion"), "known"),  # type: ignore[arg-type]
        (lambda: stability_limit(0.1, decay=-1.0), "at least 0"),
        (lambda: safe_learning_rate(math.nan), "number"),
    ],
)
def test_rates_that_make_no_sense(call: Callable[[], float], words: str) -> None:
    with pytest.raises(TheoryError, match=words):
        call()


def test_without_positive_curvature_there_is_no_limit() -> None:
    assert safe_learning_rate(0.0) == safe_learning_rate(-3.0, "adam", beta=0.9) == math.inf
    assert safe_learning_rate(-3.0, "adamw", beta=0.9, decay=0.1) == pytest.approx(20.0)
    assert stability_limit(100.0, "adamw", decay=0.1) == 0.0
