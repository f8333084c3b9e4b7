"""Threefry-2x32 and the masks of dropout once more, slowly, in Python's integers."""

from __future__ import annotations

import math

import numpy as np


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32, 20 rounds, on Python's integers (Salmon et al. 2011, sec. 3.3)."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = ((c + k) % 2**32 for c, k in zip(counter, key, strict=True))
    for r in range(20):
        by = (13, 15, 26, 6, 17, 29, 16, 24)[r % 8]
        x = (x + y) % 2**32
        y = ((y << by) % 2**32 | y >> (32 - by)) ^ x
        if r % 4 == 3:
            s = r // 4 + 1
            x, y = (x + keys[s % 3]) % 2**32, (y + keys[(s + 1) % 3] + s) % 2**32
    return x, y


def keep(
    key: tuple[int, int], step: int, place: int, rate: float, shape: tuple[int, int]
) -> np.ndarray:
    """1/(share kept) where dropout keeps a value, 0 elsewhere, word by word."""
    own = threefry(key, (0, place))
    words = [threefry(own, (i // 2, step))[i % 2] for i in range(shape[0] * shape[1])]
    threshold = math.ceil(rate * 2**32)
    share = (2**32 - threshold) / 2**32
    return np.array([(w >= threshold) / share for w in words]).reshape(shape)
