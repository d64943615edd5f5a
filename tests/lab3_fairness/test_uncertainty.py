import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness.scoring import boosting
from labs.lab3_fairness.tabular import adult_task
from labs.lab3_fairness.uncertainty import (
    bootstrap_ensemble,
    entropy_decomposition,
    selective_accuracy,
    uncertainty_by_group,
)


def test_members_that_agree_have_no_epistemic_part_and_sure_ones_that_differ_nothing_else():
    """All say one half: 1 bit, the coin's. Half say 0 and half say 1: 1 bit, the models'."""
    open_case, thin_data = [0.5, 0.5], [0.0, 1.0]
    parts = entropy_decomposition(np.stack([open_case, thin_data], axis=1))
    np.testing.assert_allclose(parts.total, [1, 1])
    np.testing.assert_allclose(parts.aleatoric, [1, 0], atol=1e-12)
    np.testing.assert_allclose(parts.epistemic, [0, 1], atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=8))
def test_the_parts_add_up_and_are_not_negative(members):
    parts = entropy_decomposition(members)
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic, atol=1e-9)
    assert (parts.epistemic >= 0).all()
    assert (parts.total <= 1 + 1e-12).all()


def test_members_differ_more_about_the_groups_they_have_seen_least_of():
    adult = load("adult")
    train, test = adult.table("train"), adult.table("test")
    members = bootstrap_ensemble(
        boosting, adult_task(train).rows(np.arange(5000)), adult_task(test).features, n_members=4
    )
    assert members.shape == (4, len(test))
    assert members.std(axis=0).max() > 0
    table = uncertainty_by_group(members, test["race"].to_numpy())
    few = [g for g in table.index if g not in ("White", "Black")]
    assert (table.loc[few, "share"] > table.loc["White", "share"]).all()
    assert (table["low"] <= table["epistemic"]).all()


def test_deciding_about_everybody_is_plain_accuracy():
    y = np.array([0, 1, 1, 0, 1])
    table = selective_accuracy(y, [0.1, 0.9, 0.4, 0.3, 0.6], list("aabbb"), coverages=[1.0])
    assert table["accuracy"].tolist() == pytest.approx([1, 2 / 3])
    assert table["decided"].tolist() == [1, 1]


def test_abstaining_can_help_one_group_and_not_the_other():
    """Group a is surely right where it is sure; group b is surely wrong where it is sure."""
    scores = np.tile([0.95, 0.9, 0.55, 0.52], 2)
    y = np.array([1, 1, 0, 1, 0, 0, 1, 1])
    groups = np.repeat(["a", "b"], 4)
    table = selective_accuracy(y, scores, groups, coverages=[1.0, 0.5]).set_index(
        ["coverage", "group"]
    )["accuracy"]
    assert table[1.0, "a"] - table[1.0, "b"] == pytest.approx(0.25)
    assert table[0.5, "a"] - table[0.5, "b"] == pytest.approx(1.0)


def test_a_group_without_decisions_has_no_accuracy():
    table = selective_accuracy([0, 1, 1], [0.01, 0.02, 0.5], list("aab"), coverages=[0.5])
    row = table.set_index("group").loc["b"]
    assert row["n"] == 0
    assert np.isnan(row["accuracy"])


def test_bad_input_is_named():
    with pytest.raises(InputError, match="at least two members"):
        entropy_decomposition([[0.1, 0.2]])
    with pytest.raises(InputError, match="from 0 to 1"):
        entropy_decomposition([[0.1], [1.2]])
    with pytest.raises(InputError, match="coverage = 0"):
        selective_accuracy([0, 1], [0.1, 0.2], ["a", "b"], coverages=[0])
