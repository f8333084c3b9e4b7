"""Random bits as a function of a key and a counter: no state, so every mode gives the same.

Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as
1, 2, 3, sec. 3.3 and table 2): a bijection of two words, mixed by additions, rotations and
exclusive ors, into which the key is added anew every four rounds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.engine.dispatch import spec_of
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op, Rule, Value, define
from isograd.errors import ShapeError

_Words = NDArray[np.uint32]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WORD = np.dtype(np.uint32)
MAX_WORDS = 2 * 2**32
"""In one draw: a pair for each value of the first counter word."""


def threefry2x32(key: _Words, first: _Words, second: _Words) -> tuple[_Words, _Words]:
    """The blocks of the given counters.

    Args:
        key: (2,) uint32.
        first, second: the two words of each counter, uint32 of one shape.

    Returns:
        The two words of each block.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(_PARITY))
    with np.errstate(over="ignore"):  # sums are modulo 2³²
        x, y = first + schedule[0], second + schedule[1]
        for injection in range(1, 6):
            for by in _ROTATIONS[(injection - 1) % 2]:
                x += y
                low = y >> np.uint32(32 - by)
                y <<= np.uint32(by)
                y |= low
                y ^= x
            x += schedule[injection % 3]
            y += schedule[(injection + 1) % 3] + np.uint32(injection)
    return x, y


def _shape(key: ArraySpec, counter: ArraySpec, *, shape: tuple[int, ...]) -> ArraySpec:
    if key != ArraySpec((2,), _WORD) or counter != ArraySpec((), _WORD):
        raise ShapeError(
            "random bits must be drawn with a key u32[2] and a counter u32[]",
            came=f"{key} and {counter}",
            fix="make both arrays of uint32",
        )
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_WORDS:
        raise ShapeError(
            "a draw must have no negative length, and at most 2³² pairs of words",
            came=f"shape {shape}",
            fix="draw parts of it, each with a counter of its own",
        )
    return ArraySpec(shape, _WORD)


def _eval(key: _Words, counter: _Words, *, shape: tuple[int, ...]) -> _Words:
    n = _shape(spec_of(key), spec_of(counter), shape=shape).size
    pairs = (n + 1) // 2
    place = np.arange(pairs, dtype=np.uint32)
    out = np.empty((pairs, 2), np.uint32)
    out[:, 0], out[:, 1] = threefry2x32(key, place, np.full(pairs, counter))
    return out.reshape(-1)[:n].reshape(shape)


def _none(i: int, t: Value, out: Value, args: tuple[Value, ...], params: dict[str, Any]) -> None:
    return None


define(Op.RANDOM_BITS, Rule(_eval, _shape, _none, _none, domain="all; derivative 0"))
