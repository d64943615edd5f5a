import faiss
import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import search as searching

N, D, LISTS = 3000, 16, 20
ALL = np.arange(N)
IDS = 10_000 + ALL[::-1]
FACTORIES = {
    "plain": f"IVF{LISTS},PQ4x4fsr",
    "refined": f"IVF{LISTS},PQ4x4fsr,RFlat",
    "rotated": f"RR,IVF{LISTS},SQ8",
    "all layers": f"RR,IVF{LISTS},PQ4x4fsr,RFlat",
    "graph": "HNSW12,SQ8",
    "rotated graph": "RR,HNSW12,SQ8,RFlat",
    "flat": "Flat",
    "refined flat": "SQ4,RFlat",
}
LISTED = ("plain", "refined", "rotated", "all layers")
GRAPHS = ("graph", "rotated graph")


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((200, D)).astype(np.float32)


@pytest.fixture(scope="module")
def indexes(vectors):
    """Each by name, made by faiss alone; all but the plain ones behind an IndexIDMap2.

    The settings of every index: nprobe 12 of 20 lists, k_factor 16, efSearch 200.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    made = {}
    for name, factory in FACTORIES.items():
        index = faiss.index_factory(D, factory)
        index.train(vectors)
        layers = searching.unwrap(index)
        if layers.ivf is not None:
            layers.ivf.nprobe = 12
        if layers.hnsw is not None:
            layers.hnsw.hnsw.efSearch = 200
        if layers.refine is not None:
            layers.refine.k_factor = 16
        if name not in ("plain", "rotated"):
            index = faiss.IndexIDMap2(index)
        index.add_with_ids(vectors, IDS)
        made[name] = index
    yield made
    faiss.omp_set_num_threads(threads)


def found(index, queries, **given):
    """Ids of the ten nearest, with these parameters for the call."""
    return index.search(queries, 10, params=searching.search_parameters(index, **given))[1]


def recall(index, queries, vectors, allowed=ALL, **given):
    """Recall@10 of one search with these parameters, among the allowed rows."""
    _, true = faiss.knn(queries, vectors[allowed], 10, metric=faiss.METRIC_L2)
    ids = found(index, queries, **given)
    return float(np.mean([len(set(f) & set(t)) / 10 for f, t in zip(ids, IDS[allowed][true])]))


@pytest.mark.exercise("2.3")
@pytest.mark.parametrize("name", LISTED)
def test_nprobe_reaches_the_lists_below_every_layer(indexes, queries, vectors, name):
    """Visiting 1 of 20 lists must find far less than visiting all of them.

    Parameters given at the wrong level are ignored without a word: recall then does not move
    with nprobe, and a sweep shows a flat line.
    """
    few, every = (found(indexes[name], queries, nprobe=n) for n in (1, LISTS))
    same = float((few == every).mean())
    assert same < 0.6, f"{name}: nprobe 1 and 20 gave the same id in {same:.0%} of the places"


@pytest.mark.exercise("2.3")
def test_more_lists_more_recall(indexes, queries, vectors):
    """nprobe is the dial between time and recall, refined or not."""
    one, every = (recall(indexes["refined"], queries, vectors, nprobe=n) for n in (1, LISTS))
    assert every > one + 0.4, f"recall at nprobe 20 ({every:.3f}) should far exceed 1 ({one:.3f})"


@pytest.mark.exercise("2.3")
@pytest.mark.parametrize("name", LISTED)
def test_leaving_nprobe_out_keeps_the_setting_of_the_index(indexes, queries, vectors, name):
    """The index was built with nprobe 12; a search that does not say visits 12 lists, not 1.

    A fresh SearchParametersIVF() holds nprobe 1.
    """
    given = {"k_factor": 16} if searching.unwrap(indexes[name]).refine is not None else {}
    left_out = recall(indexes[name], queries, vectors, **given)
    said = recall(indexes[name], queries, vectors, nprobe=12, **given)
    assert left_out == said, f"{name}: recall {left_out:.3f} without nprobe, {said:.3f} at 12"


@pytest.mark.exercise("2.3")
def test_leaving_k_factor_out_keeps_the_setting_of_the_index(indexes, queries, vectors):
    """Giving nprobe alone must not switch refinement off.

    A fresh IndexRefineSearchParameters() holds k_factor 1: only k candidates are scored again,
    and the exact vectors, which cost most of the memory, can reorder but no longer rescue.
    """
    left_out = recall(indexes["refined"], queries, vectors, nprobe=LISTS)
    said = recall(indexes["refined"], queries, vectors, nprobe=LISTS, k_factor=16)
    assert left_out == said, f"recall {left_out:.3f} without k_factor, {said:.3f} with 16"


@pytest.mark.exercise("2.3")
@pytest.mark.parametrize("name", ["refined", "all layers"])
def test_k_factor_reaches_the_refinement(indexes, queries, vectors, name):
    """More candidates scored again, more recall."""
    few, many = (recall(indexes[name], queries, vectors, nprobe=LISTS, k_factor=f) for f in (1, 16))
    assert many > few + 0.1, f"recall at k_factor 16 ({many:.3f}) should exceed 1 ({few:.3f})"


@pytest.mark.exercise("2.3")
@pytest.mark.parametrize("name", GRAPHS)
def test_ef_search_reaches_the_graph_and_keeps_its_setting(indexes, queries, vectors, name):
    """A walk that keeps 200 candidates finds what one of 10 does not.

    A fresh SearchParametersHNSW() holds efSearch 16, whatever the index was built with.
    """
    index = indexes[name]
    narrow = recall(index, queries, vectors, ef_search=10)
    left_out, said = (recall(index, queries, vectors, **g) for g in ({}, {"ef_search": 200}))
    assert left_out == said, f"{name}: recall {left_out:.3f} without ef_search, {said:.3f} at 200"
    assert said >= narrow, f"{name}: recall {said:.3f} at ef_search 200, {narrow:.3f} at 10"


@pytest.mark.exercise("2.3")
@pytest.mark.parametrize("name", FACTORIES)
def test_a_selector_lets_nothing_else_through(indexes, queries, name):
    """A filter is a promise: what it excludes must not be answered, by any index.

    SearchParametersPreTransform(sel=...) and IndexRefineSearchParameters(sel=...) ignore their
    selector without a word; only the base applies it.
    """
    allowed = IDS[ALL % 3 == 0]
    ids = found(indexes[name], queries, selector=faiss.IDSelectorBatch(allowed))
    leaked = int((~np.isin(ids[ids >= 0], allowed)).sum())
    assert leaked == 0, f"{name}: {leaked} of {ids.size} answers are excluded by the selector"


@pytest.mark.exercise("2.3")
@pytest.mark.parametrize("name", FACTORIES)
def test_a_selector_speaks_the_ids_of_the_caller(indexes, queries, vectors, name):
    """The filter names ids; below an IndexIDMap2 the base knows row numbers.

    The row numbers 0 to 2999 are no ids here (10,000 to 12,999): untranslated, the filter lets
    nothing through, and every slot is -1.
    """
    rows = np.flatnonzero(ALL % 3 == 0)
    selector = faiss.IDSelectorBatch(IDS[rows])
    filtered = recall(indexes[name], queries, vectors, rows, selector=selector)
    plain = recall(indexes[name], queries, vectors)
    least = plain - 0.1
    assert filtered > least, f"{name}: recall {filtered:.3f} filtered, {plain:.3f} unfiltered"


@pytest.mark.exercise("2.3")
@pytest.mark.parametrize("name", LISTED)
def test_a_selector_does_not_reset_nprobe(indexes, queries, name):
    """SearchParametersIVF(sel=...) silently brings nprobe 1 along.

    The recall of filtered searches collapses while that of all others stays, and the filter is
    blamed.
    """
    everything = faiss.IDSelectorRange(10_000, 10_000 + N)
    with_it, without = (found(indexes[name], queries, **g) for g in ({"selector": everything}, {}))
    same = float((with_it == without).mean())
    assert same > 0.99, f"{name}: a selector of everything changed {1 - same:.0%} of the answers"


@pytest.mark.exercise("2.3")
def test_parameters_for_one_call_do_not_change_the_index(indexes, queries, vectors):
    """An index is shared by threads: the parameters of one request must not leak into another."""
    for name, given in (("plain", {"nprobe": 1}), ("graph", {"ef_search": 10})):
        before = found(indexes[name], queries)
        found(indexes[name], queries, **given)
        same = float((found(indexes[name], queries) == before).mean())
        assert same == 1, f"{name}: {1 - same:.0%} of the answers changed after a call with {given}"


def test_a_flat_index_has_no_parameters(indexes):
    assert searching.search_parameters(indexes["flat"]) is None


def test_the_layers_are_found_from_the_outside_in(indexes):
    layers = searching.unwrap(indexes["all layers"])
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["IndexIDMap2", "IndexRefineFlat", "IndexPreTransform", "IndexIVFPQFastScan"]
    assert layers.hnsw is None
    assert searching.unwrap(indexes["graph"]).ivf is None


def test_search_returns_scores_and_ids_best_first(indexes, queries):
    scores, ids = searching.search(indexes["refined"], queries, 5, nprobe=LISTS)
    assert scores.shape == ids.shape == (200, 5)
    assert ids.dtype == np.int64
    assert (np.diff(scores, axis=1) >= 0).all()


def test_lists_that_run_out_give_minus_one(indexes, queries):
    _, ids = searching.search(indexes["plain"], queries[:5], 1000, nprobe=1)
    assert (ids == -1).any()


def test_a_selector_that_lets_few_through_gives_minus_one(indexes, queries):
    selector = faiss.IDSelectorBatch(IDS[:3])
    _, ids = searching.search(indexes["refined"], queries[:5], 10, nprobe=LISTS, selector=selector)
    assert sorted(set(ids.ravel())) == [-1, *sorted(IDS[:3])]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"queries": np.ones((1, 15))}, "dimension of the index"),
        ({"queries": np.full((1, 16), np.nan)}, "NaN"),
        ({"queries": np.ones(16)}, r"\[n, d\]"),
        ({"k": 0}, "k = 0"),
        ({"k": 3001}, "3000"),
        ({"nprobe": 0}, "nprobe = 0"),
        ({"k_factor": 0.5}, "k_factor = 0.5"),
        ({"ef_search": 8}, "no graph"),
    ],
)
def test_bad_requests_are_refused_with_the_value_and_the_limit(indexes, queries, change, says):
    arguments = {"queries": queries, "k": 5, **change}
    with pytest.raises(InputError, match=says):
        searching.search(indexes["refined"], **arguments)


def test_parameters_an_index_does_not_have_are_refused(indexes, queries):
    with pytest.raises(InputError, match="does not refine"):
        searching.search(indexes["plain"], queries, 5, k_factor=2)
    with pytest.raises(InputError, match="no inverted lists"):
        searching.search(indexes["graph"], queries, 5, nprobe=2)


def test_an_empty_index_is_refused(queries):
    with pytest.raises(InputError, match="add vectors"):
        searching.search(faiss.IndexFlatL2(D), queries, 5)


def test_a_flat_fast_scan_index_searches_but_refuses_a_selector(vectors, queries):
    index = faiss.index_factory(D, "PQ4x4fs")
    index.train(vectors)
    index.add(vectors)
    assert searching.search(index, queries, 5)[1].shape == (200, 5)
    with pytest.raises(InputError, match="skips none"):
        searching.search(index, queries, 5, selector=faiss.IDSelectorRange(0, 10))
