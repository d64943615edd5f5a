import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab3_fairness import decisions
from labs.lab3_fairness.confusion import group_rates
from labs.lab3_fairness.score_intervals import (
    all_pairs_z,
    largest_difference_interval,
    largest_gap_interval,
    wilson,
)

# q of each row: women's positives .9 .5 .1, negatives .2 0; men's positives 1 .4, negatives .6 0 0
LABELS = [1, 1, 1, 0, 0, 1, 1, 0, 0, 0]
CHANCE = [0.9, 0.5, 0.1, 0.2, 0.0, 1.0, 0.4, 0.6, 0.0, 0.0]
GROUPS = ["f"] * 5 + ["m"] * 5


@pytest.mark.exercise("3.19")
def test_a_chance_counts_as_a_part_of_a_row():
    """Women's positives get .9, .5 and .1: TPR (.9 + .5 + .1) / 3 = .5.

    Cut at one half the same rule has TPR 2/3, and what is reported is a rule that nobody runs. A
    rule that randomises to even out the gaps looks as if it had not.
    """
    found = decisions.expected_rates(LABELS, CHANCE, GROUPS)
    expected = {
        "f": {"n": 5, "selection_rate": 1.7 / 5, "tpr": 1.5 / 3, "fpr": 0.2 / 2},
        "m": {"n": 5, "selection_rate": 2.0 / 5, "tpr": 1.4 / 2, "fpr": 0.6 / 3},
    }
    for group, values in expected.items():
        for name, value in values.items():
            got = found.loc[group, name]
            assert got == pytest.approx(value), f"{name} of {group}: {value}, got {got}"


@pytest.mark.exercise("3.19")
def test_the_expected_accuracy_counts_the_chance_of_being_right():
    """Women: .9 + .5 + .1 right among the positives, .8 + 1 among the negatives: 3.3 of 5.

    A negative with a chance of .2 is right with .8, not with .2.
    """
    found = decisions.expected_rates(LABELS, CHANCE, GROUPS)["accuracy"]
    for group, value in {"f": 3.3 / 5, "m": (1.4 + 0.4 + 1 + 1) / 5}.items():
        assert found[group] == pytest.approx(value), f"{group}: {value}, got {found[group]}"


@pytest.mark.exercise("3.19")
def test_the_rates_are_those_of_very_many_tosses():
    """The mean of the rates over 4,000 tosses of the coin, within four standard errors.

    One toss has a TPR of 0, 1/2 or 1 for the men: a report of it changes from run to run.
    """
    rng = np.random.default_rng(0)
    truth, chance, men = np.array(LABELS), np.array(CHANCE), np.array(GROUPS) == "m"
    tossed = rng.random((4000, 10)) < chance
    found = decisions.expected_rates(LABELS, CHANCE, GROUPS)
    for name, rows in {"tpr": men & (truth == 1), "fpr": men & (truth == 0)}.items():
        runs = tossed[:, rows].mean(axis=1)
        expected, got = runs.mean(), found.loc["m", name]
        error = 4 * runs.std() / np.sqrt(len(runs))
        assert abs(got - expected) <= error, f"{name}: {expected:.3f} in 4,000 tosses, got {got}"


@pytest.mark.exercise("3.19")
def test_a_group_without_positives_has_no_expected_tpr():
    """A rate among nobody is NaN: 0 would be the largest gap of the audit, made of nobody."""
    found = decisions.expected_rates([0, 0, 1, 0], [0.3, 0.5, 0.5, 0.1], list("aabb"))
    got = found.loc["a", "tpr"]
    assert np.isnan(got), f"TPR of a group without positives: expected NaN, got {got}"
    fpr = found.loc["a", "fpr"]
    assert fpr == pytest.approx(0.4), f"FPR (.3 + .5) / 2 = .4, got {fpr}"


def rows(seed, n=300):
    rng = np.random.default_rng(seed)
    truth, groups = rng.integers(0, 2, n), rng.choice(["a", "b", "c"], n)
    return truth, rng.choice([0.0, 0.25, 0.7, 1.0], n), groups


def test_a_deterministic_rule_has_the_rates_of_its_confusion_matrix():
    truth, chance, groups = rows(0)
    chosen = (chance > 0.5).astype(int)
    columns = ["n", "selection_rate", "tpr", "fpr", "accuracy"]
    expected = group_rates(truth, chosen, groups)[columns]
    got = decisions.expected_rates(truth, chosen, groups)
    np.testing.assert_allclose(got, expected)
    found = decisions.outcome(truth, chosen, groups, n_boot=1)
    assert found.deterministic
    assert found.accuracy == pytest.approx(np.mean(truth == chosen))
    assert found.eo_diff == pytest.approx(max(np.ptp(expected["tpr"]), np.ptp(expected["fpr"])))
    hits, n = expected["selection_rate"] * expected["n"], expected["n"].to_numpy()
    hits = np.round(hits.to_numpy())  # of a rate and a number
    limits = largest_difference_interval(hits / n, wilson(hits, n, z=all_pairs_z(3)))
    assert found.dp_diff_ci95 == pytest.approx(tuple(map(float, limits)))


def test_the_coin_makes_the_intervals_of_the_gaps_narrower_and_not_the_flips_fewer():
    """A chance of one half for everybody near the threshold varies less from row to row."""
    truth, chance, groups = rows(1)
    tossed = decisions.outcome(truth, np.where(chance == 1, 0.5, chance), groups, n_boot=100)
    certain = decisions.outcome(truth, chance > 0.5, groups, n_boot=100)
    for name in ("dp_diff_ci95", "eo_diff_ci95"):
        assert np.ptp(getattr(tossed, name)) < np.ptp(getattr(certain, name)), name
    assert tossed.flips > 0 == certain.flips


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_every_value_lies_in_its_interval(data):
    n = data.draw(st.integers(4, 40))
    share = st.one_of(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.floats(0, 1))
    truth = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    chance = data.draw(st.lists(share, min_size=n, max_size=n))
    groups = [
        "a",
        "b",
        *data.draw(st.lists(st.sampled_from("abc"), min_size=n - 2, max_size=n - 2)),
    ]
    found = decisions.outcome(truth, chance, groups, n_boot=data.draw(st.sampled_from([1, 50])))
    for name in ("accuracy", "dp_diff", "eo_diff"):
        value, (low, high) = getattr(found, name), getattr(found, f"{name}_ci95")
        if np.isnan(value):
            assert np.isnan([low, high]).all(), name
        else:
            assert low <= value <= high, (name, low, value, high)
            assert 0 <= low <= high <= 1, (name, low, high)


def test_the_interval_of_a_gap_that_is_not_there_reaches_zero():
    """Percentiles of a max - min are hardly ever 0, so they miss a true gap of 0."""
    truth, groups = np.tile([0, 1], 200), np.repeat(["a", "b"], 200)
    chosen = np.tile([0, 0, 1, 1, 1], 80)
    found = decisions.outcome(truth, chosen, groups)
    assert found.dp_diff_ci95[0] == found.eo_diff_ci95[0] == 0


SHARES = {"deterministic": np.array([0, 1.0]), "randomised": np.array([0, 0.25, 0.7, 1.0])}
POSITIVES, NEGATIVES = np.array([590, 3256]), np.array([4831, 7604])  # Adult's test half: f, m


def with_mean(shares, mean):
    """Probabilities of the shares of mean ``mean``: half of it from the middle ones, if any."""
    middle = np.where((shares > 0) & (shares < 1), mean / 2, 0)
    middle = middle / max(middle.sum(), 1e-9) * mean
    at_one = mean - middle @ shares
    return np.append(np.append(1 - middle.sum() - at_one, middle[1:-1]), at_one)


def drawn(rng, shares, means, n, n_sets=400):
    """Sum, sum of squares and number of n shares of each group in each data set, [sets, g]."""
    counts = np.stack(
        [rng.multinomial(k, with_mean(shares, mean), size=n_sets) for k, mean in zip(n, means)],
        axis=1,
    )
    return counts @ shares, counts @ shares**2, np.broadcast_to(n, counts.shape[:2])


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize(
    ("tpr", "fpr"),
    [((0.6, 0.6), (0.08, 0.08)), ((0.6, 0.6), (0.04, 0.10)), ((0.54, 0.6), (0.05, 0.08))],
)
def test_intervals_of_equalized_odds_hold_the_truth(kind, tpr, fpr):
    """True gaps of 0 and .06 at the sizes of Adult's test half, 400 data sets."""
    rng = np.random.default_rng(0)
    parts = [drawn(rng, SHARES[kind], tpr, POSITIVES), drawn(rng, SHARES[kind], fpr, NEGATIVES)]
    low, high = largest_gap_interval(parts)
    true = max(np.ptp(tpr), np.ptp(fpr))
    held = np.mean((low <= true) & (true <= high))
    assert held >= 0.93, held
    widest = 0.15 if true else 0.1  # and not by being of no use
    assert np.mean(high - low) < widest, np.mean(high - low)


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("rates", [(0.2, 0.2), (0.1, 0.25)])
def test_intervals_of_demographic_parity_hold_the_truth(kind, rates):
    rng = np.random.default_rng(1)
    low, high = largest_gap_interval([drawn(rng, SHARES[kind], rates, POSITIVES + NEGATIVES)])
    held = np.mean((low <= np.ptp(rates)) & (np.ptp(rates) <= high))
    assert held >= 0.93, held


def test_the_intervals_that_were_simulated_are_those_of_an_outcome():
    truth, chance, groups = rows(2)
    parts = []
    for counted in (truth == 1, truth == 0):
        by_group = [chance[counted & (groups == group)] for group in "abc"]
        sums = [[np.sum(q), np.sum(q**2), len(q)] for q in by_group]
        parts.append(tuple(np.array(sums).T))
    found = decisions.outcome(truth, chance, groups, n_boot=1)
    assert found.eo_diff_ci95 == pytest.approx(largest_gap_interval(parts))


def test_a_group_without_positives_has_no_equalized_odds_and_no_interval():
    found = decisions.outcome([0, 0, 1, 0], [0, 1, 1, 0], list("aabb"), n_boot=10)
    assert np.isnan([found.eo_diff, *found.eo_diff_ci95]).all()
    assert found.dp_diff == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y_true": [0, 2, 1, 0]}, "y_true holds 2"),
        ({"positive": [0, 1.2, 1, 0]}, "positive holds 1.2"),
        ({"positive": [0, np.nan, 1, 0]}, "positive holds nan"),
        ({"positive": [0, 1, 1]}, "must both be"),
        ({"groups": list("aaaa")}, "only the group"),
        ({"n_boot": 0}, "n_boot = 0"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    arguments = {"y_true": [0, 1, 1, 0], "positive": [0, 1, 1, 0.5], "groups": list("aabb")}
    with pytest.raises(InputError, match=says):
        decisions.outcome(**{**arguments, **change})
