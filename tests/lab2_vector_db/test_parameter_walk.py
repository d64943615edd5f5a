import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab2_vector_db.parameter_walk import Knobs, knobs, walk_staircase

FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def made(factory, dimension=16):
    """Untrained, except for graphs, whose largest ef_search is the number of vectors."""
    index = faiss.index_factory(dimension, factory)
    if "HNSW8" in factory and "IVF" not in factory:
        vectors = np.random.default_rng(0).standard_normal((1_000, dimension)).astype(np.float32)
        index.train(vectors)
        index.add(vectors)
    return index


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("Flat", Knobs(None, 1, 1, False)),
        ("IVF16,Flat", Knobs("nprobe", 1, 16, False)),
        ("IVF16_HNSW8,PQ8x4fs,RFlat", Knobs("nprobe", 1, 16, True)),
        ("OPQ8,IVF16,PQ8x4fs,Refine(SQ8)", Knobs("nprobe", 1, 16, True)),
        ("IDMap2,IVF16,PQ8x4fs,RFlat", Knobs("nprobe", 1, 16, True)),
        ("HNSW8", Knobs("ef_search", 10, 1_000, False)),
        ("HNSW8,SQ8", Knobs("ef_search", 10, 1_000, False)),
        ("PQ8x4fs,RFlat", Knobs(None, 1, 1, True)),
    ],
)
def test_what_can_be_set_is_found_through_every_wrapper(factory, expected):
    assert knobs(made(factory), k=10) == expected


class Model:
    """Recall is reached from nprobe >= need[k_factor] on; latency is linear in both."""

    def __init__(self, need, per_list, per_candidate):
        self.need, self.per_list, self.per_candidate = need, per_list, per_candidate
        self.tried = []

    def latency(self, nprobe, k_factor):
        return 0.1 + self.per_list * nprobe + self.per_candidate * k_factor

    def __call__(self, setting):
        key = (setting["nprobe"], setting["k_factor"])
        assert key not in self.tried, f"{key} was tried twice"
        self.tried.append(key)
        return key[0] >= self.need[key[1]], self.latency(*key)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.integers(1, 5_000), min_size=6, max_size=6),
    st.floats(1e-4, 0.1),
    st.floats(1e-4, 0.3),
)
def test_the_walk_finds_the_fastest_setting_in_a_few_dozen_runs(needs, per_list, per_candidate):
    """A grid of the same resolution has 6 * 165 settings. Needs above 4,096 cannot be met."""
    need = dict(zip(FACTORS, sorted(needs, reverse=True)))
    model = Model(need, per_list, per_candidate)
    walk_staircase(model, Knobs("nprobe", 1, 4_096, True), FACTORS, 1.05, float("inf"))
    found = [model.latency(*key) for key in model.tried if key[0] >= need[key[1]]]
    possible = [model.latency(n, factor) for factor, n in need.items() if n <= 4_096]
    assert bool(found) == bool(possible)
    if possible:
        assert min(found) <= 1.12 * min(possible) + 0.02
    assert len(model.tried) <= 75


def test_slow_settings_are_not_run_once_a_fast_one_is_known():
    """Without refinement of many candidates 4,000 lists would be needed, a hundred times slower."""
    need = dict(zip(FACTORS, (4_000, 3_000, 40, 32, 30, 30)))
    model = Model(need, per_list=0.01, per_candidate=0.001)
    walk_staircase(model, Knobs("nprobe", 1, 4_096, True), FACTORS, 1.05, float("inf"))
    assert max(nprobe for nprobe, _ in model.tried) < 120


def test_an_unreachable_target_ends_at_the_last_list_and_the_largest_k_factor():
    model = Model(dict.fromkeys(FACTORS, 10**9), 0.01, 0.01)
    walk_staircase(model, Knobs("nprobe", 1, 4_096, True), FACTORS, 1.05, float("inf"))
    assert model.tried[-1] == (4_096, 32.0)
    assert {factor for _, factor in model.tried} == {32.0}


def test_recall_that_is_not_monotone_still_ends_at_a_value_that_reaches():
    tried = {}

    def attempt(setting):
        nprobe = setting["nprobe"]
        tried[nprobe] = nprobe >= 40 and nprobe % 7 != 0
        return tried[nprobe], nprobe / 100

    walk_staircase(attempt, Knobs("nprobe", 1, 256, False), (1.0,), 1.05, float("inf"))
    assert any(tried.values())
    assert min(n for n, reached in tried.items() if reached) < 50


def test_an_index_without_lists_or_graph_tries_each_k_factor():
    tried = []
    walk_staircase(
        lambda setting: (tried.append(dict(setting)) or True, 1.0),
        Knobs(None, 1, 1, True),
        (1.0, 4.0),
        1.05,
        float("inf"),
    )
    assert tried == [{"k_factor": 4.0}, {"k_factor": 1.0}]
