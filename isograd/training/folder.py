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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from numpy.typing import NDArray

from isograd.errors import RunError
from isograd.nn.model import Model, build
from isograd.nn.spec import Spec
from isograd.nn.toml import load, loads
from isograd.telemetry.records import Site, Telemetry
from isograd.telemetry.rows import damaged
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


class Facts(msgspec.Struct, frozen=True):
    """What a run's store holds of the run as a whole, as JSON by name.

    Attributes:
        rows: training rows; `n_in` features.
        constant: loss of the best constant output.
        base: the folder that relative data paths start from.
        spec: what is trained, as TOML; None in stores of version 1.
    """

    rows: Annotated[int, msgspec.Meta(ge=1)]
    n_in: Annotated[int, msgspec.Meta(ge=1)]
    constant: float
    base: str
    spec: str | None = None


class Result(TypedDict):
    """How a run ended: the content of result.json; the scores as in `Outcome`, NaN as null."""

    stopped: Stopped
    steps: int
    skipped: int
    seconds: float
    backend: NotRequired[str]
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
    def fitted(self) -> float | None:
        """Loss on the training part at the end, without noise and regularisation, if finite."""
        return self.result["train"]["loss"] if self.result else None

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
        result = _result(folder / RESULT)
        telemetry = store.read()
    facts = _facts(folder, telemetry.meta)
    spec = load(folder / SPEC, anywhere=True)
    _require_spec(folder, facts, spec)
    # What is appended since the result was read belongs to a run that is gone on with.
    if result and len(telemetry.records) < result["steps"]:
        came = f"{len(telemetry.records)} steps, and {RESULT} says {result['steps']}"
        raise damaged(came, str(folder / STORE))
    model = build(spec.network, facts.n_in)
    _require_sites(folder, model, telemetry)
    return StoredRun(
        path=folder,
        base=Path(facts.base),
        spec=spec,
        model=model,
        telemetry=telemetry,
        rows=facts.rows,
        constant=facts.constant,
        result=result,
    )


def base_of(folder: Path) -> Path:
    """The folder that relative data paths in the spec of a run start from.

    Raises:
        RunError: as `open_run`.
    """
    with _store(folder) as store:
        meta = store.meta()
    return Path(_facts(folder, meta).base)


@contextmanager
def _store(folder: Path) -> Iterator[Store]:
    """A run's store, to read from."""
    if not (folder / STORE).is_file():
        raise RunError(
            "a run must be a folder that training made",
            came=f"{folder} has no {STORE}" if folder.is_dir() else f"{folder} is no folder",
            fix="`isograd runs` lists those there are",
        )
    with Store.open(folder / STORE) as store:
        yield store


def _require_spec(folder: Path, facts: Facts, spec: Spec) -> None:
    """The spec says what was trained; but for comments and layout it must not change."""
    if facts.spec is None:
        return
    if loads(facts.spec, where=str(folder / STORE), anywhere=True) != spec:
        raise RunError(
            "a run's spec must be the one that was trained",
            came="another",
            where=str(folder / SPEC),
            fix="undo the changes, or train anew",
        )


def _require_sites(folder: Path, model: Model, telemetry: Telemetry) -> None:
    """Every measured step has the sites that a diagnosis looks at, whichever version wrote it."""
    names = [p.site.partition("/")[2] for p in model.weights]
    kinds = ("z", "v", "delta", "W", "dW", "uW")
    wanted = {Site.parse(f"{kind}/{name}") for kind in kinds for name in names}
    wanted |= set(telemetry.sites())
    for record in telemetry.measured():
        if lacking := wanted - record.summaries.keys():
            came = (
                f"at step {record.step} it lacks {min(lacking)}, which {SPEC} or other steps have"
            )
            raise damaged(came, str(folder / STORE))


def _facts(folder: Path, meta: Mapping[str, str]) -> Facts:
    try:
        values = {name: json.loads(value) for name, value in meta.items()}
        return msgspec.convert(values, Facts)
    except ValueError as error:  # of JSON, or of what it says
        raise damaged(str(error), str(folder / STORE)) from None


def _result(path: Path) -> Result | None:
    """How a run ended, where that is written."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise damaged(str(error), str(path)) from None


def list_runs(root: Path) -> list[Path]:
    """Folders of runs under a folder, by name."""
    if not root.is_dir():
        return []
    return sorted(p.parent for p in root.glob(f"[!.]*/{STORE}"))
