"""What each definition of fairness costs a lender: FICO scores, Hardt, Price and Srebro (2016).

A loan that is repaid earns 1, a default loses ``break_even / (1 - break_even)``: at 82 % a loan
pays from a chance of repayment of 0.82. The paper's five rules differ in what they hold equal
between four groups of people, and each takes the most profitable rule that does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from common.data.dataset import Dataset
from common.errors import InputError, RunError, require
from common.exercises import exercise

BREAK_EVEN = 0.82
Array = NDArray[np.float64]


@dataclass(frozen=True)
class CreditScores:
    """The people of each group by score, and how many of them repay.

    Attributes
    ----------
    scores : float64 array of shape [s]
        Rising.
    groups : tuple of g names
    population : float64 array of shape [g]
        Share of each group among all people; sums to 1.
    mass : float64 array of shape [s, g]
        Share of a group's people who have the score; each column sums to 1.
    repay : float64 array of shape [s, g]
        Share of those who repay.
    """

    scores: Array
    groups: tuple[str, ...]
    population: Array
    mass: Array
    repay: Array

    def __post_init__(self) -> None:
        shape = (len(self.scores), len(self.groups))
        for name, values in (("mass", self.mass), ("repay", self.repay)):
            require(values.shape == shape, f"shape of {name}", values.shape, f"must be {shape}")
            inside = bool(np.all((values >= 0) & (values <= 1)))
            require(inside, name, "a value", "must be 0 to 1 everywhere, and not NaN")
        require(len(self.groups) >= 2, "groups", self.groups, "must be at least two")
        require(bool(np.all(np.diff(self.scores) > 0)), "scores", "an order", "must rise")
        for name, sums in (("population", self.population.sum()), ("mass", self.mass.sum(axis=0))):
            require(bool(np.allclose(sums, 1)), f"sum of {name}", sums, "must be 1")
        good = self.base_rates
        require(
            bool(np.all(good > 0)),
            "share who repay, by group",
            good.tolist(),
            "must be above 0",
            "a group without anybody who repays has no TPR; leave it out",
        )

    @property
    def base_rates(self) -> Array:
        """Share of each group who would repay, [g]."""
        return np.asarray((self.mass * self.repay).sum(axis=0))


def fico_scores(fico: Dataset) -> CreditScores:
    """The data of Hardt et al.: TransUnion scores of 174,047 people in four groups.

    Parameters
    ----------
    fico
        The data set ``fico``: the cumulative share of people by score, and the share that
        default (90 days late in two years) by score.
    """
    cdf = fico.table("transrisk_cdf_by_race_ssa")
    defaults = fico.table("transrisk_performance_by_race_ssa")
    groups = tuple(column for column in cdf.columns if column != "score")
    names = list(groups)
    people = fico.table("totals")[names].to_numpy(dtype=np.float64)[0]
    return CreditScores(
        scores=cdf["score"].to_numpy(dtype=np.float64),
        groups=groups,
        population=people / people.sum(),
        mass=np.diff(cdf[names].to_numpy(dtype=np.float64) / 100, axis=0, prepend=0.0),
        repay=1 - defaults[names].to_numpy(dtype=np.float64) / 100,
    )


@dataclass(frozen=True)
class Thresholds:
    """One threshold a group: all above it get a loan, and a share of those exactly at it.

    Attributes
    ----------
    score : float64 array of shape [g]
    share : float64 array of shape [g]
        0 to 1, of the people whose score is the threshold.
    """

    score: Array
    share: Array

    def accept(self, scores: ArrayLike) -> Array:
        """P(loan) of each score and group, float64 of shape [s, g]."""
        column = np.asarray(scores, dtype=np.float64)[:, None]
        return np.where(column > self.score, 1.0, np.where(column == self.score, self.share, 0.0))


@exercise(
    "3.6",
    points=5,
    title="Thresholds under equal opportunity",
    hint="Count from the highest score down, in each group, those who would repay, as a share of "
    "all in the group who would. Where does that pass the target? A step of the staircase rarely "
    "ends exactly there: which share of it is needed?",
)
def equal_opportunity_thresholds(credit: CreditScores, true_positive_rate: float) -> Thresholds:
    """The threshold of each group at which this share of those who would repay get a loan.

    Highest scores first. At the threshold itself only a share is accepted, drawn by lot, so that
    every group has exactly the asked rate; equal TPR to within a step of the score would leave
    the groups apart.

    Parameters
    ----------
    credit
        ``mass * repay`` [s, g] are the people who have the score and would repay.
    true_positive_rate
        The target, 0 to 1. At 0 the share is 0, at the highest score.

    Returns
    -------
    Thresholds

    Raises
    ------
    InputError
        For a target outside 0 to 1.

    References
    ----------
    Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning, 2016, section 4.2.
    """
    require(
        0 <= true_positive_rate <= 1, "true_positive_rate", true_positive_rate, "must be 0 to 1"
    )
    good = (credit.mass * credit.repay)[::-1]
    reached = np.cumsum(good, axis=0) / good.sum(axis=0)
    # The first step from the top at which the target is reached, whatever the last bit of a sum.
    step = np.argmax(reached >= true_positive_rate - 1e-12, axis=0)
    columns = np.arange(len(credit.groups))
    width = (good / good.sum(axis=0))[step, columns]
    before = reached[step, columns] - width
    share = np.divide(true_positive_rate - before, width, out=np.zeros_like(width), where=width > 0)
    return Thresholds(credit.scores[::-1][step], np.clip(share, 0, 1))


@dataclass(frozen=True)
class LendingPolicy:
    """A rule, what it holds equal, and what it earns.

    Attributes
    ----------
    name
        Such as "equal opportunity".
    accept : float64 array of shape [s, g]
        P(loan | score, group).
    profit
        Per person in the population; a repaid loan earns 1.
    profit_share
        Of the profit of the best threshold for each group.
    rates : DataFrame
        Indexed by group: threshold (lowest score with a chance of a loan), accepted, tpr, fpr,
        repaid (of the loans; NaN without loans).
    """

    name: str
    accept: Array
    profit: float
    profit_share: float
    rates: pd.DataFrame


def profit(credit: CreditScores, accept: Array, break_even: float = BREAK_EVEN) -> float:
    """Expected profit per person of accepting with probability ``accept`` [s, g]."""
    require(0 < break_even < 1, "break_even", break_even, "must be above 0 and below 1", "try 0.82")
    loss = break_even / (1 - break_even)
    earned = credit.mass * accept * (credit.repay - loss * (1 - credit.repay))
    return float(earned.sum(axis=0) @ credit.population)


def policy_rates(credit: CreditScores, accept: Array) -> pd.DataFrame:
    """Threshold, accepted, tpr, fpr and repaid of each group; see :class:`LendingPolicy`."""
    loans, good = credit.mass * accept, credit.mass * credit.repay
    bad = credit.mass - good
    accepted = loans.sum(axis=0)
    hits = (good * accept).sum(axis=0)
    nobody = np.full(accepted.shape, np.nan)
    lowest = credit.scores[np.argmax(loans > 0, axis=0)]
    columns = {
        "threshold": np.where(accepted > 0, lowest, np.nan),
        "accepted": accepted,
        "tpr": hits / good.sum(axis=0),
        "fpr": (bad * accept).sum(axis=0) / bad.sum(axis=0),
        "repaid": np.divide(hits, accepted, out=nobody, where=accepted > 0),
    }
    return pd.DataFrame(columns, index=pd.Index(credit.groups, name="group"))


def lending_policies(
    credit: CreditScores, break_even: float = BREAK_EVEN
) -> dict[str, LendingPolicy]:
    """The five rules of the paper's section 5, each the most profitable of its kind.

    Returns
    -------
    dict
        "max profit" (a threshold for each group), "race-blind" (one for all), "equal
        opportunity" (one TPR), "equalized odds" (one TPR and one FPR), "demographic parity" (one
        acceptance rate).

    Raises
    ------
    InputError
        For a break-even outside 0 to 1, or at which no loan pays, or a group without defaults.
    """
    require(
        bool(np.all(credit.base_rates < 1)),
        "share who repay, by group",
        credit.base_rates.tolist(),
        "must be below 1",
        "a group without defaults has no FPR; leave it out",
    )
    # Demographic parity is equal opportunity where everybody counts as deserving a loan.
    everybody = replace(credit, repay=np.ones_like(credit.repay))
    rules = {
        "max profit": _separate(credit, break_even),
        "race-blind": _race_blind(credit, break_even),
        "equal opportunity": _one_rate(credit, credit, break_even),
        "equalized odds": _equalized_odds(credit, break_even),
        "demographic parity": _one_rate(credit, everybody, break_even),
    }
    best = profit(credit, rules["max profit"], break_even)
    if best <= 0:
        raise InputError(f"break_even = {break_even:g}: no loan pays; try a lower one")
    policies = {}
    for name, accept in rules.items():
        earned = profit(credit, accept, break_even)
        rates = policy_rates(credit, accept)
        policies[name] = LendingPolicy(name, accept, earned, earned / best, rates)
    return policies


def _separate(credit: CreditScores, break_even: float) -> Array:
    """Each group's own best threshold."""
    return _best_thresholds(credit.scores, credit.mass * (credit.repay - break_even))


def _race_blind(credit: CreditScores, break_even: float) -> Array:
    """The best threshold for all people together."""
    gain = (credit.mass * (credit.repay - break_even)) @ credit.population
    return np.repeat(_best_thresholds(credit.scores, gain[:, None]), len(credit.groups), axis=1)


def _best_thresholds(scores: Array, gain: Array) -> Array:
    """The most profitable threshold rule of each column of [s, c] gains; nobody if none pays."""
    from_here = np.cumsum(gain[::-1], axis=0)[::-1]
    pays = from_here.max(axis=0) > 0
    best = np.where(pays, scores[np.argmax(from_here, axis=0)], scores[-1])
    return Thresholds(best, pays.astype(np.float64)).accept(scores)


def _one_rate(credit: CreditScores, counted: CreditScores, break_even: float) -> Array:
    """The best of the rules in which one rate, of those ``counted`` as deserving, is equal.

    Profit is linear in the rate while no threshold passes a score, so the best rate is one at
    which some group's threshold is exactly a score.
    """
    good = (counted.mass * counted.repay)[::-1]
    corners = np.unique(np.cumsum(good, axis=0) / good.sum(axis=0))
    rules = (
        equal_opportunity_thresholds(counted, float(min(rate, 1.0))).accept(credit.scores)
        for rate in np.concatenate([[0.0], corners])
    )
    return max(rules, key=lambda accept: profit(credit, accept, break_even))


def _equalized_odds(credit: CreditScores, break_even: float) -> Array:
    """One point (FPR, TPR) that every group can reach, the most profitable.

    A group reaches every point between its ROC hull and the diagonal: above by a threshold, down
    to the diagonal by deciding some cases with a coin that does not look at the score. So each
    edge of a hull is one linear inequality, profit is linear, and the point is a linear program.
    """
    good, bad = credit.mass * credit.repay, credit.mass * (1 - credit.repay)
    loss = break_even / (1 - break_even)
    hulls = [
        roc_hull(bad[::-1, column], good[::-1, column]) for column in range(len(credit.groups))
    ]
    slopes, intercepts = [], []
    for x, y in hulls:
        wide = np.diff(x) > 0
        slope = np.diff(y)[wide] / np.diff(x)[wide]
        slopes.append(slope)
        intercepts.append(y[:-1][wide] - slope * x[:-1][wide])
    slope, intercept = np.concatenate(slopes), np.concatenate(intercepts)
    lost = loss * float(bad.sum(axis=0) @ credit.population)
    earned = float(good.sum(axis=0) @ credit.population)
    solution = linprog(
        c=[lost, -earned],
        A_ub=np.column_stack([-slope, np.ones(len(slope))]),
        b_ub=intercept,
        bounds=[(0, 1), (0, 1)],
    )
    if solution.x is None:
        raise RunError(f"the linear program of equalized odds has no solution: {solution.message}")
    fpr, tpr = (float(value) for value in solution.x)
    return np.column_stack(
        [_reach(credit, column, hull, fpr, tpr) for column, hull in enumerate(hulls)]
    )


def roc_hull(bad: Array, good: Array) -> tuple[Array, Array]:
    """The upper convex hull of a ROC curve.

    Parameters
    ----------
    bad, good : arrays of shape [s]
        Negatives and positives at each score, highest score first.

    Returns
    -------
    fpr, tpr : arrays
        The corners of the hull, from (0, 0) to (1, 1).
    """
    x = np.concatenate([[0.0], np.cumsum(bad) / bad.sum()])
    y = np.concatenate([[0.0], np.cumsum(good) / good.sum()])
    corners = [0]
    for point in range(1, len(x)):
        while len(corners) >= 2:
            a, b = corners[-2], corners[-1]
            # Keep b only if it lies above the line from a to the new point.
            if (y[b] - y[a]) * (x[point] - x[a]) > (y[point] - y[a]) * (x[b] - x[a]):
                break
            corners.pop()
        corners.append(point)
    return x[corners], y[corners]


def _reach(
    credit: CreditScores, column: int, hull: tuple[Array, Array], fpr: float, tpr: float
) -> Array:
    """P(loan | score) [s] with which a group has exactly this FPR and TPR.

    A coin with the point's FPR decides a share of the cases; the others go by a mix of the two
    thresholds whose corners of the hull stand on either side of that FPR.
    """
    x, y = hull
    right = int(np.clip(np.searchsorted(x, fpr), 1, len(x) - 1))
    weight = (fpr - x[right - 1]) / (x[right] - x[right - 1]) if x[right] > x[right - 1] else 1.0
    top = y[right - 1] + weight * (y[right] - y[right - 1])
    coin = float(np.clip((top - tpr) / (top - fpr), 0, 1)) if top > fpr else 0.0
    rest = (1 - weight) * _rule_at(credit, column, x[right - 1]) + weight * _rule_at(
        credit, column, x[right]
    )
    return np.asarray(coin * fpr + (1 - coin) * rest)


def _rule_at(credit: CreditScores, column: int, fpr: float) -> Array:
    """The threshold rule [s] of one group whose FPR is this corner of its ROC curve."""
    bad = (credit.mass * (1 - credit.repay))[::-1, column]
    reached = np.cumsum(bad) / bad.sum()
    return np.asarray(reached[::-1] <= fpr + 1e-12, dtype=np.float64)
