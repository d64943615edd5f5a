"""How fast an error budget is spent, and alerts on it (Google SRE Workbook, chapter 5).

An SLO of 99 % within 50 ms leaves a budget: 1 % of the requests of 30 days may be late or fail. The
*burn rate* is the share that did so in a window, over the budget: at 1 the budget lasts exactly
the 30 days, at 14.4 it is gone in 50 hours. An alert needs two windows: the long one so that a blip
does not wake anybody, the short one so that the alert ends soon after the trouble does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require

PERIOD_H = 30 * 24
"""Hours of the SLO's period."""


@dataclass(frozen=True)
class BurnAlert:
    """Fires while the burn rate is above ``threshold`` in the long and in the short window."""

    name: str
    long_min: int
    short_min: int
    threshold: float

    @property
    def budget_spent(self) -> float:
        """Share of the period's budget that is gone when the long window is full."""
        return self.threshold * self.long_min / 60 / PERIOD_H

    def minutes_to_fire(self, bad_share: float, budget: float) -> float:
        """Minutes of a steady ``bad_share`` until the long window is above the threshold."""
        burn = bad_share / budget
        return self.long_min * self.threshold / burn if burn > self.threshold else float("inf")


FAST = BurnAlert("page, fast", 60, 5, 14.4)
SLOW = BurnAlert("page, slow", 6 * 60, 30, 6.0)
TICKET = BurnAlert("ticket", 3 * 24 * 60, 6 * 60, 1.0)
WORKBOOK = (FAST, SLOW, TICKET)
"""Table 5-8 of the workbook: 2 %, 5 % and 10 % of the budget."""


def burn_rates(
    bad: NDArray[np.float64], total: NDArray[np.float64], window: int, budget: float
) -> NDArray[np.float64]:
    """The burn rate over the last ``window`` minutes, at the end of each minute.

    Parameters
    ----------
    bad, total : arrays of shape [minutes]
        Requests that broke the SLO, and all, in each minute.
    window
        Minutes. Before that many have passed the window is what there is.
    budget
        Share that may be bad, 0.01 for an objective of 99 %.

    Returns
    -------
    float64 array [minutes]
        Bad over total in the window (not the mean of the minutes' shares: a quiet minute must not
        count as much as a busy one), over ``budget``; 0 where nothing was asked.

    Raises
    ------
    InputError
        Shapes differ, or a parameter is out of its range.
    """
    require(bad.shape == total.shape, "bad", bad.shape, f"must have the shape {total.shape}")
    require(window >= 1, "window", window, "must be >= 1 minute")
    require(0 < budget < 1, "budget", budget, "must be in (0, 1)")

    def over_window(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        grown = np.concatenate([[0.0], np.cumsum(counts)])
        starts = np.maximum(0, np.arange(1, len(grown)) - window)
        return grown[1:] - grown[starts]

    asked = over_window(total)
    share = np.divide(over_window(bad), asked, out=np.zeros(len(asked)), where=asked > 0)
    return share / budget


def firing(
    bad: NDArray[np.float64], total: NDArray[np.float64], alert: BurnAlert, budget: float
) -> NDArray[np.bool_]:
    """Whether an alert fires at the end of each minute; arrays of shape [minutes]."""
    return (burn_rates(bad, total, alert.long_min, budget) > alert.threshold) & (
        burn_rates(bad, total, alert.short_min, budget) > alert.threshold
    )


@dataclass(frozen=True)
class Incident:
    """Requests of every minute, with a stretch in which too many were bad."""

    name: str
    bad: NDArray[np.float64]
    total: NDArray[np.float64]
    start: int
    end: int


def incidents(per_minute: float = 6000, budget: float = 0.01, *, seed: int) -> Sequence[Incident]:
    """Four days each: a blip, an outage, a slow leak and an ordinary day.

    Ordinary minutes have a fifth of the budget as bad requests, Poisson distributed.

    Parameters
    ----------
    per_minute
        Mean requests a minute.
    """
    day, minutes = 24 * 60, 4 * 24 * 60
    kinds = (
        ("2 minutes at 60 % bad", 3 * day + 600, 2, 0.60),
        ("30 minutes at 50 % bad", 3 * day + 600, 30, 0.50),
        ("8 hours at 8 % bad", 3 * day + 600, 480, 0.08),
        ("nothing happens", 3 * day + 600, 0, 0.0),
    )
    rng = np.random.default_rng(seed)
    made = []
    for name, start, length, share in kinds:
        total = rng.poisson(per_minute, minutes)
        shares = np.full(minutes, budget / 5)
        shares[start : start + length] = share
        bad = rng.binomial(total, shares)
        made.append(
            Incident(name, bad.astype(np.float64), total.astype(np.float64), start, start + length)
        )
    return made
