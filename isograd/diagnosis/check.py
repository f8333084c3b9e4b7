"""Will a network train? What one batch and theory say before any training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from isograd.backends.select import Backend
from isograd.diagnosis.expected import expected, moments_of
from isograd.diagnosis.findings import Expectation
from isograd.diagnosis.first_step import FirstStep, first_step
from isograd.diagnosis.outlook import Item, Look, look_at
from isograd.diagnosis.precision import precision_plan
from isograd.diagnosis.step_size import MAX_PRODUCTS, StepSize, preconditioner, step_size
from isograd.nn.model import Model, build
from isograd.nn.spec import Spec
from isograd.theory.cost import Flops, mlp_flops
from isograd.theory.precision import PrecisionPlan
from isograd.training.data import Split
from isograd.training.start import Start, model_for, prepare

Outlook = Literal["will train", "will not", "unknown"]


@dataclass(frozen=True)
class Check:
    """What can be said of a network before it is trained.

    Attributes:
        verdict: *will train*, *will not*, or *unknown*.
        reason: the verdict in a sentence.
        items: what was looked at.
        model: the network.
        measured: one step; None without data, and so are `step_size` and `precision`.
        expected: what theory expects of each layer.
        step_size: which learning rates suit it.
        precision: which number formats do for which tensors.
        flops: of the matrix products of a step, per row.
        notes: what was assumed, and what was left out.
    """

    verdict: Outlook
    reason: str
    items: tuple[Item, ...] = field(repr=False)
    model: Model = field(repr=False)
    measured: FirstStep | None = field(repr=False)
    expected: Expectation = field(repr=False)
    step_size: StepSize | None = field(repr=False)
    precision: PrecisionPlan | None = field(repr=False)
    flops: Flops
    notes: tuple[str, ...] = ()


MOST_MEASURED, MOST_PLANNED = 5000, 1000
"""Layers of which a step is measured, and the precision planned: beyond, it would take minutes."""


def check(
    spec: Spec,
    split: Split | None,
    *,
    n_in: int = 1,
    backend: Backend = "numpy",
    threads: int | None = None,
    notes: tuple[str, ...] = (),
) -> Check:
    """Say whether a network will train.

    Args:
        spec: the network and its training.
        split: the data; None leaves what theory alone can say.
        n_in: features, where there are no data.
        backend, threads: what takes the step that is measured.
        notes: of the caller's.

    Raises:
        IsogradError: if spec or data cannot be used.
    """
    measured, sizes, plan = None, None, None
    if split is None:
        model = build(spec.network, n_in)
        theory = expected(model)
        notes += ("assumed: features of mean square 1, and rows that have nothing in common",)
    else:
        model = model_for(spec, split)
        rows = split.X_train
        if model.depth <= MOST_MEASURED:
            start = prepare(spec, split)
            measured = first_step(spec, split, start, backend=backend, threads=threads)
            rows = rows[measured.batch]
            sizes = _step_size(spec, split, start, measured)
        else:
            notes += (f"left out: a step of {model.depth} layers; this is theory alone",)
        second, cross = moments_of(rows)
        theory = expected(
            model, second=second, cross=cross, batch=measured.rows if measured else None
        )
        if measured is not None and model.depth <= MOST_PLANNED:
            plan = precision_plan(measured.summaries, model)
        elif measured is not None:
            notes += (f"left out: the precision plan of {model.depth} layers",)
    items = look_at(Look(spec, model, split, measured, theory, sizes))
    verdict, reason = judge(items)
    return Check(
        verdict=verdict,
        reason=reason,
        items=items,
        model=model,
        measured=measured,
        expected=theory,
        step_size=sizes,
        precision=plan,
        flops=mlp_flops([model.n_in, *(p.n_out for p in model.weights)]),
        notes=notes,
    )


_SECONDS = 4.0
"""What the sharpness may take, about."""


def _step_size(spec: Spec, split: Split, start: Start, measured: FirstStep) -> StepSize:
    """Sharpness with as many products as fit, by their size: the same on every machine."""
    rows = measured.batch[: max(64, start.batch_size)]
    work = 4.0 * 2.0 * start.model.parameter_count * len(rows)
    seconds = 2e-3 * start.model.depth + work / 1e10
    passes = 1 if preconditioner(spec.optimiser, np.zeros(1)) is None else 2
    products = min(MAX_PRODUCTS, int(_SECONDS / (seconds * passes)))
    return step_size(
        *(spec, start.model, start.params),
        split.X_train[rows],
        split.y_train[rows],
        rng=np.random.default_rng(spec.seed),
        steps=start.steps,
        max_products=products,
    )


def judge(items: tuple[Item, ...]) -> tuple[Outlook, str]:
    """The verdict that items lead to, and why.

    *Will not* if one is bad, *unknown* if one is in doubt, *will train* else.
    """
    outlooks: dict[str, Outlook] = {"bad": "will not", "doubt": "unknown"}
    for state, verdict in outlooks.items():
        found = [item for item in items if item.state == state]
        if found:
            first, *others = found
            also = f" (also: {', '.join(item.name for item in others)})" if others else ""
            return verdict, f"{first.came}{also}"
    return "will train", "nothing was found that is known to keep a network from training"


__all__ = ["Check", "Outlook", "check", "judge"]
