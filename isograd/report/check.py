"""isograd.check: a network, looked at before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

from numpy.typing import ArrayLike

from isograd.backends.select import choose
from isograd.diagnosis.check import Check
from isograd.diagnosis.check import check as examine
from isograd.errors import DataError, SpecError
from isograd.nn.spec import ARRAYS, Data, Dense, Layer, Network, Spec, flatten
from isograd.training.data import from_arrays
from isograd.training.start import load_split


def check(
    network: Spec | Network | Sequence[Layer],
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    n_in: int | None = None,
    base: Path | None = None,
    backend: str = "numpy",
    threads: int | None = None,
) -> Check:
    """Say in seconds, before any training, whether a network will train, and why not.

    With data: one batch is taken forward and backward, and each layer's sizes are laid beside what
    theory expects of them. Without: theory alone.

    Args:
        network: a spec, a network, or its layers. For these two, training is as a spec has it that
            says nothing of it, and for layers so are loss and initialiser.
        X, y: the data, as `isograd.from_arrays` takes them; None takes those of the spec, or none.
        n_in: features, where there are no data; None takes the width of the first dense layer.
        base: the folder that relative data paths start from.
        backend, threads: what takes the step, as for `isograd.fit`. For a single step the
            interpreter is the faster.

    Returns:
        The verdict, *will train*, *will not* or *unknown*, and all that it rests on.

    Raises:
        IsogradError: if network or data cannot be used.

    Example:
        >>> from isograd.nn import Activation, Dense, Repeat
        >>> deep = [Repeat(20, (Dense(64), Activation("logistic"))), Dense(10)]
        >>> check(deep).verdict
        'will not'

    References:
        Schoenholz et al. 2017; docs/theory.md has all others.
    """
    spec, notes = _spec(network)
    if (X is None) != (y is None):
        raise DataError(
            "X and y must be given together",
            came="X alone" if y is None else "y alone",
            fix="give both, or neither for what theory alone can say",
        )
    if n_in is not None and not (isinstance(n_in, Integral) and n_in >= 1):
        raise SpecError("n_in must be a whole number above 0", came=repr(n_in), where="check")
    split = None
    if X is not None and y is not None:
        split = from_arrays(
            X, y, spec.data, loss_kind=spec.network.loss, seed=spec.seed, dtype=spec.dtype
        )
    elif spec.data.source != ARRAYS:
        split = load_split(spec, base)
    if split is not None and n_in not in (None, split.X_train.shape[1]):
        raise DataError(
            "n_in must be the features that the data have",
            came=f"n_in = {n_in}, and {split.X_train.shape[1]} features",
            fix="leave n_in out: it is for a check without data",
        )
    if split is None and n_in is None:
        layers = (layer for _, layer in flatten(spec.network.layers))
        n_in = next((layer.units for layer in layers if isinstance(layer, Dense)), 1)
        notes += (f"assumed: {n_in} features, as many as the first layer has units",)
    return examine(
        spec,
        split,
        n_in=1 if n_in is None else n_in,
        backend=choose(backend),
        threads=threads,
        notes=notes,
    )


def _spec(network: Spec | Network | Sequence[Layer]) -> tuple[Spec, tuple[str, ...]]:
    """A spec, and what was assumed to make it one."""
    if isinstance(network, Spec):
        return network, ()
    notes: tuple[str, ...] = ()
    if not isinstance(network, Network):
        if not isinstance(network, list | tuple):
            raise SpecError(
                "what is checked must be a spec, a network, or a list of layers",
                came=type(network).__name__,
                fix="isograd.load_spec reads a file; isograd.nn has the layers",
            )
        network = Network(tuple(network))
        notes += (f"assumed: init {_kind(network.init)}, loss {_kind(network.loss)}",)
    spec = Spec(Data(ARRAYS), network)
    rate = f"assumed: {_kind(spec.optimiser)} at a learning rate of {spec.optimiser.lr:g}"
    return spec, (*notes, f"{rate}, in {spec.dtype}")


def _kind(struct: object) -> str:
    return str(struct.__struct_config__.tag)  # type: ignore[attr-defined]


__all__ = ["Check", "check"]
