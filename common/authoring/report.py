"""The tables of ``course verify``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.authoring.curriculum import Criterion, Curriculum, Row
from common.authoring.model import Check, ExerciseRecord, Verified, listed

EMPTY = "[red]empty[/]"


def show(verified: Verified, map_: Curriculum, console: Console) -> None:
    """Print topics, criteria, labs and checks, then every problem, and one line that sums up."""
    for lab, topics in map_.topics.items():
        console.print(topic_table(lab, topics, map_.rows))
    console.print(criterion_table(map_.criteria))
    console.print(lab_table(verified.exercises))
    console.print(check_table(verified.checks))
    for check in verified.checks:
        for problem in check.problems:
            console.print(
                f"[red]{check.name}[/]: {escape(problem.place)}: {escape(problem.message)}",
                soft_wrap=True,
            )
        if not check.counted and not check.problems:
            console.print(f"[red]{check.name}[/]: there was nothing to look at")
    console.print(summary(verified), soft_wrap=True)


def topic_table(lab: str, topics: dict[str, str], rows: Sequence[Row]) -> Table:
    """Where each topic of a lab is taught and graded; what is missing is shown as empty."""
    table = Table("topic", "of it", title=f"Topics of {lab}", title_justify="left")
    for name in ("modules", "lesson", "graded by"):
        table.add_column(name, overflow="fold")
    for key, text in topics.items():
        own = [row for row in rows if (row.lab, row.topic) == (lab, key)] or [Row(lab, key, "")]
        for at, row in enumerate(own):
            graded = [", ".join(row.exercises)] * bool(row.exercises) + _short(row)
            table.add_row(
                escape(text) if at == 0 else "",
                escape(row.teaches) or EMPTY,
                escape("\n".join(row.modules)) or EMPTY,
                escape(row.lesson.replace("#", "\n#")) or EMPTY,
                escape("\n".join(graded)) or EMPTY,
                end_section=at == len(own) - 1,
            )
    return table


def _short(row: Row) -> list[str]:
    return [test.partition("::")[2].removeprefix("test_").replace("_", " ") for test in row.tests]


def criterion_table(criteria: Sequence[Criterion]) -> Table:
    """What measures each success criterion."""
    table = Table("success criterion", "deliverables", "exercises", title="Success criteria")
    for each in criteria:
        table.add_row(
            escape(each.text),
            ", ".join(each.deliverables) or EMPTY,
            listed(each.exercises, most=30) or EMPTY,
        )
    return table


def lab_table(records: Sequence[ExerciseRecord]) -> Table:
    """Totals of each lab."""
    table = Table("lab", "exercises", "points", "tests", "wrong solutions", "killed", title="Labs")
    groups = {lab: [each for each in records if each.lab == lab] for lab in _labs(records)}
    for lab, own in [*groups.items(), ("all", list(records))]:
        killed = [each.killed for each in own if each.killed is not None]
        table.add_row(
            lab,
            str(len(own)),
            str(sum(each.points for each in own)),
            str(sum(each.tests for each in own)),
            str(sum(each.wrong for each in own)),
            str(sum(killed)) if killed else "not run",
            end_section=lab != "all" and lab == list(groups)[-1],
        )
    return table


def _labs(records: Sequence[ExerciseRecord]) -> list[str]:
    return list(dict.fromkeys(each.lab for each in records))


def check_table(checks: Sequence[Check]) -> Table:
    """How each thing was checked, how many there are, and how many are wrong."""
    table = Table("check", "looked at", "wrong", "how", "seconds", title="Checks")
    for check in checks:
        wrong = f"[red]{len(check.problems)}[/]" if check.problems else "0"
        counted = str(check.counted) if check.counted else "[red]0[/]"
        table.add_row(check.name, counted, wrong, escape(check.how), f"{check.seconds:.1f}")
    return table


def summary(verified: Verified) -> str:
    """The last line."""
    totals = verified.totals()
    if verified.whole:
        run = sum(each.wrong for each in verified.exercises if each.killed is not None)
        ran = f"{totals['killed']} of {run} wrong solutions killed"
        if run < sum(each.wrong for each in verified.exercises):
            ran += f" ({totals['wrong']} in all labs)"
    else:
        ran = f"{totals['wrong']} wrong solutions, not run (CI runs tests/test_every_exercise.py)"
    faults = sum(len(check.problems) for check in verified.checks)
    verdict = "[green]all checks passed[/]" if verified.passed else f"[red]{faults} problem(s)[/]"
    return (
        f"{verdict}: {totals['exercises']} exercises, {totals['points']} points, "
        f"{totals['tests']} graded tests, {ran}"
    )
