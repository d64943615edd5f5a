import numpy as np
import pandas as pd
import pytest
from fairlearn.preprocessing import CorrelationRemover
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import preprocessing
from labs.lab3_fairness.mitigation import (
    Mitigated,
    check_task,
    design_matrices,
    methods,
    subsample,
    unmitigated,
)
from labs.lab3_fairness.tabular import Task, adult_task


@pytest.fixture(scope="module")
def adult():
    data = load("adult")
    return adult_task(data.table("train")), adult_task(data.table("test"))


def rows_of(cells):
    """Labels and groups with these counts: {(group, label): n}."""
    groups = np.repeat([group for group, _ in cells], list(cells.values()))
    labels = np.repeat([label for _, label in cells], list(cells.values()))
    return labels, groups


@pytest.mark.exercise("3.10")
def test_the_applicants_of_the_paper_get_the_weights_of_the_paper():
    """Kamiran and Calders' ten applicants: women accepted 1.5, rejected 0.67, men 0.75 and 2.

    A woman who was accepted is rarer than independence would have it, so she counts more. A
    weight the wrong way up would teach the model the discrimination twice.
    """
    labels, groups = rows_of({("f", 1): 2, ("f", 0): 3, ("m", 1): 4, ("m", 0): 1})
    weights = preprocessing.reweighing_weights(labels, groups)
    expected = {("f", 1): 1.5, ("f", 0): 2 / 3, ("m", 1): 0.75, ("m", 0): 2.0}
    for (group, label), value in expected.items():
        got = set(np.round(weights[(groups == group) & (labels == label)], 10))
        assert got == {round(value, 10)}, f"{group}, label {label}: expected {value}, got {got}"


CELLS = st.lists(st.integers(1, 30), min_size=6, max_size=6)


@pytest.mark.exercise("3.10")
@given(CELLS)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_under_the_weights_label_and_group_are_independent(counts):
    """Every group has the same weighted share of positives: there is no disparity to learn."""
    names = [(group, label) for group in "abc" for label in (0, 1)]
    labels, groups = rows_of(dict(zip(names, counts)))
    weights = preprocessing.reweighing_weights(labels, groups)
    overall = labels.mean()
    for group in "abc":
        rows = groups == group
        share = np.average(labels[rows], weights=weights[rows])
        assert share == pytest.approx(overall), f"{group}: expected {overall}, got {share}"


@pytest.mark.exercise("3.10")
@given(CELLS)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_the_weights_leave_the_share_of_each_group_and_label_alone(counts):
    """Only the dependence is removed. Weighting all cells equally would remove it as well, and
    teach the model a population with half positives and groups of equal size: another base rate
    is another threshold, for everybody.
    """
    names = [(group, label) for group in "abc" for label in (0, 1)]
    labels, groups = rows_of(dict(zip(names, counts)))
    weights = preprocessing.reweighing_weights(labels, groups)
    assert weights.sum() == pytest.approx(len(labels)), f"{len(labels)}, got {weights.sum()}"
    for group in "abc":
        expected, got = (groups == group).sum(), weights[groups == group].sum()
        assert got == pytest.approx(expected), f"group {group}: expected {expected}, got {got}"
    got = weights[labels == 1].sum()
    assert got == pytest.approx(labels.sum()), f"positives: {labels.sum()}, got {got}"


def test_the_weights_are_those_of_aif360():
    """AIF360's ``Reweighing.fit``: n_group * n_label / (n * n_group_and_label), cell by cell."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 500), rng.choice(["p", "u"], 500, p=[0.7, 0.3])
    weights = preprocessing.reweighing_weights(labels, groups)
    for label in (0, 1):
        for group in "pu":
            cell = (labels == label) & (groups == group)
            value = (groups == group).sum() * (labels == label).sum() / (500 * cell.sum())
            np.testing.assert_allclose(weights[cell], value, rtol=1e-12)


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 1, 1, 1], list("aabb"), "no row with label 0"),
        ([0, 1, 2, 1], list("aabb"), "0 or 1"),
        ([0, 1, 0, 1], list("aaaa"), "needs two"),
        ([0, 1, 0], list("aabb"), "rows"),
        ([0, 1, 0, 1], ["a", None, "b", "b"], "missing"),
    ],
)
def test_cells_that_cannot_be_weighted_are_an_error(labels, groups, message):
    with pytest.raises(InputError, match=message):
        preprocessing.reweighing_weights(labels, groups)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("names", ["ab", "abc"])
def test_the_residuals_are_those_of_fairlearn(names, alpha):
    """Subtracting the group's shift *is* least squares on the centred indicators."""
    rng = np.random.default_rng(1)
    groups = rng.choice(list(names), 300)
    columns = rng.normal(size=(300, 4)) + (groups == "a")[:, None] * [0, 1, 2, 3]
    removal = preprocessing.fit_correlation_removal(columns, groups, alpha=alpha)
    indicators = pd.get_dummies(groups).to_numpy(dtype=float)
    both = np.hstack([indicators, columns])
    theirs = CorrelationRemover(sensitive_feature_ids=range(len(names)), alpha=alpha)
    np.testing.assert_allclose(
        removal.transform(columns, groups), theirs.fit(both).transform(both), atol=1e-10
    )


def test_no_column_is_correlated_with_the_group_afterwards():
    rng = np.random.default_rng(2)
    groups = rng.choice(["a", "b"], 400, p=[0.8, 0.2])
    columns = rng.normal(size=(400, 3)) + 2.0 * (groups == "a")[:, None]
    removal = preprocessing.fit_correlation_removal(columns, groups)
    residuals = removal.transform(columns, groups)
    for column in residuals.T:
        assert abs(np.corrcoef(column, groups == "a")[0, 1]) < 1e-12
    assert residuals.mean() == pytest.approx(columns.mean()), "the overall mean stays"


def test_the_remover_asks_for_a_group_it_knows():
    """Without the group of a new person there is no residual to compute: not a silent 0."""
    removal = preprocessing.fit_correlation_removal(np.eye(4), list("aabb"))
    with pytest.raises(InputError, match="must be one of"):
        removal.transform(np.eye(4), list("aabc"))
    with pytest.raises(InputError, match="alpha"):
        preprocessing.fit_correlation_removal(np.eye(4), list("aabb"), alpha=1.5)


def test_a_tree_reads_the_group_off_columns_without_correlation(adult):
    """AUC .93 before; .5 afterwards for a line, and 1.00 for trees: worse than doing nothing."""
    leak = preprocessing.group_leak(subsample(adult[0], 8000), adult[1])
    assert leak.linear_before > 0.9
    assert abs(leak.linear_after - 0.5) < 0.05
    assert leak.trees_after > 0.999 > leak.trees_before


def test_reweighing_on_adult_halves_one_gap_and_doubles_the_other(adult):
    """The known numbers: accuracy .8448, DP .0847, EO .1334, from .8515, .1675, .0722."""
    before = unmitigated(*adult, seed=0).outcome(adult[1], n_boot=1)
    after = preprocessing.reweighing(*adult, seed=0).outcome(adult[1], n_boot=1)
    assert (before.accuracy, before.dp_diff, before.eo_diff) == pytest.approx(
        (0.8515, 0.1675, 0.0722), abs=2e-3
    )
    assert (after.accuracy, after.dp_diff, after.eo_diff) == pytest.approx(
        (0.8448, 0.0847, 0.1334), abs=2e-3
    )


def test_the_correlation_remover_needs_the_group_to_decide_and_reweighing_does_not(adult):
    train, test = (subsample(task, 1500) for task in adult)
    assert preprocessing.correlation_remover(train, test, seed=0).needs_group
    hidden = Task(test.features, test.labels, test.groups[::-1])
    ours = preprocessing.reweighing(train, test, seed=0).positive
    np.testing.assert_array_equal(ours, preprocessing.reweighing(train, hidden, seed=0).positive)


def test_the_design_matrix_is_what_logistic_regression_sees(adult):
    """Standardised numbers first; a category that training did not have is all 0."""
    train, test = (subsample(task, 500) for task in adult)
    x, x_test = design_matrices(train, test)
    numbers = train.features.select_dtypes("number").shape[1]
    np.testing.assert_allclose(x[:, :numbers].mean(axis=0), 0, atol=1e-9)
    assert set(np.unique(x[:, numbers:])) == {0.0, 1.0}
    assert x.shape[1] == x_test.shape[1]


def test_the_names_of_the_registry_are_those_the_methods_report(adult):
    train, test = (subsample(task, 400) for task in adult)
    for name in ("logistic", "boosting", *preprocessing.METHODS):
        done = methods()[name](train, test, seed=0)
        assert done.name == name
        assert done.positive.shape == (400,)


def test_a_deterministic_method_cannot_decide_with_fractions():
    with pytest.raises(InputError, match="fractions"):
        Mitigated("m", "in", np.array([0.5]), randomised=False, needs_group=False, seconds=0.0)
    with pytest.raises(InputError, match="from 0 to 1"):
        Mitigated("m", "in", np.array([np.nan]), randomised=True, needs_group=False, seconds=0.0)


def test_a_task_that_cannot_be_compared_is_an_error():
    features = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0]})
    groups = np.array(list("aabb"), dtype=object)
    good = np.array([0, 1, 0, 1])
    with pytest.raises(InputError, match="label 0, fewer than 1"):
        check_task(Task(features, np.array([0, 1, 1, 1]), groups), min_rows=1)
    with pytest.raises(InputError, match="fewer than 2"):
        check_task(Task(features, good, groups))
    with pytest.raises(InputError, match="align"):
        check_task(Task(features, good[:3], groups))
    with pytest.raises(InputError, match="impute"):
        check_task(Task(features.assign(x=[1.0, np.nan, 1, 1]), good, groups))
    codes, names = check_task(Task(features, good, groups), min_rows=1)
    assert (codes.tolist(), names) == ([0, 0, 1, 1], ("a", "b"))


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_person_without_a_group_has_no_residual(missing):
    removal = preprocessing.fit_correlation_removal(np.eye(4), list("aabb"))
    groups = np.array(["a", missing, "b", "b"], dtype=object)
    with pytest.raises(InputError, match=r"groups\[1\] is missing"):
        removal.transform(np.eye(4), groups)
    with pytest.raises(InputError, match="4 rows"):
        removal.transform(np.eye(4), ["a"])


@pytest.fixture(scope="module")
def few(adult):
    return tuple(subsample(task, 300) for task in adult)


def with_cell(task, column, value):
    """The task with another value of ``column`` in row 7."""
    cells = task.features[column].astype(object).to_numpy().copy()
    cells[7] = value
    column_of = pd.Series(cells, index=task.features.index)
    if value is not None:
        column_of = column_of.astype(float)
    return Task(task.features.assign(**{column: column_of}), task.labels, task.groups)


NAMES = sorted(set(methods()) - {"lagrangian_eo", "exponentiated_gradient_eo", "grid_search_dp"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("column", "value"), [("age", np.nan), ("age", np.inf), ("occupation", None)]
)
def test_no_method_decides_about_a_row_with_a_missing_value(few, name, column, value):
    """NaN passes a network as NaN, which is above no threshold: a refusal without a reason."""
    train, test = few
    with pytest.raises(InputError, match=rf"column '{column}' .* row 7"):
        methods()[name](train, with_cell(test, column, value), seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_no_method_decides_without_a_column(few, name):
    train, test = few
    short = Task(test.features.drop(columns="age"), test.labels, test.groups)
    with pytest.raises(InputError, match="no column 'age'"):
        methods()[name](train, short, seed=0)


def test_the_design_matrix_checks_the_test_rows_too(few):
    train, test = few
    with pytest.raises(InputError, match=r"test features: column 'age' .* row 7"):
        design_matrices(train, with_cell(test, "age", np.nan))
    with pytest.raises(InputError, match="test features: no column 'age'"):
        design_matrices(train, Task(test.features[["race"]], test.labels, test.groups))


@pytest.mark.parametrize("kind", [bool, float, object])
def test_labels_of_another_type_are_the_same_labels(few, kind):
    """True counts as 1: as an index it would have been a mask, and counted other people."""
    train, test = few
    same = Task(train.features, train.labels.astype(kind), train.groups)
    codes, names = check_task(same)
    assert (codes.tolist(), names) == (check_task(train)[0].tolist(), ("Female", "Male"))
    np.testing.assert_array_equal(
        preprocessing.reweighing_weights(same.labels, same.groups),
        preprocessing.reweighing_weights(train.labels, train.groups),
    )
    for name in ("reweighing_logistic", "lagrangian_dp", "fair_loss_eo", "adversarial_eo"):
        np.testing.assert_array_equal(
            methods()[name](same, test, seed=0).positive,
            methods()[name](train, test, seed=0).positive,
        )


@pytest.mark.parametrize("labels", [[0, 1, 0.5, 1], [0, 1, np.nan, 1], list("0101"), [0, 1, 2, 1]])
def test_labels_that_are_no_yes_or_no_are_refused(labels):
    features, groups = pd.DataFrame({"x": np.arange(4.0)}), np.array(list("aabb"), dtype=object)
    with pytest.raises(InputError, match="must be 0 or 1"):
        check_task(Task(features, np.array(labels), groups), min_rows=1)
    with pytest.raises(InputError, match="must be 0 or 1"):
        preprocessing.reweighing_weights(labels, groups)
