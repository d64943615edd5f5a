"""Off-policy evaluation: what another policy would have earned, from the log of the one that ran.

Every estimator is a mean of one term a row, so that its error is the spread of the terms:

* weighting (IPW, SNIPW, clipped): the logged rewards, reweighted by ``w = pi(a|x) / p``;
* direct method: a model's prediction for the other policy, no weights;
* doubly robust, switch, shrinkage: the prediction plus the weighted error of the model.

Each of them returns a number on any log. `refusal` says when none should be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from common.errors import require
from common.exercises import exercise
from common.statistics import Z95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WeightMap = Callable[[Floats, float], Floats]

LEAST_ESS = 100.0
MOST_SHARE = 0.05
LEAST_EVENTS = 10.0
EPSILON = 1e-9
MOST_DRIFT = 4.0
"""Standard errors by which the mean weight may miss 1."""


@dataclass(frozen=True)
class Estimate:
    """One estimator's value of a policy, with its 95 % interval.

    ``se`` and the interval say what the rows' spread says, no more: if ``refused`` is not None they
    are not to be believed, and it says why.
    """

    estimator: str
    value: float
    se: float
    low: float
    high: float
    ess: float | None
    refused: str | None


@dataclass(frozen=True)
class SelfNormalised:
    """SNIPW. ``value`` and ``se`` are None when ``ess`` is below what was asked for."""

    value: float | None
    se: float | None
    ess: float


def importance_weights(logged: Floats, target: Floats) -> Floats:
    """``pi(a|x) / p`` of the logged actions, float [n].

    Raises
    ------
    InputError
        Shapes that differ, no rows, a propensity outside (0, 1], a target outside [0, 1].
    """
    require(logged.ndim == 1 and logged.size > 0, "shape of logged", logged.shape, "must be [n]")
    require(
        target.shape == logged.shape, "shape of target", target.shape, f"must be {logged.shape}"
    )
    bad = int(np.count_nonzero(~((logged > 0) & (logged <= 1))))
    require(
        bad == 0,
        "logged propensities outside (0, 1]",
        bad,
        "must be 0",
        "what was shown had a positive probability: log the one that drew it",
    )
    bad = int(np.count_nonzero(~((target >= 0) & (target <= 1))))
    require(bad == 0, "target probabilities outside [0, 1]", bad, "must be 0")
    return np.asarray(target / logged)


def effective_sample_size(weights: Floats) -> float:
    """``(sum w)^2 / sum w^2``: as many rows of the policy itself would do as well (Kish 1965).

    0 when every weight is 0.
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def ipw(reward: Floats, weights: Floats) -> Floats:
    """Inverse propensity weighting (Horvitz & Thompson 1952), terms ``w r``: float [n].

    Unbiased if the propensities are right and positive wherever the target's are.
    """
    return np.asarray(weights * reward)


@exercise(
    "6.21",
    points=10,
    title="Self-normalised weighting, with its effective sample size and a refusal",
    hint="Divide by what the weights came to, not by what they should have. The value is then a "
    "ratio of two means: which deviation of a row moves it?",
)
def snipw(
    reward: Floats, logged: Floats, target: Floats, *, least_ess: float = LEAST_ESS
) -> SelfNormalised:
    """Self-normalised weighting: a weighted mean, so it stays within the rewards.

        v   = sum w r / sum w,                 w = target / logged
        se  = sqrt( sum w^2 (r - v)^2 ) / sum w
        ess = (sum w)^2 / sum w^2

    Parameters
    ----------
    reward
        Float [n].
    logged, target
        Float [n]: probability of the logged action under the policy that ran and under the other.
    least_ess
        Below this the answer is no value: the weighted mean is that of a handful of rows, and so
        is its standard error.

    Returns
    -------
    SelfNormalised
        ``value`` and ``se`` None when ``ess < least_ess``.

    Raises
    ------
    InputError
        As `importance_weights`; also when the target never takes a logged action.

    Notes
    -----
    Swaminathan & Joachims (2015), The Self-Normalized Estimator for Counterfactual Learning,
    NeurIPS; Owen (2013), Monte Carlo theory, methods and examples, equation 9.9 (the delta method).
    """
    weights = importance_weights(logged, target)
    require(bool(weights.any()), "sum of the weights", 0.0, "must be > 0", "no logged action fits")
    # BEGIN SOLUTION
    total = weights.sum()
    ess = float(total**2 / (weights**2).sum())
    if ess < least_ess:
        return SelfNormalised(None, None, ess)
    value = float((weights * reward).sum() / total)
    se = float(np.sqrt((weights**2 * (reward - value) ** 2).sum()) / total)
    return SelfNormalised(value, se, ess)
    # END SOLUTION


def direct(target: Floats, predicted: Floats) -> Floats:
    """The direct method, terms ``sum_a pi(a|x) q(x, a)``: float [n, K] each -> float [n].

    Its interval knows the spread of the predictions, and nothing of the model's error.
    """
    return np.asarray((target * predicted).sum(axis=1))


@exercise(
    "6.22",
    points=10,
    title="Doubly robust estimate of a policy's value",
    hint="What does the model say of all that the other policy might do here? And of the action "
    "that was logged, how wrong was it, and how much should that count?",
)
def doubly_robust(
    reward: Floats, action: Ints, logged: Floats, target: Floats, predicted: Floats
) -> Floats:
    """The model's prediction for the other policy, corrected by its weighted error: one term a row.

        sum_a pi(a|x) q(x, a)  +  pi(a_i|x) / p_i * (r_i - q(x, a_i))

    Right if the propensities are right, whatever the model; and if the model is right, whatever
    the propensities.

    Parameters
    ----------
    reward
        Float [n].
    action
        Int [n]: what was logged.
    logged
        Float [n]: p, the logging policy's probability of the logged action, > 0.
    target
        Float [n, K]: the other policy's probability of every action.
    predicted
        Float [n, K]: the model's mean reward of every action, fitted on other rows.

    Returns
    -------
    float [n]
        Their mean is the estimate; their spread gives its standard error.

    Notes
    -----
    Dudik, Langford & Li (2011), Doubly Robust Policy Evaluation and Learning, ICML, equation 2.
    """
    check_model(action, target, predicted)
    # BEGIN SOLUTION
    row = np.arange(len(action))
    weights = target[row, action] / logged
    residual = reward - predicted[row, action]
    return np.asarray((target * predicted).sum(axis=1) + weights * residual)
    # END SOLUTION


def clipped(weights: Floats, most: float) -> Floats:
    """``min(w, most)``: less variance, and a bias that is never reported by the interval."""
    return np.minimum(weights, most)


def switched(weights: Floats, most: float) -> Floats:
    """``w`` up to ``most``, 0 above: there the model is believed.

    Wang, Agarwal & Dudik (2017), Optimal and Adaptive Off-policy Evaluation in Contextual Bandits,
    ICML (SWITCH, with the doubly robust correction).
    """
    return np.where(weights <= most, weights, 0.0)


def shrunk(weights: Floats, strength: float) -> Floats:
    """``lambda w / (w^2 + lambda)``: towards the direct method at 0, doubly robust at infinity.

    Su, Dimakopoulou, Krishnamurthy & Dudik (2020), Doubly Robust Off-policy Evaluation with
    Shrinkage, ICML (optimistic shrinkage, DRos).
    """
    return np.asarray(strength * weights / (weights**2 + strength))


def tune(shape: WeightMap, grid: Sequence[float], weights: Floats, residual: Floats) -> float:
    """The value of ``grid`` with the least estimated mean square error of the corrected estimate.

        variance of the terms w' e / n  +  (mean of (w' - w) e)^2,      e = r - q

    The second part estimates the bias from the same rows (Su et al. 2020, section 5).
    """
    require(len(grid) >= 1, "grid", list(grid), "must not be empty")
    risks = []
    for value in grid:
        changed = shape(weights, value)
        bias = float(((changed - weights) * residual).mean())
        risks.append(float((changed * residual).var(ddof=1)) / len(weights) + bias**2)
    return grid[int(np.argmin(risks))]


def refusal(weights: Floats, reward: Floats) -> str | None:
    """Why no estimate that rests on these weights should be believed, or None.

    Four things make the interval a fiction, whatever its width:

    * an effective sample size below `LEAST_ESS`: the standard error is itself estimated from that
      many rows, to within ``sqrt(1 / (2 ess))``, 7 % at 100;
    * one row that carries more than `MOST_SHARE` of all weight: the estimate is that row's luck;
    * fewer than `LEAST_EVENTS` effective rewarded rows, ``(sum w r)^2 / sum (w r)^2``: with fewer
      than ten events a rate is known to no better than a third of itself, be there ever so many
      rows, and its normal 95 % interval holds the truth about four times in five;
    * a mean weight further than `MOST_DRIFT` standard errors from 1: the propensities are wrong, or
      the target does what was never logged.
    """
    ess = effective_sample_size(weights)
    if ess < LEAST_ESS:
        return f"effective sample size {ess:.1f} rows; at least {LEAST_ESS:.0f}"
    share = float(weights.max() / weights.sum())
    if share > MOST_SHARE:
        return f"one row carries {share:.0%} of the weight; at most {MOST_SHARE:.0%}"
    events = effective_sample_size(weights * reward)
    if events < LEAST_EVENTS:
        return f"{events:.1f} effective rewarded rows; at least {LEAST_EVENTS:.0f}"
    # Equal weights, of a target that is the logger, have no error at all.
    error = max(float(weights.std(ddof=1)) / sqrt(len(weights)), EPSILON)
    drift = abs(float(weights.mean()) - 1) / error
    if drift > MOST_DRIFT:
        return f"mean weight {weights.mean():.3f}, {drift:.1f} standard errors from 1"
    return None


def estimate_of(terms: Floats, name: str, ess: float | None, refused: str | None) -> Estimate:
    """Mean of the terms with its normal 95 % interval."""
    value, se = float(terms.mean()), float(terms.std(ddof=1)) / sqrt(len(terms))
    return Estimate(name, value, se, value - Z95 * se, value + Z95 * se, ess, refused)


def judge_model(modelled: Estimate, robust: Estimate) -> str | None:
    """Why the direct method should not be believed, or None.

    Its own interval knows nothing of the model's error; the doubly robust interval does. A direct
    estimate outside it is contradicted, and where that interval is refused nothing speaks for it.
    """
    if robust.refused is not None:
        return "no weighted estimate holds here that could check the model"
    if not robust.low <= modelled.value <= robust.high:
        return f"outside the doubly robust interval {robust.low:.5f} to {robust.high:.5f}"
    return None


def gamma_interval(reward: Floats, weights: Floats) -> tuple[float, float]:
    """95 % interval of IPW for rewards of 0 and 1 that are rare: it never undercovers by much.

    The weighted clicks are a weighted sum of Poisson counts, and so their sum is taken as gamma:

        low  = v / (2 y)               chi2(0.025; 2 y^2 / v)
        high = (v + m^2) / (2 (y + m)) chi2(0.975; 2 (y + m)^2 / (v + m^2))

    with ``y = sum w r / n``, ``v = sum (w r)^2 / n^2`` and ``m = max w / n``: what the log
    might have missed is one more click, on the row of the largest weight.

    Notes
    -----
    Fay & Feuer (1997), Confidence intervals for directly standardized rates, Statistics in
    Medicine 16, equations 3 and 4.
    """
    bad = int(np.count_nonzero(~np.isin(reward, (0.0, 1.0))))
    require(bad == 0, "rewards other than 0 and 1", bad, "must be 0", "use the normal interval")
    n = len(weights)
    y, v = float((weights * reward).sum()) / n, float(((weights * reward) ** 2).sum()) / n**2
    low, high = gamma_bounds(np.array([y]), np.array([v]), float(weights.max()) / n)
    return float(low[0]), float(high[0])


def gamma_bounds(y: Floats, v: Floats, most: float) -> tuple[Floats, Floats]:
    """`gamma_interval` of many logs: ``y`` and ``v`` float [n], ``most`` the largest weight / n."""
    some = y > 0
    ratio = np.where(some, v, 1.0) / np.where(some, y, 1.0)
    low = np.where(some, ratio / 2 * chi2.ppf(0.025, 2 * np.where(some, y, 1.0) / ratio), 0.0)
    upper = (v + most**2) / (y + most)
    return np.asarray(low), np.asarray(upper / 2 * chi2.ppf(0.975, 2 * (y + most) / upper))


def bootstrap_snipw(
    weights: Floats, reward: Floats, *, n_boot: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of SNIPW: rows are drawn with their weights.

    Resamples without any weight are left out. Efron (1979), Annals of Statistics 7(1).
    """
    require(n_boot >= 100, "n_boot", n_boot, "must be at least 100", "try 1000")
    rng = np.random.default_rng(seed)
    n = len(weights)
    both = np.stack([weights * reward, weights], axis=1)
    values = []
    for _ in range(n_boot):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        top, bottom = times @ both
        if bottom > 0:
            values.append(top / bottom)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def check_model(action: Ints, target: Floats, predicted: Floats) -> None:
    """Raise `InputError` unless target is a distribution in each row and predicted fits it."""
    require(target.ndim == 2, "shape of target", target.shape, "must be [n, K]")
    require(
        predicted.shape == target.shape,
        "shape of predicted",
        predicted.shape,
        f"must be {target.shape}",
    )
    require(len(action) == len(target), "rows of action", len(action), f"must be {len(target)}")
    bad = int(np.count_nonzero(np.abs(target.sum(axis=1) - 1) > 1e-6))
    require(bad == 0, "rows of target that do not sum to 1", bad, "must be 0")
    bad = int(np.count_nonzero(~np.isfinite(predicted)))
    require(bad == 0, "predictions that are not finite", bad, "must be 0")
