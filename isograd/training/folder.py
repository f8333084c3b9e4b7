"""The folder of a run, read.

RUN/spec.toml               what was trained, word for word
RUN/telemetry.sqlite        every record, written during the run
RUN/checkpoint.safetensors  where the run stands; gone once it has ended by itself
RUN/weights.safetensors     the parameters, by site, and how to prepare data for them
RUN/result.json             how it ended; absent while it runs, and after a crash
RUN/lock                    held by the process that trains
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from numpy.typing import NDArray

from isograd.errors import RunError
from isograd.nn.model import Model, build
from isograd.nn.spec import Spec
from isograd.nn.toml import load, loads
from isograd.telemetry.records import Site, Telemetry
from isograd.telemetry.store import Store
from isograd.training import sealed
from isograd.training.data import Preparation
from isograd.training.loop import Stopped

SPEC, STORE, CHECKPOINT, WEIGHTS, RESULT, LOCK = (
    "spec.toml",
    "telemetry.sqlite",
    "checkpoint.safetensors",
    "weights.safetensors",
    "result.json",
    "lock",
)
FACTS = ("rows", "n_in", "constant", "base")  # of a run's data, kept in its store as JSON


class Result(TypedDict):
    """How a run ended: the content of result.json; the scores as in `Outcome`, NaN as null."""

    stopped: Stopped
    steps: int
    skipped: int
    seconds: float
    metric: str
    train: dict[str, float | None]
    test: dict[str, float | None]
    validation: dict[str, float | None] | None


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

    @property
    def resumable(self) -> bool:
        """Whether training can go on from where it was interrupted."""
        return self.stopped in ("unfinished", "interrupted") and (self.path / CHECKPOINT).exists()


@dataclass(frozen=True)
class Trained:
    """A network with its parameters, and what its inputs must go through first.

    Attributes:
        spec, model: what was trained; `text` the TOML that says so.
        params: learned parameters and statistics, by site.
        preparation: of data for it.
    """

    spec: Spec
    text: str
    model: Model
    params: Mapping[str, NDArray[Any]]
    preparation: Preparation


def new_folder(spec_path: Path, root: Path) -> Path:
    """The next free folder for a spec's runs: ROOT/NAME-001, -002, …"""
    number = 1
    while (root / f"{spec_path.stem}-{number:03d}").exists():
        number += 1
    return root / f"{spec_path.stem}-{number:03d}"


def open_trained(path: str | Path) -> Trained:
    """A trained network, from the folder of a run or from its weights alone.

    Raises:
        RunError: there are no weights yet, or they are damaged.
    """
    path = Path(path)
    weights = path / WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        unfinished = (path / CHECKPOINT).exists()
        raise RunError(
            "a run must have ended, or been interrupted by Ctrl-C, to have weights",
            came=f"{path} has no {WEIGHTS}" if path.is_dir() else f"{path} is no file",
            fix=f"`isograd resume {path}` goes on with it"
            if unfinished
            else "`isograd runs` lists the runs there are",
        )
    arrays, facts = sealed.read(weights, "weights")
    spec = loads(facts["spec"], where=f"{weights}: spec", anywhere=True)
    model = build(spec.network, facts["n_in"], facts["n_out"])
    return Trained(
        spec, facts["spec"], model, arrays, msgspec.convert(facts["preparation"], Preparation)
    )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the system refuses within a run's folder, as a RunError."""
    try:
        yield
    except OSError as error:
        raise unwritable(folder, error) from None


def unwritable(folder: Path, error: OSError) -> RunError:
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
    spec = load(folder / SPEC, anywhere=True)
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
    return sorted(p.parent for p in root.glob(f"[!.]*/{STORE}"))
