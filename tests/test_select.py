"""Which backend is taken."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import isograd
from isograd.backends import select
from isograd.errors import IsogradError


def test_what_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "available", lambda: None)
    assert select.choose("numpy") == "numpy"
    assert select.choose("native") == "native"
    monkeypatch.delenv(select.VARIABLE, raising=False)
    assert select.choose() == select.DEFAULT == "native"
    for default in ("numpy", "native"):
        monkeypatch.setenv(select.VARIABLE, default)
        assert select.choose() == default
    monkeypatch.setenv(select.VARIABLE, "numpi")
    with pytest.raises(IsogradError, match="a backend must be native or numpy"):
        select.choose()


def test_without_machine_code_the_interpreter_is_taken_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "available", lambda: "a reason")
    select._tell.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [select.choose("native") for _ in range(3)] == ["numpy"] * 3
        assert select.choose("numpy") == "numpy"
    assert [(w.category, str(w.message)) for w in told] == [
        (RuntimeWarning, f"{select.SLOWER}: a reason")
    ]


@pytest.mark.parametrize("name", ["", "llvm", "NumPy", 3])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(IsogradError, match="a backend must be native or numpy") as error:
        select.choose(name)
    assert error.value.came == repr(name)
    assert error.value.fix


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_both_run_the_same_graph(backend: select.Backend) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite")
    graph = isograd.trace(lambda x, y: (x * 2.0 + y, y), np.zeros(3), np.zeros(3))
    first, second = select.executable(graph, backend)(np.arange(3.0), np.ones(3))
    assert (first.tolist(), second.tolist()) == ([1.0, 3.0, 5.0], [1.0] * 3)


def test_pieces_without_native_code_run_and_that_is_said_once() -> None:
    """Half precision has no arithmetic in native code; what is around it has."""
    pytest.importorskip("llvmlite")

    def f(x: Any) -> Any:
        half = isograd.functions.astype(x, np.float16)
        return isograd.functions.astype(half * half, np.float64) + x

    x = np.array([1.0, 2.0, 1.0 + 2.0**-12])
    select._tell_of_pieces.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            result = select.executable(isograd.trace(f, x), "native")(x)
            np.testing.assert_array_equal(result, x + np.array([1.0, 4.0, 1.0]))
    assert [w.category for w in told] == [RuntimeWarning]
    assert "mul" in str(told[0].message)
