"""Gates refuse what is worse, what is missing and what is no number."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import gates
from common.errors import InputError

quick = settings(derandomize=True, deadline=None, max_examples=30)
KEPT = gates.Gate("kept", "ndcg", ">=", 0.98, relative=True)
ERROR = gates.Gate("error", "ece", "<=", 0.1)
BOTH = (KEPT, ERROR)
GOOD = {"ndcg": 0.099, "ece": 0.05}
REFERENCE = {"ndcg": 0.1, "ece": 0.2}


@pytest.mark.exercise("7.4")
def test_a_candidate_on_the_right_side_of_every_limit_passes() -> None:
    """Expected: kept .99 of the reference's NDCG, and its own error of .05. The reference's error
    has no part in it: the second gate is not relative.
    """
    verdict = gates.judge(GOOD, REFERENCE, BOTH)
    values = [outcome.value for outcome in verdict.outcomes]
    assert verdict.passed, f"{GOOD} against {REFERENCE} must pass {BOTH}; values were {values}"
    assert values == pytest.approx([0.99, 0.05]), f"values {values}, expected [0.99, 0.05]"


@pytest.mark.exercise("7.4")
@quick
@given(st.floats(0.01, 2.0), st.floats(0.0, 0.5))
def test_each_gate_looks_in_its_own_direction(kept: float, error: float) -> None:
    """Expected: more is better for NDCG, less for an error; equality passes. A gate that looks the
    wrong way lets every bad model through and stops every good one.
    """
    verdict = gates.judge({"ndcg": kept, "ece": error}, {"ndcg": 1.0}, BOTH)
    found = [outcome.passed for outcome in verdict.outcomes]
    expected = [kept >= 0.98, error <= 0.1]
    assert found == expected, f"ratio {kept}, error {error}: passed {found}, expected {expected}"


@pytest.mark.exercise("7.4")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["ndcg", "ece"])
def test_what_is_no_number_fails(metric: str, bad: float) -> None:
    """Expected: the gate of that metric fails, in both directions. A model whose scores are NaN
    gives a metric of NaN, and every comparison with it is False, "worse than the limit" as well.
    """
    verdict = gates.judge(GOOD | {metric: bad}, REFERENCE, BOTH)
    failed = [outcome.gate.metric for outcome in verdict.outcomes if not outcome.passed]
    assert failed == [metric], f"{metric} = {bad}: gates that failed {failed}, expected [{metric}]"


@pytest.mark.exercise("7.4")
@pytest.mark.parametrize("metric", ["ndcg", "ece"])
def test_what_was_not_measured_fails(metric: str) -> None:
    """Expected: one outcome for every gate, and the one without a figure fails. An evaluation that
    crashed half way leaves out what it did not get to.
    """
    measured = {name: value for name, value in GOOD.items() if name != metric}
    verdict = gates.judge(measured, REFERENCE, BOTH)
    found = {outcome.gate.metric: outcome.passed for outcome in verdict.outcomes}
    expected = {"ndcg": True, "ece": True} | {metric: False}
    assert found == expected, f"without {metric}: {found}, expected {expected}"


@pytest.mark.exercise("7.4")
@pytest.mark.parametrize("base", [{}, {"ndcg": 0.0}, {"ndcg": math.nan}, {"ndcg": -0.1}])
def test_nothing_can_be_kept_of_a_reference_that_is_none(base: dict[str, float]) -> None:
    """Expected: the relative gate fails. A reference of 0 would make any candidate infinitely good,
    a negative one would turn the comparison round.
    """
    for candidate in (GOOD, GOOD | {"ndcg": -0.2}):
        outcome = gates.judge(candidate, base, BOTH).outcomes[0]
        assert not outcome.passed, f"NDCG {candidate['ndcg']} of {base} passed as {outcome.value}"


def test_a_verdict_without_gates_is_refused() -> None:
    """All of nothing is true: an empty list of gates would let everything pass."""
    with pytest.raises(InputError, match="gates = 0"):
        gates.judge(GOOD, REFERENCE, ())
    assert not gates.Verdict((), GOOD, REFERENCE).passed


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_a_limit_must_be_a_number(limit: float) -> None:
    with pytest.raises(InputError, match="must be finite"):
        gates.Gate("kept", "ndcg", ">=", limit)


def test_another_operator_is_refused() -> None:
    with pytest.raises(InputError, match="must be one of"):
        gates.Gate("kept", "ndcg", ">", 0.98)  # type: ignore[arg-type]


def test_a_failed_gate_is_named() -> None:
    verdict = gates.judge({"ndcg": 0.05, "ece": 0.05}, REFERENCE, BOTH)
    assert verdict.failed == ("kept",)
    assert "FAIL  kept: ndcg of the reference 0.5 (must be >= 0.98)" in verdict.explain()


@pytest.mark.parametrize("candidate", [GOOD, GOOD | {"ndcg": math.nan}, {"ece": 0.3}])
def test_a_verdict_is_read_as_it_was_written(tmp_path: Path, candidate: dict[str, float]) -> None:
    """NaN has no place in JSON: it becomes null, and fails again when it is read."""
    verdict = gates.judge(candidate, REFERENCE, BOTH)
    read = gates.read_verdict(gates.write_verdict(verdict, tmp_path / "quality.json"), BOTH)
    assert read.passed == verdict.passed
    assert read.failed == verdict.failed


@pytest.mark.parametrize("edit", ["passed", "gate"])
def test_an_edited_verdict_is_refused(tmp_path: Path, edit: str) -> None:
    """The figures decide, not what the file says of them."""
    bad = gates.judge({"ndcg": 0.05, "ece": 0.05}, REFERENCE, BOTH)
    path = gates.write_verdict(bad, tmp_path / "quality.json")
    content = json.loads(path.read_text())
    if edit == "passed":
        content["passed"] = True
    else:
        content["gates"][0]["passed"] = True
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="edited"):
        gates.read_verdict(path, BOTH)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"gates": []}', '{"gates": [{"name": "x"}]}'])
def test_a_file_that_is_no_verdict_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "quality.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no verdict"):
        gates.read_verdict(path, BOTH)


def test_a_verdict_by_other_gates_is_refused(tmp_path: Path) -> None:
    """A file with one easy gate would pass anything."""
    easy = (gates.Gate("ndcg", "ndcg_at_10", ">=", 0.0),)
    verdict = gates.judge({"ndcg_at_10": 0.0}, {}, easy)
    with pytest.raises(InputError, match="other gates"):
        gates.read_verdict(gates.write_verdict(verdict, tmp_path / "quality.json"))
