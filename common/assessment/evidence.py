"""What supports each success criterion: exercises, deliverables and questions, and the verdict."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.assessment.bank import Asked
from common.assessment.state import State
from common.errors import InputError
from common.exercises import progress
from common.exercises.catalog import CAPSTONE, Entry, lab_folders, lab_number, read_source
from common.exercises.grading import PASSED
from common.results import OPERATORS

CURRICULUM = "docs/curriculum.toml"
ENOUGH = 0.8
"""Share of right answers from which the questions of a criterion are shown."""
GUESSING = 0.5
"""At this share and below, answers support nothing: a guess at four options is right in 0.25."""

Verdict = Literal["shown", "partly", "not shown"]
SHOWN: Verdict = "shown"
PARTLY: Verdict = "partly"
NOT_SHOWN: Verdict = "not shown"

RULES = {
    SHOWN: "every exercise passes, every deliverable passed in a run on the learner's code, and at "
    f"least {ENOUGH:.0%} of the questions are right",
    PARTLY: "anything between the two",
    NOT_SHOWN: "no exercise passes, no deliverable passed, and at most "
    f"{GUESSING:.0%} of the questions are right",
}
CLAIM = (
    "This report was made on the learner's machine, from files that the learner can write; "
    "the answers stand in quiz.toml. It is a claim, not a grade. `course grade` runs the "
    "exercises in a sandbox on other random inputs; deliverables are "
    "confirmed by running the lab again."
)


@dataclass(frozen=True)
class Criterion:
    """A success criterion of the curriculum, and what is to show it."""

    id: str
    text: str
    deliverables: tuple[str, ...]
    exercises: tuple[str, ...]

    def concerns(self, lab: str) -> bool:
        """Whether anything of this lab is to show it."""
        return any(each.startswith(_prefixes(lab)) for each in self.exercises + self.deliverables)


@dataclass(frozen=True)
class ExerciseEvidence:
    """An exercise and where the learner stands with it."""

    id: str
    title: str
    state: str

    @property
    def passed(self) -> bool:
        return self.state == PASSED


@dataclass(frozen=True)
class DeliverableEvidence:
    """A claim of a run. ``outcome`` is passed, missed, not shown, no run, or reference code."""

    id: str
    claim: str
    outcome: str
    measured: float | None = None
    reason: str = ""
    run: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


@dataclass(frozen=True)
class QuestionEvidence:
    """A question and what was answered; ``right`` is None while it is open or hidden."""

    asked: Asked
    given: float | None
    right: bool | None


@dataclass(frozen=True)
class Finding:
    """Everything about one criterion."""

    criterion: Criterion
    exercises: Sequence[ExerciseEvidence] = ()
    deliverables: Sequence[DeliverableEvidence] = ()
    questions: Sequence[QuestionEvidence] = ()

    @property
    def right(self) -> int:
        return sum(each.right is True for each in self.questions)

    @property
    def verdict(self) -> Verdict:
        """Green only with all three kinds of evidence, see :data:`RULES`."""
        solved = [each.passed for each in self.exercises]
        measured = [each.passed for each in self.deliverables]
        share = self.right / len(self.questions) if self.questions else 0.0
        if solved and measured and all(solved) and all(measured) and share >= ENOUGH:
            return SHOWN
        return PARTLY if any(solved) or any(measured) or share > GUESSING else NOT_SHOWN

    @property
    def missing(self) -> list[str]:
        """What stands between this criterion and ``shown``."""
        found = []
        if count := sum(not each.passed for each in self.exercises):
            found.append(f"{count} exercise{'s' * (count > 1)}")
        if count := sum(not each.passed for each in self.deliverables):
            found.append(f"{count} deliverable{'s' * (count > 1)}")
        needed = math.ceil(len(self.questions) * ENOUGH - 1e-9)
        if not self.questions:
            found.append("questions: none was asked")
        elif count := max(0, needed - self.right):
            found.append(f"{count} right answer{'s' * (count > 1)}")
        return found


@dataclass(frozen=True)
class Report:
    """The whole assessment, at one moment."""

    findings: Sequence[Finding]
    state: State
    questions: Sequence[QuestionEvidence]
    made_at: str
    checked: Sequence[str] = field(default_factory=tuple)
    """Labs whose tests were run for this report; the other exercises are as last checked."""

    def count(self, verdict: Verdict) -> int:
        return sum(each.verdict == verdict for each in self.findings)


def load_criteria(root: Path) -> list[Criterion]:
    """The criteria of the curriculum, less what belongs to labs this repository does not have.

    Read here, and not by the map that ``course verify`` checks: a student's repository has no
    authors' tools.
    """
    file = root / CURRICULUM
    if not file.is_file():
        raise InputError(f"there is no {file}; it names the success criteria")
    try:
        rows = tomllib.loads(read_source(file)).get("criterion", [])
        here, runs = zip(*(_prefixes(folder.name) for folder in lab_folders(root)), strict=True)
        found = [
            Criterion(
                row["id"],
                row["text"],
                tuple(each for each in row["deliverables"] if each.startswith(runs)),
                tuple(each for each in row["exercises"] if each.startswith(here)),
            )
            for row in rows
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{file}: the criteria cannot be read ({error!r})") from error
    return [each for each in found if each.deliverables or each.exercises]


def exercise_states(entries: Sequence[Entry], work: Path) -> dict[str, ExerciseEvidence]:
    """Every exercise as it was last checked, when its text has not changed since."""
    state, current = progress.load(work), progress.fingerprints(list(entries), work)
    return {
        entry.id: ExerciseEvidence(
            entry.id, entry.title, progress.standing(entry, state, current[entry.id], work)
        )
        for entry in entries
    }


def deliverable_states(runs: Path) -> dict[str, DeliverableEvidence]:
    """The deliverables of the newest run of each package; those of our code count for nothing."""
    found: dict[str, DeliverableEvidence] = {}
    for file in sorted(runs.glob("*/latest/results.json")):
        try:
            results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            mine = results["mine"] is True
            run = f"{results['lab']}/{file.parent.resolve().name}, commit {results['commit']}, "
            run += "the learner's code" if mine else "the reference code"
            for row in results["deliverables"]:
                found[row["id"]] = _deliverable(row, mine, run)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is no results.json of a run ({error!r})") from error
    return found


def _deliverable(row: Mapping[str, Any], mine: bool, run: str) -> DeliverableEvidence:
    measured, passed, reason = row["measured"], row["passed"], row["reason"]
    if passed is None:
        outcome = "not shown"
    elif measured is None or passed != OPERATORS[row["op"]](measured, row["target"]):
        outcome = "not shown"
        reason = f"the file says {passed}, and measured {measured} {row['op']} {row['target']}"
    else:
        outcome = "passed" if passed else "missed"
    if not mine:
        reason = f"the run used the reference code; {outcome} there"
        outcome = "reference code"
    return DeliverableEvidence(row["id"], row["claim"], outcome, measured, reason, run)


def question_states(paper: Sequence[Asked], state: State) -> list[QuestionEvidence]:
    """Every question of the paper; how an exam went is not told before it is handed in."""
    found = []
    for asked in paper:
        given = state.given(asked)
        known = given is not None and state.closed(asked)
        right = asked.right(given) if known and given is not None else None
        found.append(QuestionEvidence(asked, given, right))
    return found


def judge(
    criteria: Sequence[Criterion],
    exercises: Mapping[str, ExerciseEvidence],
    deliverables: Mapping[str, DeliverableEvidence],
    questions: Sequence[QuestionEvidence],
) -> list[Finding]:
    """Bring the three kinds of evidence together; what is missing is there, as missing."""
    return [
        Finding(
            criterion,
            [
                exercises.get(each, ExerciseEvidence(each, "", "no such exercise"))
                for each in criterion.exercises
            ],
            [
                deliverables.get(
                    each, DeliverableEvidence(each, "", "no run", reason=_how_to_run(each))
                )
                for each in criterion.deliverables
            ],
            [each for each in questions if each.asked.question.criterion == criterion.id],
        )
        for criterion in criteria
    ]


def _prefixes(lab: str) -> tuple[str, str]:
    """How the ids of a lab's exercises and of its claims begin."""
    number = lab_number(lab)
    return f"{number}.", "C." if lab == CAPSTONE else f"L{number}."


def _how_to_run(claim: str) -> str:
    first = claim.partition(".")[0]
    return f"make {'capstone' if first == 'C' else first.replace('L', 'lab')} ARGS=--mine"
