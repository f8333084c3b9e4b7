"""isograd show and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isograd.cli.common import HEALTHY, OUT, SICK, UNUSABLE, Json, RunArgument, complain, say
from isograd.errors import IsogradError


def show(
    run: RunArgument,
    json: Json = False,
) -> None:
    """Diagnose a run from its telemetry, even while it is being written."""
    from isograd.diagnosis import Case, diagnose
    from isograd.report import json as as_json
    from isograd.report.terminal import show_diagnosis
    from isograd.training.folder import open_run

    stored = open_run(run)
    diagnosis = diagnose(
        Case(
            spec=stored.spec,
            model=stored.model,
            telemetry=stored.telemetry,
            constant=stored.constant,
            rows=stored.rows,
            stopped=stored.stopped,
            fitted=stored.fitted,
        )
    )
    if json:
        content = {**as_json.run(stored), "diagnosis": as_json.diagnosis(diagnosis)}
        print(as_json.dumps("show", content), flush=True)
    else:
        title, steps = f"{run} ({stored.stopped})", len(stored.telemetry.records)
        show_diagnosis(OUT, stored.model, diagnosis, title=title, steps=steps)
        if stored.resumable:
            say(
                "not at its end; unless another process still trains it, go on with\n\n"
                f"  isograd resume {run}\n"
            )
    raise typer.Exit(SICK if diagnosis.verdict == "sick" else HEALTHY)


def runs(
    root: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder that holds runs.")
    ] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs in a folder."""
    from isograd.report import json as as_json
    from isograd.report.terminal import show_runs
    from isograd.training.folder import list_runs, open_run

    stored, damaged = [], []
    for path in list_runs(root):
        try:
            stored.append(open_run(path))
        except IsogradError as error:  # one run must not hide the others
            damaged.append(error)
    if json:
        print(as_json.dumps("runs", {"runs": [as_json.run(s) for s in stored]}), flush=True)
    elif stored:
        show_runs(OUT, stored)
    elif not damaged:
        say(f"no runs in {root}; `isograd train SPEC` makes one")
    for problem in damaged:
        complain(str(problem))
    raise typer.Exit(UNUSABLE if damaged else HEALTHY)
