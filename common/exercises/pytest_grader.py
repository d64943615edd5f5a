"""The part of the pytest plugin that records what the tests of each exercise did."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from common.exercises.catalog import ExerciseTest, discover_tests, order
from common.exercises.grading import (
    FAILED,
    NOT_RUN,
    PASSED,
    BrokenFile,
    Grade,
    TestResult,
    as_gradescope,
    as_report,
    grade,
)
from common.exercises.pytest_plugin import catalog, exercise_of
from common.exercises.unsolved import unsolved
from common.results import write_json

PRINTED_LINES = 20


class Grader:
    """Collects reports (from xdist's workers too), then grades, prints and writes.

    What a test did travels on its report as the attribute ``exercise``: plain values only, so
    that xdist can send it.
    """

    def __init__(self, config: pytest.Config, work: Path | None) -> None:
        self.config, self.work = config, work
        self.started = time.monotonic()
        self.results: dict[str, dict[str, TestResult]] = {}
        self.broken: list[BrokenFile] = []
        self.labs: set[str] = set()
        self.expected: dict[str, list[ExerciseTest]] = {}
        self.outputs = {
            option: Path(config.invocation_params.dir, value)
            for option in ("--exercise-report", "--gradescope")
            if (value := config.getoption(option)) and not hasattr(config, "workerinput")
        }
        for path in self.outputs.values():
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)

    # What happened, on the process that runs the tests.

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if not report.passed:
            error = report.call.excinfo.value if report.call and report.call.excinfo else None
            report.exercise = self._describe(error, report)  # type: ignore[attr-defined]
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        mark = exercise_of(item)
        if mark is None:
            return report
        error = call.excinfo.value if call.excinfo else None
        found = self._describe(error, report)
        if report.passed and (file := self._not_the_learners(mark)):
            found |= {"outcome": NOT_RUN, "reason": f"the test ran {file}, not your file"}
        if report.failed:
            found["printed"] = "\n".join(report.capstdout.splitlines()[-PRINTED_LINES:])
            other = unsolved(error) if error else None
            found["blocked_by"] = other if other and other != mark else ""
            if not found["blocked_by"] and self.config.getoption("--exercise-stop"):
                item.session.shouldfail = f"exercise {mark} failed"
        doc = getattr(getattr(item, "function", None), "__doc__", None) or ""
        found["doc"] = " ".join(doc.split())
        report.exercise = {"id": mark, **found}  # type: ignore[attr-defined]
        return report

    def _not_the_learners(self, mark: str) -> str | None:
        """The file that was imported for an exercise, when it is not the learner's."""
        if self.work is None:
            return None
        entry = next(entry for entry in catalog(self.config) if entry.id == mark)
        loaded = getattr(sys.modules.get(entry.dotted), "__file__", None)
        own = entry.work_file(self.work)
        return loaded if loaded and own.is_file() and Path(loaded).resolve() != own else None

    def _describe(
        self, error: BaseException | None, report: pytest.CollectReport | pytest.TestReport
    ) -> dict[str, Any]:
        if report.passed and not hasattr(report, "wasxfail"):
            return {"outcome": PASSED, "reason": ""}
        if not report.failed:
            reason = getattr(report, "wasxfail", "") or "marked as an expected failure"
            if not hasattr(report, "wasxfail"):
                skip = report.longrepr
                reason = str(skip[2] if isinstance(skip, tuple) else skip)
                reason = "skipped: " + reason.removeprefix("Skipped: ")
            return {"outcome": NOT_RUN, "reason": reason}
        if error is None:
            return {"outcome": FAILED, "reason": report.longreprtext}
        root = _root_cause(error)
        message = "\n".join([str(root), *getattr(root, "__notes__", [])]).strip()
        assertion = isinstance(root, AssertionError | pytest.fail.Exception)
        kind = type(root).__name__
        return {
            "outcome": FAILED,
            "reason": message if assertion and message else f"{kind}: {message}".strip(": "),
            "exception": kind,
            "assertion": assertion,
            "where": self._where(root),
        }

    def _where(self, error: BaseException) -> str:
        """``file:line`` of the last frame in the learner's folder (or of a syntax error there)."""
        if self.work is None:
            return ""
        inside = str(self.work) + os.sep
        places = [
            f"{frame.filename}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename.startswith(inside)
        ]
        if isinstance(error, SyntaxError) and str(error.filename).startswith(inside):
            places.append(f"{error.filename}:{error.lineno}")
        return places[-1] if places else ""

    # The order of the exercises, when the first failure ends the run.

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Under ``--exercise-stop`` nothing runs after an exercise that cannot be collected."""
        if not self.config.getoption("--exercise-stop") or not self.broken:
            return
        files = {file.node.partition("::")[0] for file in self.broken}
        blocked = [
            order(test.exercise)
            for lab in self.labs
            for test in self._expected(lab)
            if test.node.partition("::")[0] in files
        ]
        kept = [
            item
            for item in items
            if (mark := exercise_of(item)) is None or order(mark) < min(blocked, default=(10**9, 0))
        ]
        if left_out := [item for item in items if item not in kept]:
            items[:] = kept
            self.config.hook.pytest_deselected(items=left_out)

    # What was reported, on the process that writes.

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._saw(report.nodeid)
        found = getattr(report, "exercise", None)
        if found is None or not report.nodeid:
            return
        kept = {key: found[key] for key in ("reason", "exception", "where") if key in found}
        outcome = FAILED if report.failed else NOT_RUN
        if report.nodeid not in [file.node for file in self.broken]:
            self.broken.append(BrokenFile(report.nodeid, outcome, **kept))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._saw(report.nodeid)
        found = dict(getattr(report, "exercise", {}))
        if not found:
            return
        tests = self.results.setdefault(found.pop("id"), {})
        seconds = report.duration
        if earlier := tests.get(report.nodeid):
            seconds += earlier.seconds
        if earlier is None or earlier.outcome == PASSED:
            tests[report.nodeid] = TestResult(report.nodeid, **found)
        tests[report.nodeid].seconds = round(seconds, 3)

    def _saw(self, node: str) -> None:
        parts = Path(node.partition("::")[0]).parts
        if len(parts) > 1 and parts[0] == "tests":
            self.labs.add(parts[1])

    def _expected(self, lab: str) -> list[ExerciseTest]:
        if lab not in self.expected:
            self.expected[lab] = discover_tests(self.config.rootpath, lab)
        return self.expected[lab]

    def _grades(self) -> list[Grade]:
        chosen = self.config.getoption("--exercise")
        for argument in self.config.args:
            path = Path(argument.partition("::")[0]).absolute()
            if path.is_relative_to(self.config.rootpath):
                self._saw(path.relative_to(self.config.rootpath).as_posix())
        entries = [
            entry
            for entry in catalog(self.config)
            if entry.lab in self.labs and (not chosen or entry.id in chosen)
        ]
        expected = [
            test for lab in {entry.lab for entry in entries} for test in self._expected(lab)
        ]
        # In the order of the files, whichever of several workers was first.
        position = {test.node: number for number, test in enumerate(expected)}
        results = {
            mark: sorted(
                tests.values(), key=lambda each: position.get(each.node.partition("[")[0], -1)
            )
            for mark, tests in self.results.items()
        }
        return grade(entries, expected, results, self.broken, self.work)

    def pytest_sessionfinish(self) -> None:
        if not self.outputs:
            return
        grades = self._grades()
        if path := self.outputs.get("--exercise-report"):
            write_json(path, as_report(grades, self.broken))
        if path := self.outputs.get("--gradescope"):
            write_json(path, as_gradescope(grades, time.monotonic() - self.started))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.work is None or not (grades := self._grades()):
            return
        terminalreporter.section(f"points for {self.work}, public tests")
        for each in grades:
            row = f"{each.id:>6}  {each.score:>3}/{each.points:<3} {each.outcome:<8} {each.title}"
            terminalreporter.line(row + (f" ({each.reason})" if each.reason else ""))
        total, most = sum(each.score for each in grades), sum(each.points for each in grades)
        terminalreporter.line(f" total  {total:>3}/{most}")


def _root_cause(error: BaseException) -> BaseException:
    """The first exception of a group, and the cause pytest wraps while it imports a test file."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error, pytest.Collector.CollectError) and error.__cause__ is not None:
            error = error.__cause__
        else:
            return error
