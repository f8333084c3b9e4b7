"""Controlled trials: which edit cures, how sure that is, and whether any edit would have done.

Every arm gets the same data, the same order of batches, the same number of steps and the same
seeds; seed s of one arm is compared with seed s of another. Two arms are controls: no change, and
a random change.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import scipy.special
from joblib import Parallel, delayed
from msgspec.structs import replace

from isograd.backends.select import Backend
from isograd.diagnosis import examine
from isograd.errors import TheoryError
from isograd.nn.activations import Formula
from isograd.nn.define import defined, enter
from isograd.nn.losses import constant_loss
from isograd.nn.spec import Measure, Spec
from isograd.remedy.candidates import Candidate, random_edit
from isograd.training.data import Split
from isograd.training.loop import Outcome, fit
from isograd.training.scores import Score

LEVEL = 0.05
"""Probability of calling any of the candidates' effects clear when none has one."""

MIN_SEEDS = 3
"""Runs per arm that an effect and its uncertainty need."""

_MEASURED = 20  # measured steps in a trial, beside the first three


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of an arm.

    Attributes:
        seed: of its parameters and of the order of its data.
        train, test: scores at the end.
        verdict: of its diagnosis, and `findings` the names of those that are not minor.
        stopped: how it ended.
    """

    seed: int
    train: Score
    test: Score
    verdict: str
    findings: tuple[str, ...]
    stopped: str


@dataclass(frozen=True, slots=True)
class Effect:
    """How much lower an arm's training loss is than a control's, paired by seed.

    Attributes:
        mean: mean difference over the seeds; positive is better.
        low, high: its confidence interval (Student's t), wide enough for all candidates together
            (Bonferroni).
    """

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0.0


@dataclass(frozen=True, slots=True)
class Arm:
    """An edit and its runs.

    Attributes:
        name, why, size: as in `Candidate`; for a control, what it is.
        spec: the edited spec.
        trials: one per seed; empty if the edit cannot be run, see `refused`.
        refused: why it cannot be run.
        over_none, over_random: effects; None for the controls.
        gone: whether no run has a finding that is not minor.
        draws: the edited specs of the random control, one per seed; its `spec` is the first.
    """

    name: str
    why: str
    size: int
    spec: Spec
    trials: tuple[Trial, ...]
    refused: str = ""
    over_none: Effect | None = None
    over_random: Effect | None = None
    gone: bool = False
    draws: tuple[Spec, ...] = ()

    @property
    def better(self) -> bool:
        """Whether it is clearly better than both controls."""
        effects = (self.over_none, self.over_random)
        return all(effect is not None and effect.clear for effect in effects)

    @property
    def helps(self) -> bool:
        """Whether it is a cure: the findings gone, and clearly better than both controls."""
        return self.gone and self.better

    def mean_sd(self, value: Callable[[Trial], float]) -> tuple[float, float]:
        """Mean and standard deviation over the seeds; NaN where runs are too few or not finite."""
        values = [value(t) for t in self.trials]
        if not values or not all(map(math.isfinite, values)):
            return math.nan, math.nan
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


@dataclass(frozen=True, slots=True)
class Prescription:
    """What the trials came to.

    Attributes:
        none, random: the control arms.
        cures: the candidates' arms, the smallest edit first.
        recommended: the one to take: the smallest edit that helps, and of several such the one
            with the lowest training loss; None if none of them helps.
        reason: that in a sentence.
        steps: training steps of each run.
        interrupted: by Ctrl-C; arms that lack runs are then not judged.
    """

    none: Arm
    random: Arm
    cures: tuple[Arm, ...]
    recommended: Arm | None
    reason: str
    steps: int
    interrupted: bool = False


def prescribe(
    baseline: Outcome,
    split: Split,
    cures: Sequence[Candidate],
    *,
    seeds: int = 3,
    jobs: int = -1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Prescription:
    """Try candidates against both controls, on the backend of the sick run.

    Args:
        baseline: the sick run; it is the first trial of *no change*.
        split: its data.
        cures: what to try.
        seeds: runs per arm, at least 3.
        jobs: processes; −1 takes one per core.
        progress: told (name of the arm, runs done, runs in all) after each run.

    Raises:
        ValueError: for fewer than 3 seeds.
    """
    if seeds < MIN_SEEDS:
        raise ValueError(
            f"an effect and its uncertainty need at least {MIN_SEEDS} seeds, not {seeds}"
        )
    spec = baseline.spec
    steps = _steps(baseline, split)
    seed_list = range(spec.seed, spec.seed + seeds)
    arms = [
        ("no change", [spec] * seeds),
        ("a random change", [random_edit(spec, s) for s in seed_list]),
        *((c.name, [c.spec] * seeds) for c in cures),
    ]
    jobs_to_do = [
        (i, replace(edited, seed=s))
        for i, (_, specs) in enumerate(arms)
        for edited, s in zip(specs, seed_list, strict=True)
    ]
    results: list[list[Trial]] = [[] for _ in arms]
    refused = [""] * len(arms)
    runs = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_run)(i, msgspec.to_builtins(s), defined(), split, steps, baseline.backend)
        for i, s in jobs_to_do
    )
    interrupted = False
    try:
        for done, (i, result) in enumerate(runs, start=1):
            if isinstance(result, str):
                refused[i] = result
            elif result.stopped == "interrupted":  # the run has caught Ctrl-C for itself
                raise KeyboardInterrupt
            else:
                results[i].append(result)
            if progress is not None:
                progress(arms[i][0], done, len(jobs_to_do))
    except KeyboardInterrupt:
        interrupted = True
        with warnings.catch_warnings():  # joblib warns of the runs that it cancels
            warnings.simplefilter("ignore", UserWarning)
            runs.close()
    trials = [tuple(sorted(r, key=lambda t: t.seed)) for r in results]
    none = Arm("no change", "the control", 0, spec, trials[0])
    draws = tuple(arms[1][1])
    random = Arm("a random change", "the control", 1, draws[0], trials[1], draws=draws)
    ceiling = constant_loss(spec.network.loss, split.y_train)
    judged = tuple(
        judge(
            Arm(c.name, c.why, c.size, c.spec, t, r), none, random, ceiling, comparisons=len(cures)
        )
        for c, t, r in zip(cures, trials[2:], refused[2:], strict=True)
    )
    recommended, reason = recommend(judged)
    if interrupted:
        recommended, reason = None, "the trials were interrupted"
    return Prescription(none, random, judged, recommended, reason, steps, interrupted)


def _steps(baseline: Outcome, split: Split) -> int:
    """Steps of the sick run, or those it was to have had."""
    if baseline.stopped == "finished":
        return len(baseline.telemetry.records)
    spec, rows = baseline.spec, len(split.X_train)
    return spec.training.epochs * (rows // spec.batch_size_for(rows))


def _run(
    arm: int,
    plain: Any,
    activations: Mapping[str, Formula],
    split: Split,
    steps: int,
    backend: Backend,
) -> tuple[int, Trial | str]:
    """One trial, in one thread; a refusal (no critical point for this activation) is a result.

    The spec comes as plain data: a worker process must know the activations that the program has
    defined before it can read one that names them.
    """
    enter(activations)
    spec = msgspec.convert(plain, Spec)
    sparse = replace(spec, measure=Measure(first=3, every=max(1, steps // _MEASURED)))
    try:
        outcome = fit(sparse, split, steps=steps, backend=backend, threads=1)
    except TheoryError as error:
        return arm, str(error)
    diagnosis = examine(outcome, split)
    return arm, Trial(
        seed=spec.seed,
        train=outcome.train,
        test=outcome.test,
        verdict=diagnosis.verdict,
        findings=tuple(sorted(diagnosis.names)),
        stopped=outcome.stopped,
    )


def judge(arm: Arm, none: Arm, random: Arm, ceiling: float, *, comparisons: int) -> Arm:
    """The arm with its effects, and whether it is a cure; as it is if it lacks runs of a seed.

    A run's loss counts at most `ceiling`, that of a constant output, which can be had for nothing:
    so a control that blew up makes no cure look better than it is.
    """
    seeds = {tuple(t.seed for t in a.trials) for a in (arm, none, random)}
    if arm.refused or len(seeds) > 1 or len(arm.trials) < MIN_SEEDS:
        return arm

    def costs(a: Arm) -> list[float]:
        losses = (t.train.loss for t in a.trials)
        return [min(x, ceiling) if math.isfinite(x) else ceiling for x in losses]

    def over(control: Arm) -> Effect:
        gains = [c - x for c, x in zip(costs(control), costs(arm), strict=True)]
        return paired_effect(gains, LEVEL / comparisons)

    over_none, over_random = over(none), over(random)
    gone = not any(t.findings for t in arm.trials)
    return dataclasses.replace(arm, over_none=over_none, over_random=over_random, gone=gone)


def paired_effect(gains: Sequence[float], level: float) -> Effect:
    """Mean and two-sided confidence interval of paired differences, Student's t.

    Args:
        gains: control minus arm, one per seed; at least two.
        level: probability that the interval misses the true mean.
    """
    mean = statistics.fmean(gains)
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    reach = float(scipy.special.stdtrit(len(gains) - 1, 1.0 - level / 2.0)) * error
    return Effect(mean, mean - reach, mean + reach)


def recommend(arms: Sequence[Arm]) -> tuple[Arm | None, str]:
    """The smallest edit that helps, and why it is the one."""
    helping = [a for a in arms if a.helps]
    if not helping:
        return None, _why_none(arms)
    best = min(helping, key=lambda a: (a.size, a.mean_sd(lambda t: t.train.loss)[0]))
    same = sum(1 for a in helping if a.size == best.size)
    reason = f"the smallest edit that helps ({best.size} line{'s' * (best.size != 1)})"
    if same > 1:
        reason += f"; of the {same} of that size, the one that ends with the lowest training loss"
    return best, reason


def _why_none(arms: Sequence[Arm]) -> str:
    if any(a.gone for a in arms):
        return (
            "none of these helps: where the findings are gone, the loss is not clearly lower than "
            "with no change or a random one"
        )
    if any(a.better for a in arms):
        return "none of these helps enough: some lower the loss, but none leaves no finding"
    return "none of these helps"
