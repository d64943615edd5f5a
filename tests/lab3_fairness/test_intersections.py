import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from common.data import load
from common.errors import InputError
from labs.lab3_fairness.intersections import (
    LOWER,
    NO_WORSE,
    NOT_ENOUGH,
    age_bands,
    intersect,
    intersection_report,
    pool_small,
)
from labs.lab3_fairness.multiple_testing import holm
from labs.lab3_fairness.row_metrics import (
    mean_prediction,
    selection_rate,
    true_positive_rate,
)


def crossed(rates, size=400):
    """Decisions with the given share selected in each (sex, age) cell, exactly."""
    rows = [
        {"sex": sex, "age": age, "selected": int(number < round(rate * size))}
        for (sex, age), rate in rates.items()
        for number in range(size)
    ]
    table = pd.DataFrame(rows)
    return table, table["selected"].to_numpy()


EQUAL_MARGINS = {("F", "old"): 0.2, ("F", "young"): 0.6, ("M", "old"): 0.6, ("M", "young"): 0.2}
HIDDEN = {("F", "old"): 0.2, ("F", "young"): 0.5, ("M", "old"): 0.5, ("M", "young"): 0.5}


def report(rates=HIDDEN, size=400, **options):
    table, selected = crossed(rates, size)
    truth = np.zeros(len(table), dtype=int)
    return intersection_report(truth, selected, table, ("sex", "age"), selection_rate, **options)


def test_equal_margins_hide_unequal_intersections():
    """Women and men 0.4, old and young 0.4: every margin is fair, and half are selected a third
    as often as the others."""
    found = report(EQUAL_MARGINS)
    for each in found.intersections:
        assert each.margins == {"sex": pytest.approx(0.4), "age": pytest.approx(0.4)}
        assert each.expected == pytest.approx(0.4, abs=1e-3)
    assert {each.group for each in found.worse()} == {"F x old", "M x young"}


def test_only_the_intersection_is_worse():
    found = report()
    (worst,) = found.worse()
    assert (worst.group, worst.value) == ("F x old", 0.2)
    assert worst.value < min(worst.margins.values()) == pytest.approx(0.35)
    assert worst.ci95[0] < 0.2 < worst.ci95[1] < worst.expected
    assert worst.p_value < 1e-6
    assert [each.verdict for each in found.intersections[1:]] == [NO_WORSE] * 3


def test_a_high_rate_is_worse_where_high_rates_harm():
    high = {key: 1 - rate for key, rate in HIDDEN.items()}
    assert [each.group for each in report(high, worse="high").worse()] == ["F x old"]
    assert report(high, worse="low").worse() == ()


def test_few_rows_are_said_to_be_few_and_not_left_out():
    found = report(size=30)
    assert found.n_too_small == len(found.intersections) == 4
    for each in found.intersections:
        assert each.verdict == NOT_ENOUGH
        assert np.isnan([each.value, *each.ci95, each.p_value]).all()
        assert 0 < each.shrunk < 1
    assert {each.verdict for each in report(size=30, min_rows=20).intersections} >= {LOWER}


def test_chance_alone_is_seldom_worse_than_every_margin():
    """Twelve intersections of one rate: the correction keeps the family's error at 5 %."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.integers(0, 3, 1800), "b": rng.integers(0, 4, 1800)})
    truth = np.zeros(1800, dtype=int)
    alarms = sum(
        bool(
            intersection_report(
                truth, (rng.random(1800) < 0.3).astype(int), table, ("a", "b"), selection_rate
            ).worse()
        )
        for _ in range(60)
    )
    assert alarms <= 7, alarms


@pytest.mark.parametrize("m", [1, 4, 20])
def test_holm_is_that_of_statsmodels(m):
    p_values = np.random.default_rng(m).random(m) ** 3
    theirs = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), theirs)


def test_the_table_holds_every_field():
    table = report().table()
    assert {"value", "low", "high", "shrunk_low", "margin_sex", "margin_age"} <= set(table)
    assert table["n"].sum() == 1600


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_pooling_moves_small_groups_only(groups, min_rows):
    pooled, small = pool_small(groups, min_rows=min_rows)
    sizes = pd.Series(groups).value_counts()
    if len(sizes[sizes < min_rows]) < 2:
        assert (list(pooled), small) == (groups, ())
    else:
        assert set(small) == set(sizes.index[sizes < min_rows])
        for before, after in zip(groups, pooled):
            assert after == ("all other groups" if before in small else before)


def test_a_pool_needs_a_name_of_its_own():
    with pytest.raises(InputError, match="already called 'rest'"):
        pool_small(["a", "rest"], name="rest")


def test_ages_fall_into_bands():
    bands = age_bands([17, 24, 25, 39, 40, 59, 60, 90])
    assert bands.tolist() == [
        *["under 25"] * 2, *["25-39"] * 2, *["40-59"] * 2, *["60 and over"] * 2
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: intersect(t, ["sex"]), "two or more"),
        (lambda t: intersect(t, ["sex", "race"]), "no column 'race'"),
        (lambda t: intersect(t.assign(sex=None), ["sex", "age"]), "missing in 1600 of 1600"),
        (lambda t: age_bands([1, np.nan]), r"age\[1\] is missing"),
        (lambda t: age_bands([1], edges=(40, 20)), "must increase"),
        (lambda t: report(worse="bad"), "worse = 'bad'"),
        (lambda t: report({("F", "old"): 0.2, ("M", "old"): 0.3}), "groups with rows = 2"),
        (
            lambda t: intersection_report([0], [1], t, ["sex", "age"], selection_rate),
            "the table 1600",
        ),
        (
            lambda t: intersection_report(
                np.zeros(1600), np.full(1600, 0.5), t, ["sex", "age"], mean_prediction
            ),
            "no share of rows",
        ),
        (
            lambda t: intersection_report(
                np.zeros(1600), np.full(1600, 0.5), t, ["sex", "age"], selection_rate
            ),
            "y_pred holds 0.5",
        ),
        (
            lambda t: intersection_report(
                np.zeros(1600), np.zeros(1600), t, ["sex", "age"], true_positive_rate
            ),
            "rows that count = 0",
        ),
    ],
)
def test_bad_arguments_are_refused(call, says):
    table, _ = crossed(HIDDEN)
    with pytest.raises(InputError, match=says):
        call(table)


def test_adult_has_forty_intersections_of_sex_race_and_age():
    table = load("adult").table("test")
    table = table.assign(age_band=age_bands(table["age"]))
    groups = intersect(table, ("sex", "race", "age_band"))
    assert len(set(groups)) == 40
    pooled, small = pool_small(groups)
    assert (len(set(pooled)), len(small)) == (20, 21)
