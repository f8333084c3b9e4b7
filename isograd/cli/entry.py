"""The command line as a whole."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from isograd._version import __version__
from isograd.backends.select import SLOWER
from isograd.cli.check import check
from isograd.cli.common import UNREAD, UNUSABLE, complain
from isograd.cli.doctor import doctor
from isograd.cli.init import init
from isograd.cli.map import map
from isograd.cli.runs import runs, show
from isograd.cli.trained import export, predict
from isograd.cli.training import resume, train
from isograd.errors import IsogradError

app = typer.Typer(
    name="isograd",
    help="Train deep feedforward networks, say why one does not train, and prove what cures it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    check: (
        "isograd check spec.toml",
        "isograd check spec.toml --html check.html",
        "isograd check spec.toml --json | jq .verdict",
    ),
    doctor: (
        "isograd doctor spec.toml",
        "isograd doctor runs/spec-001 --no-trials",
        "isograd doctor spec.toml --json > report.json",
    ),
    train: (
        "isograd train spec.toml",
        "isograd train spec.toml --seed 1 --out runs/one",
    ),
    resume: ("isograd resume runs/spec-001",),
    show: (
        "isograd show runs/spec-001",
        "isograd show runs/spec-001 --json | jq .",
    ),
    runs: (
        "isograd runs",
        "isograd runs elsewhere --json",
    ),
    map: (
        "isograd map spec.toml",
        "isograd map spec.toml --x sigma_w=1:4:12 --y depth=5:60:12 --steps 200",
        "isograd map spec.toml --x optimiser.lr=1e-4:1:9:log --y training.batch_size=16,64,256",
    ),
    predict: (
        "isograd predict runs/spec-001 new.csv > predictions.csv",
        "isograd predict runs/spec-001 digits --json",
    ),
    export: (
        "isograd export runs/spec-001 --to onnx",
        "isograd export runs/spec-001 --to npz --out weights.npz",
    ),
    init: (
        "isograd init",
        "isograd init deep.toml && isograd doctor deep.toml",
    ),
}
"""The commands in the order of the help, each with examples."""

for _command, _examples in _COMMANDS.items():
    app.command(epilog="\n\n".join(["Examples:", *_examples]))(_command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"isograd {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors of the user's are told, not raised."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without ‖δ‖ is no error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", SLOWER, RuntimeWarning)
            warnings.showwarning = lambda message, *_, **__: complain(str(message))
            app(prog_name="isograd")
    except IsogradError as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.strerror or error}: {error.filename or 'what was asked for'}")
    except MemoryError as error:
        complain(f"the network must fit in memory\n  came:  {error}\n  fix:   lower its units")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(UNREAD)
        raise
    sys.exit(UNUSABLE)
