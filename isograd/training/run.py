"""Runs that are kept in folders: trained, interrupted, and gone on with."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import msgspec

from isograd.backends.select import choose
from isograd.errors import DataError, RunError
from isograd.nn.losses import constant_loss
from isograd.nn.spec import Spec
from isograd.nn.toml import dumps, loads
from isograd.telemetry.records import Record
from isograd.telemetry.rows import damaged
from isograd.telemetry.store import Store
from isograd.training import sealed
from isograd.training.data import Preparation, Split
from isograd.training.files import PARTIAL, sync_folder, write_whole
from isograd.training.folder import (
    CHECKPOINT,
    LOCK,
    RESULT,
    SPEC,
    STORE,
    WEIGHTS,
    Result,
    StoredRun,
    open_run,
    writing,
)
from isograd.training.loop import CHUNK_SECONDS, Outcome, Progress, fit
from isograd.training.start import load_split, prepare
from isograd.training.state import State, dump, restore

CHECKPOINT_SECONDS = 30.0
"""From one checkpoint to the next; more where writing one takes over a twentieth of that."""


def train(
    spec: Spec,
    text: str,
    split: Split,
    folder: Path,
    *,
    base: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    backend: str | None = None,
    threads: int | None = None,
) -> Outcome:
    """Train, and keep everything in a folder.

    Args:
        spec: what to train; `text` the TOML that says so, kept as it is.
        split: the data.
        folder: made by this call.
        base: the folder that relative data paths start from; None is the current one.
        progress: told after each chunk of steps.
        checkpoint_seconds: from one checkpoint to the next; 0 makes one after each step.
        backend, threads: as for `fit`.

    Returns:
        What `fit` returns. Ctrl-C ends the run early; all that was measured is kept, and `resume`
        goes on.

    Raises:
        RunError: if the folder exists or cannot be written, or the disk is full; what was kept up
            to then stays whole.
        SpecError, TheoryError: as `fit`, and no folder is made.
    """
    state = prepare(spec, split).state
    ran = choose(backend), threads
    keeper = _Keeper(folder, spec, split.digest(), state, ran, checkpoint_seconds)
    _make(keeper, text, split, (base or Path()).absolute())
    with keeper.going_on(), _alone(folder):
        return _train(keeper, split, (), progress)


def resume(
    folder: Path,
    *,
    split: Split | None = None,
    base: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    backend: str | None = None,
    threads: int | None = None,
) -> Outcome:
    """Go on with a run that was interrupted, from its checkpoint.

    It ends with the same bits as if it had never been interrupted, on the same machine with the
    same versions of the libraries, the same backend and the same number of threads.

    Args:
        folder: of the run.
        split: the data, where the spec says "arrays"; None loads those of the spec.
        base, progress, checkpoint_seconds: as for `train`; base None is that of the run.
        backend, threads: likewise; None takes what the run began with.

    Raises:
        RunError: the run has ended, another process trains it, or a file of it is damaged.
        DataError: the data are no longer those that it began with.
    """
    _require_unfinished(open_run(folder))
    with _alone(folder):  # what was read before that, another process may have changed
        stored = open_run(folder)
        _require_unfinished(stored)
        if split is None:
            split = load_split(stored.spec, base or stored.base)
        state, (began_with, as_many) = _checkpointed(stored, split)
        records = stored.telemetry.records[: state.step]
        if len(records) < state.step:
            came = f"{len(records)} steps, and the checkpoint is at step {state.step}"
            raise damaged(came, str(folder / STORE))
        ran = choose(backend or began_with), threads or as_many
        keeper = _Keeper(folder, stored.spec, split.digest(), state, ran, checkpoint_seconds)
        with keeper.going_on():
            return _train(keeper, split, records, progress)


def _require_unfinished(stored: StoredRun) -> None:
    """A run has ended once its checkpoint is gone; a kill may come between its result and that."""
    if stored.stopped in ("unfinished", "interrupted") or (stored.path / CHECKPOINT).exists():
        return
    raise RunError(
        "a run to resume must have been interrupted",
        came=f"one that has ended: {stored.stopped}",
        where=str(stored.path),
        fix="train anew, with other epochs in the spec",
    )


def _checkpointed(stored: StoredRun, split: Split) -> tuple[State, tuple[str, int | None]]:
    """The state in a run's checkpoint, which must be of the spec and the data at hand.

    And what ran its steps: backend, and number of threads.
    """
    spec, path = stored.spec, stored.path / CHECKPOINT
    arrays, facts = sealed.read(path, "checkpoint")
    if loads(facts["spec"], anywhere=True) != spec:
        raise RunError(
            "a checkpoint must be of the spec beside it",
            came=f"another spec in {SPEC} than the one that was trained",
            where=str(path),
            fix=f"undo the changes of {SPEC}, or train anew",
        )
    if split.digest() != facts["data"]:
        raise DataError(
            "the data must be those that the run began with",
            came="other values, rows or columns",
            where=spec.data.source,
            fix="restore the data, or train anew",
        )
    try:
        state = restore(arrays, facts["state"], prepare(spec, split).state)
    except RunError as error:
        raise error.at(str(path)) from None
    # Where no backend is said, there was but one.
    return state, (facts.get("backend", "numpy"), facts.get("threads"))


def _make(keeper: _Keeper, text: str, split: Split, base: Path) -> None:
    """A run's folder, which is there whole or not at all."""
    folder, spec = keeper.folder, keeper.spec
    if folder.exists():
        raise _not_new(folder)
    facts = {
        "rows": len(split.X_train),
        "n_in": split.X_train.shape[1],
        "constant": constant_loss(spec.network.loss, split.y_train),
        "base": str(base),
        "spec": dumps(spec),
    }
    made = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made.mkdir()
            with Store.create(made / STORE) as store:
                for name, value in facts.items():
                    store.set_meta(name, json.dumps(value))
            write_whole(made / SPEC, text.encode())
            write_whole(made / CHECKPOINT, keeper.checkpoint())
            _rename_new(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _rename_new(made: Path, folder: Path) -> None:
    """Rename a folder to a name that is free, also if another process wants it too."""
    if folder.exists():  # an empty folder would be replaced
        raise _not_new(folder)
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _not_new(folder) from None
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """For the block, no other process trains the run."""
    must, fix = "only one process may train a run", "wait for it, or train into another folder"
    with writing(folder), sealed.locked(folder / LOCK, must, fix):
        yield


def _train(
    keeper: _Keeper,
    split: Split,
    records: Sequence[Record],
    progress: Callable[[Progress], None] | None,
) -> Outcome:
    """Train from a state on, keeping telemetry and checkpoints; then weights and result."""
    folder, state = keeper.folder, keeper.state
    with writing(folder):
        sync_folder(folder.parent)
        (folder / RESULT).unlink(missing_ok=True)
        with Store.resume(folder / STORE, state.step) as store:
            keeper.store = store
            try:
                outcome = fit(
                    keeper.spec,
                    split,
                    sink=store.write,
                    note=store.set_meta,
                    keep=keeper,
                    progress=progress,
                    state=state,
                    records=records,
                    backend=keeper.backend,
                    threads=keeper.threads,
                    chunk_seconds=min(CHUNK_SECONDS, keeper.seconds),
                )
            except KeyboardInterrupt:  # a second one, while scores were taken
                keeper.stop(keeper.state)
                raise
            if outcome.stopped == "interrupted":
                keeper.stop(outcome.state)
            store.commit()
            _finish(folder, outcome, split.preparation)
    return outcome


class _Keeper:
    """Writes a run's checkpoints: told the state after each chunk of steps."""

    store: Store

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        data: str,
        state: State,
        ran: tuple[str, int | None],
        seconds: float,
    ) -> None:
        self.folder, self.spec, self.data = folder, spec, data
        self.backend, self.threads = ran
        self.state, self.saved, self.seconds = state, state.step, seconds
        self.due = time.monotonic() + seconds

    def __call__(self, state: State) -> None:
        self.state = state
        if time.monotonic() >= self.due:
            self.save()

    def stop(self, state: State) -> None:
        """Write one of the last whole chunk; nothing is kept of one that was begun after it."""
        self.store.cut(state.step)
        self.state = state
        self.save()

    def save(self) -> None:
        """Write one; what was measured before it is on the disk before it."""
        began = time.monotonic()
        self.store.commit()
        write_whole(self.folder / CHECKPOINT, self.checkpoint())
        self.saved = self.state.step
        cost = time.monotonic() - began
        self.due = began + (max(self.seconds, 20.0 * cost) if self.seconds else 0.0)

    def checkpoint(self) -> bytes:
        """The content of one."""
        arrays, facts = dump(self.state)
        facts = {"spec": dumps(self.spec), "data": self.data, "state": facts}
        facts |= {"backend": self.backend, "threads": self.threads}
        return sealed.pack("checkpoint", arrays, facts)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Errors in the block say how to go on with the run, too."""
        try:
            yield
        except RunError as error:
            again = f"`isograd resume {self.folder}` goes on from step {self.saved}"
            fix = f"{error.fix}; then {again}" if error.fix else again
            raise RunError(error.must, came=error.came, where=error.where, fix=fix) from error


def _finish(folder: Path, outcome: Outcome, preparation: Preparation) -> None:
    """Write weights and result; a run that has ended by itself needs its checkpoint no longer."""
    result: Result = {
        "stopped": outcome.stopped,
        "steps": len(outcome.telemetry.records),
        "skipped": outcome.skipped,
        "seconds": outcome.seconds,
        "backend": outcome.backend,
        "metric": outcome.metric,
        "train": asdict(outcome.train),
        "test": asdict(outcome.test),
        "validation": asdict(outcome.validation) if outcome.validation else None,
    }
    facts = {
        "spec": (folder / SPEC).read_bytes().decode("utf-8-sig"),
        "n_in": outcome.model.n_in,
        "n_out": outcome.model.n_out,
        "preparation": msgspec.to_builtins(preparation),
    }
    write_whole(folder / WEIGHTS, sealed.pack("weights", outcome.params, facts))
    write_whole(folder / RESULT, msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    if outcome.stopped != "interrupted":
        (folder / CHECKPOINT).unlink(missing_ok=True)
        (folder / (CHECKPOINT + PARTIAL)).unlink(missing_ok=True)  # of a process that was killed


def _not_new(folder: Path) -> RunError:
    return RunError(
        "a run's folder must be new",
        came=f"{folder} exists",
        fix="give another --out, or leave it out for the next free name",
    )
