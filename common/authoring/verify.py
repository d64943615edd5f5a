"""All checks of ``course verify``, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from common.authoring import commands, curriculum, exercises, figures, links, outcomes
from common.authoring.curriculum import Curriculum
from common.authoring.model import Check, ExerciseRecord, Verified
from common.authoring.pages import pages
from common.exercises.catalog import Entry

LEAST_EXERCISES, LEAST_TESTS, LEAST_WRONG = 65, 200, 130


def verify_fast(
    root: Path, map_: Curriculum, ask: commands.Asked | None = None
) -> tuple[Verified, list[Entry]]:
    """Everything that can be told without running an exercise.

    Parameters
    ----------
    root
        The repository.
    map_
        The map of the curriculum.
    ask
        How a module is asked for its options, see :func:`commands.check_commands`.
    """
    clock = _Clock()
    entries, markers = exercises.find_exercises(root)
    clock.stamp([markers])
    records, tests = exercises.check_tests(root, entries)
    clock.stamp([tests])
    clock.stamp([exercises.check_mentions(root, entries)])
    clock.stamp([exercises.check_quizzes(root)])
    clock.stamp([check_size(records)])
    clock.stamp([curriculum.check_topics(root, entries, map_)])
    clock.stamp([curriculum.check_criteria(root, entries, map_)])
    found = pages(root)
    clock.stamp(links.check_links(root, found))
    clock.stamp([figures.check_figures(root)])
    clock.stamp(commands.check_commands(root, found, entries, ask))
    return Verified(clock.checks, records, whole=False), entries


def verify_whole(
    root: Path,
    map_: Curriculum,
    labs: Sequence[str],
    jobs: int,
    say: Callable[[str], None],
) -> Verified:
    """The fast part, the options of every program, and every exercise of ``labs`` run."""
    say("pages, exercises and programs")
    verified, entries = verify_fast(root, map_, lambda name: commands.ask_program(root, name))
    ran = outcomes.run_every_exercise(root, labs, entries, jobs, say)
    verified.checks += outcomes.check_outcomes(root, labs, entries, ran, verified.exercises)
    verified.whole = True
    return verified


def check_size(records: Sequence[ExerciseRecord]) -> Check:
    """The course is as large as it was promised to be."""
    least = f"{LEAST_EXERCISES} exercises, {LEAST_TESTS} tests, {LEAST_WRONG} wrong solutions"
    check = Check("size of the course", f"at least {least}", counted=len(records))
    for name, count, limit in (
        ("exercises", len(records), LEAST_EXERCISES),
        ("graded tests", sum(each.tests for each in records), LEAST_TESTS),
        ("wrong solutions", sum(each.wrong for each in records), LEAST_WRONG),
    ):
        if count < limit:
            check.fault("course", f"{count} {name}, at least {limit} are needed")
    return check


class _Clock:
    """Collects checks with the seconds that each took."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self._last = time.perf_counter()

    def stamp(self, found: Iterable[Check]) -> None:
        now = time.perf_counter()
        for check in found:
            check.seconds = now - self._last
            self._last = now  # of checks that were made together the first has the seconds
            self.checks.append(check)
