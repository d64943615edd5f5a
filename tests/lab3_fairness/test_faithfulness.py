from itertools import permutations

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from shap import maskers
from shap.benchmark import ExplanationError

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import faithfulness as ff
from labs.lab3_fairness.faithfulness_study import study_faithfulness
from labs.lab3_fairness.figures_faithfulness import draw_curves
from labs.lab3_fairness.shapley import exact_shapley, linear_shapley
from labs.lab3_fairness.tabular import adult_task

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
WEIGHTS = np.array([1.0, -2.0, 0.5, 0.0])


def linear(x):
    return x @ WEIGHTS + 3


def bent(x):
    return x[:, 0] * x[:, 1] + np.sin(x[:, 2]) - 0.3 * x[:, 3]


def table(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.exercise("3.14")
def test_exact_credits_of_a_linear_model_keep_every_promise():
    """A linear model loses, for any set of columns, just the sum of their Shapley values.

    So infidelity is 0 to rounding. If it is not, the loss is measured for other columns than the
    promise, or with the other sign.
    """
    rows, background = table(6, 4, 0), table(9, 4, 1)
    values = WEIGHTS * (rows - background.mean(axis=0))
    replaced = np.random.default_rng(2).random((20, 6, 4)) < 0.3
    got = ff.infidelity(linear, rows, values, replaced, background)
    assert got.shape == (6,), f"one number a row: shape {got.shape}, expected (6,)"
    assert np.abs(got).max() < 1e-20, f"infidelity {got.max():.3g}, expected 0"


@pytest.mark.exercise("3.14")
def test_a_promise_that_is_off_by_two_costs_four():
    """One column is replaced and its credit is 2 too large: the squared error is 4.

    The mean is over the sets of columns. A set that leaves the column alone breaks no promise,
    so with one such set in two the mean is 2.
    """
    rows, background = table(3, 4, 3), table(5, 4, 4)
    values = WEIGHTS * (rows - background.mean(axis=0))
    values[:, 0] += 2
    replaced = np.zeros((2, 3, 4), dtype=bool)
    replaced[0, :, 0] = True
    one = ff.infidelity(linear, rows, values, replaced[:1], background)
    assert one == pytest.approx(np.full(3, 4.0)), f"got {one}, expected 4 for each row"
    both = ff.infidelity(linear, rows, values, replaced, background)
    assert both == pytest.approx(np.full(3, 2.0)), f"got {both}, expected 2 for each row"


@pytest.mark.exercise("3.14")
def test_errors_of_opposite_sign_do_not_cancel():
    """Two sets whose promises are off by +1 and -1 have a mean error of 0 and an infidelity of 1.

    An explanation that is wrong in both directions is not faithful on average.
    """
    rows, background = table(2, 4, 5), table(1, 4, 6)
    values = WEIGHTS * (rows - background)
    values += [1.0, -1.0, 0.0, 0.0]
    replaced = np.zeros((2, 2, 4), dtype=bool)
    replaced[0, :, 0] = replaced[1, :, 1] = True
    got = ff.infidelity(linear, rows, values, replaced, background)
    assert got == pytest.approx(np.ones(2)), f"got {got}, expected 1 for each row"


@pytest.mark.exercise("3.14")
def test_credits_twice_too_large_are_unfaithful():
    """Doubled credits rank the columns alike, but promise twice what is lost.

    With one set the error is the loss itself, squared. Rescaling the credits first would hide it;
    that is another measure.
    """
    rows, background = table(4, 4, 7), table(6, 4, 8)
    values = 2 * WEIGHTS * (rows - background.mean(axis=0))
    replaced = np.zeros((1, 4, 4), dtype=bool)
    replaced[:, :, :2] = True
    got = ff.infidelity(linear, rows, values, replaced, background)
    expected = (values[:, :2].sum(axis=1) / 2) ** 2
    assert got == pytest.approx(expected), f"got {got}, expected {expected}"


@pytest.mark.parametrize("f", [linear, bent])
def test_captum_finds_the_same_infidelity_for_the_same_perturbations(f):
    """captum leaves it to the caller to say what I is: here which columns, as for credits."""
    rows, baseline = table(5, 4, 9), table(1, 4, 10)
    values = table(5, 4, 11)
    replaced = np.random.default_rng(12).random((7, 5, 4)) < 0.5

    def perturb(inputs):
        which = torch.from_numpy(replaced.transpose(1, 0, 2).reshape(-1, 4))
        return which.double(), torch.where(which, torch.from_numpy(baseline), inputs)

    library = captum_infidelity(
        lambda x: torch.from_numpy(f(x.numpy())),
        perturb,
        torch.from_numpy(rows),
        torch.from_numpy(values),
        n_perturb_samples=7,
    )
    ours = ff.infidelity(f, rows, values, replaced, baseline)
    assert library.numpy() == pytest.approx(ours, rel=1e-6)


def test_averaging_the_background_first_only_removes_a_floor():
    """One draw a perturbation, as the paper has it, adds the variance of the loss between draws.

    It is the same for every explanation, so no ranking changes; but nobody could reach 0.
    """
    rows, background = table(3, 4, 13), table(8, 4, 14)
    replaced = ff.random_sets(10, (3, 4), 15)
    drops = np.stack(
        [bent(rows) - ff.outputs_without(bent, rows, z[None], replaced) for z in background]
    )
    floor = drops.var(axis=0).mean(axis=0)
    for seed in (0, 1):
        values = table(3, 4, seed)
        drawn = np.mean(
            [ff.infidelity(bent, rows, values, replaced, z[None]) for z in background], axis=0
        )
        averaged = ff.infidelity(bent, rows, values, replaced, background)
        assert drawn == pytest.approx(averaged + floor)


def shap_error(f, background, rows, values):
    masker = maskers.Independent(background, max_samples=len(background))
    return float(ExplanationError(masker, f, rows)(values, "x", silent=True).value)


def test_shaps_explanation_error_is_zero_for_exact_credits_and_the_root_of_ours():
    """Both ask every prefix of ten random orders; shap's prefixes say what stays."""
    rows, background = table(1, 4, 16), table(6, 4, 17)
    assert shap_error(linear, background, rows, linear_shapley(WEIGHTS, rows, background)) < 1e-14
    values = exact_shapley(bent, rows, background)
    orders = np.random.RandomState(38923)  # shap's default seed
    kept = np.zeros((10, 5, 1, 4), dtype=bool)
    for each in kept:
        order = np.arange(4)
        orders.shuffle(order)
        each[:, 0] = np.argsort(order) < np.arange(5)[:, None]
    ours = ff.infidelity(bent, rows, values, ~kept.reshape(-1, 1, 4), background)
    library = shap_error(bent, background, rows, values)
    assert library > 0.1
    assert library == pytest.approx(np.sqrt(ours[0]))


def test_shaps_explanation_error_looks_at_the_last_row_only():
    """shap 0.51: credits of all other rows can be nonsense and the score stays 0.

    Score row by row, or count on our mean.
    """
    rows, background = table(5, 4, 18), table(6, 4, 19)
    values = linear_shapley(WEIGHTS, rows, background)
    values[:-1] = 100.0
    assert shap_error(linear, background, rows, values) < 1e-13
    assert shap_error(linear, background, rows[::-1], values[::-1]) > 10
    replaced = ff.random_sets(20, rows.shape)
    assert ff.infidelity(linear, rows, values, replaced, background)[:-1].min() > 100


def test_captum_finds_the_same_max_sensitivity():
    """Same neighbours, same largest relative change."""
    rows = table(4, 3, 20)
    near = rows + 0.1 * table(24, 3, 21).reshape(6, 4, 3)

    def explain(x):
        return x**2

    library = sensitivity_max(
        lambda x: (x[0] ** 2,),
        torch.from_numpy(rows),
        perturb_func=lambda *_: (torch.from_numpy(near.transpose(1, 0, 2).reshape(-1, 3)),),
        n_perturb_samples=6,
    )
    assert library.numpy() == pytest.approx(ff.max_sensitivity(explain, rows, near))
    with pytest.raises(InputError, match=r"credits of a row = 0.0 must not all be 0"):
        ff.max_sensitivity(np.zeros_like, rows, near)


@QUICK
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_no_order_beats_the_best_and_the_mean_over_all_orders_is_exact(seed, d):
    """All d! orders by hand: the longest path through 2^d sets finds the same limits."""

    def f(x):
        return np.sin(x.sum(axis=1)) + x[:, 0] * x[:, 1]

    rows, background = table(2, d, seed), table(3, d, seed + 1)
    every = [
        ff.curves(f, rows, background, np.tile(order, (2, 1))) for order in permutations(range(d))
    ]
    deletion = np.array([each.deletion_area for each in every])
    insertion = np.array([each.insertion_area for each in every])
    best = ff.best_orders(f, rows, background)
    assert best.deletion == pytest.approx(deletion.max(axis=0))
    assert best.insertion == pytest.approx(insertion.min(axis=0))
    assert best.mean == pytest.approx(deletion.mean(axis=0))
    assert best.mean == pytest.approx(insertion.mean(axis=0))


def test_random_orders_scatter_about_the_exact_mean():
    rows, background = table(20, 4, 22), table(5, 4, 23)
    null = ff.random_orders(bent, rows, background, n_orders=200)
    expected = ff.best_orders(bent, rows, background).mean.mean()
    error = null.area.std(ddof=1) / np.sqrt(200)
    assert abs(null.area.mean() - expected) < 4 * error
    assert null.change[:, 0] == pytest.approx(0)


def test_curves_of_a_linear_model_are_what_one_works_out():
    """Credits 3, -1, 0.5 on a baseline of 0: outputs 2.5, -0.5, 0.5, 0 while deleting."""
    rows, background = np.array([[3.0, -1.0, 0.5]]), np.zeros((1, 3))
    order = ff.largest_first(rows)
    assert order.tolist() == [[0, 1, 2]]
    found = ff.curves(lambda x: x.sum(axis=1), rows, background, order)
    assert found.deletion[0] == pytest.approx([2.5, -0.5, 0.5, 0.0])
    assert found.insertion[0] == pytest.approx([0.0, 3.0, 2.0, 2.5])
    assert found.deletion_area[0] == pytest.approx((3.0 + 2.0) / 2)
    assert found.insertion_area[0] == pytest.approx((0.5 + 0.5) / 2)


def test_columns_without_credit_come_in_random_order():
    """In the table's order, an explanation of zeros would be judged by the layout."""
    orders = ff.largest_first(np.zeros((200, 4)))
    assert np.abs((orders == 0).mean(axis=0) - 0.25).max() < 0.12


def test_sensitivity_n_forgives_scale_and_infidelity_does_not():
    rows, background = table(4, 4, 24), table(6, 4, 25)
    values = 5 * linear_shapley(WEIGHTS, rows, background)
    sets = ff.sets_of_size(2, 30, rows.shape)
    assert (sets.sum(axis=-1) == 2).all()
    assert ff.sensitivity_n(linear, rows, values, sets, background) == pytest.approx(np.ones(4))
    assert ff.infidelity(linear, rows, values, sets, background).min() > 0.1
    assert np.isnan(ff.sensitivity_n(linear, rows, 0 * values, sets, background)).all()


def test_rank_correlation_is_scipys_and_missing_without_a_ranking():
    a, b = table(5, 6, 26), table(5, 6, 27)
    expected = [spearmanr(abs(x), abs(y)).statistic for x, y in zip(a, b)]
    assert ff.row_rank_correlation(a, b) == pytest.approx(expected)
    assert np.isnan(ff.row_rank_correlation(np.ones((1, 3)), b[:1, :3])).all()


def test_sets_of_other_rows_and_impossible_settings_are_refused():
    rows, background = table(3, 4, 28), table(2, 4, 29)
    with pytest.raises(InputError, match=r"replaced \(5, 2, 4\) must end in the rows' \(3, 4\)"):
        ff.infidelity(linear, rows, rows, np.zeros((5, 2, 4), dtype=bool), background)
    with pytest.raises(InputError, match="size = 4 must be from 1 to 3"):
        ff.sets_of_size(4, 2, (3, 4))
    with pytest.raises(InputError, match="n_orders = 1 must be >= 2"):
        ff.random_orders(linear, rows, background, n_orders=1)
    rows[1, 2] = np.nan
    with pytest.raises(InputError, match=r"rows\[1, 2\] is not finite"):
        ff.outputs_without(linear, rows, background, np.zeros((1, 3, 4), dtype=bool))


@pytest.fixture(scope="module")
def studies():
    adult = load("adult")
    return study_faithfulness(
        adult_task(adult.table("train")),
        adult_task(adult.table("test")),
        n_rows=80,
        n_background=20,
        n_best=2,
        n_orders=10,
        n_sets=16,
    )


def test_the_winner_is_whoever_shares_the_metrics_background(studies):
    """Shapley values against real rows win when real rows replace, those against one typical row
    when that row does: a score is a comparison under a removal, not a verdict."""
    for study in studies:
        real, constant = study.score("Shapley"), study.score("Shapley, constant row")
        assert real.deletion > constant.deletion
        assert real.deletion_constant < constant.deletion_constant
        difference, (low, _) = study.difference("Shapley", "Shapley, constant row")
        assert 0 < low < difference


def test_exact_credits_are_faithful_and_shuffled_ones_are_not(studies):
    """On logistic regression exact credits have infidelity 0; shuffled ones sum up as well, and
    delete as random orders do."""
    linear_study, trees = studies
    assert linear_study.score("Shapley").infidelity < 1e-12
    for study in (linear_study, trees):
        low, high = np.quantile(study.null.area, [0, 1])
        width = high - low
        assert low - width < study.score("shuffled").deletion < high + width
        assert study.score("Shapley").deletion > high + width
        assert study.best_deletion >= study.shapley_on_best[0]
        assert study.best_insertion <= study.shapley_on_best[1]


def test_credits_of_another_model_are_found_out(studies):
    """Plausible, and not about this model: no difference to the eye, a clear one to deletion."""
    trees = studies[1]
    _, (low, _) = trees.difference("Shapley", "Shapley of logistic")
    assert low > 0
    assert np.isnan(trees.score("coefficients").infidelity)
    assert set(trees.table()["method"]) == {score.method for score in trees.scores}
    with pytest.raises(InputError, match="method 'x' must be one of"):
        trees.score("x")


def test_the_figure_shows_the_curves_and_the_random_band(studies):
    figure = draw_curves(studies[1])
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any("random" in label for label in labels)
    assert "Shapley" in labels
