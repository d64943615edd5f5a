"""A release: what gateways, scorers and the monitor start from, taken out of the registry.

``python -m capstone.release --scale standard --release DIR`` writes a folder below ``DIR`` and lets
``DIR/current`` point to it::

    current -> champion-4f1c.../   the newest; a server resolves it once, at its start
    champion-4f1c.../champion/     the bundle that the registry's alias names
                     challenger/   and that one, where there is one
                     previous/     the champion of the release before this one
                     store/        their archives for TorchServe
                     users.json    the histories that every gateway begins with
                     groups.json   groups of users, for the monitor

The registry needs MLflow and a folder that may be written to; servers need neither. Promoting is a
decision about a model, releasing one about servers: what runs changes when they are restarted, the
scorers first. A scorer also loads ``previous``, so gateways that still run it are answered.
Going back is the same: the registry's ``rollback``, and a release.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from capstone import bundle
from capstone.bundle import Bundle
from capstone.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from common.errors import EXIT_OK, InputError, exit_status

REGISTRY, REGISTERED, MADE = "registry.db", "registered", "bundle"
CURRENT, STORE, USERS, GROUPS = "current", "store", "users.json", "groups.json"


@dataclass(frozen=True)
class Source:
    """Bundles by alias, and the folder with their archives, users and groups."""

    bundles: Mapping[str, Bundle]
    folder: Path

    @property
    def champion(self) -> Bundle:
        return self.bundles[CHAMPION]

    @property
    def store(self) -> Path:
        return self.folder / STORE


@dataclass(frozen=True)
class Options:
    """Which champion to release, and where."""

    out: Path = Path("runs")
    """Folder of the runs."""
    scale: Literal["smoke", "standard", "full"] = "standard"
    """Scale of the run whose registry is read."""
    seed: int = 0
    """Seed of that run."""
    release: Path = Path("/data/release")
    """Folder of the releases."""
    unregistered: bool = False
    """Release the last run's champion although no gate let it into the registry."""

    @property
    def artefacts(self) -> Path:
        """Folder of what that run's stages left."""
        return self.out.resolve() / "capstone" / "artifacts" / f"{self.scale}-seed{self.seed}"


def keep(made: Bundle, stage: Path, kept: Path) -> Bundle:
    """A registered bundle's own copy: the next run replaces the stage's folder.

    Killed half-way and called again, it ends with a whole copy.

    Parameters
    ----------
    stage
        Folder of the bundle stage, with users and groups.
    kept
        Folder of the copies.
    """
    from capstone.serving import archive_rankers

    kept.mkdir(parents=True, exist_ok=True)
    for name in (USERS, GROUPS):
        _copy(stage / name, kept / name)
    copy = kept / made.version
    if not copy.exists():
        _copy(made.folder, copy)
    opened = bundle.load(copy)
    if not (kept / STORE / f"ranker-{made.version}.mar").exists():
        archive_rankers([opened], kept / STORE)
    return opened


def find(artefacts: Path, *, unregistered: bool = False) -> Source:
    """What the registry of a run names; what people may meet is judged once more.

    Parameters
    ----------
    artefacts
        Folder of the run's stages (``<out>/capstone/artifacts/<scale>-seed<seed>``).
    unregistered
        Take the last run's champion instead, whatever its gates said.

    Raises
    ------
    InputError
        There is no bundle, or no champion; a folder is not what was registered; or a champion is
        not what its gates let through.
    """
    from capstone.loaded_bundle import require_gates

    made = artefacts / MADE
    if not made.is_dir():
        scale = artefacts.name.partition("-")[0]
        raise InputError(f"no bundle in {made}; make one with `make capstone SCALE={scale}`")
    if unregistered:
        return Source({CHAMPION: bundle.load(made / CHAMPION)}, made)
    file = artefacts / REGISTRY
    registry = Registry.at(file) if file.exists() else None
    if registry is None or registry.named(CHAMPION) is None:
        raise InputError(
            f"the registry {file} has no champion: no bundle passed its gates (the run's report "
            "says which failed); --unregistered takes the last one all the same"
        )
    aliases = [alias for alias in (CHAMPION, CHALLENGER) if registry.named(alias)]
    found = {alias: registry.load(alias) for alias in aliases}
    for each in found.values():
        require_gates(each)
    return Source(found, artefacts / REGISTERED)


def publish(source: Source, target: Path) -> Path:
    """Write a release and let ``current`` point to it; returns its folder.

    The champion of the release before it comes along. What runs from an earlier release goes on:
    its folder stays, and may be removed when nothing does.

    Raises
    ------
    InputError
        An archive is missing: ``current`` stays what it was.
    """
    stores = dict.fromkeys((each.version for each in source.bundles.values()), source.store)
    bundles = dict(source.bundles)
    for alias in (CHAMPION, PREVIOUS):
        folder = (target / CURRENT).resolve() / alias
        if folder.is_dir() and (before := bundle.load(folder)).version != source.champion.version:
            bundles[PREVIOUS] = before
            stores.setdefault(before.version, folder.parent / STORE)
            break
    # The aliases too: who was a challenger once may be the previous champion of another release.
    name = "-".join(f"{alias}-{each.version}" for alias, each in bundles.items())
    final = target / name
    target.mkdir(parents=True, exist_ok=True)
    if not final.exists():
        partial = target / f".{name}.{uuid.uuid4().hex[:8]}.partial"
        try:
            (partial / STORE).mkdir(parents=True)
            for alias, each in bundles.items():
                shutil.copytree(each.folder, partial / alias)
                archive = stores[each.version] / f"ranker-{each.version}.mar"
                if not archive.is_file():
                    raise InputError(f"no archive {archive}; run --stages register")
                shutil.copy2(archive, partial / STORE / archive.name)
            for file in (USERS, GROUPS):
                shutil.copy2(source.folder / file, partial / file)
            os.rename(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    link = target / f".{CURRENT}.{uuid.uuid4().hex[:8]}"
    link.symlink_to(name)
    link.replace(target / CURRENT)
    return final


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder so that it is there whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, partial)
    else:
        shutil.copy2(source, partial)
    partial.replace(target)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = tyro.cli(Options, prog="python -m capstone.release", description=__doc__)

    def command() -> int:
        source = find(options.artefacts, unregistered=options.unregistered)
        folder = publish(source, options.release)
        told = ", ".join(f"{alias} {each.version}" for alias, each in source.bundles.items())
        print(f"released {told} to {folder}")
        return EXIT_OK

    return exit_status(command, interrupted="interrupted: nothing was released")


if __name__ == "__main__":
    sys.exit(main())
