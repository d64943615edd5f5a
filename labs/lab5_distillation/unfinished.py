"""Students of a run that was stopped: the same run, started again, goes on with them.

They lie in the cache under a hash of all that decides them, the code included, until a run
completes. A completed run leaves none behind: the next one trains and measures anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from common.data.fetch import cache_folder, notice
from labs.lab5_distillation.config import Config
from labs.lab5_distillation.encoders import TextClassifier

OLDEST_S = 7 * 86400.0


class Unfinished:
    """Where the trained students of one run wait for its end.

    Parameters
    ----------
    key
        See `key_of`; runs with the same key train the same students.
    """

    def __init__(self, key: str) -> None:
        self.folder = cache_folder() / "lab5_distillation" / "unfinished" / key
        self.folder.mkdir(parents=True, exist_ok=True)
        for other in self.folder.parent.iterdir():
            if other != self.folder and time.time() - other.stat().st_mtime > OLDEST_S:
                shutil.rmtree(other, ignore_errors=True)
        if found := len(list(self.folder.glob("*.safetensors"))):
            notice(f"going on with {found} student(s) of a run that was stopped")

    def student(
        self,
        name: str,
        make: Callable[[], TextClassifier],
        train: Callable[[Path], TextClassifier],
    ) -> TextClassifier:
        """The student called ``name``: as it was trained before the stop, or trained now.

        Parameters
        ----------
        make
            Gives a student of the same architecture, into which kept weights are read.
        train
            ``train(checkpoint)`` gives the trained student; ``checkpoint`` is the file in which
            its loop may keep where it is.
        """
        from safetensors.torch import load_file, save_file

        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            student = make()
            student.load_state_dict(load_file(path, device=str(next(student.parameters()).device)))
            return student.eval()
        checkpoint = path.with_suffix(".checkpoint")
        student = train(checkpoint)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            save_file({k: v.contiguous() for k, v in student.state_dict().items()}, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        checkpoint.unlink(missing_ok=True)
        return student.eval()

    def discard(self) -> None:
        """The run is complete: keep nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)


def key_of(config: Config, *, seed: int, device: str, data: str) -> str:
    """A hash of the options, the data and the lab's code, a learner's own included."""
    digest = hashlib.sha256()
    options = {name: str(value) for name, value in asdict(config).items()}
    digest.update(json.dumps([options, seed, device, data]).encode())
    here = Path(__file__).parent
    work = os.environ.get("LABS_WORK")
    for folder in (here, Path(work) / here.name if work else None):
        for file in sorted(folder.glob("*.py")) if folder else ():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:24]
