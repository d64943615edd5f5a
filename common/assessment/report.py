"""The report by skill: on the terminal, as JSON, as a page, and printed to PDF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.assessment.evidence import (
    CLAIM,
    NOT_SHOWN,
    PARTLY,
    RULES,
    SHOWN,
    Finding,
    QuestionEvidence,
    Report,
)
from common.assessment.formula import number
from common.errors import InputError, RunError
from common.results import write_text

COLOURS = {SHOWN: "green", PARTLY: "yellow", NOT_SHOWN: "red"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PRINT_S = 60
BACKTICKS = re.compile(r"`([^`]+)`")


def score(questions: Sequence[QuestionEvidence]) -> str:
    """``7 of 12 right``; while an exam is open, how many are answered."""
    if not questions:
        return "none"
    answered = [each for each in questions if each.given is not None]
    if answered and all(each.right is None for each in answered):
        return f"{len(answered)} of {len(questions)} answered"
    return f"{sum(each.right is True for each in questions)} of {len(questions)} right"


def show(report: Report, console: Console) -> None:
    """Print the table of criteria, the deliverables that are not passed, and what it is worth."""
    if not console.is_terminal:
        console.width = 120
    table = Table(title="Assessment by skill", title_justify="left")
    table.add_column("criterion")
    for name in ("exercises", "deliverables", "questions"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for each in report.findings:
        table.add_row(
            escape(each.criterion.text),
            f"{sum(e.passed for e in each.exercises)} of {len(each.exercises)}",
            f"{sum(d.passed for d in each.deliverables)} of {len(each.deliverables)}",
            score(each.questions).removesuffix(" right"),
            f"[{COLOURS[each.verdict]}]{each.verdict}[/]",
        )
    console.print(table)
    groups: dict[tuple[str, str], list[str]] = {}
    for evidence in _deliverables(report).values():
        if not evidence.passed:
            groups.setdefault((evidence.outcome, evidence.reason), []).append(evidence.id)
    if groups:
        rows = Table("outcome", "why", "deliverables", title="Deliverables that are not passed",
                     title_justify="left")  # fmt: skip
        for (outcome, reason), ids in groups.items():
            rows.add_row(outcome, escape(reason), ", ".join(ids))
        console.print(rows)
    console.print(summary(report), soft_wrap=True)
    for verdict, rule in RULES.items():
        console.print(f"{verdict}: {rule}", style="dim")
    console.print(CLAIM)


def _deliverables(report: Report) -> dict[str, Any]:
    return {each.id: each for found in report.findings for each in found.deliverables}


def summary(report: Report) -> str:
    """The counts over everything, in one line."""
    totals = ", ".join(f"{count} {label}" for count, label in _totals(report))
    return (
        f"{report.count(SHOWN)} of {len(report.findings)} criteria shown, "
        f"{report.count(PARTLY)} partly, {report.count(NOT_SHOWN)} not shown; "
        f"{totals} (seed {report.state.seed})"
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report for a program to read."""
    return {
        "schema": 1,
        "made_at": report.made_at,
        "seed": report.state.seed,
        "questions_per_lab": report.state.questions,
        "exam": report.state.exam,
        "checked_now": list(report.checked),
        "claim": CLAIM,
        "summary": {verdict: report.count(verdict) for verdict in (SHOWN, PARTLY, NOT_SHOWN)},
        "criteria": [_criterion(each) for each in report.findings],
        "questions": [
            {
                "id": each.asked.id,
                "lab": each.asked.question.lab,
                "criterion": each.asked.question.criterion,
                "given": None if each.given is None else each.asked.shown(each.given),
                "right": each.right,
            }
            for each in report.questions
        ],
    }


def _criterion(found: Finding) -> dict[str, Any]:
    return {
        "id": found.criterion.id,
        "text": found.criterion.text,
        "verdict": found.verdict,
        "missing": found.missing,
        "exercises": [vars(each) for each in found.exercises],
        "deliverables": [vars(each) for each in found.deliverables],
        "questions": {"right": found.right, "asked": len(found.questions)},
    }


def render(report: Report) -> str:
    """The report as one self-contained HTML page, with a style sheet for paper."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    environment.filters["code"] = _code
    labs: dict[str, list[QuestionEvidence]] = {}
    for each in report.questions:
        labs.setdefault(each.asked.question.lab, []).append(each)
    told = {lab: [q for q in each if report.state.closed(q.asked)] for lab, each in labs.items()}
    return environment.get_template("assessment.html.j2").render(
        report=report,
        rules=RULES,
        claim=CLAIM,
        score=score,
        totals=_totals(report),
        exercise_groups=_exercise_groups,
        question_groups=_question_groups,
        labs=labs,
        runs=list(dict.fromkeys(e.run for e in _deliverables(report).values() if e.run)),
        not_run=_not_run,
        explained={lab: each for lab, each in told.items() if each},
        classes={SHOWN: "good", PARTLY: "open", NOT_SHOWN: "bad"},
    )


def _code(text: str) -> object:
    """Text with what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))


def _not_run(found: Finding) -> dict[str, list[str]]:
    """Ids of the deliverables that no run here speaks of, by how to get one."""
    groups: dict[str, list[str]] = {}
    for each in found.deliverables:
        if each.outcome == "no run":
            groups.setdefault(each.reason, []).append(each.id)
    return groups


def _totals(report: Report) -> list[tuple[str, str]]:
    """The counts over all criteria, each exercise and deliverable once."""
    exercises = {e.id: e.passed for found in report.findings for e in found.exercises}
    measured = [each.passed for each in _deliverables(report).values()]
    count, _, word = score(report.questions).rpartition(" ")
    return [
        (f"{sum(exercises.values())} of {len(exercises)}", "exercises passed"),
        (f"{sum(measured)} of {len(measured)}", "deliverables passed"),
        (count, f"questions {word}"),
    ]


def _exercise_groups(found: Finding) -> dict[str, list[str]]:
    """Ids by state, what passed first."""
    groups: dict[str, list[str]] = {}
    for each in sorted(found.exercises, key=lambda each: (not each.passed, each.state)):
        groups.setdefault(each.state, []).append(each.id)
    return groups


def _question_groups(found: Finding) -> dict[str, list[str]]:
    """Ids by how they were answered."""
    groups: dict[str, list[str]] = {"right": [], "wrong": [], "answered": [], "not answered": []}
    for each in found.questions:
        name = {True: "right", False: "wrong", None: "answered"}[each.right]
        groups["not answered" if each.given is None else name].append(each.asked.id)
    return {name: ids for name, ids in groups.items() if ids}


def find_browser() -> str:
    """A Chromium or Chrome to print with.

    Raises
    ------
    InputError
        When there is none; the page can be printed from any browser.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise InputError(
        "--pdf needs Chromium or Chrome on PATH, and there is none; open the page that --html "
        "writes in a browser and print it, it has a style sheet for paper"
    )


def write_pdf(html: str, file: Path) -> None:
    """Print a page to ``file``, by a headless browser; whole, or as it was before."""
    from common.process import supervised

    browser = find_browser()
    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        page, made, log = (Path(folder, name) for name in ("page.html", "page.pdf", "log.txt"))
        page.write_text(html, encoding="utf-8")
        command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
        command += [f"--user-data-dir={folder}/profile", f"--print-to-pdf={made}", page.as_uri()]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium refuses to run as root otherwise
        with supervised(command, log=log, name="browser", grace_s=2) as child:
            try:
                child.wait(PRINT_S)
            except subprocess.TimeoutExpired:
                raise RunError(f"{browser} did not print in {PRINT_S} s: {child.tail(3)}") from None
        if not made.is_file():
            raise RunError(f"{browser} printed nothing: {log.read_text(errors='replace')[-300:]}")
        partial = file.with_name(f".{file.name}.partial")
        shutil.copyfile(made, partial)
        partial.replace(file)


def write(report: Report, html: Path | None, pdf: Path | None) -> list[Path]:
    """Write the page and its print; the files that were written."""
    page = render(report)
    for file in filter(None, (html, pdf)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if html:
        write_text(html, page)
    if pdf:
        write_pdf(page, pdf)
    return [file for file in (html, pdf) if file]
