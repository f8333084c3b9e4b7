"""The command line: thin over the stages.

Exit codes: 0 healthy or cured, or done; 1 sick, and not cured; 2 unusable input; 130 interrupted;
141 nobody read the output.
"""

from __future__ import annotations

import enum
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

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
_RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
_TrainedArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, or its weights alone.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md) and nothing else.")]
_Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Instead of the seed in the spec.")
]


_Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The folder that relative paths of data start from; by default the spec's."
    ),
]
_Checkpoint = Annotated[
    float,
    typer.Option(
        "--checkpoint-seconds", min=0, help="From one checkpoint to the next; 0: every step."
    ),
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
    data: _Data = None,
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
        spec, text = _reseeded(spec, text, seed)
    if out is not None and out.exists():
        raise _over(out)

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
            base=data or old.parent,
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
    data: _Data = None,
    checkpoint_seconds: _Checkpoint = 30.0,
) -> None:
    """Train a network, and keep spec, telemetry, weights and result in a folder."""
    from isograd.nn.toml import loads, read
    from isograd.training.folder import new_folder
    from isograd.training.run import train as run
    from isograd.training.start import load_split

    text = read(spec)
    parsed = loads(text, where=str(spec))
    if seed is not None:
        parsed, text = _reseeded(parsed, text, seed)
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
        ),
        split,
    )


@app.command(epilog="Examples:\n\nisograd resume runs/spec-001")
def resume(
    run: _RunArgument,
    json: _Json = False,
    data: _Data = None,
    checkpoint_seconds: _Checkpoint = 30.0,
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
        lambda told: go_on(run, split=split, progress=told, checkpoint_seconds=checkpoint_seconds),
        split,
    )


def _trained(
    command: str, folder: Path, json: bool, work: Callable[[Callable[[Any], None]], Any], split: Any
) -> NoReturn:
    """Train, and say how to go on where an interrupt leaves nothing else to say."""
    from isograd.training.folder import CHECKPOINT

    try:
        _train_and_tell(command, folder, json, work, split)
    except KeyboardInterrupt:  # before the first step, or a second one
        if (folder / CHECKPOINT).exists() and not json:
            _say(f"interrupted; go on with\n\n  isograd resume {folder}\n")
        raise typer.Exit(INTERRUPTED) from None


def _train_and_tell(
    command: str, folder: Path, json: bool, work: Callable[[Callable[[Any], None]], Any], split: Any
) -> NoReturn:
    """Train, with a bar; then say how it ended, what is wrong, and what comes next."""
    from isograd.diagnosis import examine
    from isograd.report import json as as_json
    from isograd.report.progress import progress_bar
    from isograd.report.terminal import show_outcome

    with progress_bar(_err, quiet=json) as bar:

        def told(p: Any) -> None:
            held_out = "" if p.validation is None else f", validation {p.validation:.4g}"
            skipped = f", {p.skipped} skipped" if p.skipped else ""
            bar("training", p.step, p.steps, f"loss {p.loss:.4g}{held_out}{skipped}")

        outcome = work(told)
    diagnosis = examine(outcome, split)
    if json:
        content = {"run": str(folder), "outcome": as_json.outcome(outcome)}
        content["diagnosis"] = as_json.diagnosis(diagnosis)
        print(as_json.dumps(command, content), flush=True)
    else:
        show_outcome(_out, outcome)
        _say(f"{diagnosis.verdict}: {diagnosis.reason}")
        if outcome.stopped == "interrupted":
            _say(f"kept in {folder}; go on with\n\n  isograd resume {folder}\n")
        else:
            _say(f"kept in {folder}; look at it with\n\n  isograd show {folder}\n")
    if outcome.stopped == "interrupted":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(SICK if diagnosis.verdict == "sick" else HEALTHY)


@app.command(
    epilog="Examples:\n\nisograd show runs/spec-001\n\nisograd show runs/spec-001 --json | jq ."
)
def show(
    run: _RunArgument,
    json: _Json = False,
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
        show_diagnosis(_out, stored.model, diagnosis, title=title, steps=steps)
        if stored.resumable:
            _say(
                "not at its end; unless another process still trains it, go on with\n\n"
                f"  isograd resume {run}\n"
            )
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
        show_runs(_out, stored)
    elif not damaged:
        _say(f"no runs in {root}; `isograd train SPEC` makes one")
    for problem in damaged:
        _complain(str(problem))
    raise typer.Exit(UNUSABLE if damaged else HEALTHY)


@app.command(
    epilog="Examples:\n\nisograd predict runs/spec-001 new.csv > predictions.csv\n\n"
    "isograd predict runs/spec-001 digits --json"
)
def predict(
    run: _TrainedArgument,
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A file as for training, or a data set by its name."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A new .csv file; by default it is printed.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The file of labels beside one of images in idx format.")
    ] = None,
    json: _Json = False,
) -> None:
    """Say what a trained network makes of data: a line for each row."""
    from isograd.report import json as as_json
    from isograd.report.predictions import predictions
    from isograd.training.folder import open_trained
    from isograd.training.inputs import read_inputs

    trained = open_trained(run)
    rows = read_inputs(
        data, trained.preparation, dtype=trained.spec.dtype, labels=labels, seed=trained.spec.seed
    )
    said = predictions(trained.model, trained.params, trained.preparation, rows.X, rows.y)
    if json:
        print(as_json.dumps("predict", {"run": str(run), **said.to_json()}), flush=True)
        return
    content = io.StringIO(newline="")
    said.to_csv(content)
    if out is None:
        print(content.getvalue(), end="", flush=True)
    else:
        _write_new(out, content.getvalue())
    _err.print(said.text(), soft_wrap=True)


class Format(enum.StrEnum):
    """What a network can be exported to."""

    NPZ = "npz"
    ONNX = "onnx"


@app.command(
    epilog="Examples:\n\nisograd export runs/spec-001 --to onnx\n\n"
    "isograd export runs/spec-001 --to npz --out weights.npz"
)
def export(
    run: _TrainedArgument,
    to: Annotated[Format, typer.Option(help="npz: arrays by name. onnx: the network as a graph.")],
    out: Annotated[
        Path | None, typer.Option(help="A new file; by default RUN.npz or RUN.onnx, here.")
    ] = None,
) -> None:
    """Write a trained network for other programs."""
    from isograd.adapters.npz import to_npz
    from isograd.adapters.onnx import save
    from isograd.training.folder import open_trained

    trained = open_trained(run)
    path = out or Path(f"{run.absolute().name}.{to}")
    if path.exists():
        raise _over(path)
    if to is Format.ONNX:
        save(path, trained.model, trained.params, trained.preparation, dtype=trained.spec.dtype)
    else:
        to_npz(path, trained.params, trained.preparation, toml=trained.text)
    _say(f"wrote {path}")


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
        raise _over(path) from None
    except OSError as error:
        raise RunError(
            "the folder of a new file must be writable",
            came=error.strerror or str(error),
            where=str(path),
            fix="give a path that can be written, with --out",
        ) from None


def _over(path: Path) -> RunError:
    return RunError(
        "nothing is written over a file", came=f"{path} exists", fix="give another name, or --out"
    )


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
