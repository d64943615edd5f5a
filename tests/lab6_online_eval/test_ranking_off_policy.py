"""Exercise 6.3: off-policy estimates of another ranker's clicks."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import ranking_off_policy
from labs.lab6_online_eval.plackett_luce import log_lists, plackett_luce
from labs.lab6_online_eval.world import World

K = 3
CHANCE = np.array([[0.5, 0.3, 0.2], [0.2, 0.4, 0.3]])
"""Click probability of two films at each of three places, when shown there."""


def coin_log(n: int, seed: int, p: float = 0.25):
    """At each place the log shows film 1 with probability p, else film 0; the new ranker always
    shows film 1. Returns clicks, logged, target, true chance of the shown and of the new film."""
    rng = np.random.default_rng(seed)
    film = (rng.random((n, K)) < p).astype(int)
    chance = CHANCE[film, np.arange(K)]
    clicks = (rng.random((n, K)) < chance).astype(float)
    logged = np.where(film == 1, p, 1 - p)
    return clicks, logged, (film == 1).astype(float), chance, np.tile(CHANCE[1], (n, 1))


@pytest.mark.exercise("6.3")
def test_a_session_by_hand() -> None:
    """Two places; the rankers agree on the first only, which the log shows half of the time.

    Prediction for the new list 0.4 + 0.1. At the first place a click was predicted with 0.4 and
    came: 0.6 too little, seen in one session of two, so 1.2. The second place says nothing.
    """
    found = ranking_off_policy.doubly_robust(
        np.array([[1.0, 1.0]]),
        np.array([[0.5, 0.2]]),
        np.array([[1.0, 0.0]]),
        np.array([[0.4, 0.3]]),
        np.array([[0.4, 0.1]]),
    )
    assert np.shape(found) == (1,), f"shape {np.shape(found)}, expected one term a session, (1,)"
    assert found[0] == pytest.approx(1.7), f"expected 0.5 + 1.2 = 1.7, got {found[0]}"


@pytest.mark.exercise("6.3")
def test_a_wrong_model_does_not_bias_it() -> None:
    """The model says 0.9 for everything, the truth is 0.2, 0.4 and 0.3: the log corrects it."""
    clicks, logged, target, _, _ = coin_log(60_000, seed=0)
    wrong = np.full_like(clicks, 0.9)
    found = np.mean(ranking_off_policy.doubly_robust(clicks, logged, target, wrong, wrong))
    assert found == pytest.approx(0.9, abs=0.03), f"expected 0.9 clicks a session, got {found:.3f}"


@pytest.mark.exercise("6.3")
def test_a_right_model_survives_wrong_propensities() -> None:
    """The other half of "doubly": propensities half of what they were, and the model is right."""
    clicks, logged, target, shown, new = coin_log(60_000, seed=1)
    found = np.mean(ranking_off_policy.doubly_robust(clicks, logged / 2, target, shown, new))
    assert found == pytest.approx(0.9, abs=0.03), f"expected 0.9 clicks a session, got {found:.3f}"


@pytest.mark.exercise("6.3")
def test_a_stochastic_new_ranker_is_weighted_by_its_own_probability() -> None:
    """q need not be 0 or 1: a new ranker that shows film 1 half of the time at every place."""
    clicks, logged, target, shown, _ = coin_log(60_000, seed=2)
    mean = np.tile(CHANCE.mean(axis=0), (len(clicks), 1))
    half = np.full_like(target, 0.5)
    model = 0.5 * shown
    found = np.mean(ranking_off_policy.doubly_robust(clicks, logged, half, model, 0.5 * mean))
    expected = CHANCE.mean(axis=0).sum()
    assert found == pytest.approx(expected, abs=0.02), f"expected {expected:.3f}, got {found:.3f}"


@pytest.mark.exercise("6.3")
def test_the_logging_ranker_itself_is_its_mean_clicks() -> None:
    """With q = p every weight is 1: prediction in, prediction out, and the clicks are left."""
    clicks, logged, _, shown, _ = coin_log(50, seed=3)
    found = ranking_off_policy.doubly_robust(clicks, logged, logged, shown, shown)
    worst = float(np.abs(found - clicks.sum(axis=1)).max())
    assert worst < 1e-9, f"differs from the clicks of the session by {worst}"


def test_ips_and_its_normalised_form_find_the_truth() -> None:
    clicks, logged, target, _, _ = coin_log(60_000, seed=4)
    ips = ranking_off_policy.item_position_ips(clicks, logged, target)
    snips = ranking_off_policy.self_normalised_ips(clicks, logged, target)
    by_hand = sum(clicks[target[:, j] == 1, j].mean() for j in range(K))
    assert ips.mean() == pytest.approx(0.9, abs=0.03)
    assert snips.mean() == pytest.approx(by_hand)
    assert snips.std() < ips.std()


def test_the_interval_of_ips_holds_the_truth_nineteen_times_in_twenty() -> None:
    """Two hundred logs of 500 sessions."""
    held = 0
    for seed in range(200):
        clicks, logged, target, _, _ = coin_log(500, seed)
        terms = ranking_off_policy.self_normalised_ips(clicks, logged, target)
        half = 1.96 * terms.std(ddof=1) / np.sqrt(500)
        held += abs(terms.mean() - 0.9) < half
    assert 180 <= held <= 199, f"held the truth in {held} of 200"


def test_effective_sample_size_counts_the_sessions_that_agree() -> None:
    """Equal weights in 30 of 100 sessions are worth 30; one weight of 100 is worth one."""
    weights = np.zeros((100, 2))
    weights[:30, 0], weights[:, 1] = 7.0, 1.0
    assert ranking_off_policy.effective_sample_size(weights) == pytest.approx(30)
    weights[0, 1] = 1e9
    assert ranking_off_policy.effective_sample_size(weights) == pytest.approx(1, abs=1e-3)
    assert ranking_off_policy.effective_sample_size(np.zeros((3, 2))) == 0


@pytest.fixture(scope="module")
def logged():
    """Forty users, thirty films; the log covers each user's best twelve by noisy scores."""
    rng = np.random.default_rng(0)
    appeal = rng.uniform(0.05, 0.8, (40, 30))
    world = World(appeal, np.zeros(30), np.ones(40), np.zeros((40, 30), dtype=bool))
    scores = appeal + 0.1 * rng.standard_normal(appeal.shape)
    candidates = np.argsort(-scores, axis=1)[:, :12]
    log = log_lists(world, plackett_luce(scores, candidates, K, 1.0), 20_000, seed=1)
    return world, candidates, log


def test_every_estimate_finds_a_ranker_that_the_log_covers(logged) -> None:
    """The new ranker shows the same candidates the other way round; the truth is known."""
    world, candidates, log = logged
    lists = candidates[:, 5 : 5 + K][:, ::-1]
    truth = world.expected_clicks(lists).mean()
    found = ranking_off_policy.evaluate_ranker(log, lists, world.n_items)
    assert set(found) == {"ips", "snips", "position_based", "direct", "doubly_robust"}
    for each in found.values():
        assert each.refused is None
        assert each.clicks == pytest.approx(truth, abs=0.06), f"{each} against {truth}"
    width = {name: each.high - each.low for name, each in found.items()}
    assert width["position_based"] < width["ips"]
    assert found["position_based"].ess > found["ips"].ess


def test_a_ranker_that_the_log_never_shows_is_refused(logged) -> None:
    """IPS would say that unsupported films get no clicks: an underestimate without a warning."""
    world, candidates, log = logged
    lists = candidates[:, :K].copy()
    lists[:, 0] = [next(i for i in range(30) if i not in row) for row in candidates]
    found = ranking_off_policy.evaluate_ranker(log, lists, world.n_items)
    truth = world.expected_clicks(lists).mean()
    assert found["ips"].unsupported == pytest.approx(1 / 3)
    assert found["ips"].clicks < truth - 0.05
    assert "33% of the places" in (found["ips"].refused or "")
    assert "snips" not in found


def test_a_small_effective_sample_is_refused() -> None:
    assert "effective sample size 12" in (ranking_off_policy.refusal(0.0, 12.0) or "")
    assert ranking_off_policy.refusal(0.0, 500.0) is None
    assert ranking_off_policy.refusal(0.0, None) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: np.where(p > 0.5, 0.0, p), r"outside \(0, 1\] = \d+ must be 0"),
        (lambda p: p + 1, r"outside \(0, 1\]"),
        (lambda p: np.where(p > 0.5, np.nan, p), "values that are not finite"),
        (lambda p: p[:, :2], "shape"),
    ],
)
def test_propensities_that_cannot_be_are_refused(change, message: str) -> None:
    clicks, logged, target, _, _ = coin_log(50, seed=0)
    with pytest.raises(ValueError, match=message):
        ranking_off_policy.item_position_ips(clicks, change(logged), target)
