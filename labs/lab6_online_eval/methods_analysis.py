"""What `analyze` computes from sums, tried as it computes it; and two mistakes of the unit table.

Each experiment has at least 150 units an arm: CUPED's coefficient is estimated, and Welch's degrees
of freedom do not count it, which matters with fewer than about 100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from labs.lab6_online_eval.estimates import Estimate, as_arrays, summed
from labs.lab6_online_eval.power import TwoArms, power_t
from labs.lab6_online_eval.sufficient_statistics import (
    Columns,
    SufficientStatistics,
    adjusted_moments,
)
from labs.lab6_online_eval.validation import Findings, Method

Floats = NDArray[np.float64]

UNITS = 150
MEAN_EFFECT = 0.3
EXPLAINED = 0.5
SHARE, SHARE_EFFECT, SHARE_UNITS = 0.4, 0.08, 600
RATIO, RATIO_SPREAD, RATIO_EFFECT = 0.3, 0.15, 0.04
EXPOSED, BUYERS, AMOUNT, MORE_BUYERS = 20_000, 0.2, 10.0, 0.5

MEAN, CUPED = Columns("y"), Columns("y", covariate="x")
RATES, RATES_CUPED = Columns("a", "b"), Columns("a", "b", "a_before", "b_before")


def methods() -> list[Method]:
    """Five that `analyze` uses, a covariate from after the treatment, and dropped units."""
    total = 2 * UNITS
    share_after = SHARE + SHARE_EFFECT
    shares = TwoArms(SHARE_UNITS, SHARE_UNITS, SHARE * (1 - SHARE), share_after * (1 - share_after))
    spent = BUYERS * AMOUNT
    return [
        Method(
            "mean_from_sums",
            _simulated(_normal, MEAN),
            MEAN_EFFECT,
            power_t(MEAN_EFFECT, TwoArms.of(total, 1.0)),
        ),
        Method(
            "cuped_from_sums",
            _simulated(_normal, CUPED),
            MEAN_EFFECT,
            power_t(MEAN_EFFECT, TwoArms.of(total, 1 - EXPLAINED)),
        ),
        Method(
            "proportion_from_sums",
            _simulated(_active, MEAN, SHARE_UNITS),
            SHARE_EFFECT,
            power_t(SHARE_EFFECT, shares),
        ),
        Method("ratio_from_sums", _simulated(_clicks, RATES), RATIO_EFFECT),
        Method("ratio_cuped_from_sums", _simulated(_clicks, RATES_CUPED), RATIO_EFFECT),
        Method(
            "covariate_after_treatment",
            _simulated(_late_covariate, CUPED),
            MEAN_EFFECT,
            flawed=True,
        ),
        Method("units_without_events_dropped", _buyers_only, MORE_BUYERS * spent, flawed=True),
    ]


Draw = Callable[[np.random.Generator, tuple[int, int], float], Floats]
"""``draw(rng, (n, units), effect)``: the columns of n arms, float [n, units, k]."""


def _simulated(draw: Draw, columns: Columns, units: int = UNITS) -> Callable[..., Findings]:
    def simulate(rng: np.random.Generator, n: int, effect: float) -> Findings:
        arms = [
            _statistics(draw(rng, (n, units), each)[..., : len(columns.all)], columns)
            for each in (0.0, effect)
        ]
        return _findings([_estimate(a, b, columns) for a, b in zip(*arms, strict=True)])

    return simulate


def _statistics(rows: Floats, columns: Columns) -> list[SufficientStatistics]:
    """The sums of each of n arms, from float [n, units, k]."""
    mean = rows.mean(axis=1)
    centred = rows - mean[:, None]
    scatter = np.swapaxes(centred, 1, 2) @ centred
    names = columns.all
    return [
        SufficientStatistics(names, rows.shape[1], *each)
        for each in zip(mean, scatter, strict=True)
    ]


def _estimate(
    control: SufficientStatistics, treatment: SufficientStatistics, columns: Columns
) -> Estimate:
    """`compare_statistics` without the quantiles of t, which `as_arrays` takes all at once."""
    found = adjusted_moments(control, treatment, columns)
    arms = (found.control, found.treatment)
    pieces = np.array([arm.variance / arm.n for arm in arms])
    dofs = np.array([arm.n - 1.0 for arm in arms])
    return summed(found.treatment.mean - found.control.mean, pieces, dofs)


def _findings(estimates: Sequence[Estimate]) -> Findings:
    return Findings(*as_arrays(estimates))


def _normal(rng: np.random.Generator, shape: tuple[int, int], effect: float) -> Floats:
    """y of variance 1, of which x explains `EXPLAINED`."""
    x, noise = rng.standard_normal((2, *shape))
    y = np.sqrt(EXPLAINED) * x + np.sqrt(1 - EXPLAINED) * noise + effect
    return np.stack([y, x], axis=-1)


def _late_covariate(rng: np.random.Generator, shape: tuple[int, int], effect: float) -> Floats:
    """The same with a covariate that was measured when the treatment had changed it as well."""
    rows = _normal(rng, shape, effect)
    rows[..., 1] += effect
    return rows


def _active(rng: np.random.Generator, shape: tuple[int, int], effect: float) -> Floats:
    return (rng.random((*shape, 1)) < SHARE + effect).astype(float)


def _clicks(rng: np.random.Generator, shape: tuple[int, int], effect: float) -> Floats:
    """Clicks and sessions now and before; a unit's click rate stays its own.

    The rate is independent of the number of sessions, so the ratio of the totals is its mean.
    """
    rate = np.clip(RATIO + RATIO_SPREAD * (2 * rng.random(shape) - 1) * np.sqrt(3), 0.0, 1.0)
    sessions, before = 1 + rng.poisson(4.0, (2, *shape))
    clicks = rng.binomial(sessions, rate + effect)
    return np.stack([clicks, sessions, rng.binomial(before, rate), before], axis=-1).astype(float)


def _buyers_only(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """Spending a unit, from those alone who bought: more buyers do not change it. Wrong."""
    arms = []
    for more in (0.0, effect / (BUYERS * AMOUNT)):
        count = rng.binomial(EXPOSED, BUYERS * (1 + more), n)
        mean = rng.gamma(count, AMOUNT / count)
        arms.append((mean, AMOUNT**2 / count, count - 1.0))
    (control, v_control, dof_control), (treatment, v_treatment, dof_treatment) = arms
    return _findings(
        [
            summed(float(t - c), np.array(pieces), np.array(dofs))
            for c, t, pieces, dofs in zip(
                control, treatment, zip(v_control, v_treatment), zip(dof_control, dof_treatment)
            )
        ]
    )
