"""A release: only what the registry names, whole, with what its servers need."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from capstone import bundle, release
from capstone.bundle import Bundle
from common.errors import InputError
from tests.capstone import tiny_bundle


def stage_left(artefacts: Path, name: str = "champion", **options: object) -> Bundle:
    """What the bundle stage leaves: a champion, users, groups, archives."""
    folder = artefacts / "bundle"
    made = tiny_bundle.build(folder / name, **options)  # type: ignore[arg-type]
    tiny_bundle.write_users(folder / release.USERS)
    (folder / release.GROUPS).write_text("{}")
    archive(folder, made)
    return made


def archive(folder: Path, made: Bundle) -> None:
    (folder / release.STORE).mkdir(exist_ok=True, parents=True)
    (folder / release.STORE / f"ranker-{made.version}.mar").write_text(made.version)


def keep(made: Bundle, artefacts: Path) -> Bundle:
    kept = artefacts / release.REGISTERED
    archive(kept, made)  # as if it had been packed: TorchServe is not what is tested
    return release.keep(made, artefacts / "bundle", kept)


def test_without_a_champion_nothing_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and what to do; with ``--unregistered`` the last run's bundle is what it says."""
    arguments = ["release", "--out", str(tmp_path), "--release", str(tmp_path / "release")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--scale", "smoke"])
    assert release.main() == 2
    assert "make capstone SCALE=smoke" in capsys.readouterr().err
    made = stage_left(tmp_path / "capstone" / "artifacts" / "smoke-seed0")
    assert release.main() == 2
    assert "has no champion" in capsys.readouterr().err
    assert not (tmp_path / "release").exists()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--unregistered"])
    assert release.main() == 0
    assert bundle.load(tmp_path / "release" / "current" / "champion").version == made.version


def test_the_champion_of_the_release_before_comes_along(tmp_path: Path) -> None:
    """Gateways that run it must be answered until they are restarted; once more changes nothing."""
    source, target = tmp_path / "artefacts", tmp_path / "release"
    made = [stage_left(source, name, seed=seed) for seed, name in enumerate(("one", "two"))]
    folders = [
        release.publish(release.Source({"champion": each}, source / "bundle"), target)
        for each in (made[0], made[0], made[1], made[1], made[0])
    ]
    assert folders[0] == folders[1]
    assert folders[2] == folders[3]
    found = [
        [bundle.load(folder / alias).version for alias in ("champion", "previous")]
        for folder in (folders[3], folders[4])
    ]
    one, two = (each.version for each in made)
    assert found == [[two, one], [one, two]], "forwards, and back again"
    assert (folders[4] / release.STORE / f"ranker-{two}.mar").is_file()


def test_a_former_challenger_is_no_arm_of_a_later_release(tmp_path: Path) -> None:
    """The same two bundles in other roles: an arm that was taken back must not return by name."""
    source, target = tmp_path / "artefacts", tmp_path / "release"
    one, two = (stage_left(source, name, seed=seed) for seed, name in enumerate(("one", "two")))
    folders = [
        release.publish(release.Source(bundles, source / "bundle"), target)
        for bundles in ({"champion": one, "challenger": two}, {"champion": two}, {"champion": one})
    ]
    found = [sorted(path.name for path in each.iterdir() if path.is_dir()) for each in folders]
    assert found[0] == ["challenger", "champion", "store"], found
    assert found[2] == ["champion", "previous", "store"], found


def test_a_release_without_its_archive_leaves_the_earlier_one(tmp_path: Path) -> None:
    """A scorer could not start on it; half of it must not be what ``current`` points to."""
    source = tmp_path / "artefacts"
    first = stage_left(source, "champion")
    target = tmp_path / "release"
    before = release.publish(release.Source({"champion": first}, source / "bundle"), target)
    other = tiny_bundle.build(tmp_path / "other", seed=9)
    with pytest.raises(InputError, match="no archive"):
        release.publish(release.Source({"champion": other}, source / "bundle"), target)
    assert (target / release.CURRENT).resolve() == before
    assert [path.name for path in target.iterdir() if path.name.startswith(".")] == []


def test_a_copy_that_was_killed_half_way_is_made_again(tmp_path: Path) -> None:
    """``kill -9`` while a bundle is registered must not leave half of it under its version."""
    artefacts = tmp_path / "artefacts"
    made = stage_left(artefacts)
    child = os.fork()
    if child == 0:
        copy = release.shutil.copytree

        def half(source: Path, target: Path) -> None:
            copy(source, target, ignore=release.shutil.ignore_patterns("index", "*.onnx"))
            os.kill(os.getpid(), signal.SIGKILL)

        release.shutil.copytree = half  # type: ignore[assignment]
        keep(made, artefacts)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert not (artefacts / release.REGISTERED / made.version).exists()
    assert keep(made, artefacts).version == made.version
