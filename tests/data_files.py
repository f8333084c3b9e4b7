"""What tests of data files share: rows in order, memory measured, idx files by hand."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np


def both(split):
    """X and y of both parts together."""
    return np.concatenate([split.X_train, split.X_test]), np.concatenate(
        [split.y_train, split.y_test]
    )


def as_rows(X, y):
    """Rows with their targets in an order that does not depend on the split."""
    table = np.column_stack([X, y])
    return table[np.lexsort(table.T)]


def peak_of(read) -> int:
    """The most memory, in bytes, that was held while something ran."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def idx_bytes(code: int, dimensions, body: bytes) -> bytes:
    """A file by hand, as the format is described."""
    return struct.pack(f">HBB{len(dimensions)}I", 0, code, len(dimensions), *dimensions) + body


PIXELS = bytes(range(120))
IMAGES = idx_bytes(0x08, (20, 2, 3), PIXELS)
DIGITS = idx_bytes(0x08, (20,), bytes([3, 5] * 10))
