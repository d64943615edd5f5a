"""The linear programme: what it must hold, what it maximises, and what its solutions look like."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab3_fairness import relaxed_odds

FEW = settings(derandomize=True, deadline=None, max_examples=40)

# A large group with many positives and a small one with few, and scores of unequal quality.
POSITIVES = np.array([[20.0, 60.0, 120.0, 200.0], [2.0, 3.0, 5.0, 10.0]])
NEGATIVES = np.array([[300.0, 150.0, 90.0, 60.0], [90.0, 30.0, 15.0, 5.0]])


def rates(q, positives, negatives):
    """Selection rate, TPR and FPR of each group, computed from their definitions."""
    q = np.asarray(q).reshape(positives.shape)
    hits, alarms = (q * positives).sum(1), (q * negatives).sum(1)
    n_pos, n_neg = positives.sum(1), negatives.sum(1)
    return (hits + alarms) / (n_pos + n_neg), hits / n_pos, alarms / n_neg


def correct(q, positives, negatives):
    """The share of all rows decided correctly."""
    q = np.asarray(q).reshape(positives.shape)
    right = (q * positives).sum() + ((1 - q) * negatives).sum()
    return right / (positives.sum() + negatives.sum())


def optimum(positives, negatives, dp_bound, eo_bound):
    program = relaxed_odds.relaxed_odds_program(
        positives, negatives, dp_bound=dp_bound, eo_bound=eo_bound
    )
    return program, relaxed_odds.solve(program)


@pytest.mark.exercise("3.12")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["large first", "small first"])
@pytest.mark.parametrize("eo_bound", [0.0, 0.05])
def test_both_error_rates_stay_within_the_bound_whichever_group_is_ahead(order, eo_bound):
    """TPR and FPR gaps are at most eo_bound, and a gap has no sign: swap the groups and it holds.

    A bound on the TPR alone is equal opportunity, and a bound on one direction lets the other
    group fall as far behind as it likes.
    """
    positives, negatives = POSITIVES[list(order)], NEGATIVES[list(order)]
    _, q = optimum(positives, negatives, 1.0, eo_bound)
    _, tpr, fpr = rates(q, positives, negatives)
    for name, values in (("TPR", tpr), ("FPR", fpr)):
        gap = float(np.ptp(values))
        assert gap <= eo_bound + 1e-7, f"{name} gap {gap:.4f}, allowed {eo_bound}, of {values}"


@pytest.mark.exercise("3.12")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["large first", "small first"])
@pytest.mark.parametrize("dp_bound", [0.0, 0.1])
def test_selection_rates_stay_within_the_bound_in_both_directions(order, dp_bound):
    """The gap in selection rate is at most dp_bound: among all of a group's people, not its
    positives."""
    positives, negatives = POSITIVES[list(order)], NEGATIVES[list(order)]
    _, q = optimum(positives, negatives, dp_bound, 1.0)
    selection, _, _ = rates(q, positives, negatives)
    gap = float(np.ptp(selection))
    assert gap <= dp_bound + 1e-7, f"selection gap {gap:.4f}, allowed {dp_bound}, of {selection}"


@pytest.mark.exercise("3.12")
def test_the_objective_is_the_accuracy_over_everybody():
    """``constant + gain @ q`` is the share of all rows decided correctly, for any q.

    The groups have 1,000 and 160 rows. The mean of two group accuracies is another number, and
    maximising it pays for the small group with the errors of the large one.
    """
    program = relaxed_odds.relaxed_odds_program(POSITIVES, NEGATIVES, dp_bound=1.0, eo_bound=1.0)
    for seed in range(5):
        q = np.random.default_rng(seed).random(POSITIVES.size)
        said = program.constant + float(program.gain @ q)
        true = correct(q, POSITIVES, NEGATIVES)
        assert said == pytest.approx(true), f"objective {said:.4f}, accuracy {true:.4f}"


@pytest.mark.exercise("3.12")
@pytest.mark.parametrize(("dp_bound", "eo_bound"), [(1.0, 0.0), (0.0, 1.0), (0.05, 0.1)])
def test_no_rule_on_a_grid_within_the_bounds_is_more_accurate(dp_bound, eo_bound):
    """A programme that is stricter than asked also keeps the bounds, at a price nobody asked for.

    Every rule of 6 levels a bin is tried; those within the bounds are at most as accurate.
    """
    positives, negatives = POSITIVES[:, 1:], NEGATIVES[:, 1:]
    _, q = optimum(positives, negatives, dp_bound, eo_bound)
    found = correct(q, positives, negatives)
    levels = np.array(list(itertools.product(np.linspace(0, 1, 6), repeat=6))).reshape(-1, 2, 3)
    hits, alarms = (levels * positives).sum(2), (levels * negatives).sum(2)
    n_pos, n_neg = positives.sum(1), negatives.sum(1)
    selection = (hits + alarms) / (n_pos + n_neg)
    allowed = (
        (np.ptp(selection, axis=1) <= dp_bound)
        & (np.ptp(hits / n_pos, axis=1) <= eo_bound)
        & (np.ptp(alarms / n_neg, axis=1) <= eo_bound)
    )
    right = (hits.sum(1) + n_neg.sum() - alarms.sum(1)) / (n_pos.sum() + n_neg.sum())
    best = float(right[allowed].max())
    assert found >= best - 1e-7, f"accuracy {found:.5f}, a rule on the grid has {best:.5f}"


@pytest.mark.exercise("3.12")
def test_three_groups_are_bounded_pair_by_pair():
    """With three groups every two of them are within the bounds, not only neighbours."""
    positives = np.vstack([POSITIVES, [[30.0, 10.0, 5.0, 5.0]]])
    negatives = np.vstack([NEGATIVES, [[50.0, 60.0, 30.0, 10.0]]])
    _, q = optimum(positives, negatives, 0.08, 0.06)
    for name, values, bound in zip(
        ("selection", "TPR", "FPR"), rates(q, positives, negatives), (0.08, 0.06, 0.06)
    ):
        gap = float(np.ptp(values))
        assert gap <= bound + 1e-7, f"{name} gap {gap:.4f}, allowed {bound}, of {values}"


def synthetic(seed: int, n: int = 1500):
    """Calibrated scores and labels of two groups with other base rates."""
    rng = np.random.default_rng(seed)
    groups = np.where(rng.random(n) < 0.35, "b", "a")
    scores = 1 / (1 + np.exp(-rng.normal(np.where(groups == "a", -0.5, -1.5), 1.5)))
    labels = (rng.random(n) < scores).astype(int)
    return scores, labels, groups


@FEW
@given(st.integers(0, 10_000), st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_rule_keeps_its_bounds_and_tosses_few_coins(seed, dp_bound, eo_bound):
    """A vertex for two groups is fractional in at most three bins: the rows that can bind."""
    bins = relaxed_odds.score_bins(*synthetic(seed), n_bins=20)
    rule = relaxed_odds.relaxed_odds(bins, dp_bound=dp_bound, eo_bound=eo_bound)
    assert rule.dp_diff <= dp_bound + 1e-6
    assert rule.eo_diff <= eo_bound + 1e-6
    assert rule.fractional <= 3


@FEW
@given(st.integers(0, 10_000), st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_monotone_rule_never_prefers_a_lower_score(seed, dp_bound, eo_bound):
    """It keeps the bounds, has at most five thresholds, and loses no accuracy on smooth counts."""
    scores, labels, groups = synthetic(seed)
    smooth = relaxed_odds.isotonic_labels(scores, labels, groups)
    bins = relaxed_odds.score_bins(scores, smooth, groups, n_bins=20)
    free = relaxed_odds.relaxed_odds(bins, dp_bound=dp_bound, eo_bound=eo_bound)
    rule = relaxed_odds.monotone_relaxed_odds(bins, dp_bound=dp_bound, eo_bound=eo_bound)
    steps = np.diff(np.pad(rule.accept, ((0, 0), (1, 0))), axis=1)
    assert steps.min() >= -1e-9
    assert int((steps > 1e-9).sum()) <= 5
    assert max(rule.dp_diff - dp_bound, rule.eo_diff - eo_bound) <= 1e-6
    assert rule.accuracy == pytest.approx(free.accuracy, abs=1e-6)


def test_a_laxer_bound_is_never_less_accurate():
    """The frontier rises: every rule within a bound is also within a laxer one."""
    bins = relaxed_odds.score_bins(*synthetic(3), n_bins=30)
    for name in ("dp_bound", "eo_bound"):
        found = [
            relaxed_odds.relaxed_odds(bins, **{name: bound}).accuracy
            for bound in (0, 0.02, 0.05, 0.1, 0.3, 1)
        ]
        assert np.diff(found).min() >= -1e-9, found


def test_without_bounds_a_bin_is_accepted_when_most_of_it_is_positive():
    """The unconstrained optimum is the Bayes rule on bins, without a coin."""
    bins = relaxed_odds.score_bins(*synthetic(4), n_bins=10)
    rule = relaxed_odds.relaxed_odds(bins)
    differ = bins.positives != bins.negatives
    assert np.array_equal(
        rule.accept[differ], (bins.positives > bins.negatives)[differ].astype(float)
    )


def test_both_bounds_at_zero_leave_a_rule_that_ignores_the_score():
    """With other base rates, equal selection and equal errors force TPR = FPR in each group."""
    bins = relaxed_odds.score_bins(*synthetic(5, n=6000), n_bins=30)
    rule = relaxed_odds.relaxed_odds(bins, dp_bound=0, eo_bound=0)
    assert np.ptp(rule.roc_points, axis=1) == pytest.approx([0, 0], abs=1e-6)


def test_a_rule_does_on_its_own_rows_what_it_promises():
    """Bins, rates and decisions are three computations of one thing."""
    from labs.lab3_fairness.decisions import outcome

    scores, labels, groups = synthetic(6)
    bins = relaxed_odds.score_bins(scores, labels, groups, n_bins=25)
    rule = relaxed_odds.relaxed_odds(bins, dp_bound=0.05, eo_bound=0.03)
    found = outcome(labels, rule.positive(scores, groups), groups, n_boot=1)
    assert (found.accuracy, found.dp_diff, found.eo_diff) == pytest.approx(
        (rule.accuracy, rule.dp_diff, rule.eo_diff)
    )


def test_equal_scores_share_a_bin():
    """A score with 90 % of the rows is one bin: nobody is treated apart from an equal."""
    scores = np.array([0.2] * 90 + [0.8] * 10)
    labels = np.array([0, 1] * 50)
    groups = np.array(["a", "b", "a", "b", "b", "a", "b", "a", "a", "b"] * 10)
    bins = relaxed_odds.score_bins(scores, labels, groups, n_bins=10)
    _, located = bins.locate(scores, groups)
    assert len(set(located[:90])) == 1
    assert bins.positives.sum() + bins.negatives.sum() == 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": np.zeros(1500)}, "no row with label 1"),
        ({"groups": np.full(1500, "a")}, "a comparison needs two"),
        ({"scores": np.full(1500, np.nan)}, "must be finite"),
        ({"labels": np.full(1500, 2)}, "from 0 to 1"),
        ({"labels": np.zeros(3)}, r"must both be \[n\]"),
        ({"n_bins": 1}, "must be >= 2"),
    ],
)
def test_bad_rows_are_an_error_with_a_fix(change, said):
    scores, labels, groups = synthetic(0)
    given_ = {"scores": scores, "labels": labels, "groups": groups, "n_bins": 10} | change
    with pytest.raises(InputError, match=said):
        relaxed_odds.score_bins(**given_)


def test_a_bound_outside_0_to_1_and_an_unknown_group_are_errors():
    bins = relaxed_odds.score_bins(*synthetic(0), n_bins=10)
    with pytest.raises(InputError, match="eo_bound"):
        relaxed_odds.relaxed_odds(bins, eo_bound=1.5)
    with pytest.raises(InputError, match="'c' was not in the validation rows"):
        bins.locate([0.5], ["c"])


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_row_without_a_score_is_not_decided_about(score):
    """NaN sorts above every edge: the row would be accepted with certainty."""
    bins = relaxed_odds.score_bins(*synthetic(0), n_bins=10)
    rule = relaxed_odds.relaxed_odds(bins)
    for decide in (bins.locate, rule.positive):
        with pytest.raises(InputError, match=r"scores\[1\] = (nan|inf) is not finite"):
            decide([0.5, score, score], ["a", "b", "a"])
