"""docs/json.md and docs/formats.md against the answers, the specs and the runs there are."""

from __future__ import annotations

import io
import json
import math
import re
import sqlite3
import sys
import tomllib
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
import safetensors
from documents import ROOT, Schema, by_kind, parse, read
from msgspec.structs import replace
from sklearn.datasets import load_iris

from isograd import cli, nn
from isograd.backends.llvm.measured import MOMENTS
from isograd.errors import SpecError
from isograd.nn import spec as specs
from isograd.nn.toml import loads
from isograd.telemetry import KINDS
from isograd.training.folder import CHECKPOINT, WEIGHTS
from isograd.training.loop import Progress
from isograd.training.run import train
from isograd.training.start import load_split

JSON, FORMATS = read("docs/json.md"), read("docs/formats.md")

# --- real answers, from a network that is sick and can be cured

SICK = """\
[data]
source = "iris"

[network]
layers = [
  { kind = "repeat", times = 5, layers = [
    { kind = "dense", units = 8 },
    { kind = "activation", name = "logistic" },
  ] },
  { kind = "dense", units = 3 },
]

[optimiser]
kind = "sgd"
lr = 0.2

[training]
epochs = 15
batch_size = 20
"""
MAP = ("--x", "sigma_w=1,8", "--y", "depth=2,3", "--steps", "5", "--jobs", "1", "--out", "map")


def ask(*words: str) -> Any:
    """What the command line prints, as JSON."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", ["isograd", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code in (cli.HEALTHY, cli.SICK)
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


def interrupted(folder: Path) -> Path:
    """A run to go on with."""

    def stop(progress: Progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    spec = loads(SICK)
    train(spec, SICK, load_split(spec), folder / "runs/spec-002", progress=stop)
    return folder / "runs/spec-002"


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    (folder / "spec.toml").write_text(SICK, encoding="utf-8")
    doctor = sys.modules["isograd.report.doctor"]
    tried = ("lr × 10", "activation relu, he init")
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        candidates = doctor.candidates  # all of them would take too long
        patch.setattr(
            doctor,
            "candidates",
            lambda *args: tuple(c for c in candidates(*args) if c.name in tried),
        )
        return {
            "check": ask("check", "spec.toml", "--json"),
            "doctor": ask("doctor", "spec.toml", "--jobs", "1", "--json"),
            "train": ask("train", "spec.toml", "--profile", "--json"),
            "resume": ask("resume", str(interrupted(folder)), "--json"),
            "predict": ask("predict", "runs/spec-001", "iris", "--json"),
            "show": ask("show", "runs/spec-001", "--json"),
            "runs": ask("runs", "--json"),
            "map": ask("map", "spec.toml", *MAP, "--json"),
        }


# --- docs/json.md


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(JSON)


def differences(schema: Schema, kind: str, answer: dict[str, Any]) -> list[str]:
    envelope = {key: answer[key] for key in schema.objects["envelope"] if key in answer}
    rest = {key: value for key, value in answer.items() if key not in envelope}
    return [*schema.problems(envelope, "envelope"), *schema.problems(rest, kind)]


def test_every_key_of_an_answer_is_documented_and_every_documented_key_is_there(
    answers: dict[str, Any], schema: Schema, folder: Path
) -> None:
    for kind, answer in answers.items():
        assert answer["kind"] == kind
        assert not differences(schema, kind, answer)
    result = json.loads((folder / "runs/spec-001/result.json").read_text("utf-8"))
    assert not list(schema.problems(result, "result"))
    assert schema.used == set(schema.objects), "objects that no answer holds"
    doctor = answers["doctor"]
    assert doctor["diagnosis"]["findings"], "this network should be sick"
    assert doctor["patch"], "and cured"
    assert (folder / doctor["cured_spec"]).is_file()


def test_a_key_that_is_missing_unknown_or_of_another_type_is_seen(
    answers: dict[str, Any], schema: Schema
) -> None:
    answer = json.loads(json.dumps(answers["train"]))
    answer["outcome"]["steps"] = 1.5
    answer["diagnosis"]["findings"][0]["mood"] = "good"
    del answer["diagnosis"]["expectation"]["chi1"]
    answer["outcome"]["train"] = None
    assert sorted(differences(schema, "train", answer)) == [
        "$.diagnosis.expectation.chi1 is not there",
        "$.diagnosis.findings[0].mood is not documented",
        "$.outcome.steps is float, and documented as integer",
        "$.outcome.train is no object",
    ]


def test_exit_codes() -> None:
    codes = {str(c) for name, c in vars(cli).items() if name.isupper() and isinstance(c, int)}
    assert set(JSON.column("exit-codes", "code")) == codes


# --- docs/formats.md: specs

TABLES = {
    "top-level": nn.Spec,
    "data": nn.Data,
    "network": nn.Network,
    "training": nn.Training,
    "trainingearly_stopping": nn.EarlyStopping,
    "trainingprecision": nn.Precision,
    "measure": nn.Measure,
}
UNIONS = {
    "layers": specs.Layer,
    "initialisers": specs.Init,
    "losses": specs.Loss,
    "optimisers": specs.Optimiser,
    "schedules": specs.Schedule,
}
STRUCTS = [(table, FORMATS.tables[anchor]) for anchor, table in TABLES.items()] + [
    (struct, [row for row in by_kind(FORMATS.tables[anchor]).get(kind, []) if row["key"]])
    for anchor, union in UNIONS.items()
    for kind, struct in specs.kinds(union).items()
]
DENSE = nn.Dense(3)
EXAMPLES: dict[Any, Any] = {
    nn.Spec: nn.Spec(nn.Data("iris"), nn.Network((DENSE,))),
    nn.Data: nn.Data("iris"),
    nn.Network: nn.Network((DENSE,)),
    nn.Dense: DENSE,
    nn.Activation: nn.Activation("elu"),
    nn.Residual: nn.Residual((DENSE,)),
    nn.Repeat: nn.Repeat(2, (DENSE,)),
    nn.StepDecay: nn.StepDecay(3),
    nn.ExponentialDecay: nn.ExponentialDecay(0.9),
    nn.WarmUp: nn.WarmUp(3),
    nn.Precision: nn.Precision("fp16", "fp16", "fp16"),
}
# Keys that need others beside them.
IDX = nn.Data("a.idx", labels="b.idx", test="c.idx", test_labels="d.idx")
EXAMPLES |= {
    (nn.Activation, "beta"): nn.Activation("swish"),
    (nn.Activation, "learned"): nn.Activation("prelu"),
    (nn.Data, "rows"): nn.Data("moons"),
    (nn.Data, "noise"): nn.Data("moons"),
    **{(nn.Data, key): IDX for key in ("labels", "test", "test_labels")},
}
TYPES = {"integer": int, "number": float, "boolean": bool, "string": str}


def spec_problems(struct: Any, rows: list[dict[str, str]]) -> Iterator[str]:
    """Where the rows of a table differ from the fields of a struct."""
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    documented = {row["key"].strip("`"): row for row in rows}
    for key in fields.keys() ^ documented.keys():
        yield f"{key} is {'not documented' if key in fields else 'no key'}"
    for key in fields.keys() & documented.keys():
        field, row = fields[key], documented[key]
        text = row["default"].strip("`")
        if (text == "required") is not field.required:
            yield f"{key} is {'required' if field.required else 'not required'}"
        elif not field.required:
            value = None if text == "none" else tomllib.loads(f"x = {text}")["x"]
            if msgspec.convert(value, field.type) != field.default:
                yield f"{key} has the default {field.default!r}, not {text}"
        wanted = {TYPES.get(word) for word in row["type"].split(" or ")}
        if None not in wanted and wanted != types_of(field.type):
            yield f"{key} is no {row['type']}"
        example = EXAMPLES.get((struct, key)) or EXAMPLES.get(struct) or struct()
        for accepted, values in zip((True, False), edges(row["range"]), strict=True):
            for value in values:
                if accepts(example, key, value) is not accepted:
                    yield f"{key} = {value!r} is {'refused' if accepted else 'accepted'}"


def types_of(annotation: Any) -> set[Any]:
    """The types that a field takes but None; names of a Literal are strings."""
    parts = (annotation,) if get_origin(annotation) is Literal else get_args(annotation)
    types = {str if get_origin(part) is Literal else part for part in parts or (annotation,)}
    return types - {type(None)}


def edges(text: str) -> tuple[list[Any], list[Any]]:
    """Values just inside a range as it is written, and just outside."""
    if found := re.fullmatch(r"([≥>]) (\d+)", text):
        low = int(found[2])
        return ([low], [low - 1]) if found[1] == "≥" else ([low + 1e-300], [low, math.nan])
    if found := re.fullmatch(r"([\[(])(\d+), (\d+)([\])])", text):
        low, high = int(found[2]), int(found[3])
        inside, outside = [(low + high) // 2 if high > 1 else 0.5], [low - 1, high + 1]
        (inside if found[1] == "[" else outside).append(low)
        (inside if found[4] == "]" else outside).append(high)
        return inside, outside
    if text == "any":
        return [-1e300, 0.0, 1e300], [math.inf, math.nan]
    if re.fullmatch(r"`[^`]+`(, `[^`]+`)*", text):
        values = [tomllib.loads(f"x = {value}")["x"] for value in re.findall("`([^`]+)`", text)]
        return values, ["no such name", 1]
    names = re.findall(r'`"(\w+)"`', text)
    return names, ["no such name"] if names else []


def accepts(example: Any, key: str, value: Any) -> bool:
    try:
        replace(example, **{key: value})
    except SpecError:
        return False
    return True


@pytest.mark.parametrize(("struct", "rows"), STRUCTS, ids=lambda x: getattr(x, "__name__", ""))
def test_every_key_of_a_spec_with_type_default_and_range(struct: Any, rows: Any) -> None:
    assert not list(spec_problems(struct, rows))


def test_no_kind_is_documented_that_does_not_exist() -> None:
    for anchor, union in UNIONS.items():
        assert set(by_kind(FORMATS.tables[anchor])) == set(specs.kinds(union))


def test_a_wrong_key_type_default_or_range_is_seen() -> None:
    table = """
| key | type | default | range |
|---|---|---|---|
| `epochs` | string | `29` | ≥ 0 |
| `batch_size` | integer | required | ≥ 2 |
| `clip_value` | number | none | (0, 1) |
| `epoch` | integer | `1` | ≥ 1 |
"""
    found = sorted(spec_problems(nn.Training, parse(table).tables[""]))
    assert found == [
        "batch_size = 1 is accepted",
        "batch_size is not required",
        "clip_norm is not documented",
        "clip_value = 1 is accepted",
        "clip_value = 2 is accepted",
        "early_stopping is not documented",
        "epoch is no key",
        "epochs = 0 is refused",
        "epochs has the default 30, not 29",
        "epochs is no string",
        "normalise_gradient is not documented",
        "precision is not documented",
        "recompute is not documented",
        "schedule is not documented",
    ]


# --- docs/formats.md: runs


def test_files_of_a_run(answers: dict[str, Any], folder: Path) -> None:
    files = {path.name for path in (folder / "runs/spec-001").iterdir()}
    documented = set(FORMATS.column("the-folder-of-a-run", "file"))
    assert documented == files | {CHECKPOINT}, "it is gone once the run has ended"


@pytest.fixture
def database(answers: dict[str, Any], folder: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(folder / "runs/spec-001/telemetry.sqlite")
    yield connection
    connection.close()


def test_tables_of_a_run(database: sqlite3.Connection) -> None:
    tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    assert {f"table-{name}" for (name,) in tables} == {
        anchor for anchor in FORMATS.tables if anchor.startswith("table-")
    }
    for (name,) in tables:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
        assert FORMATS.column(f"table-{name}", "column") == columns
    text = (ROOT / "docs/formats.md").read_text("utf-8")
    facts = re.findall(r"`(\w+)`: ", FORMATS.tables["table-meta"][0]["meaning"])
    assert {name for (name,) in database.execute("SELECT name FROM meta")} == set(facts)
    for pragma, shown in (("application_id", "0x69736F67"), ("user_version", "3")):
        assert database.execute(f"PRAGMA {pragma}").fetchone() == (int(shown, 0),)
        assert shown in text


def test_files_of_a_map(answers: dict[str, Any], folder: Path) -> None:
    documented = set(read("docs/maps.md").column("the-folder-of-a-map", "file"))
    assert documented == {path.name for path in (folder / "map").iterdir()}


def test_fields_of_moments() -> None:
    assert tuple(FORMATS.column("moments", "field")) == MOMENTS.names


def test_headers_of_files_of_arrays(answers: dict[str, Any], folder: Path) -> None:
    with safetensors.safe_open(folder / "runs/spec-001" / WEIGHTS, framework="numpy") as file:
        header = file.metadata()
    assert set(FORMATS.column("weights", "key")) == set(header)
    assert header["version"] == "1"
    facts = re.findall(r"`(\w+)`", FORMATS.tables["weights"][2]["content"])
    assert set(json.loads(header["facts"])) == set(facts[:4])


def test_queries_of_the_document_run(
    database: sqlite3.Connection, answers: dict[str, Any], folder: Path
) -> None:
    (sql,) = [code for language, code in FORMATS.code if language == "sql"]
    loss, delta, non_finite, saturated = (
        database.execute(query).fetchall() for query in sql.split(";") if query.strip()
    )
    show = answers["show"]
    assert len(loss) == show["steps"]
    norms = {int(site.partition("/")[2]): math.sqrt(square) for site, square in delta}
    profile = show["diagnosis"]["profile"]["delta"]
    assert [norms[i + 1] for i in range(len(norms))] == pytest.approx(profile)
    assert not non_finite
    assert all(0 <= share <= 1 for _, share in saturated)
    (shell,) = [code for language, code in FORMATS.code if language == "sh"]
    query = re.search(r'"(SELECT .*)"', shell)
    assert query is not None
    assert database.execute(query[1]).fetchall() == loss[:-6:-1]
    python, weights = [code for language, code in FORMATS.code if language == "python"]
    iris = load_iris()
    rows = [iris.feature_names, *iris.data.tolist()]
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    (folder / "new.csv").write_text(text, encoding="utf-8")
    namespace: dict[str, Any] = {}
    with chdir(folder):
        exec(weights, namespace)
        predicted = namespace["outputs"].argmax(axis=1)
        names = [namespace["trained"].preparation.classes[i] for i in predicted]
        assert names == answers["predict"]["predicted"]
        exec(python, namespace)
    assert len(namespace["telemetry"].records) == show["steps"]


def test_sites() -> None:
    kinds = [kind for row in FORMATS.tables["sites"] for kind in row["kinds"].split(", ")]
    assert {kind.strip("`") for kind in kinds} == set(KINDS)
