"""Specs written as TOML, and TOML text edited to hold another spec."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Any

import msgspec
import tomlkit
from msgspec import Struct
from tomlkit.items import AoT, Comment, InlineTable, Table, Whitespace

from isograd.nn.spec import Layer, Residual, Schedule, Spec

LISTS: dict[str, Any] = {"layers": Layer, "schedule": Schedule}
"""The keys that hold lists of tables, and what these are."""

_INDENT = "  "
_MAX_ALIGNED = 250_000


def dumps(spec: Spec) -> str:
    """The spec as TOML that reads back to exactly the same spec.

    Values that equal their default are left out; one layer stands on a line.
    """
    top = [
        f"{key} = {_value(getattr(spec, key))}" for key in ("seed", "dtype") if _given(spec, key)
    ]
    parts = ["\n".join(top)] if top else []
    for key in ("data", "network", "optimiser", "training", "measure"):
        if _given(spec, key):
            pairs = _pairs(getattr(spec, key)).items()
            parts.append("\n".join([f"[{key}]", *(f"{k} = {_value(v)}" for k, v in pairs)]))
    return "\n\n".join(part for part in parts if part) + "\n"


def edit(text: str, spec: Spec, *, anew: tuple[str, ...] = ()) -> str:
    """The TOML text with every value that differs from the spec's set to the spec's.

    Args:
        text: valid TOML of some spec.
        spec: what the result is to hold.
        anew: sections to write from scratch instead of editing them.
    """
    document, whole = tomlkit.parse(text), tomlkit.parse(dumps(spec))
    for key in anew:
        if key in document and key in whole:
            document[key] = whole[key]
    _edit_table(document, spec)
    return tomlkit.dumps(document)


def _pairs(node: Struct) -> dict[str, Any]:
    """The keys of a table, `kind` first, without those at their default."""
    keys = [key for key in node.__struct_fields__ if _given(node, key)]
    return {**_tag(node), **{key: getattr(node, key) for key in keys}}


def _tag(node: Struct) -> dict[str, str]:
    tag = node.__struct_config__.tag
    return {"kind": str(tag)} if tag else {}


def _given(node: Struct, key: str) -> bool:
    """Whether a field differs from its default, if it has one."""
    names, defaults = node.__struct_fields__, node.__struct_defaults__
    i = names.index(key) - len(names)
    return -i > len(defaults) or bool(getattr(node, key) != defaults[i])


def _value(value: Any, indent: str = "") -> str:
    """A value in TOML: tables inline, layers one to a line."""
    if isinstance(value, Struct):
        pairs = ", ".join(f"{key} = {_value(v, indent)}" for key, v in _pairs(value).items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, tuple) and not any(isinstance(v, Struct) for v in value):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, tuple):
        inner = indent + _INDENT
        return "[\n" + "".join(f"{inner}{_value(v, inner)},\n" for v in value) + indent + "]"
    return str(tomlkit.item(value).as_string())


def _edit_table(table: Any, node: Struct) -> None:
    """Set the keys of a [table], or of the document, to the fields of a struct, in place."""
    wanted = _wanted(node)
    for key in [key for key in table if key not in wanted]:
        del table[key]
    for key, value in wanted.items():
        if key in table:
            _edit_key(table, key, value)
        elif key == "kind" or _given(node, key):
            is_section = isinstance(node, Spec) and isinstance(value, Struct)
            _append(table, key, _section(value) if is_section else tomlkit.value(_value(value)))


def _append(table: Any, key: str, item: Any) -> None:
    """Add a key after the last one, before comments that lead over to the next section."""
    body = table.value.body if isinstance(table, Table) else []
    tail = []
    while body and isinstance(body[-1][1], Comment | Whitespace):
        tail.append(body.pop())
    table[key] = item
    body.extend(reversed(tail))


def _edit_key(table: Any, key: str, value: Any) -> None:
    old = table[key]
    if key in LISTS and _plain(old):
        table[key] = _edit_list(old, value, LISTS[key])
    elif isinstance(old, InlineTable):
        table[key] = _edit_inline(old, value)
    elif isinstance(value, Struct):
        _edit_table(old, value)
    elif _plain(old) != _plain(value):
        table[key] = tomlkit.value(_value(value))


def _plain(value: Any) -> Any:
    """A value of a document or of a spec, as plain containers."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Struct):
        return {key: _plain(v) for key, v in _pairs(value).items()}
    return value.unwrap() if hasattr(value, "unwrap") else value


def _edit_inline(table: Any, node: Struct) -> Any:
    """The inline table with the fields of a struct; one of the same kind keeps its spacing."""
    wanted = _wanted(node)
    if table.get("kind") != wanted.get("kind") or not wanted.keys() >= set(table):
        return tomlkit.value(_value(node))
    for key in list(table):
        _edit_key(table, key, wanted[key])
    new = "".join(f", {k} = {_value(v)}" for k, v in _pairs(node).items() if k not in table)
    return tomlkit.value(table.as_string()[:-1].rstrip() + new + " }") if new else table


def _edit_list(array: Any, new: tuple[Struct, ...], union: Any) -> Any:
    """The array of tables, of layers say, with the lines of unchanged ones kept."""
    old: tuple[Struct, ...] = msgspec.convert(array.unwrap(), tuple[union, ...])
    if isinstance(array, AoT):  # [[network.layers]]: values can be edited, tables not moved
        if [type(part) for part in old] != [type(part) for part in new]:
            raise ValueError("tables of other kinds")
        for table, part in zip(array, new, strict=True):
            _edit_table(table, part)
        return array
    found = re.search(r"\n([ \t]*)\{", array.as_string())
    indent = found[1] if found else ""
    if len(new) == 1 and isinstance(new[0], Residual) and not isinstance(old[0], Residual):
        return _wrapped(_edit_list(array, new[0].layers, union).as_string(), indent)
    for i, i_end, j, j_end in reversed(_changes(old, new)):
        if old[i:i_end] and new[j:j_end] and type(old[i]) is type(new[j]):
            array[i] = _edit_inline(array[i], new[j])
            continue
        for k in reversed(range(i, i_end)):
            del array[k]
        for part in reversed(new[j:j_end]):
            array.insert(i, tomlkit.value(_value(part, indent)))
    return array


def _wrapped(array: str, indent: str) -> Any:
    """The text of an array of layers as the one residual block of a new array.

    The lines keep their indentation and the block takes half a step, so that a diff shows the two
    new lines alone.
    """
    head, _, end = array[1:-1].rpartition("\n")
    if not head or end.strip():
        return tomlkit.value(f'[{{ kind = "residual", layers = {array} }}]')
    half = indent[: (len(end) + len(indent)) // 2]
    return tomlkit.value(f'[\n{half}{{ kind = "residual", layers = [{head}\n{half}] }},\n{end}]')


def _changes(old: tuple[Struct, ...], new: tuple[Struct, ...]) -> list[tuple[int, int, int, int]]:
    """What to do to get from old to new: (i, i_end, j, j_end), old[i:i_end] becomes new[j:j_end].

    Tables that differ are paired by kind, so that a changed one is edited and not replaced.
    """
    if len(old) * len(new) > _MAX_ALIGNED:
        raise ValueError("too many tables to align")
    changes = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            was, now = ([type(part) for part in parts] for parts in (old[i1:i2], new[j1:j2]))
            for same, a1, a2, b1, b2 in SequenceMatcher(None, was, now, False).get_opcodes():
                span = (i1 + a1, i1 + a2, j1 + b1, j1 + b2)
                if same == "equal":
                    pairs = zip(range(*span[:2]), range(*span[2:]), strict=True)
                    changes += [(i, i + 1, j, j + 1) for i, j in pairs]
                else:
                    changes.append(span)
    return changes


def _section(node: Struct) -> Table:
    table = tomlkit.table()
    for key, value in _pairs(node).items():
        table.add(key, tomlkit.value(_value(value)))
    return table


def _wanted(node: Struct) -> dict[str, Any]:
    """Every key with a value: None and () stand for a key left out."""
    values = {key: getattr(node, key) for key in node.__struct_fields__}
    return {**_tag(node), **{key: v for key, v in values.items() if v is not None and v != ()}}
