"""Specs in TOML: read and written, and errors that name file, key, value and fix."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from msgspec.structs import replace
from random_specs import DEEP, specs

from isograd.errors import SpecError
from isograd.nn import spec as s
from isograd.nn import toml
from isograd.nn.template import TEMPLATE


@given(specs())
@settings(max_examples=100, deadline=None)
def test_round_trip_is_exact(spec):
    text = toml.dumps(spec)
    again = toml.loads(text, anywhere=True)
    assert again == spec
    assert toml.dumps(again) == text
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
        (
            in_layers('{kind="dense", units=3, init={kind="variance_scaling", sigma_w2=-0.1}}'),
            f"x.toml: {AT}.init.sigma_w2",
            "sigma_w2 = -0.1",
            "at least 0",
        ),
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
        *(
            (after("[training]\n" + text), f"x.toml: training.{where}", came, fix)
            for text, where, came, fix in (
                ("schedule = 3", "schedule", "schedule = 3", "square brackets"),
                ('schedule = {kind = "cosine"}', "schedule", "'cosine'", "square brackets"),
                ("schedule = [3]", "schedule[0]", "3", "a table"),
                ("schedule = [{}]", "schedule[0].kind", "no keys", "cosine, warm_up"),
                ('schedule = [{kind = "cosin"}]', "schedule[0].kind", "'cosin'", "'cosine'"),
                ('[[training.schedule]]\nkind = "stp"', "schedule[0].kind", "'stp'", "'step'"),
                (
                    'schedule = [{kind = "cosine"}, {kind = "step", evry = 3}]',
                    "schedule[1].evry",
                    "'evry'",
                    "'every'",
                ),
                (
                    '[[training.schedule]]\nkind = "step"\nevry = 3',
                    "schedule[0].evry",
                    "'evry'",
                    "'every'",
                ),
                ('schedule = [{kind = "step"}]', "schedule[0].every", "only 'kind'", "every = 10"),
                ('schedule = [{kind = "warm_up"}]', "schedule[0].epochs", "only 'kind'", "= 5"),
                (
                    'schedule = [{kind = "plateau", factor = "a"}]',
                    "schedule[0].factor",
                    "factor = 'a'",
                    "quotes",
                ),
                (
                    'schedule = [{kind = "plateau"}, {kind = "warm_up", epochs = 99}]',
                    "schedule[1].epochs",
                    "epochs = 99 with training.epochs = 30",
                    "30 or less",
                ),
                ("early_stopping = true", "early_stopping", "True", "a table"),
                ("early_stopping = {}", "early_stopping", "= 0", "data.validation_fraction"),
                (
                    "[training.early_stopping]\npatence = 3",
                    "early_stopping.patence",
                    "'patence'",
                    "'patience'",
                ),
                ("precision = 16", "precision", "precision = 16", "a table"),
                ("precision = {}", "precision.weights", "none of them", "remove the table"),
                (
                    '[training.precision]\nweights = "fp17"',
                    "precision.weights",
                    "weights = 'fp17'",
                    "'fp16'",
                ),
                (
                    '[training.precision]\ngradient = "fp16"',
                    "precision.gradient",
                    "'gradient'",
                    "'gradients'",
                ),
                (
                    'precision = { gradients = "fp16", loss_scale = 1000 }',
                    "precision.loss_scale",
                    "loss_scale = 1000.0",
                    "give 1024.0",
                ),
                (
                    'precision = { gradients = "fp16", loss_scale = "auto" }',
                    "precision.loss_scale",
                    "loss_scale = 'auto'",
                    "dynamic",
                ),
                (
                    "[training.early_stopping]\npatience = 0",
                    "early_stopping.patience",
                    "patience = 0",
                    "1 or more",
                ),
            )
        ),
        *(
            (HEAD.replace("[network]", text + "\n[network]") % "", f"x.toml: data.{key}", came, fix)
            for text, key, came, fix in (
                ('standardise = "joint"', "standardise", "'joint'", "'jointly'"),
                ("standardise = 1", "standardise", "= 1", "known: false, jointly, true"),
                ('missing = "men"', "missing", "'men'", "'mean'"),
                ("missing = 1", "missing", "= 1", "known: drop, mean"),
                ("rows = 1e3", "rows", "rows = 1000.0", "decimals"),
                ("test = 3", "test", "test = 3", "quotes"),
                ("tests = 3", "tests", "'tests'", "'test'"),
            )
        ),
        *(
            (
                after(f'loss = {{kind = "softmax_cross_entropy", class_weights = {weights}}}'),
                f"x.toml: network.loss.class_weights{place}",
                came,
                fix,
            )
            for weights, place, came, fix in (
                ("3", "", "class_weights = 3", "square brackets"),
                ("[]", "", "class_weights = ()", "above 0"),
                ("[1, -2]", "", "-2", "correct -2"),
                ('[1, "a"]', "[1]", "'a'", "quotes"),
            )
        ),
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


@pytest.mark.parametrize(
    ("text", "must"),
    [
        (in_layers("3"), "a layer must be a table"),
        (after("[training]\nschedule = [3]"), "a schedule must be a table"),
        (
            after('loss = {kind = "softmax_cross_entropy", class_weights = [true]}'),
            "a class weight must be a number",
        ),
        (HEAD.replace('"digits"', "3") % "", "source must be a string"),
    ],
)
def test_an_error_says_what_it_is_that_is_wrong(text, must):
    with pytest.raises(SpecError) as caught:
        toml.loads(text)
    assert caught.value.must == must


OUTSIDE = [
    "/a.csv",
    "//host/share/a.csv",
    "\\a.csv",
    "\\\\host\\share\\a.csv",
    "C:/a.csv",
    "c:\\a.csv",
    "C:a.csv",
    "~/a.csv",
    "~root/a.csv",
    "../a.csv",
    "..\\a.csv",
    "a/../../b.csv",
    "a\\..\\..\\b.csv",
    "./../a.csv",
    "a/b/../../../c.csv",
    "a//../../b.csv",
    "../a/../a.csv",
    ".. /a.csv",
    "a/.../.. ./b.csv",
]
INSIDE = ["a.csv", "./a.csv", "a/b.csv", "a/../b.csv", "a/./b/../../c.csv", "..a.csv", "a../b.csv"]


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("source = {}", "source"),
        ('source = "in.csv"\ntest = {}', "test"),
        ('source = "in.idx"\nlabels = {}', "labels"),
        ('source = "in.idx"\nlabels = "b.idx"\ntest = "c.idx"\ntest_labels = {}', "test_labels"),
    ],
)
def test_a_text_must_not_name_data_outside_its_folder(data, key, tmp_path: Path):
    for path in OUTSIDE + INSIDE:
        name = path.replace(".csv", ".idx") if "idx" in data else path
        text = HEAD.replace('source = "digits"', data.format(f"'{name}'")) % ""
        (tmp_path / "x.toml").write_text(text)
        spec = toml.loads(text, anywhere=True)
        assert getattr(spec.data, key) == name
        assert toml.load(tmp_path / "x.toml", anywhere=True) == spec
        if path in INSIDE:
            assert toml.loads(text) == toml.load(tmp_path / "x.toml") == spec
            continue
        with pytest.raises(SpecError, match="must not name data outside its folder") as caught:
            toml.load(tmp_path / "x.toml")
        assert caught.value.where == f"{tmp_path / 'x.toml'}: data.{key}"
        assert caught.value.came == f"{key} = {name!r}"
        assert "--data" in caught.value.fix


def test_a_spec_made_in_python_may_name_data_anywhere(tmp_path: Path):
    spec = replace(DEEP, data=s.Data(tmp_path / "a.csv"))
    patched = toml.patch(toml.dumps(spec), spec, replace(spec, seed=3))
    assert toml.loads(patched, anywhere=True) == replace(spec, seed=3)


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


# The template -------------------------------------------------------------------------------------


def test_the_template_names_all_data_and_schedules():
    for name in (*s.SYNTHETIC_DATA, *s.kinds(s.Schedule)):
        assert re.search(rf"\b{name}\b", TEMPLATE)


@pytest.mark.parametrize("apart", ["clip_norm", "normalise_gradient"])
def test_what_the_template_leaves_out_can_be_put_in(apart):
    left_out = re.compile(r"(?m)^# (\w+) += .*$")
    keys = {match[1] for match in left_out.finditer(TEMPLATE)}
    assert keys > {apart, "schedule", "early_stopping", "target", "test", "missing"}
    text = left_out.sub(lambda match: match[0][2 * (match[1] != apart) :], TEMPLATE)
    spec = toml.loads(text.replace('"digits"', '"a.csv"'))
    put_in = {
        key
        for part in (spec.data, spec.training, spec.measure)
        for key in keys
        if getattr(part, key, None)
    }
    assert put_in == keys - {apart}
