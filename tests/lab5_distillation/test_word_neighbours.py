"""Neighbours of words: cosine, among whole words, never the word itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import word_neighbours

VOCABULARY = {
    "[PAD]": 0, "[unused0]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "[": 5, "]": 6, "a": 7,
    "card": 8, "##ing": 9, "42": 10, "bank": 11, "don't": 12,
}  # fmt: skip


def by_hand(vectors, query, candidates, k):
    """Candidates other than the query, sorted by cosine, one at a time."""

    def cosine(other):
        a, b = vectors[query].astype(float), vectors[other].astype(float)
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    return sorted((c for c in candidates.tolist() if c != query), key=cosine, reverse=True)[:k]


@pytest.mark.exercise("5.15")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(4, 30), st.data())
def test_neighbours_are_the_candidates_of_largest_cosine(seed, size, data):
    """Norms of word vectors grow with frequency: by dot product "the" is next to every word.

    Ids are expected, not positions among the candidates, which are only some of the vocabulary.
    """
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(size, 4)) * rng.uniform(0.2, 5, (size, 1))).astype(np.float32)
    candidates = rng.permutation(size)[: data.draw(st.integers(3, size))].astype(np.int64)
    queries = rng.permutation(candidates)[:3]
    k = data.draw(st.integers(1, len(candidates) - 1))
    found = word_neighbours.nearest_words(vectors, queries, candidates, k)
    expected = [by_hand(vectors, query, candidates, k) for query in queries]
    assert np.asarray(found).tolist() == expected, (
        f"neighbours of {queries.tolist()} among {candidates.tolist()}: "
        f"{np.asarray(found).tolist()}, expected {expected}"
    )


@pytest.mark.exercise("5.15")
def test_a_word_is_not_its_own_neighbour_but_its_double_may_be():
    """The cosine of a word with itself is 1, so it would be "replaced" by itself.

    A double with the same vector is another word, and stays: dropping the first column after the
    sort drops whichever of the two came first.
    """
    vectors = np.array([[1, 0], [3, 0], [0, 1], [1, 1]], np.float32)
    everything = np.array([0, 1, 2, 3])
    found = word_neighbours.nearest_words(vectors, everything[:2], everything, 2)
    expected = [[1, 3], [0, 3]]
    assert np.asarray(found).tolist() == expected, (
        f"words 0 and 1 have the same direction: neighbours {np.asarray(found).tolist()}, "
        f"expected {expected}"
    )


@pytest.mark.exercise("5.15")
def test_only_candidates_compete_and_k_of_them_are_found():
    """The nearest of all are often pieces of words; dropping them afterwards leaves fewer than k.

    The query itself need not be a candidate.
    """
    vectors = np.array([[10, 0], [10, 0.1], [10, 0.2], [10, 1], [0, 1], [-1, 0]], np.float32)
    found = word_neighbours.nearest_words(vectors, np.array([0]), np.array([5, 3, 4]), 3)
    assert np.asarray(found).tolist() == [[3, 4, 5]], (
        f"found {np.asarray(found).tolist()}, expected [[3, 4, 5]]: 1 and 2 are no candidates"
    )


def test_a_vocabulary_tells_words_from_pieces_and_marks():
    """[CLS] is a mark, "[" is a token of the text; numbers and single letters have no synonyms."""
    words = word_neighbours.words_of(VOCABULARY)
    of = {number: token for token, number in VOCABULARY.items()}
    assert [of[i] for i in np.flatnonzero(words.special)] == [
        "[PAD]", "[unused0]", "[CLS]", "[SEP]", "[MASK]",
    ]  # fmt: skip
    assert [of[i] for i in np.flatnonzero(words.piece)] == ["##ing"]
    assert [of[i] for i in np.flatnonzero(words.whole)] == ["card", "bank"]
    assert words.mask_id == 4


def test_a_vocabulary_without_a_mask_is_refused():
    """A byte-level vocabulary marks words otherwise: masking with a wrong id would go unseen."""
    with pytest.raises(InputError, match=r"no \[MASK\]"):
        word_neighbours.words_of({"<mask>": 0, "Ġcard": 1})


def test_the_table_changes_only_words_that_the_texts_use():
    """A draw from the row of a mark, a piece or a number gives the token back."""
    words = word_neighbours.words_of({**VOCABULARY, "money": 13, "loan": 14})
    vectors = np.random.default_rng(0).normal(size=(15, 3)).astype(np.float32)
    table = word_neighbours.neighbour_table(vectors, words, [[2, 8, 9, 10, 3], [2, 13, 3]], k=2)
    changed = np.flatnonzero((table != np.arange(15)[:, None]).any(axis=1))
    assert changed.tolist() == [8, 13], "only card and money are whole words of the texts"
    assert set(table[[8, 13]].ravel()) <= {8, 11, 13, 14}
    assert 8 not in table[8]


def test_too_many_neighbours_and_too_few_vectors_are_refused():
    """Four words have three others each; a table of another model has another size."""
    words = word_neighbours.words_of({**VOCABULARY, "money": 13, "loan": 14})
    vectors = np.ones((15, 3), np.float32)
    with pytest.raises(InputError, match="k = 4 must be from 1 to 3"):
        word_neighbours.neighbour_table(vectors, words, [[2, 8, 3]], k=4)
    with pytest.raises(InputError, match="14 word vectors for a vocabulary of 15"):
        word_neighbours.neighbour_table(vectors[:14], words, [[2, 8, 3]], k=2)
