"""The folder of a run: its spec, its telemetry, its weights and its result.

RUN/spec.toml             what was trained, word for word
RUN/telemetry.sqlite      every record, written during the run
RUN/weights.safetensors   the parameters, by site
RUN/result.json           how it ended; absent while it runs, and after a crash
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import safetensors.numpy

from isograd.errors import RunError
from isograd.nn.losses import constant_loss
from isograd.nn.model import Model, build
from isograd.nn.spec import Spec
from isograd.nn.toml import load
from isograd.telemetry.records import Site, Telemetry
from isograd.telemetry.store import Store
from isograd.training.data import Split
from isograd.training.loop import Outcome, Progress, Stopped, fit, prepare

SPEC, STORE, WEIGHTS, RESULT = (
    "spec.toml",
    "telemetry.sqlite",
    "weights.safetensors",
    "result.json",
)
FACTS = ("rows", "n_in", "constant", "base")  # of a run's data, kept in its store as JSON


class Result(TypedDict):
    """How a run ended: the content of result.json; the scores as in `Outcome`, NaN as null."""

    stopped: Stopped
    steps: int
    seconds: float
    metric: str
    train: dict[str, float | None]
    test: dict[str, float | None]


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies in its folder.

    Attributes:
        path: the folder.
        base: the folder that relative data paths start from.
        spec, model: what was, or is being, trained.
        telemetry: what is written so far.
        rows: training rows.
        constant: loss of the best constant output.
        result: how it ended; None while it runs, and after a crash.
    """

    path: Path
    base: Path
    spec: Spec
    model: Model
    telemetry: Telemetry
    rows: int
    constant: float
    result: Result | None

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
    base: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train, and keep everything in a folder.

    Args:
        spec: what to train; `text` the TOML that says so, kept as it is.
        split: the data.
        folder: made by this call.
        base: the folder that relative data paths start from; None is the current one.
        progress: told after each step.

    Returns:
        What `fit` returns. Ctrl-C ends the run early; all that was measured is kept.

    Raises:
        RunError: if the folder exists or cannot be written.
        SpecError, TheoryError: as `fit`, and no folder is made.
    """
    prepare(spec, split)
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
            (folder / SPEC).write_bytes(text.encode())
        except OSError as error:
            raise _unwritable(folder, error) from None
        facts = {
            "rows": len(split.X_train),
            "n_in": split.X_train.shape[1],
            "constant": constant_loss(spec.network.loss, split.y_train),
            "base": str((base or Path()).absolute()),
        }
        for name, value in facts.items():
            store.set_meta(name, json.dumps(value))
        outcome = fit(spec, split, sink=store.write, progress=progress)
    result: Result = {
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
        _replace(folder / RESULT, msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    except OSError as error:
        raise _unwritable(folder, error) from None
    return outcome


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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
    with _store(folder) as store:
        telemetry = store.read()
    spec = load(folder / SPEC)
    facts = _facts(folder, telemetry.meta)
    path = folder / RESULT
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result) if path.exists() else None
    except (msgspec.MsgspecError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    model = build(spec.network, facts["n_in"])
    _require_sites(folder, model, telemetry)
    return StoredRun(
        path=folder,
        base=Path(facts["base"]),
        spec=spec,
        model=model,
        telemetry=telemetry,
        rows=facts["rows"],
        constant=facts["constant"],
        result=result,
    )


def base_of(folder: Path) -> Path:
    """The folder that relative data paths in the spec of a run start from.

    Raises:
        RunError: as `open_run`.
    """
    with _store(folder) as store:
        meta = store.meta()
    return Path(_facts(folder, meta)["base"])


@contextmanager
def _store(folder: Path) -> Iterator[Store]:
    """A run's store, to read from; what cannot be made sense of is damage."""
    if not (folder / STORE).is_file():
        raise RunError(
            "a run must be a folder that training made",
            came=f"{folder} has no {STORE}" if folder.is_dir() else f"{folder} is no folder",
            fix="`isograd runs` lists those there are",
        )
    try:
        with Store.open(folder / STORE) as store:
            yield store
    except RunError:
        raise
    except (struct.error, ArithmeticError, TypeError, ValueError) as error:  # bits that flipped
        raise _damaged(folder / STORE, str(error).splitlines()[0]) from error


def _require_sites(folder: Path, model: Model, telemetry: Telemetry) -> None:
    """Every measured step has the same sites, and they are those of the network in the spec."""
    names = [p.site.partition("/")[2] for p in model.weights]
    kinds = ("z", "v", "delta", "W", "dW", "uW")
    wanted = {Site.parse(f"{kind}/{name}") for kind in kinds for name in names}
    wanted |= set(telemetry.sites())
    for record in telemetry.measured():
        if lacking := wanted - record.summaries.keys():
            came = (
                f"at step {record.step} it lacks {min(lacking)}, which {SPEC} or other steps have"
            )
            raise _damaged(folder / STORE, came)


def _facts(folder: Path, meta: Mapping[str, str]) -> dict[str, Any]:
    try:
        return {name: json.loads(meta[name]) for name in FACTS}
    except KeyError as error:
        raise _damaged(folder / STORE, f"it lacks {error}") from None
    except ValueError as error:
        raise _damaged(folder / STORE, str(error)) from None


def _damaged(path: Path, came: str) -> RunError:
    return RunError(
        "a run's files must be whole",
        came=came,
        where=str(path),
        fix="train again, or take a copy of the file from a backup",
    )


def list_runs(root: Path) -> list[Path]:
    """Folders of runs under a folder, by name."""
    if not root.is_dir():
        return []
    return sorted(p.parent for p in root.glob(f"*/{STORE}"))
