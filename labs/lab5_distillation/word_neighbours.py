"""Which words an encoder takes for like: neighbours of its own word vectors.

TinyBERT replaces words by what BERT predicts in their place, or by neighbours in GloVe. A sentence
encoder has lost the head that predicts words; its table of word vectors is still there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise

SPECIAL = re.compile(r"\[[A-Za-z]+\d*\]")  # [CLS], [unused7]; not the tokens "[" and "]"
PIECE = "##"
MASK = "[MASK]"
ROWS = 1024  # queries compared at once: 1024 x 20,000 candidates in float32 are 80 MB


@dataclass(frozen=True)
class Words:
    """What a WordPiece vocabulary of V tokens says of each.

    Attributes
    ----------
    special
        Bool [V]: [CLS], [SEP], [PAD] and their like, which mark a text and are no part of it.
    piece
        Bool [V]: goes on with the word before it (``##ing``).
    whole
        Bool [V]: letters alone, two at least: may stand for another word.
    mask_id
        Id of ``[MASK]``.
    """

    special: NDArray[np.bool_]
    piece: NDArray[np.bool_]
    whole: NDArray[np.bool_]
    mask_id: int

    def __len__(self) -> int:
        return len(self.special)


def words_of(vocabulary: Mapping[str, int]) -> Words:
    """Read a vocabulary, token to id.

    Raises
    ------
    InputError
        No ``[MASK]``: the tokenizer is no WordPiece of BERT's kind.
    """
    if MASK not in vocabulary:
        raise InputError(
            f"the vocabulary of {len(vocabulary)} tokens holds no {MASK}; augmentation reads "
            "WordPiece vocabularies, as BERT and MiniLM have"
        )
    size = max(vocabulary.values()) + 1
    special, piece, whole = (np.zeros(size, bool) for _ in range(3))
    for token, number in vocabulary.items():
        special[number] = SPECIAL.fullmatch(token) is not None
        piece[number] = token.startswith(PIECE)
        whole[number] = len(token) > 1 and token.isalpha()
    return Words(special, piece, whole, vocabulary[MASK])


@exercise(
    "5.15",
    points=10,
    title="A word's nearest neighbours",
    hint="Frequent words have long vectors. Which measure of likeness does not care? And which "
    "word is the nearest of all, whatever the measure?",
)
def nearest_words(
    vectors: NDArray[np.float32],
    queries: NDArray[np.int64],
    candidates: NDArray[np.int64],
    k: int,
) -> NDArray[np.int64]:
    """The ``k`` candidates whose vectors have the largest cosine with a query's, the nearest first.

    A word is never its own neighbour.

    Parameters
    ----------
    vectors
        Float32 [V, d]: row i is the vector of token i.
    queries
        Token ids [q].
    candidates
        Token ids [c], all different, in no order: only these may be neighbours.
    k
        Neighbours of each, at most c - 1.

    Returns
    -------
    int64 [q, k]
        Token ids, not positions in ``candidates``.

    Notes
    -----
    Jiao et al. (2020), TinyBERT, arXiv 1909.10351, algorithm 1 (there with k = 15 and GloVe).
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    among = unit[candidates].T
    found = np.empty((len(queries), k), np.int64)
    for at in range(0, len(queries), ROWS):
        chosen = queries[at : at + ROWS]
        cosine = unit[chosen] @ among
        cosine[chosen[:, None] == candidates] = -np.inf
        best = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosine, best, axis=1), axis=1, kind="stable")
        found[at : at + ROWS] = candidates[np.take_along_axis(best, order, axis=1)]
    return found


def neighbour_table(
    vectors: NDArray[np.float32], words: Words, ids: Sequence[Sequence[int]], k: int = 15
) -> NDArray[np.int64]:
    """Neighbours of every whole word that the texts use, int64 [V, k].

    The row of any other token holds its own id, so that a draw from it changes nothing.

    Parameters
    ----------
    vectors
        Float32 [V, d]; an encoder's are ``encoder.get_input_embeddings().weight``.
    ids
        Token ids of the texts. Only their words are looked up: a few thousand of BERT's 30,522.

    Raises
    ------
    InputError
        A vector for fewer tokens than the vocabulary has, or no k + 1 whole words.
    """
    if len(vectors) < len(words):
        raise InputError(f"{len(vectors)} word vectors for a vocabulary of {len(words)} tokens")
    candidates = np.flatnonzero(words.whole)
    limit = f"must be from 1 to {len(candidates) - 1}, the other whole words"
    require(1 <= k < len(candidates), "k", k, limit)
    used = np.unique(np.concatenate([np.asarray(each, np.int64) for each in ids]))
    queries = used[words.whole[used]]
    table = np.repeat(np.arange(len(words))[:, None], k, axis=1)
    if len(queries):
        table[queries] = nearest_words(vectors[: len(words)], queries, candidates, k)
    return table
