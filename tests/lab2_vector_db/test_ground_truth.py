import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab2_vector_db.ground_truth import exact_neighbours, exact_scores, fingerprint

METRICS = ["inner_product", "l2"]


class Generated:
    """Rows made on demand, each from its number; counts the rows it was asked for."""

    def __init__(self, n=5_000, dimension=12, levels=None, fail_at=None):
        self.shape, self.levels, self.fail_at = (n, dimension), levels, fail_at
        self.fingerprint = f"generated {n} {dimension} {levels}"
        self.read = []

    def __getitem__(self, rows):
        if self.fail_at is not None and rows.start >= self.fail_at:
            raise KeyboardInterrupt
        self.read.append((rows.start, rows.stop))
        return rows_of(rows.start, rows.stop, self.shape[1], self.levels)


def rows_of(start, stop, dimension, levels=None):
    counter = np.arange(start * dimension, stop * dimension, dtype=np.uint64).reshape(-1, dimension)
    mixed = (counter * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    values = mixed.astype(np.float32) / 2**23 - 1
    return values if levels is None else np.round(values * levels)


def by_hand(vectors, queries, k, metric):
    """All pairs in float64, ordered by cost and then by id."""
    left, right = queries.astype(np.float64)[:, None], vectors.astype(np.float64)[None]
    cost = -(left * right).sum(-1) if metric == "inner_product" else ((left - right) ** 2).sum(-1)
    ids = np.broadcast_to(np.arange(len(vectors)), cost.shape)
    order = np.lexsort((ids, cost), axis=-1)[:, :k]
    best = np.take_along_axis(cost, order, axis=1)
    return (-best if metric == "inner_product" else best), order


@pytest.fixture(autouse=True)
def _usual_blas_threshold():
    before = faiss.cvar.distance_compute_blas_threshold
    yield
    faiss.cvar.distance_compute_blas_threshold = before


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_blocks_give_what_one_comparison_of_all_pairs_gives(metric, block_rows):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 12)).astype(np.float32)
    queries = rng.standard_normal((40, 12)).astype(np.float32)
    scores, ids = exact_neighbours(vectors, queries, 10, metric, block_rows=block_rows)
    expected_scores, expected = by_hand(vectors, queries, 10, metric)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    n=st.integers(1, 120),
    n_queries=st.integers(1, 5),
    block_rows=st.integers(1, 130),
    metric=st.sampled_from(METRICS),
    levels=st.sampled_from([None, 1, 3]),
    data=st.data(),
)
def test_the_answer_is_exact_whatever_the_blocks_and_however_many_ties(
    n, n_queries, block_rows, metric, levels, data
):
    """Ties are settled by the lower id, so two block sizes never disagree."""
    k = data.draw(st.integers(1, n))
    source = Generated(n, 4, levels)
    queries = rows_of(10_000, 10_000 + n_queries, 4, levels)
    scores, ids = exact_neighbours(source, queries, k, metric, block_rows=block_rows)
    expected_scores, expected = by_hand(source[0:n], queries, k, metric)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threshold", [1, 10**9])
def test_near_duplicates_far_from_the_origin_keep_their_order(metric, threshold):
    """float32 cannot order them: |q|^2 + |x|^2 - 2 q.x cancels (faiss with BLAS: threshold 1)."""
    faiss.cvar.distance_compute_blas_threshold = threshold
    rng = np.random.default_rng(0)
    centre = 30 + rng.standard_normal(32)
    vectors = (centre + 1e-3 * rng.standard_normal((3_000, 32))).astype(np.float32)
    queries = (centre + 1e-3 * rng.standard_normal((30, 32))).astype(np.float32)
    _, expected = by_hand(vectors, queries, 10, metric)
    _, in_float32 = faiss.knn(queries, vectors, 10, metric=metric == "l2")
    if threshold == 1:
        assert (in_float32 != expected).any(), "the data should be hard for float32"
    _, ids = exact_neighbours(vectors, queries, 10, metric, block_rows=1_000)
    np.testing.assert_array_equal(ids, expected)


def test_more_duplicates_than_a_block_gives_candidates():
    """500 copies of the nearest vector: the ten with the lowest ids are the answer."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2_000, 8)).astype(np.float32)
    copies = np.sort(rng.choice(2_000, 500, replace=False))
    vectors[copies] = vectors[copies[0]]
    query = vectors[copies[:1]] + np.float32(1e-3)
    _, ids = exact_neighbours(vectors, query, 10, "l2", block_rows=900)
    np.testing.assert_array_equal(ids[0], copies[:10])


def test_an_interrupted_run_goes_on_at_the_first_missing_block(tmp_path):
    queries = rows_of(90_000, 90_030, 12)
    whole = exact_neighbours(Generated(), queries, 10)
    with pytest.raises(KeyboardInterrupt):
        exact_neighbours(Generated(fail_at=3_000), queries, 10, folder=tmp_path, block_rows=1_000)
    source, done = Generated(), []
    resumed = exact_neighbours(
        source, queries, 10, folder=tmp_path, block_rows=700, progress=done.append
    )
    assert source.read == [(3_000, 3_700), (3_700, 4_400), (4_400, 5_000)]
    assert done == [3_700, 4_400, 5_000]
    np.testing.assert_array_equal(resumed.ids, whole.ids)
    np.testing.assert_array_equal(resumed.scores, whole.scores)


def test_a_finished_run_is_read_back(tmp_path):
    queries = rows_of(90_000, 90_003, 12)
    first = exact_neighbours(Generated(), queries, 10, "l2", folder=tmp_path)
    source = Generated()
    again = exact_neighbours(source, queries, 10, "l2", folder=tmp_path)
    assert source.read == []
    np.testing.assert_array_equal(again.ids, first.ids)
    np.testing.assert_array_equal(again.scores, first.scores)


def test_the_state_of_other_inputs_is_ignored(tmp_path):
    """One folder, five truths: other queries, k, metric or rows never meet each other's state."""
    vectors, queries = rows_of(0, 400, 6), rows_of(900, 905, 6)
    other = vectors.copy()
    other[200] += 1
    cases = [
        (vectors, queries, 5, "l2"),
        (vectors, queries[::-1], 5, "l2"),
        (vectors, queries, 6, "l2"),
        (vectors, queries, 5, "inner_product"),
        (other, queries, 5, "l2"),
        (vectors[:-1], queries, 5, "l2"),
    ]
    for case in cases:
        found = exact_neighbours(*case, folder=tmp_path, block_rows=100)
        np.testing.assert_array_equal(found.ids, by_hand(*case)[1])
    assert len(list(tmp_path.iterdir())) == len(cases)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", None])
def test_a_damaged_state_is_an_error_that_names_the_file(tmp_path, damage):
    vectors, queries = rows_of(0, 400, 6), rows_of(900, 905, 6)
    exact_neighbours(vectors, queries, 5, folder=tmp_path)
    (state,) = tmp_path.iterdir()
    raw = state.read_bytes()
    if damage is None:
        middle = raw.index(b"ids.npy") + 300
        state.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])
    else:
        state.write_bytes(damage(raw))
    with pytest.raises(RunError, match=f"{state.name}.*delete it"):
        exact_neighbours(vectors, queries, 5, folder=tmp_path)


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from test_ground_truth import Generated, rows_of
from labs.lab2_vector_db.ground_truth import exact_neighbours

class Slow(Generated):
    def __getitem__(self, rows):
        time.sleep(0.05)
        with open({log!r}, "a") as log:
            log.write(f"{{rows.start}}\\n")
        return super().__getitem__(rows)

exact_neighbours(Slow(), rows_of(90_000, 90_030, 12), 10, folder={folder!r}, block_rows=100)
"""


@pytest.mark.slow
def test_kill_9_and_again_gives_the_same_answer_without_redoing_blocks(tmp_path):
    """Each kill costs at most the block it hit: the others are read once."""
    log, folder = tmp_path / "log", tmp_path / "state"
    here = Path(__file__).resolve()
    script = CHILD.format(
        tests=str(here.parent), root=str(here.parents[2]), log=str(log), folder=str(folder)
    )
    kills = 0
    for blocks in (8, 20, 33):
        child = subprocess.Popen([sys.executable, "-c", script])
        deadline = time.monotonic() + 60
        while not log.exists() or len(log.read_text().splitlines()) < blocks:
            assert child.poll() is None, "the child ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    starts = [int(line) for line in log.read_text().splitlines()]
    assert sorted(set(starts)) == list(range(0, 5_000, 100))
    assert len(starts) - 50 <= kills, f"{len(starts) - 50} blocks were read twice by {kills} kills"
    queries = rows_of(90_000, 90_030, 12)
    source = Generated()
    found = exact_neighbours(source, queries, 10, folder=folder)
    assert source.read == []
    _, expected = by_hand(Generated()[0:5_000], queries, 10, "inner_product")
    np.testing.assert_array_equal(found.ids, expected)


def test_a_memmap_is_read_a_block_at_a_time(tmp_path):
    vectors = rows_of(0, 1_000, 6)
    vectors.tofile(tmp_path / "rows.f32")
    mapped = np.memmap(tmp_path / "rows.f32", np.float32, "r", shape=(1_000, 6))
    queries = rows_of(5_000, 5_004, 6)
    found = exact_neighbours(mapped, queries, 3, "l2", block_rows=128)
    np.testing.assert_array_equal(found.ids, by_hand(vectors, queries, 3, "l2")[1])


@pytest.mark.parametrize("as_source", [lambda rows: rows, lambda rows: Generated(200, 6)])
def test_scores_of_given_ids_are_true_and_nan_where_nothing_was_found(as_source):
    vectors, queries = rows_of(0, 200, 6), rows_of(500, 502, 6)
    ids = np.array([[3, -1, 150], [3, 3, -1]])
    for metric in METRICS:
        scores = exact_scores(as_source(vectors), queries, ids, metric)
        every, order = by_hand(vectors, queries, 200, metric)
        for row, column in [(0, 0), (0, 2), (1, 0), (1, 1)]:
            place = list(order[row]).index(ids[row, column])
            assert scores[row, column] == every[row, place]
        assert np.isnan(scores[0, 1])
        assert np.isnan(scores[1, 2])


def test_nothing_found_at_all_has_no_scores():
    scores = exact_scores(rows_of(0, 9, 6), rows_of(10, 12, 6), np.full((2, 3), -1), "l2")
    assert np.isnan(scores).all()


def test_the_fingerprint_is_the_sources_own_where_it_has_one():
    queries = rows_of(0, 1, 12)
    source = Generated()
    assert fingerprint(source, queries, 1, "l2") == fingerprint(Generated(), queries, 1, "l2")
    assert source.read == []
    assert fingerprint(source, queries, 1, "l2") != fingerprint(
        Generated(levels=3), queries, 1, "l2"
    )


def test_bad_input_is_one_clear_error():
    vectors, queries = rows_of(0, 50, 6), rows_of(90, 92, 6)
    with pytest.raises(InputError, match="k = 51 must be from 1 to 50"):
        exact_neighbours(vectors, queries, 51)
    with pytest.raises(InputError, match="queries"):
        exact_neighbours(vectors, queries[:, :5], 3)
    with pytest.raises(InputError, match="metric = 'cosine'"):
        exact_neighbours(vectors, queries, 3, "cosine")
    with pytest.raises(InputError, match="block_rows = 0"):
        exact_neighbours(vectors, queries, 3, block_rows=0)
    vectors[31, 2] = np.nan
    with pytest.raises(InputError, match="source row 31"):
        exact_neighbours(vectors, queries, 3, block_rows=20)
    with pytest.raises(InputError, match="ids = 50 must be < 50"):
        exact_scores(vectors, queries, np.array([[50], [0]]), "l2")


def test_a_source_that_returns_other_rows_than_asked_for_is_refused():
    class Short(Generated):
        def __getitem__(self, rows):
            return super().__getitem__(rows)[:-1]

    with pytest.raises(InputError, match=r"source\[0:100\]"):
        exact_neighbours(Short(), rows_of(0, 1, 12), 3, block_rows=100)
