"""isograd doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isograd.cli.common import (
    ERR,
    HEALTHY,
    INTERRUPTED,
    OUT,
    SICK,
    Backend,
    DataFolder,
    Jobs,
    Json,
    Seed,
    Threads,
    reseeded,
    say,
    write_new,
    written_over,
)
from isograd.errors import RunError


def doctor(
    target: Annotated[
        Path, typer.Argument(metavar="SPEC|RUN", help="A TOML file, or the folder of a run.")
    ],
    json: Json = False,
    seed: Seed = None,
    seeds: Annotated[int, typer.Option(min=3, help="Runs per arm of the trials.")] = 3,
    jobs: Jobs = -1,
    trials: Annotated[bool, typer.Option(help="Try cures on a sick network.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the cured spec; by default beside the old one."),
    ] = None,
    data: DataFolder = None,
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Train a network, say why it does not train, and prove what cures it."""
    from isograd.nn.toml import loads, read
    from isograd.report import doctor as examine
    from isograd.report import json as as_json
    from isograd.report.progress import progress_bar
    from isograd.report.terminal import show_diagnosis, show_trials
    from isograd.training.folder import SPEC, base_of

    path, old = target, target
    if target.is_dir():
        path = target / SPEC
        old = base_of(target) / f"{target.absolute().name}.toml"
    text = read(path)
    spec = loads(text, where=str(path))
    if seed is not None:
        spec, text = reseeded(spec, text, seed)
    if out is not None and out.exists():
        raise written_over(out)

    with progress_bar(ERR, quiet=json) as bar:

        def diagnosed(outcome: Any, diagnosis: Any) -> None:
            if json:
                return
            title, steps = f"isograd doctor {target}", len(outcome.telemetry.records)
            if outcome.stopped == "interrupted":
                title += " (interrupted)"
            with bar.away():
                show_diagnosis(OUT, outcome.model, diagnosis, title=title, steps=steps)

        report = examine(
            spec,
            text=text,
            name=path.name,
            base=data or old.parent,
            trials=trials,
            seeds=seeds,
            jobs=jobs,
            backend=backend,
            threads=threads,
            on_train=lambda p: bar("training", p.step, p.steps, f"loss {p.loss:.4g}"),
            on_diagnosis=diagnosed,
            on_trial=lambda name, done, total: bar("trials", done, total, name),
        )
    written, unwritten = None, None
    if report.cured is not None:
        written = out or _beside(old)
        try:
            write_new(written, report.cured)
        except RunError as error:  # told last: the trials took a minute
            written, unwritten = None, error
    if json:
        content = {**as_json.report(report), "cured_spec": str(written) if written else None}
        print(as_json.dumps("doctor", content), flush=True)
    else:
        show_trials(OUT, report)
        if written is not None:
            say(f"\nThe cured spec is in {written}; try it with\n\n  isograd train {written}\n")
        OUT.print(f"{report.seconds:.0f} s", style="dim")
    if unwritten is not None:
        raise unwritten
    prescription = report.prescription
    if report.outcome.stopped == "interrupted" or (prescription and prescription.interrupted):
        raise typer.Exit(INTERRUPTED)
    sick = report.diagnosis.verdict == "sick" and report.cured is None
    raise typer.Exit(SICK if sick else HEALTHY)


def _beside(path: Path) -> Path:
    """A free name beside a spec: NAME.cured.toml, NAME.cured-2.toml, …"""
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        candidate = path.with_name(f"{path.stem}.cured{suffix}.toml")
        if not candidate.exists():
            return candidate
        number += 1
