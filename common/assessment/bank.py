"""The question bank: ``quiz.toml`` of each lab, read, checked and drawn from a seed.

A file has a criterion for all its questions, which a question may replace by its own::

    criterion = "fsdp"

    [[question]]                 # multiple choice
    id = "1.q1"
    prompt = "..."
    options = ["...", "...", "...", "..."]
    answer = 2                   # index of the right one; a learner sees them shuffled
    why = "..."

    [[question]]                 # a number, with parameters that are drawn for each learner
    id = "1.q38"
    kind = "numeric"
    prompt = "A model of {billions} billion parameters on {ranks} ranks ..."
    parameters = { billions = [1, 2, 7], ranks = { low = 4, high = 64, step = 4 } }
    answer = "16 * billions / ranks"
    unit = "GB"
    tolerance = 0.01             # relative
    why = "16 x {billions} / {ranks} = {answer} GB."

Braces in ``prompt`` and ``why`` of a numeric question hold formulas, see
:func:`common.assessment.formula.fill`; ``answer`` is known in ``why``.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.assessment import formula
from common.errors import InputError
from common.exercises.catalog import CAPSTONE, lab_folders, lab_number, read_source

FILE = "quiz.toml"
OPTIONS = 4
NUMERIC_SHARE = 4
"""One question in four is numeric, where the lab has enough of them."""
FIELDS = {"id", "prompt", "why", "criterion", "kind", "answer"}
CHOICE_FIELDS = FIELDS | {"options"}
NUMERIC_FIELDS = FIELDS | {"parameters", "unit", "tolerance"}


@dataclass(frozen=True)
class Question:
    """One question of a lab. ``answer`` is the index of an option, or a formula."""

    id: str
    lab: str
    criterion: str
    prompt: str
    why: str
    answer: int | str
    options: tuple[str, ...] = ()
    parameters: tuple[tuple[str, tuple[float, ...]], ...] = ()
    unit: str = ""
    tolerance: float = 0.0

    @property
    def numeric(self) -> bool:
        return not self.options


@dataclass(frozen=True)
class Asked:
    """A question as one learner gets it: numbers filled in, options in their order.

    ``answer`` is the index of the right option as shown, or the number.
    """

    question: Question
    prompt: str
    why: str
    answer: float
    options: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.question.id

    def right(self, given: float) -> bool:
        """Whether an answer counts: this option, or a number within the tolerance."""
        if self.options:
            return given == self.answer
        return abs(given - self.answer) <= self.question.tolerance * abs(self.answer) * (1 + 1e-9)

    def shown(self, value: float) -> str:
        """An answer as text: the option, or the number with its unit."""
        if self.options:
            return self.options[int(value)]
        return f"{formula.number(value)} {self.question.unit}".rstrip()


def load(root: Path) -> list[Question]:
    """The questions of every lab of the repository, in order.

    Raises
    ------
    InputError
        For a file that is no TOML, and for a question that cannot be asked; it names both.
    """
    return [each for folder in lab_folders(root) for each in load_file(folder / FILE)]


def load_file(file: Path) -> list[Question]:
    """The questions of one lab; none when it has no ``quiz.toml``."""
    if not file.is_file():
        return []
    try:
        content = tomllib.loads(read_source(file))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file} is no TOML: {error}") from error
    lab = file.parent.name
    prefix = CAPSTONE if lab == CAPSTONE else str(lab_number(lab))
    found = []
    for number, given in enumerate(content.get("question", []), start=1):
        if given.get("id") != f"{prefix}.q{number}":
            raise InputError(f"{file}: {given.get('id')} stands in the place of {prefix}.q{number}")
        try:
            found.append(_question(lab, {"criterion": content.get("criterion"), **given}))
        except InputError as error:
            raise InputError(f"{file}: {given['id']}: {error}") from error
    return found


def _question(lab: str, given: Mapping[str, Any]) -> Question:
    kind = given.get("kind", "choice")
    if kind not in ("choice", "numeric"):
        raise InputError(f"kind = {kind!r} is neither 'choice' nor 'numeric'")
    known = NUMERIC_FIELDS if kind == "numeric" else CHOICE_FIELDS
    if unknown := sorted(set(given) - known):
        raise InputError(f"{unknown[0]} is no field of a {kind} question")
    for name in ("prompt", "why", "criterion"):
        if not isinstance(given.get(name), str) or not given[name].strip():
            raise InputError(f"{name} must be a text, not {given.get(name)!r}")
    texts = {name: given[name] for name in ("id", "criterion", "prompt", "why")}
    if kind == "choice":
        options, answer = given.get("options", []), given.get("answer")
        if len(options) != OPTIONS or len(set(options)) != OPTIONS:
            raise InputError(f"needs {OPTIONS} different options, not {options}")
        if type(answer) is not int or answer not in range(OPTIONS):
            raise InputError(f"answer = {answer!r} must be the index of an option, 0 to 3")
        return Question(lab=lab, answer=answer, options=tuple(options), **texts)
    tolerance, answer = given.get("tolerance"), given.get("answer")
    if not isinstance(tolerance, float) or not 0 < tolerance < 1:
        raise InputError(f"tolerance = {tolerance!r} must be a share between 0 and 1")
    if not isinstance(answer, str) or not isinstance(given.get("unit"), str):
        raise InputError("needs answer, a formula as text, and unit, a text that may be empty")
    parameters = tuple((n, _range(n, each)) for n, each in given.get("parameters", {}).items())
    question = Question(
        lab=lab, answer=answer, parameters=parameters, unit=given["unit"], tolerance=tolerance,
        **texts,
    )  # fmt: skip
    draw(question, 0)
    return question


def _range(name: str, given: object) -> tuple[float, ...]:
    """Every value a parameter may have."""
    if isinstance(given, dict) and set(given) == {"low", "high", "step"}:
        low, high, step = given["low"], given["high"], given["step"]
        if step > 0 and low < high:
            return tuple(low + step * at for at in range(int((high - low) / step + 1e-9) + 1))
    elif isinstance(given, list) and given and all(type(each) in (int, float) for each in given):
        return tuple(given)
    raise InputError(
        f"parameter {name} = {given!r} must be a list of numbers, or {{ low, high, step }}"
    )


def draw(question: Question, seed: int) -> Asked:
    """The question with parameters and the order of options drawn from ``seed``.

    The draw depends on the seed and the question's id alone: the same on every machine, whatever
    else is asked.
    """
    if question.options:
        order = _chance(question, seed).sample(range(OPTIONS), OPTIONS)
        options = tuple(question.options[at] for at in order)
        return Asked(
            question, question.prompt, question.why, order.index(int(question.answer)), options
        )
    values = parameters(question, seed)
    answer = formula.evaluate(str(question.answer), values)
    if answer == 0:
        raise InputError(f"the answer is 0 for {values}; a relative tolerance needs another number")
    why = formula.fill(question.why, values | {"answer": answer})
    return Asked(question, formula.fill(question.prompt, values), why, answer)


def parameters(question: Question, seed: int) -> dict[str, float]:
    """The values of a numeric question's parameters for this seed."""
    chance = _chance(question, seed)
    return {name: round(chance.choice(choices), 10) for name, choices in question.parameters}


def _chance(question: Question, seed: int) -> random.Random:
    return random.Random(f"{seed}:{question.id}")


def choose(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """``count`` questions of one lab in their order: a quarter numeric, and of every criterion."""
    pool = list(questions)
    random.Random(f"{seed}:choose").shuffle(pool)
    numeric = [each for each in pool if each.numeric][: count // NUMERIC_SHARE]
    first = {each.criterion: each for each in reversed(pool)}
    chosen = list(dict.fromkeys([*numeric, *first.values(), *pool]))[:count]
    return sorted(chosen, key=list(questions).index)


def paper(root: Path, count: int, seed: int) -> list[Asked]:
    """What one learner is asked: ``count`` questions of each lab, drawn."""
    bank = load(root)
    labs = dict.fromkeys(each.lab for each in bank)
    return [
        draw(question, seed)
        for lab in labs
        for question in choose([each for each in bank if each.lab == lab], count, seed)
    ]
