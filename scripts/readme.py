"""Run the code blocks of Markdown files: what they show must work.

The blocks of a file run in order, in a temporary folder of their own with a copy of examples/:

    ```python               in one namespace, shared by all blocks of the file
    ```console, ```bash     command by command: lines that begin with "$ isograd", continued by \\;
                            other lines show output, which is not compared

A comment directly above a block says what else is to be done with it:

    <!-- skip -->           leave it out; a reason may follow: <!-- skip: it takes an hour -->
    <!-- exit: 1 -->        the exit code of its last command; 0 where nothing is said

The first block of a file that fails ends the file, and a file without a block that ran is an error.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ("python",)
SHELL = ("console", "bash", "sh", "shell")
NOTE = re.compile(r"<!--\s*(?:(skip)(?::.*?)?|exit:\s*(\d+))\s*-->", re.DOTALL)


class Failure(Exception):
    """A block that does not do what it should."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        language: the first word behind the fence.
        code: what stands between the fences.
        line: of the opening fence, counted from 1.
        skip: whether it is left out.
        exit: the exit code of its last command.
    """

    language: str
    code: str
    line: int
    skip: bool = False
    exit: int = 0


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a Markdown text that are in a language that can be run.

    Raises:
        Failure: a comment directly above a block that is not understood.
    """
    tokens = MarkdownIt().parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        language = token.info.split()[0] if token.type == "fence" and token.info.strip() else ""
        if language not in PYTHON + SHELL or token.map is None:
            continue
        line = token.map[0] + 1
        note = before.content.strip() if before is not None and before.type == "html_block" else ""
        found = NOTE.fullmatch(note)
        if note and not found:
            raise Failure(
                f"line {line}: the comment above a block must be a skip or an exit: {note}"
            )
        skip, code = (bool(found[1]), int(found[2] or 0)) if found else (False, 0)
        if code and language in PYTHON:
            raise Failure(f"line {line}: a Python block has no exit code")
        yield Block(language, token.content, line, skip, code)


def commands(block: Block) -> list[str]:
    """The commands of a shell block, each in one piece.

    Raises:
        Failure: there is none, or one that is not isograd.
    """
    found = re.findall(r"^\$ ((?:.*\\\n)*.*)$", block.code, re.MULTILINE)
    other = [command for command in found if not re.match(r"isograd\b", command)]
    if other or not found:
        raise Failure(
            f"a block to be run must hold lines that begin with '$ isograd', and no other "
            f"commands (came: {other[0] if other else 'none'}); <!-- skip --> leaves it out"
        )
    return found


def run_shell(block: Block, folder: Path) -> None:
    """Run the commands of a block; the last must end with the block's exit code, the others with 0.

    Raises:
        Failure: with the command, its exit code and its output.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    todo = commands(block)
    for i, command in enumerate(todo):
        wanted = block.exit if i == len(todo) - 1 else 0
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != wanted:
            raise Failure(
                f"exit code {done.returncode}, not {wanted}: {command}\n{done.stdout.rstrip()}"
            )


def run_python(block: Block, name: str, namespace: dict[str, Any]) -> None:
    """Run a block; lines are numbered as in the file.

    Raises:
        Failure: with the traceback and what was printed.
    """
    printed = io.StringIO()
    try:
        code = compile("\n" * block.line + block.code, name, "exec")
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            exec(code, namespace)
    except (Exception, SystemExit):
        raise Failure(f"{printed.getvalue()}{traceback.format_exc(limit=-5).rstrip()}") from None


def run(path: Path) -> tuple[int, int]:
    """Run the blocks of a file.

    Returns:
        How many ran, and how many were left out.

    Raises:
        Failure: a block failed, or none ran.
    """
    found = list(blocks(path.read_text(encoding="utf-8")))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ignored = shutil.ignore_patterns("*.cured*")
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=ignored)
        for block in found:
            if block.skip:
                continue
            try:
                if block.language in PYTHON:
                    with contextlib.chdir(folder):
                        run_python(block, str(path), namespace)
                else:
                    run_shell(block, folder)
            except Failure as error:
                raise Failure(f"line {block.line}: {error}") from None
    left_out = sum(block.skip for block in found)
    if left_out == len(found):
        raise Failure(f"no block to run ({left_out} left out)")
    return len(found) - left_out, left_out


def main(names: list[str]) -> int:
    """Run files; the exit code is 1 if one of them failed."""
    failed = 0
    for name in names or ["README.md"]:
        try:
            ran, left_out = run(Path(name).resolve())
        except (Failure, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
        else:
            print(f"{name}: {ran} blocks ran, {left_out} left out")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
