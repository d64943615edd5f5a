import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import gap_attribution as ga
from labs.lab3_fairness.attribution import Attribution
from labs.lab3_fairness.figures_explanations import draw_gap_attribution
from labs.lab3_fairness.resampling import percentile_interval, stratified_bootstrap
from labs.lab3_fairness.row_metrics import mean_prediction
from labs.lab3_fairness.scoring import logistic_regression
from labs.lab3_fairness.shapley import logistic_shapley
from labs.lab3_fairness.tabular import adult_task

QUICK = settings(derandomize=True, deadline=None, max_examples=40)


def attribution(values, base=0.5):
    values = np.asarray(values, dtype=float)
    names = tuple("abcdefgh"[: values.shape[1]])
    return Attribution(names, values, base, base + values.sum(axis=1), "made up")


@pytest.fixture(scope="module")
def adult():
    data = load("adult")
    train, test = adult_task(data.table("train")), adult_task(data.table("test"))
    return train.rows(np.arange(6000)), test.rows(np.arange(4000))


@QUICK
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_shares_sum_to_the_gap(seed, d):
    """Shapley values are linear in the game: the gap's credits are the difference of the means."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(30, d))
    groups = np.where(np.arange(30) < rng.integers(2, 28), "x", "y")
    got = ga.attribute_gap(attribution(values), groups, n_boot=5, n_permutations=5)
    means = {name: values[groups == name].sum(axis=1).mean() for name in ("x", "y")}
    assert got.gap == pytest.approx(abs(means["x"] - means["y"]), abs=1e-9)
    assert got.unexplained == pytest.approx(0, abs=1e-9)
    assert means[got.high] >= means[got.low]


def test_a_method_that_is_not_efficient_leaves_a_part_unexplained():
    """What LIME's coefficients do not add up to is shown, not spread over the columns."""
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    short = Attribution(("a", "b"), values, 0.0, np.array([3.0, 3.0, 0.0, 0.0]), "short")
    got = ga.attribute_gap(short, list("xxyy"), n_boot=5, n_permutations=5)
    assert got.gap == 3
    assert got.share("a").contribution == 1
    assert got.unexplained == 2


def test_intervals_are_those_of_the_stratified_bootstrap():
    """Another way to draw the same distribution: the lab's bootstrap, column by column."""
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(400, 2))
    groups = np.repeat(["x", "y"], [100, 300])
    got = ga.attribute_gap(attribution(values), groups, n_boot=4000, n_permutations=1)
    by_group = stratified_bootstrap(
        np.zeros(400), values[:, 0], groups, mean_prediction, n_boot=4000
    )
    order = [sorted({"x", "y"}).index(name) for name in (got.high, got.low)]
    expected = percentile_interval(by_group[:, order[0]] - by_group[:, order[1]])
    assert got.share("a").ci95 == pytest.approx(expected, abs=0.02)


def test_a_column_that_carries_nothing_lies_within_chance_and_one_that_does_not():
    """A planted gap of one column: its p-value is the least possible, the other's is ordinary."""
    rng = np.random.default_rng(1)
    groups = np.repeat(["x", "y"], 300)
    values = rng.normal(size=(600, 2))
    values[:, 0] += groups == "x"
    got = ga.attribute_gap(attribution(values), groups, n_permutations=499)
    assert got.share("a").p_value == pytest.approx(1 / 500)
    assert got.share("b").p_value > 0.05
    assert abs(got.share("b").contribution) < got.share("b").null_q95
    assert 0.8 < got.share("a").contribution < 1.2


def test_the_null_rejects_about_five_percent_of_columns_without_a_gap():
    """A test that cries out more often than it says would be worse than none."""
    rng = np.random.default_rng(2)
    groups = np.repeat(["x", "y"], [30, 50])
    rejected = [
        share.p_value <= 0.05
        for seed in range(40)
        for share in ga.attribute_gap(
            attribution(rng.normal(size=(80, 5))), groups, n_boot=1, n_permutations=199, seed=seed
        ).shares
    ]
    assert 0.01 < np.mean(rejected) < 0.1


def test_the_gap_of_logistic_regression_on_adult_is_the_gap_of_its_log_odds(adult):
    """The closed form shares out exactly what is there, over all rows."""
    train, test = adult
    model = logistic_regression(0).fit(train.features, train.labels)
    exact = logistic_shapley(model, test.features, train.features)
    got = ga.attribute_gap(exact, test.groups, n_boot=100, n_permutations=99)
    odds = model.decision_function(test.features)
    men = test.groups == "Male"
    assert got.high == "Male"
    assert got.gap == pytest.approx(odds[men].mean() - odds[~men].mean(), abs=1e-9)
    assert got.unexplained == pytest.approx(0, abs=1e-9)
    low, high = got.gap_ci95
    assert low < got.gap < high
    assert got.table()["column"].iloc[0] == "marital_status"


def test_the_column_with_the_largest_share_can_be_removed_without_touching_the_gap(adult):
    """Attribution explains one model. Refitted, the model finds the same in other columns.

    So "marital status carries 40 % of the gap" does not mean that dropping it removes 40 %.
    """
    train, test = adult
    study = ga.gap_study(train, test, per_group=150, n_background=20, n_boot=100, n_permutations=99)
    assert study.trees.unexplained == pytest.approx(0, abs=1e-9)
    assert study.trees.high == study.linear.high == "Male"
    assert study.refit.attributed > 0.03
    assert study.refit.removed < study.refit.attributed / 2
    figure = draw_gap_attribution(study)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "contribution to the gap, Male minus Female"
    ] * 2


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["x"] * 4, "only the group"),
        (list("xyzx"), "must be two"),
        (list("xyyy"), "has one row"),
        (list("xxy"), "3 rows"),
        (["x", None, "y", "y"], "missing in 1 of 4"),
    ],
)
def test_groups_without_a_comparison_are_refused(groups, message):
    with pytest.raises(InputError, match=message):
        ga.attribute_gap(attribution(np.ones((4, 2))), groups)


def test_more_rows_a_group_than_there_are_is_refused(adult):
    with pytest.raises(InputError, match="per_group = 9000 must be <="):
        ga.gap_study(*adult, per_group=9000)


def test_an_unknown_column_is_refused():
    got = ga.attribute_gap(attribution(np.eye(4)), list("xxyy"), n_boot=2, n_permutations=2)
    with pytest.raises(InputError, match="no column 'z'"):
        got.share("z")
