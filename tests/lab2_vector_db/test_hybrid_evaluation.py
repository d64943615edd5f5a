import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db.hybrid_evaluation import Candidates, choose, evaluate
from labs.lab2_vector_db.hybrid_search import RankFusion, ScoreFusion
from labs.lab2_vector_db.known_item import KnownItems, Query
from labs.lab2_vector_db.ranking_metrics import ndcg_at_k


def normalized(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def measured():
    """Documents that half of the queries name by a rare word, and half only by direction."""
    rng = np.random.default_rng(0)
    n, d = 400, 24
    ids = rng.permutation(10_000)[:n]
    common = [f"common{i}" for i in range(20)]
    texts = [f"rare{i} {' '.join(rng.choice(common, 6))}" for i in range(n)]
    documents = normalized(rng.standard_normal((n, d)))
    rows = rng.permutation(n)[:300]
    queries, vectors = [], []
    for number, row in enumerate(rows.tolist()):
        named = number % 2 == 0
        words = f"rare{row} {rng.choice(common)}" if named else " ".join(rng.choice(common, 2))
        noise = 6.0 if named else 0.8
        vectors.append(documents[row] + noise * rng.standard_normal(d) / np.sqrt(d))
        kind = "keywords" if named else "sentence"
        queries.append(Query(words, kind, int(ids[row]), (int(ids[row]),)))
    items = KnownItems(ids, texts, ["x"] * n, [7] * n, queries[:100], queries[100:])
    vectors = normalized(np.array(vectors))
    return evaluate(items, documents, validation_vectors=vectors[:100], test_vectors=vectors[100:])


def test_fusion_wins_where_each_side_knows_what_the_other_does_not(measured):
    everything = {score.system: score for score in measured if score.kind == "all"}
    assert list(everything) == ["bm25", "dense", "rrf", "rrf, chosen", "weighted scores"]
    for name in ("rrf, chosen", "weighted scores"):
        score = everything[name]
        assert score.gain.low > 0, score
        assert score.ndcg_at_10.low <= score.ndcg_at_10.value <= score.ndcg_at_10.high
    assert everything["bm25"].gain is None
    assert sum(score.chosen for score in everything.values()) == 1
    assert not everything["bm25"].chosen


def test_the_gain_is_the_mean_difference_to_the_better_side(measured):
    everything = {score.system: score for score in measured if score.kind == "all"}
    best = max(everything["bm25"], everything["dense"], key=lambda s: s.ndcg_at_10.value)
    score = everything["rrf"]
    assert score.over == best.system
    assert score.gain.value == pytest.approx(score.ndcg_at_10.value - best.ndcg_at_10.value)


def test_each_kind_of_query_has_its_own_rows(measured):
    counts = {score.kind: score.n_queries for score in measured}
    assert counts == {"all": 200, "keywords": 100, "sentence": 100}
    by_kind = {s.kind: s for s in measured if s.system == "bm25"}
    mean = (by_kind["keywords"].ndcg_at_10.value + by_kind["sentence"].ndcg_at_10.value) / 2
    assert by_kind["all"].ndcg_at_10.value == pytest.approx(mean)


def test_the_chosen_setting_is_the_best_of_the_grid_on_the_given_queries():
    rng = np.random.default_rng(1)
    ids = np.array([rng.permutation(60)[:50] for _ in range(80)])
    other = np.array([rng.permutation(60)[:50] for _ in range(80)])
    scores = -np.sort(-rng.random((80, 50)), axis=1)
    true = ids[:, 2:3].copy()
    on = Candidates((scores, ids), (scores, other), true)
    by_rank, by_score = choose(on)
    assert isinstance(by_rank, RankFusion)
    assert isinstance(by_score, ScoreFusion)
    assert by_rank.dense_weight == by_score.dense_weight == 0.8, "the answers are on that side"

    def mean(fusion):
        return ndcg_at_k(fusion.fuse(on.dense, on.sparse, 10)[1], true).mean()

    assert mean(by_rank) >= mean(RankFusion())
    assert mean(by_score) >= mean(ScoreFusion())


def test_without_validation_queries_nothing_is_chosen():
    items = KnownItems(np.array([1]), ["text"], ["x"], [1], [], [Query("q", "sentence", 1, (1,))])
    one = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(InputError, match="n_validation"):
        evaluate(items, one, validation_vectors=one[:0], test_vectors=one)


@pytest.mark.slow
def test_real_queries_lose_nothing_by_fusion():
    """A small run on real docstrings: the whole path, at a size that says little."""
    from labs.lab2_vector_db.hybrid_evaluation import measure

    report = measure(n_documents=400, n_validation=30, n_test=60, max_tokens=32, device="cpu")
    assert report.n_test == report.score("bm25").n_queries == 60
    best = max(report.score(name).ndcg_at_10.value for name in ("bm25", "dense"))
    assert report.score("weighted scores").ndcg_at_10.value > best - 0.1
    assert report.hybrid.chosen
    assert report.hybrid.kind == "all"
    assert all(count > 0 for count in report.dropped.values())
