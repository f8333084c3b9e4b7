"""The precision plan of a network, from what one step of it measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isograd.engine.number_formats import FORMATS, NumberFormat
from isograd.nn.model import Model, Part
from isograd.telemetry.records import Kind, Site
from isograd.telemetry.summary import Summary
from isograd.theory.magnitudes import join
from isograd.theory.precision import PrecisionPlan, plan
from isograd.theory.tensors import Role, Tensor
from isograd.theory.updates import AdamEpsilon, adam_epsilon

_ROLES: dict[Role, tuple[Kind, ...]] = {
    "activation": ("input", "z", "n", "a", "m", "k", "r"),
    "error": ("delta", "dn", "da", "dm", "dk", "dr"),
    "weight": ("W", "b", "g", "h", "c"),
    "gradient": ("dW", "db", "dg", "dh", "dc"),
    "update": ("uW", "ub", "ug", "uh", "uc"),
}
ROLE_OF: dict[Kind, Role] = {kind: role for role, kinds in _ROLES.items() for kind in kinds}
"""What the tensor at a site is. Sites that only measure, or that copy another one, are left out."""


def precision_plan(
    summaries: Mapping[Site, Summary],
    model: Model,
    *,
    formats: Sequence[NumberFormat | str] = tuple(FORMATS),
    margin: int = 0,
) -> PrecisionPlan:
    """For every tensor of a step the cheapest format that is safe, why, and the loss scale.

    Args:
        summaries: of all sites of a measured step, or merged over several.
        model: the network.
        formats: that may be taken.
        margin: bits of headroom that the loss scale is to leave at least, for the gradients of
            steps that were not measured.

    Raises:
        IsogradError: if a format is not known.
        TheoryError: if there is no format to choose from, or the margin is negative.
    """
    return plan(tensors(summaries, model), formats=formats, margin=margin)


def tensors(summaries: Mapping[Site, Summary], model: Model) -> Iterator[Tensor]:
    """What was measured of the tensors of a step, from the input on.

    Args:
        summaries: of sites of a step.
        model: the network.
    """
    fan_in, roundings = _sums(summaries, model), _roundings(model)
    for site, s in sorted(summaries.items(), key=lambda x: (x[0].layer, x[0])):
        role = ROLE_OF.get(site.kind)
        if role is None:
            continue
        weights = None
        if role == "update":
            kept = Site(_kept(site.kind), site.layer, site.part)
            if kept not in summaries:
                continue
            weights = _tensor(kept, "weight", summaries[kept])
        name = str(site)
        yield _tensor(
            site,
            role,
            s,
            fan_in=fan_in.get(name, 1),
            roundings=roundings.get(name, 0),
            weights=weights,
        )


def epsilon_in(
    summaries: Mapping[Site, Summary], epsilon: float, form: NumberFormat | str
) -> AdamEpsilon:
    """What becomes of Adam's ε where a format holds it and the second moments.

    Args:
        summaries: of all sites of a measured step; its gradients stand for √v̂.
        epsilon: of the optimiser, above 0.
        form: the format.

    Raises:
        IsogradError: if the format is not known, or ε not above 0.
    """
    gradients = (
        _tensor(site, "gradient", s)
        for site, s in summaries.items()
        if ROLE_OF.get(site.kind) == "gradient"
    )
    return adam_epsilon(epsilon, form, root=join(gradients).histogram)


def _kept(update: Kind) -> Kind:
    """The kind of the parameter that an update is added to."""
    return next(kind for kind in _ROLES["weight"] if f"u{kind}" == update)


def _tensor(site: Site, role: Role, s: Summary, **more: Any) -> Tensor:
    return Tensor(
        layer=site.layer,
        name=str(site),
        role=role,
        histogram=s.exponents,
        max_abs=s.max_abs,
        zeros=s.zeros,
        count=s.count,
        **more,
    )


def _sums(summaries: Mapping[Site, Summary], model: Model) -> dict[str, int]:
    """How many products make a value, by site, where it is the result of a matrix product.

    z = x Wᵀ sums over the features that enter, ∂L/∂x = δ W over the units, ∂L/∂W = δᵀ x over the
    rows of the batch.
    """
    out: dict[str, int] = {}
    before = None
    for p in model.places:
        if p.part is Part.WEIGHTS:
            rows = summaries[s].count // p.n_out if (s := Site.parse(p.site)) in summaries else 1
            out |= {p.site: p.n_in, f"dW/{p.own}": rows, f"db/{p.own}": rows}
            if before is not None:
                out[before.cotangent] = p.n_out
        before = p
    return out


def _roundings(model: Model) -> dict[str, int]:
    """How many roundings lie between the input and a site, by site.

    Of every place its output, and of weights these as well; on the way back the cotangents too.
    """
    steps = [2 if p.part is Part.WEIGHTS else 1 for p in model.places]
    total, done = sum(steps), 0
    out: dict[str, int] = {}
    for p, step in zip(model.places, steps, strict=True):
        out[p.cotangent] = 2 * total - done
        done += step
        out[p.site] = done
        for name in p.shapes:
            out |= {name: done, f"d{name}": out[p.cotangent]}
    return out


__all__ = ["ROLE_OF", "epsilon_in", "precision_plan", "tensors"]
