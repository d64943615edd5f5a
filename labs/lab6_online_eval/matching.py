"""Matching: to each treated unit the control that is most like it.

The oldest way to make a comparison fair, and the easiest to explain. What it estimates is the
effect on the treated units that found a match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab6_online_eval.causal_estimate import Bools, Estimand, Estimate, Floats, Study
from labs.lab6_online_eval.least_squares import least_squares, with_intercept
from labs.lab6_online_eval.propensity import fit_propensity, require_overlap

CALIPER = 0.2
CHUNK = 4_000_000


@dataclass(frozen=True)
class Matched:
    """Pairs and the effect on the treated that they give.

    ``treated`` int [m], ``control`` int [m]: positions of the pairs; ``unmatched``: treated units
    without a partner within the caliper, whom the estimate says nothing of; ``reuse``: the most
    often that one control was used.
    """

    treated: NDArray[np.int64]
    control: NDArray[np.int64]
    unmatched: int
    reuse: int
    estimate: Estimate

    def weights(self, n: int) -> Floats:
        """How often each of n units is in a pair, float [n]: for the balance after matching."""
        return np.bincount(np.concatenate([self.treated, self.control]), minlength=n).astype(float)


def match_with_replacement(
    outcome: Floats, treated: Bools, position: Floats, *, caliper: float = np.inf
) -> Matched:
    """The nearest control of each treated unit; a control may serve many times.

    Parameters
    ----------
    outcome, treated
        [n] each.
    position
        Float [n] or [n, k]: distance is Euclidean in these (the log odds of the propensity, or
        covariates in Mahalanobis form, see `mahalanobis`).
    caliper
        Largest distance of a pair.

    Notes
    -----
    The error is that of Abadie & Imbens (2006), Econometrica 74, for the effect on the
    treated in the population:

        V = 1/m^2 [ sum_pairs (Y_i - Y_j(i) - effect)^2 + sum_j K_j (K_j - 1) s^2_j ]

    K_j: how often control j was used; s^2_j = (Y_j - Y of its nearest control)^2 / 2. The bootstrap
    is not valid here (Abadie & Imbens 2008). The score counts as known.
    """
    place = _as_places(position, treated)
    ones, zeros = np.flatnonzero(treated), np.flatnonzero(~treated)
    nearest, distance = _nearest(place[ones], place[zeros])
    kept = distance <= caliper
    _require_pairs(int(kept.sum()), caliper)
    pairs = ones[kept], zeros[nearest[kept]]
    difference = outcome[pairs[0]] - outcome[pairs[1]]
    effect = float(difference.mean())
    uses = np.bincount(nearest[kept], minlength=len(zeros))
    again = np.flatnonzero(uses > 1)
    spread = 0.0
    if len(again):
        twin, _ = _nearest(place[zeros[again]], place[zeros], itself=again)
        variance = (outcome[zeros[again]] - outcome[zeros[twin]]) ** 2 / 2
        spread = float((uses[again] * (uses[again] - 1) * variance).sum())
    m = len(difference)
    se = np.sqrt(((difference - effect) ** 2).sum() + spread) / m
    estimate = Estimate.of(
        effect, se, estimand=Estimand.ATT, n_treated=m, n_control=int((uses > 0).sum())
    )
    return Matched(*pairs, int((~kept).sum()), int(uses.max()), estimate)


def match_without_replacement(
    outcome: Floats, treated: Bools, score: Floats, *, caliper: float = np.inf
) -> Matched:
    """Greedy pairs, hardest first: treated units by falling score take the nearest free control.

    Parameters
    ----------
    outcome, treated
        [n] each.
    score
        Float [n]: log odds of the propensity.
    caliper
        Largest distance of a pair, on the scale of ``score``.

    Notes
    -----
    The error is that of paired differences. Once the good controls are gone the late pairs are bad
    ones: the caliper turns bias into units that were left out. Rosenbaum & Rubin (1985).
    """
    place = _as_places(score, treated)[:, 0]
    ones, zeros = np.flatnonzero(treated), np.flatnonzero(~treated)
    order = zeros[np.argsort(place[zeros], kind="stable")]
    free = np.ones(len(order), dtype=bool)
    sorted_places = place[order]
    pairs: list[tuple[int, int]] = []
    for unit in ones[np.argsort(-place[ones], kind="stable")]:
        best = _nearest_free(sorted_places, free, float(place[unit]))
        if best < 0 or abs(sorted_places[best] - place[unit]) > caliper:
            continue
        free[best] = False
        pairs.append((int(unit), int(order[best])))
    _require_pairs(len(pairs), caliper)
    first, second = (np.array(column, dtype=np.int64) for column in zip(*pairs))
    difference = outcome[first] - outcome[second]
    m = len(difference)
    estimate = Estimate.of(
        float(difference.mean()),
        float(difference.std(ddof=1)) / np.sqrt(m),
        estimand=Estimand.ATT,
        n_treated=m,
        n_control=m,
        dof=m - 1,
    )
    return Matched(first, second, len(ones) - m, 1, estimate)


def propensity_matching(study: Study, *, caliper: float = CALIPER) -> Matched:
    """`match_with_replacement` on the log odds of a fitted score.

    Parameters
    ----------
    caliper
        In standard deviations of the log odds; 0.2 is Austin's (2011) rule.

    Raises
    ------
    InputError
        No overlap, or fewer than two pairs within the caliper.
    """
    fit = fit_propensity(study)
    require_overlap(fit.score, study.treated, Estimand.ATT)
    place = fit.log_odds
    width = caliper * _pooled_deviation(place, study.treated)
    return match_with_replacement(study.outcome, study.treated, place, caliper=width)


def bias_corrected_matching(study: Study) -> Matched:
    """Mahalanobis matching with replacement, and a regression for what the pairs still differ in.

    A pair is never exactly alike; the outcome that the controls' regression predicts for that
    difference is taken out of it. Without it the estimate in more than one covariate is not even
    root-n consistent.

    Notes
    -----
    Abadie & Imbens (2011), Bias-Corrected Matching Estimators, JBES 29.
    """
    fit = fit_propensity(study)
    require_overlap(fit.score, study.treated, Estimand.ATT)
    place = mahalanobis(study.covariates)
    pairs = match_with_replacement(study.outcome, study.treated, place)
    used = np.unique(pairs.control)
    require(
        len(used) > study.covariates.shape[1] + 1,
        "controls in pairs",
        len(used),
        f"must be more than {study.covariates.shape[1] + 1} for the regression",
    )
    times = np.bincount(pairs.control, minlength=study.n)[used].astype(float)
    columns = np.linalg.qr(place[used] - place[used].mean(axis=0))[1]
    keep = np.abs(np.diag(columns)) > 1e-8
    slope = least_squares(
        with_intercept(place[used][:, keep]), study.outcome[used], weights=times
    ).coefficients[1:]
    expected = place[:, keep] @ slope
    return match_with_replacement(study.outcome - expected, study.treated, place)


def mahalanobis(covariates: Floats) -> Floats:
    """Covariates [n, k] rotated and scaled so that Euclidean distance is Mahalanobis distance."""
    centred = covariates - covariates.mean(axis=0)
    covariance = np.atleast_2d(np.cov(centred.T))
    require(
        bool(np.linalg.matrix_rank(covariance) == covariance.shape[0]),
        "covariates",
        covariates.shape,
        "must not depend on each other",
        "leave one out",
    )
    return np.asarray(np.linalg.solve(np.linalg.cholesky(covariance), centred.T).T)


def _as_places(position: Floats, treated: Bools) -> Floats:
    place = np.asarray(position, dtype=float)
    place = place[:, None] if place.ndim == 1 else place
    require(len(place) == len(treated), "position", place.shape, f"must be [{len(treated)}, k]")
    require(bool(np.isfinite(place).all()), "position", "some", "must be finite")
    return place


def _nearest(
    points: Floats, others: Floats, *, itself: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], Floats]:
    """Index of the nearest of ``others`` to each point, and the distance; never ``itself``."""
    from scipy.spatial import cKDTree

    tree: Any = cKDTree(others)
    if itself is None:
        distance, index = tree.query(points, k=1)
        return np.asarray(index, dtype=np.int64), np.asarray(distance)
    require(len(others) >= 2, "controls", len(others), "must be at least 2")
    distance, index = tree.query(points, k=2)
    # with ties the unit itself may come second, or not at all
    column = np.where(index[:, 0] == itself, 1, 0)
    rows = np.arange(len(points))
    return np.asarray(index[rows, column], dtype=np.int64), np.asarray(distance[rows, column])


def _nearest_free(places: Floats, free: Bools, value: float) -> int:
    right = int(np.searchsorted(places, value))
    left = right - 1
    while right < len(places) and not free[right]:
        right += 1
    while left >= 0 and not free[left]:
        left -= 1
    if left < 0 and right >= len(places):
        return -1
    if left < 0:
        return right
    if right >= len(places):
        return left
    return left if value - places[left] <= places[right] - value else right


def _pooled_deviation(values: Floats, treated: Bools) -> float:
    return float(np.sqrt((values[treated].var(ddof=1) + values[~treated].var(ddof=1)) / 2))


def _require_pairs(pairs: int, caliper: float) -> None:
    require(
        pairs >= 2,
        "pairs within the caliper",
        pairs,
        "must be at least 2",
        f"the caliper is {caliper:g}; without a partner nobody can be compared",
    )
