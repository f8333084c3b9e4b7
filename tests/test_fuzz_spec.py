"""Damaged specs: each is refused with an error that says where, or is a spec that round-trips."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isograd import nn
from isograd.errors import IsogradError, SpecError
from isograd.nn import spec as s
from isograd.nn import toml
from isograd.nn.template import TEMPLATE

# The specs to damage: together they have every kind and every key. -------------------------------

BASES = [
    TEMPLATE,
    """\
[data]
source = "data/a.csv"
target = "y"
test = "data/b.csv"
validation_fraction = 0.25
standardise = "jointly"
missing = "median"

[network]
loss = { kind = "huber", l2 = 1e-4, delta = 2.5 }
init = { kind = "critical", q = 0.5, distribution = "orthogonal", gain = 1.5 }

[[network.layers]]
kind = "dense"
units = 8
bias = false
init = { kind = "xavier", distribution = "uniform", gain = 2 }

[[network.layers]]
kind = "residual"
layers = [
  { kind = "layer_norm", eps = 1e-3 },
  { kind = "repeat", times = 2, layers = [
    { kind = "dense", units = 8, init = { kind = "lecun", distribution = "normal", gain = 0.5 } },
    { kind = "activation", name = "swish", beta = -1.5, learned = true },
    { kind = "dropout", rate = 0.25 },
  ] },
  { kind = "scale", value = 0.5, learned = false },
]

[[network.layers]]
kind = "dense"
units = 1

[optimiser]
kind = "adamw"
lr = 0.01
beta1 = 0.8
beta2 = 0.99
eps = 1e-7
weight_decay = 0.1

[training]
epochs = 12
clip_value = 3
normalise_gradient = true

[[training.schedule]]
kind = "warm_up"
epochs = 2.5
start = 0.1

[[training.schedule]]
kind = "plateau"
factor = 0.5
patience = 3
threshold = 0.01

[training.early_stopping]
patience = 4
min_delta = 0.001

[measure]
every = 0
first = 3
""",
    """\
data = { source = "moons", rows = 200, noise = 0.2, stratify = false }
optimiser = { kind = "nesterov", lr = 0.1, momentum = 0.5 }
seed = 7
dtype = "float64"
[network]
layers = [
  { kind = "dense", units = 4, init = { kind = "lsuv", gain = 2, tolerance = 1, iterations = 3 } },
  { kind = "batch_norm", eps = 1e-4, momentum = 1 },
  { kind = "activation", name = "prelu", alpha = 0.1, learned = false },
  { kind = "dense", units = 4, init = { kind = "orthogonal", gain = 1.25 } },
  { kind = "rms_norm", eps = 1e-6 },
  { kind = "dense", units = 4, init = { kind = "variance_scaling", sigma_w2 = 2, sigma_b2 = 0.1 } },
  { kind = "dense", units = 2, init = { kind = "zeros" } },
]
loss = { kind = "softmax_cross_entropy", class_weights = [1, 2.5] }
[training]
batch_size = 16
clip_norm = 1.0
schedule = [
  { kind = "constant" },
  { kind = "step", every = 10, factor = 0.5 },
  { kind = "exponential", factor = 0.99 },
  { kind = "cosine", final = 0.1, epochs = 40 },
  { kind = "one_cycle", start = 0.1, final = 0.01, up = 0.5, epochs = 30.0 },
]
""",
    """\
[data]
source = 'train-images-idx3-ubyte.gz'
labels = "train-labels-idx1-ubyte.gz"
test = "t10k-images-idx3-ubyte.gz"
test_labels = "t10k-labels-idx1-ubyte.gz"
test_fraction = 0.5
[network]
layers = [
  { kind = "dense", units = 1, init = { kind = "uniform", gain = 0.5 } },
  { kind = "activation", name = "logistic" }
]
loss = { kind = "binary_cross_entropy", inputs = "probabilities" }
init = { kind = "normal", std = 0.1 }
[optimiser]
kind = "rmsprop"
decay = 0.9
eps = 1e-6
""",
]
SHORT = """\
[data]
source = "iris"
[network]
layers = [{{ kind = "dense", units = 3 }}]
loss = {{ kind = "{loss}" }}
init = {{ kind = "{init}" }}
[optimiser]
kind = "{optimiser}"
"""
BASES += [
    SHORT.format(loss=loss, init=init, optimiser=optimiser)
    for loss, init, optimiser in (
        ("mean_squared_error", "constant", "gradient_descent"),
        ("half_squared_error", "he", "momentum"),
        ("huber", "he", "adagrad"),
        ("huber", "he", "adam"),
    )
]


def test_the_specs_to_damage_have_every_kind_and_every_key() -> None:
    parts: list[Any] = [toml.loads(text) for text in BASES]
    seen = set()
    for part in parts:  # grows
        if isinstance(part, msgspec.Struct):
            seen.add(type(part))
            parts += [getattr(part, key) for key in part.__struct_fields__]
        elif isinstance(part, tuple):
            parts += part
    unions = (s.Layer, s.Init, s.Loss, s.Optimiser, s.Schedule)
    tables = {s.Spec, nn.Data, nn.Network, nn.Training, nn.EarlyStopping, nn.Measure}
    assert seen == tables.union(*(s.kinds(union).values() for union in unions))
    keys = {key for struct in seen for key in struct.__struct_fields__}
    assert not {key for key in keys if not re.search(rf"\b{key}\b", "\n".join(BASES))}


# Damage ------------------------------------------------------------------------------------------

Damage = Callable[[random.Random, str], str]
NUMBERS = "0 -0 -1 1 2 3 nan -nan inf -inf 1e400 -1e400 1e-400 5e-324 1e308 0.5 1.0 1_0 007 +3 1."
VALUES = [
    *NUMBERS.split(),
    *("9" * n for n in (18, 19, 20, 400, 5000)),
    *("0x" + "f" * n for n in (15, 16, 17, 5000)),
    *(
        "true",
        "false",
        '""',
        '"relu"',
        '"dense"',
        "'digits'",
        '"""a"""',
        "[]",
        "{}",
        "[[]]",
        "[{}]",
    ),
    *(
        "[1, 2]",
        '["a"]',
        "[nan]",
        "{ kind = 3 }",
        '{ kind = "he" }',
        '{ kind = "" }',
        "{ a.b = 1 }",
    ),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "9999-99-99", "null", "None", '"a\\u0000"'),
    *(
        '"\\ud800"',
        '"\\U00110000"',
        '"../a.csv"',
        '"/a.csv"',
        '"~/a.npz"',
        '"C:\\\\a.csv"',
        '".csv"',
    ),
    *('"joint"', '"\\u0000.csv"', '"a\\nb.csv"', '"é.csv"', '"\u2028.npz"', "[" * 2000, "[" * 40),
]
SCRAPS = [
    *"\0\x01\x7f\t\r\n \"'#=.,[]{}\\-+_eE09aZ",
    "é",
    "\u0301",
    "\u2028",
    "\ufeff",
    "😀",
    "\ufffd",
]
TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|\s+|.', re.DOTALL)
VALUE = re.compile(r'(?<== )(?:"[^"\n]*"|[\w.+-]+|\[[^\[\]{}]*\]|\{[^{}]*\})')
KEY = re.compile(r"\w+(?= = )")


def on_parts(pattern: re.Pattern[str]) -> Damage:
    """Delete, double or swap parts of a text."""

    def damage(rng: random.Random, text: str) -> str:
        parts = pattern.findall(text)
        if not parts:
            return text
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(4):
            case 0:
                del parts[i]
            case 1:
                parts.insert(j, parts[i])
            case 2:
                parts[i], parts[j] = parts[j], parts[i]
            case 3:
                del parts[min(i, j) : min(i, j) + rng.randrange(1, 4)]
        return "".join(parts)

    return damage


def in_place_of(pattern: re.Pattern[str], new: Callable[[random.Random, str], str]) -> Damage:
    """Put something else in the place of one match."""

    def damage(rng: random.Random, text: str) -> str:
        found = list(pattern.finditer(text))
        if not found:
            return text
        match = rng.choice(found)
        return text[: match.start()] + new(rng, match[0]) + text[match.end() :]

    return damage


def renamed(rng: random.Random, key: str) -> str:
    """A key with a slip of the pen, quoted, dotted, or another one."""
    i = rng.randrange(len(key))
    others = ["kind", "layers", "schedule", "units", "init", "l2", "epochs", "", '""', "kind.kind"]
    return rng.choice(
        [
            key[:i] + key[i + 1 :],
            key[:i] + rng.choice("abcdxyz_-") + key[i:],
            f'"{key}"',
            f'"{key}` - at `$.data"',
            f"{key}.{key}",
            key.upper(),
            rng.choice(others),
        ]
    )


def alike(rng: random.Random, old: str) -> str:
    """Another value of the same type, as some spec has it."""
    values = ["8", "1e-3", "0.75", "1000", *(v for text in BASES for v in VALUE.findall(text))]
    like = str.isdigit if old[0].isdigit() else old[0].__eq__
    return rng.choice([value for value in values if like(value[0])] or [old])


def scrap(rng: random.Random, text: str) -> str:
    """A character put in, at any place."""
    i = rng.randrange(len(text) + 1)
    return text[:i] + rng.choice(SCRAPS) + text[i + rng.randrange(2) :]


def deeper(rng: random.Random, value: str) -> str:
    """A value inside many blocks, lists or tables."""
    depth = rng.choice([1, 2, 31, 32, 33, 200, 2000])
    head, tail = rng.choice(
        [
            ('[{ kind = "residual", layers = ', " }]"),
            ("[", "]"),
            ("{ layers = ", " }"),
            ("{a=", "}"),
        ]
    )
    return head * depth + value + tail * depth


DAMAGES: list[Damage] = [
    on_parts(re.compile(r".*\n")),
    on_parts(TOKEN),
    in_place_of(VALUE, lambda rng, _: rng.choice(VALUES)),
    in_place_of(re.compile(r"(?<= )[-\d][\w.+-]*"), lambda rng, _: rng.choice(NUMBERS.split())),
    in_place_of(VALUE, lambda rng, _: rng.choice(VALUE.findall(rng.choice(BASES)))),
    in_place_of(VALUE, alike),
    in_place_of(VALUE, alike),
    in_place_of(VALUE, alike),
    in_place_of(VALUE, deeper),
    in_place_of(KEY, renamed),
    in_place_of(KEY, lambda rng, _: rng.choice(KEY.findall(rng.choice(BASES)))),
    in_place_of(re.compile(r"[\[\]{}\",=.]"), lambda rng, old: rng.choice(["", 2 * old, "[", "}"])),
    scrap,
]


def damaged(case: int) -> bytes:
    """The text of a case: one to three damages, and sometimes a bit that is flipped."""
    rng = random.Random(case)
    text = rng.choice(BASES)
    for _ in range(rng.choice([1, 1, 1, 2])):
        text = rng.choice(DAMAGES)(rng, text)
    raw = bytearray(text, "utf-8")
    if raw and rng.random() < 0.1:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


# The verdict -------------------------------------------------------------------------------------


def is_small(layers: tuple[s.Layer, ...]) -> bool:
    """Whether a network has at most 2000 layers, blocks and repeats written out."""
    stack, count = [layers], 0
    while stack and count <= 2000:
        for _, layer in islice(s.flatten(stack.pop()), 2001):
            count += 1
            if isinstance(layer, nn.Residual):
                stack.append(layer.layers)
    return count <= 2000


def tried(action: Callable[[], Any], place: str) -> Any:
    """The result, or None where there is a clear error instead."""
    try:
        return action()
    except IsogradError as error:
        clear = isinstance(error, SpecError) and error.must and error.where.startswith(place)
        if not clear or len(str(error)) > 2000:
            raise AssertionError(f"no clear error: {error!r}") from error
        return None


def outcome(raw: bytes, path: Path) -> str:
    """What becomes of a text: "refused", "read" or "built". Anything else raises."""
    path.write_bytes(raw)
    spec = tried(lambda: toml.load(path), str(path))
    if spec is None:
        return "refused"
    assert toml.loads(toml.dumps(spec)) == spec
    if not is_small(spec.network.layers):
        return "read"
    model = tried(lambda: nn.build(spec.network, n_in=4), "network")
    return "read" if model is None else "built"


def outcomes(cases: range, path: Path) -> dict[str, int]:
    """How many of the cases end how."""
    counts = {"refused": 0, "read": 0, "built": 0}
    for case in cases:
        raw = damaged(case)
        try:
            counts[outcome(raw, path)] += 1
        except Exception as error:
            error.add_note(f"case {case}: {raw.decode('utf-8', 'replace')[:3000]}")
            raise
    return counts


@pytest.mark.parametrize("text", BASES)
def test_a_spec_without_damage_is_built(text: str, tmp_path: Path) -> None:
    assert outcome(text.encode(), tmp_path / "x.toml") == "built"


CASES = range(10_000)


def test_a_damaged_spec_is_refused_with_a_place_or_is_a_spec(tmp_path: Path) -> None:
    counts = outcomes(CASES[:1000], tmp_path / "x.toml")
    assert min(counts["refused"], counts["built"]) > 100, "the damage shows only one side"


@pytest.mark.slow
def test_many_a_damaged_spec_is_refused_with_a_place_or_is_a_spec(tmp_path: Path) -> None:
    outcomes(CASES[1000:], tmp_path / "x.toml")


def test_a_crash_an_error_without_a_place_and_a_spec_that_does_not_come_back_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.toml"

    def raising(error: Exception) -> Callable[..., Any]:
        def explain(*_: object) -> Any:
            raise error

        return explain

    for planted, seen in ((KeyError("kind"), KeyError), (SpecError("no"), AssertionError)):
        with monkeypatch.context() as patch:
            patch.setattr(toml, "explain", raising(planted))
            with pytest.raises(seen) as caught:
                outcomes(CASES[:200], path)
            assert caught.value.__notes__[-1].startswith("case ")
    dumps = toml.dumps
    monkeypatch.setattr(toml, "dumps", lambda spec: dumps(spec).replace("seed = 7\n", ""))
    with pytest.raises(AssertionError):
        outcome(BASES[2].encode(), path)
