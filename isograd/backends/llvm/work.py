"""From a plan to pieces of work: which kernel does what, on which memory.

Equations that only show memory otherwise are no work. Elementwise equations of a group are one
loop; a matrix product that feeds a loop takes it in as its epilogue, full sums and maxima of what a
loop computes are taken by it. Parts of a concatenation are made in their place, and so is what an
output of the program asks for, where nobody reads any more what lay there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isograd.backends.llvm.blas import Product
from isograd.backends.llvm.elements import Operand
from isograd.backends.llvm.fused import Fused, step
from isograd.backends.llvm.gemm import gemm
from isograd.backends.llvm.kinds import single
from isograd.backends.llvm.maths import supports
from isograd.backends.llvm.measure import Interval, Measure
from isograd.backends.llvm.views import View, own, resolve, row_major
from isograd.engine.graph import ArraySpec, Eqn, Var
from isograd.engine.ops import RULES, Op
from isograd.engine.plan import Plan

Kernel = Any
"""A frozen dataclass with `build(module, name, width)`."""


@dataclass(frozen=True, slots=True)
class Work:
    """A kernel and what it reads and writes, or an equation that has none.

    Attributes:
        kernel: what runs; an `Eqn` is left to the rule of the reference interpreter.
        reads, writes: memory; a write may be in the place of a read.
        label: of its equations in the plan.
        stage: likewise.
    """

    kernel: Kernel
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    label: int
    stage: int

    @property
    def pointers(self) -> tuple[View, ...]:
        """What the kernel is given, in order."""
        read = set(self.reads)
        return (*self.reads, *(v for v in self.writes if v not in read))


@dataclass(slots=True, eq=False)
class _Draft:
    """Work in the making: elementwise equations, or one other."""

    eqns: list[Eqn]
    label: int
    stage: int
    loop: bool
    product: Eqn | None = None
    folds: list[Eqn] = field(default_factory=list)

    def every(self) -> Iterator[Eqn]:
        """All equations that it stands for."""
        if self.product is not None:
            yield self.product
        yield from self.eqns
        yield from self.folds


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is measured at the probes of a plan.

    Attributes:
        full: everything that a summary holds; else moments alone.
        active: by site, the interval outside of which values count as saturated.
    """

    full: bool
    active: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """Where the measurement of a probe is written.

    Attributes:
        site: of the probe; shards have a probe each of one site.
        measure: what is written.
        start: its first byte among those of a round.
    """

    site: str
    measure: Measure
    start: int


class Works:
    """The work of a plan.

    Args:
        plan: what is to be run.
        into: for each output of the graph the variable whose memory it is to be in: an input, or
            one of its own.
        kept: variables whose memory must hold them until the end.
        measuring: what is measured at probes; None is nothing.

    Attributes:
        items: in an order in which they can run.
        views: where each variable lies in the end.
        records: what is measured, and where in `recorded` it is written.
        recorded: bytes.
    """

    def __init__(
        self,
        plan: Plan,
        into: Sequence[Var],
        kept: Iterable[Var] = (),
        measuring: Measuring | None = None,
    ) -> None:
        self.plan, self.into, self._measuring = plan, into, measuring
        self._shown = resolve(plan.graph)
        self._wanted = {self._shown[v].root for v in (*kept, *plan.graph.outputs)}
        self._drafts = _drafts(plan, self._shown, measuring is not None)
        self.records = tuple(self._records())
        last = self.records[-1:]
        size = sum(r.start + _lines(r.measure.nbytes) for r in last)
        self.recorded = Var(ArraySpec((size,), np.dtype(np.uint8)))
        self._made = {e.output for d in self._drafts for e in d.every()}
        _take_folds(self._drafts)
        self._readers = self._read_by()
        self._take_products()
        self._readers = self._read_by()
        self._moved = self._joined()
        claims = self._claims()
        while True:
            self._moved |= {o: (d, 0) for o, d in claims.items()}
            self.views = {v: self._placed(view) for v, view in self._shown.items()}
            self.items = [*self._items(), *self._copies(claims)]
            spoilt = [o for o, d in claims.items() if not self._sound(d)]
            if not spoilt:
                return
            for o in spoilt:
                del claims[o], self._moved[o]

    # --- what becomes of equations

    def _read_by(self) -> dict[Var, list[_Draft]]:
        readers: dict[Var, list[_Draft]] = defaultdict(list)
        for draft in self._drafts:
            for eqn in draft.every():
                for var in eqn.inputs:
                    root = self._shown[var].root
                    if draft not in readers[root][-1:]:
                        readers[root].append(draft)
        return readers

    def _take_products(self) -> None:
        """Let each product run in the loop that reads it first, where a kernel can do so."""
        place = {id(d): i for i, d in enumerate(self._drafts)}
        for draft in list(self._drafts):
            (eqn, *_) = draft.eqns
            if eqn.op is not Op.MATMUL or draft.loop or len(eqn.output.spec.shape) != 2:
                continue
            readers = self._readers[eqn.output]
            if not readers:
                continue
            first = min(readers, key=lambda d: place[id(d)])
            if not first.loop or first.product or first.folds or first.label != draft.label:
                continue
            out = self._shown[eqn.output]
            seen = [
                self._shown[v]
                for e in first.eqns
                for v in e.inputs
                if self._shown[v].root is eqn.output
            ]
            if any(view != out for view in seen):
                continue
            first.product = eqn
            self.views = self._shown
            if isinstance(self._loop(first), Work):
                self._drafts.remove(draft)
            else:
                first.product = None

    def _joined(self) -> dict[Var, tuple[Var, int]]:
        """Roots that can be made within a concatenation: where, and from which element on."""
        moved: dict[Var, tuple[Var, int]] = {}
        for draft in reversed(self._drafts):
            eqn = draft.eqns[0]
            if eqn.op is not Op.CONCATENATE:
                continue
            axis, start = eqn.params["axis"], 0
            step = row_major(eqn.output.spec.shape)[axis]
            flat = all(n == 1 for n in eqn.output.spec.shape[:axis])
            for var in eqn.inputs:
                view = self._shown[var]
                root = view.root
                whole = view.contiguous and view.offset == 0 and var.spec.size == root.spec.size
                if flat and whole and root in self._made and root not in moved:
                    moved[root] = (eqn.output, start * step)
                start += var.spec.shape[axis]
        return moved

    def _claims(self) -> dict[Var, Var]:
        """Outputs that may be made where they are wanted."""
        claims: dict[Var, Var] = {}
        for var, home in zip(self.plan.graph.outputs, self.into, strict=True):
            own_memory = self._shown[var].root is var and var in self._made
            if own_memory and var not in self._moved and var not in claims:
                claims[var] = home
        return claims

    def _placed(self, view: View) -> View:
        root, offset = view.root, view.offset
        while root in self._moved:
            root, shift = self._moved[root]
            offset += shift
        return View(root, offset, view.shape, view.strides)

    def _sound(self, home: Var) -> bool:
        """Whether nothing reads an input's memory after something else was written there."""
        if home not in self.plan.graph.inputs:
            return True
        writers = [(i, w) for i, w in enumerate(self.items) for v in w.writes if v.root is home]
        for j, reader in enumerate(self.items):
            for view in reader.reads:
                if view.root is not home:
                    continue
                for i, writer in writers:
                    if writer is reader:
                        fused = isinstance(reader.kernel, Fused) and view in reader.writes
                        safe = fused or not any(view.overlaps(w) for w in reader.writes)
                    elif not any(view.overlaps(w) for w in writer.writes):
                        safe = True
                    else:
                        safe = j < i and (
                            reader.label == writer.label or reader.stage < writer.stage
                        )
                    if not safe:
                        return False
        return True

    def _records(self) -> Iterator[Record]:
        """One after another, each on cache lines of its own."""
        start = 0
        for draft in self._drafts:
            eqn = draft.eqns[0]
            if eqn.op is Op.PROBE and self._measuring is not None:
                site = eqn.params["site"]
                var, active = eqn.inputs[0], self._measuring.active.get(site)
                read = operand(var, self._shown[var])
                record = Record(site, Measure(read, active, self._measuring.full), start)
                yield record
                start += _lines(record.measure.nbytes)

    # --- work

    def _items(self) -> Iterator[Work]:
        records = iter(self.records)
        for draft in self._drafts:
            if draft.eqns[0].op is Op.PROBE:
                record = next(records)
                read = self.views[draft.eqns[0].inputs[0]]
                place = View(self.recorded, record.start, (record.measure.nbytes,), (1,))
                yield Work(record.measure, (read,), (place,), draft.label, draft.stage)
            elif draft.loop:
                work = self._loop(draft)
                if work is None:
                    for eqn in draft.every():
                        yield self._alone(eqn, draft)
                elif work.writes:
                    yield work
            elif draft.eqns[0].op is Op.CONCATENATE:
                yield from self._parts(draft)
            else:
                yield self._alone(draft.eqns[0], draft)

    def _alone(self, eqn: Eqn, draft: _Draft) -> Work:
        """An equation by itself."""
        reads = tuple(self.views[v] for v in eqn.inputs)
        writes = (self.views[eqn.output],)
        kernel = single(eqn, reads, writes[0])
        return Work(kernel or eqn, reads, writes, draft.label, draft.stage)

    def _parts(self, draft: _Draft) -> Iterator[Work]:
        """A copy for each part of a concatenation that is not made in its place."""
        (eqn,) = draft.eqns
        out, start = self.views[eqn.output], 0
        axis = eqn.params["axis"]
        for var in eqn.inputs:
            view = self.views[var]
            place = View(out.root, out.offset + start * out.strides[axis], view.shape, out.strides)
            start += view.shape[axis]
            if var.spec.size and view != place.plain():
                yield copy(view, place.plain(), var, draft.label, draft.stage)

    def _loop(self, draft: _Draft) -> Work | None:
        """A loop, or a product that ends in one; None where there is no kernel for that."""
        for e in draft.eqns:
            if not supports(e.op, [v.spec.name for v in e.inputs], e.output.spec.name):
                return None
        product = draft.product
        numbers: dict[Var, int] = {}
        seen: dict[View, int] = {}
        reads: list[View] = []
        operands: list[Operand] = []

        def number(var: Var) -> int:
            if var not in numbers:
                view = self.views[var]
                if view not in seen:
                    seen[view] = len(reads)
                    reads.append(view)
                    operands.append(operand(var, view))
                numbers[var] = seen[view]
            return numbers[var]

        if product is not None:
            number(product.output)
        inside = {e.output for e in draft.eqns}
        for e in draft.eqns:
            for v in e.inputs:
                if v not in inside:
                    number(v)
        steps = []
        count = len(reads)
        for e in draft.eqns:
            if self._shown[e.output].root is not e.output:
                numbers[e.output] = number(e.inputs[0])
                continue
            steps.append(step(e, tuple(number(v) for v in e.inputs)))
            numbers[e.output] = count
            count += 1
        made = [e.output for e in draft.eqns if self._shown[e.output].root is e.output]
        made += [product.output] if product is not None else []
        out = [v for v in made if self._needed(v, draft)]
        writes = [self.views[v] for v in out]
        places = tuple(reads.index(w) if w in seen else -1 for w in writes)
        kernel: Kernel = Fused(
            tuple(operands),
            tuple(operand(v, w) for v, w in zip(out, writes, strict=True)),
            tuple(steps),
            tuple(numbers[v] for v in out),
            places if max(places, default=-1) >= 0 else (),
            tuple((e.op, numbers[e.inputs[0]]) for e in draft.folds),
        )
        writes += [self.views[e.output] for e in draft.folds]
        if product is not None:
            left, right = (self.views[v] for v in product.inputs)
            kernel = gemm(product.output.spec.name, left, right, kernel)
            if kernel is None or isinstance(kernel, Product):
                return None
            reads = [left, right, *reads[1:]]
        return Work(kernel, tuple(reads), tuple(writes), draft.label, draft.stage)

    def _needed(self, var: Var, draft: _Draft) -> bool:
        """Whether somebody else than the loop reads what it computes."""
        others = any(d is not draft for d in self._readers.get(var, ()))
        return others or var in self._wanted

    def _copies(self, claims: Mapping[Var, Var]) -> Iterator[Work]:
        """Outputs that could not be made where they are wanted; by way of memory of their own
        where an output would be written over before it is read."""
        stage = 1 + max((d.stage for d in self._drafts), default=0)
        late: list[Work] = []
        homes = set(self.into)
        for var, home in zip(self.plan.graph.outputs, self.into, strict=True):
            view, place = self.views[var], own(home)
            if claims.get(var) is home or view == place or not var.spec.size:
                continue
            if view.root in homes:
                between = own(Var(var.spec))
                yield copy(view, between, var, -1, stage)
                view = between
            late.append(copy(view, place, var, -1, stage + 1))
        yield from late


def _lines(nbytes: int) -> int:
    """Bytes of the cache lines that hold so many."""
    return -(-nbytes // 64) * 64


def _drafts(plan: Plan, views: Mapping[Var, View], probes: bool) -> list[_Draft]:
    """One for each group that makes something; and, if so asked, for each probe."""
    eqns, drafts = plan.graph.eqns, []
    for (start, stop), label, stage in zip(plan.groups, plan.labels, plan.stages, strict=True):
        group = list(eqns[start:stop])
        made = any(views[e.output].root is e.output and e.output.spec.size for e in group)
        if made or (probes and group[0].op is Op.PROBE and group[0].output.spec.size):
            drafts.append(_Draft(group, label, stage, RULES[group[0].op].elementwise))
    return drafts


def _take_folds(drafts: list[_Draft]) -> None:
    """Let sums and maxima over all of what a loop computes be taken by it."""
    maker = {e.output: d for d in drafts if d.loop for e in d.eqns}
    for draft in list(drafts):
        eqn = draft.eqns[0]
        if eqn.op not in (Op.SUM, Op.REDUCE_MAX) or eqn.output.spec.size != 1:
            continue
        (x,) = eqn.inputs
        loop = maker.get(x)
        fits = loop is not None and loop.label == draft.label and x.spec.dtype.kind == "f"
        if loop is not None and fits and x.spec.size > 1:
            loop.folds.append(eqn)
            drafts.remove(draft)


def operand(var: Var, view: View) -> Operand:
    """What a kernel knows of a view."""
    return Operand(var.spec.name, view.shape, view.strides)


def copy(view: View, place: View, var: Var, label: int, stage: int) -> Work:
    """The elements of a view, put into another."""
    kernel = Fused((operand(var, view),), (operand(var, place),), (), (0,))
    return Work(kernel, (view,), (place,), label, stage)
