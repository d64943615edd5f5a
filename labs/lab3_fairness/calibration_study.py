"""The lab's questions about calibration and uncertainty, each asked of real people's rows.

Adult in its official split, COMPAS cut at random; nothing is judged on rows that it was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import require
from labs.lab3_fairness.calibration import (
    Floats,
    ReliabilityCurve,
    equal_mass_edges,
    reliability_curve,
)
from labs.lab3_fairness.calibration_audit import (
    GroupAudit,
    Sample,
    audit_groups,
    census_groups,
    overlapping_groups,
)
from labs.lab3_fairness.calibration_report import GroupCalibration, calibration_report
from labs.lab3_fairness.conformal import (
    coverage_by_group,
    lac_scores,
    mondrian_conformal,
    split_conformal,
    two_labels,
)
from labs.lab3_fairness.decisions import Outcome, outcome
from labs.lab3_fairness.multicalibration import Multicalibrator, multicalibrate
from labs.lab3_fairness.recalibration import (
    Recalibrated,
    Scored,
    compare_recalibrations,
    per_group,
    platt,
)
from labs.lab3_fairness.scoring import Fit, cross_fitted, scores
from labs.lab3_fairness.tabular import Task, adult_task, compas_task
from labs.lab3_fairness.uncertainty import (
    bootstrap_ensemble,
    selective_accuracy,
    uncertainty_by_group,
)

CENSUS_COLUMNS = ("sex", "race", "age", "schooling")


@dataclass(frozen=True)
class CompasCalibration:
    """Own model of COMPAS on the two large groups' test rows: calibration, and its repairs."""

    groups: tuple[GroupCalibration, ...]
    curves: Mapping[str, ReliabilityCurve]
    recalibrated: tuple[Recalibrated, ...]


def calibrate_compas(
    table: pd.DataFrame, make: Fit, *, n_boot: int = 500, seed: int = 0
) -> CompasCalibration:
    """Fit on two thirds, recalibrate on their out-of-fold scores, judge on the last third.

    Parameters
    ----------
    table
        ``scores`` of the data set ``compas``.
    make
        ``make(seed)`` returns an unfitted model.
    n_boot
        Bootstrap replicates, and simulations of the null.
    seed
        Of the split and all that follows.
    """
    task = compas_task(table)
    train, test = (task.rows(part) for part in _parts(len(task), (2, 1), seed))
    model = make(seed).fit(train.features, train.labels)
    fitted_on = Scored(train.labels, cross_fitted(make, train, seed=seed), train.groups)
    judged_on = Scored(test.labels, scores(model, test.features), test.groups)
    return CompasCalibration(
        groups=calibration_report(
            test.labels, judged_on.scores, test.groups, n_simulations=n_boot, seed=seed
        ),
        curves=_curves(judged_on),
        recalibrated=compare_recalibrations(fitted_on, judged_on, n_boot=n_boot, seed=seed),
    )


@dataclass(frozen=True)
class AuditedScore:
    """One score of Adult's test rows: its audit over hundreds of groups, and what it decides."""

    audit: GroupAudit
    log_loss: float
    outcome: Outcome


@dataclass(frozen=True)
class AdultMulticalibration:
    """A model's score as it is, calibrated for each sex, and multicalibrated."""

    plain: AuditedScore
    per_sex: AuditedScore
    multicalibrated: AuditedScore
    corrections: Multicalibrator


def multicalibrate_adult(
    train_table: pd.DataFrame,
    test_table: pd.DataFrame,
    make: Fit,
    *,
    n_boot: int = 500,
    n_simulations: int = 500,
    seed: int = 0,
) -> AdultMulticalibration:
    """Correct out-of-fold scores on two thirds of the training rows, stop on the last third.

    Groups are the conjunctions of up to three of sex, race, age band and schooling with at least
    100 training rows.

    Parameters
    ----------
    train_table, test_table
        Of the data set ``adult``.
    make
        ``make(seed)`` returns an unfitted model.
    n_boot
        Replicates of the intervals of the decisions' accuracy and gaps.
    n_simulations
        Data sets with right scores, for the null of the largest deviation.
    seed
        Of all.
    """
    train, test = adult_task(train_table), adult_task(test_table)
    cuts = census_groups(train_table)
    family = overlapping_groups(cuts, CENSUS_COLUMNS, depth=3, min_rows=100)
    members, there = family.members(cuts), family.members(census_groups(test_table))
    own = cross_fitted(make, train, seed=seed)
    plain = scores(make(seed).fit(train.features, train.labels), test.features)
    by_sex = per_group(platt, train.labels, own, train.groups)(plain, test.groups)
    fit, held_out = (
        Sample(train.labels[part], own[part], members[part])
        for part in _parts(len(train), (2, 1), seed)
    )
    corrections = multicalibrate(fit, held_out)

    def judged(values: Floats) -> AuditedScore:
        sample = Sample(test.labels, values, there)
        kept = np.clip(np.where(test.labels == 1, values, 1 - values), 1e-6, 1)
        return AuditedScore(
            audit_groups(sample, family.names, n_simulations=n_simulations, seed=seed),
            -float(np.log(kept).mean()),
            outcome(test.labels, values > 0.5, test.groups, n_boot=n_boot, seed=seed),
        )

    return AdultMulticalibration(
        judged(plain), judged(by_sex), judged(corrections(plain, there)), corrections
    )


@dataclass(frozen=True)
class Coverage:
    """Sets by one threshold for all and by one a group; see :func:`coverage_by_group`."""

    alpha: float
    n_calibration: Mapping[str, int]
    marginal: pd.DataFrame
    mondrian: pd.DataFrame


def cover(train: Task, calibration: Task, test: Task, make: Fit, *, alpha: float = 0.1) -> Coverage:
    """Split conformal sets of a model fitted on ``train``; groups are those of the tasks."""
    model = make(0).fit(train.features, train.labels)
    own, new = (
        lac_scores(two_labels(scores(model, part.features))) for part in (calibration, test)
    )
    marginal = split_conformal(own, calibration.labels, new, alpha=alpha)
    each = mondrian_conformal(
        own, calibration.labels, calibration.groups, new, test.groups, alpha=alpha
    )
    names, counts = np.unique(calibration.groups.astype(str), return_counts=True)
    return Coverage(
        alpha,
        dict(zip(names.tolist(), counts.tolist())),
        coverage_by_group(marginal, test.labels, test.groups),
        coverage_by_group(each, test.labels, test.groups),
    )


def cover_adult(
    train_table: pd.DataFrame,
    test_table: pd.DataFrame,
    make: Fit,
    *,
    column: str = "sex",
    alpha: float = 0.1,
    seed: int = 0,
) -> Coverage:
    """Fit on two thirds of the training rows, calibrate on the rest, cover the test rows."""
    train, test = _by(train_table, column), _by(test_table, column)
    fit, calibration = (train.rows(part) for part in _parts(len(train), (2, 1), seed))
    return cover(fit, calibration, test, make, alpha=alpha)


def cover_compas(table: pd.DataFrame, make: Fit, *, alpha: float = 0.1, seed: int = 0) -> Coverage:
    """Fit on half of the two large groups' rows, calibrate on a quarter, cover a quarter."""
    task = compas_task(table)
    train, own, test = (task.rows(part) for part in _parts(len(task), (2, 1, 1), seed))
    return cover(train, own, test, make, alpha=alpha)


@dataclass(frozen=True)
class AdultUncertainty:
    """Ensemble of Adult: uncertainty by race, and accuracy of sex and income where it decides."""

    by_race: pd.DataFrame
    by_sex: pd.DataFrame
    selective: pd.DataFrame


def doubt_adult(
    train_table: pd.DataFrame,
    test_table: pd.DataFrame,
    make: Fit,
    *,
    n_members: int = 10,
    n_rows: int | None = None,
    seed: int = 0,
) -> AdultUncertainty:
    """A bootstrap ensemble's doubt, and what abstaining in doubt does to whom.

    Parameters
    ----------
    train_table, test_table
        Of the data set ``adult``.
    make
        ``make(seed)`` returns an unfitted model.
    n_members
        Models.
    n_rows
        Training rows drawn at random beforehand; None takes all.
    seed
        Of all.
    """
    train, test = adult_task(train_table), adult_task(test_table)
    if n_rows is not None:
        require(100 <= n_rows <= len(train), "n_rows", n_rows, f"must be 100 to {len(train)}")
        train = train.rows(np.random.default_rng(seed).permutation(len(train))[:n_rows])
    members = bootstrap_ensemble(make, train, test.features, n_members=n_members, seed=seed)
    income = np.where(test.labels == 1, "> 50K", "<= 50K")
    cells = np.array([f"{sex} {level}" for sex, level in zip(test.groups, income)], dtype=object)
    return AdultUncertainty(
        uncertainty_by_group(members, test_table["race"].to_numpy(dtype=object)),
        uncertainty_by_group(members, test.groups),
        selective_accuracy(test.labels, members.mean(axis=0), cells),
    )


def _by(table: pd.DataFrame, column: str) -> Task:
    task = adult_task(table)
    require(column in table, "column", column, f"must be one of {list(table.columns)}")
    return Task(task.features, task.labels, table[column].to_numpy(dtype=object))


def _curves(rows: Scored, n_bins: int = 8) -> dict[str, ReliabilityCurve]:
    curves = {}
    for name in np.unique(rows.groups.astype(str)):
        own = rows.groups.astype(str) == name
        edges = equal_mass_edges(rows.scores[own], n_bins)
        curves[str(name)] = reliability_curve(rows.y_true[own], rows.scores[own], edges)
    return curves


def _parts(n: int, shares: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Row numbers 0 to n - 1 in random order, cut in proportion to the shares."""
    order = np.random.default_rng(seed).permutation(n)
    cuts = np.cumsum(shares)[:-1] * n // sum(shares)
    return np.split(order, cuts)
