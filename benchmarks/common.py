"""What the benchmarks share: workers in processes of their own, rounds that interleave them,
medians and ratios, and a description of the machine.

A worker is a process that reads requests from its standard input and answers on its standard
output, a line of JSON each:

    {"do": "build"}                  {"first": seconds, ...}   compiled, warmed up and checked
    {"do": "slice", "seconds": s}    {"steps": n, "seconds": t}

It ends when its input does. Instead of an answer it may say {"unavailable": why}, when a library
is not there, or {"error": why}. What its libraries print goes to its standard error.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

HERE = Path(__file__).resolve().parent
SLICE = 0.2
"""Seconds per slice."""
PAUSE = 0.05
"""Seconds between slices: threads of OpenBLAS and OpenMP spin for up to 30 ms when out of work."""


class WorkerError(RuntimeError):
    """A worker said that it failed, died, or did not answer in time."""


class Unavailable(RuntimeError):
    """What a worker needs is not on this machine."""


# --- workers


def available() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores(threads: int) -> list[int]:
    """The first `threads` of the cores that this process may use; [] where that is not known.

    Raises:
        Unavailable: if there are fewer.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = available()
    if threads > len(allowed):
        raise Unavailable(f"{threads} cores are asked for, {len(allowed)} are there")
    return allowed[:threads]


def environment(threads: int, caches: str) -> dict[str, str]:
    """The environment of a worker.

    Args:
        threads: that it may use.
        caches: a folder for what compilers keep between processes; a new one makes first calls
            cold.
    """
    names = ("OMP", "OPENBLAS", "MKL")
    out = dict(os.environ) | {f"{name}_NUM_THREADS": str(threads) for name in names}
    out |= {"ISOGRAD_CACHE": caches, "TORCHINDUCTOR_CACHE_DIR": caches, "JAX_PLATFORMS": "cpu"}
    if threads == 1:
        out["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return out


def last_words(text: str) -> str:
    """The last line of an error output that says something, without the frame around it."""
    lines = [line.strip("│╭╮╰╯─ ") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


class Worker:
    """A worker's process, from the driver's side.

    Args:
        command: to start it.
        env: its environment; None is that of this process.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `stop`)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=env,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """Send a request, and wait for the answer.

        Args:
            request: a JSON object.
            limit: seconds to wait.

        Raises:
            Unavailable: if the worker says so.
            WorkerError: if it reports an error, dies, or does not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=limit)
        except (BrokenPipeError, queue.Empty) as error:
            late = isinstance(error, queue.Empty)
            raise WorkerError(f"no answer in {limit:g} s" if late else self._death()) from None
        if not line:
            raise WorkerError(self._death())
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        text = last_words(self._errors.read().decode("utf-8", "replace"))
        return f"the worker ended with exit code {code}: {text}"

    def stop(self) -> None:
        """End the process, at once if it does not go."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has gone already
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


@dataclass
class Steps:
    """What a worker times.

    Attributes:
        count: steps per call.
        call: takes them, and gives their losses in order as anything that `float` takes; or
            nothing, where there is no loss.
        stages: seconds that parts of the preparation took, by name.
        facts: other figures to report, by name.
    """

    count: int
    call: Callable[[], Sequence[Any]]
    stages: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def take(self, calls: int) -> tuple[float, Sequence[Any]]:
        """Seconds for so many calls, and the losses of the last."""
        losses: Sequence[Any] = ()
        start = time.perf_counter()
        for _ in range(calls):
            losses = self.call()
        if len(losses):
            float(losses[-1])  # waits for what runs in the background
        return time.perf_counter() - start, losses


Built = tuple[dict[str, Any], Steps, float]
"""The answer to "build", what is timed, and the seconds of a call."""


def serve(build: Callable[[], Built]) -> None:
    """The worker's side: answer requests until the input ends.

    Args:
        build: compiles, warms up and checks.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    built: Built | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "build":
                built = build()
                answer = built[0]
            else:
                assert built is not None
                _, steps, per_call = built
                calls = max(1, round(request["seconds"] / per_call))
                seconds, _ = steps.take(calls)
                answer = {"steps": calls * steps.count, "seconds": seconds}
        except Unavailable as error:
            answer = {"unavailable": str(error)}
        except Exception as error:  # the driver reports it; this process can do nothing about it
            text = str(error).strip().splitlines()
            answer = {"error": f"{type(error).__name__}: {text[0] if text else ''}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# --- interleaving


class Slices(Protocol):
    """What `interleave` drives."""

    def slice(self, seconds: float) -> float:
        """Run for about so many seconds, and give the seconds per step."""


def interleave(
    peers: Mapping[str, Slices], rounds: int, seconds: float, pause: float = PAUSE
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Let peers run a slice each, round after round, one at a time.

    Every other round goes backwards, so that no peer always follows the same one.

    Args:
        peers: by name.
        rounds: how many slices each runs.
        seconds: per slice.
        pause: seconds between two slices.

    Returns:
        Seconds per step by peer and round; and by peer that failed the reason. A peer that fails
        is out from then on, and has no times.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    failed: dict[str, str] = {}
    for number in range(rounds):
        order = list(times)
        for name in order if number % 2 == 0 else reversed(order):
            try:
                times[name].append(peers[name].slice(seconds))
            except (WorkerError, Unavailable) as error:
                failed[name] = str(error)
                del times[name]
            time.sleep(pause)
    return times, failed


# --- figures


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of a figure over rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of the figures of all rounds."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return Spread(float(median), float(low), float(high))

    def show(self, digits: int = 3) -> str:
        """As `median (low–high)`."""
        median, low, high = (significant(x, digits) for x in (self.median, self.low, self.high))
        return f"{median} ({low}–{high})"


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The median over rounds of the quotient of the two times of a round.

    Both times of a round are taken within a second or two, so what slows the machine down for
    longer cancels.
    """
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def significant(x: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent."""
    if x == 0 or not np.isfinite(x):
        return f"{x:g}"
    after = digits - 1 - int(np.floor(np.log10(abs(x))))
    return f"{round(x, after):,.{max(after, 0)}f}".replace(",", " ")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


# --- the machine


@dataclass(frozen=True)
class Machine:
    """What a figure depends on besides the code."""

    system: str
    cpu: str
    cores: int
    caches: dict[str, int] = field(default_factory=dict)
    memory: int = 0
    load: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        caches = ", ".join(f"{name} {size >> 10} KiB" for name, size in self.caches.items())
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.cpu}, {self.cores} cores; {caches or 'caches not known'}; "
            f"{self.memory / 2**30:.0f} GiB; {self.system}; load {self.load:.1f} at the start; "
            f"{versions}"
        )


PACKAGES = ("isograd", "numpy", "scipy", "llvmlite", "torch", "jax", "jaxlib", "scikit-learn")


def machine() -> Machine:
    """This machine, without its name."""
    import psutil

    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        cores=len(available()),
        caches=caches(),
        memory=psutil.virtual_memory().total,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        versions=versions,
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.exists() else ""
    found = [re.search(rf"^{key}\s*:\s*(.+)$", text, re.M) for key in ("model name", "model")]
    name = found[0][1] if found[0] else platform.processor() or "CPU not known"
    family = re.search(r"^cpu family\s*:\s*(.+)$", text, re.M)
    if family and found[1]:
        name += f" (family {family[1]}, model {found[1][1]})"
    for features in ("avx512f", "avx2"):
        if re.search(rf"\b{features}\b", text):
            return f"{name}, {features}"
    return name


def caches() -> dict[str, int]:
    """Bytes of the first core's caches of data, by level; {} where the system does not say."""
    out = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = (
            (folder / name).read_text("utf-8").strip() for name in ("type", "level", "size")
        )
        if kind != "Instruction":
            out[f"L{level}"] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
    return out
