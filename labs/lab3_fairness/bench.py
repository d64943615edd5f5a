"""The audit's intervals against fairlearn's: one run, one machine, the same metrics and rows.

``make bench-lab3``. fairlearn's ``MetricFrame(n_boot=...)`` resamples the table and evaluates
every metric on it again; the audit draws the counts of the table's cells. Both give percentile
intervals of the same bootstrap, so they must agree up to the error that a finite number of
replicates leaves. fairlearn is given what it is fastest with: numbers for groups, and this lab's
metrics, which cost less than its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import require
from common.runner import Claim, Run, main

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ends = NDArray[np.float64]

LEAST_BOOT = 1000  # below, fairlearn's fixed costs and the noise of the quantiles drown the rest

CLAIMS = (
    Claim(
        "L3.bench_speed",
        "intervals and nulls of five metrics, against fairlearn's intervals alone: times faster",
        metric="bench.speed_ratio_smallest",
        op=">=",
        target=20,
    ),
    Claim(
        "L3.bench_agreement",
        "interval ends differ from fairlearn's by less than this many Monte Carlo standard errors",
        metric="bench.largest_difference_in_errors",
        op="<=",
        target=4,
    ),
)


@dataclass(frozen=True)
class Bench:
    """How much is resampled, and how often it is timed."""

    n_boot: int = 1000
    """Bootstrap replicates of both, and shuffles of the null that only the audit has."""
    repetitions: int = 3
    """Timings of each, taken in turn, each with its own seed; fairlearn takes minutes a time."""
    seeds: int = 200
    """Bootstraps of cells whose scatter is the Monte Carlo error of an interval's end."""

    def __post_init__(self) -> None:
        require(self.n_boot >= 2, "n_boot", self.n_boot, "must be >= 2", "try 1000")
        require(self.repetitions >= 2, "repetitions", self.repetitions, "must be >= 2", "try 3")
        require(self.seeds >= 20, "seeds", self.seeds, "must be >= 20", "try 200")


SCALES = {
    "smoke": Bench(n_boot=5, repetitions=2, seeds=20),
    "standard": Bench(),
    "full": Bench(repetitions=5),
}


@dataclass(frozen=True)
class Columns:
    """Adult's test half: labels, decisions and sexes as numbers, [n] each."""

    y_true: NDArray[np.int64]
    y_pred: NDArray[np.int64]
    codes: NDArray[np.intp]


def story(run: Run, config: Bench) -> None:
    """Decide about Adult's test half, time both sides in turn, compare their intervals."""
    from statistics import median

    with run.stage("Decide about Adult's test half", key="decide"):
        columns = decisions(run)
    n = len(columns.y_true)
    sides: dict[str, Callable[[Columns, int, int], Any]] = {
        "fairlearn": fairlearn_ends,
        "audit": audit,
        "cells": cell_ends,
        "rows": row_ends,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    ends: dict[str, list[Any]] = {name: [] for name in sides}
    with run.stage("Time both sides in turn", key="timing"):
        for side in sides.values():
            side(columns, 2, run.seed)  # imports, and what is made once
        for repetition in run.progress(range(config.repetitions), "repetitions"):
            for name, side in sides.items():
                start = time.perf_counter()
                found = side(columns, config.n_boot, run.seed + repetition)
                seconds[name].append(time.perf_counter() - start)
                ends[name].append(found)
    how = {
        "fairlearn": "MetricFrame with n_boot: intervals",
        "audit": "group_metrics: intervals of values, gaps and ratios, and nulls",
        "cells": "cell_bootstrap: intervals alone",
        "rows": "stratified_bootstrap of rows: intervals alone",
    }
    for name, taken in seconds.items():
        run.metric(
            f"bench.{name}_s", median(taken), unit="s", n=config.repetitions,
            how=f"{how[name]}; five metrics, 2 groups, {n:,} rows, {config.n_boot} replicates; "
            f"{min(taken):.3g} to {max(taken):.3g} s",
        )  # fmt: skip
    for name in ("audit", "cells", "rows"):
        ratios = [theirs / ours for theirs, ours in zip(seconds["fairlearn"], seconds[name])]
        slug = "" if name == "audit" else f"{name}_"
        for word, value in (
            ("smallest", min(ratios)),
            ("median", median(ratios)),
            ("largest", max(ratios)),
        ):
            run.metric(
                f"bench.{slug}speed_ratio_{word}", value, unit="ratio", n=config.repetitions,
                how=f"seconds of fairlearn over those of: {how[name]}",
            )  # fmt: skip
    with run.stage("Compare the ends of the intervals", key="agreement"):
        compare(run, config, columns, ends)
    if config.n_boot < LEAST_BOOT:
        reason = f"{config.n_boot} replicates; --scale standard draws {LEAST_BOOT}"
        for claim in CLAIMS:
            run.unmeasured(claim.id, reason)


def decisions(run: Run) -> Columns:
    """Logistic regression without ``sex``, threshold 0.5, on the official split."""
    import numpy as np

    from common.data import load
    from labs.lab3_fairness.tabular import features, fit_logistic_regression

    adult = load("adult")
    run.data(adult)
    test = adult.table("test")
    predicted = fit_logistic_regression(adult.table("train")).predict(features(test))
    return Columns(
        test["income"].to_numpy(dtype=np.int64),
        np.asarray(predicted, dtype=np.int64),
        np.asarray(test["sex"] == "Male", dtype=np.intp),
    )


def fairlearn_ends(columns: Columns, n_boot: int, seed: int) -> Ends:
    """fairlearn's intervals of each metric, [2 ends, metrics, 2 groups and their difference]."""
    import numpy as np
    from fairlearn.metrics import MetricFrame

    from labs.lab3_fairness.row_metrics import RATE_METRICS

    frame = MetricFrame(
        metrics=RATE_METRICS,
        y_true=columns.y_true,
        y_pred=columns.y_pred,
        sensitive_features=columns.codes,
        n_boot=n_boot,
        ci_quantiles=[0.025, 0.975],
        random_state=seed,
    )
    names = list(RATE_METRICS)
    return np.array(
        [
            np.column_stack([groups[names].to_numpy(dtype=float).T, gaps[names].to_numpy(float)])
            for groups, gaps in zip(frame.by_group_ci, frame.difference_ci())
        ]
    )


def audit(columns: Columns, n_boot: int, seed: int) -> Any:
    """The whole report, with as many shuffles for the nulls as replicates for the intervals."""
    from labs.lab3_fairness.group_metrics import group_metrics
    from labs.lab3_fairness.row_metrics import RATE_METRICS

    return group_metrics(
        columns.y_true, columns.y_pred, columns.codes, RATE_METRICS,
        n_boot=n_boot, n_permutations=n_boot, seed=seed,
    )  # fmt: skip


def cell_ends(columns: Columns, n_boot: int, seed: int) -> Ends:
    """The percentile intervals of :func:`fairlearn_ends`, from cells."""
    from labs.lab3_fairness.cell_bootstrap import cell_bootstrap, cell_counts
    from labs.lab3_fairness.row_metrics import RATE_METRICS, RowMetric

    cells = cell_counts(columns.y_true, columns.y_pred, columns.codes, 2)
    metrics = {name: m for name, m in RATE_METRICS.items() if isinstance(m, RowMetric)}
    assert cells is not None  # two labels, two decisions
    return _ends(list(cell_bootstrap(cells, metrics, n_boot=n_boot, seed=seed).values()))


def row_ends(columns: Columns, n_boot: int, seed: int) -> Ends:
    """The same from resampled rows."""
    from labs.lab3_fairness.resampling import stratified_bootstrap
    from labs.lab3_fairness.row_metrics import RATE_METRICS

    return _ends(
        [
            stratified_bootstrap(
                columns.y_true, columns.y_pred, columns.codes, metric, n_boot=n_boot, seed=seed
            )
            for metric in RATE_METRICS.values()
        ]
    )


def _ends(replicates: list[Any]) -> Ends:
    """[metrics] of [B, 2] replicates to [2 ends, metrics, 2 groups and their difference]."""
    import numpy as np

    from labs.lab3_fairness.resampling import gaps_of

    values = np.stack(replicates, axis=1)
    every = np.concatenate([values, gaps_of(values)[..., np.newaxis]], axis=-1)
    return np.asarray(np.quantile(every, [0.025, 0.975], axis=0))


def compare(run: Run, config: Bench, columns: Columns, ends: dict[str, list[Any]]) -> None:
    """How far each side's interval ends lie from ours, beside what chance alone gives."""
    import numpy as np

    ours = np.stack(
        [cell_ends(columns, config.n_boot, 10_000 + seed) for seed in range(config.seeds)]
    )
    error = ours.std(axis=0, ddof=1)
    run.metric(
        "bench.monte_carlo_error", float(error.max()), unit="difference", n=config.seeds,
        how=f"largest standard deviation of an end over seeds, {config.n_boot} replicates",
    )  # fmt: skip
    for name, slug in (("fairlearn", ""), ("rows", "rows_")):
        off = np.stack(ends[name]) - ours.mean(axis=0)
        # Both sides are uncertain: one run of theirs, the mean of many of ours.
        scale = np.maximum(error, 1e-12) * np.sqrt(1 + 1 / config.seeds)
        run.metric(
            f"bench.{slug}largest_difference", float(np.abs(off).max()), unit="difference",
            n=off.size, how=f"of {off.size} interval ends of {name}, to the mean of ours",
        )  # fmt: skip
        run.metric(
            f"bench.{slug}largest_difference_in_errors", float((np.abs(off) / scale).max()),
            unit="standard errors", n=off.size,
            how="Monte Carlo standard errors; the largest of as many normal values is about "
            f"{_largest_normal(off.size):.1f}",
        )  # fmt: skip


def _largest_normal(n: int) -> float:
    """The median of the largest of n absolute standard normal values."""
    from scipy.stats import norm

    return float(norm.isf((1 - 0.5 ** (1 / n)) / 2))


if __name__ == "__main__":
    main(
        "lab3_fairness_bench",
        SCALES,
        story,
        title="Lab 3, benchmark: the audit's intervals against fairlearn's",
        claims=CLAIMS,
        program="labs.lab3_fairness.bench",
    )
