"""Whole training steps, side by side.

    python benchmarks/steps.py [--rows 1,2,...] [--peers native,torch,...] [--seconds S]
                               [--json FILE] [--markdown FILE]

Every figure is a median over rounds, with its quartiles. What counts is the ratio: the time of a
peer's step over that of isograd's in the same round. See README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ceiling import in_process
from common import Machine, Unavailable, machine, significant, table
from networks import ROWS, row_of
from peers import PEERS
from race import Result, entries_of, progress, race, results, save

AGAINST = ("native", "numpy")
"""Ratios are to the first of these that was measured."""
OWN = ("native", "numpy")
"""Beside these stands the share of the ceiling."""


def lines(found: Sequence[Result], ceiling: float | None) -> list[list[str]]:
    """A row of the table per peer.

    Args:
        found: the peers.
        ceiling: seconds; None if not measured.
    """
    out = []
    for result in found:
        title = PEERS[result.key].title
        if result.best is None or result.microseconds is None:
            reasons = list(dict.fromkeys(result.why.values()))
            out.append([title, "", "; ".join(reasons), "", "", ""])
            continue
        share = ""
        if result.key in OWN and ceiling is not None:
            share = f"{100e6 * ceiling / result.microseconds.median:.0f} %"
        relative = result.ratio.show() if result.ratio else ""
        first = f"[{significant(result.best.built['first'], 2)} s]"
        setting = "; ".join([result.best.setting, *(f"{k}: {v}" for k, v in result.why.items())])
        out.append([title, setting, result.microseconds.show(), relative, share, first])
    return out


def report(row: str, found: Sequence[Result], ceiling: dict[str, Any] | str) -> str:
    """A section in Markdown."""
    sizes = row_of(row)
    cores = "1 core" if sizes.threads == 1 else f"{sizes.threads} cores"
    if isinstance(ceiling, str):
        known, words = None, f"Ceiling not measured: {ceiling}."
    else:
        known = ceiling["seconds"]
        rates = [f"{level} {significant(r / 1e9)}" for level, r in ceiling["bandwidth"].items()]
        words = (
            f"Ceiling: {significant(1e6 * known)} µs (peak {significant(ceiling['peak'] / 1e9)} "
            f"GFLOP/s, product {significant(ceiling['product'] / 1e9)} GFLOP/s by "
            f"{ceiling['by']}; GB/s: {', '.join(rates)})."
        )
    base = next(
        (PEERS[r.key].title for key in AGAINST for r in found if r.key == key and r.best), ""
    )
    head = ["peer", "best setting", "µs per step", f"× {base}", "of ceiling", "first call"]
    body = table(head, lines(found, known))
    return f"### Row {row}: {sizes.name}, {cores}\n\n{body}\n\n{words}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows; 1 if a peer failed, 2 for arguments that cannot be used."""
    parser = argparse.ArgumentParser(description="Whole training steps, side by side.")
    parser.add_argument("--rows", default=",".join(ROWS), help="numbers, or LxWxBxT")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, per setting")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    options = parser.parse_args(arguments)
    keys, rows = options.peers.split(","), options.rows.split(",")
    if unknown := [key for key in keys if key not in PEERS]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    try:
        for row in rows:
            row_of(row)
    except ValueError as error:
        parser.error(str(error))
    about: Machine = machine()
    text, answers, failed = [f"{about}\n"], {}, False
    print(text[0])
    for row in rows:
        progress(f"row {row}: {row_of(row).name}")
        ceiling: dict[str, Any] | str
        try:
            ceiling = in_process(row)
        except Unavailable as error:
            ceiling = str(error)
        entries = entries_of({key: PEERS[key] for key in keys}, row)
        race(entries, seconds=options.seconds, tell=progress)
        found = results(entries, AGAINST)
        failed |= any(result.failed for result in found)
        answers[row] = {"results": found, "entries": entries, "ceiling": ceiling}
        text.append(report(row, found, ceiling))
        print(text[-1], flush=True)
        if options.json:
            save(options.json, {"machine": about, "rows": answers})
        if options.markdown:
            with open(options.markdown, "w", encoding="utf-8") as file:
                file.write("\n".join(text))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
