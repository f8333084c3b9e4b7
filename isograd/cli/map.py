"""isograd map."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from isograd.cli.common import (
    ERR,
    HEALTHY,
    INTERRUPTED,
    OUT,
    Backend,
    DataFolder,
    Jobs,
    Json,
    Seed,
    SpecArgument,
    reseeded,
    say,
)
from isograd.errors import RunError
from isograd.training.axes import X, Y

_FORM = "A setting and its values: NAME=START:STOP:COUNT, with :log for equal ratios, or a list."


def map(
    spec: SpecArgument,
    x: Annotated[str, typer.Option("--x", metavar="SETTING=VALUES", help=_FORM)] = X,
    y: Annotated[str, typer.Option("--y", metavar="SETTING=VALUES", help="Likewise, upwards.")] = Y,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each cell.")] = 200,
    out: Annotated[
        Path | None,
        typer.Option(help="The map's folder, new or to go on with; by default maps/NAME-001, …"),
    ] = None,
    jobs: Jobs = -1,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786."),
    ] = None,
    json: Json = False,
    seed: Seed = None,
    data: DataFolder = None,
    backend: Backend = None,
) -> None:
    """Train a network for every pair of values of two settings, and draw the map.

    A setting is depth, sigma_w, sigma_w2 or sigma_b2, or a key of the spec such as optimiser.lr or
    network.layers.0.times.
    """
    from isograd.nn.toml import loads, read
    from isograd.report import json as as_json
    from isograd.report.phase import curves, show_map, to_json
    from isograd.report.phase_figures import write_figures
    from isograd.report.progress import progress_bar
    from isograd.training.folder import new_folder
    from isograd.training.sweep import sweep

    text = read(spec)
    parsed = loads(text, where=str(spec))
    if seed is not None:
        parsed, _ = reseeded(parsed, text, seed)
    folder = out or new_folder(spec, Path("maps"))
    try:
        with progress_bar(ERR, quiet=json) as bar, _cluster(cluster):
            result = sweep(
                parsed,
                x,
                y,
                steps=steps,
                base=data or spec.parent,
                folder=folder,
                jobs=jobs,
                backend=backend,
                progress=lambda done, total, note: bar("cells", done, total, note),
                where=str(spec),
            )
        theory = curves(result.plan)
        files, advice = write_figures(folder, result, theory)
    except KeyboardInterrupt:  # before the first cell, after the last, or a second one
        _interrupted(folder, json)
    if json:
        content: dict[str, Any] = {"map": str(folder), "files": [str(path) for path in files]}
        print(as_json.dumps("map", content | to_json(result, theory)), flush=True)
    else:
        show_map(OUT, result, theory)
        say(f"\nin {folder}: {', '.join(path.name for path in files)}")
        if advice:
            say(advice)
    if result.interrupted:
        _interrupted(folder, json)
    raise typer.Exit(HEALTHY)


def _interrupted(folder: Path, json: bool) -> Any:
    """Say how to go on, and end."""
    if folder.exists() and not json:
        words = ["isograd", *sys.argv[1:]]
        if not any(word == "--out" or word.startswith("--out=") for word in words):
            words += ["--out", str(folder)]
        say(f"interrupted; what is done is in {folder}; go on with\n\n  {shlex.join(words)}\n")
    raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Within the block joblib's work is done by the workers of a Dask scheduler."""
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise RunError(
            "a cluster needs Dask", came="no distributed", fix="pip install isograd[cluster]"
        ) from None
    from joblib import parallel_config

    connect: Any = Client
    try:
        client = connect(address, timeout="10s")
    except (OSError, ValueError, MemoryError) as error:  # what answers may be no Dask
        raise RunError(
            "a cluster must be a Dask scheduler that answers",
            came=str(error).partition("\n")[0] or type(error).__name__,
            where=address,
            fix="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
        ) from None
    with client, parallel_config(backend="dask"):
        yield
