import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import ranking_comparison, ranking_fairness


@pytest.fixture(scope="module")
def pool():
    return ranking_comparison.german_credit_pool(load("german").table("applicants"))


@pytest.fixture(scope="module")
def outcomes(pool):
    found = ranking_comparison.compare_rankings(pool, k=100, n_boot=60, n_permutations=400)
    return {outcome.rule: outcome for outcome in found}


def test_the_first_place_has_weight_one_and_the_third_half():
    assert ranking_fairness.position_weights(3) == pytest.approx([1, 1 / np.log2(3), 0.5])


def test_whoever_is_not_shown_has_no_exposure():
    seen = ranking_fairness.exposure([3, 0], 5)
    assert seen == pytest.approx([1 / np.log2(3), 0, 0, 1, 0])


def test_the_jobs_example_of_singh_and_joachims():
    """Three men at .82, .81, .80 above three women at .79, .78, .77.

    A difference of .03 in merit becomes one of .32 in exposure: .71 against .39.
    """
    relevance = [0.82, 0.81, 0.80, 0.79, 0.78, 0.77]
    report = ranking_fairness.group_exposure(range(6), relevance, list("mmmwww"))
    table = report.by_group
    assert table.loc["m", "exposure"] == pytest.approx(0.71, abs=0.005)
    assert table.loc["w", "exposure"] == pytest.approx(0.39, abs=0.005)
    assert table.loc["m", "relevance"] - table.loc["w", "relevance"] == pytest.approx(0.03)
    men, women = (np.mean([1 / np.log2(1 + r) for r in ranks]) for ranks in ([1, 2, 3], [4, 5, 6]))
    assert report.treatment_ratio == pytest.approx((women / 0.78) / (men / 0.81))
    assert report.demographic_parity_ratio == pytest.approx(women / men)


def test_impact_counts_what_is_seen_and_relevant():
    """A group whose relevant member is not shown has exposure, and no impact."""
    report = ranking_fairness.group_exposure([0, 2], [1.0, 0.0, 0.0, 1.0], list("aabb"))
    assert report.by_group.loc["b", "exposure"] > 0
    assert report.impact_ratio == 0
    assert report.treatment_ratio == pytest.approx(1 / np.log2(3))


def test_a_group_without_relevance_has_no_exposure_per_relevance():
    report = ranking_fairness.group_exposure([0, 1], [1, 0, 0], list("abb"))
    assert report.undefined == ("b",)
    assert np.isnan(report.treatment_ratio)
    assert np.isnan(report.by_group.loc["b", "per_relevance"])
    assert report.demographic_parity_ratio == pytest.approx(1 / np.log2(3) / 2)


def test_the_exposure_gap_of_random_places_is_within_its_null():
    """At 5 % about 5 of 100 random rankings are called unfair, not most of them."""
    groups = np.repeat(["a", "b", "c"], [20, 20, 10])
    rng = np.random.default_rng(0)
    rejected = sum(
        ranking_fairness.exposure_disparity(
            rng.permutation(50), groups, n_boot=1, n_permutations=99, seed=seed
        ).p_value
        <= 0.05
        for seed in range(60)
    )
    assert rejected <= 9


def test_a_ranking_with_one_group_on_top_is_found():
    groups = np.repeat(["a", "b"], 50)
    got = ranking_fairness.exposure_disparity(np.arange(100), groups, n_boot=100)
    assert (got.lowest, got.highest) == ("b", "a")
    assert got.p_value < 0.01


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_ndcg_equals_scikit_learns(seed, k):
    """The same number, user by user, for relevances of any grade."""
    rng = np.random.default_rng(seed)
    relevance = rng.integers(0, 4, (3, 12)).astype(float)
    relevance[:, 0] += 1
    scores = rng.random((3, 12))
    ranked = np.take_along_axis(relevance, np.argsort(-scores, axis=1), axis=1)
    got = ranking_fairness.ndcg(ranked, k)
    expected = [ndcg_score(relevance[[row]], scores[[row]], k=k) for row in range(3)]
    assert got == pytest.approx(expected, abs=1e-12)


def test_the_ideal_counts_relevant_items_that_were_not_shown():
    """One of two relevant items shown, at the top: NDCG@2 is 1 / (1 + 1/log2 3), not 1."""
    got = ranking_fairness.ndcg([[1, 0]], 2, judged=[[0, 1, 1, 0]])
    assert got == pytest.approx([1 / (1 + 1 / np.log2(3))])


def test_a_user_without_a_relevant_item_has_no_ndcg_and_is_counted():
    values = ranking_fairness.ndcg([[0, 0], [1, 0], [0, 1], [1, 1]], 2)
    assert np.isnan(values[0])
    report = ranking_fairness.ndcg_by_group(values, list("abab"), n_boot=100, n_permutations=99)
    assert report.left_out == {"a": 1, "b": 0}
    assert report.report.group("ndcg", "a").n == 1


def test_the_ndcg_gap_is_found_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    groups = np.repeat(["f", "m"], [150, 350])
    values = np.clip(rng.normal(0.6 - 0.1 * (groups == "f"), 0.2), 0, 1)
    gap = ranking_fairness.ndcg_by_group(values, groups, n_boot=300, n_permutations=199).gap
    assert (gap.lowest, gap.highest) == ("f", "m")
    assert gap.difference_ci95[0] < gap.difference < gap.difference_ci95[1]
    assert gap.difference == pytest.approx(
        values[groups == "m"].mean() - values[groups == "f"].mean()
    )
    assert gap.p_value <= 0.01


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ranking_fairness.exposure([0, 0], 3), "twice"),
        (lambda: ranking_fairness.exposure([0, 5], 3), "0 to 2"),
        (lambda: ranking_fairness.exposure([0.5], 3), "row number"),
        (lambda: ranking_fairness.group_exposure([0], [1, -1], list("ab")), ">= 0"),
        (lambda: ranking_fairness.group_exposure([0], [1, np.nan], list("ab")), "not NaN"),
        (lambda: ranking_fairness.group_exposure([0], [1, 1], list("aa")), "only the group"),
        (lambda: ranking_fairness.group_exposure([0], [1, 1], list("abb")), "3 rows"),
        (lambda: ranking_fairness.ndcg([[1, 0]], 3), "k = 3"),
        (lambda: ranking_fairness.ndcg([[1, 1]], 2, judged=[[1, 0]]), "judge all shown"),
        (lambda: ranking_fairness.ndcg([1, 0], 1), "must be"),
        (lambda: ranking_fairness.ndcg_by_group([0.5, np.nan], list("ab")), "group 'b'"),
        (lambda: ranking_fairness.ndcg_by_group([0.5, 1.5], list("ab")), "0 to 1"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_the_young_are_ranked_low_and_every_rule_shows_them_more(pool, outcomes):
    """190 of 1,000 applicants are 25 or younger and hold 9 of the first 100 places."""
    assert (len(pool.scores), int(pool.protected.sum())) == (1000, 190)
    assert outcomes["by score"].share == pytest.approx(0.09)
    ratios = [outcome.exposure_ratio for outcome in outcomes.values()]
    assert ratios[0] == min(ratios)
    assert outcomes["by score"].exposure_ratio < outcomes["by score"].null_low
    assert outcomes["by score"].ndcg_price == 0


def test_the_same_share_of_the_top_can_have_different_exposure(outcomes):
    """19 of 100 places each way; at the end of the list they are seen by a quarter less."""
    quota, prefix = outcomes["share of the top k"], outcomes["share of every prefix"]
    assert quota.share == prefix.share == pytest.approx(0.19)
    assert quota.exposure_ratio < 0.8 < prefix.exposure_ratio


def test_targets_hold_in_the_rankings_of_the_comparison(pool, outcomes):
    from labs.lab3_fairness.fair_ranking import adjust_alpha, first_violation

    targets = adjust_alpha(100, 0.19, 0.1).targets
    inside = pool.protected
    assert first_violation(inside[outcomes["by score"].ranking], targets) is not None
    for rule in ("FA*IR", "share of every prefix"):
        assert first_violation(inside[outcomes[rule].ranking], targets) is None


def test_every_outcome_has_intervals_around_it(outcomes):
    for outcome in outcomes.values():
        for interval, value in (
            (outcome.exposure_ratio_ci95, outcome.exposure_ratio),
            (outcome.merit_ratio_ci95, outcome.merit_ratio),
            (outcome.ndcg_ci95, outcome.ndcg),
            (outcome.ndcg_price_ci95, outcome.ndcg_price),
        ):
            assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9, outcome.rule


def test_a_pool_without_one_of_the_groups_is_refused(pool):
    alone = ranking_comparison.Pool(pool.scores, pool.relevance, pool.protected & False)
    with pytest.raises(InputError, match="protected candidates = 0"):
        ranking_comparison.compare_rankings(alone, k=10)
    with pytest.raises(InputError, match="k = 2000"):
        ranking_comparison.compare_rankings(pool, k=2000)
