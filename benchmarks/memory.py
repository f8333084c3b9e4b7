"""What a step takes in memory, beside what its plan says.

    python benchmarks/memory.py [--rows 1,3,5,20x512x512x1] [--json FILE]

Each figure is of a new process: the growth of the resident set, at its peak, from the moment when
the step is compiled and the data and first parameters are there, over a call of steps. The plan
counts the intermediate values of a step: `storage_bytes` with its sharing, and `peak_bytes`, below
which no sharing can go. On top of these come the parameters and the rule's state after the step,
which are new arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Unavailable, cores, environment, last_words, machine, table
from networks import Problem, row_of
from race import progress, save

ROWS = "1,3,5,20x512x512x1"
WAYS = ("native", "native, recomputed", "numpy", "numpy, recomputed")


def resident() -> tuple[int, int]:
    """Bytes of the resident set: now, and at its peak since `forget_peak`."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise Unavailable("the system has no /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
    now, peak = (int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return now, peak


def forget_peak() -> None:
    """The peak starts anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measure(row: str, way: str) -> dict[str, Any]:
    """In this process: the plan's figures and the growth.

    Recomputed: what the backward pass reads is computed again where less is then alive at once.
    """
    import gc

    from peers.own import compiled, each_of

    from isograd.backends import numpy as interpreter
    from isograd.backends.llvm import program
    from isograd.engine.passes import EXACT, WITHOUT_PROBES, optimise
    from isograd.engine.plan import plan as planned
    from isograd.engine.recompute import recompute

    backend, _, recomputed = way.partition(", ")
    problem = Problem(row_of(row))
    step, theta = compiled(problem, backend)
    run: Any = step.bare
    if recomputed:
        new = recompute(optimise(step.graph, (WITHOUT_PROBES, *EXACT)).graph)
        kind = program.Scan if backend == "native" else interpreter.Scan
        run = kind(planned(new.graph, new.labels, new.after))
    plan = run.plan
    carry, fixed = (theta, step.state, {}), (problem.inputs, problem.targets)
    each = each_of(problem.row, 0)
    gc.collect()
    forget_peak()
    before, _ = resident()
    run(carry, fixed, each)
    _, peak = resident()
    return {
        "storage": plan.storage_bytes,
        "peak": plan.peak_bytes,
        "carry": 3 * theta.nbytes,
        "growth": peak - before,
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }


def in_process(row: str, way: str) -> dict[str, Any]:
    """`measure` in a process of its own; {"why": ...} where it fails."""
    command = [sys.executable, __file__, "--one", row, "--way", way]
    with tempfile.TemporaryDirectory() as caches:
        env = environment(row_of(row).threads, caches)
        # Larger arrays get pages of their own, which are given back when they are freed.
        env["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"why": last_words(done.stderr)}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if something failed."""
    parser = argparse.ArgumentParser(description="What a step takes in memory.")
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        if pinned := cores(row_of(options.one).threads):
            os.sched_setaffinity(0, pinned)
        print(json.dumps(measure(options.one, options.way)))
        return 0
    about, lines, answers, failed = machine(), [], [], False
    for row in options.rows.split(","):
        for way in WAYS:
            progress(f"{row_of(row).name}, {way}")
            found = in_process(row, way)
            answers.append({"row": row, "way": way} | found)
            start = [row_of(row).name, way]
            if "why" in found:
                failed = True
                lines.append([*start, found["why"], "", "", "", ""])
                continue
            kib = [f"{found[k] / 1024:.0f}" for k in ("storage", "peak", "carry", "growth")]
            counted = found["storage"] + found["carry"]
            lines.append([*start, *kib, f"{found['growth'] / counted:.2f}"])
    print(f"{about}\n")
    head = ["network", "backend", "plan's storage, KiB", "plan's peak, KiB", "θ, m and v, KiB"]
    print(table([*head, "measured growth, KiB", "growth / (storage + θ, m, v)"], lines))
    if options.json:
        save(options.json, {"machine": about, "rows": answers})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
