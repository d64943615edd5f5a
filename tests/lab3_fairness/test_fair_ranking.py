import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab3_fairness import fair_ranking


@pytest.mark.exercise("3.17")
def test_the_targets_of_the_published_example():
    """k 20, p .25, alpha .1: nothing of the first 8, then 1, 2 from place 15, 3 at place 20.

    Zero among eight is what a fair coin gives in .75^8 = 10.01 % of cases: just allowed. Zero
    among nine, 7.5 %, is not.
    """
    expected = [0] * 8 + [1] * 6 + [2] * 5 + [3]
    got = fair_ranking.minimum_targets(20, 0.25, 0.1).tolist()
    assert got == expected, f"expected {expected}, got {got}"


@pytest.mark.exercise("3.17")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 40), st.floats(0.02, 0.98), st.floats(0.001, 0.5))
def test_a_prefix_at_its_target_passes_and_one_below_fails(k, p, alpha):
    """F(m) > alpha at the target and F(m - 1) < alpha one below, for several prefixes.

    A target of one more accuses fair rankings; one of less lets unfair ones pass.
    """
    from scipy.stats import binom

    targets = fair_ranking.minimum_targets(k, p, alpha)
    for i in {1, (k + 1) // 2, k}:
        m = int(targets[i - 1])
        at, below = binom.cdf(m, i, p), binom.cdf(m - 1, i, p)
        assert at >= alpha - 1e-9, f"prefix {i}, target {m}: F = {at}, expected above {alpha}"
        assert below <= alpha + 1e-9, f"prefix {i}, target {m}: F({m - 1}) = {below} > {alpha}"


@pytest.mark.exercise("3.17")
def test_the_first_place_asks_for_the_protected_only_if_they_are_nearly_everybody():
    """p .95 at alpha .1: leaving the first place to another happens in 5 % of cases, too few.

    Targets are for prefixes of 1 to k, and the first entry is that of one place, not of none.
    """
    got = fair_ranking.minimum_targets(3, 0.95, 0.1).tolist()
    assert got == [1, 2, 2], f"expected [1, 2, 2], got {got}"


def test_a_level_of_zero_asks_for_nothing():
    assert fair_ranking.minimum_targets(10, 0.9, 0.0).tolist() == [0] * 10


@pytest.mark.parametrize(
    ("k", "p", "alpha", "says"),
    [(0, 0.5, 0.1, "k = 0"), (5, 0, 0.1, "p = 0"), (5, 1, 0.1, "p = 1"), (5, 0.5, 1, "alpha = 1")],
)
def test_arguments_outside_their_limits_are_refused(k, p, alpha, says):
    with pytest.raises(InputError, match=says):
        fair_ranking.minimum_targets(k, p, alpha)


@pytest.mark.parametrize(("k", "p", "alpha"), [(8, 0.3, 0.1), (10, 0.5, 0.2), (9, 0.7, 0.05)])
def test_the_failure_probability_is_that_of_all_rankings_counted(k, p, alpha):
    """All 2^k sequences of the coin, weighted: dynamic programming leaves none out."""
    targets = fair_ranking.minimum_targets(k, p, alpha)
    failed = 0.0
    for places in itertools.product([0, 1], repeat=k):
        if np.any(np.cumsum(places) < targets):
            failed += p ** sum(places) * (1 - p) ** (k - sum(places))
    assert fair_ranking.failure_probability(targets, p) == pytest.approx(failed, abs=1e-12)


def test_the_failure_probability_is_what_a_simulation_gives():
    targets = fair_ranking.minimum_targets(20, 0.25, 0.1)
    coins = np.random.default_rng(0).random((40_000, 20)) < 0.25
    share = float(np.mean(np.any(np.cumsum(coins, axis=1) < targets, axis=1)))
    assert fair_ranking.failure_probability(targets, 0.25) == pytest.approx(share, abs=0.006)


def test_many_prefixes_reject_a_fair_coin_more_often_than_one():
    """Each prefix at 10 %, all together 14.7 %: the reason for the adjustment."""
    targets = fair_ranking.minimum_targets(20, 0.25, 0.1)
    assert fair_ranking.failure_probability(targets, 0.25) == pytest.approx(0.146887188699111)


def test_the_reference_implementations_choice_is_reproduced():
    """k 20, p .25, alpha .1: level .078125; its test fails with probability .10515, above .1."""
    got = fair_ranking.adjust_alpha_nearest(20, 0.25, 0.1)
    assert got.alpha == pytest.approx(0.07812500000000001, abs=1e-12)
    assert got.failure == pytest.approx(0.10515247355215251, abs=1e-12)
    assert got.targets.tolist() == [0] * 8 + [1] * 7 + [2] * 5


@pytest.mark.parametrize(
    ("k", "p", "alpha", "failure"),
    [(10, 0.2, 0.15, 0.13421772800000065), (30, 0.3, 0.05, 0.04877730797178359)],
)
def test_two_more_published_failure_probabilities(k, p, alpha, failure):
    got = fair_ranking.adjust_alpha_nearest(k, p, alpha)
    assert got.failure == pytest.approx(failure, abs=1e-12)


def test_the_exact_adjustment_keeps_its_level():
    """.0897 with the first target at place 10: the strictest table whose test keeps 10 %."""
    got = fair_ranking.adjust_alpha(20, 0.25, 0.1)
    assert got.targets.tolist() == [0] * 9 + [1] * 6 + [2] * 5
    assert got.failure == pytest.approx(0.08972216723486781, abs=1e-12)
    assert got.alpha == pytest.approx(0.75**9)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 40), st.floats(0.05, 0.95), st.floats(0.01, 0.3))
def test_the_exact_adjustment_is_the_strictest_that_keeps_its_level(k, p, alpha):
    """Just above the level returned, the targets rise and the test fails too often."""
    got = fair_ranking.adjust_alpha(k, p, alpha)
    assert got.failure <= alpha
    stricter = fair_ranking.minimum_targets(k, p, min(got.alpha + 1e-9, 0.999))
    if not np.array_equal(stricter, got.targets):
        assert fair_ranking.failure_probability(stricter, p) > alpha


@st.composite
def pools(draw):
    n = draw(st.integers(4, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    protected = rng.random(n) < 0.4
    return rng.integers(0, 8, n) / 8.0, protected, draw(st.integers(1, n))


@settings(derandomize=True, deadline=None, max_examples=80)
@given(pools(), st.floats(0.05, 0.95))
def test_a_fair_top_k_meets_every_target_and_keeps_the_order_in_each_group(pool, share):
    scores, protected, k = pool
    targets = fair_ranking.proportional_targets(k, share)
    if targets[-1] > protected.sum():
        with pytest.raises(InputError, match="protected in the pool"):
            fair_ranking.fair_top_k(scores, protected, targets)
        return
    ranking = fair_ranking.fair_top_k(scores, protected, targets)
    assert len(set(ranking.tolist())) == k
    assert fair_ranking.first_violation(protected[ranking], targets) is None
    for inside in (True, False):
        members = ranking[protected[ranking] == inside]
        best = np.argsort(-np.where(protected == inside, scores, -1), kind="stable")
        assert members.tolist() == best[: len(members)].tolist()


def test_without_targets_the_order_is_that_of_the_scores():
    scores = np.random.default_rng(0).integers(0, 5, 30) / 5
    protected = np.arange(30) % 3 == 0
    ranking = fair_ranking.fair_top_k(scores, protected, np.zeros(20, dtype=int))
    assert ranking.tolist() == np.argsort(-scores, kind="stable")[:20].tolist()


def test_the_re_ranker_loses_no_more_score_than_it_must():
    """Of all rankings of 7 that meet the targets none has a larger discounted sum of scores."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        scores, protected = rng.random(7), np.arange(7) < 3
        targets = np.array([0, 1, 1, 2])
        weights = 1 / np.log2(np.arange(2, 6))
        ranking = fair_ranking.fair_top_k(scores, protected, targets)
        best = max(
            float(scores[list(order)] @ weights)
            for order in itertools.permutations(range(7), 4)
            if fair_ranking.first_violation(protected[list(order)], targets) is None
        )
        assert scores[ranking] @ weights == pytest.approx(best)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(pools(), st.floats(0, 1))
def test_a_minimum_share_is_met_and_sorted_by_score(pool, share):
    scores, protected, k = pool
    if np.floor(share * k + 1e-9) > protected.sum():
        with pytest.raises(InputError, match="quota"):
            fair_ranking.minimum_share(scores, protected, share, k)
        return
    ranking = fair_ranking.minimum_share(scores, protected, share, k)
    assert len(set(ranking.tolist())) == k
    assert protected[ranking].sum() >= np.floor(share * k)
    assert np.all(np.diff(scores[ranking]) <= 0)


def test_a_share_that_is_met_anyway_changes_nothing():
    scores, protected = np.arange(10)[::-1] / 10, np.arange(10) % 2 == 0
    ranking = fair_ranking.minimum_share(scores, protected, 0.3, 6)
    assert ranking.tolist() == list(range(6))


def test_a_pool_with_too_few_of_a_group_is_filled_from_the_other():
    """All protected, or all others used up: the ranking goes on with whoever is left."""
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    protected = np.array([False, True, True, True])
    assert fair_ranking.fair_top_k(scores, protected, [0, 0, 0, 0]).tolist() == [0, 1, 2, 3]
    assert fair_ranking.minimum_share(scores, ~protected, 0.0, 4).tolist() == [0, 1, 2, 3]


def test_a_violation_is_named_by_its_place():
    targets = fair_ranking.minimum_targets(20, 0.25, 0.1)
    assert fair_ranking.first_violation([False] * 20, targets) == 9
    assert fair_ranking.first_violation([True] * 3 + [False] * 17, targets) is None


def test_a_proportional_target_is_not_lost_to_rounding():
    """.29 of 100 is 29, though 0.29 * 100 is 28.999999999999996."""
    assert fair_ranking.proportional_targets(100, 0.29)[-1] == 29


@pytest.mark.parametrize(
    ("scores", "protected", "targets", "says"),
    [
        ([1.0, np.nan], [True, False], [0], "NaN in 1"),
        ([1.0, 0.5], [True], [0], "must both be"),
        ([1.0, 0.5], [2, 0], [0], "protected holds"),
        ([1.0, 0.5], [True, False], [0, 0, 0], "k = 3"),
        ([1.0, 0.5], [True, False], [0, 2], "protected in the pool"),
        ([1.0, 0.5], [True, True], [2, 2], "for the first i positions"),
        ([1.0, 0.5], [True, True], [1, 0], "not fall"),
    ],
)
def test_a_bad_pool_is_refused(scores, protected, targets, says):
    with pytest.raises(InputError, match=says):
        fair_ranking.fair_top_k(scores, protected, targets)
