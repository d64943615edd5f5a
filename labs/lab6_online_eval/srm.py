"""Sample ratio mismatch: the first thing to check, before any metric is looked at.

If the arms do not have the sizes they were given, something filtered one arm more than the other,
and the units that are left are no longer comparable. No analysis repairs that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import chi2

from common.errors import require
from common.exercises import exercise

ALARM = 1e-3


@dataclass(frozen=True)
class SrmResult:
    """Outcome of the check. ``expected`` are the counts that the weights promise."""

    p: float
    statistic: float
    dof: int
    observed: tuple[int, ...]
    expected: tuple[float, ...]

    @property
    def mismatch(self) -> bool:
        """Whether the experiment must not be analysed: p < .001.

        The threshold is low because the check runs on every experiment, every day; a real fault
        in thousands of units passes it easily.
        """
        return self.p < ALARM


@exercise(
    "6.5",
    points=5,
    title="Test for a sample ratio mismatch",
    hint="Compare what each arm got with what its weight promised of the total. How many of the "
    "counts are free once the total is known? And what is 1 - cdf when cdf is 1 to 16 digits?",
)
def srm_test(counts: Sequence[int], weights: Sequence[float]) -> SrmResult:
    """Chi-square test that the arms have the sizes they were given.

    ``X2 = sum_i (o_i - e_i)^2 / e_i`` with ``e_i = w_i * sum(o)``, on k - 1 degrees of freedom.

    Parameters
    ----------
    counts
        Units observed in each arm (units, not events: a user counts once).
    weights
        Share that each arm was given; all > 0, they sum to 1.

    Raises
    ------
    InputError
        Fewer than two arms, lengths that differ, a negative count, no units, or an expected count
        below 5, where the chi-square law does not hold.

    Notes
    -----
    Fabijan et al. (2019), Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD.
    p is the survival function: ``1 - cdf`` is 0 beyond about 1e-16.
    """
    require(len(counts) >= 2, "counts", list(counts), "must name at least two arms")
    require(
        len(counts) == len(weights), "weights", list(weights), f"must be {len(counts)}, one an arm"
    )
    require(min(counts) >= 0, "counts", list(counts), "must not be negative")
    require(min(weights) > 0, "weights", list(weights), "must be > 0", "leave empty arms out")
    require(abs(sum(weights) - 1) <= 1e-6, "weights", list(weights), "must sum to 1")
    # BEGIN SOLUTION
    total = sum(counts)
    expected = tuple(weight * total for weight in weights)
    require(
        min(expected) >= 5,
        "smallest expected count",
        min(expected),
        "must be at least 5 for the chi-square law",
        "wait for more units",
    )
    statistic = sum((o - e) ** 2 / e for o, e in zip(counts, expected, strict=True))
    dof = len(counts) - 1
    observed = tuple(int(count) for count in counts)
    return SrmResult(float(chi2.sf(statistic, dof)), float(statistic), dof, observed, expected)
    # END SOLUTION
