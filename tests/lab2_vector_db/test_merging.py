from itertools import pairwise

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab2_vector_db import merging

FLT_MAX = np.finfo(np.float32).max


def answer(scores, rows):
    """One shard's answer to one query."""
    return np.array([scores], dtype=np.float32), np.array([rows], dtype=np.int64)


def searched(vectors, cuts, queries, k, metric):
    """Each shard's own answer by faiss, and the ids of its rows."""
    answers, ids = [], []
    for start, stop in pairwise(cuts):
        shard = faiss.IndexFlat(vectors.shape[1], metric)
        shard.add(vectors[start:stop])
        answers.append(shard.search(queries, k))
        ids.append(np.arange(start, stop) + 1000)
    return answers, ids


@pytest.mark.exercise("2.11")
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_shards_together_find_what_one_index_finds(metric):
    """Three shards of 500, 20 and 7 vectors answer as one index over all 527.

    This is the whole contract of scatter-gather: how the vectors are spread must not show. The
    last shard has fewer than k vectors, and faiss fills its rows with -1 and ±3.4e38.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((527, 16)).astype(np.float32)
    queries = rng.standard_normal((40, 16)).astype(np.float32)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    answers, ids = searched(vectors, [0, 500, 520, 527], queries, 10, kind)
    expected_scores, expected = faiss.knn(queries, vectors, 10, metric=kind)
    scores, found = merging.merge_top_k(answers, ids, 10, metric)
    assert found.shape == (40, 10), f"expected ids of shape (40, 10), got {found.shape}"
    same = float((found == expected + 1000).mean())
    assert same == 1.0, f"{same:.1%} of the ids are those of one index over all vectors"
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)


@pytest.mark.exercise("2.11")
def test_one_shard_may_hold_all_of_the_best():
    """All three best are in the first shard: asking each shard for k / shards loses two of them.

    Vectors that arrive together lie together. Taking an equal share from each shard looks right
    on shuffled data and loses recall on real data.
    """
    answers = [answer([9, 8, 7], [0, 1, 2]), answer([3, 2, 1], [0, 1, 2])]
    ids = [np.array([5, 6, 7]), np.array([15, 16, 17])]
    _, found = merging.merge_top_k(answers, ids, 3, "inner_product")
    assert found.tolist() == [[5, 6, 7]], f"expected [[5, 6, 7]], got {found.tolist()}"


@pytest.mark.exercise("2.11")
@pytest.mark.parametrize("score", [0.0, FLT_MAX, -FLT_MAX])
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_an_empty_slot_is_no_result_whatever_its_score(metric, score):
    """-1 means that the shard ran out; what stands beside it is not a score.

    A distance of 0 would put it first, and row -1 is the last row to numpy: a vector that nobody
    asked for is then returned as the best match.
    """
    answers = [answer([2.5, score], [0, -1]), answer([1.5, score, score], [1, -1, -1])]
    ids = [np.array([5, 6]), np.array([15, 16])]
    scores, found = merging.merge_top_k(answers, ids, 4, metric)
    best = [16, 5] if metric == "l2" else [5, 16]
    assert found.tolist() == [[*best, -1, -1]], f"expected {[*best, -1, -1]}, got {found.tolist()}"
    assert np.isnan(scores[0, 2:]).all(), f"no vector, no score: expected NaN, got {scores[0, 2:]}"
    assert scores.dtype == np.float32, f"expected float32 scores, got {scores.dtype}"


@pytest.mark.exercise("2.11")
def test_a_vector_on_two_replicas_is_one_result():
    """Id 5 is on both shards; it counts once, with its better score, and another id moves up.

    Otherwise a page of ten results shows five vectors twice. The scores of two replicas may
    differ: they can run indexes of different age.
    """
    answers = [answer([0.9, 0.5], [0, 1]), answer([0.8, 0.4], [1, 0])]
    ids = [np.array([5, 6]), np.array([7, 5])]
    scores, found = merging.merge_top_k(answers, ids, 3, "inner_product")
    assert found.tolist() == [[5, 6, 7]], f"expected [[5, 6, 7]], got {found.tolist()}"
    np.testing.assert_allclose(scores, [[0.9, 0.5, 0.4]], rtol=1e-6)


@pytest.mark.exercise("2.11")
def test_the_order_of_the_shards_does_not_matter():
    """Equal scores are ordered by id: which shard answered first must not reorder a page."""
    answers = [answer([1, 1], [0, 1]), answer([1, 1], [0, 1])]
    ids = [np.array([4, 2]), np.array([1, 3])]
    for turn in (slice(None), slice(None, None, -1)):
        _, found = merging.merge_top_k(answers[turn], ids[turn], 3, "l2")
        assert found.tolist() == [[1, 2, 3]], f"expected [[1, 2, 3]], got {found.tolist()}"


slots = st.lists(st.tuples(st.integers(0, 8), st.integers(-1, 5)), max_size=6)


@pytest.mark.exercise("2.11")
@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(slots, min_size=1, max_size=4), st.integers(1, 6), st.booleans())
def test_it_equals_a_dictionary_of_best_scores(shards, k, higher):
    """For any answers: each id's best score, sorted, the first k; with Python's own dict."""
    answers = [answer([s for s, _ in shard], [r for _, r in shard]) for shard in shards]
    ids = [np.arange(6) + 4 * number for number in range(len(shards))]  # neighbours overlap
    sign = -1 if higher else 1
    best: dict[int, float] = {}
    for shard, own in zip(shards, ids):
        for score, row in shard:
            if row >= 0:
                key = int(own[row])
                best[key] = min(best.get(key, np.inf), sign * score)
    expected = sorted((key, known) for known, key in best.items())[:k]
    _, found = merging.merge_top_k(answers, ids, k, "inner_product" if higher else "l2")
    wanted = [known for _, known in expected] + [-1] * (k - len(expected))
    assert found.tolist() == [wanted], f"expected {wanted}, got {found.tolist()[0]}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": 0}, "k = 0"),
        ({"metric": "cosine"}, "cosine"),
        ({"answers": []}, "at least one"),
        ({"global_ids": []}, "one array for each"),
        ({"global_ids": [np.array([4])]}, r"answers\[0\] row = 1 must be below 1"),
        ({"answers": [(np.zeros((1, 2)), np.zeros((1, 3), int))]}, "one shape"),
    ],
)
def test_answers_that_do_not_belong_together_are_refused(change, says):
    arguments = {
        "answers": [answer([1, 2], [0, 1])],
        "global_ids": [np.array([4, 5])],
        "k": 1,
        "metric": "l2",
    }
    with pytest.raises(InputError, match=says):
        merging.check_answers(**{**arguments, **change})


# --- indexes ----------------------------------------------------------------------------------

D = 16
CUTS = [0, 900, 910, 3000]
FACTORIES = [
    "Flat",
    "SQ8",
    "PQ4x4fs",
    "RaBitQ",
    "IVF8,Flat",
    "IVF8,PQ4x5",
    "IVF8,PQ4x4fsr",
    "IVF8_HNSW8,SQ4",
    "IVF8,RaBitQfs2",
    "OPQ4,IVF8,PQ4x4fsr",
    "RR16,IVF8,RaBitQfs",
    "OPQ4,IVF8,PQ4x4fsr,RFlat",
    "IVF8,PQ4x4fsr,Refine(SQ8)",
]


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((3000, D)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((30, D)).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    """Small work for many threads is slow work on a machine that does something else as well."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def trained(factory, vectors):
    index = faiss.index_factory(D, factory)
    layer = faiss.downcast_index(getattr(index, "base_index", index))
    if isinstance(layer, faiss.IndexPreTransform):
        rotation = faiss.downcast_VectorTransform(layer.chain.at(0))
        if isinstance(rotation, faiss.OPQMatrix):
            rotation.niter = rotation.niter_pq = rotation.niter_pq_0 = 2
    index.train(vectors)
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.nprobe = 3
    return index


def filled(index, vectors, cuts=(0, None)):
    parts = [faiss.clone_index(index) for _ in cuts[1:]]
    for part, (start, stop) in zip(parts, pairwise(cuts)):
        part.add(vectors[start:stop])
    return parts


def assert_same_answers(one, other, queries):
    (scores, ids), (expected_scores, expected) = one.search(queries, 10), other.search(queries, 10)
    np.testing.assert_array_equal(ids, expected)
    # A rotation rounds by the size of the batch it is applied to.
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own_ids", [False, True], ids=["numbered", "own-ids"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_merged_index_answers_as_one_built_at_once(factory, own_ids, vectors, queries):
    """The same ids in the same order, for every layer that a recipe can have."""
    empty = trained(factory, vectors)
    [whole] = filled(empty, vectors)
    parts = filled(empty, vectors, CUTS)
    if own_ids:
        ids = np.random.default_rng(2).permutation(10**9 // 7 * np.arange(1, 3001) % 10**9)
        whole = merging.set_ids(whole, ids)
        parts = [merging.set_ids(part, ids[a:b]) for part, (a, b) in zip(parts, pairwise(CUTS))]
    merged = merging.merge(parts, renumber=not own_ids)
    assert merged.ntotal == 3000
    assert [part.ntotal for part in parts[1:]] == [0, 0]
    assert_same_answers(merged, whole, queries)
    # What a layer only holds in memory must also be in the file.
    assert_same_answers(faiss.deserialize_index(faiss.serialize_index(merged)), whole, queries)


def test_indexes_that_trained_by_themselves_are_refused(vectors):
    """faiss compares coarse centroids only; other codebooks make the codes mean other vectors."""
    parts = [trained("IVF8,PQ4x4fsr", vectors[start:]) for start in (0, 1500)]
    with pytest.raises(InputError, match="another coarse quantizer than index 0"):
        merging.merge(parts, renumber=True)
    parts = [trained("OPQ4,IVF8,PQ4x4fsr", vectors[start:]) for start in (0, 1500)]
    with pytest.raises(InputError, match="another rotation"):
        merging.merge(parts, renumber=True)
    parts = [trained("PQ4x4fs", vectors[start:]) for start in (0, 1500)]
    with pytest.raises(InputError, match="another PQ codebook"):
        merging.merge(parts, renumber=True)
    parts = [trained("IVF8,Flat,Refine(SQ8)", vectors) for _ in range(2)]
    faiss.downcast_index(parts[1].refine_index).train(vectors[:100])
    with pytest.raises(InputError, match="another scalar range"):
        merging.merge(parts, renumber=True)


def test_an_id_in_two_indexes_is_refused_and_nothing_moved(vectors):
    parts = filled(trained("IVF8,Flat", vectors), vectors, CUTS)
    with pytest.raises(InputError, match=r"id 0 is in two .* renumber=True"):
        merging.merge(parts)
    assert [part.ntotal for part in parts] == [900, 10, 2090]


@pytest.mark.parametrize(
    ("factories", "renumber", "says"),
    [
        (["HNSW8", "HNSW8"], True, "IndexHNSWFlat cannot be merged"),
        (["IVF8,Flat", "IVF8,SQ8"], True, "index 1 is IndexIVFScalarQuantizer"),
        (["IVF8,Flat,RFlat", "IVF8,Flat,RFlat"], False, "no ids to keep"),
        ([], True, "at least one"),
    ],
)
def test_what_cannot_be_merged_is_refused(factories, renumber, says, vectors):
    parts = [trained(factory, vectors) for factory in factories]
    with pytest.raises(InputError, match=says):
        merging.merge(parts, renumber=renumber)


def test_ids_of_your_own_are_not_renumbered(vectors):
    parts = [
        merging.set_ids(part, np.arange(1))
        for part in filled(trained("Flat", vectors), vectors, [0, 1, 2])
    ]
    with pytest.raises(InputError, match="ids of their own"):
        merging.merge(parts, renumber=True)


def test_a_direct_map_is_refused(vectors):
    parts = filled(trained("IVF8,Flat", vectors), vectors, CUTS)
    parts[0].make_direct_map()
    with pytest.raises(InputError, match="NoMap"):
        merging.merge(parts, renumber=True)
