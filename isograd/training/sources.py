"""What a spec or a program names as data, found and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isograd.errors import DataError, nearest
from isograd.nn.spec import ARRAYS, BUILT_IN_DATA, FILE_TYPES, SYNTHETIC_DATA, Data, format_of
from isograd.training.csv import read_csv
from isograd.training.idx import read_images
from isograd.training.npz import read_npz
from isograd.training.parquet import read_parquet
from isograd.training.synthetic import draw
from isograd.training.tables import Choose, Table, all_but, named


def read_training(data: Data, *, seed: int, base: str | Path | None) -> tuple[Table, Table | None]:
    """The rows that a spec names, and its test rows if it names some.

    Args:
        data: the [data] of a spec.
        seed: of a synthetic set, below 2³².
        base: the folder that relative paths start from; None is the current one.

    Raises:
        DataError: data that is missing or malformed.
    """
    if data.source == ARRAYS:
        raise DataError(
            "data from arrays must be handed over by the program that made them",
            came=f"source = {ARRAYS!r}",
            fix="pass X and y to isograd.training.data.from_arrays, or name a file",
        )
    if data.format is None:
        return read_named(data.source, seed=seed, rows=data.rows, noise=data.noise), None
    folder = Path(base or ".")
    labels = None if data.labels is None else folder / data.labels
    table = _read(folder / data.source, all_but(data.target), labels)
    if data.test is None:
        return table, None
    labels = None if data.test_labels is None else folder / data.test_labels
    choose = named(table.features, table.target, required=True)
    test = _read(folder / data.test, choose, labels)
    return table, test


def read_new(
    source: str | Path,
    features: tuple[str, ...],
    target: str | None,
    *,
    labels: str | Path | None,
    seed: int,
    base: str | Path | None,
) -> Table:
    """Rows to apply a trained network to; their targets need not be there.

    Args:
        source: a built-in or synthetic set, or a path that ends as in FILE_TYPES.
        features, target: names of the columns, for files that name theirs.
        labels: the file of labels beside one of images.
        seed: of a synthetic set, below 2³².
        base: the folder that relative paths start from; None is the current one.
    """
    name = str(source)
    known = (*BUILT_IN_DATA, *SYNTHETIC_DATA)
    if format_of(name) is None and name not in known:
        raise DataError(
            f"data must be a built-in set or a path that ends in {', '.join(FILE_TYPES)}",
            came=repr(name),
            fix=nearest(name, known),
        )
    if labels is not None and format_of(name) != "idx":
        raise DataError(
            "labels in a file of their own belong to images in idx format",
            came=f"labels = {str(labels)!r} with {name!r}",
            fix="remove labels, or name an idx file",
        )
    if name in known:
        return read_named(name, seed=seed)
    folder = Path(base or ".")
    choose = named(features, target, required=False)
    beside = None if labels is None else folder / labels
    return _read(folder / source, choose, beside, unlabelled=True)


def read_named(
    name: str, *, seed: int, rows: int | None = None, noise: float | None = None
) -> Table:
    """A built-in set, or a synthetic one."""
    if name in SYNTHETIC_DATA:
        return draw(name, seed, rows, noise)
    from sklearn import datasets  # takes a second to import: only when needed

    bunch = getattr(datasets, f"load_{name}")()
    X, y = np.asarray(bunch.data), np.asarray(bunch.target)
    classes = None
    if "target_names" in bunch:
        classes = tuple(map(str, bunch.target_names))
        y = np.array(classes, object)[y]
    return Table(X, y, tuple(map(str, bunch.feature_names)), name, classes=classes)


def _read(path: Path, choose: Choose, labels: Path | None, *, unlabelled: bool = False) -> Table:
    """A file, by the ending of its name."""
    match format_of(path.name):
        case "npz":
            return read_npz(path, unlabelled=unlabelled)
        case "idx":
            return read_images(path, labels)
        case _ if path.suffix.lower() == ".csv":
            return read_csv(path, choose, unlabelled=unlabelled)
        case _:
            return read_parquet(path, choose, unlabelled=unlabelled)
