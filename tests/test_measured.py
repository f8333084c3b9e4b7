"""Steps that are measured natively, in shards, against summaries of what observers see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import isograd
from isograd.nn import Activation, Adam, BatchNorm, Dense, He, Network, Repeat, Training, build
from isograd.optim.rules import optimiser
from isograd.telemetry.summary import Summary
from isograd.training.step import Layout, Step, compile_step

pytest.importorskip("llvmlite")

LAYERS = {
    "relu": (Repeat(3, (Dense(33), Activation("relu"))), Dense(10)),
    "batch norm": (Dense(20, bias=False), BatchNorm(), Activation("tanh"), Dense(10)),
}


def compiled(layers: Any, dtype: Any, **options: Any) -> tuple[Step, Any, Any, Any]:
    rng = np.random.default_rng(0)
    model = build(Network(layers, init=He()), 12, 10)
    layout, rule = Layout(model.shapes), optimiser(Adam(), Training())
    x, y = rng.standard_normal((50, 12)).astype(dtype), rng.integers(0, 10, 50)
    x[3] = np.inf  # in the rows of the second round alone
    specs = (isograd.ArraySpec(a.shape, a.dtype) for a in (x, y))
    key = np.zeros(2, np.uint32)
    step = compile_step(model, rule, layout, *specs, 19, key, active=model.active, **options)
    params = model.init(rng, dtype)
    statistics = {name: params[name] for name in model.statistics}
    rows = np.array([np.arange(4, 23), np.arange(19), np.arange(4, 23)])
    each = rows, np.full(3, 0.01, dtype), np.arange(3, dtype=np.uint32)
    return step, (layout.join(params), step.state, statistics), (x, y), each


def close(got: Summary, want: Summary, tolerance: float) -> None:
    """Counts to the last; what depends on the order of sums to a share of the size."""
    assert got.count == want.count
    assert (got.nans, got.pos_infs, got.neg_infs) == (want.nans, want.pos_infs, want.neg_infs)
    size = tolerance * max(want.max_abs, 1e-30)
    for name in ("mean", "std", "min", "max", "max_abs"):
        mine, theirs = getattr(got, name), getattr(want, name)
        assert mine == pytest.approx(theirs, rel=tolerance, abs=size), name
    assert sum(got.exponents.counts) + got.zeros + got.nonfinite == got.count
    assert (got.units_off is None) == (want.units_off is None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_every_site_in_every_round(layers: Any, threads: int, dtype: Any) -> None:
    native, *args = compiled(layers, dtype, backend="native", threads=threads)
    reference, *_ = compiled(layers, dtype, backend="numpy")
    with np.errstate(all="ignore"):
        _, _, applied, want = reference.measured(*args)
    _, _, ours, got = native.measured(*args)
    assert ours == applied == 1  # the second is not applied, and is measured
    assert len(got) == len(want) == 2
    tolerance = 2e4 * float(np.finfo(dtype).eps)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys()
        for site, summary in theirs.items():
            # A step of Adam turns roundings of a small gradient into steps of the rate.
            if not site.kind.startswith("u"):
                close(mine[site], summary, tolerance)


@pytest.mark.parametrize("threads", [1, 2])
def test_measuring_does_not_change_a_bit(threads: int) -> None:
    step, carry, fixed, each = compiled(
        LAYERS["relu"], np.float32, backend="native", threads=threads
    )
    each = tuple(a[::2] for a in each)
    (theta, *_), out, applied = step.bare(carry, fixed, each)
    (same, *_), same_out, same_applied, _ = step.measured(carry, fixed, each)
    assert applied == same_applied == 2
    np.testing.assert_array_equal(theta, same)
    for a, b in zip(out, same_out, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_shard_that_is_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isograd.telemetry.measured.merge_summaries", lambda a, b: a)
    with pytest.raises(AssertionError):
        test_every_site_in_every_round(LAYERS["relu"], 2, np.float32)
