"""Exercise 6.19, the other bandits, and their regret against theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import bandits, regret
from labs.lab6_online_eval.bandits import DecayingEpsilonGreedy, EpsilonGreedy, KlUcb, Ucb1, play

MEANS = (0.6, 0.4, 0.2)


def chosen_shares(wins: list[float], losses: list[float], runs: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    tile = np.tile(np.array(wins), (runs, 1)), np.tile(np.array(losses), (runs, 1))
    action = bandits.ThompsonSampling().choose(*tile, 1, rng)
    return np.bincount(action, minlength=len(wins)) / runs


@pytest.mark.exercise("6.19")
def test_an_arm_is_played_as_often_as_it_is_the_best_in_the_posterior() -> None:
    """Arm 1 won 3 of 5, arm 0 won 1 of 2: Beta(4, 3) beats Beta(2, 2) with probability 0.5952.

    The share is the exploration. Playing the largest posterior mean instead gives 1, and an unlucky
    start is never put right; wins and losses exchanged gives 0.4048.
    """
    # P(Beta(4, 3) > Beta(2, 2)) = 25 / 42, by integration of the polynomials
    share = float(chosen_shares([1.0, 3.0], [1.0, 2.0])[1])
    assert share == pytest.approx(25 / 42, abs=0.012), f"expected arm 1 in 59.5 %, got {share:.1%}"


@pytest.mark.exercise("6.19")
def test_every_run_draws_for_itself() -> None:
    """Two unknown arms: each run throws its own coin, so that about half play either arm.

    One draw for all runs makes them copies of one another, and the interval of a regret curve a
    fiction.
    """
    share = float(chosen_shares([0.0, 0.0], [0.0, 0.0], runs=2000)[1])
    assert 0.45 < share < 0.55, f"expected about half of the runs on arm 1, got {share:.1%}"


@pytest.mark.exercise("6.19")
def test_the_update_enters_one_reward_for_the_arm_that_was_played() -> None:
    """A win raises the wins of the played arm, a loss its losses, and nothing else moves.

    Without the losses no arm ever looks bad; with all arms raised no arm ever looks better.
    """
    wins, losses = np.zeros((3, 2)), np.zeros((3, 2))
    action, reward = np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0])
    bandits.ThompsonSampling().update(wins, losses, action, reward)
    expected_wins, expected_losses = [[1, 0], [0, 0], [0, 1]], [[0, 0], [0, 1], [0, 0]]
    assert wins.tolist() == expected_wins, f"expected wins {expected_wins}, got {wins.tolist()}"
    assert losses.tolist() == expected_losses, (
        f"expected losses {expected_losses}, got {losses.tolist()}"
    )


@pytest.mark.exercise("6.19")
def test_it_finds_the_best_of_three_arms_and_hardly_plays_the_worst() -> None:
    """Means 0.6, 0.4, 0.2: over 400 rounds, four in five are the best arm's, regret about 15."""
    rng = np.random.default_rng(1)
    policy, means = bandits.ThompsonSampling(), np.array(MEANS)
    wins, losses = np.zeros((200, 3)), np.zeros((200, 3))
    for t in range(1, 401):
        action = policy.choose(wins, losses, t, rng)
        policy.update(wins, losses, action, (rng.random(200) < means[action]).astype(float))
    share = (wins + losses).mean(axis=0) / 400
    assert share[0] > 0.8, f"expected the best arm in over 80 % of the rounds, got {share[0]:.1%}"
    assert share[2] < 0.06, f"expected the worst arm in under 6 %, got {share[2]:.1%}"
    lost = float(share @ (0.6 - means)) * 400
    assert 8 < lost < 22, f"expected a regret near 15, got {lost:.1f}"


def test_thompson_by_hand_and_in_the_loop_are_the_same_runs() -> None:
    """`play` adds nothing of its own to a policy: its pulls add up, and its rewards are 0 or 1."""
    played = play(bandits.ThompsonSampling(), MEANS, 300, 50, seed=2)
    assert played.pulls.sum(axis=1).tolist() == [300.0] * 50
    gap = max(MEANS) - np.array(MEANS)
    assert played.regret[:, -1] == pytest.approx(played.pulls @ gap)
    again = play(bandits.ThompsonSampling(), MEANS, 300, 50, seed=2)
    assert np.array_equal(played.regret, again.regret)


def test_rewards_that_come_in_batches_freeze_ucb_but_not_thompson() -> None:
    """Between two batches UCB1 repeats one arm; Thompson's draws still spread over all of them."""
    batch = 50
    regrets = {
        name: float(play(policy, MEANS, 1000, 60, seed=3, batch=batch).mean[-1])
        for name, policy in (("ucb1", Ucb1()), ("thompson", bandits.ThompsonSampling()))
    }
    at_once = float(play(bandits.ThompsonSampling(), MEANS, 1000, 60, seed=3).mean[-1])
    assert regrets["thompson"] < 2.5 * at_once, f"{regrets} against {at_once:.1f} at once"
    assert regrets["ucb1"] > 1.5 * regrets["thompson"], f"batches of {batch}: {regrets}"


def test_ucb1_stays_under_the_bound_of_its_theorem_at_every_round() -> None:
    """Auer et al. (2002), theorem 1: it holds for every T, so for every point of the curve."""
    played = play(Ucb1(), MEANS, 2000, 40, seed=4)
    bound = regret.ucb1_bound(MEANS, played.rounds)
    assert bool((played.mean + played.half_width <= bound).all()), (played.mean - bound).max()


def test_the_bound_and_the_constant_by_hand() -> None:
    """Two arms 0.5 and 0.25 at T = e^2: 8 * 2 / 0.25 + (1 + pi^2 / 3) / 4 = 65.0725.

    Lai-Robbins: 0.25 / kl(0.25, 0.5), and kl = 0.25 ln 0.5 + 0.75 ln 1.5 = 0.130812.
    """
    assert float(regret.ucb1_bound((0.5, 0.25), np.exp(2.0))) == pytest.approx(65.072467)
    kl = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert regret.lai_robbins_constant((0.5, 0.25)) == pytest.approx(0.25 / kl)
    assert regret.lai_robbins_constant((0.5, 0.5)) == 0.0


def test_regret_grows_with_the_logarithm_for_kl_ucb_and_linearly_for_epsilon_greedy() -> None:
    """From round 1,000 to 4,000 epsilon-greedy pays epsilon times the mean gap a round, for ever.

    KL-UCB pays about the same for each doubling: its slope in ln t is of the size of the
    Lai-Robbins constant, 3.66.
    """
    greedy = play(EpsilonGreedy(0.2), MEANS, 4000, 60, seed=5)
    late = greedy.rounds >= 1000
    rate = np.polyfit(greedy.rounds[late], greedy.mean[late], 1)[0]
    assert rate == pytest.approx(0.2 * 0.2, rel=0.15), f"expected 0.04 a round, got {rate:.4f}"
    fit = regret.log_fit(play(KlUcb(), MEANS, 4000, 40, seed=5))
    constant = regret.lai_robbins_constant(MEANS)
    assert 0.7 * constant < fit.slope < 2.5 * constant, f"slope {fit.slope}, constant {constant}"
    assert fit.low < fit.slope < fit.high


def test_a_decaying_epsilon_explores_less_and_less() -> None:
    played = play(DecayingEpsilonGreedy(0.2, c=1.0), MEANS, 4000, 40, seed=6)
    half = np.searchsorted(played.rounds, 2000)
    assert played.mean[-1] - played.mean[half] < 0.4 * played.mean[half], played.mean[[half, -1]]


def test_an_ab_test_pays_until_it_commits_and_then_for_its_errors() -> None:
    """100 rounds an arm cost exactly 100 * (0.2 + 0.4); after that the right arm costs nothing."""
    played = regret.ab_then_commit(MEANS, 100, 10_000, 200, seed=7)
    during = played.rounds <= 300
    assert played.mean[during] == pytest.approx(played.rounds[during] * 0.2)
    right = played.pulls[:, 0] > 5000
    assert right.mean() > 0.97
    assert played.regret[right, -1] == pytest.approx(60.0)
    short = regret.ab_then_commit(MEANS, 5, 10_000, 400, seed=7)
    assert short.mean[-1] > 3 * played.mean[-1], "five rounds an arm often pick the wrong one"


@given(p=st.floats(0, 1), budget=st.floats(1e-6, 3))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_the_kl_bound_is_where_the_divergence_meets_the_budget(p: float, budget: float) -> None:
    """And never beyond Pinsker's distance, which UCB1 uses: that is what KL-UCB saves."""
    mean, limit = np.array([[p]]), np.array([[budget]])
    q = float(bandits.kl_upper(mean, limit, halvings=50)[0, 0])
    found = float(bandits.kl_bernoulli(np.array(p), np.array(q)))
    assert p <= q <= min(1.0, p + np.sqrt(budget / 2) + 1e-9)
    assert found == pytest.approx(budget, rel=1e-5) or q >= 1 - 1e-9


@pytest.mark.parametrize(
    ("means", "rounds", "runs", "message"),
    [
        ((0.5,), 10, 5, "must be at least 2"),
        ((0.5, 1.5), 10, 5, "use probabilities"),
        ((0.5, float("nan")), 10, 5, "use probabilities"),
        ((0.5, 0.4), 1, 5, "one an arm"),
        ((0.5, 0.4), 10, 1, "an interval needs more than one"),
    ],
)
def test_an_impossible_game_is_refused(
    means: tuple[float, ...], rounds: int, runs: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        play(Ucb1(), means, rounds, runs, seed=0)


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilon = 1\.5"):
        EpsilonGreedy(1.5)
    with pytest.raises(ValueError, match="gap = 0"):
        DecayingEpsilonGreedy(0)
