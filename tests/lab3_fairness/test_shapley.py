from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import shap
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import shapley
from labs.lab3_fairness.attribution import Attribution, ColumnCodes, top_columns
from labs.lab3_fairness.scoring import boosting, logistic_regression, scores
from labs.lab3_fairness.tabular import adult_task, compas_task

QUICK = settings(derandomize=True, deadline=None, max_examples=40)


def product_of_two(x):
    """Columns 0 and 1 interact, 2 adds on its own, 3 is not read."""
    return x[:, 0] * x[:, 1] + 2 * np.tanh(x[:, 2])


def three_way(x):
    return x[:, 0] * x[:, 1] * x[:, 2] + np.maximum(x[:, 2], x[:, 3])


def table(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d))


def over_all_orders(f, row, background):
    """The definition with orders in place of coalitions: d! walks, each column's mean step."""
    d = len(row)
    credit = np.zeros(d)
    orders = list(permutations(range(d)))
    for order in orders:
        mixed = background.copy()
        before = f(mixed).mean()
        for column in order:
            mixed[:, column] = row[column]
            after = f(mixed).mean()
            credit[column] += after - before
            before = after
    return credit / len(orders)


@pytest.fixture(scope="module")
def compas():
    task = compas_task(load("compas").table("scores"))
    codes = ColumnCodes.of(task.features)
    return task, codes, codes.encode(task.features)


@pytest.mark.exercise("3.13")
@pytest.mark.parametrize("f", [product_of_two, three_way])
def test_enumeration_equals_the_mean_over_all_orders_of_arrival(f):
    """Coalitions with their weights and the d! orders are one definition, written twice.

    Any other weight gives numbers of the right size that no axiom supports. The functions are not
    linear: replacing the background by its mean changes the answer.
    """
    rows, background = table(3, 4, 0), table(7, 4, 1)
    got = shapley.exact_shapley(f, rows, background)
    expected = np.stack([over_all_orders(f, row, background) for row in rows])
    assert np.abs(got - expected).max() < 1e-9, f"expected\n{expected}\ngot\n{got}"


@pytest.mark.exercise("3.13")
def test_the_credits_of_a_row_sum_to_its_output_minus_the_mean_of_the_background():
    """Efficiency: 100 % of the difference is shared out, so that a share can be read as one.

    The base is the mean *output* of the background, not the output of the mean row, and no
    coalition may be left out: not the empty one, nor the one that lacks a single column.
    """
    rows, background = table(5, 4, 2), table(9, 4, 3)
    sums = shapley.exact_shapley(three_way, rows, background).sum(axis=1)
    expected = three_way(rows) - three_way(background).mean()
    assert np.abs(sums - expected).max() < 1e-9, f"expected sums {expected}, got {sums}"


@pytest.mark.exercise("3.13")
def test_a_linear_model_has_the_closed_form():
    """For f = w·x + b the credit is w_j (x_j - mean of column j): a case known on paper."""
    rows, background, weights = table(4, 5, 4), table(11, 5, 5), table(1, 5, 6)[0]
    got = shapley.exact_shapley(lambda x: x @ weights + 3, rows, background)
    expected = weights * (rows - background.mean(axis=0))
    assert np.abs(got - expected).max() < 1e-9, f"expected\n{expected}\ngot\n{got}"


@pytest.mark.exercise("3.13")
def test_a_row_that_is_in_the_background_is_measured_against_all_of_it():
    """Two rows explained with themselves as background: the other one stands in for it, and it.

    Against its own row alone every credit would be 0. With one partner the credits of the two
    rows are each other's negatives in a linear model.
    """
    both = np.array([[1.0, 0.0], [3.0, 4.0]])
    got = shapley.exact_shapley(lambda x: x @ [1.0, 2.0], both, both)
    expected = np.array([[-1.0, -4.0], [1.0, 4.0]])
    assert np.abs(got - expected).max() < 1e-9, f"expected\n{expected}\ngot\n{got}"


@QUICK
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_axioms_hold(seed, d):
    """Efficiency, dummy and symmetry, which together leave no other way to share."""
    rng = np.random.default_rng(seed)
    weights, rows, background = rng.normal(size=d), table(2, d, seed), table(4, d, seed + 1)
    rows[:, -1], background[:, -1] = rows[:, -2], background[:, -2]

    def f(x):
        alike = x[:, -1] * x[:, -2] if d > 2 else 0
        return np.tanh(x[:, 1:-2] @ weights[1:-2]) + alike

    credit = shapley.exact_shapley(f, rows, background)
    total = f(rows) - f(background).mean()
    assert credit.sum(axis=1) == pytest.approx(total, abs=1e-9)
    if d > 2:
        assert np.abs(credit[:, 0]).max() < 1e-9
        assert credit[:, -1] == pytest.approx(credit[:, -2], abs=1e-9)


@QUICK
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_kernel_regression_over_all_coalitions_is_the_shapley_value(seed, d):
    """Theorem 2 of Lundberg and Lee: Kernel SHAP differs from the definition by sampling alone."""
    rng = np.random.default_rng(seed)
    rows, background = table(2, d, seed), table(3, d, seed + 1)
    weights = rng.normal(size=(d, 3))

    def f(x):
        return np.tanh(x @ weights).sum(axis=1) ** 2

    inside = shapley.coalitions(d)
    earned = np.stack(
        [f(np.where(inside[:, None], r, background).reshape(-1, d)) for r in rows]
    ).reshape(2, 2**d, 3)
    got = shapley.kernel_shapley(earned.mean(axis=2))
    assert got == pytest.approx(shapley.exact_shapley(f, rows, background), abs=1e-9)


def test_exact_shap_equals_enumeration_on_boosting(compas):
    """Our enumeration and the library's, on the lab's most accurate model, to 1e-9."""
    task, codes, x = compas
    f = codes.probability(boosting(0).fit(task.features, task.labels))
    rows, background = x[:4], x[200:240]
    got = shapley.exact_shapley(f, rows, background)

    def masker(inside, row):  # shap's own does the same and takes seconds to compile
        return np.where(inside, row, background)

    library = shap.explainers.Exact(f, masker)(rows, silent=True).values
    kernel = shap.KernelExplainer(f, background).shap_values(rows, nsamples=64, silent=True)
    assert np.abs(got - library).max() < 1e-9
    assert np.abs(got - kernel).max() < 1e-9


def test_exact_shap_equals_the_closed_form_of_logistic_regression(compas):
    """Enumeration over source columns and the closed form over one-hot columns agree to 1e-9.

    One-hot columns are one player: enumerating them separately would ask about people whose
    charge is a felony and a misdemeanour at once.
    """
    task, codes, x = compas
    model = logistic_regression(0).fit(task.features, task.labels)
    closed = shapley.logistic_shapley(model, task.features.iloc[:6], task.features.iloc[50:110])
    enumerated = shapley.exact_shapley(codes.log_odds(model), x[:6], x[50:110])
    assert np.abs(closed.values - enumerated).max() < 1e-9
    assert np.abs(closed.residual).max() < 1e-9


def test_the_closed_form_of_adult_equals_shap_linear_explainer():
    """12 columns, 7 of them text, thousands of rows: what enumeration cannot do."""
    task = adult_task(load("adult").table("train")).rows(np.arange(3000))
    model = logistic_regression(0).fit(task.features, task.labels)
    dense = model[0].transform(task.features).toarray()
    regression = (model[-1].coef_[0], model[-1].intercept_[0])
    masker = shap.maskers.Independent(dense, max_samples=len(dense))
    library = shap.LinearExplainer(regression, masker).shap_values(dense)
    ours = shapley.linear_shapley(model[-1].coef_[0], dense, dense)
    assert np.abs(ours - library).max() < 1e-9
    grouped = shapley.logistic_shapley(model, task.features, task.features)
    assert grouped.values.sum(axis=1) == pytest.approx(ours.sum(axis=1), abs=1e-9)
    age = grouped.columns.index("age")
    names = list(model[0].get_feature_names_out())
    assert grouped.values[:, age] == pytest.approx(ours[:, names.index("standardscaler__age")])
    ours_race = ours[:, [place for place, name in enumerate(names) if "__race_" in name]]
    race = grouped.columns.index("race")
    assert grouped.values[:, race] == pytest.approx(ours_race.sum(axis=1))


def test_interventional_tree_shap_is_enumeration_and_path_dependent_is_not(compas):
    """One name, two games: with a background the trees are asked what enumeration asks.

    Without one, shap weighs branches by the training rows that took them. On correlated columns
    the two differ by far more than rounding, so a report must say which it shows.
    """
    task, _, x = compas
    trees = GradientBoostingRegressor(n_estimators=30, random_state=0).fit(x, task.labels)
    rows, background = x[:10], x[100:150]
    exact = shapley.exact_shapley(trees.predict, rows, background)
    options = {"data": background, "feature_perturbation": "interventional"}
    interventional = shap.TreeExplainer(trees, **options).shap_values(rows)
    path_dependent = shap.TreeExplainer(trees).shap_values(rows)
    assert np.abs(exact - interventional).max() < 1e-6
    assert np.abs(exact - path_dependent).max() > 0.01


def test_tree_shap_of_native_categories_is_wrong_and_efficiency_shows_it():
    """shap reads a categorical split as a numerical one, in another order of columns.

    Nothing warns: its additivity check compares with its own reading of the trees. The sum of the
    credits against the model's own output is the check that fails.
    """
    task = adult_task(load("adult").table("train")).rows(np.arange(4000))
    model = boosting(0).fit(task.features, task.labels)
    codes = ColumnCodes.of(task.features)
    x = codes.encode(task.features)
    explainer = shap.TreeExplainer(model[-1])
    values = explainer.shap_values(x[:50])
    base = float(np.ravel(explainer.expected_value)[0])
    outputs = codes.log_odds(model)(x[:50])
    library = Attribution(codes.columns, values, base, outputs, "TreeExplainer")
    assert np.abs(library.residual).max() > 1
    sampled = shapley.permutation_shapley(
        codes.log_odds(model), x[:5], x[50:60], n_permutations=1
    ).values
    base = float(codes.log_odds(model)(x[50:60]).mean())
    ours = Attribution(codes.columns, sampled, base, outputs[:5], "permutation")
    assert np.abs(ours.residual).max() < 1e-9


def test_the_masker_keeps_100_rows_of_a_larger_background():
    """shap.maskers.Independent subsamples without a word; the base value is then another one."""
    background = table(5000, 3, 0)
    assert len(shap.maskers.Independent(background).data) == 100
    assert len(shap.maskers.Independent(background, max_samples=5000).data) == 5000


def test_one_antithetic_pair_of_orders_is_exact_for_pairwise_interactions():
    """Forward and backward, each of two columns arrives once before and once after the other.

    So the number of orders needed is a question of how many columns interact at once.
    """
    rows, background = table(4, 4, 7), table(6, 4, 8)
    exact = shapley.exact_shapley(product_of_two, rows, background)
    one = shapley.permutation_shapley(product_of_two, rows, background, n_permutations=1, seed=3)
    assert one.values == pytest.approx(exact, abs=1e-9)
    assert np.isnan(one.standard_error).all()


def test_sampled_orders_lie_around_the_exact_values_as_their_standard_error_says():
    """An estimate without its error is a number; 95 % of cells lie within two of them."""
    rows, background = table(30, 4, 9), table(5, 4, 10)

    def f(x):
        return three_way(x) + np.abs(x).max(axis=1) ** 2

    exact = shapley.exact_shapley(f, rows, background)
    sampled = shapley.permutation_shapley(f, rows, background, n_permutations=40, seed=0)
    noisy = sampled.standard_error > 1e-9
    assert noisy.mean() > 0.5
    score = np.abs(sampled.values - exact)[noisy] / sampled.standard_error[noisy]
    assert 0.9 < np.mean(score < 2) <= 1
    assert sampled.values.sum(axis=1) == pytest.approx(exact.sum(axis=1), abs=1e-9)


def test_a_column_that_the_model_never_reads_gets_credit_when_it_is_conditional():
    """Interventional is true to the model, conditional is true to the data.

    Column 1 is nearly a copy of column 0, the only one read. Knowing it tells the output.
    """
    rng = np.random.default_rng(0)
    first = rng.normal(size=2000)
    x = np.column_stack([first, first + 0.1 * rng.normal(size=2000), rng.normal(size=2000)])

    def f(rows):
        return rows[:, 0]

    interventional = np.abs(shapley.exact_shapley(f, x[:50], x[:100])).mean(axis=0)
    conditional = np.abs(shapley.conditional_shapley(f, x[:50], x, neighbours=30)).mean(axis=0)
    assert interventional[1] == 0
    assert conditional[1] > 0.3 * conditional[0]
    assert conditional[2] < 0.2 * conditional[1]


def test_conditional_equals_interventional_when_columns_are_independent():
    """All combinations of three fair bits: real rows that match are the mixed rows."""
    bits = ((np.arange(8)[:, None] >> np.arange(3)) & 1).astype(float)

    def f(x):
        return x[:, 0] * x[:, 1] + 3 * x[:, 2]

    conditional = shapley.conditional_shapley(f, bits, bits, neighbours=1)
    assert conditional == pytest.approx(shapley.exact_shapley(f, bits, bits), abs=1e-9)


def test_the_conditional_explainer_asks_about_real_rows_only():
    """That is why a model cannot tell it from ordinary use."""
    x = table(40, 3, 11)
    known, asked = {row.tobytes() for row in x}, []

    def f(rows):
        asked.extend(row.tobytes() for row in rows)
        return rows.sum(axis=1)

    shapley.conditional_shapley(f, x[:5], x, neighbours=5)
    assert len(asked) >= 40
    assert set(asked) <= known


def test_codes_give_the_model_the_table_it_was_fitted_on():
    """Text to codes and back: the same scores to the last bit."""
    task = adult_task(load("adult").table("test")).rows(np.arange(500))
    model = boosting(0).fit(task.features, task.labels)
    codes = ColumnCodes.of(task.features)
    got = codes.probability(model)(codes.encode(task.features))
    assert np.array_equal(got, scores(model, task.features))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shapley.coalitions(15), "d = 15 must be from 1 to 14"),
        (
            lambda: shapley.exact_shapley(three_way, table(2, 4, 0), table(2, 3, 0)),
            "rows have 4 columns, background 3",
        ),
        (
            lambda: shapley.exact_shapley(three_way, np.full((1, 4), np.nan), table(2, 4, 0)),
            r"rows\[0, 0\] is not finite",
        ),
        (
            lambda: shapley.exact_shapley(three_way, table(2, 4, 0), np.empty((0, 4))),
            r"background has shape \(0, 4\)",
        ),
        (
            lambda: shapley.linear_shapley(np.ones(3), table(2, 4, 0), table(2, 4, 0)),
            r"weights \(3,\) must be \[4\]",
        ),
        (
            lambda: shapley.permutation_shapley(
                three_way, table(1, 4, 0), table(1, 4, 0), n_permutations=0
            ),
            "n_permutations = 0 must be >= 1",
        ),
        (
            lambda: shapley.conditional_shapley(
                three_way, table(1, 4, 0), table(3, 4, 0), neighbours=4
            ),
            "neighbours = 4 must be 1 to 3",
        ),
        (lambda: shapley.kernel_shapley(np.zeros(6)), r"earned = \(6,\) must end in 2\^d"),
        (lambda: top_columns(table(2, 3, 0), 4), "k = 4 must be from 1 to 3"),
        (
            lambda: Attribution(("a",), np.zeros((2, 2)), 0.0, np.zeros(2), "x"),
            r"values \(2, 2\) must be \[rows, columns\] = \(2, 1\)",
        ),
        (
            lambda: Attribution(("a",), np.full((1, 1), np.nan), 0.0, np.zeros(1), "x"),
            r"values\[0, 0\] is not finite",
        ),
        (
            lambda: ColumnCodes.of(pd.DataFrame({"a": ["x"]})).encode(pd.DataFrame({"a": ["y"]})),
            "a holds 'y', unknown to the codes",
        ),
        (
            lambda: ColumnCodes.of(pd.DataFrame({"a": ["x"]})).encode(pd.DataFrame({"b": ["x"]})),
            "no column 'a'",
        ),
        (
            lambda: ColumnCodes.of(pd.DataFrame({"a": ["x", "y"]})).decode(np.array([[0.4]])),
            "a holds 0.4, a code is a whole number from 0 to 1",
        ),
    ],
)
def test_what_cannot_be_explained_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


WRONG_OUTPUTS = [
    (lambda x: np.where(x[:, 0] > 0, np.nan, x[:, 0]), "is not finite"),
    (lambda x: np.full(len(x), np.inf), "is not finite"),
    (lambda x: np.stack([x[:, 0], x[:, 1]], axis=1), r"must be \[m\]"),
    (lambda x: x[:, :1], r"must be \[m\]"),
    (lambda x: x[:1, 0], r"must be \[m\]"),
    (lambda x: 0.5, r"must be \[m\]"),
]


@pytest.mark.parametrize(("f", "message"), WRONG_OUTPUTS)
def test_a_model_without_one_finite_output_a_row_is_not_explained(f, message):
    """One NaN makes every credit of the row NaN; two columns of probabilities are two models."""
    rows, background = table(3, 4, 0), table(5, 4, 1)
    for explain in (shapley.exact_shapley, shapley.permutation_shapley):
        with pytest.raises(InputError, match=message):
            explain(f, rows, background)
    with pytest.raises(InputError, match=message):
        shapley.conditional_shapley(f, rows, background, neighbours=2)
