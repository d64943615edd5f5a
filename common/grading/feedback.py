"""From what a run reported to a grade and to what the student may read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.exercises.catalog import Entry, sentence
from common.exercises.grading import FAILED, NOT_RUN, PASSED, first_line
from common.grading.model import GradedExercise, Status
from common.grading.sandbox import Ran

TAMPERED = "what the tests are judged with was touched; an instructor will look at it"
SHOWN = 3


def judge(
    entry: Entry, nodes: Sequence[str], not_run: Mapping[str, str], ran: Ran, root: Path
) -> GradedExercise:
    """All or nothing: every test of the manifest reported in order and passed.

    Parameters
    ----------
    nodes
        The exercise's tests by the manifest.
    not_run
        Those that the reference could not run on this machine either, and why.
    ran
        What came out of the sandbox.
    root
        The repository, to shorten paths by.
    """
    outcomes = {node: _outcome(node, not_run, ran) for node in nodes}
    failed = [node for node, (outcome, _) in outcomes.items() if outcome == FAILED]
    waiting = [node for node, (outcome, _) in outcomes.items() if outcome == NOT_RUN]
    status: Status = FAILED if failed or not nodes else NOT_RUN if waiting else PASSED
    reason, text = "", f"{len(nodes)} tests passed"
    if ran.tampering:
        status, reason, text = FAILED, TAMPERED, TAMPERED
    elif not nodes:
        reason = text = "it has no test"
    elif not ran.complete and not failed:
        status, reason = FAILED, f"the tests were not brought to their end: {ran.ended}"
        text = reason
    elif ran.broken and len(failed) == len(nodes):
        found = ran.broken[0]
        reason = f"the tests cannot import your code: {first_line(found['reason'])}"
        text = _short(f"The tests cannot import your code.\n{found['reason']}", root)
        if found.get("where"):
            text += f"\nAt {_short(found['where'], root)}"
    elif failed:
        reason = f"{sentence(failed[0])}: {first_line(outcomes[failed[0]][1])}"
        text = "\n\n".join(_explain(node, outcomes[node][1], ran, root) for node in failed[:SHOWN])
        if len(failed) > SHOWN:
            text += f"\n\n{len(failed) - SHOWN} more tests failed."
    elif waiting:
        reason = outcomes[waiting[0]][1]
        text = f"Not run, so no points: {reason}"
    return GradedExercise(
        id=entry.id,
        title=entry.title,
        lab=entry.lab,
        points=entry.points,
        status=status,
        reason=_short(reason, root),
        feedback=text,
        seconds=round(ran.seconds, 2),
        tests=dict(Counter(outcome for outcome, _ in outcomes.values())),
    )


def _outcome(node: str, not_run: Mapping[str, str], ran: Ran) -> tuple[Status, str]:
    """What one test of the manifest did. Only a pass is a pass."""
    found = ran.results.get(node)
    if found is None:
        if ran.complete and node in not_run:
            return NOT_RUN, not_run[node]
        if ran.ended and ran.running == node:
            return FAILED, ran.ended
        return FAILED, f"the test was not reached: {ran.ended}" if ran.ended else "it did not run"
    if found.get("outcome") == PASSED:
        phases = found.get("phases")
        if phases != ["setup", "call", "teardown"]:
            return FAILED, "the test did not run to its end"
        return PASSED, ""
    if found.get("outcome") == NOT_RUN and node in not_run:
        return NOT_RUN, not_run[node]
    return FAILED, str(found.get("reason", ""))


def _explain(node: str, reason: str, ran: Ran, root: Path) -> str:
    found: Mapping[str, Any] = ran.results.get(node, {})
    label = "Expected" if found.get("assertion") else "Error"
    lines = [f"Test: {sentence(node)}", f"{label}: {reason}"]
    if found.get("doc"):
        lines.append(f"Why it matters: {found['doc']}")
    if found.get("where"):
        lines.append(f"Raised at: {found['where']}")
    return _short("\n".join(lines), root)


def _short(text: str, root: Path) -> str:
    return text.replace(f"{root}/", "")
