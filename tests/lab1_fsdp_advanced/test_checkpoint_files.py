"""A checkpoint's folder: whole or absent at every moment, and checked before it is read."""

import os
import pickle
from pathlib import Path

import pytest

from common.errors import RunError
from labs.lab1_fsdp_advanced.checkpoint_files import (
    METADATA,
    File,
    Manifest,
    Reader,
    check,
    checksum,
    differences,
    latest,
    publish,
)


def manifest(step, files=None, model=None):
    return Manifest(step, 2, model or {"weight": "float32 [2]"}, None, {"note": 1}, files or {})


def complete(folder, step):
    """A complete checkpoint of a file of four bytes and an index."""
    partial = folder / f"step-{step:08d}.partial"
    partial.mkdir(parents=True)
    for name in ("__0_0.distcp", METADATA):
        (partial / name).write_bytes(b"0123")
    files = {path.name: File(4, checksum(path)) for path in partial.iterdir()}
    final = partial.with_suffix("")
    publish(partial, final, manifest(step, files), keep=9)
    return final


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert latest(tmp_path / "absent") is None
    assert latest(tmp_path) is None


def test_what_is_incomplete_is_never_the_newest(tmp_path):
    """Neither a folder being written nor one without its manifest is read."""
    whole = complete(tmp_path, 1)
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000003.partial").mkdir()
    manifest(3).write(tmp_path / "step-00000003.partial")
    (tmp_path / "latest").unlink()
    assert latest(tmp_path) == whole


def test_the_pointer_decides_and_one_to_nothing_is_ignored(tmp_path):
    old, new = complete(tmp_path, 1), complete(tmp_path, 2)
    pointer = tmp_path / "latest"
    pointer.write_text(old.name)
    assert latest(tmp_path) == old
    for elsewhere in ("step-00000009", "../step-00000009", ".", ""):
        pointer.write_text(elsewhere)
        assert latest(tmp_path) == new


def test_a_hundred_million_steps_are_newer_than_fewer(tmp_path):
    complete(tmp_path, 99_999_999)
    new = complete(tmp_path, 100_000_000)
    (tmp_path / "latest").unlink()
    assert latest(tmp_path) == new


def test_a_step_that_is_saved_again_is_complete_at_every_moment(tmp_path, monkeypatch):
    """Between the two renames the old one stands aside, and counts."""
    complete(tmp_path, 1)
    old = complete(tmp_path, 2)
    seen = []
    rename = Path.rename

    def watched(path, target):
        rename(path, target)
        seen.append(latest(tmp_path).name)

    monkeypatch.setattr(Path, "rename", watched)
    assert complete(tmp_path, 2) == old
    assert seen[:2] == ["step-00000002.replaced", "step-00000002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001", old.name]


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    written = manifest(7, {"a": File(3, "00c0ffee")})
    written.write(tmp_path)
    assert Manifest.read(tmp_path) == written
    assert len(written.fingerprint) == 16
    other = manifest(7, model={"weight": "float32 [3]"})
    assert other.fingerprint != written.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "manifest.json is missing"),
        ('{"schema": 1, "step"', "manifest.json is damaged"),
        ('{"schema": 1}', "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
    ],
)
def test_a_manifest_that_is_missing_or_half_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=message):
        Manifest.read(tmp_path)


def test_a_manifest_of_a_later_version_is_refused(tmp_path):
    manifest(1).write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(RunError, match="has schema 2; this version reads 1"):
        Manifest.read(tmp_path)


def test_names_sizes_and_the_index_are_always_checked(tmp_path):
    folder = complete(tmp_path, 1)
    check(folder)
    (folder / METADATA).write_bytes(b"0124")
    with pytest.raises(RunError, match=r"\.metadata does not have the checksum"):
        check(folder)
    (folder / "__0_0.distcp").write_bytes(b"012")
    with pytest.raises(RunError, match=r"__0_0\.distcp has 3 bytes, and manifest\.json says 4"):
        check(folder)
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(RunError, match=r"__0_0\.distcp is missing"):
        check(folder)


def test_differences_name_each_tensor_with_both_shapes():
    saved = {"a": "float32 [2]", "b": "float32 [3]", "d": "float32 [4]"}
    mine = {"a": "float32 [2]", "b": "bfloat16 [3]", "c": "float32 [5]"}
    assert differences(saved, mine) == [
        "b is float32 [3] in the checkpoint and bfloat16 [3] in the model",
        "c is absent in the checkpoint and float32 [5] in the model",
        "d is float32 [4] in the checkpoint and absent in the model",
    ]


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_an_index_that_would_run_code_is_refused(tmp_path, monkeypatch):
    """DCP's index is a pickle: read with plain pickle, a checkpoint from elsewhere is a program."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / METADATA).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(pickle.UnpicklingError, match="mkdir, which DCP never writes"):
        Reader(tmp_path).read_metadata()
    assert not (tmp_path / "it-ran").exists()
