"""Files of NumPy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isograd.errors import DataError
from isograd.training.tables import Table, default_names, unreadable


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
            arrays = {key: archive[key] for key in ("X", "y") if key in archive.files}
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
