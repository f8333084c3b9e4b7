"""isograd train and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from isograd.cli.common import (
    ERR,
    HEALTHY,
    INTERRUPTED,
    OUT,
    SICK,
    Backend,
    CheckpointSeconds,
    DataFolder,
    Json,
    RunArgument,
    Seed,
    SpecArgument,
    Threads,
    reseeded,
    say,
)


def train(
    spec: SpecArgument,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/NAME-001, -002, …")
    ] = None,
    json: Json = False,
    seed: Seed = None,
    data: DataFolder = None,
    checkpoint_seconds: CheckpointSeconds = 30.0,
    backend: Backend = None,
    threads: Threads = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Then time each kernel of a step, too.")
    ] = False,
) -> None:
    """Train a network, and keep spec, telemetry, weights and result in a folder."""
    from isograd.nn.toml import loads, read
    from isograd.training.folder import new_folder
    from isograd.training.profile import profile as profiled
    from isograd.training.profile import require_native
    from isograd.training.run import train as run
    from isograd.training.start import load_split

    if profile:
        require_native()
    text = read(spec)
    parsed = loads(text, where=str(spec))
    if seed is not None:
        parsed, text = reseeded(parsed, text, seed)
    base = data or spec.parent
    split = load_split(parsed, base)
    folder = out or new_folder(spec, Path("runs"))
    _trained(
        "train",
        folder,
        json,
        lambda told: run(
            *(parsed, text, split, folder),
            base=base,
            progress=told,
            checkpoint_seconds=checkpoint_seconds,
            backend=backend,
            threads=threads,
        ),
        split,
        (lambda done: profiled(done.spec, split, done.state, threads=threads)) if profile else None,
    )


def resume(
    run: RunArgument,
    json: Json = False,
    data: DataFolder = None,
    checkpoint_seconds: CheckpointSeconds = 30.0,
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Go on with a run that was interrupted, to the same end as if it had not been."""
    from isograd.training.folder import open_run
    from isograd.training.run import resume as go_on
    from isograd.training.start import load_split

    stored = open_run(run)
    split = load_split(stored.spec, data or stored.base)
    _trained(
        "resume",
        run,
        json,
        lambda told: go_on(
            run,
            split=split,
            progress=told,
            checkpoint_seconds=checkpoint_seconds,
            backend=backend,
            threads=threads,
        ),
        split,
    )


def _trained(
    command: str,
    folder: Path,
    json: bool,
    work: Callable[[Callable[[Any], None]], Any],
    split: Any,
    profile: Callable[[Any], Any] | None = None,
) -> NoReturn:
    """Train, and say how to go on where an interrupt leaves nothing else to say."""
    from isograd.training.folder import CHECKPOINT, RESULT

    try:
        _train_and_tell(command, folder, json, work, split, profile)
    except KeyboardInterrupt:  # before the first step, after the last, or a second one
        if (folder / CHECKPOINT).exists() and not json:
            say(f"interrupted; go on with\n\n  isograd resume {folder}\n")
        elif (folder / RESULT).exists() and not json:
            say(f"interrupted when the run had ended; look at it with\n\n  isograd show {folder}\n")
        raise typer.Exit(INTERRUPTED) from None


def _train_and_tell(
    command: str,
    folder: Path,
    json: bool,
    work: Callable[[Callable[[Any], None]], Any],
    split: Any,
    profile: Callable[[Any], Any] | None,
) -> NoReturn:
    """Train, with a bar; then say how it ended, what is wrong, and what comes next."""
    from isograd.diagnosis import examine
    from isograd.report import json as as_json
    from isograd.report.profile import show_profile
    from isograd.report.progress import progress_bar
    from isograd.report.terminal import show_outcome

    with progress_bar(ERR, quiet=json) as bar:

        def told(p: Any) -> None:
            held_out = "" if p.validation is None else f", validation {p.validation:.4g}"
            skipped = f", {p.skipped} skipped" if p.skipped else ""
            bar("training", p.step, p.steps, f"loss {p.loss:.4g}{held_out}{skipped}")

        outcome = work(told)
    diagnosis = examine(outcome, split)
    found = profile(outcome) if profile and outcome.stopped != "interrupted" else None
    if json:
        content: dict[str, Any] = {"run": str(folder), "outcome": as_json.outcome(outcome)}
        content["diagnosis"] = as_json.diagnosis(diagnosis)
        if command == "train":
            content["timing"] = as_json.timing(found)
        print(as_json.dumps(command, content), flush=True)
    else:
        show_outcome(OUT, outcome)
        if found is not None:
            show_profile(OUT, found)
        say(f"{diagnosis.verdict}: {diagnosis.reason}")
        if outcome.stopped == "interrupted":
            say(f"kept in {folder}; go on with\n\n  isograd resume {folder}\n")
        else:
            say(f"kept in {folder}; look at it with\n\n  isograd show {folder}\n")
    if outcome.stopped == "interrupted":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(SICK if diagnosis.verdict == "sick" else HEALTHY)
