import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab2_vector_db.live_search import scan, search_alive
from labs.lab2_vector_db.tombstones import from_mask


class StoredPart:
    """Rows with a tombstone bit each; its index knows nothing of tombstones, as a real one."""

    def __init__(self, ids, vectors, alive, *, larger_is_better=False, runs_out_at=None):
        self.ids = np.asarray(ids, np.int64)
        self.vectors = np.asarray(vectors, np.float32)
        self.living = np.asarray(alive, bool)
        self.n_alive = int(self.living.sum())
        self.larger_is_better = larger_is_better
        self.runs_out_at = len(self.ids) if runs_out_at is None else runs_out_at
        self.exact_queries = 0

    def _ranked(self, queries, k, rows):
        if self.larger_is_better:
            scores = queries @ self.vectors[rows].T
        else:
            scores = ((queries[:, None] - self.vectors[None, rows]) ** 2).sum(axis=2)
        order = np.argsort(-scores if self.larger_is_better else scores, axis=1)[:, :k]
        missing = ((0, 0), (0, k - order.shape[1]))
        best = np.take_along_axis(scores, order, 1).astype(np.float32)
        return (
            np.pad(best, missing, constant_values=-3.4e38 if self.larger_is_better else 3.4e38),
            np.pad(rows[order].astype(np.int64), missing, constant_values=-1),
        )

    def nearest(self, queries, k):
        scores, rows = self._ranked(queries, k, np.arange(len(self.ids)))
        rows[:, self.runs_out_at :] = -1
        return scores, rows

    def alive(self, rows):
        return self.living[rows] & (rows >= 0)

    def exact(self, queries, k):
        self.exact_queries += len(queries)
        return self._ranked(queries, k, np.flatnonzero(self.living))


def points(*values):
    """One-dimensional vectors, so that a distance is seen at once."""
    return np.array(values, np.float32)[:, None]


ORIGIN = points(0)


@pytest.mark.exercise("2.8")
def test_rows_of_all_parts_come_best_first_with_their_ids():
    """Two parts, interleaved distances; ids are not row numbers.

    Rows are positions inside one part. To return them as ids, or to append one part's answer to the
    other's, gives answers that look right until there is a second segment.
    """
    memory = StoredPart([70, 50], points(2, 4), [True, True])
    segment = StoredPart([90, 60, 80], points(3, 1, 5), [True, True, True])
    scores, ids = search_alive([memory, segment], ORIGIN, 4, larger_is_better=False)
    assert ids.tolist() == [[60, 70, 90, 50]], f"ids {ids.tolist()}, expected [[60, 70, 90, 50]]"
    assert scores.tolist() == [[1, 4, 9, 16]], f"scores {scores.tolist()}"
    assert ids.dtype == np.int64


@pytest.mark.exercise("2.8")
def test_for_inner_products_the_largest_score_is_the_best():
    """The same merge with the order turned round, the empty slots still last.

    Every inner product here is negative: a filler of 0 would come first.
    """
    memory = StoredPart([7], points(2), [True], larger_is_better=True)
    segment = StoredPart([8, 9], points(1, 3), [True, True], larger_is_better=True)
    scores, ids = search_alive([memory, segment], points(-1), 4, larger_is_better=True)
    assert ids.tolist() == [[8, 7, 9, -1]], f"ids {ids.tolist()}, expected [[8, 7, 9, -1]]"
    assert scores[0, :3].tolist() == [-1, -2, -3], f"scores {scores.tolist()}"


@pytest.mark.exercise("2.8")
def test_deleted_and_superseded_rows_are_never_returned():
    """Id 7 was replaced (its old row lies nearer) and id 8 deleted: neither old row may appear.

    A deleted document that is still found is a privacy incident, an old price a wrong order.
    """
    memory = StoredPart([7], points(3), [True])
    segment = StoredPart([7, 8, 9], points(1, 1.5, 2), [False, False, True])
    scores, ids = search_alive([memory, segment], ORIGIN, 3, larger_is_better=False)
    assert ids.tolist() == [[9, 7, -1]], f"ids {ids.tolist()}, expected [[9, 7, -1]]"
    assert scores[0, :2].tolist() == [4, 9], f"scores {scores.tolist()}, expected 4, 9"


@pytest.mark.exercise("2.8")
def test_k_living_rows_are_returned_even_where_the_nearest_are_all_dead():
    """30 rows, the nearest 20 deleted, k = 10: the 10 that are left must come.

    Fetching k and dropping the dead afterwards is how a search gets empty when an area was deleted.
    """
    alive = np.arange(30) >= 20
    segment = StoredPart(np.arange(100, 130), points(*range(1, 31)), alive)
    _, ids = search_alive([segment], ORIGIN, 10, larger_is_better=False)
    expected = np.arange(120, 130)
    assert ids.tolist() == [expected.tolist()], f"{(ids >= 0).sum()} of 10 rows found: {ids}"


@pytest.mark.exercise("2.8")
def test_an_index_that_runs_out_does_not_hide_living_rows():
    """The visited lists hold 2 rows of 8: the other 6 are living and asked for."""
    segment = StoredPart(np.arange(8), points(*range(1, 9)), np.ones(8, bool), runs_out_at=2)
    _, ids = search_alive([segment], ORIGIN, 5, larger_is_better=False)
    assert ids.tolist() == [[0, 1, 2, 3, 4]], f"ids {ids.tolist()}, expected [[0, 1, 2, 3, 4]]"


@pytest.mark.exercise("2.8")
def test_only_the_queries_that_are_short_are_compared_exactly():
    """Two of three queries lie near living rows; one lies among the dead.

    Exact search reads every vector. Doing it for the whole batch because of one query turns 1 ms
    into 100 ms, and nothing but the latency shows it.
    """
    places = np.r_[np.arange(1, 11), np.arange(101, 111), np.arange(211, 221)]
    alive = np.r_[np.ones(10, bool), np.zeros(10, bool), np.ones(10, bool)]
    segment = StoredPart(np.arange(30), points(*places), alive)
    _, ids = search_alive([segment], points(0, 105, 220), 3, larger_is_better=False)
    expected = [[0, 1, 2], [9, 8, 7], [29, 28, 27]]
    assert ids.tolist() == expected, f"ids {ids.tolist()}, expected {expected}"
    assert segment.exact_queries == 1, f"{segment.exact_queries} queries compared exactly, not 1"


@pytest.mark.exercise("2.8")
def test_what_is_missing_is_minus_one_and_nan_and_never_the_last_row():
    """Three rows in all, k = 5, and parts without any row alive.

    In numpy ids[-1] is the last id: translating rows before looking at -1 invents results.
    """
    memory = StoredPart([3, 4], points(1, 2), [True, False])
    dead = StoredPart([4, 5], points(1, 1), [False, False])
    segment = StoredPart([1, 2, 99], points(3, 4, 9), [True, True, False])
    scores, ids = search_alive([memory, dead, segment], ORIGIN, 5, larger_is_better=False)
    assert ids.tolist() == [[3, 1, 2, -1, -1]], f"ids {ids.tolist()}"
    assert np.isnan(scores[0, 3:]).all(), f"empty slots have the scores {scores[0, 3:]}, not NaN"
    scores, ids = search_alive([], points(0, 1), 2, larger_is_better=False)
    assert ids.tolist() == [[-1, -1]] * 2, f"no parts: {ids.tolist()}"
    assert np.isnan(scores).all()


@pytest.mark.exercise("2.8")
def test_of_two_versions_the_newer_wins_though_the_older_is_nearer():
    """Id 7 is alive in two parts, as after a tombstone that was lost: one row, the newer one's.

    Keeping the better score brings back what its owner has overwritten, and keeping both counts a
    result twice.
    """
    newest = StoredPart([7], points(5), [True])
    middle = StoredPart([7, 8], points(1, 6), [True, True])
    oldest = StoredPart([8, 7, 9], points(2, 3, 9), [True, True, True])
    scores, ids = search_alive([newest, middle, oldest], ORIGIN, 3, larger_is_better=False)
    assert ids.tolist() == [[7, 8, 9]], f"ids {ids.tolist()}, expected [[7, 8, 9]]"
    assert scores.tolist() == [[25, 36, 81]], f"scores {scores.tolist()}, expected 25, 36, 81"


@pytest.mark.exercise("2.8")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_parts_answer_as_one_list_of_living_rows(data):
    """Random parts, tombstones, k and metric, against sorting all living rows."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    larger = data.draw(st.booleans())
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    ids = rng.permutation(sum(sizes))
    vectors = rng.standard_normal((len(ids), 3)).astype(np.float32)
    alive = rng.random(len(ids)) < data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    queries = rng.standard_normal((3, 3)).astype(np.float32)
    ends = np.cumsum(sizes)
    parts = [
        StoredPart(
            ids[end - size : end],
            vectors[end - size : end],
            alive[end - size : end],
            larger_is_better=larger,
            runs_out_at=data.draw(st.integers(0, 12)),
        )
        for size, end in zip(sizes, ends)
    ]
    k = data.draw(st.integers(1, 15))
    _, found = search_alive(parts, queries, k, larger_is_better=larger)
    scores = queries @ vectors.T if larger else -((queries[:, None] - vectors) ** 2).sum(axis=2)
    scores[:, ~alive] = -np.inf
    order = np.argsort(-scores, axis=1)[:, : min(k, alive.sum())]
    expected = np.pad(ids[order], ((0, 0), (0, k - order.shape[1])), constant_values=-1)
    assert found.tolist() == expected.tolist(), f"found {found}, expected {expected}"


@pytest.mark.parametrize("n_rows", [1, 7, 3000])
@pytest.mark.parametrize("n_queries", [1, 20])
@pytest.mark.parametrize("larger", [True, False])
def test_scan_finds_the_nearest_allowed_rows_however_it_goes_about_it(n_rows, n_queries, larger):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n_rows, 8)).astype(np.float32)
    queries = rng.standard_normal((n_queries, 8)).astype(np.float32)
    full = queries @ vectors.T if larger else -((queries[:, None] - vectors) ** 2).sum(axis=2)
    for share in (0.0, 0.05, 0.5, 1.0):
        mask = rng.random(n_rows) < share
        scores = np.where(mask, full, -np.inf)
        order = np.argsort(-scores, axis=1)[:, :10]
        best = np.take_along_axis(scores, order, 1)
        expected = np.pad(
            np.where(np.isfinite(best), order, -1),
            ((0, 0), (0, 10 - order.shape[1])),
            constant_values=-1,
        )
        _, rows = scan(queries, vectors, 10, larger_is_better=larger, allowed=from_mask(mask))
        assert (rows == expected).mean() > 0.99, (share, rows, expected)


def test_scan_merges_the_blocks_that_it_gathers(monkeypatch):
    monkeypatch.setattr("labs.lab2_vector_db.live_search.BLOCK_ROWS", 7)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((200, 4)).astype(np.float32)
    allowed = from_mask(np.arange(200) % 10 != 0)
    queries = vectors[:20] + 0.01
    _, rows = scan(queries, vectors, 5, larger_is_better=False, allowed=allowed)
    monkeypatch.undo()
    _, expected = scan(queries, vectors, 5, larger_is_better=False, allowed=allowed)
    np.testing.assert_array_equal(rows, expected)
