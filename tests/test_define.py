"""Activations that a program defines: what is accepted, what is refused, and who knows of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.special
from msgspec.structs import replace

from isograd import fit, load_spec
from isograd import functions as F
from isograd.diagnosis import examine
from isograd.diagnosis.findings import Finding
from isograd.errors import SpecError
from isograd.nn import Activation, Data, Dense, Network, Repeat, Spec, Training, define_activation
from isograd.nn import layers as spec_layers
from isograd.nn.activations import FORMULAS, activation, active_interval, largest_slope, phi
from isograd.nn.define import defined
from isograd.nn.spec import ACTIVATION_NAMES
from isograd.remedy import Candidate, candidates, prescribe
from isograd.theory import check_derivative
from isograd.training.loop import load_split


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is defined before a test, and what it defines is gone after it."""
    monkeypatch.setattr(spec_layers, "_DEFINED", set())
    for name in set(FORMULAS) - set(ACTIVATION_NAMES):
        monkeypatch.delitem(FORMULAS, name)
    yield
    for name in set(FORMULAS) - set(ACTIVATION_NAMES):
        del FORMULAS[name]
    for cached in (phi, active_interval, largest_slope):
        cached.cache_clear()


def mish(x: Any) -> Any:
    return x * F.tanh(F.softplus(x))


def normalised(x: Any) -> Any:
    return x - F.mean(x, axis=1, keepdims=True)


# What is accepted


def test_a_defined_activation_is_one_like_others(rng: np.random.Generator) -> None:
    define_activation("mish", mish, text="x·tanh(ln(1 + eˣ))", source="Misra 2019")
    spec = Activation("mish")
    x = 3.0 * rng.standard_normal((5, 4))
    np.testing.assert_allclose(
        activation(spec)(x), x * np.tanh(np.log1p(np.exp(x))), rtol=1e-14, atol=1e-15
    )
    check_derivative(phi(spec))
    low, high = active_interval(spec)
    assert high == math.inf
    # |φ′| = 1 % of its largest value, 1.0885, by the formula in SciPy.
    t, s = np.tanh(np.log1p(np.exp(low))), scipy.special.expit(low)
    assert abs(t + low * s * (1 - t**2)) == pytest.approx(0.01 * largest_slope(spec), rel=1e-6)
    assert FORMULAS["mish"].elementwise
    assert list(defined()) == ["mish"]


def test_functions_of_numpy_and_kinks() -> None:
    define_activation("shrink", lambda x: np.where(np.abs(x) > 0.5, x, 0.0), kinks=[0.5, -0.5])
    assert FORMULAS["shrink"].kinks == (-0.5, 0.5)
    x = np.array([[-1.0, 0.2, 0.7]], np.float32)
    np.testing.assert_array_equal(
        activation(Activation("shrink"))(x), np.array([[-1, 0, 0.7]], np.float32)
    )


def test_a_spec_may_name_it(tmp_path: Any) -> None:
    text = """
        data = { source = "iris" }
        network.layers = [
            { kind = "dense", units = 4 },
            { kind = "activation", name = "mish" },
            { kind = "dense", units = 3 },
        ]
    """
    path = tmp_path / "spec.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(SpecError, match="name must be"):
        load_spec(path)
    define_activation("mish", mish)
    assert load_spec(path).network.layers[1] == Activation("mish")


@pytest.mark.parametrize(
    ("f", "elementwise"),
    [
        (mish, True),
        (lambda x: F.where(x > 0, x, 0.1 * x) + 1, True),
        (lambda x: F.clip(x, -1.0, 1.0) ** 3, True),
        (lambda x: x * np.float32(2) if x.dtype == np.float32 else x * 2.0, True),
        (lambda x: F.astype(F.tanh(F.astype(x, np.float64)), x.dtype), True),
        (normalised, False),
        (lambda x: x[::-1], False),
        (lambda x: x * np.arange(x.shape[1]).astype(x.dtype), False),
        (lambda x: F.softmax(x), False),
        (lambda x: x / F.sqrt(F.sum(F.square(x)) + 1.0), False),
    ],
)
def test_elementwise_is_found_out(f: Callable[[Any], Any], elementwise: bool) -> None:
    define_activation("own", f)
    assert FORMULAS["own"].elementwise is elementwise
    # The same by values: a change elsewhere, and a permutation.
    x = np.random.default_rng(1).standard_normal((4, 3))
    order = np.random.default_rng(2).permutation(12)
    other = x.copy()
    other[1:] += 1.0
    same = np.allclose(np.asarray(f(other))[0], np.asarray(f(x))[0])
    permuted = np.asarray(f(x.ravel()[order].reshape(4, 3))).ravel()
    same &= np.allclose(permuted, np.asarray(f(x)).ravel()[order])
    assert same is elementwise


def test_a_definition_may_be_repeated_but_not_changed() -> None:
    define_activation("own", lambda x: F.tanh(2.0 * x))
    define_activation("own", lambda x: F.tanh(2.0 * x))
    for f, kinks in ((lambda x: F.tanh(3.0 * x), ()), (lambda x: F.tanh(2.0 * x), (0.0,))):
        with pytest.raises(SpecError, match="must not be defined twice") as caught:
            define_activation("own", f, kinks=kinks)
        assert "choose another name" in caught.value.fix
    assert activation(Activation("own"))(np.ones((1, 1))) == np.tanh(2.0)


def test_slopes_without_bound() -> None:
    define_activation("square", lambda x: x * x)
    define_activation("step", lambda x: F.sign(x))
    assert largest_slope(Activation("square")) == math.inf
    assert active_interval(Activation("square")) == (-math.inf, math.inf)
    assert largest_slope(Activation("step")) == 0.0
    define_activation("blow", lambda x: F.exp(x * x))  # overflows at 26
    low, high = active_interval(Activation("blow"))
    assert -40 < low < -26 < 26 < high < 40


# What is refused


def state() -> Callable[[Any], Any]:
    count = iter(range(1000))
    return lambda x: x * float(next(count))


@pytest.mark.parametrize(
    ("name", "f", "must", "came"),
    [
        ("relu", mish, "a built-in activation must not be defined anew", "relu"),
        ("my relu", mish, "must be an identifier", "'my relu'"),
        (3, mish, "must be an identifier", "3"),
        ("own", 3, "must be a function of an array", "3"),
        ("own", lambda: 1, "can be traced and differentiated", "TypeError: "),
        ("own", lambda x: np.arctan(x), "can be traced and differentiated", "TypeError: "),
        ("own", lambda x: math.tanh(x), "can be traced and differentiated", "TypeError: "),
        ("own", lambda x: scipy.special.erf(x), "can be traced", "TypeError: "),
        ("own", lambda x: x if x[0, 0] > 0 else -x, "can be traced", "GraphError: static mode"),
        ("own", lambda x: np.multiply(x, 2, out=x), "can be traced", "ValueError: output array"),
        ("own", lambda x: 1 / 0, "can be traced", "ZeroDivisionError: "),
        (
            "own",
            lambda x: "x",
            "can be traced",
            "GraphError: a function of arrays must return arrays",
        ),
        ("own", lambda x: F.sum(x), "must keep the shape", "float64 () from float64 (4, 3)"),
        ("own", lambda x: x @ x.T, "must keep the shape", "float64 (4, 4)"),
        ("own", lambda x: x * np.ones(3), "can be traced", "ValueError: operands could not"),
        ("own", lambda x: x * np.float64(2), "must keep the shape", "float64 (4, 3) from float32"),
        ("own", lambda x: x > 0, "must keep the shape and the dtype", "bool (4, 3)"),
        ("own", lambda x: x * 1j, "must keep the shape and the dtype", "complex128 (4, 3)"),
        ("own", np.log, "must be finite where inputs are moderate", "between −10 and 10"),
        ("own", state(), "must give the same for the same input", "two results"),
    ],
)
def test_what_is_no_activation_is_refused(name: Any, f: Any, must: str, came: str) -> None:
    with pytest.raises(SpecError) as caught:
        define_activation(name, f)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == f"define_activation({name!r})"
    assert caught.value.fix or "identifier" in must
    assert set(FORMULAS) == set(ACTIVATION_NAMES)


@pytest.mark.parametrize("kinks", [["a"], [math.nan], [math.inf], 3])
def test_kinks_are_numbers(kinks: Any) -> None:
    with pytest.raises(SpecError, match="kinks must be a sequence of finite numbers"):
        define_activation("own", mish, kinks=kinks)


# Who knows of it


def test_the_doctor_s_processes_know_it() -> None:
    """In processes of their own the trials are what they are here; a closure travels too."""
    slope = 0.9
    define_activation("soft", lambda x: slope * F.tanh(x))
    layers = (Dense(6), Activation("soft"), Dense(3))
    spec = Spec(Data("iris"), Network(layers), training=Training(epochs=1, batch_size=40))
    split = load_split(spec)
    baseline = fit(spec, split)
    wider = Candidate("wider", "", replace(spec, network=Network((Dense(9), *layers[1:]))), 1)
    one, two = (prescribe(baseline, split, [wider], jobs=jobs) for jobs in (1, 2))
    assert one == two
    assert len(two.cures[0].trials) == 3


def test_activations_that_mix_units_are_no_riddle_to_the_doctor() -> None:
    """One of them, of its own or built in, is trained, examined and passed over by the remedies."""
    define_activation("normalised", normalised)
    for name in ("normalised", "softmax"):
        layers = Repeat(3, (Dense(6), Activation(name)))
        spec = Spec(
            Data("iris"), Network((layers, Dense(3))), training=Training(epochs=1, batch_size=40)
        )
        split = load_split(spec)
        diagnosis = examine(fit(spec, split), split)
        assert not diagnosis.expectation.covered
        assert "mixes units" in diagnosis.expectation.reason
        vanishing = Finding("vanishing gradient", "fatal", (), 0, {}, "", "", "")
        found = dataclasses.replace(diagnosis, findings=(vanishing,))
        names = [c.name for c in candidates(spec, found, 4)]
        assert "he init" in names
        assert not {n for n in names if n.startswith(("critical", "activation"))}
