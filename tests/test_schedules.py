"""Schedules against PyTorch's, step by step, and against their formulas in mpmath."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isograd.errors import SpecError
from isograd.nn import (
    ConstantRate,
    CosineDecay,
    ExponentialDecay,
    OneCycle,
    Plateau,
    StepDecay,
    Training,
    WarmUp,
)
from isograd.nn.spec import Schedule as ScheduleSpec
from isograd.nn.spec import kinds
from isograd.optim import schedule

Parts = tuple[ScheduleSpec, ...]
EPOCHS = 12
each_length = pytest.mark.parametrize("per_epoch", [1, 7, 100])


def factors(parts: Parts, *, per_epoch: int, epochs: int = EPOCHS) -> list[float]:
    """The factor at every step of a training whose loss is never told."""
    built = schedule(parts, epochs=epochs, steps_per_epoch=per_epoch)
    state = built.init()
    return [built.factor(state, step) for step in range(epochs * per_epoch)]


# Against PyTorch

Build = Callable[[Any, int], Any]


def chained(*builds: Build) -> Build:
    def build(optimiser: Any, per_epoch: int) -> Any:
        from torch.optim.lr_scheduler import ChainedScheduler

        return ChainedScheduler([b(optimiser, per_epoch) for b in builds], optimiser)

    return build


def torch_schedule(name: str, **settings: Any) -> Build:
    """A scheduler of PyTorch; a setting that depends on the steps per epoch is a function."""

    def build(optimiser: Any, per_epoch: int) -> Any:
        from torch.optim import lr_scheduler

        values = {k: v(per_epoch) if callable(v) else v for k, v in settings.items()}
        return getattr(lr_scheduler, name)(optimiser, **values)

    return build


def one_cycle(**settings: Any) -> Build:
    length = {"total_steps": lambda n: EPOCHS * n, "max_lr": 1.0, "cycle_momentum": False}
    return torch_schedule("OneCycleLR", **length, **settings)


STEP = torch_schedule("StepLR", step_size=lambda n: 3 * n, gamma=0.3)
EXPONENTIAL = torch_schedule("ExponentialLR", gamma=lambda n: 0.8 ** (1 / n))
COSINE = torch_schedule("CosineAnnealingLR", T_max=lambda n: EPOCHS * n, eta_min=0.1)
LINEAR = torch_schedule("LinearLR", start_factor=0.05, total_iters=lambda n: 2 * n)
TWINS: dict[str, tuple[Parts, Build]] = {
    "none": ((), chained(torch_schedule("ConstantLR", factor=1.0))),
    "constant": ((ConstantRate(),), torch_schedule("ConstantLR", factor=1.0)),
    "step": ((StepDecay(3, factor=0.3),), STEP),
    "exponential": ((ExponentialDecay(0.8),), EXPONENTIAL),
    "cosine": ((CosineDecay(final=0.1),), COSINE),
    "cosine to 0, longer": (
        (CosineDecay(epochs=20),),
        torch_schedule("CosineAnnealingLR", T_max=lambda n: 20 * n),
    ),
    "warm_up": ((WarmUp(2, start=0.05),), LINEAR),
    "one_cycle": (
        (OneCycle(start=0.04, final=4e-6, up=0.3),),
        one_cycle(pct_start=0.3, div_factor=25.0, final_div_factor=1e4),
    ),
    "one_cycle, peak between steps": (
        (OneCycle(start=0.5, final=0.25, up=0.47),),
        one_cycle(pct_start=0.47, div_factor=2.0, final_div_factor=2.0),
    ),
    "one_cycle without a way up": (
        (OneCycle(start=0.5, final=0.25, up=0.0005),),
        one_cycle(pct_start=0.0005, div_factor=2.0, final_div_factor=2.0),
    ),
    "three at once": (
        (WarmUp(2, start=0.05), StepDecay(3, factor=0.3), ExponentialDecay(0.8)),
        chained(LINEAR, STEP, EXPONENTIAL),
    ),
}


def torch_factors(build: Build, per_epoch: int) -> list[float]:
    import torch

    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimiser, per_epoch)
    rates = []
    for _ in range(EPOCHS * per_epoch):
        rates.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        scheduler.step()
    return rates


def check_twins(parts: Parts, build: Build, per_epoch: int) -> None:
    # PyTorch multiplies rates on from step to step, and 1 + cos cancels near π.
    want = torch_factors(build, per_epoch)
    np.testing.assert_allclose(
        factors(parts, per_epoch=per_epoch), want, rtol=1e-12, atol=1e-15 * per_epoch
    )


@each_length
@pytest.mark.parametrize("name", TWINS)
def test_every_step_has_the_rate_of_pytorch(name: str, per_epoch: int) -> None:
    pytest.importorskip("torch")
    check_twins(*TWINS[name], per_epoch)


@pytest.mark.parametrize(
    ("parts", "twin"),
    [
        ((StepDecay(3.0 + 1 / 7, factor=0.3),), "step"),  # a step too late
        ((WarmUp(2, start=0.05 + 1e-11),), "warm_up"),
        ((OneCycle(epochs=EPOCHS + 1 / 7),), "one_cycle"),  # phases that end a step later
        ((StepDecay(3, factor=0.3), ExponentialDecay(0.8)), "three at once"),
    ],
)
def test_another_schedule_than_pytorch_s_is_seen(parts: Parts, twin: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_twins(parts, TWINS[twin][1], 7)


def plateau_factors(kind: Plateau, losses: Iterable[float]) -> list[float]:
    """The factor in each epoch after the loss of the one before."""
    built = schedule((kind,), epochs=1, steps_per_epoch=1)
    state, out = built.init(), []
    for epoch, loss in enumerate(losses):
        state = built.observe(state, loss)
        out.append(built.factor(state, epoch))
    return out


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.1])
def test_a_plateau_is_that_of_pytorch(
    patience: int, threshold: float, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    losses = np.exp(-0.05 * np.arange(80)) + 0.1 * rng.random(80)
    losses[[5, 6, 40]] = math.nan
    losses[[0, 17, 60]] = math.inf
    losses[30:36] = losses[30]
    kind = Plateau(factor=0.5, patience=patience, threshold=threshold)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=patience, threshold=threshold, eps=0.0
    )
    want = []
    for loss in losses:
        theirs.step(loss)
        want.append(optimiser.param_groups[0]["lr"])
    assert len(set(want)) > 3
    np.testing.assert_allclose(plateau_factors(kind, losses), want, rtol=1e-12)


# By hand


def test_a_plateau_by_hand() -> None:
    kind = Plateau(factor=0.5, patience=1, threshold=0.25)
    # 8 improves; 7 and 6 are not below 6, so a cut; 5 improves; then neither NaN nor −∞.
    losses = [8.0, 7.0, 6.0, 5.0, math.nan, -math.inf, math.inf, 3.0, 3.0]
    want = [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert plateau_factors(kind, losses) == want


def test_a_plateau_multiplies_the_others() -> None:
    parts = (StepDecay(2, factor=0.25), Plateau(factor=0.5, patience=0))
    built = schedule(parts, epochs=4, steps_per_epoch=3)
    state = built.init()
    assert [built.factor(state, n) for n in (5, 6)] == [1.0, 0.25]
    state = built.observe(built.observe(state, 1.0), 1.0)
    assert [built.factor(state, n) for n in (5, 6)] == [0.5, 0.125]


@pytest.mark.parametrize("per_epoch", [1, 3, 7, 10, 49, 100, 1000])
def test_steps_fall_on_the_step_that_is_meant(per_epoch: int) -> None:
    """Every k steps, given as k/n epochs; in floats 0.07 epochs of 100 steps are over 7."""
    for every in (1, 2, 3, 5, 7, 21, 57, 300):
        built = schedule(
            (StepDecay(every / per_epoch, factor=0.5),), epochs=1, steps_per_epoch=per_epoch
        )
        for step in (*range(50), *range(every * 997 - 2, every * 997 + 3)):
            assert built.factor(built.init(), step) == 0.5 ** (step // every)


def closed_form(kind: ScheduleSpec, step: int, per_epoch: int) -> Any:
    """The formulas of the documents in mpmath, t in epochs."""
    mpf, half = mpmath.mpf, lambda share: (1 - mpmath.cos(mpmath.pi * share)) / 2
    t = mpf(step) / per_epoch
    match kind:
        case ExponentialDecay():
            return mpf(kind.factor) ** t
        case CosineDecay():
            share = min(t / (kind.epochs or EPOCHS), mpf(1))
            return kind.final + (1 - mpf(kind.final)) * half(1 - share)
        case WarmUp():
            return kind.start + (1 - mpf(kind.start)) * min(t / mpf(kind.epochs), mpf(1))
        case OneCycle():
            total = (kind.epochs or EPOCHS) * per_epoch
            peak = mpf(kind.up) * total - 1
            if step <= peak:
                return kind.start + (1 - mpf(kind.start)) * half(step / peak)
            return kind.final + (1 - mpf(kind.final)) * half(
                (total - 1 - step) / (total - 1 - peak)
            )
    raise AssertionError(kind)


@each_length
@pytest.mark.parametrize(
    "kind",
    [
        ExponentialDecay(0.9),
        ExponentialDecay(1e-5),
        CosineDecay(),
        CosineDecay(final=0.3),
        CosineDecay(epochs=7.5),
        WarmUp(1.3, start=0.2),
        WarmUp(5, start=1e-8),
        OneCycle(),
        OneCycle(start=1e-4, final=0.0, up=0.9),
    ],
    ids=str,
)
def test_every_step_has_the_rate_of_the_formula(kind: ScheduleSpec, per_epoch: int) -> None:
    for step, got in enumerate(factors((kind,), per_epoch=per_epoch)):
        with mpmath.workdps(60):
            want = float(closed_form(kind, step, per_epoch))
        assert got == pytest.approx(want, rel=1e-13, abs=1e-300)


# Of all


def test_every_schedule_of_a_spec_is_held_here() -> None:
    held = {type(part) for parts, _ in TWINS.values() for part in parts} | {Plateau}
    assert held == set(kinds(ScheduleSpec).values())


positive = st.floats(0, exclude_min=True, allow_infinity=False)
inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
from_0 = st.floats(0, allow_infinity=False)
whole_training = st.none() | st.floats(6, allow_infinity=False)  # of at most 6 epochs, see below
SCHEDULES = st.one_of(
    st.builds(ConstantRate),
    st.builds(StepDecay, positive, positive),
    st.builds(ExponentialDecay, positive),
    st.builds(CosineDecay, from_0, whole_training),
    st.builds(WarmUp, inside, positive),
    st.builds(OneCycle, positive, from_0, inside, whole_training),
    st.builds(Plateau, inside, st.integers(0, 3), st.floats(0, 1, exclude_max=True)),
)


@given(
    st.lists(SCHEDULES, max_size=4),
    st.integers(1, 6),
    st.integers(1, 6) | st.integers(1, 10**9),
    st.lists(st.floats(), min_size=6, max_size=6),
)
@example([StepDecay(5e-324)], 1, 6, [0.0] * 6)
@example([CosineDecay(epochs=1e308), OneCycle(epochs=1e308)], 1, 10**9, [0.0] * 6)
@example(
    [ExponentialDecay(1e308), ExponentialDecay(1e308), ExponentialDecay(1e-308)], 6, 1, [0.0] * 6
)
def test_factors_are_finite_and_states_are_json(
    parts: list[ScheduleSpec], epochs: int, per_epoch: int, losses: list[float]
) -> None:
    training = Training(epochs=epochs, schedule=tuple(parts))  # a spec may hold them
    built = schedule(training.schedule, epochs=epochs, steps_per_epoch=per_epoch)
    state = built.init()
    for epoch in range(epochs):
        first, last = epoch * per_epoch, (epoch + 1) * per_epoch - 1
        for step in {*range(first, min(first + 6, last + 1)), last}:
            factor = built.factor(state, step)
            assert type(factor) is float
            assert 0.0 <= factor < math.inf
            kept = json.loads(json.dumps(state, allow_nan=False))
            assert built.factor(kept, step) == factor
        state = built.observe(state, losses[epoch])
        assert built.observe(kept, losses[epoch]) == state


@pytest.mark.parametrize("bad", ["epochs", "steps_per_epoch"])
def test_a_training_without_steps_is_refused(bad: str) -> None:
    lengths = {"epochs": 3, "steps_per_epoch": 5, bad: 0}
    with pytest.raises(SpecError) as caught:
        schedule((), **lengths)
    assert caught.value.must == f"{bad} must be at least 1"
    assert caught.value.came == f"{bad} = 0"
