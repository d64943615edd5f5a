"""Queries with a known answer, made from the texts: each document's first sentence, held out.

The sentence says what the rest is about, in words of its own. It is taken out of every document,
not only out of those asked for: the index holds bodies, and no body is told by its form to be an
answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab2_vector_db.sparse_search import count_matrix, idf, tokenize

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

Kind = Literal["sentence", "keywords"]
MASK = re.compile(r"(?<!\w)[_*`]+(?!\w)|(?<=\w)_(?!\w)|(?<!\w)_(?=\w)")
END = re.compile(r"[.!?](?=\s+[A-Z(*:@-]|\s*\n|\s*$)")
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|al|approx|fig|eq|no|resp)|\b[A-Za-z])\.$", re.I
)
SECTION = re.compile(
    r"(?im)^(?:args|arguments|parameters|params|returns?|raises|example|note)s?\b ?:|^-{3,}|^:\w"
)
MIN_WORDS, MAX_WORDS = 5, 30  # of a sentence: different ones; in all
MIN_BODY_WORDS = 12
N_KEYWORDS = 4
SHINGLE = 3
SAME = 0.8  # Jaccard similarity of shingles from which two bodies are one document
MAX_COPIES = 5


@dataclass(frozen=True)
class Query:
    """A query and the documents that answer it: the one it was cut from, and copies of that."""

    text: str
    kind: Kind
    target: int
    relevant: tuple[int, ...]


@dataclass(frozen=True)
class KnownItems:
    """Documents to index, queries to choose settings with, queries to report.

    Attributes
    ----------
    ids : int64 array of shape [n]
        Row numbers of the table the texts came from.
    texts
        n bodies, without masks and without their first sentence.
    libraries, n_words
        Payload to filter by: where a text is from, and how long it is.
    validation, test
        Queries; no document answers queries of both.
    dropped
        How many texts and queries were left out, by reason.
    """

    ids: NDArray[np.int64]
    texts: list[str]
    libraries: list[str]
    n_words: list[int]
    validation: list[Query]
    test: list[Query]
    dropped: dict[str, int] = field(default_factory=dict)


def known_items(
    table: pd.DataFrame,
    *,
    n_documents: int = 20_000,
    n_validation: int = 500,
    n_test: int = 1_000,
    seed: int = 0,
) -> KnownItems:
    """Documents and queries from a table of texts, by seed alone.

    Half of the queries are the sentence as it stands, half its four rarest words, as people type
    them (`keywords`). A query is dropped when its sentence has fewer than five different words,
    when it stands in any body, or is the first sentence of two documents (either could be meant),
    and when its document has more than five copies.

    Parameters
    ----------
    table
        With the columns ``text`` and ``label``: ``load("docstrings").table("docstrings")``.
    n_documents
        Bodies in the index, drawn at random from those of at least twelve words.
    n_validation, n_test
        Queries to choose settings with, and to report.
    seed
        Of the draw.

    Returns
    -------
    KnownItems

    Raises
    ------
    InputError
        When the texts yield fewer documents or queries than asked for; says how many.

    References
    ----------
    Azzopardi, de Rijke: Automatic Construction of Known-Item Finding Test Beds, SIGIR 2006.
    """
    require(n_documents >= 1, "n_documents", n_documents, "must be >= 1")
    require(n_validation >= 0, "n_validation", n_validation, "must be >= 0")
    require(n_test >= 1, "n_test", n_test, "must be >= 1")
    rng = np.random.default_rng(seed)
    source: list[str] = table["text"].tolist()
    ids: list[int] = []
    sentences: list[str] = []
    texts: list[str] = []
    dropped = Counter[str]()
    for row in rng.permutation(len(table)).tolist():
        if len(ids) == n_documents:
            break
        sentence, body = split(source[row])
        if len(body.split()) < MIN_BODY_WORDS:
            dropped["text: no body to find"] += 1
            continue
        ids.append(row)
        sentences.append(sentence)
        texts.append(body)
    require(
        len(ids) == n_documents,
        "n_documents",
        n_documents,
        f"must be at most {len(ids)}, the texts with a body of {MIN_BODY_WORDS} words",
    )
    queries = _queries(sentences, texts, rng, n_validation + n_test, dropped)
    require(
        len(queries) == n_validation + n_test,
        "n_validation + n_test",
        n_validation + n_test,
        f"must be at most {len(queries)}, the queries of {n_documents} documents "
        f"(dropped: {dict(dropped)})",
        "raise n_documents",
    )
    numbers = np.array(ids, dtype=np.int64)
    named = [
        Query(
            query.text,
            query.kind,
            int(numbers[query.target]),
            tuple(numbers[list(query.relevant)].tolist()),
        )
        for query in queries
    ]
    return KnownItems(
        ids=numbers,
        texts=texts,
        libraries=table["label"].iloc[ids].tolist(),
        n_words=[len(text.split()) for text in texts],
        validation=named[:n_validation],
        test=named[n_validation:],
        dropped=dict(dropped),
    )


def split(text: str) -> tuple[str, str]:
    """A text's first sentence and the rest, without masks; no sentence where none ends in time.

    Returns
    -------
    (sentence, body)
        The sentence is empty when it does not end before a section or within 30 words: then the
        body is the whole text.

    Examples
    --------
    >>> split("Sort the values of _ in place. The order of equal values is kept.")
    ('Sort the values of in place.', 'The order of equal values is kept.')
    """
    section = SECTION.search(text)
    for end in END.finditer(text, 0, section.start() if section else len(text)):
        if ABBREVIATION.search(text[: end.end()]):
            continue
        sentence = unmasked(text[: end.end()])
        if len(sentence.split()) > MAX_WORDS:
            break
        return sentence, unmasked(text[end.end() :])
    return "", unmasked(text)


def unmasked(text: str) -> str:
    """The text on one line, without the marks that stand for hidden names."""
    return " ".join(MASK.sub(" ", text).split())


def keywords(sentence: str, rarity: dict[str, float], n: int = N_KEYWORDS) -> str:
    """The n rarest different words of a sentence, in its order.

    Parameters
    ----------
    sentence
        Words are those of `tokenize`.
    rarity
        The idf of each; ties go to the word that comes first.
    n
        How many.
    """
    words = list(dict.fromkeys(tokenize(sentence)))
    chosen = set(sorted(words, key=lambda word: -rarity.get(word, np.inf))[:n])
    return " ".join(word for word in words if word in chosen)


def copies(
    texts: Sequence[str], rows: Sequence[int], *, at_least: float = SAME
) -> list[tuple[int, ...]]:
    """For each of some texts, the rows of all texts that are the same up to small changes.

    Two texts are the same when the Jaccard similarity ``|A ∩ B| / |A ∪ B|`` of their sets of
    three-word shingles is at least 0.8 (Broder: On the Resemblance and Containment of Documents,
    1997). The row itself is in its set.
    """
    shingles = _shingles(texts)
    sizes = np.asarray(shingles.sum(axis=1)).ravel()
    chosen = list(rows)
    shared = (shingles[chosen] @ shingles.T).tocsr()
    row_of = np.repeat(np.arange(len(chosen)), np.diff(shared.indptr))
    union = sizes[np.array(chosen)[row_of]] + sizes[shared.indices] - shared.data
    same = shared.data >= at_least * union
    found: list[list[int]] = [[] for _ in chosen]
    for place, other in zip(row_of[same].tolist(), shared.indices[same].tolist()):
        found[place].append(other)
    return [tuple(sorted(others)) for others in found]


def true_ids(queries: Sequence[Query]) -> NDArray[np.int64]:
    """The relevant ids of each query, an int64 array of shape [q, m], filled up with -1."""
    longest = max(len(query.relevant) for query in queries)
    ids = np.full((len(queries), longest), -1, dtype=np.int64)
    for row, query in enumerate(queries):
        ids[row, : len(query.relevant)] = query.relevant
    return ids


def _queries(
    sentences: list[str],
    texts: list[str],
    rng: np.random.Generator,
    n: int,
    dropped: Counter[str],
) -> list[Query]:
    """Up to n queries, with row numbers for ids, in random order."""
    plain = [_plain(sentence) for sentence in sentences]
    times = Counter(plain)
    everything = "\n".join(_plain(text) for text in texts)
    usable = []
    for row in rng.permutation(len(sentences)).tolist():
        if not plain[row]:
            dropped["query: no sentence of at most 30 words"] += 1
        elif len(set(tokenize(sentences[row]))) < MIN_WORDS:
            dropped["query: fewer than 5 different words"] += 1
        elif times[plain[row]] > 1:
            dropped["query: first sentence of several documents"] += 1
        else:
            usable.append(row)
    rarity = _rarity(sentences, texts)
    queries: list[Query] = []
    answered: set[int] = set()
    at = 0
    while len(queries) < n and at < len(usable):
        some = usable[at : at + 2 * n]
        at += len(some)
        for row, same in zip(some, copies(texts, some)):
            if len(queries) == n:
                break
            if plain[row] in everything:
                dropped["query: stands in a body"] += 1
            elif len(same) - 1 > MAX_COPIES:
                dropped["query: more than 5 copies of its document"] += 1
            elif answered & set(same):
                dropped["query: a copy of its document is asked for already"] += 1
            else:
                answered |= set(same)
                kind: Kind = "keywords" if len(queries) % 2 else "sentence"
                sentence = sentences[row]
                text = keywords(sentence, rarity) if kind == "keywords" else sentence
                queries.append(Query(text, kind, row, same))
    return queries


def _rarity(sentences: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """idf of every word, over whole documents: also a word that only held-out sentences have."""
    frequency = Counter[str]()
    for sentence, text in zip(sentences, texts):
        frequency.update({*tokenize(sentence), *tokenize(text)})
    weights = idf(len(texts), np.array(list(frequency.values())))
    return dict(zip(frequency, weights.tolist()))


def _shingles(texts: Sequence[str]) -> csr_array:
    """Which runs of three words a text has, a sparse 0/1 array; shorter texts are one run."""
    numbers: dict[str, int] = {}
    documents = []
    for text in texts:
        words = _plain(text).split()
        runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
        documents.append([numbers.setdefault(run, len(numbers)) for run in runs])
    return count_matrix(documents, len(numbers))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
