"""A progress bar for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column


class Bar:
    """A progress bar that can step aside; none shows nothing."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done."""
        if self._progress is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, note=note)

    @contextmanager
    def away(self) -> Iterator[None]:
        """What is printed meanwhile is not torn apart by the bar; tasks so far are done with."""
        if self._progress is None:
            yield
            return
        self._progress.stop()
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()
        yield
        self._progress.start()


@contextmanager
def progress_bar(console: Console, *, quiet: bool = False) -> Iterator[Bar]:
    """A progress bar, where the console is a terminal; it is gone in the end."""
    if quiet or not console.is_terminal:
        yield Bar()
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
    ) as progress:
        yield Bar(progress)
