"""Exercise 6.12, every procedure against statsmodels, and what each keeps on simulated families."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import multiple_testing

PUBLISHED = np.array(
    [
        *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240),
        *(0.4262, 0.5719, 0.6528, 0.7590, 1.0),
    ]
)


@pytest.mark.exercise("6.12")
def test_the_example_of_the_paper_has_four_findings() -> None:
    """Benjamini and Hochberg's own fifteen p-values: four at q = 0.05, where Bonferroni has three.

    The fourth, 0.0095, is compared with 4/15 of 0.05. A rank that is off by one finds three or
    five.
    """
    found = multiple_testing.benjamini_hochberg(PUBLISHED)
    findings = int((found <= 0.05).sum())
    assert findings == 4, f"expected 4 findings, got {findings}"
    assert found[3] == pytest.approx(0.0095 * 15 / 4), (
        f"expected {0.0095 * 15 / 4:.6f} for the fourth, got {found[3]:.6f}"
    )
    assert found[-1] == pytest.approx(1.0), f"expected 1 for the largest, got {found[-1]}"


@pytest.mark.exercise("6.12")
def test_a_small_p_may_owe_its_rejection_to_a_larger_one() -> None:
    """.030, .0345 and .040: the first alone would be 3 x .030 = .09, the last is .040.

    All three are findings at .05, since three findings at .040 promise .04 false ones a finding.
    """
    p = np.array([0.030, 0.0345, 0.040])
    found = multiple_testing.benjamini_hochberg(p)
    expected = np.array([0.04, 0.04, 0.04])
    assert found == pytest.approx(expected), f"expected {expected}, got {found}"


@pytest.mark.exercise("6.12")
def test_the_answers_come_in_the_order_of_the_questions() -> None:
    """The metric that was given second is answered second, in every row."""
    p = np.array([[0.5, 0.001, 0.03], [0.02, 0.9, 0.04]])
    expected = np.array([[0.5, 0.003, 0.045], [0.06, 0.9, 0.06]])
    found = multiple_testing.benjamini_hochberg(p)
    assert found == pytest.approx(expected), f"expected {expected}, got {found}"


@pytest.mark.exercise("6.12")
def test_an_adjusted_p_is_a_probability() -> None:
    """.6 among .7 and .8 would be 1.8 by its own rank; nothing is above the largest p here, .8."""
    found = multiple_testing.benjamini_hochberg(np.array([0.6, 0.7, 0.8, 0.99]))
    assert found.max() <= 1, f"expected at most 1, got {found.max()}"
    assert found == pytest.approx([0.99] * 4), f"expected 0.99 four times, got {found}"


THEIRS = {
    "bonferroni": "bonferroni",
    "holm": "holm",
    "hochberg": "simes-hochberg",
    "benjamini_hochberg": "fdr_bh",
    "benjamini_yekutieli": "fdr_by",
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_statsmodels(name: str, seed: int) -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.random(12), rng.random(5) * 0.02, [0.5, 0.5]])
    its = multipletests(p, method=THEIRS[name])[1]
    np.testing.assert_allclose(multiple_testing.PROCEDURES[name](p), its, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_order_of_severity(p: list[float]) -> None:
    """p <= BH <= Hochberg <= Holm <= Bonferroni, BH <= BY."""
    values = np.array(p)
    by = {name: adjust(values) for name, adjust in multiple_testing.PROCEDURES.items()}
    tiny = 1e-12
    for less, more in (
        ("unadjusted", "benjamini_hochberg"),
        ("benjamini_hochberg", "hochberg"),
        ("hochberg", "holm"),
        ("holm", "bonferroni"),
        ("benjamini_hochberg", "benjamini_yekutieli"),
    ):
        assert (by[less] <= by[more] + tiny).all(), (less, more)
    for adjusted in by.values():
        assert np.all(np.diff(adjusted[np.argsort(values, kind="stable")]) >= -tiny)


def test_twenty_metrics_of_nothing_and_one_wins() -> None:
    """1 - .95^20 = .64 without a correction; Holm keeps 5 %; positive dependence lowers both."""
    rows = {
        (row.procedure, row.correlation): row
        for row in multiple_testing.study_multiple_testing(families=[(20, 0)], n=4000)
    }
    assert rows["unadjusted", 0.0].fwer == pytest.approx(1 - 0.95**20, abs=0.025)
    assert 0.2 < rows["unadjusted", 0.5].fwer < 0.55
    for name in ("bonferroni", "holm", "hochberg"):
        for correlation in (0.0, 0.5):
            assert rows[name, correlation].fwer <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_fdr_is_kept_where_fwer_is_not_and_finds_more() -> None:
    """A hundred metrics of which twenty moved: BH has false findings, but few among many."""
    rows = {
        row.procedure: row
        for row in multiple_testing.study_multiple_testing(
            families=[(100, 20)], correlations=[0.0], n=2000
        )
    }
    assert rows["benjamini_hochberg"].fdr == pytest.approx(0.05 * 80 / 100, abs=0.006)
    assert rows["benjamini_hochberg"].fwer > 0.3
    assert rows["holm"].fwer <= 0.06
    assert rows["benjamini_hochberg"].power > rows["holm"].power + 0.2
    assert rows["unadjusted"].fdr > 0.15
    assert rows["benjamini_yekutieli"].power < rows["benjamini_hochberg"].power


@pytest.mark.parametrize("p", [[0.1, np.nan], [0.1, 1.2], [-0.1], []])
def test_what_is_no_p_value_is_refused(p: list[float]) -> None:
    with pytest.raises(ValueError, match=r"p-values"):
        multiple_testing.holm(p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 10}, "n = 10 must be at least 100"),
        ({"correlations": [1.0]}, r"correlation = 1.0 must be in \[0, 1\)"),
        ({"families": [(3, 4)]}, "real effects = 4 must be from 0 to 3"),
    ],
)
def test_a_study_with_impossible_families_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiple_testing.study_multiple_testing(**options)
