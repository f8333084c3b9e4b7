"""Losses: values and gradients by the logits against PyTorch and mpmath, extremes, the penalty."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from checks import check_grads, check_modes, ulps
from mpmath import mpf

import isograd
from isograd.errors import ShapeError
from isograd.nn import (
    Activation,
    BinaryCrossEntropy,
    Dense,
    HalfSquaredError,
    Huber,
    LayerNorm,
    MeanSquaredError,
    Network,
    SoftmaxCrossEntropy,
    build,
)
from isograd.nn.losses import constant_loss, loss
from isograd.nn.spec import Loss

HSE, BCE, SOFTMAX = HalfSquaredError(), BinaryCrossEntropy(), SoftmaxCrossEntropy()
MSE, PROBABILITIES = MeanSquaredError(), BinaryCrossEntropy(inputs="probabilities")
WEIGHTED = SoftmaxCrossEntropy(class_weights=(0.5, 0.0, 3.0))
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)


def value_and_gradient(kind: Loss, output: Any, target: Any) -> tuple[Any, Any]:
    """The loss, and its gradient by the output."""
    return isograd.value_and_grad(lambda z: loss(kind, z, target))(output)


# Against PyTorch


def cases(rng: np.random.Generator) -> list[tuple[str, Loss, np.ndarray, np.ndarray]]:
    def z(*shape: int) -> np.ndarray:
        return 3.0 * rng.standard_normal(shape)

    def shares(*shape: int) -> np.ndarray:
        return rng.dirichlet(np.ones(shape[1]), shape[0])

    return [
        ("squared", HSE, z(7, 3), z(7, 3)),
        ("squared, one row, one column", HSE, z(1, 1), z(1, 1)),
        ("binary", BCE, z(7, 1), rng.integers(0, 2, (7, 1)).astype(float)),
        ("binary, soft, several columns", BCE, z(7, 4), rng.random((7, 4))),
        *(
            (f"softmax, {c} classes", SOFTMAX, z(9, c), rng.integers(0, c, 9))
            for c in (1, 2, 3, 50)
        ),
        ("softmax, shares", SOFTMAX, z(9, 4), shares(9, 4)),
        ("softmax, shares of 0 and 1", SOFTMAX, z(3, 3), np.eye(3)),
        ("softmax, weighted", WEIGHTED, z(9, 3), np.arange(9) % 3),
        ("softmax, shares, weighted", WEIGHTED, z(9, 3), shares(9, 3)),
        ("mean of squares", MSE, z(7, 3), z(7, 3)),
        ("huber", Huber(), z(7, 3), z(7, 3)),
        ("huber, wide", Huber(delta=2.5), z(7, 3), z(7, 3)),
        ("probabilities", PROBABILITIES, rng.uniform(0.1, 0.9, (7, 2)), rng.random((7, 2))),
        ("probabilities, hard", PROBABILITIES, rng.uniform(0.1, 0.9, (7, 1)), z(7, 1).round() % 2),
    ]


def by_torch(kind: Loss, output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    torch = pytest.importorskip("torch")
    z, y = torch.tensor(output, requires_grad=True), torch.tensor(target)
    n, its = len(output), torch.nn.functional
    match kind:
        case SoftmaxCrossEntropy(class_weights=weights):
            weights = None if weights is None else torch.tensor(weights, dtype=z.dtype)
            value = its.cross_entropy(z, y, weight=weights)
        case BinaryCrossEntropy(inputs="logits"):
            value = its.binary_cross_entropy_with_logits(z, y, reduction="sum") / n
        case BinaryCrossEntropy():
            value = its.binary_cross_entropy(z, y, reduction="sum") / n
        case MeanSquaredError():
            value = its.mse_loss(z, y)
        case HalfSquaredError():
            value = 0.5 * its.mse_loss(z, y, reduction="sum") / n
        case Huber(delta=delta):
            value = its.huber_loss(z, y, reduction="sum", delta=delta) / n
    value.backward()
    return value.item(), z.grad.numpy()


def test_values_and_gradients_are_those_of_pytorch(rng: np.random.Generator) -> None:
    for name, kind, output, target in cases(rng):
        value, gradient = value_and_gradient(kind, output, target)
        want, slopes = by_torch(kind, output, target)
        assert float(value) == pytest.approx(want, rel=1e-14, abs=1e-15), name
        np.testing.assert_allclose(gradient, slopes, rtol=1e-12, atol=1e-16, err_msg=name)


def test_both_modes_and_second_derivatives(rng: np.random.Generator) -> None:
    for _, kind, output, target in cases(rng):
        check_grads(lambda z, kind=kind, target=target: loss(kind, z, target), [output])
        check_modes(lambda z, kind=kind, target=target: loss(kind, z, target), output)


@each_dtype
def test_a_loss_has_the_dtype_of_its_output(dtype: Any, rng: np.random.Generator) -> None:
    for _, kind, output, target in cases(rng):
        y = target if target.ndim == 1 else target.astype(dtype)
        value, gradient = value_and_gradient(kind, output.astype(dtype), y)
        assert value.dtype == gradient.dtype == dtype
        assert value.shape == ()


# Extremes, element by element, against mpmath. What lies below the smallest normal number counts
# as right.

LOGITS = (0.0, 1e-30, 0.5, 3.0, 12.0, 17.0, 40.0, 80.0, 90.0, 700.0, 1e4, 1e30)


@each_dtype
def test_binary_cross_entropy_of_confident_logits(dtype: Any) -> None:
    for z in (*LOGITS, *(-x for x in LOGITS)):
        for y in (0.0, 1.0):
            value, gradient = value_and_gradient(
                BCE, np.array([[z]], dtype), np.array([[y]], dtype)
            )
            with mpmath.workdps(50):
                wrong = mpf(float(dtype(z))) * (1 if y == 0 else -1)  # > 0 where the fit is bad
                cost = mpmath.log1p(mpmath.exp(wrong)) if wrong < 1e5 else wrong
                slope = (1 if y == 0 else -1) / (1 + mpmath.exp(-wrong)) if wrong > -1e5 else mpf(0)
                assert ulps(value, cost, normal_only=True) <= 2, (z, y)
                assert ulps(gradient[0, 0], slope, normal_only=True) <= 4, (z, y)


@each_dtype
def test_binary_cross_entropy_of_soft_labels(dtype: Any) -> None:
    for z in (-1e4, -30.0, -0.5, 0.0, 2.0, 30.0, 1e4):
        value, gradient = value_and_gradient(BCE, np.array([[z]], dtype), np.array([[0.25]], dtype))
        with mpmath.workdps(50):
            cost = mpmath.log1p(mpmath.exp(z)) - mpf(z) / 4
            slope = 1 / (1 + mpmath.exp(-z)) - mpf(1) / 4
        assert ulps(value, cost) <= 4
        assert ulps(gradient[0, 0], slope) <= 8


@each_dtype
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_softmax_cross_entropy_of_confident_logits(dtype: Any, classes: int) -> None:
    for z in (*LOGITS[:-1], *(-x for x in LOGITS[:-1])):
        logits = np.zeros((1, classes), dtype)
        logits[0, 1] = z
        for label in (0, 1):
            value, gradient = value_and_gradient(SOFTMAX, logits, np.array([label]))
            with mpmath.workdps(50):
                e = mpmath.exp(mpf(float(logits[0, 1])))
                p = [1 / (classes - 1 + e)] * classes
                p[1] = e / (classes - 1 + e)
                others = [q for k, q in enumerate(p) if k != label]
                cost = -mpmath.log1p(-sum(others)) if sum(others) < 0.5 else -mpmath.log(p[label])
                slopes = [-sum(others) if k == label else q for k, q in enumerate(p)]
                assert ulps(value, cost, normal_only=True) <= 4, (z, label)
                for got, want in zip(gradient[0], slopes, strict=True):
                    # e^x carries the rounding of ln Σ e^x, of size |x|, into its relative error.
                    assert ulps(got, want, normal_only=True) <= 8 + abs(z), (z, label)


@each_dtype
def test_logits_of_ten_thousand(dtype: Any) -> None:
    z = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype)
    for kind, y in ((SOFTMAX, np.array([0, 0])), (BCE, np.array([[1, 0], [1, 0]], dtype))):
        value, gradient = value_and_gradient(kind, z, y)
        assert float(value) == 1e4
        np.testing.assert_array_equal(gradient, [[0.0, 0.0], [-0.5, 0.5]])


@each_dtype
def test_outputs_of_ten_thousand_of_every_loss(dtype: Any) -> None:
    """Value and gradient, against float64 arithmetic by hand: no cancelling, no overflow."""
    z, y = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype), np.array([[0.25, 0.75]] * 2, dtype)
    e, roundoff = z.astype(np.float64) - y, float(np.finfo(dtype).eps)
    table = (
        (MSE, np.mean(e**2), 2 * e / 4),
        (HSE, np.sum(e**2) / 4, e / 2),
        (Huber(delta=2.0), np.sum(2 * (np.abs(e) - 1)) / 2, np.sign(e)),
        (BCE, 1e4, (np.array([[1, 0], [0, 1]]) - y) / 2),
        (SOFTMAX, 1e4, (np.array([[1, 0], [0, 1]]) - y) / 2),
        # the second class has no weight, and p = (1, 0) or (0, 1) to more digits than there are
        (SoftmaxCrossEntropy(class_weights=(4.0, 0.0)), 1e4, [[0, 0], [-0.5, 0.5]]),
    )
    for kind, want, slopes in table:
        value, gradient = value_and_gradient(kind, z, y)
        assert float(value) == pytest.approx(float(want), rel=2 * roundoff), kind
        np.testing.assert_allclose(gradient, slopes, rtol=2 * roundoff, atol=1e-30)
    labels = np.array([0, 0])
    value, gradient = value_and_gradient(SoftmaxCrossEntropy(class_weights=(3.0, 1.0)), z, labels)
    assert float(value) == 1e4
    np.testing.assert_array_equal(gradient, [[0.0, 0.0], [-0.5, 0.5]])


@each_dtype
def test_binary_cross_entropy_of_probabilities(dtype: Any) -> None:
    """Near 0 and 1 too; where the target agrees with 0 or 1, they cost nothing."""
    tiny, eps = float(np.finfo(dtype).smallest_normal), float(np.finfo(dtype).eps)
    for p in (0.0, tiny, 1e-30, 1e-5, 0.25, 0.5, 0.9, 1 - eps / 2, 1.0):
        for y in (0.0, 0.25, 1.0):
            at, to = np.array([[p]], dtype), np.array([[y]], dtype)
            value, gradient = value_and_gradient(PROBABILITIES, at, to)
            q = mpf(float(at[0, 0]))
            with mpmath.workdps(60):
                if (q == 0 and y > 0) or (q == 1 and y < 1):
                    cost, slope = mpf("inf"), mpf("-inf") if q == 0 else mpf("inf")
                else:
                    cost = (-y * mpmath.log(q) if y else 0) - (
                        (1 - y) * mpmath.log1p(-q) if y < 1 else 0
                    )
                    slope = (-y / q if y else 0) + ((1 - y) / (1 - q) if y < 1 else 0)
                assert ulps(value, cost, normal_only=True) <= 4, (p, y)
                assert ulps(gradient[0, 0], slope) <= 8, (p, y)
    assert math.isnan(loss(PROBABILITIES, np.array([[-0.1]], dtype), np.array([[1.0]], dtype)))
    assert math.isnan(loss(PROBABILITIES, np.array([[1.1]], dtype), np.array([[0.0]], dtype)))


def test_shares_of_classes_with_logits_of_minus_infinity() -> None:
    z = np.array([[1.0, -math.inf, 2.0]])
    y = np.array([[0.25, 0.0, 0.75]])
    value, gradient = value_and_gradient(SOFTMAX, z, y)
    p = 1 / (1 + math.e)
    want = -0.25 * math.log(p) - 0.75 * math.log1p(-p)
    assert float(value) == pytest.approx(want, rel=1e-14)
    np.testing.assert_allclose(gradient, [[p - 0.25, 0.0, 0.25 - p]], rtol=1e-14)
    assert float(loss(SOFTMAX, z, np.array([[0.2, 0.1, 0.7]]))) == math.inf


def test_huber_meets_both_its_pieces() -> None:
    e = np.array([[0.0, 1e-20, 0.5, 2.0, 2.0 + 1e-12, -2.0, -7.0, 1e200]])
    value, gradient = value_and_gradient(Huber(delta=2.0), e.T, np.zeros_like(e.T))
    cost = np.where(np.abs(e) <= 2, 0.5 * np.minimum(np.abs(e), 9) ** 2, 2 * (np.abs(e) - 1))
    assert float(value) == pytest.approx(cost.sum() / 8, rel=1e-14)
    np.testing.assert_allclose(8 * gradient.T, np.clip(e, -2, 2), rtol=1e-14)


def test_minus_infinity_for_a_class_that_is_not_the_row_s() -> None:
    z = np.array([[1.0, -math.inf, 2.0], [-math.inf, 0.0, -math.inf]])
    value, gradient = value_and_gradient(SOFTMAX, z, np.array([2, 1]))
    assert float(value) == pytest.approx(0.5 * math.log1p(math.exp(-1.0)), rel=1e-15)
    p = 0.5 / (1 + math.e)
    np.testing.assert_allclose(gradient, [[p, 0.0, -p], [0.0, 0.0, 0.0]], rtol=1e-14)
    impossible, _ = value_and_gradient(SOFTMAX, z, np.array([1, 1]))
    assert float(impossible) == math.inf


def test_nan_is_not_hidden() -> None:
    z = np.array([[1.0, math.nan]])
    assert math.isnan(loss(SOFTMAX, z, np.array([0])))
    assert math.isnan(loss(BCE, z, np.array([[1.0, 0.0]])))
    for kind in (HSE, MSE, Huber(), PROBABILITIES, SOFTMAX):
        assert math.isnan(loss(kind, z, np.array([[1.0, 0.0]])))


def test_squared_error_learns_slowly_from_a_saturated_start() -> None:
    """Both by the logit z = −6 of a target of 1: the squared error carries the factor σ′(z)."""

    def squared(z: Any) -> Any:
        return loss(HSE, isograd.functions.logistic(z), np.ones((1, 1)))

    z = np.array([[-6.0]])
    sigma = 1 / (1 + math.exp(6.0))
    _, entropy = value_and_gradient(BCE, z, np.ones((1, 1)))
    assert float(isograd.grad(squared)(z)[0, 0]) == pytest.approx(
        (sigma - 1) * sigma * (1 - sigma), rel=1e-14
    )
    assert float(entropy[0, 0]) == pytest.approx(sigma - 1, rel=1e-14)


# Bad input


@pytest.mark.parametrize(
    ("kind", "output", "target"),
    [
        (HSE, (4, 1), (4,)),  # would broadcast to (4, 4)
        (HSE, (4, 3), (1, 3)),
        (BCE, (4, 1), (4,)),
        (BCE, (4,), (4,)),
        (MSE, (4, 1), (4,)),
        (Huber(), (4, 2), (4,)),
        (PROBABILITIES, (4, 1), (4, 2)),
    ],
)
def test_targets_that_would_broadcast_are_refused(kind: Loss, output: Any, target: Any) -> None:
    with pytest.raises(ShapeError, match=r"outputs must be \(n, k\), and targets") as caught:
        loss(kind, np.zeros(output), np.zeros(target))
    assert "targets f64[" in caught.value.came
    assert caught.value.where == type(kind).__struct_config__.tag


@pytest.mark.parametrize(
    "target",
    [np.zeros(3), np.zeros((3, 1), int), np.zeros(2, int), np.zeros((3, 5), int), np.zeros((3, 4))],
)
def test_labels_must_be_integers_or_shares(target: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"targets must be integers \(n,\), or shares") as caught:
        loss(SOFTMAX, np.zeros((3, 5)), target)
    assert "number of each row's class" in caught.value.fix


@pytest.mark.parametrize("target", [np.zeros(4, int), np.ones((4, 5))])
def test_there_is_one_weight_per_class(target: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="class_weights must hold one weight per class") as caught:
        loss(WEIGHTED, np.zeros((4, 5)), target)
    assert caught.value.came == "3 weights for 5 classes"
    assert caught.value.where == "softmax_cross_entropy"
    assert caught.value.fix == "give 5 weights"


# The constant output


def test_the_constant_loss_of_labels_is_their_entropy(rng: np.random.Generator) -> None:
    y = rng.choice([0, 2, 3, 4], size=500, p=[0.5, 0.3, 0.15, 0.05])
    want = scipy.stats.entropy(np.bincount(y))
    assert constant_loss(SOFTMAX, y) == pytest.approx(want, rel=1e-14)
    assert constant_loss(SOFTMAX, np.zeros(5, int)) == 0


def test_the_constant_loss_of_shares_is_the_sum_of_their_entropies(
    rng: np.random.Generator,
) -> None:
    hard = (rng.random((300, 3)) < [0.1, 0.5, 0.9]).astype(np.float32)
    for y in (hard, rng.random((300, 2))):
        p = y.mean(axis=0, dtype=np.float64)
        want = scipy.stats.entropy([p, 1 - p]).sum()
        assert constant_loss(BCE, y) == pytest.approx(want, rel=1e-14)
    assert constant_loss(BCE, np.ones((5, 1))) == 0


def test_the_constant_loss_of_targets_is_half_their_variance(rng: np.random.Generator) -> None:
    y = 1e3 + rng.standard_normal((400, 2)).astype(np.float32)
    want = 0.5 * np.var(y.astype(np.float64), axis=0).sum()
    assert constant_loss(HSE, y) == pytest.approx(want, rel=1e-12)


def test_the_constant_loss_of_huber_lies_between_half_square_and_line(
    rng: np.random.Generator,
) -> None:
    y = rng.standard_normal((101, 2))
    wide, narrow = (constant_loss(Huber(delta=delta), y) for delta in (100.0, 1e-6))
    assert wide == pytest.approx(constant_loss(HSE, y), rel=1e-12)
    spread = np.abs(y - np.median(y, axis=0)).mean(axis=0).sum()
    assert narrow == pytest.approx(1e-6 * spread, rel=1e-5)
    assert constant_loss(Huber(), np.full((5, 1), 3.0)) == 0


def test_no_constant_output_costs_less(rng: np.random.Generator) -> None:
    """It is what the loss itself gives at its least, found by a search over constants."""
    n = 60
    labels, reals = rng.integers(0, 3, n), 3.0 * rng.standard_normal((n, 2))
    halves, classes = rng.random((n, 2)), rng.dirichlet(np.ones(3), n)
    weighted = SoftmaxCrossEntropy(class_weights=(0.5, 2.0, 3.0))
    pairs = (
        *((kind, y) for kind in (SOFTMAX, weighted) for y in (labels, classes)),
        *((kind, reals) for kind in (HSE, MSE, Huber(), Huber(delta=0.1))),
        (BCE, halves),
        (PROBABILITIES, halves),
    )
    for kind, target in pairs:
        columns = 3 if isinstance(kind, SoftmaxCrossEntropy) else 2

        def cost(c: np.ndarray, kind: Any = kind, target: Any = target) -> float:
            return float(loss(kind, np.tile(c, (n, 1)), target))

        start = np.full(columns, 0.4)
        tight = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000, "maxfev": 4000}
        found = scipy.optimize.minimize(cost, start, method="Nelder-Mead", options=tight)
        assert constant_loss(kind, target) == pytest.approx(found.fun, rel=1e-9), kind


def test_classes_that_do_not_occur_or_do_not_count() -> None:
    assert constant_loss(WEIGHTED, np.array([0, 0, 1, 1])) == 0  # class 1 has weight 0
    half = SoftmaxCrossEntropy(class_weights=(1.0, 1.0, 5.0))
    assert constant_loss(half, np.array([0, 1])) == pytest.approx(math.log(2), rel=1e-15)


# The penalty


@pytest.mark.parametrize(
    "kind",
    [HalfSquaredError, MeanSquaredError, Huber, BinaryCrossEntropy, SoftmaxCrossEntropy],
)
def test_the_penalty_is_half_lambda_w_squared_over_weights_alone(
    kind: Any, rng: np.random.Generator
) -> None:
    layers = (Dense(4), LayerNorm(), Activation("tanh"), Dense(2))
    plain = build(Network(layers, loss=kind()), 3, 2)
    fined = build(Network(layers, loss=kind(l2=0.3)), 3, 2)
    params = {k: v + 0.1 for k, v in plain.init(rng, np.float64).items()}
    x = rng.standard_normal((5, 3))
    y = rng.integers(0, 2, 5) if kind is SoftmaxCrossEntropy else rng.random((5, 2))
    a, da = isograd.value_and_grad(lambda p: plain.loss(p, x, y))(params)
    b, db = isograd.value_and_grad(lambda p: fined.loss(p, x, y))(params)
    weights = {k for k in params if k.startswith("W/")}
    assert weights == {"W/1", "W/2"}
    want = 0.15 * sum(np.sum(params[k] ** 2) for k in weights)
    assert float(b - a) == pytest.approx(float(want), rel=1e-12)
    for name, array in params.items():
        slope = 0.3 * array if name in weights else np.zeros_like(array)
        np.testing.assert_allclose(db[name] - da[name], slope, rtol=1e-12, atol=1e-14)
