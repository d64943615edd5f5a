import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab2_vector_db import sparse_search
from labs.lab2_vector_db.sparse_search import BM25Index, bm25_weights, count_matrix, tokenize

TEXTS = [
    "sort an array of numbers",
    "an array of strings, sorted by length",
    "gradient descent with momentum",
    "The array, the ARRAY",
]
IDS = np.array([5, 3, 9, 7])
WORDS = ["array", "sort", "tree", "node", "edge", "graph", "walk", "seed", "mean", "rank"]


def random_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 30))) for _ in range(n)]


def by_hand(texts, query, **how):
    """BM25 of every text from the formula, a text and a word at a time."""
    k1, b = how.get("k1", 1.2), how.get("b", 0.75)
    documents = [tokenize(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in tokenize(query):
            df, tf = sum(word in other for other in documents), document.count(word)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return np.array(scores)


def test_words_are_lowercase_without_stopwords_and_plurals():
    assert tokenize("Returns the indices of 2-D Arrays; a status!") == [
        "return",
        "indice",
        "array",
        "status",
    ]
    assert tokenize("queries classes trees") == ["query", "classe", "tree"]


@pytest.mark.parametrize("how", [{}, {"k1": 0.9, "b": 0.4}, {"k1": 2.0, "b": 0.0}])
def test_weights_in_matrix_form_equal_the_formula(how):
    texts = random_texts(40)
    numbers = {word: number for number, word in enumerate(WORDS)}
    documents = [[numbers[word] for word in tokenize(text)] for text in texts]
    weights = bm25_weights(count_matrix(documents, len(WORDS)), **how)
    for query in ("array tree", "rank rank mean", "graph"):
        times = np.bincount([numbers[word] for word in tokenize(query)], minlength=len(WORDS))
        np.testing.assert_allclose(weights @ times, by_hand(texts, query, **how), rtol=1e-12)


@pytest.mark.parametrize("how", [{}, {"k1": 0.9, "b": 0.4}])
def test_bm25s_scores_equal_the_formula(how):
    texts = random_texts(60)
    ids = np.arange(100, 160)
    index = BM25Index(ids, texts, **how)
    for query in ("array tree", "rank rank mean", "graph unknown", "walk seed node edge"):
        expected = by_hand(texts, query, **how)
        scores, found = index.search([query], 60)
        hits = int((expected > 0).sum())
        assert (found[0, hits:] == -1).all()
        np.testing.assert_allclose(
            scores[0, :hits], expected[found[0, :hits] - 100], atol=1e-4, rtol=0
        )
        assert (np.diff(scores[0, :hits]) <= 0).all()


def test_only_documents_that_share_a_word_are_found():
    scores, ids = BM25Index(IDS, TEXTS).search(["momentum", "zebra", "the of"], 3)
    assert ids.tolist() == [[9, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    assert np.isnan(scores[1:]).all()


def test_equal_scores_stand_in_the_order_of_their_ids():
    index = BM25Index(np.array([8, 2, 6, 4]), ["one word", "one word", "one word", "other text"])
    assert index.search(["word"], 2)[1].tolist() == [[2, 6]]


def test_a_filter_is_applied_before_the_best_are_chosen():
    """Filtering after the cut would return fewer than k, or excluded documents with score 0."""
    index = BM25Index(np.arange(100), ["array"] * 90 + ["an array of other words"] * 10)
    _, ids = index.search(["array"], 5, allowed=np.array([3, 91, 95, 1000]))
    assert ids.tolist() == [[3, 91, 95, -1, -1]]
    _, ids = index.search(["array"], 2, allowed=np.array([], dtype=np.int64))
    assert ids.tolist() == [[-1, -1]]


def test_new_texts_are_found_at_once_and_scored_by_the_statistics_of_the_build():
    index = BM25Index(IDS, TEXTS)
    index.upsert(np.array([9, 11]), ["an array of momentum", "zebra crossing"])
    assert index.search(["zebra"], 2)[1].tolist() == [[11, -1]]
    assert index.search(["momentum"], 2)[1].tolist() == [[9, -1]], "the old text of 9 is gone"
    assert len(index) == 5
    before = index.search(["gradient"], 1)[1]
    assert before.tolist() == [[-1]]
    copy = BM25Index(IDS, TEXTS)
    copy.upsert(np.array([20]), [TEXTS[0]])
    scores, ids = copy.search(["sort numbers"], 2)
    assert ids.tolist() == [[5, 20]], "the same text has the same score, new or old"
    assert scores[0, 0] == pytest.approx(scores[0, 1], rel=1e-6)


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
changes = st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), texts)), max_size=8)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(changes, texts)
def test_a_rebuilt_index_equals_one_built_from_what_is_left(steps, query):
    """Whatever was inserted, replaced and deleted on the way (None deletes)."""
    start = random_texts(10)
    index = BM25Index(np.arange(10), start)
    left = dict(enumerate(start))
    for name, text in steps:
        if text is None:
            assert index.delete(np.array([name])) == (left.pop(name, None) is not None)
        else:
            index.upsert(np.array([name]), [text])
            left[name] = text
        matching = {name for name, text in left.items() if set(tokenize(query)) & {*tokenize(text)}}
        found = index.search([query], 15)[1][0]
        assert set(found.tolist()) - {-1} == matching, "before a rebuild, the same are found"
    if not left:
        return
    index.rebuild()
    fresh = BM25Index(np.array(list(left)), list(left.values()))
    for one, other in zip(index.search([query], 15), fresh.search([query], 15)):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_saved_index_gives_the_same_answers(tmp_path):
    index = BM25Index(IDS, TEXTS)
    index.save(tmp_path / "bm25")
    index.upsert(np.array([1]), ["a tree of arrays"])
    index.save(tmp_path / "bm25")
    loaded = BM25Index.load(tmp_path / "bm25")
    for one, other in zip(index.search(["tree array"], 5), loaded.search(["tree array"], 5)):
        np.testing.assert_array_equal(one, other)
    loaded.upsert(np.array([2]), ["zebra"])
    loaded.rebuild()
    assert loaded.search(["zebra"], 1)[1].tolist() == [[2]]
    assert len(list((tmp_path / "bm25").glob("index-*"))) == 1, "the previous index is removed"


def test_a_changed_file_is_refused(tmp_path):
    BM25Index(IDS, TEXTS).save(tmp_path)
    (ids,) = tmp_path.glob("index-*/ids.npy")
    whole = ids.read_bytes()
    ids.write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(RunError, match="sha256"):
        BM25Index.load(tmp_path)
    ids.write_bytes(whole[:-4])
    with pytest.raises(RunError, match="bytes"):
        BM25Index.load(tmp_path)
    ids.unlink()
    with pytest.raises(RunError, match="missing"):
        BM25Index.load(tmp_path)


def test_an_index_of_another_tokenizer_is_refused(tmp_path):
    """Its words would never meet the query's, and every search would come back empty."""
    BM25Index(IDS, TEXTS).save(tmp_path)
    manifest = tmp_path / sparse_search.MANIFEST
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**fields, "tokenizer": "whitespace"}))
    with pytest.raises(RunError, match="tokenizer 'whitespace'"):
        BM25Index.load(tmp_path)
    manifest.write_text("{")
    with pytest.raises(RunError, match="JSON"):
        BM25Index.load(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        BM25Index.load(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BM25Index(np.array([], dtype=int), []), "number of texts"),
        (lambda: BM25Index(np.array([1]), ["one", "two"]), "ids.shape"),
        (lambda: BM25Index(np.array([1, 1]), ["one", "two"]), "id 1 is given 2 times"),
        (lambda: BM25Index(np.array([-1]), ["one"]), "ids = -1"),
        (lambda: BM25Index(np.array([1]), ["the of"]), "must hold a word"),
        (lambda: BM25Index(IDS, TEXTS, b=1.5), "b = 1.5"),
        (lambda: BM25Index(IDS, TEXTS).search(["x"], 0), "k = 0"),
        (lambda: BM25Index(IDS, TEXTS).search("array", 1), "must be a list"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_refused_upsert_changes_nothing():
    index = BM25Index(IDS, TEXTS)
    with pytest.raises(InputError, match="given 2 times"):
        index.upsert(np.array([5, 5]), ["zebra", "zebra"])
    assert len(index) == 4
    assert index.search(["sort"], 2)[1][0, 0] in (3, 5)
    with pytest.raises(InputError, match="number of documents"):
        index.delete(IDS)
        index.rebuild()
