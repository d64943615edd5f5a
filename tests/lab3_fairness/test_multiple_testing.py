import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from common.errors import InputError
from labs.lab3_fairness import multiple_testing

# The fifteen p-values of Benjamini and Hochberg's own example (1995, section 3.2).
PAPER = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344),
    *(0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
]
families = st.lists(st.floats(0, 1), min_size=1, max_size=40)
settled = settings(derandomize=True, deadline=None, max_examples=40)


@pytest.mark.exercise("3.9")
def test_the_papers_example_rejects_four_of_fifteen():
    """At 5 % Bonferroni rejects three hypotheses of the paper's example, the new rule four.

    The fourth p-value, .0095, is below .05 * 4 / 15 = .0133 and above .05 / 15 = .0033. A rule
    that multiplies by m alone loses it.
    """
    adjusted = multiple_testing.benjamini_hochberg(PAPER)
    got = int(np.sum(np.asarray(adjusted) <= 0.05))
    assert got == 4, f"expected 4 of 15 rejected at .05, got {got}: {np.round(adjusted, 4)}"


@pytest.mark.exercise("3.9")
def test_a_larger_p_value_can_lift_a_smaller_one():
    """p = .04, .041, .042: each times 3 / rank is .12, .0615, .042; all three become .042.

    The rule looks for the *largest* p under its line and rejects everything below it. Without the
    step from the back the smallest p-value is the only one not rejected, which is absurd.
    """
    adjusted = np.asarray(multiple_testing.benjamini_hochberg([0.04, 0.041, 0.042]))
    assert adjusted == pytest.approx([0.042] * 3), f"expected .042 three times, got {adjusted}"


@pytest.mark.exercise("3.9")
def test_each_adjusted_value_stays_with_its_hypothesis():
    """Unsorted input: the answer is in the order of the question.

    Values left in sorted order are right as a set and name the wrong slices.
    """
    adjusted = np.asarray(multiple_testing.benjamini_hochberg([0.5, 0.01, 0.9, 0.02]))
    expected = [2 / 3, 0.04, 0.9, 0.04]
    assert adjusted == pytest.approx(expected), f"expected {expected}, got {adjusted}"


@pytest.mark.exercise("3.9")
@settled
@given(families)
def test_the_adjusted_values_are_those_of_scipy_and_statsmodels(p_values):
    """On any family, in any order, with ties and zeros, both libraries give the same numbers."""
    adjusted = np.asarray(multiple_testing.benjamini_hochberg(p_values))
    for name, reference in (
        ("scipy", false_discovery_control(p_values)),
        ("statsmodels", multipletests(p_values, method="fdr_bh")[1]),
    ):
        assert adjusted == pytest.approx(reference, abs=1e-12), (
            f"{name} gives {reference} for {p_values}, got {adjusted}"
        )


@settled
@given(families)
def test_the_other_corrections_are_those_of_statsmodels(p_values):
    """Bonferroni, Holm, and Benjamini-Yekutieli, which scipy has as well."""
    for name, ours in (
        ("bonferroni", multiple_testing.bonferroni),
        ("holm", multiple_testing.holm),
        ("fdr_by", multiple_testing.benjamini_yekutieli),
    ):
        assert ours(p_values) == pytest.approx(multipletests(p_values, method=name)[1], abs=1e-12)
    by = false_discovery_control(p_values, method="by")
    assert multiple_testing.benjamini_yekutieli(p_values) == pytest.approx(by, abs=1e-12)


@settled
@given(families)
def test_the_corrections_are_ordered_from_bold_to_cautious(p_values):
    """p <= BH <= Holm <= Bonferroni, and BH <= BY: what each guarantee costs."""
    p = np.asarray(p_values)
    bh, by = (
        multiple_testing.benjamini_hochberg(p),
        multiple_testing.benjamini_yekutieli(p),
    )
    holm, bonferroni = multiple_testing.holm(p), multiple_testing.bonferroni(p)
    for lower, upper in ((p, bh), (bh, holm), (holm, bonferroni), (bh, by)):
        assert (lower <= upper + 1e-12).all()


@pytest.mark.parametrize("correction", ["benjamini_hochberg", "holm", "bonferroni"])
@pytest.mark.parametrize("bad", [[], [0.5, float("nan")], [1.2], [-0.1], [[0.1, 0.2]]])
def test_what_is_no_p_value_is_refused(correction, bad):
    """NaN sorts to the end and would shift every rank before it."""
    with pytest.raises(InputError):
        getattr(multiple_testing, correction)(bad)


def test_half_true_nulls_keep_the_false_discovery_rate():
    """500 families of 80 nulls and 20 effects: the mean false share stays at .1 * .8, not .1."""
    rng = np.random.default_rng(0)
    shares, uncorrected = [], []
    for _ in range(500):
        null, effect = rng.random(80), rng.random(20) ** 8
        p = np.concatenate([null, effect])
        rejected = multiple_testing.benjamini_hochberg(p) <= 0.1
        shares.append(rejected[:80].sum() / max(1, rejected.sum()))
        uncorrected.append((null <= 0.1).sum() / max(1, (p <= 0.1).sum()))
    assert np.mean(shares) == pytest.approx(0.08, abs=0.015)
    assert np.mean(uncorrected) > 0.25
