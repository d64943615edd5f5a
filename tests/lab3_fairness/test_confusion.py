import numpy as np
import pytest
from fairlearn import metrics as fairlearn_metrics
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_score

from common.errors import InputError
from labs.lab3_fairness import confusion, fairness_metrics

# COMPAS, ProPublica's 6,172 rows, decile > 4: (TP, FP, FN, TN)
COMPAS = {"African-American": (1188, 641, 473, 873), "Caucasian": (414, 282, 408, 999)}


def rows_of(cells):
    """y_true, y_pred and groups with these confusion cells."""
    y_true, y_pred, groups = [], [], []
    for group, counts in cells.items():
        for (actual, chosen), n in zip([(1, 1), (0, 1), (1, 0), (0, 0)], counts):
            y_true += [actual] * n
            y_pred += [chosen] * n
            groups += [group] * n
    return np.array(y_true), np.array(y_pred), np.array(groups)


@pytest.mark.exercise("3.1")
def test_the_rates_of_compas_are_the_published_ones():
    """FPR .42 and .22, FNR .28 and .50, PPV .65 and .59: the numbers the whole debate is about.

    ProPublica argued with FPR and FNR, the vendor with PPV. Both were right about their rate;
    a rate with the wrong denominator is right about neither.
    """
    rates = confusion.group_rates(*rows_of(COMPAS))
    expected = {
        "African-American": {"n": 3175, "fpr": 0.423382, "fnr": 0.284768, "ppv": 0.649535},
        "Caucasian": {"n": 2103, "fpr": 0.220141, "fnr": 0.496350, "ppv": 0.594828},
    }
    for group, values in expected.items():
        for name, value in values.items():
            got = rates.loc[group, name]
            assert got == pytest.approx(value, abs=1e-6), f"{group} {name}: {value}, got {got}"


@pytest.mark.exercise("3.1")
def test_each_rate_has_its_own_denominator():
    """TP 1, FP 3, FN 4, TN 12: TPR is 1/5 (of the positives), PPV 1/4 (of the selected).

    Dividing by all rows, or by the selected in place of the positives, gives numbers between 0
    and 1 that look like rates.
    """
    rates = confusion.group_rates(*rows_of({"a": (1, 3, 4, 12), "b": (2, 2, 2, 2)})).loc["a"]
    expected = {
        "n": 20,
        "base_rate": 5 / 20,
        "selection_rate": 4 / 20,
        "tpr": 1 / 5,
        "fpr": 3 / 15,
        "fnr": 4 / 5,
        "ppv": 1 / 4,
        "accuracy": 13 / 20,
    }
    for name, value in expected.items():
        assert rates[name] == pytest.approx(value), f"{name}: expected {value}, got {rates[name]}"


@pytest.mark.exercise("3.1")
def test_a_rate_among_nobody_is_not_a_number():
    """A group without positives has no TPR. Writing 0 would report the largest possible gap."""
    rates = confusion.group_rates(*rows_of({"a": (0, 1, 0, 3), "b": (1, 1, 1, 1)}))
    got = rates.loc["a", "tpr"]
    assert np.isnan(got), f"TPR of a group without positives: expected NaN, got {got}"


def labelled(n):
    bits = st.lists(st.integers(0, 1), min_size=n, max_size=n)
    names = st.lists(st.sampled_from("abc"), min_size=n, max_size=n).filter(
        lambda drawn: len(set(drawn)) > 1
    )
    return st.tuples(bits, bits, names)


@pytest.mark.exercise("3.1")
@settings(derandomize=True, deadline=None, max_examples=40, phases=[Phase.generate])
@given(st.integers(6, 40).flatmap(labelled))
def test_the_rates_equal_those_of_fairlearn(columns):
    """On any labels the rates by hand are fairlearn's, wherever the denominator is not 0."""
    y_true, y_pred, groups = map(np.array, columns)
    rates = confusion.group_rates(y_true, y_pred, groups)
    reference = {
        "selection_rate": fairlearn_metrics.selection_rate,
        "tpr": fairlearn_metrics.true_positive_rate,
        "fpr": fairlearn_metrics.false_positive_rate,
        "ppv": lambda t, p: precision_score(t, p, zero_division=0),
        "accuracy": accuracy_score,
    }
    for group in np.unique(groups):
        rows = groups == group
        for name, metric in reference.items():
            got = rates.loc[group, name]
            if not np.isnan(got):
                expected = metric(y_true[rows], y_pred[rows])
                assert got == pytest.approx(expected), f"{name} of {group}: {expected}, got {got}"


@pytest.mark.exercise("3.3")
def test_the_equalized_odds_difference_of_compas_is_the_known_one():
    """TPR .7152 - .5037 = .2116 is the larger of the two gaps."""
    got = confusion.equalized_odds_difference(*rows_of(COMPAS))
    assert got == pytest.approx(0.2115821530429738, abs=1e-12), f"expected .21158, got {got}"


@pytest.mark.exercise("3.3")
def test_the_worse_of_the_two_gaps_counts():
    """Equal TPR, FPR apart by 0.4: the difference is 0.4.

    Equal TPR alone is equal opportunity; it lets a model wrong one group's negatives unseen.
    """
    cells = {"a": (5, 1, 5, 9), "b": (5, 5, 5, 5)}
    got = confusion.equalized_odds_difference(*rows_of(cells))
    assert got == pytest.approx(0.4), f"TPR gap 0, FPR gap 0.4: expected 0.4, got {got}"


@pytest.mark.exercise("3.3")
def test_a_gap_is_between_two_groups_and_not_to_the_average():
    """TPR 0.2, 0.5, 0.8 in three groups: the gap is 0.6, twice what the distance to all shows."""
    cells = {"a": (2, 5, 8, 5), "b": (5, 5, 5, 5), "c": (8, 5, 2, 5)}
    got = confusion.equalized_odds_difference(*rows_of(cells))
    assert got == pytest.approx(0.6), f"TPR 0.2 to 0.8, FPR equal: expected 0.6, got {got}"


@pytest.mark.exercise("3.3")
def test_the_difference_equals_fairlearns():
    """fairlearn.metrics.equalized_odds_difference, on random labels of three groups."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        y_true, y_pred = rng.integers(0, 2, (2, 200))
        groups = rng.choice(["a", "b", "c"], 200)
        expected = fairlearn_metrics.equalized_odds_difference(
            y_true, y_pred, sensitive_features=groups
        )
        got = confusion.equalized_odds_difference(y_true, y_pred, groups)
        assert got == pytest.approx(expected), f"expected {expected}, got {got}"


@pytest.mark.exercise("3.3")
@pytest.mark.parametrize("groups", [2, 3])
def test_a_group_without_positives_or_negatives_makes_the_difference_undefined(groups):
    """NaN, with one other group or two: a single number cannot say whom it leaves out.

    Leaving the group out unseen reports a gap of 0 where nothing was compared.
    """
    others = {"b": (5, 1, 5, 9), "c": (5, 1, 5, 9)}
    cells = dict(list(others.items())[: groups - 1])
    for name, alone in {"positives": (0, 1, 0, 9), "negatives": (9, 0, 1, 0)}.items():
        got = confusion.equalized_odds_difference(*rows_of({"a": alone, **cells}))
        assert np.isnan(got), f"a has no {name}, {groups - 1} more groups: expected NaN, got {got}"


def test_the_difference_is_missing_where_the_definition_names_a_group():
    rng = np.random.default_rng(1)
    missing = 0
    for _ in range(60):
        y_true, y_pred = rng.integers(0, 2, (2, 14))
        groups = np.array(list("abc"))[np.append(rng.integers(0, 3, 11), [0, 1, 2])]
        named = fairness_metrics.equalized_odds(y_true, y_pred, groups)
        got = confusion.equalized_odds_difference(y_true, y_pred, groups)
        assert np.isnan(got) == bool(named.undefined), (got, named)
        missing += np.isnan(got)
        if not named.undefined:
            assert got == pytest.approx(named.difference)
    assert 5 < missing < 55, missing


def test_the_demographic_parity_difference_of_compas_is_the_known_one():
    got = confusion.demographic_parity_difference(*rows_of(COMPAS))
    assert got == pytest.approx(0.2451072146652139, abs=1e-12)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "groups", "says"),
    [
        ([0, 1], [0.3, 1], ["a", "b"], "0.3"),
        ([0, 2], [0, 1], ["a", "b"], "y_true holds"),
        ([0, 1, 1], [0, 1], ["a", "b"], "must both be"),
        ([0, 1], [0, 1], ["a", None], "missing in 1 of 2"),
        ([0, 1], [0, 1], ["a", "a"], "only the group"),
        ([0, 1], [0, 1], ["a"], "1 rows"),
    ],
)
def test_bad_columns_are_refused(y_true, y_pred, groups, says):
    with pytest.raises(InputError, match=says):
        confusion.group_rates(y_true, y_pred, groups)
