"""Exercise 6.20, linear Thompson sampling, late rewards, and the running inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import contextual_bandits

RNG = np.random.default_rng(0)


def fresh(runs: int, arms: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.eye(d), (runs, arms, 1, 1)), np.zeros((runs, arms, d))


def regression(contexts: np.ndarray, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    d = contexts.shape[1]
    return np.linalg.inv(np.eye(d) + contexts.T @ contexts), contexts.T @ rewards


@pytest.mark.exercise("6.20")
def test_the_running_inverse_and_response_are_those_of_all_rows_so_far() -> None:
    """After 40 updates each arm's ``A^-1`` is ``(I + X'X)^-1`` of the rows in which it was played.

    An arm that was not played keeps what it had: its rows were not seen.
    """
    rng = np.random.default_rng(1)
    inverse, response = fresh(4, 3, 5)
    rows, actions, rewards = rng.standard_normal((40, 4, 5)), rng.integers(0, 2, (40, 4)), []
    policy = contextual_bandits.LinUcb(1.0)
    for context, action in zip(rows, actions, strict=True):
        rewards.append(rng.standard_normal(4))
        policy.update(inverse, response, context, action, rewards[-1])
    reward = np.array(rewards)
    for run in range(4):
        for arm in range(3):
            mine = actions[:, run] == arm
            want = regression(rows[mine, run], reward[mine, run])
            gap = float(np.abs(inverse[run, arm] - want[0]).max())
            assert gap < 1e-9, f"run {run}, arm {arm}: A^-1 is off by {gap}"
            assert response[run, arm] == pytest.approx(want[1]), (
                f"run {run}, arm {arm}: expected b = {want[1]}, got {response[run, arm]}"
            )


@pytest.mark.exercise("6.20")
def test_the_bound_is_the_prediction_plus_alpha_standard_deviations() -> None:
    """Compared with the plain formula ``x' A^-1 b + alpha sqrt(x' A^-1 x)`` on random regressions.

    Without the square root, or with A in place of its inverse, other arms win.
    """
    rng = np.random.default_rng(2)
    runs, arms, d, alpha = 300, 4, 3, 1.3
    inverse, response = fresh(runs, arms, d)
    context = rng.standard_normal((runs, d))
    expected = np.empty(runs, dtype=int)
    for run in range(runs):
        bounds = []
        for arm in range(arms):
            n = int(rng.integers(1, 30))
            rows, rewards = rng.standard_normal((n, d)), rng.standard_normal(n)
            inverse[run, arm], response[run, arm] = regression(rows, rewards)
            x = context[run]
            width = np.sqrt(x @ inverse[run, arm] @ x)
            bounds.append(x @ inverse[run, arm] @ response[run, arm] + alpha * width)
        expected[run] = int(np.argmax(bounds))
    got = contextual_bandits.LinUcb(alpha).choose(inverse, response, context, RNG)
    wrong = int((got != expected).sum())
    assert wrong == 0, f"expected the arm of the largest bound in {runs} runs, {wrong} differ"


@pytest.mark.exercise("6.20")
def test_of_two_arms_that_predict_the_same_the_less_known_is_tried() -> None:
    """Arm 0 has ten rows at this context, arm 1 none, both predict 0: optimism plays arm 1."""
    inverse, response = fresh(1, 2, 2)
    rows = np.tile([1.0, 0.0], (10, 1))
    inverse[0, 0] = regression(rows, np.zeros(10))[0]
    context = np.array([[1.0, 0.0]])
    arm = int(contextual_bandits.LinUcb(0.5).choose(inverse, response, context, RNG)[0])
    assert arm == 1, f"expected the unknown arm 1, got {arm}"


@pytest.mark.exercise("6.20")
def test_the_best_arm_is_learned_to_depend_on_the_context() -> None:
    """Arm 0 pays the first coordinate, arm 1 its opposite: after 200 rounds both are known.

    A policy that cannot use the context earns 0 a round; the best one 0.8.
    """
    rng = np.random.default_rng(3)
    inverse, response = fresh(50, 2, 2)
    policy, run, earned = contextual_bandits.LinUcb(1.0), np.arange(50), 0.0
    for t in range(300):
        context = np.stack([rng.standard_normal(50), np.ones(50)], axis=1)
        pays = np.stack([context[:, 0], -context[:, 0]], axis=1)
        action = policy.choose(inverse, response, context, rng)
        mean = pays[run, action]
        policy.update(inverse, response, context, action, mean + 0.5 * rng.standard_normal(50))
        earned += float(mean.mean()) / 100 if t >= 200 else 0.0
    assert earned > 0.75, f"expected nearly 0.8 a round at the end, got {earned:.3f}"


def test_linear_thompson_plays_an_arm_as_often_as_it_is_the_best_in_the_posterior() -> None:
    """Only ``x' theta`` is drawn; against draws of the whole theta the shares are the same."""
    rng = np.random.default_rng(4)
    n, arms, d = 20_000, 3, 4
    known = [regression(rng.standard_normal((6, d)), rng.standard_normal(6)) for _ in range(arms)]
    x = rng.standard_normal(d)
    inverse = np.tile(np.array([a for a, _ in known]), (n, 1, 1, 1))
    response = np.tile(np.array([b for _, b in known]), (n, 1, 1))
    context = np.tile(x, (n, 1))
    got = contextual_bandits.LinThompson(0.7).choose(inverse, response, context, rng)
    whole = np.stack(
        [rng.multivariate_normal(a @ b, 0.49 * a, n) @ x for a, b in known], axis=1
    ).argmax(axis=1)
    shares = np.bincount(got, minlength=arms) / n, np.bincount(whole, minlength=arms) / n
    assert shares[0] == pytest.approx(shares[1], abs=0.015), shares


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 40))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_sherman_morrison_is_the_plain_inverse(seed: int, d: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    inverse, response = fresh(1, 2, d)
    rows = rng.standard_normal((n, d))
    for row in rows:
        contextual_bandits.LinThompson(1.0).update(
            inverse, response, row[None], np.array([1]), np.ones(1)
        )
    assert inverse[0, 1] == pytest.approx(contextual_bandits.inverse_by_definition(rows), abs=1e-9)
    assert np.array_equal(inverse[0, 0], np.eye(d))


def test_the_context_is_worth_more_than_any_cleverness_without_it() -> None:
    """Ignoring the context the regret is linear: the best arm on average is wrong for most."""
    world = contextual_bandits.linear_world()
    with_it = contextual_bandits.play_contextual(
        contextual_bandits.LinUcb(0.5), world, 600, 20, seed=5
    )
    without = contextual_bandits.play_contextual(
        contextual_bandits.IgnoringContext(0.5), world, 600, 20, seed=5
    )
    assert without.mean[-1] > 4 * with_it.mean[-1], (without.mean[-1], with_it.mean[-1])
    assert with_it.pulls.sum(axis=1).tolist() == [600.0] * 20


def test_late_rewards_cost_linucb_more_than_linear_thompson() -> None:
    """A policy without randomness repeats itself until news comes in; drawn choices spread."""
    world = contextual_bandits.linear_world()
    late = {
        name: contextual_bandits.play_contextual(policy, world, 600, 20, seed=6, delay=100).mean[-1]
        for name, policy in (
            ("linucb", contextual_bandits.LinUcb(0.5)),
            ("thompson", contextual_bandits.LinThompson(0.5)),
        )
    }
    assert late["linucb"] > 1.3 * late["thompson"], late


def test_a_delay_and_a_batch_hold_back_what_they_say() -> None:
    """With a delay of all rounds nothing is learned: the policy plays like one without updates."""
    world = contextual_bandits.linear_world(noise=0.1)
    blind = contextual_bandits.play_contextual(
        contextual_bandits.LinUcb(0.0), world, 50, 5, seed=7, delay=50
    )
    assert blind.pulls[:, 0].tolist() == [50.0] * 5, "a greedy policy without news keeps arm 0"
    batched = contextual_bandits.play_contextual(
        contextual_bandits.LinUcb(0.0), world, 50, 5, seed=7, batch=50
    )
    assert batched.pulls[:, 0].tolist() == [50.0] * 5


def test_impossible_games_are_refused() -> None:
    world = contextual_bandits.linear_world()
    policy = contextual_bandits.LinUcb(1.0)
    with pytest.raises(ValueError, match="delay = -1"):
        contextual_bandits.play_contextual(policy, world, 10, 2, seed=0, delay=-1)
    with pytest.raises(ValueError, match="batch = 0"):
        contextual_bandits.play_contextual(policy, world, 10, 2, seed=0, batch=0)
    with pytest.raises(ValueError, match="an interval needs more than one"):
        contextual_bandits.play_contextual(policy, world, 10, 1, seed=0)
    with pytest.raises(ValueError, match="arms = 1"):
        contextual_bandits.linear_world(arms=1)
