"""Checks of single values, for the structs of a spec: each error names key, value and fix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, get_args

from msgspec import Struct
from msgspec.structs import force_setattr

from isograd.errors import SpecError, nearest

TOML_INT_MAX = 2**63 - 1
"""The largest integer that every TOML reader and SQLite must hold."""


def whole(
    node: Struct, key: str, *, low: int, high: int = TOML_INT_MAX, optional: bool = False
) -> None:
    """A whole number from low to high, kept as an int."""
    value = getattr(node, key)
    if optional and value is None:
        return
    must, fix = f"a whole number of at least {low}", f"give {low} or more"
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < low:
        raise wrong(node, key, must, fix)
    if int(value) > high:
        raise wrong(node, key, f"a whole number of at most {high}", f"give {high} or less")
    force_setattr(node, key, int(value))


def real(
    node: Struct,
    key: str,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    high: float = math.inf,
    below: float = math.inf,
    optional: bool = False,
) -> None:
    """A finite number in [low, high] and strictly between above and below, kept as a float."""
    value = getattr(node, key)
    if optional and value is None:
        return
    bounds = [f"at least {low}"] if low > -math.inf else []
    bounds += [f"above {above}"] if above > -math.inf else []
    bounds += [f"at most {high}"] if high < math.inf else []
    bounds += [f"below {below}"] if below < math.inf else []
    must = " ".join(["a finite number", " and ".join(bounds)]).rstrip()
    fix = f"give a number {' and '.join(bounds)}" if bounds else "give a finite number"
    number = _finite(value)
    if number is None or not (low <= number <= high and above < number < below):
        raise wrong(node, key, must, fix)
    force_setattr(node, key, number)


def weights(node: Struct, key: str, *, optional: bool = False) -> None:
    """A list of finite numbers of at least 0, not all 0, kept as a tuple of floats."""
    value = getattr(node, key)
    if optional and value is None:
        return
    must = "a list of finite numbers of at least 0, not all 0"
    if not isinstance(value, list | tuple):
        raise wrong(node, key, must, "put it in square brackets")
    numbers = tuple(map(_finite, value))
    for given, number in zip(value, numbers, strict=True):
        if number is None or number < 0:
            raise wrong(node, key, must, f"correct {shown(given)}")
    if not any(numbers):
        raise wrong(node, key, must, "give one that is above 0")
    force_setattr(node, key, numbers)


def _finite(value: object) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def text(node: Struct, key: str, *, optional: bool = False) -> None:
    """A string that can be a name in a file system and in a TOML file, kept as a str."""
    value = getattr(node, key)
    if optional and value is None:
        return
    if not isinstance(value, str) or not value:
        raise wrong(node, key, "a string that is not empty", f"give a name, or leave {key} out")
    if "\0" in value:
        raise wrong(node, key, "a string without NUL characters", "remove them")
    try:
        value.encode()
    except UnicodeEncodeError:  # surrogates, from a file name in another encoding
        raise wrong(node, key, "a string of Unicode text", "rename it") from None
    force_setattr(node, key, str(value))


def flag(node: Struct, key: str) -> None:
    """True or false, not 0 or 1."""
    if not isinstance(getattr(node, key), bool):
        raise wrong(node, key, "true or false", "give true or false")


def one_of(
    node: Struct, key: str, known: tuple[str, ...], synonyms: Mapping[str, str] | None = None
) -> None:
    """One of the known names; synonyms are names in use elsewhere, for the hint alone."""
    value = getattr(node, key)
    if not isinstance(value, str) or value not in known:
        name = value if isinstance(value, str) else ""
        other = get_close_matches(name, synonyms or {}, n=1, cutoff=0.8)
        fix = f"did you mean {(synonyms or {})[other[0]]!r}?" if other else nearest(name, known)
        raise wrong(node, key, f"one of {', '.join(known)}", fix)


def is_a(node: Struct, key: str, kind: Any, *, optional: bool = False) -> None:
    """An instance of a struct, or of one of a union of structs."""
    value = getattr(node, key)
    if not (isinstance(value, kind) or (optional and value is None)):
        names = ", ".join(cls.__name__ for cls in get_args(kind) or (kind,))
        raise wrong(node, key, f"one of {names}" if "," in names else f"a {names}", "pass one")


def wrong(node: Struct, key: str, must: str, fix: str) -> SpecError:
    """The error of a value: must, key = value, place, fix."""
    came = f"{key} = {shown(getattr(node, key))}"
    return SpecError(f"{key} must be {must}", came=came, where=place(node, key), fix=fix)


def place(node: Struct, key: str) -> str:
    """Where a check failed: the struct's name, a dot, the key (a reader puts its path there)."""
    return f"{type(node).__name__}.{key}"


def shown(value: object) -> str:
    """A value in a message: never long, and never itself a failure."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of too many digits, tables nested too deep
        text = f"{type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else text[:77] + "..."
