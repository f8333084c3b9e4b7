"""isograd check."""

from __future__ import annotations

import time

import typer

from isograd.cli.common import (
    HEALTHY,
    OUT,
    SICK,
    Backend,
    DataFolder,
    Json,
    Seed,
    SpecArgument,
    Threads,
    reseeded,
)


def check(
    spec: SpecArgument,
    json: Json = False,
    seed: Seed = None,
    data: DataFolder = None,
    backend: Backend = "numpy",
    threads: Threads = None,
) -> None:
    """Say in seconds, before any training, whether a network will train, and why not."""
    from isograd.nn.toml import loads, read
    from isograd.report.check import check as examine
    from isograd.report.check_text import show_check

    began = time.perf_counter()
    text = read(spec)
    parsed = loads(text, where=str(spec))
    if seed is not None:
        parsed, text = reseeded(parsed, text, seed)
    found = examine(parsed, base=data or spec.parent, backend=backend, threads=threads)
    show_check(OUT, found, title=f"isograd check {spec}")
    OUT.print(f"{time.perf_counter() - began:.1f} s", style="dim")
    raise typer.Exit(SICK if found.verdict == "will not" else HEALTHY)
