import dataclasses

import faiss
import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import search as searching
from labs.lab2_vector_db.index_types import IVFPQ, Flat, new_index

N, D, LISTS = 3000, 16, 20
RECIPE = IVFPQ(LISTS, 4, 4, metric="l2", nprobe=12, k_factor=16)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((200, D)).astype(np.float32)


def filled(vectors, recipe):
    """The recipe's index, made without build_index, with its own ids where it refines."""
    index = new_index(D, recipe)
    index.train(vectors)
    if recipe == Flat("l2") or recipe.refine != "none":
        index = faiss.IndexIDMap2(index)
        index.add_with_ids(vectors, np.arange(N))
    else:
        index.add(vectors)
    return index


@pytest.fixture(scope="module")
def plain(vectors):
    return filled(vectors, RECIPE)


@pytest.fixture(scope="module")
def refined(vectors):
    return filled(vectors, dataclasses.replace(RECIPE, refine="flat"))


def recall(index, queries, vectors, **given):
    """Recall@10 of one search with these parameters."""
    _, true = faiss.knn(queries, vectors, 10, metric=faiss.METRIC_L2)
    _, found = index.search(queries, 10, params=searching.search_parameters(index, **given))
    return float(np.mean([len(set(f) & set(t)) / 10 for f, t in zip(found, true)]))


@pytest.mark.exercise("2.3")
def test_nprobe_reaches_the_lists_below_refinement_and_ids(refined, queries, vectors):
    """Visiting 1 of 20 lists must find far less than visiting all of them.

    Parameters given at the wrong level are ignored without a word: recall then does not move
    with nprobe, and a sweep shows a flat line.
    """
    one, every = (recall(refined, queries, vectors, nprobe=n) for n in (1, LISTS))
    assert every > one + 0.4, f"recall at nprobe 20 ({every:.3f}) should far exceed 1 ({one:.3f})"


@pytest.mark.exercise("2.3")
def test_leaving_nprobe_out_keeps_the_setting_of_the_index(plain, refined, queries, vectors):
    """The index was built with nprobe 12; a search that does not say visits 12 lists, not 1.

    A fresh SearchParametersIVF() holds nprobe 1.
    """
    for name, index, given in (("plain", plain, {}), ("refined", refined, {"k_factor": 16})):
        left_out = recall(index, queries, vectors, **given)
        said = recall(index, queries, vectors, nprobe=12, **given)
        assert left_out == said, f"{name}: recall {left_out:.3f} without nprobe, {said:.3f} at 12"


@pytest.mark.exercise("2.3")
def test_leaving_k_factor_out_keeps_the_setting_of_the_index(refined, queries, vectors):
    """Giving nprobe alone must not switch refinement off.

    A fresh IndexRefineSearchParameters() holds k_factor 1: only k candidates are re-scored, and
    the exact vectors, which cost most of the memory, can reorder but no longer rescue.
    """
    left_out = recall(refined, queries, vectors, nprobe=LISTS)
    said = recall(refined, queries, vectors, nprobe=LISTS, k_factor=16)
    assert left_out == said, f"recall {left_out:.3f} without k_factor, {said:.3f} with 16"


@pytest.mark.exercise("2.3")
def test_k_factor_reaches_the_refinement(refined, queries, vectors):
    """More candidates re-scored, more recall."""
    few, many = (recall(refined, queries, vectors, nprobe=LISTS, k_factor=f) for f in (1, 16))
    assert many > few + 0.1, f"recall at k_factor 16 ({many:.3f}) should exceed 1 ({few:.3f})"


@pytest.mark.exercise("2.3")
def test_parameters_for_one_call_do_not_change_the_index(plain, queries, vectors):
    """An index is shared by threads: the parameters of one request must not leak into another."""
    before = recall(plain, queries, vectors)
    recall(plain, queries, vectors, nprobe=1)
    after = recall(plain, queries, vectors)
    assert before == after, f"recall was {before:.3f}, and {after:.3f} after a call with nprobe 1"


def test_a_flat_index_has_no_parameters(vectors):
    assert searching.search_parameters(filled(vectors, Flat("l2"))) is None


def test_search_returns_scores_and_ids_best_first(refined, queries):
    scores, ids = searching.search(refined, queries, 5, nprobe=LISTS)
    assert scores.shape == ids.shape == (200, 5)
    assert ids.dtype == np.int64
    assert (np.diff(scores, axis=1) >= 0).all()


def test_lists_that_run_out_give_minus_one(plain, queries):
    _, ids = searching.search(plain, queries[:5], 1000, nprobe=1)
    assert (ids == -1).any()


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
    ],
)
def test_bad_requests_are_refused_with_the_value_and_the_limit(refined, queries, change, says):
    arguments = {"queries": queries, "k": 5, **change}
    with pytest.raises(InputError, match=says):
        searching.search(refined, **arguments)


def test_parameters_an_index_does_not_have_are_refused(vectors, plain, queries):
    with pytest.raises(InputError, match="does not refine"):
        searching.search(plain, queries, 5, k_factor=2)
    with pytest.raises(InputError, match="no inverted lists"):
        searching.search(filled(vectors, Flat("l2")), queries, 5, nprobe=2)
