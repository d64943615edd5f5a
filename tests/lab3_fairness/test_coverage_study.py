import numpy as np
import pytest
from scipy.stats import binom, bootstrap

from common.errors import InputError
from common.statistics import proportion_ci
from labs.lab3_fairness.cell_bootstrap import Cells
from labs.lab3_fairness.coverage_study import (
    bootstrap_intervals,
    coverage,
    data_scenario,
    null_false_positives,
    rate_scenario,
    study,
)
from labs.lab3_fairness.row_metrics import RATE_METRICS

FAST = {"n_sets": 300, "n_boot": 200}


def column(found, of, method, group=None):
    rows = found[(found["of"] == of) & (found["method"] == method)]
    if group is not None:
        rows = rows[rows["group"] == group]
    return rows["coverage"].to_numpy()


def test_the_counted_coverage_is_the_exact_one():
    """Wilson's coverage is a sum of binomial probabilities, and the percentile interval of 10 rows
    misses a rate of 0.05 whenever nobody is selected."""
    n, rate = 10, 0.05
    found = coverage(rate_scenario("one", (n, n), (rate, rate)), n_sets=3000, n_boot=100)
    inside = [low <= rate <= high for low, high in (proportion_ci(x, n) for x in range(n + 1))]
    exact = float(np.sum(binom.pmf(np.arange(n + 1), n, rate) * inside))
    for group in (0, 1):
        assert column(found, "value", "Wilson", group)[0] == pytest.approx(exact, abs=0.025)
        assert column(found, "value", "percentile", group)[0] == pytest.approx(
            1 - 0.95**10, abs=0.05
        )


def test_all_methods_agree_where_groups_are_large():
    found = coverage(rate_scenario("large", (2000, 2000), (0.3, 0.5)), **FAST)
    assert (found["coverage"] > 0.9).all(), found


def test_small_groups_break_percentiles_and_not_score_intervals():
    found = coverage(rate_scenario("small", (20, 200), (0.1, 0.1)), n_sets=600, n_boot=400)
    assert column(found, "difference", "percentile")[0] < 0.91
    assert 0.93 <= column(found, "difference", "Newcombe")[0] <= 0.985
    assert (
        column(found, "value", "percentile", 0)[0] < 0.91 < column(found, "value", "Wilson", 0)[0]
    )


def test_the_largest_difference_of_equal_groups_is_missed_by_every_percentile():
    """The truth is 0 and a gap is above 0 in every replicate: coverage 0, not 0.95."""
    found = coverage(rate_scenario("equal", 50, np.full(8, 0.3)), **FAST)
    assert column(found, "largest difference", "percentile")[0] < 0.02
    assert column(found, "largest difference", "all pairs")[0] > 0.9


def test_bca_and_basic_are_those_of_scipy():
    rng = np.random.default_rng(0)
    sample = (rng.random(80) < 0.2).astype(float)
    p = sample.mean()
    draws = rng.binomial(80, p, size=40_000) / 80
    squares = p * (1 - p) / 80
    found = bootstrap_intervals(
        np.array(p), draws, np.array(squares), np.array(squares * (1 - 2 * p) / 80)
    )
    for method in ("percentile", "basic", "BCa"):
        theirs = bootstrap(
            (sample,), np.mean, method=method, n_resamples=20_000, rng=np.random.default_rng(1)
        ).confidence_interval
        np.testing.assert_allclose(found[method], theirs, atol=1.01 / 80)


def test_a_population_like_the_data_has_the_rates_of_the_data():
    cells = Cells(
        np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]),
        np.array([[300, 50, 40, 110], [500, 40, 60, 100]]),
    )  # fmt: skip
    scenario = data_scenario("table", cells, RATE_METRICS)
    number = scenario.metrics.index("true_positive_rate")
    np.testing.assert_allclose(scenario.truth[:, number], [110 / 150, 100 / 160])
    found = coverage(scenario, **FAST)
    assert len(found) == 5 * (2 * 4 + 4 + 4)
    assert (found[found["of"] == "difference"]["coverage"] > 0.9).all()


def test_the_null_rejects_few_fair_data_sets_and_no_more_than_it_says():
    rejected = null_false_positives(
        rate_scenario("fair", 500, np.full(3, 0.4)), n_sets=1500, n_permutations=199
    )
    assert 0.03 <= rejected <= 0.065, rejected


def test_a_small_study_has_every_table():
    cells = Cells(
        np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]),
        np.array([[300, 50, 40, 110], [500, 40, 60, 100]]),
    )  # fmt: skip
    found = study({"table": (cells, RATE_METRICS)}, n_sets=100, n_boot=100)
    assert found.averages("value").shape == (5, 4)
    assert found.averages("difference").shape == (6, 4)
    assert found.averages("largest difference").shape == (14, 4)
    assert found.on_data("difference").shape == (5, 4)
    assert 0.9 < found.worst("difference", "Newcombe") < 1
    assert found.worst("value", "percentile") < 0.8
    assert len(found.false_positives) == 5
    single = found.table[(found.table["of"] == "value") & (found.table["method"] == "Wilson")]
    assert found.worst_single("value", "Wilson") == single["coverage"].min()
    assert found.largest_single("value", "Wilson") == single["coverage"].max()
    least = found.averages("value")["Wilson"].min()
    assert found.worst_single("value", "Wilson") <= least <= found.largest_single("value", "Wilson")
    assert found.largest_single("largest difference", "all pairs") > 0.98
    with pytest.raises(InputError, match=r"must be one of .*Newcombe"):
        found.worst_single("difference", "Wilson")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rate_scenario("x", 10, (0.0, 0.5)), "between 0 and 1"),
        (lambda: coverage(rate_scenario("x", 10, (0.4, 0.5)), n_sets=10), "n_sets = 10"),
        (lambda: coverage(rate_scenario("x", 10, (0.4, 0.5)), n_boot=10), "n_boot = 10"),
        (lambda: null_false_positives(rate_scenario("x", 10, (0.4, 0.5))), "must be 0: fair"),
    ],
)
def test_bad_arguments_are_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
