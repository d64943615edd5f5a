"""Students of a run that is under way or was stopped, for the same run when it is started again.

They lie in the cache under a hash of all that decides them, the code included, until a run
completes. A completed run leaves none behind: the next one trains and measures anew.

The same command may be started several times at once, which pays on a GPU that a model of two
layers leaves idle: each process takes students that nobody is training, and all get all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from common.data.fetch import cache_folder, notice
from labs.lab5_distillation.config import Config
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.teacher_cache import write_whole

OLDEST_S = 7 * 86400.0
WAIT_S = 0.2


@dataclass(frozen=True)
class Job:
    """A student to train.

    Attributes
    ----------
    make
        Gives a student of the same architecture, into which kept weights are read.
    train
        ``train(checkpoint)`` gives the trained student; ``checkpoint`` is the file in which its
        loop may keep where it is.
    """

    name: str
    make: Callable[[], TextClassifier]
    train: Callable[[Path], TextClassifier]


class Unfinished:
    """Where the trained students of one run wait for its end.

    Parameters
    ----------
    key
        See `key_of`; runs with the same key train the same students.
    """

    def __init__(self, key: str) -> None:
        self.folder = cache_folder() / "lab5_distillation" / "unfinished" / key
        self._here = self._enter()
        for other in self.folder.parent.iterdir():
            if other != self.folder and time.time() - other.stat().st_mtime > OLDEST_S:
                shutil.rmtree(other, ignore_errors=True)
        if found := len(list(self.folder.glob("*.safetensors"))):
            notice(f"going on with {found} student(s) of this run that were trained before")

    def _enter(self) -> IO[str]:
        """The folder's own file, locked by all runs that need the folder."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                here = (self.folder / ".here").open("w")
            except FileNotFoundError:
                continue  # the last of the others cleared up in between
            fcntl.flock(here, fcntl.LOCK_SH)
            if (self.folder / ".here").is_file():
                return here
            here.close()

    def students(self, jobs: Sequence[Job]) -> Iterator[tuple[int, TextClassifier]]:
        """Every job's place in the list and its student, in the order in which they are there.

        A student that was trained before is read; one that another process is training is waited
        for, while there is another to train.
        """
        waiting = list(enumerate(jobs))
        while waiting:
            later = []
            for place, job in waiting:
                student = self._student(job)
                if student is None:
                    later.append((place, job))
                else:
                    yield place, student
            if len(later) == len(waiting):
                time.sleep(WAIT_S)
            waiting = later

    def student(self, job: Job) -> TextClassifier:
        """The student of one job."""
        return next(student for _, student in self.students([job]))

    def _student(self, job: Job) -> TextClassifier | None:
        """The job's student; None while another process trains it."""
        from safetensors.torch import load_file

        path = self.folder / f"{job.name}.safetensors"
        with (self.folder / f"{job.name}.lock").open("w") as lock:
            if not path.is_file():
                if not _taken(lock):
                    return None
                if not path.is_file():
                    checkpoint = path.with_suffix(".checkpoint")
                    student = job.train(checkpoint)
                    weights = {k: v.contiguous() for k, v in student.state_dict().items()}
                    write_whole(path, weights)
                    checkpoint.unlink(missing_ok=True)
                    return student.eval()
        student = job.make()
        device = str(next(student.parameters()).device)
        student.load_state_dict(load_file(path, device=device))
        return student.eval()

    def discard(self) -> None:
        """The run is complete: keep nothing, once no other process needs it."""
        try:
            fcntl.flock(self._here, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.folder, ignore_errors=True)
        except BlockingIOError:
            pass  # the last of them clears up
        self._here.close()


def _taken(lock: IO[str]) -> bool:
    """Whether this process has the lock now; closing the file gives it back."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def key_of(config: Config, *, seed: int, device: str, data: str, teacher: str = "") -> str:
    """A hash of the options, the data, the teacher and the lab's code, a learner's own included.

    Parameters
    ----------
    data, teacher
        Hashes of the texts and of what the teacher answered.
    """
    digest = hashlib.sha256()
    options = {name: str(value) for name, value in asdict(config).items()}
    digest.update(json.dumps([options, seed, device, data, teacher]).encode())
    here = Path(__file__).parent
    work = os.environ.get("LABS_WORK")
    for folder in (here, Path(work) / here.name if work else None):
        for file in sorted(folder.glob("*.py")) if folder else ():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:24]
