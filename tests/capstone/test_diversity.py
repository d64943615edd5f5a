"""MMR and the DPP against naive versions written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import diversity
from common.errors import InputError

THREE_DIRECTIONS = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [5.0, 5.0]])


def naive_mmr(relevance, vectors, k, weight):
    """Every similarity of every step computed anew, pair by pair."""
    picked: list[int] = []
    while len(picked) < min(k, len(relevance)):
        best, chosen = -np.inf, -1
        for row in range(len(relevance)):
            if row in picked:
                continue
            nearest = max([0.0, *(cosine(vectors[row], vectors[other]) for other in picked)])
            score = (1 - weight) * relevance[row] - weight * nearest
            if score > best + 1e-12:
                best, chosen = score, row
        picked.append(chosen)
    return picked


def naive_dpp(relevance, vectors, k, weight):
    """Every determinant of every step computed anew."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = (1 + unit @ unit.T) / 2
    quality = np.exp((1 - weight) / weight * relevance / 2)
    kernel = quality[:, None] * similarity * quality
    picked: list[int] = []
    while len(picked) < min(k, len(relevance)):
        rest = [row for row in range(len(relevance)) if row not in picked]
        logs = [
            np.linalg.slogdet(kernel[np.ix_([*picked, row], [*picked, row])])[1] for row in rest
        ]
        picked.append(rest[int(np.argmax(logs))])
    return picked


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def pool(seed, n=14, width=9):
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(0, 1, (n, 1))
    return rng.random(n), rng.normal(size=(n, width)) * lengths


@pytest.mark.exercise("7.7")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.9]), st.integers(1, 16))
def test_mmr_picks_what_the_definition_picks(seed: int, weight: float, k: int) -> None:
    """The fast version keeps one maximum a candidate; the definition looks at every pair. They must
    agree at every weight, with vectors of any length, also when k is more than there are."""
    relevance, vectors = pool(seed)
    found = diversity.mmr(relevance, vectors, k, weight).rows.tolist()
    expected = naive_mmr(relevance, vectors, k, weight)
    assert found == expected, f"weight {weight}: picked {found}, the definition {expected}"


@pytest.mark.exercise("7.7")
def test_without_weight_mmr_is_a_stable_sort_by_relevance() -> None:
    """A weight of 0 asks for no diversity: whoever turns it off must get the old feed back."""
    relevance = np.array([0.2, 0.9, 0.2, 0.9, 0.5])
    found = diversity.mmr(relevance, np.eye(5), 5, 0.0)
    assert found.rows.tolist() == [1, 3, 4, 0, 2], f"picked {found.rows.tolist()}"
    assert found.penalty.tolist() == [0] * 5, f"penalties {found.penalty.tolist()}"


@pytest.mark.exercise("7.7")
def test_mmr_looks_at_the_nearest_pick_not_at_the_average() -> None:
    """A copy of something already shown is a copy, however different the rest of the list is. By
    its average likeness to the picks the copy (row 3) would come before row 4."""
    relevance = np.array([1.0, 0.99, 0.98, 0.6, 0.6])
    vectors = np.array(
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0.0], [0.6, 0.6, 0.0, 0.529]]
    )
    found = diversity.mmr(relevance, vectors, 5, 0.5).rows.tolist()
    assert found == [0, 1, 2, 4, 3], f"picked {found}, not [0, 1, 2, 4, 3]"


@pytest.mark.exercise("7.7")
def test_the_penalty_of_mmr_is_what_likeness_took_off_the_relevance() -> None:
    """The feed's page shows why an item fell: relevance less penalty is what the step compared."""
    relevance = np.array([1.0, 0.9])
    vectors = np.array([[2.0, 0.0], [3.0, 4.0]])
    found = diversity.mmr(relevance, vectors, 2, 0.2).penalty
    assert np.allclose(found, [0.0, 0.25 * 0.6]), f"penalties {found.tolist()}, not [0, 0.15]"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.2, 0.5, 0.9]), st.integers(1, 14))
def test_the_incremental_cholesky_picks_what_the_determinants_pick(
    seed: int, weight: float, k: int
) -> None:
    """Greedy on log det by its definition costs a determinant a candidate and step."""
    relevance, vectors = pool(seed, width=20)
    found = diversity.dpp(relevance, vectors, k, weight).rows.tolist()
    assert found == naive_dpp(relevance, vectors, k, weight)


def test_without_weight_the_dpp_is_a_stable_sort_by_relevance() -> None:
    """Turned off, both must give the old feed back."""
    found = diversity.dpp(np.array([0.2, 0.9, 0.2, 0.9]), np.eye(4), 4, 0.0)
    assert found.rows.tolist() == [1, 3, 0, 2]
    assert not found.penalty.any()


def test_a_dpp_still_fills_the_feed_when_the_space_is_exhausted() -> None:
    """Three dimensions and ten items: after four no volume is left, and a feed needs ten."""
    relevance = np.linspace(1, 0.1, 10)
    found = diversity.dpp(relevance, np.random.default_rng(0).normal(size=(10, 3)), 10, 0.3)
    assert sorted(found.rows.tolist()) == list(range(10))
    assert np.isfinite(found.penalty).all()


@pytest.mark.parametrize("pick", [diversity.mmr, diversity.dpp])
def test_a_duplicate_comes_last(pick) -> None:  # type: ignore[no-untyped-def]
    """Row 1 is row 0 again, with a longer vector and the second-best relevance."""
    vectors = np.array([[1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = pick(np.array([1.0, 0.95, 0.6, 0.6]), vectors, 4, 0.5)
    assert found.rows.tolist()[-1] == 1


@pytest.mark.parametrize("pick", [diversity.mmr, diversity.dpp])
def test_the_length_of_a_vector_does_not_matter(pick) -> None:  # type: ignore[no-untyped-def]
    """In learned embeddings length is mostly popularity."""
    relevance, vectors = pool(3)
    longer = vectors * np.random.default_rng(1).uniform(0.1, 9, (len(vectors), 1))
    first, second = pick(relevance, vectors, 8, 0.4), pick(relevance, longer, 8, 0.4)
    assert first.rows.tolist() == second.rows.tolist()


@pytest.mark.parametrize("pick", [diversity.mmr, diversity.dpp])
def test_bad_arguments_of_diversity_are_refused(pick) -> None:  # type: ignore[no-untyped-def]
    """Weight 1 would ignore relevance altogether."""
    with pytest.raises(InputError, match="diversity weight = 1"):
        pick(np.ones(2), np.eye(2), 1, 1)
    with pytest.raises(InputError, match="vectors = 3 must be 2"):
        pick(np.ones(2), np.eye(3), 1, 0.5)


def test_intra_list_diversity_is_the_mean_distance_of_pairs() -> None:
    """Three items: the pairs' cosines, written out."""
    cosines = [
        cosine(THREE_DIRECTIONS[i], THREE_DIRECTIONS[j]) for i, j in ((1, 2), (1, 3), (2, 3))
    ]
    found = diversity.intra_list_diversity(np.array([[1, 2, 3]]), THREE_DIRECTIONS)
    assert found == pytest.approx([1 - np.mean(cosines)])
    with pytest.raises(InputError, match="length of the lists = 1"):
        diversity.intra_list_diversity(np.array([[1]]), THREE_DIRECTIONS)
