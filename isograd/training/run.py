"""The folder of a run: its spec, its telemetry, its weights and its result.

RUN/spec.toml             what was trained, word for word
RUN/telemetry.sqlite      every record, written during the run
RUN/weights.safetensors   the parameters, by site
RUN/result.json           how it ended; absent while it runs, and after a crash
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy

from isograd.errors import RunError
from isograd.nn.losses import constant_loss
from isograd.nn.model import Model, build
from isograd.nn.spec import Spec
from isograd.nn.toml import load
from isograd.telemetry.records import Telemetry
from isograd.telemetry.store import Store
from isograd.training.data import Split
from isograd.training.loop import Outcome, Progress, fit

SPEC, STORE, WEIGHTS, RESULT = (
    "spec.toml",
    "telemetry.sqlite",
    "weights.safetensors",
    "result.json",
)


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies in its folder.

    Attributes:
        path: the folder.
        spec, model: what was, or is being, trained.
        telemetry: what is written so far.
        rows: training rows.
        constant: loss of the best constant output.
        result: how it ended; None while it runs, and after a crash.
    """

    path: Path
    spec: Spec
    model: Model
    telemetry: Telemetry
    rows: int
    constant: float
    result: dict[str, Any] | None

    @property
    def stopped(self) -> str:
        """How it ended; "unfinished" where no result is written."""
        return self.result["stopped"] if self.result else "unfinished"


def new_folder(spec_path: Path, root: Path) -> Path:
    """The next free folder for a spec's runs: ROOT/NAME-001, -002, …"""
    number = 1
    while (root / f"{spec_path.stem}-{number:03d}").exists():
        number += 1
    return root / f"{spec_path.stem}-{number:03d}"


def train(
    spec: Spec,
    text: str,
    split: Split,
    folder: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train, and keep everything in a folder.

    Args:
        spec: what to train; `text` the TOML that says so, kept as it is.
        split: the data.
        folder: made by this call.
        progress: told after each step.

    Returns:
        What `fit` returns. Ctrl-C ends the run early; all that was measured is kept.

    Raises:
        RunError: if the folder exists or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunError(
            "a run's folder must be new",
            came=f"{folder} exists",
            fix="give another --out, or leave it out for the next free name",
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    with Store.create(folder / STORE) as store:
        try:
            (folder / SPEC).write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(folder, error) from None
        facts = {
            "rows": len(split.X_train),
            "n_in": split.X_train.shape[1],
            "constant": constant_loss(spec.network.loss, split.y_train),
        }
        for name, value in facts.items():
            store.set_meta(name, repr(value))
        outcome = fit(spec, split, sink=store.write, progress=progress)
    result = {
        "stopped": outcome.stopped,
        "steps": len(outcome.telemetry.records),
        "seconds": outcome.seconds,
        "metric": outcome.metric,
        "train": asdict(outcome.train),
        "test": asdict(outcome.test),
    }
    try:
        weights = safetensors.numpy.save(dict(outcome.params))
        _replace(folder / WEIGHTS, weights)
        _replace(folder / RESULT, json.dumps(result, indent=2).encode() + b"\n")
    except OSError as error:
        raise _unwritable(folder, error) from None
    return outcome


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        "a run's folder must be writable",
        came=error.strerror or str(error),
        where=str(folder),
        fix="check permissions and free space, or give another folder with --out",
    )


def open_run(folder: Path) -> StoredRun:
    """Read a run, finished or not.

    Raises:
        RunError: if the folder is none of a run, or a file in it is damaged.
    """
    if not (folder / STORE).is_file():
        raise RunError(
            "a run must be a folder that training made",
            came=f"{folder} has no {STORE}",
            fix="`isograd runs` lists those there are",
        )
    with Store.open(folder / STORE) as store:
        telemetry = store.read()
    spec = load(folder / SPEC)
    try:
        rows, n_in = int(telemetry.meta["rows"]), int(telemetry.meta["n_in"])
        constant = float(telemetry.meta["constant"])
        path = folder / RESULT
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (KeyError, ValueError) as error:
        raise RunError(
            "a run's files must be whole", came=repr(error), where=str(folder), fix="train again"
        ) from None
    return StoredRun(folder, spec, build(spec.network, n_in), telemetry, rows, constant, result)


def list_runs(root: Path) -> list[Path]:
    """Folders of runs under a folder, by name."""
    if not root.is_dir():
        return []
    return sorted(p.parent for p in root.glob(f"*/{STORE}"))
