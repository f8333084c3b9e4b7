"""What telemetry costs: steps with it over steps without.

    python benchmarks/telemetry.py [--rows 10x64x64x1,10x256x128x1] [--seconds S] [--json FILE]

Both kinds of steps run in turn, so a ratio is that of two times of one round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common import Spread, machine, ratio, table
from networks import row_of
from peers import PEERS, TELEMETRY
from race import Entry, progress, race, save


def pairs(row: str) -> list[tuple[Entry, Entry]]:
    """Per backend and kind of telemetry the steps without and with it."""
    out = []
    for name, peer in TELEMETRY.items():
        backend = name.partition("+")[0]
        bare = Entry(backend, PEERS[backend], PEERS[backend].settings[0], row)
        out.append((bare, Entry(name, peer, peer.settings[0], row)))
    return out


def line(bare: Entry, measured: Entry) -> list[str]:
    """A row of the table."""
    start = [row_of(bare.row).name, measured.peer.title]
    if why := bare.why or measured.why:
        return [*start, why, "", ""]
    times = (Spread.of([1e6 * t for t in entry.times]).show() for entry in (bare, measured))
    return [*start, *times, ratio(measured.times, bare.times).show()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if something failed."""
    parser = argparse.ArgumentParser(description="What telemetry costs.")
    parser.add_argument("--rows", default="10x64x64x1,10x256x128x1")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, per worker")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    about, lines, everything = machine(), [], []
    for row in options.rows.split(","):
        found = pairs(row)
        entries = [entry for pair in found for entry in pair]
        race(entries, seconds=options.seconds, tell=progress)
        lines += [line(*pair) for pair in found]
        everything += entries
    print(f"{about}\n")
    print(table(["network", "steps", "µs without", "µs with telemetry", "with / without"], lines))
    if options.json:
        save(options.json, {"machine": about, "entries": everything})
    return 1 if any(entry.failed for entry in everything) else 0


if __name__ == "__main__":
    sys.exit(main())
