import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import explanation_checks as ec
from labs.lab3_fairness.attribution import Attribution, top_columns
from labs.lab3_fairness.explainer_comparison import compare_explainers
from labs.lab3_fairness.figures_explanations import draw_lime_spread
from labs.lab3_fairness.tabular import compas_task

QUICK = settings(derandomize=True, deadline=None, max_examples=40)


@pytest.fixture(scope="module")
def comparison():
    task = compas_task(load("compas").table("scores"))
    return compare_explainers(task, n_rows=3, n_background=20, n_seeds=4)


def test_the_residual_is_what_the_credits_do_not_add_up_to():
    values = np.array([[1.0, 2.0], [0.5, 0.5]])
    shares = Attribution(("a", "b"), values, 1.0, np.array([4.0, 2.3]), "x")
    assert ec.efficiency_residual(shares) == pytest.approx(0.3)


@QUICK
@given(st.integers(0, 10_000), st.integers(3, 7))
def test_agreement_of_a_thing_with_itself_and_rank_correlation_as_scipy_has_it(seed, d):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(-3, 4, size=(2, 4, d)).astype(float)
    first[:, 0], second[:, -1] = 9.0, 9.0
    itself = ec.agreement(first, first)
    assert itself.largest_error == 0
    assert itself.top3 == 1
    assert itself.rank_correlation == pytest.approx(1)
    expected = np.mean([spearmanr(abs(a), abs(b)).statistic for a, b in zip(first, second)])
    got = ec.agreement(first, second)
    assert got.rank_correlation == pytest.approx(expected, abs=1e-9)
    assert got.largest_error == np.abs(first - second).max()


def test_top_agreement_counts_pairs_of_seeds_with_the_same_set():
    """Three seeds, one row: two name columns {0, 1}, one {0, 2}; one pair of three agrees."""
    values = np.array([[[3.0, 2.0, 1.0]], [[2.0, -3.0, 1.0]], [[3.0, 1.0, -2.0]]])
    seen = ec.SeedSpread(values)
    assert seen.top_agreement(2) == pytest.approx(1 / 3)
    assert seen.top_agreement(1) == pytest.approx(1 / 3)
    assert seen.top_agreement(3) == 1
    assert seen.std.shape == seen.mean.shape == (1, 3)


def test_equal_credits_keep_the_order_of_the_columns():
    assert top_columns(np.array([[1.0, -1.0, 2.0]]), 3).tolist() == [[2, 0, 1]]


def test_a_row_without_any_credit_has_no_ranking():
    """All credits 0, as for the average row: left out, not counted as agreement."""
    first = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    assert ec.agreement(first, first).rank_correlation == pytest.approx(1)
    assert np.isnan(ec.agreement(first[:1], first[:1]).rank_correlation)


def test_checks_tell_an_exact_explainer_from_a_noisy_and_a_biased_one():
    """The exact one passes all, the noisy one repeats badly, the biased one repeats well and errs.

    Seed spread alone would call the last one good.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 4))
    exact = Attribution(tuple("abcd"), values, 0.2, 0.2 + values.sum(axis=1), "exact")
    noisy, biased, true = ec.check_explainers(
        {
            "noisy": lambda seed: values + np.random.default_rng(seed).normal(size=values.shape),
            "biased": lambda seed: values[:, ::-1],
            "exact": lambda seed: values,
        },
        exact,
    )
    assert max(true.efficiency_residual, true.largest_error, true.spread) < 1e-9
    assert true.top3_with_exact == true.top3_agreement == 1
    assert noisy.spread > 0.5
    assert noisy.top3_agreement < 0.9
    assert biased.spread < 1e-9
    assert biased.efficiency_residual < 1e-9
    assert biased.largest_error > 0.5
    assert list(ec.check_table([noisy, true])["method"]) == ["noisy", "exact"]


def test_shap_is_exact_on_compas_and_lime_is_not(comparison):
    """Enumeration, closed form and library to 1e-9; LIME's error is a matter of its draws."""
    assert comparison.closed_form_error < 1e-9
    assert comparison.shap_error < 1e-9
    assert ec.efficiency_residual(comparison.exact) < 1e-9
    sampled, few, many = comparison.checks[:3]
    assert sampled.efficiency_residual < 1e-9 < few.efficiency_residual
    assert sampled.spread < few.spread
    assert many.spread < few.spread
    assert few.top3_agreement < 1
    assert comparison.check("LIME, 500") == few


def test_the_spread_of_lime_is_that_of_its_figure(comparison):
    """Twenty seeds of one row: the spread is a hundredth or so of probability, as large as half
    of the credits themselves."""
    spread = comparison.lime_seeds.std(axis=0, ddof=1)
    assert ((spread > 0.003) & (spread < 0.05)).all()
    assert (np.abs(comparison.exact.values[0]) < spread).any()
    figure = draw_lime_spread(comparison)
    assert figure.axes[1].get_xlabel() == "neighbours a row"


def test_one_seed_has_no_scatter():
    with pytest.raises(InputError, match="seeds = 1 must be >= 2"):
        ec.seed_spread(lambda seed: np.zeros((1, 3)), range(1))


def test_attributions_of_other_rows_or_too_few_columns_are_refused():
    with pytest.raises(InputError, match="must be alike"):
        ec.agreement(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(InputError, match="columns = 2 must be >= 3"):
        ec.agreement(np.zeros((2, 2)), np.zeros((2, 2)))
