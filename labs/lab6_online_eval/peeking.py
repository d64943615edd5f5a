"""What looking costs: every way to look K times, judged by the same integrals.

Each rule here has the same form, "stop when ``|Z_k| >= c_k``"; they differ in the boundary c. So
the recursion of `group_sequential` gives each one's false positives, power and mean sample size
to many digits, and what is left to simulate is the estimate at the stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.errors import require
from labs.lab6_online_eval import confidence_sequences, group_sequential, msprt
from labs.lab6_online_eval.group_sequential import Boundaries

Floats = NDArray[np.float64]

RULES = ("naive_peeking", "confidence_sequence", "msprt", "obrien_fleming", "pocock")
LOOKS = (1, 2, 5, 10, 20)
PLANNED_POWER = 0.8
UNITS = 10_000.0


def planned_drift(power: float = PLANNED_POWER, alpha: float = 0.05) -> float:
    """The effect, in final standard errors, that one look finds with probability ``power``."""
    return float(norm.isf(alpha / 2) + norm.isf(1 - power))


def boundaries_of(rule: str, looks: int, *, alpha: float = 0.05) -> Boundaries:
    """The boundary of |Z| at each of equally spaced looks, for one of `RULES`.

    The confidence sequence is tuned for these looks, the mSPRT for effects whose standard
    deviation is `planned_drift`: both get the information that a good plan has. ``spent`` is
    what the rule really spends, by integration.

    Raises
    ------
    InputError
        An unknown rule, or no looks.
    """
    require(looks >= 1, "looks", looks, "must be at least 1")
    require(rule in RULES, "rule", rule, f"must be one of {', '.join(RULES)}")
    times = np.arange(1, looks + 1) / looks
    if rule == "obrien_fleming":
        return group_sequential.obrien_fleming(looks, alpha=alpha)
    if rule == "pocock":
        return group_sequential.pocock(looks, alpha=alpha)
    se = 1 / np.sqrt(times)
    if rule == "naive_peeking":
        z = np.full(looks, norm.isf(alpha / 2))
    elif rule == "msprt":
        z = msprt.interval_half_width(se, planned_drift(alpha=alpha) ** 2, alpha=alpha) / se
    else:
        units = times * UNITS
        tuned_for = confidence_sequences.tuning_for_looks(list(units), alpha=alpha)
        half = confidence_sequences.half_width(se, units, tuned_for=tuned_for, alpha=alpha)
        z = half / se
    above, below = group_sequential.crossing_probabilities(times, z)
    return Boundaries(times, z, (above + below).cumsum())


def naive_false_positives(looks: int, *, alpha: float = 0.05) -> float:
    """Probability that an A/A test is significant at one of ``looks`` equally spaced looks.

    By integration: .050, .083, .142, .193, .248 for 1, 2, 5, 10 and 20 looks, as in Armitage,
    McPherson & Rowe (1969), JRSS A 132, table 2. It tends to 1 as the looks go on.
    """
    return float(boundaries_of("naive_peeking", looks, alpha=alpha).spent[-1])


@dataclass(frozen=True)
class PeekingRow:
    """One rule at one number of looks.

    Attributes
    ----------
    false_positives
        Probability of ever stopping under no effect.
    power
        Probability of stopping for the effect that one look finds with probability .8, when the
        final sample is that of one look.
    mean_share, mean_share_null
        Mean sample at the stop as a share of the final one: with that effect, and without any.
    inflation
        Final sample that gives power .8, over that of one look: what the right to look costs.
    mean_share_at_power
        Mean sample at the stop with that final sample, over the one look's: what it gives back.
    exaggeration
        Mean estimate of the experiments that stopped for it, over the true effect (simulated).
    """

    rule: str
    looks: int
    false_positives: float
    power: float
    mean_share: float
    mean_share_null: float
    inflation: float
    mean_share_at_power: float
    exaggeration: float


@dataclass(frozen=True)
class PeekingStudy:
    """All rows, and the size of the simulation behind ``exaggeration``."""

    rows: tuple[PeekingRow, ...]
    n_experiments: int

    def row(self, rule: str, looks: int) -> PeekingRow:
        return next(row for row in self.rows if (row.rule, row.looks) == (rule, looks))


def study_peeking(
    *,
    looks: Sequence[int] = LOOKS,
    rules: Sequence[str] = RULES,
    n_experiments: int = 20_000,
    seed: int = 0,
) -> PeekingStudy:
    """Every rule at every number of looks, at alpha .05 and an effect of power .8."""
    rows = []
    for rule in rules:
        for k in looks:
            rng = np.random.default_rng([seed, k])
            rows.append(_row(rule, k, n_experiments, rng))
    return PeekingStudy(tuple(rows), n_experiments)


def _row(rule: str, looks: int, n: int, rng: np.random.Generator) -> PeekingRow:
    plan, drift = boundaries_of(rule, looks), planned_drift()
    needed = group_sequential.drift_for_power(plan, PLANNED_POWER)
    size = (needed / drift) ** 2
    z = z_statistics(rng, n, plan.times, drift)
    look, crossed = first_crossing(z, plan.z)
    estimate = z[np.arange(n), look] / np.sqrt(plan.times[look])
    won = crossed & (estimate > 0)
    return PeekingRow(
        rule=rule,
        looks=looks,
        false_positives=float(plan.spent[-1]),
        power=group_sequential.power(plan, drift),
        mean_share=group_sequential.expected_information(plan, drift),
        mean_share_null=group_sequential.expected_information(plan, 0.0),
        inflation=size,
        mean_share_at_power=size * group_sequential.expected_information(plan, needed),
        exaggeration=float(estimate[won].mean() / drift),
    )


def z_statistics(rng: np.random.Generator, n: int, times: Floats, drift: float) -> Floats:
    """Simulated z-statistics of n experiments at each look, float [n, looks].

    ``Z_k = S_k / sqrt(t_k)`` with independent increments of S, as for any metric once a look has
    enough units.
    """
    steps = np.diff(times, prepend=0.0)
    noise = rng.standard_normal((n, len(times))) * np.sqrt(steps)
    return np.asarray((noise.cumsum(axis=1) + drift * times) / np.sqrt(times))


def first_crossing(z: Floats, bounds: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The look of the first ``|z| >= bounds`` (else the last look), and whether: [n] each."""
    outside = np.abs(z) >= bounds
    crossed = np.asarray(outside.any(axis=1))
    look = np.where(crossed, outside.argmax(axis=1), z.shape[1] - 1)
    return look.astype(np.int64), crossed
