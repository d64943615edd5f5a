import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab2_vector_db import hnsw

FAISS = {"l2": faiss.METRIC_L2, "inner_product": faiss.METRIC_INNER_PRODUCT}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def words():
    """1,100 real word vectors, the first 60 components; the first 100 serve as queries."""
    vectors = load("word-vectors").array("vectors")
    rows = np.random.default_rng(0).permutation(len(vectors))[:1100]
    return np.ascontiguousarray(vectors[rows, :60], dtype=np.float32)


@pytest.fixture(scope="module")
def graph(words):
    return hnsw.build(words[100:], m=8, ef_construction=40)


@pytest.fixture(scope="module")
def clusters():
    """Synthetic: 30 clusters of 30 vectors far apart, in random order."""
    rng = np.random.default_rng(0)
    centres = np.repeat(10 * rng.standard_normal((30, 16)), 30, axis=0)
    points = centres + rng.standard_normal(centres.shape)
    return rng.permutation(points).astype(np.float32)


def recall(found, true):
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, true)]))


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_on_the_graph_of_faiss_our_search_finds_what_faiss_finds(words, metric):
    """The walk is the same; graphs differ only by the order and the levels of insertion."""
    index = faiss.IndexHNSWFlat(60, 8, FAISS[metric])
    index.add(words[100:])
    theirs = hnsw.from_faiss(index)
    for ef in (10, 40):
        index.hnsw.efSearch = ef
        expected, names = index.search(words[:100], 10)
        scores, ids = hnsw.search(theirs, words[:100], 10, ef)
        assert (ids == names).mean() > 0.99, (ef, (ids == names).mean())
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_recall_rises_with_ef_and_is_that_of_faiss(words):
    scores = hnsw.sweep(words[100:], words[:100], m=8, ef_construction=40, efs=(10, 30, 90))
    recalls = [score.recall_at_10 for score in scores]
    assert recalls[0] < recalls[1] < recalls[2], recalls
    assert recalls[2] > 0.98
    for score in scores:
        assert score.recall_at_10 == pytest.approx(score.faiss_recall_at_10, abs=0.06), score
    assert scores[0].distances < scores[2].distances < 600, "1,000 would be a full scan"


def test_with_ef_at_n_every_reachable_node_is_ranked_exactly(words, graph):
    assert hnsw.reachable(graph) == 1000
    expected, true = faiss.knn(words[:20], words[100:], 10)
    scores, ids = hnsw.search(graph, words[:20], 10, 1000)
    np.testing.assert_array_equal(ids, true)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_a_share_of_one_in_m_reaches_the_next_layer(graph):
    sizes = [len(layer) for layer in graph.links]
    assert sizes[0] == 1000
    assert sizes[1] == pytest.approx(1000 / 8, rel=0.25), sizes
    assert all(set(upper) <= set(lower) for lower, upper in zip(graph.links, graph.links[1:]))
    assert graph.entry in graph.links[-1]


@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    n=st.integers(1, 60),
    m=st.integers(2, 6),
    seed=st.integers(0, 999),
    metric=st.sampled_from(["l2", "inner_product"]),
    select=st.sampled_from([hnsw.select_nearest, hnsw.select_diverse]),
)
def test_any_graph_is_well_formed(n, m, seed, metric, select):
    vectors = np.random.default_rng(seed).standard_normal((n, 4)).astype(np.float32)
    graph = hnsw.build(vectors, m=m, ef_construction=10, metric=metric, select=select, seed=seed)
    assert set(graph.links[0]) == set(range(n))
    for layer, links in enumerate(graph.links):
        limit = m if layer else 2 * m
        for node, others in links.items():
            assert len(others) <= limit
            assert len(set(others)) == len(others)
            assert node not in others
            assert set(others) <= set(links), "a link leaves its layer"
    scores, ids = hnsw.search(graph, vectors[:3], min(3, n), n + 3)
    best = -np.diff(scores, axis=1) if metric == "l2" else np.diff(scores, axis=1)
    assert (best[ids[:, 1:] >= 0] <= 0).all()


def test_a_neighbour_behind_a_chosen_one_is_left_out():
    """Node 2 lies behind node 1, seen from 0; node 3 lies the other way, and gets the link."""
    vectors = np.array([[0.0, 0], [1, 0], [1.5, 0], [0, 2]], dtype=np.float32)
    graph = hnsw.Graph(vectors, "l2", 2)
    near = [(1.0, 1), (2.25, 2), (4.0, 3)]
    assert hnsw.select_nearest(graph, near, 2) == [1, 2]
    assert hnsw.select_diverse(graph, near, 2) == [1, 3]


def test_links_to_the_nearest_alone_cut_clusters_off(clusters):
    """With the same m, the diverse choice keeps a way from every cluster to the others."""
    _, true = faiss.knn(clusters[:100], clusters, 10)
    recalls, reached = [], []
    for select in (hnsw.select_nearest, hnsw.select_diverse):
        graph = hnsw.build(clusters, m=4, ef_construction=32, select=select)
        recalls.append(recall(hnsw.search(graph, clusters[:100], 10, 32)[1], true))
        reached.append(hnsw.reachable(graph))
    assert recalls[1] > recalls[0] + 0.2, recalls
    assert reached[0] < 0.9 * reached[1], reached


def test_a_walk_that_reaches_too_few_says_so():
    """Two nodes without a link: the second cannot be found, and -1 says so."""
    vectors = np.eye(2, dtype=np.float32)
    graph = hnsw.Graph(vectors, "l2", 2, links=[{0: [], 1: []}], entry=0)
    scores, ids = hnsw.search(graph, vectors, 2, 2)
    assert ids.tolist() == [[0, -1], [0, -1]]
    assert np.isinf(scores[:, 1]).all()


def test_one_vector_is_a_graph():
    graph = hnsw.build(np.ones((1, 3)))
    assert hnsw.search(graph, np.zeros((1, 3)), 1)[1].tolist() == [[0]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"m": 1}, "m = 1"),
        ({"ef_construction": 4}, "must be >= m = 16"),
        ({"metric": "cosine"}, "cosine"),
        ({"vectors": np.full((3, 3), np.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_built_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        hnsw.build(**{"vectors": np.ones((3, 3)), **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [({"k": 0}, "k = 0"), ({"k": 1001}, "1000"), ({"ef": 9}, ">= k = 10")],
)
def test_a_bad_search_is_refused(words, graph, change, says):
    with pytest.raises(InputError, match=says):
        hnsw.search(graph, words[:1], **{"k": 10, "ef": 64, **change})
