import fairlearn.metrics
import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, precision_score

from common.errors import InputError
from labs.lab3_fairness.group_metrics import group_metrics
from labs.lab3_fairness.row_metrics import RATE_METRICS, mean_prediction, selection_rate

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
