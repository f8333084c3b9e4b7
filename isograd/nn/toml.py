"""Specs as TOML: read with errors that name file and key, written, and patched in place."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

import msgspec
import tomlkit.exceptions

from isograd.errors import SpecError
from isograd.nn.checks import shown
from isograd.nn.sources import PATHS, is_outside
from isograd.nn.spec import Spec
from isograd.nn.toml_errors import explain, syntax_error, too_deep
from isograd.nn.toml_write import dumps, edit

__all__ = ["diff", "dumps", "load", "loads", "patch", "read"]

_MAX_ALIGNED = 1_000_000


def read(path: str | Path) -> str:
    """The text of a spec file.

    Raises:
        SpecError: there is no such file, or it is not UTF-8 text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            "a spec must be UTF-8 text",
            came=str(error),
            where=str(path),
            fix="save it as UTF-8",
        ) from None
    except (OSError, ValueError) as error:
        raise SpecError(
            "a spec must be a file that can be read",
            came=getattr(error, "strerror", None) or str(error),
            where=shown(str(path)).strip("'"),
            fix="check the path; `isograd init` writes a spec to start from",
        ) from None


def load(path: str | Path, *, anywhere: bool = False) -> Spec:
    """The spec in a TOML file; raises SpecError with the file and the key.

    Args:
        path: the file.
        anywhere: as for `loads`.
    """
    return loads(read(path), where=str(path), anywhere=anywhere)


def loads(text: str, *, where: str = "<string>", anywhere: bool = False) -> Spec:
    """The spec in a TOML text.

    Args:
        text: the TOML.
        where: what to call it in errors, usually the path of the file.
        anywhere: whether data may lie outside the folder that relative paths start from. A spec
            made in Python may say so; a text that came from elsewhere must not.

    Raises:
        SpecError: a syntax error (where:line:column), or an unknown or missing key, a wrong type
            or a value out of range (where: key path).
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise syntax_error(str(error), text, where) from None
    except RecursionError:
        raise too_deep(where) from None
    except ValueError as error:  # an int of more digits than Python converts
        raise SpecError("a spec must be valid TOML", came=str(error), where=where) from None
    try:
        spec = msgspec.convert(raw, Spec)
    except msgspec.ValidationError as error:
        raise explain(error, raw, where) from None
    except RecursionError:
        raise too_deep(where) from None
    if not anywhere:
        _require_inside(spec, where)
    return spec


def _require_inside(spec: Spec, where: str) -> None:
    """Refuse paths of data that are absolute or lead out of the folder they start from."""
    for key in PATHS:
        path = getattr(spec.data, key)
        if path is not None and is_outside(path):
            raise SpecError(
                "a spec must not name data outside its folder",
                came=f"{key} = {shown(path)}",
                where=f"{where}: data.{key}",
                fix="give a path below the spec's folder, or name the data's folder with --data",
            )


def patch(text: str, old: Spec, new: Spec) -> str:
    """The TOML text of `old`, edited so that it decodes to exactly `new`.

    Comments, order and layout stay wherever the value does. Where a list cannot be edited in
    place, its section is written anew, and as a last resort the whole text.

    Raises:
        SpecError: the text does not decode to `old`.
    """
    if loads(text, anywhere=True) != old:
        raise SpecError(
            "a patch needs the text that the old spec was read from",
            came="a text that decodes to another spec",
            fix="pass the text of the file that `old` was loaded from",
        )
    unix = text.replace("\r\n", "\n")
    for anew in ((), ("network",), ("training",), ("network", "training")):
        try:
            patched = edit(unix, new, anew=anew)
            if loads(patched, anywhere=True) == new:
                break
        except (tomlkit.exceptions.TOMLKitError, LookupError, TypeError, ValueError):
            # tomlkit cannot edit every form of TOML; what counts is what the result decodes to.
            continue
    else:
        patched = dumps(new)
    return patched.replace("\n", "\r\n") if unix != text else patched


def diff(old_text: str, new_text: str, name: str) -> str:
    """The unified diff between two texts, from a/NAME to b/NAME; empty if they are the same."""
    old, new = (_lines(text) for text in (old_text, new_text))
    # difflib.unified_diff takes lines that repeat for noise, and layers repeat; finding the least
    # change grows with the cube of the lines, so long texts go its way after all.
    noise = len(old) * len(new) > _MAX_ALIGNED
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=noise)
    lines = []
    for group in matcher.get_grouped_opcodes():
        (_, i, _, j, _), (_, _, i_end, _, j_end) = group[0], group[-1]
        lines.append(f"@@ -{_span(i, i_end)} +{_span(j, j_end)} @@")
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines += [" " + line for line in old[i1:i2]]
            else:
                lines += ["-" + line for line in old[i1:i2]] + ["+" + line for line in new[j1:j2]]
    head = [f"--- a/{name}", f"+++ b/{name}"] if lines else []
    return "".join(line + "\n" for line in head + lines)


def _span(start: int, end: int) -> str:
    """A range of lines as a unified diff counts it: from 1, an empty one by the line before."""
    return f"{start + 1 if end > start else start},{end - start}"


def _lines(text: str) -> list[str]:
    *lines, last = text.split("\n")
    return [*lines, last + "\n\\ No newline at end of file"] if last else lines
