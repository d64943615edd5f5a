import fairlearn.metrics
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score

from labs.lab3_fairness import row_metrics
from labs.lab3_fairness.row_metrics import SAME_AS, evaluate_groups, evaluate_rows

bits = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=4, max_size=50)


@pytest.mark.parametrize("theirs", SAME_AS, ids=lambda metric: metric.__name__)
@settings(derandomize=True, deadline=None, max_examples=30)
@given(bits)
def test_a_row_metric_equals_the_metric_it_stands_for(theirs, pairs):
    y_true, y_pred = (np.array(side) for side in zip(*pairs))
    ours = SAME_AS[theirs](y_true, y_pred)
    if not np.isnan(ours):
        assert ours == pytest.approx(theirs(y_true, y_pred))


def test_precision_is_the_positive_predictive_value():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 2, (2, 100))
    ours = row_metrics.positive_predictive_value(y_true, y_pred)
    assert ours == pytest.approx(precision_score(y_true, y_pred))


def test_a_matrix_is_evaluated_row_by_row():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 2, (2, 5, 40))
    for ours in (row_metrics.true_positive_rate, row_metrics.mean_prediction):
        together = evaluate_rows(ours, y_true, y_pred)
        np.testing.assert_allclose(together, [ours(t, p) for t, p in zip(y_true, y_pred)])


def test_groups_are_evaluated_alike_in_one_pass_and_one_by_one():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 2, (2, 100))
    codes = rng.integers(0, 3, 100)
    fast = evaluate_groups(row_metrics.true_positive_rate, y_true, y_pred, codes, 4)
    slow = evaluate_groups(fairlearn.metrics.true_positive_rate, y_true, y_pred, codes, 4)
    np.testing.assert_allclose(fast, slow)
    assert np.isnan(fast[3])


def test_nobody_counted_is_not_a_number():
    assert np.isnan(row_metrics.true_positive_rate([0, 0], [1, 0]))
