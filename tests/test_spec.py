"""Specs: what they accept, their TOML form, errors that name file and key, and patches."""

from __future__ import annotations

import itertools
import math
import pickle
import shutil
import subprocess
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isograd.errors import SpecError
from isograd.nn import spec as s
from isograd.nn import toml

# Random specs ------------------------------------------------------------------------------------

positive = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
unit = st.floats(0, 1, exclude_max=True)
maybe = st.none() | positive
inits = st.one_of(
    st.builds(s.Constant, st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(s.Normal, positive),
    *(
        st.builds(scheme, st.sampled_from(["normal", "uniform"]), maybe)
        for scheme in (s.Xavier, s.He, s.LeCun)
    ),
    st.builds(s.Orthogonal, maybe),
    st.builds(s.Critical, maybe, st.sampled_from(["normal", "orthogonal"])),
)
leaves = st.one_of(
    st.builds(s.Dense, st.integers(1, s.MAX_UNITS), st.booleans(), st.none() | inits),
    st.builds(s.Activation, st.sampled_from(s.ACTIVATION_NAMES)),
    st.builds(s.Activation, st.sampled_from(["leaky_relu", "elu"]), maybe),
    st.builds(s.LayerNorm, positive),
)


def blocks(inner):
    some = st.lists(inner, min_size=1, max_size=3)
    return st.builds(s.Residual, some) | st.builds(s.Repeat, st.integers(1, 20), some)


layer_lists = st.lists(st.recursive(leaves, blocks, max_leaves=6), min_size=1, max_size=5)
descents = st.builds(s.GradientDescent, positive)
optimisers = st.one_of(
    st.builds(s.SGD, positive),
    st.builds(s.Momentum, positive, unit),
    st.builds(s.AdaGrad, positive, positive),
    st.builds(s.RMSProp, positive, unit, positive),
    st.builds(s.Adam, positive, unit, unit, positive),
)
data = st.one_of(
    st.builds(
        s.Data,
        st.sampled_from(s.BUILT_IN_DATA) | st.text().map(lambda name: name + ".npz"),
        test_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
        standardise=st.booleans(),
        stratify=st.booleans(),
    ),
    st.builds(s.Data, st.text().map(lambda name: name + ".csv"), st.text(min_size=1)),
)
counts = st.integers(1, 2**63 - 1)


@st.composite
def specs(draw):
    optimiser = draw(descents | optimisers)
    batch = st.none() if isinstance(optimiser, s.GradientDescent) else st.none() | counts
    losses = (s.HalfSquaredError, s.BinaryCrossEntropy, s.SoftmaxCrossEntropy)
    return s.Spec(
        draw(data),
        s.Network(draw(layer_lists), draw(st.sampled_from(losses))(draw(unit)), draw(inits)),
        optimiser,
        s.Training(draw(counts), draw(batch), draw(maybe), draw(maybe)),
        s.Measure(draw(counts) - 1, draw(counts) - 1),
        draw(counts) - 1,
        draw(st.sampled_from(["float32", "float64"])),
    )


# The structs -------------------------------------------------------------------------------------

DEEP = s.Spec(
    s.Data("digits"),
    s.Network([s.Repeat(30, [s.Dense(32), s.Activation("logistic")]), s.Dense(10)]),
)


def test_lists_become_tuples_and_specs_are_values():
    assert DEEP.network.layers[0].layers == (s.Dense(32), s.Activation("logistic"))
    same = s.Spec(
        s.Data("digits"),
        s.Network((s.Repeat(30, (s.Dense(32), s.Activation("logistic"))), s.Dense(10))),
    )
    assert (DEEP, hash(DEEP)) == (same, hash(same))
    assert pickle.loads(pickle.dumps(DEEP)) == DEEP
    with pytest.raises(AttributeError):
        DEEP.seed = 3


def test_numbers_are_kept_as_plain_python_numbers():
    layer, optimiser = s.Dense(np.int64(3)), s.SGD(np.float32(0.5))
    assert (type(layer.units), type(optimiser.lr)) == (int, float)
    assert type(s.Adam(lr=1).lr) is float


@pytest.mark.parametrize(
    ("make", "place", "came", "fix"),
    [
        (lambda: s.Dense(0), "Dense.units", "units = 0", "give 1 or more"),
        (lambda: s.Dense(-3), "Dense.units", "units = -3", "give 1 or more"),
        (lambda: s.Dense("32"), "Dense.units", "units = '32'", "give 1 or more"),
        (lambda: s.Dense(3.0), "Dense.units", "units = 3.0", "give 1 or more"),
        (lambda: s.Dense(True), "Dense.units", "units = True", "give 1 or more"),
        (lambda: s.Dense(10**9), "Dense.units", "units = 1000000000", "give 1000000 or less"),
        (lambda: s.Dense(-(10**5000)), "Dense.units", "cannot be shown", "give 1 or more"),
        (lambda: s.Dense(3, bias=1), "Dense.bias", "bias = 1", "true or false"),
        (lambda: s.Dense(3, init="he"), "Dense.init", "init = 'he'", "pass one"),
        (lambda: s.Activation("tnah"), "Activation.name", "name = 'tnah'", "'tanh'"),
        (lambda: s.Activation("sigmoid"), "Activation.name", "name = 'sigmoid'", "'logistic'"),
        (lambda: s.Activation("zzz"), "Activation.name", "name = 'zzz'", "known: elu, erf, gelu"),
        (lambda: s.Activation(3), "Activation.name", "name = 3", "known: elu, erf, gelu"),
        (lambda: s.Activation("tanh", 1), "Activation.alpha", "alpha = 1 with tanh", "remove"),
        (lambda: s.Activation("elu", -1), "Activation.alpha", "alpha = -1", "at least 0"),
        (lambda: s.LayerNorm(0), "LayerNorm.eps", "eps = 0", "above 0"),
        (lambda: s.Residual([]), "Residual.layers", "layers = []", "add a layer"),
        (lambda: s.Residual([3]), "Residual.layers[0]", "3", "known: dense"),
        (lambda: s.Residual(s.Dense(3)), "Residual.layers", "Dense(", "add a layer"),
        (lambda: s.Repeat(0, [s.Dense(3)]), "Repeat.times", "times = 0", "give 1 or more"),
        (lambda: s.Normal(0), "Normal.std", "std = 0", "above 0"),
        (lambda: s.Constant(math.nan), "Constant.value", "value = nan", "finite"),
        (lambda: s.Xavier("norml"), "Xavier.distribution", "'norml'", "'normal'"),
        (lambda: s.He(gain=-1), "He.gain", "gain = -1", "above 0"),
        (lambda: s.LeCun(gain=math.inf), "LeCun.gain", "gain = inf", "above 0"),
        (lambda: s.Orthogonal(0), "Orthogonal.gain", "gain = 0", "above 0"),
        (lambda: s.Critical(q=0), "Critical.q", "q = 0", "above 0"),
        (
            lambda: s.Critical(distribution="uniform"),
            "Critical.distribution",
            "'uniform'",
            "'normal'",
        ),
        (lambda: s.HalfSquaredError(-1), "HalfSquaredError.l2", "l2 = -1", "at least 0"),
        (lambda: s.SGD(0), "SGD.lr", "lr = 0", "above 0"),
        (lambda: s.SGD(10**400), "SGD.lr", "lr = 1000", "above 0"),
        (lambda: s.SGD("0.1"), "SGD.lr", "lr = '0.1'", "above 0"),
        (lambda: s.GradientDescent(-1), "GradientDescent.lr", "lr = -1", "above 0"),
        (lambda: s.Momentum(0.1, 1), "Momentum.momentum", "momentum = 1", "below 1"),
        (lambda: s.AdaGrad(eps=0), "AdaGrad.eps", "eps = 0", "above 0"),
        (lambda: s.RMSProp(decay=-0.1), "RMSProp.decay", "decay = -0.1", "at least 0"),
        (lambda: s.Adam(math.nan), "Adam.lr", "lr = nan", "above 0"),
        (lambda: s.Adam(beta2=1.0), "Adam.beta2", "beta2 = 1.0", "below 1"),
        (lambda: s.Data("digit"), "Data.source", "'digit'", "'digits'"),
        (lambda: s.Data("x.txt"), "Data.source", "'x.txt'", "known: arrays"),
        (lambda: s.Data(3), "Data.source", "3", "known: arrays"),
        (lambda: s.Data("iris", "y"), "Data.target", "target = 'y' with", "remove target"),
        (lambda: s.Data("x.csv", ""), "Data.target", "target = ''", "last"),
        (lambda: s.Data("iris", test_fraction=1), "Data.test_fraction", "= 1", "below 1"),
        (lambda: s.Data("iris", standardise=0), "Data.standardise", "= 0", "true or false"),
        (lambda: s.Network([]), "Network.layers", "layers = []", "add a layer"),
        (lambda: s.Network([s.Dense(3)], "mse"), "Network.loss", "loss = 'mse'", "pass one"),
        (lambda: s.Training(0), "Training.epochs", "epochs = 0", "give 1 or more"),
        (lambda: s.Training(batch_size=0), "Training.batch_size", "= 0", "give 1 or more"),
        (lambda: s.Training(clip_norm=0), "Training.clip_norm", "clip_norm = 0", "above 0"),
        (lambda: s.Training(clip_value=-1), "Training.clip_value", "= -1", "above 0"),
        (lambda: s.Measure(-1), "Measure.every", "every = -1", "give 0 or more"),
        (lambda: replace(DEEP, seed=-1), "Spec.seed", "seed = -1", "give 0 or more"),
        (lambda: replace(DEEP, dtype="float16"), "Spec.dtype", "'float16'", "did you mean"),
        (lambda: replace(DEEP, data="digits"), "Spec.data", "data = 'digits'", "pass one"),
        (
            lambda: replace(DEEP, optimiser=s.GradientDescent(), training=s.Training(3, 8)),
            "Spec.training.batch_size",
            "batch_size = 8",
            "remove batch_size",
        ),
    ],
)
def test_a_bad_value_names_key_value_and_fix(make, place, came, fix):
    with pytest.raises(SpecError) as caught:
        make()
    assert caught.value.where == place
    assert came in caught.value.came
    assert fix in caught.value.fix


def test_batch_size_for():
    descent = replace(DEEP, optimiser=s.GradientDescent())
    explicit = replace(DEEP, training=s.Training(batch_size=7))
    assert [spec.batch_size_for(100) for spec in (DEEP, descent, explicit)] == [64, 100, 7]
    assert DEEP.batch_size_for(20) == 20


# flatten -----------------------------------------------------------------------------------------


def expanded(layers, where):
    """The definition of flatten, by recursion."""
    for i, layer in enumerate(layers):
        if isinstance(layer, s.Repeat):
            yield from layer.times * list(expanded(layer.layers, f"{where}[{i}].layers"))
        else:
            yield f"{where}[{i}]", layer


@given(layer_lists)
def test_flatten_is_its_recursive_definition(layers):
    network = s.Network(layers)
    first = itertools.islice(s.flatten(network.layers), 2000)
    assert list(first) == list(itertools.islice(expanded(layers, "network.layers"), 2000))


def test_flatten_writes_out_ten_thousand_layers():
    block = [s.Dense(4), s.Residual([s.Repeat(3, [s.Dense(4)])])]
    layers = (s.Repeat(5000, block), s.Dense(2))
    flat = list(s.flatten(layers))
    assert len(flat) == 10_001
    assert flat[-2][0] == "network.layers[0].layers[1]"
    path, residual = flat[1]
    inner = list(s.flatten(residual.layers, path + ".layers"))
    assert inner == 3 * [("network.layers[0].layers[1].layers[0].layers[0]", s.Dense(4))]


def nested(depth):
    layer = s.Dense(4)
    for _ in range(depth):
        layer = s.Residual([layer])
    return layer


def test_nesting_has_a_limit():
    assert s.Network([nested(s.MAX_NESTING)])
    with pytest.raises(SpecError, match=f"nest deeper than {s.MAX_NESTING}"):
        nested(s.MAX_NESTING + 2)
    with pytest.raises(SpecError, match="nest deeper"):
        s.Network([nested(s.MAX_NESTING + 1)])


def test_repeats_of_repeats_have_a_limit():
    assert s.Network([s.Repeat(1000, [s.Repeat(1000, [s.Dense(4)])])])
    with pytest.raises(SpecError, match="more than 1000000 layers"):
        s.Network([s.Repeat(1000, [s.Repeat(1000, [s.Dense(4)]), s.Dense(4)])])
    layer = s.Dense(4)
    for _ in range(12):  # 2^12 layers in 12 objects
        layer = s.Residual([layer, layer])
    with pytest.raises(SpecError, match="more than 1000000 layers"):
        s.Residual([layer] * 245)


# TOML --------------------------------------------------------------------------------------------


@given(specs())
@settings(max_examples=100, deadline=None)
def test_round_trip_is_exact(spec):
    text = toml.dumps(spec)
    assert toml.loads(text) == spec
    assert toml.dumps(toml.loads(text)) == text
    assert msgspec.convert(msgspec.to_builtins(spec), s.Spec) == spec


def test_layout():
    spec = s.Spec(
        s.Data("a.csv", "y"),
        s.Network(
            [
                s.Dense(64, bias=False, init=s.He(gain=1)),
                s.Repeat(3, [s.Residual([s.LayerNorm(), s.Activation("elu", 0.5)])]),
            ],
            s.HalfSquaredError(1e-4),
            s.Critical(),
        ),
        s.Adam(),
        s.Training(5),
        s.Measure(first=0),
        seed=3,
        dtype="float64",
    )
    text = """\
seed = 3
dtype = "float64"

[data]
source = "a.csv"
target = "y"

[network]
layers = [
  { kind = "dense", units = 64, bias = false, init = { kind = "he", gain = 1.0 } },
  { kind = "repeat", times = 3, layers = [
    { kind = "residual", layers = [
      { kind = "layer_norm" },
      { kind = "activation", name = "elu", alpha = 0.5 },
    ] },
  ] },
]
loss = { kind = "half_squared_error", l2 = 0.0001 }
init = { kind = "critical" }

[optimiser]
kind = "adam"

[training]
epochs = 5

[measure]
first = 0
"""
    assert toml.dumps(spec) == text
    assert toml.loads(text) == spec


def test_defaults_are_left_out_and_mean_the_same():
    text = '[data]\nsource = "digits"\n\n[network]\nlayers = [\n  { kind = "layer_norm" },\n]\n'
    spec = s.Spec(s.Data("digits"), s.Network([s.LayerNorm()]))
    assert toml.dumps(spec) == text
    assert toml.loads(text) == spec


HEAD = '[data]\nsource = "digits"\n[network]\nlayers = [{kind = "dense", units = 3}, %s]\n'
AT = "network.layers[1]"


def in_layers(layer):
    return HEAD % layer


def after(text):
    return HEAD % '{kind = "layer_norm"}' + text


@pytest.mark.parametrize(
    ("text", "where", "came", "fix"),
    [
        ("a = ", "x.toml:1:5", "Invalid value: 'a ='", "this line"),
        ("a = [\n3,\n'y\n", "x.toml:4:1", "Expected", "this line"),
        ("a = 1\nb b\n", "x.toml:2:3", "'b b'", "this line"),
        ("seed = " + "9" * 5000, "x.toml", "digits", ""),
        ("", "x.toml: data", "no keys", 'source = "digits"'),
        ("[data]\nsource = 'iris'", "x.toml: network", "only 'data'", "[network]"),
        ("data = 3", "x.toml: data", "data = 3", "add [data]"),
        ("dtpe = 'x'\n" + after(""), "x.toml: dtpe", "'dtpe'", "'dtype'"),
        ("dtype = 'float61'\n" + after(""), "x.toml: dtype", "'float61'", "'float64'"),
        ("seed = -1\n" + after(""), "x.toml: seed", "seed = -1", "give 0 or more"),
        ("seed = 1.5\n" + after(""), "x.toml: seed", "seed = 1.5", "such as 32"),
        ("seed = 2020-01-01\n" + after(""), "x.toml: seed", "2020", "such as 32"),
        ("seed = 0x" + "f" * 5000 + "\n" + after(""), "x.toml: seed", "seed = int", "or less"),
        (in_layers('{kind = "dens"}'), f"x.toml: {AT}.kind", "kind = 'dens'", "'dense'"),
        (in_layers("{kind = 3}"), f"x.toml: {AT}.kind", "kind = 3", "quotes"),
        (in_layers("{units = 3}"), f"x.toml: {AT}.kind", "only 'units'", "layer_norm"),
        (in_layers("3"), f"x.toml: {AT}", "3", "a table"),
        (in_layers('{kind = "dense"}'), f"x.toml: {AT}.units", "only 'kind'", "units = 32"),
        (in_layers('{kind = "dense", unit = 3}'), f"x.toml: {AT}.unit", "'unit'", "'units'"),
        (in_layers('{kind = "dense", "a b" = 3}'), f"x.toml: {AT}.'a b'", "'a b'", "known: bias"),
        (in_layers('{kind = "dense", units = 0}'), f"x.toml: {AT}.units", "units = 0", "1 or more"),
        (in_layers('{kind = "dense", units = "3"}'), f"x.toml: {AT}.units", "'3'", "quotes"),
        (
            in_layers('{kind = "residual", layers = []}'),
            f"x.toml: {AT}.layers",
            "layers = ()",
            "add a layer",
        ),
        (
            in_layers(
                '{kind = "repeat", times = 2, layers = [{kind = "activation", name = "tan"}]}'
            ),
            f"x.toml: {AT}.layers[0].name",
            "name = 'tan'",
            "'tanh'",
        ),
        (
            in_layers('{kind = "dense", units = 3, init = {kind = "he", gian = 2}}'),
            f"x.toml: {AT}.init.gian",
            "'gian'",
            "'gain'",
        ),
        (
            in_layers('{kind = "dense", units = 3, init = {kind = "he", distribution = "no"}}'),
            f"x.toml: {AT}.init.distribution",
            "distribution = 'no'",
            "known: normal, uniform",
        ),
        (after('[optimiser]\nkind = "adm"'), "x.toml: optimiser.kind", "'adm'", "'adam'"),
        (after("[optimiser]\nlr = 1"), "x.toml: optimiser.kind", "only 'lr'", "sgd"),
        (after('[optimiser]\nkind = "sgd"\nlr = nan'), "x.toml: optimiser.lr", "nan", "above 0"),
        (
            after('[optimiser]\nkind = "sgd"\nlr = 1' + "0" * 400),
            "x.toml: optimiser.lr",
            "lr = 1000",
            "smaller",
        ),
        (after('[training]\nclip = "x"'), "x.toml: training.clip", "'clip'", "'clip_"),
        (after("[training]\nepochs = true"), "x.toml: training.epochs", "True", "such as 32"),
        (
            after('[optimiser]\nkind = "gradient_descent"\n[training]\nbatch_size = 3'),
            "x.toml: training.batch_size",
            "batch_size = 3",
            "remove",
        ),
        (after('["x` - at `$.data"]'), "x.toml: 'x` - at `$.data'", "x` - at", "known: data"),
        ('"x` - at `$.network" = 3', "x.toml: 'x` - at `$.network'", "x` - at", "known: data"),
    ],
)
def test_an_error_names_file_key_value_and_fix(text, where, came, fix):
    with pytest.raises(SpecError) as caught:
        toml.loads(text, where="x.toml")
    assert caught.value.where == where
    assert came in caught.value.came
    assert fix in caught.value.fix


@pytest.mark.parametrize("depth", [40, 400, 40_000])
def test_deep_nesting_is_an_error_not_a_crash(depth):
    layer = '{kind = "residual", layers = [' * depth + '{kind = "layer_norm"}' + "]}" * depth
    with pytest.raises(SpecError, match="must not nest deeper than 32"):
        toml.loads(in_layers(layer))


def test_load(tmp_path: Path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + toml.dumps(DEEP).replace("\n", "\r\n").encode())
    assert toml.load(path) == DEEP
    path.write_text("seed = 'x'\n" + toml.dumps(DEEP))
    with pytest.raises(SpecError) as caught:
        toml.load(path)
    assert caught.value.where == f"{path}: seed"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(SpecError, match="must be UTF-8 text"):
        toml.load(path)
    for bad, came in ((tmp_path / "no.toml", "No such file"), (tmp_path, "directory"), ("\0", "")):
        with pytest.raises(SpecError, match="must be a file that can be read") as caught:
            toml.load(bad)
        assert came in caught.value.came


# Patches -----------------------------------------------------------------------------------------

FILE = """\
# Thirty layers of sigmoid.
seed = 3

[data]
source = "digits"  # 1797 images

[network]
# the trunk
layers = [
  # the block
  { kind = "repeat", times = 30, layers = [
    { kind = "dense", units = 32 },  # weights
    { kind = "activation", name = "logistic" },  # σ
  ] },
  { kind = "dense", units = 10 },
]
loss = { kind = "softmax_cross_entropy" }

# the rule
[optimiser]
kind = "sgd"
lr = 0.2  # rate

# the end
[measure]
every = 3
"""
SPEC = toml.loads(FILE)
DENSE, SIGMA = SPEC.network.layers[0].layers


def block(*layers):
    first = replace(SPEC.network.layers[0], layers=layers)
    network = replace(SPEC.network, layers=[first, *SPEC.network.layers[1:]])
    return replace(SPEC, network=network)


def network(**changes):
    return replace(SPEC, network=replace(SPEC.network, **changes))


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (
            block(DENSE, s.Activation("tanh")),
            """\
-    { kind = "activation", name = "logistic" },  # σ
+    { kind = "activation", name = "tanh" },  # σ
""",
        ),
        (block(DENSE, s.LayerNorm(), SIGMA), '+    { kind = "layer_norm" },\n'),
        (block(s.LayerNorm(), DENSE, SIGMA), '+    { kind = "layer_norm" },\n'),
        (block(DENSE, SIGMA, s.LayerNorm()), '+    { kind = "layer_norm" },\n'),
        (block(DENSE), '-    { kind = "activation", name = "logistic" },  # σ\n'),
        (
            block(s.Residual([DENSE, SIGMA])),
            """\
+   { kind = "residual", layers = [
+   ] },
""",
        ),
        (
            block(s.Residual([s.LayerNorm(), DENSE, SIGMA])),
            """\
+   { kind = "residual", layers = [
+    { kind = "layer_norm" },
+   ] },
""",
        ),
        (
            block(replace(DENSE, init=s.Orthogonal()), SIGMA),
            """\
-    { kind = "dense", units = 32 },  # weights
+    { kind = "dense", units = 32, init = { kind = "orthogonal" } },  # weights
""",
        ),
        (
            network(layers=[replace(SPEC.network.layers[0], times=9), s.Dense(10)]),
            """\
-  { kind = "repeat", times = 30, layers = [
+  { kind = "repeat", times = 9, layers = [
""",
        ),
        (network(init=s.Critical(2)), '+init = { kind = "critical", q = 2.0 }\n'),
        (
            network(loss=s.HalfSquaredError(0.5)),
            """\
-loss = { kind = "softmax_cross_entropy" }
+loss = { kind = "half_squared_error", l2 = 0.5 }
""",
        ),
        (replace(SPEC, optimiser=s.SGD(0.02)), "-lr = 0.2  # rate\n+lr = 0.02  # rate\n"),
        (
            replace(SPEC, optimiser=s.Adam()),
            """\
-kind = "sgd"
-lr = 0.2  # rate
+kind = "adam"
+lr = 0.001  # rate
""",
        ),
        (
            replace(SPEC, optimiser=s.Momentum(0.2, 0.5)),
            """\
-kind = "sgd"
+kind = "momentum"
+momentum = 0.5
""",
        ),
        (replace(SPEC, training=s.Training(clip_norm=1)), "+\n+[training]\n+clip_norm = 1.0\n"),
        (replace(SPEC, measure=s.Measure(3, 0)), "+first = 0\n"),
        (replace(SPEC, dtype="float64"), '+dtype = "float64"\n'),
        (replace(SPEC, seed=0), "-seed = 3\n+seed = 0\n"),
        (SPEC, ""),
    ],
)
def test_a_patch_changes_only_the_lines_it_must(new, lines):
    patched = toml.patch(FILE, SPEC, new)
    assert toml.loads(patched) == new
    changes = toml.diff(FILE, patched, "x.toml").splitlines(keepends=True)[2:]
    assert "".join(line for line in changes if line[0] in "+-") == lines


def test_a_key_is_added_below_the_last_and_above_the_comment_of_the_next_section():
    patched = toml.patch(FILE, SPEC, replace(SPEC, optimiser=s.Momentum(0.2, 0.5)))
    assert "lr = 0.2  # rate\nmomentum = 0.5\n\n# the end\n[measure]" in patched
    patched = toml.patch(FILE, SPEC, network(init=s.He()))
    assert '}\ninit = { kind = "he" }\n\n# the rule\n[optimiser]' in patched


def test_a_key_that_no_longer_applies_is_removed_in_its_line():
    text = FILE.replace('name = "logistic"', 'name = "elu", alpha = 0.5')
    assert toml.patch(text, toml.loads(text), SPEC) == FILE
    text = FILE.replace('kind = "sgd"\n', 'kind = "momentum"\nmomentum = 0.5\n')
    assert toml.patch(text, toml.loads(text), SPEC) == FILE


@given(specs(), specs())
@settings(max_examples=60, deadline=None)
def test_any_patch_decodes_to_the_new_spec(old, new):
    assert toml.loads(toml.patch(toml.dumps(old), old, new)) == new


OTHER_FORMS = [
    """\
network.layers = [{kind = "dense", units=3}, {kind="activation",name="elu",alpha=2}]
data.source="iris"
training = { epochs = 3 }
optimiser = {kind = "adam"}""",
    """\
# data
[data]
source="iris"
# hi
[network.init] # in
kind="he"
[network]
layers=[{kind="dense",units=3}, # c
    {kind="layer_norm"}
    # last
]
[optimiser]
lr=3
# e
kind="sgd"
""",
    """\
[data]
source="iris"
[[network.layers]]
kind = "repeat"
times = 3 # three
[[network.layers.layers]]
kind="dense"
units=3 # hi
[[network.layers]]
kind="dense"
units=5
[network.loss]
kind="softmax_cross_entropy"
l2 = 1
""",
    FILE,
]


@pytest.mark.parametrize("text", OTHER_FORMS)
@given(new=specs())
@settings(max_examples=25, deadline=None)
def test_any_form_of_toml_can_be_patched(text, new):
    old = toml.loads(text)
    assert toml.loads(toml.patch(text, old, new)) == new
    near = replace(old, network=replace(old.network, layers=[*old.network.layers, s.LayerNorm()]))
    assert toml.loads(toml.patch(text, old, near)) == near


def test_values_of_an_array_of_tables_are_edited_in_place():
    text = OTHER_FORMS[2]
    old = toml.loads(text)
    new = replace(old, network=replace(old.network, layers=[s.Repeat(4, [s.Dense(3)]), s.Dense(5)]))
    assert toml.patch(text, old, new) == text.replace("times = 3", "times = 4")
    # Layers cannot be moved there: [network] is written anew, the rest stays.
    new = replace(old, network=replace(old.network, layers=[s.Dense(5)]))
    patched = toml.patch(text, old, new)
    assert toml.loads(patched) == new
    assert patched.startswith('[data]\nsource="iris"\n[network]\nlayers = [\n')


def test_a_patch_keeps_line_ends():
    text = FILE.replace("\n", "\r\n")
    new = block(DENSE, s.LayerNorm(), SIGMA)
    patched = toml.patch(text, SPEC, new)
    assert patched.replace("\r\n", "\n") == toml.patch(FILE, SPEC, new)
    assert patched.count("\n") == patched.count("\r\n")


def test_a_patch_needs_the_text_of_the_old_spec():
    with pytest.raises(SpecError, match="the text that the old spec was read from"):
        toml.patch(FILE, replace(SPEC, seed=4), SPEC)


@pytest.mark.skipif(not shutil.which("patch"), reason="needs patch(1)")
@pytest.mark.parametrize("ends", [("", ""), ("\n", ""), ("", "\n"), ("\n", "\n"), ("\n", "\n\n")])
def test_a_diff_can_be_applied(tmp_path: Path, ends):
    old, new = "a = 1\nb = '\u2028'\nc = 3" + ends[0], "a = 1\nb = 2\nc = 3" + ends[1]
    (tmp_path / "x.toml").write_text(old)
    difference = toml.diff(old, new, "x.toml")
    assert difference.startswith("--- a/x.toml\n+++ b/x.toml\n")
    command = ["patch", "-p1", "-d", tmp_path]
    subprocess.run(command, input=difference, text=True, check=True, capture_output=True)
    assert (tmp_path / "x.toml").read_text() == new
    assert toml.diff(old, old, "x.toml") == ""


def test_a_diff_of_many_like_layers_is_minimal():
    old = [s.Dense(3), s.Activation("logistic")] * 100
    new = [s.Dense(3), s.LayerNorm(), s.Activation("logistic")] * 100
    texts = [toml.dumps(network(layers=layers)) for layers in (old, new)]
    signs = [line[0] for line in toml.diff(*texts, "x").splitlines()[2:]]
    assert (signs.count("+"), signs.count("-")) == (100, 0)
    patched = toml.patch(texts[0], toml.loads(texts[0]), toml.loads(texts[1]))
    assert patched == texts[1]


def test_dumped_specs_are_plain_toml():
    text = toml.dumps(replace(SPEC, data=s.Data('a "b"\\\n\x7f.csv', "σ")))
    assert tomllib.loads(text)["data"] == {"source": 'a "b"\\\n\x7f.csv', "target": "σ"}
