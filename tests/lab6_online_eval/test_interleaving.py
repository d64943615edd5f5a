"""Exercise 6.4: team-draft interleaving, its credit and its test."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import interleaving
from labs.lab6_online_eval.world import World


def both(found: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    films, teams = found
    return [int(film) for film in films], [int(team) for team in teams]


@pytest.mark.exercise("6.4")
def test_a_draft_by_hand() -> None:
    """A: 1 2 3 4, B: 2 5 1 6; A begins the first round, B the second.

    A takes 1, B takes 2. B begins and takes 5, A's next is 2, which is taken, so it takes 3.
    """
    found = both(interleaving.team_draft([1, 2, 3, 4], [2, 5, 1, 6], 4, [True, False]))
    assert found == ([1, 2, 5, 3], [0, 1, 1, 0]), (
        f"expected [1, 2, 5, 3], [0, 1, 1, 0], got {found}"
    )


@pytest.mark.exercise("6.4")
def test_a_list_of_odd_length_ends_in_the_middle_of_a_round() -> None:
    """Three places: whoever wins the coin of the second round has two films, the other one."""
    found = both(interleaving.team_draft([1, 2, 3], [4, 5, 6], 3, [True, False]))
    assert found == ([1, 4, 5], [0, 1, 1]), f"expected [1, 4, 5], [0, 1, 1], got {found}"


@pytest.mark.exercise("6.4")
def test_equal_rankers_have_equal_places() -> None:
    """Over all coins each team is at each place equally often: an A/A test cannot be won.

    Without the coin team A has places 1, 3, 5, and position bias makes it the winner.
    """
    ranked = [7, 3, 9, 1]
    draws = [
        both(interleaving.team_draft(ranked, ranked, 4, coins))
        for coins in product([True, False], repeat=2)
    ]
    for films, _ in draws:
        assert films == ranked, f"two equal lists interleave to themselves, {ranked}, got {films}"
    share = np.mean([teams for _, teams in draws], axis=0)
    assert share == pytest.approx([0.5] * 4), f"team B's share of each place {share}, expected .5"


@pytest.mark.exercise("6.4")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 7))
def test_each_team_holds_its_best_films_that_were_free(seed: int, k: int) -> None:
    """No film twice, k in all, teams equal but for a last odd one, and who begins is the coin's."""
    rng = np.random.default_rng(seed)
    a, b = (rng.permutation(9)[:7].tolist() for _ in range(2))
    coins = (rng.random((k + 1) // 2) < 0.5).tolist()
    films, teams = both(interleaving.team_draft(a, b, k, coins))
    assert len(films) == len(teams) == k, f"{len(films)} films and {len(teams)} teams, expected {k}"
    assert len(set(films)) == k, f"a film twice in {films}"
    for place in range(k):
        expected = (0 if coins[place // 2] else 1) ^ (place % 2)
        assert teams[place] == expected, f"place {place}: team {teams[place]}, expected {expected}"
        ranked = (a, b)[teams[place]]
        free = next(film for film in ranked if film not in films[:place])
        assert films[place] == free, f"place {place}: film {films[place]}, best free is {free}"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 8))
def test_many_sessions_at_once_are_the_same_drafts(seed: int, k: int) -> None:
    """The vectorised form, coin for coin (against a plain loop, so it stands without 6.4)."""
    rng = np.random.default_rng(seed)
    a, b = (np.argsort(rng.random((6, 10)), axis=1)[:, :k] for _ in range(2))
    coins = interleaving.coins(6, k, rng)
    films, teams = interleaving.team_draft_many(a, b, coins)
    for row in range(6):
        chosen: list[int] = []
        for place in range(k):
            team = (0 if coins[row, place // 2] else 1) ^ (place % 2)
            chosen.append(next(int(f) for f in (a, b)[team][row] if f not in chosen))
            assert teams[row, place] == team
        assert films[row].tolist() == chosen


def test_balanced_interleaving_prefers_one_of_two_rankers_under_random_clicks() -> None:
    """Its known bias, exactly: A is 1 2 3, B is 2 3 1, one click at random on any film.

    Nothing distinguishes the rankers, and B wins two thirds of the sessions. Team-draft: half.
    """
    a, b = [1, 2, 3], [2, 3, 1]
    balanced, drafted = [], []
    for coin in (True, False):
        films = interleaving.balanced_interleaving(a, b, 3, coin)
        for place in range(3):
            clicked = [place == other for other in range(3)]
            balanced.append(interleaving.balanced_credit(films, clicked, a, b))
    clicks = np.eye(3, dtype=bool)
    for coins in product([True, False], repeat=2):
        lists = np.array([a]), np.array([b])
        _, teams = interleaving.team_draft_many(*lists, np.array([coins]))
        drafted.extend(interleaving.credit(clicks, np.repeat(teams, 3, axis=0)))
    assert np.mean(np.array(balanced) > 0) == pytest.approx(2 / 3)
    assert np.mean(np.array(drafted) > 0) == pytest.approx(1 / 2)


def test_credit_is_b_less_a() -> None:
    clicks = np.array([[True, True, False], [False, False, False]])
    teams = np.array([[1, 1, 0], [0, 1, 0]], dtype=np.int8)
    assert interleaving.credit(clicks, teams).tolist() == [2.0, 0.0]
    assert interleaving.balanced_credit([1, 2], [False, False], [1, 2], [2, 1]) == 0


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_test_is_that_of_scipy_over_users(seed: int) -> None:
    """One mean a user, then a t-test and an exact sign test: scipy's, to 1e-9."""
    from scipy.stats import binomtest, ttest_1samp

    rng = np.random.default_rng(seed)
    unit = rng.integers(0, 30, 200)
    credits = rng.integers(-2, 3, 200).astype(float)
    found = interleaving.compare_interleaved(unit, credits)
    means = np.array([credits[unit == user].mean() for user in np.unique(unit)])
    theirs = ttest_1samp(means, 0.0)
    interval = theirs.confidence_interval(0.95)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert found.ci95 == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.n_users == len(means)
    won, decided = int((means > 0).sum()), int((means != 0).sum())
    assert (found.wins_b, found.ties) == (won, len(means) - decided)
    assert found.sign_p == pytest.approx(binomtest(won, decided).pvalue, abs=1e-12)


def test_the_better_ranker_is_preferred_in_a_simulated_experiment() -> None:
    """Best-first against worst-first of the same films, 200 users with ten sessions each."""
    rng = np.random.default_rng(0)
    world = World(
        rng.uniform(0, 0.8, (200, 20)), np.zeros(20), np.ones(200), np.zeros((200, 20), dtype=bool)
    )
    order = np.argsort(-world.click, axis=1)
    people = np.repeat(np.arange(200), 10)
    clicks, teams = interleaving.run_interleaved(world, order[:, -5:], order[:, :5], people, rng)
    found = interleaving.compare_interleaved(people, interleaving.credit(clicks, teams))
    assert found.effect > 0
    assert found.p < 1e-6
    assert found.n_sessions == 2000


@pytest.mark.parametrize(
    ("unit", "credits", "message"),
    [
        ([0, 1], [0.0, 0.0], "variance of the credit = 0.0 must be above 0"),
        ([0, 0], [0.0, 1.0], "users = 1 must be at least 2"),
        ([0, 1], [0.0, np.nan], "credits that are not finite = 1"),
        ([0, 1, 2], [0.0, 1.0], "shape of unit"),
    ],
)
def test_experiments_that_prove_nothing_are_refused(unit, credits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interleaving.compare_interleaved(np.array(unit), np.array(credits))


@pytest.mark.parametrize(
    ("a", "b", "coins", "message"),
    [
        ([1, 1, 2], [1, 2, 3], [True, True], "lists of a that hold a film twice = 1"),
        ([1, 2, 3], [1, 2], [True, True], "films of b = 2 must be at least 3"),
        ([1, 2, 3], [1, 2, 3], [True], "shape of a_first"),
    ],
)
def test_lists_that_cannot_be_drafted_are_refused(a, b, coins, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interleaving.team_draft(a, b, 3, coins)
