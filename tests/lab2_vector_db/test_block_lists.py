import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab2_vector_db.block_lists import merge_lists

D = 24
CODE_BYTES = {"PQ6x4fs": 3, "PQ6x4fsr": 3, "RaBitQfs": 11, "PQ6x4np": 3}


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((1100, D)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(vectors):
    """(lists, code) -> the trained, empty index as bytes."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    made = {}
    for code in CODE_BYTES:
        for lists in (1, 3):
            index = faiss.index_factory(D, f"IVF{lists},{code}")
            index.train(vectors)
            made[lists, code] = faiss.serialize_index(index)
    yield made
    faiss.omp_set_num_threads(threads)


def filled(trained, vectors):
    index = faiss.deserialize_index(trained)
    index.nprobe = 3
    if len(vectors):
        index.add(vectors)
    return index


def require_same(merged, whole, queries):
    """The distance of every stored vector to every query, under its id."""
    assert merged.ntotal == whole.ntotal
    for one, two in zip(merged.search(queries, whole.ntotal), whole.search(queries, whole.ntotal)):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("code", CODE_BYTES)
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("more", [1, 31, 32, 100])
def test_a_list_as_long_as_a_block_has_bytes_is_not_overrun(trained, vectors, code, blocks, more):
    """faiss's own merge_from writes beyond the end of such a list."""
    held = blocks * 32 * CODE_BYTES[code]
    merged = filled(trained[1, code], vectors[:held])
    merge_lists(merged, filled(trained[1, code], vectors[held : held + more]), held)
    require_same(merged, filled(trained[1, code], vectors[: held + more]), vectors[:20])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(CODE_BYTES)), st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_merged_parts_are_the_whole(trained, vectors, code, sizes):
    merged, start = filled(trained[3, code], vectors[:0]), 0
    for size in sizes:
        part = filled(trained[3, code], vectors[start : start + size])
        merge_lists(merged, part, start)
        start += size
        assert part.ntotal == 0
    if start:
        require_same(merged, filled(trained[3, code], vectors[:start]), vectors[:20])
