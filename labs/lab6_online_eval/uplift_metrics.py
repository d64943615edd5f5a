"""How good is a ranking by uplift? Qini curve, its area, and the effect in the top k.

These need a randomised treatment: they compare treated and control *within* the top of the
ranking, and are as confounded as that comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab6_online_eval.causal_estimate import (
    Bools,
    Estimate,
    Floats,
    check_finite,
    check_units,
    difference_in_means,
)


@dataclass(frozen=True)
class Qini:
    """What treating the top of the ranking brings.

    ``share`` float [m + 1]: of the units, treated from the top of the ranking; ``gain`` float
    [m + 1]: total effect a unit of the population, from 0 to the mean effect; ``coefficient``: area
    between the curve and the straight line of a random order; ``area``: area under the curve
    (AUUC).
    """

    share: Floats
    gain: Floats
    coefficient: float
    area: float


def qini_curve(outcome: Floats, treated: Bools, uplift: Floats) -> Qini:
    """The Qini curve of a ranking by predicted ``uplift``, highest first.

        gain(k) = [ sum_{treated in top k} Y - (n_t(k) / n_c(k)) sum_{control in top k} Y ] / n_t

    with n_t the treated of everybody. Units with the same prediction enter together, so that the
    curve does not depend on the order of rows.

    Parameters
    ----------
    outcome, treated, uplift
        [n] each; ``treated`` was randomised.

    Notes
    -----
    Radcliffe (2007), Using control groups to target on predicted lift. Here per treated unit, so
    that it ends in the mean effect.
    """
    order, last = _ranking(outcome, treated, uplift)
    y, t = outcome[order], treated[order]
    n_t, n_c = np.cumsum(t), np.cumsum(~t)
    sum_t, sum_c = np.cumsum(y * t), np.cumsum(y * ~t)
    with np.errstate(divide="ignore", invalid="ignore"):
        others = np.where(n_c > 0, n_t * sum_c / np.maximum(n_c, 1), 0.0)
    # before the first control there is nothing to compare with
    gain = np.where(n_c > 0, sum_t - others, 0.0) / t.sum()
    share = np.concatenate([[0.0], (last + 1) / len(y)])
    curve = np.concatenate([[0.0], gain[last]])
    area = float(np.trapezoid(curve, share))
    return Qini(share, curve, area - float(curve[-1]) / 2, area)


def true_qini(effect: Floats, uplift: Floats) -> Qini:
    """The curve of a simulation, in which each unit's true effect [n] is known: without noise."""
    require(
        uplift.shape == effect.shape, "shape of uplift", uplift.shape, f"must be {effect.shape}"
    )
    check_finite("uplift", uplift)
    order, last = _order(uplift)
    gain = np.concatenate([[0.0], np.cumsum(effect[order])[last] / len(effect)])
    share = np.concatenate([[0.0], (last + 1) / len(effect)])
    area = float(np.trapezoid(gain, share))
    return Qini(share, gain, area - float(gain[-1]) / 2, area)


def uplift_at(outcome: Floats, treated: Bools, uplift: Floats, share: float) -> Estimate:
    """The measured effect in the top ``share`` of the ranking, with its interval."""
    require(0 < share <= 1, "share", share, "must be above 0 and at most 1", "try 0.3")
    order, _ = _ranking(outcome, treated, uplift)
    top = order[: max(1, round(share * len(order)))]
    return difference_in_means(outcome[top], treated[top])


def qini_interval(
    outcome: Floats, treated: Bools, uplift: Floats, *, n_boot: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of the Qini coefficient; resampled within each arm."""
    require(n_boot >= 100, "n_boot", n_boot, "must be at least 100")
    rng = np.random.default_rng(seed)
    arms = np.flatnonzero(treated), np.flatnonzero(~treated)
    values = []
    for _ in range(n_boot):
        rows = np.concatenate([rng.choice(arm, len(arm)) for arm in arms])
        values.append(qini_curve(outcome[rows], treated[rows], uplift[rows]).coefficient)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _ranking(
    outcome: Floats, treated: Bools, uplift: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions by falling uplift, and where each run of equal predictions ends."""
    check_units(outcome, treated)
    require(
        uplift.shape == outcome.shape, "shape of uplift", uplift.shape, f"must be {outcome.shape}"
    )
    check_finite("uplift", uplift)
    return _order(uplift)


def _order(uplift: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.argsort(-uplift, kind="stable")
    last = np.flatnonzero(np.append(np.diff(uplift[order]) != 0, True))
    return order, last
