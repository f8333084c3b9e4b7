"""Networks as .npz files: plain arrays by name, for NumPy alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isograd.training.files import write_whole

if TYPE_CHECKING:
    from isograd.training.preparation import Preparation


def to_npz(
    path: str | Path,
    params: Mapping[str, ArrayLike],
    preparation: Preparation | None = None,
    *,
    toml: str = "",
) -> None:
    """Write parameters, preparation and spec to an .npz file, whole or not at all.

    Every array is one of numbers or text, so `numpy.load(path, allow_pickle=False)` reads the file.

    Args:
        path: the file; its name is taken as it is.
        params: arrays by site; each becomes an array of the same name ("W/1").
        preparation: that of the data; its fields become arrays "preparation/mean" and so on, those
            that are None excepted.
        toml: the text of the spec, an array "spec" of no axes; left out if empty.

    Raises:
        RunError: if the file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {name: np.asarray(value) for name, value in params.items()}
    if preparation is not None:
        for name in preparation.__struct_fields__:
            if (value := getattr(preparation, name)) is not None:
                arrays[f"preparation/{name}"] = np.asarray(value)
    if toml:
        arrays["spec"] = np.asarray(toml)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())


__all__ = ["to_npz"]
