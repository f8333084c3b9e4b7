"""Random graphs of every primitive as native programs, every value within the bound of its rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from native_values import check_program, fault_of
from random_graphs import every_argument, every_graph, gradient_graph

import isograd
from isograd.backends.llvm import jit, maths
from isograd.engine.graph import ArraySpec, Eqn, Graph, Var
from isograd.engine.ops import RULES, Op

F = isograd.functions
DTYPES = (np.float32, np.float64)


def held(seeds: range) -> tuple[Counter[Op], set[str]]:
    """Graphs and their gradients, checked; how often each primitive occurred, and what has no
    kernel."""
    met: Counter[Op] = Counter()
    without: set[str] = set()
    for seed in seeds:
        dtype = DTYPES[seed % 2]
        for make in (every_graph, gradient_graph):
            graph = make(seed, dtype)
            met.update(eqn.op for eqn in graph.eqns)
            try:
                without.update(check_program(graph, every_argument(seed, dtype)))
            except AssertionError as error:
                raise AssertionError(
                    f"{make.__name__}({seed}, {dtype.__name__}): {error}"
                ) from None
    return met, without


def test_random_graphs_and_their_gradients() -> None:
    met, without = held(range(100))
    assert not set(Op) - set(met), "the random graphs leave primitives out"
    assert not without


@pytest.mark.slow
def test_more_random_graphs() -> None:
    held(range(100, 1600))


# --- faults are seen


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is made anew, and kept nowhere."""
    codes = jit.Codes(None)
    monkeypatch.setattr(jit, "process", lambda: codes)


X = np.linspace(-1.0, 1.0, 9)
WRONG = {
    "another function": (Op.TANH, F.tanh, lambda x: x),
    "8 more units": (Op.EXP, F.exp, lambda x: maths.exp(x) * (1.0 + 16 * 2.0**-52)),
    "a sign": (Op.NEG, F.negative, lambda x: x),
    "NaN": (Op.LOG, F.log, lambda x: maths.log(abs(x))),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("op", "function", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_kernel_is_seen(
    op: Op, function: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = isograd.trace(function, X)
    check_program(graph, [X])
    monkeypatch.setitem(maths.ELEMENTWISE, op, wrong)
    codes = jit.Codes(None)
    monkeypatch.setattr(jit, "process", lambda: codes)
    with pytest.raises(AssertionError, match=op.value):
        check_program(graph, [X])


def equation(op: Op, *arrays: np.ndarray, **params: Any) -> tuple[Eqn, np.ndarray]:
    specs = [ArraySpec(a.shape, a.dtype) for a in arrays]
    out = RULES[op].shape(*specs, **params)
    with np.errstate(all="ignore"):
        value = np.asarray(RULES[op].eval(*arrays, **params))
    return Eqn(op, tuple(map(Var, specs)), params, Var(out)), value


SMALL = np.array([[1.0, 2.0, 3.0], [1e-3, np.inf, -5.0]])
FAULTS: dict[str, tuple[Op, tuple[np.ndarray, ...], dict[str, Any], float]] = {
    "a sum": (Op.SUM, (SMALL,), {"axes": (0,)}, 1e-14),
    "a product": (Op.MATMUL, (SMALL, SMALL.T.copy()), {}, 1e-13),
    "a row": (Op.LOG_SOFTMAX, (SMALL,), {"axis": 1}, 1e-12),
    "a row's sum": (Op.LOGSUMEXP, (SMALL,), {"axis": 1}, 1e-12),
    "a shifted number": (Op.PAD, (SMALL,), {"low": (1, 0), "high": (0, 0), "inner": (0, 0)}, 1e-15),
}


@pytest.mark.parametrize(("op", "arrays", "params", "error"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_value_is_seen(op: Op, arrays: Any, params: Any, error: float) -> None:
    eqn, right = equation(op, *arrays, **params)
    assert fault_of(eqn, list(arrays), right) is None
    for change in (lambda x: x + error, lambda x: np.nan, lambda x: -np.inf):
        wrong = right.copy()
        wrong.flat[0] = change(wrong.flat[0])
        assert fault_of(eqn, list(arrays), wrong) is not None
    assert fault_of(eqn, list(arrays), right.astype(np.float32)) is not None


def test_what_is_kept_does_not_change_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that it does not fails if it does."""
    import native_values

    real = native_values.Native

    class Other(real):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **keywords: Any) -> Any:
            out = super().__call__(*args, **keywords)
            return out if isinstance(out, tuple) else out + np.spacing(out)

    monkeypatch.setattr(native_values, "Native", Other)
    graph = isograd.trace(lambda x: F.exp(x) * 2.0, X)
    with pytest.raises(AssertionError):
        check_program(graph, [X])


def test_a_graph_without_equations() -> None:
    var = Var(ArraySpec((2,)))
    one = isograd.trace(lambda x: x, np.zeros(2))
    graph = Graph((var,), {}, (), (var,), one.in_tree, one.out_tree)
    assert check_program(replace(graph), [np.array([1.0, np.nan])]) == []
