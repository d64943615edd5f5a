"""Keyword search: BM25 by hand, and an index on bm25s with filters, small updates and a saved form.

Words are what `tokenize` makes of a text, of documents and queries alike: a term that is cut in
another way on one side is never found, without an error.
"""

from __future__ import annotations

import json
import re
import shutil
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from labs.lab2_vector_db.durable import (
    FileEntry,
    check_file,
    disk_errors,
    removed_on_failure,
    sync,
    sync_tree,
    write_beside,
)
from labs.lab2_vector_db.index_types import check_ids

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

K1, B = 1.2, 0.75  # the defaults of Lucene
SCHEMA = 1
MANIFEST = "manifest.json"
TOKENIZER = "lowercase, [a-z0-9]{2,}, Lucene's 33 stopwords, S-stemmer; version 1"
WORD = re.compile(r"[a-z0-9]{2,}")
LUCENE_STOPWORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOPWORDS = frozenset(LUCENE_STOPWORDS.split())


def tokenize(text: str) -> list[str]:
    """Lowercase runs of two or more letters and digits, without stopwords, plurals cut.

    The plural rules are the S-stemmer: ``ies -> y``, ``es -> e``, ``s ->``, with their exceptions
    (Harman: How Effective Is Suffixing?, JASIS 1991).

    Examples
    --------
    >>> tokenize("Returns the indices of 2-D arrays.")
    ['return', 'indice', 'array']
    """
    return [_singular(word) for word in WORD.findall(text.lower()) if word not in STOPWORDS]


def idf(n_documents: int, frequencies: NDArray[np.integer]) -> NDArray[np.float64]:
    """``ln(1 + (N - df + 0.5) / (df + 0.5))``: rare words weigh more; Lucene's, never negative.

    Parameters
    ----------
    n_documents
        N.
    frequencies : int array
        df, the number of documents with the word.
    """
    return np.log1p((n_documents - frequencies + 0.5) / (frequencies + 0.5))


def bm25_weights(
    counts: csr_array,
    *,
    k1: float = K1,
    b: float = B,
    idf_of: NDArray[np.float64] | None = None,
    mean_length: float | None = None,
) -> csr_array:
    """What each word of each document adds to the score of a query that has the word.

    ``w(t, d) = idf(t) tf / (tf + k1 (1 - b + b |d| / mean |d|))``. k1 says how soon repeating a
    word stops helping, b how much a long document is held back. A query's scores are
    ``query_counts @ weights.T``: a sparse inner product, as dense search is a dense one.

    Parameters
    ----------
    counts : sparse array of shape [n, v]
        How often document n has word v.
    k1, b
        k1 >= 0, 0 <= b <= 1.
    idf_of : float64 array of shape [v], optional
        None takes it from ``counts``; give it to score new documents by an index's statistics.
    mean_length
        In words; None takes it from ``counts``.

    Returns
    -------
    sparse array of shape [n, v], with the same places filled

    References
    ----------
    Robertson, Zaragoza: The Probabilistic Relevance Framework, 2009, equation 3.15, without the
    constant factor k1 + 1 (Lucene, since version 8). Kamphuis et al., ECIR 2020, compare variants.
    """
    require(k1 >= 0, "k1", k1, "must be >= 0", "try 1.2")
    require(0 <= b <= 1, "b", b, "must be from 0 to 1", "try 0.75")
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    if idf_of is None:
        idf_of = idf(counts.shape[0], np.bincount(counts.indices, minlength=counts.shape[1]))
    mean = float(lengths.mean()) if mean_length is None else mean_length
    held_back = k1 * (1 - b + b * lengths / max(mean, 1e-9))
    row_of = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    weights = counts.astype(np.float64)
    weights.data = idf_of[counts.indices] * counts.data / (counts.data + held_back[row_of])
    return weights


def count_matrix(documents: Sequence[Sequence[int]], n_words: int) -> csr_array:
    """Word numbers of n documents as counts, a sparse array of shape [n, n_words]."""
    from scipy.sparse import csr_array

    words = np.fromiter(chain.from_iterable(documents), dtype=np.int64)
    starts = np.cumsum([0, *(len(document) for document in documents)])
    counts = csr_array((np.ones(len(words)), words, starts), shape=(len(documents), n_words))
    counts.sum_duplicates()
    return counts


class BM25Index:
    """BM25 over texts with ids: bm25s for the bulk, a small part beside it for new texts.

    bm25s computes each word's weight once, when the index is built: a search adds up a few
    posting lists. So N, df and the mean length are those of the build. `upsert` scores new texts
    by these statistics and `delete` hides rows; `rebuild` counts everything anew. Rebuild when a
    tenth has changed: until then words that have become common still weigh as if they were rare.
    Any number of threads may search; while one changes the index, no other may use it.

    Parameters
    ----------
    ids : int64 array of shape [n]
        >= 0 and unique.
    texts
        n texts; one without any word is kept and never found.
    k1, b
        See `bm25_weights`.

    Raises
    ------
    InputError
        No texts, another number of ids, an id given twice or below 0.
    """

    _alive: NDArray[np.bool_]
    _new: csc_array | None

    def __init__(
        self, ids: NDArray[np.int64], texts: Sequence[str], *, k1: float = K1, b: float = B
    ) -> None:
        require(k1 >= 0, "k1", k1, "must be >= 0", "try 1.2")
        require(0 <= b <= 1, "b", b, "must be from 0 to 1", "try 0.75")
        require(len(texts) > 0, "number of texts", 0, "must be at least 1")
        self.k1, self.b = k1, b
        self._words: dict[str, int] = {}
        self._ids = check_ids(ids, len(texts))
        self._documents = [self._number(text) for text in texts]
        require(len(self._words) > 0, "texts", texts[:1], "must hold a word", f"of {WORD.pattern}")
        self._build()

    def __len__(self) -> int:
        return int(self._alive.sum())

    @property
    def changed(self) -> float:
        """Rows that are new or hidden since the last build, for each row of that build."""
        hidden = int((~self._alive[: self._built]).sum())
        return (len(self._ids) - self._built + hidden) / self._built

    def search(
        self, queries: Sequence[str], k: int, *, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best documents of each query that share a word with it.

        Parameters
        ----------
        queries
            q texts. A word given twice counts twice; a word no document has counts nothing.
        k
            At least 1; above the number of documents the rest of a row is empty.
        allowed : int64 array, optional
            Ids that may be found; others are taken out before the best k are chosen.

        Returns
        -------
        scores : float32 array of shape [q, k]
            Best first, equal scores by smaller id; NaN where fewer than k share a word.
        ids : int64 array of shape [q, k]
            -1 there.
        """
        require(not isinstance(queries, str), "queries", queries, "must be a list of texts")
        require(k >= 1, "k", k, "must be >= 1", "try 10")
        open_rows = self._alive if allowed is None else self._alive & np.isin(self._ids, allowed)
        scores = np.full((len(queries), k), np.nan, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            found = self._scores([self._words[w] for w in tokenize(query) if w in self._words])
            best = _best(np.where(open_rows, found, 0), self._ids, k)
            scores[row, : len(best)] = found[best]
            ids[row, : len(best)] = self._ids[best]
        return scores, ids

    def upsert(self, ids: NDArray[np.int64], texts: Sequence[str]) -> None:
        """Add texts, or replace those with the same ids; searchable at once.

        Raises
        ------
        InputError
            As for the class; nothing has changed then.
        """
        require(len(texts) > 0, "number of texts", 0, "must be at least 1")
        fresh = check_ids(ids, len(texts))
        self.delete(fresh)
        self._documents += [self._number(text) for text in texts]
        self._ids = np.concatenate([self._ids, fresh])
        self._alive = np.concatenate([self._alive, np.ones(len(fresh), dtype=bool)])
        self._weigh_new()

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Hide the documents with these ids; returns how many there were."""
        gone = self._alive & np.isin(self._ids, ids)
        self._alive = self._alive & ~gone
        return int(gone.sum())

    def rebuild(self) -> None:
        """Count every word anew over what is alive, and drop what is hidden."""
        require(len(self) > 0, "number of documents", 0, "must be at least 1", "upsert some")
        self._documents = [self._documents[row] for row in np.flatnonzero(self._alive)]
        self._ids = self._ids[self._alive]
        self._build()

    def save(self, folder: Path) -> None:
        """Write the index, rebuilt if it changed; arrays and JSON, no pickle.

        The manifest is replaced last: a crash leaves the previous index or the new one.

        Raises
        ------
        RunError
            When the disk refuses.
        """
        if self.changed:
            self.rebuild()
        folder = Path(folder)
        with disk_errors("saving BM25 in", folder):
            folder.mkdir(parents=True, exist_ok=True)
            taken = [int(path.name[6:]) for path in folder.glob("index-*")]
            name = f"index-{max(taken, default=0) + 1}"
            with removed_on_failure(folder / name) as place:
                self._engine.save(place, show_progress=False)
                np.save(place / "ids.npy", self._ids, allow_pickle=False)
                lengths = np.array([len(document) for document in self._documents], dtype=np.int32)
                flat = np.fromiter(chain.from_iterable(self._documents), dtype=np.int32)
                np.save(place / "lengths.npy", lengths, allow_pickle=False)
                np.save(place / "words.npy", flat, allow_pickle=False)
                files = {key: asdict(entry) for key, entry in sync_tree(place).items()}
                fields = {
                    "schema": SCHEMA,
                    "tokenizer": TOKENIZER,
                    "k1": self.k1,
                    "b": self.b,
                    "folder": name,
                    "files": files,
                }
                write_beside(folder / MANIFEST, json.dumps(fields, indent=2).encode())
                sync(folder)
        for old in folder.glob("index-*"):
            if old.name != name:
                shutil.rmtree(old)

    @classmethod
    def load(cls, folder: Path) -> BM25Index:
        """Read what `save` wrote, having compared every file with its hash.

        Raises
        ------
        InputError
            When the folder holds no index.
        RunError
            When a file is missing or changed, or the words were made by another tokenizer.
        """
        import bm25s

        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise InputError(f"no {MANIFEST} in {folder}; save a BM25Index there")
        fields = _manifest(path)
        place = path.parent / Path(fields["folder"]).name
        for name, entry in fields["files"].items():
            if not (place / name).is_file():
                raise RunError(f"{place / name} is missing, though {path} names it; build it again")
            check_file(place / name, FileEntry(**entry), every_byte=True)
        index = cls.__new__(cls)
        index.k1, index.b = fields["k1"], fields["b"]
        index._engine = bm25s.BM25.load(place, allow_pickle=False, show_progress=False)
        index._ids = np.load(place / "ids.npy", allow_pickle=False)
        lengths = np.load(place / "lengths.npy", allow_pickle=False)
        flat = np.load(place / "words.npy", allow_pickle=False)
        ends = np.cumsum(lengths).tolist()
        index._documents = [
            array("i", flat[end - length : end].tolist())
            for end, length in zip(ends, lengths.tolist())
        ]
        words = index._engine.vocab_dict
        index._words = {word: number for word, number in words.items() if word}
        index._after_build()
        return index

    def _build(self) -> None:
        import bm25s

        self._engine = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        self._engine.index((self._documents, dict(self._words)), show_progress=False)
        self._after_build()

    def _after_build(self) -> None:
        self._built, self._known = len(self._ids), len(self._words)
        self._alive = np.ones(self._built, dtype=bool)
        unique = [word for document in self._documents for word in set(document)]
        frequencies = np.bincount(np.array(unique, dtype=np.int64), minlength=self._known)
        self._idf = idf(self._built, frequencies)
        self._mean_length = sum(map(len, self._documents)) / self._built
        self._new = None

    def _weigh_new(self) -> None:
        """Weights of the documents since the build, by the statistics of the build."""
        unseen = np.full(len(self._words) - self._known, idf(self._built, np.array(0)))
        counts = count_matrix(self._documents[self._built :], len(self._words))
        self._new = bm25_weights(
            counts,
            k1=self.k1,
            b=self.b,
            idf_of=np.concatenate([self._idf, unseen]),
            mean_length=self._mean_length,
        ).tocsc()

    def _scores(self, words: list[int]) -> NDArray[np.float32]:
        """The scores of every row, hidden ones included."""
        old: NDArray[np.float32] = self._engine.get_scores_from_ids(
            [word for word in words if word < self._known]
        )
        if self._new is None:
            return old
        times = np.bincount(np.array(words, dtype=np.int64), minlength=self._new.shape[1])
        return np.concatenate([old, (self._new @ times).astype(np.float32)])

    def _number(self, text: str) -> array[int]:
        words = self._words
        return array("i", [words.setdefault(word, len(words)) for word in tokenize(text)])


def _best(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Rows of the k highest scores above 0, best first, equal scores by smaller id."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:  # argpartition alone would cut through a tie at random
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= least]
    return rows[np.lexsort((ids[rows], -scores[rows]))[:k]]


def _manifest(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); build the index again") from error
    expected = {"schema", "tokenizer", "k1", "b", "folder", "files"}
    if not isinstance(fields, dict) or set(fields) != expected:
        raise RunError(f"{path} does not hold the fields {sorted(expected)}; build the index again")
    if (fields["schema"], fields["tokenizer"]) != (SCHEMA, TOKENIZER):
        raise RunError(
            f"{path} is of schema {fields['schema']!r} and tokenizer {fields['tokenizer']!r}, "
            f"expected {SCHEMA} and {TOKENIZER!r}; build the index again"
        )
    return fields


def _singular(word: str) -> str:
    if word.endswith("ies") and not word.endswith(("eies", "aies")) and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")) and len(word) > 3:
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and len(word) > 3:
        return word[:-1]
    return word
