"""Training in narrow formats: beside PyTorch, step by step; loss scales; what is rounded where."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checks import same_bits
from msgspec.structs import replace

from isograd.diagnosis.case import Case
from isograd.diagnosis.rules.steps import non_finite
from isograd.engine.graph import ArraySpec
from isograd.engine.ops import Op
from isograd.nn import (
    SGD,
    Activation,
    Data,
    Dense,
    Dropout,
    HalfSquaredError,
    Measure,
    Momentum,
    Network,
    Precision,
    Repeat,
    Residual,
    Spec,
    Training,
)
from isograd.nn.toml import dumps
from isograd.optim.loss_scale import advanced, scales
from isograd.optim.rules import optimiser
from isograd.telemetry.records import Site
from isograd.training.data import Split, from_arrays
from isograd.training.loop import Outcome, fit
from isograd.training.run import resume, train
from isograd.training.start import prepare
from isograd.training.step import trace_step

DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}
FEATURES, WIDTH, OUTPUTS, BATCH = 5, 8, 3, 16


@pytest.fixture(params=["numpy", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        pytest.importorskip("llvmlite")
    return str(request.param)


def spec_of(
    precision: Precision | None,
    layers: list[Any] | None = None,
    dtype: str = "float64",
    **more: Any,
) -> Spec:
    """A small network for a regression; one batch is the training part."""
    layers = layers or [Repeat(2, [Dense(WIDTH), Activation("tanh")]), Dense(OUTPUTS)]
    data = Data("arrays", test_fraction=0.5, standardise=False, stratify=False)
    network = Network(layers, loss=HalfSquaredError(l2=0.01))
    settings = {"epochs": 20, "batch_size": BATCH, "precision": precision} | more
    return Spec(data, network, SGD(0.1), Training(**settings), Measure(1, 0), dtype=dtype)


def split_of(spec: Spec, rows: int = BATCH) -> Split:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2 * rows, FEATURES))
    y = np.tanh(x @ rng.normal(size=(FEATURES, OUTPUTS)))
    return from_arrays(
        x, y, data=spec.data, loss_kind=spec.network.loss, seed=spec.seed, dtype=spec.dtype
    )


# --- beside PyTorch, with a loss that is multiplied


def to(form: str | None, x: Any) -> Any:
    """By the formats' own libraries, in float64; from there NumPy rounds once."""
    if form is None:
        return x
    with np.errstate(over="ignore"):
        return x.astype(DTYPES[form]).astype(np.float64)


def torch_steps(precision: Precision, spec: Spec, split: Split, steps: int) -> dict[str, Any]:
    """Parameters after gradient steps on a loss that is multiplied by the scale."""
    torch = pytest.importorskip("torch")
    scale = float(precision.loss_scale)

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, form: str | None) -> Any:
            return torch.from_numpy(to(form, x.detach().numpy()))

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return torch.from_numpy(to(precision.gradients, g.numpy())), None

    def at(x: Any, form: str | None) -> Any:
        return Rounded.apply(x, form)

    first = prepare(spec, split).params
    params = {k: torch.tensor(v, requires_grad=True) for k, v in first.items()}
    if not precision.master:
        for p in params.values():
            p.data = torch.from_numpy(to(precision.weights, p.detach().numpy()))
    x, y = torch.from_numpy(split.X_train), torch.from_numpy(split.y_train)
    for _ in range(steps):
        used = {k: at(p, precision.weights) for k, p in params.items()}
        a = at(x, precision.activations).detach()
        for layer in range(1, 4):
            z = at(a @ used[f"W/{layer}"].T + used[f"b/{layer}"], precision.activations)
            a = at(torch.tanh(z), precision.activations) if layer < 3 else z
        (0.5 * ((a - y) ** 2).sum(1).mean() * scale).backward()
        for name, p in params.items():
            penalty = 0.01 * p.detach() if name.startswith("W") else 0.0
            p.data = p.detach() - 0.1 * (p.grad / scale + penalty)
            if not precision.master:
                p.data = torch.from_numpy(to(precision.weights, p.detach().numpy()))
            p.grad = None
    return {k: p.detach().numpy() for k, p in params.items()}


STATIC = {
    "weights": Precision("fp16"),
    "activations": Precision(activations="fp16"),
    "gradients": Precision(gradients="fp16"),
    "gradients of 8 bits": Precision(gradients="fp8_e5m2"),
    "scaled gradients": Precision(gradients="fp8_e5m2", loss_scale=2.0**10),
    "all": Precision("fp16", "fp16", "fp16", loss_scale=1024),
    "all, of two formats": Precision("fp16", "fp16", "fp8_e5m2", loss_scale=2.0**-3),
    "no master copy": Precision("fp16", "fp16", "fp16", master=False, loss_scale=8),
}


@pytest.mark.parametrize("name", STATIC)
def test_steps_are_those_of_pytorch(name: str, backend: str) -> None:
    """In float64, so that the order of sums changes no rounding."""
    precision = STATIC[name]
    spec = spec_of(precision)
    split = split_of(spec)
    want = torch_steps(precision, spec, split, 20)
    got = fit(spec, split, backend=backend).params
    plain = fit(spec_of(None), split, backend=backend).params
    for key, array in want.items():
        np.testing.assert_allclose(got[key], array, rtol=1e-9, atol=1e-12, err_msg=key)
        assert not np.allclose(plain[key], array, rtol=1e-6, atol=1e-9), "nothing was rounded"


def test_another_place_of_rounding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from isograd.nn.emulation import Emulation

    monkeypatch.setattr(Emulation, "gradient", lambda self, value, number: value)
    with pytest.raises(AssertionError, match="W/1"):
        test_steps_are_those_of_pytorch("gradients", "numpy")


# --- without precision, nothing changes


def test_without_a_table_the_graph_is_the_same() -> None:
    spec = spec_of(None)
    split = split_of(spec)
    start = prepare(spec, split)
    specs = (ArraySpec(a.shape, a.dtype) for a in (split.X_train, split.y_train))
    rule = optimiser(spec.optimiser, spec.training)
    graph = trace_step(start.model, rule, start.layout, *specs, BATCH, start.key)
    assert not {Op.ROUND, Op.ROUND_COTANGENT, Op.RANDOM_BITS} & graph.op_counts.keys()
    assert len(graph.inputs) == 6, "θ; inputs, targets; rows, rate, number"


def test_what_the_dtype_holds_changes_no_bits(backend: str) -> None:
    """float32 rounded to fp32, with a scale: powers of two cost nothing."""
    split = split_of(spec_of(None, dtype="float32"))
    same = Precision("fp32", "fp32", "fp32", loss_scale=2.0**40)
    runs = [fit(spec_of(p, dtype="float32"), split, backend=backend) for p in (None, same)]
    assert same_bits(dict(runs[0].params), dict(runs[1].params))


# --- where values lie


def test_every_value_of_a_step_is_of_its_format() -> None:
    """What probes see of outputs, cotangents and gradients are numbers of the formats."""
    layers = [Dense(WIDTH), Activation("relu"), Residual([Dense(WIDTH), Dropout(0.2)]), Dense(3)]
    precision = Precision("bf16", "fp16", "fp8_e5m2", loss_scale=2.0**6)
    spec = spec_of(precision, layers, dtype="float32", epochs=1)
    seen: dict[str, np.ndarray] = {}
    split = split_of(spec)
    start = prepare(spec, split)
    specs = [ArraySpec(a.shape, a.dtype) for a in (split.X_train, split.y_train)]
    rule = optimiser(spec.optimiser, spec.training)
    graph = trace_step(start.model, rule, start.layout, *specs, BATCH, start.key, precision)
    from isograd.backends.numpy import Executable
    from isograd.engine.plan import plan

    given = (start.state.theta, start.state.rule, start.state.statistics)
    each = np.arange(BATCH), np.float32(0.1), np.uint32(0)
    run = Executable(plan(graph))
    run(given, (split.X_train, split.y_train), each, observe=lambda s, x: seen.update({s: x}))
    places = start.model.places
    for form, scale, sites in (
        ("fp16", 1.0, ["input/0", *(p.site for p in places)]),
        ("fp8_e5m2", 2.0**6, [p.cotangent for p in places]),
    ):
        for site in sites:
            x = seen[site] * np.float32(scale)
            assert same_bits(x, x.astype(DTYPES[form]).astype(np.float32)), site
    assert not same_bits(seen["W/1"], seen["W/1"].astype(DTYPES["bf16"]).astype(np.float32))


# --- updates


def test_small_updates_are_lost_without_a_master_copy(backend: str) -> None:
    """θ = 1 ± 2⁻⁹ is 1 in bf16, to nearest for ever; stochastic rounding keeps it in the mean."""
    layers = [Dense(OUTPUTS, bias=False)]

    def moved(precision: Precision) -> float:
        spec = replace(
            spec_of(precision, layers, dtype="float32", epochs=64),
            optimiser=SGD(2.0**-12),
        )
        split = split_of(spec)
        outcome = fit(spec, split, backend=backend)
        before = prepare(spec, split).params["W/1"]
        return float(np.abs(outcome.params["W/1"] - before).mean())

    with_master = moved(Precision("bf16"))
    assert with_master > 0
    assert moved(Precision("bf16", master=False)) < 0.1 * with_master
    drawn = Precision("bf16", master=False, rounding="stochastic")
    assert moved(drawn) > 0.5 * with_master


# --- the dynamic scale


def test_the_scale_halves_and_doubles() -> None:
    """As PyTorch's GradScaler, step by step, while above 1."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    finite = (rng.random(300) < 0.9).tolist()
    scale, tracker = torch.tensor([65536.0]), torch.tensor([0], dtype=torch.int32)
    want = []
    for ok in finite:
        want.append(float(scale))
        found = torch.tensor([0.0 if ok else 1.0])
        torch._amp_update_scale_(scale, tracker, found, 2.0, 0.5, 4)
    assert min(want) > 1
    assert list(scales((65536.0, 0), finite, 4)) == want


def test_the_scale_stays_within_its_bounds() -> None:
    assert advanced((1.0, 7), False, 10) == (1.0, 0)
    assert advanced((2.0**126, 1), True, 2) == (2.0**126, 0)


def far_off(split: Split, factor: float) -> Split:
    """Targets so large that scaled gradients overflow."""
    return dataclasses.replace(split, y_train=split.y_train * np.float32(factor))


def case_of(outcome: Outcome) -> Case:
    return Case(outcome.spec, outcome.model, outcome.telemetry, 1.0, BATCH, outcome.stopped)


def used(outcome: Outcome) -> list[float]:
    """The scale of each step, from which of them were skipped."""
    precision = outcome.spec.training.precision
    assert precision is not None
    finite = (not r.skipped for r in outcome.telemetry.records)
    return list(scales((2.0**16, 0), finite, precision.interval))


def test_a_scale_too_large_falls_until_steps_pass(backend: str) -> None:
    """Steps are skipped, the run does not end, and the doctor calls none of them a disease."""
    dynamic = Precision(gradients="fp16", loss_scale="dynamic")
    spec = spec_of(dynamic, dtype="float32", batch_size=4)
    outcome = fit(spec, far_off(split_of(spec), 30.0), backend=backend)
    skipped = [r.skipped for r in outcome.telemetry.records]
    falls = skipped.index(False)
    assert falls >= 1
    assert sum(skipped) < len(skipped) // 2
    assert outcome.stopped == "finished"
    assert outcome.state.scaling[0] == used(outcome)[-1] <= 2.0 ** (16 - falls)
    gradients = [
        r.summaries[Site.parse("dW/1")].nonfinite for r in outcome.telemetry.measured()[:falls]
    ]
    assert any(gradients), "it was the scale"
    assert non_finite(case_of(outcome)) is None


def test_more_failures_than_batches_do_not_end_it() -> None:
    """One step to an epoch: each failure is every batch of an epoch."""
    spec = spec_of(Precision(gradients="fp8_e5m2", loss_scale="dynamic"), dtype="float32")
    split = split_of(spec)
    outcome = fit(spec, far_off(split, 30.0))
    assert sum(r.skipped for r in outcome.telemetry.records) > 1
    assert outcome.stopped == "finished"


def test_what_fails_at_the_least_scale_is_divergence(backend: str) -> None:
    spec = spec_of(Precision(gradients="fp16", loss_scale="dynamic"), dtype="float32")
    split = split_of(spec)
    outcome = fit(spec, far_off(split, 1e9), backend=backend)
    assert outcome.stopped == "diverged"
    assert len(outcome.telemetry.records) == 17, "16 halvings, and the step at 1"
    found = non_finite(case_of(outcome))
    assert found is not None
    assert found.step == 16


def test_a_static_scale_too_large_is_divergence() -> None:
    spec = spec_of(Precision(gradients="fp16", loss_scale=2.0**30), dtype="float32")
    outcome = fit(spec, split_of(spec))
    assert outcome.stopped == "diverged"
    found = non_finite(case_of(outcome))
    assert found is not None
    assert found.evidence["largest_of_format"] == 65504.0 * 2.0**-30
    assert found.evidence["largest_before"] < 10.0
    assert "fp16 at this loss scale ends at 6.1e-05" in found.cause


# --- chunks, threads, resumed runs

EVERYTHING = Precision(
    "bf16", "bf16", "fp8_e5m2", "stochastic", master=False, loss_scale="dynamic", interval=7
)


def everything() -> Spec:
    layers = [Dense(WIDTH), Activation("tanh"), Dropout(0.1), Dense(3)]
    spec = Spec(
        Data("iris"),
        Network(layers),
        Momentum(0.05),
        Training(4, 8, precision=EVERYTHING),
        Measure(9, 2, moments=True),
    )
    return spec


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_chunks_do_not_matter(backend: str, seconds: float) -> None:
    a, b = (fit(everything(), backend=backend, chunk_seconds=s) for s in (0.01, seconds))
    assert a.telemetry == b.telemetry
    assert same_bits(dict(a.params), dict(b.params))
    assert len(set(used(a))) > 2


def test_threads_change_the_order_of_sums_alone() -> None:
    """The random words are those of the whole batch; in float64 the order changes no rounding."""
    pytest.importorskip("llvmlite")
    wide = [Dense(96), Activation("tanh"), Dense(96), Activation("tanh"), Dense(3)]
    spec = replace(
        everything(), network=Network(wide), training=Training(4, 48, precision=EVERYTHING)
    )
    spec = replace(spec, dtype="float64")
    a, b = (fit(spec, backend="native", threads=n) for n in (1, 2))
    np.testing.assert_allclose(a.telemetry.losses(), b.telemetry.losses(), rtol=1e-9)


def test_recomputing_rounds_alike(backend: str) -> None:
    deep = [Repeat(12, [Dense(WIDTH), Activation("tanh")]), Dense(3)]
    specs = [
        replace(
            everything(),
            network=Network(deep),
            training=Training(1, 8, precision=EVERYTHING, recompute=recompute),
        )
        for recompute in (False, True)
    ]
    a, b = (fit(spec, backend=backend) for spec in specs)
    assert same_bits(dict(a.params), dict(b.params))


def test_a_resumed_run_has_the_same_bits(tmp_path: Path, backend: str) -> None:
    spec = everything()
    text = dumps(spec)
    whole = fit(spec, backend=backend)

    def stop(progress: Any) -> None:
        if progress.step >= 20:
            raise KeyboardInterrupt

    from isograd.training.start import load_split

    train(spec, text, load_split(spec), tmp_path / "run", backend=backend, progress=stop)
    outcome = resume(tmp_path / "run")
    assert outcome.state.scaling == whole.state.scaling != (2.0**16, 0)
    assert same_bits(dict(outcome.params), dict(whole.params))
    assert used(outcome) == used(whole)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_backends_agree(rounding: str) -> None:
    """Small whole numbers: sums are exact in any order, so all roundings are the same."""
    pytest.importorskip("llvmlite")
    precision = Precision("fp8_e4m3", "fp16", "bf16", rounding, loss_scale=4)
    spec = spec_of(precision, [Dense(WIDTH), Activation("relu"), Dense(3)], epochs=3)
    split = split_of(spec)
    a, b = (fit(spec, split, backend=name) for name in ("numpy", "native"))
    for key, array in a.params.items():
        np.testing.assert_allclose(b.params[key], array, rtol=1e-9, atol=1e-12)
