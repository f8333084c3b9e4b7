"""The profile of a training step, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from isograd.backends.llvm.profile import Line, Profile

_SHOWN = 20  # lines; what is left is summed up


def show_profile(console: Console, profile: Profile) -> None:
    """The kernels of a step, the slowest first, beside the step and the machine."""
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column("kernel", overflow="fold")
    for name in ("items", "µs", "share", "GFLOP/s", "GB/s"):
        table.add_column(name, justify="right", no_wrap=True)
    spent = sum(line.seconds for line in profile.lines)
    for line in profile.lines[:_SHOWN]:
        table.add_row(line.kernel, str(line.items), *_rates(line, spent))
    rest = profile.lines[_SHOWN:]
    if rest:
        seconds = sum(line.seconds for line in rest)
        items = str(sum(line.items for line in rest))
        table.add_row(
            f"{len(rest)} others", items, f"{1e6 * seconds:.2f}", _share(seconds, spent), "", ""
        )
    console.print(table)
    threads = "one thread" if profile.threads == 1 else f"{profile.threads} threads"
    flops = sum(line.flops for line in profile.lines)
    total = flops / profile.seconds / 1e9
    ceiling = profile.peak * profile.threads / 1e9
    console.print(
        f"a step takes {1e6 * profile.seconds:.1f} µs on {threads}: its products at "
        f"{total:.1f} GFLOP/s of {ceiling:.0f}, which multiply-adds on registers reach here",
        highlight=False,
        soft_wrap=True,
    )


def _rates(line: Line, spent: float) -> tuple[str, str, str, str]:
    seconds = max(line.seconds, 1e-12)
    flops = f"{line.flops / seconds / 1e9:.1f}" if line.flops else ""
    share = _share(line.seconds, spent)
    return f"{1e6 * line.seconds:.2f}", share, flops, f"{line.nbytes / seconds / 1e9:.1f}"


def _share(seconds: float, spent: float) -> str:
    return f"{100.0 * seconds / max(spent, 1e-12):.1f} %"
