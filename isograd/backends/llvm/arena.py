"""Memory for what a program computes, shared where lives do not overlap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.llvm.work import Work
from isograd.engine.graph import Var

ALIGN = 64
_GAP = (
    128  # between neighbours: arrays whose sizes are powers of two would meet in the cache's sets
)


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """Bytes that begin at a multiple of 64."""
    memory = np.empty(nbytes + ALIGN, np.uint8)
    shift = -memory.ctypes.data % ALIGN
    return memory[shift : shift + nbytes]


class Arena:
    """Places for variables.

    A variable that one thread alone uses shares memory with others of that thread, by their order;
    one that several use, with others of that kind, by the times between which threads meet.

    Args:
        items: the work, in order.
        threads: the thread of each item.
        meetings: how often all threads have met before each item.
        outside: variables that have memory elsewhere.
        kept: variables that are wanted until the end.
    """

    def __init__(
        self,
        items: Sequence[Work],
        threads: Sequence[int],
        meetings: Sequence[int],
        outside: Iterable[Var],
        kept: set[Var],
    ) -> None:
        skip = set(outside)
        users: defaultdict[Var, list[tuple[int, int, int]]] = defaultdict(list)
        for i, work in enumerate(items):
            for view in (*work.reads, *work.writes):
                if view.root not in skip:
                    users[view.root].append((i, meetings[i], threads[i]))
        lives: defaultdict[int, dict[Var, tuple[int, int]]] = defaultdict(dict)
        forever = len(items)
        for var, uses in users.items():
            alone = {thread for _, _, thread in uses}
            if len(alone) == 1:
                times, owner = [i for i, _, _ in uses], alone.pop()
            else:
                times, owner = [meeting for _, meeting, _ in uses], -1
            lives[owner][var] = min(times), forever if var in kept else max(times)
        self._places: dict[Var, int] = {}
        top = 0
        for life in lives.values():
            top = self._fill(life, top)
        self.memory = aligned(top)
        self.nbytes = top

    def _fill(self, life: Mapping[Var, tuple[int, int]], top: int) -> int:
        """Place variables from an address on; gives the first address after them."""
        free: defaultdict[int, list[int]] = defaultdict(list)
        ending: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        done = -1
        for var, (first, last) in sorted(life.items(), key=lambda item: item[1][0]):
            for time in range(done + 1, first):
                for size, start in ending.pop(time, ()):
                    free[size].append(start)
            done = max(done, first - 1)
            size = -(-max(var.spec.nbytes, 1) // ALIGN) * ALIGN + _GAP
            if free[size]:
                start = free[size].pop()
            else:
                start, top = top, top + size
            self._places[var] = start
            ending[last].append((size, start))
        return top

    def __contains__(self, var: Var) -> bool:
        return var in self._places

    def address(self, var: Var) -> int:
        """Where a variable's elements begin."""
        return int(self.memory.ctypes.data) + self._places[var]

    def array(self, var: Var) -> NDArray[Any]:
        """A variable's elements."""
        start = self._places[var]
        flat = self.memory[start : start + var.spec.nbytes].view(var.spec.dtype)
        return flat.reshape(var.spec.shape)
