"""The sequential and one-sided methods, as validation tries them: 20 looks, each one peeked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from labs.lab6_online_eval import confidence_sequences, group_sequential, msprt, peeking
from labs.lab6_online_eval.non_inferiority import (
    non_inferiority_p_values,
    non_inferiority_power,
)
from labs.lab6_online_eval.validation import ALPHA, Findings, Method

Floats = NDArray[np.float64]

LOOKS = 20
UNITS_A_LOOK = 100
EFFECT = 0.09
MARGIN, VARIATION, UNITS = 0.05, 0.5, 1200


@dataclass(frozen=True)
class Looked:
    """n experiments at every look: estimate and standard error [n, looks], units in all [looks]."""

    effect: Floats
    se: Floats
    units: Floats


def looked_at(rng: np.random.Generator, n: int, effect: float) -> Looked:
    """Experiments on a normal metric of standard deviation 1, `UNITS_A_LOOK` an arm and look.

    Drawn by batch, exactly: the mean of m normal units is normal, and their sum of squares about
    it, independent, chi-square with m - 1 degrees of freedom.
    """
    m = UNITS_A_LOOK
    size = np.arange(1.0, LOOKS + 1) * m
    means, variances = [], []
    for mean in (0.0, effect):
        batch = mean + rng.standard_normal((n, LOOKS)) / np.sqrt(m)
        within = rng.chisquare(m - 1, (n, LOOKS))
        total = m * batch.cumsum(axis=1)
        squares = (within + m * batch**2).cumsum(axis=1)
        means.append(total / size)
        variances.append((squares - total**2 / size) / (size - 1))
    se = np.sqrt((variances[0] + variances[1]) / size)
    return Looked(means[1] - means[0], se, 2 * size)


def methods() -> list[Method]:
    """Five that hold under peeking, the one-sided test at a fixed end, and naive peeking."""
    final_se = np.sqrt(2 / (LOOKS * UNITS_A_LOOK))
    drift = EFFECT / float(final_se)
    plans = {
        "obrien_fleming": group_sequential.spending_boundaries(np.arange(1.0, LOOKS + 1)),
        "pocock": group_sequential.pocock(LOOKS),
    }
    tuned_for = confidence_sequences.tuning_for_looks(
        [2.0 * UNITS_A_LOOK * look for look in range(1, LOOKS + 1)]
    )

    def sequence(rng: np.random.Generator, n: int, effect: float) -> Findings:
        data = looked_at(rng, n, effect)
        half = confidence_sequences.half_width(data.se, data.units, tuned_for=tuned_for)
        p = confidence_sequences.always_valid_p(
            data.effect, data.se, data.units, tuned_for=tuned_for
        )
        return _always_valid(data, half, p)

    def mixture(rng: np.random.Generator, n: int, effect: float) -> Findings:
        data = looked_at(rng, n, effect)
        half = msprt.interval_half_width(data.se, EFFECT**2)
        return _always_valid(
            data, half, msprt.always_valid_p_values(data.effect, data.se, EFFECT**2)
        )

    def harm(rng: np.random.Generator, n: int, effect: float) -> Findings:
        data = looked_at(rng, n, effect)
        half = confidence_sequences.one_sided_half_width(data.se, data.units, tuned_for=tuned_for)
        p = confidence_sequences.one_sided_always_valid_p(
            data.effect, data.se, data.units, tuned_for=tuned_for
        )
        found = _always_valid(data, half, p)
        return Findings(found.effect, found.low, np.full(n, np.inf), found.p)

    def planned(plan: group_sequential.Boundaries) -> Callable[..., Findings]:
        def simulate(rng: np.random.Generator, n: int, effect: float) -> Findings:
            data = looked_at(rng, n, effect)
            z = data.effect / data.se
            look, _ = peeking.first_crossing(z, plan.z)
            row = np.arange(n)
            estimate, half = data.effect[row, look], (plan.z * data.se)[row, look]
            p = group_sequential.stagewise_p(plan, look, z[row, look])
            return Findings(estimate, estimate - half, estimate + half, p)

        return simulate

    def naive(rng: np.random.Generator, n: int, effect: float) -> Findings:
        data = looked_at(rng, n, effect)
        z = data.effect / data.se
        critical = float(norm.isf(ALPHA / 2))
        look, _ = peeking.first_crossing(z, np.full(LOOKS, critical))
        row = np.arange(n)
        estimate, half = data.effect[row, look], critical * data.se[row, look]
        p = 2 * norm.sf(np.abs(z[row, look]))
        return Findings(estimate, estimate - half, estimate + half, p)

    def sequential(name: str, simulate: Callable[..., Findings], power: float | None) -> Method:
        return Method(name, simulate, EFFECT, power=power, sequential=True)

    sequence_power = _power(peeking.boundaries_of("confidence_sequence", LOOKS), drift)
    return [
        sequential("confidence_sequence", sequence, sequence_power),
        sequential("msprt", mixture, _power(_mixture_plan(), drift)),
        sequential("always_valid_harm", harm, None),
        *(sequential(name, planned(plan), _power(plan, drift)) for name, plan in plans.items()),
        Method(
            "non_inferiority",
            non_inferiority,
            MARGIN,
            power=non_inferiority_power(MARGIN, VARIATION, UNITS, UNITS),
        ),
        Method("naive_peeking", naive, EFFECT, sequential=True, flawed=True),
    ]


def non_inferiority(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """`UNITS` an arm, normal, coefficient of variation `VARIATION`; one-sided at the margin.

    ``effect`` is the distance of the true relative effect from the margin: at 0 the treatment is
    worse by exactly the margin, so a pass is a false positive; at `MARGIN` it is harmless. The
    interval is one-sided, from the bound to infinity.
    """
    means, variances = [], []
    for mean in (1.0, 1.0 + effect - MARGIN):
        means.append(mean + VARIATION * rng.standard_normal(n) / np.sqrt(UNITS))
        variances.append(VARIATION**2 * rng.chisquare(UNITS - 1, n) / (UNITS - 1))
    ratio = means[1] / means[0]
    se = np.sqrt((variances[1] + ratio**2 * variances[0]) / UNITS) / means[0]
    p = non_inferiority_p_values(ratio - 1, se, MARGIN, dof=2 * UNITS - 2)
    distance = ratio - 1 + MARGIN
    low = distance - float(norm.isf(ALPHA)) * se
    return Findings(distance, low, np.full(n, np.inf), p)


def _always_valid(data: Looked, half: Floats, p: Floats) -> Findings:
    """Stop at the first p below alpha; the interval is the intersection up to that look."""
    low, high = confidence_sequences.running_intersection(data.effect - half, data.effect + half)
    smallest = np.minimum.accumulate(p, axis=1)
    crossed = smallest < ALPHA
    look = np.where(crossed.any(axis=1), crossed.argmax(axis=1), LOOKS - 1)
    row = np.arange(len(look))
    return Findings(data.effect[row, look], low[row, look], high[row, look], smallest[row, look])


def _mixture_plan() -> group_sequential.Boundaries:
    times = np.arange(1, LOOKS + 1) / LOOKS
    se = np.sqrt(2 / (LOOKS * UNITS_A_LOOK) / times)
    z = msprt.interval_half_width(se, EFFECT**2) / se
    return group_sequential.Boundaries(times, z, np.zeros(LOOKS))


def _power(plan: group_sequential.Boundaries, drift: float) -> float:
    """Both sides, as validation counts them."""
    above, below = group_sequential.crossing_probabilities(plan.times, plan.z, drift=drift)
    return float((above + below).sum())
