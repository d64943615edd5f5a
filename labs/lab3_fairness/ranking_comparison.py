"""Four rankings of the same applicants for credit: exposure before and after, and its price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import require
from labs.lab3_fairness.fair_ranking import (
    adjust_alpha,
    fair_top_k,
    minimum_share,
    proportional_targets,
)
from labs.lab3_fairness.ranking_fairness import exposure, ndcg
from labs.lab3_fairness.resampling import percentile_interval
from labs.lab3_fairness.scoring import cross_fitted, logistic_regression
from labs.lab3_fairness.tabular import Task

Interval = tuple[float, float]
Ranking = NDArray[np.intp]
YOUNG, OLDER = "25 or younger", "over 25"


@dataclass(frozen=True)
class Pool:
    """Candidates to rank.

    Attributes
    ----------
    scores, relevance : float64 arrays of shape [n]
        What the ranking may use, and what it is judged by.
    protected : bool array of shape [n]
    """

    scores: NDArray[np.float64]
    relevance: NDArray[np.float64]
    protected: NDArray[np.bool_]

    def rows(self, chosen: NDArray[np.intp]) -> Pool:
        """The pool of some rows, repeats allowed."""
        return Pool(self.scores[chosen], self.relevance[chosen], self.protected[chosen])


def german_credit_pool(applicants: pd.DataFrame, *, folds: int = 5, seed: int = 0) -> Pool:
    """Applicants for credit by the score of a model that sees neither age nor sex.

    Scores are out of fold: each applicant's comes from a model that did not see them. Relevance
    is 1 for those who repaid. Protected are those of 25 or younger (190 of 1,000), as in Kamiran
    and Calders (2009).

    Parameters
    ----------
    applicants
        The table ``applicants`` of the data set ``german``.
    folds, seed
        Of the cross-fitting.
    """
    young = (applicants["age"] <= 25).to_numpy()
    labels = (1 - applicants["default"]).to_numpy(dtype=np.int64)
    groups = np.where(young, YOUNG, OLDER).astype(object)
    task = Task(applicants.drop(columns=["default", "age", "status_sex"]), labels, groups)
    scores = cross_fitted(logistic_regression, task, folds=folds, seed=seed)
    return Pool(scores, labels.astype(np.float64), young)


def ranking_rules(
    pool: Pool, k: int, *, alpha: float = 0.1
) -> dict[str, Callable[[Pool], Ranking]]:
    """Four ways to fill k places; three of them ask for the protected group's share of the pool.

    "by score", "share of the top k" (:func:`minimum_share`), "FA*IR" (targets of a test at level
    ``alpha`` over all prefixes), "share of every prefix" (:func:`proportional_targets`).
    """
    require(1 <= k <= len(pool.scores), "k", k, f"must be 1 to {len(pool.scores)}, the pool")
    share = float(pool.protected.mean())
    tested = adjust_alpha(k, share, alpha).targets
    proportional = proportional_targets(k, share)
    return {
        "by score": lambda drawn: np.argsort(-drawn.scores, kind="stable")[:k],
        "share of the top k": lambda drawn: minimum_share(drawn.scores, drawn.protected, share, k),
        "FA*IR": lambda drawn: fair_top_k(drawn.scores, drawn.protected, tested),
        "share of every prefix": lambda drawn: fair_top_k(
            drawn.scores, drawn.protected, proportional
        ),
    }


@dataclass(frozen=True)
class RankingOutcome:
    """One rule's ranking of a pool.

    ``share`` is that of the protected among the k shown; ``exposure_ratio`` the mean exposure of
    a protected candidate over that of another; ``merit_ratio`` the same per relevance (DTR);
    ``ndcg_price`` the NDCG lost against the order by score. Intervals: candidates are resampled
    within groups and ranked anew, the scores kept. ``null_low`` is the exposure ratio that a
    random order falls below in 5 % of cases.
    """

    rule: str
    ranking: Ranking
    share: float
    exposure_ratio: float
    exposure_ratio_ci95: Interval
    merit_ratio: float
    merit_ratio_ci95: Interval
    ndcg: float
    ndcg_ci95: Interval
    ndcg_price: float
    ndcg_price_ci95: Interval
    null_low: float


def compare_rankings(
    pool: Pool,
    *,
    k: int = 100,
    alpha: float = 0.1,
    n_boot: int = 200,
    n_permutations: int = 1000,
    seed: int = 0,
) -> tuple[RankingOutcome, ...]:
    """What each rule of :func:`ranking_rules` does to exposure, and its price in NDCG.

    Parameters
    ----------
    pool
        With candidates inside and outside the protected group.
    k
        Places.
    alpha
        Level of FA*IR's test.
    n_boot
        Resampled pools, each ranked by every rule.
    n_permutations
        Random orders, for the null of the exposure ratio.
    seed
        Of both.

    Raises
    ------
    InputError
        For k outside the pool, or a pool without one of the groups.
    """
    require(n_boot >= 1, "n_boot", n_boot, "must be >= 1", "try 200")
    require(n_permutations >= 1, "n_permutations", n_permutations, "must be >= 1", "try 1000")
    inside, outside = np.flatnonzero(pool.protected), np.flatnonzero(~pool.protected)
    for name, members in (("protected", inside), ("other", outside)):
        require(len(members) >= 2, f"{name} candidates", len(members), "must be >= 2")
    rules = ranking_rules(pool, k, alpha=alpha)
    rng = np.random.default_rng(seed)
    draws = [
        pool.rows(
            np.concatenate(
                [
                    rng.choice(inside, len(inside)),
                    rng.choice(outside, len(outside)),
                ]
            )
        )
        for _ in range(n_boot)
    ]
    first = next(iter(rules.values()))
    baseline = _numbers(pool, first(pool))
    base_draws = np.array([_numbers(drawn, first(drawn)) for drawn in draws])
    places = exposure(np.arange(k), len(pool.scores))
    shuffled = [rng.permutation(places) for _ in range(n_permutations)]
    null = [_over(seen[inside].mean(), seen[outside].mean()) for seen in shuffled]
    outcomes = []
    for name, rule in rules.items():
        ranking = rule(pool)
        here = _numbers(pool, ranking)
        boot = np.array([_numbers(drawn, rule(drawn)) for drawn in draws])
        intervals = [percentile_interval(boot[:, column]) for column in range(3)]
        outcomes.append(
            RankingOutcome(
                rule=name,
                ranking=ranking,
                share=float(pool.protected[ranking].mean()),
                exposure_ratio=here[0],
                exposure_ratio_ci95=intervals[0],
                merit_ratio=here[1],
                merit_ratio_ci95=intervals[1],
                ndcg=here[2],
                ndcg_ci95=intervals[2],
                ndcg_price=baseline[2] - here[2],
                ndcg_price_ci95=percentile_interval(base_draws[:, 2] - boot[:, 2]),
                null_low=float(np.nanquantile(null, 0.05)),
            )
        )
    return tuple(outcomes)


def _numbers(pool: Pool, ranking: Ranking) -> tuple[float, float, float]:
    """Exposure ratio, the same per relevance, and NDCG of a ranking."""
    seen = exposure(ranking, len(pool.scores))
    inside, outside = pool.protected, ~pool.protected
    plain = _over(seen[inside].mean(), seen[outside].mean())
    merit = _over(pool.relevance[inside].mean(), pool.relevance[outside].mean())
    quality = ndcg(pool.relevance[ranking][None], len(ranking), judged=pool.relevance[None])
    return plain, _over(plain, merit), float(quality[0])


def _over(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
