"""Archives hold the version in their name and nothing that is missing."""

import json
import zipfile

import pytest

from common.errors import InputError
from labs.lab4_model_serving.archive import archive_bundle, build_archive
from labs.lab4_model_serving.bundle import read_bundle


@pytest.fixture
def handler(tmp_path):
    path = tmp_path / "some_handler.py"
    path.write_text("class Handler:\n    pass\n")
    return path


def test_two_versions_lie_side_by_side(tmp_path, handler):
    store = tmp_path / "store"
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w" * 100)
    made = [build_archive("clf", version, handler, [weights], store) for version in ("1.0", "2.0")]
    assert [path.name for path in made] == ["clf-1.0.mar", "clf-2.0.mar"]
    assert sorted(path.name for path in store.iterdir()) == ["clf-1.0.mar", "clf-2.0.mar"]
    with zipfile.ZipFile(made[1]) as archive:
        assert set(archive.namelist()) >= {"weights.bin", "some_handler.py"}
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
    assert manifest["model"]["modelVersion"] == "2.0"


def test_what_cannot_be_packed_is_named(tmp_path, handler):
    store = tmp_path / "store"
    with pytest.raises(InputError, match=r"absent\.onnx"):
        build_archive("clf", "1.0", handler, [tmp_path / "absent.onnx"], store)
    with pytest.raises(InputError, match="part of a URL"):
        build_archive("clf/../x", "1.0", handler, [], store)
    other = tmp_path / "other" / handler.name
    other.parent.mkdir()
    other.write_text("")
    with pytest.raises(InputError, match="two files"):
        build_archive("clf", "1.0", handler, [other], store)
    assert not store.exists()


def test_a_bundle_comes_out_of_its_archive_whole(tmp_path, tiny_bundle):
    """Flat beside the handler, as a worker finds it, and still the bundle that was sealed."""
    archive = archive_bundle(tiny_bundle, tmp_path / "store")
    assert archive.name == "intents-1.0.mar"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    found = read_bundle(tmp_path / "unpacked")
    assert (found.name, found.version) == (tiny_bundle.name, tiny_bundle.version)
    assert found.labels == tiny_bundle.labels
    assert (tmp_path / "unpacked" / "text_handler.py").is_file()
