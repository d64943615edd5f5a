"""What may become an arm of a running gateway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capstone import bundle
from capstone.bundle import OPTIONAL, PARTS, Bundle, Facts
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


@pytest.mark.parametrize("part", PARTS)
def test_the_verdict_of_one_bundle_does_not_let_in_another(tmp_path: Path, part: str) -> None:
    """Good verdicts copied beside another model, index or catalogue open nothing."""
    made, other = (tiny_bundle.build(tmp_path / name, seed=n) for n, name in enumerate("ab"))
    changed = other.folder / PARTS[part]
    if part == "calibration":  # the same in both
        changed = tmp_path / "calibration.json"
        changed.write_text((made.folder / PARTS[part]).read_text().replace("0.9", "0.8"))
    if part == "catalogue":
        titled = tiny_bundle.build(tmp_path / "titled", titles={1: "Another"})
        changed = titled.catalogue
    mixed = bundle.assemble(tmp_path / "mixed", parts_of(made) | {part: changed}, made.facts)
    which = "quality" if part in bundle.JUDGED else "fairness_gate"
    with pytest.raises(Mismatch, match=f"{which}.json is of another {part}; .* judged again"):
        require_gates(mixed)


@pytest.mark.parametrize("fact", Facts.__dataclass_fields__)
def test_what_was_judged_is_all_that_serves(tmp_path: Path, fact: str) -> None:
    """One fact is edited in a judged bundle and the manifest made to fit: whole, and not the same.

    Other re-ranking, fewer candidates, other weights of the value: the same models, another feed,
    and none of it is what the gates have seen.
    """
    made = tiny_bundle.build(tmp_path / "made")
    changed: Any = {
        "rerank": {**made.rerank, "exploration_slots": 0},
        "weights": replace(made.weights, like=2 * made.weights.like),
        "heads": made.heads[::-1],
        "max_length": made.max_length - 1,
        "candidates": made.candidates - 1,
    }.get(fact, "another")
    assert changed != getattr(made.facts, fact)
    other = bundle.assemble(
        tmp_path / "other", parts_of(made), replace(made.facts, **{fact: changed})
    )
    with pytest.raises(Mismatch, match=f"is of another {fact};") as refused:
        require_gates(other)
    assert refused.value.part == "gates"
