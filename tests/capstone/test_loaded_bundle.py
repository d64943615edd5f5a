"""What may become an arm of a running gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capstone import bundle
from capstone.bundle import OPTIONAL, PARTS, Bundle
from capstone.loaded_bundle import Mismatch, require_gates
from tests.capstone import tiny_bundle


def parts_of(made: Bundle, *without: str) -> dict[str, Path]:
    found = {name: made.folder / file for name, file in (PARTS | OPTIONAL).items()}
    return {name: path for name, path in found.items() if path.exists() and name not in without}


def test_a_bundle_that_passed_its_gates_may_come(tmp_path: Path) -> None:
    require_gates(tiny_bundle.build(tmp_path / "made"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"figures": tiny_bundle.GOOD | {"ndcg_at_10": 0.05}}, "failed its gates: ndcg"),
        ({"promote": False}, "blocked by the fairness gate"),
        ({"figures": None}, "never judged: it has no quality.json"),
    ],
)
def test_what_no_gate_let_through_is_refused_by_name(
    tmp_path: Path, how: dict[str, Any], words: str
) -> None:
    """Whole files and matching hashes say nothing of what is in them."""
    with pytest.raises(Mismatch, match=words) as refused:
        require_gates(tiny_bundle.build(tmp_path / "made", **how))
    assert refused.value.part == "gates"


def test_a_bundle_that_only_one_of_the_gates_has_seen_is_refused(tmp_path: Path) -> None:
    """Accurate and unaudited is not judged."""
    made = tiny_bundle.build(tmp_path / "made")
    half = bundle.assemble(tmp_path / "half", parts_of(made, "fairness"), made.facts)
    with pytest.raises(Mismatch, match=r"no fairness_gate\.json"):
        require_gates(half)


@pytest.mark.parametrize("part", bundle.JUDGED)
def test_the_verdict_of_one_bundle_does_not_let_in_another(tmp_path: Path, part: str) -> None:
    """A good verdict copied beside another model, or another calibration, opens nothing."""
    made, other = (tiny_bundle.build(tmp_path / name, seed=n) for n, name in enumerate("ab"))
    changed = other.folder / PARTS[part]
    if part == "calibration":  # the same in both
        changed = tmp_path / "calibration.json"
        changed.write_text((made.folder / PARTS[part]).read_text().replace("0.9", "0.8"))
    mixed = bundle.assemble(tmp_path / "mixed", parts_of(made) | {part: changed}, made.facts)
    with pytest.raises(Mismatch, match=f"quality.json is of another {part}"):
        require_gates(mixed)


def test_other_weights_of_the_value_were_not_judged(tmp_path: Path) -> None:
    """A flipped sign shows people what they hide, with the same models."""
    from dataclasses import replace

    made = tiny_bundle.build(tmp_path / "made")
    weights = replace(made.weights, like=2 * made.weights.like)
    other = bundle.assemble(
        tmp_path / "other", parts_of(made), replace(made.facts, weights=weights)
    )
    with pytest.raises(Mismatch, match="of another weights"):
        require_gates(other)
