"""The design stage of the lab: from the world's history to a size, a length and a design."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab6_online_eval.cluster_randomisation import (
    Interference,
    SharedStock,
    compare_randomisations,
)
from labs.lab6_online_eval.cuped_extensions import PastGain, movielens_past
from labs.lab6_online_eval.duration import (
    Plan,
    Snapshot,
    history_of,
    plan,
    replay,
    snapshot,
)
from labs.lab6_online_eval.experiment import Experiment, Kind, Role
from labs.lab6_online_eval.post_stratification import DesignComparison, compare_designs
from labs.lab6_online_eval.power import TwoArms, power_t, units_needed
from labs.lab6_online_eval.simulated_power import (
    PilotPromise,
    SimulatedPower,
    pilot_promises,
    simulated_power,
)
from labs.lab6_online_eval.switchback import (
    BlockLength,
    Market,
    block_length_study,
    user_split_effect,
)
from labs.lab6_online_eval.world import Ints, World, simulate

if TYPE_CHECKING:
    from common.data import Dataset

Floats = NDArray[np.float64]
LOG_SIGMA = 2.0
PILOT_LIFT = 0.2
SCARCE = 0.1
DESIGN_REPEATS = 5


@dataclass(frozen=True)
class PowerCheck:
    """The formula's power beside the simulated one, for ``n_units`` units in all."""

    n_units: int
    formula: float
    simulated: SimulatedPower

    @property
    def gap(self) -> float:
        return abs(self.formula - self.simulated.power)


@dataclass(frozen=True)
class DesignStudy:
    """What the design stage records.

    Attributes
    ----------
    lift
        The true relative effect of the treatment on clicks a unit, which the plan wants to find.
    units_at_planned_length
        Units by the formula for the metric's variance at the planned length, without CUPED.
    plan_plain, plan_cuped, plan_ratio, plan_scarce
        For clicks a unit without and with CUPED, for clicks a session with CUPED, and the first
        with a tenth of the eligible units.
    exact, replayed
        The metric at 14 days by closed form and read from a simulated log.
    plain, cuped
        Power at the planned length, in the lab's world.
    past
        CUPED's gain by length of the past, on MovieLens users.
    pilot
        Sizes planned from small pilots of a heavy-tailed metric.
    designs
        Post-stratification beside CUPED and stratified assignment, on the world's units.
    interference, blocks, user_split
        Cluster randomisation, switchback designs, and what a split of visitors would report of
        the same market.
    """

    lift: float
    units_at_planned_length: int
    plan_plain: Plan
    plan_cuped: Plan
    plan_ratio: Plan
    plan_scarce: Plan
    exact: Snapshot
    replayed: Snapshot
    plain: PowerCheck
    cuped: PowerCheck
    past: tuple[PastGain, ...]
    pilot: PilotPromise
    designs: DesignComparison
    interference: Interference
    blocks: tuple[BlockLength, ...]
    user_split: float


def unit_clicks(
    world: World, lists: Ints, people: Ints, sessions: Ints, rng: np.random.Generator
) -> Floats:
    """Clicks of each unit over its ``sessions`` (int [n]), without drawing each session: [n].

    The clicks at one position over N sessions are Binomial(N, p): the law of `world.simulate`
    under a constant effect, at a tenth of the cost.
    """
    chance = world.click_probability(people, lists[people])
    return np.asarray(rng.binomial(sessions[:, None], chance).sum(axis=1), dtype=float)


@dataclass(frozen=True)
class Pool:
    """Units that came, with what each arm makes of the same ones, and before: float [m] each."""

    control: Floats
    treatment: Floats
    before: Floats


def draw_pool(
    world: World,
    lists: tuple[Ints, Ints],
    *,
    n: int,
    days: float,
    before_days: float,
    seed: int,
) -> Pool:
    """The units that came of n eligible ones: clicks under control and treatment, and before."""
    rng = np.random.default_rng(seed)
    people = rng.integers(0, world.n_users, n)
    sessions = rng.poisson(world.visits[people] * days)
    people, sessions = people[sessions > 0], sessions[sessions > 0]
    require(len(people) >= 100, "units that came", len(people), "must be at least 100")
    earlier = rng.poisson(world.visits[people] * before_days)
    return Pool(
        unit_clicks(world, lists[0], people, sessions, rng),
        unit_clicks(world, lists[1], people, sessions, rng),
        unit_clicks(world, lists[0], people, earlier, rng),
    )


def study_design(
    world: World,
    lists: tuple[Ints, Ints],
    dataset: Dataset,
    experiment: Experiment,
    *,
    eligible: int = 20_000,
    pool: int = 100_000,
    n_experiments: int = 3000,
    n_simulations: int = 300,
    seed: int = 0,
) -> DesignStudy:
    """Everything of the design stage, for the ranking test ``lists[1]`` against ``lists[0]``.

    Parameters
    ----------
    lists
        What each user of the world is shown under control and treatment: int [n_users, k] each.
    dataset
        ``load("ml-100k")``.
    experiment
        Its first success metric is planned as a mean (clicks a unit) and as a ratio.
    eligible
        Units that could come.
    pool, n_experiments
        Units drawn once, and experiments simulated from them, for the power at the planned length.
    n_simulations
        Experiments of each design on the simulated markets and clusters.
    """
    history = history_of(world, lists[0])
    visits = world.visits
    clicks = [np.average(world.expected_clicks(each), weights=visits) for each in lists]
    lift = float(clicks[1] / clicks[0] - 1)
    as_mean = _first_metric(experiment, Kind.MEAN)
    plain_metric = replace(as_mean.metrics[0], cuped=False)
    as_plain = replace(as_mean, metrics=(plain_metric, *as_mean.metrics[1:]))
    as_ratio = _first_metric(experiment, Kind.RATIO)
    plans = [
        plan(each, history, eligible=eligible, lift=lift) for each in (as_plain, as_mean, as_ratio)
    ]
    scarce = plan(as_mean, history, eligible=max(4, int(SCARCE * eligible)), lift=lift)
    days = plans[1].days or 7 * len(plans[1].curve)
    before_days = float(experiment.before_days)
    now = snapshot(history, days, before_days=before_days)
    checks = _power_checks(
        world, lists, now, plans[1].units, before_days, pool, n_experiments, seed
    )
    rng = np.random.default_rng([seed, 1])
    people = rng.integers(0, world.n_users, eligible)
    log = simulate(
        world,
        lists[:1],
        np.zeros(eligible, dtype=np.int64),
        people,
        days=before_days + 14,
        seed=seed,
        start=-before_days,
    )
    units = draw_pool(
        world, (lists[0], lists[0]), n=4000, days=14, before_days=before_days, seed=seed
    )
    tail = np.exp(LOG_SIGMA * np.random.default_rng([seed, 2]).standard_normal(pool))
    market = Market()
    return DesignStudy(
        lift=lift,
        units_at_planned_length=units_needed(
            lift, now.mean, now.variance, alpha=experiment.alpha, power=experiment.power
        ),
        plan_plain=plans[0],
        plan_cuped=plans[1],
        plan_ratio=plans[2],
        plan_scarce=scarce,
        exact=snapshot(history, 14, before_days=before_days),
        replayed=replay(log, n_eligible=eligible, days=14, before_days=before_days),
        plain=checks[0],
        cuped=checks[1],
        past=movielens_past(dataset),
        pilot=pilot_promises(tail, PILOT_LIFT, n_pilots=n_simulations, seed=seed),
        designs=compare_designs(
            units.control, units.before, n_experiments=DESIGN_REPEATS * n_simulations, seed=seed
        ),
        interference=compare_randomisations(SharedStock(), n_experiments=n_simulations, seed=seed),
        blocks=block_length_study(market, n_experiments=n_simulations, seed=seed),
        user_split=user_split_effect(market, seed=seed),
    )


def _power_checks(
    world: World,
    lists: tuple[Ints, Ints],
    now: Snapshot,
    units: int,
    before_days: float,
    pool: int,
    n_experiments: int,
    seed: int,
) -> tuple[PowerCheck, PowerCheck]:
    """Formula against simulation for clicks a unit, without CUPED and with it."""
    treated = snapshot(history_of(world, lists[1]), now.days, before_days=before_days)
    drawn = draw_pool(world, lists, n=pool, days=now.days, before_days=before_days, seed=seed)
    half = units // 2
    checks = []
    for covariate, left in ((None, 1.0), (drawn.before, 1 - now.variance_reduction)):
        effect = float(drawn.treatment.mean() - drawn.control.mean())
        # a relative effect stretches the metric, so the treatment's variance is larger
        arms = TwoArms(half, half, left * now.variance, left * treated.variance)
        formula = power_t(effect, arms)
        simulated = simulated_power(
            drawn.control,
            drawn.treatment,
            half,
            half,
            control_covariate=covariate,
            treatment_covariate=covariate,
            n_experiments=n_experiments,
            seed=seed,
        )
        checks.append(PowerCheck(2 * half, formula, simulated))
    return checks[0], checks[1]


def _first_metric(experiment: Experiment, kind: Kind) -> Experiment:
    """The experiment with its first success metric, read as ``kind`` with CUPED, and no other."""
    for metric in experiment.metrics:
        if metric.role is Role.SUCCESS and metric.kind in (Kind.MEAN, Kind.RATIO):
            denominator = (metric.denominator or "session") if kind is Kind.RATIO else None
            name = f"{metric.event}s a {denominator or 'unit'}"
            changed = replace(metric, name=name, kind=kind, denominator=denominator, cuped=True)
            return replace(experiment, metrics=(changed,))
    raise InputError(
        f"metrics = {[m.name for m in experiment.metrics]} must hold a success metric that is a "
        "mean or a ratio; the others are planned by simulation"
    )
