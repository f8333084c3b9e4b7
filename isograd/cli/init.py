"""isograd init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isograd.cli.common import say, write_new


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path(
        "spec.toml"
    ),
) -> None:
    """Write a commented spec to start from."""
    from isograd.nn.template import TEMPLATE

    write_new(path, TEMPLATE)
    say(f"wrote {path}; try it with\n\n  isograd train {path}\n")
