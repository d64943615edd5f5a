"""A bundle whose parts are text: for tests of what holds bundles, not of what runs them."""

from __future__ import annotations

from pathlib import Path

from capstone import bundle
from capstone.value import ValueWeights


def parts(folder: Path, ranker: str = "ranker") -> dict[str, Path]:
    """Files with the names of a bundle's parts."""
    folder.mkdir(parents=True)
    found = {}
    for name, file in bundle.PARTS.items():
        found[name] = folder / file
        if name == "index":
            found[name].mkdir()
            (found[name] / "manifest.json").write_text("{}")
        else:
            found[name].write_text(ranker if name == "ranker" else name)
    return found


def assemble(
    folder: Path, name: str = "bundle", ranker: str = "ranker", checkpoint: str = "abc"
) -> bundle.Bundle:
    facts = bundle.Facts(
        checkpoint=checkpoint,
        max_length=50,
        candidates=200,
        split_sha256="0" * 64,
        weights=ValueWeights(1.0, 0.5, dislike=-0.25),
        rerank={"diversity": "none"},
    )
    return bundle.assemble(folder / name, parts(folder / f"parts-{name}", ranker), facts)
