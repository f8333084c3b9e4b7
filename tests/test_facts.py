"""Every reference fact is taken by some test: the tests' sources name it, or a prefix of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from theory_table import FACTS

TESTS = Path(__file__).parent


def asked(source: str) -> tuple[set[str], set[str]]:
    """(ids, prefixes) that a test's source takes, by FACTS[…] and facts(…).

    In an f-string the fixed text before the first value counts as a prefix. A name that a
    parametrisation fills counts with every string of the source that is an id.
    """
    ids: set[str] = set()
    prefixes: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and named(node.value) == "FACTS":
            key = node.slice
        elif isinstance(node, ast.Call) and named(node.func) == "facts" and node.args:
            if isinstance(node.args[0], ast.Constant):
                prefixes.add(str(node.args[0].value))
            continue
        if isinstance(key, ast.Constant):
            ids.add(str(key.value))
        elif isinstance(key, ast.JoinedStr):
            first = key.values[0]
            if isinstance(first, ast.Constant):
                prefixes.add(str(first.value))
        elif isinstance(key, ast.Name):
            strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            ids |= {text for text in strings if isinstance(text, str) and text in FACTS}
    return ids, prefixes


def named(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def missing(sources: list[str], known: list[str]) -> list[str]:
    """The ids that no source takes."""
    taken = [asked(source) for source in sources]
    ids = {key for found, _ in taken for key in found}
    prefixes = tuple(prefix for _, found in taken for prefix in found)
    return [key for key in known if key not in ids and not key.startswith(prefixes or ("\0",))]


def test_every_fact_is_taken_by_a_test() -> None:
    sources = [
        path.read_text("utf-8")
        for path in sorted(TESTS.glob("test_*.py"))
        if path.name != Path(__file__).name
    ]
    left = missing(sources, list(FACTS))
    assert not left, f"facts that no test takes: {', '.join(left)}"


def test_every_fact_has_an_id_of_its_own_and_a_source() -> None:
    text = (TESTS / "reference_theory.json").read_text("utf-8")
    assert len(re.findall(r'"id":', text)) == len(FACTS)
    assert all(fact["source"] and fact["tolerance"] for fact in FACTS.values())


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("", ["A1.relu", "A1.tanh", "A2"]),
        ("x = FACTS['A2']['expected']", ["A1.relu", "A1.tanh"]),
        ("x = theory_table.FACTS['A2']", ["A1.relu", "A1.tanh"]),
        ("@mark('fact', facts('A1.'))\ndef test(): pass", ["A2"]),
        ("x = facts('A1.r')", ["A1.tanh", "A2"]),
        ("x = FACTS[f'A1.{name}']", ["A2"]),
        ("names = ['A2']\nfor name in names: FACTS[name]", ["A1.relu", "A1.tanh"]),
        ("# FACTS['A2'], facts('A1.')", ["A1.relu", "A1.tanh", "A2"]),
        ("text = \"FACTS['A2']\"", ["A1.relu", "A1.tanh", "A2"]),
        ("x = MORE['A2']", ["A1.relu", "A1.tanh", "A2"]),
    ],
)
def test_a_fact_that_is_not_taken_is_seen(source: str, left: list[str]) -> None:
    assert missing([source], ["A1.relu", "A1.tanh", "A2"]) == left
