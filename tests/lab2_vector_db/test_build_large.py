import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import faiss
import numpy as np
import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db.index_building import (
    append,
    build_large,
    new_index,
    sample_rows,
    training_size,
)
from labs.lab2_vector_db.index_types import (
    HNSW,
    IVF,
    OPQ,
    PQ,
    SQ,
    Exact,
    Flat,
    RaBitQ,
    RandomRotation,
    Recipe,
)

N, D = 3001, 24
RECIPES = [
    Recipe(),
    Recipe(Flat(), PQ(6, 4), RandomRotation(), SQ(8)),
    Recipe(Flat(), RaBitQ(2), metric="l2"),
    Recipe(IVF(13, nprobe=13), SQ(6), refine=Exact()),
    Recipe(IVF(13, nprobe=13), PQ(6, 4), OPQ(6, niter=2), SQ(8), 50, "l2"),
    Recipe(IVF(13, centroids="hnsw", nprobe=13), PQ(6, 4, residual=False), metric="l2"),
    Recipe(IVF(13, nprobe=13), RaBitQ(4), RandomRotation(), Exact(), metric="l2"),
]
CODED = RECIPES[4]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost more than they bring on indexes this small."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


class Counted:
    """Rows on demand; counts the slices read, and stops at one of them as a full disk might."""

    def __init__(self, vectors, fail_at=None):
        self.vectors, self.fail_at, self.read = vectors, fail_at, []
        self.shape = vectors.shape
        self.fingerprint = "counted"

    def __getitem__(self, rows):
        if rows.stop - rows.start == 700 and rows.start == self.fail_at:
            raise KeyboardInterrupt
        self.read.append((rows.start, rows.stop))
        return self.vectors[rows]


def require_same(found, expected, queries):
    """Every stored vector's score for every query, under its row number."""
    assert found.ntotal == expected.ntotal
    for one, two in zip(found.search(queries, N), expected.search(queries, N)):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.factory)
def test_slices_merge_into_the_index_built_at_once(vectors, recipe, tmp_path):
    built = build_large(vectors, recipe, tmp_path, slice_rows=700)
    expected = faiss.read_index(str(tmp_path / "trained.faiss"))
    expected.add(vectors)
    require_same(built, expected, vectors[:20])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"build.json", "trained.faiss", "index.faiss", "lock"}


def test_a_build_that_was_stopped_goes_on_at_the_first_missing_slice(vectors, tmp_path):
    stopped = Counted(vectors, fail_at=1400)
    with pytest.raises(KeyboardInterrupt):
        build_large(stopped, CODED, tmp_path / "a", slice_rows=700)
    source = Counted(vectors)
    built = build_large(source, CODED, tmp_path / "a", slice_rows=700)
    assert source.read == [(1400, 2100), (2100, 2800), (2800, 3001)]
    require_same(built, build_large(vectors, CODED, tmp_path / "b", slice_rows=700), vectors[:20])


def test_a_finished_build_is_read_and_nothing_is_done_again(vectors, tmp_path):
    build_large(Counted(vectors), CODED, tmp_path, slice_rows=700)
    source = Counted(vectors)
    build_large(source, CODED, tmp_path, slice_rows=700)
    assert source.read == []


def test_progress_names_every_step(vectors, tmp_path):
    told = []
    build_large(
        vectors, CODED, tmp_path, slice_rows=2000, progress=lambda done, text: told.append(done)
    )
    assert told == [0, 0, 2000, N]


@pytest.mark.parametrize(
    "change", [{"recipe": RECIPES[3]}, {"slice_rows": 800}, {"seed": 1}, {"train_size": 2000}]
)
def test_a_folder_of_another_build_is_refused(vectors, tmp_path, change):
    given = {"recipe": CODED, "slice_rows": 700, "folder": tmp_path}
    build_large(vectors, **given)
    with pytest.raises(InputError, match=f"another build: {next(iter(change))} differ"):
        build_large(vectors, **{**given, **change})
    with pytest.raises(InputError, match="another build: source differ"):
        build_large(vectors + 1, **given)


def test_two_builders_in_one_folder_are_refused(vectors, tmp_path):
    class Nested(Counted):
        def __getitem__(self, rows):
            if len(self.read) > 12:
                build_large(Counted(self.vectors), CODED, tmp_path, slice_rows=700)
            return super().__getitem__(rows)

    with pytest.raises(InputError, match="process"):
        build_large(Nested(vectors), CODED, tmp_path, slice_rows=700)


def test_a_graph_is_refused(vectors, tmp_path):
    with pytest.raises(InputError, match="no parts"):
        build_large(vectors, Recipe(HNSW(8)), tmp_path)


def test_rows_that_are_not_finite_are_refused_with_their_place(vectors, tmp_path):
    spoiled = vectors.copy()
    spoiled[1500, 3] = np.nan
    trained_on_all = {"train_size": N, "slice_rows": 700}
    with pytest.raises(InputError, match="source row 1500"):
        build_large(spoiled, CODED, tmp_path / "a", **trained_on_all)
    build = Counted(vectors, fail_at=700)
    with pytest.raises(KeyboardInterrupt):
        build_large(build, CODED, tmp_path / "b", **trained_on_all)
    build.fail_at, build.vectors = None, spoiled
    with pytest.raises(InputError, match=r"source\[1400:2100\] row 100"):
        build_large(build, CODED, tmp_path / "b", **trained_on_all)


def test_a_slice_of_another_length_is_refused(vectors, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build_large(Counted(vectors, fail_at=700), CODED, tmp_path, slice_rows=700)
    (tmp_path / "part-000000000700.faiss").write_bytes((tmp_path / "trained.faiss").read_bytes())
    with pytest.raises(RunError, match="holds 0 rows, expected 700"):
        build_large(Counted(vectors), CODED, tmp_path, slice_rows=700)


def test_appended_vectors_of_a_refined_index_are_numbered_on(vectors):
    first, second = new_index(D, CODED), new_index(D, CODED)
    for index, rows in ((first, slice(0, 1000)), (second, slice(1000, 1500))):
        index.train(vectors)
        index.add(vectors[rows])
    append(first, second)
    assert (first.ntotal, first.refine_index.ntotal) == (1500, 1500)
    _, found = first.search(vectors[:1500], 1)
    assert (found[:, 0] == np.arange(1500)).mean() > 0.95


@pytest.mark.parametrize("size", [1, 100, 1000, N - 1, N])
def test_a_sample_covers_sorted_rows_evenly(size):
    rows = np.repeat(np.arange(N, dtype=np.float32)[:, None], 2, axis=1)
    sample = sample_rows(rows, size, seed=3)[:, 0]
    assert len(sample) == size
    assert len(np.unique(sample)) > 0.98 * size
    if size >= 1000:
        assert np.abs(np.quantile(sample, [0.1, 0.5, 0.9]) / N - [0.1, 0.5, 0.9]).max() < 0.05


def test_the_training_size_is_what_k_means_can_use():
    assert training_size(Recipe(), 10**7) == 65_536
    assert training_size(Recipe(IVF(16384, points_per_centroid=50)), 10**7) == 819_200
    assert training_size(Recipe(IVF(16384)), 5000) == 5000


CHILD = """
    import sys, time
    import faiss, numpy as np
    from labs.lab2_vector_db.index_building import build_large
    from labs.lab2_vector_db.index_types import IVF, OPQ, PQ, SQ, Recipe

    class Slow:
        shape, fingerprint = (3001, 24), "slow"
        rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        def __getitem__(self, rows):
            time.sleep(0.02)
            return self.rows[rows]

    faiss.omp_set_num_threads(1)
    recipe = Recipe(IVF(13, nprobe=13), PQ(6, 4), OPQ(6, niter=2), SQ(8), 50, "l2")
    build_large(
        Slow(), recipe, sys.argv[1], slice_rows=100,
        progress=lambda done, text: print(done, text, flush=True),
    )
"""


@pytest.mark.slow
def test_a_build_killed_at_random_moments_ends_as_the_same_index(vectors, tmp_path):
    """kill -9 while it trains, writes, merges: what is left is always a whole number of steps."""
    rng = random.Random(0)
    kills = 0
    for _ in range(60):
        command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "killed")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            wait_for = rng.randrange(1, 6)
            for count, _line in enumerate(child.stdout, 1):
                if count == wait_for and kills < 10:
                    time.sleep(rng.random() * 0.04)
                    os.kill(child.pid, signal.SIGKILL)
                    break
            code = child.wait(timeout=60)
        finally:
            child.kill()
            child.stdout.close()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 5, f"killed {kills} times"
    found = faiss.read_index(str(tmp_path / "killed" / "index.faiss"))
    require_same(found, build_large(vectors, CODED, tmp_path / "whole"), vectors[:20])
    assert not list((tmp_path / "killed").glob("part-*"))
