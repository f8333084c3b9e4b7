"""What a trained network says of new rows: classes and probabilities, or values."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from isograd.engine import functions as F
from isograd.engine.dispatch import spec_of
from isograd.engine.ops import Value
from isograd.nn.model import Model
from isograd.nn.spec import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from isograd.training.scores import Score, evaluate, predict

if TYPE_CHECKING:
    from isograd.training.preparation import Preparation

UNKNOWN = ""
"""Stands for the class of a row whose output is not finite."""


def probabilities(kind: Loss, output: Value) -> Value | None:
    """The probability of each class, if the loss speaks of probabilities.

    Args:
        kind: softmax_cross_entropy: softmax(z), z (n, C). binary_cross_entropy: 1 − p and p, with
            p = σ(z), or p = z where the loss takes probabilities, z (n, 1). Others have none.
        output: the network's output z.

    Returns:
        (n, C), or None.
    """
    if isinstance(kind, SoftmaxCrossEntropy):
        return F.softmax(output)
    if not isinstance(kind, BinaryCrossEntropy) or spec_of(output).shape[1] != 1:
        return None
    if kind.inputs == "probabilities":
        return F.concatenate([1.0 - output, output], axis=1)
    # σ(−z), not 1 − σ(z): that rounds to 0 where the second class is likely.
    return F.concatenate([F.logistic(F.negative(output)), F.logistic(output)], axis=1)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for n rows.

    Attributes:
        classes: the names of the C classes; None for a regression.
        predicted: for classes the n names, UNKNOWN where the output is not finite; for a
            regression (n, k) float64 in the units of the targets.
        probabilities: (n, C); None for a regression, and for classes learned by a loss for
            regression.
        not_finite: how many rows have an output that is not finite.
        score: loss and accuracy (or R²) where the targets are known; the loss is that of the
            network, of standardised targets.
    """

    classes: tuple[str, ...] | None
    predicted: NDArray[Any]
    probabilities: NDArray[Any] | None
    not_finite: int
    score: Score | None

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of a table with one line per row, by name."""
        if self.classes is None:
            k = self.predicted.shape[1]
            names = ["predicted"] if k == 1 else [f"predicted_{j}" for j in range(k)]
            return dict(zip(names, self.predicted.T, strict=True))
        out = {"predicted": self.predicted}
        if self.probabilities is not None:
            names = [f"p({name})" for name in self.classes]
            out.update(zip(names, self.probabilities.T, strict=True))
        return out

    def to_csv(self, file: TextIO) -> None:
        """Write the columns as CSV; numbers in the fewest digits that read back the same.

        Args:
            file: open for text, with newline="".
        """
        columns = self.columns
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(map(str, column) for column in columns.values()), strict=True))

    def to_json(self) -> dict[str, Any]:
        """The same as plain values: fields of an answer for programs."""
        known = self.classes is not None
        names = [name or None for name in self.predicted.tolist()] if known else None
        shares = self.probabilities
        return {
            "rows": len(self.predicted),
            "not_finite": self.not_finite,
            "classes": None if self.classes is None else list(self.classes),
            "predicted": names,
            "probabilities": None if shares is None else shares.tolist(),
            "values": None if known else self.predicted.tolist(),
            "loss": self.score and self.score.loss,
            "accuracy": self.score.accuracy if self.score and known else None,
            "r2": self.score.accuracy if self.score and not known else None,
        }

    def text(self) -> str:
        """A few lines for a person: how many rows, what they are, how well it fits."""
        lines = [f"{_count(len(self.predicted), 'row')}: {self._what()}".removesuffix(": ")]
        if self.not_finite:
            no_class = "" if self.classes is None else "; they get no class"
            lines.append(f"outputs that are not finite: {_count(self.not_finite, 'row')}{no_class}")
        if self.score is not None:
            name = "R²" if self.classes is None else "accuracy"
            lines.append(f"{name} {self.score.accuracy:.4g}, loss {self.score.loss:.4g}")
        return "\n".join(lines)

    def _what(self) -> str:
        if self.classes is not None:
            counts = Counter(self.predicted.tolist())
            return ", ".join(f"{counts[name]} {name}" for name in self.classes if counts[name])
        parts = []
        for name, column in self.columns.items():
            finite = column[np.isfinite(column)]
            if len(finite):
                parts.append(f"{name} from {finite.min():.6g} to {finite.max():.6g}")
        return ", ".join(parts)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def predictions(
    model: Model,
    params: Mapping[str, NDArray[Any]],
    preparation: Preparation,
    x: NDArray[Any],
    y: NDArray[Any] | None = None,
) -> Predictions:
    """What a network says of prepared inputs.

    Args:
        model, params: a network and its parameters.
        preparation: that of its data.
        x: (n, d) inputs, prepared.
        y: their targets, as the loss takes them, if they are known.
    """
    with np.errstate(all="ignore"):  # what is not finite is counted
        output = predict(model, params, x)
        shares = probabilities(model.network.loss, output)
        finite = np.isfinite(output).all(axis=1)
        if preparation.classes is None:
            mean, scale = np.array(preparation.y_mean), np.array(preparation.y_scale)
            predicted = output.astype(np.float64) * scale + mean
        else:
            labels = (output if shares is None else shares).argmax(axis=1)
            names = np.array(preparation.classes, dtype=object)
            predicted = np.where(finite, names[labels], UNKNOWN)
    return Predictions(
        classes=preparation.classes,
        predicted=predicted,
        probabilities=shares if preparation.classes is not None else None,
        not_finite=int((~finite).sum()),
        score=None if y is None else evaluate(model, params, x, y, preparation.task),
    )


__all__ = ["UNKNOWN", "Predictions", "predictions", "probabilities"]
