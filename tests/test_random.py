"""Random bits: published vectors, a slow copy in Python's integers, and no state anywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from checks import check_modes
from hypothesis import given
from hypothesis import strategies as st
from threefry import threefry

import isograd
from isograd.backends.numpy import Executable
from isograd.engine.functions import random_bits
from isograd.engine.graph import ArraySpec, Graph
from isograd.engine.ops import Op
from isograd.engine.passes import FOLD_CONSTANTS, optimise
from isograd.engine.plan import plan
from isograd.engine.rules.random import MAX_WORDS, threefry2x32
from isograd.errors import ShapeError

U32 = np.dtype(np.uint32)
KEY = np.array([0x13198A2E, 0x03707344], np.uint32)

# Salmon et al. 2011, Random123 1.14, kat_vectors: threefry2x32 20.
KNOWN = [  # counter, key, block
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def block(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    x, y = threefry2x32(words(*key), words(counter[0]), words(counter[1]))
    return int(x[0]), int(y[0])


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_published_vectors(counter: Any, key: Any, want: Any) -> None:
    assert block(key, counter) == want
    assert threefry(key, counter) == want  # the slow copy is one of the same function


WORD = st.integers(0, 2**32 - 1)


@given(st.tuples(WORD, WORD), st.tuples(WORD, WORD))
def test_blocks_are_those_of_the_slow_copy(key: tuple[int, int], counter: tuple[int, int]) -> None:
    assert block(key, counter) == threefry(key, counter)


def test_one_bit_of_the_counter_changes_half_of_the_block() -> None:
    flips = [(0, bit) for bit in range(32)] + [(1, bit) for bit in range(32)]
    one = threefry((7, 9), (3, 5))
    for part, bit in flips:
        changed = [3, 5]
        changed[part] ^= 1 << bit
        other = block((7, 9), (changed[0], changed[1]))
        differ = sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
        assert 12 <= differ <= 52  # 64 fair coins: beyond five standard deviations


def test_pairs_lie_in_row_order() -> None:
    """Elements 2i and 2i + 1 are the block of the counter (i, counter); the last word may go."""
    got = random_bits(KEY, 11, (3, 5))
    assert got.dtype == U32
    blocks = [w for i in range(8) for w in threefry((int(KEY[0]), int(KEY[1])), (i, 11))]
    assert got.ravel().tolist() == blocks[:15]
    assert random_bits(KEY, 11, (2, 3)).ravel().tolist() == blocks[:6]
    assert random_bits(KEY, np.uint32(11), ()).item() == blocks[0]
    assert (
        random_bits(KEY, 2**32 - 1, (1,)).item()
        == threefry((int(KEY[0]), int(KEY[1])), (0, 2**32 - 1))[0]
    )


def test_each_mode_gives_the_same_bits() -> None:
    """With the key inside the graph and without, in dynamic mode, traced, rewritten and planned."""
    counter = np.asarray(5, np.uint32)
    check_modes(lambda c: random_bits(KEY, c, (7, 3)), counter)
    check_modes(lambda k, c: random_bits(random_bits(k, 3, (2,)), c, (7, 3)), KEY, counter)
    check_modes(lambda k, c: random_bits(k, c, (8,)) >= np.uint32(2**31), KEY, counter)
    inner = isograd.grad(
        lambda x, c: isograd.functions.sum(
            isograd.functions.where(random_bits(KEY, c, (4,)) >= 2**31, x, 0.0)
        )
    )
    check_modes(inner, np.ones(4), counter)
    mask = random_bits(KEY, counter, (4,)) >= 2**31
    np.testing.assert_array_equal(inner(np.ones(4), counter), mask)


def test_a_draw_is_no_constant_of_the_graph() -> None:
    """Bits of known key and counter are drawn at each run: folded, they would take their memory."""
    shape = (1000, 1000)
    graph = isograd.trace(lambda c: random_bits(KEY, c, shape), ArraySpec((), U32))
    known = {**graph.constants, graph.inputs[0]: np.asarray(3, np.uint32)}
    fixed = Graph((), known, graph.eqns, graph.outputs)
    folded = optimise(fixed, (FOLD_CONSTANTS,)).graph
    assert folded.op_counts[Op.RANDOM_BITS] == 1
    assert sum(a.size for a in folded.constants.values()) <= 3
    out = Executable(plan(graph))(np.asarray(3, np.uint32))
    np.testing.assert_array_equal(out, random_bits(KEY, 3, shape))


def test_words_are_even() -> None:
    """Mean, bits and pairs of 2²⁰ words, each within five standard deviations."""
    n = 2**20
    got = random_bits(KEY, 0, (n,))
    unit = got / 2.0**32
    assert abs(unit.mean() - 0.5) < 5 / math.sqrt(12 * n)
    for bit in range(32):
        share = ((got >> np.uint32(bit)) & np.uint32(1)).mean()
        assert abs(share - 0.5) < 2.5 / math.sqrt(n), bit
    other = random_bits(KEY, 1, (n,)) / 2.0**32
    for lag in (other, np.roll(unit, 1), np.roll(unit, 2)):
        assert abs(np.corrcoef(unit, lag)[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.parametrize(
    ("key", "counter"),
    [
        (np.zeros(2, np.int64), 0),
        (np.zeros(3, np.uint32), 0),
        (np.zeros((), np.uint32), 0),
        (KEY, -1),
        (KEY, 2**32),
        (KEY, 1.0),
        (KEY, np.zeros(1, np.uint32)),
        (KEY, np.int32(3)),
    ],
)
def test_other_keys_and_counters_are_refused(key: Any, counter: Any) -> None:
    with pytest.raises(ShapeError, match=r"a key u32\[2\] and a counter u32\[\]"):
        random_bits(key, counter, (4,))


def test_a_draw_has_an_end() -> None:
    key, counter = ArraySpec((2,), U32), ArraySpec((), U32)

    def of(shape: tuple[int, ...]) -> Any:
        return isograd.trace(lambda k, c: random_bits(k, c, shape), key, counter)

    assert of((2**16, 2**17)).outputs[0].spec.size == MAX_WORDS
    for shape in ((MAX_WORDS + 1,), (2**40, 2**40), (-1,)):
        with pytest.raises(ShapeError, match="2³² pairs of words"):
            of(shape)
        with pytest.raises(ShapeError, match="2³² pairs of words"):
            random_bits(KEY, 0, shape)
