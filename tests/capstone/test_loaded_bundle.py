"""What may become an arm of a running gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from capstone import bundle, gates
from capstone.bundle import Bundle
from capstone.loaded_bundle import Mismatch, require_gates
from tests.capstone import tiny_bundle

GOOD = {
    "ndcg_at_10": 0.1, "auc": 0.8, "ece": 0.02, "engage_log_ratio": 0.1, "overlap_at_10": 0.9,
    "tied_share": 0.0,
}  # fmt: skip


def judged(folder: Path, **changed: float) -> Bundle:
    """A tiny bundle whose verdict says this of it."""
    made = tiny_bundle.build(folder / "made")
    verdict = gates.judge(GOOD | changed, GOOD)
    parts = {name: made.folder / file for name, file in bundle.PARTS.items()}
    quality = gates.write_verdict(verdict, folder / "quality.json")
    return bundle.assemble(folder / "judged", parts | {"quality": quality}, made.facts)


def test_a_bundle_that_passed_its_gates_may_come(tmp_path: Path) -> None:
    require_gates(judged(tmp_path))


def test_a_bundle_that_failed_a_gate_is_refused_by_name(tmp_path: Path) -> None:
    """Whole files and matching hashes say nothing of what is in them."""
    with pytest.raises(Mismatch, match="ndcg") as refused:
        require_gates(judged(tmp_path, ndcg_at_10=0.05))
    assert refused.value.part == "gates"
