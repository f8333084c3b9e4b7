"""isograd.check: a network looked at before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from isograd.backends.select import choose
from isograd.diagnosis.check import Check
from isograd.diagnosis.check import check as checked
from isograd.errors import SpecError
from isograd.nn.spec import (
    ARRAYS,
    SGD,
    Data,
    Init,
    Layer,
    Loss,
    Network,
    Optimiser,
    SoftmaxCrossEntropy,
    Spec,
    Xavier,
)
from isograd.training.data import from_arrays
from isograd.training.start import load_split


def check(
    network: Spec | Network | Sequence[Layer],
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    n_in: int | None = None,
    loss: Loss | None = None,
    init: Init | None = None,
    optimiser: Optimiser | None = None,
    base: Path | None = None,
    seed: int = 0,
    dtype: Any = "float32",
    backend: str | None = "numpy",
    threads: int | None = None,
) -> Check:
    """Say whether a network will train, from one batch and from theory."""
    if not isinstance(network, Spec):
        if not isinstance(network, Network):
            network = Network(tuple(network), loss or SoftmaxCrossEntropy(), init or Xavier())
        network = Spec(Data(ARRAYS), network, optimiser or SGD(), seed=seed, dtype=dtype)
    spec, split = network, None
    if X is not None and y is not None:
        split = from_arrays(
            X, y, spec.data, loss_kind=spec.network.loss, seed=spec.seed, dtype=spec.dtype
        )
    elif spec.data.source != ARRAYS:
        split = load_split(spec, base)
    if split is None and n_in is None:
        raise SpecError("n_in must be given where there are no data", fix="pass n_in")
    return checked(spec, split, n_in=n_in or 0, backend=choose(backend), threads=threads)


__all__ = ["Check", "check"]
