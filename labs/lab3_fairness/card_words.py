"""The words of a model card: what people must say, because no run can measure it."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.errors import InputError
from labs.lab3_fairness.card_numbers import IDENTIFIER
from labs.lab3_fairness.untrusted import shown

PLACEHOLDER = re.compile(r"\{(metric|fact):([^{}]+)\}")
RATE = re.compile(r"[.·]\d|,\d{1,2}(?!\d)|,\d{4,}|\d\s*/\s*\d|\d\s+(?:out\s+)?of\s+\d")
# Of a publication: an arXiv number, a DOI, a link. Their digits state nothing.
ADDRESS = re.compile(
    r"\barxiv:\s?\d{4}\.\d{4,5}(?:v\d+)?\b|\b10\.\d{4,9}/[\w.()/-]+|https?://[^\s)]+", re.IGNORECASE
)
PERCENT = re.compile(r"(?:\S+\s?)?(?:[%‰٪％]|\bper\s?-?cent\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """One row of a table: a metric by name. ``kind`` puts it into the metadata as well.

    ``optional`` lets the card say "not measured" and why; otherwise a missing metric is an error.
    """

    metric: str
    label: str
    kind: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Audit:
    """All disparities of one audit: ``<prefix>.<metric>_{difference,null_q95,p}``."""

    prefix: str
    label: str


@dataclass(frozen=True)
class Mitigation:
    """All methods of a comparison: ``<prefix>.<method>.<measure>``, with ``base`` untouched."""

    prefix: str
    base: str
    measures: tuple[str, ...]
    words: str
    optional: bool = False


@dataclass(frozen=True)
class Explanations:
    """Every metric below a prefix, and what they are to be read as."""

    prefix: str
    words: str
    optional: bool = False


@dataclass(frozen=True)
class Fact:
    """A figure that no run of ours measured, with where it comes from."""

    text: str
    source: str


@dataclass(frozen=True)
class People:
    """Who stands behind the model. Empty means that nobody has said, and the card says so."""

    owner: str = ""
    consulted: str = ""
    decides: str = ""
    appeals: str = ""

    QUESTIONS = (
        ("owner", "Who answers for the model"),
        ("consulted", "Who was consulted, among those it decides about"),
        ("decides", "Who decides whether it is used, and which definition of fairness holds"),
        ("appeals", "Where a person can object to a decision"),
    )


@dataclass(frozen=True)
class Words:
    """Everything of a card that is not a measured number."""

    name: str
    title: str
    summary: str
    license: str
    tags: tuple[str, ...]
    task: str
    data: tuple[str, ...]
    intended: tuple[str, ...]
    out_of_scope: tuple[str, ...]
    training: str
    evaluation: str
    groups_words: str
    limits: tuple[str, ...]
    recommendation: str
    performance: tuple[Line, ...]
    groups: tuple[Line, ...]
    disparities: tuple[Audit, ...]
    mitigation: Mitigation
    explanations: Explanations
    people: People
    facts: tuple[tuple[str, Fact], ...] = ()


def read_words(path: Path) -> Words:
    """Read the words of a card from TOML, one key a field of :class:`Words`.

    Raises
    ------
    InputError
        For a file that is missing or no TOML, a key that is missing or unknown, an empty text
        (only those of ``people`` may be), a value of another type, or a figure typed into the
        prose.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except RecursionError:
        raise InputError(f"{path}: nested too deeply; the words have three levels") from None
    except ValueError as error:  # no UTF-8, no TOML, an integer of thousands of digits
        raise InputError(f"{path}: not TOML ({error})") from None
    facts = found.pop("facts", {})
    try:
        if not isinstance(facts, dict):
            raise InputError(f"facts = {shown(facts)} must be a table of facts")
        words: Words = _filled(Words, found, "", facts=_facts(facts))
        check_prose(words)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return words


def _facts(found: dict[str, Any]) -> tuple[tuple[str, Fact], ...]:
    facts = [(name, _filled(Fact, entry, f"facts.{name}.")) for name, entry in found.items()]
    for name, fact in facts:
        for key, text in (("text", fact.text), ("source", fact.source)):
            if rate := stated_rate(text):
                raise InputError(
                    f"facts.{name}.{key} = {shown(text)} states a rate ({rate!r}); a rate is "
                    "measured by a run and written {metric:name}. Facts are dates, limits and "
                    "counts that others published; a source says where"
                )
    return tuple(facts)


def stated_rate(text: str) -> str | None:
    """The first rate, percentage, decimal or fraction in a fact; None when there is none.

    Years and whole numbers pass, and so do the addresses of publications.
    """
    bare = ADDRESS.sub(" ", text)
    found = PERCENT.search(bare) or RATE.search(bare)
    if found:
        return found.group().strip()
    return next((letter for letter in bare if unicodedata.category(letter) == "No"), None)


NESTED: dict[str, Callable[..., Any]] = {
    "Line": Line,
    "Audit": Audit,
    "Mitigation": Mitigation,
    "Explanations": Explanations,
    "People": People,
}


def _filled(kind: Callable[..., Any], found: Any, where: str, **given: Any) -> Any:
    """One dataclass from a TOML table, each field by its annotation."""
    if not isinstance(found, dict):
        raise InputError(f"{where.rstrip('.') or 'words'} = {shown(found)} must be a table")
    declared = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(found) - set(declared) | set(found) & set(given)):
        known = ", ".join(name for name in declared if name not in given)
        raise InputError(f"unknown key {where}{unknown[0]}; the keys here: {known}")
    values = dict(given)
    for name, field in declared.items():
        if name in found:
            values[name] = _value(str(field.type), found[name], where + name)
    try:
        return kind(**values)
    except TypeError as error:
        missing = re.findall(r"'(\w+)'", str(error))
        raise InputError(f"key {where}{missing[0]} is missing; a card needs it") from error


def _value(wanted: str, value: Any, where: str) -> Any:
    if wanted.startswith("tuple["):
        if not isinstance(value, list):
            raise InputError(f"{where} = {shown(value)} must be a list")
        inner = wanted.removeprefix("tuple[").split(",")[0]
        return tuple(_value(inner, each, f"{where}[{place}]") for place, each in enumerate(value))
    if wanted in NESTED:
        return _filled(NESTED[wanted], value, f"{where}.")
    if type(value).__name__ != wanted:
        raise InputError(f"{where} = {shown(value)} must be of type {wanted}")
    if wanted == "str" and not value.strip() and not where.startswith("people."):
        raise InputError(f"{where} is empty; say it, or say that it is not known and why")
    return value


def prose(words: Words) -> list[tuple[str, str]]:
    """Every text that people wrote, with the key it stands under."""
    texts = [
        (name, getattr(words, name))
        for name in ("name", "title", "summary", "task", "training", "evaluation", "groups_words")
    ]
    texts.append(("recommendation", words.recommendation))
    for name in ("tags", "intended", "out_of_scope", "limits"):
        texts += [(f"{name}[{n}]", text) for n, text in enumerate(getattr(words, name))]
    texts += [("mitigation.words", words.mitigation.words)]
    texts += [("explanations.words", words.explanations.words)]
    texts += [(f"people.{name}", getattr(words.people, name)) for name, _ in People.QUESTIONS]
    labels = [line.label for line in (*words.performance, *words.groups)]
    labels += [audit.label for audit in words.disparities]
    return texts + [(f"label {label!r}", label) for label in labels]


def check_prose(words: Words) -> None:
    """Refuse figures typed into the words.

    Raises
    ------
    InputError
        Naming the key, the figure and the placeholder to use in its place. Quantities in words
        ("twice as often") pass: a reader must catch those.
    """
    for key, text in prose(words):
        figure = typed_figure(text)
        if figure is not None:
            raise InputError(
                f"{key} holds the typed figure {figure!r}; write {{metric:NAME}} for a measured "
                "number, or {fact:NAME} for a published one that is listed under facts"
            )


def typed_figure(text: str) -> str | None:
    """The first figure or percentage in a text outside placeholders; None when there is none.

    Digits of every script count, and fractions such as ½. Digits inside a name that starts with
    a letter (F1, GPT-2) do not.
    """
    bare = PLACEHOLDER.sub(" ", text)
    if stray := re.search(r"[{}]\S*", bare):
        return stray.group()
    if percent := PERCENT.search(bare):
        return percent.group().strip()
    for chunk in IDENTIFIER.sub(" ", bare).split():
        if any(unicodedata.numeric(letter, None) is not None for letter in chunk):
            return chunk
    return None
