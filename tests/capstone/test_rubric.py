"""The rubric gives points for evidence alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capstone import rubric
from capstone.claims import CLAIMS
from common.errors import InputError

SECTIONS = "What I changed", "Evidence", "Decision", "Risks and limits", "What I would do next"
FIGURES = {
    "system.ndcg_at_10": 0.10238, "serving.asked_p99_ms": 31.73, "random_split.auc": 0.8012,
    "student.compression": 9.113, "serving.qps": 1328.6, "export.max_abs_error": 3.576e-07,
}  # fmt: skip
QUOTES = {
    "system.ndcg_at_10": "0.102", "serving.asked_p99_ms": "31.7", "random_split.auc": "0.8012",
    "student.compression": "9.11", "serving.qps": "1,329", "export.max_abs_error": "3.58e-07",
}  # fmt: skip
SOLVED = {"7.1": "passed", "7.2": "passed"}


def decision(quotes: dict[str, str] = QUOTES) -> str:
    body = "word " * 60 + "\n" + "\n".join(f"- `{name}`: {text}" for name, text in quotes.items())
    return "\n".join(f"## {name}\n\n{body}\n" for name in SECTIONS)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that earns every point."""
    rows = [
        {"id": claim.id, "metric": claim.metric, "op": claim.op, "target": claim.target,
         "measured": 1, "passed": True, "reason": ""}
        for claim in CLAIMS
    ]  # fmt: skip
    metrics = {name: {"value": value, "unit": "x"} for name, value in FIGURES.items()}
    results = {"lab": "capstone", "deliverables": rows, "metrics": metrics}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "model_card.md").write_text("x" * 2000)
    (tmp_path / rubric.DECISION).write_text(decision())
    return tmp_path


def points(run: Path, exercises: dict[str, str] = SOLVED) -> dict[str, float]:
    marks = rubric.grade(run, rubric.read_rubric(), exercises)
    return {mark.criterion.id: mark.points for mark in marks}


def test_a_complete_submission_has_all_hundred_points(run: Path) -> None:
    assert sum(points(run).values()) == 100
    assert sum(each.points for each in rubric.read_rubric()) == 100


def test_every_outcome_it_asks_for_is_on_the_scorecard() -> None:
    """A renamed claim would silently give nobody its points."""
    asked = {each.name for each in rubric.read_rubric() if each.kind == "deliverable"}
    assert asked <= {claim.id for claim in CLAIMS}


def test_an_unmeasured_outcome_gives_nothing_and_says_why(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    for row in results["deliverables"]:
        if row["id"] == "C.feeds":
            row.update(passed=None, measured=None, reason="smoke scale")
    (run / "results.json").write_text(json.dumps(results))
    mark = next(
        m for m in rubric.grade(run, rubric.read_rubric(), SOLVED) if m.criterion.id == "R6"
    )
    assert mark.points == 0
    assert "smoke scale" in mark.evidence


def test_exercises_count_in_proportion(run: Path) -> None:
    assert points(run, {"7.1": "passed", "7.2": "failed"})["R1"] == 15
    assert points(run, {})["R1"] == 0


@pytest.mark.parametrize("text", ["0.103", "0.2", "10.2"])
def test_a_figure_that_is_not_the_runs_costs_the_points(run: Path, text: str) -> None:
    """Copied from a friend's report, or from the lesson."""
    changed = decision(QUOTES | {"system.ndcg_at_10": text})
    (run / rubric.DECISION).write_text(changed)
    assert points(run)["R13"] == 0


def test_a_section_too_short_costs_the_points(run: Path) -> None:
    text = decision().replace(
        "## Risks and limits\n\nword", "## Risks and limits\n\n## Else\n\nword"
    )
    (run / rubric.DECISION).write_text(text)
    assert points(run)["R12"] == 0


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        points(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        points(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"lab": "lab5_distillation"}))
    with pytest.raises(InputError, match="not of the capstone"):
        points(tmp_path)
