"""The logging ranker's probabilities, against enumeration and against its own draws."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval.plackett_luce import placement_probabilities, plackett_luce


def by_enumeration(logits: np.ndarray, k: int) -> np.ndarray:
    """P(film at position) by adding up all ordered lists of k films."""
    worth = np.exp(logits)
    result = np.zeros((len(logits), k))
    for films in permutations(range(len(logits)), k):
        chance, left = 1.0, worth.sum()
        for film in films:
            chance *= worth[film] / left
            left -= worth[film]
        for position, film in enumerate(films):
            result[film, position] += chance
    return result


@settings(derandomize=True, deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), k=st.integers(1, 4), spread=st.floats(0, 2))
def test_the_integral_equals_the_enumeration(seed: int, k: int, spread: float) -> None:
    """Propensities that are a little wrong bias every estimate from the log."""
    logits = spread * np.random.default_rng(seed).standard_normal((2, 6))
    found = placement_probabilities(logits, k)
    expected = np.array([by_enumeration(row, k) for row in logits])
    worst = float(np.abs(found - expected).max())
    assert worst < 1e-4, f"worst difference {worst}"


def test_draws_have_the_probabilities_that_are_logged() -> None:
    """Thirty candidates, where nobody can enumerate: the drawn shares are the logged ones."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((1, 40))
    candidates = np.argsort(-scores, axis=1)[:, :30]
    ranker = plackett_luce(scores, candidates, 5, 1.0)
    _, columns = ranker.draw(np.zeros(40_000, dtype=np.int64), rng)
    share = np.stack([np.bincount(columns[:, j], minlength=30) for j in range(5)], axis=1) / 40_000
    assert np.abs(share - ranker.placement[0]).max() < 0.012
    assert ranker.placement[0].sum(axis=0) == pytest.approx(np.ones(5), abs=1e-3)


def test_a_film_that_is_no_candidate_has_probability_zero() -> None:
    scores = np.array([[3.0, 2.0, 1.0, 0.0]])
    ranker = plackett_luce(scores, np.array([[0, 1, 2]]), 2, 1.0)
    found = ranker.placement_of(np.array([[3, 0]]))
    assert found[0, 0] == 0
    assert found[0, 1] == pytest.approx(ranker.placement[0, 0, 1])
    looked = ranker.examined(np.array([[3, 0]]), np.array([1.0, 0.5]))
    assert looked[0, 1] == pytest.approx(ranker.placement[0, 0] @ [1.0, 0.5])


@pytest.mark.parametrize(("k", "temperature"), [(3, 1.0), (0, 1.0), (2, 0.0)])
def test_rankers_that_cannot_draw_are_refused(k: int, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"must be (from|above)"):
        plackett_luce(np.ones((1, 4)), np.array([[0, 1, 2]]), k, temperature)
