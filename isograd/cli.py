"""The command line: thin over the stages.

Exit codes: 0 healthy or cured, or done; 1 sick, and not cured; 2 unusable input; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from isograd._version import __version__
from isograd.errors import IsogradError, RunError

HEALTHY, SICK, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="isograd",
    help="Train deep feedforward networks, say why one does not train, and prove what cures it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_out = Console()
_err = Console(stderr=True)

_SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="A TOML file; `isograd init` writes one.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md) and nothing else.")]
_Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Instead of the seed in the spec.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"isograd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int, str], None]]:
    """A progress bar on standard error; gives a function (task, done, total, note)."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=_err,
        transient=True,
        disable=quiet,
    ) as progress:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int, note: str = "") -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, note=note)
            progress.update(tasks[name], completed=done, note=note)

        yield update


@app.command(
    epilog="Examples:  isograd doctor spec.toml   |   isograd doctor runs/spec-001   |   "
    "isograd doctor spec.toml --json > report.json"
)
def doctor(
    target: Annotated[
        Path, typer.Argument(metavar="SPEC|RUN", help="A TOML file, or the folder of a run.")
    ],
    json: _Json = False,
    seed: _Seed = None,
    seeds: Annotated[int, typer.Option(min=3, help="Runs per arm of the trials.")] = 3,
    jobs: Annotated[int, typer.Option(help="Processes; -1 takes one per core.")] = -1,
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
    from isograd.report.terminal import show_diagnosis, show_trials
    from isograd.training.run import SPEC

    path = target / SPEC if target.is_dir() else target
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

    with _bar(json) as bar:

        def diagnosed(outcome: Any, diagnosis: Any) -> None:
            if not json:
                show_diagnosis(
                    _out,
                    outcome.model,
                    diagnosis,
                    title=f"isograd doctor {path}",
                    steps=len(outcome.telemetry.records),
                )

        report = examine(
            spec,
            text=text,
            name=path.name,
            base=path.parent,
            trials=trials,
            seeds=seeds,
            jobs=jobs,
            on_train=lambda p: bar("training", p.step, p.steps, f"loss {p.loss:.4g}"),
            on_diagnosis=diagnosed,
            on_trial=lambda name, done, total: bar("trials", done, total, name),
        )
    written = None
    if report.cured is not None:
        written = out or _beside(path)
        _write_new(written, report.cured)
    if json:
        print(as_json.dumps("doctor", {**as_json.report(report), "cured_spec": _text(written)}))
    else:
        show_trials(_out, report)
        if written is not None:
            _out.print(f"\nThe cured spec is in [bold]{written}[/bold]; try it with\n")
            _out.print(f"  isograd train {written}\n")
        _out.print(f"{report.seconds:.0f} s", style="dim")
    prescription = report.prescription
    if report.outcome.stopped == "interrupted" or (prescription and prescription.interrupted):
        raise typer.Exit(INTERRUPTED)
    sick = report.diagnosis.verdict == "sick" and report.cured is None
    raise typer.Exit(SICK if sick else HEALTHY)


@app.command(epilog="Example:  isograd train spec.toml --out runs/first")
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
    with _bar(json) as bar:
        outcome = run(
            parsed,
            text,
            split,
            folder,
            progress=lambda p: bar("training", p.step, p.steps, f"loss {p.loss:.4g}"),
        )
    diagnosis = examine(outcome, split)
    if json:
        content = {"run": str(folder), "outcome": as_json.outcome(outcome)}
        print(as_json.dumps("train", {**content, "diagnosis": as_json.diagnosis(diagnosis)}))
    else:
        show_outcome(_out, outcome)
        _out.print(f"{diagnosis.verdict}: {diagnosis.reason}")
        _out.print(f"kept in {folder}; look at it with\n\n  isograd show {folder}\n")
    if outcome.stopped == "interrupted":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(SICK if diagnosis.verdict == "sick" else HEALTHY)


@app.command(epilog="Example:  isograd show runs/spec-001")
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
    steps = len(stored.telemetry.records)
    if json:
        content = {"run": str(run), "steps": steps, "result": stored.result}
        print(as_json.dumps("show", {**content, "diagnosis": as_json.diagnosis(diagnosis)}))
    else:
        show_diagnosis(
            _out, stored.model, diagnosis, title=f"{run} ({stored.stopped})", steps=steps
        )
    raise typer.Exit(SICK if diagnosis.verdict == "sick" else HEALTHY)


@app.command(epilog="Example:  isograd runs")
def runs(
    root: Annotated[Path, typer.Argument(help="The folder that holds runs.")] = Path("runs"),
    json: _Json = False,
) -> None:
    """List the runs in a folder."""
    from rich.table import Table

    from isograd.report import json as as_json
    from isograd.training.run import list_runs, open_run

    stored = [open_run(path) for path in list_runs(root)]
    if json:
        rows = [
            {"run": str(s.path), "steps": len(s.telemetry.records), "result": s.result}
            for s in stored
        ]
        print(as_json.dumps("runs", {"runs": rows}))
        return
    if not stored:
        _out.print(f"no runs in {root}; `isograd train SPEC` makes one")
        return
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for column in ("run", "state", "steps", "training loss", "test score"):
        table.add_column(column)
    for s in stored:
        r = s.result
        scores = (
            (f"{r['train']['loss']:.4f}", f"{r['metric']} {r['test']['accuracy']:.3f}")
            if r
            else ("", "")
        )
        table.add_row(str(s.path), s.stopped, str(len(s.telemetry.records)), *scores)
    _out.print(table)


@app.command(epilog="Example:  isograd init spec.toml && isograd doctor spec.toml")
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("spec.toml"),
) -> None:
    """Write a commented spec to start from."""
    from isograd.nn.template import TEMPLATE

    _write_new(path, TEMPLATE)
    _out.print(f"wrote {path}; try it with\n\n  isograd train {path}\n")


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
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
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


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def main() -> None:
    """Run the command line; errors of the user's are told, not raised."""
    try:
        app(standalone_mode=False)
    except IsogradError as error:
        _err.print(f"isograd: {error}", style="red", markup=False, highlight=False)
        sys.exit(UNUSABLE)
    except KeyboardInterrupt:
        _err.print("interrupted")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
