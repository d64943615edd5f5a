import faiss
import numpy as np
import pytest

from labs.lab2_vector_db.collection import Collection, Schema
from labs.lab2_vector_db.evaluation import recall_at_k
from labs.lab2_vector_db.filters import Range
from labs.lab2_vector_db.index_types import HNSW, IVF, PQ, SQ, Recipe


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for one another in small k-means runs take long on a busy machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def clustered():
    """8,000 vectors in 100 clusters, and 100 queries."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, 16))
    points = centres[rng.integers(100, size=8_100)] + 0.5 * rng.standard_normal((8_100, 16))
    return points[:8_000].astype(np.float32), points[8_000:].astype(np.float32)


RECIPES = {
    "lists": Recipe(IVF(64, nprobe=16), PQ(16, 4), refine=SQ(8)),
    "graph": Recipe(HNSW(16, ef_search=96)),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_recall_holds_under_filters_and_tombstones(tmp_path, clustered, name, metric):
    """Recall@10 above 0.95 for all rows, at 10, 1 and 0.2 %, and with 30 % of the rows dead.

    Every row returned is alive and matches. A selector that does not reach the lists, or a fixed
    nprobe, shows here.
    """
    vectors, queries = clustered
    n = len(vectors)
    schema = Schema(16, metric, {"number": "int"}, RECIPES[name])
    with Collection.create(
        tmp_path / "c", schema, index_rows=1000, auto_compact=False, sync=False
    ) as collection:
        collection.bulk_load(vectors, payload={"number": np.arange(n)})
        assert collection.index is not None

        def recall(allowed, condition=None):
            compared, asked = vectors, queries
            if metric == "cosine":
                compared, asked = (
                    each / np.linalg.norm(each, axis=1, keepdims=True)
                    for each in (vectors, queries)
                )
            _, rows = faiss.knn(asked, compared[allowed], 10)
            hits = collection.search(queries, 10, filter=condition)
            assert np.isin(hits.ids, allowed).all(), "a row that is dead or does not match"
            return float(recall_at_k(hits.ids, allowed[rows]).mean())

        every = np.arange(n)
        before = recall(every)
        assert before > 0.95
        for share in (0.1, 0.01, 0.002):
            limit = int(n * share)
            assert recall(every[:limit], Range("number", lt=limit)) > 0.95, share
        dead = np.random.default_rng(1).permutation(n)[: int(0.3 * n)]
        collection.delete(dead)
        left = np.setdiff1d(every, dead)
        assert recall(left) > min(0.95, before - 0.01)
        assert recall(left[left < n // 10], Range("number", lt=n // 10)) > 0.95


def test_rerank_scores_candidates_with_the_raw_vectors(tmp_path, clustered):
    vectors, queries = clustered
    schema = Schema(16, "l2", recipe=Recipe(IVF(64, nprobe=64), PQ(8, 4)))
    with Collection.create(tmp_path / "c", schema, index_rows=1000, sync=False) as collection:
        collection.bulk_load(vectors)
        _, true = faiss.knn(queries, vectors, 10)
        plain, reranked = (collection.search(queries, 10, rerank=each) for each in (0, 100))
        before, after = (recall_at_k(hits.ids, true).mean() for hits in (plain, reranked))
        assert after > before + 0.1, f"{after:.3f} reranked, {before:.3f} before"
        exact = ((queries[:, None] - vectors[reranked.ids]) ** 2).sum(axis=2)
        np.testing.assert_allclose(reranked.scores, exact, rtol=1e-4)
