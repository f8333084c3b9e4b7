"""Imports point downward only: the order of the rooms, and inside the engine that of its files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import isograd

ROOT = Path(isograd.__file__).parent
ROOMS = (
    "errors",
    "engine",
    "backends",
    "theory",
    "nn",
    "optim",
    "telemetry",
    "training",
    "diagnosis",
    "remedy",
    "report",
    "adapters",
    "cli",
)
ENGINE = (
    "number_formats",
    "ops",
    "tree",
    "graph",
    "dispatch",
    "functions",
    "array",
    "rules",
    "eager",
    "trace",
    "autodiff",
    "check",
    "passes",
    "placement",
    "shard",
    "plan",
    "recompute",
)
FREE = ("__init__", "__main__", "_version")


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Full names of what a module imports, at any place but under `if TYPE_CHECKING`."""
    stack: list[ast.AST] = [ast.parse(source)]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - is_package
                parts = module.split(".")
                base = ".".join([*parts[: len(parts) - up], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        stack.extend(ast.iter_child_nodes(node))


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Imports that point upward, or to what has no place in the order."""
    found = []
    for name in imports(source, module, is_package):
        here, there = module.split("."), name.split(".")
        if there[0] != "isograd" or there[1:2] in ([], ["_version"]):
            if there == ["isograd"]:
                found.append(f"{module} imports the package itself, which imports everything")
            continue
        if there[1] not in ROOMS:
            found.append(f"{module} imports {name}, which is no room")
        elif ROOMS.index(there[1]) > ROOMS.index(here[1]):
            found.append(f"{module} imports {name}, which lies above it")
        elif here[1:2] == there[1:2] == ["engine"] and len(here) > 2 and len(there) > 2:
            mine, other = here[2], there[2]
            if other in ENGINE and ENGINE.index(other) > ENGINE.index(mine):
                found.append(f"{module} imports {name}, which lies above it in the engine")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path


def test_every_file_has_its_place() -> None:
    for name, path in modules():
        parts = name.split(".")
        if len(parts) > 1 and parts[1] not in FREE:
            assert parts[1] in ROOMS, f"{path.name} is in no room"
        if parts[1:2] == ["engine"] and len(parts) > 2:
            assert parts[2] in ENGINE, f"{path.name} has no place in the engine"


def test_imports_point_downward() -> None:
    found = [
        violation
        for name, path in modules()
        if name.split(".")[-1] not in FREE and name != "isograd"
        for violation in violations(path.read_text("utf-8"), name, path.stem == "__init__")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import isograd.nn.spec", "isograd.engine.graph"),
        ("from isograd.training import loop", "isograd.telemetry.store"),
        ("from isograd import training", "isograd.telemetry.store"),
        ("def f():\n    from isograd.cli import main", "isograd.report.text"),
        ("try:\n    import isograd.cli\nexcept ImportError:\n    pass", "isograd.theory.x"),
        ("from isograd.engine.plan import plan", "isograd.engine.check"),
        ("from isograd.engine import autodiff", "isograd.engine.rules.shape"),
        ("from ..autodiff import grad", "isograd.engine.rules.shape"),
        ("from .plan import plan", "isograd.engine.ops"),
        ("from ...nn import spec", "isograd.engine.rules.shape"),
        ("import isograd", "isograd.nn.layers"),
        ("from isograd.attic import x", "isograd.nn.layers"),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import isograd.cli", "isograd.nn.layers"),
        ("import isograd.engine", "isograd.errors"),
    ],
)
def test_an_import_that_points_upward_is_seen(source: str, module: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import numpy as np\nfrom isograd.engine import ArraySpec", "isograd.nn.layers"),
        ("from isograd.errors import GraphError", "isograd.engine.ops"),
        ("from .ops import Op", "isograd.engine.graph"),
        ("from isograd._version import __version__", "isograd.cli"),
        ("if TYPE_CHECKING:\n    from isograd.cli import main", "isograd.engine.ops"),
        ("from isograd.engine.rules.reduce import spread", "isograd.engine.rules.stable"),
    ],
)
def test_an_import_that_points_downward_is_let_through(source: str, module: str) -> None:
    assert not violations(source, module)
