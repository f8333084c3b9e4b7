"""Nested containers of arrays: dicts, lists, tuples and None, with arrays at the leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Structure:
    """The nesting of a tree without its leaves. `kind` is None at a leaf.

    Dicts with the same keys have the same structure, whatever their order; `order` says in which
    order the keys came, so that a dict is rebuilt as it was.
    """

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()
    order: tuple[Any, ...] = field(default=(), compare=False)

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return 1 if self.kind is None else sum(child.leaves for child in self.children)


LEAF = Structure(None)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves, left to right (of a dict by sorted key), and the structure that holds them."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Any, leaves: list[Any]) -> Structure:
    if isinstance(tree, dict):
        keys = _in_order(tree)
        children = tuple(_flatten(tree[key], leaves) for key in keys)
        return Structure(dict, keys, children, tuple(tree))
    if isinstance(tree, list | tuple):
        return Structure(type(tree), (), tuple(_flatten(child, leaves) for child in tree))
    if tree is None:
        return Structure(type(None))
    leaves.append(tree)
    return LEAF


def _in_order(keys: Iterable[Any]) -> tuple[Any, ...]:
    try:
        return tuple(sorted(keys))
    except TypeError:  # keys of several types, or of one without an order
        return tuple(sorted(keys, key=lambda key: (type(key).__name__, repr(key))))


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The inverse of `flatten`."""
    return _unflatten(structure, iter(leaves))


def _unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    children = [_unflatten(child, leaves) for child in structure.children]
    if kind is dict:
        entries = dict(zip(structure.keys, children, strict=True))
        return {key: entries[key] for key in structure.order}
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
