"""What the finished stages of a run measured, kept until the run ends.

A run that is killed in the middle, with ``kill -9`` or by a power cut, is continued by the next one
with the same options: finished stages are not run again, and what they measured, drew and noted is
in the report of the run that ends; a training goes on from its last checkpoint. Artefacts have
their own folders (:mod:`capstone.workspace`); a stage whose artefact was replaced meanwhile counts
as not finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capstone.workspace import Workspace
from common.exercises.overlay import overlaid_files
from common.report import FigureFile
from common.results import Metric, write_json

if TYPE_CHECKING:
    from common.runner import Run

RECORD = "record.json"
PROCESSES = "processes.json"
"""Of each process of the run: when it began (Unix time), and for how many seconds it is known to
have worked."""
CHECKPOINTS = "checkpoints"
CODE = {".py", ".toml", ".j2", ".json", ".html", ".js", ".css"}
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class _Before:
    """How far a run was when a stage began."""

    metrics: Mapping[str, Metric]
    figures: int
    notes: int
    data: int
    unmeasured: Mapping[str, str]


class Unfinished:
    """The finished stages of one run, below the workspace's folder.

    Parameters
    ----------
    options
        Everything that a run's figures depend on; runs with equal options are one run.
    """

    def __init__(self, workspace: Workspace, options: Mapping[str, Any]) -> None:
        code = code_sha256()

        def digest(content: Mapping[str, Any]) -> str:
            text = json.dumps([content, code], sort_keys=True, default=str)
            return hashlib.sha256(text.encode()).hexdigest()[:16]

        self.workspace = workspace
        self._training = digest({**options, "procs": None})
        self.folder = workspace.folder / "unfinished" / f"{self._training}-{digest(options)}"
        self._before: list[dict[str, float]] = []

    def begin(self, run: Run) -> None:
        """Give a run the seconds of the processes before it, and say so in its results.

        One that was killed worked at least until its last sign of life here: a finished stage, a
        checkpoint, a line of a training's progress.
        """
        file = self.folder / PROCESSES
        if file.is_file():
            self._before = json.loads(file.read_text(encoding="utf-8"))
            last, seen = self._before[-1], max(path.stat().st_mtime for path in _files(self.folder))
            last["seconds"] = max(last["seconds"], seen - last["began"])
        run.results.earlier_s = sum(process["seconds"] for process in self._before)
        run.metric(
            "time.processes", 1 + len(self._before), unit="count",
            how="duration_s is the sum over the processes of the run, an earlier one until its "
            "last sign of life" if self._before else "",
        )  # fmt: skip

    def checkpoints(self, stage: str) -> Path:
        """Folder of a stage's training: there until the stage is through, whoever is killed.

        A training can go on with another number of ranks, so that of a run that differs in nothing
        else is taken over.
        """
        mine = self.folder / CHECKPOINTS / stage
        if not mine.exists():
            for other in self.folder.parent.glob(f"{self._training}-*/{CHECKPOINTS}/{stage}"):
                mine.parent.mkdir(parents=True, exist_ok=True)
                other.rename(mine)
                break
        return mine

    def forget(self, stage: str) -> None:
        """Nothing of an earlier try of ``stage`` may be used: what it is made from is new."""
        while (folder := self.checkpoints(stage)).exists():
            shutil.rmtree(folder)

    def finished(self, stage: str) -> bool:
        """Whether an earlier process finished ``stage`` and its artefact is still the same."""
        record = self.folder / stage / RECORD
        if not record.is_file():
            return False
        content = json.loads(record.read_text(encoding="utf-8"))
        return content["artefact"] == self.workspace.identity(stage)

    def replay(self, stage: str, run: Run) -> str:
        """Give a run what a finished stage recorded; returns when that was (UTC)."""
        folder = self.folder / stage
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        for name, fields in content["metrics"].items():
            ci95 = fields["ci95"]
            run.results.metrics[name] = Metric(
                **fields | {"ci95": None if ci95 is None else (ci95[0], ci95[1])}
            )
        for entry in content["data"]:
            if entry not in run.results.data:
                run.results.data.append(entry)
        run.results.unmeasured.update(content["unmeasured"])
        run.notes += content["notes"]
        for name, caption in content["figures"]:
            target = run.dir / "figures" / name
            shutil.copy2(folder / name, target)
            run.figures.append(FigureFile(target, caption))
        run.note(f"Stage {stage} was finished by an earlier process, at {content['at']} UTC.")
        if (folder / "files").is_dir():
            shutil.copytree(folder / "files", run.dir, dirs_exist_ok=True)
        return str(content["at"])

    @contextmanager
    def stage(self, name: str, run: Run) -> Iterator[None]:
        """Keep what the block records, once it is through."""
        before = _Before(
            dict(run.results.metrics), len(run.figures), len(run.notes), len(run.results.data),
            dict(run.results.unmeasured),
        )  # fmt: skip
        files = _files(run.dir)
        self._tell(run)
        try:
            yield
        except BaseException:
            if {path.name for path in _files(self.folder)} <= {PROCESSES}:
                self.clear()  # nothing to go on with
            raise
        self._save(name, run, before, files)
        self._tell(run)

    def _save(self, name: str, run: Run, before: _Before, files: set[Path]) -> None:
        partial = self.folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        figures = run.figures[before.figures :]
        for figure in figures:
            shutil.copy2(figure.path, partial / figure.path.name)
        drawn = {figure.path for figure in figures}
        for path in _files(run.dir) - files - drawn:
            target = partial / "files" / path.relative_to(run.dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        metrics = {
            key: asdict(metric)
            for key, metric in run.results.metrics.items()
            if before.metrics.get(key) is not metric
        }
        unmeasured = {
            key: reason
            for key, reason in run.results.unmeasured.items()
            if before.unmeasured.get(key) != reason
        }
        content = {
            "at": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
            "artefact": self.workspace.identity(name),
            "metrics": metrics,
            "unmeasured": unmeasured,
            "notes": run.notes[before.notes :],
            "data": run.results.data[before.data :],
            "figures": [[figure.path.name, figure.caption] for figure in figures],
        }
        write_json(partial / RECORD, content)
        final = self.folder / name
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        self.forget(name)

    def _tell(self, run: Run) -> None:
        """Keep for how long this process has worked."""
        self.folder.mkdir(parents=True, exist_ok=True)
        began = run.results.started_at.timestamp()
        mine = {"began": began, "seconds": max(0.0, time.time() - began)}
        write_json(self.folder / PROCESSES, [*self._before, mine])

    def clear(self) -> None:
        """Nothing is left of this run to continue."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def code_sha256() -> str:
    """Hash of our code, policies, plans and templates, and of the learner's files over them."""
    digest = hashlib.sha256()
    ours = [
        path
        for folder in ("capstone", "common", "labs")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in CODE and path.is_file()
    ]
    for path in [*ours, *overlaid_files()]:
        digest.update(str(path).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
