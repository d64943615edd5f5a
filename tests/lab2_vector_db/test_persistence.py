import json
import resource

import faiss
import numpy as np
import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db import persistence
from labs.lab2_vector_db.index_building import build_index
from labs.lab2_vector_db.index_types import HNSW, IVF, PQ, SQ, Exact, RandomRotation, Recipe
from labs.lab2_vector_db.search import search

RECIPE = Recipe(IVF(4, nprobe=3), PQ(4, 4), refine=SQ(8), k_factor=5)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost more than they bring on indexes this small."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def index(one_thread):
    vectors = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    return build_index(vectors, RECIPE, ids=100 + np.arange(500))


@pytest.fixture
def saved(index, tmp_path):
    persistence.save_index(index, tmp_path, recipe=RECIPE, version="step-10", extra={"a": 1})
    return tmp_path


def index_file(folder):
    return next(folder.glob("index-*.faiss"))


def test_a_loaded_index_answers_the_same_with_the_same_settings(index, saved):
    copy, manifest = persistence.load_index(saved, expected_version="step-10")
    queries = np.random.default_rng(1).standard_normal((20, 16))
    np.testing.assert_array_equal(search(copy, queries, 5)[1], search(index, queries, 5)[1])
    assert (manifest.count, manifest.dimension, manifest.extra) == (500, 16, {"a": 1})
    assert manifest.typed_recipe() == RECIPE


def test_an_index_of_another_version_is_refused(saved):
    with pytest.raises(InputError, match=r"'step-10', expected 'step-11'"):
        persistence.load_index(saved, expected_version="step-11")


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json"):
        persistence.load_index(tmp_path)


def test_a_truncated_file_is_named_with_both_sizes(saved):
    file = index_file(saved)
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(RunError, match=rf"{file.name} has {size - 7} bytes, expected {size}"):
        persistence.load_index(saved)


def test_a_flipped_bit_is_found(saved):
    file = index_file(saved)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"sha256 .* expected"):
        persistence.load_index(saved)


def test_a_missing_index_file_is_named(saved):
    file = index_file(saved)
    file.unlink()
    with pytest.raises(RunError, match=file.name):
        persistence.load_index(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 9}'])
def test_a_broken_manifest_is_named(saved, text):
    (saved / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json"):
        persistence.load_index(saved)


def test_a_manifest_that_points_outside_its_folder_is_refused(saved):
    path = saved / "manifest.json"
    fields = json.loads(path.read_text()) | {"file": "../elsewhere.faiss"}
    path.write_text(json.dumps(fields))
    with pytest.raises(RunError, match="elsewhere"):
        persistence.load_index(saved)


def test_a_count_that_does_not_match_is_refused(saved):
    path = saved / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 499}))
    with pytest.raises(RunError, match=r"500 vectors .* expected 499"):
        persistence.load_index(saved)


def test_a_failed_save_leaves_the_earlier_index(index, saved):
    with pytest.raises(InputError, match="JSON"):
        persistence.save_index(index, saved, recipe=RECIPE, version="2", extra={"a": object()})
    _, manifest = persistence.load_index(saved)
    assert manifest.version == "step-10"
    assert len(list(saved.iterdir())) == 2, sorted(saved.iterdir())


def test_saving_again_replaces_the_index_and_leaves_nothing_beside(saved):
    vectors = np.random.default_rng(5).standard_normal((300, 16)).astype(np.float32)
    persistence.save_index(build_index(vectors, RECIPE), saved, recipe=RECIPE, version="step-20")
    copy, manifest = persistence.load_index(saved)
    assert (copy.ntotal, manifest.version) == (300, "step-20")
    assert len(list(saved.iterdir())) == 2, sorted(saved.iterdir())


def test_a_version_must_be_given(index, tmp_path):
    with pytest.raises(InputError, match="version"):
        persistence.save_index(index, tmp_path, recipe=RECIPE, version="")


@pytest.fixture
def file_size_limit():
    """Writing beyond the limit fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_a_full_disk_is_an_error_and_leaves_the_earlier_index(
    index, saved, file_size_limit, missing
):
    """faiss.write_index to a path says nothing when only the last buffer did not fit."""
    file_size_limit(index_file(saved).stat().st_size - missing)
    with pytest.raises(RunError, match="space"):
        persistence.save_index(index, saved, recipe=RECIPE, version="step-11")
    _, manifest = persistence.load_index(saved)
    assert manifest.version == "step-10"
    assert len(list(saved.iterdir())) == 2, sorted(saved.iterdir())


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        Recipe(),
        Recipe(HNSW(8), SQ(8)),
        Recipe(IVF(4), SQ(6), RandomRotation(), Exact()),
    ],
    ids=lambda recipe: recipe.factory,
)
def test_a_mapped_index_answers_the_same(recipe, tmp_path):
    vectors = np.random.default_rng(2).standard_normal((600, 16)).astype(np.float32)
    made = build_index(vectors, recipe, ids=7 + np.arange(600))
    persistence.save_index(made, tmp_path, recipe=recipe, version="1")
    mapped, _ = persistence.load_index(tmp_path, memory_map=True)
    expected, found = (search(index, vectors[:30], 5) for index in (made, mapped))
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


def test_a_mapped_index_outlives_the_file_it_came_from(index, saved):
    mapped, _ = persistence.load_index(saved, memory_map=True)
    other = np.random.default_rng(5).standard_normal((300, 16)).astype(np.float32)
    persistence.save_index(build_index(other, RECIPE), saved, recipe=RECIPE, version="step-20")
    queries = np.random.default_rng(1).standard_normal((20, 16))
    np.testing.assert_array_equal(search(mapped, queries, 5)[1], search(index, queries, 5)[1])
