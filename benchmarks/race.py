"""A race: peers on one row, in turn, and what came of it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from common import (
    HERE,
    SLICE,
    Spread,
    Unavailable,
    Worker,
    WorkerError,
    environment,
    interleave,
    ratio,
)
from networks import row_of
from peers import Peer

BUILD_LIMIT = 900.0
"""Seconds that a worker may take to compile and warm up."""
SLICE_LIMIT = 120.0
"""Seconds that a slice may take."""


@dataclass
class Entry:
    """A setting of a peer on a row, and what came of it.

    Attributes:
        key: of the peer, or what else it is told from others by.
        peer: who it is.
        setting: of the peer.
        row: as `row_of` reads it.
        built: the worker's answer to "build".
        times: seconds per step, by round.
        missing: why it could not be measured here.
        failed: what went wrong.
    """

    key: str
    peer: Peer
    setting: str
    row: str
    built: dict[str, Any] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    missing: str = ""
    failed: str = ""

    @property
    def name(self) -> str:
        """Of its worker."""
        return f"{self.key}/{self.setting}"

    @property
    def why(self) -> str:
        """Why there are no times; empty if there are."""
        return self.failed or (f"not measured: {self.missing}" if self.missing else "")


def entries_of(peers: Mapping[str, Peer], row: str) -> list[Entry]:
    """All settings of all peers on a row."""
    return [
        Entry(key, peer, setting, row) for key, peer in peers.items() for setting in peer.settings
    ]


Start = Callable[[Entry, str], Worker]


def start_worker(entry: Entry, caches: str) -> Worker:
    """A process for an entry, with a folder for compilers' caches."""
    command = [sys.executable, str(HERE / "worker.py")]
    command += [entry.peer.module, entry.setting, entry.row]
    return Worker(command, environment(row_of(entry.row).threads, caches))


@contextmanager
def built(entry: Entry, caches: str, start: Start = start_worker) -> Iterator[Worker | None]:
    """A worker that is ready, or None, with the reason in the entry; it ends with the block."""
    worker = start(entry, caches)
    try:
        entry.built = worker.ask({"do": "build"}, BUILD_LIMIT)
    except Unavailable as error:
        entry.missing = str(error)
    except WorkerError as error:
        entry.failed = str(error)
    try:
        yield None if entry.why else worker
    finally:
        worker.stop()


class _Runner:
    """A built worker, as `interleave` takes it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def slice(self, seconds: float) -> float:
        answer = self.worker.ask({"do": "slice", "seconds": seconds}, SLICE_LIMIT)
        return float(answer["seconds"]) / int(answer["steps"])


def race(
    entries: Sequence[Entry],
    *,
    seconds: float,
    tell: Callable[[str], None] = lambda text: None,
    start: Start = start_worker,
) -> None:
    """Build all entries, each with empty caches, then let them run in turn.

    Args:
        entries: what came of each is put into it.
        seconds: of measuring, for each; at least five rounds are run.
        tell: told what is going on.
        start: starts a worker.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        runners: dict[str, _Runner] = {}
        for entry in entries:
            tell(f"{entry.name}: building")
            worker = stack.enter_context(built(entry, tempfile.mkdtemp(dir=folder), start))
            if worker is not None:
                runners[entry.name] = _Runner(worker)
            else:
                tell(f"{entry.name}: {entry.why}")
        rounds = max(5, round(seconds / SLICE))
        tell(f"{rounds} rounds of {len(runners)} workers")
        times, failed = interleave(runners, rounds, SLICE)
        for entry in entries:
            entry.times = times.get(entry.name, [])
            entry.failed = failed.get(entry.name, entry.failed)


@dataclass
class Result:
    """A peer at the best of its settings.

    Attributes:
        key: of the peer.
        best: the setting with the least median; None if none was measured.
        microseconds: per step.
        ratio: to the peer that all are compared with; None without one.
        why: why settings are missing or failed, by setting.
        failed: whether one failed.
    """

    key: str
    best: Entry | None
    microseconds: Spread | None
    ratio: Spread | None
    why: dict[str, str]
    failed: bool


def results(entries: Sequence[Entry], against: Iterable[str]) -> list[Result]:
    """Peers at their best settings, with their ratios to the first of `against` that was measured.

    A ratio is the median over rounds of quotients within a round.
    """
    best: dict[str, Entry | None] = {}
    for entry in entries:
        known = best.setdefault(entry.key, None)
        if entry.times and (known is None or _median(entry) < _median(known)):
            best[entry.key] = entry
    base = next((best[key] for key in against if best.get(key)), None)
    out = []
    for key, entry in best.items():
        mine = [e for e in entries if e.key == key]
        why = {e.setting: e.why for e in mine if e.why}
        times = entry.times if entry else []
        out.append(
            Result(
                key,
                entry,
                Spread.of([1e6 * t for t in times]) if times else None,
                ratio(times, base.times) if times and base else None,
                why,
                any(e.failed for e in mine),
            )
        )
    return out


def _median(entry: Entry) -> float:
    return Spread.of(entry.times).median


def progress(text: str) -> None:
    """Tell on the standard error."""
    print(text, file=sys.stderr, flush=True)


def save(path: str, value: Any) -> None:
    """Write JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, default=lambda x: x.__dict__)
        file.write("\n")
