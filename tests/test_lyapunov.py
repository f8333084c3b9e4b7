"""Lyapunov spectra against Newman's exact ones, and products whose exponents are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from theory_table import FACTS

from isograd.diagnosis import network_lyapunov
from isograd.errors import ShapeError, TheoryError
from isograd.nn import (
    Activation,
    BatchNorm,
    Critical,
    Dense,
    He,
    LayerNorm,
    Model,
    Network,
    Orthogonal,
    Repeat,
    Residual,
    RMSNorm,
    Scale,
    build,
)
from isograd.nn.forward import Pass
from isograd.nn.spec import Init
from isograd.theory import gaussian_exponents, lyapunov

# --- Gaussian matrices


def gaussian(rng: np.random.Generator, n: int, layers: int, std: float = 1.0) -> Iterator[Any]:
    return (std * rng.standard_normal((n, n)) for _ in range(layers))


def test_the_exact_spectrum_of_4_by_4() -> None:
    want = FACTS["D1"]["expected"]
    exponents, variances = gaussian_exponents(FACTS["D1"]["inputs"]["N"])
    assert exponents == pytest.approx(want["lambda"], rel=1e-13)
    assert exponents.sum() == pytest.approx(want["sum"], rel=1e-13)
    assert variances[0] == pytest.approx(want["var_top_per_step"], rel=1e-13)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_the_exact_law_at_thirty_digits(n: int) -> None:
    exponents, variances = gaussian_exponents(n, std=0.3)
    assert len(exponents) == n
    for i in {0, n // 2, n - 1}:
        half = mp.mpf(n - i) / 2
        want = (mp.digamma(half) + mp.log(2)) / 2 + mp.log(mp.mpf(0.3))
        assert exponents[i] == pytest.approx(float(want), rel=1e-12, abs=1e-14)
        assert variances[i] == pytest.approx(float(mp.polygamma(1, half) / 4), rel=1e-12)


@pytest.mark.parametrize(
    ("n", "layers", "std"),
    [(1, 4000, 1.0), (2, 10_000, 1e-30), (4, 10_000, 1.0), (8, 4000, 1e40), (64, 1000, 0.125)],
)
def test_measured_exponents_of_gaussian_matrices(
    n: int, layers: int, std: float, rng: np.random.Generator
) -> None:
    """Within four standard errors, at depths where the product is far outside of float64."""
    want, variances = gaussian_exponents(n, std=std)
    found = lyapunov(gaussian(rng, n, layers, std), rng=rng)
    exact_errors = np.sqrt(variances / layers)
    assert found.layers == layers
    assert (np.abs(found.exponents - want) < 4 * exact_errors).all()
    assert found.errors.mean() == pytest.approx(exact_errors.mean(), rel=0.25)


@pytest.mark.slow
def test_the_whole_spectrum_of_64_by_64_at_depth_10_000(rng: np.random.Generator) -> None:
    want, variances = gaussian_exponents(64)
    found = lyapunov(gaussian(rng, 64, 10_000), rng=rng)
    assert (np.abs(found.exponents - want) < 4 * np.sqrt(variances / 10_000)).all()


def test_the_size_of_a_product_of_101_matrices(rng: np.random.Generator) -> None:
    """Also against the plain product, which float64 still holds."""
    fact = FACTS["D3"]
    n, count, want = fact["inputs"]["N"], fact["inputs"]["count"], fact["expected"]
    exponents, variances = gaussian_exponents(n)
    assert count * exponents[0] == pytest.approx(want["ln_norm"], rel=1e-13)
    assert math.exp(count * exponents[0]) == pytest.approx(want["typical_size"], rel=1e-10)
    assert count * exponents[0] / math.log(10) == pytest.approx(want["log10"], rel=1e-13)
    spread = math.sqrt(count * variances[0]) / math.log(10)
    assert spread == pytest.approx(want["sd_log10"], rel=1e-12)
    matrices = list(gaussian(rng, n, count))
    found = lyapunov(matrices, rng=rng)
    assert abs(found.sums[0] / math.log(10) - want["log10"]) < 4 * want["sd_log10"]
    plain = np.linalg.multi_dot(matrices[::-1])
    # The first direction is a random one: its size is within the singular values of the product,
    # and near the largest unless it is almost at right angles to the first singular vector.
    top = math.log(np.linalg.norm(plain, 2))
    assert top - 6 < found.sums[0] <= top + 1e-9
    assert found.sums.sum() == pytest.approx(
        sum(math.log(abs(np.linalg.det(m))) for m in matrices), rel=1e-10
    )


# --- products whose exponents are known


def rotation(rng: np.random.Generator, n: int) -> Any:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def test_orthogonal_matrices_stretch_nothing(rng: np.random.Generator) -> None:
    found = lyapunov((rotation(rng, 16) for _ in range(2000)), rng=rng)
    assert np.abs(found.exponents).max() < 1e-14
    assert found.errors.max() < 1e-14


def test_diagonal_matrices_give_their_logarithms(rng: np.random.Generator) -> None:
    """Once the frame has settled: e^(−2·0.69·100) is nothing."""
    sizes = np.array([3.0, 1e-3, 0.25, -1.5])
    found = lyapunov([np.diag(sizes)] * 400, rng=rng, discard=100)
    assert found.layers == 300
    np.testing.assert_allclose(found.exponents, np.log([3, 1.5, 0.25, 1e-3]), rtol=1e-12)
    np.testing.assert_allclose(found.sums, 300 * found.exponents, rtol=1e-13)


def test_a_hidden_frame_gives_the_same_logarithms(rng: np.random.Generator) -> None:
    """Q_{l+1} D Q_lᵀ stretches by D, in directions that turn at every layer."""
    sizes = np.array([1e8, 20.0, 1.0, 1e-9])
    frames = [rotation(rng, 4) for _ in range(201)]
    matrices = [b @ np.diag(sizes) @ a.T for a, b in pairwise(frames)]
    found = lyapunov(matrices, rng=rng, discard=40)
    np.testing.assert_allclose(found.exponents[:2], np.log(sizes[:2]), rtol=1e-7)
    top = lyapunov(matrices, rng=rng, k=1, discard=40)
    assert top.exponents == pytest.approx([math.log(1e8)], rel=1e-7)


def test_functions_and_matrices_are_the_same(rng: np.random.Generator) -> None:
    matrices = list(gaussian(rng, 5, 50))

    def pushes(m: Any) -> Callable[[Any], Any]:
        return lambda v: m @ v

    one = lyapunov(matrices, rng=np.random.default_rng(1), k=3)
    two = lyapunov(map(pushes, matrices), rng=np.random.default_rng(1), k=3, n=5)
    np.testing.assert_array_equal(one.exponents, two.exponents)
    np.testing.assert_array_equal(one.errors, two.errors)


def test_the_volume_of_a_whole_frame_is_exact_at_every_depth(rng: np.random.Generator) -> None:
    for layers in (1, 2, 3, 10):
        matrices = list(gaussian(rng, 6, layers))
        want = np.mean([np.linalg.slogdet(m)[1] for m in matrices])
        found = lyapunov(matrices, rng=rng)
        assert found.log_volume == pytest.approx(want, rel=1e-12)
        assert (found.errors == math.inf).all() == (layers < 4)


# --- rank


def test_directions_that_end_are_minus_infinity(rng: np.random.Generator) -> None:
    """Widths 6, 4, 8, 5: four directions come through; the plain product has their volume."""
    shapes = ((4, 6), (8, 4), (5, 8))
    matrices = [rng.standard_normal(shape) for shape in shapes]
    found = lyapunov(matrices, rng=rng)
    assert (found.exponents[4:] == -math.inf).all()
    assert (found.errors[4:] == 0).all()
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0][:, :4]
    again = lyapunov(matrices, rng=np.random.default_rng(0))
    product = np.linalg.multi_dot(matrices[::-1]) @ frame
    want = np.log(np.linalg.svd(product, compute_uv=False)).sum()
    assert again.sums[:4].sum() == pytest.approx(want, rel=1e-10)


def test_a_projection_among_other_matrices(rng: np.random.Generator) -> None:
    """A layer of rank 3 of 6, turned so that rounding leaves 1e-16 in place of zeros."""
    a, b = rotation(rng, 6), rotation(rng, 6)
    flat = a @ np.diag([1.0, 1, 1, 0, 0, 0]) @ b
    matrices = [*gaussian(rng, 6, 5), flat, *gaussian(rng, 6, 500)]
    found = lyapunov(matrices, rng=rng)
    assert np.isfinite(found.exponents[:3]).all()
    assert (found.exponents[3:] == -math.inf).all()
    want, variances = gaussian_exponents(6)
    deviation = np.abs(found.exponents[:3] - want[:3])
    assert (deviation < 4 * np.sqrt(variances[:3] / 506) + 0.02).all()


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.diag([1.0, 0, 0]), np.ones((3, 3))])
def test_zeros_make_no_nan(matrix: Any, rng: np.random.Generator) -> None:
    rank = np.linalg.matrix_rank(matrix)
    found = lyapunov([matrix] * 50, rng=rng, discard=1)
    size = math.log(np.linalg.norm(matrix, 2)) if rank else -math.inf
    np.testing.assert_allclose(found.exponents, [size, -math.inf, -math.inf], rtol=1e-12)
    assert not np.isnan(found.errors).any()


# --- refusals


@pytest.mark.parametrize(
    ("jacobians", "settings", "words"),
    [
        ([], {}, "at least one layer"),
        ([np.eye(2)] * 3, {"discard": 3}, "at least one layer"),
        ([np.eye(2), np.eye(3)], {}, "takes what the one before gives"),
        ([np.ones(3)], {}, "from 1 to n|matrix"),
        ([np.eye(2)], {"k": 3}, "from 1 to n"),
        ([np.eye(2)], {"k": 0}, "from 1 to n"),
        ([np.eye(2)], {"n": 3}, "columns of the first"),
        ([lambda v: v], {}, "given as n"),
        ([lambda v: v[:, :1]], {"n": 3}, "as many columns"),
        ([np.diag([1.0, math.nan])], {}, "finite"),
        ([np.full((2, 2), 1.7e308)], {}, "finite"),
    ],
)
def test_what_cannot_be_answered(
    jacobians: Any, settings: Any, words: str, rng: np.random.Generator
) -> None:
    with pytest.raises(TheoryError, match=words):
        lyapunov(jacobians, rng=rng, **settings)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 4, "k": 5}, {"n": 4, "std": 0.0}])
def test_gaussian_matrices_that_do_not_exist(wrong: Any) -> None:
    with pytest.raises(TheoryError):
        gaussian_exponents(**wrong)


# --- networks


def dense_chain(width: int, layers: int, act: str, init: Init) -> Network:
    return Network((Repeat(layers, (Dense(width), Activation(act))), Dense(3)), init=init)


def drawn(network: Network, n_in: int, rng: np.random.Generator) -> tuple[Model, Any]:
    model = build(network, n_in)
    return model, model.init(rng, np.float64)


def test_a_deep_linear_network_has_newmans_exponents(rng: np.random.Generator) -> None:
    """Identity activations: the Jacobians are the weights, N(0, 1/n)."""
    model, params = drawn(dense_chain(8, 2001, "identity", He(gain=1.0)), 5, rng)
    found = network_lyapunov(model, params, rng.standard_normal(5), rng=rng)
    want, variances = gaussian_exponents(8, std=1 / math.sqrt(8))
    assert found.layers == 2000
    assert (np.abs(found.exponents - want) < 4 * np.sqrt(variances / 2000)).all()


@pytest.mark.slow
def test_a_critical_network_of_10_000_layers(rng: np.random.Generator) -> None:
    """Orthogonal weights, slope 1: nothing grows and nothing fades over 10 000 layers."""
    network = dense_chain(4, 10_000, "identity", Orthogonal(gain=1.0))
    model, params = drawn(network, 4, rng)
    found = network_lyapunov(model, params, rng.standard_normal(4), rng=rng, k=2)
    assert found.layers == 9_999
    assert np.abs(found.exponents).max() < 1e-13


@pytest.mark.parametrize(
    ("act", "init", "half_log_chi"),
    [
        # ½ ln χ₁ by hand: σ_w² E φ′² with E φ′² = ½ of a ReLU; σ_w² of orthogonal weights is gain².
        ("relu", He(gain=1.5), 0.5 * math.log(1.5**2 / 2)),
        ("relu", He(gain=math.sqrt(2)), 0.0),
        ("tanh", Critical(), 0.0),
        ("identity", Orthogonal(gain=0.9), math.log(0.9)),
    ],
)
def test_the_top_exponent_of_a_wide_network_is_that_of_mean_field(
    act: str, init: Init, half_log_chi: float, rng: np.random.Generator
) -> None:
    """To 5/(4n) of a ReLU's bias at width n, and four standard errors (Hanin & Nica 2019)."""
    width, layers = 200, 60
    model, params = drawn(dense_chain(width, layers, act, init), width, rng)
    found = network_lyapunov(model, params, rng.standard_normal(width), rng=rng, k=1, discard=5)
    bound = 2 / width + 4 * math.sqrt(1.25 / width / found.layers)
    assert found.exponents[0] == pytest.approx(half_log_chi, abs=bound)


def test_every_kind_of_layer_against_finite_differences(rng: np.random.Generator) -> None:
    """The volume over the hidden layers, which are run as a network of their own."""
    block = (RMSNorm(), Dense(4), Activation("tanh"), Scale(0.5), Dense(4))
    hidden = (
        *(Residual(block), Residual((Residual((Dense(4),)), Activation("gelu")))),
        *(Dense(4), LayerNorm(), Dense(4), BatchNorm(), Activation("softplus")),
    )
    layers = (Dense(4), Activation("prelu"), *hidden, Dense(2))
    model, params = drawn(Network(layers), 3, rng)
    params = {n: a + 0.2 * rng.random(a.shape) * (n[0] != "W") for n, a in params.items()}
    x = rng.standard_normal(3)
    found = network_lyapunov(model, params, x, rng=rng)
    assert found.layers == 4

    places = [p for p in model.places if p.number >= 2 and p.layer < model.depth]

    def run(row: Any, some: Any) -> Any:
        through = Pass(params)
        for place in some:
            row = through.step(place, row)
        return row

    start = run(x[None], model.places[:2])
    steps = 1e-5 * np.eye(4)
    jacobian = (run(start + steps, places) - run(start - steps, places)).T / 2e-5
    gone = np.isneginf(found.sums)
    assert gone.sum() == 1  # layer_norm forgets the mean
    singular = np.linalg.svd(jacobian, compute_uv=False)
    assert singular[3] < 1e-8
    frame = np.linalg.qr(np.random.default_rng(5).standard_normal((4, 3)))[0]
    again = network_lyapunov(model, params, x, rng=np.random.default_rng(5), k=3)
    volume = np.log(np.linalg.svd(jacobian @ frame, compute_uv=False)).sum()
    assert again.sums.sum() == pytest.approx(volume, abs=1e-3)


def test_networks_that_have_no_spectrum(rng: np.random.Generator) -> None:
    model, params = drawn(Network((Dense(4), Dense(3))), 4, rng)
    with pytest.raises(TheoryError, match="between the first and the last"):
        network_lyapunov(model, params, np.zeros(4), rng=rng)
    model, params = drawn(dense_chain(4, 3, "tanh", He()), 4, rng)
    with pytest.raises(ShapeError, match="one row"):
        network_lyapunov(model, params, np.zeros((2, 4)), rng=rng)
    params["W/2"] = np.full((4, 4), math.inf)
    with pytest.raises(TheoryError, match="Jacobian 1"):
        network_lyapunov(model, params, np.ones(4), rng=rng)
