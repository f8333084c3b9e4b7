"""isograd predict and export."""

from __future__ import annotations

import enum
import io
from pathlib import Path
from typing import Annotated

import typer

from isograd.cli.common import ERR, Json, TrainedArgument, say, write_new, written_over


def predict(
    run: TrainedArgument,
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
    json: Json = False,
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
        write_new(out, content.getvalue())
    ERR.print(said.text(), soft_wrap=True)


class Format(enum.StrEnum):
    """What a network can be exported to."""

    NPZ = "npz"
    ONNX = "onnx"


def export(
    run: TrainedArgument,
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
        raise written_over(path)
    if to is Format.ONNX:
        save(path, trained.model, trained.params, trained.preparation, dtype=trained.spec.dtype)
    else:
        to_npz(path, trained.params, trained.preparation, toml=trained.text)
    say(f"wrote {path}")
