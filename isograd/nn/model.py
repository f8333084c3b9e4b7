"""A network as a function of its parameters, in training and outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from isograd.engine import functions as F
from isograd.engine.dispatch import spec_of
from isograd.engine.ops import Value
from isograd.errors import ShapeError, SpecError
from isograd.nn.activations import active_interval, phi
from isograd.nn.emulation import Emulation
from isograd.nn.forward import Noise, Params, Pass, dense
from isograd.nn.initialisers import Variances, draw, scale, unit_variance
from isograd.nn.losses import loss
from isograd.nn.places import Part, Place, Shapes, elementwise, places
from isograd.nn.spec import (
    ACTIVATION_NAMES,
    LSUV,
    Activation,
    BinaryCrossEntropy,
    Dense,
    Init,
    Loss,
    Network,
    Scale,
    SoftmaxCrossEntropy,
)
from isograd.theory import Phi


@dataclass(frozen=True)
class Model:
    """A network of known sizes.

    Attributes:
        network: what it was built from.
        n_in, n_out: features in and out.
        places: the forward pass, in order.
    """

    network: Network
    n_in: int
    n_out: int
    places: tuple[Place, ...]

    @property
    def depth(self) -> int:
        """Number of weight layers L."""
        return self.places[-1].layer

    @property
    def weights(self) -> tuple[Place, ...]:
        """The places with weights, from layer 1 to L."""
        return tuple(p for p in self.places if p.part is Part.WEIGHTS)

    @property
    def parameter_count(self) -> int:
        """Number of learned parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def shapes(self) -> Shapes:
        """Shapes of the learned parameters, by name."""
        return {name: shape for p in self.places for name, shape in p.shapes.items()}

    @property
    def statistics(self) -> Shapes:
        """Shapes of what training gathers but does not learn (running moments), by name."""
        return {name: shape for p in self.places for name, shape in p.statistics.items()}

    @property
    def active(self) -> dict[str, tuple[float, float]]:
        """Sites that an activation reads, and the interval in which it is not saturated.

        A learned activation has none, as its interval moves, and neither has one that is not
        elementwise.
        """
        out = {}
        for before, p in zip(self.places, self.places[1:], strict=False):
            act = p.spec
            if not isinstance(act, Activation) or act.name == "identity" or act.is_learned:
                continue
            if elementwise(act):
                out[before.site] = active_interval(act)
        return out

    def scale(self, place: Place) -> Variances | None:
        """σ_w² and σ_b² that the initialiser gives the weights at a place; None if not known."""
        init, at_hand, bias = self._law(place)
        return scale(init, at_hand, place.n_in, place.n_out, bias=bias)

    def _law(self, place: Place) -> tuple[Init, Phi, bool]:
        layer = place.spec
        assert isinstance(layer, Dense)
        assert place.phi is not None
        return layer.init or self.network.init, phi(place.phi), layer.bias

    def init(
        self, rng: np.random.Generator, dtype: DTypeLike, x: Value | None = None
    ) -> dict[str, NDArray[Any]]:
        """Draw parameters, and start the statistics (mean 0, variance 1).

        Args:
            rng: the source of randomness.
            dtype: float32 or float64. Draws are made in float64, so both hold the same numbers.
            x: a batch (n, n_in) for the initialisers that look at data (lsuv).

        Raises:
            TheoryError: if the initialiser is critical and an activation has no critical point.
            SpecError: if there is an lsuv layer and no batch, or its z is constant or not finite.
        """
        out: dict[str, NDArray[Any]] = {}
        looking: dict[int, LSUV] = {}
        for p in self.places:
            if p.part is Part.WEIGHTS:
                init, at_hand, bias = self._law(p)
                drawn = draw(init, at_hand, p.n_in, p.n_out, rng, np.float64, bias=bias)
                out |= zip(p.shapes, drawn, strict=False)  # biases are drawn where there are none
                if isinstance(init, LSUV):
                    looking[p.number] = init
            else:
                out |= _start(p)
        if looking:
            self._look(out, x, looking)
        with np.errstate(over="ignore"):  # a number beyond the dtype is infinite in it
            return {name: array.astype(dtype) for name, array in out.items()}

    @np.errstate(all="ignore")
    def _look(
        self, params: dict[str, NDArray[Any]], x: Value | None, looking: dict[int, LSUV]
    ) -> None:
        """Rescale the weights at some places, from the first up, by what comes out for a batch."""
        if x is None:
            raise SpecError(
                "the lsuv initialiser must see a batch of inputs",
                came="none",
                where=self.places[min(looking)].where,
                fix="pass x to Model.init, or take another initialiser",
            )
        x = self._checked(np.asarray(x, np.float64))
        run = Pass(params, training=True)
        for p in self.places:
            if p.number in looking:
                name = f"W/{p.own}"
                output = partial(dense, x, bias=params.get(f"b/{p.own}"))
                params[name] = unit_variance(looking[p.number], params[name], output, p.where)
            x = run.step(p, x)

    def _checked(self, x: Value) -> Value:
        shape = spec_of(x).shape
        if len(shape) != 2 or shape[1] != self.n_in:
            raise ShapeError(
                f"inputs of this network must be (n, {self.n_in})",
                came=str(spec_of(x)),
                where="layer 1",
            )
        return x

    def _run(self, run: Pass, x: Value) -> Value:
        x = run.seen(self._checked(x), "input/0", None, 0)
        for p in self.places:
            x = run.step(p, x)
        return x

    @np.errstate(all="ignore")  # infinities and NaN are results, on plain arrays too
    def __call__(self, params: Params, x: Value) -> Value:
        """The output for a batch, outside of training: no dropout, running moments.

        Args:
            params: learned parameters and statistics, from `init` or trained.
            x: inputs (n, n_in).

        Returns:
            (n, n_out); for the cross-entropies these are logits.

        Raises:
            ShapeError: if x has another number of features.
        """
        return self._run(Pass(params), x)

    @np.errstate(all="ignore")
    def loss(self, params: Params, x: Value, target: Value) -> Value:
        """The structured risk of a batch: loss plus ½λ‖W‖_F² over all weight matrices."""
        return self._penalised(loss(self.network.loss, self(params, x), target), params)

    @np.errstate(all="ignore")
    def train_loss(
        self,
        params: Params,
        x: Value,
        target: Value,
        noise: Noise,
        emulation: Emulation | None = None,
    ) -> tuple[Value, dict[str, Value]]:
        """The structured risk of a batch as training sees it, and the statistics after it.

        Args:
            params: learned parameters and statistics.
            x: inputs (n, n_in).
            target: as `isograd.nn.losses.loss` takes it.
            noise: from which random layers draw.
            emulation: of narrow formats; the penalty is that of the parameters as they are kept.

        Raises:
            SpecError: if a batch normalisation meets fewer than two rows.
        """
        used = params if emulation is None else emulation.parameters(params, self.shapes)
        run = Pass(used, training=True, noise=noise, emulation=emulation)
        value = loss(self.network.loss, self._run(run, x), target)
        return self._penalised(value, params), run.statistics

    def _penalised(self, value: Value, params: Params) -> Value:
        l2 = self.network.loss.l2
        if l2:
            for name, array in params.items():
                if name.startswith("W/"):
                    value = value + 0.5 * l2 * F.sum(F.square(array))
        return value


def _start(p: Place) -> dict[str, NDArray[np.float64]]:
    """What is not drawn: normalisations start plain, learned numbers as the spec says."""
    values = {"g": 1.0, "h": 0.0, "mean": 0.0, "var": 1.0}
    if isinstance(p.spec, Activation):
        values["c"] = p.spec.parameter
    elif isinstance(p.spec, Scale):
        values["c"] = p.spec.value
    shapes = p.shapes | p.statistics
    return {name: np.full(shape, values[name.partition("/")[0]]) for name, shape in shapes.items()}


def build(network: Network, n_in: int, n_out: int | None = None) -> Model:
    """Place a network's layers on data of known sizes.

    Args:
        network: from a spec.
        n_in: features of the data.
        n_out: outputs that the loss needs (classes, or targets); None takes what comes.

    Raises:
        SpecError: if shapes do not meet, or the last layer gives probabilities to a loss that
            takes logits, or the other way round; it names the layer and what came.
    """
    placed = tuple(places(network, n_in))
    width = placed[-1].n_out
    last = next((p for p in reversed(placed) if p.part is Part.WEIGHTS), None)
    if last is None:
        raise SpecError(
            "a network must have at least one dense layer",
            came=f"{len(placed)} layers without weights",
            where="network.layers",
            fix='add { kind = "dense", units = … }',
        )
    if n_out is not None and width != n_out:
        softmax = isinstance(network.loss, SoftmaxCrossEntropy)
        raise SpecError(
            f"the last layer must have {n_out} units, one per {'class' if softmax else 'target'}",
            came=f"{width} units",
            where=last.where,
            fix=f"set units = {n_out} there",
        )
    _require_output(network.loss, placed)
    return Model(network, n_in, width, placed)


def _require_output(loss: Loss, placed: tuple[Place, ...]) -> None:
    """The last layer must give what the loss takes: logits, or probabilities."""
    last = placed[-1]
    kind, name = loss.__struct_config__.tag, _name(last)
    match loss:
        case SoftmaxCrossEntropy() if name == "softmax":
            instead = ""
        case BinaryCrossEntropy(inputs="logits") if name == "logistic":
            instead = ', or set inputs = "probabilities" in network.loss'
        case BinaryCrossEntropy(inputs="probabilities"):
            _require_probabilities(placed)
            return
        case _:
            return
    raise SpecError(
        f"the last layer must give logits: {kind} has the {name} in it",
        came=f"a {name} activation, so that it would be applied twice",
        where=last.where,
        fix=f"remove this layer{instead}",
    )


def _require_probabilities(placed: tuple[Place, ...]) -> None:
    """The last layer must give values in [0, 1]; what scales them behind it may keep them there.

    Of an activation that a program defines this is its author's business.
    """
    last = next(p for p in reversed(placed) if p.part is not Part.SCALE)
    name = _name(last)
    known = name in ACTIVATION_NAMES or not isinstance(last.spec, Activation)
    if not known or name == "logistic" or (name == "softmax" and last.n_out > 1):
        return
    raise SpecError(
        'the last layer must give probabilities where the loss has inputs = "probabilities"',
        came="softmax over one unit, which is always 1" if name == "softmax" else name,
        where=last.where,
        fix='end with { kind = "activation", name = "logistic" }, or set inputs = "logits"',
    )


def _name(place: Place) -> str:
    """Of an activation, else what the layer is."""
    if place.spec is None:
        return place.part.value
    layer = place.spec
    return layer.name if isinstance(layer, Activation) else str(layer.__struct_config__.tag)


__all__ = ["Model", "Noise", "Params", "Part", "build"]
