"""The gate's error rate, counted exactly for two groups and simulated for more."""

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from labs.lab3_fairness import gate_bounds

SIZES = ((20, 20), (30, 300), (300, 30), (50, 50), (100, 1000), (2000, 30), (200, 200))
RATES = (0.005, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)


def every_table(limits, n_a, n_b, alpha):
    """Limits of a against b for every pair of counts: [n_a + 1, n_b + 1] each, in one call."""
    counts = np.r_[np.arange(n_a + 1), np.arange(n_b + 1)]
    sizes = np.repeat([n_a, n_b], [n_a + 1, n_b + 1])
    lower, upper = limits(counts, sizes, alpha)
    return lower[: n_a + 1, n_a + 1 :], upper[: n_a + 1, n_a + 1 :]


def worst_errors(limits, alpha, truths):
    """The largest probability, over sizes and rates, that each limit is on the wrong side."""
    worst = np.zeros(2)
    for n_a, n_b in SIZES:
        lower, upper = every_table(limits, n_a, n_b, alpha)
        for p_b in RATES:
            for p_a, truth in truths(p_b):
                if not 0 < p_a < 1:
                    continue
                weight = np.outer(
                    binom.pmf(np.arange(n_a + 1), n_a, p_a), binom.pmf(np.arange(n_b + 1), n_b, p_b)
                )
                errors = weight[upper < truth - 1e-9].sum(), weight[lower > truth + 1e-9].sum()
                worst = np.maximum(worst, errors)
    return worst


def gaps(p_b):
    return [(p_b + gap, gap) for gap in (0.0, 0.05, 0.1, 0.3)]


def ratios(p_b):
    return [(p_b * ratio, ratio) for ratio in (0.5, 0.8, 0.95)]


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6])
def test_the_limits_of_a_difference_keep_their_error_rate(alpha):
    """Exact, over every possible table: at most alpha, at rates of 1 in 200 and 30 rows too.

    A level below that of a policy's 0.99 is asked of the lower limit only (a fail, corrected for
    the number of pairs); the upper one is let off by a factor of 1.2 there.
    """
    upper, lower = worst_errors(gate_bounds.pair_differences, alpha, gaps)
    assert lower <= alpha, f"wrong fail: {lower:.4f} of {alpha:.4f}"
    assert upper <= alpha * (1.0 if alpha >= 0.05 else 1.2), f"wrong pass: {upper:.4f}"


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6])
def test_the_limits_of_a_ratio_keep_their_error_rate(alpha):
    """As for the difference; here the pass is on the lower limit."""
    upper, lower = worst_errors(gate_bounds.pair_ratios, alpha, ratios)
    assert upper <= alpha, f"wrong fail: {upper:.4f} of {alpha:.4f}"
    assert lower <= alpha * (1.0 if alpha >= 0.05 else 1.2), f"wrong pass: {lower:.4f}"


def test_the_strictest_confidence_of_a_policy_is_kept_within_a_tenth():
    """0.99 is the largest a policy may ask for; the error is at most .011 in place of .01."""
    assert worst_errors(gate_bounds.pair_differences, 0.01, gaps).max() <= 0.011
    assert worst_errors(gate_bounds.pair_ratios, 0.01, ratios).max() <= 0.011


def test_newcombes_interval_does_not_keep_it():
    """Why not the textbook's: with Wilson's limits the error is more than twice what is promised.

    It holds on average over rates, and a gate is at one rate.
    """

    def newcombe(x, n, alpha):
        p = x / n
        low, high = proportion_confint(x, n, alpha=2 * alpha, method="wilson")
        gap = p[:, None] - p[None]
        return (
            gap - np.hypot((p - low)[:, None], (high - p)[None]),
            gap + np.hypot((high - p)[:, None], (p - low)[None]),
        )

    upper, lower = worst_errors(newcombe, 0.05, gaps)
    assert max(upper, lower) > 0.1, (upper, lower)


def test_the_limits_of_one_rate_are_those_of_statsmodels():
    """Clopper and Pearson by the incomplete beta function, statsmodels' ``beta``."""
    x, n = np.array([0, 1, 7, 29, 30]), np.full(5, 30)
    lower, upper = gate_bounds.clopper_pearson(x, n, 0.025)
    reference = proportion_confint(x, n, alpha=0.05, method="beta")
    assert lower == pytest.approx(reference[0])
    assert upper == pytest.approx(reference[1])


def test_with_many_rows_the_limits_are_those_of_statsmodels():
    """Newcombe's difference and the log ratio: where n is large, all good intervals agree."""
    x, n = np.array([2600, 2000]), np.array([5200, 5000])
    lower, upper = gate_bounds.pair_differences(x, n, 0.025)
    reference = confint_proportions_2indep(x[0], n[0], x[1], n[1], method="newcomb")
    assert (lower[0, 1], upper[0, 1]) == pytest.approx(reference, abs=3e-4)
    lower, upper = gate_bounds.pair_ratios(x, n, 0.025)
    reference = confint_proportions_2indep(
        x[0], n[0], x[1], n[1], compare="ratio", method="log-adjusted"
    )
    assert (lower[0, 1], upper[0, 1]) == pytest.approx(reference, abs=1.5e-3)


def test_a_ratio_with_nobody_chosen_has_no_upper_limit():
    """0 of 50 against 0 of 50: nothing is known of the ratio, and nothing is made up."""
    lower, upper = gate_bounds.bounds("ratio", "at_least", [0, 0], [50, 50], 0.05)
    assert (lower, upper) == (0.0, 1.0)
    lower, _ = gate_bounds.pair_ratios([0, 25], [50, 50], 0.05)
    assert lower[0, 1] == 0.0


def simulated(kind, direction, rates, n, bound, *, alpha=0.05, draws=1500):
    """Shares of samples in which a gate passes and fails."""
    rng = np.random.default_rng(0)
    passed = failed = 0
    for x in rng.binomial(n, rates, size=(draws, len(rates))):
        lower, upper = gate_bounds.bounds(kind, direction, x, n, alpha)
        good = (
            (upper <= bound, lower > bound)
            if direction == "at_most"
            else (lower >= bound, upper < bound)
        )
        passed, failed = passed + good[0], failed + good[1]
    return passed / draws, failed / draws


SIX = np.array([3000, 2000, 500, 300, 100, 60])


@pytest.mark.parametrize(
    ("kind", "direction", "rates", "bound"),
    [
        # One pair at the bound and many: the worst case of the pass, and that of the fail.
        ("difference", "at_most", [0.5, 0.45, 0.45, 0.4, 0.45, 0.45], 0.1),
        ("difference", "at_most", [0.5, 0.4, 0.5, 0.4, 0.5, 0.4], 0.1),
        ("difference", "at_most", [0.1, 0.05, 0.05, 0.05, 0.1, 0.05], 0.05),
        ("ratio", "at_least", [0.5, 0.45, 0.45, 0.4, 0.45, 0.45], 0.8),
        ("ratio", "at_least", [0.5, 0.4, 0.5, 0.4, 0.5, 0.4], 0.8),
        ("worst_group", "at_least", [0.9, 0.9, 0.9, 0.9, 0.9, 0.8], 0.8),
        ("worst_group", "at_least", [0.8, 0.8, 0.8, 0.8, 0.8, 0.8], 0.8),
        ("worst_group", "at_most", [0.1, 0.2, 0.2, 0.2, 0.2, 0.2], 0.2),
    ],
)
def test_at_the_bound_a_gate_of_six_groups_errs_no_more_often_than_it_says(
    kind, direction, rates, bound
):
    """Exactly at the bound pass and fail are both as wrong as can be: each at most 5 %.

    1,500 samples have a standard error of .0056.
    """
    passed, failed = simulated(kind, direction, np.array(rates), SIX, bound)
    assert passed <= 0.05 + 2 * 0.0056, f"wrong pass in {passed:.3f}"
    assert failed <= 0.05 + 2 * 0.0056, f"wrong fail in {failed:.3f}"


def test_a_gate_that_never_decides_would_keep_its_error_rate_too():
    """Away from the bound and with enough rows it decides, mostly."""
    equal, far = np.full(6, 0.5), np.array([0.5, 0.3, 0.5, 0.5, 0.5, 0.5])
    passed, failed = simulated("difference", "at_most", equal, np.full(6, 1500), 0.1)
    assert passed > 0.9, passed
    assert failed == 0
    passed, failed = simulated("difference", "at_most", far, np.full(6, 1500), 0.1)
    assert failed > 0.9, failed
    assert passed == 0


def test_a_pass_needs_no_correction_and_a_fail_does():
    """*Every* pair is an intersection-union test, *some* pair a union-intersection test.

    With equal groups more of them make both limits wider; but the upper limit of a pass is that
    of the single worst pair at the full level.
    """
    x, n = np.array([500, 400, 450, 450]), np.full(4, 1000)
    lower, upper = gate_bounds.bounds("difference", "at_most", x, n, 0.05)
    pair_lower, pair_upper = gate_bounds.bounds("difference", "at_most", x[:2], n[:2], 0.05)
    assert upper == pytest.approx(pair_upper)
    assert lower < pair_lower


@pytest.mark.parametrize(
    ("kind", "direction", "rates", "bound"),
    [
        ("difference", "at_most", [0.5, 0.48], 0.1),
        ("difference", "at_most", [0.5, 0.35], 0.1),
        ("ratio", "at_least", [0.5, 0.48], 0.8),
        ("worst_group", "at_least", [0.9, 0.86], 0.8),
    ],
)
def test_the_rows_it_asks_for_decide_in_four_cases_of_five(kind, direction, rates, bound):
    """Power .8: of samples of that size about 80 % get the verdict that was announced."""
    n = np.array([100, 80])
    needed = gate_bounds.rows_needed(kind, direction, n * rates, n, bound, 0.05)
    assert needed.factor > 1
    enough = np.ceil(n * needed.factor).astype(int)
    shares = simulated(kind, direction, np.array(rates), enough, bound, draws=800)
    assert shares[0 if needed.would_pass else 1] == pytest.approx(0.8, abs=0.06)


def test_an_estimate_at_the_bound_is_decided_by_no_number_of_rows():
    """And that is said, not a number with eleven digits."""
    needed = gate_bounds.rows_needed("difference", "at_most", [50, 40], [100, 100], 0.1, 0.05)
    assert needed.factor == float("inf")
