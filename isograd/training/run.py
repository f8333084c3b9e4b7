"""Runs that are kept in folders: trained, interrupted, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from isograd.errors import DataError, RunError
from isograd.nn.losses import constant_loss
from isograd.nn.spec import Spec
from isograd.nn.toml import dumps, loads
from isograd.telemetry.records import Record
from isograd.telemetry.rows import damaged
from isograd.telemetry.store import Store
from isograd.training import sealed
from isograd.training.data import Preparation, Split
from isograd.training.files import sync_folder, write_whole
from isograd.training.folder import (
    CHECKPOINT,
    LOCK,
    RESULT,
    SPEC,
    STORE,
    WEIGHTS,
    Result,
    open_run,
    writing,
)
from isograd.training.loop import Outcome, Progress, fit
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
) -> Outcome:
    """Train, and keep everything in a folder.

    Args:
        spec: what to train; `text` the TOML that says so, kept as it is.
        split: the data.
        folder: made by this call.
        base: the folder that relative data paths start from; None is the current one.
        progress: told after each step.
        checkpoint_seconds: from one checkpoint to the next; 0 makes one after each step.

    Returns:
        What `fit` returns. Ctrl-C ends the run early; all that was measured is kept, and `resume`
        goes on.

    Raises:
        RunError: if the folder exists or cannot be written, or the disk is full; what was kept up
            to then stays whole.
        SpecError, TheoryError: as `fit`, and no folder is made.
    """
    state = prepare(spec, split).state
    _make(folder, spec, text, split, state, (base or Path()).absolute())
    return _train(folder, spec, split, state, (), progress, checkpoint_seconds)


def resume(
    folder: Path,
    *,
    split: Split | None = None,
    base: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Outcome:
    """Go on with a run that was interrupted, from its checkpoint.

    It ends with the same bits as if it had never been interrupted, on the same machine with the
    same versions of the libraries.

    Args:
        folder: of the run.
        split: the data, where the spec says "arrays"; None loads those of the spec.
        base, progress, checkpoint_seconds: as for `train`; base None is that of the run.

    Raises:
        RunError: the run has ended, another process trains it, or a file of it is damaged.
        DataError: the data are no longer those that it began with.
    """
    stored = open_run(folder)
    spec = stored.spec
    if stored.stopped not in ("unfinished", "interrupted"):
        raise RunError(
            "a run to resume must have been interrupted",
            came=f"one that has ended: {stored.stopped}",
            where=str(folder),
            fix="train anew, with other epochs in the spec",
        )
    with writing(folder):
        arrays, facts = sealed.read(folder / CHECKPOINT, "checkpoint")
    if loads(facts["spec"], anywhere=True) != spec:
        raise RunError(
            "a checkpoint must be of the spec beside it",
            came=f"another spec in {SPEC} than the one that was trained",
            where=str(folder / CHECKPOINT),
            fix=f"undo the changes of {SPEC}, or train anew",
        )
    split = load_split(spec, base or stored.base) if split is None else split
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
        raise error.at(str(folder / CHECKPOINT)) from None
    records = tuple(r for r in stored.telemetry.records if r.step < state.step)
    if len(records) < state.step:
        came = f"{len(records)} steps, and the checkpoint is at step {state.step}"
        raise damaged(came, str(folder / STORE))
    return _train(folder, spec, split, state, records, progress, checkpoint_seconds)


def _make(folder: Path, spec: Spec, text: str, split: Split, state: State, base: Path) -> None:
    """A run's folder, which is there whole or not at all."""
    if folder.exists():
        raise _not_new(folder)
    facts = {
        "rows": len(split.X_train),
        "n_in": split.X_train.shape[1],
        "constant": constant_loss(spec.network.loss, split.y_train),
        "base": str(base),
        "spec": dumps(spec),
    }
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with writing(folder):
            made.chmod(0o777 & ~_umask())
            with Store.create(made / STORE) as store:
                for name, value in facts.items():
                    store.set_meta(name, json.dumps(value))
            (made / SPEC).write_bytes(text.encode())
            write_whole(made / CHECKPOINT, _checkpoint(spec, split.digest(), state))
            if folder.exists():
                raise _not_new(folder)
            made.rename(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _train(
    folder: Path,
    spec: Spec,
    split: Split,
    state: State,
    records: Sequence[Record],
    progress: Callable[[Progress], None] | None,
    seconds: float,
) -> Outcome:
    """Train from a state on, keeping telemetry and checkpoints; then weights and result."""
    alone = sealed.locked(
        folder / LOCK, "only one process may train a run", "wait for it, or train into another"
    )
    keeper = _Keeper(folder, spec, split, state, seconds)
    try:
        with alone, writing(folder), Store.resume(folder / STORE, state.step) as store:
            (folder / RESULT).unlink(missing_ok=True)
            keeper.store = store
            try:
                outcome = fit(
                    spec,
                    split,
                    sink=store.write,
                    keep=keeper,
                    progress=progress,
                    state=state,
                    records=records,
                )
            except KeyboardInterrupt:  # a second one, while scores were taken
                store.cut(keeper.state.step)
                keeper.save()
                raise
            if outcome.stopped == "interrupted":
                store.cut(outcome.state.step)
                keeper.state = outcome.state
                keeper.save()
            store.commit()
            _finish(folder, outcome, split.preparation)
    except RunError as error:
        fix = f"{error.fix}; then `isograd resume {folder}` goes on from step {keeper.saved}"
        raise RunError(error.must, came=error.came, where=error.where, fix=fix) from error
    return outcome


class _Keeper:
    """Writes a checkpoint now and then: told the state after each step."""

    def __init__(
        self, folder: Path, spec: Spec, split: Split, state: State, seconds: float
    ) -> None:
        self.path, self.spec, self.data = folder / CHECKPOINT, spec, split.digest()
        self.state, self.saved, self.seconds = state, state.step, seconds
        self.due = time.monotonic() + seconds
        self.store: Store | None = None

    def __call__(self, state: State) -> None:
        self.state = state
        if time.monotonic() >= self.due:
            self.save()

    def save(self) -> None:
        """Write one; what was measured before it is on the disk before it."""
        assert self.store is not None
        began = time.monotonic()
        self.store.commit()
        write_whole(self.path, _checkpoint(self.spec, self.data, self.state))
        self.saved = self.state.step
        cost = time.monotonic() - began
        self.due = began + (max(self.seconds, 20.0 * cost) if self.seconds else 0.0)


def _checkpoint(spec: Spec, data: str, state: State) -> bytes:
    arrays, facts = dump(state)
    return sealed.pack("checkpoint", arrays, {"spec": dumps(spec), "data": data, "state": facts})


def _finish(folder: Path, outcome: Outcome, preparation: Preparation) -> None:
    """Write weights and result; a run that has ended by itself needs its checkpoint no longer."""
    result: Result = {
        "stopped": outcome.stopped,
        "steps": len(outcome.telemetry.records),
        "skipped": outcome.skipped,
        "seconds": outcome.seconds,
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


def _umask() -> int:
    """The bits that new files lack; it can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _not_new(folder: Path) -> RunError:
    return RunError(
        "a run's folder must be new",
        came=f"{folder} exists",
        fix="give another --out, or leave it out for the next free name",
    )
