"""How many rows a group needs before an audit can say anything about it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from common.errors import require
from common.statistics import proportion_ci

JOINT = " & "  # between the names of an intersection


@dataclass(frozen=True)
class CellSize:
    """What can be known about a group or an intersection of its size.

    ``half_width_tpr`` is the half-width of the Wilson 95 % interval of a rate among its positives
    at a rate of .5, the widest; ``detectable_tpr_gap`` the smallest gap in TPR to all others that
    a test at 5 % finds with the given power, NaN when none does. ``_fpr`` are the same among
    the negatives.
    """

    attribute: str
    group: str
    n: int
    positives: int
    negatives: int
    half_width_tpr: float
    half_width_fpr: float
    detectable_tpr_gap: float
    detectable_fpr_gap: float


def half_width(n: int, rate: float = 0.5) -> float:
    """Half of the Wilson 95 % interval of a rate seen on n rows; NaN on none.

    A rate of .5 is the widest: the interval one has to be ready for before the model is there.
    """
    require(n >= 0, "n", n, "must be >= 0")
    require(0 <= rate <= 1, "rate", rate, "must be from 0 to 1")
    if n == 0:
        return float("nan")
    low, high = proportion_ci(round(n * rate), n)
    return (high - low) / 2


def rows_for_gap(
    rate: float, gap: float, *, power: float = 0.8, alpha: float = 0.05, ratio: float = 1.0
) -> int:
    r"""Rows of the first group that show a gap between two groups.

    .. math:: n = \frac{\left(z_{1-\alpha/2}\sqrt{(1 + 1/k)\,\bar p\bar q}
              + z_{power}\sqrt{p_1q_1 + p_2q_2/k}\right)^2}{(p_1 - p_2)^2}

    with k the size of the second group over the first, and p-bar their common mean.

    Parameters
    ----------
    rate
        The middle of both groups' rates.
    gap
        Their distance; both rates, ``rate ± gap / 2``, must lie from 0 to 1.
    power
        Probability of finding it.
    alpha
        Of the two-sided test.
    ratio
        k; a large second group saves rows of the first, at most half of them.

    References
    ----------
    Fleiss, Levin, Paik: Statistical Methods for Rates and Proportions, 2003, equation 4.14.
    """
    require(gap > 0, "gap", gap, "must be > 0")
    require(gap / 2 <= rate <= 1 - gap / 2, "rate", rate, f"must leave room for a gap of {gap}")
    require(0 < power < 1, "power", power, "must lie between 0 and 1", "try 0.8")
    require(0 < alpha < 1, "alpha", alpha, "must lie between 0 and 1", "try 0.05")
    require(ratio > 0, "ratio", ratio, "must be > 0")
    p1, p2 = rate + gap / 2, rate - gap / 2
    mean = (p1 + ratio * p2) / (1 + ratio)
    null = sqrt((1 + 1 / ratio) * mean * (1 - mean))
    real = sqrt(p1 * (1 - p1) + p2 * (1 - p2) / ratio)
    return ceil(((ndtri(1 - alpha / 2) * null + ndtri(power) * real) / gap) ** 2)


def detectable_gap(
    n: int, others: int, *, rate: float = 0.5, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest gap between two groups of these sizes that a test finds with this power.

    The inverse of :func:`rows_for_gap`, rates around ``rate``; NaN where no gap is large enough
    or a group is empty.
    """
    require(n >= 0 and others >= 0, "sizes", (n, others), "must be >= 0")
    require(0 < rate < 1, "rate", rate, "must lie between 0 and 1")
    if n == 0 or others == 0:
        return float("nan")

    def missing_power(gap: float) -> float:
        p1, p2 = rate + gap / 2, rate - gap / 2
        mean = (n * p1 + others * p2) / (n + others)
        null = sqrt(mean * (1 - mean) * (1 / n + 1 / others))
        real = sqrt(p1 * (1 - p1) / n + p2 * (1 - p2) / others)
        return float(gap - ndtri(1 - alpha / 2) * null - ndtri(power) * real)

    widest = 2 * min(rate, 1 - rate)
    if missing_power(widest) < 0:
        return float("nan")
    return float(brentq(missing_power, 0.0, widest))


def power_of_gap(
    n: int, others: int, gap: float, *, rate: float = 0.5, alpha: float = 0.05
) -> float:
    """The probability that a two-sided test finds a gap; sizes and rates as above."""
    require(n >= 1 and others >= 1, "sizes", (n, others), "must be >= 1")
    require(0 < gap / 2 <= min(rate, 1 - rate), "gap", gap, f"must leave rates around {rate}")
    p1, p2 = rate + gap / 2, rate - gap / 2
    mean = (n * p1 + others * p2) / (n + others)
    null = sqrt(mean * (1 - mean) * (1 / n + 1 / others))
    real = sqrt(p1 * (1 - p1) / n + p2 * (1 - p2) / others)
    return float(ndtr((gap - ndtri(1 - alpha / 2) * null) / real)) if real else 1.0


def cell_sizes(
    groups: Mapping[str, pd.Series], y: NDArray[np.int64], power: float
) -> tuple[CellSize, ...]:
    """Size every group of every attribute, and every intersection of all attributes.

    Parameters
    ----------
    groups
        Attribute to a text Series of shape [n].
    y : int64 array of shape [n], 0 or 1
    power
        For the detectable gaps.

    Returns
    -------
    tuple of CellSize
        The groups, then the intersections, those without anybody included.
    """
    cells = [
        (name, str(group), (values == group).to_numpy())
        for name, values in groups.items()
        for group in sorted(values.unique())
    ]
    if len(groups) > 1:
        for names in itertools.product(*(sorted(values.unique()) for values in groups.values())):
            members = np.all(
                [(values == name).to_numpy() for values, name in zip(groups.values(), names)],
                axis=0,
            )
            cells.append((JOINT.join(groups), JOINT.join(map(str, names)), members))
    made = []
    for attribute, group, members in cells:
        n, positives = int(members.sum()), int(y[members].sum())
        others = (int(y.sum()) - positives, int((1 - y).sum()) - (n - positives))
        made.append(
            CellSize(
                attribute,
                group,
                n,
                positives,
                n - positives,
                half_width(positives),
                half_width(n - positives),
                detectable_gap(positives, others[0], power=power),
                detectable_gap(n - positives, others[1], power=power),
            )
        )
    return tuple(made)
