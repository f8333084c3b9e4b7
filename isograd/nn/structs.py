"""What the tables of a spec are made of: frozen structs that refuse keys they do not know."""

from __future__ import annotations

from typing import Any, get_args

from msgspec import Struct


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a spec."""


class Kind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A table of a spec that says by `kind` which of several it is."""


def kinds(union: Any) -> dict[str, type[Struct]]:
    """The structs of a tagged union by their `kind` in TOML."""
    return {str(cls.__struct_config__.tag): cls for cls in get_args(union)}
