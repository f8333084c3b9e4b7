"""A fault at one of the steps that a run takes against the system: killed, refused, interrupted.

As a program, `faults.py FOLDER SPEC [RUN]` trains in FOLDER, or goes on with copies of RUN, in one
process after another: the first is killed at its first step against the system, the next at its
second, and so on, until one comes to its end. It prints a line per process: number and step.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import filelock

from isograd.nn.toml import loads
from isograd.training import loop
from isograd.training.run import resume, train
from isograd.training.start import load_split
from isograd.training.step import compile_step

Act = Callable[[str], None]
"""Called at each step against the system, with its name; what it raises comes from the step."""


_STEPS: dict[Any, Any] = {}


def compile_once(model: Any, *rest: Any, **options: Any) -> Any:
    """As compile_step, which takes longer than the short runs of one spec that are trained here."""
    if model not in _STEPS:
        _STEPS[model] = compile_step(model, *rest, **options)
    return _STEPS[model]


@contextmanager
def injected(act: Act) -> Iterator[None]:
    """Within the block `act` is called before each step.

    After a transaction and a change of names it is called too, with "after" before the name: what
    the program notes of them comes later.
    """
    noted = ("sqlite BEGIN", "sqlite COMMIT", "rename", "replace", "unlink", "acquire")

    def stepped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            act(name)
            result = real(*args, **options)
            if name in noted:
                act(f"after {name}")
            return result

        return step

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> Any:
            return stepped(f"sqlite {sql.split()[0]}", super().execute)(sql, *args)

        def executemany(self, sql: str, *args: Any) -> Any:
            return stepped("sqlite INSERT", super().executemany)(sql, *args)

        def executescript(self, sql: str) -> Any:
            return stepped("sqlite CREATE", super().executescript)(sql)

    class File:
        """Writes in two halves, with a step between them."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            half = len(content) // 2
            self.file.write(content[:half])
            self.file.flush()
            act("write")
            self.file.write(content[half:])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    real_open, real_connect = Path.open, sqlite3.connect

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode != "wb":
            return real_open(path, mode, *args, **options)
        act("open")
        return File(real_open(path, mode, *args, **options))

    def connect(*args: Any, **options: Any) -> Any:
        return real_connect(*args, factory=Connection, **options)

    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any = None) -> None:
            value = value or stepped(name, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, value))

        put(os, "fsync")
        for name in ("mkdir", "rename", "replace", "unlink"):
            put(Path, name)
        put(Path, "open", opened)
        put(sqlite3, "connect", connect)
        put(filelock.FileLock, "acquire")
        put(loop, "compile_step", stepped("compile_step", compile_once))
        put(loop, "evaluate")
        yield


class At:
    """Acts at the n-th step, or from it on; counts and names the steps but for those to skip."""

    def __init__(
        self,
        n: int,
        act: Act,
        *,
        stays: bool = False,
        skip: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.n, self.act, self.stays, self.skip = n, act, stays, skip
        self.steps: list[str] = []

    def __call__(self, name: str) -> None:
        if self.skip(name):
            return
        self.steps.append(name)
        if len(self.steps) == self.n or (self.stays and self.came):
            self.act(name)

    @property
    def came(self) -> bool:
        """Whether there were that many steps."""
        return len(self.steps) >= self.n


def full(name: str) -> None:
    """What a full disk says to a step."""
    if name.startswith("sqlite"):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _killed(name: str) -> None:
    sys.stdout.write(f" {name}")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def main(root: Path, text: str, begun: Path | None) -> None:
    """One process after another, each killed a step later than the one before."""
    spec = loads(text)
    split = load_split(spec)
    for n in count(1):
        folder = root / f"run{n}"
        if begun is not None:
            shutil.copytree(begun, folder)
        print(n, end="", flush=True)
        process = os.fork()
        if process == 0:
            with injected(At(n, _killed)):
                if begun is None:
                    train(spec, text, split, folder, checkpoint_seconds=0.0)
                else:
                    resume(folder, split=split, checkpoint_seconds=0.0)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        print(flush=True)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    root, spec, *begun = map(Path, sys.argv[1:])
    main(root, spec.read_text(encoding="utf-8"), begun[0] if begun else None)
