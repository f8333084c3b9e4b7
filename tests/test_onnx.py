"""Exports, run by ONNX Runtime or read by NumPy, beside the network they were made from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optable import ELEMENTWISE, Row
from sklearn.datasets import load_iris

from isograd import fit, from_arrays, nn, predict
from isograd import functions as F
from isograd.adapters.npz import to_npz
from isograd.adapters.onnx import save, to_onnx, translate
from isograd.adapters.onnx_graph import open_graph
from isograd.adapters.onnx_ops import FORMS, FORMS64, NODES, NONE
from isograd.adapters.onnx_writer import OPSET, Writer
from isograd.engine.dispatch import apply
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op
from isograd.errors import GraphError, IsogradError, RunError, ShapeError
from isograd.nn import toml
from isograd.nn.model import Model
from isograd.nn.spec import ACTIVATION_NAMES, Layer
from isograd.report.predictions import predictions
from isograd.training.preparation import Preparation

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

ROWS = (1, 2, 7, 1000)
# Relative to the largest output. Float32: the runtime's Sigmoid is off by 2e-7 on a scale of 1.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Session:
    """A file in ONNX Runtime."""

    def __init__(self, content: bytes) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self.session = runtime.InferenceSession(content, options, providers=providers)

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"features": x}), strict=True))


def run(content: bytes, x: np.ndarray) -> dict[str, np.ndarray]:
    return Session(content)(x)


def parameters(model: Model, rng: np.random.Generator, dtype: Any) -> dict[str, np.ndarray]:
    """Parameters of which none is 0 or 1, and running variances that are positive."""
    out = {k: v + rng.normal(0, 0.1, v.shape) for k, v in model.init(rng, np.float64).items()}
    out |= {name: rng.uniform(0.5, 2.0, shape) for name, shape in model.statistics.items()}
    return {name: np.asarray(value, dtype) for name, value in out.items()}


def check(layers: tuple[Layer, ...], rng: np.random.Generator, dtype: Any) -> None:
    """Hold the file of a network against the network, at several numbers of rows."""
    model = nn.build(nn.Network(layers), 5)
    params = parameters(model, rng, dtype)
    session = Session(to_onnx(model, params, dtype=dtype))
    for n in ROWS:
        x = rng.normal(0.0, 2.0, (n, 5)).astype(dtype)
        wanted, found = predict(model, params, x), session(x)["output"]
        assert found.dtype == dtype
        tolerance = TOLERANCE[dtype] * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


# --- primitives


def test_every_primitive_has_one_form_or_a_reason_for_none() -> None:
    assert set(Op) == NODES.keys() | FORMS.keys() | NONE.keys()
    assert len(Op) == len(NODES) + len(FORMS) + len(NONE)
    assert FORMS64.keys() <= NODES.keys() | FORMS.keys()


TABLE = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -0.125]])


def export(function: Callable[..., Any], width: int, dtype: Any) -> bytes:
    """A function of rows (n, width), and of the table if it takes two arguments, as a file."""
    source = ArraySpec((1, width), dtype)
    arrays = {"table": ArraySpec(TABLE.shape)} if function.__code__.co_argcount == 2 else {}
    graph = open_graph(lambda arrays, x: {"output": function(x, *arrays.values())}, arrays, source)
    writer = Writer(onnx, "features", ("output", "table"))
    writer.tensor(TABLE, "table")
    translate(writer, graph)
    model = writer.model(source, {"output": graph.outputs["output"].spec})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


POINTS = [0.0, 1e-30, 1e-8, 1e-3, 0.3, 0.9, 1.0, 1.1, 2.0, 5.5, 8.0, 9.0, 20.0, 100.0, 800.0]
POINTS = [s * p for p in (*POINTS, np.inf) for s in (1.0, -1.0)] + [np.nan]
# What the runtime rounds on a scale of 1, not on that of the value.
ABSOLUTE = {(Op.LOGISTIC, np.float32), (Op.LOGISTIC, np.float64), (Op.ERFC, np.float32)}


@both_dtypes
@pytest.mark.parametrize(
    "row", [r for r in ELEMENTWISE if r.op not in NONE], ids=lambda r: r.op.value
)
@np.errstate(all="ignore")
def test_elementwise_primitives_at_special_points(row: Row, dtype: Any) -> None:
    """Against mpmath; arguments whose value is subnormal aside, which the runtime may lose."""
    assert row.scalar is not None
    arity = len(row.scalar.slopes)
    chosen = row.op is Op.SELECT

    def function(x: Any) -> Any:
        columns = [x[:, j : j + 1] for j in range(arity)]
        if chosen:
            columns[0] = columns[0] > 0.0
        return F.astype(apply(row.op, *columns), dtype)

    grids = np.meshgrid(*([np.asarray(POINTS, dtype)] * min(arity, 2)))
    x = np.stack([g.ravel() for g in grids], axis=1)
    x = np.hstack([x, -x[:, :1]])[:, :arity]
    found = run(export(function, arity, dtype), x)["output"][:, 0]
    values = [[bool(v[0] > 0.0), *v[1:]] if chosen else v for v in x.astype(float).tolist()]
    wanted = np.array([float(row.scalar.value(*v)) for v in values]).astype(dtype)
    info = np.finfo(dtype)
    rtol = 1000 * info.eps if row.op in (Op.ERFC, Op.POW) else 8 * info.eps
    atol = 2 * info.eps if (row.op, dtype) in ABSOLUTE else info.smallest_normal
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


OTHERS: dict[str, tuple[Callable[..., Any], Callable[[np.ndarray], np.ndarray]]] = {
    "sum": (lambda x: F.sum(x, 1, keepdims=True), lambda x: x.sum(1, keepdims=True)),
    "sum of several axes": (
        lambda x: F.sum(x.reshape((-1, 2, 3)), (1, 2)),
        lambda x: x.sum(1),
    ),
    "count": (lambda x: F.sum(x > 0.0, 1), lambda x: (x > 0).sum(1)),
    "max": (lambda x: F.max(x, 1), lambda x: x.max(1)),
    "matmul": (lambda x, t: F.matmul(x[:, :2], t), lambda x: x[:, :2] @ TABLE),
    "matmul of stacks": (
        lambda x, t: F.matmul(F.transpose(t), x.reshape((-1, 2, 3))),
        lambda x: np.einsum("ji,njk->nik", TABLE, x.reshape(-1, 2, 3)),
    ),
    "transpose": (
        lambda x: F.transpose(x.reshape((-1, 2, 3)), (0, 2, 1)),
        lambda x: x.reshape(-1, 2, 3).swapaxes(1, 2),
    ),
    "rows in columns and back": (
        lambda x: F.transpose(F.reshape(F.transpose(x), (-1,)).reshape((6, -1))),
        lambda x: x,
    ),
    "broadcast": (
        lambda x, t: F.concatenate([x, F.broadcast_to(t[0], (x.shape[0], 3))], 1),
        lambda x: np.hstack([x, np.tile(TABLE[0], (len(x), 1))]),
    ),
    "slice": (lambda x: x[:, 1:6:2], lambda x: x[:, 1:6:2]),
    "reversed": (lambda x: x[:, ::-1], lambda x: x[:, ::-1]),
    "take": (
        lambda x: F.take(x, np.array([[5, -1], [0, 2]]), 1),
        lambda x: x[:, [[5, -1], [0, 2]]],
    ),
    "cast": (lambda x: F.astype(x * 3.0, np.int64), lambda x: np.trunc(x * 3).astype(np.int64)),
    "two broadcasts": (
        lambda x, t: x + F.broadcast_to(t[0, :1], (6,)) * F.broadcast_to(t[1, :1], (6,)),
        lambda x: x + 1.5,
    ),
    "logsumexp": (
        lambda x: F.logsumexp(300.0 * x, 1),
        lambda x: np.logaddexp.reduce(300.0 * x, 1),
    ),
    "log_softmax": (
        lambda x: F.log_softmax(300.0 * x),
        lambda x: 300.0 * x - np.logaddexp.reduce(300.0 * x, 1)[:, None],
    ),
    "stop_gradient": (lambda x: F.stop_gradient(x), lambda x: x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_primitives_that_are_not_elementwise(name: str, rng: np.random.Generator) -> None:
    function, reference = OTHERS[name]
    session = Session(export(function, 6, np.float64))
    for n in ROWS[:3]:
        x = rng.normal(size=(n, 6))
        found, wanted = session(x)["output"], reference(x)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_logsumexp_of_infinities() -> None:
    x = np.array([[-np.inf, 1.0], [-np.inf, -np.inf], [np.inf, 0.0], [np.nan, 0.0]])
    found = run(export(lambda x: F.logsumexp(x, 1), 2, np.float64), x)["output"]
    np.testing.assert_array_equal(found, [1.0, -np.inf, np.inf, np.nan])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - F.mean(x, 0, keepdims=True),
        lambda x: x[:2],
        lambda x: x[x.shape[0] // 2 :],
        lambda x: F.take(x, np.arange(x.shape[0] - 1, -1, -1)),
        lambda x: F.sum(x, 0),
    ],
    ids=["mean", "first rows", "second half", "reversed rows", "sum"],
)
def test_what_depends_on_the_other_rows_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(GraphError, match="whatever the number of rows"):
        export(function, 3, np.float64)


def test_a_primitive_without_a_form_is_refused() -> None:
    def padded(x: Any) -> Any:
        return apply(Op.PAD, x, low=(0, 1), high=(0, 0), inner=(0, 0))

    with pytest.raises(GraphError, match=r"form in ONNX\n  came:  pad \(it is the derivative"):
        export(padded, 3, np.float64)


# --- networks


@both_dtypes
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_networks_of_every_activation(name: str, dtype: Any, rng: np.random.Generator) -> None:
    layers = (nn.Dense(8), nn.Activation(name), nn.Dense(8, bias=False), nn.Activation(name))
    check((*layers, nn.Dense(3)), rng, dtype)


LAYERS: dict[str, tuple[Layer, ...]] = {
    "learned": (nn.Activation("swish", learned=True), nn.Activation("elu", alpha=0.3)),
    "layer_norm": (nn.LayerNorm(),),
    "rms_norm": (nn.RMSNorm(),),
    "batch_norm": (nn.BatchNorm(),),
    "dropout": (nn.Dropout(),),
    "scale": (nn.Scale(0.3), nn.Scale(2.0, learned=False)),
    "residual": (
        nn.Residual((nn.BatchNorm(), nn.Activation("relu"), nn.Dense(8), nn.Scale(0.5))),
        nn.Residual((nn.Residual((nn.Activation("tanh"),)), nn.Dense(8))),
    ),
    "one unit": (nn.Dense(1, bias=False), nn.RMSNorm(), nn.Scale(0.3), nn.Dense(1), nn.LayerNorm()),
}


@both_dtypes
@pytest.mark.parametrize("name", LAYERS)
def test_networks_of_every_layer(name: str, dtype: Any, rng: np.random.Generator) -> None:
    check((nn.Dense(8), *LAYERS[name], nn.Dense(3)), rng, dtype)


def layers(width: int) -> st.SearchStrategy[Layer]:
    """Layers that keep the number of features."""
    plain = st.one_of(
        st.sampled_from(ACTIVATION_NAMES).map(nn.Activation),
        st.builds(nn.Dense, st.just(width), st.booleans()),
        st.sampled_from([nn.LayerNorm(), nn.RMSNorm(), nn.BatchNorm(), nn.Scale(0.7)]),
    )
    return st.recursive(
        plain, lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple).map(nn.Residual)
    )


@given(data=st.data(), width=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_random_networks(data: Any, width: int, seed: int) -> None:
    inner = data.draw(st.lists(layers(width), max_size=5))
    check((nn.Dense(width), *inner, nn.Dense(2)), np.random.default_rng(seed), np.float64)


def test_a_primitive_with_a_wrong_node_is_seen(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    network = (nn.Dense(8), nn.Activation("tanh"), nn.Dense(3))
    check(network, rng, np.float64)
    monkeypatch.setitem(NODES, Op.TANH, NODES[Op.SIN])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(network, rng, np.float64)


def test_a_network_of_a_thousand_layers(rng: np.random.Generator) -> None:
    block = (nn.Residual((nn.Dense(4), nn.Activation("tanh"), nn.Scale(0.05))),)
    check((nn.Dense(4), nn.Repeat(1000, block), nn.Dense(2)), rng, np.float32)


# --- what goes with a network

FEATURES, CLASSES = ("länge", "breite", "höhe"), ("ja", "nein, nie", "名")
MOMENTS: dict[str, Any] = {
    "features": FEATURES,
    "mean": (1.0, 1e6, -3.0),
    "scale": (0.5, 1e3, 1.0),
    "fill": (1.5, 1e6, -2.0),
}


def raw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features with some missing, and the inputs that they become."""
    mean, scale, fill = (np.array(MOMENTS[name]) for name in ("mean", "scale", "fill"))
    x = mean + scale * rng.normal(size=(40, 3))
    x[rng.random(x.shape) < 0.2] = np.nan
    return x, (np.where(np.isnan(x), fill, x) - mean) / scale


@both_dtypes
@pytest.mark.parametrize("kind", ["classes", "binary", "binary, probabilities", "regression"])
def test_a_file_takes_raw_features(kind: str, dtype: Any, rng: np.random.Generator) -> None:
    last: tuple[Layer, ...] = ()
    if kind == "classes":
        loss, outputs, labels = nn.SoftmaxCrossEntropy(), 3, CLASSES
    elif kind == "regression":
        loss, outputs, labels = nn.HalfSquaredError(), 2, None
    elif kind == "binary":
        loss, outputs, labels = nn.BinaryCrossEntropy(), 1, CLASSES[:2]
    else:
        loss, outputs, labels = nn.BinaryCrossEntropy(inputs="probabilities"), 1, CLASSES[:2]
        last = (nn.Activation("logistic"),)
    network = nn.Network((nn.Dense(4), nn.Activation("tanh"), nn.Dense(outputs), *last), loss=loss)
    model = nn.build(network, 3, outputs)
    y_mean, y_scale = ((5.0, -300.0), (2.0, 100.0)) if labels is None else (None, None)
    task: Any = kind.partition(",")[0]
    preparation = Preparation(task, classes=labels, y_mean=y_mean, y_scale=y_scale, **MOMENTS)
    params = parameters(model, rng, dtype)
    x, inputs = raw(rng)
    content = to_onnx(model, params, preparation, dtype=dtype)
    found = run(content, x)

    z = predict(model, params, inputs.astype(dtype)).astype(np.float64)
    wanted = {"output": z}
    if kind == "classes":
        wanted["probabilities"] = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    elif kind == "regression":
        wanted["output"] = z * y_scale + y_mean
        assert found["output"].dtype == np.float64
    else:
        p = 1.0 / (1.0 + np.exp(-z)) if kind == "binary" else z
        wanted["probabilities"] = np.hstack([1.0 - p, p])
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCE[dtype] * scale)
    properties = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
    assert properties["task"] == task
    assert json.loads(properties["features"]) == list(FEATURES)
    assert json.loads(properties["classes"]) == (labels and list(labels))


def test_a_person_finds_the_layers(rng: np.random.Generator) -> None:
    """Parameters and values have the names of their sites; the number of rows is open."""
    network = nn.Network(
        (nn.Dense(4), nn.Activation("gelu"), nn.BatchNorm(), nn.Residual((nn.Dense(4),)))
    )
    model = nn.build(network, 3)
    params = parameters(model, rng, np.float32)
    content = onnx.load_from_string(to_onnx(model, params, dtype=np.float32))
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in content.graph.initializer}
    assert {"W/1", "b/1", "g/1", "h/1", "W/2", "b/2"} <= params.keys()
    for name, array in params.items():
        np.testing.assert_array_equal(tensors[name], array)
    values = [name for node in content.graph.node for name in node.output]
    assert len(values) == len(set(values) | tensors.keys()) - len(tensors)
    assert {"z/1", "a/1", "n/1", "z/2", "r/2"} <= set(values)
    ends = [*content.graph.input, *content.graph.output]
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in ends]
    assert dims == [["n", 3], ["n", 4], ["n", 4]]
    assert [o.version for o in content.opset_import] == [OPSET]
    assert (content.producer_name, content.ir_version) == ("isograd", 8)
    kinds = {node.op_type for node in content.graph.node}
    assert not kinds & {"Expand", "Shape", "Softplus"}


def small() -> tuple[Model, dict[str, np.ndarray]]:
    model = nn.build(nn.Network((nn.Dense(2),)), 3)
    return model, {"W/1": np.ones((2, 3), np.float32), "b/1": np.zeros(2, np.float32)}


def test_parameters_of_another_network_are_refused() -> None:
    model, params = small()
    preparation = Preparation("classes", ("a",), (0.0,), (1.0,), ("x", "y"))
    for wrong, came, prepared in (
        ({"W/1": params["W/1"]}, "b/1 is missing", None),
        ({**params, "c/1": np.ones(())}, "c/1 is none of them", None),
        ({**params, "b/1": np.ones(3)}, r"b/1 of shape \(3,\), not \(2,\)", None),
        (params, "1 features, not 3", preparation),
    ):
        with pytest.raises(ShapeError, match=came):
            to_onnx(model, wrong, prepared, dtype=np.float32)
    with pytest.raises(IsogradError, match="dtype must be float32 or float64"):
        to_onnx(model, params, dtype=np.float16)


def test_a_file_beyond_two_gibibytes_is_refused() -> None:
    n = 30_000
    model = nn.build(nn.Network((nn.Dense(n, bias=False),)), n)
    weights = np.broadcast_to(np.float32(0), (n, n))  # of one element in memory
    with pytest.raises(IsogradError, match=r"(?s)smaller than 2 GiB.*3\.4 GiB.*npz"):
        to_onnx(model, {"W/1": weights}, dtype=np.float32)


def test_without_onnx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnx.checker"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(IsogradError, match=r"pip install isograd\[onnx\]"):
        to_onnx(*small(), dtype=np.float32)


# --- files


def test_a_saved_file_is_the_model_and_the_same_each_time(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx", *small(), dtype=np.float32)
    assert (tmp_path / "a.onnx").read_bytes() == to_onnx(*small(), dtype=np.float32)
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_array_equal(run((tmp_path / "a.onnx").read_bytes(), x)["output"], [[6, 6]])


def test_npz_is_read_by_numpy_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    network = nn.Network((nn.Dense(4), nn.BatchNorm(), nn.Scale(0.5), nn.Dense(3)))
    spec = nn.Spec(nn.Data("iris"), network)
    params = parameters(nn.build(network, 3), rng, np.float32)
    preparation = Preparation("classes", classes=CLASSES, **MOMENTS)
    to_npz(tmp_path / "größe.bin", params, preparation, toml=toml.dumps(spec))
    with np.load(tmp_path / "größe.bin", allow_pickle=False) as file:
        arrays = dict(file)
    assert {k for k in arrays if "/" in k and not k.startswith("preparation")} == params.keys()
    for name, array in params.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
    assert toml.loads(str(arrays["spec"])) == spec
    assert tuple(arrays["preparation/classes"].tolist()) == CLASSES
    assert arrays["preparation/task"].item() == "classes"
    assert tuple(arrays["preparation/fill"].tolist()) == MOMENTS["fill"]
    assert "preparation/y_mean" not in arrays


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, params = small()
    with pytest.raises(RunError, match=r"(?s)a file must be writable.*No such file"):
        to_npz(tmp_path / "nowhere" / "a.npz", params)
    to_npz(tmp_path / "a.npz", params)
    before = (tmp_path / "a.npz").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        to_npz(tmp_path / "a.npz", {"W/1": np.ones(5)})
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_trained_network_answers_raw_rows_as_it_does_prepared_ones() -> None:
    bunch = load_iris()
    names = np.array(bunch.target_names)
    split = from_arrays(bunch.data, names[bunch.target], loss_kind="softmax_cross_entropy")
    network = nn.Network((nn.Dense(8), nn.BatchNorm(), nn.Activation("gelu"), nn.Dense(3)))
    outcome = fit(nn.Spec(nn.Data("arrays"), network, training=nn.Training(epochs=5)), split)
    model, params = outcome.model, outcome.params
    told = predictions(model, params, split.preparation, split.X_test, split.y_test)
    found = run(to_onnx(model, params, split.preparation, dtype=np.float32), bunch.data)
    raw_class = names[found["probabilities"].argmax(axis=1)]
    prepared = ((bunch.data - split.mean) / split.scale).astype(np.float32)
    rows = [int(np.flatnonzero((prepared == row).all(axis=1))[0]) for row in split.X_test]
    assert raw_class[rows].tolist() == told.predicted.tolist()
    assert told.score is not None
    assert told.score.accuracy > 0.5
    assert told.probabilities is not None
    np.testing.assert_allclose(found["probabilities"][rows], told.probabilities, atol=1e-6)
