"""Weights of the value: signs that cannot be wrong, and a choice that sees no test item."""

from __future__ import annotations

import numpy as np
import pytest

from capstone.calibration import Platt
from capstone.quality import Answers
from capstone.value import HEADS, ValueWeights
from capstone.value_choice import KEPT, choose_weights
from common.errors import InputError


@pytest.mark.parametrize(
    "weights", [{"engage": 0.0}, {"engage": -1.0}, {"like": -0.1}, {"love": -1.0}, {"dislike": 0.5}]
)
def test_a_weight_of_the_wrong_sign_is_refused(weights: dict[str, float]) -> None:
    """A flipped sign shows people what they dislike, and no metric of the model notices."""
    with pytest.raises(InputError, match="weight of"):
        ValueWeights(**weights)


def test_the_value_is_engagement_times_the_weighted_reactions() -> None:
    scores = {"engage": 0.5, "like": 0.4, "love": 0.2, "dislike": 0.1}
    value = ValueWeights(1.0, 2.0, 3.0, -4.0).value(
        {head: np.array([p]) for head, p in scores.items()}
    )
    assert value[0] == pytest.approx(0.5 * (1 + 2 * 0.4 + 3 * 0.2 - 4 * 0.1))


def answers(seed: int, *, liked_is_next: bool) -> Answers:
    """The next item is the one of largest P(engage), or the most liked of two near the top."""
    rng = np.random.default_rng(seed)
    n, c = 200, 40
    ids = np.tile(np.arange(1, c + 1), (n, 1))
    scores = {head: rng.uniform(0.05, 0.95, (n, c)) for head in HEADS}
    scores["engage"] /= scores["engage"].sum(axis=1, keepdims=True)
    chosen = scores["engage"] * (scores["like"] if liked_is_next else 1.0)
    target = ids[0, np.argmax(chosen, axis=1)]
    held_out = {head: np.full(n, 0.5) for head in HEADS}
    return Answers(ids, scores, held_out, target, np.full(n, 4))


def test_likes_count_when_people_came_for_what_they_like() -> None:
    """NDCG on validation must be able to raise a weight."""
    maps = {head: Platt() for head in HEADS}
    chosen, tried = choose_weights(answers(0, liked_is_next=True), maps)
    assert chosen.like > 0
    assert tried[0].weights == chosen


def test_among_equally_good_weights_the_kinder_one_is_chosen() -> None:
    """What keeps the NDCG is decided by promised likes less dislikes."""
    maps = {head: Platt() for head in HEADS}
    chosen, tried = choose_weights(answers(1, liked_is_next=False), maps)
    best = max(each.ndcg for each in tried)
    kept = [each for each in tried if each.ndcg >= KEPT * best]
    assert tried[0].ndcg >= KEPT * best
    assert tried[0].satisfaction == max(each.satisfaction for each in kept)
    assert chosen == tried[0].weights
