"""What depth costs: the time of a step per layer, and the time until the first step is done.

    python benchmarks/depth.py [--depths 10,20,...] [--compile 10,100,1000] [--seconds S]
                               [--json FILE]

Layers of width 64, batches of 32, one core. The depths run in turn. The time until the first steps
are done is taken in new processes: with an empty folder of machine code (cold), with the folder
that this left behind (warm), and in the interpreter, which traces and plans likewise and compiles
nothing. Imports do not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from common import Spread, machine, ratio, significant, table
from peers import PEERS
from race import Entry, built, progress, race, save

DEPTHS = "10,20,50,100,200,500,1000"
COMPILED = "10,100,1000"


def entry(depth: str, backend: str = "native") -> Entry:
    """A depth on a backend."""
    return Entry(depth, PEERS[backend], PEERS[backend].settings[0], f"{depth}x64x32x1")


def per_layer(entries: Sequence[Entry]) -> list[list[str]]:
    """The table of the steps; the first depth is what the others are compared with."""
    lines = []
    base = entries[0]
    for e in entries:
        if e.why or base.why:
            lines.append([e.key, e.why, "", ""])
            continue
        layers = int(e.key)
        step = Spread.of([1e6 * t for t in e.times])
        layer = Spread.of([1e6 * t / layers for t in e.times])
        relative = ratio([t / layers for t in e.times], [t / int(base.key) for t in base.times])
        lines.append([e.key, step.show(), layer.show(), relative.show()])
    return lines


def until_first(depths: Sequence[str]) -> tuple[list[list[str]], list[Entry]]:
    """The table of the seconds until the first steps are done, and its entries."""
    lines, entries = [], []
    for depth in depths:
        cells: list[str] = []
        with tempfile.TemporaryDirectory() as cold, tempfile.TemporaryDirectory() as other:
            for backend, caches in (("native", cold), ("native", cold), ("numpy", other)):
                progress(f"{depth} layers, {backend}: building")
                e = entry(depth, backend)
                with built(e, caches):
                    pass
                cells.append(e.why or _seconds(e.built["stages"], backend))
                entries.append(e)
        lines.append([depth, *cells])
    return lines, entries


def _seconds(stages: dict[str, Any], backend: str) -> str:
    """Until the first call is done; of the interpreter without its slow first steps."""
    total = stages["trace and compile"] + (stages["first call"] if backend == "native" else 0.0)
    return significant(total)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; 1 if something failed."""
    parser = argparse.ArgumentParser(description="What depth costs.")
    parser.add_argument("--depths", default=DEPTHS)
    parser.add_argument("--compile", default=COMPILED)
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, per depth")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    about = machine()
    entries = [entry(depth) for depth in options.depths.split(",")]
    race(entries, seconds=options.seconds, tell=progress)
    lines, compiled = until_first(options.compile.split(","))
    print(f"{about}\n")
    relative = f"per layer, × {entries[0].key} layers"
    print(table(["layers", "µs per step", "µs per layer", relative], per_layer(entries)))
    print()
    print(table(["layers", "s, cold", "s, warm", "s, trace and plan alone"], lines))
    if options.json:
        save(options.json, {"machine": about, "steps": entries, "compile": compiled})
    return 1 if any(e.failed for e in (*entries, *compiled)) else 0


if __name__ == "__main__":
    sys.exit(main())
