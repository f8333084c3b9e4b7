"""The activations of the theory tests, as NumPy callables and in mpmath, and the reference values.

`reference_theory.json` holds the values with their tolerances and sources; `python
tests/theory_table.py` prints its entries "M" anew.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy import special, stats

from isograd.theory import Phi

FACTS: dict[str, dict[str, Any]] = {
    fact["id"]: fact
    for fact in json.loads(Path(__file__).with_name("reference_theory.json").read_text("utf-8"))
}


def facts(prefix: str) -> list[Any]:
    found = [pytest.param(fact, id=key) for key, fact in FACTS.items() if key.startswith(prefix)]
    assert found, prefix
    return found


LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
CUBE = 0.044715


def elu(x, alpha=1.0, scale=1.0):
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_slope(x, alpha=1.0, scale=1.0):
    return scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


def sech2(x):
    return 1 / np.cosh(np.clip(x, -300, 300)) ** 2


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + CUBE * x**3)))


def gelu_tanh_slope(x):
    inner = math.sqrt(2 / math.pi) * (x + CUBE * x**3)
    outer = math.sqrt(2 / math.pi) * (1 + 3 * CUBE * x**2)
    return (1 + np.tanh(inner)) / 2 + x / 2 * sech2(inner) * outer


def leaky(a):
    return lambda x: np.where(x > 0, x, a * x), lambda x: np.where(x > 0, 1.0, a)


def activation(name: str, f, df, *kinks: float) -> tuple[str, Phi]:
    return name, Phi(name, f, df, kinks)


PHI = dict(
    [
        activation("linear", lambda x: 1.0 * x, np.ones_like),
        activation("relu", lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, 0),
        activation("leaky_0.01", *leaky(0.01), 0),
        activation("leaky_0.2", *leaky(0.2), 0),
        activation("tanh", np.tanh, sech2),
        activation("sigmoid", special.expit, lambda x: special.expit(x) * special.expit(-x)),
        activation("scaled_sigmoid_4s-2", lambda x: 2 * np.tanh(x / 2), lambda x: sech2(x / 2)),
        activation(
            "lecun_tanh",
            lambda x: 1.7159 * np.tanh(2 * x / 3),
            lambda x: 1.7159 * 2 / 3 * sech2(2 * x / 3),
        ),
        activation("sin", np.sin, np.cos),
        activation("softplus", lambda x: np.logaddexp(0, x), special.expit),
        activation("elu_1", elu, elu_slope, 0),
        activation(
            "selu", lambda x: elu(x, ALPHA, LAMBDA), lambda x: elu_slope(x, ALPHA, LAMBDA), 0
        ),
        activation(
            "gelu",
            lambda x: x * special.ndtr(x),
            lambda x: special.ndtr(x) + x * stats.norm.pdf(x),
        ),
        activation("gelu_tanh", gelu_tanh, gelu_tanh_slope),
        activation(
            "silu",
            lambda x: x * special.expit(x),
            lambda x: special.expit(x) * (1 + x * special.expit(-x)),
        ),
        activation("erf", special.erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-np.square(x))),
        activation(
            "hard_tanh", lambda x: np.clip(x, -1, 1), lambda x: (np.abs(x) < 1) * 1.0, -1, 1
        ),
    ]
)


def mp_elu(alpha, scale):
    return (
        lambda x: scale * (x if x > 0 else alpha * mp.expm1(x)),
        lambda x: scale * (1 if x > 0 else alpha * mp.exp(x)),
    )


def mp_logistic(x):
    return 1 / (1 + mp.exp(-x))


MP = {
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2),
    "relu": (lambda x: max(x, mp.mpf(0)), lambda x: mp.mpf(x > 0)),
    "gelu": (lambda x: x * mp.ncdf(x), lambda x: mp.ncdf(x) + x * mp.npdf(x)),
    "silu": (
        lambda x: x * mp_logistic(x),
        lambda x: mp_logistic(x) * (1 + x * mp_logistic(-x)),
    ),
    "elu_1": mp_elu(1, 1),
    "selu": mp_elu(mp.mpf("1.6732632423543772"), mp.mpf("1.0507009873554805")),
    "softplus": (
        lambda x: mp.log1p(mp.exp(-abs(x))) + max(x, mp.mpf(0)),
        mp_logistic,
    ),
    "sigmoid": (mp_logistic, lambda x: mp_logistic(x) * mp_logistic(-x)),
    "scaled_sigmoid_4s-2": (lambda x: 2 * mp.tanh(x / 2), lambda x: mp.sech(x / 2) ** 2),
    "erf": (mp.erf, lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)),
    "hard_tanh": (lambda x: min(max(x, -1), 1), lambda x: mp.mpf(abs(x) < 1)),
}
QS = (1e-6, 0.1, 1.0, 45.0, 1e4)


def mp_moments(name: str, q: float) -> dict[str, float]:
    """E φ, E φ², E φ′² by tanh–sinh quadrature at 30 digits (sin in closed form)."""
    with mp.workdps(30):
        variance = mp.mpf(q)
        if name == "sin":
            e = mp.exp(-2 * variance)
            values = [mp.mpf(0), -mp.expm1(-2 * variance) / 2, (1 + e) / 2]
        else:
            f, df = MP[name]
            reach = 13 * mp.sqrt(variance)
            scales = [min(1, mp.sqrt(variance)) * mp.mpf(2) ** k for k in range(-1, 40, 2)]
            ends = [s for s in scales if s < reach] + [reach]
            points = sorted({-e for e in ends} | {mp.mpf(0)} | set(ends) | _inside(name, reach))
            norm = mp.sqrt(2 * mp.pi * variance)
            values = [
                mp.quad(lambda u, g=g: g(u) * mp.exp(-u * u / (2 * variance)), points) / norm
                for g in (f, lambda u: f(u) ** 2, lambda u: df(u) ** 2)
            ]
        return dict(zip(("E_phi", "E_phi2", "E_dphi2"), map(float, values), strict=True))


def _inside(name: str, reach: Any) -> set[Any]:
    return {mp.mpf(k) for k in PHI[name].kinks if abs(k) < reach}


def mp_facts() -> list[dict[str, Any]]:
    return [
        {
            "id": f"M.{name}.q={q:g}",
            "what": "moments at pre-activation variance q",
            "inputs": {"activation": name, "q": q},
            "expected": mp_moments(name, q),
            "tolerance": "rel 1e-11",
            "source": "definition, mpmath at 30 digits",
        }
        for name in [*MP, "sin"]
        for q in QS
    ]


if __name__ == "__main__":
    print(json.dumps(mp_facts(), indent=1))
