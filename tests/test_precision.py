"""The precision plan: its choices against real rounding of the arrays of training steps."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import ml_dtypes
import numpy as np
import pytest

from isograd.backends.numpy import Executable
from isograd.diagnosis.precision import epsilon_in, precision_plan, tensors
from isograd.engine.graph import ArraySpec
from isograd.engine.number_formats import FORMATS
from isograd.engine.plan import plan as order
from isograd.errors import IsogradError, TheoryError
from isograd.nn.model import build
from isograd.nn.spec import (
    Activation,
    BatchNorm,
    Dense,
    He,
    Network,
    Residual,
    SoftmaxCrossEntropy,
    Xavier,
)
from isograd.optim import rules
from isograd.telemetry.records import Site
from isograd.telemetry.summary import Summary
from isograd.theory.magnitudes import sizes
from isograd.theory.precision import FRACTION_BITS, HARMFUL, PrecisionPlan, plan
from isograd.theory.tensors import Tensor, below_range, share_table
from isograd.theory.updates import rounded_away

DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp32": np.float32,
    "fp64": np.float64,
}


def chain(depth: int, act: str, init=None, extra: tuple = ()) -> Network:
    body: list = []
    for _ in range(depth - 1):
        body += [Dense(units=32), *extra, Activation(act)]
    return Network((*body, Dense(units=5)), init=init or Xavier(), loss=SoftmaxCrossEntropy())


def measured(network: Network, rule, lr: float, rows: int = 48):
    """The arrays at every site of a first step, by the interpreter."""
    from isograd.training.step import Layout, trace_step

    model = build(network, 12)
    layout = Layout(model.shapes)
    rng = np.random.default_rng(0)
    params = model.init(rng, np.float32)
    x = rng.standard_normal((rows, 12)).astype(np.float32)
    y = rng.integers(0, 5, rows)
    specs = (ArraySpec(a.shape, a.dtype) for a in (x, y))
    key = np.array([0, 1], np.uint32)
    run = Executable(order(trace_step(model, rule, layout, *specs, rows, key)))
    theta = np.asarray(layout.join(params))
    state = rule.init(np.zeros(layout.size, np.float32))
    statistics = {name: params[name] for name in model.statistics}
    seen: dict[str, np.ndarray] = {}
    run(
        (theta, state, statistics),
        (x, y),
        (np.arange(rows), np.float32(lr), np.uint32(0)),
        observe=lambda site, v: seen.__setitem__(site, np.array(v, np.float64)),
    )
    summaries = {Site.parse(site): Summary.of(v) for site, v in seen.items()}
    return model, seen, summaries


NETWORKS = {
    "sigmoid 30": (chain(30, "logistic"), rules.sgd(), 0.1),
    "sigmoid 8": (chain(8, "logistic"), rules.sgd(), 0.1),
    "relu 10": (chain(10, "relu", He()), rules.adam(0.9, 0.999, 1e-8), 1e-3),
    "relu 40": (chain(40, "relu", He()), rules.adam(0.9, 0.999, 1e-8), 1e-3),
    "tanh 4": (chain(4, "tanh"), rules.momentum(0.9), 1e-2),
    "norm 6": (chain(6, "relu", He(), (BatchNorm(),)), rules.sgd(), 1e-2),
    "skip": (
        Network(
            (Dense(units=32), *[Residual((Dense(units=32), Activation("tanh")))] * 5, Dense(5)),
            init=Xavier(),
            loss=SoftmaxCrossEntropy(),
        ),
        rules.sgd(),
        1e-4,
    ),
}


@cache
def of(case: str):
    return measured(*NETWORKS[case])


def faults(t: Tensor, seen: dict[str, np.ndarray], name: str, scale: int) -> dict[str, float]:
    """By rounding the arrays: each criterion over its threshold; 1 and more is a fault."""
    x = seen[t.weights.name if t.weights else t.name]
    form, x = FORMATS[name], np.ldexp(x, scale)
    with np.errstate(over="ignore", invalid="ignore"):
        y = x.astype(np.float32).astype(DTYPES[name]).astype(np.float64)
    other = np.abs(x[x != 0])
    below = np.abs(x) < form.min_normal
    size = math.sqrt(float(np.mean(x**2)))
    floor = math.sqrt(float(np.mean(np.where(below, y - x, 0.0) ** 2)))
    out = {
        "overflow": 2.0 * bool(np.any(~np.isfinite(y))),
        "flushed": float(np.mean((y == 0)[x != 0])) / HARMFUL if other.size else 0.0,
        "below range": floor / size / form.unit_roundoff if size else 0.0,
        "digits": 2.0 * (form.fraction_bits < FRACTION_BITS[t.role]),
        "on the way": math.sqrt(t.roundings) * form.unit_roundoff / 0.5 * 0.999,
    }
    if t.weights:
        out["updates"] = rounded_away(x, seen[t.name], name) / HARMFUL
    return out


@pytest.mark.parametrize("case", NETWORKS)
def test_shares_are_those_of_rounding_the_arrays(case: str) -> None:
    model, seen, summaries = of(case)
    scale = 6
    rows = list(share_table(tensors(summaries, model), scale=scale))
    assert len(rows) == len(FORMATS) * len({row.name for row in rows})
    for row in rows:
        x, form = seen[row.name], FORMATS[row.form]
        assert row.name.startswith("u") != math.isnan(row.updates_lost)
        x = np.ldexp(x, scale) if row.role in ("error", "gradient") else x
        with np.errstate(over="ignore", invalid="ignore"):
            y = x if form.name == "fp64" else x.astype(np.float32)
            y = y.astype(DTYPES[row.form]).astype(np.float64)
        got, low = row.shares, (np.abs(x) < form.min_normal) & (x != 0)
        # Half the smallest number is a tie, and counts as kept: gradients can be powers of two.
        flushed = (y == 0) & low & (np.abs(x) * 2.0 != form.min_subnormal)
        assert got.flushed == pytest.approx(np.mean(flushed), abs=1e-12)
        assert got.subnormal == pytest.approx(np.mean(low & ~flushed), abs=1e-12)
        assert abs(got.overflow - np.mean(~np.isfinite(y))) <= got.undecided


@pytest.mark.parametrize("case", NETWORKS)
def test_choices_are_safe_and_cheaper_formats_are_not(case: str) -> None:
    """Histograms see sizes to a factor of two, and not which update is whose: hence the slack."""
    model, seen, summaries = of(case)
    found = precision_plan(summaries, model)
    assert found.loss_scale is not None
    for c in found.choices:
        scale = found.loss_scale.log2 if c.tensor.role in ("error", "gradient") else 0
        if c.safe:
            over = {k: v for k, v in faults(c.tensor, seen, c.form.name, scale).items() if v >= 1.3}
            assert not over, (c.tensor.name, c.form.name, over)
        for name, form in FORMATS.items():
            if form.bits >= c.form.bits or (scale and form.max < found.loss_scale.form.max):
                continue
            worst = max(faults(c.tensor, seen, name, scale).values())
            assert worst > 0.7, (c.tensor.name, c.form.name, name)


@pytest.mark.parametrize("case", NETWORKS)
def test_the_loss_scale_overflows_nothing_and_the_next_would(case: str) -> None:
    model, seen, summaries = of(case)
    found = precision_plan(summaries, model, formats=["fp16", "bf16", "fp32"])
    scale = found.loss_scale
    assert scale is not None
    backward = [
        seen[c.tensor.name] for c in found.choices if c.tensor.role in ("error", "gradient")
    ]
    largest = max(float(np.max(np.abs(x))) for x in backward)
    assert largest * scale.scale <= scale.form.max
    assert scale.headroom == pytest.approx(math.log2(scale.form.max / largest / scale.scale))
    if scale.headroom >= 1:  # no more could be saved
        values = np.concatenate([x.ravel() for x in backward]) * scale.scale
        assert np.mean(np.abs(values[values != 0]) < scale.form.min_normal) == 0


def test_gradients_of_thirty_sigmoid_layers_need_more_exponent_than_fp16_has() -> None:
    model, _, summaries = of("sigmoid 30")
    found = precision_plan(summaries, model, formats=["fp16", "bf16", "fp32"])
    groups = [g for g in found.groups if g.role == "error"]
    assert [g.form.name for g in groups] == ["bf16", "fp16"]
    low, high = groups
    assert (low.first, high.last, high.first) == (1, 30, low.last + 1)
    whole = precision_plan(summaries, model, formats=["fp16"])
    unsafe = [c for c in whole.choices if not c.safe]
    assert {"delta/1", "dW/1"} <= {c.tensor.name for c in unsafe}
    why = next(c.why for c in unsafe if c.tensor.name == "delta/1")
    assert why.startswith("fp16: 100 % flushed to zero, scaled by 2^")
    text = str(found)
    assert f"errors: layers 1–{low.last}: bf16, layers {high.first}–30: fp16" in text
    assert "loss scale: 2^" in text


def test_long_sums_are_accumulated_wider() -> None:
    model, _, summaries = of("relu 10")
    by_name = {t.name: t for t in tensors(summaries, model)}
    assert by_name["z/2"].fan_in == 32
    assert by_name["z/1"].fan_in == 12
    assert by_name["da/9"].fan_in == 5
    assert by_name["dW/3"].fan_in == 48
    assert by_name["delta/2"].fan_in == 1
    choices = {c.tensor.name: c for c in precision_plan(summaries, model).choices}
    assert choices["a/3"].accumulate is None
    for name, c in choices.items():
        if c.accumulate is None:
            continue
        needed = 2.0 ** -(FRACTION_BITS[c.tensor.role] + 1)
        nu = c.tensor.fan_in * c.accumulate.unit_roundoff
        assert nu / (1 - nu) <= needed, name
        assert c.accumulate.exponent_bits >= c.form.exponent_bits
    # 48 · 2⁻¹¹ is above the 2⁻⁸ that gradients need, so fp16 does not do.
    assert choices["dW/3"].accumulate.name == "fp32"


def test_roundings_on_the_way_are_counted() -> None:
    model, _, summaries = of("tanh 4")
    counted = {t.name: t.roundings for t in tensors(summaries, model)}
    # W, z, a of each layer; then da, δ and W again on the way back.
    assert [counted[f"z/{n}"] for n in (1, 2, 3, 4)] == [2, 5, 8, 11]
    assert counted["a/1"] == 3
    assert counted["delta/4"] < counted["da/3"] < counted["delta/3"] < counted["delta/1"]
    assert counted["dW/1"] == counted["delta/1"] == 22
    assert counted["input/0"] == 0


def test_epsilon_beside_the_gradients() -> None:
    _, seen, summaries = of("sigmoid 8")
    g = np.concatenate([v.ravel() for site, v in seen.items() if site[:2] in ("dW", "db")])
    g = np.abs(g[g != 0])
    found = epsilon_in(summaries, 1e-8, "fp16")
    assert found.vanishes
    # Only the bin that the threshold splits, with an eighth of the values, is not exact.
    assert found.dominates == pytest.approx(np.mean(g <= 1e-8), abs=0.02)
    flushed = np.mean((g * g).astype(np.float16) == 0)
    assert found.flushed == pytest.approx(flushed, abs=0.02)


# --- tensors made by hand


def tensor(x, role="activation", name="x/1", layer=1, **more) -> Tensor:
    s = sizes(x)
    return Tensor(layer, name, role, s.histogram, s.max_abs, s.zeros, **more)


RNG = np.random.default_rng(4)
UNIT = RNG.uniform(0.5, 2.0, 4000)


@pytest.mark.parametrize(
    ("t", "form", "says"),
    [
        (tensor(UNIT), "fp8_e4m3", "0 % flushed"),
        (tensor(1e3 * UNIT), "fp16", "2 bits of fraction"),
        (tensor(1e5 * UNIT), "bf16", "fp16: the largest value"),
        (tensor(1e39 * UNIT), "fp64", "exceeds 2^128.0"),
        (tensor(1e-9 * UNIT), "bf16", "100 % flushed to zero"),
        (tensor(1e-6 * UNIT), "bf16", "costs"),
        (tensor(np.zeros(9)), "fp8_e4m3", "all values are zero"),
        (tensor(UNIT, roundings=65), "fp16", "2 bits of fraction"),
        (tensor(UNIT, "error", roundings=65), "fp16", "grow to 1.01 of it"),
        (tensor(1e4 * UNIT, "update", weights=tensor(1e5 * UNIT)), "bf16", "0 % of the updates"),
        (tensor(1e-3 * UNIT, "update", weights=tensor(UNIT)), "fp16", "fp8_e5m2: 100 %"),
        (tensor(1e-4 * UNIT, "update", weights=tensor(UNIT)), "fp32", "100 %"),
        (tensor(1e-9 * UNIT, "update", weights=tensor(UNIT)), "fp64", "fp32: 100 %"),
    ],
)
def test_the_cheapest_and_why(t: Tensor, form: str, says: str) -> None:
    (choice,) = plan([t]).choices
    if t.role == "error":
        assert plan([t]).loss_scale is not None
    assert (choice.form.name, choice.safe) == (form, True), choice.why
    assert says in choice.why


def test_the_loss_scale_is_that_of_the_formats_taken() -> None:
    """A format that no gradient takes does not limit it."""
    wide = 10.0 ** RNG.uniform(-12, 0, 4000)
    both = plan([tensor(wide, "error", "delta/1"), tensor(wide, "gradient", "dW/1")])
    assert both.loss_scale is not None
    taken = [c.form for c in both.choices]
    assert both.loss_scale.form == min(taken, key=lambda f: f.max)
    (alone,) = plan([tensor(1e-7 * UNIT, "gradient")], formats=["bf16"]).choices
    assert alone.shares.lost == 0
    assert plan([tensor(UNIT)]).loss_scale is None
    roomy = plan([tensor(wide, "error")], formats=["fp16"], margin=4).loss_scale
    assert roomy is not None
    assert roomy.headroom >= 4


def test_nothing_safe_gives_the_widest_and_says_so() -> None:
    found = plan([tensor(1e6 * UNIT)], formats=["fp16", "fp8_e4m3"])
    (choice,) = found.choices
    assert (choice.form.name, choice.safe) == ("fp16", False)
    assert str(found) == "activations: layer 1: fp16 (not safe)"
    broken = replace(tensor(UNIT), count=UNIT.size + 3)
    assert broken.nonfinite == 3
    (choice,) = plan([broken]).choices
    assert not choice.safe
    assert "3 values are not finite already" in choice.why


def test_layers_are_grouped() -> None:
    sized = [(1, 1.0), (2, 1.0), (3, 1e5), (3, 1.0), (4, 1.0)]
    named = [
        tensor(size * UNIT, name=f"z/{layer}.{i}", layer=layer)
        for i, (layer, size) in enumerate(sized)
    ]
    found = plan(named)
    assert [str(g) for g in found.groups] == [
        "layers 1–2: fp8_e4m3",
        "layer 3: bf16",
        "layer 4: fp8_e4m3",
    ]
    assert {role: f.name for role, f in found.uniform.items()} == {"activation": "bf16"}
    assert PrecisionPlan((), None).groups == ()


def test_what_was_zero_as_measured_is_told_apart() -> None:
    """Gradients flushed in the format that was measured are not safe in a narrower one."""
    none, some = np.zeros(9), 1e-3 * UNIT
    found = plan(
        [
            tensor(none, "error", "delta/1", 1),
            tensor(none, "error", "delta/2", 2),
            tensor(some, "error", "delta/3", 3),
            tensor(none, "error", "da/3", 3),
            tensor(none, "update", "uW/3", 3, weights=tensor(UNIT)),
        ],
        formats=["fp16"],
    )
    assert str(found).startswith("errors: layers 1–2: all zero, layer 3: fp16\n")
    assert "weights that take updates: layer 3: all zero" in str(found)


@pytest.mark.parametrize("name", ["fp16", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("decade", [-6, -4, -2, 0])
def test_the_error_below_the_range_against_rounding(name: str, decade: int) -> None:
    x = (10.0**decade * RNG.standard_normal(50_000)).astype(np.float32).astype(np.float64)
    y = x.astype(np.float32).astype(DTYPES[name]).astype(np.float64)
    below = np.abs(x) < FORMATS[name].min_normal
    true = math.sqrt(float(np.sum(np.where(below, y - x, 0) ** 2) / np.sum(x**2)))
    # Within a factor of √(7/3)/1, what a value's place in its bin can do to its square.
    assert below_range(sizes(x).histogram, name) == pytest.approx(true, rel=0.5, abs=1e-12)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(IsogradError, match="fp8_e4m3"):
        plan([], formats=["int8"])
    with pytest.raises(TheoryError, match="formats to choose from"):
        plan([tensor(UNIT)], formats=[])
    with pytest.raises(TheoryError, match="role must be one of weight"):
        tensor(UNIT, "logits")
    for role, more in (("update", {}), ("weight", {"weights": tensor(UNIT)})):
        with pytest.raises(TheoryError, match="weights it is added to"):
            tensor(UNIT, role, **more)
