"""``course assess``: its options and what it calls; nothing heavy is imported here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import EXIT_OK, InputError

if TYPE_CHECKING:
    from common.assessment.bank import Asked
    from common.assessment.state import State
    from common.exercises.catalog import Entry

DESCRIPTION = "the final assessment: exercises, deliverables, questions, a report by skill"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``course assess``."""
    parser.add_argument("--lab", metavar="LAB", help="only this lab, and the criteria it shows")
    parser.add_argument("--questions", type=int, metavar="N", help="a lab, drawn (default: 12)")
    parser.add_argument("--seed", type=int, help="of numbers, order and choice (default: drawn)")
    parser.add_argument("--exam", action="store_true", help="no solution before it is handed in")
    parser.add_argument("--restart", action="store_true", help="begin anew; the old one is kept")
    parser.add_argument("--report", action="store_true", help="ask nothing, report what there is")
    parser.add_argument("--check", action="store_true", help="run the public tests now")
    parser.add_argument("--answers", metavar="FILE", help="take the answers from a sheet (JSON)")
    parser.add_argument("--paper", metavar="FILE", help="write a sheet to fill in, and end")
    parser.add_argument("--runs", metavar="DIR", help="folder of runs (default: runs)")
    parser.add_argument("--html", metavar="FILE", help="the page (default: work/assessment.html)")
    parser.add_argument("--pdf", metavar="FILE", help="print the page (needs Chromium or Chrome)")
    parser.add_argument("--json", metavar="FILE", help="the report for a program")


def run(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    """Exit status as of ``course``: 0 done, 1 failed, 2 bad input (by InputError)."""
    from rich.console import Console

    from common.assessment import bank, evidence, report, state
    from common.exercises import progress
    from common.exercises.catalog import discover, find_lab
    from common.results import write_json

    if arguments.questions is not None and arguments.questions < 1:
        raise InputError(f"--questions {arguments.questions} must be at least 1")
    if arguments.pdf:
        report.find_browser()
    runs = progress.runs_folder(arguments.runs, root)
    lab = find_lab(root, arguments.lab) if arguments.lab else None
    console = Console(highlight=False, emoji=False)
    current = _state(arguments, root, work)
    paper = bank.paper(root, current.questions, current.seed)
    asked = [each for each in paper if lab in (None, each.question.lab)]
    if arguments.paper:
        file = Path(arguments.paper)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, state.sheet(current, asked))
        print(f"wrote {file}: fill in answers, then `course assess --answers {file}`")
        return EXIT_OK
    if not arguments.answers and not arguments.report:
        _ask(asked, current, work, console)

    entries = discover(root)
    checked = _check(root, work, entries, lab) if arguments.check else []
    criteria = [c for c in evidence.load_criteria(root) if lab is None or c.concerns(lab)]
    about = {criterion.id for criterion in criteria}
    paper = [each for each in paper if each.question.criterion in about]
    questions = evidence.question_states(paper, current)
    findings = evidence.judge(
        criteria,
        evidence.exercise_states(entries, work),
        evidence.deliverable_states(runs),
        questions,
    )
    made = evidence.Report(findings, current, questions, _now(), checked)
    report.show(made, console)
    html = Path(arguments.html) if arguments.html else None
    if html is None and not arguments.answers:
        work.mkdir(parents=True, exist_ok=True)
        html = work / "assessment.html"
    written = report.write(made, html, Path(arguments.pdf) if arguments.pdf else None)
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(arguments.json), report.as_json(made))
        written.append(Path(arguments.json))
    for file in written:
        print(f"wrote {file}")
    return EXIT_OK


def _state(arguments: argparse.Namespace, root: Path, work: Path) -> State:
    """The assessment to go on with: a sheet's, the one in ``work``, or a new one."""
    from common.assessment import bank, state

    if arguments.answers:
        seed, questions, answers = state.read_sheet(Path(arguments.answers))
        given = state.State(seed, questions)
        current = state.begin(given, arguments.seed, arguments.questions, arguments.exam)
        state.fill_in(current, bank.paper(root, questions, seed), answers)
        return current
    if arguments.paper:
        return state.begin(None, arguments.seed, arguments.questions, arguments.exam)
    if arguments.restart and (old := state.set_aside(work)):
        print(f"the assessment so far is in {old}")
    return state.begin(state.load(work), arguments.seed, arguments.questions, arguments.exam)


def _ask(paper: Sequence[Asked], current: State, work: Path, console: object) -> None:
    """Ask in a terminal; elsewhere say how to answer without one."""
    from rich.console import Console

    from common.assessment import session, state

    assert isinstance(console, Console)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("no terminal, so nothing is asked: use --paper FILE and --answers FILE, or --report")
        return
    mode = "an exam: solutions come when it is handed in" if current.exam else "solutions at once"
    state.save(work, current)
    console.print(f"{len(paper)} questions, seed {current.seed}, {mode}. Ctrl-C stops and keeps.")
    session.ask(paper, current, lambda: state.save(work, current), console)


def _check(root: Path, work: Path, entries: Sequence[Entry], lab: str | None) -> list[str]:
    """Run the public tests of what the learner began, and remember the outcomes; the labs run."""
    from common.exercises import progress
    from common.exercises.check import run_tests

    ran = []
    for name in dict.fromkeys(entry.lab for entry in entries):
        own = [entry for entry in entries if entry.lab == name]
        if lab not in (None, name) or not any(entry.work_file(work).is_file() for entry in own):
            continue
        print(f"{name}: running its public tests", flush=True)
        sources = progress.fingerprints(own, work)
        written = run_tests(root, work, name, stop=False)
        outcomes = {each["id"]: each["outcome"] for each in written["exercises"]}
        if not outcomes:
            print(f"  they ended with status {written['status']} and no report")
            continue
        progress.record(work, outcomes, sources)
        ran.append(name)
    return ran


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
