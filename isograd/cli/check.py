"""isograd check."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from isograd.cli.common import (
    HEALTHY,
    INTERRUPTED,
    OUT,
    SICK,
    Backend,
    DataFolder,
    Json,
    Seed,
    SpecArgument,
    Threads,
    reseeded,
    say,
    write_new,
    written_over,
)


def check(
    spec: SpecArgument,
    json: Json = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with figures, too."),
    ] = None,
    seed: Seed = None,
    data: DataFolder = None,
    backend: Backend = "numpy",
    threads: Threads = None,
) -> None:
    """Say in seconds, before any training, whether a network will train, and why not."""
    from isograd.nn.toml import loads, read
    from isograd.report import check as examine
    from isograd.report import json as as_json
    from isograd.report.check_html import page, require_plotly
    from isograd.report.check_text import show_check

    began = time.perf_counter()
    if html is not None:
        require_plotly()
        if html.exists():
            raise written_over(html)
    parsed = loads(read(spec), where=str(spec))
    if seed is not None:
        parsed, _ = reseeded(parsed, read(spec), seed)
    title = f"isograd check {spec}"
    try:
        found = examine(
            parsed, base=data or spec.parent, backend=backend or "numpy", threads=threads
        )
        if html is not None:
            write_new(html, page(found, title=title))
    except KeyboardInterrupt:  # nothing is kept, and nothing is half written
        raise typer.Exit(INTERRUPTED) from None
    seconds = time.perf_counter() - began
    if json:
        content = {"spec": spec.name, "seconds": seconds, **as_json.check(found)}
        content["html"] = None if html is None else str(html)
        print(as_json.dumps("check", content), flush=True)
    else:
        show_check(OUT, found, title=title)
        if html is not None:
            say(f"\nThe figures are in {html}")
        OUT.print(f"{seconds:.1f} s", style="dim")
    raise typer.Exit(SICK if found.verdict == "will not" else HEALTHY)
