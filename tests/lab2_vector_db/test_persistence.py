import json

import numpy as np
import pytest

from common.errors import InputError, RunError
from labs.lab2_vector_db import persistence
from labs.lab2_vector_db.index_types import IVFPQ, build_index
from labs.lab2_vector_db.search import search

RECIPE = IVFPQ(4, 4, 4, refine="sq8", nprobe=3, k_factor=5)


@pytest.fixture(scope="module")
def index():
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
