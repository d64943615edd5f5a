"""A bundle: everything one version of the feed needs, under one version made from its content.

The retrieval encoder, the index built from its embeddings and the ranker belong together; an index
of another checkpoint returns confident nonsense. So the version is the hash of the files, and
loading checks it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from capstone.offline import ValueWeights
from common.errors import InputError
from common.results import write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    version: str
    checkpoint: str
    max_length: int
    candidates: int
    weights: ValueWeights

    @property
    def encoder(self) -> Path:
        return self.folder / "encoder.onnx"

    @property
    def ranker(self) -> Path:
        return self.folder / "ranker.onnx"

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def catalogue(self) -> Path:
        return self.folder / "catalogue.json"


def assemble(
    folder: Path,
    *,
    encoder: Path,
    ranker: Path,
    index: Path,
    catalogue: Path,
    checkpoint: str,
    max_length: int,
    candidates: int,
    weights: ValueWeights,
) -> Bundle:
    """Copy the parts into ``folder`` and write the manifest that names and hashes them."""
    folder.mkdir(parents=True)
    shutil.copy2(encoder, folder / "encoder.onnx")
    shutil.copy2(ranker, folder / "ranker.onnx")
    shutil.copytree(index, folder / "index")
    shutil.copy2(catalogue, folder / "catalogue.json")
    files = {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = {
        "checkpoint": checkpoint,
        "max_length": max_length,
        "candidates": candidates,
        "weights": asdict(weights),
        "files": files,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    write_json(folder / MANIFEST, {"version": digest[:12], **content})
    return load(folder)


def load(folder: Path) -> Bundle:
    """Open a bundle and check every file against the manifest.

    Raises
    ------
    InputError
        When the folder is no bundle, or a file is missing or not the one that was bundled.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise InputError(f"{folder} is no bundle: {MANIFEST} is missing; run --stages bundle")
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for name, expected in content["files"].items():
        path = folder / name
        found = sha256(path) if path.exists() else "missing"
        if found != expected:
            raise InputError(
                f"bundle {content['version']}: {path} is {found[:16]}, bundled was "
                f"{expected[:16]}; run --stages bundle again"
            )
    return Bundle(
        folder=folder,
        version=content["version"],
        checkpoint=content["checkpoint"],
        max_length=content["max_length"],
        candidates=content["candidates"],
        weights=ValueWeights(**content["weights"]),
    )


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
