"""What might help: remedies of the literature as edits of a spec, and random edits as controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from isograd import theory
from isograd.diagnosis.findings import Diagnosis
from isograd.diagnosis.step_size import StepSize
from isograd.nn.activations import phi
from isograd.nn.initialisers import has_critical_point
from isograd.nn.model import build
from isograd.nn.places import elementwise
from isograd.nn.precision import DYNAMIC, SCALE_EXPONENT
from isograd.nn.spec import (
    Activation,
    Adam,
    AdamW,
    BatchNorm,
    Critical,
    Dense,
    GradientDescent,
    He,
    Layer,
    LayerNorm,
    Orthogonal,
    Repeat,
    Residual,
    RMSNorm,
    Spec,
)
from isograd.remedy.edits import (
    add_layer_norm,
    add_residuals,
    map_layers,
    set_activation,
    set_init,
    size,
    with_layers,
)
from isograd.theory.formats import LossScale


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit that might help.

    Attributes:
        name: what it does, in a few words.
        why: what it would change in the measured sizes.
        spec: the edited spec.
        size: of the edit, in changed lines of TOML.
    """

    name: str
    why: str
    spec: Spec
    size: int


def candidates(
    spec: Spec,
    diagnosis: Diagnosis,
    n_in: int,
    sizes: StepSize | None = None,
    scale: LossScale | None = None,
) -> tuple[Candidate, ...]:
    """The edits worth a trial for what was found, the smallest first.

    Args:
        spec: the sick one.
        diagnosis: of its run.
        n_in: features of the data.
        sizes: learning rates at its start; None where they are not known.
        scale: the loss scale for its gradients at its start; likewise.
    """
    found: dict[Spec, Candidate] = {}
    for name, why, edited in _edits(spec, diagnosis, n_in, sizes, scale):
        if edited is None or edited == spec:
            continue
        found.setdefault(edited, Candidate(name, why, edited, size(spec, edited)))
    return tuple(sorted(found.values(), key=lambda c: c.size))


_DEPTH = frozenset(
    {
        "vanishing gradient",
        "exploding gradient",
        "vanishing signal",
        "exploding signal",
        "saturated units",
        "dead units",
        "no learning",
        "non-finite value",
    }
)
# Steps that are too long also switch rectifying units off for good, and let a signal grow.
_TOO_LARGE = frozenset(
    {
        "exploding gradient",
        "exploding signal",
        "dead units",
        "non-finite value",
        "learning rate too high",
    }
)


def _edits(
    spec: Spec,
    diagnosis: Diagnosis,
    n_in: int,
    sizes: StepSize | None,
    scale: LossScale | None,
) -> Iterator[tuple[str, str, Spec | None]]:
    names = frozenset(f.name for f in diagnosis.findings)
    layers = _leaves(spec)
    acts = [
        x for x in layers if isinstance(x, Activation) and x.name != "identity" and elementwise(x)
    ]
    too_large = bool(names & _TOO_LARGE)
    yield _rate(spec, too_large, sizes)
    if too_large and not spec.training.normalise_gradient:
        clipped = replace(spec.training, clip_norm=1.0)
        yield "clip_norm 1", "bounds each step", replace(spec, training=clipped)
    if not isinstance(spec.optimiser, Adam | AdamW | GradientDescent):
        adam = replace(spec, optimiser=Adam())
        yield "adam", "steps whose size does not depend on that of the gradient", adam
    if not names & _DEPTH:
        return
    yield from _scaled(spec, scale)
    if acts and has_critical_point(phi(acts[0])):
        yield from _critical(spec, acts[0], diagnosis.expectation.chi1, n_in)
    for init in (He(), Orthogonal()):
        label = f"{type(init).__name__.lower()} init"
        yield label, "keeps the size of the signal where the activation does", set_init(spec, init)
    if acts:
        for name, why in (
            ("scaled_sigmoid", "4σ(x) − 2: slope 1 and value 0 at 0"),
            ("tanh", "slope 1 and value 0 at 0"),
        ):
            yield f"activation {name}", why, set_activation(spec, name)
        relu = set_init(set_activation(spec, "relu"), He())
        yield "activation relu, he init", "keeps the size of signal and error signal", relu
    if acts and not any(isinstance(x, LayerNorm | RMSNorm | BatchNorm) for x in layers):
        yield "layer_norm", "sets the scale anew in every layer", add_layer_norm(spec)
    residual = add_residuals(spec, n_in)
    yield "residual", "a sum in place of the product of Jacobians", residual


_OTHER = 1.5
"""A learning rate is another one from this factor on: a trial at nearly the same tells nothing."""


def _rate(spec: Spec, too_large: bool, sizes: StepSize | None) -> tuple[str, str, Spec]:
    """Another learning rate: from the sharpness where that agrees with the findings, else blind."""
    lr = spec.optimiser.lr
    if sizes is not None and sizes.rate is not None and sizes.high is not None:
        rate = float(f"{sizes.rate:.2g}")
        if rate * _OTHER < lr if too_large else rate > lr * _OTHER:
            why = f"stable at the start up to {sizes.high:.2g}: sharpness {sizes.sharpness:.3g}"
            if sizes.preconditioned != sizes.sharpness:
                why += f", {sizes.preconditioned:.3g} by the optimiser's own scale"
            return f"lr {rate:g}", why, _with_lr(spec, rate)
    if too_large:
        return "lr ÷ 10", "smaller steps", _with_lr(spec, lr / 10.0)
    return "lr × 10", "larger steps", _with_lr(spec, lr * 10.0)


def _scaled(spec: Spec, scale: LossScale | None) -> Iterator[tuple[str, str, Spec]]:
    """Another loss scale, where gradients are rounded: for the first step, and the dynamic one."""
    precision = spec.training.precision
    if precision is None or precision.gradients is None or precision.dynamic:
        return
    arms: list[tuple[str, str, float | str]] = [
        ("loss_scale dynamic", f"as large as {precision.gradients} has room for", DYNAMIC)
    ]
    if scale is not None and abs(scale.log2) <= SCALE_EXPONENT:
        lost = f"{scale.before.lost:.0%} → {scale.after.lost:.0%}"
        why = f"{precision.gradients} loses {lost} of the gradients of the first step"
        arms.append((f"loss_scale 2^{scale.log2}", why, scale.scale))
    for name, why, value in arms:
        scaled = replace(precision, loss_scale=value)
        yield name, why, replace(spec, training=replace(spec.training, precision=scaled))


def _critical(
    spec: Spec, act: Activation, chi1: float, n_in: int
) -> Iterator[tuple[str, str, Spec]]:
    """Critical initialisers, and what they change in the numbers of theory."""
    model = build(spec.network, n_in)
    place = model.weights[min(1, model.depth - 1)]  # of the hidden layers, where there is one
    before, after = model.scale(place), theory.critical(phi(act))
    change = f"χ₁ {chi1:.2g} → 1" if math.isfinite(chi1) else "χ₁ → 1"
    if before is not None:
        change += f", σ_w² {before.sigma_w2:.3g} → {after.sigma_w2:.3g}"
        change += f", σ_b² {before.sigma_b2:.3g} → {after.sigma_b2:.3g}"
    why = f"{change} for {act.name}: the error signal keeps its size in the mean"
    yield "critical init", why, set_init(spec, Critical())
    gaussian, orthogonal = (
        theory.predicted_spectrum(
            theory.equal_layers(phi(act), after.q, after.sigma_w2, model.depth, weights)
        ).variance
        for weights in ("gaussian", "orthogonal")
    )
    if orthogonal < 0.5 * gaussian:  # not for a ReLU (Pennington et al. 2017, sec. 3.3)
        spread = (
            f"{change}, and squared singular values of variance {gaussian:.3g} → {orthogonal:.3g}"
        )
        why = f"{spread}: it keeps its size in most directions"
        yield "critical orthogonal init", why, set_init(spec, Critical(distribution="orthogonal"))


def _leaves(spec: Spec) -> list[Layer]:
    """Every layer of the spec, blocks and what they hold, repeats not written out."""
    out: list[Layer] = []
    stack = list(spec.network.layers)
    while stack:
        layer = stack.pop(0)
        out.append(layer)
        if isinstance(layer, Repeat | Residual):
            stack = [*layer.layers, *stack]
    return out


def _with_lr(spec: Spec, lr: float) -> Spec:
    return replace(spec, optimiser=replace(spec.optimiser, lr=float(f"{lr:.6g}")))


# --- controls

_Change = Callable[[Spec, np.random.Generator], Spec]


def _any_learning_rate(spec: Spec, rng: np.random.Generator) -> Spec:
    return _with_lr(spec, spec.optimiser.lr * 3.0 ** rng.uniform(-1.0, 1.0))


def _any_width(spec: Spec, rng: np.random.Generator) -> Spec:
    if any(isinstance(x, Residual) for x in _leaves(spec)):
        return spec  # its blocks must keep their width
    factor = 2.0 ** rng.uniform(-1.0, 1.0)
    dense = [x for x in _leaves(spec) if isinstance(x, Dense)]
    chosen = dense[:-1][int(rng.integers(len(dense) - 1))] if len(dense) > 1 else None

    def change(layer: Layer) -> Layer:
        if isinstance(layer, Dense) and layer is chosen:
            return replace(layer, units=max(1, round(layer.units * factor)))
        return layer

    return with_layers(spec, map_layers(spec.network.layers, change))


def _any_penalty(spec: Spec, rng: np.random.Generator) -> Spec:
    loss = replace(spec.network.loss, l2=float(f"{10.0 ** rng.uniform(-5.0, -3.0):.2g}"))
    return replace(spec, network=replace(spec.network, loss=loss))


def _any_clipping(spec: Spec, rng: np.random.Generator) -> Spec:
    bound = float(f"{10.0 ** rng.uniform(-1.0, 1.0):.2g}")
    return replace(spec, training=replace(spec.training, clip_value=bound))


_CHANGES: tuple[_Change, ...] = (_any_learning_rate, _any_width, _any_penalty, _any_clipping)


def random_edit(spec: Spec, seed: int) -> Spec:
    """A control: one setting that nothing speaks for, changed at random.

    One of learning rate (up to a factor 3), width of a layer (up to a factor 2), weight penalty
    and clipping of values: an edit as small as the smallest remedies, which shows what any change
    and another draw of the training would do.

    Args:
        spec: the sick one.
        seed: each gives one edit.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    for change in rng.permutation(np.arange(len(_CHANGES))):
        edited = _CHANGES[int(change)](spec, rng)
        if edited != spec:
            return edited
    raise AssertionError("a learning rate can always be changed")


__all__ = ["Candidate", "candidates", "random_edit"]
