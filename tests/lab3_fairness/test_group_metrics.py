import fairlearn.metrics
import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score
from statsmodels.stats.proportion import confint_proportions_2indep

from common.errors import InputError
from labs.lab3_fairness.group_metrics import group_metrics
from labs.lab3_fairness.ranking_fairness import ndcg_by_group
from labs.lab3_fairness.row_metrics import (
    RATE_METRICS,
    mean_prediction,
    selection_rate,
    true_positive_rate,
)

FAST = {"n_boot": 100, "n_permutations": 99}


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    groups = pd.Series(rng.choice(["a", "b", "c"], 900, p=[0.6, 0.36, 0.04]))
    y_true = rng.integers(0, 2, 900)
    y_pred = (rng.random(900) < np.where(groups == "a", 0.7, 0.4)).astype(int)
    return y_true, y_pred, groups


def test_values_and_gaps_are_those_of_fairlearn(columns):
    y_true, y_pred, groups = columns
    metrics = {
        "selection": fairlearn.metrics.selection_rate,
        "tpr": fairlearn.metrics.true_positive_rate,
        "accuracy": accuracy_score,
        "precision": precision_score,
    }
    report = group_metrics(y_true, y_pred, groups, metrics, **FAST)
    frame = MetricFrame(metrics=metrics, y_true=y_true, y_pred=y_pred, sensitive_features=groups)
    for name in metrics:
        for group in "abc":
            assert report.group(name, group).value == pytest.approx(frame.by_group.loc[group, name])
        gap = report.disparity(name)
        assert gap.overall == pytest.approx(frame.overall[name])
        assert gap.difference == pytest.approx(frame.difference()[name])
        assert gap.ratio == pytest.approx(frame.ratio()[name])


def test_every_value_lies_in_its_interval_and_a_real_gap_beats_its_null(columns):
    report = group_metrics(*columns, RATE_METRICS, **FAST)
    for value in report.groups:
        assert value.ci95[0] <= value.value <= value.ci95[1], value
    selection = report.disparity("selection_rate")
    assert selection.difference > selection.null_q95 > selection.null_mean > 0
    assert selection.p_value == pytest.approx(0.01)
    assert (selection.highest, selection.overall_ci95[0] < selection.overall) == ("a", True)


def test_a_number_for_each_user_can_be_audited():
    """The shape the capstone has: one NDCG a user, no label."""
    rng = np.random.default_rng(0)
    ndcg = rng.beta(2, 5, 1000)
    gender = rng.choice(["F", "M"], 1000)
    report = group_metrics(
        np.zeros(1000), ndcg, gender, {"ndcg": mean_prediction}, n_boot=500, n_permutations=99
    )
    for group in "FM":
        value = report.group("ndcg", group)
        members = ndcg[gender == group]
        assert value.value == pytest.approx(members.mean())
        half = 1.96 * members.std() / np.sqrt(len(members))
        assert value.ci95[1] - value.ci95[0] == pytest.approx(2 * half, rel=0.2)


def test_small_groups_are_named(columns):
    report = group_metrics(*columns, {"selection": selection_rate}, **FAST)
    assert len(report.warnings) == 1
    assert "'c'" in report.warnings[0]


def test_the_tables_hold_every_value(columns):
    report = group_metrics(*columns, RATE_METRICS, **FAST)
    assert len(report.table()) == 3 * len(RATE_METRICS)
    assert {"value", "low", "high", "n", "n_counted"} <= set(report.table().columns)
    assert {"difference_low", "ratio_high", "p_value"} <= set(report.disparity_table().columns)


def test_a_group_without_positives_has_no_tpr_and_breaks_nothing():
    y_true = np.array([0] * 60 + [1, 0] * 60)
    groups = np.array(["none"] * 60 + ["a", "a", "b", "b"] * 30)
    y_pred = np.random.default_rng(0).integers(0, 2, 180)
    report = group_metrics(y_true, y_pred, groups, RATE_METRICS, **FAST)
    assert np.isnan(report.group("true_positive_rate", "none").value)
    gap = report.disparity("true_positive_rate")
    assert np.isfinite([gap.difference, *gap.difference_ci95, gap.p_value]).all()
    (said,) = [text for text in report.warnings if "true_positive_rate: group 'none'" in text]
    assert "left out of the gap" in said


def test_one_group_with_a_value_has_no_gap_and_not_one_of_zero():
    """A gap of 0 between one group and nobody would read as parity."""
    y_true = np.array([0] * 60 + [1, 0] * 30)
    groups = np.repeat(["none", "some"], 60)
    report = group_metrics(y_true, np.ones(120, dtype=int), groups, RATE_METRICS, **FAST)
    gap = report.disparity("true_positive_rate")
    values = [gap.difference, *gap.difference_ci95, gap.ratio, gap.null_q95, gap.p_value]
    assert np.isnan(values).all(), values
    assert "true_positive_rate: fewer than two groups have a value, so there is no gap" in (
        report.warnings
    )


def test_five_of_five_is_not_reported_as_certain():
    """The bootstrap of 5 of 5 is 1 to 1 for ever; Wilson's interval goes down to 0.57."""
    y = np.array([1] * 5 + [1, 0] * 100)
    y_pred = np.array([1] * 5 + [1, 1, 0, 0] * 50)
    groups = np.array(["few"] * 5 + ["many"] * 200)
    report = group_metrics(y, y_pred, groups, {"tpr": true_positive_rate}, **FAST)
    few = report.group("tpr", "few")
    assert (few.value, few.interval) == (1, "Wilson")
    assert few.bootstrap_ci95 == (1, 1)
    assert few.ci95 == (pytest.approx(0.5655, abs=1e-4), 1)
    assert "anything from 0.57 to 1.00" in report.warnings[0]
    gap = report.disparity("tpr")
    assert 0 < gap.difference_ci95[0] < 0.5 < gap.difference_ci95[1]


def test_one_person_is_a_group_with_a_wide_interval():
    y = np.array([1] + [0, 1] * 50)
    groups = np.array(["one"] + ["many"] * 100)
    report = group_metrics(y, y, groups, {"selection": selection_rate}, **FAST)
    low, high = report.group("selection", "one").ci95
    assert high - low > 0.7


def test_users_who_are_all_alike_borrow_the_spread_of_the_others():
    """Three users with NDCG 0.5 each: no spread to resample, and no certainty either."""
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(3, 0.5), rng.normal(0.4, 0.1, 500)])
    groups = np.array(["few"] * 3 + ["many"] * 500)
    report = group_metrics(np.zeros(503), values, groups, {"ndcg": mean_prediction}, **FAST)
    few = report.group("ndcg", "few")
    half = 1.96 * 0.1 / np.sqrt(3)
    assert few.ci95 == (pytest.approx(0.5 - half, abs=0.03), pytest.approx(0.5 + half, abs=0.03))
    assert "other groups" in few.interval
    assert report.disparity("ndcg").difference_ci95[0] == 0


def test_intervals_of_rows_that_are_all_alike_everywhere_are_not_made_up():
    groups = np.repeat(["a", "b"], 60)
    values = np.repeat([0.5, 0.7], 60)
    report = group_metrics(np.zeros(120), values, groups, {"m": mean_prediction}, **FAST)
    assert np.isnan(report.group("m", "a").ci95).all()
    assert "not enough data for an interval" in report.warnings[0]


def test_a_gap_of_groups_that_are_all_alike_has_a_value_and_no_interval():
    groups = np.repeat(["a", "b"], 100)
    values = np.repeat([0.5, 0.7], 100)
    report = group_metrics(np.zeros(200), values, groups, {"m": mean_prediction}, **FAST)
    gap = report.disparity("m")
    assert gap.difference == pytest.approx(0.2)
    assert np.isnan(gap.difference_ci95).all(), gap.difference_ci95
    ndcg = ndcg_by_group(values, groups, **FAST).gap
    assert ndcg.difference == gap.difference
    assert np.isnan(ndcg.difference_ci95).all(), ndcg.difference_ci95


def test_the_limits_of_a_mean_do_not_leave_its_bounds():
    """Three users with NDCG .95 among others of wide spread: 1 is the best there is."""
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(3, 0.95), rng.random(300)])
    groups = np.array(["few"] * 3 + ["many"] * 300)
    columns = (np.zeros(303), values, groups, {"ndcg": mean_prediction})
    free = group_metrics(*columns, **FAST)
    assert free.group("ndcg", "few").ci95[1] > 1
    bound = group_metrics(*columns, bounds={"ndcg": (0, 1)}, **FAST)
    low, high = bound.group("ndcg", "few").ci95
    assert low == free.group("ndcg", "few").ci95[0] < high == 1
    gap = bound.disparity("ndcg")
    assert gap.difference <= gap.difference_ci95[1] < free.disparity("ndcg").difference_ci95[1]
    with pytest.raises(InputError, match=r"ndcg is 0\.95 in a group; bounds"):
        group_metrics(*columns, bounds={"ndcg": (0, 0.9)}, **FAST)


@pytest.mark.parametrize("metric", [f1_score, precision_score, balanced_accuracy_score])
def test_a_metric_that_is_no_mean_over_rows_is_resampled_by_rows(columns, metric):
    """Alone, without any metric that can be counted, and the same beside one."""
    fast = {"n_boot": 40, "n_permutations": 19}
    alone = group_metrics(*columns, {"m": metric}, **fast)
    y_true, y_pred, groups = columns
    for group in "abc":
        rows = (groups == group).to_numpy()
        value = alone.group("m", group)
        assert value.value == pytest.approx(metric(y_true[rows], y_pred[rows]))
        assert value.ci95[0] < value.value < value.ci95[1]
    both = group_metrics(*columns, {"m": metric, "s": selection_rate}, **fast)
    assert both.group("m", "a") == alone.group("m", "a")


def test_rates_of_two_groups_have_newcombes_difference_and_bootstrap_beside_it(columns):
    y_true, y_pred, groups = columns
    two = (groups != "c").to_numpy()
    args = (y_true[two], y_pred[two], groups[two])
    gap = group_metrics(*args, {"s": selection_rate}, n_boot=2000).disparity("s")
    hits = pd.Series(args[1]).groupby(args[2].to_numpy()).agg(["sum", "count"])
    expected = confint_proportions_2indep(
        *hits.loc["a"], *hits.loc["b"], method="newcomb", compare="diff"
    )
    np.testing.assert_allclose(gap.difference_ci95, expected, atol=1e-9)
    np.testing.assert_allclose(gap.difference_bootstrap_ci95, expected, atol=0.02)


@pytest.mark.parametrize("kind", [float, int])
def test_numbers_of_few_and_of_many_values_are_audited_alike(kind):
    """Grades 0 to 5 are counted, real numbers are resampled by rows; the intervals agree."""
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 6, 600).astype(kind)
    groups = rng.choice(["a", "b", "c"], 600)
    zeros = np.zeros(600)
    options = {"n_boot": 3000, "n_permutations": 1999}
    counted = group_metrics(zeros, grades, groups, {"m": mean_prediction}, **options)
    jitter = rng.normal(0, 1e-6, 600)
    by_rows = group_metrics(zeros, grades + jitter, groups, {"m": mean_prediction}, **options)
    for group in "abc":
        one, other = counted.group("m", group), by_rows.group("m", group)
        np.testing.assert_allclose(one.ci95, other.ci95, atol=0.03)
    one, other = counted.disparity("m"), by_rows.disparity("m")
    np.testing.assert_allclose(one.difference_ci95, other.difference_ci95, atol=0.03)
    np.testing.assert_allclose(one.overall_ci95, other.overall_ci95, atol=0.03)
    assert one.p_value == pytest.approx(other.p_value, abs=0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y_pred": np.zeros(899)}, "must both be"),
        ({"sensitive": ["a"] * 900}, "only the group"),
        ({"sensitive": ["a"] * 899 + [None]}, "missing in 1 of 900"),
        ({"sensitive": ["a", "b"]}, "2 rows"),
        ({"metrics": {}}, "at least one metric"),
        ({"n_boot": 0}, "n_boot = 0"),
        ({"n_permutations": 0}, "n_permutations = 0"),
        ({"y_pred": np.full(900, 0.3)}, "selection: y_pred holds 0.3; use 0 and 1; threshold"),
        ({"y_true": np.full(900, 2), "metrics": {"t": true_positive_rate}}, "y_true holds 2"),
        ({"y_pred": np.full(900, 0.3), "metrics": {"a": accuracy_score}}, "compares labels"),
        ({"y_true": np.full(900, np.nan)}, r"y_true\[0\] = nan"),
        ({"y_true": np.array([None] * 900, dtype=object)}, r"y_true\[0\] is missing"),
    ],
)
def test_bad_arguments_are_refused(columns, change, says):
    y_true, y_pred, groups = columns
    arguments = {
        "y_true": y_true,
        "y_pred": y_pred,
        "sensitive": groups,
        "metrics": {"selection": selection_rate},
        **FAST,
        **change,
    }
    with pytest.raises(InputError, match=says):
        group_metrics(**arguments)


def test_unknown_names_are_refused(columns):
    report = group_metrics(*columns, {"selection": selection_rate}, **FAST)
    with pytest.raises(InputError, match="recall"):
        report.disparity("recall")
    with pytest.raises(InputError, match="'z'"):
        report.group("selection", "z")
