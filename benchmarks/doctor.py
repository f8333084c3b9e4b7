"""How long `isograd doctor examples/deep_sigmoid.toml` takes, on either backend.

    python benchmarks/doctor.py [--repeats N] [--spec FILE] [--json FILE]

Whole processes, in turn; each native one starts with an empty folder of machine code, as for
someone who runs it for the first time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import HERE, Spread, last_words, machine, ratio, table
from race import progress, save

BACKENDS = ("native", "numpy")
SPEC = HERE.parent / "examples/deep_sigmoid.toml"


def run(spec: Path, backend: str) -> tuple[float, str]:
    """Seconds, and what went wrong; the doctor's answer may be healthy, cured or sick."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "isograd.cli", "doctor", str(spec), "--backend", backend]
        command += ["--out", str(Path(folder) / "cured.toml"), "--json"]
        env = dict(os.environ) | {"ISOGRAD_CACHE": folder}
        start = time.perf_counter()
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    wrong = done.returncode not in (0, 1)
    return seconds, last_words(done.stderr) if wrong else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a run failed."""
    parser = argparse.ArgumentParser(description="How long the doctor takes.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spec", type=Path, default=SPEC)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    about = machine()
    times: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    failed: dict[str, str] = {}
    for number in range(options.repeats):
        for backend in BACKENDS if number % 2 == 0 else reversed(BACKENDS):
            if backend in failed:
                continue
            seconds, wrong = run(options.spec, backend)
            progress(f"{backend}: {wrong or f'{seconds:.1f} s'}")
            if wrong:
                failed[backend] = wrong
            times[backend].append(seconds)
    lines = []
    for backend in BACKENDS:
        if backend in failed:
            lines.append([backend, failed[backend], ""])
            continue
        relative = "" if "native" in failed else ratio(times[backend], times["native"]).show()
        lines.append([backend, Spread.of(times[backend]).show(), relative])
    print(f"{about}\n")
    print(table(["backend", "s", "× native"], lines))
    if options.json:
        save(options.json, {"machine": about, "seconds": times, "failed": failed})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
