"""Will a network train? What one batch and theory say before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from isograd.backends.select import Backend
from isograd.diagnosis.case import expectation
from isograd.diagnosis.findings import Expectation
from isograd.diagnosis.first_step import FirstStep, first_step
from isograd.diagnosis.outlook import Item, Look, look_at
from isograd.nn.model import Model, build
from isograd.nn.spec import Spec
from isograd.training.data import Split
from isograd.training.start import prepare

Outlook = Literal["will train", "will not", "unknown"]


@dataclass(frozen=True)
class Check:
    """What can be said of a network before it is trained.

    Attributes:
        verdict: *will train*, *will not*, or *unknown*.
        reason: the verdict in a sentence.
        model: the network.
        items: what was looked at, in the order in which a step meets it.
        measured: one step; None without data.
        expected: theory's.
        assumptions: what was taken for granted where there are no data.
    """

    verdict: Outlook
    reason: str
    model: Model
    items: tuple[Item, ...]
    measured: FirstStep | None
    expected: Expectation
    assumptions: tuple[str, ...]


def check(
    spec: Spec,
    split: Split | None,
    *,
    n_in: int = 0,
    backend: Backend = "numpy",
    threads: int | None = None,
) -> Check:
    """Say whether a network will train.

    Args:
        spec: the network and its training.
        split: the data; None leaves what theory alone can say.
        n_in: features, where there are no data.
        backend, threads: what takes the step that is measured.

    Raises:
        IsogradError: if spec or data cannot be used.
    """
    measured = None
    if split is not None:
        start = prepare(spec, split)
        model = start.model
        measured = first_step(spec, split, start, backend=backend, threads=threads)
    else:
        model = build(spec.network, n_in)
    look = Look(spec, model, split, measured, expectation(model))
    items = look_at(look)
    verdict, reason = _verdict(items)
    return Check(
        verdict=verdict,
        reason=reason,
        model=model,
        items=items,
        measured=measured,
        expected=look.expected,
        assumptions=(),
    )


def _verdict(items: tuple[Item, ...]) -> tuple[Outlook, str]:
    names: Mapping[str, Outlook] = {"bad": "will not", "doubt": "unknown"}
    for state, verdict in names.items():
        found = [item for item in items if item.state == state]
        if found:
            return verdict, "; ".join(item.came for item in found)
    return "will train", "nothing that is known to keep a network from training was found"


__all__ = ["Check", "Outlook", "check"]
