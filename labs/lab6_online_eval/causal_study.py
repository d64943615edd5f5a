"""The whole study of causes: job training judged by its experiment, and four quasi-experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labs.lab6_online_eval.observational_study import ObservationalStudy, study_observational
from labs.lab6_online_eval.quasi_experiments import QuasiExperiments, study_quasi_experiments

if TYPE_CHECKING:
    from common.data import Dataset
    from labs.lab6_online_eval.causal_estimate import Estimate
    from labs.lab6_online_eval.world import Ints, World


@dataclass(frozen=True)
class CausalStudy:
    """Both halves."""

    observational: ObservationalStudy
    quasi: QuasiExperiments

    def metrics(self) -> list[tuple[str, float, str, tuple[float, float] | None]]:
        """What the run records beyond job training: (name, value, unit, 95 % interval)."""
        q = self.quasi
        invited, launch, voucher = q.invited.found, q.launch, q.voucher
        rows: list[tuple[str, float, str, tuple[float, float] | None]] = [
            ("iv.cace.effect", invited.cace.effect, "clicks/session", invited.cace.ci95),
            ("iv.cace.truth", q.invited.true_cace, "clicks/session", None),
            ("iv.cace.z", _distance(invited.cace.effect, q.invited.true_cace, invited.cace.se),
             "SE", None),
            ("iv.itt.effect", invited.itt.effect, "clicks/session", invited.itt.ci95),
            ("iv.as_treated.effect", invited.as_treated.effect, "clicks/session",
             invited.as_treated.ci95),
            ("iv.per_protocol.effect", invited.per_protocol.effect, "clicks/session",
             invited.per_protocol.ci95),
            ("iv.first_stage_f", invited.first_stage_f, "F", None),
            ("voucher.take_up_gain", voucher.learned_with - voucher.learned_without, "ratio", None),
            ("voucher.first_stage_f", voucher.first_stage_f, "F", None),
            ("voucher.mean_effect", _mean(voucher.two_stage), "simulated purchases", None),
            ("voucher.mean_as_treated", _mean(voucher.as_treated), "simulated purchases", None),
            ("voucher.coverage", voucher.coverage, "ratio", None),
            ("rd.effect", launch.found.robust.effect, "clicks/session", launch.found.robust.ci95),
            ("rd.z", _distance(launch.found.robust.effect, launch.data.effect,
                               launch.found.robust.se), "SE", None),
            ("rd.naive", launch.naive, "clicks/session", None),
            ("rd.bandwidth", launch.found.bandwidth, "score", None),
            ("rd.density_p", launch.density.p, "p", None),
            ("rd.density_p_manipulated", launch.manipulated.p, "p", None),
            ("did.staggered.two_way", q.rollout.two_way, "outcome", None),
            ("did.staggered.group_time", q.rollout.group_time.mean, "outcome", None),
            ("did.staggered.truth", q.rollout.truth, "outcome", None),
            ("uplift.oracle.qini", q.uplift.oracle.coefficient, "outcome", None),
            ("uplift.oracle.measured_qini", q.uplift.oracle_measured.coefficient, "outcome", None),
            ("uplift.by_outcome.qini", q.uplift.by_outcome.coefficient, "outcome", None),
            ("uplift.job_training.qini", q.uplift.training.coefficient, "USD",
             q.uplift.training_ci95),
        ]  # fmt: skip
        for name, found in q.uplift.learners.items():
            rows += [
                (f"uplift.{name}.qini", found.measured.coefficient, "outcome", found.ci95),
                (f"uplift.{name}.true_qini", found.true.coefficient, "outcome", None),
                (f"uplift.{name}.top_fifth", found.top.effect, "outcome", found.top.ci95),
            ]
        return rows


def study_causal(
    dataset: Dataset,
    world: World,
    lists: tuple[Ints, Ints],
    *,
    repetitions: int = 40,
    n_units: int = 20_000,
    n_campaign: int = 6000,
    n_boot: int = 200,
    seed: int = 0,
) -> CausalStudy:
    """Both halves; sizes as in `study_observational` and `study_quasi_experiments`."""
    return CausalStudy(
        study_observational(dataset, repetitions=repetitions, seed=seed),
        study_quasi_experiments(
            dataset,
            world,
            lists,
            n_units=n_units,
            n_campaign=n_campaign,
            n_boot=n_boot,
            seed=seed,
        ),
    )


def _mean(estimates: Sequence[Estimate]) -> float:
    return float(sum(each.effect for each in estimates) / len(estimates))


def _distance(found: float, truth: float, se: float) -> float:
    return abs(found - truth) / se
