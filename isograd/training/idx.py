"""The idx format of MNIST: arrays of any rank behind a short header, often compressed by gzip.

Two zero bytes, one for the type, one for the number of dimensions; each dimension as a big-endian
32-bit integer; then the values, big-endian, the last index running fastest.

References: LeCun, Cortes and Burges (1998), The MNIST database of handwritten digits.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from isograd.errors import DataError
from isograd.training.tables import MAX_EXPANSION, Table, default_names, unreadable

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_MAX_DIMENSIONS = 64  # of a NumPy array
_FIX = "fetch or write the file again"


def read_images(path: Path, labels: Path | None = None) -> Table:
    """Images as rows of features p0, p1, …, and their labels.

    Args:
        path: an idx file of two or more dimensions, the first of them the images.
        labels: an idx file of one dimension; None reads no labels.

    Raises:
        DataError: files that are damaged, or of other dimensions.
    """
    X = read_idx(path)
    if X.ndim < 2:
        raise _dimensions("images must have two or more dimensions", X, path)
    X = X.reshape(len(X), math.prod(X.shape[1:]))
    y = None
    if labels is not None:
        y = read_idx(labels)
        if y.ndim != 1:
            raise _dimensions("labels must have one dimension", y, labels)
    return Table(X, y, default_names(X.shape[1], "p"), str(path))


def read_idx(path: Path) -> NDArray[Any]:
    """The array of an idx file, compressed or not, in the byte order of the machine.

    What the header claims is compared with the size of the file before memory is taken for it, and
    never more is read than it claims.

    Raises:
        DataError: no idx file, or one that is truncated, too long or damaged.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            packed = file.read(2) == _GZIP
            file.seek(0)
            if not packed:
                return _read(file, size, path)
            with gzip.GzipFile(fileobj=file) as stream:
                return _read(stream, size * MAX_EXPANSION, path)
    except (EOFError, zlib.error) as error:
        raise unreadable(path, f"damaged gzip data: {error}", _FIX) from None
    except gzip.BadGzipFile as error:
        raise unreadable(path, f"damaged gzip data: {error}", _FIX) from None
    except OSError as error:
        raise unreadable(path, error, "check the path") from None


def _read(file: IO[bytes] | gzip.GzipFile, limit: int, path: Path) -> NDArray[Any]:
    """The array of an open file that cannot hold more than `limit` bytes."""
    magic = file.read(4)
    if (
        len(magic) < 4
        or magic[:2] != b"\0\0"
        or magic[2] not in TYPES
        or not 1 <= magic[3] <= _MAX_DIMENSIONS
    ):
        raise DataError(
            "an idx file must begin with two zero bytes, a type and a number of dimensions",
            came=f"0x{magic.hex()}" if magic else "an empty file",
            where=str(path),
            fix="give a file of MNIST's format: 0x00000801 for labels, 0x00000803 for images",
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise _truncated(f"{len(header)} bytes for {magic[3]} dimensions", path)
    shape = tuple(np.frombuffer(header, ">u4").tolist())
    dtype = np.dtype(TYPES[magic[2]])
    claimed = math.prod(shape) * dtype.itemsize
    if not claimed:
        must, came = "an idx file must hold values", f"{_by(shape)} of them"
        raise DataError(must, came=came, where=str(path), fix=_FIX)
    if claimed > limit - len(magic) - len(header):
        raise _truncated(f"a file too small for {_by(shape)} values of {dtype.itemsize} B", path)
    values = np.empty(claimed, np.uint8)
    view, got = values.data, 0
    while got < claimed and (chunk := file.read(min(claimed - got, 1 << 20))):
        view[got : got + len(chunk)] = chunk
        got += len(chunk)
    if got < claimed:
        raise _truncated(f"{got} bytes of the {claimed} of {_by(shape)} values", path)
    if file.read(1):
        raise DataError(
            "an idx file must end where its header says",
            came=f"more than the {claimed} bytes of {_by(shape)} values",
            where=str(path),
            fix=_FIX,
        )
    return values.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _truncated(came: str, path: Path) -> DataError:
    must = "an idx file must hold all the values that its header names"
    return DataError(must, came=came, where=str(path), fix=_FIX)


def _dimensions(must: str, array: NDArray[Any], path: Path) -> DataError:
    return DataError(
        must,
        came=f"{array.ndim}: {_by(array.shape)}",
        where=str(path),
        fix="give the images as source or test, and their labels as labels or test_labels",
    )


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
