"""The axes of a map: settings and the values that they take, read from text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isograd.errors import SpecError
from isograd.nn.checks import shown
from isograd.nn.settings import Value

X, Y = "sigma_w=1:2:11", "depth=4:100:13"
"""The axes of a map where none are named."""

MAX_VALUES = 1000
"""Of an axis."""


@dataclass(frozen=True)
class Axis:
    """A setting, and the values that it takes.

    Attributes:
        name: the setting: a key path as in TOML, or depth, sigma_w, sigma_w2, sigma_b2.
        values: numbers in ascending order, or names.
        log: whether it is drawn on a logarithmic scale.
    """

    name: str
    values: tuple[Value, ...]
    log: bool = False

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return not any(isinstance(v, bool | str) for v in self.values)


def axis(text: str, *, whole: bool = False) -> Axis:
    """An axis from its text.

    "lr=1e-4:1:9:log" are 9 values from 1e-4 to 1 with equal ratios, "lr=0.1:0.5:5" 5 with equal
    differences, and "lr=0.1,0.3" is a list.

    Args:
        text: the setting, and its values.
        whole: whether the values of a range are rounded to whole numbers.

    Raises:
        SpecError: it cannot be read.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not (name and equals and values):
        raise _unreadable("an axis must be a setting and its values", text)
    if ":" not in values:
        return Axis(name, _ordered([_value(v, text) for v in values.split(",")], text))
    parts = [part.strip() for part in values.split(":")]
    if len(parts) not in (3, 4) or parts[3:] not in ([], ["log"]):
        raise _unreadable("a range must be START:STOP:COUNT or START:STOP:COUNT:log", text)
    start, stop = (_number(part, text) for part in parts[:2])
    if not re.fullmatch(r"\d{1,9}", parts[2]) or not 2 <= int(parts[2]) <= MAX_VALUES:
        raise _unreadable(f"a range must have from 2 to {MAX_VALUES} values", text)
    log, count = len(parts) == 4, int(parts[2])
    if not start < stop or (log and start <= 0):
        raise _unreadable(
            "a range must rise, from above 0 if it is logarithmic" if log else "a range must rise",
            text,
        )
    spaced = np.geomspace(start, stop, count) if log else np.linspace(start, stop, count)
    rounded = [float(f"{v:.12g}") for v in spaced.tolist()]
    if whole:
        rounded = [round(v) for v in rounded]
    return Axis(name, _ordered(rounded, text), log)


def _value(text: str, whole: str) -> Value:
    """A number, true or false, or a name."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if re.match(r"[+-]?(\.?\d|inf|nan)", text, re.IGNORECASE):
        return _number(text, whole)
    if not text:
        raise _unreadable("a list must not have empty places", whole)
    return text.strip("\"'")


def _number(text: str, whole: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _unreadable(f"{shown(text)} must be a finite number", whole)
    return number


def _ordered(values: Sequence[Value], text: str) -> tuple[Value, ...]:
    """Each value once, numbers in ascending order."""
    once = tuple(dict.fromkeys(values))
    if len(once) > MAX_VALUES:
        raise _unreadable(f"an axis must have at most {MAX_VALUES} values", text)
    if any(isinstance(v, bool | str) for v in once):
        return once
    return tuple(sorted(once, key=float))


def _unreadable(must: str, text: str) -> SpecError:
    return SpecError(
        must,
        came=shown(text),
        fix='write "sigma_w=1:4:12", "optimiser.lr=1e-4:1:9:log" or "depth=4,8,16"',
    )


def text_of(value: Value) -> str:
    """A value as it is shown: six digits of a number, true and false as TOML writes them."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


__all__ = ["MAX_VALUES", "Axis", "X", "Y", "axis", "text_of"]
