"""Where data come from, and how they are split."""

from __future__ import annotations

import os
import re
from typing import Literal

from msgspec.structs import force_setattr

from isograd.errors import SpecError, nearest
from isograd.nn.checks import flag, one_of, place, real, shown, text, whole, wrong
from isograd.nn.structs import Table

BUILT_IN_DATA = ("digits", "iris", "wine", "breast_cancer", "diabetes")
SYNTHETIC_DATA = ("moons", "circles", "blobs", "spirals")
"""Data drawn from the seed."""
FILE_TYPES = (".npz", ".csv", ".parquet", ".idx", ".idx.gz")
"""How a path of data ends; files of MNIST's format may also be called …-ubyte and …-ubyte.gz."""
ARRAYS = "arrays"
"""The source of data that a Python program hands over as arrays."""
PATHS = ("source", "labels", "test", "test_labels")
"""The keys that may hold the path of a file."""


class Data(Table, frozen=True):
    """Where the data come from and how they are split.

    Args:
        source: a built-in or synthetic set, a path that ends as in FILE_TYPES, or "arrays" for
            data that a Python program hands over.
        target: the target column of a .csv or .parquet; None is the last.
        labels: the file of the labels, for source a file of images in idx format.
        test: a file of test rows, in the format of source; None splits source.
        test_labels: the file of their labels, for idx.
        test_fraction: the share of rows kept for the test, in (0, 1); not used with `test`.
        validation_fraction: the share of the other rows kept for validation, in [0, 1).
        standardise: bring every feature to mean 0 and variance 1 on the training part;
            "jointly" takes one mean and one variance for all features together.
        stratify: keep the shares of the classes in all parts.
        missing: what to do with missing features: refuse them, fill in the mean or the median of
            the training part, or drop the row.
        rows, noise: how many rows to draw of a synthetic set, and how noisy; None are its own.
    """

    source: str
    target: str | None = None
    labels: str | None = None
    test: str | None = None
    test_labels: str | None = None
    test_fraction: float = 0.2
    validation_fraction: float = 0.0
    standardise: bool | Literal["jointly"] = True
    stratify: bool = True
    missing: Literal["refuse", "mean", "median", "drop"] = "refuse"
    rows: int | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        self._check_source()
        self._check_files()
        real(self, "test_fraction", above=0, below=1)
        real(self, "validation_fraction", low=0, below=1)
        if self.standardise != "jointly" and not isinstance(self.standardise, bool):
            raise wrong(
                self, "standardise", 'true, false or "jointly"', 'give true or false, or "jointly"'
            )
        flag(self, "stratify")
        one_of(self, "missing", ("refuse", "mean", "median", "drop"))
        for key in ("rows", "noise"):
            if getattr(self, key) is not None and self.source not in SYNTHETIC_DATA:
                raise self._out_of_place(key, f"is for synthetic data: {', '.join(SYNTHETIC_DATA)}")
        whole(self, "rows", low=10, high=10_000_000, optional=True)
        real(self, "noise", low=0, optional=True)

    def _check_source(self) -> None:
        for key in PATHS:
            if isinstance(getattr(self, key), os.PathLike):
                force_setattr(self, key, os.fspath(getattr(self, key)))
        source, known = self.source, (*BUILT_IN_DATA, *SYNTHETIC_DATA, ARRAYS)
        if not isinstance(source, str) or not (source in known or self.format):
            endings = f"{', '.join(FILE_TYPES[:-1])} or {FILE_TYPES[-1]}"
            raise SpecError(
                f"source must be a built-in data set or a path that ends in {endings}",
                came=shown(source),
                where=place(self, "source"),
                fix=nearest(source if isinstance(source, str) else "", known),
            )
        text(self, "source")

    def _check_files(self) -> None:
        for key, must, formats in (
            ("target", "names a column, so source must be a .csv or .parquet file", ("table",)),
            ("labels", "names the labels of an idx file", ("idx",)),
            ("test", "must stand beside a source that is a file", ("table", "idx", "npz")),
            ("test_labels", "names the labels of an idx file", ("idx",)),
        ):
            text(self, key, optional=True)
            path = getattr(self, key)
            if path is not None and self.format not in formats:
                raise self._out_of_place(key, must)
            if path is not None and key in PATHS and format_of(path) != self.format:
                raise wrong(self, key, "a file of the format of source", "convert it")
        if self.format == "idx" and self.labels is None:
            raise SpecError(
                "an idx file of images needs one of labels",
                came=f"source = {shown(self.source)} alone",
                where=place(self, "labels"),
                fix='add labels = "…-labels-idx1-ubyte.gz"',
            )
        if self.format == "idx" and (self.test is None) != (self.test_labels is None):
            raise SpecError(
                "test and test_labels go together",
                came="one of them",
                where=place(self, "test_labels"),
                fix="give both or none",
            )

    def _out_of_place(self, key: str, must: str) -> SpecError:
        return SpecError(
            f"{key} {must}",
            came=f"{key} = {shown(getattr(self, key))} with source = {shown(self.source)}",
            where=place(self, key),
            fix=f"remove {key}",
        )

    @property
    def format(self) -> str | None:
        """ "npz", "table", "idx", or None where source is no file."""
        return format_of(self.source)


def is_outside(path: str) -> bool:
    """Whether a path is absolute, or leaves the folder it starts from, on any system.

    It is taken as it is written: links are not followed. As on Windows, a backslash separates too,
    and spaces and dots behind a name count for nothing.
    """
    path = path.replace("\\", "/")
    if path.startswith(("/", "~")) or re.match("[A-Za-z]:", path):
        return True
    depth = 0
    for part in path.split("/"):
        if part.strip(" ."):
            depth += 1
        elif ".." in part:
            depth -= 1
        if depth < 0:
            return True
    return False


def format_of(path: str) -> str | None:
    """The format that a path ends in: "npz", "table" or "idx"; None if it is none of them."""
    name = path.lower()
    if name.endswith(".npz"):
        return "npz"
    if name.endswith((".csv", ".parquet")):
        return "table"
    return "idx" if name.endswith((".idx", ".idx.gz", "-ubyte", "-ubyte.gz")) else None
