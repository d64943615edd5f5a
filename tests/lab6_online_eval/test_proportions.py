"""Two proportions against statsmodels, and near 0 where the normal interval fails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from labs.lab6_online_eval import proportions

SEVERAL = [(30, 400, 55, 500), (1, 60, 9, 50), (199, 200, 180, 200), (5, 1000, 6, 1100)]


@pytest.mark.parametrize("counts", SEVERAL)
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_it_equals_statsmodels(counts: tuple[int, int, int, int], alpha: float) -> None:
    """The z-test, Newcombe's, the normal and Katz's interval: all to 1e-9."""
    from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

    c, n_c, t, n_t = counts
    mine = proportions.compare_proportions(*counts, alpha=alpha)
    assert mine.p == pytest.approx(proportions_ztest([t, c], [n_t, n_c])[1], abs=1e-9)
    for interval, compare, method in (
        (mine.ci95, "diff", "newcomb"),
        (mine.wald_ci95, "diff", "wald"),
        (mine.relative_risk_ci95, "ratio", "log"),
    ):
        its = confint_proportions_2indep(
            t, n_t, c, n_c, compare=compare, method=method, alpha=alpha
        )
        assert interval == pytest.approx(its, abs=1e-9), method


def test_one_share_has_wilsons_interval() -> None:
    """As in statsmodels, at 0 of 50 as well."""
    from statsmodels.stats.proportion import proportion_confint

    for count in (0, 3, 50):
        its = proportion_confint(count, 50, method="wilson")
        mine = proportions.wilson(count, 50)
        assert (float(mine.low), float(mine.high)) == pytest.approx(its, abs=1e-9)


def test_no_success_in_either_fifty_is_not_certainty() -> None:
    """The normal interval is from 0 to 0; Newcombe's leaves 7 points on each side."""
    wald = proportions.wald(0, 50, 0, 50)
    newcombe = proportions.newcombe(0, 50, 0, 50)
    assert (float(wald.low), float(wald.high)) == (0.0, 0.0)
    assert float(newcombe.high) == pytest.approx(0.0714, abs=1e-4)
    assert float(newcombe.low) == -float(newcombe.high)


def test_a_rare_event_is_covered_by_newcombe_and_not_by_the_normal_interval() -> None:
    """Exact coverage, summed over all tables: 1 % against 5 %, 40 units an arm.

    Newcombe's is too wide there, which is the right side to be wrong on.
    """
    n, p_c, p_t = 40, 0.01, 0.05
    counts = np.arange(n + 1)
    c, t = np.meshgrid(counts, counts)
    weight = binom.pmf(c, n, p_c) * binom.pmf(t, n, p_t)
    covered = {}
    for method in (proportions.wald, proportions.newcombe):
        low, high = method(c, n, t, n)
        covered[method.__name__] = float((weight * ((low <= 0.04) & (high >= 0.04))).sum())
    assert covered["wald"] < 0.88, covered
    assert covered["newcombe"] > 0.95, covered


@settings(derandomize=True, deadline=None, max_examples=30)
@given(n_c=st.integers(2, 500), n_t=st.integers(2, 500), data=st.data())
def test_swapping_the_arms_turns_the_interval_around(
    n_c: int, n_t: int, data: st.DataObject
) -> None:
    """Nothing knows which arm is called the control; and a difference stays within -1 to 1."""
    c, t = data.draw(st.integers(0, n_c)), data.draw(st.integers(1, n_t - 1))
    one = proportions.compare_proportions(c, n_c, t, n_t)
    other = proportions.compare_proportions(t, n_t, c, n_c)
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))
    assert one.p == pytest.approx(other.p)
    assert -1 <= one.ci95[0] <= one.effect <= one.ci95[1] <= 1


def test_without_a_success_there_is_no_ratio() -> None:
    result = proportions.compare_proportions(0, 40, 3, 40)
    assert result.relative_risk is None
    assert result.relative_risk_ci95 is None


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 0, 1, 2), "units in control = 0 must be at least 1"),
        ((3, 2, 1, 2), "successes in control = 3 must be between 0 and 2"),
        ((0, 9, -1, 9), "successes in treatment = -1 must be between 0 and 9"),
        ((0, 9, 0, 9), "both arms = 0 must be between 1 and 17; a share of 0 or 1"),
        ((9, 9, 9, 9), "both arms = 18 must be between"),
    ],
)
def test_unusable_counts_are_refused(counts: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        proportions.compare_proportions(*counts)


def test_an_alpha_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha = 0"):
        proportions.compare_proportions(1, 5, 2, 5, alpha=0)
