import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db import on_disk
from labs.lab2_vector_db.index_types import IVF, OPQ, PQ, SQ, Exact, RandomRotation, Recipe
from labs.lab2_vector_db.search import search
from labs.lab2_vector_db.sharding import train

N, D = 4000, 16
ON_LINUX = Path("/proc/self/status").is_file()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small work for many threads is slow work on a machine that does something else as well."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((50, D)).astype(np.float32)


def saved_parts(trained, vectors, folder, cuts=(0, 1500, 1501, N)):
    parts = []
    for number, (start, stop) in enumerate(zip(cuts, cuts[1:])):  # noqa: RUF007
        part = faiss.clone_index(trained)
        part.add_with_ids(vectors[start:stop], np.arange(start, stop) * 7)
        parts.append(folder / f"part-{number}.faiss")
        faiss.write_index(part, str(parts[-1]))
    return parts


@pytest.fixture
def merged(vectors, tmp_path):
    """A folder written by merge_on_disk, the trained index, and the same index in memory."""
    trained = train(vectors, Recipe(IVF(16, nprobe=5), SQ(8), metric="l2"))
    whole = faiss.clone_index(trained)
    whole.add_with_ids(vectors, np.arange(N) * 7)
    on_disk.merge_on_disk(trained, saved_parts(trained, vectors, tmp_path), tmp_path / "a")
    return tmp_path / "a", trained, whole


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(IVF(16, nprobe=5), metric="l2"),
        Recipe(IVF(16, centroids="hnsw", nprobe=5), SQ(6), metric="l2"),
        Recipe(IVF(16, nprobe=5), SQ(4), rotation=RandomRotation()),
    ],
    ids=lambda recipe: recipe.factory,
)
def test_lists_on_disk_answer_as_lists_in_memory(recipe, vectors, queries, tmp_path):
    trained = train(vectors, recipe)
    whole = faiss.clone_index(trained)
    whole.add_with_ids(vectors, np.arange(N) * 7)
    parts = saved_parts(trained, vectors, tmp_path)
    index = on_disk.merge_on_disk(trained, parts, tmp_path / "merged")
    assert index.ntotal == N
    scores, ids = search(index, queries, 10)
    expected_scores, expected = search(whole, queries, 10)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)
    assert trained.ntotal == 0, "the trained index is still the empty one"


def test_a_copied_folder_searches_its_own_lists(merged, vectors, queries, tmp_path):
    """The index file holds an absolute path; the original is another collection by now."""
    folder, trained, whole = merged
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    on_disk.merge_on_disk(trained, saved_parts(trained, -vectors, tmp_path), folder)
    _, ids = search(on_disk.open_on_disk(copy), queries, 10)
    np.testing.assert_array_equal(ids, search(whole, queries, 10)[1])


def test_lists_cut_short_are_refused_before_a_search_dies_of_them(merged):
    folder, _, _ = merged
    lists = folder / on_disk.LISTS
    size = lists.stat().st_size
    lists.write_bytes(lists.read_bytes()[:-100])
    with pytest.raises(RunError, match=f"{size - 100} bytes, expected {size}"):
        on_disk.open_on_disk(folder)


@pytest.mark.parametrize("missing", [on_disk.INDEX, on_disk.LISTS])
def test_a_missing_file_is_named(merged, missing):
    folder, _, _ = merged
    (folder / missing).unlink()
    with pytest.raises(InputError, match=missing):
        on_disk.open_on_disk(folder)


def test_a_failed_merge_leaves_no_folder(merged, vectors, tmp_path):
    """An id in two parts, a part trained otherwise: refused, and nothing is half-written."""
    _, trained, _ = merged
    parts = saved_parts(trained, vectors, tmp_path)
    with pytest.raises(InputError, match="in two of the indexes"):
        on_disk.merge_on_disk(trained, [parts[0], parts[0]], tmp_path / "new")
    other = train(vectors[:1000], Recipe(IVF(16), SQ(8), metric="l2"))
    with pytest.raises(InputError, match="another coarse quantizer"):
        on_disk.merge_on_disk(other, parts, tmp_path / "new")
    with pytest.raises(InputError, match="must not exist"):
        on_disk.merge_on_disk(trained, parts, tmp_path / "a")
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (Recipe(IVF(16), PQ(8, 4)), "blocks of 32"),
        (Recipe(IVF(16), SQ(4), refine=SQ(8)), "outside inverted lists"),
        (Recipe(code=SQ(8)), "outside inverted lists"),
    ],
    ids=lambda value: getattr(value, "factory", None),
)
def test_recipes_without_lists_on_disk_are_refused(recipe, says, vectors, tmp_path):
    with pytest.raises(InputError, match=says):
        on_disk.merge_on_disk(train(vectors, recipe), [tmp_path / "any"], tmp_path / "new")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(IVF(16, nprobe=5), PQ(8, 4), refine=SQ(8)),
        Recipe(IVF(16, nprobe=5), PQ(8, 4), rotation=OPQ(8, niter=2), refine=Exact()),
    ],
    ids=lambda recipe: recipe.factory,
)
def test_a_mapped_index_answers_as_a_read_one(recipe, vectors, queries, tmp_path):
    index = train(vectors, recipe)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    mapped = on_disk.open_mapped(tmp_path / "index.faiss")
    for ours, expected in zip(search(mapped, queries, 10), search(index, queries, 10)):
        np.testing.assert_array_equal(ours, expected)
    with pytest.raises(InputError, match="no file"):
        on_disk.open_mapped(tmp_path / "other.faiss")


@pytest.mark.slow
@pytest.mark.skipif(not ON_LINUX, reason="needs /proc/self/status")
def test_an_index_on_disk_takes_less_memory_of_its_own(tmp_path):
    """A 32 MB index read whole takes 32 MB; the same lists on disk, a few pages of a file."""
    vectors = np.random.default_rng(0).standard_normal((80_000, 96)).astype(np.float32)
    recipe = Recipe(IVF(64, nprobe=4, niter=4), metric="l2")
    report = on_disk.compare(vectors, vectors[:20], recipe, tmp_path / "files")
    whole = report.lists_file_bytes
    assert report.same_ids == 1.0
    assert whole >= vectors.nbytes
    assert report.index_file_bytes < whole / 100, "what is written as the index is not its data"
    assert report.in_memory.opened_anonymous > 0.9 * whole
    for one in (report.on_disk, report.mapped):
        assert one.searched_anonymous < 0.3 * whole
        assert one.opened_mapped < one.searched_mapped < 0.9 * whole + 2**23
