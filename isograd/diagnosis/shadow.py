"""A training step of a network beside its float64 shadow, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isograd.engine.autodiff import value_and_grad
from isograd.engine.functions import probe
from isograd.engine.number_formats import NumberFormat
from isograd.engine.ops import Value
from isograd.errors import TheoryError
from isograd.nn.activations import phi
from isograd.nn.model import Model, Noise, Part
from isograd.nn.places import elementwise
from isograd.nn.spec import Activation, Dense, Layer
from isograd.theory import Phi
from isograd.theory.formats import as_format
from isograd.theory.forward_error import DenseLayer, forward_error
from isograd.theory.shadow import SiteError, shadow, site_error

FORWARD = frozenset({"z", "a", "n", "m", "k", "r"})
BACKWARD = frozenset({"delta", "da", "dn", "dm", "dk", "dr", "dW", "db"})


@dataclass(frozen=True)
class Shadow:
    """The errors of one step in a format, against the same step in float64.

    Attributes:
        form: the format.
        sites: every probe of the step.
        layers: of the network, in order.
    """

    form: NumberFormat
    sites: Mapping[str, SiteError]
    layers: tuple[int, ...]

    def error(self, kind: str, layer: int) -> float:
        """The rms error at a site over the rms of what is exact there; NaN where there is none."""
        found = self.sites.get(f"{kind}/{layer}")
        return math.nan if found is None else found.rms

    @property
    def forward_from(self) -> int | None:
        """The first layer of the forward pass whose error is as large as its signal, or None."""
        return next((n for n in self.layers if self._worst(FORWARD, n) >= 1.0), None)

    @property
    def backward_from(self) -> int | None:
        """The first layer that the backward pass, from the last layer down, meets so, or None.

        A signal that is flushed to zero throughout has an error of exactly its size.
        """
        return next((n for n in reversed(self.layers) if self._worst(BACKWARD, n) >= 1.0), None)

    def __str__(self) -> str:
        """A line for each layer: the rms errors of z, a, δ and dW, over the signal."""
        kinds = ("z", "a", "delta", "dW")
        lines = ["layer" + "".join(f"{kind:>9}" for kind in kinds)]
        for layer in self.layers:
            errors = (self.error(kind, layer) for kind in kinds)
            cells = ("" if math.isnan(e) else f"{e:.1e}" for e in errors)
            lines.append(f"{layer:>5}" + "".join(f"{cell:>9}" for cell in cells))
        return "\n".join(lines)

    def _worst(self, kinds: frozenset[str], layer: int) -> float:
        errors = (self.error(kind, layer) for kind in kinds)
        return max((e for e in errors if not math.isnan(e)), default=0.0)


def shadow_step(
    model: Model,
    params: Mapping[str, ArrayLike],
    x: ArrayLike,
    target: ArrayLike,
    *,
    form: NumberFormat | str = "fp32",
    loss_scale: float = 1.0,
    noise: Noise | None = None,
) -> Shadow:
    """Compare forward and backward pass of a batch in a format with those in float64.

    Args:
        model: the network.
        params: learned parameters and statistics, as from `Model.init`.
        x: inputs (n, n_in).
        target: as `isograd.nn.losses.loss` takes it.
        form: in which values are kept at every probe: see `isograd.theory.shadow.shadow`.
        loss_scale: a power of two by which the loss is multiplied. It changes no relative error but
            those of underflow and overflow.
        noise: for dropout; some fixed numbers if not given.

    Raises:
        IsogradError: if there is no format of that name.
        ShapeError: if x does not fit.
    """
    low = as_format(form)
    noise = noise or Noise(np.array([0, 1], np.uint32), np.uint32(0))
    learned = {name: np.asarray(params[name]) for name in model.shapes}
    statistics = {name: np.asarray(params[name]) for name in model.statistics}

    def step(learned: Any, statistics: Any, x: Value, target: Value, noise: Any) -> Any:
        def risk(parts: Mapping[str, Value]) -> Value:
            seen = {name: probe(array, name, f"d{name}") for name, array in parts.items()}
            value, _ = model.train_loss(seen | statistics, x, target, Noise(*noise))
            return loss_scale * value

        return value_and_grad(risk)(learned)

    batch = np.asarray(x), np.asarray(target)
    drawn: tuple[NDArray[Any], ...] = np.asarray(noise.key), np.asarray(noise.step)
    errors = shadow(step, learned, statistics, *map(_floats, batch), drawn, form=low)
    layers = tuple(p.layer for p in model.places if p.part is Part.WEIGHTS)
    return Shadow(low, {e.site: e for e in errors}, layers)


def error_bounds(
    model: Model,
    params: Mapping[str, ArrayLike],
    x: ArrayLike,
    *,
    form: NumberFormat | str = "fp32",
    accumulate: NumberFormat | str | None = "fp32",
) -> dict[str, float]:
    """How large the errors of a forward pass can be: by site, a bound on what `shadow_step` finds.

    Args:
        model: dense layers and elementwise activations, in a chain.
        params: learned parameters.
        x: inputs (n, n_in).
        form: in which values are kept.
        accumulate: in which products are summed up; that of `shadow_step` is float32.

    Returns:
        For "z/l" and "a/l" the largest bound of a component, over the rms of the exact values.

    Raises:
        IsogradError: if there is no format of that name.
        TheoryError: if the network has other layers, or its values exceed the format.
    """
    layers: list[DenseLayer] = []
    sites: list[str] = []
    for p in model.places:
        sites.append(p.site)
        if isinstance(p.spec, Dense):
            bias = np.asarray(params[f"b/{p.own}"]) if p.spec.bias else None
            layers.append(DenseLayer(np.asarray(params[f"W/{p.own}"]), bias))
        elif _follows(p.spec, layers):
            assert isinstance(p.spec, Activation)
            at_hand = phi(p.spec)
            layers[-1] = replace(
                layers[-1], f=at_hand.f, slope=_steepest(at_hand), roundings=_ROUNDINGS
            )
        else:
            raise TheoryError(
                "error bounds cover chains of dense layers and elementwise activations",
                came=p.part.value,
                where=p.where,
            )
    found = forward_error(np.asarray(x), layers, form, accumulate=accumulate)
    out: dict[str, float] = {}
    for number, bound in enumerate(found, 1):
        out[f"z/{number}"] = _relative(bound.z_error, bound.z)
        out[f"a/{number}"] = _relative(bound.a_error, bound.a)
    return {site: out[site] for site in sites}


def _follows(layer: Layer | None, layers: list[DenseLayer]) -> bool:
    """Whether this is an activation right behind a dense layer."""
    fits = isinstance(layer, Activation) and elementwise(layer) and not layer.is_learned
    return fits and bool(layers) and layers[-1].f is None


# Each activation is right to a few roundings of its value (isograd/nn/activations.py).
_ROUNDINGS = 8.0


def _steepest(at_hand: Phi) -> float:
    """The largest |φ′|, on a grid and at both sides of the kinks."""
    sides = [k + side for k in at_hand.kinks for side in (-1e-9, 1e-9)]
    grid = np.concatenate([np.linspace(-40.0, 40.0, 80_001), sides])
    # Between points 10⁻³ apart a smooth slope rises by no more than a millionth or so.
    return float(np.max(np.abs(at_hand.df(grid)))) * (1.0 + 1e-5)


def _relative(errors: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    size = site_error("", exact, exact).size
    return float(np.max(errors)) / size if size else math.inf


def _floats(x: NDArray[Any]) -> NDArray[Any]:
    """Labels stay as they are; numbers that are not whole are floats."""
    return x if x.dtype.kind in "iub" else x.astype(np.float64)


__all__ = ["Shadow", "error_bounds", "shadow_step"]
