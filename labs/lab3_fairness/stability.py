"""How much of a method's result is the method, and how much the seed, the sample or the coin?

Three kinds of chance decide about a person. The *seed* of the training: none for a convex fit,
much for a game between two networks. The *sample*: other training rows would have given another
model. The *coin* of a randomised predictor, tossed anew at every decision. Two runs of equal
accuracy and equal gaps can disagree about thousands of people, and nobody sees it in a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab3_fairness.decisions import outcome
from labs.lab3_fairness.mitigation import Method, Mitigated, check_task
from labs.lab3_fairness.tabular import Task


@dataclass(frozen=True)
class Stability:
    """One method, run several times.

    Attributes
    ----------
    name
        Of the method.
    accuracy, dp_diff, eo_diff : float64 arrays of shape [runs]
        On the same test rows.
    flips
        The chance that two of the runs decide differently about the same person, coins included.
    coin
        The chance that *one* run decides differently about the same person, asked twice.
    unsettled
        Share of people about whom not all runs are certain of the same decision.
    """

    name: str
    accuracy: NDArray[np.float64]
    dp_diff: NDArray[np.float64]
    eo_diff: NDArray[np.float64]
    flips: float
    coin: float
    unsettled: float


def across_seeds(method: Method, train: Task, test: Task, seeds: Sequence[int]) -> Stability:
    """Train on the same rows with each of the seeds."""
    require(len(set(seeds)) >= 2, "seeds", list(seeds), "must be at least two different ones")
    return compare_runs([method(train, test, seed=seed) for seed in seeds], test)


def across_samples(method: Method, train: Task, test: Task, seeds: Sequence[int]) -> Stability:
    """Train with one seed on other rows: each run draws them with replacement in each group."""
    require(len(set(seeds)) >= 2, "seeds", list(seeds), "must be at least two different ones")
    codes, groups = check_task(train)
    members = [np.flatnonzero(codes == code) for code in range(len(groups))]
    runs = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        drawn = np.concatenate([rng.choice(rows, size=len(rows)) for rows in members])
        runs.append(method(train.rows(drawn), test, seed=0))
    return compare_runs(runs, test)


def compare_runs(runs: Sequence[Mitigated], test: Task) -> Stability:
    """How far runs of one method lie apart, in their rates and about each person.

    Two decisions with probabilities p and q differ with probability ``p (1 - q) + q (1 - p)``.
    """
    names = {run.name for run in runs}
    require(len(names) == 1 and len(runs) >= 2, "runs", names, "must be two or more of one method")
    outcomes = [outcome(test.labels, run.positive, test.groups, n_boot=1) for run in runs]
    chances = np.stack([run.positive for run in runs])
    pairs = [float(np.mean(p * (1 - q) + q * (1 - p))) for p, q in combinations(chances, 2)]
    settled = (chances == 1).all(axis=0) | (chances == 0).all(axis=0)
    return Stability(
        name=runs[0].name,
        accuracy=np.array([o.accuracy for o in outcomes]),
        dp_diff=np.array([o.dp_diff for o in outcomes]),
        eo_diff=np.array([o.eo_diff for o in outcomes]),
        flips=float(np.mean(pairs)),
        coin=float(np.mean([o.flips for o in outcomes])),
        unsettled=float(1 - settled.mean()),
    )
