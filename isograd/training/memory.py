"""What a training needs in memory, told before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil

from isograd.errors import SpecError
from isograd.nn.places import Part, Place, extent, places
from isograd.nn.spec import SGD, Adam, AdamW, GradientDescent, Spec

_SHOWN = 10_000  # layers among which the widest and the narrowest are sought


def required_bytes(spec: Spec, n_in: int, batch_size: int) -> int:
    """The least that a training step holds at once.

    The parameters, their gradient, the update and the parameters after it; what the update rule
    keeps; and of each row what the backward pass reads. With `training.recompute` that is √(2 s c)
    at the least for s numbers, where c are kept between two layers: see `isograd.engine.recompute`.
    A step takes up to three times as much, as `tests/test_memory.py` measures.

    Args:
        spec: what is to be trained.
        n_in: features of the data.
        batch_size: rows per step.
    """
    kept = 0 if isinstance(spec.optimiser, GradientDescent | SGD) else 1
    kept += isinstance(spec.optimiser, Adam | AdamW)
    parameters, values = extent(spec.network.layers).at(n_in)
    if spec.training.recompute:
        widths = [place.n_in for place in _weights(spec, n_in)][1:]
        values = min(values, math.isqrt(2 * values * min(widths, default=values)))
    numbers = parameters * (4 + kept) + batch_size * values
    return numbers * np.dtype(spec.dtype).itemsize


def require_memory(spec: Spec, n_in: int, batch_size: int) -> None:
    """Refuse a network that cannot fit.

    Raises:
        SpecError: it would need more than the memory that is free; the error says how much.
    """
    needed, free = required_bytes(spec, n_in, batch_size), free_bytes()
    if needed <= free:
        return
    parameters, _ = extent(spec.network.layers).at(n_in)
    widest = max(_weights(spec, n_in), key=lambda place: place.n_in * place.n_out)
    raise SpecError(
        "a network in training must fit in memory",
        came=f"{parameters:.3g} parameters and batches of {batch_size} rows need at "
        f"least {_size(needed)}; {_size(free)} are free",
        where=f"{widest.path} (layer {widest.layer}, {widest.n_in} × {widest.n_out} weights)",
        fix="lower units or times there, or training.batch_size",
    )


def _weights(spec: Spec, n_in: int) -> Iterator[Place]:
    """The places with weights among the first: repeats of them bring no others."""
    return (p for p in islice(places(spec.network, n_in), _SHOWN) if p.part is Part.WEIGHTS)


def free_bytes(root: Path = Path("/")) -> int:
    """Memory that can still be taken, of the machine and of a container around this process.

    Args:
        root: where /proc and /sys lie.
    """
    return min([int(psutil.virtual_memory().available), *_left_to_groups(root)])


# Of Linux' control groups, by version: where they lie, and in each its limit, its use, and in
# memory.stat what of that is cache of files, which makes room.
_GROUPS = {
    "0": ("sys/fs/cgroup", "memory.max", "memory.current", "file"),
    "memory": (
        "sys/fs/cgroup/memory",
        *("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ),
}


def _left_to_groups(root: Path) -> list[int]:
    """What each control group around this process may still take, where it has a limit."""
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        key = "memory" if "memory" in controllers.split(",") else number
        if key not in _GROUPS:
            continue
        top, limit, use, cache = _GROUPS[key]
        inner = Path(path.lstrip("/"))
        for group in (inner, *inner.parents):  # within a container the path may be that outside
            folder = root / top / group
            numbers = [*_lines(folder / limit), *_lines(folder / use)]
            if len(numbers) == 2 and all(text.isdecimal() for text in numbers):
                stat = dict(text.split(" ", 1) for text in _lines(folder / "memory.stat"))
                left.append(max(int(numbers[0]) - int(numbers[1]) + int(stat.get(cache, 0)), 0))
    return left


def _lines(path: Path) -> list[str]:
    """A file of the system's, by lines; none where there is no such file."""
    try:
        return path.read_text().split("\n")[:-1]
    except OSError:
        return []


def _size(count: int) -> str:
    """A number of bytes, to three digits."""
    power = min(max(int(math.log2(max(count, 1)) // 10), 0), 8)
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")[power]
    return f"{count / 1024.0**power:.3g} {unit}"


__all__ = ["free_bytes", "require_memory", "required_bytes"]
