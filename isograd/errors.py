"""Exceptions. Every message says what must hold, what came, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IsogradError(ValueError):
    """Something the user gave cannot be used.

    Args:
        must: the invariant, as a sentence ("a batch must not be larger than the data").
        came: what was given instead.
        where: the file and key, the layer, or the operation.
        fix: what to do about it.
    """

    def __init__(self, must: str, *, came: str = "", where: str = "", fix: str = "") -> None:
        self.must = must
        self.came = came
        self.where = where
        self.fix = fix
        parts = (("came", came), ("where", where), ("fix", fix))
        lines = [must, *(f"  {name + ':':<7}{text}" for name, text in parts if text)]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.must, self.came, self.where, self.fix)

    def at(self, where: str) -> IsogradError:
        """The same error, with the place prefixed (a caller knows the file, the callee the key)."""
        place = f"{where}: {self.where}" if self.where else where
        return type(self)(self.must, came=self.came, where=place, fix=self.fix)


def _rebuild(kind: type[IsogradError], must: str, came: str, where: str, fix: str) -> IsogradError:
    """Unpickle an error: worker processes send theirs back whole."""
    return kind(must, came=came, where=where, fix=fix)


class ShapeError(IsogradError):
    """Shapes or dtypes that do not meet."""


class GraphError(IsogradError):
    """A graph that breaks a rule of the validity table, or a function that cannot be traced."""


class SpecError(IsogradError):
    """A spec with an unknown key, a value out of range, or layers that do not fit together."""


class DataError(IsogradError):
    """Data that is missing, malformed, or does not fit the spec."""


class RunError(IsogradError):
    """A run folder that exists, cannot be written, or cannot be read."""


class TheoryError(IsogradError):
    """A question that theory has no answer to (no critical point, an integral that diverges)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known name, or lists what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names)
