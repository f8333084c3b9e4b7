"""Documents in step with the code: findings, sources, files, names, links, examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from documents import DOCUMENTS, ROOT, Document, parse, read, slug
from test_imports import ENGINE, ROOMS

import isograd
from isograd import nn
from isograd.diagnosis.rules import RULES as FINDING_RULES
from isograd.engine.ops import RULES, Op
from isograd.nn import spec as specs

FINDINGS, SOURCES = read("docs/findings.md"), read("docs/sources.md")
LAYOUT = read("docs/layout.md")
each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix()
)

# --- docs/findings.md


def rule_sources() -> list[ast.AST]:
    files = sorted((ROOT / "isograd/diagnosis/rules").glob("*.py"))
    return [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]


def test_every_rule_and_every_name_of_a_finding() -> None:
    nodes = rule_sources()
    text = (ROOT / "docs/findings.md").read_text("utf-8")
    rules = [rule.__name__ for rule in FINDING_RULES]
    assert sorted(re.findall(r"Rule: `(\w+)`", text)) == sorted(rules)
    texts = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
    names = {re.sub("[- ]", "_", text): text for text in texts if "_" not in text}
    for rule in rules:
        (name,) = {names[key] for key in (rule, f"{rule}_value") if key in names}
        assert slug(name) in FINDINGS.anchors


def test_every_evidence() -> None:
    keys = {
        key.value
        for node in rule_sources()
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    documented = {
        row["evidence"].strip("`")
        for rows in FINDINGS.tables.values()
        for row in rows
        if "evidence" in row
    }
    assert documented == keys


# --- docs/sources.md


def test_sources_name_what_there_is() -> None:
    assert SOURCES.column("activations", "name") == list(specs.ACTIVATION_NAMES)
    assert SOURCES.column("losses", "kind") == list(specs.kinds(specs.Loss))
    assert SOURCES.column("initialisers", "kind") == list(specs.kinds(specs.Init))
    rules = ", ".join(SOURCES.column("optimisers", "kind"))
    assert set(re.findall(r"\w+", rules)) == {
        *specs.kinds(specs.Optimiser),
        "clip_value",
        "clip_norm",
        "normalise_gradient",
    }
    assert SOURCES.column("schedules", "kind") == list(specs.kinds(specs.Schedule))


def test_domains_are_those_of_the_rules() -> None:
    rows = [row for row in SOURCES.tables["engine"] if "domain" in row]
    assert len(rows) > 5
    for row in rows:
        assert row["domain"] == RULES[Op(row["primitive"].strip("`"))].domain


# --- docs/dependencies.md, docs/layout.md


def test_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {"runtime": project["dependencies"]}
    for extra, packages in project["optional-dependencies"].items():
        wanted[f"extra-{extra}"] = packages
    documented = read("docs/dependencies.md")
    assert set(documented.tables) == set(wanted)
    for anchor, packages in wanted.items():
        names = [re.match(r"[\w-]+", package) for package in packages]
        assert documented.column(anchor, "package") == [name[0] for name in names if name]


def test_every_file_has_its_line() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "isograd").rglob("*.py")}
    files = {name for name in files if not name.endswith("__init__.py")}
    listed = [row["file"] for rows in LAYOUT.tables.values() for row in rows if "file" in row]
    listed = [name.strip("`") for name in listed]
    assert len(listed) == len(set(listed))
    assert files == {*listed, "isograd/errors.py", "isograd/_version.py"}


def test_the_order_of_imports() -> None:
    text = (ROOT / "docs/layout.md").read_text("utf-8")
    assert ", ".join(f"`{room}`" for room in ROOMS) in text.replace("\n", " ")
    rows = next(rows for anchor, rows in LAYOUT.tables.items() if "graph-and-plan" in anchor)
    files = [row["file"].strip("`").split("/")[2].removesuffix(".py") for row in rows]
    assert tuple(dict.fromkeys(files)) == ENGINE


# --- all documents


def link_problems(document: Document, path: Path) -> Iterator[str]:
    for link in document.links:
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if name.startswith("/") or (name and not target.exists()):
            yield f"{link} leads nowhere"
        elif anchor:
            there = parse(target.read_text("utf-8")) if name else document
            if anchor not in there.anchors:
                yield f"{link} leads to no heading"


def word_problems(document: Document) -> Iterator[str]:
    """Files and dotted names in inline code that do not exist."""
    for word in document.words:
        if re.fullmatch(r"(isograd|tests|docs|examples|experiments|scripts)/[\w./-]+", word):
            if not (ROOT / word).exists():
                yield f"{word} is no file"
        elif re.fullmatch(r"isograd(\.\w+)+", word):
            try:
                pkgutil.resolve_name(word)
            except (ImportError, AttributeError):
                yield f"{word} is no name"


def absolute_paths(text: str) -> list[str]:
    return re.findall(r"(?<![\w.:/])(?:/(?:home|root|work|tmp|Users|mnt)\b|[A-Z]:\\)\S*", text)


@each_document
def test_links_files_and_names(path: Path) -> None:
    document = read(path)
    assert not list(link_problems(document, path))
    assert not list(word_problems(document))
    assert not absolute_paths(path.read_text("utf-8"))


def test_a_broken_link_file_name_or_an_absolute_path_is_seen() -> None:
    text = "# A\n[a](#a) [b](#b) [c](c.md) [d](/LICENSE) `docs/c.md` `isograd.gred` `isograd.nn`"
    document = parse(text)
    assert list(link_problems(document, ROOT / "x.md")) == [
        "#b leads to no heading",
        "c.md leads nowhere",
        "/LICENSE leads nowhere",
    ]
    assert list(word_problems(document)) == ["docs/c.md is no file", "isograd.gred is no name"]
    assert absolute_paths("see /home/me/x, a/home/b and https://a.b/tmp") == ["/home/me/x,"]


# --- docstrings and examples


def docstring_problems(namespace: Any, names: list[str]) -> Iterator[str]:
    """Names without an explanation: a sentence, and of several arguments a word on each."""
    for name in names:
        value = getattr(namespace, name)
        text = value.__doc__ or ""
        summary = text.strip().partition("\n")[0]
        if len(summary.split()) < 3 or summary[-1] not in ".;:":
            yield f"{name} has no summary"
        parameters = inspect.signature(value).parameters if inspect.isfunction(value) else {}
        if len(parameters) > 1 and "; see `" not in text:
            for parameter in parameters:
                if not re.search(rf"\b{parameter}\b", text):
                    yield f"{name} does not explain {parameter}"


def test_public_names_are_explained() -> None:
    names = [name for name in isograd.__all__ if name != "__version__"]
    assert not list(docstring_problems(isograd, names))
    assert not list(docstring_problems(nn, nn.__all__))


def test_a_name_without_explanation_is_seen() -> None:
    planted = ModuleType("planted")
    source = 'def f(): "Do it"\ndef g(x, y):\n    """A sum of x and more."""\ndef h(x): ...'
    exec(source, planted.__dict__)
    assert list(docstring_problems(planted, ["f", "g", "h"])) == [
        "f has no summary",
        "g does not explain y",
        "h has no summary",
    ]


def failures(code: str, namespace: dict[str, Any]) -> int:
    """How many examples of a text fail; what they define stays in the namespace."""
    test = doctest.DocTestParser().get_doctest(code, namespace, "document", None, 0)
    failed = doctest.DocTestRunner().run(test, clear_globs=False).failed
    namespace.update(test.globs)
    return failed


@each_document
def test_examples_of_a_document(path: Path) -> None:
    namespace: dict[str, Any] = {}
    for language, code in read(path).code:
        if language == "pycon":
            assert not failures(code, namespace)


def test_examples_of_the_docstrings() -> None:
    count = 0
    for info in pkgutil.walk_packages(isograd.__path__, "isograd."):
        result = doctest.testmod(importlib.import_module(info.name))
        assert not result.failed, info.name
        count += result.attempted
    assert count >= 3


def test_an_example_that_fails_is_seen() -> None:
    assert failures(">>> 1 + 1\n3\n", {}) == 1
    assert failures(">>> 1 + 1\n2\n", {}) == 0
    assert doctest.testmod(ModuleType("planted", ">>> 1 + 1\n3\n")).failed == 1
