"""The registry: only what passed its gates, aliases that move, folders that are hashed again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from capstone import bundle, registry, release
from capstone.live_rollout import challenge, move_alias
from capstone.loaded_bundle import Mismatch
from capstone.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from common.errors import InputError
from tests.capstone.plain_bundle import assemble
from tests.capstone.test_release import keep, stage_left

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a registry without a bundle: MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("registry") / "deep" / "registry.db"
    assert Registry.at(file).all() == []
    return file


def copied(empty: Path, folder: Path) -> Registry:
    shutil.copy2(empty, folder / release.REGISTRY)
    return Registry.at(folder / release.REGISTRY)


@pytest.fixture(scope="module")
def opened(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return copied(empty, tmp_path_factory.mktemp("opened"))


def test_bundles_are_registered_promoted_and_rolled_back(opened: Registry, tmp_path: Path) -> None:
    """champion <- challenger <- a new bundle, and back: aliases move, versions stay."""
    first, second = (assemble(tmp_path, name, ranker=name) for name in ("first", "second"))
    assert opened.named(CHAMPION) is None
    with pytest.raises(InputError, match="no challenger"):
        opened.promote()

    one = opened.register(first, passed=True, tags={"ndcg_at_10": "0.1"})
    assert opened.named(CHALLENGER) == one
    assert opened.promote() == one
    assert opened.named(CHALLENGER) is None
    assert opened.load(CHAMPION) == first

    two = opened.register(second, passed=True, tags={})
    assert opened.register(second, passed=True, tags={}) == two, "the same content, once"
    assert [each.version for each in opened.all()] == [first.version, second.version]
    assert opened.promote() == two
    assert opened.named(PREVIOUS) == one
    assert opened.rollback() == one
    assert opened.load(CHAMPION) == first

    opened.set_alias(CHALLENGER, two)
    opened.reject()
    assert opened.named(CHALLENGER) is None


def test_the_alias_follows_a_rollout_and_twice_is_as_once(empty: Path, tmp_path: Path) -> None:
    """A command that was killed between the gateway and the registry does the rest later."""
    opened = copied(empty, tmp_path)
    first, second = (assemble(tmp_path, name, ranker=f"led {name}") for name in ("one", "two"))
    with pytest.raises(InputError, match="not in the registry"):
        challenge(opened, second.version)
    opened.register(first, passed=True, tags={})
    opened.promote()
    opened.register(second, passed=True, tags={})
    for _ in range(2):
        assert move_alias(opened, second.version, "rolled_back") == first.version
        assert opened.named(CHALLENGER) is None
    with pytest.raises(InputError, match="no challenger"):
        move_alias(opened, second.version, "promoted")
    challenge(opened, second.version)
    for _ in range(2):
        assert move_alias(opened, second.version, "promoted") == second.version
        previous = opened.named(PREVIOUS)
        assert previous is not None
        assert previous.version == first.version


def test_a_bundle_that_failed_a_gate_is_not_registered(opened: Registry, tmp_path: Path) -> None:
    """The registry is the gate's lock: no way round it leaves a trace of the bundle."""
    before = opened.all()
    with pytest.raises(InputError, match="did not pass its gates"):
        opened.register(assemble(tmp_path, ranker="bad"), passed=False, tags={})
    assert opened.all() == before


def test_a_folder_that_changed_after_registering_is_refused(
    opened: Registry, tmp_path: Path
) -> None:
    """Poisoned after the gate: the alias still names it, loading does not."""
    made = assemble(tmp_path, ranker="good")
    opened.register(made, passed=True, tags={})
    opened.promote()
    made.ranker.write_text("poison")
    with pytest.raises(InputError, match=r"ranker\.onnx"):
        opened.load(CHAMPION)


def test_an_unknown_alias_is_refused(opened: Registry) -> None:
    with pytest.raises(InputError, match="choose from"):
        opened.set_alias("production", registry.Registered(1, "x", Path()))


def test_what_the_registry_calls_champion_is_released_and_taken_back(
    empty: Path, tmp_path: Path
) -> None:
    """Promote, release, promote, release, roll back, release: ``current`` follows the alias."""
    artefacts, target = tmp_path / "artefacts", tmp_path / "release"
    artefacts.mkdir()
    registry = copied(empty, artefacts)
    versions = []
    for seed, name in enumerate(("first", "second")):
        kept = keep(stage_left(artefacts, name, seed=seed), artefacts)
        registry.register(kept, passed=True, tags={})
        registry.promote()
        made = release.publish(release.find(artefacts), target)
        assert (target / release.CURRENT).resolve() == made
        assert bundle.load(made / "champion").version == kept.version
        assert (made / release.STORE / f"ranker-{kept.version}.mar").read_text() == kept.version
        assert (made / release.USERS).is_file()
        assert (made / release.GROUPS).is_file()
        versions.append(kept.version)
    registry.rollback()
    release.publish(release.find(artefacts), target)
    assert bundle.load(target / release.CURRENT / "champion").version == versions[0]

    moved = tmp_path / "moved"
    artefacts.rename(moved)
    assert release.find(moved).champion.version == versions[0], "a moved registry finds its bundles"

    unjudged = keep(stage_left(moved, "unjudged", seed=2, figures=None), moved)
    registry = Registry.at(moved / release.REGISTRY)
    registry.register(unjudged, passed=True, tags={})
    with pytest.raises(Mismatch, match="never judged"):
        release.find(moved)
