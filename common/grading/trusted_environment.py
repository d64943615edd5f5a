"""The whole environment of a worker: nothing of the instructor's is in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

HOME = "/tmp/home"


def environment(work: str, cache: str, folders: str) -> Mapping[str, str]:
    """Variables of a process that runs tests.

    Parameters
    ----------
    work
        The folder of the submission's files.
    cache, folders
        ``LABS_CACHE`` and ``LABS_DATA_DIR``, where data lie.
    """
    data = {"LABS_CACHE": cache} | ({"LABS_DATA_DIR": folders} if folders else {})
    return data | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin:/usr/bin:/bin"]),
        "HOME": HOME,
        "TMPDIR": "/tmp",
        "USER": "learner",
        "LOGNAME": "learner",
        "LANG": "C.UTF-8",
        "LABS_WORK": work,
        "LABS_NO_SHRINK": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{HOME}/hypothesis",
        "MPLBACKEND": "agg",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
