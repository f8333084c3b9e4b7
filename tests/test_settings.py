"""Settings of a spec by name: what is edited, and what is said of names that are none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from isograd.errors import SpecError
from isograd.nn import (
    LSUV,
    SGD,
    Activation,
    Constant,
    Critical,
    Data,
    Dense,
    He,
    Network,
    Orthogonal,
    Repeat,
    Residual,
    Spec,
    VarianceScaling,
    Xavier,
)
from isograd.nn.settings import depth_block, setting
from isograd.nn.spec import Init
from isograd.nn.toml import dumps, loads

TANH = Activation("tanh")
PLAIN = Spec(
    Data("digits"),
    Network([Dense(32), TANH, Repeat(3, [Dense(32), TANH]), Dense(10)], init=He()),
    SGD(0.1),
)


def edited(spec: Spec, name: str, value: Any) -> Spec:
    return setting(spec, name, where="x.toml").edit(spec, value)


def by_hand(spec: Spec, path: str, value: Any) -> Spec:
    """The spec read again from its plain form, with one value changed there."""
    raw: Any = msgspec.to_builtins(spec)
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
    node = raw
    for key in keys:
        node = node[key]
    node[last] = value
    return msgspec.convert(raw, Spec)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("optimiser.lr", "optimiser.lr", 0.25),
        ("network.layers.2.times", "network.layers.2.times", 7),
        ("network.layers[2].layers[0].units", "network.layers.2.layers.0.units", 5),
        ("network.layers.2.layers.1.name", "network.layers.2.layers.1.name", "relu"),
        ("network.init.gain", "network.init.gain", 1.5),
        ("training.batch_size", "training.batch_size", 17),
        ("data.standardise", "data.standardise", False),
        ("data.standardise", "data.standardise", "jointly"),
        ("optimiser.kind", "optimiser.kind", "adam"),
        ("seed", "seed", 3),
        ("dtype", "dtype", "float64"),
    ],
)
def test_a_key_is_set_and_nothing_else(name: str, path: str, value: Any) -> None:
    got = edited(PLAIN, name, value)
    assert got == by_hand(PLAIN, path, value)
    assert got != PLAIN
    assert loads(dumps(got)) == got


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("depth", True),
        ("network.layers.2.times", True),
        ("training.batch_size", True),
        ("seed", True),
        ("optimiser.lr", False),
        ("sigma_w", False),
        ("data.stratify", False),
        ("network.init.gain", False),
        ("data.noise", False),
    ],
)
def test_which_settings_take_whole_numbers(name: str, whole: bool) -> None:
    assert setting(PLAIN, name).whole is whole


# Depth


def weight_layers(spec: Spec) -> int:
    """Dense layers with the repeats written out, the plain way."""

    def count(layers: Any) -> int:
        total = 0
        for layer in layers:
            inner = count(getattr(layer, "layers", ()))
            total += isinstance(layer, Dense) + getattr(layer, "times", 1) * inner
        return total

    return count(spec.network.layers)


TWO = [Dense(8), TANH, Residual([Dense(8), TANH])]


@pytest.mark.parametrize(
    ("layers", "depths", "least"),
    [
        ([Repeat(5, [Dense(8), TANH]), Dense(3)], (2, 3, 30), 2),
        ([Dense(8), TANH, Repeat(5, [Dense(8), TANH]), Dense(3)], (3, 4, 110), 3),
        ([Repeat(5, TWO), Dense(3)], (3, 5, 101), 3),
        ([Dense(8), Repeat(2, [Repeat(3, [Dense(8)])]), Dense(3)], (5, 8, 302), 5),
    ],
)
def test_depth_is_the_number_of_weight_layers(
    layers: list[Any], depths: tuple[int, ...], least: int
) -> None:
    spec = Spec(Data("digits"), Network(layers))
    for depth in depths:
        assert weight_layers(edited(spec, "depth", depth)) == depth
    for wrong in (least - 1, 0, -1, 4.5, True):
        with pytest.raises(SpecError, match=f"at least {least}") as caught:
            edited(spec, "depth", wrong)
        assert caught.value.came == f"depth = {wrong}"
        assert caught.value.where.startswith("x.toml: network.layers[")
    assert weight_layers(edited(spec, "depth", least)) == least


def test_a_depth_between_two_copies_is_refused() -> None:
    spec = Spec(Data("digits"), Network([Repeat(5, TWO), Dense(3)]))
    with pytest.raises(SpecError, match=r"of the form 1 \+ 2·times") as caught:
        edited(spec, "depth", 4)
    assert "2 in each of its copies" in caught.value.fix


@pytest.mark.parametrize(
    ("layers", "came", "fix"),
    [
        ([Dense(8), Dense(3)], "none", 'kind = "repeat"'),
        (
            [Repeat(2, [Dense(8)]), Repeat(3, [Dense(8)]), Dense(3)],
            "2 of them",
            "name one of them: network.layers.0.times, network.layers.1.times",
        ),
        ([Dense(8), Repeat(3, [TANH]), Dense(3)], "without dense", "network.layers.1.times"),
        ([Residual([Repeat(2, [Dense(64)])]), Dense(3)], "none", 'kind = "repeat"'),
    ],
)
def test_depth_needs_one_repeat_block(layers: list[Any], came: str, fix: str) -> None:
    with pytest.raises(SpecError, match="depth") as caught:
        setting(Spec(Data("digits"), Network(layers)), "depth", where="x.toml")
    assert came in caught.value.came
    assert fix in caught.value.fix
    assert caught.value.where.startswith("x.toml: network.layers")


def test_the_block_that_is_repeated() -> None:
    block = depth_block(PLAIN)
    assert (block.index, block.inside, block.outside) == (2, 1, 2)
    assert block.dense() == Dense(32)
    assert block.activation() == TANH


# σ_w and σ_b


@pytest.mark.parametrize(
    ("init", "name", "value", "want"),
    [
        (VarianceScaling(1.5, 0.05, "orthogonal"), "sigma_w2", 3, (3, 0.05, "orthogonal")),
        (VarianceScaling(1.5, 0.05), "sigma_w", 3, (9, 0.05, "normal")),
        (VarianceScaling(1.5, 0.05), "sigma_b2", 0, (1.5, 0, "normal")),
        (Xavier("uniform"), "sigma_w", 1.5, (2.25, 0, "uniform")),
        (Xavier(), "sigma_b2", 0.1, (1, 0.1, "normal")),
        (Orthogonal(2.0), "sigma_b2", 0.1, (4, 0.1, "orthogonal")),
        # tanh at q = 1, the point of reference B1: σ_b² stays what it was
        (Critical(q=1.0, distribution="orthogonal"), "sigma_w2", 1, (1, 0.15096, "orthogonal")),
        (He(gain=0.5), "sigma_b2", 0.2, (0.25, 0.2, "normal")),
    ],
)
def test_variances_are_set_through_the_initialiser(
    init: Init, name: str, value: float, want: tuple[float, float, str]
) -> None:
    spec = replace(PLAIN, network=replace(PLAIN.network, init=init))
    each = setting(spec, name)
    got = each.edit(spec, value)
    assert isinstance(got.network.init, VarianceScaling)
    found = got.network.init
    assert (found.sigma_w2, found.sigma_b2) == pytest.approx(want[:2], rel=1e-4)
    assert found.distribution == want[2]
    assert replace(got, network=replace(got.network, init=init)) == spec
    assert ("becomes" in each.note) is not isinstance(init, VarianceScaling)


@pytest.mark.parametrize("init", [Constant(1.0), LSUV()], ids=["constant", "lsuv"])
def test_an_initialiser_without_a_known_variance_is_refused(init: Init) -> None:
    spec = replace(PLAIN, network=replace(PLAIN.network, init=init))
    with pytest.raises(SpecError, match="draws weights of a known variance") as caught:
        setting(spec, "sigma_w", where="x.toml")
    assert caught.value.where == "x.toml: network.init"
    assert "variance_scaling" in caught.value.fix


def test_layers_with_an_initialiser_of_their_own() -> None:
    own = [Dense(8, init=He()), TANH]
    some = Spec(Data("digits"), Network([Repeat(2, own), Dense(3)], init=VarianceScaling()))
    assert "network.layers.0.layers.0" in setting(some, "sigma_w").note
    every = Spec(Data("digits"), Network([Repeat(2, own), Dense(3, init=He())]))
    with pytest.raises(SpecError, match="some layer must take") as caught:
        setting(every, "sigma_w2", where="x.toml")
    assert "network.layers.0.layers.0.init.sigma_w2" in caught.value.fix


# Errors


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("optimizer.lr", "'optimiser.lr'"),
        ("optimiser.lrate", "'optimiser.lr'"),
        ("network.layer.2.times", "'network.layers.2.times'"),
        ("network.layers.7.times", "'network.layers.2.times'"),
        ("network.layers.2.tims", "'network.layers.2.times'"),
        ("dept", "'depth'"),
        ("sigma", "'sigma_w'"),
        ("training.batchsize", "'training.batch_size'"),
        ("network.init.sigma_w2", "name sigma_w2 by itself"),
        ("training.precision.weights", "add the table [training.precision]"),
        ("training.early_stopping.patience", "add the table [training.early_stopping]"),
        ("zzz", "name depth, sigma_w, sigma_w2, sigma_b2"),
        ("", "name depth"),
    ],
)
def test_a_wrong_name_is_told_the_nearest(name: str, fix: str) -> None:
    with pytest.raises(SpecError, match="must be a key of the spec") as caught:
        setting(PLAIN, name, where="x.toml")
    assert fix in caught.value.fix
    assert caught.value.came == repr(name)
    assert caught.value.where == "x.toml"


@pytest.mark.parametrize(
    ("name", "fix"),
    [("network.init", "network.init.gain"), ("optimiser", "optimiser.lr"), ("network.layers", "")],
)
def test_a_table_is_no_single_value(name: str, fix: str) -> None:
    with pytest.raises(SpecError, match="a single value") as caught:
        setting(PLAIN, name)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("name", "value", "where", "came"),
    [
        ("optimiser.lr", -1.0, "optimiser.lr", "lr = -1.0"),
        ("optimiser.lr", float("nan"), "optimiser.lr", "lr = nan"),
        ("network.layers.2.times", 0, "network.layers[2].times", "times = 0"),
        ("network.layers.2.times", 1.5, "network.layers[2].times", "times = 1.5"),
        ("network.layers.2.layers.1.name", "thanh", "network.layers[2].layers[1].name", "'thanh'"),
        ("optimiser.kind", "adm", "optimiser.kind", "kind = 'adm'"),
        ("sigma_w2", -0.5, "network.init.sigma_w2", "sigma_w2 = -0.5"),
        ("sigma_w", -2, "network.init.sigma_w2", "sigma_w = -2"),
        ("sigma_b2", "big", "network.init.sigma_b2", "sigma_b2 = 'big'"),
        ("sigma_w", 1e200, "network.init.sigma_w2", "sigma_w2 = inf"),
    ],
)
def test_a_wrong_value_is_told_with_file_and_key(
    name: str, value: Any, where: str, came: str
) -> None:
    with pytest.raises(SpecError) as caught:
        edited(PLAIN, name, value)
    assert caught.value.where == f"x.toml: {where}"
    assert came in caught.value.came
