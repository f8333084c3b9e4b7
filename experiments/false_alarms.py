"""How often the diagnosis is wrong: verdicts on networks whose health is known otherwise.

Trains networks of many kinds on scikit-learn's data sets, and compares the verdict with what the
training accuracy says: a network *trains* if it fits at least 90 % of the training rows (R² ≥ 0.4
in the regression, where rows carry noise), and *does not* if it is nearer to guessing than to that.
What lies between is counted apart. The accuracy is no input of any rule.

    python experiments/false_alarms.py            # the table, two minutes on 2 cores
    python experiments/false_alarms.py --json     # every network with its verdict and findings
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable

from joblib import Parallel, delayed

from isograd.diagnosis import examine
from isograd.nn import (
    SGD,
    Activation,
    Adam,
    BinaryCrossEntropy,
    Critical,
    Data,
    Dense,
    HalfSquaredError,
    He,
    LayerNorm,
    LeCun,
    Network,
    Normal,
    Orthogonal,
    Repeat,
    Residual,
    SoftmaxCrossEntropy,
    Spec,
    Training,
    Xavier,
)
from isograd.training.loop import fit
from isograd.training.start import load_split

# data set: outputs, loss, epochs, accuracy of guessing, accuracy of a network that trains
TASKS = {
    "digits": (10, SoftmaxCrossEntropy(), 12, 0.10, 0.90),
    "iris": (3, SoftmaxCrossEntropy(), 60, 0.33, 0.90),
    "wine": (3, SoftmaxCrossEntropy(), 60, 0.40, 0.90),
    "breast_cancer": (1, BinaryCrossEntropy(), 30, 0.63, 0.90),
    "diabetes": (1, HalfSquaredError(), 40, 0.00, 0.40),
}
DEPTHS = (2, 4, 8, 16, 30)
KINDS = {
    "relu, he": ("relu", He(), ""),
    "tanh, xavier": ("tanh", Xavier(), ""),
    "scaled_sigmoid, orthogonal": ("scaled_sigmoid", Orthogonal(), ""),
    "gelu, critical": ("gelu", Critical(), ""),
    "selu, lecun": ("selu", LeCun(), ""),
    "relu, he, layer_norm": ("relu", He(), "norm"),
    "tanh, xavier, residual": ("tanh", Xavier(), "residual"),
    "logistic, xavier": ("logistic", Xavier(), ""),
    "relu, normal(0.01)": ("relu", Normal(0.01), ""),
    "tanh, normal(1)": ("tanh", Normal(1.0), ""),
}
OPTIMISERS = {"sgd": SGD(0.05), "adam": Adam(0.001)}
WIDTH = 32


def network(task: str, depth: int, kind: str) -> Network:
    """`depth` dense layers of one kind."""
    outputs, loss, *_ = TASKS[task]
    activation, init, extra = KINDS[kind]
    norm = (LayerNorm(),) if extra == "norm" else ()
    block = (Dense(WIDTH), *norm, Activation(activation))
    inner = (Residual(block),) if extra == "residual" else block
    hidden = (Repeat(depth - 2, inner),) if depth > 2 else ()
    return Network((*block, *hidden, Dense(outputs)), loss, init)


GRID = [(t, d, k, o) for t in TASKS for d in DEPTHS for k in KINDS for o in OPTIMISERS]
"""What there is to train: task, depth, kind and optimiser."""


def spec_of(task: str, depth: int, kind: str, optimiser: str) -> Spec:
    """The spec of a network of the grid."""
    return Spec(
        Data(task),
        network(task, depth, kind),
        OPTIMISERS[optimiser],
        Training(epochs=TASKS[task][2], batch_size=32),
    )


def run(task: str, depth: int, kind: str, optimiser: str) -> dict[str, object]:
    """Train and diagnose one network."""
    *_, guess, good = TASKS[task]
    spec = spec_of(task, depth, kind, optimiser)
    split = load_split(spec)
    outcome = fit(spec, split)
    diagnosis = examine(outcome, split)
    accuracy = outcome.train.accuracy
    if accuracy >= good:
        truth = "trains"
    else:
        truth = "between" if accuracy > (guess + good) / 2.0 else "does not"
    return {
        "task": task,
        "depth": depth,
        "kind": kind,
        "optimiser": optimiser,
        "accuracy": accuracy if accuracy == accuracy else None,
        "truth": truth,
        "verdict": diagnosis.verdict,
        "findings": sorted(diagnosis.names),
    }


def results_of(job: Callable[..., dict[str, object]]) -> list[dict[str, object]]:
    """What a job says of each network, on all cores."""
    results = []
    for result in Parallel(n_jobs=-1, return_as="generator")(delayed(job)(*g) for g in GRID):
        results.append(result)
        print(f"\r{len(results)}/{len(GRID)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return results


def show(results: list[dict[str, object]], key: str, verdicts: tuple[str, str, str]) -> None:
    """The table of a verdict against what came of the training, and the errors.

    Args:
        results: of all networks.
        key: of the verdict.
        verdicts: the one that is right of what trains, the undecided, and the one that is wrong.
    """
    well, _, ill = verdicts
    counts = Counter((r["truth"], r[key]) for r in results)
    print(f"{'':<10}" + "".join(f"{verdict:>12}" for verdict in verdicts))
    for truth in ("trains", "between", "does not"):
        print(f"{truth:<10}" + "".join(f"{counts[truth, verdict]:>12}" for verdict in verdicts))
    trains = sum(n for (truth, _), n in counts.items() if truth == "trains")
    fails = sum(n for (truth, _), n in counts.items() if truth == "does not")
    print(f"\nfalse alarms: {counts['trains', ill]} of {trains} networks that train")
    print(f"missed: {counts['does not', well]} of {fails} networks that do not")
    for r in results:
        if (r["truth"], r[key]) in (("trains", ill), ("does not", well)):
            where = f"{r['task']}, {r['depth']} layers, {r['kind']}, {r['optimiser']}"
            print(f"  {where}: accuracy {r['accuracy']:.2g}, {r[key]}: {r['findings']}")


def main() -> None:
    """Print the table."""
    results = results_of(run)
    if "--json" in sys.argv:
        print(json.dumps(results, indent=1))
    else:
        show(results, "verdict", ("healthy", "unknown", "sick"))


if __name__ == "__main__":
    main()
