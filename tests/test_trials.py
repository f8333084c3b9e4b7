"""Trials: effects against SciPy, judgements of made-up arms, and real ones from end to end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_digits

from isograd.diagnosis import Diagnosis, examine
from isograd.nn import (
    SGD,
    Activation,
    Critical,
    Data,
    Dense,
    He,
    Network,
    Normal,
    Orthogonal,
    Repeat,
    Spec,
    Training,
)
from isograd.nn.losses import constant_loss
from isograd.remedy import Arm, Candidate, Prescription, Trial, candidates, prescribe, random_edit
from isograd.remedy import trials as module
from isograd.remedy.edits import set_activation, set_init
from isograd.remedy.trials import judge, paired_effect, recommend
from isograd.training import loop
from isograd.training.data import Split, from_arrays
from isograd.training.loop import Outcome, fit
from isograd.training.scores import Score
from isograd.training.start import load_split

LEVEL = 0.05
IRIS = Spec(
    Data("iris"),
    Network((Repeat(3, (Dense(6), Activation("logistic"))), Dense(3))),
    SGD(0.05),
    Training(epochs=2, batch_size=32),
)


# Effects

gains = st.lists(st.floats(-100, 100), min_size=3, max_size=9)


@given(gains, st.sampled_from([0.05, 0.01, 0.005]))
def test_an_effect_is_that_of_the_paired_t_test(values: list[float], level: float) -> None:
    arm = np.random.default_rng(len(values)).normal(size=len(values))
    control = arm + values
    differences = control - arm
    got = paired_effect(list(differences), level)
    assert got.mean == pytest.approx(differences.mean(), rel=1e-12, abs=1e-12)
    if np.ptp(differences) < 1e-9:
        return  # no spread: SciPy gives NaN
    test = stats.ttest_rel(control, arm)
    want = test.confidence_interval(1 - level)
    scale = abs(want.low) + abs(want.high)
    assert got.low == pytest.approx(want.low, rel=1e-9, abs=1e-9 * scale)
    assert got.high == pytest.approx(want.high, rel=1e-9, abs=1e-9 * scale)
    reach = stats.t.interval(1 - level, len(values) - 1, differences.mean(), stats.sem(differences))
    assert (got.low, got.high) == pytest.approx(reach, rel=1e-9, abs=1e-9 * scale)
    assert got.clear == (test.pvalue < level and got.mean > 0)


def test_an_effect_without_spread() -> None:
    same = paired_effect([0.25, 0.25, 0.25], LEVEL)
    assert (same.mean, same.low, same.high, same.clear) == (0.25, 0.25, 0.25, True)
    assert not paired_effect([0.0, 0.0, 0.0], LEVEL).clear


# Judgements of arms that are made up


def arm_of(
    losses: Sequence[float],
    *,
    name: str = "a cure",
    size: int = 1,
    findings: tuple[str, ...] = (),
    seeds: Sequence[int] | None = None,
) -> Arm:
    seeds = range(len(losses)) if seeds is None else seeds
    verdict = "sick" if findings else "healthy"
    runs = tuple(
        Trial(s, Score(x, 0.5), Score(x, 0.5), verdict, findings, "finished")
        for s, x in zip(seeds, losses, strict=True)
    )
    return Arm(name, "because", size, IRIS, runs)


NONE = arm_of([1.00, 1.02, 0.98], name="no change", findings=("no learning",))
RANDOM = arm_of([0.99, 1.03, 0.99], name="a random change", findings=("no learning",))
CEILING = 1.1


def judged(*arms: Arm, none: Arm = NONE, random: Arm = RANDOM) -> list[Arm]:
    return [judge(a, none, random, CEILING, comparisons=len(arms)) for a in arms]


def test_effects_of_an_arm() -> None:
    losses = [0.50, 0.45, 0.52]
    (got,) = judged(arm_of(losses))
    for effect, control in ((got.over_none, NONE), (got.over_random, RANDOM)):
        theirs = [t.train.loss for t in control.trials]
        want = stats.ttest_rel(theirs, losses).confidence_interval(0.95)
        assert effect is not None
        assert (effect.low, effect.high) == pytest.approx((want.low, want.high), rel=1e-9)
    assert got.gone
    assert got.better
    assert got.helps


@pytest.mark.parametrize("count", [1, 4, 10])
def test_intervals_are_wide_enough_for_all_candidates(count: int) -> None:
    losses = [0.50, 0.45, 0.52]
    got = judged(*[arm_of(losses)] * count)[0]
    differences = np.array([t.train.loss for t in NONE.trials]) - losses
    want = stats.t.interval(1 - LEVEL / count, 2, differences.mean(), stats.sem(differences))
    assert got.over_none is not None
    assert (got.over_none.low, got.over_none.high) == pytest.approx(want, rel=1e-9)


def test_what_is_clear_alone_need_not_be_so_among_many() -> None:
    cure = arm_of([0.80, 0.92, 0.84])
    assert judged(cure)[0].better
    assert not judged(*[cure] * 10)[0].better


def test_few_candidates_without_effect_are_called_clear(rng: np.random.Generator) -> None:
    """With ten candidates that do nothing, at most one family in twenty has a clear one."""
    families = 1000
    none = rng.normal(size=(families, 1, 3))
    arms = rng.normal(size=(families, 10, 3))
    clear = [
        any(paired_effect(list(g), LEVEL / 10).clear for g in family) for family in none - arms
    ]
    share = float(np.mean(clear))
    assert share < LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / families)
    assert share > 0.005  # half of the level is on the other side


def test_losses_count_up_to_that_of_a_constant_output() -> None:
    """A control that blew up makes no cure look better than it is."""
    blown = arm_of([math.nan, 1e30, math.inf], findings=("non-finite value",))
    cure = arm_of([1.0, 0.9, 0.95])
    (got,) = judged(cure, none=blown)
    assert got.over_none is not None
    assert got.over_none.mean == pytest.approx(np.mean([0.1, 0.2, 0.15]))
    worse = arm_of([1.2, 5.0, math.nan])  # all of them beyond the ceiling
    (got,) = judged(worse, none=blown, random=blown)
    assert got.over_none is not None
    assert (got.over_none.mean, got.over_none.clear, got.better) == (0.0, False, False)


def test_a_cure_that_hides_the_symptom_is_not_recommended() -> None:
    hiding = arm_of([1.01, 0.99, 1.0])
    (got,) = arms = judged(hiding)
    assert got.gone
    assert not got.better
    assert not got.helps
    best, reason = recommend(arms)
    assert best is None
    assert "the loss is not clearly lower" in reason


def test_a_lower_loss_of_a_network_still_sick_is_not_recommended() -> None:
    (got,) = arms = judged(arm_of([0.3, 0.31, 0.29], findings=("vanishing gradient",)))
    assert got.better
    assert not got.gone
    assert not got.helps
    best, reason = recommend(arms)
    assert best is None
    assert "none leaves no finding" in reason


def test_one_sick_run_is_enough_to_be_sick() -> None:
    cure = arm_of([0.3, 0.31, 0.29])
    ill = replace(cure.trials[1], verdict="sick", findings=("dead units",))
    (got,) = judged(replace(cure, trials=(cure.trials[0], ill, cure.trials[2])))
    assert not got.gone


def test_what_any_change_would_do_is_no_cure() -> None:
    """Clearly better than no change, but not than a random one."""
    random = arm_of([0.31, 0.30, 0.32])
    (got,) = arms = judged(arm_of([0.30, 0.32, 0.31]), random=random)
    assert got.over_none is not None
    assert got.over_none.clear
    assert got.gone
    assert not got.helps
    assert recommend(arms)[0] is None


def test_the_smallest_edit_that_helps_is_recommended() -> None:
    arms = judged(
        arm_of([0.10, 0.11, 0.09], name="large and best", size=3),
        arm_of([0.30, 0.31, 0.29], name="small", size=1),
        arm_of([1.00, 0.98, 1.02], name="smaller, no help", size=0),
    )
    best, reason = recommend(arms)
    assert best is arms[1]
    assert reason == "the smallest edit that helps (1 line)"


def test_of_edits_of_a_size_the_lowest_loss_is_recommended() -> None:
    arms = judged(
        arm_of([0.30, 0.31, 0.29], name="good", size=2),
        arm_of([0.10, 0.11, 0.09], name="better", size=2),
        arm_of([0.20, 0.21, 0.19], name="between", size=2),
        arm_of([0.01, 0.02, 0.03], name="best, but sick", size=2, findings=("dead units",)),
    )
    best, reason = recommend(arms)
    assert best is arms[1]
    assert "(2 lines)" in reason
    assert "of the 3 of that size" in reason


def test_none_of_these_helps() -> None:
    arms = judged(arm_of([1.0, 1.02, 0.98], findings=("no learning",)))
    assert recommend(arms) == (None, "none of these helps")
    assert recommend(()) == (None, "none of these helps")


@pytest.mark.parametrize(
    ("seeds", "none", "random"),
    [
        ((0, 1), (0, 1), (0, 1)),  # too few
        ((0, 1), (0, 1, 2), (0, 1, 2)),
        ((0, 1, 2), (0, 1, 3), (0, 1, 2)),  # pairs would be of different seeds
        ((0, 1, 2), (0, 1, 2), (1, 2, 3)),
        ((), (0, 1, 2), (0, 1, 2)),
    ],
)
def test_arms_that_lack_runs_are_not_judged(
    seeds: tuple[int, ...], none: tuple[int, ...], random: tuple[int, ...]
) -> None:
    def some(numbers: tuple[int, ...], loss: float) -> Arm:
        return arm_of([loss + 0.01 * s for s in numbers], seeds=numbers)

    cure = some(seeds, 0.3)
    (got,) = judged(cure, none=some(none, 1.0), random=some(random, 1.0))
    assert got == cure
    assert not got.gone
    assert not got.helps


def test_mean_and_spread_of_an_arm() -> None:
    losses = [0.3, 0.5, 0.1]
    mean, sd = arm_of(losses).mean_sd(lambda t: t.train.loss)
    assert (mean, sd) == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))
    assert all(map(math.isnan, arm_of([]).mean_sd(lambda t: t.train.loss)))
    mean, sd = arm_of([0.3]).mean_sd(lambda t: t.train.loss)
    assert mean == 0.3
    assert math.isnan(sd)


# Real trials


@dataclass(frozen=True)
class Sick:
    """A network that does not train: twelve layers of sigmoids on some of the digits."""

    split: Split
    outcome: Outcome
    diagnosis: Diagnosis

    @property
    def cures(self) -> list[Candidate]:
        """Some of the candidates, and one that cannot be run."""
        spec = self.outcome.spec
        known = {c.name: c for c in candidates(spec, self.diagnosis, 64)}
        picked = [known[n] for n in ("activation tanh", "lr × 10", "residual")]
        softplus = set_init(set_activation(spec, "softplus"), Critical())
        return [Candidate("softplus, critical", "none", softplus, 2), *picked]


@pytest.fixture(scope="session")
def sick() -> Sick:
    x, y = load_digits(return_X_y=True)
    split = from_arrays(x[:400], y[:400], loss_kind="softmax_cross_entropy")
    layers = (Repeat(12, (Dense(16), Activation("logistic"))), Dense(10))
    spec = Spec(
        *(Data("arrays"), Network(layers, init=Orthogonal()), SGD(0.1)),
        Training(epochs=12, batch_size=20),
        seed=3,
    )
    outcome = fit(spec, split)
    return Sick(split, outcome, examine(outcome, split))


Told = list[tuple[str, int, int]]


@pytest.fixture(scope="session")
def tried(sick: Sick) -> tuple[Prescription, Told]:
    told: Told = []
    prescription = prescribe(
        *(sick.outcome, sick.split, sick.cures),
        jobs=1,
        progress=lambda *news: told.append(news),
    )
    return prescription, told


def test_a_sick_network_is_cured(sick: Sick, tried: tuple[Prescription, Told]) -> None:
    """What is recommended trains, with a seed that no trial had, and better than before."""
    assert sick.diagnosis.verdict == "sick"
    assert "vanishing gradient" in sick.diagnosis.names
    best = tried[0].recommended
    assert best is not None
    assert best.name == "activation tanh"
    assert best.helps
    assert best.size == 1
    assert not tried[0].interrupted
    assert "smallest edit that helps" in tried[0].reason
    fresh = fit(msgspec.structs.replace(best.spec, seed=77), sick.split)
    assert sick.outcome.train.accuracy < 0.3
    assert fresh.train.accuracy > 0.9
    assert examine(fresh, sick.split).names == frozenset()


def test_judgements_of_real_arms(sick: Sick, tried: tuple[Prescription, Told]) -> None:
    prescription = tried[0]
    arms = {a.name: a for a in prescription.cures}
    assert list(arms) == [c.name for c in sick.cures]
    assert [a.spec for a in prescription.cures] == [c.spec for c in sick.cures]
    assert arms["residual"].helps
    assert not arms["lr × 10"].gone
    assert not arms["lr × 10"].helps
    ceiling = constant_loss(sick.outcome.spec.network.loss, sick.split.y_train)
    none = [min(t.train.loss, ceiling) for t in prescription.none.trials]
    tanh = [t.train.loss for t in arms["activation tanh"].trials]
    want = stats.ttest_rel(none, tanh).confidence_interval(1 - LEVEL / len(sick.cures))
    effect = arms["activation tanh"].over_none
    assert effect is not None
    assert (effect.low, effect.high) == pytest.approx((want.low, want.high), rel=1e-9)


def test_the_first_trial_of_no_change_is_the_sick_run(
    sick: Sick, tried: tuple[Prescription, Told]
) -> None:
    first = tried[0].none.trials[0]
    assert first.seed == sick.outcome.spec.seed
    assert (first.train, first.test) == (sick.outcome.train, sick.outcome.test)
    assert first.verdict == "sick"
    assert tried[0].steps == len(sick.outcome.telemetry.records)


def test_a_refused_cure_says_why(tried: tuple[Prescription, Told]) -> None:
    refused = tried[0].cures[0]
    assert "critical" in refused.refused
    assert "softplus" in refused.refused
    assert (refused.trials, refused.gone, refused.helps) == ((), False, False)
    assert all(not a.refused for a in tried[0].cures[1:])


def test_progress_is_told_of_every_run(sick: Sick, tried: tuple[Prescription, Told]) -> None:
    told = tried[1]
    runs = 3 * (2 + len(sick.cures))
    assert [done for _, done, _ in told] == list(range(1, runs + 1))
    assert {total for *_, total in told} == {runs}
    names = ["no change", "a random change", *(c.name for c in sick.cures)]
    assert sorted(name for name, *_ in told) == sorted(names * 3)


# Controlled: the same for all arms but the edit

WIDER = Candidate("wider", "", msgspec.structs.replace(IRIS, optimiser=SGD(0.2)), 1)
OTHER = Candidate("other", "", set_activation(IRIS, "tanh"), 1)
SAME = Candidate("the same", "", IRIS, 0)


@pytest.fixture(scope="session")
def iris() -> tuple[Outcome, Split]:
    split = load_split(IRIS)
    return fit(IRIS, split), split


Rows = list[np.ndarray]


def test_arms_differ_in_nothing_but_the_edit(
    iris: tuple[Outcome, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds, data, steps and the order of the rows."""
    runs: list[tuple[Spec, Split, Any, Rows]] = []
    real_fit, real_batches = fit, loop.batches

    def spied_batches(n: int, size: int, rng: np.random.Generator) -> Any:
        rows = real_batches(n, size, rng)
        runs[-1][3].append(rows)
        return rows

    def spied_fit(spec: Spec, split: Split, *, steps: Any, **options: Any) -> Outcome:
        runs.append((spec, split, steps, []))
        assert options == {"backend": baseline.backend, "threads": 1}
        return real_fit(spec, split, steps=steps, **options)

    monkeypatch.setattr(loop, "batches", spied_batches)
    monkeypatch.setattr(module, "fit", spied_fit)
    baseline, split = iris
    got = prescribe(baseline, split, [WIDER, OTHER], jobs=1)
    assert len(runs) == 12
    assert all(s is split for _, s, _, _ in runs)
    assert {steps for _, _, steps, _ in runs} == {len(baseline.telemetry.records)}
    by_seed: dict[int, list[Rows]] = {}
    for spec, _, _, rows in runs:
        by_seed.setdefault(spec.seed, []).append(rows)
    assert sorted(by_seed) == [0, 1, 2]
    for orders in by_seed.values():
        assert len(orders) == 4
        for rows in orders[1:]:
            np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(orders[0]))
    first, second = (np.concatenate(by_seed[s][0]) for s in (0, 1))
    assert (first != second).any()  # another seed, another order
    for a in (got.none, got.random, *got.cures):
        assert [t.seed for t in a.trials] == [0, 1, 2]
    edits = [msgspec.structs.replace(s, seed=0, measure=IRIS.measure) for s, *_ in runs]
    assert edits[:3] == [IRIS] * 3
    assert edits[3:6] == [random_edit(IRIS, s) for s in range(3)]
    assert edits[6:] == [WIDER.spec] * 3 + [OTHER.spec] * 3
    assert got.random.spec == edits[3]


def test_equal_specs_have_equal_trials(iris: tuple[Outcome, Split]) -> None:
    got = prescribe(*iris, [SAME], jobs=1)
    assert got.cures[0].trials == got.none.trials
    assert got.none.trials[0].train == iris[0].train
    assert got.cures[0].over_none is not None
    assert got.cures[0].over_none.mean == 0.0
    assert got.recommended is None


def test_trials_are_the_runs_of_their_spec(iris: tuple[Outcome, Split]) -> None:
    got = prescribe(*iris, [WIDER], jobs=1, seeds=4)
    for trial in got.cures[0].trials:
        outcome = fit(msgspec.structs.replace(WIDER.spec, seed=trial.seed), iris[1])
        assert (trial.train, trial.test) == (outcome.train, outcome.test)
        assert trial.stopped == "finished"
        diagnosis = examine(outcome, iris[1])
        assert (trial.verdict, set(trial.findings)) == (diagnosis.verdict, diagnosis.names)
    assert [t.seed for t in got.none.trials] == [0, 1, 2, 3]


def test_processes_change_nothing(iris: tuple[Outcome, Split]) -> None:
    one, two = (prescribe(*iris, [WIDER], jobs=jobs) for jobs in (1, 2))
    assert one == two


def test_a_shorter_run_has_shorter_trials(iris: tuple[Outcome, Split]) -> None:
    baseline = fit(IRIS, iris[1], steps=4)
    got = prescribe(baseline, iris[1], [SAME], jobs=1)
    assert got.steps == 4
    assert got.none.trials[0].train == baseline.train


def test_a_run_that_diverged_is_tried_at_its_full_length() -> None:
    deep = (Repeat(7, (Dense(8), Activation("relu"))), Dense(3))
    spec = msgspec.structs.replace(IRIS, network=Network(deep, init=Normal(std=1e6)))
    split = load_split(spec)
    baseline = fit(spec, split)
    # One epoch of three batches, each of them skipped.
    assert (baseline.stopped, len(baseline.telemetry.records)) == ("diverged", 3)
    calm = Candidate("calm", "", set_init(spec, He()), 1)
    got = prescribe(baseline, split, [calm], jobs=1)
    assert got.steps == 6  # 120 rows make 3 batches of 32, twice
    assert got.none.trials[0].stopped == "diverged"
    assert got.cures[0].trials[0].train == fit(calm.spec, split).train
    effect = got.cures[0].over_none
    assert effect is not None
    assert 0 <= effect.mean < math.log(3)  # no control costs more than a constant output


@pytest.mark.parametrize("seeds", [-1, 0, 1, 2])
def test_fewer_than_three_seeds_are_refused(seeds: int, iris: tuple[Outcome, Split]) -> None:
    with pytest.raises(ValueError, match=f"at least 3 seeds, not {seeds}"):
        prescribe(*iris, [SAME], seeds=seeds)


def test_without_candidates_nothing_is_recommended(iris: tuple[Outcome, Split]) -> None:
    got = prescribe(*iris, [], jobs=1)
    assert (got.cures, got.recommended, got.reason) == ((), None, "none of these helps")
    assert len(got.none.trials) == len(got.random.trials) == 3


# Ctrl-C


def stop_at(count: int) -> Callable[[str, int, int], None]:
    def progress(name: str, done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interruption_keeps_what_was_run(jobs: int, iris: tuple[Outcome, Split]) -> None:
    got = prescribe(*iris, [WIDER, OTHER], jobs=jobs, progress=stop_at(7))
    assert got.interrupted
    assert got.recommended is None
    assert "interrupted" in got.reason
    arms = (got.none, got.random, *got.cures)
    assert sum(len(a.trials) for a in arms) == 7
    if jobs == 1:
        assert [len(a.trials) for a in arms] == [3, 3, 1, 0]
        assert got.none.trials[0].train == iris[0].train
    assert all(a.over_none is None and not a.gone for a in got.cures if len(a.trials) < 3)


def test_a_run_that_catches_the_interruption_ends_the_trials(
    iris: tuple[Outcome, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process it is the training that Ctrl-C meets; its half a run does not count."""
    count = 0

    def fitted(spec: Spec, split: Split, *, steps: int, **options: Any) -> Outcome:
        nonlocal count
        count += 1

        def interrupt(_: Any) -> None:
            if count == 5:
                raise KeyboardInterrupt

        return fit(spec, split, steps=steps, progress=interrupt, **options)

    monkeypatch.setattr(module, "fit", fitted)
    got = prescribe(*iris, [WIDER], jobs=1)
    assert count == 5
    assert got.interrupted
    assert [len(a.trials) for a in (got.none, got.random, *got.cures)] == [3, 1, 0]
    assert all(t.stopped == "finished" for a in (got.none, got.random) for t in a.trials)
