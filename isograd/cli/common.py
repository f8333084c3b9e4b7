"""What the commands share: exit codes, arguments, and how they speak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.console import Console

from isograd.errors import RunError

HEALTHY, SICK, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
UNREAD = 141  # what a shell reports of a program whose output nobody reads: 128 + SIGPIPE

# What is printed holds names of files, and they may hold what would be markup.
OUT = Console(markup=False, emoji=False, highlight=False)
ERR = Console(markup=False, emoji=False, highlight=False, stderr=True)

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="A TOML file; `isograd init` writes one.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
TrainedArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, or its weights alone.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md) and nothing else.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the seed in the spec.")]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The folder that relative paths of data start from; by default the spec's."
    ),
]
CheckpointSeconds = Annotated[
    float,
    typer.Option(
        "--checkpoint-seconds", min=0, help="From one checkpoint to the next; 0: every step."
    ),
]


Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="native|numpy",
        help="Machine code made for this machine, or the reference interpreter.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of native code; by default one per core."),
]


def _not_zero(jobs: int) -> int:
    if jobs == 0:
        raise typer.BadParameter("give a number of processes, or -1 for one per core")
    return jobs


Jobs = Annotated[
    int, typer.Option("--jobs", callback=_not_zero, help="Processes; -1 takes one per core.")
]


def reseeded(spec: Any, text: str, seed: int) -> tuple[Any, str]:
    """A spec and its text with another seed."""
    from isograd.nn.toml import patch

    changed = replace(spec, seed=seed)
    return changed, patch(text, spec, changed)


def write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet."""
    try:
        with path.open("xb") as file:
            file.write(text.encode())
    except FileExistsError:
        raise written_over(path) from None
    except OSError as error:
        raise RunError(
            "the folder of a new file must be writable",
            came=error.strerror or str(error),
            where=str(path),
            fix="give a path that can be written",
        ) from None


def written_over(path: Path) -> RunError:
    """The error of a file that is there already."""
    return RunError(
        "nothing is written over a file", came=f"{path} exists", fix="give another name"
    )


def say(text: str) -> None:
    """Print without breaking lines: they hold paths and commands to copy."""
    OUT.print(text, soft_wrap=True)


def complain(text: str) -> None:
    """Say what is wrong, on standard error."""
    ERR.print(f"isograd: {text}", style="red", soft_wrap=True)
