import numpy as np
import pytest
from sklearn.metrics import precision_score

from common.errors import InputError
from labs.lab3_fairness import resampling
from labs.lab3_fairness.row_metrics import (
    accuracy,
    mean_prediction,
    selection_rate,
    true_positive_rate,
)


def rows_counted(y_true, y_pred):
    """A metric that only counts its rows."""
    return len(y_pred)


@pytest.mark.exercise("3.2")
def test_every_replicate_has_as_many_rows_of_each_group_as_the_data():
    """Groups of 3 and 400: each replicate has 3 and 400.

    Resampling all rows together gives a small group 0 to 9 rows: now and then it vanishes, and
    its interval mixes in how many there happened to be.
    """
    groups = np.array(["few"] * 3 + ["many"] * 400)
    zeros = np.zeros(403)
    sizes = resampling.stratified_bootstrap(zeros, zeros, groups, rows_counted, n_boot=50)
    assert sizes.shape == (50, 2), f"expected [n_boot, groups] = (50, 2), got {sizes.shape}"
    smallest, largest = sizes[:, 0].min(), sizes[:, 0].max()
    assert smallest == largest == 3, f"rows of the group of 3: {smallest} to {largest}"
    assert (sizes[:, 1] == 400).all(), f"rows of the group of 400: {np.unique(sizes[:, 1])}"


@pytest.mark.exercise("3.2")
def test_a_label_stays_with_its_prediction():
    """A perfect predictor is perfect in every replicate.

    Drawing labels and predictions separately breaks the pairs: accuracy falls to what guessing
    gives, and the interval no longer holds the value it belongs to.
    """
    y = np.random.default_rng(0).integers(0, 2, 200)
    groups = np.repeat(["a", "b"], 100)
    values = resampling.stratified_bootstrap(y, y, groups, accuracy, n_boot=50)
    assert (values == 1).all(), f"accuracy of a perfect predictor: expected 1, got {values.min()}"


@pytest.mark.exercise("3.2")
def test_each_group_is_drawn_from_its_own_rows():
    """Group a is never selected and group b always; no replicate may mix them."""
    groups = np.array(["b", "a"] * 50)
    y_pred = (groups == "b").astype(int)
    values = resampling.stratified_bootstrap(y_pred, y_pred, groups, selection_rate, n_boot=50)
    means = values.mean(axis=0)
    assert (means == [0, 1]).all(), f"mean selection rates of (a, b): expected (0, 1), got {means}"


@pytest.mark.exercise("3.2")
def test_replicates_scatter_as_the_standard_error_says():
    """The standard deviation over replicates is sqrt(p (1 - p) / n) of the group.

    Without replacement every replicate is the data itself, and the interval has no width.
    """
    y_pred = np.array([1] * 10 + [0] * 30 + [1] * 200 + [0] * 200)
    groups = np.array(["a"] * 40 + ["b"] * 400)
    values = resampling.stratified_bootstrap(
        y_pred, y_pred, groups, selection_rate, n_boot=2000, seed=3
    )
    for column, (rate, n) in enumerate([(0.25, 40), (0.5, 400)]):
        expected = np.sqrt(rate * (1 - rate) / n)
        got = values[:, column].std()
        assert got == pytest.approx(expected, rel=0.1), f"expected about {expected}, got {got}"


@pytest.mark.exercise("3.2")
def test_the_seed_decides_the_replicates():
    """Same seed, same interval: an audit that cannot be repeated convinces nobody."""
    rng = np.random.default_rng(0)
    y, groups = rng.random(100), np.repeat(["a", "b"], 50)
    first, again, other = (
        resampling.stratified_bootstrap(y, y, groups, mean_prediction, n_boot=20, seed=seed)
        for seed in (1, 1, 2)
    )
    assert (first == again).all(), "two calls with seed 1 gave different replicates"
    assert (first != other).any(), "seeds 1 and 2 gave the same replicates"


@pytest.mark.exercise("3.4")
def test_a_gap_between_equal_groups_is_what_the_null_expects():
    """Eight groups of 50 with one rate of 0.3: chance alone gives a gap of about 0.18."""
    y_pred = np.random.default_rng(0).random(400) < 0.3
    groups = np.repeat(list("abcdefgh"), 50)
    null = resampling.gap_null(y_pred, y_pred.astype(int), groups, selection_rate)
    assert 0.15 < null.mean < 0.22, f"mean gap under the null: about 0.18, got {null.mean:.3f}"


@pytest.mark.exercise("3.4")
def test_a_p_value_is_never_zero():
    """No shuffle of 99 reaches this gap, so p = 1 / 100: the data is one of the 100.

    0 / 99 = 0 claims certainty from 99 shuffles, and makes every later correction for many tests
    (Holm, Benjamini-Hochberg) pass.
    """
    groups = np.repeat(["a", "b"], 100)
    y_pred = (groups == "a").astype(int)
    null = resampling.gap_null(y_pred, y_pred, groups, selection_rate, n_permutations=99)
    assert null.observed == 1, f"observed gap: expected 1, got {null.observed}"
    assert null.p_value == pytest.approx(0.01), f"expected 1 / 100, got {null.p_value}"


@pytest.mark.exercise("3.4")
def test_a_shuffled_gap_as_large_as_the_observed_one_counts():
    """A perfect predictor has accuracy 1 in every group: all gaps are 0, and p is 1.

    The label must stay with its prediction, only the group moves; and a tie is no evidence.
    """
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 2, 100), rng.choice(["a", "b"], 100)
    null = resampling.gap_null(y, y, groups, accuracy, n_permutations=99)
    assert null.gaps.max() == 0, f"every shuffled gap should be 0, the largest is {null.gaps.max()}"
    assert null.p_value == 1, f"expected p = 1, got {null.p_value}"


@pytest.mark.exercise("3.4")
def test_every_shuffle_keeps_the_group_sizes():
    """Sizes 10 and 90 stay 10 and 90: the null is for these groups, small ones included."""
    groups = np.array(["a"] * 10 + ["b"] * 90)
    null = resampling.gap_null(np.zeros(100), np.zeros(100), groups, rows_counted)
    assert (null.gaps == 80).all(), f"90 - 10 = 80 rows apart, got {np.unique(null.gaps)}"


@pytest.mark.exercise("3.4")
def test_fair_data_is_seldom_called_unfair():
    """Over 100 fair data sets at most 12 may have p <= 0.05 (5 expected)."""
    rng = np.random.default_rng(1)
    groups = np.repeat(list("abcd"), 50)
    small = 0
    for seed in range(100):
        y = rng.random(200)
        null = resampling.gap_null(y, y, groups, mean_prediction, n_permutations=99, seed=seed)
        small += null.p_value <= 0.05
    assert small <= 12, f"{small} of 100 fair data sets have p <= 0.05"


def test_the_null_of_a_true_positive_rate_keeps_the_positives_of_each_group():
    y_true = np.array([1] * 4 + [0] * 96 + [1] * 96 + [0] * 4)
    groups = np.repeat(["a", "b"], 100)
    y_pred = np.array([1, 0] * 100)
    null = resampling.gap_null(y_true, y_pred, groups, true_positive_rate)
    # Four positives in group a: its rate moves in steps of a quarter, so large gaps are common.
    assert null.q95 > 0.4


def test_the_fast_and_the_slow_way_agree():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 2, (2, 300))
    groups = rng.choice(["a", "b", "c"], 300)

    def slow(t, p):
        return precision_score(t, p)

    from labs.lab3_fairness.row_metrics import positive_predictive_value as fast

    args = (y_true, y_pred, groups)
    np.testing.assert_allclose(
        resampling.stratified_bootstrap(*args, slow, n_boot=30),
        resampling.stratified_bootstrap(*args, fast, n_boot=30),
    )


def test_blocks_cover_every_replicate_once():
    pieces = resampling.blocks(1000, 30_000)
    assert [start for start, _ in pieces[1:]] == [stop for _, stop in pieces[:-1]]
    assert (pieces[0][0], pieces[-1][1]) == (0, 1000)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], 100)
    covered = 0
    for seed in range(200):
        y = rng.random(200)
        values = resampling.stratified_bootstrap(
            y, y, groups, mean_prediction, n_boot=200, seed=seed
        )
        low, high = resampling.percentile_interval(values[:, 0])
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99, covered / 200


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match=r"y_pred\[1\] = nan"):
        resampling.paired([0, 0], [0.5, np.nan], ["a", "b"])
