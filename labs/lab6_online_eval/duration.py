"""How long to run: what arrives by day d, how the metric's variance grows, and what that can find.

Visits of a person come as a Poisson process at their own rate. Two things follow.

* The *distinct* units that have come by day d, ``N (1 - mean exp(-rate d))``, grow ever slower:
  after the frequent visitors only the rare ones are left.
* A unit's clicks S over d days are a compound Poisson sum. With a session's mean m and variance v
  for that person, ``Var S = d E[rate (v + m^2)] + d^2 Var(rate m)``: noise grows with d, but the
  differences between people grow with d squared, as fast as the mean squared. What is relative to
  the mean therefore stops falling: a longer run of the same people is not more people.

The part that stops falling is what people always do, and that is what CUPED takes away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab6_online_eval.experiment import Experiment, Kind, Looks, Role
from labs.lab6_online_eval.power import detectable_effect, power_normal
from labs.lab6_online_eval.world import Ints, Sessions, World

Floats = NDArray[np.float64]
LONG_BEFORE = 28


@dataclass(frozen=True)
class History:
    """What is known of the people an experiment draws from: float [n_people] each.

    ``rate``: sessions a day; ``value``: mean of the metric's event in a session (clicks);
    ``spread``: its variance between sessions of the same person.
    """

    rate: Floats
    value: Floats
    spread: Floats

    def __post_init__(self) -> None:
        for name in ("rate", "value", "spread"):
            given = getattr(self, name)
            require(given.shape == self.rate.shape, name, given.shape, f"must be {self.rate.shape}")
            require(bool(np.isfinite(given).all()), name, "NaN or infinity", "must be finite")
        require(len(self.rate) >= 2, "people", len(self.rate), "must be at least 2")
        require(float(self.rate.min()) > 0, "rate", float(self.rate.min()), "must be > 0")
        require(float(self.spread.min()) >= 0, "spread", float(self.spread.min()), "must be >= 0")


def history_of(world: World, lists: Ints) -> History:
    """The world's people under the lists that they get now: int [n_users, k]."""
    chance = world.click_probability(np.arange(world.n_users), lists)
    return History(world.visits, chance.sum(axis=1), (chance * (1 - chance)).sum(axis=1))


@dataclass(frozen=True)
class Snapshot:
    """The metric of the units that came within ``days``, those that a triggered analysis has.

    ``share`` of the eligible units came; ``mean`` and ``variance`` of the metric, one value a unit
    (a ratio's is linearised); ``variance_reduction``: the squared correlation with the same metric
    in the days before, which is what CUPED removes.
    """

    days: float
    share: float
    mean: float
    variance: float
    variance_reduction: float


def snapshot(
    history: History, days: float, *, before_days: float = 0.0, ratio: bool = False
) -> Snapshot:
    """Exact moments after ``days``, over people and over chance, of those who came at least once.

    Parameters
    ----------
    days, before_days
        Length of the run, and of the period before it that the covariate is measured in.
    ratio
        False: clicks a unit. True: clicks a session (sum over sum, by the delta method).

    Notes
    -----
    For a person with rate r the chance to come is ``q = 1 - exp(-r d)``; sums are 0 for those who
    did not, so ``E[S^k | came] = E[S^k] / E[q]``. The covariate is independent of the run given
    the person, so its moments are weighted by q.
    """
    require(days > 0, "days", days, "must be > 0")
    require(before_days >= 0, "before_days", before_days, "must be >= 0")
    visits, earlier = history.rate * days, history.rate * before_days
    came = -np.expm1(-visits)
    share = float(came.mean())
    value, value_before, scale = history.value, history.value, 1.0
    mean = float((visits * value).mean() / share)
    if ratio:
        mean = float((visits * value).mean() / visits.mean())
        value = history.value - mean
        value_before = history.value - np.average(history.value, weights=came * history.rate)
        scale = float(visits.mean() / share)
    during = visits * value
    first = float(during.mean() / share)
    second = float((visits * (history.spread + value**2) + during**2).mean() / share)
    variance = second - first**2
    reduction = 0.0
    if before_days > 0:
        before = earlier * value_before
        mean_before = float((came * before).mean() / share)
        square = came * (earlier * (history.spread + value_before**2) + before**2)
        variance_before = float(square.mean() / share) - mean_before**2
        shared = float((during * before).mean() / share) - first * mean_before
        reduction = shared**2 / (variance * variance_before)
    return Snapshot(days, share, mean, variance / scale**2, reduction)


def replay(sessions: Sessions, *, n_eligible: int, days: float, before_days: float) -> Snapshot:
    """`snapshot` (clicks a unit) read from a log instead: the usual way, where nobody knows rates.

    ``sessions`` must reach from ``-before_days`` to ``days``; day 0 is where the run would begin.
    """
    require(days > 0, "days", days, "must be > 0")
    during = (sessions.day >= 0) & (sessions.day < days)
    before = (sessions.day >= -before_days) & (sessions.day < 0)
    counts = np.bincount(sessions.unit[during], minlength=n_eligible)
    require(len(counts) <= n_eligible, "n_eligible", n_eligible, f"must be >= {len(counts)}")
    came = counts > 0
    require(int(came.sum()) >= 2, "units that came", int(came.sum()), "must be at least 2")
    metric, covariate = (
        np.bincount(sessions.unit[part], weights=sessions.clicks[part], minlength=n_eligible)[came]
        for part in (during, before)
    )
    constant = metric.std() == 0 or covariate.std() == 0
    reduction = 0.0 if constant else float(np.corrcoef(metric, covariate)[0, 1] ** 2)
    return Snapshot(
        days, float(came.mean()), float(metric.mean()), float(metric.var(ddof=1)), reduction
    )


@dataclass(frozen=True)
class Point:
    """A length and what it can find: relative effects, with and without CUPED."""

    weeks: int
    days: int
    units: int
    lift_plain: float
    lift_cuped: float
    variance_reduction: float


@dataclass(frozen=True)
class Option:
    """A change to the plan, the lift it could find in the longest run, and the weeks it needs for
    the wanted lift (None: longer than the longest run)."""

    change: str
    lift: float
    weeks: int | None


def _weeks(n: int) -> str:
    return f"{n} week" + ("" if n == 1 else "s")


@dataclass(frozen=True)
class Plan:
    """How long, or why not.

    ``weeks`` and ``days`` are None when the wanted lift is out of reach within the longest run;
    then ``options`` say what would help and by how much. ``power_at_most`` is the power for the
    wanted lift in the longest run. ``as_written`` is what the experiment finds at the length its
    file says. ``curve`` has a point a week.
    """

    metric: str
    lift: float
    weeks: int | None
    units: int
    curve: tuple[Point, ...]
    as_written: float
    power_at_most: float
    options: tuple[Option, ...]

    @property
    def enough(self) -> bool:
        return self.weeks is not None

    @property
    def days(self) -> int | None:
        return None if self.weeks is None else 7 * self.weeks

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        last = self.curve[-1]
        if self.weeks is not None:
            return [
                f"{self.metric}: run {_weeks(self.weeks)} ({self.units:,} units) to find "
                f"{self.lift:+.1%}; as written it finds {self.as_written:.1%}"
            ]
        head = (
            f"{self.metric}: {self.lift:+.1%} is out of reach: {_weeks(last.weeks)} bring "
            f"{self.units:,} units, a power of {self.power_at_most:.0%}"
        )
        return [head] + [
            f"{option.change}: finds {option.lift:.1%} in {_weeks(last.weeks)}"
            + ("" if option.weeks is None else f", and {self.lift:.1%} in {option.weeks}")
            for option in self.options
        ]


def plan(
    experiment: Experiment,
    history: History,
    *,
    eligible: int,
    lift: float,
    max_weeks: int = 8,
    inflation: float = 1.0,
) -> Plan:
    """The length of an experiment for its first success metric alone, in whole weeks.

    Guardrails need sizes of their own: `power.units_for_non_inferiority`, at the power of
    `guardrails.power_of_each`.

    Whole weeks, because Monday's visitors are not Saturday's.

    Parameters
    ----------
    experiment
        Its alpha, power, coverage, range, weights and ``before_days`` are used.
    history
        Of the event that the success metric counts.
    eligible
        Units that could come at all.
    lift
        The smallest relative change worth finding.
    max_weeks
        The longest run that would be accepted; effects drift and cookies die beyond it.
    inflation
        What looking early costs in units, >= 1 (a group-sequential design's inflation factor).

    Raises
    ------
    InputError
        A metric that is neither a mean nor a ratio, no eligible units, a lift of 0, or several
        looks without their inflation.
    """
    require(lift != 0 and bool(np.isfinite(lift)), "lift", lift, "must not be 0", "try 0.02")
    require(eligible >= 4, "eligible", eligible, "must be at least 4")
    require(1 <= max_weeks <= 52, "max_weeks", max_weeks, "must be from 1 to 52")
    require(inflation >= 1, "inflation", inflation, "must be at least 1")
    require(
        experiment.looks is Looks.ONCE or inflation > 1,
        "inflation",
        inflation,
        f"must be above 1 for looks = {experiment.looks.value}",
        "give the inflation factor of the sequential design",
    )
    metric = next(m for m in experiment.metrics if m.role is Role.SUCCESS)
    if metric.kind not in (Kind.MEAN, Kind.RATIO):
        raise InputError(
            f"metric {metric.name} = {metric.kind.value} must be a mean or a ratio; "
            "plan a proportion or a quantile by power.simulated_power"
        )
    setting = _Setting(
        experiment, history, eligible, inflation, metric.kind is Kind.RATIO, metric.cuped
    )
    curve = tuple(setting.point(7 * weeks) for weeks in range(1, max_weeks + 1))
    weeks = setting.weeks(abs(lift), max_weeks)
    last = setting.snapshot(7 * max_weeks)
    units = (curve[-1] if weeks is None else curve[weeks - 1]).units
    size, share = setting.compared(last.share)
    variance = last.variance * (1 - last.variance_reduction if metric.cuped else 1)
    found = power_normal(
        lift * last.mean,
        size / inflation,
        variance,
        treated_share=share,
        alpha=experiment.alpha,
    )
    return Plan(
        metric=metric.name,
        lift=lift,
        weeks=weeks,
        units=units,
        curve=curve,
        as_written=setting.lift(experiment.days),
        power_at_most=float(found),
        options=() if weeks is not None else setting.options(abs(lift), max_weeks),
    )


@dataclass(frozen=True)
class _Setting:
    """Everything that decides what a number of days can find."""

    experiment: Experiment
    history: History
    eligible: int
    inflation: float
    ratio: bool
    cuped: bool

    def snapshot(self, days: float) -> Snapshot:
        before = float(self.experiment.before_days)
        return snapshot(self.history, days, before_days=before, ratio=self.ratio)

    def arrived(self, share: float) -> float:
        low, high = self.experiment.range
        return self.eligible * self.experiment.coverage * (high - low) * share

    def compared(self, share: float) -> tuple[float, float]:
        """Units of the control and of the smallest treatment, and the treatment's share of them."""
        control, *others = self.experiment.weights
        treated = min(others)
        return self.arrived(share) * (control + treated), treated / (control + treated)

    def lift(self, days: float, *, cuped: bool | None = None) -> float:
        now = self.snapshot(days)
        use = self.cuped if cuped is None else cuped
        variance = now.variance * (1 - now.variance_reduction if use else 1)
        size, share = self.compared(now.share)
        effect = detectable_effect(
            size / self.inflation,
            variance,
            treated_share=share,
            alpha=self.experiment.alpha,
            power=self.experiment.power,
        )
        return float(effect / abs(now.mean))

    def point(self, days: int) -> Point:
        now = self.snapshot(days)
        return Point(
            weeks=days // 7,
            days=days,
            units=round(self.arrived(now.share)),
            lift_plain=self.lift(days, cuped=False),
            lift_cuped=self.lift(days, cuped=True),
            variance_reduction=now.variance_reduction,
        )

    def weeks(self, lift: float, most: int) -> int | None:
        """The first number of whole weeks that finds ``lift``."""
        return next((w for w in range(1, most + 1) if self.lift(7 * w) <= lift), None)

    def options(self, lift: float, most: int) -> tuple[Option, ...]:
        """What could be changed, each alone and then all together; the best first."""
        experiment = self.experiment
        n_arms = len(experiment.arms)
        equal = tuple(replace(arm, weight=1 / n_arms) for arm in experiment.arms)
        before = max(LONG_BEFORE, experiment.before_days)
        long_before = replace(experiment, before_days=before)
        changes: list[tuple[str, _Setting]] = []
        if experiment.coverage < 1 or experiment.range != (0.0, 1.0):
            everybody = replace(experiment, coverage=1.0, range=(0.0, 1.0))
            changes.append(("admit every eligible unit", replace(self, experiment=everybody)))
        if max(experiment.weights) - min(experiment.weights) > 1e-9:
            even = replace(experiment, arms=equal)
            changes.append(("arms of equal size", replace(self, experiment=even)))
        if not self.cuped or experiment.before_days < LONG_BEFORE:
            longer = replace(self, experiment=long_before, cuped=True)
            changes.append((f"CUPED with {before} days before", longer))
        if not self.ratio:
            changes.append(("count a session instead of a unit", replace(self, ratio=True)))
        if len(changes) > 1:
            best = replace(
                experiment, coverage=1.0, range=(0.0, 1.0), arms=equal, before_days=before
            )
            everything = replace(self, experiment=best, cuped=True, ratio=True)
            changes.append(("all of these", everything))
        changes.append(("ask for no more than can be seen", self))
        found = [Option(name, s.lift(7 * most), s.weeks(lift, most)) for name, s in changes]
        return tuple(sorted(found, key=lambda option: option.lift))


def arrived(history: History, eligible: int, days: float) -> int:
    """Distinct units expected by day ``days``: ``eligible * mean(1 - exp(-rate days))``."""
    require(days > 0, "days", days, "must be > 0")
    return ceil(eligible * float(-np.expm1(-history.rate * days).mean()))
