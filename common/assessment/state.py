"""What was answered so far: ``work/.assessment.json``, and answers that come in a file."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.assessment import formula
from common.assessment.bank import Asked
from common.errors import InputError
from common.results import write_json

STATE_FILE = ".assessment.json"
SCHEMA = 1
QUESTIONS = 12
SEEDS = 1_000_000


@dataclass
class State:
    """An assessment that was begun.

    ``answers`` maps a question to the answer given, an option's index as shown or a number.
    ``finished`` are the labs whose exam was handed in: their answers stay as they are.
    """

    seed: int
    questions: int = QUESTIONS
    exam: bool = False
    answers: dict[str, float] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def answer(self, asked: Asked, given: float) -> None:
        self.answers[asked.id] = given
        self.asked[asked.id] = fingerprint(asked)

    def given(self, asked: Asked) -> float | None:
        """The answer to exactly this question; one to an earlier wording does not count."""
        return (
            self.answers.get(asked.id) if self.asked.get(asked.id) == fingerprint(asked) else None
        )

    def closed(self, asked: Asked) -> bool:
        """Whether solutions may be shown: at once in practice, after handing in of an exam."""
        if self.exam:
            return asked.question.lab in self.finished
        return self.given(asked) is not None


def fingerprint(asked: Asked) -> str:
    """Of the text a learner saw: it changes with the question, its numbers and its options."""
    text = json.dumps([asked.prompt, asked.options, asked.question.unit])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(work: Path) -> State | None:
    """The assessment that was begun in ``work``, or None."""
    file = work / STATE_FILE
    if not file.is_file():
        return None
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        if written.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        state = State(**written)
        state.answers = {str(key): float(value) for key, value in state.answers.items()}
        if type(state.seed) is not int or type(state.questions) is not int or state.questions < 1:
            raise ValueError("seed and questions must be whole numbers")
        if not isinstance(state.asked, dict) or not isinstance(state.finished, list):
            raise ValueError("asked must be a table and finished a list")
        return state
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged ({error}); begin anew with `course assess --restart`"
        ) from error


def save(work: Path, state: State) -> None:
    """Write the state; whole, or as it was before."""
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / STATE_FILE, {"schema": SCHEMA, **vars(state)})


def set_aside(work: Path) -> Path | None:
    """Move the state out of the way of a new one; where it is now, or None when there was none."""
    file = work / STATE_FILE
    if not file.exists():
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return file.rename(file.with_name(f".assessment-{stamp}.json"))


def begin(state: State | None, seed: int | None, questions: int | None, exam: bool) -> State:
    """The assessment to go on with, or a new one.

    Raises
    ------
    InputError
        When the options are not those the assessment began with.
    """
    if state is None:
        drawn = secrets.randbelow(SEEDS) if seed is None else seed
        return State(drawn, questions or QUESTIONS, exam)
    for name, given, kept in (
        ("--seed", seed, state.seed),
        ("--questions", questions, state.questions),
        ("--exam", exam or None, state.exam),
    ):
        if given is not None and given != kept:
            raise InputError(
                f"{name} {given if given is not True else ''} is not how this assessment began "
                f"({kept}); leave it out to go on, or begin anew with --restart"
            )
    return state


def parse_answer(asked: Asked, given: object) -> float:
    """An answer as typed or as in a file: the number of an option from 1 on, its text, or a number.

    Raises
    ------
    InputError
        For anything else.
    """
    if asked.options:
        if isinstance(given, str) and given in asked.options:
            return asked.options.index(given)
        text = str(given).strip()
        if isinstance(given, bool) or not text.isdecimal() or int(text) - 1 not in range(4):
            raise InputError(f"{asked.id}: {given!r} is no option; give a number from 1 to 4")
        return int(text) - 1
    if isinstance(given, str):
        text = given.strip()
        unit = asked.question.unit
        return formula.parse_number(text.removesuffix(unit) if unit else text)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InputError(f"{asked.id}: {given!r} is no number")
    return formula.parse_number(repr(given))


def read_sheet(file: Path) -> tuple[int, int, dict[str, Any]]:
    """Seed, questions a lab, and raw answers of a sheet that was filled in.

    The sheet is JSON: ``{"seed": 3, "questions": 12, "answers": {"1.q1": 2, "1.q40": 14.5}}``.
    ``course assess --paper FILE`` writes one to fill in; null is a question left out.
    """
    if not file.is_file():
        raise InputError(f"--answers {file}: there is no such file; --paper FILE writes one")
    try:
        sheet = json.loads(file.read_text(encoding="utf-8"))
        seed, questions, answers = sheet["seed"], sheet["questions"], sheet["answers"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--answers {file} is no answer sheet ({error!r}); --paper FILE writes one"
        ) from error
    if type(seed) is not int or type(questions) is not int or questions < 1:
        raise InputError(f"--answers {file}: seed and questions must be whole numbers")
    if not isinstance(answers, dict):
        raise InputError(f"--answers {file}: answers must map question ids to answers")
    return seed, questions, answers


def fill_in(state: State, paper: Sequence[Asked], answers: Mapping[str, Any]) -> None:
    """Put the answers of a sheet into ``state``; what was left out stays unanswered."""
    known = {asked.id: asked for asked in paper}
    if unknown := [key for key in answers if key not in known]:
        raise InputError(
            f"{unknown[0]} is no question of the paper with seed {state.seed} and "
            f"{state.questions} questions a lab"
        )
    for key, given in answers.items():
        if given is not None:
            state.answer(known[key], parse_answer(known[key], given))


def sheet(state: State, paper: Sequence[Asked]) -> dict[str, Any]:
    """A paper to be answered in a file: the questions without their solutions."""
    return {
        "seed": state.seed,
        "questions": state.questions,
        "answers": dict.fromkeys((asked.id for asked in paper), None),
        "paper": [
            {
                "id": asked.id,
                "lab": asked.question.lab,
                "criterion": asked.question.criterion,
                "prompt": asked.prompt,
                **({"options": asked.options} if asked.options else {"unit": asked.question.unit}),
            }
            for asked in paper
        ],
    }
