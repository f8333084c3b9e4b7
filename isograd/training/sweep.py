"""Phase diagrams: a network trained for every pair of values of two settings.

Each cell is an edited spec, trained for a budget of steps in one thread; cells run side by side,
the largest first, and their results do not depend on how many do. A cell that diverges, or that
theory or memory refuses, is a result.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool
from msgspec.structs import replace
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from isograd.backends.select import Backend, choose
from isograd.errors import IsogradError, RunError, SpecError
from isograd.nn.activations import Formula
from isograd.nn.define import defined, enter
from isograd.nn.places import extent
from isograd.nn.settings import Setting, setting
from isograd.nn.spec import DEFAULT_BATCH_SIZE, Measure, Spec
from isograd.nn.toml import dumps
from isograd.training.axes import Axis, X, Y, axis, text_of
from isograd.training.cells import Cell, kept
from isograd.training.data import Split
from isograd.training.loop import fit
from isograd.training.scores import Score
from isograd.training.start import load_split, model_for

STEPS = 200
"""Of each cell, where nothing is said: the budget of Schoenholz et al. 2017, fig. 5 (left)."""


@dataclass(frozen=True)
class Plan:
    """What a map trains: its cells are known before the first is trained.

    Attributes:
        spec: what is edited.
        x, y: the axes.
        settings: what they set: that of x, and that of y.
        specs: of every cell, by column and row.
        steps: of each cell, at most.
    """

    spec: Spec
    x: Axis
    y: Axis
    settings: tuple[Setting, Setting]
    specs: Mapping[tuple[int, int], Spec] = field(repr=False)
    steps: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What the edits do beside setting the values."""
        return tuple(dict.fromkeys(s.note for s in self.settings if s.note))


def plan(
    spec: Spec,
    x: Axis | str = X,
    y: Axis | str = Y,
    *,
    steps: int = STEPS,
    where: str = "",
) -> Plan:
    """The cells of a map, each a valid spec.

    Args:
        spec, x, y, steps: as for `sweep`.
        where: what to call the spec in errors, usually the path of its file.

    Raises:
        SpecError: a setting that the spec does not have, or a value that is none for it.
    """
    if steps < 1:
        raise SpecError("a map must train its cells", came=f"{steps} steps", fix="give 1 or more")
    names = [a.name if isinstance(a, Axis) else a.partition("=")[0].strip() for a in (x, y)]
    first, second = (setting(spec, name, where=where) for name in names)
    if first.name == second.name:
        raise SpecError(
            "the axes of a map must be two settings",
            came=f"{first.name} twice",
            where=where,
            fix="name another one for --y",
        )
    x, y = (
        a if isinstance(a, Axis) else axis(a, whole=each.whole)
        for a, each in ((x, first), (y, second))
    )
    specs = {}
    for i, value in enumerate(x.values):
        edited = first.edit(spec, value)
        for j, other in enumerate(y.values):
            specs[i, j] = second.edit(edited, other)
    if len(x.values) > 1 and specs[0, 0] == specs[1, 0]:
        raise SpecError(
            "the axes of a map must be two settings",
            came=f"{first.name} and {second.name}, which set the same",
            where=where,
            fix="name another one for --y",
        )
    return Plan(spec, x, y, (first, second), specs, steps)


@dataclass(frozen=True)
class Map:
    """A phase diagram.

    Attributes:
        plan: what was trained.
        cells: what came of it, by column and row; after an interrupt not all.
        metric: what an accuracy is: "accuracy" or "R²".
        interrupted: whether Ctrl-C ended it.
    """

    plan: Plan
    cells: Mapping[tuple[int, int], Cell]
    metric: str
    interrupted: bool = False

    def array(self, of: Callable[[Cell], float]) -> NDArray[np.float64]:
        """(rows, columns) a number of every cell, such as `lambda c: c.train.loss`; NaN if none."""
        out = np.full((len(self.plan.y.values), len(self.plan.x.values)), math.nan)
        for (i, j), cell in self.cells.items():
            out[j, i] = of(cell)
        return out

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(rows, columns) accuracy on the training part."""
        return self.array(lambda cell: cell.train.accuracy)


def sweep(
    spec: Spec,
    x: Axis | str = X,
    y: Axis | str = Y,
    *,
    steps: int = STEPS,
    split: Split | None = None,
    base: Path | None = None,
    folder: str | Path | None = None,
    jobs: int = -1,
    backend: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    where: str = "",
) -> Map:
    """Train a network for every pair of values of two settings.

    Cells run in parallel by joblib: under `joblib.parallel_config(backend="dask")`, or "ray", on a
    cluster. Each has one thread. The same spec, data and backend give the same bits, however many
    cells run side by side.

    Args:
        spec: what is edited and trained.
        x, y: two settings and their values, as an `Axis` or as text: "sigma_w=1:2:11",
            "depth=4,8,16", "optimiser.lr=1e-4:1:9:log".
        steps: of each cell, if the epochs of the spec do not end before.
        split: the data; None loads those of each cell's spec.
        base: the folder that relative data paths start from; None is the current one.
        folder: keeps the cells; one of the same map is gone on with. None keeps nothing.
        jobs: processes; −1 takes one per core, or all that a cluster has.
        backend: "native" or "numpy"; None takes the default.
        progress: told (cells done, cells in all, what the last one came to).
        where: what to call the spec in errors, usually the path of its file.

    Returns:
        The map. Cells that diverge, and those that theory or memory refuses, are results; Ctrl-C
        ends it with the cells that are done.

    Raises:
        SpecError: a setting that the spec does not have, a value that is none for it, or a network
            that does not fit the data. Nothing is trained then.
        RunError: the folder is that of another map, cannot be written, or is written to by another
            process; or a worker process was killed.

    References:
        Schoenholz et al. 2017, fig. 5.
    """
    chosen = plan(spec, x, y, steps=steps, where=where)
    ran = choose(backend)
    splits = _Splits(split, base)
    first = splits.of(spec)
    model_for(spec, first)  # what cannot be trained at all is no map
    metric = "R²" if first.task == "regression" else "accuracy"
    if folder is None:
        done: dict[tuple[int, int], Cell] = {}
        interrupted = _train(chosen, splits, done, done.__setitem__, jobs, ran, progress)
        return Map(chosen, done, metric, interrupted)
    about = {
        "spec": dumps(spec),
        "x": {"name": chosen.settings[0].name, "values": chosen.x.values},
        "y": {"name": chosen.settings[1].name, "values": chosen.y.values},
        "steps": steps,
        "backend": ran,
        "data": first.digest(),
    }
    with kept(Path(folder), about) as cells:
        interrupted = _train(
            chosen, splits, cells.done, lambda _, cell: cells.add(cell), jobs, ran, progress
        )
        return Map(chosen, dict(cells.done), metric, interrupted)


def _train(
    chosen: Plan,
    splits: _Splits,
    done: Mapping[tuple[int, int], Cell],
    keep: Callable[[tuple[int, int], Cell], None],
    jobs: int,
    backend: Backend,
    progress: Callable[[int, int, str], None] | None,
) -> bool:
    """Train the cells that are not done; whether Ctrl-C ended it."""
    todo = [place for place in chosen.specs if place not in done]
    todo.sort(key=lambda place: _work(chosen.specs[place]), reverse=True)
    if progress is not None:
        progress(len(done), len(chosen.specs), "")
    if not todo:
        return False
    activations = defined()
    data = [splits.of(chosen.specs[place]) for place in todo]
    results = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(
        delayed(_cell)(
            *(place, msgspec.to_builtins(chosen.specs[place]), activations),
            *(split, chosen.steps, backend),
        )
        for place, split in zip(todo, data, strict=True)
    )
    try:
        for cell in results:
            if cell is None:  # it has caught Ctrl-C for itself
                raise KeyboardInterrupt
            keep((cell.column, cell.row), cell)
            if progress is not None:
                progress(len(done), len(chosen.specs), _told(chosen, cell))
    except KeyboardInterrupt:
        return True
    except BrokenProcessPool as error:
        raise RunError(
            "the processes that train cells must stay alive",
            came=str(error).partition("\n")[0],
            fix="fewer of them take less memory: --jobs 1; the same command with its --out goes on",
        ) from None
    finally:
        with warnings.catch_warnings():  # joblib warns of the cells that it cancels
            warnings.simplefilter("ignore", UserWarning)
            results.close()
    return False


def _leave_ctrl_c_to_the_parent() -> None:
    """A terminal sends Ctrl-C to workers too; the parent ends them, whatever they are doing."""
    worker = multiprocessing.parent_process() is not None
    if worker and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(spec: Spec) -> int:
    """How much a step of a cell takes, about: weights times rows."""
    layers = spec.network.layers
    return extent(layers).at(1)[0] * spec.batch_size_for(DEFAULT_BATCH_SIZE)


def _told(chosen: Plan, cell: Cell) -> str:
    x, y = chosen.x.values[cell.column], chosen.y.values[cell.row]
    came = f"{cell.train.accuracy:.0%}" if cell.stopped == "finished" else cell.stopped
    return f"{chosen.x.name} {text_of(x)}, {chosen.y.name} {text_of(y)}: {came}"


class _Splits:
    """The data of specs, each set loaded once."""

    def __init__(self, split: Split | None, base: Path | None) -> None:
        self._given, self._base = split, base
        self._loaded: dict[bytes, Split] = {}

    def of(self, spec: Spec) -> Split:
        if self._given is not None:
            return self._given
        key = msgspec.json.encode((spec.data, spec.network.loss, spec.seed, spec.dtype))
        if key not in self._loaded:
            self._loaded[key] = load_split(spec, self._base)
        return self._loaded[key]


def _cell(
    place: tuple[int, int],
    plain: Any,
    activations: Mapping[str, Formula],
    split: Split,
    steps: int,
    backend: Backend,
) -> Cell | None:
    """Train one cell in one thread; None if it was interrupted.

    The spec comes as plain data: a worker process must know the activations that the program has
    defined before it can read one that names them.
    """
    enter(activations)
    _leave_ctrl_c_to_the_parent()
    spec = replace(msgspec.convert(plain, Spec), measure=Measure(every=0, first=0))
    try:
        with threadpool_limits(1):  # sums of BLAS depend on how many threads share them
            outcome = fit(spec, split, steps=steps, backend=backend, threads=1)
    except IsogradError as error:
        none = Score(math.nan, math.nan)
        return Cell(*place, "refused", none, none, reason=str(error))
    if outcome.stopped == "interrupted":
        return None
    return Cell(
        *place,
        outcome.stopped,
        outcome.train,
        outcome.test,
        steps=len(outcome.telemetry.records),
        skipped=outcome.skipped,
        seconds=outcome.seconds,
    )


__all__ = ["STEPS", "Axis", "Cell", "Map", "Plan", "plan", "sweep"]
