"""The command line: thin over the stages.

Exit codes: 0 healthy or cured, or done; 1 sick, and not cured; 2 unusable input; 130 interrupted;
141 nobody read the output.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.console import Console

from isograd._version import __version__
from isograd.errors import IsogradError, RunError

HEALTHY, SICK, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
UNREAD = 141  # what a shell reports of a program whose output nobody reads: 128 + SIGPIPE

app = typer.Typer(
    name="isograd",
    help="Train deep feedforward networks, say why one does not train, and prove what cures it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What is printed holds names of files, and they may hold what would be markup.
_out = Console(markup=False, emoji=False, highlight=False)
_err = Console(markup=False, emoji=False, highlight=False, stderr=True)

_SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="A TOML file; `isograd init` writes one.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md) and nothing else.")]
_Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Instead of the seed in the spec.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"isograd {__version__}", flush=True)
        raise typer.Exit


def _not_zero(jobs: int) -> int:
    if jobs == 0:
        raise typer.BadParameter("give a number of processes, or -1 for one per core")
    return jobs


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\nisograd doctor spec.toml\n\nisograd doctor runs/spec-001 --no-trials\n\n"
    "isograd doctor spec.toml --json > report.json"
)
def doctor(
    target: Annotated[
        Path, typer.Argument(metavar="SPEC|RUN", help="A TOML file, or the folder of a run.")
    ],
    json: _Json = False,
    seed: _Seed = None,
    seeds: Annotated[int, typer.Option(min=3, help="Runs per arm of the trials.")] = 3,
    jobs: Annotated[
        int, typer.Option(callback=_not_zero, help="Processes; -1 takes one per core.")
    ] = -1,
    trials: Annotated[bool, typer.Option(help="Try cures on a sick network.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the cured spec; by default beside the old one."),
    ] = None,
) -> None:
    """Train a network, say why it does not train, and prove what cures it."""
    from isograd.nn.toml import loads, read
    from isograd.report import doctor as examine
    from isograd.report import json as as_json
    from isograd.report.progress import progress_bar
    from isograd.report.terminal import show_diagnosis, show_trials
    from isograd.training.run import SPEC, base_of

    path, old = target, target
    if target.is_dir():
        path = target / SPEC
        old = base_of(target) / f"{target.absolute().name}.toml"
    text = read(path)
    spec = loads(text, where=str(path))
    if seed is not None:
        spec, text = _reseeded(spec, text, seed)
    if out is not None and out.exists():
        raise RunError(
            "a cured spec is never written over a file",
            came=f"{out} exists",
            fix="give another --out",
        )

    with progress_bar(_err, quiet=json) as bar:

        def diagnosed(outcome: Any, diagnosis: Any) -> None:
            if json:
                return
            title, steps = f"isograd doctor {target}", len(outcome.telemetry.records)
            if outcome.stopped == "interrupted":
                title += " (interrupted)"
            with bar.away():
                show_diagnosis(_out, outcome.model, diagnosis, title=title, steps=steps)

        report = examine(
            spec,
            text=text,
            name=path.name,
            base=old.parent,
            trials=trials,
            seeds=seeds,
            jobs=jobs,
            on_train=lambda p: bar("training", p.step, p.steps, f"loss {p.loss:.4g}"),
            on_diagnosis=diagnosed,
            on_trial=lambda name, done, total: bar("trials", done, total, name),
        )
    written, unwritten = None, None
    if report.cured is not None:
        written = out or _beside(old)
        try:
            _write_new(written, report.cured)
        except RunError as error:  # told last: the trials took a minute
            written, unwritten = None, error
    if json:
        content = {**as_json.report(report), "cured_spec": str(written) if written else None}
        print(as_json.dumps("doctor", content), flush=True)
    else:
        show_trials(_out, report)
        if written is not None:
            _say(f"\nThe cured spec is in {written}; try it with\n\n  isograd train {written}\n")
        _out.print(f"{report.seconds:.0f} s", style="dim")
    if unwritten is not None:
        raise unwritten
    prescription = report.prescription
    if report.outcome.stopped == "interrupted" or (prescription and prescription.interrupted):
        raise typer.Exit(INTERRUPTED)
    sick = report.diagnosis.verdict == "sick" and report.cured is None
    raise typer.Exit(SICK if sick else HEALTHY)


@app.command(
    epilog="Examples:\n\nisograd train spec.toml\n\nisograd train spec.toml --seed 1 --out runs/one"
)
def train(
    spec: _SpecArgument,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/NAME-001, -002, …")
    ] = None,
    json: _Json = False,
    seed: _Seed = None,
) -> None:
    """Train a network, and keep spec, telemetry, weights and result in a folder."""
    from isograd.diagnosis import examine
    from isograd.nn.toml import loads, read
    from isograd.report import json as as_json
    from isograd.report.progress import progress_bar
    from isograd.report.terminal import show_outcome
    from isograd.training.loop import load_split
    from isograd.training.run import new_folder
    from isograd.training.run import train as run

    text = read(spec)
    parsed = loads(text, where=str(spec))
    if seed is not None:
        parsed, text = _reseeded(parsed, text, seed)
    split = load_split(parsed, spec.parent)
    folder = out or new_folder(spec, Path("runs"))
    with progress_bar(_err, quiet=json) as bar:
        outcome = run(
            parsed,
            text,
            split,
            folder,
            base=spec.parent,
            progress=lambda p: bar("training", p.step, p.steps, f"loss {p.loss:.4g}"),
        )
    diagnosis = examine(outcome, split)
    if json:
        content = {"run": str(folder), "outcome": as_json.outcome(outcome)}
        content["diagnosis"] = as_json.diagnosis(diagnosis)
        print(as_json.dumps("train", content), flush=True)
    else:
        show_outcome(_out, outcome)
        _say(f"{diagnosis.verdict}: {diagnosis.reason}")
        _say(f"kept in {folder}; look at it with\n\n  isograd show {folder}\n")
    if outcome.stopped == "interrupted":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(SICK if diagnosis.verdict == "sick" else HEALTHY)


@app.command(
    epilog="Examples:\n\nisograd show runs/spec-001\n\nisograd show runs/spec-001 --json | jq ."
)
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    json: _Json = False,
) -> None:
    """Diagnose a run from its telemetry, even while it is being written."""
    from isograd.diagnosis import Case, diagnose
    from isograd.report import json as as_json
    from isograd.report.terminal import show_diagnosis
    from isograd.training.run import open_run

    stored = open_run(run)
    diagnosis = diagnose(
        Case(
            spec=stored.spec,
            model=stored.model,
            telemetry=stored.telemetry,
            constant=stored.constant,
            rows=stored.rows,
            stopped=stored.stopped,
        )
    )
    if json:
        content = {**as_json.run(stored), "diagnosis": as_json.diagnosis(diagnosis)}
        print(as_json.dumps("show", content), flush=True)
    else:
        title, steps = f"{run} ({stored.stopped})", len(stored.telemetry.records)
        show_diagnosis(_out, stored.model, diagnosis, title=title, steps=steps)
    raise typer.Exit(SICK if diagnosis.verdict == "sick" else HEALTHY)


@app.command(epilog="Examples:\n\nisograd runs\n\nisograd runs elsewhere --json")
def runs(
    root: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder that holds runs.")
    ] = Path("runs"),
    json: _Json = False,
) -> None:
    """List the runs in a folder."""
    from isograd.report import json as as_json
    from isograd.report.terminal import show_runs
    from isograd.training.run import list_runs, open_run

    stored, damaged = [], []
    for path in list_runs(root):
        try:
            stored.append(open_run(path))
        except IsogradError as error:  # one run must not hide the others
            damaged.append(error)
    if json:
        print(as_json.dumps("runs", {"runs": [as_json.run(s) for s in stored]}), flush=True)
    elif stored:
        show_runs(_out, stored)
    elif not damaged:
        _say(f"no runs in {root}; `isograd train SPEC` makes one")
    for problem in damaged:
        _complain(str(problem))
    raise typer.Exit(UNUSABLE if damaged else HEALTHY)


@app.command(
    epilog="Examples:\n\nisograd init\n\nisograd init deep.toml && isograd doctor deep.toml"
)
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path(
        "spec.toml"
    ),
) -> None:
    """Write a commented spec to start from."""
    from isograd.nn.template import TEMPLATE

    _write_new(path, TEMPLATE)
    _say(f"wrote {path}; try it with\n\n  isograd train {path}\n")


def _reseeded(spec: Any, text: str, seed: int) -> tuple[Any, str]:
    from isograd.nn.toml import patch

    changed = replace(spec, seed=seed)
    return changed, patch(text, spec, changed)


def _beside(path: Path) -> Path:
    """A free name beside a spec: NAME.cured.toml, NAME.cured-2.toml, …"""
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        candidate = path.with_name(f"{path.stem}.cured{suffix}.toml")
        if not candidate.exists():
            return candidate
        number += 1


def _write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet."""
    try:
        with path.open("xb") as file:
            file.write(text.encode())
    except FileExistsError:
        raise RunError(
            "a spec is never written over a file", came=f"{path} exists", fix="give another name"
        ) from None
    except OSError as error:
        raise RunError(
            "the spec's folder must be writable",
            came=error.strerror or str(error),
            where=str(path),
            fix="give a path that can be written (doctor: --out)",
        ) from None


def _say(text: str) -> None:
    """Print without breaking lines: they hold paths and commands to copy."""
    _out.print(text, soft_wrap=True)


def _complain(text: str) -> None:
    _err.print(f"isograd: {text}", style="red", soft_wrap=True)


def main() -> None:
    """Run the command line; errors of the user's are told, not raised."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without ‖δ‖ is no error
    try:
        app(prog_name="isograd")
    except IsogradError as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.strerror or error}: {error.filename or 'what was asked for'}")
    except MemoryError as error:
        _complain(f"the network must fit in memory\n  came:  {error}\n  fix:   lower its units")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(UNREAD)
        raise
    sys.exit(UNUSABLE)


if __name__ == "__main__":
    main()
