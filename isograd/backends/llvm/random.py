"""Random bits: Threefry-2x32, as in `isograd.engine.rules.random`, on vectors of counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from isograd.backends.llvm.elements import Operand, portions, splat
from isograd.backends.llvm.ir import i64, kernel, loop
from isograd.backends.llvm.lanes import Unsigned
from isograd.backends.llvm.views import row_major
from isograd.engine.graph import Eqn

_I32 = ir.IntType(32)
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


@dataclass(frozen=True, slots=True)
class RandomBits:
    """`size` words under a key and a counter, side by side.

    Attributes:
        size: number of words.
        step: from the first word of the key to the second.
    """

    size: int
    step: int

    def build(self, module: Any, name: str, width: int) -> None:
        """Append the kernel to a module; `width` is that of vectors, in bytes."""

        def body(b: Any, pointers: list[Any]) -> None:
            key, counter, out = pointers
            words = [b.load(b.gep(key, [i64(k * self.step)])) for k in (0, 1)]
            words.append(b.xor(b.xor(*words), _I32(_PARITY)))
            second = b.load(counter)

            def blocks(i: Any, lanes: int) -> tuple[Any, Any]:
                """The blocks of `lanes` counters from i on."""

                def each(word: Any) -> Unsigned:
                    return Unsigned(b, splat(b, word, lanes) if lanes > 1 else word)

                place = each(b.trunc(i, _I32))
                if lanes > 1:
                    count = [_I32(k) for k in range(lanes)]
                    place = place + Unsigned(b, ir.Constant(place.value.type, count))
                return _threefry([each(w) for w in words], place, each(second))

            for lanes, low, high in portions(self.size // 2, width // 4):
                with loop(b, low, high, lanes) as i:
                    x, y = blocks(i, lanes)
                    at = b.gep(out, [b.mul(i, i64(2))])
                    if lanes == 1:
                        b.store(x.value, at)
                        b.store(y.value, b.gep(at, [i64(1)]))
                        continue
                    turns = [_I32(k) for j in range(lanes) for k in (j, lanes + j)]
                    kind = ir.VectorType(_I32, 2 * lanes)
                    pairs = b.shuffle_vector(
                        x.value, y.value, ir.Constant(ir.VectorType(_I32, 2 * lanes), turns)
                    )
                    b.store(pairs, b.bitcast(at, kind.as_pointer()), align=4)
            if self.size % 2:
                x, _ = blocks(i64(self.size // 2), 1)
                b.store(x.value, b.gep(out, [i64(self.size - 1)]))

        kernel(module, name, [_I32] * 3, body)


def random_bits(eqn: Eqn, reads: Sequence[Operand], write: Operand) -> RandomBits | None:
    """The kernel of random bits; None if they do not go side by side."""
    size = 1
    for n in write.shape:
        size *= n
    if write.strides != row_major(write.shape):
        return None
    return RandomBits(size, reads[0].strides[0])


def _threefry(key: list[Unsigned], x: Unsigned, y: Unsigned) -> tuple[Unsigned, Unsigned]:
    x, y = x + key[0], y + key[1]
    for injection in range(1, 6):
        for by in _ROTATIONS[(injection - 1) % 2]:
            x = x + y
            y = ((y << by) | (y >> (32 - by))) ^ x
        x = x + key[injection % 3]
        y = y + key[(injection + 1) % 3] + injection
    return x, y
