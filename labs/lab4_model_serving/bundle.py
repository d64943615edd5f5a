"""One folder that is everything a server needs: model, tokenizer, labels, and what they are.

The same bundle runs on CPU and GPU, behind TorchServe, Ray Serve, LitServe and the lab's own
server. ``bundle.json`` names every file with its SHA-256, so a copy that was cut short, or a
tokenizer of another version, is refused at start and not discovered in the answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.results import write_json

MANIFEST = "bundle.json"
MODEL, TOKENIZER, LABELS = "model.onnx", "tokenizer.json", "labels.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked. ``folder`` holds ``model.onnx`` and the rest."""

    folder: Path
    name: str
    version: str
    precision: str
    """``fp32``, ``int8`` and the like: what is inside, for people and for labels of metrics."""
    max_tokens: int
    labels: tuple[str, ...]
    facts: dict[str, Any]
    """What was measured of it before it was packed, such as ``accuracy``."""

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def tokenizer(self) -> Path:
        return self.folder / TOKENIZER

    @property
    def files(self) -> list[Path]:
        """Every file of the bundle, for an archive or a copy."""
        return [self.folder / name for name in (MODEL, TOKENIZER, LABELS, MANIFEST)]


def write_bundle(
    folder: Path,
    *,
    name: str,
    version: str,
    model: Path,
    tokenizer: Path,
    labels: tuple[str, ...],
    precision: str,
    max_tokens: int = 32,
    facts: dict[str, Any] | None = None,
) -> Bundle:
    """Copy the parts into ``folder`` and seal them; the folder appears whole or not at all.

    Raises
    ------
    InputError
        ``folder`` exists: a bundle is never changed, a new version gets a new folder.
    """
    if folder.exists():
        raise InputError(f"{folder} exists; a bundle is never changed, choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        shutil.copyfile(model, partial / MODEL)
        shutil.copyfile(tokenizer, partial / TOKENIZER)
        write_json(partial / LABELS, list(labels))
        content = {
            "name": name,
            "version": version,
            "precision": precision,
            "max_tokens": max_tokens,
            "facts": facts or {},
            "sha256": {each: _sha256(partial / each) for each in (MODEL, TOKENIZER, LABELS)},
        }
        write_json(partial / MANIFEST, content)
        partial.chmod(0o755)
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return read_bundle(folder)


def read_bundle(folder: Path) -> Bundle:
    """Check a bundle and describe it.

    Raises
    ------
    InputError
        A file is missing, or is not the one that was packed; the message names it.
    """
    manifest = folder / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        expected = dict(content["sha256"])
        for each in (MODEL, TOKENIZER, LABELS):
            if not (folder / each).is_file():
                raise InputError(f"the bundle {folder} has no {each}; copy or build it again")
            if _sha256(folder / each) != expected[each]:
                raise InputError(
                    f"{each} of the bundle {folder} is not the file that was packed; build it again"
                )
        return Bundle(
            folder=folder,
            name=content["name"],
            version=content["version"],
            precision=content["precision"],
            max_tokens=int(content["max_tokens"]),
            labels=tuple(json.loads((folder / LABELS).read_text(encoding="utf-8"))),
            facts=dict(content["facts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{manifest} is no bundle's manifest: {error!r}") from error


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a server says of its model: JSON, without paths."""
    found = asdict(bundle)
    del found["folder"], found["labels"]
    return {**found, "classes": len(bundle.labels)}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
