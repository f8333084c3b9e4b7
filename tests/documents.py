"""The project's Markdown as data: headings, tables, links, code; and the tables of docs/json.md as
the schema that they describe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
Row = dict[str, str]


@dataclass
class Document:
    """A Markdown text.

    Attributes:
        anchors: of its headings, as GitHub makes them.
        tables: per anchor, the rows of its tables; a cell is Markdown, by the head of its column.
        code: (language, content) of its fenced blocks.
        words: its inline code.
        links: the targets of its links and pictures.
    """

    anchors: list[str] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    code: list[tuple[str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def column(self, anchor: str, head: str) -> list[str]:
        """A column of a section's tables, without backticks."""
        return [row[head].strip("`") for row in self.tables[anchor]]


def parse(text: str) -> Document:
    """The document that a text is."""
    document, anchor, head, row = Document(), "", [""], [""]
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        opened = before.type if before is not None else ""
        if token.type == "fence":
            document.code.append((token.info.strip(), token.content))
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close" and document.tables.get(anchor) is not None and head:
            document.tables[anchor].append(dict(zip(head, row, strict=True)))
        elif token.type == "thead_open":
            head = []
        elif token.type == "thead_close":
            head = row
            document.tables.setdefault(anchor, [])
        if token.type != "inline":
            continue
        if opened == "heading_open":
            anchor = slug(token.content)
            document.anchors.append(anchor)
        elif opened in ("th_open", "td_open"):
            row.append(token.content)
        _inline(token, document)
    return document


def _inline(token: Token, document: Document) -> None:
    for child in token.children or []:
        if child.type == "code_inline":
            document.words.append(child.content)
        target = child.attrs.get("href") or child.attrs.get("src")
        if target:
            document.links.append(str(target))


def slug(heading: str) -> str:
    """The anchor of a heading: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def read(path: str | Path) -> Document:
    """A document of the project."""
    return parse((ROOT / path).read_text(encoding="utf-8"))


def by_kind(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by the value of their column `kind`; an empty cell repeats the one above."""
    out: dict[str, list[Row]] = {}
    kind = ""
    for row in rows:
        kind = row["kind"].strip("`") or kind
        out.setdefault(kind, []).append(row)
    return out


# --- the schema of docs/json.md

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "any": (object,),
}


class Schema:
    """The tables of docs/json.md, and which of them were used."""

    def __init__(self, document: Document) -> None:
        self.objects = {
            anchor: {row["key"].strip("`"): row["type"] for row in rows}
            for anchor, rows in document.tables.items()
            if rows and "key" in rows[0]
        }
        self.used: set[str] = set()

    def problems(self, value: Any, name: str, where: str = "$") -> Iterator[str]:
        """Where an answer differs from the object of that name, as text."""
        self.used.add(name)
        yield from self._keys(value, self.objects[name], where)

    def _keys(self, value: Any, types: Mapping[str, str], where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        for key in value.keys() ^ types.keys():
            yield f"{where}.{key} is {'not documented' if key in value else 'not there'}"
        for key in value.keys() & types.keys():
            yield from self._typed(value[key], types[key], f"{where}.{key}")

    def _typed(self, value: Any, text: str, where: str) -> Iterator[str]:
        options = text.split(" or ")
        if value is None and ("null" in options or "number" in options):
            return
        kind = next(option for option in options if option != "null")
        shape, _, inner = kind.partition(" of ")
        if link := re.fullmatch(r"\[.+\]\(#(.+)\)", kind):
            yield from self.problems(value, link[1], where)
        elif shape == "list" and isinstance(value, list):
            for i, item in enumerate(value):
                yield from self._typed(item, inner, f"{where}[{i}]")
        elif shape == "map" and isinstance(value, dict):
            for key, item in value.items():
                yield from self._typed(item, inner, f"{where}.{key}")
        elif not isinstance(value, _TYPES.get(kind, ())) or (
            isinstance(value, bool) and kind in ("integer", "number")
        ):
            yield f"{where} is {type(value).__name__}, and documented as {text}"
