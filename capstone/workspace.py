"""What the stages hand to each other: one folder a stage, whole or absent.

``<out>/capstone/artifacts/<scale>-seed<seed>/<stage>/``, so that a stage can be run alone on what
an earlier run left. A stage is written beside and swapped in when it is complete.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capstone.config import Config
from common.errors import InputError, RunError
from common.results import write_json

OPERATING_FIELDS = {
    "stages", "fresh", "n_boot", "start_qps", "load_seconds", "asked_qps", "asked_seconds",
    "p99_limit_ms", "feed_length", "drill_qps", "drill_seconds", "experiment_users", "repeats",
    "port", "workers", "served",
}  # fmt: skip
"""Options that change how the system is measured, not what it is; and ``served``, which changes
nothing before the export: :meth:`capstone.context.Context.precision` looks after it."""
RECORD = "stage.json"


class Workspace:
    """Folders of the stages, for one scale, seed and set of model options."""

    def __init__(self, out: Path, scale: str, seed: int, mine: bool, config: Config) -> None:
        name = f"{scale}-seed{seed}" + ("-mine" if mine else "")
        self.folder = out.resolve() / "capstone" / "artifacts" / name
        self.options = {
            key: value for key, value in asdict(config).items() if key not in OPERATING_FIELDS
        }

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the workspace to one run at a time; InputError when another has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another run is using {self.folder}; wait for it, or choose another --out, "
                    "--seed or --scale"
                ) from error
            yield

    @contextmanager
    def stage(self, name: str, *made_from: str) -> Iterator[Path]:
        """A folder to write the stage's artefacts to; it takes its place when the block ends.

        ``made_from`` are the stages whose artefacts it reads; when one of them is run again,
        :meth:`need` refuses what was made from the earlier one.

        On any error, Ctrl-C included, what an earlier run left stays as it was.
        """
        final = self.folder / name
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        old = self.folder / f".{name}.{os.getpid()}.old"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        partial.mkdir()
        sources = {source: self._record(source)["id"] for source in made_from}
        try:
            yield partial
            record = {"stage": name, "id": uuid.uuid4().hex, "made_from": sources}
            write_json(partial / RECORD, record | {"options": self.options})
            if final.exists():
                final.rename(old)
            partial.rename(final)
        finally:
            if old.exists() and not final.exists():
                old.rename(final)
            for folder in (partial, old):
                shutil.rmtree(folder, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether an earlier stage has left something."""
        return (self.folder / name / RECORD).exists()

    def need(self, name: str) -> Path:
        """The folder an earlier stage left.

        Raises
        ------
        InputError
            When that stage has not run, ran with other model options, or was made from what a
            stage before it has replaced since: a new index beside an old encoder, say.
        """
        if not self.has(name):
            raise InputError(
                f"stage {name!r} has left nothing in {self.folder}; "
                f"run it first (--stages {name}) or run them all"
            )
        record = self._record(name)
        for key, wanted in self.options.items():
            if record["options"].get(key) != wanted:
                raise InputError(
                    f"stage {name!r} was run with {key} = {record['options'].get(key)!r}, now it "
                    f"is {wanted!r}; give the same option or run --stages {name} again"
                )
        for source, used in record["made_from"].items():
            if self._record(source)["id"] != used:
                raise InputError(
                    f"stage {name!r} was made from an earlier {source!r}, which has been run "
                    f"again since; run --stages {name} again"
                )
            self.need(source)  # and that from nothing that was replaced
        return self.folder / name

    def identity(self, name: str) -> str | None:
        """Which run of a stage left its folder; None when there is none."""
        return str(self._record(name)["id"]) if self.has(name) else None

    def _record(self, name: str) -> dict[str, Any]:
        path = self.folder / name / RECORD
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            record["options"], record["id"], record["made_from"]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{path} is damaged; run --stages {name} again") from error
        return record

    def log(self, name: str) -> Path:
        """A fresh log file that outlives a failed stage."""
        path = self.folder / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def _remove_abandoned(self) -> None:
        for folder in self.folder.glob(".*.*.*"):
            pid = folder.name.split(".")[-2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)
