"""The lab's silent failures: ``python -m labs.lab6_online_eval.traps``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.data import load
from common.traps import Trap, show
from labs.lab6_online_eval.assignment import assign_many, unit_points_v1
from labs.lab6_online_eval.calibration import crossed, peeking_false_positives
from labs.lab6_online_eval.significance import Moments, compare, compare_moments
from labs.lab6_online_eval.users import split_in_time

HALVES = (0.5, 0.5)
TESTS = 500


def one_hash_pass() -> Trap:
    """Two 50/50 experiments on the same users, hashed once with the name at the end."""
    ids = np.arange(100_000).astype(str)
    old = [(unit_points_v1(ids, name) >= 0.5).astype(np.int64) for name in ("exp1", "exp2")]
    new = [assign_many(ids, name, HALVES) for name in ("exp1", "exp2")]
    return Trap(
        title="Two experiments that know of each other",
        wrong=("users by arm, hashed once, id + name", crossed(*old).tolist()),
        right=("users by arm, hashed twice, name + id", crossed(*new).tolist()),
        why="All four cells should be 25,000. With one pass of FNV-1a the last characters barely "
        "spread, so who is treated in exp1 says something about exp2, and one experiment's effect "
        "leaks into the other.",
    )


def ratings_as_units() -> Trap:
    """Users are randomised, but each rating is counted as an independent observation."""
    table = load("ml-100k").table("interactions")
    groups = table.groupby("user_id")["rating"]
    sums = groups.agg(["size", "sum", "mean"])
    squares = (table["rating"] ** 2).groupby(table["user_id"]).sum()
    ids = sums.index.astype(str).to_numpy().astype(np.str_)
    wrong = right = 0
    for test in range(TESTS):
        treated = assign_many(ids, f"trap-{test}", HALVES) == 1
        arms = [
            Moments.of_sums(
                int(sums.loc[mask, "size"].sum()),
                float(sums.loc[mask, "sum"].sum()),
                float(squares[mask].sum()),
            )
            for mask in (~treated, treated)
        ]
        wrong += compare_moments(*arms).p < 0.05
        right += compare(sums.loc[~treated, "mean"], sums.loc[treated, "mean"]).p < 0.05
    return Trap(
        title="Events counted as if they were users",
        wrong=("A/A false positives, one row a rating", wrong / TESTS),
        right=("A/A false positives, one row a user", right / TESTS),
        why="The ratings of one user resemble each other, so 100,000 ratings carry far less than "
        "100,000 observations' worth. The unit of analysis is the unit of randomisation.",
    )


def covariate_after_treatment() -> Trap:
    """The covariate is measured during the experiment, when the treatment has changed it too."""
    users = split_in_time(load("ml-100k"))
    lift = 0.2
    estimates: dict[str, list[float]] = {"late": [], "before": []}
    for test in range(TESTS):
        treated = assign_many(users.ids, f"trap-{test}", HALVES) == 1
        metric = users.after + lift * treated
        covariates = {"late": users.late + lift * treated, "before": users.before}
        for name, covariate in covariates.items():
            outcome = compare(
                metric[~treated],
                metric[treated],
                control_covariate=covariate[~treated],
                treatment_covariate=covariate[treated],
            )
            estimates[name].append(outcome.effect)
    return Trap(
        title="CUPED with a covariate that the treatment has touched",
        wrong=("mean estimate, covariate from the last weeks", float(np.mean(estimates["late"]))),
        right=("mean estimate, covariate from before", float(np.mean(estimates["before"]))),
        why=f"The simulated lift is {lift} stars. A covariate measured after the start carries the "
        "effect as well, and the adjustment subtracts it. The variance falls all the more, so the "
        "wrong answer looks the surer one.",
    )


def peeking() -> Trap:
    """The experiment is looked at every day and stopped at the first p < .05."""
    return Trap(
        title="Stopping at the first significant look",
        wrong=("A/A false positives, 20 looks", peeking_false_positives(20, 50_000)),
        right=("A/A false positives, one look", peeking_false_positives(1, 50_000)),
        why="Each look is another chance to be wrong. Fix the length before the start, or use a "
        "sequential test whose interval holds at every look.",
    )


TRAPS: tuple[Callable[[], Trap], ...] = (
    one_hash_pass,
    ratings_as_units,
    covariate_after_treatment,
    peeking,
)

if __name__ == "__main__":
    show(TRAPS)
