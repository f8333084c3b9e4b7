"""Nested containers of arrays: dicts, lists, tuples and None, with arrays at the leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Structure:
    """The nesting of a tree without its leaves. `kind` is None at a leaf."""

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return 1 if self.kind is None else sum(child.leaves for child in self.children)


LEAF = Structure(None)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves, from left to right, and the structure that holds them."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Any, leaves: list[Any]) -> Structure:
    if isinstance(tree, dict):
        return Structure(
            dict, tuple(tree), tuple(_flatten(child, leaves) for child in tree.values())
        )
    if isinstance(tree, list | tuple):
        return Structure(type(tree), (), tuple(_flatten(child, leaves) for child in tree))
    if tree is None:
        return Structure(type(None))
    leaves.append(tree)
    return LEAF


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The inverse of `flatten`."""
    return _unflatten(structure, iter(leaves))


def _unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    children = [_unflatten(child, leaves) for child in structure.children]
    if kind is dict:
        return dict(zip(structure.keys, children, strict=True))
    if kind is type(None):
        return None
    if hasattr(kind, "_fields"):  # a named tuple takes its fields one by one
        return kind(*children)
    return kind(children)


def map_leaves(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `f` leaf by leaf over trees of the same structure.

    Raises:
        ValueError: if the structures differ.
    """
    leaves, structure = flatten(tree)
    columns = [leaves]
    for other in others:
        more, its = flatten(other)
        if its != structure:
            raise ValueError(f"trees must have the same structure: {structure} and {its}")
        columns.append(more)
    return unflatten(structure, (f(*row) for row in zip(*columns, strict=True)))
