"""Networks as ONNX files: what they do to a row of data, primitive by primitive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from isograd._version import __version__
from isograd.adapters.onnx_graph import Function, OpenGraph, open_graph
from isograd.adapters.onnx_ops import NODES, NONE, Inputs, Params
from isograd.adapters.onnx_writer import Writer, library
from isograd.engine import functions as F
from isograd.engine.graph import ArraySpec, Eqn, Var
from isograd.engine.ops import RULES, Op, Value
from isograd.errors import GraphError, IsogradError, ShapeError
from isograd.nn.model import Model
from isograd.report.predictions import probabilities
from isograd.training.files import write_whole

if TYPE_CHECKING:
    from isograd.training.preparation import Preparation

LIMIT = 2**31 - 1
"""The most bytes that a protocol buffer, and so a file in one piece, can have."""
_NODE_BYTES = 500  # more than a node takes with its names


def to_onnx(
    model: Model,
    params: Mapping[str, ArrayLike],
    preparation: Preparation | None = None,
    *,
    dtype: DTypeLike,
) -> bytes:
    """A network as an ONNX model, from rows of data to its answer.

    Args:
        model, params: a network, its parameters and statistics.
        preparation: that of its data. The model then takes raw features as float64 (n, d), fills
            and standardises them, and brings a regression back to the units of its targets. None:
            it takes and gives what the network does.
        dtype: float32 or float64, of the computation; parameters are cast to it.

    Returns:
        The content of a file: input "features" (n, d); output "output" (n, k), what the network
        gives; output "probabilities" (n, C), where the loss speaks of them. Parameters are
        initialisers named by their sites.

    Raises:
        IsogradError: if onnx is not installed, parameters do not fit the network, the file would
            be too large, or ONNX has no form for what the network does.
    """
    onnx = library()
    if (dtype := np.dtype(dtype)) not in (np.float32, np.float64):
        raise IsogradError("dtype must be float32 or float64", came=str(dtype))
    arrays = _arrays(model, params, preparation, dtype)
    weight = sum(spec.nbytes for spec in arrays.values())
    _require_small(weight)
    source = ArraySpec((1, model.n_in), np.float64 if preparation is not None else dtype)
    graph = open_graph(_function(model, dtype), arrays, source)
    _require_small(weight + _NODE_BYTES * len(graph.graph.eqns))
    writer = Writer(onnx, "features", (*arrays, *graph.outputs))
    values = {**params, **_moments(preparation)}
    needed = {var for eqn in graph.graph.eqns for var in eqn.inputs}
    for var in graph.graph.inputs:
        if var in needed and (name := graph.names[var]) in values:
            writer.tensor(np.asarray(values[name], var.spec.dtype), name)
    translate(writer, graph)
    content = writer.model(source, {name: var.spec for name, var in graph.outputs.items()})
    onnx.helper.set_model_props(content, _properties(model, preparation))
    onnx.checker.check_model(content, full_check=True)
    out: bytes = content.SerializeToString(deterministic=True)
    return out


def save(
    path: str | Path,
    model: Model,
    params: Mapping[str, ArrayLike],
    preparation: Preparation | None = None,
    *,
    dtype: DTypeLike,
) -> None:
    """Write what `to_onnx` gives, whole or not at all.

    Args:
        path: the file.
        model, params, preparation, dtype: as for `to_onnx`.

    Raises:
        IsogradError: as `to_onnx`.
        RunError: if the file cannot be written.
    """
    write_whole(path, to_onnx(model, params, preparation, dtype=dtype))


def _require_small(size: int) -> None:
    if size > LIMIT:
        raise IsogradError(
            "an ONNX file must be smaller than 2 GiB",
            came=f"{size / 2**30:.1f} GiB of parameters and nodes",
            fix="export to npz",
        )


# --- what the file computes


def _moments(preparation: Preparation | None) -> dict[str, tuple[float, ...]]:
    """What features and targets are prepared with, by the names it has in the file."""
    names = ("mean", "scale", "fill", "y_mean", "y_scale") if preparation is not None else ()
    given = ((name, getattr(preparation, name)) for name in names)
    return {f"preparation/{name}": value for name, value in given if value is not None}


def _arrays(
    model: Model,
    params: Mapping[str, ArrayLike],
    preparation: Preparation | None,
    dtype: np.dtype[Any],
) -> dict[str, ArraySpec]:
    """Shape and dtype of every array that the file may hold, by name."""
    shapes = {**model.shapes, **model.statistics}
    came = ""
    for name in sorted(shapes.keys() | params.keys()):
        if name not in shapes or name not in params:
            came = f"{name} is {'missing' if name in shapes else 'none of them'}"
        elif np.shape(params[name]) != shapes[name]:
            came = f"{name} of shape {np.shape(params[name])}, not {shapes[name]}"
    if preparation is not None and len(preparation.features) != model.n_in:
        came = f"{len(preparation.features)} features, not {model.n_in}"
    if came:
        must = "parameters and preparation must be those of the network"
        raise ShapeError(must, came=came, fix="take them from the same run")
    moments = _moments(preparation)
    return {name: ArraySpec(shape, dtype) for name, shape in shapes.items()} | {
        name: ArraySpec((len(value),)) for name, value in moments.items()
    }


def _function(model: Model, dtype: np.dtype[Any]) -> Function:
    """What the file computes: preparation, network, and the way back."""

    def function(arrays: Mapping[str, Value], x: Value) -> dict[str, Value]:
        given = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith("preparation/")}
        params = {k: v for k, v in arrays.items() if not k.startswith("preparation/")}
        if "fill" in given:
            x = F.where(F.not_equal(x, x), given["fill"], x)  # NaN alone differs from itself
        if "mean" in given:
            x = F.astype((x - given["mean"]) / given["scale"], dtype)
        output = model(params, x)
        shares = probabilities(model.network.loss, output)
        if "y_mean" in given:
            output = F.astype(output, np.float64) * given["y_scale"] + given["y_mean"]
        return {"output": output} | ({} if shares is None else {"probabilities": shares})

    return function


def _properties(model: Model, preparation: Preparation | None) -> dict[str, str]:
    """Texts that go with the model; lists as JSON."""
    out = {"isograd": __version__, "loss": str(type(model.network.loss).__struct_config__.tag)}
    if preparation is not None:
        out["task"] = preparation.task
        out["features"] = json.dumps(preparation.features, ensure_ascii=False)
        out["classes"] = json.dumps(preparation.classes, ensure_ascii=False)
    return out


# --- from equations to nodes


def translate(writer: Writer, graph: OpenGraph) -> None:
    """Write the equations of a graph, and its outputs.

    ONNX repeats short arguments of elementwise nodes by itself, so a broadcast is written only
    where something else reads it.

    Args:
        writer: it gets the nodes and the graph's constants; the tensors of inputs are the caller's.
        graph: what to write.

    Raises:
        GraphError: if a primitive has no form in ONNX.
    """
    names = {var: graph.names[var] for var in graph.graph.inputs}
    for var, array in graph.graph.constants.items():
        names[var] = writer.tensor(array, writer.name("constant"))
    repeated: dict[Var, tuple[Eqn, Params]] = {}

    def whole(var: Var) -> str:
        if var not in names:
            eqn, params = repeated[var]
            names[var] = write(eqn, params, [whole(v) for v in eqn.inputs])
        return names[var]

    def short(var: Var, reader: Op) -> str:
        source = repeated[var][0].inputs[0] if var in repeated else var
        # ONNX Runtime (1.31) takes a constant factor beside a product of matrices for a float32,
        # if it is a single number.
        number = source.spec.size == 1 and source.spec.dtype == np.float64
        name = whole(source)
        return writer.variable(name) if number and reader in (Op.MUL, Op.DIV) else name

    def write(eqn: Eqn, params: Params, inputs: Inputs) -> str:
        out = writer.name(graph.names.get(eqn.output, eqn.op.value))
        if eqn.op not in NODES:
            raise GraphError(
                "every primitive of an exported network must have a form in ONNX",
                came=f"{eqn.op.value} ({NONE[eqn.op]})",
                fix="write the network without it, or export to npz",
            )
        NODES[eqn.op](writer, eqn, params, inputs, out)
        return out

    for eqn, params in zip(graph.graph.eqns, graph.params, strict=True):
        if eqn.op is Op.BROADCAST:
            repeated[eqn.output] = eqn, params
            continue
        repeats = RULES[eqn.op].elementwise and not all(v in repeated for v in eqn.inputs)
        inputs = [short(v, eqn.op) if repeats else whole(v) for v in eqn.inputs]
        names[eqn.output] = write(eqn, params, inputs)
    for name, var in graph.outputs.items():
        writer.node("Identity", [whole(var)], name)


__all__ = ["save", "to_onnx", "translate"]
