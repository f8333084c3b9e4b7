"""The graph, its printer, its validity table, and how a trace makes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import same_bits
from random_graphs import random_graph

import isograd
from isograd.engine.check import CHECKS, check
from isograd.engine.graph import ArraySpec, Eqn, Graph, Var
from isograd.engine.ops import Op
from isograd.engine.trace import evaluate
from isograd.engine.tree import LEAF, flatten, map_leaves, unflatten
from isograd.errors import GraphError, ShapeError

F = isograd.functions
trace = isograd.trace
SCALAR, VECTOR = ArraySpec(()), ArraySpec((3,))

# --- specs


def test_a_spec_takes_what_numpy_calls_a_dtype() -> None:
    spec = ArraySpec([2, 3], np.float32)
    assert spec == ArraySpec((2, 3), "float32") == ArraySpec((2, 3), np.dtype("f4"))
    assert hash(spec) == hash(ArraySpec((2, 3), "f4"))
    assert (str(spec), spec.size, spec.nbytes, spec.differentiable) == ("f32[2,3]", 6, 24, True)
    assert ArraySpec(()).dtype == np.float64
    assert not ArraySpec((0,), np.int64).differentiable
    assert ArraySpec((0, 5)).size == 0


# --- the printer


def test_a_graph_prints_as_its_equations() -> None:
    def f(x: Any, p: dict[str, Any]) -> Any:
        h = F.probe(x @ p["w"], "layer 1 z", "layer 1 δ")
        return F.sum(h, axis=1), h * 2.0

    graph = trace(f, ArraySpec((4, 3), np.float32), {"w": ArraySpec((3, 2), np.float32)})
    assert str(graph).splitlines() == [
        "graph(x0: f32[4,3], x1: f32[3,2])",
        "  c0: f32[] = const 2.0",
        "  v0: f32[4,2] = matmul x0 x1",
        "  v1: f32[4,2] = probe[site='layer 1 z', cotangent='layer 1 δ'] v0",
        "  v2: f32[4] = sum[axes=(1,)] v1",
        "  v3: f32[4,2] = broadcast[shape=(4,2)] c0",
        "  v4: f32[4,2] = mul v1 v3",
        "  return v2, v4",
    ]
    assert graph.op_counts[Op.MUL] == 1
    assert graph.matmul_flops == 2 * 4 * 3 * 2


def test_casts_and_array_constants_print() -> None:
    graph = trace(lambda x: F.astype(x, np.float64) + np.arange(3.0), ArraySpec((3,), np.float32))
    assert "cast[dtype=float64] x0" in str(graph)
    assert "c0: f64[3] = const array" in str(graph)


# --- the validity table


def _valid() -> Graph:
    return trace(lambda x, y: (F.tanh(x) + y) * 2.0, VECTOR, VECTOR)


def _reassigned(graph: Graph) -> Graph:
    return replace(graph, eqns=(*graph.eqns, graph.eqns[-1]))


def _input_assigned(graph: Graph) -> Graph:
    return replace(graph, eqns=(replace(graph.eqns[0], output=graph.inputs[1]), *graph.eqns[1:]))


def _read_too_early(graph: Graph) -> Graph:
    return replace(graph, eqns=graph.eqns[::-1])


def _never_assigned(graph: Graph) -> Graph:
    return replace(graph, outputs=(Var(VECTOR),))


def _redeclared(graph: Graph, spec: ArraySpec) -> Graph:
    last = replace(graph.eqns[-1], output=Var(spec))
    return replace(graph, eqns=(*graph.eqns[:-1], last), outputs=(last.output,))


def _wrong_spec(graph: Graph) -> Graph:
    return _redeclared(graph, ArraySpec((4,)))


def _wrong_dtype(graph: Graph) -> Graph:
    return _redeclared(graph, ArraySpec((3,), np.float32))


def _shapes_that_do_not_meet(graph: Graph) -> Graph:
    x, y = Var(VECTOR), Var(ArraySpec((4,)))
    eqn = Eqn(Op.ADD, (x, y), {}, Var(VECTOR))
    return Graph((x, y), {}, (eqn,), (eqn.output,), flatten((0, 0))[1])


def _wrong_arity(graph: Graph) -> Graph:
    eqn = Eqn(Op.MATMUL, graph.inputs[:1], {}, Var(VECTOR))
    return replace(graph, eqns=(eqn,), outputs=(eqn.output,))


def _missing_params(graph: Graph) -> Graph:
    eqn = Eqn(Op.SUM, graph.inputs[:1], {}, Var(SCALAR))
    return replace(graph, eqns=(eqn,), outputs=(eqn.output,))


def _wrong_constant(graph: Graph) -> Graph:
    return replace(graph, constants={v: np.zeros(5) for v in graph.constants})


def _wrong_nesting(graph: Graph) -> Graph:
    return replace(graph, out_tree=flatten((0, 0))[1])


BROKEN: tuple[tuple[Callable[[Graph], Graph], str, str], ...] = (
    (_reassigned, "assigned once", "assigns a variable again"),
    (_input_assigned, "assigned once", "equation 0 assigns a variable again"),
    (_read_too_early, "before it is read", "reads argument"),
    (_never_assigned, "before it is read", "output 0 is never assigned"),
    (_wrong_spec, "follow the rules", "declared f64[4] where its rule gives f64[3]"),
    (_wrong_dtype, "follow the rules", "declared f32[3] where its rule gives f64[3]"),
    (_shapes_that_do_not_meet, "follow the rules", "f64[3], f64[4]"),
    (_wrong_arity, "follow the rules", "does not fit its rule"),
    (_missing_params, "follow the rules", "does not fit its rule"),
    (_wrong_constant, "hold what it declares", "constant 0 is declared f64[]"),
    (_wrong_nesting, "fill their nesting", "1 outputs for a nesting of 2 leaves"),
)


@pytest.mark.parametrize(
    ("breaks", "must", "came"), BROKEN, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_broken_graph_is_refused(breaks: Any, must: str, came: str) -> None:
    with pytest.raises(GraphError) as caught:
        check(breaks(_valid()))
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.fix


def test_every_check_has_a_broken_graph() -> None:
    for name, _ in CHECKS:
        assert any(must in name for _, must, _ in BROKEN), name


def test_traces_are_valid() -> None:
    assert check(graph := _valid()) is graph
    for seed in range(50):
        check(random_graph(seed, np.float32))


# --- the trace


def test_a_traced_function_runs_once_and_for_every_value() -> None:
    calls = []

    def f(x: Any, y: Any) -> Any:
        calls.append(1)
        return {"sum": x + y, "both": (x, [y, None])}

    graph = trace(f, VECTOR, np.zeros(3))
    x, y = np.arange(3.0), np.array([1.0, np.nan, np.inf])
    assert same_bits(evaluate(graph, x, y), {"sum": x + y, "both": (x, [y, None])})
    assert len(calls) == 1


def test_the_order_of_a_dict_is_of_no_account() -> None:
    graph = trace(lambda p: {"z": p["b"], "a": p["a"]}, {"a": SCALAR, "b": VECTOR})
    out = evaluate(graph, {"b": np.ones(3), "a": np.zeros(())})
    assert list(out) == ["z", "a"]
    np.testing.assert_array_equal(out["z"], np.ones(3))
    p = {"b": 2.0, "a": 3.0}
    tangent = isograd.jvp(lambda p: p["a"] * p["b"], (p,), ({"a": 1.0, "b": 0.0},))[1]
    assert tangent == 2.0
    assert list(isograd.grad(lambda p: p["a"] * p["b"])(p)) == ["b", "a"]


def test_constants_are_held_as_they_were() -> None:
    w = np.array([1.0, 2.0, 3.0])
    graph = trace(lambda x: (x + w, w), VECTOR)
    w[:] = 0.0
    out, constant = evaluate(graph, np.zeros(3))
    np.testing.assert_array_equal(out, [1, 2, 3])
    with pytest.raises(ValueError, match="read-only"):
        constant[0] = 7.0


def test_one_array_is_one_constant_and_a_repeated_number_is_a_scalar() -> None:
    w = np.arange(3.0)
    graph = trace(lambda x: (x + w) * w + np.broadcast_to(2.0, 3), VECTOR)
    assert sorted(a.shape for a in graph.constants.values()) == [(), (3,)]


@pytest.mark.parametrize(
    "result",
    [np.broadcast_to(2.0, (2, 3)), 3.0, np.float32(1), np.arange(3)],
    ids=["broadcast", "float", "scalar", "array"],
)
def test_a_constant_may_be_the_result(result: Any) -> None:
    graph = check(trace(lambda x: result, SCALAR))
    assert same_bits(evaluate(graph, np.float64(0)), np.asarray(result))


def test_what_cannot_be_traced_is_refused() -> None:
    def branch(x: Any) -> Any:
        return x if x > 0 else -x

    for f, spec in (
        (branch, SCALAR),
        (lambda x: x.item(), SCALAR),
        (lambda x: [x] * int(x), SCALAR),
        (lambda x: [1, 2, 3][x], ArraySpec((), np.int64)),
    ):
        with pytest.raises(GraphError, match="static mode must not depend on the value") as caught:
            trace(f, spec)
        assert "where" in caught.value.fix
    with pytest.raises(GraphError, match="must return arrays") as caught:
        trace(lambda x: "x", SCALAR)
    assert "str" in caught.value.came
    with pytest.raises(GraphError, match="must not turn its arrays into NumPy"):
        trace(lambda x: np.asarray(x), VECTOR)
    with pytest.raises(GraphError, match="around the trace"):
        isograd.grad(lambda x: evaluate(trace(lambda y: x * y, SCALAR), x))(1.0)


def test_shapes_that_do_not_meet_name_the_equation() -> None:
    with pytest.raises(ShapeError) as caught:
        trace(lambda x, y: F.concatenate([F.tanh(x), y], axis=0), ArraySpec((2, 3)), VECTOR)
    assert caught.value.where == "equation 1 (concatenate)"


def test_arguments_are_held_to_the_specs() -> None:
    graph = trace(lambda p: p["a"] + p["b"], {"a": VECTOR, "b": VECTOR})
    ones = np.ones(3)
    for bad, text in (
        ({"a": ones}, "nested as those"),
        ({"a": ones, "b": ones[:2]}, "input 1 of the graph must be f64[3]"),
        ({"a": ones.astype(np.float32), "b": ones}, "input 0 of the graph must be f64[3]"),
    ):
        with pytest.raises(ShapeError) as caught:
            evaluate(graph, bad)
        assert text in caught.value.must


# --- nested containers


def test_trees_come_back_as_they_were() -> None:
    tree = {"b": [1, (2, None)], "a": {}, 3: (4,)}
    leaves, structure = flatten(tree)
    assert structure.leaves == len(leaves) == 3
    assert unflatten(structure, leaves) == tree
    assert list(unflatten(structure, leaves)) == list(tree)
    assert flatten(1.0) == ([1.0], LEAF)
    assert flatten({"a": 1, "b": 2}) == flatten({"b": 2, "a": 1})
    assert flatten({"a": 1})[1] != flatten({"b": 1})[1]
    assert flatten([1])[1] != flatten((1,))[1]
    assert flatten({Op.ADD: 1, Op.MUL: 2, "a": 3}) == flatten({"a": 3, Op.MUL: 2, Op.ADD: 1})
    assert map_leaves(lambda a, b: a + b, {"a": 1, "b": 2}, {"b": 20, "a": 10}) == {
        "a": 11,
        "b": 22,
    }
    with pytest.raises(ValueError, match="same structure"):
        map_leaves(lambda a, b: a, [1], [1, 2])
