"""Steps in rounds, on every backend, against the same steps in a plain loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import same_bits

import isograd
from isograd import functions as F
from isograd.backends.select import Backend, scan
from isograd.engine.passes import optimise
from isograd.engine.tree import map_leaves
from isograd.errors import GraphError, ShapeError

BACKENDS: tuple[Backend, ...] = ("numpy", "native")
MATRIX = np.array([[0.5, -1.0, 0.25], [1.0, 0.5, -0.5], [0.0, 2.0, 1.0]])


def step(carry: Any, fixed: Any, each: Any) -> Any:
    """y ← M y + x; n ← n + 1. It stops where s is not finite."""
    (matrix,) = fixed
    y = matrix @ carry["y"] + each["x"]
    return {"y": y, "n": carry["n"] + 1}, (F.sum(y), y * each["s"]), each["s"]


def by_hand(carry: Any, each: Any) -> Any:
    """Carry, outs and the number of rounds that count, in dyadic numbers: nothing is rounded."""
    y, n, sums, scaled = carry["y"], carry["n"], [], []
    for x, s in zip(each["x"], each["s"], strict=True):
        after = np.array([sum(m * v for m, v in zip(row, y, strict=True)) for row in MATRIX]) + x
        sums.append(sum(after))
        with np.errstate(invalid="ignore"):
            scaled.append(after * s)
        if not np.isfinite(s):
            break
        y, n = after, n + 1
    taken = len(sums)
    return {"y": y, "n": n}, (np.array(sums).reshape(taken), np.reshape(scaled, (taken, 3))), n


def runner(backend: Backend, f: Any = step, like: Any = None) -> Any:
    if backend == "native":
        pytest.importorskip("llvmlite")
    carry = {"y": np.zeros(3), "n": np.zeros((), np.int64)}
    args = like or (carry, (MATRIX,), {"x": np.zeros(3), "s": np.float64(0)})
    return scan(optimise(isograd.trace(f, *args)).graph, backend)


def start(rounds: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(rounds)
    carry = {"y": rng.integers(-8, 8, 3) / 4.0, "n": np.zeros((), np.int64)}
    return carry, {"x": rng.integers(-8, 8, (rounds, 3)) / 2.0, "s": np.arange(1.0, rounds + 1)}


STOPS: list[tuple[int, dict[int, float]]] = [
    *((rounds, {}) for rounds in (0, 1, 2, 7)),
    *((1, {0: bad}) for bad in (np.nan, np.inf)),
    *((7, {at: bad}) for at in (0, 3, 6) for bad in (np.nan, -np.inf)),
    (7, {2: np.nan, 5: np.nan}),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rounds", "stops"), STOPS)
def test_rounds_are_those_of_a_loop(rounds: int, stops: dict[int, float], backend: Backend) -> None:
    carry, each = start(rounds)
    for at, bad in stops.items():
        each["s"][at] = bad
    want = by_hand(carry, each)
    got = runner(backend)(carry, (MATRIX,), each)
    assert got[2] == want[2] == min([rounds, *stops])
    assert same_bits(got[:2], want[:2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_arrays_given_and_got_stay_as_they_are(backend: Backend) -> None:
    run = runner(backend)
    (carry, each), fixed = start(5), (MATRIX.copy(),)
    each["s"][4] = np.nan
    given = carry, fixed, each
    before = map_leaves(np.array, given)
    first = run(*given)
    copies = map_leaves(np.array, first[:2])
    run(first[0], fixed, start(3)[1])
    assert same_bits(given, before)
    assert same_bits(first[:2], copies), "another call does not write over what this one gave"


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounds_in_pieces_are_the_same_rounds(backend: Backend) -> None:
    run = runner(backend)
    carry, each = start(9)
    whole, (sums, scaled), _ = run(carry, (MATRIX,), each)
    outs = []
    for a, b in ((0, 1), (1, 3), (3, 9)):
        carry, out, _ = run(carry, (MATRIX,), map_leaves(lambda x, a=a, b=b: x[a:b], each))
        outs.append(out)
    assert same_bits(carry, whole)
    assert same_bits(tuple(map(np.concatenate, zip(*outs, strict=True))), (sums, scaled))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_observer_sees_every_round(backend: Backend) -> None:
    seen: list[tuple[str, list[float]]] = []
    carry, each = start(4)
    each["s"][2] = np.inf

    def watched(carry: Any, fixed: Any, each: Any) -> Any:
        after, out, go = step(carry, fixed, each)
        return after | {"y": F.probe(after["y"], "y")}, out, go

    _, (sums, _), applied = runner(backend, watched)(
        carry, (MATRIX,), each, observe=lambda site, y: seen.append((site, y.tolist()))
    )
    assert applied == 2
    assert [site for site, _ in seen] == ["y"] * 3, "the one that ended them too"
    assert [sum(y) for _, y in seen] == sums.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_probes_that_nobody_watches_change_nothing(backend: Backend) -> None:
    carry, each = start(4)

    def watched(carry: Any, fixed: Any, each: Any) -> Any:
        after, out, go = step(carry, fixed, each)
        return after | {"y": F.probe(after["y"], "y")}, out, go

    got, want = (runner(backend, f)(carry, (MATRIX,), each) for f in (watched, step))
    assert got[2] == want[2] == 4
    assert same_bits(got[:2], want[:2])


# --- what is refused


def test_arguments_that_are_not_as_traced() -> None:
    run = runner("numpy")
    carry, each = start(3)
    wrong: tuple[tuple[str, Any], ...] = (
        ("`carry` must be nested", ([carry["y"], carry["n"]], (MATRIX,), each)),
        (r"array 1 of `carry` must be f64\[3\]", (carry | {"y": np.zeros(4)}, (MATRIX,), each)),
        (r"array 0 of `carry` must be i64\[\]", (carry | {"n": 0.5}, (MATRIX,), each)),
        (r"array 0 of `fixed`", (carry, (MATRIX[:2],), each)),
        ("`fixed` must be nested", (carry, MATRIX, each)),
        ("in each round", (carry, (MATRIX,), each | {"x": np.zeros((3, 2))})),
        ("one row per round", (carry, (MATRIX,), each | {"x": np.zeros((4, 3))})),
        ("one row per round", (carry, (MATRIX,), each | {"s": 1.0})),
    )
    for message, args in wrong:
        with pytest.raises(ShapeError, match=message) as error:
            run(*args)
        assert error.value.came


@pytest.mark.parametrize(
    ("f", "came"),
    [
        (lambda c, f, e: (c, f), "3 arguments and 2 results"),
        (lambda c, f, e: ({"y": c["y"]}, f, e["s"]), "nested otherwise"),
        (
            lambda c, f, e: ({**c, "n": c["n"] * 0.5}, f, e["s"]),
            "a carry of f64[] after one of i64[]",
        ),
        (lambda c, f, e: (c, f, e["x"]), "f64[3] as `go`"),
        (lambda c, f, e: (c, f, c["n"]), "i64[] as `go`"),
        (lambda c, f, e: (c, f, [e["s"]]), "f64[] as `go`"),
    ],
)
def test_functions_that_are_no_step_in_rounds(f: Any, came: str) -> None:
    with pytest.raises(GraphError, match="must map") as error:
        runner("numpy", f)
    assert came in error.value.came


def test_rounds_need_arguments_of_their_own() -> None:
    with pytest.raises(GraphError, match="must map") as error:
        runner("numpy", lambda c, f, e: (c, f, F.sum(c)), (np.zeros(3), np.zeros(3), ()))
    assert error.value.came == "nothing in `each`"
