"""What networks say of new rows, beside the formulas written out on numbers chosen by hand."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, r2_score

from isograd import nn
from isograd.report.json import dumps
from isograd.report.predictions import Predictions, predictions
from isograd.training.preparation import Preparation
from isograd.training.scores import EVALUATION_ROWS

NAMES = ("no", "yes, often", "名")


def identity(n: int, loss: Any, *layers: Any) -> tuple[nn.Model, dict[str, np.ndarray]]:
    """A network that gives what it takes, but for the layers behind."""
    model = nn.build(nn.Network((nn.Dense(n, bias=False), *layers), loss=loss), n, n)
    return model, {"W/1": np.eye(n)}


def prepared(task: Any, n: int, **more: Any) -> Preparation:
    names = tuple(f"x{j}" for j in range(n))
    return Preparation(task, names, mean=(0.0,) * n, scale=(1.0,) * n, **more)


LOGITS = np.array([[0.0, 1.0, -2.0], [3.0, -50.0, 2.5], [1e4, 0.0, 0.0], [-1.0, -1.0, 0.0]])
LABELS = np.array([1, 2, 0, 2])


def classes(z: np.ndarray, y: np.ndarray | None = None) -> Predictions:
    model, params = identity(3, nn.SoftmaxCrossEntropy())
    params = {"W/1": params["W/1"].astype(z.dtype)}
    return predictions(model, params, prepared("classes", 3, classes=NAMES), z, y)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    out: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return out


def test_classes_have_a_name_a_row_and_a_probability_a_class() -> None:
    p = classes(LOGITS, LABELS)
    assert p.predicted.tolist() == ["yes, often", "no", "no", "名"]
    assert p.probabilities is not None
    np.testing.assert_allclose(p.probabilities, softmax(LOGITS), rtol=1e-14, atol=0)
    assert p.not_finite == 0
    assert p.score is not None
    assert p.score.accuracy == accuracy_score(LABELS, LOGITS.argmax(axis=1))
    assert p.score.loss == pytest.approx(log_loss(LABELS, softmax(LOGITS)), rel=1e-12)


@pytest.mark.parametrize("inputs", ["logits", "probabilities"])
def test_two_classes_share_one_output(inputs: Any) -> None:
    """σ(±40) is within 1e-17 of 0 or 1, and each class keeps its own."""
    z = np.array([[-40.0], [-0.1], [0.1], [40.0]])
    share = 1.0 / (1.0 + np.exp(-z[:, 0]))
    other = 1.0 / (1.0 + np.exp(z[:, 0]))
    last: tuple[nn.Activation, ...] = ()
    if inputs == "probabilities":
        last, other = (nn.Activation("logistic"),), 1.0 - share
    model, params = identity(1, nn.BinaryCrossEntropy(inputs=inputs), *last)
    p = predictions(model, params, prepared("binary", 1, classes=NAMES[:2]), z)
    assert p.predicted.tolist() == ["no", "no", "yes, often", "yes, often"]
    assert p.probabilities is not None
    np.testing.assert_allclose(p.probabilities, np.stack([other, share], axis=1), rtol=1e-14)


def test_classes_learned_as_a_regression_have_no_probabilities() -> None:
    model, params = identity(3, nn.HalfSquaredError())
    preparation = prepared("classes", 3, classes=NAMES, one_hot=True)
    p = predictions(model, params, preparation, LOGITS, np.eye(3)[LABELS])
    assert p.probabilities is None
    assert p.predicted.tolist() == ["yes, often", "no", "no", "名"]
    assert list(p.columns) == ["predicted"]


def test_a_regression_is_in_the_units_of_its_targets() -> None:
    model, params = identity(2, nn.HalfSquaredError())
    y_mean, y_scale = (5.0, -300.0), (2.0, 100.0)
    preparation = prepared("regression", 2, y_mean=y_mean, y_scale=y_scale)
    z = np.array([[0.0, 1.0], [-1.0, 0.5], [2.0, -1.0]], np.float32)
    y = np.array([[0.5, 1.0], [-1.0, 0.0], [1.0, -2.0]], np.float32)
    p = predictions(model, {k: v.astype(np.float32) for k, v in params.items()}, preparation, z, y)
    np.testing.assert_array_equal(p.predicted, [[5, -200], [3, -250], [9, -400]])
    assert p.predicted.dtype == np.float64
    assert p.score is not None
    assert p.score.accuracy == pytest.approx(r2_score(y, z))
    assert p.text() == (
        "3 rows: predicted_0 from 3 to 9, predicted_1 from -400 to -200\n"
        f"R² {r2_score(y, z):.4g}, loss {0.5 * np.square(z - y).sum() / 3:.4g}"
    )
    assert p.to_json()["values"] == [[5.0, -200.0], [3.0, -250.0], [9.0, -400.0]]
    assert p.to_json()["predicted"] is None


def test_outputs_that_are_not_finite_are_counted_and_have_no_class() -> None:
    z = LOGITS.copy()
    z[1, 0], z[3, 2] = np.nan, np.inf
    p = classes(z, LABELS)
    assert p.not_finite == 2
    assert p.predicted.tolist() == ["yes, often", "", "no", ""]
    assert "outputs that are not finite: 2 rows; they get no class" in p.text()
    answer = json.loads(dumps("predict", p.to_json()))
    assert answer["predicted"] == ["yes, often", None, "no", None]
    assert answer["probabilities"][1] == [None] * 3
    assert answer["loss"] is None
    model, params = identity(1, nn.MeanSquaredError())
    preparation = prepared("regression", 1, y_mean=(1.0,), y_scale=(1.0,))
    p = predictions(model, params, preparation, np.array([[np.nan], [2.0]]))
    assert p.text() == ("2 rows: predicted from 3 to 3\noutputs that are not finite: 1 row")


def test_csv_reads_back_as_the_same_numbers() -> None:
    p = classes(LOGITS.astype(np.float32))
    file = io.StringIO()
    p.to_csv(file)
    header, *rows = csv.reader(io.StringIO(file.getvalue()))
    assert header == ["predicted", "p(no)", "p(yes, often)", "p(名)"]
    assert [row[0] for row in rows] == p.predicted.tolist()
    found = np.array([row[1:] for row in rows]).astype(np.float32)
    assert p.probabilities is not None
    np.testing.assert_array_equal(found, p.probabilities)


def test_text_counts_classes() -> None:
    p = classes(LOGITS, LABELS)
    assert p.text().splitlines() == [
        "4 rows: 2 no, 1 yes, often, 1 名",
        f"accuracy 0.75, loss {log_loss(LABELS, softmax(LOGITS)):.4g}",
    ]
    assert p.to_json()["accuracy"] == 0.75
    assert p.to_json()["r2"] is None


@pytest.mark.parametrize("n", [0, 1, EVALUATION_ROWS + 1])
def test_any_number_of_rows(n: int, rng: np.random.Generator) -> None:
    z = rng.normal(size=(n, 3))
    p = classes(z)
    assert p.predicted.tolist() == [NAMES[k] for k in z.argmax(axis=1)]
    assert p.probabilities is not None
    np.testing.assert_allclose(p.probabilities, softmax(z).reshape(n, 3), rtol=1e-13)
    assert p.text().startswith(f"{n} row")
