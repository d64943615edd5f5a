"""The model registry: which bundles exist, which one is champion, which one challenges it.

MLflow's registry on SQLite by default. Stages (``Production``, ``Staging``) are deprecated there;
aliases took their place: ``champion`` is served, ``challenger`` is on trial, ``previous`` is what a
rollback returns to. Only a bundle that passed its gates can be registered, and what an alias
returns is hashed again, so a poisoned folder is refused where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capstone import bundle
from capstone.bundle import Bundle
from common.errors import InputError, RunError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

MODEL = "feed-ranker"
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)


@dataclass(frozen=True)
class Registered:
    """A registered bundle: the registry's number, the content's version, the folder."""

    number: int
    version: str
    folder: Path


class Registry:
    """Bundles of one model name in one registry.

    Parameters
    ----------
    uri
        Of MLflow: ``sqlite:///path/registry.db``, or a tracking server's address.
    root
        Folder of the registry's file. A bundle whose folder has gone is looked for below it, where
        it is when both were moved together.
    """

    def __init__(self, uri: str, *, name: str = MODEL, root: Path | None = None) -> None:
        self.uri, self.name, self.root = uri, name, root
        self._opened: MlflowClient | None = None

    @classmethod
    def at(cls, file: Path) -> Registry:
        """The registry in a SQLite file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{file.resolve()}", root=file.resolve().parent)

    def register(self, made: Bundle, *, passed: bool, tags: Mapping[str, str]) -> Registered:
        """Add a bundle, and make it the challenger; the same content is registered once.

        Parameters
        ----------
        passed
            What the gates said. False is refused.
        tags
            Figures to show beside it, as text.

        Raises
        ------
        InputError
            When the gates were not passed, or the bundle's files changed since it was made.
        """
        if not passed:
            raise InputError(
                f"bundle {made.version} did not pass its gates ({made.quality}); "
                "it is not registered"
            )
        bundle.load(made.folder)
        for known in self.all():
            if known.version == made.version and known.folder == made.folder:
                self.set_alias(CHALLENGER, known)
                return known
        client = self._client()
        created = client.create_model_version(
            self.name,
            source=str(made.folder),
            tags={"bundle": made.version, "checkpoint": made.checkpoint, **tags},
        )
        registered = _registered(created)
        self.set_alias(CHALLENGER, registered)
        return registered

    def set_alias(self, alias: str, registered: Registered) -> None:
        """Let ``alias`` name a registered bundle."""
        if alias not in ALIASES:
            raise InputError(f"alias {alias!r} is not known; choose from {', '.join(ALIASES)}")
        self._client().set_registered_model_alias(self.name, alias, str(registered.number))

    def promote(self) -> Registered:
        """The challenger becomes champion, the champion ``previous``.

        Raises
        ------
        InputError
            When there is no challenger.
        """
        challenger = self.named(CHALLENGER)
        if challenger is None:
            raise InputError(f"{self.name} has no {CHALLENGER}; register a bundle first")
        champion = self.named(CHAMPION)
        if champion is not None and champion.number != challenger.number:
            self.set_alias(PREVIOUS, champion)
        self.set_alias(CHAMPION, challenger)
        self._client().delete_registered_model_alias(self.name, CHALLENGER)
        return challenger

    def reject(self) -> None:
        """Take the challenger's alias away; its version stays on record."""
        self._client().delete_registered_model_alias(self.name, CHALLENGER)

    def rollback(self) -> Registered:
        """``previous`` becomes champion again.

        Raises
        ------
        InputError
            When there is no previous champion.
        """
        previous = self.named(PREVIOUS)
        if previous is None:
            raise InputError(f"{self.name} has no {PREVIOUS} champion to return to")
        self.set_alias(CHAMPION, previous)
        return previous

    def named(self, alias: str) -> Registered | None:
        """The bundle that an alias names, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return _registered(self._client().get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise RunError(f"the registry {self.uri} cannot be read ({error})") from error

    def load(self, alias: str) -> Bundle:
        """The verified bundle that an alias names.

        Raises
        ------
        InputError
            When the alias names none, or the folder is not what was registered.
        """
        found = self.named(alias)
        if found is None:
            raise InputError(f"{self.name} has no {alias} in {self.uri}; run --stages register")
        folder = found.folder
        if self.root is not None and not folder.is_dir():
            folder = self.root / folder.parent.name / folder.name
        opened = bundle.load(folder)
        if opened.version != found.version:
            raise InputError(
                f"{folder} holds bundle {opened.version}, registered was {found.version}; "
                "register it anew or roll back"
            )
        return opened

    def all(self) -> list[Registered]:
        """Every registered bundle, oldest first."""
        versions = self._client().search_model_versions(f"name = '{self.name}'")
        return sorted(map(_registered, versions), key=lambda one: one.number)

    def _client(self) -> MlflowClient:
        if self._opened is None:
            import logging

            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            for name in ("alembic", "mlflow"):
                logging.getLogger(name).setLevel(logging.ERROR)
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            try:
                client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise RunError(
                        f"the registry {self.uri} cannot be written to ({error})"
                    ) from error
            self._opened = client
        return self._opened


def _registered(version: ModelVersion) -> Registered:
    tags = version.tags
    return Registered(int(version.version), tags["bundle"], Path(str(version.source)))
