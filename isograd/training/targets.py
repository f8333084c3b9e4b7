"""Which loss takes which targets, and targets brought into that form."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from isograd.errors import DataError, SpecError, nearest
from isograd.nn.checks import shown
from isograd.nn.spec import Loss, kinds
from isograd.training.tables import (
    Table,
    at_rows,
    complain,
    number,
    refuse_missing_targets,
    some,
)

Task: TypeAlias = Literal["classes", "binary", "regression"]
TASKS: dict[str, Task] = {
    "half_squared_error": "regression",
    "mean_squared_error": "regression",
    "huber": "regression",
    "binary_cross_entropy": "binary",
    "softmax_cross_entropy": "classes",
}
"""What each loss is for. Text with a loss for regression is classes, as columns of 0 and 1."""
_TOLERANCE = 1e-6  # of the sum of shares: what float32 leaves of 1 over a thousand classes

_MAX_ONE_HOT = 1 << 28  # 2 GiB: a column of free text taken for classes must not fill the memory


class Form(NamedTuple):
    """What targets are, and how they stand in an array.

    Args:
        task: "classes", "binary" or "regression".
        classes: the name of each class, in the order of the labels; None for a regression.
        one_hot: whether classes stand as (n, C) shares that sum to 1, rather than as labels (n,).
    """

    task: Task
    classes: tuple[str, ...] | None = None
    one_hot: bool = False


def loss_kind(loss: str | Loss) -> str:
    """The kind of a loss, which may be given by its kind."""
    known = kinds(Loss)
    kind = loss if isinstance(loss, str) else str(loss.__struct_config__.tag)
    if kind not in known:
        raise SpecError("the loss must be a known one", came=repr(kind), fix=nearest(kind, known))
    return kind


def form_of(table: Table, kind: str) -> Form:
    """What the targets of the training data are to a loss.

    Args:
        table: with targets that are finite.
        kind: of the loss.

    Raises:
        DataError: targets that do not fit the loss.
    """
    y, task = _one_column(table), TASKS[kind]
    if task == "regression" and not is_text(y):
        return Form("regression")
    if task == "classes" and y.ndim == 2 and y.dtype.kind in "fiub":
        _require_shares(y, table)
        return Form("classes", tuple(map(str, range(y.shape[1]))), True)
    if task == "regression" and y.ndim == 1:
        text = np.array([number(cell) is None for cell in y.tolist()])
        if not text.all():
            at_rows(table, text, lambda i: f"{table.at(i)} ({shown(str(y[i]))})").complain(
                f"targets must be all numbers or all text for {kind}",
                table.where,
                "correct these rows",
            )
    _require_labels(y, table, kind)
    classes = table.classes or tuple(map(_name, _unique(y)[0]))
    _require_classes(classes, len(y), kind, table.where)
    return Form("binary" if task == "binary" else "classes", classes, task == "regression")


def targets_of(table: Table, form: Form, columns: int = 0) -> NDArray[Any]:
    """The targets in the form that the loss takes.

    Args:
        table: with targets that are finite.
        form: of the training data.
        columns: targets per row of the training data, of a regression; 0 takes any number.

    Returns:
        int64 labels (n,), or float64 (n, k): the targets of a regression, 0 or 1 for "binary", one
        column per class for `one_hot`.

    Raises:
        DataError: labels, types or shapes that the training data did not have.
    """
    y = _one_column(table)
    if form.classes is None:
        k = 1 if y.ndim == 1 else y.shape[1]
        if is_text(y) or (columns and k != columns):
            came = "text" if is_text(y) else f"{k} per row, not {columns}"
            raise _unlike("targets must be numbers, as many per row", came, table)
        return y.reshape(len(y), -1).astype(np.float64)
    count = len(form.classes)
    if y.ndim == 2 and form.one_hot and y.dtype.kind in "fiub":
        _require_shares(y, table)
        if y.shape[1] != count:
            raise _unlike("there must be as many classes", f"{y.shape[1]}, not {count}", table)
        return y.astype(np.float64)
    _require_labels(y, table, "classes")
    labels = _labels(y, form.classes, table)
    if form.task == "binary":
        return labels[:, None].astype(np.float64)
    if not form.one_hot:
        return labels
    if len(labels) * count > _MAX_ONE_HOT:
        raise DataError(
            f"classes as columns of 0 and 1 must be {_MAX_ONE_HOT} values at most",
            came=f"{len(labels)} rows of {count} classes",
            where=table.where,
            fix=f"use {_losses('classes')}, or check the target column",
        )
    shares = np.zeros((len(labels), count))
    shares[np.arange(len(labels)), labels] = 1.0
    return shares


def strata(y: NDArray[Any], form: Form) -> NDArray[np.int64] | None:
    """The class of each row, of targets that `targets_of` made; None for a regression."""
    if form.task == "regression":
        return None
    if form.one_hot:
        return np.asarray(y.argmax(axis=1), np.int64)
    return y.reshape(len(y)).astype(np.int64)


def require_targets(table: Table) -> None:
    """Raise DataError naming rows whose target is missing or infinite."""
    y = table.y
    if y is None or y.dtype.kind != "f":
        return
    values, name = y.reshape(len(y), -1), shown(table.target or "target")
    missing = at_rows(table, np.isnan(values).any(axis=1))
    refuse_missing_targets(missing, table.target, table.where)
    at_rows(
        table,
        np.isinf(values).any(axis=1),
        lambda row: f"{table.at(row)} column {name} ({y[row]})",
    ).complain("data must be finite", table.where, "correct these cells or remove these rows")


def require_weights(loss: str | Loss, classes: tuple[str, ...] | None) -> None:
    """Raise SpecError if a loss weights another number of classes than there are."""
    weights = getattr(loss, "class_weights", None)
    if weights is not None and classes is not None and len(weights) != len(classes):
        raise SpecError(
            "class_weights must hold one weight per class",
            came=f"{len(weights)} weights for {len(classes)} classes: {some(classes)}",
            where="network.loss.class_weights",
            fix=f"give {len(classes)} weights, in the order of the classes",
        )


def _one_column(table: Table) -> NDArray[Any]:
    """The targets, (n,) if there is one per row."""
    y = table.y
    assert y is not None
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _require_labels(y: NDArray[Any], table: Table, kind: str) -> None:
    """One label per row: text, truth values or whole numbers."""
    if y.ndim != 1:
        raise DataError(
            f"the targets must be one label per row for {kind}",
            came=f"y of shape {y.shape}",
            where=table.where,
            fix="pass y.argmax(axis=1) if y is one-hot",
        )
    if y.dtype.kind == "f":
        at_rows(table, y != np.round(y), lambda i: f"{table.at(i)} ({y[i]})").complain(
            f"labels must be whole numbers or text for {kind}",
            table.where,
            f"use {_losses('regression')} for a regression, or write the labels as whole numbers",
        )


def _require_classes(classes: tuple[str, ...], rows: int, kind: str, where: str) -> None:
    if TASKS[kind] == "binary" and len(classes) != 2:
        must, fix = f"{kind} needs two classes", f"use {_losses('classes')}"
    elif len(classes) < 2:
        must, fix = "a classification needs two classes or more", "check the target column"
    elif len(classes) == rows:
        must = "some rows must share a class"
        fix = f"use {_losses('regression')} for a regression"
    else:
        return
    raise DataError(must, came=f"{len(classes)}: {some(classes)}", where=where, fix=fix)


def _require_shares(y: NDArray[Any], table: Table) -> None:
    """Rows of several columns are shares of the classes."""
    sums = y.sum(axis=1, dtype=np.float64)
    at_rows(
        table,
        (np.abs(sums - 1.0) > _TOLERANCE) | (y < 0).any(axis=1),
        lambda i: f"{table.at(i)} (sum {sums[i]:.7g}, least {y[i].min():.3g})",
    ).complain(
        "targets of several columns must be shares of the classes: at least 0, with sum 1",
        table.where,
        f"divide each row by its sum, or use {_losses('regression')} for a regression",
    )


def _labels(y: NDArray[Any], classes: tuple[str, ...], table: Table) -> NDArray[np.int64]:
    """The number of each row's class, found by name, else by the number that it stands for."""
    values, inverse = _unique(y)
    by_name = {name: i for i, name in enumerate(classes)}
    by_number: dict[float, int] = {}
    for name, i in by_name.items():
        if (value := number(name)) is not None:
            by_number.setdefault(value, i)
    found = [by_name.get(_name(v), by_number.get(_number(v), -1)) for v in values]
    labels = np.array(found, np.int64)[inverse]
    unknown = [i for i, label in enumerate(found) if label < 0]
    complain(
        "every label must be one of the training data's",
        unknown,
        table.where,
        f"remove these rows, or train on their labels too; known: {some(classes)}",
        show=lambda i: (
            f"{shown(_name(values[i]))} (first in {table.at(int(np.argmax(inverse == i)))})"
        ),
    )
    return labels


def is_text(y: NDArray[Any]) -> bool:
    """Whether targets are strings, NumPy's or Python's."""
    return y.dtype.kind in "UO"


def _unique(y: NDArray[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """The values in order, and of each row the place of its value among them."""
    if not is_text(y):
        numbers, inverse = np.unique(y, return_inverse=True)
        return list(numbers), inverse
    cells = y.tolist()
    values = sorted(set(cells))
    place = {value: i for i, value in enumerate(values)}
    return values, np.fromiter((place[cell] for cell in cells), np.int64, len(cells))


def _name(value: Any) -> str:
    """What a class is called: whole numbers without a point."""
    return str(value) if isinstance(value, str | np.bool_) else str(int(value))


def _number(value: Any) -> float:
    """The number that a label is or says; NaN, which is no key, for text."""
    parsed = number(value) if isinstance(value, str) else float(value)
    return float("nan") if parsed is None else parsed


def _losses(task: Task) -> str:
    """The losses for a task, for a hint."""
    return " or ".join(kind for kind, takes in TASKS.items() if takes == task)


def _unlike(must: str, came: str, table: Table) -> DataError:
    return DataError(
        f"{must}, as in the training data",
        came=came,
        where=table.where,
        fix="convert the targets, or give the file that belongs to this training",
    )
