"""Pack a handler and its files into a model archive (``.mar``), the unit TorchServe loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, RunError
from labs.lab4_model_serving.bundle import Bundle


def build_archive(
    name: str, version: str, handler: Path, files: Sequence[Path], store: Path
) -> Path:
    """Write ``<store>/<name>-<version>.mar`` with torch-model-archiver, whole or not at all.

    The version is in the file name, so that two versions can lie in one store: the archiver's own
    ``<name>.mar`` would replace the version that is being served.

    Parameters
    ----------
    name, version
        As in the URL ``/predictions/<name>/<version>``.
    handler
        The Python file TorchServe imports; it must define exactly one class.
    files
        What the handler finds in ``model_dir``; copied flat, by file name.
    store
        Folder of archives; made when missing.

    Raises
    ------
    InputError
        A bad name or version, a missing file, or two files of one name.
    RunError
        The archiver failed.
    """
    for what, value in (("model name", name), ("version", version)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", value):
            raise InputError(
                f"{what} = {value!r} must be letters, digits, '_' and '.': it is part of a URL"
            )
    for path in (handler, *files):
        if not path.is_file():
            raise InputError(f"cannot pack {name} {version}: no file {path}")
    names = [path.name for path in (handler, *files)]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise InputError(f"cannot pack {name} {version}: two files are called {twice[0]!r}")

    store.mkdir(parents=True, exist_ok=True)
    # The archiver gathers files in <temporary folder>/<model name> and deletes what is there
    # first, so each call gets a temporary folder of its own.
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=store) as folder:
        command = [sys.executable, "-m", "model_archiver.model_packaging"]
        command += ["--model-name", name, "--version", version, "--handler", str(handler)]
        command += ["--export-path", folder]
        if files:
            command += ["--extra-files", ",".join(str(path) for path in files)]
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        packed = Path(folder) / f"{name}.mar"
        if done.returncode != 0 or not packed.is_file():
            raise RunError(f"torch-model-archiver failed for {name} {version}:\n{done.stderr}")
        target = store / f"{name}-{version}.mar"
        packed.replace(target)
    return target


def archive_bundle(bundle: Bundle, store: Path) -> Path:
    """Pack a bundle's four files and the text handler: ``<store>/<name>-<version>.mar``.

    Raises
    ------
    InputError, RunError
        As :func:`build_archive`.
    """
    handler = Path(__file__).with_name("text_handler.py")
    return build_archive(bundle.name, bundle.version, handler, bundle.files, store)
