import itertools
from math import factorial, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, random_table

from common.errors import InputError
from labs.lab3_fairness import cell_bootstrap
from labs.lab3_fairness.resampling import gap_null, percentile_interval, stratified_bootstrap
from labs.lab3_fairness.row_metrics import (
    RATE_METRICS,
    evaluate_groups,
    mean_prediction,
    selection_rate,
    true_positive_rate,
)

# Cells (label, prediction): (0, 0), (0, 1), (1, 0), (1, 1).
SELECTED, CORRECT = [0, 1, 0, 1], [1, 0, 0, 1]
TPR_COUNTED, EVERYBODY = [0, 0, 1, 1], [1, 1, 1, 1]
COUNTS = np.array([[30, 10, 5, 15], [200, 40, 60, 100]])


def draw(counts, values, counted, **options):
    return cell_bootstrap.bootstrap_from_counts(
        np.asarray(counts), np.array([values]), np.array([counted]), **options
    )[..., 0]


@pytest.mark.exercise("3.8")
def test_a_replicate_holds_as_many_rows_of_a_group_as_the_data():
    """Three rows, one selected: every replicate's rate is 0, 1/3, 2/3 or 1.

    Each cell drawn on its own (Poisson) lets the group grow and shrink: rates of 1/2 and 1/4
    turn up, and in one replicate of twenty the group has nobody.
    """
    values = draw([[2, 1, 0, 0], [30, 10, 5, 15]], SELECTED, EVERYBODY, n_boot=300)
    assert values.shape == (300, 2), f"expected [B, groups] = (300, 2), got {values.shape}"
    thirds = values[:, 0] * 3
    off = ~np.isclose(thirds, np.round(thirds)) | np.isnan(thirds) | (thirds > 3.001)
    assert not off.any(), f"rates of a group of 3 that are no thirds: {np.unique(values[off, 0])}"


@pytest.mark.exercise("3.8")
def test_a_share_scatters_as_sampling_with_replacement_does():
    """The standard deviation of a selection rate is sqrt(p (1 - p) / n), of each group.

    Cells drawn one by one lose what makes the multinomial: a row that is in one cell is in no
    other. Binomial cells give an interval that is too narrow.
    """
    values = draw(COUNTS, SELECTED, EVERYBODY, n_boot=4000, seed=1)
    for group, (n, share) in enumerate([(60, 25 / 60), (400, 140 / 400)]):
        expected, got = np.sqrt(share * (1 - share) / n), values[:, group].std()
        assert got == pytest.approx(expected, rel=0.06), f"expected {expected:.5f}, got {got:.5f}"


@pytest.mark.exercise("3.8")
def test_each_group_is_drawn_from_its_own_cells():
    """Group a is never selected and group b always; no replicate may mix them.

    One multinomial over all groups together gives each of them the average of both.
    """
    counts = np.array([[50, 0, 50, 0], [0, 20, 0, 80]])
    values = draw(counts, SELECTED, EVERYBODY, n_boot=100)
    assert (values == [0, 1]).all(), f"selection rates: expected (0, 1), got {values.mean(axis=0)}"


@pytest.mark.exercise("3.8")
def test_labels_stay_with_their_predictions():
    """A perfect predictor, all rows in (0, 0) and (1, 1), is perfect in every replicate.

    Drawing how many labels are 1 and how many predictions are 1 separately turns it into a
    model that guesses.
    """
    counts = np.array([[40, 0, 0, 60], [70, 0, 0, 30]])
    values = draw(counts, CORRECT, EVERYBODY, n_boot=100)
    assert (values == 1).all(), f"accuracy of a perfect predictor: expected 1, got {values.min()}"


@pytest.mark.exercise("3.8")
def test_a_rate_is_divided_by_the_rows_drawn():
    """How many positives a replicate has varies too; a TPR is among those drawn.

    All positives are found, so the TPR is 1 always. Divided by the positives of the data it is
    a resampled sum, goes above 1, and its interval is several times too wide.
    """
    counts = np.array([[80, 5, 0, 15], [50, 10, 0, 40]])
    values = draw(counts, SELECTED, TPR_COUNTED, n_boot=200)
    low, high = values.min(), values.max()
    assert low == high == 1, f"TPR when every positive is found: expected 1, got {low} to {high}"


@pytest.mark.exercise("3.8")
def test_every_metric_is_taken_from_the_same_replicates():
    """Selection rate plus its complement is 1 in each replicate.

    Metrics drawn apart cannot be combined: the equalized odds difference is a maximum of two
    gaps in the same sample.
    """
    both = np.array([SELECTED, [1, 0, 1, 0]])
    values = cell_bootstrap.bootstrap_from_counts(COUNTS, both, np.ones((2, 4)), n_boot=50)
    assert values.shape == (50, 2, 2), f"expected [B, groups, metrics], got {values.shape}"
    total = values.sum(axis=-1)
    assert np.allclose(total, 1), f"selected + not selected: expected 1, got up to {total.max()}"
    assert values.std(axis=0).min() > 0, "the replicates do not differ"


@pytest.mark.exercise("3.8")
def test_nobody_drawn_is_not_a_number():
    """A replicate without any positive has no TPR: NaN, not 0, which would look like a failure."""
    counts = np.array([[98, 0, 0, 2], [50, 0, 0, 50]])
    values = draw(counts, SELECTED, TPR_COUNTED, n_boot=300)[:, 0]
    share = np.isnan(values).mean()
    assert share == pytest.approx(0.98**100, abs=0.07), f"about 13 % of replicates, got {share:.2f}"
    assert (values[~np.isnan(values)] == 1).all(), "where there are positives the TPR is 1"


columns = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2)), min_size=12, max_size=80
).filter(lambda rows: {row[2] for row in rows} == {0, 1, 2})


@settings(derandomize=True, deadline=None, max_examples=40)
@given(columns)
def test_cells_give_the_values_that_rows_give(rows):
    """Every row is in one cell, and a metric of the cells is the metric of the rows."""
    y_true, y_pred, codes = np.array(rows).T
    cells = cell_bootstrap.cell_counts(y_true, y_pred, codes, 3)
    assert cells.counts.sum() == len(rows)
    weights = cell_bootstrap.cell_weights(list(RATE_METRICS.values()), cells)
    found = cell_bootstrap.rates(cells.counts, *weights)
    for number, metric in enumerate(RATE_METRICS.values()):
        expected = evaluate_groups(metric, y_true, y_pred, codes, 3)
        np.testing.assert_allclose(found[:, number], expected)


def test_the_bootstrap_of_cells_is_that_of_rows():
    """Equal intervals, up to the error of 20,000 replicates, for every metric and group."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], [60, 300])
    y_true = rng.integers(0, 2, 360)
    y_pred = np.where(rng.random(360) < 0.7, y_true, 1 - y_true)
    cells = cell_bootstrap.cell_counts(y_true, y_pred, codes, 2)
    ours = cell_bootstrap.cell_bootstrap(cells, RATE_METRICS, n_boot=20_000, seed=1)
    for name, metric in RATE_METRICS.items():
        rows = stratified_bootstrap(y_true, y_pred, codes, metric, n_boot=20_000, seed=2)
        for group, n in ((0, 60), (1, 300)):
            mine, theirs = ours[name][:, group], rows[:, group]
            assert mine.mean() == pytest.approx(theirs.mean(), abs=5 * theirs.std() / 20_000**0.5)
            assert mine.std() == pytest.approx(theirs.std(), rel=0.04)
            # A quantile of a rate moves in steps of 1 / n.
            np.testing.assert_allclose(
                percentile_interval(mine), percentile_interval(theirs), atol=2.5 / n
            )


def test_real_valued_predictions_have_no_cells():
    codes = np.zeros(100, dtype=int)
    scores = np.linspace(0, 1, 100)
    assert cell_bootstrap.cell_counts(codes, scores, codes, 1) is None
    few = cell_bootstrap.cell_counts(codes, np.round(scores, 1), codes, 1)
    assert few.counts.shape == (1, 11)


def test_blocks_do_not_change_the_replicates(monkeypatch):
    cells = cell_bootstrap.Cells(np.array([0, 1]), np.array([0, 1]), np.array([[3, 4], [5, 6]]))
    whole = cell_bootstrap.cell_bootstrap(cells, {"s": selection_rate}, n_boot=50)["s"]
    monkeypatch.setattr("labs.lab3_fairness.resampling.BLOCK", 16)
    parts = cell_bootstrap.cell_bootstrap(cells, {"s": selection_rate}, n_boot=50)["s"]
    np.testing.assert_array_equal(whole, parts)


def test_an_empty_group_and_no_replicates_are_refused():
    zero = np.array([0])
    cells = cell_bootstrap.Cells(zero, zero, np.array([[3], [0]]))
    with pytest.raises(InputError, match="smallest group = 0"):
        cell_bootstrap.cell_bootstrap(cells, {"s": selection_rate})
    with pytest.raises(InputError, match="n_boot = 0"):
        cell_bootstrap.cell_bootstrap(cells, {"s": selection_rate}, n_boot=0)
    with pytest.raises(InputError, match="n_permutations = 0"):
        cell_bootstrap.gap_null_from_counts(cells, selection_rate, n_permutations=0)


# --- the null ---------------------------------------------------------------------------------


def tables_with_margins(rows, columns):
    """Every table of those margins and its probability, from the factorials."""
    first = [range(min(rows[0], column) + 1) for column in columns]
    second = [range(min(rows[1], column) + 1) for column in columns]
    for a, b in itertools.product(itertools.product(*first), itertools.product(*second)):
        c = tuple(column - x - y for column, x, y in zip(columns, a, b))
        if sum(a) == rows[0] and sum(b) == rows[1] and min(c) >= 0:
            top = prod(map(factorial, (*rows, *columns)))
            yield (a, b, c), top / (factorial(sum(rows)) * prod(map(factorial, (*a, *b, *c))))


def test_shuffled_tables_have_the_probabilities_of_the_formula():
    """Three groups of 3, 2 and 2 over cells of 3, 3 and 1: every table as often as it should be."""
    rows, columns = (3, 2, 2), (3, 3, 1)
    expected = dict(tables_with_margins(rows, columns))
    assert sum(expected.values()) == pytest.approx(1)
    counts = np.array([[3, 0, 0], [0, 2, 0], [0, 1, 1]])
    drawn = cell_bootstrap.shuffled_counts(counts, 30_000, seed=0)
    found = dict.fromkeys(expected, 0)
    for table in drawn.reshape(len(drawn), -1):
        found[tuple(map(tuple, table.reshape(3, 3).tolist()))] += 1
    frequencies = np.array([found[key] for key in expected])
    p = chisquare(frequencies, 30_000 * np.array(list(expected.values()))).pvalue
    assert p > 1e-4, p


def test_shuffled_tables_are_those_of_numpy_and_scipy():
    counts = np.array([[20, 5, 10], [40, 30, 10]])
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    ours = cell_bootstrap.shuffled_counts(counts, 20_000, seed=0)
    rng = np.random.default_rng(1)
    numpys = rng.multivariate_hypergeometric(columns, rows[0], size=20_000)
    scipys = random_table(rows, columns).rvs(20_000, random_state=rng)
    for theirs in (numpys, scipys[:, 0]):
        np.testing.assert_allclose(ours[:, 0].mean(axis=0), theirs.mean(axis=0), atol=0.1)
        np.testing.assert_allclose(np.cov(ours[:, 0].T), np.cov(theirs.T), atol=0.25)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(
        st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any), min_size=2, max_size=5
    ),
    st.integers(0, 99),
)
def test_shuffles_keep_group_sizes_and_cell_totals(rows, seed):
    counts = np.array(rows)
    drawn = cell_bootstrap.shuffled_counts(np.stack([counts, counts[::-1]]), 4, seed=seed)
    assert (drawn >= 0).all()
    for data_set, original in enumerate((counts, counts[::-1])):
        assert (drawn[:, data_set].sum(axis=-1) == original.sum(axis=1)).all()
        assert (drawn[:, data_set].sum(axis=-2) == original.sum(axis=0)).all()


@pytest.mark.parametrize("metric", [selection_rate, true_positive_rate, mean_prediction])
def test_the_null_of_counts_is_that_of_shuffled_rows(metric):
    rng = np.random.default_rng(0)
    codes = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    y_true, y_pred = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    cells = cell_bootstrap.cell_counts(y_true, y_pred, codes, 3)
    counted = cell_bootstrap.gap_null_from_counts(cells, metric, n_permutations=5000, seed=1)
    shuffled = gap_null(y_true, y_pred, codes, metric, n_permutations=3000, seed=2)
    assert counted.observed == pytest.approx(shuffled.observed)
    assert counted.mean == pytest.approx(shuffled.mean, rel=0.04)
    assert counted.q95 == pytest.approx(shuffled.q95, rel=0.06)
    assert counted.p_value == pytest.approx(shuffled.p_value, abs=0.04)


def test_a_null_among_nobody_is_not_a_number():
    zeros = np.zeros(10, dtype=int)
    cells = cell_bootstrap.cell_counts(zeros, zeros, np.repeat([0, 1], 5), 2)
    null = cell_bootstrap.gap_null_from_counts(cells, true_positive_rate)
    assert np.isnan([null.observed, null.p_value, null.mean, null.q95]).all()
