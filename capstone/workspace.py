"""What the stages hand to each other: one folder a stage, whole or absent.

``<out>/capstone/artifacts/<scale>-seed<seed>/<stage>/``, so that a stage can be run alone on what
an earlier run left. A stage is written beside and swapped in when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from capstone.config import Config
from common.errors import InputError, RunError
from common.results import write_json

OPERATING_FIELDS = {
    "stages",
    "n_boot",
    "load_seconds",
    "start_qps",
    "p99_limit_ms",
    "experiment_users",
    "port",
}
"""Options that change how the system is measured, not what it is."""
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
    def stage(self, name: str) -> Iterator[Path]:
        """A folder to write the stage's artefacts to; it takes its place when the block ends.

        On any error, Ctrl-C included, what an earlier run left stays as it was.
        """
        final = self.folder / name
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        old = self.folder / f".{name}.{os.getpid()}.old"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        partial.mkdir()
        try:
            yield partial
            write_json(partial / RECORD, {"stage": name, "options": self.options})
            if final.exists():
                final.rename(old)
            partial.rename(final)
        finally:
            for folder in (partial, old):
                shutil.rmtree(folder, ignore_errors=True)

    def need(self, name: str) -> Path:
        """The folder an earlier stage left.

        Raises
        ------
        InputError
            When that stage has not run, or ran with other model options.
        """
        record = self.folder / name / RECORD
        if not record.exists():
            raise InputError(
                f"stage {name!r} has left nothing in {self.folder}; "
                f"run it first (--stages {name}) or run them all"
            )
        try:
            options = json.loads(record.read_text())["options"]
        except (ValueError, KeyError) as error:
            raise RunError(f"{record} is damaged; run --stages {name} again") from error
        for key, wanted in self.options.items():
            if options.get(key) != wanted:
                raise InputError(
                    f"stage {name!r} was run with {key} = {options.get(key)!r}, now it is "
                    f"{wanted!r}; give the same option or run --stages {name} again"
                )
        return record.parent

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
