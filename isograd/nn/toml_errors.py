"""What is wrong with a spec's TOML: file, key path, value, nearest known name, and a fix."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

from msgspec import ValidationError
from msgspec.structs import fields

from isograd.errors import SpecError, nearest
from isograd.nn import spec as s
from isograd.nn.checks import shown

_TABLES: dict[str, Any] = {
    "data": s.Data,
    "network": s.Network,
    "training": s.Training,
    "measure": s.Measure,
    "early_stopping": s.EarlyStopping,
    "precision": s.Precision,
}
_UNIONS: dict[str, Any] = {
    "layers": s.Layer,
    "init": s.Init,
    "loss": s.Loss,
    "optimiser": s.Optimiser,
    "schedule": s.Schedule,
}
_SAMPLES = {
    "data": 'add [data] with source = "digits", or a path to a .csv or .npz',
    "network": "add [network] with layers = [ ... ]",
    "layers": 'add layers = [ { kind = "dense", units = 10 } ]',
    "units": "add units, the number of outputs: units = 32",
    "times": "add times, the number of copies: times = 10",
    "source": 'add source = "digits", or a path to a .csv or .npz',
    "name": 'add the name of an activation: name = "tanh"',
    "every": "add every, a number of epochs: every = 10",
    "factor": "add factor, what an epoch multiplies the learning rate with: factor = 0.95",
    "epochs": "add epochs, how long the warm-up lasts: epochs = 5",
}
_ITEMS = {"layers": "a layer", "schedule": "a schedule", "class_weights": "a class weight"}
_TYPES = {
    "int": ("a whole number", "write it without quotes or decimals, such as 32"),
    "float": ("a number", "write it without quotes, such as 0.1"),
    "str": ("a string", "put it in quotes"),
    "bool": ("true or false", "write true or false, without quotes"),
    "object": ("a table", "write a table: { ... }"),
    "array": ("an array", "put it in square brackets: [ ... ]"),
}


def syntax_error(message: str, text: str, where: str) -> SpecError:
    """A message of tomllib as where:line:column, with the line."""
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    lines = text.split("\n")
    line, column = len(lines), len(lines[-1]) + 1
    if found:
        message = message[: found.start()]
        if found[1]:
            line, column = int(found[1]), int(found[2])
    return SpecError(
        "a spec must be valid TOML",
        came=f"{message}: {shown(lines[line - 1].strip())}",
        where=f"{where}:{line}:{column}",
        fix="correct this line or the one before it",
    )


def too_deep(where: str) -> SpecError:
    """Nesting that a parser gave up on."""
    return SpecError(
        f"residual and repeat blocks must not nest deeper than {s.MAX_NESTING}",
        came="far deeper nesting",
        where=where,
        fix="for depth, raise times of a repeat block",
    )


def explain(error: ValidationError, raw: Any, where: str) -> SpecError:
    """A decoding error of msgspec, with the value that came and what to do about it.

    Args:
        error: what msgspec raised; a SpecError raised by a struct is its cause.
        raw: the tables as parsed.
        where: the name of the file.
    """
    message, path, value = _located(str(error), raw)
    if isinstance(error.__cause__, SpecError):
        cause = error.__cause__
        key = cause.where.partition(".")[2]
        must, came, fix, path = cause.must, cause.came, cause.fix, _join(path, key)
    elif found := re.match(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        key = found[1]
        if key not in value:  # a key of the file that reads like a path
            path, key = "", str(error).partition("`")[2][:-1]
        must, came = "a spec must hold known keys only", f"unknown key {shown(key)}"
        fix = nearest(key, _fields(raw, path))
        path = _join(path, key if re.fullmatch(r"[\w-]+", key) else shown(key))
    elif found := re.match(r"Object missing required field `(\w+)`", message):
        must, came, fix = _missing(found[1], path, value)
        path = _join(path, found[1])
    else:
        must, came, fix = _wrong_value(message, path, value, raw)
    return SpecError(must, came=came, where=f"{where}: {path}", fix=fix)


def _missing(key: str, path: str, table: dict[str, Any]) -> tuple[str, str, str]:
    fix = _SAMPLES.get(key, f"add {key}")
    if key == "kind":
        fix = f"add kind = ..., one of: {', '.join(s.kinds(_UNIONS[_last(path)]))}"
    came = f"only {', '.join(map(shown, table))}" if table else "no keys"
    return f"the key {key!r} must be given", came, fix


def _wrong_value(message: str, path: str, value: Any, raw: Any) -> tuple[str, str, str]:
    table, _, key = path.rpartition(".")
    came = f"{key} = {shown(value)}"
    if key == "kind" and message.startswith("Invalid value"):
        kinds = list(s.kinds(_UNIONS[_last(table)]))
        return f"kind must be one of {', '.join(kinds)}", came, nearest(value, kinds)
    if key != "kind" and (known := _names(_fields(raw, table).get(key))):
        name = value if isinstance(value, str) else ""
        return f"{key} must be one of {', '.join(known)}", came, nearest(name, known)
    if message.startswith("Number out of range"):
        return f"{key} must be a finite number", came, "give a smaller number"
    if found := re.match(r"Expected `(\w+)", message):
        words, fix = _TYPES.get(found[1], (found[1], ""))
        if path.endswith("]"):
            return f"{_ITEMS[_last(path)]} must be {words}", shown(value), fix
        return f"{key} must be {words}", came, _SAMPLES.get(path, fix)
    return message, came, "give a value of the type that is meant"


def _names(annotation: Any) -> list[str]:
    """The names that a field of strings takes, true and false among them; none if any will do."""
    types = (annotation, *get_args(annotation))
    names = [name for kind in types if get_origin(kind) is Literal for name in get_args(kind)]
    return ["true", "false", *names] if names and bool in types else names


def _located(text: str, raw: Any) -> tuple[str, str, Any]:
    """The message, the path and the value there, from msgspec's "message - at `$.path`"."""
    if found := re.search(r" - at `\$\.?((?:\.?[a-z_0-9]+|\[\d+\])+)`$", text):
        try:
            return text[: found.start()], found[1], _at(raw, found[1])
        except (LookupError, TypeError):  # a key of the file that reads like a path
            pass
    return text, "", raw


def _at(raw: Any, path: str) -> Any:
    """The value at a path such as network.layers[0].units."""
    for key, index in re.findall(r"([a-z_0-9]+)|\[(\d+)\]", path):
        raw = raw[key] if key else raw[int(index)]
    return raw


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key


def _last(path: str) -> str:
    """The last key of a path, without an index."""
    return path.rpartition(".")[2].partition("[")[0]


def _fields(raw: Any, path: str) -> dict[str, Any]:
    """The keys of the table at a path, `kind` among them, and their types."""
    last = _last(path)
    if last in _UNIONS:
        struct = s.kinds(_UNIONS[last])[_at(raw, path)["kind"]]
        return {"kind": str, **{field.name: field.type for field in fields(struct)}}
    return {field.name: field.type for field in fields(_TABLES[last] if path else s.Spec)}
