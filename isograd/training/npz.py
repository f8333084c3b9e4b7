"""Files of NumPy arrays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from isograd.errors import DataError
from isograd.training.tables import MAX_EXPANSION, Table, default_names, unreadable


def read_npz(path: Path, *, unlabelled: bool = False) -> Table:
    """The arrays X and y of a .npz file; pickled objects are refused.

    Args:
        path: the file.
        unlabelled: whether y may be left out, or be NaN throughout; then it is None.

    Raises:
        DataError: a file that is no archive of arrays, is damaged, or holds no X or y.
    """
    fix = "write it with numpy.savez(path, X=..., y=...)"
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            found = [key for key in ("X", "y") if key in archive.files]
            for key in found:
                _require_held(archive, key)
            arrays = {key: archive[key] for key in found}
    except Exception as error:  # numpy lets out whatever zip, header and literal parsers raise
        raise unreadable(path, error, fix) from None
    needed = ("X",) if unlabelled else ("X", "y")
    if missing := [key for key in needed if key not in arrays]:
        raise DataError(
            f"a .npz file must hold the array{'' if unlabelled else 's'} {' and '.join(needed)}",
            came=f"no {' and no '.join(missing)}; found: {', '.join(archive.files) or 'none'}",
            where=str(path),
            fix=fix,
        )
    X = arrays["X"]
    columns = X.shape[1] if X.ndim == 2 else 0
    y = arrays.get("y")
    if unlabelled and y is not None and y.dtype.kind == "f" and np.isnan(y).all():
        y = None
    return Table(X, y, default_names(columns), str(path))


def _require_held(archive: Any, key: str) -> None:
    """Raise ValueError for an array larger than its part of the archive can hold."""
    names = archive.zip.NameToInfo
    info = names.get(f"{key}.npy") or names[key]
    with archive.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    claimed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and claimed > min(info.file_size, info.compress_size * MAX_EXPANSION):
        raise ValueError(f"{key} claims shape {shape}, more than the archive holds")
