"""Bundles and workspaces: what does not belong together is refused."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from capstone import bundle
from capstone.config import SCALES, Config
from capstone.value import ValueWeights
from capstone.workspace import Workspace
from common.errors import InputError, RunError
from tests.capstone.plain_bundle import assemble, parts


def test_a_bundle_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    made = assemble(tmp_path)
    assert bundle.load(made.folder) == made
    assert made.weights == ValueWeights(1.0, 0.5, dislike=-0.25)
    assert made.rerank == {"diversity": "none"}


def test_the_version_is_the_content(tmp_path: Path) -> None:
    first, same = assemble(tmp_path, "first"), assemble(tmp_path, "same")
    other = assemble(tmp_path, "other", ranker="another ranker")
    later = assemble(tmp_path, "later", checkpoint="def")
    assert first.version == same.version
    assert len({first.version, other.version, later.version}) == 3


@pytest.mark.parametrize("name", ["encoder.onnx", "ranker.onnx", "index/manifest.json"])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    made = assemble(tmp_path)
    (made.folder / name).write_text("something else")
    with pytest.raises(InputError, match=name):
        bundle.load(made.folder)
    (made.folder / name).unlink()
    with pytest.raises(InputError, match="missing"):
        bundle.load(made.folder)


def test_an_added_file_a_changed_fact_and_a_damaged_manifest_are_refused(tmp_path: Path) -> None:
    """A flipped sign in the weights is as dangerous as other weights of the model."""
    made = assemble(tmp_path)
    (made.folder / "extra").write_text("x")
    with pytest.raises(InputError, match="extra"):
        bundle.load(made.folder)
    (made.folder / "extra").unlink()
    manifest = made.folder / bundle.MANIFEST
    whole = manifest.read_text()
    manifest.write_text(whole.replace("0.5", "0.75"))
    with pytest.raises(InputError, match="facts"):
        bundle.load(made.folder)
    manifest.write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        bundle.load(made.folder)


def test_a_bundle_says_what_its_ranker_computes_in(tmp_path: Path) -> None:
    """Latency and scores are of a precision; a manifest without one is read all the same."""
    made = assemble(tmp_path)
    half = bundle.assemble(
        tmp_path / "half", parts(tmp_path / "p"), replace(made.facts, precision="fp16")
    )
    assert bundle.load(half.folder).facts.precision == "fp16"
    assert half.version != made.version
    content = made.facts.as_json()
    del content["precision"]
    assert bundle.Facts.from_json(content).precision == "unknown"


def test_what_is_no_whole_bundle_is_not_made(tmp_path: Path) -> None:
    found = parts(tmp_path / "parts")
    facts = assemble(tmp_path).facts
    with pytest.raises(InputError, match="vectors"):
        bundle.assemble(tmp_path / "new", {k: v for k, v in found.items() if k != "vectors"}, facts)
    with pytest.raises(InputError, match="weights"):
        bundle.assemble(tmp_path / "new", found | {"weights": found["ranker"]}, facts)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="never written over"):
        bundle.assemble(tmp_path / "bundle", found, facts)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no bundle"):
        bundle.load(tmp_path)


def workspace(tmp_path: Path, config: Config = SCALES["smoke"]) -> Workspace:
    return Workspace(tmp_path, "smoke", 0, False, config)


def test_a_stage_that_did_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--stages train"):
        workspace(tmp_path).need("train")


def test_a_stage_of_another_model_is_refused(tmp_path: Path) -> None:
    with workspace(tmp_path).stage("train") as folder:
        (folder / "weights").write_text("x")
    other = replace(SCALES["smoke"], ranker_width=128)
    with pytest.raises(InputError, match="ranker_width = 64, now it is 128"):
        workspace(tmp_path, other).need("train")
    measured_otherwise = replace(
        SCALES["smoke"], load_seconds=1.0, n_boot=100, workers=3, served="fp16"
    )
    assert (workspace(tmp_path, measured_otherwise).need("train") / "weights").exists()


def test_a_failed_stage_leaves_the_earlier_one(tmp_path: Path) -> None:
    with workspace(tmp_path).stage("train") as folder:
        (folder / "weights").write_text("good")
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path).stage("train") as folder:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt
    kept = workspace(tmp_path).need("train")
    assert (kept / "weights").read_text() == "good"
    assert [path.name for path in kept.parent.iterdir()] == ["train"]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    space = workspace(tmp_path)
    abandoned = space.folder / ".train.999999999.partial"
    abandoned.mkdir(parents=True)
    with space.stage("data"):
        pass
    assert not abandoned.exists()


def test_what_was_made_from_an_earlier_stage_is_refused(tmp_path: Path) -> None:
    """A new index beside an old encoder returns confident nonsense."""
    space = workspace(tmp_path)
    with space.stage("train"):
        pass
    with space.stage("index", "train"):
        pass
    assert space.need("index").name == "index"
    with space.stage("train"):
        pass
    with pytest.raises(InputError, match="made from an earlier 'train'"):
        space.need("index")


def test_two_runs_do_not_share_a_workspace(tmp_path: Path) -> None:
    first, second = workspace(tmp_path), workspace(tmp_path)
    with first.lock(), pytest.raises(InputError, match="another run is using"), second.lock():
        raise AssertionError("the second run must not begin")
    with second.lock():
        pass


def test_a_damaged_record_says_which_stage_to_repeat(tmp_path: Path) -> None:
    with workspace(tmp_path).stage("train"):
        pass
    (workspace(tmp_path).folder / "train" / "stage.json").write_text("{")
    with pytest.raises(RunError, match="--stages train"):
        workspace(tmp_path).need("train")


def test_a_stage_made_from_something_stale_is_refused_however_far_back(tmp_path: Path) -> None:
    """encoder -> index -> re-ranking: a new index makes what was chosen with the old one stale."""
    space = workspace(tmp_path)
    for name, source in (("index", ()), ("rerank", ("index",)), ("fairness", ("rerank",))):
        with space.stage(name, *source):
            pass
    assert space.need("fairness").is_dir()
    with space.stage("index"):
        pass
    with pytest.raises(InputError, match="'rerank' was made from an earlier 'index'"):
        space.need("fairness")


def test_a_kill_while_a_bundle_is_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    """``kill -9`` in the bundle stage: what was there is whole, the next run clears up."""
    with workspace(tmp_path).stage("bundle") as folder:
        assemble(folder, "champion")
    child = os.fork()
    if child == 0:
        with workspace(tmp_path).stage("bundle") as folder:
            bundle._hashes = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
            assemble(folder, "champion", ranker="newer")
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    space = workspace(tmp_path)
    (half,) = space.folder.glob(f".bundle.{child}.partial")
    assert not (half / "champion").exists(), "it has its name when it is whole"
    assert (bundle.load(space.need("bundle") / "champion").ranker).read_text() == "ranker"
    with space.stage("bundle") as folder:
        assemble(folder, "champion", ranker="newer")
    assert [path.name for path in space.folder.iterdir()] == ["bundle"]
