import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import (
    power_proportions_2indep,
    proportion_confint,
    samplesize_proportions_2indep_onetail,
)

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import data_audit, missingness, sample_size
from labs.lab3_fairness.resampling import gap_null
from labs.lab3_fairness.row_metrics import base_rate
from labs.lab3_fairness.tabular import propublica_filter


@pytest.fixture(scope="module")
def adult():
    return data_audit.data_audit(
        load("adult").table("train"),
        label="income",
        sensitive=["sex", "race"],
        reference={"sex": {"Female": 0.5, "Male": 0.5}},
        ignore=["fnlwgt"],
    )


@pytest.fixture(scope="module")
def compas():
    table = propublica_filter(load("compas").table("scores"))
    return data_audit.data_audit(
        table,
        label="two_year_recid",
        sensitive=["race", "sex"],
        ignore=["id", "name", "first", "last"],
    )


def test_adult_has_the_published_shares_and_rates(adult):
    """Two thirds are men; 11 % of the women and 31 % of the men earn above 50K."""
    table = adult.representation_table().set_index("group")
    assert table.loc["Female", "n"] == 10771
    assert table.loc["Female", "share"] == pytest.approx(0.3308, abs=1e-4)
    assert table.loc["Female", "p_value"] < 1e-12
    assert np.isnan(table.loc["Black", "p_value"]), "no reference, no test"
    rates = adult.base_rate_table().set_index("group")["rate"]
    assert rates["Female"] == pytest.approx(0.1095, abs=1e-4)
    assert rates["Male"] == pytest.approx(0.3057, abs=1e-4)
    for share in adult.representation:
        expected = proportion_confint(share.n, adult.rows, method="wilson")
        assert share.ci95 == pytest.approx(expected)


def test_answers_are_missing_more_often_in_one_group(adult):
    """7.8 % of the women and 4.6 % of the men have no occupation, and 2.4 % of the rich.

    Filled with the most frequent value, or kept as "?", missing is a column that tells sex.
    """
    table = adult.missing_table().set_index(["column", "by"])
    row = table.loc[("occupation", "sex")]
    assert (row["lowest"], row["highest"]) == ("Male", "Female")
    assert row["lowest_rate"] == pytest.approx(0.0460, abs=1e-4)
    assert row["highest_rate"] == pytest.approx(0.0781, abs=1e-4)
    assert row["p_corrected"] < 0.01
    assert table.loc[("native_country", "income"), "p_corrected"] > 0.5
    assert {test.column for test in adult.missingness} == {
        "workclass",
        "occupation",
        "native_country",
    }


def test_columns_that_are_missing_by_the_outcome_are_found(compas):
    """COMPAS: the charge of the next arrest is missing for 95 % of those without one.

    The column is the label written a second time, and no column of numbers shows it.
    """
    tests = {(test.column, test.by): test for test in compas.missingness}
    leak = tests[("r_charge_degree", "two_year_recid")]
    assert leak.rates["1"] == 0.0
    assert leak.rates["0"] == pytest.approx(0.9462, abs=1e-4)
    assert any("r_charge_degree is missing by two_year_recid" in said for said in compas.warnings)


def test_two_tiny_groups_hide_a_difference_between_the_large_ones(compas):
    """COMPAS: 52 % of 3,175 against 39 % of 2,103, and the gap of the extremes has p = .2.

    The largest gap is that of 31 people. Randomly dealt, 31 and 11 people give such gaps every
    fifth time; a test that weighs groups by their size is not deceived.
    """
    race = next(gap for gap in compas.base_rate_gaps if gap.attribute == "race")
    assert race.gap == pytest.approx(0.2651, abs=1e-4)
    assert 0.1 < race.p_gap < 0.35
    assert race.p_any < 0.005


def test_the_null_of_counts_is_that_of_shuffled_rows():
    """Same distribution as ``gap_null``, which deals out every row."""
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], [120, 60, 20])
    y = (rng.random(200) < 0.3).astype(np.int64)
    by_counts = data_audit.base_rate_gap("g", y, pd.Series(groups), 4000, np.random.default_rng(1))
    by_rows = gap_null(y, y, groups, base_rate, n_permutations=2000)
    assert by_counts.gap == pytest.approx(by_rows.observed)
    assert by_counts.null_mean == pytest.approx(by_rows.mean, rel=0.05)
    assert by_counts.p_gap == pytest.approx(by_rows.p_value, abs=0.04)


def test_the_permuted_chi_square_is_scipys_where_counts_are_large():
    """Far from small counts the chi-square distribution is right, and the permutation agrees."""
    counts, n = np.array([60, 75, 130]), np.array([500, 500, 1000])
    _, p = missingness.chi_square_null(counts, n, 20_000, np.random.default_rng(0))
    expected = chi2_contingency(np.stack([counts, n - counts]), correction=False).pvalue
    assert p == pytest.approx(expected, abs=0.01)


def test_on_tables_without_a_signal_one_audit_in_twenty_gives_a_false_alarm():
    """Ten columns missing at random: without Holm's correction four audits in ten would."""
    rng = np.random.default_rng(0)
    alarms = uncorrected = 0
    tries = 150
    for _ in range(tries):
        absent = pd.DataFrame(rng.random((120, 10)) < 0.2)
        by = {"g": pd.Series(rng.permutation(np.repeat(["a", "b"], [80, 40])))}
        tests = missingness.missingness_tests(absent, by, 400, rng)
        alarms += min(test.p_corrected for test in tests) < 0.05
        uncorrected += min(test.p_value for test in tests) < 0.05
    assert alarms / tries < 0.09, alarms
    assert uncorrected / tries > 0.25, uncorrected


@settings(derandomize=True, deadline=None, max_examples=10)
@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=12))
def test_holm_leaves_what_is_not_a_number(p_values):
    """Groups without a reference have no test and take nothing from those that have one."""
    got = missingness.holm_of_known([float("nan"), *p_values])
    assert np.isnan(got[0])
    assert got[1:] == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_group_of_the_reference_that_the_table_lacks_is_reported():
    """The largest under-representation of all is nobody, and a group-by does not show it."""
    table = pd.DataFrame({"y": [0, 1] * 50, "g": ["a", "b"] * 50})
    audit = data_audit.data_audit(
        table, label="y", sensitive=["g"], reference={"g": {"a": 0.45, "b": 0.45, "c": 0.1}}
    )
    absent = next(share for share in audit.representation if share.group == "c")
    assert (absent.n, absent.share) == (0, 0.0)
    assert absent.p_value < 0.001
    assert any("'c': share 0.000, reference 0.100" in said for said in audit.warnings)


def test_an_empty_intersection_is_reported():
    """No woman over 50: no model can be audited on her, and the table does not mention her."""
    table = pd.DataFrame(
        {"y": [0, 1] * 30, "sex": ["w"] * 20 + ["m"] * 40, "age": ["young"] * 40 + ["old"] * 20}
    )
    audit = data_audit.data_audit(table, label="y", sensitive=["sex", "age"])
    cells = audit.size_table().set_index("group")
    assert cells.loc["w & old", "n"] == 0
    assert cells.loc["m & old", "n"] == 20
    assert any("'w & old': nobody" in said for said in audit.warnings)


def test_those_whose_group_is_unknown_are_a_group():
    """Dropped, they would be the one group that no audit ever mentions."""
    table = pd.DataFrame({"y": [0, 1] * 30, "g": (["a", "b", None, "?"] * 15)})
    audit = data_audit.data_audit(table, label="y", sensitive=["g"])
    shares = audit.representation_table().set_index("group")["n"].to_dict()
    assert shares == {"a": 15, "b": 15, "(missing)": 30}


def test_duplicates_and_contradictions_are_counted():
    """Copies leak from training to test; twins with two labels bound every model's accuracy."""
    table = pd.DataFrame(
        {
            "id": range(6),
            "x": [1, 1, 1, 2, 2, 3],
            "y": [0, 0, 1, 0, 0, 1],
            "g": ["a", "a", "a", "b", "b", "b"],
        }
    )
    audit = data_audit.data_audit(table, label="y", sensitive=["g"], ignore=["id"])
    assert (audit.duplicates.exact, audit.duplicates.contradicting) == (2, 3)
    audit = data_audit.data_audit(table, label="y", sensitive=["g"])
    assert (audit.duplicates.exact, audit.duplicates.contradicting) == (0, 0)


@pytest.mark.parametrize(("rate", "gap"), [(0.5, 0.05), (0.3, 0.1), (0.1, 0.04)])
@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_the_rows_for_a_gap_have_the_power_that_was_asked_for(rate, gap, ratio):
    """statsmodels gives its power as .8, and asks for about as many rows."""
    n = sample_size.rows_for_gap(rate, gap, ratio=ratio)
    low = rate - gap / 2
    power = power_proportions_2indep(gap, low, nobs1=n, ratio=ratio).power
    assert power == pytest.approx(0.8, abs=0.02)
    assert sample_size.power_of_gap(n, round(n * ratio), gap, rate=rate) == pytest.approx(
        0.8, abs=0.01
    )
    other = samplesize_proportions_2indep_onetail(gap, low, 0.8, ratio=ratio, alpha=0.05)
    assert n == pytest.approx(other, rel=0.03)


def test_the_power_is_that_of_simulated_audits():
    """1,569 in each of two groups: a gap of .05 is found in four audits of five."""
    n = sample_size.rows_for_gap(0.5, 0.05)
    assert n == 1569
    rng = np.random.default_rng(0)
    p = rng.binomial(n, [0.525, 0.475], size=(4000, 2)) / n
    mean = p.mean(axis=1)
    found = np.abs(p[:, 0] - p[:, 1]) / np.sqrt(2 * mean * (1 - mean) / n) > 1.96
    assert found.mean() == pytest.approx(0.8, abs=0.02)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(60, 5000), st.floats(1, 50), st.sampled_from([0.2, 0.5, 0.7]))
def test_the_detectable_gap_is_the_inverse_of_the_rows(n, ratio, rate):
    """A gap that n rows just show needs n rows."""
    others = round(n * ratio)
    gap = sample_size.detectable_gap(n, others, rate=rate)
    if np.isnan(gap):
        return
    needed = sample_size.rows_for_gap(rate, gap, ratio=others / n)
    assert abs(needed - n) <= 1, f"{gap} is seen with {n} rows, and asks for {needed}"


def test_a_tiny_group_shows_no_gap_at_all():
    """With 3 rows against 1,000 not even 0 against 1 is sure, and nobody is not 0."""
    assert np.isnan(sample_size.detectable_gap(3, 1000, rate=0.1))
    assert np.isnan(sample_size.detectable_gap(0, 1000))
    assert np.isnan(sample_size.half_width(0))
    assert sample_size.half_width(100) == pytest.approx(0.0962, abs=1e-3)


GOOD = pd.DataFrame({"y": [0, 1] * 10, "g": ["a", "b"] * 10, "x": range(20)})


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (GOOD, {"sensitive": ["h"]}, "column = 'h' is not in the table"),
        (GOOD, {"sensitive": []}, "must name at least one column"),
        (GOOD, {"label": "g", "sensitive": ["g"]}, "column = 'g' must have one role"),
        (GOOD, {"label": "x"}, "x holds 2 .* use 0 and 1"),
        (GOOD.assign(y=[np.nan, *[1, 0] * 9, 1]), {}, "y holds nan"),
        (GOOD.assign(y=1), {}, "y: positives = 20 must be some, but not all"),
        (GOOD.assign(g="a"), {}, r"groups of g = \['a'\] must be two"),
        (GOOD.head(0), {}, "rows = 0 must be at least 1"),
        (GOOD, {"reference": {"x": {"a": 0.5}}}, "reference = 'x' must be a sensitive column"),
        (GOOD, {"reference": {"g": {"a": 50}}}, "reference of 'a' = 50 must lie between 0 and 1"),
        (GOOD, {"reference": {"g": {"a": 0.7, "b": 0.5}}}, "must add up to <= 1"),
        (GOOD, {"gap": 0}, "gap = 0 must be > 0"),
        (GOOD, {"n_permutations": 0}, "n_permutations = 0 must be >= 1"),
    ],
)
def test_a_table_that_cannot_be_audited_is_an_error(table, change, message):
    """Each message names the value and what it must be; nothing is dropped silently."""
    with pytest.raises(InputError, match=message):
        data_audit.data_audit(table, **{"label": "y", "sensitive": ["g"], **change})
