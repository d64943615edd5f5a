"""Four designs that find an effect without assigning it, each where the truth is known.

An encouragement, a cutoff, a staggered rollout and a campaign with different effects on different
people. All are simulated, except the voucher of Malawi and who followed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labs.lab6_online_eval.causal_estimate import Estimate, Floats, difference_in_means, study
from labs.lab6_online_eval.difference_in_differences import (
    GroupTime,
    group_time_effects,
    simulate_rollout,
    two_way_fixed_effects,
)
from labs.lab6_online_eval.doubly_robust import stratified_folds
from labs.lab6_online_eval.encouragement import (
    encouragement_experiment,
    read_voucher,
    simulate_purchases,
)
from labs.lab6_online_eval.instrumental_variables import (
    Encouragement,
    analyse_encouragement,
    two_stage_least_squares,
)
from labs.lab6_online_eval.regression_discontinuity import (
    DensityTest,
    Discontinuity,
    Launch,
    density_test,
    placebo_cutoffs,
    regression_discontinuity,
    simulate_launch_rule,
)
from labs.lab6_online_eval.uplift import (
    boosted_trees,
    dr_learner,
    s_learner,
    simulate_campaign,
    t_learner,
    x_learner,
)
from labs.lab6_online_eval.uplift_metrics import (
    Qini,
    qini_curve,
    qini_interval,
    true_qini,
    uplift_at,
)

if TYPE_CHECKING:
    from common.data import Dataset
    from labs.lab6_online_eval.world import Ints, World

TOP = 0.2
PURCHASE_EFFECT = 0.5
OUTCOMES = 100
PLACEBOS = (0.2, 0.3, 0.4, 0.6, 0.7)


@dataclass(frozen=True)
class InvitedUsers:
    """The encouragement in the lab's world, beside its true effects."""

    found: Encouragement
    true_cace: float
    true_itt: float


@dataclass(frozen=True)
class VoucherStudy:
    """The real voucher, with many simulated outcomes on the same people.

    ``learned_without``, ``learned_with``: shares that fetched their result; ``two_stage``,
    ``as_treated``: one estimate an outcome.
    """

    n: int
    learned_without: float
    learned_with: float
    first_stage_f: float
    two_stage: tuple[Estimate, ...]
    as_treated: tuple[Estimate, ...]
    truth: float

    @property
    def coverage(self) -> float:
        """Share of the two-stage intervals that hold the truth."""
        return float(np.mean([each.covers(self.truth) for each in self.two_stage]))


@dataclass(frozen=True)
class LaunchStudy:
    """The simulated launch rule, honest and manipulated."""

    data: Launch
    found: Discontinuity
    naive: float
    placebos: tuple[tuple[float, Estimate], ...]
    density: DensityTest
    manipulated: DensityTest


@dataclass(frozen=True)
class RolloutStudy:
    """A simulated rollout in waves whose effect grows."""

    two_way: float
    group_time: GroupTime
    truth: float


@dataclass(frozen=True)
class LearnerResult:
    """One meta-learner on units that it has not seen.

    ``measured``: Qini curve from outcomes, with the interval ``ci95`` of its coefficient; ``true``:
    from the known effects; ``top``: measured effect in the top fifth; ``error``: root mean squared
    error of the predicted effects.
    """

    measured: Qini
    ci95: tuple[float, float]
    true: Qini
    top: Estimate
    error: float


@dataclass(frozen=True)
class UpliftStudy:
    """The simulated campaign: learners by name, ``oracle`` (the ranking by the truth, by the known
    effects and as measured) and ``by_outcome`` (by the outcome expected without a treatment).
    ``training``: job training's own ranking."""

    learners: dict[str, LearnerResult]
    oracle: Qini
    oracle_measured: Qini
    by_outcome: Qini
    training: Qini
    training_ci95: tuple[float, float]


@dataclass(frozen=True)
class QuasiExperiments:
    """All of it."""

    invited: InvitedUsers
    voucher: VoucherStudy
    launch: LaunchStudy
    rollout: RolloutStudy
    uplift: UpliftStudy


def study_quasi_experiments(
    dataset: Dataset,
    world: World,
    lists: tuple[Ints, Ints],
    *,
    n_units: int = 20_000,
    n_campaign: int = 6000,
    n_boot: int = 200,
    seed: int = 0,
) -> QuasiExperiments:
    """Run the four designs.

    Parameters
    ----------
    dataset
        ``load("nsw")``, for the voucher and the job training.
    lists
        Int [n_users, k] twice: what a user is shown without and with the new ranker.
    n_units, n_campaign
        Units of the encouragement; people of the campaign, to learn from and to judge by.
    n_boot
        Resamples of each Qini interval.
    """
    return QuasiExperiments(
        invited=_invite(world, lists, n_units, seed),
        voucher=_vouchers(dataset, seed),
        launch=_launch(n_units // 4, seed),
        rollout=_roll_out(seed),
        uplift=_campaign(dataset, n_campaign, n_boot, seed),
    )


def _invite(world: World, lists: tuple[Ints, Ints], n_units: int, seed: int) -> InvitedUsers:
    data = encouragement_experiment(world, *lists, n_units=n_units, seed=seed)
    found = analyse_encouragement(data.outcome, data.received, data.assigned)
    return InvitedUsers(found, data.true_cace, data.true_itt)


def _vouchers(dataset: Dataset, seed: int) -> VoucherStudy:
    voucher = read_voucher(dataset)
    rng = np.random.default_rng([seed, 1])
    outcomes = [simulate_purchases(voucher, rng, effect=PURCHASE_EFFECT) for _ in range(OUTCOMES)]
    found = [
        two_stage_least_squares(
            outcome,
            voucher.learned.astype(float),
            np.column_stack([voucher.offered, voucher.value]),
            voucher.distance[:, None],
            clusters=voucher.village,
        )
        for outcome in outcomes
    ]
    return VoucherStudy(
        n=len(voucher.learned),
        learned_without=float(voucher.learned[~voucher.offered].mean()),
        learned_with=float(voucher.learned[voucher.offered].mean()),
        first_stage_f=found[0].first_stage_f,
        two_stage=tuple(each.estimate for each in found),
        as_treated=tuple(difference_in_means(outcome, voucher.learned) for outcome in outcomes),
        truth=PURCHASE_EFFECT,
    )


def _launch(n: int, seed: int) -> LaunchStudy:
    rng = np.random.default_rng([seed, 2])
    data = simulate_launch_rule(rng, n)
    above = data.treated
    return LaunchStudy(
        data=data,
        found=regression_discontinuity(data.outcome, data.score, data.cutoff),
        naive=float(data.outcome[above].mean() - data.outcome[~above].mean()),
        placebos=tuple(placebo_cutoffs(data.outcome, data.score, data.cutoff, PLACEBOS)),
        density=density_test(data.score, data.cutoff),
        manipulated=density_test(simulate_launch_rule(rng, n, manipulated=0.5).score, data.cutoff),
    )


def _roll_out(seed: int) -> RolloutStudy:
    outcome, start, truth = simulate_rollout(np.random.default_rng([seed, 3]))
    return RolloutStudy(
        two_way_fixed_effects(outcome, start), group_time_effects(outcome, start), truth
    )


def _campaign(dataset: Dataset, n: int, n_boot: int, seed: int) -> UpliftStudy:
    rng = np.random.default_rng([seed, 4])
    learn, judge = simulate_campaign(rng, n), simulate_campaign(rng, n)
    x, y, t = judge.study.covariates, judge.study.outcome, judge.study.treated
    fitted: dict[str, Any] = {
        "s_learner": s_learner(learn.study, boosted_trees),
        "t_learner": t_learner(learn.study, boosted_trees),
        "x_learner": x_learner(learn.study, boosted_trees),
        "dr_learner": dr_learner(learn.study, boosted_trees, folds=2, seed=seed),
    }
    learners = {}
    for name, uplift in fitted.items():
        predicted = uplift(x)
        learners[name] = LearnerResult(
            measured=qini_curve(y, t, predicted),
            ci95=qini_interval(y, t, predicted, n_boot=n_boot, seed=seed),
            true=true_qini(judge.uplift, predicted),
            top=uplift_at(y, t, predicted, TOP),
            error=float(np.sqrt(np.mean((predicted - judge.uplift) ** 2))),
        )
    expected = boosted_trees().fit(
        learn.study.covariates[~learn.study.treated], learn.study.outcome[~learn.study.treated]
    )
    training, interval = _training(dataset, n_boot, seed)
    return UpliftStudy(
        learners=learners,
        oracle=true_qini(judge.uplift, judge.uplift),
        oracle_measured=qini_curve(y, t, judge.uplift),
        by_outcome=true_qini(judge.uplift, expected.predict(x)),
        training=training,
        training_ci95=interval,
    )


def _training(dataset: Dataset, n_boot: int, seed: int) -> tuple[Qini, tuple[float, float]]:
    """Who gains from job training? Predicted for each half of the experiment by the other half."""
    table = dataset.table("nsw")
    names = ("age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75")
    data = study(table["re78"], table["treat"], table[list(names)].to_numpy(), names)
    folds = stratified_folds(data.treated, 2, seed)
    predicted: Floats = np.empty(data.n)
    for fold in (0, 1):
        inside = folds == fold
        predicted[inside] = t_learner(data.where(~inside))(data.covariates[inside])
    curve = qini_curve(data.outcome, data.treated, predicted)
    return curve, qini_interval(data.outcome, data.treated, predicted, n_boot=n_boot, seed=seed)
