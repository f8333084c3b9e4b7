"""Patches of specs: they change only the lines that they must; and their diffs."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from msgspec.structs import replace
from random_specs import specs

from isograd.errors import SpecError
from isograd.nn import spec as s
from isograd.nn import toml

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


# Lists of numbers and of tables, and a table in a table: inline, and as sections of their own.
INLINE = """\
[data]
source = "a.csv"  # mine
validation_fraction = 0.1  # to stop by

[network]
layers = [{ kind = "dense", units = 3 }]
loss = { kind = "softmax_cross_entropy", class_weights = [1, 2, 3] }  # rare ones

[training]
schedule = [
  { kind = "warm_up", epochs = 2 },  # up
  { kind = "cosine" },  # down
]
early_stopping = { patience = 3 }  # soon
"""
SECTIONS = (
    INLINE[: INLINE.index("schedule")]
    + """\
# the schedule
[[training.schedule]]
kind = "warm_up"
epochs = 2  # up

[[training.schedule]]
kind = "cosine"  # down

[training.early_stopping]
patience = 3  # soon
"""
)
NESTED = toml.loads(INLINE)
RISE, FALL = NESTED.training.schedule


def training(**changes):
    return replace(NESTED, training=replace(NESTED.training, **changes))


def source(**changes):
    return replace(NESTED, data=replace(NESTED.data, **changes))


def loss(**changes):
    network = replace(NESTED.network, loss=replace(NESTED.network.loss, **changes))
    return replace(NESTED, network=network)


WEIGHTED = 'loss = { kind = "softmax_cross_entropy", class_weights = '


@pytest.mark.parametrize(
    ("new", "inline", "sections"),
    [
        (
            training(schedule=[replace(RISE, epochs=2.5), FALL]),
            """\
-  { kind = "warm_up", epochs = 2 },  # up
+  { kind = "warm_up", epochs = 2.5 },  # up
""",
            "-epochs = 2  # up\n+epochs = 2.5  # up\n",
        ),
        (
            training(schedule=[RISE, replace(FALL, final=0.5)]),
            """\
-  { kind = "cosine" },  # down
+  { kind = "cosine", final = 0.5 },  # down
""",
            "+final = 0.5\n",
        ),
        (training(schedule=[RISE]), '-  { kind = "cosine" },  # down\n', None),
        (training(schedule=[RISE, s.Plateau(), FALL]), '+  { kind = "plateau" },\n', None),
        (
            training(schedule=()),
            """\
-schedule = [
-  { kind = "warm_up", epochs = 2 },  # up
-  { kind = "cosine" },  # down
-]
""",
            """\
-[[training.schedule]]
-kind = "warm_up"
-epochs = 2  # up
-
-[[training.schedule]]
-kind = "cosine"  # down
-
""",
        ),
        (
            training(early_stopping=s.EarlyStopping(4)),
            """\
-early_stopping = { patience = 3 }  # soon
+early_stopping = { patience = 4 }  # soon
""",
            "-patience = 3  # soon\n+patience = 4  # soon\n",
        ),
        (
            training(early_stopping=s.EarlyStopping(3, 0.5)),
            """\
-early_stopping = { patience = 3 }  # soon
+early_stopping = { patience = 3, min_delta = 0.5 }  # soon
""",
            "+min_delta = 0.5\n",
        ),
        (
            training(early_stopping=None),
            "-early_stopping = { patience = 3 }  # soon\n",
            "-[training.early_stopping]\n-patience = 3  # soon\n",
        ),
        (training(normalise_gradient=True), *2 * ["+normalise_gradient = true\n"]),
        (
            loss(class_weights=[1, 2, 4]),
            *2
            * [
                f"-{WEIGHTED}[1, 2, 3] }}  # rare ones\n"
                f"+{WEIGHTED}[1.0, 2.0, 4.0] }}  # rare ones\n"
            ],
        ),
        (
            loss(class_weights=None),
            *2
            * [
                f"-{WEIGHTED}[1, 2, 3] }}  # rare ones\n"
                '+loss = { kind = "softmax_cross_entropy" }  # rare ones\n'
            ],
        ),
        (source(standardise="jointly"), *2 * ['+standardise = "jointly"\n']),
        (
            source(target="y", test="b.csv", missing="drop"),
            *2 * ['+target = "y"\n+test = "b.csv"\n+missing = "drop"\n'],
        ),
        (
            replace(NESTED, data=s.Data("moons", validation_fraction=0.1, rows=99, noise=0)),
            *2
            * ['-source = "a.csv"  # mine\n+source = "moons"  # mine\n+rows = 99\n+noise = 0.0\n'],
        ),
    ],
)
def test_a_patch_of_a_list_or_a_table_in_a_table(new, inline, sections):
    for text, lines in ((INLINE, inline), (SECTIONS, sections)):
        assert toml.loads(text) == NESTED
        patched = toml.patch(text, NESTED, new)
        assert toml.loads(patched) == new
        changes = toml.diff(text, patched, "x.toml").splitlines(keepends=True)[2:]
        changed = "".join(line for line in changes if line[0] in "+-")
        # Tables cannot be moved in an array of them: their section alone is written anew.
        assert changed == lines or lines is None
        assert patched[: patched.index("[training]")] == text[: text.index("[training]")] or (
            new.training == NESTED.training
        )


def test_a_list_or_a_table_in_a_table_is_added():
    old = replace(NESTED, training=s.Training(clip_value=2))
    text = "# a\n" + toml.dumps(old) + "# b\n"
    new = replace(old, training=replace(NESTED.training, clip_value=2))
    assert toml.patch(text, old, new) == text.replace(
        "clip_value = 2.0\n",
        """\
clip_value = 2.0
schedule = [
  { kind = "warm_up", epochs = 2.0 },
  { kind = "cosine" },
]
early_stopping = { patience = 3 }
""",
    )


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
    assert toml.loads(toml.patch(toml.dumps(old), old, new), anywhere=True) == new


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
validation_fraction = 0.5
[[training.schedule]] # first
kind = "step"
every = 3
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
class_weights = [
  1, # one
  2,
]
l2 = 1
[training.early_stopping]
""",
    FILE,
]


@pytest.mark.parametrize("text", OTHER_FORMS)
@given(new=specs())
@settings(max_examples=25, deadline=None)
def test_any_form_of_toml_can_be_patched(text, new):
    old = toml.loads(text)
    assert toml.loads(toml.patch(text, old, new), anywhere=True) == new
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
    assert patched.startswith(text.partition("[[network")[0] + "[network]\nlayers = [\n")


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
