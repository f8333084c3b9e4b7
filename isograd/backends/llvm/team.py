"""Threads that run the parts of a program side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

_lock = threading.Lock()  # parts of two programs must not wait for each other's threads
_pools: dict[int, ThreadPoolExecutor] = {}


def together(drive: Callable[[int], None], arguments: Sequence[int]) -> None:
    """Call `drive` with each argument, all at once; the first on the calling thread.

    Args:
        drive: a native routine, which lets go of the interpreter's lock.
        arguments: of each call; the calls may wait for each other.
    """
    if len(arguments) == 1:
        drive(arguments[0])
        return
    others = len(arguments) - 1
    with _lock:
        if others not in _pools:
            _pools[others] = ThreadPoolExecutor(others, "isograd")
        waiting = [_pools[others].submit(drive, argument) for argument in arguments[1:]]
        drive(arguments[0])
        for future in waiting:
            future.result()


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
