"""Plans as native programs: a table of kernels and of the pointers that each is given.

Running a program is one native call, for one round or for many: what a round carries stays in place
for the next. Kernels are shared by all steps of one form, so the time to compile does not grow with
depth. What has no kernel is run by the rule of the reference interpreter, between two native calls.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isograd.backends.llvm import jit
from isograd.backends.llvm.arena import Arena, aligned
from isograd.backends.llvm.driver import MET, SHARED, WAITING, Barrier, Driver, prototype
from isograd.backends.llvm.team import together
from isograd.backends.llvm.views import View
from isograd.backends.llvm.work import Measuring, Work, Works
from isograd.backends.rounds import Rounds
from isograd.engine.graph import Eqn, Var
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import Plan
from isograd.engine.trace import bind
from isograd.engine.tree import unflatten

Array = NDArray[Any]
Observer = Callable[[str, Array], None]


class Program:
    """A plan as machine code.

    Args:
        plan: what to run.
        carried: number of the output that replaces an input in the next round, by the number of
            the input.
        rows: numbers of the inputs of which each round gets another row of an array.
        threads: how many may work at once, each on labels of its own.
        timed: whether to take the time of each item, in `nanoseconds`.
        measuring: what is measured at probes; None lets observers look at what they show.

    Attributes:
        items: the work, in order.
        threads: which of the threads does each item.
        fallbacks: primitives that the reference interpreter runs.
        records: what is measured, and where in `recorded`.
    """

    def __init__(
        self,
        plan: Plan,
        carried: Mapping[int, int] | None = None,
        rows: Sequence[int] = (),
        threads: int = 1,
        timed: bool = False,
        measuring: Measuring | None = None,
    ) -> None:
        self.plan, graph, self._timed = plan, plan.graph, timed
        self.carried, self.rows = dict(carried or {}), frozenset(rows)
        probes = [] if measuring else [e for e in graph.eqns if e.op is Op.PROBE]
        self.probes = [(e.params["site"], e.output) for e in probes]
        self.homes = self._homes()
        kept = {var for _, var in self.probes}
        works = Works(plan, self.homes, kept, measuring)
        self.views, self.items = works.views, works.items
        self.records, self.recorded = works.records, works.recorded
        self.fallbacks = sorted(
            {w.kernel.op.value for w in self.items if isinstance(w.kernel, Eqn)}
        )
        labels = 1 + max((w.label for w in self.items), default=-1)
        self.count = 1 if self.fallbacks else max(1, min(threads, labels))
        self.threads = [max(w.label, 0) * self.count // max(labels, 1) for w in self.items]
        self._barriers = _barriers(self.items, self.threads)
        self._constants = {v: np.asarray(a, order="C") for v, a in graph.constants.items()}
        self._carry = {
            v: aligned(v.spec.nbytes) for v in map(graph.inputs.__getitem__, self.carried)
        }
        self.arena = Arena(
            self.items,
            self.threads,
            np.cumsum([i in self._barriers for i in range(len(self.items))]).tolist(),
            {*graph.inputs, *graph.constants, *self.homes, self.recorded},
            {self.views[v].root for v in kept},
        )
        self._lock = threading.Lock()
        self._assemble()

    def _homes(self) -> tuple[Var, ...]:
        """Whose memory each output goes to: an input's, or its own."""
        graph = self.plan.graph
        back = {o: i for i, o in self.carried.items()}
        if self.probes:  # what they show must not be written over
            back = {}
        return tuple(
            graph.inputs[back[i]] if i in back else Var(var.spec)
            for i, var in enumerate(graph.outputs)
        )

    # --- assembly

    def _assemble(self) -> None:
        """Lay out a table for each thread, and note which pointers depend on the call."""
        kernels = [w.kernel for w in self.items if not isinstance(w.kernel, Eqn)]
        share = max((getattr(k, "scratch", 0) for k in kernels), default=0)
        self._scratch = aligned(share * self.count)
        self._outside = np.zeros(1, np.int64)
        outputs = self.plan.graph.outputs
        name = outputs[-1].spec.name if outputs else ""
        driver = Driver(name if name in ("float32", "float64") else "float64", self._timed)
        code = jit.addresses([*kernels, driver, Barrier()])
        self._drive = prototype(code[driver])
        self._meeting = np.zeros(SHARED, np.int64)
        self._meeting[0] = self.count
        self._tables: list[NDArray[np.int64]] = []
        self._times: list[NDArray[np.int64]] = []
        self._timers: list[tuple[int, int, int]] = []  # item, its thread and its entry
        self._slots: list[NDArray[np.int64]] = []
        self._segments: list[tuple[int, int] | Work] = []
        self._late: defaultdict[Var, list[tuple[int, int, int]]] = defaultdict(list)
        for thread in range(self.count):
            pointers: list[View | int] = []
            entries: list[tuple[int, int]] = []
            for i, work in enumerate(self.items):
                if i in self._barriers:
                    entries.append((code[Barrier()], -1))
                if self.threads[i] != thread:
                    continue
                if isinstance(work.kernel, Eqn):
                    self._segments.append(work)
                    continue
                self._extend(len(entries))
                self._timers.append((i, thread, len(entries)))
                entries.append((code[work.kernel], len(pointers)))
                pointers += work.pointers
                if getattr(work.kernel, "scratch", 0):
                    pointers.append(int(self._scratch.ctypes.data) + thread * share)
                if getattr(work.kernel, "flag", False):
                    pointers.append(int(self._outside.ctypes.data))
            slots = np.zeros(max(len(pointers), 1), np.int64)
            base, meeting = slots.ctypes.data, self._meeting.ctypes.data
            table = [(f, meeting if at < 0 else base + 8 * at) for f, at in entries]
            self._tables.append(np.array(table, np.int64).reshape(-1, 2))
            self._times.append(np.zeros(len(entries), np.int64))
            self._slots.append(slots)
            for slot, pointer in enumerate(pointers):
                slots[slot] = self._address(pointer, thread, slot)
        steps = self._by_row()
        self._bumps = []
        for thread, slots in enumerate(self._slots):
            moving = [
                (slots.ctypes.data + 8 * slot, var.spec.nbytes)
                for var, places in self._late.items()
                for t, slot, _ in places
                if t == thread and var in steps
            ]
            self._bumps.append(np.array(moving, np.int64).reshape(-1, 2))

    def _by_row(self) -> set[Var]:
        """Memory of which each round gets another row."""
        inputs, carried = self.plan.graph.inputs, set(self.carried.values())
        outs = (v for i, v in enumerate(self.homes) if i not in carried)
        return {*(inputs[i] for i in self.rows), *outs, self.recorded}

    def _extend(self, entry: int) -> None:
        """One more entry for the native segment at hand, or the first of a new one."""
        if self._segments and isinstance(self._segments[-1], tuple):
            self._segments[-1] = (self._segments[-1][0], entry + 1)
        else:
            self._segments.append((entry, entry + 1))

    def _address(self, pointer: View | int, thread: int, slot: int) -> int:
        """Where a view begins; 0 if the call decides, which is noted."""
        if isinstance(pointer, int):
            return pointer
        root, shift = pointer.root, pointer.offset * pointer.root.spec.dtype.itemsize
        if root in self._constants:
            return int(self._constants[root].ctypes.data) + shift
        if root in self.arena:
            return self.arena.address(root) + shift
        if root in self._carry:
            return int(self._carry[root].ctypes.data) + shift
        self._late[root].append((thread, slot, shift))
        return 0

    @property
    def nanoseconds(self) -> dict[int, int]:
        """Time spent so far in each item that has a kernel, by its number; of a timed program."""
        return {i: int(self._times[thread][entry]) for i, thread, entry in self._timers}

    def forget_times(self) -> None:
        """Count nanoseconds from 0 again."""
        for times in self._times:
            times[:] = 0

    # --- runs

    def run(
        self, leaves: Sequence[Array], rounds: int = 1, observe: Observer | None = None
    ) -> tuple[list[Array], Array]:
        """Run rounds; after one whose last output is not finite none follows.

        Args:
            leaves: the inputs; of those in `rows`, arrays of `rounds` rows.
            rounds: at least 1.
            observe: called at each probe; for one round.

        Returns:
            The outputs: of those that are carried what the last round made, of others an array with
            a row per round. And what was measured: (rounds, bytes) uint8.
        """
        with self._lock:
            arrays = self._bind(leaves, rounds)
            for var, places in self._late.items():
                base = arrays[var].__array_interface__["data"][0]
                for thread, slot, shift in places:
                    self._slots[thread][slot] = base + shift
            fields = self._fields(arrays, rounds)
            if self.fallbacks:
                self._piecewise(arrays, rounds, fields[0])
            else:
                together(self._drive, [int(f.ctypes.data) for f in fields])
            if self._outside[0]:
                self._outside[0] = 0
                raise IndexError("an index is out of bounds: it must lie in [−n, n) for n rows")
            if observe is not None:
                for site, var in self.probes:
                    observe(site, self._array(var, arrays))
            outputs = [
                self._memory(home).copy() if home in self._carry else arrays[home]
                for home in self.homes
            ]
            return outputs, arrays[self.recorded]

    def _bind(self, leaves: Sequence[Array], rounds: int) -> dict[Var, Array]:
        """Arrays for the memory that is not the program's own."""
        arrays: dict[Var, Array] = {}
        for var, leaf in zip(self.plan.graph.inputs, leaves, strict=True):
            if var in self._carry:
                self._memory(var)[...] = leaf
            else:
                arrays[var] = np.require(leaf, var.spec.dtype, ("C", "A"))
        (size,) = self.recorded.spec.shape
        arrays[self.recorded] = aligned(rounds * size).reshape(rounds, size)
        carried = set(self.carried.values())
        for i, home in enumerate(self.homes):
            if home not in self._carry:
                lead = () if i in carried else (rounds,)
                arrays[home] = np.empty(lead + home.spec.shape, home.spec.dtype)
        return arrays

    def _memory(self, var: Var) -> Array:
        """Of what is carried."""
        return self._carry[var].view(var.spec.dtype).reshape(var.spec.shape)

    def _fields(self, arrays: Mapping[Var, Array], rounds: int) -> list[NDArray[np.int64]]:
        """What each thread is given."""
        self._meeting[[WAITING, MET]] = 0
        self._go = arrays[self.homes[-1]] if self.carried else np.zeros(rounds)
        return [
            np.array(
                [
                    *(table.ctypes.data, len(table), bumps.ctypes.data, len(bumps)),
                    *(rounds, self._go.ctypes.data, self._meeting.ctypes.data),
                    times.ctypes.data,
                ],
                np.int64,
            )
            for table, bumps, times in zip(self._tables, self._bumps, self._times, strict=True)
        ]

    def _piecewise(self, arrays: dict[Var, Array], rounds: int, fields: NDArray[np.int64]) -> None:
        """Native segments, and between them rules of the interpreter."""
        rows = self._by_row()
        table, slots = self._tables[0], self._slots[0]
        at = ((self._bumps[0][:, 0] - slots.ctypes.data) // 8).astype(np.intp)
        fields[[3, 4]] = 0, 1
        still = np.zeros(1)
        fields[5] = still.ctypes.data
        for number in range(rounds):
            now = {v: a[number, ...] if v in rows else a for v, a in arrays.items()}
            for segment in self._segments:
                if isinstance(segment, tuple):
                    first, last = segment
                    fields[[0, 1]] = table.ctypes.data + 16 * first, last - first
                    self._drive(int(fields.ctypes.data))
                else:
                    self._interpret(segment, now)
            np.add.at(slots, at, self._bumps[0][:, 1])
            if not np.isfinite(self._go[number]):
                return

    def _interpret(self, work: Work, arrays: Mapping[Var, Array]) -> None:
        eqn: Eqn = work.kernel
        reads = [self._elements(v, arrays) for v in work.reads]
        with np.errstate(all="ignore"):
            out = RULES[eqn.op].eval(*reads, **eqn.params)
        self._elements(work.writes[0], arrays)[...] = out

    def _array(self, var: Var, arrays: Mapping[Var, Array]) -> Array:
        return self._elements(self.views[var], arrays)

    def _elements(self, view: View, arrays: Mapping[Var, Array]) -> Array:
        root, dtype = view.root, view.root.spec.dtype
        if root in arrays:
            memory = arrays[root]
        elif root in self._carry:
            memory = self._memory(root)
        else:
            memory = self._constants[root] if root in self._constants else self.arena.array(root)
        flat = memory.reshape(-1)[view.offset :]
        strides = [s * dtype.itemsize for s in view.strides]
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides)


def _barriers(items: Sequence[Work], threads: Sequence[int]) -> set[int]:
    """Items before which all threads meet: at the start of a stage in which a thread needs what
    another wrote, or writes over what another read, since they last met."""
    met: set[int] = set()
    if len(set(threads)) < 2:
        return met
    read: defaultdict[Var, set[int]] = defaultdict(set)
    written: defaultdict[Var, set[int]] = defaultdict(set)
    for first, last in _stages(items):
        stage = range(first, last)
        for i in stage:
            mine = {threads[i]}
            behind = any(written[v.root] - mine for v in items[i].reads)
            if behind or any((written[v.root] | read[v.root]) - mine for v in items[i].writes):
                met.add(first)
                read.clear()
                written.clear()
                break
        for i in stage:
            for v in items[i].reads:
                read[v.root].add(threads[i])
            for v in items[i].writes:
                written[v.root].add(threads[i])
    return met


def _stages(items: Sequence[Work]) -> Iterator[tuple[int, int]]:
    first = 0
    for i in range(1, len(items) + 1):
        if i == len(items) or items[i].stage != items[first].stage:
            yield first, i
            first = i


class Native:
    """A plan as machine code; called as `isograd.backends.numpy.Executable` is.

    Args:
        plan: what to run.
        threads: how many may work at once.
    """

    def __init__(self, plan: Plan, threads: int = 1) -> None:
        self.plan = plan
        self.program = Program(plan, threads=threads)
        self.fallbacks = self.program.fallbacks

    def __call__(self, *args: Any, observe: Observer | None = None) -> Any:
        """Run the program: as `isograd.backends.numpy.Executable.__call__`."""
        graph = self.plan.graph
        leaves, _ = self.program.run(bind(graph, args), observe=observe)
        return unflatten(graph.out_tree, (leaf[0, ...] for leaf in leaves))


class Scan:
    """A step in rounds, as machine code; called as `isograd.backends.numpy.Scan` is.

    Args:
        plan: of the graph of `step(carry, fixed, each) -> (carry, out, go)`.
        threads, timed, measuring: as for `Program`.

    Raises:
        GraphError: the graph is another's.
    """

    def __init__(
        self,
        plan: Plan,
        threads: int = 1,
        *,
        timed: bool = False,
        measuring: Measuring | None = None,
    ) -> None:
        self.plan = plan
        self._form = form = Rounds.of(plan.graph)
        held, steady = len(form.carry), len(form.fixed)
        rows = range(held + steady, len(plan.graph.inputs))
        carried = {i: i for i in range(held)}
        self.program = Program(plan, carried, rows, threads, timed, measuring)
        self.fallbacks = self.program.fallbacks

    def __call__(
        self, carry: Any, fixed: Any, each: Any, observe: Observer | None = None
    ) -> tuple[Any, Any, int]:
        """Take rounds: as `isograd.backends.numpy.Scan.__call__`."""
        carried, out, applied, _ = self.measure(carry, fixed, each, observe)
        return carried, out, applied

    def measure(
        self, carry: Any, fixed: Any, each: Any, observe: Observer | None = None
    ) -> tuple[Any, Any, int, Array]:
        """Likewise, and what was measured: (rounds, bytes) uint8, for `program.records`."""
        form = self._form
        count, held, steady, rows = form.bind(carry, fixed, each)
        # What probes show is kept apart from the carry, and looked at after each round.
        size = 1 if self.program.probes else max(count, 1)
        parts, applied = [], 0
        for first in range(0, count, size):
            some = [row[first : first + size] for row in rows]
            held, outs, done = self._rounds(held, steady, some, observe)
            parts.append(outs)
            applied += done
            if done < len(some[0]):
                break
        specs = (*(var.spec for var in form.out), self.program.recorded.spec)
        empty = [np.empty((0, *spec.shape), spec.dtype) for spec in specs]
        *out, records = map(np.concatenate, zip(empty, *parts, strict=True))
        after = unflatten(form.carry_tree, map(np.asarray, held))
        return after, unflatten(form.out_tree, out), applied, records

    def _rounds(
        self, held: list[Array], steady: list[Array], rows: list[Array], observe: Observer | None
    ) -> tuple[list[Array], list[Array], int]:
        """Rounds in one go: the carry, what they gave with what was measured, how many count."""
        count, n = len(rows[0]), len(held)
        (*leaves, go), records = self.program.run([*held, *steady, *rows], count, observe)
        outs, bad = [*leaves[n:], records], ~np.isfinite(go)
        if not bad.any():
            return leaves[:n], outs, count
        # The last round has written over the carry: take those before it once more.
        applied = int(bad.argmax())
        if applied:
            again = [*held, *steady, *(row[:applied] for row in rows)]
            held = self.program.run(again, applied)[0][:n]
        return held, [array[: applied + 1] for array in outs], applied
