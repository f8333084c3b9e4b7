"""Edits of a spec, the candidates that a finding brings up, and random edits as controls."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isograd.diagnosis import Diagnosis, Expectation, Finding, StepSize
from isograd.diagnosis.step_size import step_size_at_start
from isograd.nn import (
    SGD,
    Activation,
    Adam,
    AdamW,
    Critical,
    Data,
    Dense,
    GradientDescent,
    HalfSquaredError,
    He,
    LayerNorm,
    Network,
    Orthogonal,
    Precision,
    Repeat,
    Residual,
    Spec,
    Training,
    Xavier,
    build,
)
from isograd.nn.spec import Layer, LeCun, Momentum
from isograd.nn.toml import diff, dumps, load, loads, patch
from isograd.remedy import candidates, random_edit
from isograd.remedy.edits import (
    add_layer_norm,
    add_residuals,
    map_layers,
    set_activation,
    set_init,
    size,
    with_layers,
)
from isograd.theory import loss_scale
from isograd.theory import sizes as sizes_of
from isograd.training.data import Split, from_arrays
from isograd.training.loop import fit

TANH, RELU, LOGISTIC = Activation("tanh"), Activation("relu"), Activation("logistic")
IDENTITY, LEAKY = Activation("identity"), Activation("leaky_relu", alpha=0.2)
N_IN, CLASSES = 6, 3


def spec_of(*layers: Layer, **more: Any) -> Spec:
    return Spec(Data("arrays"), Network((*layers, Dense(CLASSES))), **more)


DEEP = spec_of(
    Repeat(6, (Dense(8), LOGISTIC)),
    optimiser=SGD(0.05),
    training=Training(epochs=2, batch_size=8),
)


@pytest.fixture(scope="session")
def split() -> Split:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40, N_IN))
    return from_arrays(x, np.arange(40) % CLASSES, loss_kind="softmax_cross_entropy")


def check_trains(spec: Spec, split: Split) -> None:
    """The spec is valid as TOML, and takes a step that changes every layer's weights."""
    assert loads(dumps(spec)) == spec
    before = fit(spec, split, steps=0).params
    outcome = fit(spec, split, steps=1)
    assert outcome.stopped == "finished"
    assert np.isfinite(outcome.telemetry.records[0].loss)
    moved = [k for k in before if k.startswith("W/") and (before[k] != outcome.params[k]).any()]
    assert len(moved) == outcome.model.depth


# Size


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (DEEP, DEEP, 0),
        (DEEP, replace(DEEP, optimiser=SGD(0.5)), 1),  # one line for another
        (DEEP, replace(DEEP, optimiser=Adam()), 2),  # the rate falls away
        (DEEP, replace(DEEP, optimiser=Momentum(momentum=0.5)), 2),
        (DEEP, replace(DEEP, seed=3), 2),  # the blank line after it as well
        (DEEP, replace(DEEP, training=replace(DEEP.training, clip_norm=1.0)), 1),
        (DEEP, set_init(DEEP, He()), 1),
        (DEEP, set_activation(DEEP, "tanh"), 1),
        (DEEP, set_init(set_activation(DEEP, "tanh"), He()), 2),
        (DEEP, add_layer_norm(DEEP), 1),
        (DEEP, with_layers(DEEP, (Repeat(6, (Residual((Dense(8), LOGISTIC)),)), Dense(3))), 2),
    ],
)
def test_size_counts_lines(old: Spec, new: Spec, lines: int) -> None:
    assert size(old, new) == size(new, old) == lines


# Edits of the layers

NESTED = spec_of(
    Dense(8, init=Orthogonal()),
    LEAKY,
    Repeat(2, (Dense(8), Residual((TANH, Dense(8, init=He()), IDENTITY)))),
    IDENTITY,
)


def test_set_activation() -> None:
    got = set_activation(NESTED, "gelu").network.layers
    gelu = Activation("gelu")
    inner = Residual((gelu, Dense(8, init=He()), IDENTITY))
    assert got == (
        *(Dense(8, init=Orthogonal()), gelu, Repeat(2, (Dense(8), inner))),
        *(IDENTITY, Dense(3)),
    )


def test_set_init_clears_those_of_the_layers() -> None:
    got = set_init(NESTED, LeCun(gain=2.0))
    assert got.network.init == LeCun(gain=2.0)
    inner = Residual((TANH, Dense(8), IDENTITY))
    assert got.network.layers == (
        *(Dense(8), LEAKY, Repeat(2, (Dense(8), inner))),
        *(IDENTITY, Dense(3)),
    )
    assert set_init(spec_of(Dense(4, bias=False)), He()).network.layers[0] == Dense(4, bias=False)


def test_add_layer_norm() -> None:
    got = add_layer_norm(NESTED).network.layers
    inner = Residual((LayerNorm(), TANH, Dense(8, init=He()), IDENTITY))
    assert got == (
        *(Dense(8, init=Orthogonal()), LayerNorm(), LEAKY, Repeat(2, (Dense(8), inner))),
        *(IDENTITY, Dense(3)),
    )


BLOCK = (Dense(8), TANH)
WIDE = (Dense(5), TANH, Dense(8), TANH)


@pytest.mark.parametrize(
    ("layers", "want"),
    [
        # it keeps the width
        ((Dense(8), Repeat(4, BLOCK)), (Dense(8), Repeat(4, (Residual(BLOCK),)))),
        ((Dense(8), Repeat(1, BLOCK)), (Dense(8), Residual(BLOCK))),
        ((Dense(8), Repeat(3, WIDE)), (Dense(8), Repeat(3, (Residual(WIDE),)))),
        ((Repeat(2, (Dense(N_IN),)),), (Repeat(2, (Residual((Dense(N_IN),)),)),)),
        # its first copy meets another width
        ((Repeat(4, BLOCK),), (*BLOCK, Repeat(3, (Residual(BLOCK),)))),
        ((Repeat(2, BLOCK),), (*BLOCK, Residual(BLOCK))),
        # several, of which some fit
        (
            (Repeat(3, BLOCK), Repeat(1, (Dense(4), RELU)), Repeat(2, (Dense(4), RELU))),
            (
                *(*BLOCK, Repeat(2, (Residual(BLOCK),)), Repeat(1, (Dense(4), RELU))),
                Repeat(2, (Residual((Dense(4), RELU)),)),
            ),
        ),
        # the width behind a block of blocks is that of its last
        (
            (Residual((Dense(7), Dense(N_IN))), Repeat(2, (Dense(N_IN),))),
            (Residual((Dense(7), Dense(N_IN))), Repeat(2, (Residual((Dense(N_IN),)),))),
        ),
        (
            (Repeat(2, (Repeat(3, BLOCK),)),),
            (Repeat(3, BLOCK), Residual((Repeat(3, BLOCK),))),
        ),
        # nothing fits
        ((Dense(8), TANH, Dense(8)), None),
        ((Repeat(1, BLOCK),), None),
        ((Dense(8), Repeat(4, (Residual(BLOCK),))), None),
    ],
)
def test_add_residuals(
    layers: tuple[Layer, ...], want: tuple[Layer, ...] | None, split: Split
) -> None:
    spec = spec_of(*layers, training=Training(batch_size=8))
    got = add_residuals(spec, N_IN)
    if want is None:
        assert got is None
    else:
        assert got == spec_of(*want, training=Training(batch_size=8))
        assert build(got.network, N_IN).depth == build(spec.network, N_IN).depth
        check_trains(got, split)


EDITS = {
    "activation": lambda s: set_activation(s, "tanh"),
    "initialiser": lambda s: set_init(s, Critical()),
    "layer norm": add_layer_norm,
    "residual": lambda s: add_residuals(s, N_IN),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_specs_train(name: str, split: Split) -> None:
    check_trains(EDITS[name](DEEP), split)


def test_map_layers_keeps_the_nesting() -> None:
    def twice(layer: Layer) -> tuple[Layer, ...]:
        return (layer, layer) if isinstance(layer, Activation) else (layer,)

    got = map_layers((Repeat(3, (Dense(2), Residual((TANH, RELU)))),), twice)
    assert got == (Repeat(3, (Dense(2), Residual((TANH, TANH, RELU, RELU)))),)


# Candidates

NAN = float("nan")
ALL_OF_DEPTH = ("vanishing gradient", "exploding gradient", "vanishing signal", "exploding signal")


def found(*names: str, severity: Any = "fatal") -> Diagnosis:
    """A diagnosis with these findings."""
    findings = tuple(Finding(n, severity, (), 0, {}, "", "", "") for n in names)
    nothing = Expectation(False, "", NAN, NAN, NAN, NAN, NAN)
    return Diagnosis("sick", "", findings, None, None, None, nothing, 0.0)


def changed(old: Spec, new: Spec) -> set[str]:
    """What an edit changes, in the words of a remedy."""
    # Repeats written out.
    a, b = ([p.spec for p in build(s.network, N_IN).places if p.spec] for s in (old, new))

    def of(kind: Any, layers: list[Layer], key: Any = lambda x: x) -> list[Any]:
        return [key(x) for x in layers if isinstance(x, kind)]

    checks = {
        "initialisation": (old.network.init, of(Dense, a, lambda x: x.init))
        != (new.network.init, of(Dense, b, lambda x: x.init)),
        "activation": of(Activation, a) != of(Activation, b),
        "normalisation": len(of(LayerNorm, a)) != len(of(LayerNorm, b)),
        "residual": len(of(Residual, a)) != len(of(Residual, b)),
        "width": of(Dense, a, lambda x: x.units) != of(Dense, b, lambda x: x.units),
        "depth": build(old.network, N_IN).depth != build(new.network, N_IN).depth,
        "loss": type(old.network.loss) is not type(new.network.loss),
        "penalty": old.network.loss.l2 != new.network.loss.l2,
        "clipping": (old.training.clip_norm, old.training.clip_value)
        != (new.training.clip_norm, new.training.clip_value),
        "optimiser": type(old.optimiser) is not type(new.optimiser),
        "learning rate": type(old.optimiser) is type(new.optimiser)
        and old.optimiser.lr != new.optimiser.lr,
        "precision": old.training.precision != new.training.precision,
        "budget": (old.training.epochs, old.training.batch_size)
        != (new.training.epochs, new.training.batch_size),
        "rest": (old.data, old.measure, old.seed, old.dtype)
        != (new.data, new.measure, new.seed, new.dtype),
    }
    return {name for name, differs in checks.items() if differs}


def test_a_control_that_is_a_remedy_would_be_seen() -> None:
    words = {
        "activation": {"activation"},
        "initialiser": {"initialisation"},
        "layer norm": {"normalisation"},
        "residual": {"residual"},
    }
    assert {name: changed(DEEP, edit(DEEP)) for name, edit in EDITS.items()} == words
    both = set_init(replace(DEEP, optimiser=Adam()), He())
    assert changed(DEEP, both) == {"initialisation", "optimiser"}
    assert changed(DEEP, DEEP) == set()


REMEDIES = {"initialisation", "activation", "normalisation", "residual"}
STEPS = {"learning rate", "optimiser"}


@pytest.mark.parametrize(
    ("names", "want"),
    [
        *(((n,), REMEDIES | STEPS) for n in ("vanishing gradient", "vanishing signal")),
        (("saturated units",), REMEDIES | STEPS),
        (("no learning",), REMEDIES | STEPS),
        *(
            ((n,), REMEDIES | STEPS | {"clipping"})
            for n in ("exploding gradient", "exploding signal", "dead units", "non-finite value")
        ),
        (("learning rate too high",), STEPS | {"clipping"}),
        (("learning rate too low",), STEPS),
        (ALL_OF_DEPTH, REMEDIES | STEPS | {"clipping"}),
        ((), STEPS),
    ],
)
def test_each_finding_brings_up_its_remedies(names: tuple[str, ...], want: set[str]) -> None:
    got = candidates(DEEP, found(*names), N_IN)
    edits = [changed(DEEP, c.spec) for c in got]
    assert set().union(*edits) == want
    # One thing at a time, but for an activation with the initialiser made for it.
    assert all(len(e) == 1 or e == {"activation", "initialisation"} for e in edits)
    rates = {c.spec.optimiser.lr for c in got if isinstance(c.spec.optimiser, SGD)} - {0.05}
    assert rates == ({0.005} if "clipping" in want else {0.5})


@pytest.mark.parametrize(
    ("precision", "want"),
    [
        (None, set()),
        (Precision("fp16"), set()),
        (Precision(gradients="fp16"), {1024.0, "dynamic"}),
        (Precision(gradients="fp16", loss_scale=1024), {"dynamic"}),
        (Precision(gradients="fp16", loss_scale="dynamic"), set()),
    ],
)
def test_rounded_gradients_bring_up_scales(precision: Precision | None, want: set[Any]) -> None:
    """Of 2^10 for gradients up to 2^1: 4 bits below the end of fp16."""
    spec = replace(DEEP, training=replace(DEEP.training, precision=precision))
    scale = loss_scale([sizes_of([3.9, 2.0**-35])], "fp16", margin=4)
    assert scale.log2 == 10
    for names in (("vanishing gradient",), ("non-finite value",)):
        got = candidates(spec, found(*names), N_IN, None, scale)
        edited = [c for c in got if c.spec.training.precision != precision]
        assert {c.spec.training.precision.loss_scale for c in edited} == want
        assert all(c.size == 1 for c in edited)
        assert all(changed(spec, c.spec) == {"precision"} for c in edited)
    assert not [c for c in candidates(spec, found(), N_IN) if c.name.startswith("loss_scale")]


def sizes(rate: float, high: float) -> StepSize:
    """Learning rates as if the sharpness had given them."""
    return StepSize("sgd", 0.05, "inside", 1e-3, high, rate, 8.0, 8.0)


@pytest.mark.parametrize(
    ("names", "known", "want"),
    [
        (("learning rate too high",), sizes(0.0123, 0.0246), "lr 0.012"),
        (("vanishing gradient",), sizes(0.19234, 0.38468), "lr 0.19"),
        # The sharpness knows of no limit, was not computed, contradicts the findings, or is at one
        # with the learning rate at hand.
        (("learning rate too high",), StepSize("sgd", 0.05, sharpness=-1.0), "lr ÷ 10"),
        (("vanishing gradient",), None, "lr × 10"),
        (("learning rate too high",), sizes(0.2, 0.4), "lr ÷ 10"),
        (("learning rate too low",), sizes(0.01, 0.02), "lr × 10"),
        (("learning rate too low",), sizes(0.06, 0.12), "lr × 10"),
    ],
)
def test_the_learning_rate_comes_from_the_sharpness(
    names: tuple[str, ...], known: StepSize | None, want: str
) -> None:
    got = candidates(DEEP, found(*names), N_IN, known)
    (rate,) = [c for c in got if changed(DEEP, c.spec) == {"learning rate"}]
    assert (rate.name, rate.size) == (want, 1)
    if known is not None and want[3] == "0":
        assert rate.spec.optimiser.lr == float(want.removeprefix("lr "))
        assert "sharpness 8" in rate.why
        assert f"{known.high:.2g}" in rate.why


def test_the_doctor_takes_the_sharpness_at_the_start(split: Split) -> None:
    """Far above the stable rate, what it gives is below; against the Hessian of least squares."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, N_IN))
    data = from_arrays(x, x[:, :1], loss_kind="half_squared_error", dtype="float64")
    network = Network((Dense(1),), loss=HalfSquaredError())
    spec = Spec(Data("arrays"), network, GradientDescent(20.0), dtype="float64")
    known = step_size_at_start(spec, data)
    wide = np.column_stack([data.X_train[:64], np.ones(len(data.X_train[:64]))])
    top = np.linalg.eigvalsh(wide.T @ wide / len(wide))[-1]
    got = candidates(spec, found("learning rate too high"), N_IN, known)
    (rate,) = [c for c in got if changed(spec, c.spec) == {"learning rate"}]
    assert rate.spec.optimiser.lr == pytest.approx(1 / top, rel=0.06)  # two digits


def test_critical_initialisers_say_what_they_change() -> None:
    """σ_w², σ_b² and χ₁ before and after: Xavier is σ_w² = 1; χ₁ from the diagnosis."""
    tanh = spec_of(Repeat(6, (Dense(8), TANH)), optimiser=SGD(0.05))
    diagnosis = found("vanishing gradient")
    diagnosis = dataclasses.replace(
        diagnosis, expectation=dataclasses.replace(diagnosis.expectation, chi1=0.46)
    )
    got = {c.name: c for c in candidates(tanh, diagnosis, N_IN)}
    # E tanh′² = 0.46440, E tanh² = 0.39429 (reference facts A1): 1/0.4644, 1 − 0.39429/0.4644.
    change = "χ₁ 0.46 → 1, σ_w² 1 → 2.15, σ_b² 0 → 0.151"
    assert change in got["critical init"].why
    assert got["critical init"].spec.network.init == Critical()
    assert change in got["critical orthogonal init"].why
    assert got["critical orthogonal init"].spec.network.init == Critical(distribution="orthogonal")
    assert got["critical orthogonal init"].size == 1
    unknown = {c.name: c for c in candidates(tanh, found("vanishing gradient"), N_IN)}
    assert "χ₁ → 1" in unknown["critical init"].why


def test_orthogonal_weights_are_offered_where_they_help() -> None:
    """Not for a ReLU, whose slopes alone have the variance of the Gaussian part (L against L)."""
    for activation, want in (("tanh", True), ("scaled_sigmoid", True), ("relu", False)):
        spec = spec_of(Repeat(6, (Dense(8), Activation(activation))))
        names = {c.name for c in candidates(spec, found("vanishing gradient"), N_IN)}
        assert "critical init" in names
        assert ("critical orthogonal init" in names) is want


def test_minor_findings_count_too() -> None:
    names = ("vanishing gradient", "exploding signal")
    got, want = (candidates(DEEP, found(*names, severity=s), N_IN) for s in ("minor", "fatal"))
    assert got == want


@pytest.mark.parametrize("names", [ALL_OF_DEPTH, ("vanishing gradient",)])
def test_candidates_are_few_different_and_the_smallest_first(names: tuple[str, ...]) -> None:
    got = candidates(DEEP, found(*names), N_IN)
    specs = [c.spec for c in got]
    assert DEEP not in specs
    assert len(set(specs)) == len(specs) == len({c.name for c in got}) < 15
    assert [c.size for c in got] == [size(DEEP, c.spec) for c in got]
    assert [c.size for c in got] == sorted(c.size for c in got)
    assert all(c.name and c.why for c in got)


@pytest.mark.parametrize("depth", [1, 6])
@pytest.mark.parametrize("activation", ["relu", "logistic", "scaled_sigmoid", "selu", "softplus"])
def test_every_candidate_trains(depth: int, activation: str, split: Split) -> None:
    layers = (Repeat(depth, (Dense(8), Activation(activation))),)
    spec = spec_of(*layers, optimiser=SGD(0.01), training=Training(batch_size=8))
    for c in candidates(spec, found(*ALL_OF_DEPTH), N_IN):
        check_trains(c.spec, split)


def test_what_is_there_already_is_not_offered() -> None:
    """Not the initialiser, the activation, the norms, the skips, the optimiser at hand."""
    layers = (Dense(8), LayerNorm(), RELU, Repeat(3, (Residual((Dense(8), RELU)),)))
    spec = Spec(
        Data("arrays"),
        Network((*layers, Dense(3)), init=He()),
        Adam(),
        Training(clip_norm=1.0),
    )
    got = candidates(spec, found(*ALL_OF_DEPTH), N_IN)
    edits = set().union(*(changed(spec, c.spec) for c in got))
    assert edits == {"learning rate", "initialisation", "activation"}
    assert {type(c.spec.network.init) for c in got} == {He, Critical, Orthogonal}


def test_decayed_weights_and_normalised_gradients_are_kept() -> None:
    """AdamW is an Adam already; what is divided by its norm cannot be clipped to one."""
    spec = replace(DEEP, optimiser=AdamW(), training=Training(normalise_gradient=True))
    got = candidates(spec, found(*ALL_OF_DEPTH), N_IN)
    assert {type(c.spec.optimiser) for c in got} == {AdamW}
    assert {c.spec.training for c in got} == {spec.training}


def test_full_batches_stay_full() -> None:
    """Another optimiser would change the number of steps: not the same budget."""
    spec = replace(DEEP, optimiser=GradientDescent(0.1), training=Training(epochs=2))
    got = candidates(spec, found("vanishing gradient"), N_IN)
    assert {type(c.spec.optimiser) for c in got} == {GradientDescent}


def test_no_critical_point_no_critical_initialiser() -> None:
    softplus = spec_of(Repeat(4, (Dense(8), Activation("softplus"))))
    for spec, want in ((softplus, False), (DEEP, True), (spec_of(Dense(4), Dense(4)), False)):
        got = candidates(spec, found("vanishing gradient"), N_IN)
        assert any(isinstance(c.spec.network.init, Critical) for c in got) is want


def test_linear_networks_are_offered_no_activation() -> None:
    """Without an activation there is none to replace, and no place for a normalisation."""
    spec = spec_of(Repeat(4, (Dense(N_IN), IDENTITY)))
    got = candidates(spec, found("exploding gradient"), N_IN)
    edits = set().union(*(changed(spec, c.spec) for c in got))
    assert edits == {"initialisation", "residual", "learning rate", "optimiser", "clipping"}


def test_patches_are_as_large_as_the_edits() -> None:
    """In the text of a user, comments and layout and all."""
    path = Path(__file__).parents[1] / "examples" / "deep_sigmoid.toml"
    text, spec = path.read_text(encoding="utf-8"), load(path)
    comments = [line for line in text.splitlines() if "#" in line]
    for c in candidates(spec, found(*ALL_OF_DEPTH), 64):
        new = patch(text, spec, c.spec)
        assert loads(new) == c.spec
        signs = [line[0] for line in diff(text, new, "x").splitlines()[2:]]
        assert max(signs.count("+"), signs.count("-")) == c.size, c.name
        assert [line for line in new.splitlines() if "#" in line] == comments


# Random edits

CONTROLS = {"learning rate", "width", "penalty", "clipping"}


def test_random_edits_are_those_of_their_seed() -> None:
    assert [random_edit(DEEP, s) for s in range(20)] == [random_edit(DEEP, s) for s in range(20)]


def test_random_edits_are_small_various_and_no_remedies() -> None:
    edits = [random_edit(DEEP, seed) for seed in range(200)]
    assert DEEP not in edits
    assert len(set(edits)) > 100
    kinds = [changed(DEEP, e) for e in edits]
    assert all(len(k) == 1 for k in kinds)
    for control in CONTROLS:  # each about a quarter of the time
        assert 30 < sum(k == {control} for k in kinds) < 70
    assert {size(DEEP, e) for e in edits} == {1}
    for e in edits:
        assert 0.05 / 3.01 < e.optimiser.lr < 0.05 * 3.01
        assert 1e-5 <= (e.network.loss.l2 or 1e-5) <= 1e-3
        assert 0.1 <= (e.training.clip_value or 0.1) <= 10.0
        assert 4 <= e.network.layers[0].layers[0].units <= 16
        assert e.network.layers[1] == Dense(3)


@pytest.mark.parametrize("seed", range(12))
def test_random_edits_train(seed: int, split: Split) -> None:
    check_trains(random_edit(DEEP, seed), split)


ONE_FOUR = st.integers(1, 4)
LEAF = st.builds(Dense, ONE_FOUR) | st.sampled_from([TANH, RELU, IDENTITY, LayerNorm()])
LEAVES = st.builds(Repeat, ONE_FOUR, st.lists(LEAF, min_size=1, max_size=3))


@settings(max_examples=60)
@given(
    st.lists(LEAF | LEAVES, max_size=4),
    st.booleans(),
    st.sampled_from([SGD(0.3), GradientDescent(), Adam(), Momentum()]),
    st.integers(0, 10_000),
)
def test_edits_of_any_spec(layers: list[Layer], skip: bool, rule: Any, seed: int) -> None:
    """Whatever the network: candidates and random edits are valid, and other than it."""
    block = (Residual((TANH, Dense(N_IN))),) if skip else ()
    spec = spec_of(*block, *layers, optimiser=rule)
    depth = build(spec.network, N_IN).depth
    edited = random_edit(spec, seed)
    assert changed(spec, edited) <= CONTROLS
    specs = [c.spec for c in candidates(spec, found(*ALL_OF_DEPTH), N_IN)]
    assert len(set(specs)) == len(specs)
    for new in (edited, *specs):
        assert new != spec
        assert loads(dumps(new)) == new
        assert build(new.network, N_IN, CLASSES).depth == depth


def test_a_network_without_a_hidden_layer_has_random_edits() -> None:
    spec = Spec(Data("arrays"), Network((Dense(1),), loss=HalfSquaredError(), init=Xavier()))
    kinds = [changed(spec, random_edit(spec, s)) for s in range(40)]
    assert set().union(*kinds) == CONTROLS - {"width"}


def test_what_would_change_nothing_is_passed_over() -> None:
    """A layer of one unit cannot be halved; the edit is then another one."""
    spec = spec_of(Dense(1))
    edits = [random_edit(spec, s) for s in range(100)]
    assert spec not in edits
    assert all(e.network.layers[0].units in (1, 2) for e in edits)
