"""A bundle: everything one version of the feed needs, under one version made from its content.

The retrieval encoder, the index built from its embeddings and the ranker belong together; an index
of another checkpoint returns confident nonsense. So the version is the hash of the files and facts,
and loading checks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from capstone.value import HEADS, ValueWeights
from common.errors import InputError
from common.results import write_json

MANIFEST = "manifest.json"
PARTS = {
    "encoder": "encoder.onnx",
    "ranker": "ranker.onnx",
    "index": "index",
    "catalogue": "catalogue.npz",
    "sources": "sources.npz",
    "vectors": "vectors.npy",
    "calibration": "calibration.json",
}
"""What every bundle holds: the name of a part and of its file or folder."""
OPTIONAL = {
    "quality": "quality.json",
    "fairness": "fairness_gate.json",
    "references": "references.json",
    "card": "card.md",
}
"""Verdicts of the gates, the scores that drift is measured against, and the card."""
JUDGED = ("encoder", "ranker", "sources", "calibration")
"""The parts that the figures of the models' gates depend on, beside the value's weights."""


@dataclass(frozen=True)
class Facts:
    """What a bundle is besides its files.

    Attributes
    ----------
    checkpoint
        sha256 of the retrieval encoder's weights, which the index was built from.
    max_length
        Items of the history that the models read.
    candidates
        Items that retrieval hands to the ranker.
    split_sha256
        The split the models were trained and judged on.
    rerank
        Options of re-ranking (:class:`capstone.reranking.RerankConfig` as JSON).
    precision
        What the ranker computes in: ``int8``, ``fp32`` or ``fp16``; ``unknown`` of a bundle that
        does not say.
    """

    checkpoint: str
    max_length: int
    candidates: int
    split_sha256: str
    weights: ValueWeights = field(default_factory=ValueWeights)
    rerank: Mapping[str, Any] = field(default_factory=dict)
    heads: tuple[str, ...] = HEADS
    precision: str = "fp32"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"rerank": dict(self.rerank), "heads": list(self.heads)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Facts:
        content = {"precision": "unknown", **content}
        known = {name: content[name] for name in cls.__dataclass_fields__}
        known["weights"] = ValueWeights(**known["weights"])
        known["heads"] = tuple(known["heads"])
        return cls(**known)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    version: str
    facts: Facts

    @property
    def checkpoint(self) -> str:
        return self.facts.checkpoint

    @property
    def max_length(self) -> int:
        return self.facts.max_length

    @property
    def candidates(self) -> int:
        return self.facts.candidates

    @property
    def weights(self) -> ValueWeights:
        return self.facts.weights

    @property
    def heads(self) -> tuple[str, ...]:
        return self.facts.heads

    @property
    def rerank(self) -> Mapping[str, Any]:
        return self.facts.rerank

    @property
    def encoder(self) -> Path:
        return self.folder / PARTS["encoder"]

    @property
    def ranker(self) -> Path:
        return self.folder / PARTS["ranker"]

    @property
    def index(self) -> Path:
        return self.folder / PARTS["index"]

    @property
    def catalogue(self) -> Path:
        return self.folder / PARTS["catalogue"]

    @property
    def sources(self) -> Path:
        return self.folder / PARTS["sources"]

    @property
    def vectors(self) -> Path:
        return self.folder / PARTS["vectors"]

    @property
    def calibration(self) -> Path:
        return self.folder / PARTS["calibration"]

    @property
    def quality(self) -> Path:
        return self.folder / OPTIONAL["quality"]

    @property
    def fairness(self) -> Path:
        return self.folder / OPTIONAL["fairness"]

    @property
    def references(self) -> Path:
        return self.folder / OPTIONAL["references"]

    @property
    def card(self) -> Path:
        return self.folder / OPTIONAL["card"]


def assemble(folder: Path, parts: Mapping[str, Path], facts: Facts) -> Bundle:
    """Copy the parts beside ``folder``, write the manifest that names and hashes them, rename.

    Raises
    ------
    InputError
        When a part of :data:`PARTS` is missing, an unknown one is given, or ``folder`` exists.
    """
    unknown = sorted(set(parts) - set(PARTS) - set(OPTIONAL))
    missing = sorted(name for name in PARTS if name not in parts)
    missing += sorted(name for name, path in parts.items() if not path.exists())
    if missing or unknown:
        raise InputError(
            f"a bundle needs {', '.join(PARTS)}; missing: {missing or 'none'}, "
            f"unknown: {unknown or 'none'}"
        )
    if folder.exists():
        raise InputError(f"{folder} exists; a bundle is never written over")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        partial.mkdir()
        for name, path in parts.items():
            target = partial / (PARTS | OPTIONAL)[name]
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy2(path, target)
        content = {**facts.as_json(), "files": _hashes(partial)}
        write_json(partial / MANIFEST, {"version": _version(content), **content})
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return load(folder)


def load(folder: Path) -> Bundle:
    """Open a bundle and check every file and every fact against the manifest.

    Raises
    ------
    InputError
        When the folder is no bundle, a file is missing, added or not the one that was bundled, or
        the version is not that of the content.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise InputError(f"{folder} is no bundle: {MANIFEST} is missing; run --stages bundle")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        version, expected = content.pop("version"), content["files"]
        facts = Facts.from_json(content)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{manifest} is damaged ({error}); run --stages bundle again") from error
    found = _hashes(folder)
    for name in sorted({*expected, *found}):
        if found.get(name) != expected.get(name):
            now, then = (side.get(name, "missing")[:16] for side in (found, expected))
            raise InputError(
                f"bundle {version}: {folder / name} is {now}, bundled was {then}; "
                "run --stages bundle again"
            )
    if version != _version(content):
        raise InputError(
            f"bundle {version}: the manifest's facts are of version {_version(content)}; "
            "run --stages bundle again"
        )
    return Bundle(folder=folder, version=version, facts=facts)


def judged_parts(parts: Mapping[str, Path], weights: ValueWeights) -> dict[str, str]:
    """sha256 of what the models' gates judge: :data:`JUDGED`, and the value's weights."""
    return {name: sha256(parts[name]) for name in JUDGED} | {"weights": _digest(weights.as_json())}


def served_parts(parts: Mapping[str, Path], facts: Facts) -> dict[str, str]:
    """sha256 of all that makes a feed: every part of :data:`PARTS` and every fact, by name.

    The last gate judges whole feeds, and so the index, the re-ranking and the catalogue too.
    """
    files = {
        name: _digest(_hashes(path)) if (path := parts[name]).is_dir() else sha256(path)
        for name in PARTS
    }
    return files | {name: _digest(value) for name, value in facts.as_json().items()}


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a bundle's folder, the manifest apart."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


def _version(content: Mapping[str, Any]) -> str:
    return _digest(content)[:12]


def _digest(value: Any) -> str:
    """Hexadecimal sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
