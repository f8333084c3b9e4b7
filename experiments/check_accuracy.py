"""How often `isograd check` is wrong: its verdict on networks, and what comes of training them.

The networks are those of `false_alarms.py`, and so is what counts as trained. The check sees one
batch of each before the training; of the training it knows nothing.

    python experiments/check_accuracy.py          # the table, two to three minutes on 2 cores
    python experiments/check_accuracy.py --json   # every network with its verdict and why
"""

from __future__ import annotations

import json
import sys

from false_alarms import results_of, run, show, spec_of

from isograd.diagnosis.check import check
from isograd.training.start import load_split


def checked(task: str, depth: int, kind: str, optimiser: str) -> dict[str, object]:
    """Check one network, and train it."""
    spec = spec_of(task, depth, kind, optimiser)
    found = check(spec, load_split(spec))
    why = [item.name for item in found.items if item.state in ("bad", "doubt")]
    trained = run(task, depth, kind, optimiser)
    return trained | {"outlook": found.verdict, "findings": why}


def main() -> None:
    """Print the table."""
    results = results_of(checked)
    if "--json" in sys.argv:
        print(json.dumps(results, indent=1))
    else:
        show(results, "outlook", ("will train", "unknown", "will not"))


if __name__ == "__main__":
    main()
